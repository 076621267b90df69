//! `llama-bench` as llama.cpp and ik_llama.cpp have it. It makes up tokens of its own; what is measured is the same number of them.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use super::{PeerSpeed, Task};

/// The flag, of those that have it, by which nothing is computed before the measurement.
const NO_WARM_UP: &str = "--no-warmup";

/// How it is told what stands before the tokens that it measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    /// `-d N`, before prompts and generations (llama.cpp).
    Depth,
    /// `-gp N,TOKENS`, before generations only (ik_llama.cpp).
    Generation,
}

/// A measurement in what `-o json` prints.
#[derive(Debug, Deserialize)]
struct Entry {
    /// Tokens a second.
    avg_ts: f64,
}

/// Measures prompt and decode, each by a run of its own, before which `forget` is called. `flags`: further ones. Errors: it can't be
/// started, fails, or prints something else than one measurement.
pub fn measure(program: &Path, task: &Task, flags: &[String], forget: &dyn Fn()) -> Result<PeerSpeed> {
    let help = help(program)?;
    let before = before(program, &help)?;
    // By itself it does the task once before it measures it.
    let first = (task.cold && help.contains(NO_WARM_UP)).then(|| NO_WARM_UP.to_owned());
    let (context, prompt) = (task.context.len(), task.prompt.len());
    let behind = context + prompt;
    let (prompt, tokens) = (prompt.to_string(), task.forced.len().to_string());
    let of_prompt = ["-p", &prompt, "-n", "0"].map(str::to_owned).to_vec();
    let of_decode = ["-p", "0", "-n", &tokens].map(str::to_owned).to_vec();
    let depth = |depth: usize| ["-d".to_owned(), depth.to_string()].to_vec();
    let prefill = match before {
        _ if context == 0 => Some(of_prompt),
        Before::Depth => Some([of_prompt, depth(context)].concat()),
        Before::Generation => None,
    };
    let decode = match before {
        Before::Depth => [of_decode, depth(behind)].concat(),
        Before::Generation => {
            ["-p", "0", "-n", "0", "-gp", &format!("{behind},{tokens}")].map(str::to_owned).to_vec()
        }
    };
    let run = |test: Vec<String>| {
        forget();
        let test: Vec<String> = test.into_iter().chain(first.clone()).chain(flags.iter().cloned()).collect();
        speed(program, task, &test)
    };
    Ok(PeerSpeed { prefill: prefill.map(run).transpose()?, decode: run(decode)? })
}

fn help(program: &Path) -> Result<String> {
    let output = start(program, &["--help".to_owned()])?;
    let text = [output.stdout, output.stderr].concat();
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn before(program: &Path, text: &str) -> Result<Before> {
    match (text.contains("--n-depth"), text.contains("-gp ")) {
        (true, _) => Ok(Before::Depth),
        (false, true) => Ok(Before::Generation),
        (false, false) => {
            bail!("{} has neither -d nor -gp: it can't decode behind a prompt", program.display())
        }
    }
}

fn speed(program: &Path, task: &Task, test: &[String]) -> Result<f64> {
    let model = task.model.to_string_lossy().into_owned();
    let threads = task.threads.to_string();
    let common = ["-m", &model, "-t", &threads, "-r", "1", "-o", "json"].map(str::to_owned);
    let output = start(program, &[&common, test].concat())?;
    let told = || format!("{} {}", program.display(), test.join(" "));
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
        bail!("{} failed ({}): {last}", told(), output.status);
    }
    let entries =
        entries(&String::from_utf8_lossy(&output.stdout)).with_context(|| format!("reading {}", told()))?;
    match entries[..] {
        [Entry { avg_ts }] => {
            ensure!(avg_ts.is_finite() && avg_ts > 0.0, "{}: {avg_ts} tokens a second", told());
            Ok(avg_ts)
        }
        _ => bail!(
            "{} made {} measurements where one was wanted: --peer-args must leave -m, -t, -p, -n, -r and -o alone",
            told(),
            entries.len()
        ),
    }
}

/// The array in what was printed, around which a program may say more.
fn entries(text: &str) -> Result<Vec<Entry>> {
    let first = text.lines().position(|line| line.trim_start().starts_with('['));
    let lines: Vec<&str> = text.lines().skip(first.context("there is no JSON array")?).collect();
    let last =
        lines.iter().rposition(|line| line.trim_end().ends_with(']')).context("the JSON array has no end")?;
    Ok(serde_json::from_str(&lines[..=last].join("\n"))?)
}

fn start(program: &Path, arguments: &[String]) -> Result<Output> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    command.output().with_context(|| format!("starting {}", program.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_array_is_found_among_other_lines() {
        let text = "| loading\nsome [brackets] here\n[\n  {\"avg_ts\": 12.5, \"n_gen\": [1, 2]}\n]\ndone\n";
        let found = entries(text).unwrap();
        assert_eq!(found.iter().map(|entry| entry.avg_ts).collect::<Vec<_>>(), [12.5]);
        assert_eq!(entries("[]\n").unwrap().len(), 0);
        for bad in ["", "no array", "[\n{\"avg_ts\": 1", "[{\"ts\": 1}]"] {
            assert!(entries(bad).is_err(), "{bad}");
        }
    }
}

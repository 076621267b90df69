//! `cargo xtask languages`: builds the example plugins in every language that has an SDK, holds them to the same golden cases,
//! measures them, and compares what the agents do with the demo model.

mod agents;
mod tools;

use crate::arguments::Arguments;
use crate::workspace::{cargo, output, phase, root, run as run_command, scratch, target_directory};
use crate::{model, setup};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The examples, each with its world.
const EXAMPLES: [(&str, &str); 3] =
    [("no-repeat", "sampler"), ("word-list", "policy"), ("checked-sums", "agent")];

/// A language of examples.
struct Language {
    name: &'static str,
    /// The word for `--lang`, which says whose SDK it is.
    lang: &'static str,
    /// The file of an example.
    source: &'static str,
    /// Whether every example has it.
    everywhere: bool,
}

const LANGUAGES: [Language; 5] = [
    Language { name: "Rust", lang: "rust", source: "src/lib.rs", everywhere: true },
    Language { name: "C", lang: "c", source: "plugin.c", everywhere: true },
    Language { name: "JavaScript", lang: "js", source: "plugin.js", everywhere: true },
    Language { name: "Python", lang: "python", source: "plugin.py", everywhere: true },
    Language { name: "Zig", lang: "c", source: "plugin.zig", everywhere: false },
];

/// A plugin that was built.
struct Built {
    language: &'static str,
    folder: PathBuf,
}

/// Between these lines of examples/plugins/README.md stands the table.
const BEGIN: &str = "<!-- begin: cargo xtask languages --write -->\n";
const END: &str = "<!-- end -->\n";

/// `cargo xtask languages`.
///
/// # Errors
/// When a tool can't be installed, a plugin can't be built, or a case fails.
pub fn run(mut arguments: Arguments) -> Result<()> {
    let write = arguments.flag("--write");
    arguments.finish()?;
    let table = all()?;
    print!("{table}");
    if write {
        replace(&root().join("examples/plugins/README.md"), &table)?;
    }
    Ok(())
}

/// Builds, tests and measures every example in every language; gives the table.
///
/// # Errors
/// As for [`run`].
fn all() -> Result<String> {
    setup::guest_target()?;
    phase("building membrane");
    run_command(cargo().args(["build", "--release", "--package", "membrane", "--package", "upcycle"]))?;
    let membrane =
        target_directory()?.join("release").join(format!("membrane{}", std::env::consts::EXE_SUFFIX));
    let path = tools::path(&membrane)?;
    let dense = model::dense()?;
    let folder = scratch("languages")?;
    let mut rows = Vec::new();
    for (example, world) in EXAMPLES {
        let own = root().join("examples/plugins").join(example);
        let mut built = Vec::new();
        for language in &LANGUAGES {
            if !language.everywhere && !own.join(language.source).is_file() {
                continue;
            }
            phase(&format!("{example} in {}", language.name));
            let into = folder.join(language.name.to_lowercase());
            let plugin = assemble(&membrane, &into, (example, world), language)?;
            rows.push(row(&membrane, &path, &plugin, example, language.name)?);
            built.push(Built { language: language.name, folder: plugin });
        }
        if world == "agent" {
            agents::compare(&membrane, &dense, example, &built)?;
        }
    }
    Ok(table(&rows))
}

/// A folder as `membrane plugin new` makes it, with the source, manifest and golden cases of an example.
fn assemble(
    membrane: &Path,
    into: &Path,
    (example, world): (&str, &str),
    language: &Language,
) -> Result<PathBuf> {
    let plugin = into.join(example);
    if plugin.exists() {
        // What was built stays: cargo sees what has changed.
        for made in ["golden", "src"] {
            let _ = fs::remove_dir_all(plugin.join(made));
        }
    } else {
        fs::create_dir_all(into)?;
    }
    let fresh = scratch("languages")?.join("fresh");
    let _ = fs::remove_dir_all(&fresh);
    fs::create_dir_all(&fresh)?;
    let mut new = Command::new(membrane);
    output(new.args(["plugin", "new", world, example, "--lang", language.lang, "--into"]).arg(&fresh))?;
    fs::remove_dir_all(fresh.join(example).join("golden"))?;
    for other in LANGUAGES.iter().filter(|other| other.lang == language.lang) {
        let template = fresh.join(example).join(other.source);
        if other.source != language.source && template.is_file() {
            fs::remove_file(template)?;
        }
    }
    copy(&fresh.join(example), &plugin)?;
    let own = root().join("examples/plugins").join(example);
    copy(&own.join("golden"), &plugin.join("golden"))?;
    for file in ["plugin.toml", language.source] {
        fs::copy(own.join(file), plugin.join(file)).with_context(|| own.join(file).display().to_string())?;
    }
    Ok(plugin)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| from.display().to_string())? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}

/// A line of the table.
struct Row {
    plugin: String,
    language: String,
    build_s: f64,
    cases: u64,
    bench: Value,
}

fn row(membrane: &Path, path: &OsString, plugin: &Path, example: &str, language: &str) -> Result<Row> {
    let verb = |verb: &str| {
        let mut command = Command::new(membrane);
        command.env("PATH", path).args(["plugin", verb, "--json"]).arg(plugin);
        let text = output(&mut command)?;
        serde_json::from_str::<Value>(&text)
            .with_context(|| format!("`plugin {verb}` printed no JSON: {text}"))
    };
    let built = verb("build")?;
    let tested = verb("test")?;
    let cases = tested["passed"].as_u64().unwrap_or_default();
    ensure!(cases > 0 && tested["failed"] == 0, "{example} in {language}: {tested}");
    println!("{example} in {language}: {cases} cases as they say");
    let bench = verb("bench")?;
    let build_s = built["seconds"].as_f64().unwrap_or_default();
    Ok(Row { plugin: example.to_owned(), language: language.to_owned(), build_s, cases, bench })
}

fn table(rows: &[Row]) -> String {
    let mut text = String::from(
        "| plugin | language | component | compile | cached | instance | a call | cases |\n|---|---|---|---|---|---|---|---|\n",
    );
    for row in rows {
        let number = |value: &Value| value.as_f64().unwrap_or_default();
        let bytes = number(&row.bench["component_bytes"]);
        let size = match bytes {
            small if small < 102_400.0 => format!("{:.0} KiB", small / 1024.0),
            large => format!("{:.1} MiB", large / 1_048_576.0),
        };
        let compile = number(&row.bench["compile_ms"]);
        let cached = number(&row.bench["cached_ms"]);
        let start = number(&row.bench["start_us"]);
        let call = number(&row.bench["calls"]["median_us"]);
        let (plugin, language, cases) = (&row.plugin, &row.language, row.cases);
        // A String takes whatever is written.
        let _ = writeln!(
            text,
            "| {plugin} | {language} | {size} | {compile:.0} ms | {cached:.1} ms | {start:.0} us | {call:.1} us | {cases} |"
        );
    }
    let longest = rows.iter().map(|row| row.build_s).fold(0.0, f64::max);
    println!("the longest build took {longest:.0} s");
    text
}

/// Puts the table between its two lines.
fn replace(readme: &Path, table: &str) -> Result<()> {
    let text = fs::read_to_string(readme).with_context(|| readme.display().to_string())?;
    let parts = text.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    let (before, after) =
        parts.with_context(|| format!("{} has no place for the table", readme.display()))?;
    fs::write(readme, format!("{before}{BEGIN}{table}{END}{after}"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_takes_the_place_of_the_last_one() {
        let path = std::env::temp_dir().join(format!("xtask-table-{}", std::process::id()));
        fs::write(&path, format!("a\n{BEGIN}old\n{END}b\n")).unwrap();
        replace(&path, "new\n").unwrap();
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, "nothing").unwrap();
        let refused = replace(&path, "new\n");
        fs::remove_file(&path).unwrap();
        assert_eq!(text, format!("a\n{BEGIN}new\n{END}b\n"));
        assert!(refused.is_err());
    }
}

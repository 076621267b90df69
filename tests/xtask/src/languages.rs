//! `cargo xtask languages`: builds the example plugins in every language that has an SDK, holds them to the same golden cases,
//! and compares what the agents do with the demo model; and, where it is asked to, measures them.

mod agents;
mod table;
pub mod tools;

use crate::arguments::Arguments;
use crate::pool::{self, Job};
use crate::workspace::{cargo, output, phase, root, run as run_command, scratch, target_directory};
use crate::{model, setup};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

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

/// Those whose plugins take longest to build come first, so that no processor is idle at the end.
const LANGUAGES: [Language; 5] = [
    Language { name: "Python", lang: "python", source: "plugin.py", everywhere: true },
    Language { name: "Rust", lang: "rust", source: "src/lib.rs", everywhere: true },
    Language { name: "JavaScript", lang: "js", source: "plugin.js", everywhere: true },
    Language { name: "C", lang: "c", source: "plugin.c", everywhere: true },
    Language { name: "Zig", lang: "c", source: "plugin.zig", everywhere: false },
];

/// The language whose agent the others are compared with.
const MODEL_LANGUAGE: &str = "Rust";

/// A plugin that was built and does what its cases say.
struct Built {
    example: &'static str,
    language: &'static str,
    folder: PathBuf,
    build_s: f64,
    cases: u64,
}

/// What builds and checks go with.
struct Toolchains {
    membrane: PathBuf,
    /// A `PATH` that has the tools of every language.
    path: std::ffi::OsString,
    /// Where the plugins' folders are made.
    folder: PathBuf,
}

/// `cargo xtask languages`.
///
/// # Errors
/// When a tool can't be installed, a plugin can't be built, or a case fails.
pub fn run(mut arguments: Arguments) -> Result<()> {
    let write = arguments.flag("--write");
    let measure = arguments.flag("--measure") || write;
    arguments.finish()?;
    setup::guest_target()?;
    phase("building membrane");
    run_command(cargo().args(["build", "--release", "--package", "membrane", "--package", "upcycle"]))?;
    let (toolchains, built) = check()?;
    if measure {
        let table = table::measure(&toolchains, &built)?;
        print!("{table}");
        if write {
            table::replace(&root().join("examples/plugins/README.md"), &table)?;
        }
    }
    Ok(())
}

/// What CI asks for: every example in every language builds and does what its cases say, and the agents do the same. It needs the
/// built `membrane`.
///
/// # Errors
/// As for [`run`].
pub fn verify() -> Result<()> {
    check().map(drop)
}

fn check() -> Result<(Toolchains, Vec<Built>)> {
    let membrane =
        target_directory()?.join("release").join(format!("membrane{}", std::env::consts::EXE_SUFFIX));
    let toolchains = Toolchains { path: tools::path(&membrane)?, membrane, folder: scratch("languages")? };
    let dense = model::dense()?;
    phase("the SDKs for JavaScript and Python, as far as they run outside of a host");
    for test in ["policy.mjs", "tool.mjs"] {
        let test = format!("sdk/javascript/tests/{test}");
        run_command(Command::new("node").env("PATH", &toolchains.path).arg(test))?;
    }
    // Without `-B` it would leave compiled modules in the tree.
    run_command(
        Command::new("python3").env("PATH", &toolchains.path).args(["-B", "sdk/python/tests/tool.py"]),
    )?;
    phase("the examples in every language: builds and golden cases");
    let mut jobs = Vec::new();
    for language in &LANGUAGES {
        for (example, world) in EXAMPLES {
            if language.everywhere
                || root().join("examples/plugins").join(example).join(language.source).is_file()
            {
                let name = format!("{example} in {}", language.name);
                let toolchains = &toolchains;
                jobs.push(Job::new(name, move || toolchains.build((example, world), language)));
            }
        }
    }
    let built = pool::run(jobs)?;
    for (example, _) in EXAMPLES.iter().filter(|(_, world)| *world == "agent") {
        let of_example = |built: &&Built| built.example == *example;
        agents::compare(&toolchains.membrane, &dense, &built.iter().filter(of_example).collect::<Vec<_>>())?;
    }
    Ok((toolchains, built))
}

impl Toolchains {
    /// Builds an example in a language and holds it to its cases.
    fn build(&self, (example, world): (&'static str, &'static str), language: &Language) -> Result<Built> {
        let begun = Instant::now();
        let into = self.folder.join(language.name.to_lowercase());
        let folder = assemble(&self.membrane, &into, (example, world), language)?;
        let built = self.verb(&["build"], &folder)?;
        // In a process of its own, as the agents run afterwards: the code that is compiled for it is kept for them.
        let tested = self.verb(&["test", "--isolation", "process"], &folder)?;
        let cases = tested["passed"].as_u64().unwrap_or_default();
        ensure!(cases > 0 && tested["failed"] == 0, "{tested}");
        let build_s = built["seconds"].as_f64().unwrap_or_default();
        println!(
            "{example} in {}: built in {build_s:.1} s, {cases} cases as they say ({:.1} s in all)",
            language.name,
            begun.elapsed().as_secs_f64()
        );
        Ok(Built { example, language: language.name, folder, build_s, cases })
    }

    /// What a verb of `membrane plugin` says of a folder.
    fn verb(&self, words: &[&str], folder: &Path) -> Result<Value> {
        let mut command = Command::new(&self.membrane);
        command.env("PATH", &self.path).arg("plugin").args(words).arg("--json").arg(folder);
        // The plugins in Rust have the same dependencies; in one folder they are compiled once.
        command.env("CARGO_TARGET_DIR", self.folder.join("rust/target"));
        let text = output(&mut command)?;
        serde_json::from_str::<Value>(&text)
            .with_context(|| format!("`plugin {}` printed no JSON: {text}", words.join(" ")))
    }
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
    let fresh = into.join("fresh").join(example);
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

//! What the examples cost in each language, as the table of examples/plugins/README.md.

use super::{Built, EXAMPLES, LANGUAGES, Toolchains};
use crate::workspace::phase;
use anyhow::{Context, Result};
use serde_json::Value;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// Between these lines of the README stands the table.
const BEGIN: &str = "<!-- begin: cargo xtask languages --write -->\n";
const END: &str = "<!-- end -->\n";

const HEAD: &str = "\
| plugin | language | component | compile | cached | instance | a call | cases |
|---|---|---|---|---|---|---|---|
";

/// Measures each plugin, one after the other.
///
/// # Errors
/// When a plugin can't be loaded or run.
pub fn measure(toolchains: &Toolchains, built: &[Built]) -> Result<String> {
    phase("measuring");
    let mut text = String::from(HEAD);
    for (example, _) in EXAMPLES {
        for language in ["Rust", "C", "JavaScript", "Python", "Zig"] {
            debug_assert!(LANGUAGES.iter().any(|known| known.name == language));
            let of = |plugin: &&Built| (plugin.example, plugin.language) == (example, language);
            for plugin in built.iter().filter(of) {
                let bench = toolchains.verb(&["bench"], &plugin.folder)?;
                // A String takes whatever is written.
                let _ = writeln!(text, "{}", row(plugin, &bench));
            }
        }
    }
    let longest = built.iter().map(|plugin| plugin.build_s).fold(0.0, f64::max);
    println!("the longest build took {longest:.0} s");
    Ok(text)
}

fn row(plugin: &Built, bench: &Value) -> String {
    let number = |value: &Value| value.as_f64().unwrap_or_default();
    let size = match number(&bench["component_bytes"]) {
        small if small < 102_400.0 => format!("{:.0} KiB", small / 1024.0),
        large => format!("{:.1} MiB", large / 1_048_576.0),
    };
    let compile = number(&bench["compile_ms"]);
    let cached = number(&bench["cached_ms"]);
    let start = number(&bench["start_us"]);
    let call = number(&bench["calls"]["median_us"]);
    let Built { example, language, cases, .. } = plugin;
    format!(
        "| {example} | {language} | {size} | {compile:.0} ms | {cached:.1} ms | {start:.0} us | {call:.1} us | {cases} |"
    )
}

/// Puts the table between its two lines.
///
/// # Errors
/// When the file can't be read or written, or has no place for the table.
pub fn replace(readme: &Path, table: &str) -> Result<()> {
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

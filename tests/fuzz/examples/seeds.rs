//! Writes the seeds and dictionaries of all targets, or of those named, into `corpus/TARGET` and `corpus/TARGET.dict`.

use std::fs;
use std::io;
use std::path::Path;

use membrane_fuzz::TARGETS;

fn main() -> io::Result<()> {
    let names: Vec<String> = std::env::args().skip(1).collect();
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for target in
        TARGETS.iter().filter(|target| names.is_empty() || names.iter().any(|name| name == target.name))
    {
        let folder = corpus.join(target.name);
        fs::create_dir_all(&folder)?;
        let seeds = (target.seeds)();
        for (number, seed) in seeds.iter().enumerate() {
            fs::write(folder.join(format!("seed-{number}")), seed)?;
        }
        fs::write(corpus.join(format!("{}.dict", target.name)), dictionary(target.words))?;
        println!("{:16} {} seeds, {} words", target.name, seeds.len(), target.words.len());
    }
    Ok(())
}

/// The words in libFuzzer's form: quoted, a line each.
fn dictionary(words: &[&str]) -> String {
    let byte = |byte: u8| match byte {
        b'"' => "\\\"".to_owned(),
        b'\\' => "\\\\".to_owned(),
        b' '..=b'~' => char::from(byte).to_string(),
        other => format!("\\x{other:02X}"),
    };
    words.iter().map(|word| format!("\"{}\"\n", word.bytes().map(byte).collect::<String>())).collect()
}

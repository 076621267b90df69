//! `membrane plugin keygen`: makes a key pair.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::ValueEnum;
use membrane_profile::signature::{Algorithm, SecretKey};
use serde_json::json;

use crate::report;

#[derive(clap::Args)]
pub struct Args {
    /// Names the two files: NAME.key, which stays with you, and NAME.pub, which others check with
    name: PathBuf,
    /// The kind of key; the `model_signing` tool takes p256 and p384
    #[arg(long = "type", value_enum, default_value_t = KeyType::Ed25519)]
    kind: KeyType,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Kinds of keys.
#[derive(Clone, Copy, ValueEnum)]
enum KeyType {
    /// Edwards-curve signatures.
    Ed25519,
    /// ECDSA over P-256.
    P256,
    /// ECDSA over P-384.
    P384,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let algorithm = match args.kind {
        KeyType::Ed25519 => Algorithm::Ed25519,
        KeyType::P256 => Algorithm::P256,
        KeyType::P384 => Algorithm::P384,
    };
    let (key, text) = SecretKey::generate(algorithm)?;
    let named = |extension: &str| PathBuf::from(format!("{}.{extension}", args.name.display()));
    let (secret, public) = (named("key"), named("pub"));
    create(&secret, &text, 0o600)?;
    let written = create(&public, &key.public().to_pem(), 0o644);
    if written.is_err() {
        // A half of a pair is of no use, and the next attempt would find it in its way.
        let _ = std::fs::remove_file(&secret);
    }
    written?;
    let fingerprint = key.public().fingerprint();
    let mut out = std::io::stdout().lock();
    if args.json {
        report::json(
            &json!({ "key": secret, "public": public, "type": algorithm.as_str(), "fingerprint": fingerprint }),
            &mut out,
        )?;
    } else {
        writeln!(out, "{fingerprint}")?;
        eprintln!("{} stays with you; {} is for others", secret.display(), public.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes a file that must not be there: a key that is overwritten is lost. What can't be written whole is not left.
fn create(path: &Path, text: &str, mode: u32) -> Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    let written = file.and_then(|mut file| {
        file.write_all(text.as_bytes()).inspect_err(|_| drop(std::fs::remove_file(path)))
    });
    written.with_context(|| format!("{}: can't be written", path.display()))
}

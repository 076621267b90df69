//! `membrane model verify`: whether a model's files are the ones that somebody meant.

use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use membrane_formats::{Checkpoint, SourceFile};
use membrane_host::signature_path;
use membrane_profile::signature::{EXTENSION, Fingerprint, PublicKey, Statement};
use membrane_profile::{Digest, Lock, LockedFile, LockedModel};
use serde::Serialize;
use sha1::{Digest as _, Sha1};

use super::named;
use super::sums::{self, Sums};
use crate::model_lock;
use crate::report::{self, describe, printable};
use crate::signed::{self, Extent, Links, Signer};

/// What lies beside the files of a model and is none of it: of git, which model signing leaves out, and of Hugging Face's downloads.
/// Nothing there is read when a model is run.
const UNSIGNED: [&str; 5] = [".git", ".gitattributes", ".github", ".gitignore", ".cache/huggingface"];

#[derive(clap::Args)]
pub struct Args {
    /// The model: a GGUF file, the first of a split one, or a folder
    #[arg(value_name = "MODEL", value_parser = named())]
    model: PathBuf,
    /// A list of digests, as `sha256sum` writes it [default: SHA256SUMS beside the model, if it is there]
    #[arg(long, value_name = "FILE")]
    sums: Option<PathBuf>,
    /// A profile whose lock pins the model
    #[arg(long, value_name = "PROFILE.toml")]
    profile: Option<PathBuf>,
    /// The signature [default: MODEL.sig, in a folder model.sig, if it is there]
    #[arg(long, value_name = "FILE")]
    signature: Option<PathBuf>,
    #[command(flatten)]
    signer: Signer,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    model: String,
    files: Vec<LockedFile>,
    tokenizer: Option<Digest>,
    chat_template: Option<Digest>,
    checks: Vec<Check>,
}

/// One witness of what the files should be.
#[derive(Serialize)]
struct Check {
    /// Who says it: a list, the names of blobs, a lock, a signature.
    by: String,
    /// What it says of the files; none where it says that they are others.
    says: Option<String>,
    problem: Option<String>,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let key = args.signer.key()?;
    let checkpoint = Checkpoint::open(&args.model)?;
    let found = model_lock::of(&checkpoint, args.json)?;
    // The signature of a folder is of all that it has.
    let model = match checkpoint.path().parent() {
        Some(folder) if folder == args.model => folder,
        _ => checkpoint.path(),
    };
    let names = by_names(checkpoint.files(), &found.files);
    let mut checks = Vec::new();
    checks.extend(by_list(args, model, checkpoint.files(), &found.files)?);
    checks.extend(by_lock(args, &found)?);
    checks.extend(by_signature(args, model, key.as_ref(), &found.files)?);
    if let Some(Named { mut check, others }) = names {
        if checks.is_empty() && !others.is_empty() && check.problem.is_none() {
            let unknown = anyhow::anyhow!("nothing says what {} should be", others.join(", "));
            check = Check::of(check.by, Err(unknown));
        }
        checks.insert(0, check);
    }
    let LockedModel { tokenizer, chat_template, files } = found;
    let model = args.model.display().to_string();
    let report = Report { model, files, tokenizer, chat_template, checks };
    let mut out = io::stdout().lock();
    if args.json {
        report::json(&report, &mut out)?
    } else {
        print(&report, &mut out)?
    }
    if report.checks.is_empty() {
        eprintln!(
            "nothing says what these files should be: give --sums, --profile, or --signature with --key or --fingerprint"
        );
    }
    let good = !report.checks.is_empty() && report.checks.iter().all(|check| check.problem.is_none());
    Ok(ExitCode::from(u8::from(!good)))
}

impl Check {
    fn of(by: String, outcome: Result<String>) -> Self {
        match outcome {
            Ok(says) => Self { by, says: Some(says), problem: None },
            Err(error) => Self { by, says: None, problem: Some(describe(&error)) },
        }
    }
}

/// What the names of blobs say.
struct Named {
    check: Check,
    /// Files whose names say nothing.
    others: Vec<String>,
}

/// Hugging Face's hub and Ollama call a blob by its digest; the hub what is small by that which git gives it. None if no name is such.
fn by_names(sources: &[SourceFile], files: &[LockedFile]) -> Option<Named> {
    let (mut others, mut outcome) = (Vec::new(), Ok(()));
    for (source, file) in sources.iter().zip(files) {
        let name = blob_name(&source.path).unwrap_or_default();
        let compared = match name.len() {
            64 => name.parse().map_err(anyhow::Error::from).and_then(|wanted| same(file, wanted)),
            40 => same_to_git(source, &file.name, &name),
            _ => {
                others.push(format!("`{}`", file.name));
                continue;
            }
        };
        outcome = outcome.and(compared);
    }
    let named = files.len() - others.len();
    let says = format!("{named} of {} files have the digest that is their name", files.len());
    let check = || Check::of("names of blobs".to_owned(), outcome.map(|()| says));
    (named > 0).then(|| Named { check: check(), others })
}

/// The name of the file that is meant, in hexadecimal digits, if it consists of such.
fn blob_name(path: &Path) -> Option<String> {
    let path = path.canonicalize().ok()?;
    let name = path.file_name()?.to_str()?;
    let hex = name.strip_prefix("sha256-").unwrap_or(name);
    hex.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| hex.to_ascii_lowercase())
}

/// Whether a file has the SHA-1 that git calls it by: that of `blob`, its length and its bytes (the Git book, "Git Objects").
fn same_to_git(source: &SourceFile, name: &str, wanted: &str) -> Result<()> {
    let mut hasher = Sha1::new();
    hasher.update(format!("blob {}\0", source.bytes));
    let mut piece = vec![0; 1 << 20];
    let mut offset = 0;
    while offset < source.bytes {
        let part = (source.bytes - offset).min(piece.len() as u64) as usize;
        source.file.read_exact_at(&mut piece[..part], offset).with_context(|| format!("`{name}`"))?;
        hasher.update(&piece[..part]);
        offset += part as u64;
    }
    let found = format!("{:x}", hasher.finalize());
    ensure!(found == wanted, "`{name}` has the git digest {found} and should have {wanted}");
    Ok(())
}

fn by_list(args: &Args, model: &Path, sources: &[SourceFile], files: &[LockedFile]) -> Result<Option<Check>> {
    let folder = if model.is_dir() { Some(model) } else { model.parent() };
    let Some(path) = args.sums.clone().or_else(|| sums::beside(folder?)) else { return Ok(None) };
    let by = path.display().to_string();
    let list = Sums::read(&path).with_context(|| by.clone())?;
    let listed: Result<Vec<_>> = sources.iter().map(|source| list.of(&source.path)).collect();
    let listed = match listed {
        Ok(listed) => listed,
        Err(unclear) => return Ok(Some(Check::of(by, Err(unclear)))),
    };
    // A list that lies there for other files says nothing.
    if listed.iter().all(Option::is_none) && args.sums.is_none() {
        return Ok(None);
    }
    let compared = files.iter().zip(&listed).try_for_each(|(file, wanted)| match wanted {
        Some(wanted) => same(file, *wanted),
        None => Err(anyhow::anyhow!("it does not name `{}`", file.name)),
    });
    Ok(Some(Check::of(by, compared.map(|()| format!("{} files have the digests of the list", files.len())))))
}

fn by_lock(args: &Args, found: &LockedModel) -> Result<Option<Check>> {
    let Some(profile) = &args.profile else { return Ok(None) };
    let by = Lock::path_of(profile).display().to_string();
    let lock = Lock::read_beside(profile)?
        .with_context(|| format!("{by} is not there; `membrane profile lock` writes it"))?;
    let pinned = lock.model.with_context(|| format!("{by} pins no model"))?;
    let differences: Vec<String> = pinned.differences(found).iter().map(ToString::to_string).collect();
    let outcome = match &differences[..] {
        [] => Ok("pins these files, this tokenizer and this chat template".to_owned()),
        all => Err(anyhow::anyhow!("{}", all.join("; "))),
    };
    Ok(Some(Check::of(by, outcome)))
}

fn by_signature(
    args: &Args,
    model: &Path,
    key: Option<&PublicKey>,
    files: &[LockedFile],
) -> Result<Option<Check>> {
    let usual = match model.is_dir() {
        true => model.join("model").with_extension(EXTENSION),
        false => signature_path(model),
    };
    let there = Some(usual).filter(|path| path.is_file());
    let Some(signature) = args.signature.clone().or(there) else {
        ensure!(
            !args.signer.is_known(),
            "there is no signature beside the model: --signature says where it is"
        );
        return Ok(None);
    };
    let by = signature.display().to_string();
    if !args.signer.is_known() {
        ensure!(
            args.signature.is_none(),
            "--key FILE or --fingerprint SHA256 says whose signature it must be"
        );
        eprintln!(
            "{}: not looked at: --key FILE or --fingerprint SHA256 says whose it must be",
            printable(&by)
        );
        return Ok(None);
    }
    let compared = |(signer, statement): (Fingerprint, Statement)| {
        let count = contents(model, &signature, &statement, files)?;
        Ok(format!("{count} files, signed by {signer}"))
    };
    Ok(Some(Check::of(by, args.signer.statement(&signature, key).and_then(compared))))
}

/// The number of files that were compared: of a folder all that it has.
fn contents(model: &Path, signature: &Path, statement: &Statement, files: &[LockedFile]) -> Result<usize> {
    if model.is_dir() {
        let ignored: Vec<PathBuf> = statement.ignored.iter().map(PathBuf::from).collect();
        let links = Links::of_model(model, statement);
        let extent = Extent { ignored: &ignored, unsigned: &UNSIGNED, links };
        let count = signed::compare(model, signature, statement, &extent)?;
        // What is run was read through handles of its own, and none of it may be left out.
        all_are_stated(statement, files)?;
        return Ok(count);
    }
    if let [file] = files
        && statement.is_of_file(file.digest).is_ok()
    {
        return Ok(1);
    }
    all_are_stated(statement, files)?;
    Ok(files.len())
}

fn all_are_stated(statement: &Statement, files: &[LockedFile]) -> Result<()> {
    files.iter().try_for_each(|file| {
        let stated = statement.resources.iter().find(|resource| resource.name == file.name);
        same(file, stated.with_context(|| format!("does not name `{}`", file.name))?.digest)
    })
}

fn same(file: &LockedFile, wanted: Digest) -> Result<()> {
    let LockedFile { name, digest, .. } = file;
    ensure!(*digest == wanted, "`{name}` has the digest {digest} and should have {wanted}");
    Ok(())
}

fn print(report: &Report, out: &mut impl Write) -> io::Result<()> {
    for file in &report.files {
        writeln!(out, "{}: {}", printable(&file.name), file.digest)?;
    }
    for (what, digest) in [("tokenizer", &report.tokenizer), ("chat template", &report.chat_template)] {
        match digest {
            Some(digest) => writeln!(out, "{what}: {digest}")?,
            None => writeln!(out, "{what}: none")?,
        }
    }
    for check in &report.checks {
        let by = printable(&check.by);
        match (&check.says, &check.problem) {
            (Some(says), _) => writeln!(out, "good: {by}: {}", printable(says))?,
            (None, problem) => {
                writeln!(out, "BAD: {by}: {}", printable(problem.as_deref().unwrap_or_default()))?
            }
        }
    }
    out.flush()
}

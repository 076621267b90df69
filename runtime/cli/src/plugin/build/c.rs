//! C: wit-bindgen writes the bindings of the world, a C compiler makes a module, and wit-component a component of it. A plugin in
//! Zig goes the same way, as one more object; it sees the headers of the SDK as the module `sdk`.
//!
//! The bindings are written to `build/bindings` at each build, where an editor finds the header too.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use wit_bindgen_core::Files;
use wit_component::ComponentEncoder;

use super::contract;
use super::toolchain::{environment, in_folder_or_path, in_path, run, shown, succeeds};
use crate::plugin::package::Package;

/// What the bindings of every world are called, so that its types have the same names in each.
const BINDINGS: &str = "membrane";

/// What the compiler is told, whichever it is. The module is a library (a reactor), without a `main`. Zig's own stack has
/// 16 MiB, more than an instance has under a memory budget. A function that no header declares and that is not static may be
/// meant as a hook: misspelt, it would never be called, and a policy would let pass what it means to stop.
const FLAGS: [&str; 8] = [
    "-std=c17",
    "-Os",
    "-Wall",
    "-Wextra",
    "-Werror=missing-prototypes",
    "-mexec-model=reactor",
    "-Wl,--strip-all",
    "-Wl,-z,stack-size=262144",
];

/// Generated bindings declare no prototypes of their exports.
const GENERATED: &str = "#pragma clang diagnostic ignored \"-Wmissing-prototypes\"\n";

/// The source of a plugin in Zig.
const ZIG_SOURCE: &str = "plugin.zig";

/// What to install where there is no zig.
const ZIG_MISSING: &str =
    "a plugin in Zig is built by zig, which was not found; install it: `pip install ziglang`";

/// What to install where there is no compiler.
const MISSING: &str = "a plugin in C is built by zig or by clang with a C library for WebAssembly, and neither was found; \
     install one of them: `pip install ziglang`, or Debian's packages `clang lld wasi-libc libclang-rt-dev-wasm32`";

/// Builds with the first compiler that is found.
pub fn build(package: &Package, output: &Path) -> Result<()> {
    let bindings = bind(package)?;
    let module = package.component().with_extension("core.wasm");
    let mut compiler = compiler(&package.folder)?;
    if package.folder.join(ZIG_SOURCE).is_file() {
        compiler.arg(zig_object(package, &bindings)?);
    }
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
    fs::write(output, component).with_context(|| format!("can't write {}", output.display()))?;
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
        let before = if name.ends_with(".c") { GENERATED } else { "" };
        let bytes = [before.as_bytes(), bytes].concat();
        fs::write(&path, bytes).with_context(|| format!("can't write {}", path.display()))?;
    }
    Ok(folder)
}

/// Compiles a plugin in Zig; gives the object.
fn zig_object(package: &Package, bindings: &Path) -> Result<PathBuf> {
    let headers = bindings.join("sdk.zig");
    let mut translate = zig(&package.folder).context(ZIG_MISSING)?;
    translate.current_dir(&package.folder).args(["translate-c", "-target", "wasm32-wasi", "-lc", "-I"]);
    translate.arg(bindings).args(["-I", "sdk"]).arg(format!("sdk/{}.h", package.manifest.world));
    let translated = translate.output().context("can't run zig")?;
    if !translated.status.success() {
        bail!("`{}` failed: {}", shown(&translate), String::from_utf8_lossy(&translated.stderr));
    }
    fs::write(&headers, translated.stdout).with_context(|| format!("can't write {}", headers.display()))?;
    let object = bindings.join("plugin.o");
    let mut compile = zig(&package.folder).context(ZIG_MISSING)?;
    compile.current_dir(&package.folder);
    compile.args(["build-obj", "-target", "wasm32-wasi", "-O", "ReleaseSmall", "-lc", "--dep", "sdk"]);
    compile.arg(format!("-Mroot={ZIG_SOURCE}")).arg(format!("-Msdk={}", headers.display()));
    run(compile.arg(format!("-femit-bin={}", object.display())))?;
    Ok(object)
}

/// Zig, of `PATH` or as a Python package.
fn zig(folder: &Path) -> Option<Command> {
    if let Some(zig) = in_path("zig") {
        return Some(Command::new(zig));
    }
    let python = in_folder_or_path(&environment(folder), "python3")?;
    let command = || {
        let mut command = Command::new(&python);
        command.args(["-m", "ziglang"]);
        command
    };
    succeeds(command().arg("version")).then(command)
}

/// A compiler for WebAssembly with a C library.
fn compiler(folder: &Path) -> Result<Command> {
    if let Some(mut zig) = zig(folder) {
        zig.args(["cc", "-target", "wasm32-wasi"]);
        return Ok(zig);
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
    let Ok(folder) = tempfile::tempdir() else { return false };
    let mut command = Command::new(clang);
    command
        .args(["--target=wasm32-wasi", "-mexec-model=reactor", "-x", "c", "/dev/null", "-o"])
        .arg(folder.path().join("out.wasm"));
    succeeds(&mut command)
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

//! Builds the first-party plugins from source, so that the binary carries them: components that nobody has to
//! fetch.

use std::env;
use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const TARGET: &str = "wasm32-unknown-unknown";

/// Settings of the build that runs this script; guests have their own.
const FOREIGN: [&str; 5] = ["RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "RUSTFLAGS", "RUSTC", "RUSTDOC"];
const FOREIGN_PREFIXES: [&str; 4] = ["CARGO_TARGET_", "CARGO_BUILD_", "CARGO_PROFILE_", "CARGO_ENCODED_"];

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("../..").canonicalize()?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let plugins = plugins(&root.join("plugins"))?;
    watch(&root, &plugins);
    require_target()?;
    build(&root, &out)?;
    fs::write(out.join("first_party.rs"), table(&root, &out, &plugins)?)?;
    Ok(())
}

/// Names of the plugins: folders with a manifest.
fn plugins(folder: &Path) -> Result<Vec<String>, Box<dyn Error>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.path().join("plugin.toml").is_file() {
            names.push(entry.file_name().into_string().map_err(|name| format!("{name:?} is not UTF-8"))?);
        }
    }
    names.sort();
    Ok(names)
}

fn watch(root: &Path, plugins: &[String]) {
    let fixed = ["wit", "sdk/rust/src", "sdk/rust/Cargo.toml", "plugins/guard/clauses"].map(str::to_owned);
    let workspace =
        ["", "/Cargo.toml", "/Cargo.lock", "/.cargo"].iter().skip(1).map(|f| format!("plugins{f}"));
    let sources = plugins
        .iter()
        .flat_map(|name| ["Cargo.toml", "plugin.toml", "src"].map(|file| format!("plugins/{name}/{file}")));
    for path in fixed.into_iter().chain(workspace).chain(sources) {
        println!("cargo::rerun-if-changed={}", root.join(path).display());
    }
}

/// Says what to install where the target is missing; the compiler's own words come late and are many.
fn require_target() -> Result<(), Box<dyn Error>> {
    let rustc = env::var_os("RUSTC").unwrap_or("rustc".into());
    let output = Command::new(rustc).args(["--print", "target-libdir", "--target", TARGET]).output()?;
    let folder = PathBuf::from(String::from_utf8(output.stdout)?.trim());
    if folder.is_dir() {
        return Ok(());
    }
    Err(format!("plugins are built for {TARGET}, which is not installed: run `rustup target add {TARGET}`")
        .into())
}

fn build(root: &Path, out: &Path) -> Result<(), Box<dyn Error>> {
    let mut cargo = Command::new(env::var("CARGO")?);
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if FOREIGN.contains(&text.as_ref()) || FOREIGN_PREFIXES.iter().any(|prefix| text.starts_with(prefix))
        {
            cargo.env_remove(&name);
        }
    }
    cargo
        .current_dir(root.join("plugins"))
        .env("CARGO_ENCODED_RUSTFLAGS", remaps(root, out)?.join("\x1f"))
        .args(["build", "--release", "--locked", "--target", TARGET, "--target-dir"])
        .arg(out.join("guests"));
    let output = cargo.output()?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(format!("the plugins in {} could not be built:\n{text}", root.join("plugins").display()).into())
}

/// Paths of this machine that would otherwise stand in the components: their bytes depend on nothing but the
/// sources.
fn remaps(root: &Path, out: &Path) -> Result<Vec<String>, Box<dyn Error>> {
    let home = match env::var_os("CARGO_HOME") {
        Some(home) => PathBuf::from(home),
        None => env::home_dir().ok_or("neither CARGO_HOME nor a home folder is known")?.join(".cargo"),
    };
    let remap = |from: &Path, to: &str| format!("--remap-path-prefix={}={to}", from.display());
    // The last one that fits counts.
    Ok(vec![remap(&home, "/cargo"), remap(root, "/membrane"), remap(out, "/out")])
}

/// The source of `first_party::ALL`.
fn table(root: &Path, out: &Path, plugins: &[String]) -> Result<String, Box<dyn Error>> {
    let mut source = String::from("&[\n");
    for name in plugins {
        let manifest = root.join("plugins").join(name).join("plugin.toml");
        let component =
            out.join("guests").join(TARGET).join("release").join(format!("{}.wasm", name.replace('-', "_")));
        let text = fs::read_to_string(&manifest)?;
        let world = text.lines().find_map(|line| line.strip_prefix("world = "));
        let world = match world.map(|world| world.trim().trim_matches('"')) {
            Some("sampler") => "Sampler",
            Some("policy") => "Policy",
            Some("tool") => "Tool",
            Some("agent") => "Agent",
            _ => {
                return Err(
                    format!("{}: `world` is none of sampler, policy, tool", manifest.display()).into()
                );
            }
        };
        writeln!(
            source,
            "FirstParty {{ name: {name:?}, world: World::{world}, bytes: include_bytes!({component:?}), \
             manifest: include_str!({manifest:?}) }},"
        )?;
    }
    source.push(']');
    Ok(source)
}

//! `membrane plugin dev`: a chat in which a plugin is replaced whenever its files are saved; an agent is given one task after
//! the other.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, bail};
use membrane_host::{Component, Host, first_party};
use membrane_profile::{Kind, PluginArgument};

use crate::agent;
use crate::model::named;
use crate::options::{LoadFlags, ModelOptions};
use crate::plugin::project::Project;
use crate::run::{self, ConversationOptions};
use crate::watch::Sources;

#[derive(clap::Args)]
pub struct Args {
    /// The plugin: its folder, which is built on every change, or a component (.wasm); with parameters and
    /// grants as PATH[,KEY=VALUE]...
    #[arg(value_name = "PATH")]
    plugin: PluginArgument,
    /// The model: a GGUF file, the first of a split one, a published folder, or a name that `model ls` shows
    #[arg(long, value_name = "MODEL", value_parser = named())]
    model: PathBuf,
    #[command(flatten)]
    load: LoadFlags,
    #[command(flatten)]
    options: ConversationOptions,
    /// Answer this, or do this task, and end
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
}

pub fn run(args: Args) -> Result<ExitCode> {
    let Args { mut plugin, model, load, mut options, prompt } = args;
    let given = PathBuf::from(&plugin.plugin);
    if !given.exists() && first_party::find(&plugin.plugin).is_ok() {
        bail!(
            "`{0}` is a plugin that the program carries: there is no file of it to work on. Give the folder or the .wasm file \
             of one of your own, such as ./{0}; `membrane plugin new` makes a folder to start from",
            plugin.plugin
        );
    }
    let project = given.is_dir().then(|| Project::open(&given)).transpose()?;
    let component = project.as_ref().map_or(given.as_path(), Project::component).to_owned();
    let bytes = Component::read(&name(&component), &component)?.bytes;
    let kind = Host::world_of(&name(&component), &bytes)?;
    plugin.plugin = path_argument(&component);
    if kind == Kind::Agent {
        options.check_for_agent()?;
        return agent::develop(plugin, project, ModelOptions { model, load }, options, prompt);
    }
    options.behaviour.add(kind, plugin)?;
    let project = project.map(|project| {
        let name = name(project.component());
        (project, name)
    });
    run::converse(&ModelOptions { model, load }, &options, Some(Sources { project }), Ok(prompt))
}

/// The name that a component has in a behaviour.
fn name(component: &Path) -> String {
    component.file_stem().map_or_else(|| "plugin".into(), |stem| stem.to_string_lossy().into_owned())
}

/// A path as a plugin argument: one without a separator would be a first-party name.
fn path_argument(component: &Path) -> String {
    let component = std::path::absolute(component).unwrap_or_else(|_| component.to_owned());
    component.to_string_lossy().into_owned()
}

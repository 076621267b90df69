//! `--watch`: new versions of the profile and of plugins go into a running conversation.
//!
//! A thread waits for changes of the files, loads what they make, runs golden cases and hands the behaviour over. What
//! does not pass is told, and what was in force stays. A new version is first compiled in haste; when it is in force it
//! is compiled once more, well, for the answers that follow.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use membrane_generate::{Behaviour, Reloads};
use membrane_host::golden::GoldenCases;
use membrane_host::watch::FileWatch;
use membrane_host::{Host, Plugin};
use membrane_profile::{Location, Profile, ProfileDigest, ProfileError, ResolvedPlugin};
use serde_json::json;

use crate::judged;
use crate::plugin::project::Project;
use crate::printer;
use crate::report::{describe, printable};
use crate::session::BehaviourOptions;

/// Without a change the files are looked at after this time all the same.
const IDLE: Duration = Duration::from_secs(3600);

/// So long after a change the files must be left alone before their plugins are compiled well: the next change does not
/// wait for a compiler that is busy with the last.
const SETTLED: Duration = Duration::from_secs(1);

/// Folders above a component in which its plugin's folder is looked for: cargo puts it into
/// `target/wasm32-unknown-unknown/release`.
const FOLDERS_ABOVE: usize = 4;

/// What is watched beside the files of the behaviour.
#[derive(Default)]
pub struct Sources {
    /// A plugin that is built when its sources change, with the name that it has in the behaviour.
    pub project: Option<(Project, String)>,
}

/// What is needed to make a new behaviour.
pub struct Watch {
    pub sources: Sources,
    pub options: BehaviourOptions,
    pub budgeted: bool,
    pub host: Host,
    /// The behaviour that was handed over last.
    pub now: Behaviour,
    pub json: bool,
    pub quiet: bool,
}

impl Watch {
    /// Watches on a thread of its own until the program ends. `shown`: name and digest of the profile in force, for people.
    ///
    /// # Errors
    /// The files can't be watched.
    pub fn start(mut self, profile: Profile, reloads: Reloads, shown: Arc<Mutex<String>>) -> Result<()> {
        let mut files = FileWatch::new()?;
        self.watch(&mut files, &profile)?;
        let draft = self.host.draft()?;
        let host = self.host.clone();
        reloads.follow(move |behaviour, policies| {
            judged::only(&host, policies);
            if let Some(label) = label(behaviour) {
                *shown.lock().unwrap_or_else(PoisonError::into_inner) = label;
            }
        });
        let thread = std::thread::Builder::new().name("watch".into());
        thread
            .spawn(move || {
                self.foresee(&draft);
                // What was saved between loading and watching is found by looking once more.
                let (mut look, well) = (true, self.host.clone());
                let mut drafted = false;
                loop {
                    let host = if look { &well } else { &draft };
                    let patience = if drafted { SETTLED } else { IDLE };
                    if !std::mem::take(&mut look) && !files.wait(patience) && std::mem::take(&mut drafted) {
                        self.refine(&reloads);
                        continue;
                    }
                    let begun = Instant::now();
                    match self.reload(host, &mut files, &reloads) {
                        Ok(None) => {}
                        Ok(Some(reloaded)) => {
                            self.tell(&reloaded, begun.elapsed());
                            drafted = true;
                        }
                        Err(error) => self.tell_error(&error),
                    }
                }
            })
            .context("starting the thread that watches files")?;
        Ok(())
    }

    /// Lets the draft compile what is in force, so that of its next version only what changed is left to compile.
    fn foresee(&self, draft: &Host) {
        // What is wrong with the files is told when they are loaded.
        let Ok(resolution) = self.options.resolution() else { return };
        for (plugin, component, _) in resolution.plugins() {
            if let Location::Path(_) = plugin.location {
                draft.foresee(&component.bytes, plugin.kind, plugin.isolation());
            }
        }
    }

    /// Makes the behaviour that the files say now and hands it over. None if it is the one that there is.
    fn reload(&mut self, host: &Host, files: &mut FileWatch, reloads: &Reloads) -> Result<Option<Reloaded>> {
        if let Some((project, _)) = &self.sources.project {
            project.build()?;
        }
        // What it names may come later than it, as an approval does.
        match self.options.resolve() {
            Ok(profile) => drop(self.watch(files, &profile)),
            Err(error) => error.downcast_ref().and_then(missing).into_iter().for_each(|path| files.add(path)),
        }
        let assembled = self.options.assemble_on(host.clone(), self.budgeted, &self.now)?;
        self.watch(files, &assembled.profile)?;
        let behaviour = assembled.behaviour();
        let entries: Vec<&ResolvedPlugin> = assembled.profile.plugins().collect();
        let new: Vec<(&Plugin, &ResolvedPlugin)> = behaviour
            .plugins()
            .zip(entries)
            .filter(|(plugin, _)| !self.now.plugins().any(|old| old.same(plugin)))
            .collect();
        if behaviour.same(&self.now) {
            return Ok(None);
        }
        let mut cases = 0;
        for (plugin, entry) in &new {
            cases += self.run_cases(host, plugin, entry)?;
        }
        reloads.offer(behaviour.clone())?;
        let plugins = new.iter().map(|(plugin, _)| plugin.name().to_owned()).collect();
        self.now = behaviour.clone();
        let (profile, digest) = (assembled.profile.name.clone(), assembled.digest);
        Ok(Some(Reloaded { profile, digest, plugins, cases }))
    }

    /// Hands the same behaviour over in better code. If the files have changed meanwhile there is more to come.
    fn refine(&self, reloads: &Reloads) {
        let assembled = self.options.assemble_on(self.host.clone(), self.budgeted, &Behaviour::default());
        if let Ok(assembled) = assembled
            && assembled.behaviour().same(&self.now)
        {
            // Where it fails the code that is in force stays.
            let _ = reloads.offer(assembled.behaviour().clone());
        }
    }

    fn watch(&self, files: &mut FileWatch, profile: &Profile) -> Result<()> {
        let components = profile.plugins().filter_map(|plugin| match &plugin.location {
            Location::Path(path) => Some(path.clone()),
            Location::FirstParty(_) => None,
        });
        let mut watched = self.options.files(profile);
        let mut folders = Vec::new();
        match &self.sources.project {
            // The component changes with what is built from the sources.
            Some((project, _)) => {
                let built = project.component();
                watched.extend(components.filter(|path| path != built));
                folders.push(project.folder().to_owned());
            }
            None => watched.extend(components),
        }
        Ok(files.set(&watched, &folders)?)
    }

    /// Runs the golden cases of a plugin, if it has any. Gives their number. Errors: one fails.
    fn run_cases(&self, host: &Host, plugin: &Plugin, entry: &ResolvedPlugin) -> Result<usize> {
        self.cases_of(entry).map_or(Ok(0), |folder| run_cases(host, plugin, &folder))
    }

    /// Where the golden cases of a plugin would be.
    fn cases_of(&self, entry: &ResolvedPlugin) -> Option<PathBuf> {
        match &self.sources.project {
            Some((project, name)) if *name == entry.name => Some(project.folder().join("golden")),
            _ => cases_beside(entry),
        }
    }

    fn tell(&self, reloaded: &Reloaded, took: Duration) {
        let milliseconds = took.as_secs_f64() * 1e3;
        if self.json {
            let event = json!({
                "event": "behaviour",
                "profile": reloaded.profile,
                "profile_digest": reloaded.digest.hex(),
                "plugins": reloaded.plugins,
                "golden_cases": reloaded.cases,
                "milliseconds": milliseconds,
            });
            // Whoever reads it is told by the answer that they are gone.
            let _ = printer::json(&event);
        } else if !self.quiet {
            let cases = match reloaded.cases {
                0 => "no golden cases".to_owned(),
                cases => format!("{cases} golden cases passed"),
            };
            let names =
                if reloaded.plugins.is_empty() { "profile".into() } else { reloaded.plugins.join(", ") };
            eprintln!("[reload: {} ready in {milliseconds:.0} ms, {cases}]", printable(&names));
        }
    }

    fn tell_error(&self, error: &anyhow::Error) {
        if self.json {
            let event = json!({"event": "reload-failed", "message": describe(error)});
            let _ = printer::json(&event);
        } else {
            eprintln!("[reload failed, nothing changes: {}]", describe(error));
        }
    }
}

/// Name and digest of a behaviour's profile, for people.
fn label(behaviour: &Behaviour) -> Option<String> {
    let record = behaviour.record.as_ref()?;
    let digest: String = record.digest.hex().chars().take(12).collect();
    Some(printable(&format!("{} {digest}", record.profile)))
}

/// The file that is not there or can't be read, if that is why a profile can't.
fn missing(error: &ProfileError) -> Option<&Path> {
    match error {
        ProfileError::Unreadable { path, .. } => Some(path),
        _ => None,
    }
}

/// A behaviour that was handed over.
struct Reloaded {
    profile: String,
    digest: ProfileDigest,
    /// Names of the plugins that are new in it.
    plugins: Vec<String>,
    cases: usize,
}

/// Where the golden cases of a plugin lie that is a file.
pub fn cases_beside(entry: &ResolvedPlugin) -> Option<PathBuf> {
    match &entry.location {
        Location::Path(component) => plugin_folder(component).map(|folder| folder.join("golden")),
        Location::FirstParty(_) => None,
    }
}

/// Runs the golden cases of a folder, if it is there. Gives their number. Errors: one fails.
pub fn run_cases(host: &Host, plugin: &Plugin, folder: &Path) -> Result<usize> {
    if !folder.is_dir() {
        return Ok(0);
    }
    let cases = GoldenCases::read(folder, plugin.world())?;
    let report = cases.run(host, plugin)?;
    let failures: Vec<String> = report.failures().map(ToString::to_string).collect();
    if !failures.is_empty() {
        bail!(
            "plugin `{}`: {} of {} golden cases fail:\n{}",
            plugin.name(),
            failures.len(),
            cases.len(),
            failures.join("\n")
        );
    }
    Ok(cases.len())
}

/// The folder of the plugin that a component was built from, where its manifest tells.
fn plugin_folder(component: &Path) -> Option<&Path> {
    component.ancestors().skip(1).take(FOLDERS_ABOVE).find(|folder| folder.join("plugin.toml").is_file())
}

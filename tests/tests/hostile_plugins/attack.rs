//! An attack, what came of it, and what is demanded of that.

use std::any::Any;
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use membrane_host::World;

use crate::arena::Arena;

/// Most time that an attack may take, with all that stands around it, on a machine that does other things too.
const MOST_TIME: Duration = Duration::from_secs(60);
/// Most MiB by which the host's process may grow meanwhile: twice what a guest may hand over and hold, and what checking and
/// compiling a component of the largest size takes.
const MOST_MIB: u64 = 400;
/// Most bytes of an error that is shown.
const MOST_ERROR_BYTES: usize = 4096;

/// The error by which an attack was contained, or what it achieved.
pub type Outcome = Result<String, String>;

/// One attack.
pub struct Attack {
    pub name: &'static str,
    /// The world of the plugin that attacks.
    pub world: World,
    /// In a few words.
    pub tries: &'static str,
    /// What the error must say, among other things.
    pub says: &'static [&'static str],
    pub run: Box<dyn Fn(&Arena) -> Outcome>,
}

impl Attack {
    pub fn new(
        name: &'static str,
        world: World,
        tries: &'static str,
        says: &'static [&'static str],
        run: impl Fn(&Arena) -> Outcome + 'static,
    ) -> Self {
        Self { name, world, tries, says, run: Box::new(run) }
    }
}

/// What came of an attack in one mode.
#[derive(Clone)]
pub struct Trial {
    /// The outer error: a panic of the host.
    pub outcome: Result<Outcome, String>,
    /// Whether the plugins beside it go on, and others start.
    pub beside: Result<(), String>,
    pub took: Duration,
    pub grown_mib: u64,
}

impl Trial {
    /// Tries an attack, with honest plugins at work beside it.
    pub fn of(attack: &Attack, arena: &Arena) -> Self {
        let mut bystanders = arena.bystanders();
        let before = resident_mib();
        let begun = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| (attack.run)(arena))).map_err(|panic| said(&*panic));
        let took = begun.elapsed();
        let grown_mib = peak_mib().saturating_sub(before);
        let beside = catch_unwind(AssertUnwindSafe(|| bystanders.go_on(arena)));
        let beside = beside.unwrap_or_else(|panic| Err(said(&*panic)));
        Self { outcome, beside, took, grown_mib }
    }

    fn error(&self) -> &str {
        match &self.outcome {
            Ok(Ok(error) | Err(error)) | Err(error) => error,
        }
    }
}

fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked").to_owned()
}

/// What is wrong with the outcomes in the two modes.
pub fn judge(attack: &Attack, trials: &[Trial; 2]) -> Vec<String> {
    let mut findings = Vec::new();
    for (trial, mode) in trials.iter().zip(["in process", "isolated"]) {
        let mut wrong =
            |what: String| findings.push(format!("{} ({}), {mode}: {what}", attack.name, attack.world));
        match &trial.outcome {
            Err(panic) => wrong(format!("the host panicked: {panic}")),
            Ok(Err(achieved)) => wrong(format!("it succeeded: {achieved}")),
            Ok(Ok(error)) => {
                let missing = attack.says.iter().filter(|part| !error.contains(**part));
                missing.for_each(|part| wrong(format!("the error does not say `{part}`: {error}")));
                if error.trim().is_empty() {
                    wrong("the error says nothing".into());
                }
                if error.len() > MOST_ERROR_BYTES {
                    wrong(format!("the error has {} bytes", error.len()));
                }
                if error.contains(|c: char| c.is_control() && c != '\n') {
                    wrong(format!("the error has a control character: {error:?}"));
                }
            }
        }
        if let Err(spoilt) = &trial.beside {
            wrong(format!("what stands beside it is spoilt: {spoilt}"));
        }
        if trial.took > MOST_TIME {
            wrong(format!("it took {:?}", trial.took));
        }
        if trial.grown_mib > MOST_MIB {
            wrong(format!("the host grew by {} MiB", trial.grown_mib));
        }
    }
    if let [Ok(Ok(here)), Ok(Ok(apart))] = trials.each_ref().map(|trial| &trial.outcome)
        && here != apart
    {
        findings.push(format!("{}: the error differs: {here} | {apart}", attack.name));
    }
    findings
}

/// All attacks, each with what came of it.
pub fn table(attacks: &[Attack], trials: &[[Trial; 2]]) -> String {
    let mut text = String::from(
        "    world    attack                         ms in process, isolated   MiB   what it tries | error\n",
    );
    for (number, (attack, [here, apart])) in attacks.iter().zip(trials).enumerate() {
        let error: String = here.error().chars().take(150).collect();
        let _ = writeln!(
            text,
            "{:3} {:8} {:34} {:7} {:7}  {:4} {:4}   {} | {}",
            number + 1,
            attack.world.to_string(),
            attack.name,
            here.took.as_millis(),
            apart.took.as_millis(),
            here.grown_mib,
            apart.grown_mib,
            attack.tries,
            error.replace('\n', " "),
        );
    }
    let count = |world: World| attacks.iter().filter(|attack| attack.world == world).count();
    let worlds = [World::Sampler, World::Policy, World::Tool, World::Agent];
    let shares: Vec<String> = worlds.iter().map(|world| format!("{world} {}", count(*world))).collect();
    let _ = writeln!(
        text,
        "{} attacks ({}), each in the host's process and in one of its own",
        attacks.len(),
        shares.join(", ")
    );
    text
}

/// MiB of memory that this process holds, and from now on the peak of it; 0 where the system does not tell.
fn resident_mib() -> u64 {
    // Resets the peak (proc_pid_clear_refs(5)).
    let _ = std::fs::write("/proc/self/clear_refs", "5");
    status_mib("VmRSS:")
}

fn peak_mib() -> u64 {
    status_mib("VmHWM:")
}

fn status_mib(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) >> 10
}

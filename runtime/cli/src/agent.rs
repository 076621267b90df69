//! `membrane agent`: gives tasks to an agent.

use std::io::{BufRead, IsTerminal, Read, stdin};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, bail, ensure};
use membrane_generate::{AgentAnswer, AgentOptions, Agents, Behaviour, EndReason, Event, EventSink};
use membrane_host::agent::Store;
use membrane_host::limits::{MAX_SESSIONS, MAX_TASK_BYTES};
use membrane_host::reload::{self, Effect, Swap};
use membrane_host::{Grant, Host, Plugin};
use membrane_profile::{Kind, PluginArgument, ProfileDigest};
use serde_json::{Value, json};

use crate::code;
use crate::judged;
use crate::model::named;
use crate::options::{LoadFlags, ModelOptions};
use crate::plugin::project::Project;
use crate::printer::{self, Printer};
use crate::recall::{Recall, RecallOptions, Remembering};
use crate::recording::{AuditOptions, Recording};
use crate::report;
use crate::run::{ConversationOptions, new_seed};
use crate::session::{self, Assembled, BehaviourOptions};
use crate::template::TemplateOptions;
use crate::watch;

/// Most tasks at a time: each has an instance, and sessions of its own.
const MOST_TASKS: usize = 64;

#[derive(clap::Args)]
pub struct Args {
    /// The agent: the name of one of the profile's, or PLUGIN[,KEY=VALUE]..., PLUGIN a first-party name or a .wasm file
    #[arg(value_name = "AGENT")]
    agent: PluginArgument,
    /// The task; several are worked on at the same time, and share each read of the model's weights. Without one, standard
    /// input
    #[arg(value_name = "TASK")]
    tasks: Vec<String>,
    /// The model: a GGUF file, or the first of a split one
    #[arg(short, long, value_name = "MODEL", value_parser = named())]
    model: PathBuf,
    #[command(flatten)]
    load: LoadFlags,
    /// Full contexts that all sessions of the agents together may fill
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=256))]
    contexts: u32,
    #[command(flatten)]
    behaviour: BehaviourOptions,
    #[command(flatten)]
    template: TemplateOptions,
    #[command(flatten)]
    audit: AuditOptions,
    #[command(flatten)]
    recall: RecallOptions,
    /// Most tokens of one generation, whatever the agent asks for [default: as many as the context holds]
    #[arg(short = 'n', long, value_name = "TOKENS")]
    max_tokens: Option<usize>,
    /// Seed of the run's random source; task number N has the seed SEED + N - 1, lines likewise [default: a new one, which is shown]
    #[arg(long, value_name = "SEED")]
    seed: Option<u64>,
    /// Folder for the values of an agent that was granted a store, one run at a time [default: one for each component in the
    /// user's data folder]
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
    /// Take each line of standard input as a task, and before each the newest versions of the profile and the plugins
    #[arg(long, conflicts_with = "tasks")]
    watch: bool,
    /// A plugin's folder that is built before each task.
    #[arg(skip)]
    project: Option<Project>,
    /// Print one JSON object for each event
    #[arg(long)]
    json: bool,
    /// Print nothing but the answer
    #[arg(short, long)]
    quiet: bool,
}

/// All that a task is worked on with.
struct Work {
    /// Loads new versions of the plugins.
    host: Host,
    agents: Agents,
    agent: Plugin,
    /// What names the behaviour.
    digest: ProfileDigest,
    options: AgentOptions,
    store: Option<Store>,
    cancel: Arc<AtomicBool>,
    /// Whether a task is being worked on: what Ctrl-C then means.
    busy: Arc<AtomicBool>,
    profile: String,
    recording: Option<Recording>,
    /// Keeps for later runs which experts are used, when the work ends.
    _remembering: Option<Remembering>,
    json: bool,
    quiet: bool,
}

pub fn run(args: Args) -> Result<ExitCode> {
    let json = args.json;
    let result = pursue(args);
    if let (true, Err(error)) = (json, &result) {
        printer::error(error)?;
    }
    result
}

/// The run of an agent that is being written: its folder is built before each task, which is a line of standard input.
pub fn develop(
    agent: PluginArgument,
    project: Option<Project>,
    model: ModelOptions,
    options: ConversationOptions,
    task: Option<String>,
) -> Result<ExitCode> {
    let ConversationOptions { behaviour, template, audit, recall, max_tokens, seed, json, quiet, .. } =
        options;
    let (tasks, watch) = (task.into_iter().collect(), true);
    let ModelOptions { model, load } = model;
    run(Args {
        agent,
        tasks,
        model,
        load,
        contexts: 4,
        behaviour,
        template,
        audit,
        recall,
        max_tokens,
        seed,
        store: None,
        watch,
        project,
        json,
        quiet,
    })
}

fn pursue(args: Args) -> Result<ExitCode> {
    if args.watch && args.tasks.is_empty() {
        return line_by_line(args);
    }
    let tasks = tasks(&args)?;
    let work = Arc::new(open(&args, tasks.len())?);
    let answers = match &tasks[..] {
        [task] => vec![work.alone(task)],
        tasks => work.together(tasks),
    };
    let closed = work.close();
    let (mut status, mut failed) = (0, None);
    for answer in answers {
        match answer {
            Ok(answer) => status = status.max(self::status(&answer)),
            Err(error) if failed.is_none() => failed = Some(error),
            Err(error) => eprintln!("membrane: {}", report::printable(&format!("{error:#}"))),
        }
    }
    // What an answer says of a log that can't be written is the cause.
    failed.map_or(closed, Err).map(|()| ExitCode::from(status))
}

/// The tasks, from the command line or from standard input.
fn tasks(args: &Args) -> Result<Vec<String>> {
    if !args.tasks.is_empty() {
        let (count, most) = (args.tasks.len(), MOST_TASKS);
        ensure!(count <= most, "{count} tasks were given; at most {most} are worked on at a time");
        return Ok(args.tasks.clone());
    }
    if stdin().is_terminal() {
        bail!("there is no task: give one behind the agent, or on standard input");
    }
    let mut text = String::new();
    let read = stdin().take(MAX_TASK_BYTES as u64 + 1).read_to_string(&mut text);
    let read = read.context("reading the task from standard input")?;
    ensure!(read <= MAX_TASK_BYTES, "the task on standard input is longer than {MAX_TASK_BYTES} bytes");
    ensure!(read > 0, "standard input is empty: give a task there or behind the agent");
    Ok(vec![text])
}

/// Each line of standard input, by what the files say when it comes.
fn line_by_line(args: Args) -> Result<ExitCode> {
    let mut work = open(&args, 1)?;
    // What went wrong first is told, and the log ends in order all the same.
    let worked = lines(&args, &mut work);
    let closed = work.close();
    worked.and_then(|status| closed.map(|()| ExitCode::from(status)))
}

fn lines(args: &Args, work: &mut Work) -> Result<u8> {
    let mut status = 0;
    loop {
        if stdin().is_terminal() {
            eprint!("> ");
        }
        let mut line = Vec::new();
        let most = MAX_TASK_BYTES as u64;
        if stdin().lock().take(most).read_until(b'\n', &mut line).context("reading a task")? == 0 {
            return Ok(status);
        }
        ensure!(
            line.len() < MAX_TASK_BYTES,
            "a task on standard input is longer than {MAX_TASK_BYTES} bytes"
        );
        let Ok(line) = String::from_utf8(line) else {
            eprintln!("That line is not UTF-8 and is no task.");
            continue;
        };
        if line.trim().is_empty() {
            continue;
        }
        if let Err(error) = work.renew(args) {
            tell_failed_reload(&error, args.json);
        }
        work.cancel.store(false, Ordering::Relaxed);
        work.busy.store(true, Ordering::Relaxed);
        let answer = work.alone(line.trim_end_matches('\n'));
        work.busy.store(false, Ordering::Relaxed);
        status = status.max(self::status(&answer?));
        work.options.seed = work.options.seed.wrapping_add(1);
    }
}

fn open(args: &Args, tasks: usize) -> Result<Work> {
    let quiet = args.quiet || args.json;
    let recording = args.audit.open()?;
    let budgeted = args.load.machine.memory.limited();
    let (host, none) = (session::host(quiet)?, Behaviour::default());
    let mut assembled: Assembled = args.behaviour.assemble_for(&args.agent, tasks, host, budgeted, &none)?;
    judged::by(assembled.host(), &assembled.behaviour().policies);
    let agent = assembled.agent().cloned().ok_or_else(|| anyhow!("the profile has no agent"))?;
    let store = store(&agent, args.store.as_ref(), None)?;
    let generation = assembled.profile.generation;
    let seed = args.seed.or(generation.seed).unwrap_or_else(new_seed);
    let max_tokens = args.max_tokens.or(generation.max_tokens.map(|max| max as usize));
    let (name, digest) = (assembled.profile.name.clone(), assembled.digest);
    let profile = report::printable(&format!("{name} {}", digest.short()));
    if !quiet {
        for plugin in assembled.profile.plugins() {
            let line = format!("{}: {} ({})", plugin.kind, plugin.name, plugin.location);
            eprintln!("{}", report::printable(&line));
        }
    }
    let sessions = (MAX_SESSIONS * tasks) as u32;
    let options = ModelOptions { model: args.model.clone(), load: args.load.clone() };
    let recall = args.recall.of(&options.model);
    assembled.recall(recall.as_ref().and_then(Recall::usage));
    let (host, model, plugins) = assembled.open_model(&options, args.contexts, sessions, quiet)?;
    let audit =
        recording.as_ref().map(|recording| args.audit.record(recording, &model, quiet)).transpose()?;
    let remembering = recall.map(|recall| recall.remember(&model));
    let plan = model.plan().clone();
    let pass = model.cancel_flag();
    let agents = Agents::new(host.clone(), model, plugins, audit)?;
    if args.json {
        let start = json!({
            "event": "start",
            "model": options.model,
            "plan": plan,
            "profile": name,
            "profile_digest": digest.hex(),
            "agent": agent.name(),
            "agent_digest": agent.digest().hex(),
            "seed": seed,
        });
        printer::json(&start)?;
    }
    let cancel = Arc::new(AtomicBool::new(false));
    let flag = cancel.clone();
    let (busy, watched) = (Arc::new(AtomicBool::new(true)), args.watch && args.tasks.is_empty());
    busy.store(!watched, Ordering::Relaxed);
    let working = busy.clone();
    ctrlc::set_handler(move || {
        if !working.load(Ordering::Relaxed) {
            eprint!("\n(Ctrl-D ends)\n> ");
            return;
        }
        // What a plugin computes or waits for is not interrupted by a flag: whoever asks twice need not wait.
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(i32::from(crate::INTERRUPTED));
        }
        pass.store(true, Ordering::Relaxed);
    })
    .context("listening for Ctrl-C")?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs() as i64);
    let options = AgentOptions { seed, max_tokens, now, template: args.template.variables() };
    let (json, quiet) = (args.json, args.quiet);
    Ok(Work {
        host,
        agents,
        agent,
        digest,
        options,
        store,
        cancel,
        busy,
        profile,
        recording,
        _remembering: remembering,
        json,
        quiet,
    })
}

/// The store of an agent that was granted one: the one that there is, if it is in the same folder.
fn store(agent: &Plugin, folder: Option<&PathBuf>, now: Option<&Store>) -> Result<Option<Store>> {
    if !agent.grants().contains(&Grant::Store) {
        ensure!(
            folder.is_none(),
            "--store: the agent was not granted `store`; add grant=store behind its name"
        );
        return Ok(None);
    }
    let folder = match folder {
        Some(folder) => folder.clone(),
        None => code::data()?.join("agents").join(agent.digest().hex()),
    };
    if let Some(now) = now.filter(|now| now.is_in(&folder)) {
        return Ok(Some(now.clone()));
    }
    Ok(Some(Store::open(&folder).context("the agent's store")?))
}

impl Work {
    /// Takes what the files say now, if it is something else. Errors: it does not build, load or pass its golden cases; what
    /// was in force stays.
    fn renew(&mut self, args: &Args) -> Result<()> {
        let begun = Instant::now();
        if let Some(project) = &args.project {
            project.build()?;
        }
        let budgeted = args.load.machine.memory.limited();
        let (host, running) = (self.host.clone(), self.agents.behaviour());
        let assembled = args.behaviour.assemble_for(&args.agent, 1, host, budgeted, running)?;
        let agent = assembled.agent().cloned().ok_or_else(|| anyhow!("the profile has no agent"))?;
        // The digest leaves out where plugins run.
        let same = agent.same(&self.agent) && assembled.behaviour().same(self.agents.behaviour());
        if same && assembled.digest == self.digest {
            return Ok(());
        }
        let was: Vec<Plugin> = self.agents.behaviour().plugins().chain([&self.agent]).cloned().collect();
        let loaded = assembled.behaviour().plugins().chain([&agent]);
        let mut cases = 0;
        for (plugin, entry) in loaded.zip(assembled.profile.plugins()) {
            let old = was.iter().any(|old| old.same(plugin));
            if !old {
                plugin.try_configure()?;
            }
            let project = args.project.as_ref().filter(|_| entry.kind == Kind::Agent);
            let folder = project.map(|project| project.folder().join("golden"));
            if let Some(folder) = folder.or_else(|| watch::cases_beside(entry)).filter(|_| !old) {
                cases += watch::run_cases(assembled.host(), plugin, &folder)?;
            }
        }
        let agents = self.agents.behaving(assembled.behaviour().clone())?;
        self.store = store(&agent, args.store.as_ref(), self.store.as_ref())?;
        self.agents = agents;
        judged::only(assembled.host(), &assembled.behaviour().policies);
        (self.agent, self.digest) = (agent, assembled.digest);
        self.profile = report::printable(&format!("{} {}", assembled.profile.name, self.digest.short()));
        let now: Vec<Plugin> = self.agents.behaviour().plugins().chain([&self.agent]).cloned().collect();
        let changes = changes(&was, &now);
        if self.json {
            let digest = self.digest.hex();
            let event = json!({
                "event": "behaviour",
                "profile_digest": digest,
                "changes": changes,
                "golden_cases": cases,
            });
            printer::json(&event)?;
        } else if !self.quiet {
            let milliseconds = begun.elapsed().as_secs_f64() * 1e3;
            let changes = report::printable(&changes.join(", "));
            eprintln!("[reload: {changes}; ready in {milliseconds:.0} ms, {cases} golden cases passed]");
        }
        Ok(())
    }

    /// One task, whose events are shown as they come.
    fn alone(&self, task: &str) -> Result<AgentAnswer> {
        let printer = Mutex::new(Printer::new(self.json, self.quiet));
        let broken = Arc::new(Mutex::new(None));
        let (cancel, failed) = (self.cancel.clone(), broken.clone());
        let sink: EventSink = Arc::new(Mutex::new(move |event: Event| {
            let shown = printer.lock().unwrap_or_else(PoisonError::into_inner).show(&event);
            if let Err(error) = shown {
                cancel.store(true, Ordering::Relaxed);
                failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            }
        }));
        let answer =
            self.agents.run(&self.agent, task, &self.options, self.store.clone(), &self.cancel, &sink);
        if let Some(error) = broken.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Err(error).context("writing the answer");
        }
        let answer = answer?;
        self.sum_up(&answer, None);
        Ok(answer)
    }

    /// Several tasks at the same time. Each answer is shown when it is there, in the order of the tasks.
    fn together(self: &Arc<Self>, tasks: &[String]) -> Vec<Result<AgentAnswer>> {
        let threads: Vec<_> = tasks
            .iter()
            .enumerate()
            .map(|(index, task)| {
                let (work, task) = (self.clone(), task.clone());
                thread::spawn(move || work.one_of_several(index, &task))
            })
            .collect();
        let mut answers = Vec::new();
        for (index, thread) in threads.into_iter().enumerate() {
            let (text, done) =
                thread.join().unwrap_or_else(|_| (String::new(), Err(anyhow!("the task broke off"))));
            let told = |done: Result<AgentAnswer>| {
                let answer = done?;
                self.sum_up(&answer, Some(index));
                Ok(answer)
            };
            // A line for each answer, and what one that failed has said.
            let shown = if done.is_ok() || !text.is_empty() { self.show(index, text) } else { Ok(()) };
            answers.push(shown.and_then(|()| told(done)).with_context(|| format!("task {}", index + 1)));
        }
        answers
    }

    /// Prints what one of several tasks has come to, be it to its end or not.
    fn show(&self, index: usize, text: String) -> Result<()> {
        if self.json {
            return Ok(());
        }
        eprintln!("task {}:", index + 1);
        printer::text(&if text.ends_with('\n') { text } else { text + "\n" })
    }

    fn one_of_several(&self, index: usize, task: &str) -> (String, Result<AgentAnswer>) {
        let text = Arc::new(Mutex::new(String::new()));
        let (said, json) = (text.clone(), self.json);
        let sink: EventSink = Arc::new(Mutex::new(move |event: Event| {
            if json {
                let mut event = serde_json::to_value(&event).unwrap_or_default();
                event["task"] = Value::from(index + 1);
                // Whoever read them has gone; the answer is on its way all the same.
                let _ = printer::json(&event);
            } else if let Event::Text { text }
            | Event::End { reason: EndReason::Refused, message: Some(text), .. } = &event
            {
                said.lock().unwrap_or_else(PoisonError::into_inner).push_str(text);
            }
        }));
        let options =
            AgentOptions { seed: self.options.seed.wrapping_add(index as u64), ..self.options.clone() };
        let answer = self.agents.run(&self.agent, task, &options, self.store.clone(), &self.cancel, &sink);
        let text = text.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (text, answer.map_err(anyhow::Error::from))
    }

    /// What there is to say of an answer beside its text.
    fn sum_up(&self, answer: &AgentAnswer, task: Option<usize>) {
        if let Some(why) = answer.why.as_ref().filter(|_| answer.reason != EndReason::Refused) {
            eprintln!("membrane: {}: {}", answer.reason.name(), report::printable(why));
        }
        if !self.quiet && !self.json {
            let seed = self.options.seed.wrapping_add(task.unwrap_or_default() as u64);
            let profile = format!("{} seed {seed}", self.profile);
            eprintln!("{}", report::summary(&answer.stats, &profile));
        }
    }

    /// Ends the audit log in order.
    fn close(&self) -> Result<()> {
        let (passes, tokens) = self.agents.passes();
        if !self.quiet && !self.json && tokens > passes {
            eprintln!("shared passes: {tokens} tokens in {passes} passes of the model");
        }
        let Some(recording) = &self.recording else { return Ok(()) };
        recording.conclude(self.json, self.quiet)
    }
}

/// What differs between the plugins of two behaviours, a few words each.
fn changes(was: &[Plugin], now: &[Plugin]) -> Vec<String> {
    let swaps = reload::swaps(was, now, &Effect::Live { state: false });
    let said = |swap: Swap| {
        let what = match (swap.from, swap.to) {
            (None, _) => "added",
            (_, None) => "removed",
            _ => "changed",
        };
        format!("{} {} {what}", swap.world, swap.plugin)
    };
    swaps.into_iter().map(said).collect()
}

/// Says why what was in force stays.
fn tell_failed_reload(error: &anyhow::Error, json: bool) {
    let message = report::describe(error);
    if json {
        let _ = printer::json(&json!({"event": "reload-failed", "message": message}));
    } else {
        eprintln!("[reload failed, nothing changes: {message}]");
    }
}

/// The exit status that an answer gives the program.
fn status(answer: &AgentAnswer) -> u8 {
    match answer.reason {
        EndReason::Refused | EndReason::GaveUp => 1,
        EndReason::AgentFailed => crate::FAILURE,
        EndReason::Cancelled => crate::INTERRUPTED,
        _ => 0,
    }
}

//! `membrane run`: answers a prompt, or chats if none is given.

use std::io::{IsTerminal, Read, stdin};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, ensure};
use membrane_engine::ChatTemplates;
use membrane_generate::{Answer, AnswerOptions, EndReason, Event, GenerateError, Generator};
use membrane_host::limits::MAX_MESSAGE_BYTES;
use membrane_profile::Kind;
use membrane_text::{ChatMessage, Role};
use serde_json::json;

use crate::chat;
use crate::constraint::ConstraintOptions;
use crate::options::ModelOptions;
use crate::printer::{self, Printer};
use crate::recall::{Recall, RecallOptions, Remembering};
use crate::recording::{AuditOptions, Recording};
use crate::report;
use crate::session::{Assembled, BehaviourOptions};
use crate::template::TemplateOptions;
use crate::watch::{Sources, Watch};

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelOptions,
    /// The prompt; without one, standard input if it is not a terminal, else a chat
    prompt: Option<String>,
    #[command(flatten)]
    options: ConversationOptions,
    /// Take new versions of the profile and of plugin files while the program runs
    #[arg(long)]
    watch: bool,
}

/// How answers are made and shown.
#[derive(clap::Args)]
pub struct ConversationOptions {
    #[command(flatten)]
    pub behaviour: BehaviourOptions,
    #[command(flatten)]
    constraint: ConstraintOptions,
    #[command(flatten)]
    pub template: TemplateOptions,
    #[command(flatten)]
    pub audit: AuditOptions,
    #[command(flatten)]
    pub recall: RecallOptions,
    /// A system message before the conversation
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Most tokens of an answer [default: as many as the context holds]
    #[arg(short = 'n', long, value_name = "TOKENS")]
    pub max_tokens: Option<usize>,
    /// Seed of the samplers' random source [default: a new one, which is shown]
    #[arg(long, value_name = "SEED")]
    pub seed: Option<u64>,
    /// Give the model the prompt as it is, without a chat template
    #[arg(long)]
    raw: bool,
    /// Print one JSON object for each event
    #[arg(long)]
    pub json: bool,
    /// Print nothing but the answer
    #[arg(short, long)]
    pub quiet: bool,
}

impl ConversationOptions {
    /// Errors: a flag that an agent has no use for, since it makes its own conversations.
    pub fn check_for_agent(&self) -> Result<()> {
        let constrained = self.constraint.read()?.is_some();
        ensure!(
            !self.raw && self.system.is_none() && !constrained,
            "--raw, --system, --json-schema, --regex and --grammar are for conversations; an agent makes its own"
        );
        Ok(())
    }
}

/// A generator and how to use it.
pub struct Conversation {
    /// Makes the answers.
    pub generator: Generator,
    /// Messages so far.
    pub messages: Vec<ChatMessage>,
    options: AnswerOptions,
    cancel: Arc<AtomicBool>,
    /// Whether an answer is being made: what Ctrl-C then means.
    answering: Arc<AtomicBool>,
    /// Name and digest of the profile, for people; changes with it.
    profile: Arc<Mutex<String>>,
    recording: Option<Recording>,
    /// Keeps for later runs which experts are used, after each answer.
    remembering: Option<Remembering>,
    /// Print one JSON object for each event.
    pub json: bool,
    quiet: bool,
}

/// What became of a prompt.
pub enum Outcome {
    /// There is an answer.
    Answered,
    /// A policy refused.
    Refused,
    /// A policy failed, which counts as a refusal.
    PolicyFailed,
    /// Ctrl-C ended it.
    Cancelled,
}

impl Outcome {
    /// The exit status of the program.
    fn status(&self) -> u8 {
        match self {
            Self::Answered => 0,
            Self::Refused => 1,
            Self::PolicyFailed => crate::FAILURE,
            Self::Cancelled => crate::INTERRUPTED,
        }
    }
}

pub fn run(args: Args) -> Result<ExitCode> {
    let options = &args.options;
    let prompt = prompt(&args).and_then(|prompt| match prompt {
        Some(prompt) if prompt.is_empty() && args.prompt.is_none() => Err(anyhow!(
            "standard input is empty: give a prompt there or on the command line, or a terminal to chat"
        )),
        prompt => Ok(prompt),
    });
    converse(&args.model, options, args.watch.then(Sources::default), prompt)
}

/// Answers a prompt, or chats if there is none. `sources`: what is watched beside the files of the behaviour, if
/// anything is.
pub fn converse(
    model: &ModelOptions,
    options: &ConversationOptions,
    sources: Option<Sources>,
    prompt: Result<Option<String>>,
) -> Result<ExitCode> {
    let result = open(model, options, sources).and_then(|mut conversation| {
        let outcome = prompt.and_then(|prompt| match prompt {
            Some(prompt) => conversation.ask(prompt),
            None => chat::run(&mut conversation).map(|()| Outcome::Answered),
        });
        // What went wrong first is told.
        let closed = conversation.close();
        outcome.and_then(|outcome| closed.map(|()| outcome))
    });
    if let (true, Err(error)) = (options.json, &result) {
        printer::error(error)?;
    }
    Ok(ExitCode::from(result?.status()))
}

/// The prompt, from the command line or from standard input; none if there is to be a chat.
fn prompt(args: &Args) -> Result<Option<String>> {
    if args.prompt.is_some() || stdin().is_terminal() {
        return Ok(args.prompt.clone());
    }
    let mut text = String::new();
    let limit = MAX_MESSAGE_BYTES as u64;
    let read = stdin().take(limit + 1).read_to_string(&mut text);
    let read = read.context("reading the prompt from standard input")? as u64;
    ensure!(read <= limit, "the prompt on standard input is longer than {limit} bytes");
    Ok(Some(text))
}

fn open(model: &ModelOptions, args: &ConversationOptions, sources: Option<Sources>) -> Result<Conversation> {
    let quiet = args.quiet || args.json;
    let constraint = args.constraint.read()?;
    ensure!(
        !args.raw || args.template.is_empty(),
        "--chat-template-kwargs has no use with --raw, which goes without a chat template"
    );
    // Before anything takes time: a log that can't be written is no log.
    let recording = args.audit.open()?;
    let budgeted = model.load.machine.memory.limited();
    let mut assembled: Assembled = args.behaviour.assemble(budgeted, quiet)?;
    let watch = sources.map(|sources| Watch {
        sources,
        options: args.behaviour.clone(),
        budgeted,
        host: assembled.expect_reloads(budgeted),
        now: assembled.behaviour().clone(),
        json: args.json,
        quiet: args.quiet,
    });
    let generation = assembled.profile.generation;
    let digest = assembled.digest;
    let seed = args.seed.or(generation.seed).unwrap_or_else(new_seed);
    if !quiet {
        for plugin in assembled.profile.plugins() {
            eprintln!(
                "{}",
                report::printable(&format!("{}: {} ({})", plugin.kind, plugin.name, plugin.location))
            );
        }
    }
    let tools = assembled.profile.plugins().any(|plugin| plugin.kind == Kind::Tool);
    if constraint.is_some() && tools && !args.raw {
        return Err(GenerateError::GrammarWithTools.into());
    }
    if args.raw && !quiet && tools {
        eprintln!("note: with --raw the model is not told of any tool");
    }
    let (name, profile) = (assembled.profile.name.clone(), assembled.profile.clone());
    if let Some(grammar) = &constraint {
        assembled.constrain(grammar.clone());
    }
    let recall = args.recall.of(&model.model);
    assembled.recall(recall.as_ref().and_then(Recall::usage));
    let mut generator = assembled.open(model, quiet)?;
    let remembering = recall.map(|recall| recall.remember(generator.model()));
    let untold = !generator.model().chat_templates().is_some_and(ChatTemplates::shows_tools);
    if tools && untold && !args.raw && !quiet {
        eprintln!("note: the model's chat template does not tell it of tools");
    }
    if let Some(recording) = &recording {
        args.audit.start(recording, &mut generator, quiet)?;
    }
    let shown = Arc::new(Mutex::new(report::printable(&format!("{name} {}", digest.short()))));
    if let Some(watch) = watch {
        watch.start(profile, generator.reloads(), shown.clone())?;
    }
    if args.json {
        let start = json!({
            "event": "start",
            "model": model.model.display().to_string(),
            "plan": generator.model().plan(),
            "profile": name,
            "profile_digest": digest.hex(),
            "seed": seed,
        });
        printer::json(&start)?;
    }
    let cancel = Arc::new(AtomicBool::new(false));
    let answering = Arc::new(AtomicBool::new(false));
    let (flag, pass, busy) = (cancel.clone(), generator.model().cancel_flag(), answering.clone());
    ctrlc::set_handler(move || {
        if busy.load(Ordering::Relaxed) {
            // What a plugin computes is not interrupted by a flag: whoever asks twice need not wait.
            if flag.swap(true, Ordering::Relaxed) {
                std::process::exit(i32::from(crate::INTERRUPTED));
            }
            pass.store(true, Ordering::Relaxed);
        } else {
            eprint!("\n{}", chat::AT_PROMPT);
        }
    })
    .context("listening for Ctrl-C")?;
    let options = AnswerOptions {
        seed,
        max_tokens: args.max_tokens.or(generation.max_tokens.map(|max| max as usize)),
        raw: args.raw,
        now: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs() as i64),
        constraint,
        template: args.template.variables(),
    };
    let system = args.system.iter().map(|text| ChatMessage::new(Role::System, text.clone()));
    Ok(Conversation {
        generator,
        messages: system.collect(),
        options,
        cancel,
        answering,
        profile: shown,
        recording,
        remembering,
        json: args.json,
        quiet,
    })
}

/// A seed from the system's own random source, as hash maps use it.
pub fn new_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish() & 0xffff_ffff
}

impl Conversation {
    /// Ends the audit log in order.
    fn close(&mut self) -> Result<()> {
        let Some(recording) = &self.recording else { return Ok(()) };
        recording.conclude(self.json, self.quiet)
    }

    /// Adds a user's message and prints the answer.
    pub fn ask(&mut self, text: String) -> Result<Outcome> {
        self.cancel.store(false, Ordering::Relaxed);
        self.answering.store(true, Ordering::Relaxed);
        let outcome = self.answer(text);
        self.answering.store(false, Ordering::Relaxed);
        outcome
    }

    fn answer(&mut self, text: String) -> Result<Outcome> {
        let mut messages = self.messages.clone();
        messages.push(ChatMessage::new(Role::User, text));
        let mut printer = Printer::new(self.json, self.quiet);
        let (mut broken, mut failed) = (None, false);
        let cancel = self.cancel.clone();
        let answer = self.generator.answer(&messages, &self.options, &self.cancel, &mut |event| {
            failed |=
                matches!(&event, Event::Intervention(made) if made.clause == membrane_host::POLICY_FAILED);
            if let Err(error) = printer.show(&event)
                && broken.is_none()
            {
                cancel.store(true, Ordering::Relaxed);
                broken = Some(error);
            }
        });
        let answer = answer?;
        if let Some(error) = broken {
            return Err(error).context("writing the answer");
        }
        let outcome = match answer.reason {
            EndReason::Refused if failed => Outcome::PolicyFailed,
            EndReason::Refused => Outcome::Refused,
            EndReason::Cancelled => Outcome::Cancelled,
            _ => Outcome::Answered,
        };
        self.finish(answer);
        self.remembering.iter_mut().for_each(Remembering::keep);
        Ok(outcome)
    }

    /// Prints the figures and keeps the turn. One that a policy refused would be refused again with the next, and
    /// one that was cancelled before it said anything is as if it had not been asked.
    fn finish(&mut self, answer: Answer) {
        if self.options.constraint.is_some()
            && matches!(answer.reason, EndReason::Length | EndReason::Context)
        {
            eprintln!("note: the answer was cut ({}) before it was complete", answer.reason.name());
        }
        if !self.quiet {
            let profile = self.profile.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let profile = format!("{profile} seed {}", self.options.seed);
            eprintln!("{}", report::summary(&answer.stats, &profile));
        }
        let said = answer.messages.last().is_some_and(|message| message.role != Role::User);
        if answer.reason != EndReason::Refused && (answer.reason != EndReason::Cancelled || said) {
            self.messages = answer.messages;
        }
    }
}

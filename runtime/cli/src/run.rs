//! `membrane run`: answers a prompt, or chats if none is given.

use std::io::{IsTerminal, Read, stdin};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use membrane_generate::{Answer, AnswerOptions, EndReason, Generator};
use membrane_text::{ChatMessage, Role};
use serde_json::json;

use crate::chat;
use crate::options::ModelOptions;
use crate::printer::{self, Printer};
use crate::report;
use crate::session::{Assembled, BehaviourOptions};

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelOptions,
    /// The prompt; without one, standard input if it is not a terminal, else a chat
    prompt: Option<String>,
    #[command(flatten)]
    behaviour: BehaviourOptions,
    /// A system message before the conversation
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Most tokens of an answer [default: as many as the context holds]
    #[arg(short = 'n', long, value_name = "TOKENS")]
    max_tokens: Option<usize>,
    /// Seed of the samplers' random source [default: a new one, which is shown]
    #[arg(long, value_name = "SEED")]
    seed: Option<u64>,
    /// Give the model the prompt as it is, without a chat template
    #[arg(long)]
    raw: bool,
    /// Print one JSON object for each event
    #[arg(long)]
    json: bool,
    /// Print nothing but the answer
    #[arg(short, long)]
    quiet: bool,
}

/// A generator and how to use it.
pub struct Conversation {
    /// Makes the answers.
    pub generator: Generator,
    /// Messages so far.
    pub messages: Vec<ChatMessage>,
    options: AnswerOptions,
    cancel: Arc<AtomicBool>,
    profile: String,
    json: bool,
    quiet: bool,
}

pub fn run(args: Args) -> Result<ExitCode> {
    let prompt = match &args.prompt {
        Some(prompt) => Some(prompt.clone()),
        None if stdin().is_terminal() => None,
        None => {
            let mut text = String::new();
            stdin().read_to_string(&mut text).context("reading the prompt from standard input")?;
            Some(text)
        }
    };
    let json = args.json;
    let result = open(&args).and_then(|mut conversation| match prompt {
        Some(prompt) => conversation.ask(prompt),
        None => chat::run(&mut conversation),
    });
    if let (true, Err(error)) = (json, &result) {
        printer::json(&json!({"event": "error", "message": report::describe(error)}))?;
    }
    result?;
    Ok(ExitCode::SUCCESS)
}

fn open(args: &Args) -> Result<Conversation> {
    let quiet = args.quiet || args.json;
    let budget = args.model.memory.map(|memory| memory.bytes());
    let assembled: Assembled = args.behaviour.assemble(budget, quiet)?;
    let generation = assembled.profile.generation;
    let digest = assembled.digest;
    let seed = args.seed.or(generation.seed).unwrap_or_else(new_seed);
    if !quiet {
        for plugin in assembled.profile.plugins() {
            eprintln!("{}: {} ({})", plugin.kind, plugin.name, plugin.location);
        }
    }
    let name = assembled.profile.name.clone();
    let generator = assembled.open(&args.model, quiet)?;
    if args.json {
        let start = json!({
            "event": "start",
            "model": args.model.model,
            "plan": generator.model().plan(),
            "profile": name,
            "profile_digest": digest.hex(),
            "seed": seed,
        });
        printer::json(&start)?;
    }
    let cancel = Arc::new(AtomicBool::new(false));
    let (flag, pass) = (cancel.clone(), generator.model().cancel_flag());
    ctrlc::set_handler(move || {
        flag.store(true, Ordering::Relaxed);
        pass.store(true, Ordering::Relaxed);
    })
    .context("listening for Ctrl-C")?;
    let options = AnswerOptions {
        seed,
        max_tokens: args.max_tokens.or(generation.max_tokens.map(|max| max as usize)),
        raw: args.raw,
        now: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs() as i64),
    };
    let system = args.system.iter().map(|text| ChatMessage::new(Role::System, text.clone()));
    Ok(Conversation {
        generator,
        messages: system.collect(),
        options,
        cancel,
        profile: format!("{name} {} seed {seed}", digest.short()),
        json: args.json,
        quiet,
    })
}

/// A seed from the system's own random source, as hash maps use it.
fn new_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish() & 0xffff_ffff
}

impl Conversation {
    /// Whether Ctrl-C was pressed since the last answer began.
    pub fn interrupted(&self) -> bool {
        self.cancel.swap(false, Ordering::Relaxed)
    }

    /// Adds a user's message and prints the answer.
    pub fn ask(&mut self, text: String) -> Result<()> {
        self.cancel.store(false, Ordering::Relaxed);
        let mut messages = self.messages.clone();
        messages.push(ChatMessage::new(Role::User, text));
        let mut printer = Printer::new(self.json, self.quiet);
        let mut broken = None;
        let cancel = self.cancel.clone();
        let answer = self.generator.answer(&messages, &self.options, &self.cancel, &mut |event| {
            if let Err(error) = printer.show(&event)
                && broken.is_none()
            {
                cancel.store(true, Ordering::Relaxed);
                broken = Some(error);
            }
        });
        // What Ctrl-C has stopped is over; the next one is about something else.
        self.cancel.store(false, Ordering::Relaxed);
        let answer = answer?;
        if let Some(error) = broken {
            return Err(error).context("writing the answer");
        }
        self.finish(answer);
        Ok(())
    }

    /// Prints the figures and keeps the turn; one that a policy refused would be refused again with the next.
    fn finish(&mut self, answer: Answer) {
        if !self.quiet {
            eprintln!("{}", report::summary(&answer.stats, &self.profile));
        }
        if answer.reason != EndReason::Refused {
            self.messages = answer.messages;
        }
    }
}

//! One answer: request, prompt, decoding, tool calls and their results, end.
//!
//! This is the path that every text takes to a person, and there is no other: what a policy has not
//! released never becomes an [`Event`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use membrane_engine::{EngineError, Model, Session, process};
use membrane_host::{Host, Invocation, Message, Role as HostRole};
use membrane_text::{
    Channels, ChatMessage, ChatTemplate, Constraint, Conversation, Grammar, Prompt, Role, ToolCall,
    in_reasoning,
};

use crate::behaviour::{Behaviour, Running, Words};
use crate::calls::{self, Called};
use crate::decode::{Decoder, Flow, Round, RoundEnd, release};
use crate::error::{GenerateError, Result, Stopped};
use crate::event::{EndReason, Event, Intervention, Stats};
use crate::journal::{Audit, Journal};
use crate::judge::{Bench, Interrupt, Judgements};
use crate::merge::merge;
use crate::reload::{Changes, Reloads};
use crate::speculate::{Drafting, Gate};

/// Rounds of tool calls in one answer; a model that calls tools for ever is ended there.
const MAX_TOOL_ROUNDS: usize = 16;

/// How an answer is to be made.
#[derive(Debug, Clone)]
pub struct AnswerOptions {
    /// Seed of the samplers' random source.
    pub seed: u64,
    /// Most tokens that samplers may choose; none is as many as the context holds.
    pub max_tokens: Option<usize>,
    /// The messages are plain text for the model, without a chat template.
    pub raw: bool,
    /// The time that chat templates are told, in seconds since 1970.
    pub now: i64,
    /// What the text of the answer must follow. It can't be had with tools. It binds the model, not policies: what they
    /// rewrite or redact is as they leave it, and a text that they force must fit.
    pub constraint: Option<Grammar>,
    /// Further variables of the chat template, such as `enable_thinking`; those that the template is given anyway
    /// can't be set.
    pub template: serde_json::Map<String, serde_json::Value>,
}

/// What an answer was.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The messages that the conversation has now: those given (not as policies let them pass), tool calls and
    /// results, and the answer as it was released.
    pub messages: Vec<ChatMessage>,
    /// Why it ended.
    pub reason: EndReason,
    /// Figures.
    pub stats: Stats,
}

/// Makes answers with one model, one session and one behaviour.
pub struct Generator {
    pub(crate) host: Host,
    pub(crate) model: Model,
    template: Option<ChatTemplate>,
    pub(crate) words: Arc<Words>,
    pub(crate) behaviours: Changes,
    pub(crate) session: Session,
    gate: Gate,
    /// The model as a judge, where the memory plan has room for one.
    bench: Option<Bench>,
    audit: Option<Audit>,
}

impl Generator {
    /// Joins a model and a behaviour. Policies that were granted it may ask the model to judge if its memory plan has a
    /// context beside that of the answer ([`membrane_engine::LoadOptions::side_contexts`]); otherwise they fail where they do.
    /// Errors: the model's chat template can't be read.
    pub fn new(host: Host, model: Model, behaviour: Behaviour) -> Result<Self> {
        let template = template(&model)?;
        let words = Arc::new(Words(model.clone()));
        let (session, bench) = (model.session(), Bench::new(&model, template.as_ref()));
        let gate = Gate::default();
        let behaviours = Changes::of(behaviour);
        Ok(Self { host, model, template, words, behaviours, session, gate, bench, audit: None })
    }

    /// Records all answers from now on. What can't be recorded is not answered.
    pub fn record(&mut self, audit: Audit) {
        self.audit = Some(audit);
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The session that answers are made with.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Where other behaviours can be handed in, for the next token on.
    pub fn reloads(&mut self) -> Reloads {
        let new = || Reloads::new(self.host.clone(), self.words.clone());
        self.behaviours.reloads.get_or_insert_with(new).clone()
    }

    /// What the answer must follow, compiled. Errors: it can't be followed, or not with these tools.
    fn constraint(&self, running: &Running, options: &AnswerOptions) -> Result<Option<Constraint>> {
        let Some(grammar) = &options.constraint else { return Ok(None) };
        if !options.raw && !running.tools.is_empty() {
            return Err(GenerateError::GrammarWithTools);
        }
        Ok(Some(self.model.grammars()?.compile(grammar)?))
    }

    /// Begins the record of an answer. Gives what it must follow.
    fn begin(
        &self,
        running: &mut Running,
        messages: &[ChatMessage],
        options: &AnswerOptions,
    ) -> Result<Option<Constraint>> {
        let constraint = self.constraint(running, options)?;
        let behaviours = (running.changes.now(), running.changes.before());
        running.journal = Journal::start(self.audit.as_ref(), behaviours, &self.model, messages, options)?;
        Ok(constraint)
    }

    /// Answers a conversation. Events come as they happen; `cancel` ends the answer at the next token or
    /// layer.
    ///
    /// A refusal is an answer, not an error. After an error or a refusal the session stays usable.
    pub fn answer(
        &mut self,
        messages: &[ChatMessage],
        options: &AnswerOptions,
        cancel: &Arc<AtomicBool>,
        sink: &mut dyn FnMut(Event),
    ) -> Result<Answer> {
        let counters = self.model.counters();
        let judgements = Judgements::default();
        let kept = self.audit.is_some().then(|| judgements.clone());
        let interrupt = Interrupt::by(cancel);
        let judge = self.bench.as_ref().map(|bench| bench.judge(interrupt.clone(), kept));
        let mut running = self.behaviours.start(&self.host, &self.words, options.seed, judge, sink)?;
        let begun = self.begin(&mut running, messages, options);
        let constraint = begun.inspect_err(|_| self.behaviours.take_back(&mut running))?;
        running.journal.watch(judgements);
        let mut run = Run {
            generator: self,
            options,
            cancel,
            interrupt,
            sink,
            constraint,
            stats: Stats::default(),
            messages: messages.to_vec(),
            read: messages.len(),
            released: String::new(),
        };
        let outcome = run.all(&mut running);
        let cancelled = run.interrupt.met();
        run.generator.behaviours.conclude(&mut running, &outcome, cancelled, run.sink);
        let (reason, message) = match outcome {
            Ok(_) if cancelled => (EndReason::Cancelled, None),
            Ok(reason) => (reason, None),
            Err(Stopped::Refused(refused)) => {
                let verdicts = run.interrupt.verdicts(&refused);
                run.intervened(&mut running, &verdicts);
                run.interrupt.end(&refused)
            }
            Err(Stopped::Failed(error)) => {
                running.journal.failed(&error);
                return Err(error);
            }
        };
        running.journal.end(reason, message.as_deref())?;
        let Run { mut stats, messages: mut added, read, released, .. } = run;
        added.drain(..read);
        // What policies make of a conversation they make of it again with the next request, or another policy does.
        let mut messages = [messages, &added].concat();
        if !released.is_empty() {
            messages.push(ChatMessage::new(Role::Assistant, released));
        }
        stats.paged(&counters, &self.model.counters());
        stats.peak_memory_bytes = process::peak_resident_bytes();
        sink(Event::End { reason, message, stats: stats.clone() });
        Ok(Answer { messages, reason, stats })
    }
}

struct Run<'a> {
    generator: &'a mut Generator,
    options: &'a AnswerOptions,
    constraint: Option<Constraint>,
    cancel: &'a AtomicBool,
    interrupt: Interrupt,
    sink: &'a mut dyn FnMut(Event),
    stats: Stats,
    messages: Vec<ChatMessage>,
    /// How many of the messages were there when the model read them first.
    read: usize,
    /// Text of the current round that policies have released.
    released: String,
}

impl Run<'_> {
    fn all(&mut self, running: &mut Running) -> Result<EndReason, Stopped> {
        self.request(running)?;
        let mut everything = String::new();
        let mut rounds = 0;
        let reason = loop {
            let prompt = self.prompt(running)?;
            if !self.prefill(&prompt)? {
                break EndReason::Cancelled;
            }
            let end = self.decode(running, &prompt)?;
            everything.push_str(&self.released);
            match end {
                RoundEnd::Ended(reason) => break reason,
                RoundEnd::ToolCalls(_) if rounds == MAX_TOOL_ROUNDS => {
                    everything.push_str(&self.rest(running)?);
                    break EndReason::ToolRounds;
                }
                RoundEnd::ToolCalls(calls) => self.tools(running, calls)?,
            }
            rounds += 1;
        };
        let failures = running.policies.finish(&everything)?;
        self.intervened(running, &failures);
        Ok(reason)
    }

    /// The request hook: policies may change the conversation before the model reads it.
    fn request(&mut self, running: &mut Running) -> Result<(), Stopped> {
        let given: Vec<Message> = self.messages.iter().map(to_host).collect();
        let outcome = running.policies.request(given.clone())?;
        self.intervened(running, &outcome.interventions);
        if outcome.messages != given {
            self.messages = merge(&self.messages, &given, &outcome.messages);
            self.read = self.messages.len();
        }
        Ok(())
    }

    /// Renders and encodes the prompt; policies see what was rendered.
    fn prompt(&mut self, running: &mut Running) -> Result<Vec<u32>, Stopped> {
        let tokenizer = self.generator.model.tokenizer()?;
        let prompt = if self.options.raw {
            let texts: Vec<&str> = self.messages.iter().map(|message| message.content.as_str()).collect();
            Prompt::user_text(&texts.join("\n\n"))
        } else {
            let template = self.generator.template.as_ref();
            let tools = running.tools.descriptions();
            let (now, extra) = (self.options.now, &self.options.template);
            render(&self.generator.model, template, &self.messages, tools, now, extra)?
        };
        // Behind the prompt gpt-oss names a channel, which no constraint allows.
        let channels = Channels::of(tokenizer).filter(|_| self.constraint.is_some() && !self.options.raw);
        let begun = channels.map(|channels| channels.begin_final(tokenizer)).transpose()?.unwrap_or_default();
        let rendered = prompt.text().to_owned() + &tokenizer.decode(&begun, false);
        if self.constraint.is_some() && in_reasoning(prompt.text()) {
            return Err(GenerateError::GrammarInReasoning.into());
        }
        running.journal.rendered(&rendered);
        running.policies.prompt(&rendered)?;
        let mut tokens = tokenizer.encode_prompt(&prompt)?;
        tokens.extend(begun);
        if self.options.raw
            && tokenizer.add_bos()
            && let Some(bos) = tokenizer.bos()
        {
            tokens.insert(0, bos);
        }
        let context = self.generator.model.plan().context as usize;
        if tokens.is_empty() {
            return Err(GenerateError::EmptyPrompt.into());
        }
        if tokens.len() >= context {
            return Err(GenerateError::PromptTooLong { prompt: tokens.len(), context }.into());
        }
        running.journal.round(&tokens);
        Ok(tokens)
    }

    /// Computes the prompt. False if it was cancelled.
    fn prefill(&mut self, prompt: &[u32]) -> Result<bool, Stopped> {
        let session = &mut self.generator.session;
        let have = session.tokens().iter().zip(prompt).take_while(|(a, b)| a == b).count();
        (self.sink)(Event::Prefill {
            prompt_tokens: prompt.len(),
            reused_tokens: have.min(prompt.len() - 1),
        });
        // A pass takes what was cancelled before it for settled.
        if self.cancel.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let start = Instant::now();
        let synced = match session.sync(prompt) {
            Err(EngineError::Cancelled) => return Ok(false),
            synced => synced?,
        };
        self.stats.prefill_seconds += start.elapsed().as_secs_f64();
        self.stats.prefill_tokens += synced.computed + synced.recomputed;
        Ok(!self.cancel.load(Ordering::Relaxed))
    }

    fn decode(&mut self, running: &mut Running, prompt: &[u32]) -> Result<RoundEnd, Stopped> {
        self.released.clear();
        let left = self.options.max_tokens.map(|max| max.saturating_sub(self.stats.decode_tokens));
        // Tools that come while a constrained answer is made must wait for the next.
        let chat = !self.options.raw;
        let offered = chat && self.constraint.is_none();
        let tools = if offered { running.tools.descriptions().clone() } else { Arc::default() };
        let start = Instant::now();
        let mut decoder = Decoder::new(
            self.generator.model.tokenizer()?,
            &mut self.generator.session,
            running,
            Round {
                prompt,
                max_tokens: left,
                chat,
                last: false,
                tools,
                stop: &[],
                constraint: self.constraint.as_mut(),
                seat: None,
                drafting: Drafting::new(&self.generator.gate, &self.generator.model),
            },
        );
        let released = &mut self.released;
        let sink = &mut *self.sink;
        let stats = &mut self.stats;
        let result = decoder.run(&[self.cancel], &mut |event| {
            match &event {
                Event::Text { text } => released.push_str(text),
                Event::Intervention(_) => stats.interventions += 1,
                _ => {}
            }
            sink(event);
        });
        let (drafted, accepted) = decoder.drafted();
        self.stats.decode_tokens += decoder.chosen();
        self.stats.drafted_tokens += drafted;
        self.stats.accepted_tokens += accepted;
        self.stats.decode_seconds += start.elapsed().as_secs_f64();
        result
    }

    /// Ends the text of an answer whose last round was to go on. Gives what policies still had.
    fn rest(&mut self, running: &mut Running) -> Result<String, Stopped> {
        let mut rest = String::new();
        let (sink, stats) = (&mut *self.sink, &mut self.stats);
        loop {
            let flow = release(running, "", true, &mut |event| {
                match &event {
                    Event::Text { text } => rest.push_str(text),
                    Event::Intervention(_) => stats.interventions += 1,
                    _ => {}
                }
                sink(event);
            })?;
            if !matches!(flow, Flow::Forced) {
                break;
            }
        }
        self.released.push_str(&rest);
        Ok(rest)
    }

    /// Makes the calls that policies allow and adds their results to the conversation.
    fn tools(&mut self, running: &mut Running, calls: Vec<ToolCall>) -> Result<(), Stopped> {
        let mut message = ChatMessage::new(Role::Assistant, std::mem::take(&mut self.released));
        let mut results = Vec::new();
        for call in calls {
            let asked = Invocation { name: call.name.clone(), arguments: call.arguments.to_string() };
            let (stats, sink) = (&mut self.stats, &mut *self.sink);
            let Called { made, output, .. } = calls::call(running, asked, &mut |event| {
                stats.interventions += usize::from(matches!(event, Event::Intervention(_)));
                sink(event);
            })?;
            message.tool_calls.push(ToolCall {
                name: made.name.clone(),
                arguments: serde_json::from_str(&made.arguments).unwrap_or_default(),
            });
            results.push(ChatMessage { name: Some(made.name), ..ChatMessage::new(Role::Tool, output) });
        }
        self.messages.push(message);
        self.messages.extend(results);
        Ok(())
    }

    fn intervened(&mut self, running: &mut Running, interventions: &[membrane_host::Intervention]) {
        running.journal.verdicts(interventions);
        self.stats.interventions += interventions.len();
        for intervention in interventions {
            (self.sink)(Event::Intervention(Intervention::from(intervention)));
        }
    }
}

/// The chat template of a model. Errors: it can't be read.
pub(crate) fn template(model: &Model) -> Result<Option<ChatTemplate>> {
    let Some(sources) = model.chat_templates() else { return Ok(None) };
    let default = ChatTemplate::new(&sources.default);
    let default = default.map_err(|error| GenerateError::of_prompt(error, model))?;
    Ok(Some(match &sources.tool_use {
        Some(tool_use) => default.with_tool_use(tool_use),
        None => default,
    }))
}

/// The prompt of a conversation, by the model's chat template, which is told `extra` too.
pub(crate) fn render(
    model: &Model,
    template: Option<&ChatTemplate>,
    messages: &[ChatMessage],
    tools: &[serde_json::Value],
    now: i64,
    extra: &serde_json::Map<String, serde_json::Value>,
) -> Result<Prompt> {
    let template = template.ok_or(GenerateError::NoTemplate)?;
    let tokenizer = model.tokenizer()?;
    let text = |id: Option<u32>| id.map(|id| tokenizer.decode(&[id], false)).unwrap_or_default();
    let prompt = template.render_prompt(&Conversation {
        messages,
        tools,
        add_generation_prompt: true,
        extra,
        bos_token: &text(tokenizer.bos()),
        eos_token: &text(tokenizer.eos()),
        now,
    });
    prompt.map_err(|error| GenerateError::of_prompt(error, model))
}

pub(crate) fn to_host(message: &ChatMessage) -> Message {
    let role = match message.role {
        Role::System => HostRole::System,
        Role::User => HostRole::User,
        Role::Assistant => HostRole::Assistant,
        Role::Tool => HostRole::Tool,
    };
    Message { role, content: message.content.clone() }
}

pub(crate) fn from_host(message: Message) -> ChatMessage {
    let role = match message.role {
        HostRole::System => Role::System,
        HostRole::User => Role::User,
        HostRole::Assistant => Role::Assistant,
        HostRole::Tool => Role::Tool,
    };
    ChatMessage::new(role, message.content)
}

//! One context of an agent.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use membrane_engine::{EngineError, Session};
use membrane_host::agent::{
    self, GenerationHandle, GenerationOptions, InferenceError, Overflow, Reason, Refusal, Score,
    SessionHandle, Turn,
};
use membrane_host::limits::MAX_PREFIXES;
use membrane_host::{
    AnswerContext, Intervention, Message, PolicyChain, Refused, Role as HostRole, SamplerChain, ToolSet,
};
use membrane_text::{Channels, ChatMessage, Constraint, Grammar, Prompt, Role, ToolCall, in_reasoning};
use serde_json::Value;

use super::conversations::Share;
use super::generation::{AgentGeneration, Task};
use super::{Run, lock};
use crate::answer::{render, to_host};
use crate::behaviour::Running;
use crate::error::{GenerateError, Stopped};
use crate::event::{EndReason, Event};
use crate::judge::Judgements;
use crate::merge::rewritten;
use crate::reload::Changes;
use crate::scoring;

/// Continuations that are scored at a time: each is a fork.
const SCORED_TOGETHER: usize = 16;

type Answer<T> = Result<T, InferenceError>;

/// A session of an agent. While a generation runs in it, the session is the generation's.
pub(super) struct AgentSession {
    run: Arc<Run>,
    slot: Arc<Slot>,
    /// The conversation that the context begins with.
    origin: Option<Arc<Origin>>,
    /// The tools as chat templates take them.
    tools: Arc<[Value]>,
}

/// Where a session lies while no generation has it.
pub(super) struct Slot(Mutex<Place>);

struct Place {
    session: Option<Session>,
    /// Tokens of it, or where a generation has it, that it had when that began.
    length: usize,
}

impl Slot {
    fn new(session: Session) -> Self {
        let length = session.tokens().len();
        Self(Mutex::new(Place { session: Some(session), length }))
    }

    /// Puts the session back.
    pub fn put(&self, session: Session) {
        let length = session.tokens().len();
        *lock(&self.0) = Place { session: Some(session), length };
    }

    fn take(&self) -> Answer<Session> {
        lock(&self.0).session.take().ok_or(InferenceError::Busy)
    }

    fn length(&self) -> usize {
        lock(&self.0).length
    }
}

/// A conversation that a context begins with.
struct Origin {
    /// The messages as the agent gave them.
    given: Vec<ChatMessage>,
    /// Whether the model was shown the tools.
    tools: bool,
    /// Tokens that it was rendered to.
    tokens: usize,
    /// What policies have rewritten in it, which is told with what is made of it: a generation sends it through them again.
    untold: Mutex<Vec<Intervention>>,
    share: Share,
}

/// A request that policies have let pass, and who will look at the answer.
struct Asked {
    policies: PolicyChain,
    /// What the model judges for them.
    judgements: Judgements,
    /// Verdicts on the request.
    verdicts: Vec<Intervention>,
    /// What the policies saw of the prompt.
    rendered: String,
}

impl AgentSession {
    pub fn new(run: Arc<Run>, session: Session, tools: Arc<[Value]>) -> Self {
        Self { run, slot: Arc::new(Slot::new(session)), origin: None, tools }
    }

    /// Works with the session, and puts it back.
    fn with<T>(&self, work: impl FnOnce(&mut Session) -> Answer<T>) -> Answer<T> {
        let mut session = self.slot.take()?;
        let result = work(&mut session);
        self.slot.put(session);
        result
    }

    fn append_ids(&mut self, ids: &[u32]) -> Answer<()> {
        let start = Instant::now();
        self.with(|session| session.append(ids).map_err(inference_error))?;
        self.prefilled(ids.len(), start);
        Ok(())
    }

    fn prefilled(&self, tokens: usize, start: Instant) {
        let mut stats = lock(&self.run.stats);
        stats.prefill_tokens += tokens;
        stats.prefill_seconds += start.elapsed().as_secs_f64();
    }

    /// Sends a context through the hooks for request and prompt.
    fn ask(&self, context: &Context<'_>) -> Answer<Asked> {
        let (mut policies, judgements) = self.policies()?;
        let (mut verdicts, mut seen) = (Vec::new(), None);
        match self.hooks(&mut policies, context, &mut verdicts, &mut seen) {
            Ok(()) => Ok(Asked { policies, judgements, verdicts, rendered: seen.unwrap_or_default() }),
            Err(Stopped::Failed(error)) => {
                lock(&self.run.aside).judged(judgements).map_err(of)?;
                Err(of(error))
            }
            Err(Stopped::Refused(refused)) => {
                Err(self.refused(context, (verdicts, seen), refused, judgements))
            }
        }
    }

    /// The policies for a generation, and where what the model judges for them is found.
    fn policies(&self) -> Answer<(PolicyChain, Judgements)> {
        let base = &self.run.base;
        let judgements = Judgements::default();
        let judge = self.run.judge(&judgements);
        let policies = PolicyChain::start_with(&base.host, &base.behaviour.policies, judge)
            .map_err(|error| InferenceError::Failed(error.to_string()))?;
        Ok((policies, judgements))
    }

    /// The hooks. `seen`: what the policies see of the prompt.
    fn hooks(
        &self,
        policies: &mut PolicyChain,
        context: &Context<'_>,
        verdicts: &mut Vec<Intervention>,
        seen: &mut Option<String>,
    ) -> Result<(), Stopped> {
        let messages: Vec<Message> = context.given.iter().map(to_host).collect();
        let outcome = policies.request(messages.clone())?;
        verdicts.extend(outcome.interventions);
        let rendered = match context.tools {
            Some(tools) => {
                let now = rewritten(context.given, &messages, &outcome.messages);
                let prompt = self.render(&now, tools)?;
                // What the model has read must be what the policies make of it.
                let ids = self.run.base.model.tokenizer()?.encode_prompt(&prompt)?;
                let Some(behind) = context.ids.strip_prefix(&ids[..]) else {
                    return Err(GenerateError::Unrendered.into());
                };
                prompt.text().to_owned() + &self.text(behind)?
            }
            None if outcome.messages != messages => return Err(GenerateError::Unrendered.into()),
            None => self.run.base.model.tokenizer()?.decode_whole(context.ids),
        };
        Ok(policies.prompt(seen.insert(rendered))?)
    }

    fn render(&self, messages: &[ChatMessage], tools: bool) -> Result<Prompt, GenerateError> {
        let base = &self.run.base;
        let tools = if tools { &self.tools[..] } else { &[] };
        let options = &self.run.options;
        render(&base.model, base.template.as_ref(), messages, tools, options.now, &options.template)
    }

    fn compile(&self, grammar: &Grammar) -> Result<Constraint, GenerateError> {
        Ok(self.run.base.model.grammars()?.compile(grammar)?)
    }

    fn text(&self, ids: &[u32]) -> Result<String, GenerateError> {
        Ok(self.run.base.model.tokenizer()?.decode(ids, false))
    }

    /// The tokens of a conversation, after what policies make of it, and their verdicts if there are any.
    fn conversation(&self, given: &[ChatMessage], tools: bool) -> Answer<(Vec<u32>, Vec<Intervention>)> {
        let base = &self.run.base;
        let (mut policies, judgements) = self.policies()?;
        let messages: Vec<Message> = given.iter().map(to_host).collect();
        let context = Context { given, tools: Some(tools), ids: &[] };
        let outcome = match policies.request(messages.clone()) {
            Ok(outcome) => outcome,
            Err(refused) => return Err(self.refused(&context, (Vec::new(), None), refused, judgements)),
        };
        lock(&self.run.aside).judged(judgements).map_err(of)?;
        let prompt = self.render(&rewritten(given, &messages, &outcome.messages), tools).map_err(of)?;
        let tokenizer = base.model.tokenizer().map_err(inference_error)?;
        let ids = tokenizer.encode_prompt(&prompt).map_err(|error| of(error.into()))?;
        Ok((ids, outcome.interventions))
    }

    /// What policies have rewritten in the conversation, if it was not told yet.
    fn untold(&self) -> Vec<Intervention> {
        self.origin.as_ref().map(|origin| std::mem::take(&mut *lock(&origin.untold))).unwrap_or_default()
    }

    /// Tells and records it, for what is made of the conversation without a generation.
    fn tell_untold(&self) -> Answer<()> {
        let made = self.untold();
        let Some(origin) = self.origin.as_ref().filter(|_| !made.is_empty()) else { return Ok(()) };
        let context = Context { given: &origin.given, tools: Some(origin.tools), ids: &[] };
        self.decided(&context, &[(None, &made)], Judgements::default(), (EndReason::Stop, None)).map_err(of)
    }

    /// Records what a policy refused before anything was generated, behind the verdicts before, and what policies saw of the prompt
    /// if it came to that.
    fn refused(
        &self,
        context: &Context<'_>,
        (before, seen): (Vec<Intervention>, Option<String>),
        refused: Refused,
        judgements: Judgements,
    ) -> InferenceError {
        let last = self.run.interrupt.verdicts(&refused);
        let end = self.run.interrupt.end(&refused);
        let verdicts = [(None, &before[..]), (seen.as_deref(), &last[..])];
        self.decided(context, &verdicts, judgements, end).map_or_else(of, |()| refusal(refused))
    }

    /// Records verdicts on what nothing was generated of, each behind what policies saw of a prompt, if anything, and tells of them. The
    /// record is one of its own: that of the run has what policies say of the run.
    fn decided(
        &self,
        context: &Context<'_>,
        verdicts: &[(Option<&str>, &[Intervention])],
        judgements: Judgements,
        (reason, message): (EndReason, Option<String>),
    ) -> Result<(), GenerateError> {
        let (run, raw) = (&self.run, context.tools.is_none());
        let mut journal = run.journal(&run.base.behaviour, context.given, 0, None, raw, None)?;
        journal.watch(judgements);
        for (seen, made) in verdicts {
            seen.iter().for_each(|seen| journal.rendered(seen));
            journal.verdicts(made);
            made.iter().for_each(|verdict| run.tell(Event::Intervention(verdict.into())));
        }
        journal.end(reason, message.as_deref())
    }

    /// Starts the samplers and the record of a generation.
    fn running(
        &self,
        asked: Asked,
        context: &Context<'_>,
        options: &GenerationOptions,
        grammar: Option<Grammar>,
    ) -> Answer<Running> {
        let base = &self.run.base;
        let seed = options.seed.unwrap_or_default();
        let mut behaviour = base.behaviour.clone();
        if let (Some(last), Some(sampling)) = (base.behaviour.samplers.last(), &options.sampling) {
            let own = serde_json::from_str::<serde_json::Map<String, Value>>(last.parameters());
            let mut parameters = own.unwrap_or_default();
            let changed: serde_json::Map<String, Value> = serde_json::from_str(sampling)
                .map_err(|error| InferenceError::Invalid(format!("sampling: is no JSON object: {error}")))?;
            parameters.extend(changed);
            behaviour = behaviour.sampling(parameters);
        }
        let start = AnswerContext { vocabulary: base.words.clone(), seed };
        let samplers = SamplerChain::start(&base.host, &behaviour.samplers, start)
            .map_err(|error| InferenceError::Invalid(error.to_string()))?;
        let tools =
            ToolSet::start(&base.host, &[]).map_err(|error| InferenceError::Failed(error.to_string()))?;
        let most = options.max_tokens.map(|most| most as usize);
        let raw = context.tools.is_none();
        let journal = self.run.journal(&behaviour, context.given, seed, most, raw, grammar);
        let mut journal = journal.map_err(of)?;
        journal.watch(asked.judgements);
        journal.verdicts(&asked.verdicts);
        for intervention in &asked.verdicts {
            self.run.tell(Event::Intervention(intervention.into()));
        }
        journal.rendered(&asked.rendered);
        journal.round(context.ids);
        Ok(Running { samplers, policies: asked.policies, tools, journal, changes: Changes::default() })
    }
}

/// A context, as policies are asked about it.
struct Context<'a> {
    /// The conversation that it begins with, or all of it as a message of the person.
    given: &'a [ChatMessage],
    /// Whether the model was shown the tools; none where no chat template made it.
    tools: Option<bool>,
    /// All of its tokens.
    ids: &'a [u32],
}

impl agent::Session for AgentSession {
    fn fork(&self) -> Answer<SessionHandle> {
        let session = self.with(|session| Ok(session.fork()))?;
        let (run, tools, origin) = (self.run.clone(), self.tools.clone(), self.origin.clone());
        Ok(Box::new(Self { origin, ..Self::new(run, session, tools) }))
    }

    fn length(&self) -> usize {
        self.slot.length()
    }

    fn conversation_bytes(&self) -> usize {
        self.origin.as_ref().map_or(0, |origin| origin.share.bytes())
    }

    fn room(&self) -> usize {
        (self.run.base.model.plan().context as usize).saturating_sub(self.slot.length())
    }

    fn truncate(&mut self, tokens: usize) -> Answer<()> {
        self.with(|session| {
            session.truncate(tokens);
            Ok(())
        })?;
        self.origin.take_if(|origin| origin.tokens > tokens);
        Ok(())
    }

    fn append(&mut self, text: &str) -> Answer<usize> {
        let tokenizer = self.run.base.model.tokenizer().map_err(inference_error)?;
        let begins = self.slot.length() == 0;
        let ids = if begins { tokenizer.begin(text) } else { tokenizer.encode_continuation(text) };
        let ids = ids.map_err(|error| of(error.into()))?;
        self.append_ids(&ids).map(|()| ids.len())
    }

    fn chat(&mut self, turns: &[Turn], tools: bool) -> Answer<agent::Synced> {
        if self.run.base.template.is_none() {
            return Err(InferenceError::Invalid(
                "the model has no chat template; append texts instead".into(),
            ));
        }
        let given = turns.iter().map(message).collect::<Answer<Vec<ChatMessage>>>()?;
        let share = self.run.conversations.keep(&given)?;
        let (ids, rewritten) = self.conversation(&given, tools)?;
        let start = Instant::now();
        let synced = self.with(|session| session.sync(&ids).map_err(inference_error))?;
        let untold = Mutex::new(rewritten);
        self.origin = Some(Arc::new(Origin { given, tools, tokens: ids.len(), untold, share }));
        self.prefilled(synced.computed + synced.recomputed, start);
        Ok(agent::Synced { reused: synced.reused as u32, computed: synced.computed as u32 })
    }

    fn generate(&mut self, options: GenerationOptions) -> Answer<GenerationHandle> {
        let mut session = self.slot.take()?;
        let before = session.tokens().len();
        let started = self.start(&mut session, options);
        match started {
            Ok(task) => {
                Ok(Box::new(AgentGeneration::start(self.run.clone(), session, task, self.slot.clone())?))
            }
            Err(error) => {
                session.truncate(before);
                self.slot.put(session);
                Err(error)
            }
        }
    }

    fn score(&mut self, continuations: &[String]) -> Answer<Vec<Score>> {
        let tokenizer = self.run.base.model.tokenizer().map_err(inference_error)?;
        let channels = Channels::of(tokenizer).filter(|_| self.begins_answer(self.slot.length()));
        let encode = |text: &String| match channels {
            Some(channels) => channels.spell(tokenizer, text),
            None => tokenizer.encode_continuation(text),
        };
        let encode = |text: &String| encode(text).map_err(|error| of(error.into()));
        let ids = continuations.iter().map(encode).collect::<Answer<Vec<Vec<u32>>>>()?;
        self.tell_untold()?;
        self.with(|session| {
            ready(session)?;
            let mut scores = Vec::with_capacity(ids.len());
            for ids in ids.chunks(SCORED_TOGETHER) {
                scores.extend(score(session, ids).map_err(inference_error)?);
            }
            Ok(scores)
        })
    }

    fn save(&mut self, name: &str) -> Answer<()> {
        self.tell_untold()?;
        let session = self.with(|session| Ok(session.fork()))?;
        let mut prefixes = lock(&self.run.prefixes);
        if prefixes.len() >= MAX_PREFIXES && !prefixes.contains_key(name) {
            return Err(InferenceError::Limit(format!("there are {MAX_PREFIXES} names already")));
        }
        prefixes.insert(name.to_owned(), session);
        Ok(())
    }

    fn tokens(&self) -> Answer<Vec<u32>> {
        self.with(|session| Ok(session.tokens().to_vec()))
    }

    fn logits(&mut self, read: &mut dyn FnMut(&[f32])) -> Answer<()> {
        self.tell_untold()?;
        self.with(|session| {
            ready(session)?;
            read(session.logits());
            Ok(())
        })
    }

    fn append_tokens(&mut self, tokens: &[u32]) -> Answer<()> {
        self.append_ids(tokens)
    }
}

impl AgentSession {
    /// All that a generation needs.
    fn start(&mut self, session: &mut Session, mut options: GenerationOptions) -> Answer<Task> {
        let most = self.run.options.max_tokens.map(|most| most as u32);
        options.max_tokens = match (options.max_tokens, most) {
            (Some(own), Some(most)) => Some(own.min(most)),
            (own, most) => own.or(most),
        };
        ready(session)?;
        let before = session.tokens().len();
        self.begin_final(session, &options)?;
        let prompt = session.tokens().to_vec();
        let whole;
        let (given, tools) = match &self.origin {
            Some(origin) => (&origin.given[..], Some(origin.tools)),
            None => {
                whole = [ChatMessage::new(Role::User, self.text(&prompt).map_err(of)?)];
                (&whole[..], None)
            }
        };
        let context = Context { given, tools, ids: &prompt };
        let grammar = options.constraint.as_ref().map(grammar).transpose()?;
        let asked = self.ask(&context);
        if let Err(InferenceError::Refused(_)) = asked {
            // It was told with that.
            self.untold();
        }
        let asked = asked?;
        let judgements = asked.judgements.clone();
        let ready = self.constraint(&asked, &context, grammar.as_ref()).and_then(|constraint| {
            self.running(asked, &context, &options, grammar).map(|running| (constraint, running))
        });
        if ready.is_err() {
            lock(&self.run.aside).judged(judgements).map_err(of)?;
        }
        let (constraint, running) = ready?;
        self.untold();
        let chat = tools.is_some();
        let tools = if tools == Some(true) { self.tools.clone() } else { Arc::default() };
        Ok(Task { running, before, prompt, chat, tools, constraint, options })
    }

    /// Whether an answer begins behind so many tokens: behind more than the conversation an agent has written or generated something
    /// itself.
    fn begins_answer(&self, length: usize) -> bool {
        self.origin.as_ref().is_some_and(|origin| origin.tokens == length)
    }

    /// Begins the final channel of an answer that a constraint binds, where a model answers in channels.
    fn begin_final(&self, session: &mut Session, options: &GenerationOptions) -> Answer<()> {
        let tokenizer = self.run.base.model.tokenizer().map_err(inference_error)?;
        let tools = self.origin.as_ref().is_some_and(|origin| origin.tools);
        let bound = options.constraint.is_some() && !tools && self.begins_answer(session.tokens().len());
        let Some(channels) = Channels::of(tokenizer).filter(|_| bound) else { return Ok(()) };
        let ids = channels.begin_final(tokenizer).map_err(|error| of(error.into()))?;
        session.append(&ids).map_err(inference_error)
    }

    /// What a generation must follow, compiled.
    fn constraint(
        &self,
        asked: &Asked,
        context: &Context<'_>,
        grammar: Option<&Grammar>,
    ) -> Answer<Option<Constraint>> {
        match grammar {
            Some(_) if context.tools == Some(true) => Err(of(GenerateError::GrammarWithTools)),
            Some(_) if in_reasoning(&asked.rendered) => Err(of(GenerateError::GrammarInReasoning)),
            Some(grammar) => self.compile(grammar).map(Some).map_err(of),
            None => Ok(None),
        }
    }
}

/// The grammar of an agent's constraint.
fn grammar(constraint: &agent::Constraint) -> Answer<Grammar> {
    Ok(match constraint {
        agent::Constraint::JsonSchema(text) => {
            Grammar::json_schema(text).map_err(|error| of(error.into()))?
        }
        agent::Constraint::Regex(pattern) => Grammar::Regex(pattern.clone()),
        agent::Constraint::Lark(text) => Grammar::Lark(text.clone()),
    })
}

/// Makes sure that there are logits to go on from: they are dropped with the tokens behind them.
fn ready(session: &mut Session) -> Answer<()> {
    if session.tokens().is_empty() {
        return Err(InferenceError::Invalid("the session is empty; append a text or a conversation".into()));
    }
    let tokens = session.tokens().to_vec();
    session.sync(&tokens).map(drop).map_err(inference_error)
}

/// Log probabilities of continuations behind a context, together.
fn score(session: &Session, continuations: &[Vec<u32>]) -> Result<Vec<Score>, EngineError> {
    let score =
        |(log_probability, ids): (f64, &Vec<u32>)| Score { log_probability, tokens: ids.len() as u32 };
    Ok(scoring::together(session, continuations)?.into_iter().zip(continuations).map(score).collect())
}

fn message(turn: &Turn) -> Answer<ChatMessage> {
    let role = match HostRole::from(turn.role) {
        HostRole::System => Role::System,
        HostRole::User => Role::User,
        HostRole::Assistant => Role::Assistant,
        HostRole::Tool => Role::Tool,
    };
    let mut message = ChatMessage::new(role, turn.content.clone());
    message.name.clone_from(&turn.tool);
    for call in &turn.calls {
        let arguments = serde_json::from_str(&call.arguments);
        let arguments = arguments.map_err(|error| {
            InferenceError::Invalid(format!(
                "arguments of a call of `{}`: no JSON object: {error}",
                call.name
            ))
        })?;
        message.tool_calls.push(ToolCall { name: call.name.clone(), arguments });
    }
    Ok(message)
}

/// What an agent is told of a policy's refusal.
pub(super) fn refusal(refused: Refused) -> InferenceError {
    let note = refused.interventions.last().map(|verdict| verdict.note.clone()).unwrap_or_default();
    let reason = Reason { clause: refused.clause, note };
    InferenceError::Refused(Refusal { message: refused.message, reason })
}

pub(super) fn inference_error(error: EngineError) -> InferenceError {
    match error {
        EngineError::ContextFull { have, more, limit, .. } => InferenceError::Overflow(Overflow {
            needed: more as u32,
            room: limit.saturating_sub(have) as u32,
        }),
        EngineError::KvFull { .. } => InferenceError::Limit(error.to_string()),
        EngineError::Token { .. } => InferenceError::Invalid(error.to_string()),
        other => InferenceError::Failed(other.to_string()),
    }
}

/// What an agent is told of an error.
pub(super) fn of(error: GenerateError) -> InferenceError {
    match error {
        GenerateError::Engine(error) => inference_error(error),
        GenerateError::Unrendered
        | GenerateError::NoTemplate
        | GenerateError::Grammar(_)
        | GenerateError::GrammarWithTools
        | GenerateError::GrammarInReasoning => InferenceError::Invalid(error.to_string()),
        other => InferenceError::Failed(other.to_string()),
    }
}

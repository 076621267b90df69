//! The interface `inference`, for agents.

use wasmtime::Result;
use wasmtime::component::Resource;

use crate::agent::{
    Completion, GenerationHandle, GenerationOptions, InferenceError, ModelInfo, Score, SessionHandle, Synced,
    Turn,
};
use crate::bindings::agent::membrane::plugin::inference::{Host, HostGeneration, HostSession};
use crate::error::Cause;
use crate::limits::{
    ITEM_UNITS, MAX_ARGUMENTS_BYTES, MAX_ARGUMENTS_VALUES, MAX_CONSTRAINT_BYTES, MAX_CONTINUATIONS,
    MAX_MESSAGE_BYTES, MAX_PREFIX_NAME_BYTES, MAX_RUN_GENERATIONS, MAX_STOP_BYTES, MAX_STOPS,
    MAX_TOOL_NAME_BYTES, MAX_TURNS, VALUE_UNITS,
};
use crate::state::State;
use crate::values;

/// Units for what policies are started for, and what may become a record on the disk.
const REQUEST_UNITS: usize = 50_000;
/// Units for each byte of a conversation, which is rendered and cut into tokens.
const CONVERSATION_UNITS: usize = 8;
/// Units for each token before a generation: policies are shown its text, and the log has it once more.
const CONTEXT_UNITS: usize = 64;

type Answer<T> = Result<Result<T, InferenceError>>;

fn invalid<T>(what: String) -> Answer<T> {
    Ok(Err(InferenceError::Invalid(what)))
}

/// A text of at most so many bytes.
fn fits(what: &str, text: &str, most: usize) -> Result<(), String> {
    let bytes = text.len();
    if bytes <= most { Ok(()) } else { Err(format!("{what} has {bytes} bytes; the limit is {most}")) }
}

impl Host for State {
    fn model(&mut self) -> Result<ModelInfo> {
        Ok(self.agency(1)?.environment.model())
    }
}

impl HostSession for State {
    fn new(&mut self) -> Result<Resource<SessionHandle>> {
        let agency = self.agency(100)?;
        let session = agency.environment.session();
        match agency.add_session(session) {
            Ok(handle) => Ok(handle),
            Err(InferenceError::Limit(why)) => Err(self.end(Cause::Broke(why))),
            Err(_) => Err(self.end(Cause::Broke("it asked for one more session".into()))),
        }
    }

    fn fork(&mut self, session: Resource<SessionHandle>) -> Answer<Resource<SessionHandle>> {
        let agency = self.agency(100)?;
        let forked = agency.sessions.get(&session)?.fork();
        Ok(forked.and_then(|session| agency.add_session(session)))
    }

    fn length(&mut self, session: Resource<SessionHandle>) -> Result<u32> {
        Ok(self.agency(1)?.sessions.get(&session)?.length() as u32)
    }

    fn room(&mut self, session: Resource<SessionHandle>) -> Result<u32> {
        Ok(self.agency(1)?.sessions.get(&session)?.room() as u32)
    }

    fn truncate(&mut self, session: Resource<SessionHandle>, tokens: u32) -> Answer<()> {
        self.inferred(100, |agency| Ok(agency.sessions.get_mut(&session)?.truncate(tokens as usize)))
    }

    fn append(&mut self, session: Resource<SessionHandle>, text: String) -> Answer<u32> {
        self.charge(text.len())?;
        if let Err(what) = fits("the text", &text, MAX_MESSAGE_BYTES) {
            return invalid(what);
        }
        self.inferred(1, |agency| {
            let appended = agency.sessions.get_mut(&session)?.append(&text);
            Ok(appended.map(|tokens| tokens as u32))
        })
    }

    fn chat(&mut self, session: Resource<SessionHandle>, turns: Vec<Turn>, tools: bool) -> Answer<Synced> {
        let calls = || turns.iter().flat_map(|turn| &turn.calls);
        let texts = turns.iter().map(|turn| turn.content.len() + turn.tool.as_ref().map_or(0, String::len));
        let bytes =
            texts.sum::<usize>() + calls().map(|call| call.name.len() + call.arguments.len()).sum::<usize>();
        let items = turns.len() + calls().count();
        self.charge(REQUEST_UNITS + bytes * CONVERSATION_UNITS + items * ITEM_UNITS)?;
        if turns.len() > MAX_TURNS {
            return invalid(format!("the conversation has {} turns; the limit is {MAX_TURNS}", turns.len()));
        }
        if bytes > MAX_MESSAGE_BYTES {
            return invalid(format!("the conversation has {bytes} bytes; the limit is {MAX_MESSAGE_BYTES}"));
        }
        let mut together = 0;
        for call in calls() {
            let Some(values) = values::of_arguments(&call.arguments) else {
                let tool = crate::text::clean(&call.name, MAX_TOOL_NAME_BYTES);
                return invalid(format!(
                    "arguments of a call of `{tool}`: no JSON object of at most {MAX_ARGUMENTS_BYTES} bytes and \
                     {MAX_ARGUMENTS_VALUES} values that names no field twice; give a longer list as one text"
                ));
            };
            together += values;
        }
        if together > MAX_ARGUMENTS_VALUES {
            return invalid(format!(
                "the arguments of all calls in the conversation have {together} JSON values; the limit is \
                 {MAX_ARGUMENTS_VALUES}: leave earlier calls out, or give long lists as texts"
            ));
        }
        self.charge(together * VALUE_UNITS)?;
        self.inferred(1, |agency| Ok(agency.sessions.get_mut(&session)?.chat(&turns, tools)))
    }

    fn generate(
        &mut self,
        session: Resource<SessionHandle>,
        options: GenerationOptions,
    ) -> Answer<Resource<GenerationHandle>> {
        self.charge(handed_over(&options))?;
        if let Err(what) = check(&options) {
            return invalid(what);
        }
        let agency = self.agency(REQUEST_UNITS)?;
        if agency.begun == MAX_RUN_GENERATIONS {
            return Ok(Err(InferenceError::Limit(format!(
                "this run has begun {MAX_RUN_GENERATIONS} generations, the most of one run; leave the rest to another"
            ))));
        }
        agency.begun += 1;
        let context = agency.sessions.get(&session)?;
        let work = context.length() * CONTEXT_UNITS + context.conversation_bytes() * CONVERSATION_UNITS;
        self.inferred(work, |agency| {
            let options = GenerationOptions {
                seed: Some(options.seed.unwrap_or_else(|| agency.environment.random())),
                ..options
            };
            let generation = agency.sessions.get_mut(&session)?.generate(options);
            Ok(generation.and_then(|generation| agency.add_generation(generation)))
        })
    }

    fn score(&mut self, session: Resource<SessionHandle>, continuations: Vec<String>) -> Answer<Vec<Score>> {
        let (count, bytes) = (continuations.len(), continuations.iter().map(String::len).sum::<usize>());
        self.charge(bytes + count * ITEM_UNITS)?;
        if count > MAX_CONTINUATIONS {
            return invalid(format!("{count} continuations; the limit is {MAX_CONTINUATIONS}"));
        }
        self.inferred(1, |agency| Ok(agency.sessions.get_mut(&session)?.score(&continuations)))
    }

    fn save(&mut self, session: Resource<SessionHandle>, name: String) -> Answer<()> {
        self.charge(name.len())?;
        if !(1..=MAX_PREFIX_NAME_BYTES).contains(&name.len()) {
            return invalid(format!(
                "a name has 1 to {MAX_PREFIX_NAME_BYTES} bytes, and this one {}",
                name.len()
            ));
        }
        self.inferred(100, |agency| Ok(agency.sessions.get_mut(&session)?.save(&name)))
    }

    fn open(&mut self, name: String) -> Result<Option<Resource<SessionHandle>>> {
        let agency = self.agency(100 + name.len())?;
        let opened = agency.environment.open(&name);
        Ok(opened.and_then(|session| agency.add_session(session).ok()))
    }

    fn drop(&mut self, session: Resource<SessionHandle>) -> Result<()> {
        self.agency(1)?.sessions.delete(session)?;
        Ok(())
    }
}

impl HostGeneration for State {
    fn next(&mut self, generation: Resource<GenerationHandle>) -> Answer<Option<String>> {
        let next = self.inferred(10, |agency| Ok(agency.generations.get_mut(&generation)?.next()))?;
        self.give(next, |next| next.as_ref().ok().and_then(Option::as_ref).map_or(0, String::len))
    }

    fn finish(&mut self, generation: Resource<GenerationHandle>) -> Answer<Completion> {
        let ended = self.inferred(10, |agency| Ok(agency.generations.get_mut(&generation)?.finish()))?;
        self.give(ended, |ended| ended.as_ref().map_or(0, completion_bytes))
    }

    fn cancel(&mut self, generation: Resource<GenerationHandle>) -> Result<()> {
        self.agency(1)?.generations.get_mut(&generation)?.cancel();
        Ok(())
    }

    fn drop(&mut self, generation: Resource<GenerationHandle>) -> Result<()> {
        let agency = self.agency(1)?;
        agency.generations.delete(generation)?.cancel();
        Ok(())
    }
}

fn completion_bytes(completion: &Completion) -> usize {
    let calls = completion.calls.iter().map(|call| ITEM_UNITS + call.name.len() + call.arguments.len());
    completion.text.len() + calls.sum::<usize>()
}

/// Units for taking options over, whatever becomes of them.
fn handed_over(options: &GenerationOptions) -> usize {
    use crate::agent::Constraint::{JsonSchema, Lark, Regex};
    let constraint = match &options.constraint {
        Some(JsonSchema(text) | Regex(text) | Lark(text)) => text.len(),
        None => 0,
    };
    let stops = options.stop.iter().map(|text| ITEM_UNITS + text.len()).sum::<usize>();
    stops + constraint + options.sampling.as_ref().map_or(0, String::len)
}

/// Checks what can be checked without a model.
fn check(options: &GenerationOptions) -> Result<(), String> {
    if options.stop.len() > MAX_STOPS {
        return Err(format!("{} stop texts; the limit is {MAX_STOPS}", options.stop.len()));
    }
    if let Some(wrong) = options.stop.iter().find(|text| !(1..=MAX_STOP_BYTES).contains(&text.len())) {
        return Err(format!("a stop text has 1 to {MAX_STOP_BYTES} bytes, and this one {}", wrong.len()));
    }
    use crate::agent::Constraint::{JsonSchema, Lark, Regex};
    if let Some(JsonSchema(text) | Regex(text) | Lark(text)) = &options.constraint {
        fits("the constraint", text, MAX_CONSTRAINT_BYTES)?;
    }
    fits("sampling", options.sampling.as_deref().unwrap_or_default(), MAX_CONSTRAINT_BYTES)
}

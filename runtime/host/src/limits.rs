//! Limits on plugins, each with the attack that it stops.

use wasmtime::ResourceLimiter;

use crate::World;

/// Bytes of a component: compiling takes time and memory in proportion (a component that is built to be slow
/// to compile). One with a Python interpreter in it has 18 MB.
pub const MAX_COMPONENT_BYTES: usize = 32 << 20;
/// Bytes of one function's body: some passes of the compiler take more than linear time (10^6 blocks in one
/// function).
pub const MAX_FUNCTION_BYTES: u32 = 1 << 20;
/// Functions of a component, all modules together.
pub const MAX_FUNCTIONS: u64 = 100_000;
/// Core modules and nested components of a component; a Python one has about 40.
pub const MAX_MODULES: u64 = 128;
/// Imports and exports of a component.
pub const MAX_NAMES: usize = 256;

/// Bytes of wasm stack (deep recursion).
pub const MAX_STACK_BYTES: usize = 512 << 10;
/// Core instances, memories and tables of one plugin instance, and elements of all its tables together.
const MAX_INSTANCES: usize = 256;
const MAX_MEMORIES: usize = 16;
const MAX_TABLES: usize = 64;
const MAX_TABLE_ELEMENTS: usize = 200_000;
/// Bytes that a guest can hand over in one call (a list of 2^31 items, an error text of 64 MB). A message may
/// have 16 MiB.
pub const MAX_TRANSFER_BYTES: usize = 48 << 20;
/// Units for each item of a list that a guest hands over, beside those for the bytes of its text (10^6 empty texts).
pub(crate) const ITEM_UNITS: usize = 16;
/// Units for each JSON value that is made of a guest's text: about the bytes that it takes.
pub(crate) const VALUE_UNITS: usize = 72;
/// Handles of an instance: an agent's sessions and generations.
pub const MAX_HANDLES: usize = 128;

/// Bytes of the state that one version of a plugin hands to the next (one that hands over all its memory).
pub const MAX_SNAPSHOT_BYTES: usize = 1 << 20;
/// Versions of policies that join one answer, while those before them stay in force (a file that changes all the
/// time).
pub const MAX_JOINED: usize = 8;

/// Bytes of a guest's text that are shown to people.
pub const MAX_SHOWN_BYTES: usize = 1024;
/// Lines that a plugin may log in one answer (a flood).
pub const MAX_LOG_LINES: u32 = 256;

/// Tokens of one `logits.top`.
pub const MAX_TOP: u32 = 1024;
/// Tokens of one `history.tail`.
pub const MAX_TAIL: u32 = 65_536;
/// Bytes of text of one `vocabulary.encode`.
pub const MAX_ENCODE_BYTES: usize = 1 << 20;

/// Texts that break a repetition, and bytes of each: they are cut into tokens for every token of the history
/// (8 MB of one letter).
pub const MAX_BREAKERS: usize = 64;
/// Bytes of one such text.
pub const MAX_BREAKER_BYTES: usize = 256;

/// Bytes of a message of a conversation, and of all together.
pub const MAX_MESSAGE_BYTES: usize = 16 << 20;
/// Bytes that an agent may write in a run (one that fills the memory with its answer).
pub const MAX_ANSWER_BYTES: usize = 16 << 20;
/// Messages of a conversation.
pub const MAX_MESSAGES: usize = 10_000;
/// Bytes of text that a policy holds back (a policy that never releases).
pub const MAX_PENDING_BYTES: usize = 1 << 20;
/// Bytes of a replacement or forced text of a policy.
pub const MAX_REPLACEMENT_BYTES: usize = 64 << 10;
/// Bytes by which a policy may make one answer longer, replacements and forced texts together (64 KiB for each token of the model).
pub const MAX_GROWTH_BYTES: usize = MAX_ANSWER_BYTES;
/// Forced texts of one answer (a policy that forces for ever).
pub const MAX_FORCED: u32 = 16;
/// Bytes of a clause's id, and of a note.
pub const MAX_CLAUSE_BYTES: usize = 128;
/// Bytes of a note for people, and of the message of a refusal.
pub const MAX_NOTE_BYTES: usize = 1024;
/// Bytes of the message of a refusal.
pub const MAX_REFUSAL_BYTES: usize = 16 << 10;

/// Bytes of what a policy asks the model to judge, a conversation's messages together (a prompt that takes an hour to read).
pub const MAX_JUDGED_BYTES: usize = 64 << 10;
/// Messages of a conversation that is to be judged (10^5 empty ones, each of which the template wraps in tokens).
pub const MAX_JUDGED_MESSAGES: usize = 64;
/// Continuations of one `judge.score`: each goes through the model by itself (10,000 of them).
pub const MAX_JUDGE_CONTINUATIONS: usize = 16;
/// Bytes of one of them (a long text that goes through the model token by token).
pub const MAX_JUDGE_CONTINUATION_BYTES: usize = 256;
/// Calls of `judge.score` of a policy in one answer (one that asks for ever, which fuel does not end).
pub const MAX_JUDGE_CALLS: u32 = 2048;
/// Tokens of all that a policy has the model judge in one answer, those that the model need not read again included (few
/// calls, each as long as may be).
pub const MAX_JUDGE_TOKENS: u64 = 1 << 20;
/// Bytes of all that a policy asks the model to judge in one answer, refused questions included: each is cut into tokens before
/// it is known to have too many (2,048 long questions, which take minutes and fill the memory and no context holds).
pub const MAX_JUDGED_BYTES_TOGETHER: usize = 8 << 20;
/// Bytes of a refused question that are counted as one token of those that the model judges.
pub(crate) const REFUSED_BYTES_PER_TOKEN: u64 = 4;

/// Tools of one component.
pub const MAX_TOOLS: usize = 64;
/// Bytes of a tool's name, its description, and the schema of its parameters.
pub const MAX_TOOL_NAME_BYTES: usize = 64;
/// Bytes of a tool's description.
pub const MAX_TOOL_DESCRIPTION_BYTES: usize = 4096;
/// Bytes of the schema of a tool's parameters.
pub const MAX_TOOL_SCHEMA_BYTES: usize = 64 << 10;
/// JSON values in the schemas of a component's tools together: each takes 72 bytes and more (64 schemas of 64 KiB of `0,`).
pub const MAX_TOOL_SCHEMA_VALUES: usize = 64 << 10;
/// Bytes of the arguments of a call.
pub const MAX_ARGUMENTS_BYTES: usize = 1 << 20;
/// JSON values in the arguments of a call, and in those of all calls of a conversation together (15 MiB of `0,`, which take
/// half a gigabyte).
pub const MAX_ARGUMENTS_VALUES: usize = 64 << 10;
/// Bytes of a result, which is cut there.
pub const MAX_RESULT_BYTES: usize = 256 << 10;

/// Bytes of the task of an agent.
pub const MAX_TASK_BYTES: usize = 16 << 20;
/// Sessions of an agent at a time; they share the KV cache of the memory plan (one that forks for ever).
pub const MAX_SESSIONS: usize = 64;
/// Generations of an agent at a time, each on a thread of its own.
pub const MAX_GENERATIONS: usize = 16;
/// Generations that an agent begins in a run, those included that come to nothing: each leaves a record with its whole prompt (one that
/// fills the disk with generations of no token).
pub const MAX_RUN_GENERATIONS: u32 = 64 << 10;
/// Turns of a conversation of an agent.
pub const MAX_TURNS: usize = 10_000;
/// Bytes of memory that the conversations of all sessions of a run take, forks with the same one counted once (64 sessions, each with
/// 16 MiB of what the chat template leaves out). Two of the longest fit, so that one can take the place of another.
pub const MAX_CONVERSATIONS_BYTES: usize = 64 << 20;
/// Texts that end a generation, and bytes of each: all are looked for in all new text.
pub const MAX_STOPS: usize = 16;
/// Bytes of such a text.
pub const MAX_STOP_BYTES: usize = 256;
/// Bytes of a schema, a regular expression, a grammar, or of parameters for the sampler.
pub const MAX_CONSTRAINT_BYTES: usize = 256 << 10;
/// Texts of one `session.score`: each is a session of its own meanwhile.
pub const MAX_CONTINUATIONS: usize = 256;
/// Contexts that are kept under a name.
pub const MAX_PREFIXES: usize = 64;
/// Bytes of such a name.
pub const MAX_PREFIX_NAME_BYTES: usize = 64;
/// Bytes of an agent's store, keys included (one that fills the disk).
pub const MAX_STORE_BYTES: usize = 16 << 20;
/// Keys of a store.
pub const MAX_STORE_KEYS: usize = 4096;
/// Bytes of a key.
pub const MAX_STORE_KEY_BYTES: usize = 256;
/// Bytes of a value.
pub const MAX_STORE_VALUE_BYTES: usize = 1 << 20;

/// Bytes of a path of the interface `files`, and names in it.
pub const MAX_PATH_BYTES: usize = 1024;
/// Names in a path (a path of 10^5 folders).
pub const MAX_PATH_NAMES: usize = 32;
/// Entries of a folder that is listed (a folder of 10^7 files).
pub const MAX_ENTRIES: usize = 10_000;
/// Bytes of one read, write or append (a file larger than memory).
pub const MAX_FILE_PIECE_BYTES: usize = 1 << 20;
/// Bytes to which a file may be made to grow.
pub const MAX_FILE_BYTES: u64 = 16 << 20;
/// Bytes that one call of a tool may write, and files and folders that it may make (a tool that fills the disk).
pub const MAX_WRITTEN_BYTES: usize = 16 << 20;
/// Files and folders that one call may make.
pub const MAX_CREATED: u32 = 256;

/// Requests of one call of a tool (a flood on a host that was granted).
pub const MAX_REQUESTS: u32 = 64;
/// Bytes of a URL.
pub const MAX_URL_BYTES: usize = 8 << 10;
/// Header fields of a request, and bytes of a name and of a value.
pub const MAX_REQUEST_HEADERS: usize = 64;
/// Bytes of the name of a header.
pub const MAX_HEADER_NAME_BYTES: usize = 128;
/// Bytes of the value of a header.
pub const MAX_HEADER_VALUE_BYTES: usize = 8 << 10;
/// Bytes of the body of a request.
pub const MAX_REQUEST_BODY_BYTES: usize = 1 << 20;
/// Header fields of a response, and bytes of all of them (a server that sends headers without end).
pub const MAX_RESPONSE_HEADERS: usize = 128;
/// Bytes of the head of a response.
pub const MAX_RESPONSE_HEAD_BYTES: usize = 64 << 10;
/// Bytes of the body of a response (a body without end).
pub const MAX_RESPONSE_BODY_BYTES: usize = 4 << 20;
/// Milliseconds of one request, from looking its host up to the last byte of the body (a server that sends a byte a
/// second).
pub const MAX_REQUEST_MS: u64 = 30_000;
/// Look-ups of names that are under way at a time, those included that nobody waits for any more (a name server that does
/// not answer).
pub const MAX_LOOKUPS: usize = 16;

/// Bytes of the value of an environment variable.
pub const MAX_VARIABLE_BYTES: usize = 32 << 10;
/// Bytes of a secret; a shorter one would be found everywhere in what comes back, and redacted there.
pub const SECRET_BYTES: std::ops::RangeInclusive<usize> = 8..=8192;

/// Bytes of an import that a process of a plugin asks for, in the form in which they go over. Lists of the contract's
/// types take at most 80 times as much when they are read (a process that was taken over and sends the longest).
pub const MAX_IMPORT_BYTES: usize = MAX_MESSAGE_BYTES + (1 << 20);
/// Bytes of what such a process gives back from a call.
pub(crate) const MAX_RETURN_BYTES: usize = MAX_TRANSFER_BYTES + (64 << 10);
/// Bytes of compiled code that such a process hands out to be kept.
pub(crate) const MAX_CODE_BYTES: usize = 128 << 20;
/// Bytes that a process of a plugin may write to before it has one: the program and its engine.
pub(crate) const BASE_PROCESS_BYTES: u64 = 128 << 20;
/// Instances of one process that may use all memory of their limit at a time; most use a fraction of it. (a plugin that
/// takes all that it may in each of a thousand answers)
pub(crate) const FULL_INSTANCES: u64 = 16;

/// What starting an instance, `configure` included, may use: this many times what a call may.
pub(crate) const START_CALLS: u64 = 4;

/// Limits of one plugin, which its profile entry may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Units of fuel for each call of the plugin, about one for each wasm instruction. What the host does on
    /// the plugin's behalf counts too: one unit for each logit or byte that is looked at, more where the host has more to
    /// do with it, as with a conversation. (a loop without end)
    pub fuel_per_call: u64,
    /// Bytes of all linear memories of an instance together. (a guest that takes all memory)
    pub memory_bytes: usize,
    /// Milliseconds by the clock for each call of a tool, waiting for the network included; none for the others, whose
    /// decisions don't depend on how fast the machine is. (a server that does not answer)
    pub wall_ms: Option<u64>,
}

/// Milliseconds of a call of a tool.
const DEFAULT_WALL_MS: u64 = 60_000;

impl Limits {
    /// The limits of a plugin whose profile says nothing. The fuel is about 0.2 s for samplers, 0.5 s for
    /// policies, 2 s for tools and 20 s for a whole run of an agent, the model's work not counted.
    pub const fn of(world: World) -> Self {
        match world {
            World::Sampler => Self { fuel_per_call: 200_000_000, memory_bytes: 64 << 20, wall_ms: None },
            World::Policy => Self { fuel_per_call: 500_000_000, memory_bytes: 64 << 20, wall_ms: None },
            World::Tool => {
                Self { fuel_per_call: 2_000_000_000, memory_bytes: 128 << 20, wall_ms: Some(DEFAULT_WALL_MS) }
            }
            World::Agent => Self { fuel_per_call: 20_000_000_000, memory_bytes: 256 << 20, wall_ms: None },
        }
    }
}

/// Counts what an instance takes, for wasmtime.
#[derive(Debug)]
pub(crate) struct Meter {
    memory_left: usize,
    elements_left: usize,
    /// Whether memory was denied in the current call; a guest that then traps has run out of memory.
    pub denied: bool,
}

impl Meter {
    pub fn new(limits: &Limits) -> Self {
        Self { memory_left: limits.memory_bytes, elements_left: MAX_TABLE_ELEMENTS, denied: false }
    }
}

impl ResourceLimiter for Meter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        match self.memory_left.checked_sub(desired.saturating_sub(current)) {
            Some(left) => {
                self.memory_left = left;
                Ok(true)
            }
            None => {
                self.denied = true;
                Ok(false)
            }
        }
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let left = self.elements_left.checked_sub(desired.saturating_sub(current));
        self.elements_left = left.unwrap_or(self.elements_left);
        Ok(left.is_some())
    }

    fn instances(&self) -> usize {
        MAX_INSTANCES
    }

    fn tables(&self) -> usize {
        MAX_TABLES
    }

    fn memories(&self) -> usize {
        MAX_MEMORIES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_denied_to_the_request_that_asks_for_too_much() {
        let limits = Limits { memory_bytes: 1000, ..Limits::of(World::Sampler) };
        let mut meter = Meter::new(&limits);
        let mut grow = |from, to| meter.memory_growing(from, to, None).unwrap();
        assert_eq!(
            [grow(0, 600), grow(600, 1001), grow(600, 1000), grow(1000, 1001)],
            [true, false, true, false]
        );
        assert!(meter.denied);
    }
}

//! From a grammar to a constraint.

use std::fmt;
use std::sync::Arc;
use std::thread;

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{InferenceCapabilities, TokEnv};
use llguidance::{Matcher, ParserFactory, TokenParser};
use serde_json::Value;

use super::check::{check, for_library};
use super::constraint::Constraint;
use super::error::{GrammarError, said};
use super::words::Words;
use super::{Grammar, place};
use crate::error::shown;
use crate::limits::{
    GRAMMAR_COMPILE_FUEL, GRAMMAR_LEXER_STATES, GRAMMAR_ROW_ITEMS, GRAMMAR_STACK_BYTES, GRAMMAR_STEP_FUEL,
    GRAMMAR_STEP_ITEMS, GRAMMAR_SYMBOLS, MAX_PLACED_SCHEMA_BYTES,
};
use crate::tokenizer::Tokenizer;

/// Makes constraints for one vocabulary. Clones share it.
#[derive(Clone)]
pub struct GrammarCompiler {
    factory: Arc<ParserFactory>,
    words: Arc<Words>,
}

impl GrammarCompiler {
    /// Sorts the vocabulary. For 152,000 tokens this takes a moment and 70 MB, so it is done when the first grammar
    /// comes. Errors: a vocabulary beyond the limits.
    pub fn new(tokenizer: Arc<Tokenizer>) -> Result<Self, GrammarError> {
        let words = Arc::new(Words::new(tokenizer)?);
        let env: TokEnv = words.clone();
        let slices = SlicedBiasComputer::general_slices();
        let mut factory = ParserFactory::new(&env, InferenceCapabilities::default(), &slices)
            .map_err(|error| GrammarError::Vocabulary { reason: said(error) })?;
        factory.set_stderr_log_level(0);
        *factory.limits_mut() = limits();
        Ok(Self { factory: Arc::new(factory), words })
    }

    /// Makes a constraint that is at its beginning.
    ///
    /// Errors: a grammar that can't be followed, with the place and the reason, or one beyond the limits.
    pub fn compile(&self, grammar: &Grammar) -> Result<Constraint, GrammarError> {
        check(grammar)?;
        let kind = grammar.kind();
        let refused = |reason| GrammarError::Refused { kind, reason };
        // The library goes down into a grammar by calls, so the depth that limits allow needs a stack of a size
        // that is known.
        let compiled = thread::scope(|scope| {
            let compiling = thread::Builder::new()
                .name("grammar".to_owned())
                .stack_size(GRAMMAR_STACK_BYTES)
                .spawn_scoped(scope, || self.matcher(grammar))
                .map_err(|error| refused(format!("no thread to compile it: {error}")))?;
            compiling.join().unwrap_or_else(|_| Err(refused("compiling it failed".to_owned())))
        })?;
        Constraint::new(kind, compiled, self.words.clone())
    }

    fn matcher(&self, grammar: &Grammar) -> Result<Matcher, GrammarError> {
        let kind = grammar.kind();
        self.parser(grammar).map(|parser| Matcher::new(Ok(parser))).map_err(|reason| {
            let place = match grammar {
                Grammar::JsonSchema(schema) => self.place(schema, &reason),
                _ => None,
            };
            let at = place.map_or(String::new(), |place| format!("at {}: ", shown(&place)));
            GrammarError::Refused { kind, reason: at + &advised(reason) }
        })
    }

    /// Where in a schema the part stands that can't be compiled, if it is not the whole.
    fn place(&self, schema: &Value, reason: &str) -> Option<String> {
        if schema.to_string().len() > MAX_PLACED_SCHEMA_BYTES {
            return None;
        }
        let mut alike = |part: &Value| {
            let alone = self.parser(&Grammar::JsonSchema(part.clone()));
            alone.is_err_and(|alone| alone == reason)
        };
        Some(place::of(schema, &mut alike)).filter(|place| place != "#")
    }

    /// The library's parser. The error is its reason.
    fn parser(&self, grammar: &Grammar) -> Result<TokenParser, String> {
        let top = match grammar {
            Grammar::JsonSchema(schema) => TopLevelGrammar::from_json_schema(for_library(schema)),
            Grammar::Regex(pattern) => TopLevelGrammar::from_regex(pattern),
            Grammar::Lark(text) => TopLevelGrammar::from_lark(text.clone()),
        };
        let mut parser = self.factory.create_parser(top).map_err(said)?;
        let lexemes = parser.parser.grammar().lexer_spec();
        if !lexemes.token_range_lexemes(&lexemes.all_lexemes()).is_empty() {
            return Err("it names tokens by their numbers, `<[...]>`; write what they say".to_owned());
        }
        // They tell of what the library would not enforce.
        match parser.grammar_warnings().first() {
            Some(warning) => Err(said(warning)),
            None => Ok(parser),
        }
    }
}

/// Reasons of the library that say nothing of what to do, by a part of their text, and what is said in their place.
const ADVICE: &[(&str, &str)] = &[
    (
        "oneOf constraints",
        "the alternatives of its oneOf are not known to exclude each other; give each a required property with a `const` \
         of its own, or use anyOf",
    ),
    (
        "missing special token prefix",
        "it asks for a control token; those are no text and can't be part of an answer",
    ),
    ("panic:", "it goes beyond what can be represented; use smaller numbers and counts"),
];

/// A reason, in the user's terms.
fn advised(reason: String) -> String {
    if let Some((_, advice)) = ADVICE.iter().find(|(part, _)| reason.contains(part)) {
        return (*advice).to_owned();
    }
    // The library shows the grammar that it makes of a regular expression.
    let own = reason.find(" 1 | start: /").unwrap_or(reason.len());
    let reason = reason[..own].trim_start_matches("at 1(8): ");
    match reason.contains("Unimplemented keys") {
        true => format!("{reason} are not enforced here; leave them out"),
        false => reason.to_owned(),
    }
}

fn limits() -> ParserLimits {
    ParserLimits {
        max_items_in_row: GRAMMAR_ROW_ITEMS,
        initial_lexer_fuel: GRAMMAR_COMPILE_FUEL,
        step_lexer_fuel: GRAMMAR_STEP_FUEL,
        step_max_items: GRAMMAR_STEP_ITEMS,
        max_lexer_states: GRAMMAR_LEXER_STATES,
        max_grammar_size: GRAMMAR_SYMBOLS,
        precompute_large_lexemes: true,
        verbose_errors: false,
    }
}

impl fmt::Debug for GrammarCompiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrammarCompiler").field("tokenizer", self.words.tokenizer()).finish_non_exhaustive()
    }
}

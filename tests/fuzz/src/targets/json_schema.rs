//! A JSON schema, compiled to a constraint and followed for some tokens.

use std::sync::OnceLock;

use membrane_text::{Grammar, GrammarCompiler};

use super::shown;
use crate::vocabulary::tokenizer;

/// Keywords.
pub const WORDS: &[&str] = &[
    "\"type\"",
    "\"object\"",
    "\"array\"",
    "\"string\"",
    "\"integer\"",
    "\"number\"",
    "\"properties\"",
    "\"required\"",
    "\"anyOf\"",
    "\"oneOf\"",
    "\"allOf\"",
    "\"enum\"",
    "\"const\"",
    "\"$ref\"",
    "\"#/$defs/a\"",
    "\"#\"",
    "\"$defs\"",
    "\"items\"",
    "\"prefixItems\"",
    "\"minItems\"",
    "\"maxItems\"",
    "\"minLength\"",
    "\"maxLength\"",
    "\"pattern\"",
    "\"format\"",
    "\"date-time\"",
    "\"minimum\"",
    "\"maximum\"",
    "\"exclusiveMaximum\"",
    "\"multipleOf\"",
    "\"additionalProperties\"",
    "\"patternProperties\"",
    "false",
    "true",
    "1e308",
    "0.1",
];

/// Tokens of an answer.
const STEPS: usize = 24;

/// Compiles and follows it.
pub fn target(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Grammar::json_schema(text) {
        Ok(grammar) => {
            let _ = grammar.unknown_keywords();
            follow(&grammar, data);
        }
        Err(error) => shown(&error),
    }
}

/// Compiles a grammar and takes tokens that it allows, `choices` in turn. What it allows it must take.
pub(super) fn follow(grammar: &Grammar, choices: &[u8]) {
    quiet();
    static COMPILER: OnceLock<GrammarCompiler> = OnceLock::new();
    let compiler = COMPILER.get_or_init(|| GrammarCompiler::new(tokenizer()).expect("a small vocabulary"));
    let mut constraint = match compiler.compile(grammar) {
        Ok(constraint) => constraint,
        Err(error) => return shown(&error),
    };
    let mut taken = Vec::new();
    for step in 0..STEPS {
        if constraint.is_complete() {
            break;
        }
        let allowed = match constraint.allowed() {
            Ok(allowed) => allowed,
            Err(error) => return shown(&error),
        };
        let tokens: Vec<u32> = (0..allowed.len() as u32 * 32)
            .filter(|token| allowed[*token as usize / 32] & (1 << (token % 32)) != 0)
            .collect();
        assert!(!tokens.is_empty(), "nothing may follow and no error says so");
        let choice = usize::from(choices.get(step).copied().unwrap_or(0)) * 7 + step;
        let token = tokens[choice % tokens.len()];
        taken.push(token);
        if let Err(error) = constraint.accept(token) {
            // Work may run out between asking and taking; a refusal may not.
            let text = error.to_string();
            assert!(text.contains("work"), "token {token} was allowed and is refused: {text}");
            return shown(&error);
        }
    }
    let _ = constraint.walk(&taken).inspect_err(|error| shown(error));
}

/// Lets panics that the grammar library catches by itself pass, where a fuzzer has made all panics abort. One that nobody
/// catches still ends the fuzzer.
fn quiet() {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| {
        if cfg!(fuzzing) {
            std::panic::set_hook(Box::new(|panic| eprintln!("{panic}")));
        }
    });
}

/// Schemas of each kind of value.
pub fn seeds() -> Vec<Vec<u8>> {
    let schemas = [
        r#"{"type":"object","properties":{"a":{"type":"integer","minimum":-3,"maximum":400},"b":{"type":"string","maxLength":9}},
            "required":["a"],"additionalProperties":false}"#,
        r##"{"anyOf":[{"type":"null"},{"type":"array","items":{"$ref":"#/$defs/a"},"minItems":1,"maxItems":3}],
            "$defs":{"a":{"enum":["x","é",1,null,{"k":[]}]}}}"##,
        r#"{"type":"string","pattern":"^[a-z]{2,5}(-[0-9]+)?$"}"#,
        r#"{"oneOf":[{"type":"object","properties":{"t":{"const":"a"}},"required":["t"]},
            {"type":"object","properties":{"t":{"const":"b"},"n":{"type":"number","multipleOf":0.5}},"required":["t"]}]}"#,
        r#"{"allOf":[{"type":"integer"},{"minimum":0}],"description":"d"}"#,
        r#"{"type":"array","prefixItems":[{"type":"boolean"},{"type":"string","format":"date"}],"items":false}"#,
        r##"{"type":"object","properties":{"next":{"$ref":"#"}}}"##,
        "true",
    ];
    schemas.iter().map(|schema| schema.as_bytes().to_vec()).collect()
}

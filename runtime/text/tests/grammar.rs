//! Texts that follow a grammar: what masks allow is what the grammar allows, whatever is chosen among it.

mod common;
mod schemas;

use std::sync::Arc;

use common::{fixture, spec};
use membrane_text::{Constraint, Grammar, GrammarCompiler, GrammarError, Specials, Tokenizer};
use serde_json::{Value, json};

/// A vocabulary with merges, so that most texts can be cut in many ways; tokens 0 to 2 are control tokens, and 2 ends.
fn tokenizer() -> Arc<Tokenizer> {
    Arc::new(Tokenizer::new(spec(&fixture("words.json"), "gpt-2")).unwrap())
}

fn compiler() -> GrammarCompiler {
    GrammarCompiler::new(tokenizer()).unwrap()
}

/// Numbers that look random and are the same in each run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }
}

fn allowed(constraint: &mut Constraint) -> Vec<u32> {
    let words = constraint.allowed().unwrap();
    let bits = |(at, word): (usize, &u32)| {
        let (at, word) = (at as u32 * 32, *word);
        (0..32).filter(move |bit| word & (1 << bit) != 0).map(move |bit| at + bit)
    };
    words.iter().enumerate().flat_map(bits).collect()
}

/// Chooses among what is allowed until an end token or the end of the grammar comes.
fn written(constraint: &mut Constraint, tokenizer: &Tokenizer, numbers: &mut Numbers) -> String {
    let mut tokens = Vec::new();
    while !constraint.is_complete() {
        assert!(tokens.len() < 4000, "{constraint:?} does not end: {}", tokenizer.decode(&tokens, false));
        let allowed = allowed(constraint);
        let token = allowed[numbers.below(allowed.len())];
        constraint.accept(token).unwrap();
        if !tokenizer.end_tokens().contains(&token) {
            tokens.push(token);
        }
    }
    assert!(constraint.may_end().unwrap());
    let bytes: Vec<u8> =
        tokens.iter().flat_map(|&token| tokenizer.token_bytes(token).unwrap().to_vec()).collect();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn whatever_is_chosen_under_a_schema_is_valid() {
    let (compiler, tokenizer) = (compiler(), tokenizer());
    let mut numbers = Numbers(1);
    for case in 0..150 {
        let schema = schemas::schema(&mut |end| numbers.below(end));
        let grammar = Grammar::JsonSchema(schema.clone());
        let mut constraint = compiler.compile(&grammar).unwrap_or_else(|error| panic!("{error}: {schema}"));
        for _ in 0..4 {
            let text = written(&mut constraint, &tokenizer, &mut numbers);
            let value: Value =
                serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text:?}"));
            let valid = schemas::valid(&schema, &schema, &value);
            assert!(valid, "case {case}: {text:?} is not valid under {schema}");
            constraint.walk(&[]).unwrap();
        }
    }
}

#[test]
fn the_validator_of_these_tests_knows_valid_from_not() {
    let schema = json!({
        "type": "object", "required": ["a"], "additionalProperties": false,
        "properties": {"a": {"type": "integer", "minimum": 2, "maximum": 4}, "b": {"$ref": "#/$defs/b"}},
        "$defs": {"b": {"type": "array", "items": {"type": "string", "maxLength": 1}, "minItems": 1, "maxItems": 2}},
    });
    let valid = |value: Value| schemas::valid(&schema, &schema, &value);
    assert!(valid(json!({"a": 2})) && valid(json!({"a": 4, "b": ["x", ""]})));
    for bad in [
        json!({}),
        json!({"a": 5}),
        json!({"a": 2.5}),
        json!({"a": "2"}),
        json!({"a": 2, "c": 1}),
        json!([]),
        json!({"a": 2, "b": []}),
        json!({"a": 2, "b": ["xy"]}),
        json!({"a": 2, "b": ["", "", ""]}),
    ] {
        assert!(!valid(bad.clone()), "{bad}");
    }
}

/// All texts of up to `most` tokens that a constraint lets come to an end.
fn language(constraint: &Constraint, tokenizer: &Tokenizer, most: usize) -> Vec<String> {
    let mut texts = Vec::new();
    let mut open = vec![(constraint.clone(), Vec::new())];
    while let Some((mut constraint, bytes)) = open.pop() {
        if constraint.may_end().unwrap() {
            texts.push(String::from_utf8(bytes.clone()).unwrap());
        }
        if constraint.is_complete() {
            continue;
        }
        for token in allowed(&mut constraint) {
            if !tokenizer.end_tokens().contains(&token) && most > bytes.len() {
                let mut next = constraint.clone();
                next.accept(token).unwrap();
                open.push((next, [&bytes[..], tokenizer.token_bytes(token).unwrap()].concat()));
            }
        }
    }
    texts.sort();
    texts.dedup();
    texts
}

#[test]
fn an_expression_allows_what_it_matches_and_nothing_else() {
    let (compiler, tokenizer) = (compiler(), tokenizer());
    let language =
        |pattern: &str| language(&compiler.compile(&Grammar::Regex(pattern.into())).unwrap(), &tokenizer, 12);
    assert_eq!(language("the|then|there"), ["the", "then", "there"]);
    assert_eq!(language("[ab]{0,2}c"), ["aac", "abc", "ac", "bac", "bbc", "bc", "c"]);
    assert_eq!(language("(a/b|\\\\|\"\n)"), ["\"\n", "\\", "a/b"]);
    assert_eq!(language(""), [""]);
    assert_eq!(language("é|ö?"), ["", "é", "ö"]);
}

#[test]
fn a_grammar_nests() {
    let (compiler, tokenizer) = (compiler(), tokenizer());
    let nested = Grammar::Lark("start: \"(\" start \")\" | \"x\"".into());
    let constraint = compiler.compile(&nested).unwrap();
    let texts = language(&constraint, &tokenizer, 8);
    assert!(texts.contains(&"(((x)))".to_owned()) && texts.contains(&"x".to_owned()));
    for text in texts {
        let open = text.matches('(').count();
        assert_eq!(text, format!("{}x{}", "(".repeat(open), ")".repeat(open)));
    }
}

#[test]
fn masks_take_away_what_is_not_allowed_and_nothing_else() {
    let (compiler, tokenizer) = (compiler(), tokenizer());
    let mut constraint = compiler.compile(&Grammar::Regex("[a-z ]+".into())).unwrap();
    let size = tokenizer.vocab_size();
    // More logits than tokens: rows that fill up the table.
    let given: Vec<f32> = (0..size + 45).map(|token| token as f32).collect();
    let mut masked = given.clone();
    constraint.mask(&mut masked).unwrap();
    for token in 0..size + 45 {
        let bytes = tokenizer.token_bytes(token as u32);
        let fits =
            bytes.is_ok_and(|bytes| bytes.iter().all(|byte| byte.is_ascii_lowercase() || *byte == b' '));
        let expected =
            if fits && !tokenizer.is_control(token as u32) { given[token] } else { f32::NEG_INFINITY };
        assert_eq!(masked[token], expected, "token {token}");
    }
    let mut short = vec![1.0; 200];
    constraint.mask(&mut short).unwrap();
    assert!(short[2] == f32::NEG_INFINITY && short.contains(&1.0));
}

#[test]
fn end_tokens_may_follow_exactly_where_the_grammar_may_end() {
    let (compiler, tokenizer) = (compiler(), tokenizer());
    let end = tokenizer.end_tokens()[0];
    let mut numbers = Numbers(7);
    for (pattern, may) in [("(ab)*", &["", "ab", "abab"][..]), ("ab?", &["a"]), ("[ab]{2}", &[])] {
        for _ in 0..20 {
            let mut constraint = compiler.compile(&Grammar::Regex(pattern.into())).unwrap();
            let mut text = Vec::new();
            while !constraint.is_complete() && text.len() < 5 {
                let allowed = allowed(&mut constraint);
                let may_end = text.is_empty() && may.contains(&"")
                    || may.contains(&std::str::from_utf8(&text).unwrap());
                assert_eq!(allowed.contains(&end), may_end, "{pattern} behind {text:?}");
                assert_eq!(constraint.clone().accept(end).is_ok(), may_end);
                assert_eq!(constraint.may_end().unwrap(), may_end);
                let others: Vec<u32> = allowed.into_iter().filter(|token| *token != end).collect();
                let token = others[numbers.below(others.len())];
                text.extend_from_slice(tokenizer.token_bytes(token).unwrap());
                constraint.accept(token).unwrap();
            }
        }
    }
}

#[test]
fn a_part_up_to_the_end_of_the_text_with_more_behind_it_may_not_end() {
    let (compiler, tokenizer) = (compiler(), tokenizer());
    let end = tokenizer.end_tokens()[0];
    let ends = |text: &str| {
        let mut constraint = compiler.compile(&Grammar::Lark(text.into())).unwrap();
        constraint.accept(tokenizer.encode("x", Specials::AsText).unwrap()[0]).unwrap();
        allowed(&mut constraint).contains(&end)
    };
    assert!(ends("start: a\na[stop=\"\"]: /[xy]+/"));
    assert!(!ends("start: a \"more\"\na[stop=\"\"]: /[xy]+/"));
}

#[test]
fn control_tokens_are_no_text_whatever_a_grammar_says() {
    let (compiler, tokenizer) = (compiler(), tokenizer());
    let control: Vec<u32> =
        (0..tokenizer.vocab_size() as u32).filter(|&token| tokenizer.is_control(token)).collect();
    assert!(control.len() > tokenizer.end_tokens().len());
    let name = String::from_utf8(tokenizer.token_bytes(control[0]).unwrap().to_vec()).unwrap();
    let spelled = Grammar::JsonSchema(json!({"const": name}));
    for grammar in [
        Grammar::JsonSchema(json!({"type": "string"})),
        spelled.clone(),
        Grammar::Lark("start: \"a\" /(?s:.*)/ \"b\"".into()),
        Grammar::Regex("(?s:.*)".into()),
    ] {
        let mut constraint = compiler.compile(&grammar).unwrap();
        for _ in 0..3 {
            let allowed = allowed(&mut constraint);
            let may_end = constraint.may_end().unwrap();
            for &token in &control {
                let ends = may_end && tokenizer.end_tokens().contains(&token);
                assert_eq!(allowed.contains(&token), ends, "{grammar:?}: token {token}");
                assert_eq!(constraint.clone().accept(token).is_ok(), ends, "{grammar:?}: token {token}");
            }
            if let Some(token) = allowed.iter().find(|token| !tokenizer.is_control(**token)) {
                constraint.accept(*token).unwrap();
            }
        }
    }
    // Its characters are a text like any other.
    let text = written(&mut compiler.compile(&spelled).unwrap(), &tokenizer, &mut Numbers(3));
    assert_eq!(text, serde_json::to_string(&name).unwrap());
    for asked in [format!("start: {name}"), "start: <|nothing|>".into()] {
        let error = compiler.compile(&Grammar::Lark(asked)).unwrap_err();
        assert!(error.to_string().contains("control token"), "{error}");
    }
    for tokens in ["[0]", "[0-2]", "[*]", "[^17]"] {
        let error = compiler.compile(&Grammar::Lark(format!("start: <{tokens}>"))).unwrap_err();
        assert!(error.to_string().contains("numbers"), "{error}");
    }
}

#[test]
fn walking_again_and_cloning_lead_to_the_same_place() {
    let (compiler, tokenizer) = (compiler(), tokenizer());
    let schema = json!({"type": "array", "items": {"type": "string", "maxLength": 9}, "maxItems": 4});
    let grammar = Grammar::JsonSchema(schema);
    let mut numbers = Numbers(11);
    let mut walked = compiler.compile(&grammar).unwrap();
    for _ in 0..30 {
        let mut stepped = compiler.compile(&grammar).unwrap();
        let mut tokens = Vec::new();
        for _ in 0..numbers.below(12) {
            if stepped.is_complete() {
                break;
            }
            let allowed = allowed(&mut stepped);
            // A fork that goes elsewhere changes nothing here.
            let mut fork = stepped.clone();
            fork.accept(allowed[numbers.below(allowed.len())]).unwrap();
            let token = allowed[numbers.below(allowed.len())];
            stepped.accept(token).unwrap();
            tokens.push(token);
        }
        walked.walk(&tokens).unwrap();
        assert_eq!(walked.is_complete(), stepped.is_complete());
        assert_eq!(walked.allowed().unwrap(), stepped.allowed().unwrap());
        let text = tokenizer.decode(&tokens, true);
        let again = tokenizer.encode(&text, Specials::AsText).unwrap();
        if text.len()
            == tokens.iter().map(|&token| tokenizer.token_bytes(token).unwrap().len()).sum::<usize>()
        {
            walked.walk(&again).unwrap();
            assert_eq!(walked.may_end().unwrap(), stepped.may_end().unwrap(), "{text:?} cut otherwise");
        }
    }
}

#[test]
fn a_text_that_does_not_fit_is_told_with_its_place() {
    let (compiler, tokenizer) = (compiler(), tokenizer());
    let mut constraint = compiler.compile(&Grammar::Regex("the end!*".into())).unwrap();
    let fits = tokenizer.encode("the end", Specials::AsText).unwrap();
    let other = tokenizer.encode("!?", Specials::AsText).unwrap();
    let error = constraint.walk(&[&fits[..], &other].concat()).unwrap_err();
    let GrammarError::Token { position, token, .. } = error else { panic!("{error}") };
    assert_eq!((position, token), (fits.len() + 1, other[1]));
    // It is before that token, and goes on.
    assert_eq!(constraint.accept(tokenizer.encode("!", Specials::AsText).unwrap()[0]), Ok(()));
    assert!(constraint.may_end().unwrap());
    assert!(constraint.walk(&fits).is_ok());
}

#[test]
fn what_can_not_be_enforced_is_refused() {
    let compiler = compiler();
    for (schema, words) in [
        (json!({"not": {"type": "string"}}), "\"not\""),
        (
            json!({"type": "object", "properties": {"a": {"if": {}, "then": {}}}}),
            "at \"#/properties/a\": Unimplemented keys: [\"if\"",
        ),
        (json!({"type": "array", "uniqueItems": true}), "uniqueItems"),
        (json!({"type": "string", "format": "postcode"}), "postcode"),
        (json!({"oneOf": [{"type": "string"}, {"maxLength": 3}]}), "exclude each other"),
        (json!({"$ref": "#/$defs/none"}), "$defs"),
        (json!({"$ref": "https://example.com/schema.json"}), "https://example.com"),
        (json!({"type": "strin"}), "strin"),
        (json!({"type": "integer", "minimum": 3, "maximum": 2}), "minimum"),
        (json!({"x-guidance": {"lenient": true}, "not": {}}), "x-guidance"),
        (json!({"properties": {"a": {"$id": "https://example.com/", "$ref": "#/x"}}}), "$id"),
        (json!(false), "Unsatisfiable"),
        (json!([1]), "object or boolean"),
        (json!({"type": "integer", "multipleOf": 1_000_003}), "multipleOf"),
        (json!({"type": "number", "allOf": [{"multipleOf": 99.991}, {"multipleOf": 99.989}]}), "multipleOf"),
    ] {
        let error = compiler.compile(&Grammar::JsonSchema(schema.clone())).unwrap_err();
        assert!(error.to_string().contains(words), "{schema}: {error}");
        let inside = Grammar::Lark(format!("start: \"a\" %json {schema}"));
        assert!(compiler.compile(&inside).is_err(), "{schema} inside a grammar");
    }
}

#[test]
fn a_grammar_in_error_is_told_where_and_why() {
    let compiler = compiler();
    for (grammar, words) in [
        (Grammar::Regex("a(b".into()), "unclosed group"),
        (Grammar::Regex("(?=a)b".into()), "look-around"),
        (Grammar::Regex(r"(a)\1".into()), "backreferences"),
        (Grammar::Lark("start: a".into()), "unknown name: \"a\""),
        (Grammar::Lark("begin: \"a\"".into()), "no start rule"),
        (Grammar::Lark("start: \"a\"\nb: (".into()), "2("),
        (Grammar::Lark("start: @other".into()), "other"),
    ] {
        let error = compiler.compile(&grammar).unwrap_err().to_string();
        assert!(error.contains(words), "{grammar:?}: {error}");
        assert!(!error.contains("<state>") && !error.contains("backtrace>") && error.len() < 1000, "{error}");
        assert!(!error.contains(char::is_control), "{error:?}");
    }
    for text in ["", "{", "{\"type\": }"] {
        let error = Grammar::json_schema(text).unwrap_err().to_string();
        assert!(error.contains("it is no JSON"), "{error}");
    }
}

#[test]
fn hostile_grammars_are_refused_or_ended() {
    let compiler = compiler();
    let (n, open) = (30_000, |text: &str, n: usize| text.repeat(n));
    let deep = |n: usize| (0..n).fold(json!({}), |inner, _| json!({"items": inner}));
    let many = |n: usize, with: &str| (0..n).map(|i| with.replace('#', &i.to_string())).collect::<Vec<_>>();
    let refused = [
        Grammar::Regex(open("(", n) + &open(")", n)),
        Grammar::Regex(open("a?", n)),
        Grammar::Lark("start: ".to_owned() + &open("(", n) + "\"a\"" + &open(")", n)),
        Grammar::Lark("start: %json ".to_owned() + &open("[", n)),
        Grammar::Lark(format!("start: A\nA: {}", many(24, "/.*x#.*/").join(" & "))),
        Grammar::Lark("start: r0\n".to_owned() + &many(n, "r#: \"a\"\n").join("")),
        Grammar::Lark(
            "start: R0\n".to_owned()
                + &(0..60).map(|i| format!("R{i}: R{} R{}\n", i + 1, i + 1)).collect::<String>(),
        ),
        Grammar::JsonSchema(deep(200)),
        Grammar::JsonSchema(json!({"enum": many(20_000, "value #")})),
        Grammar::JsonSchema(
            json!({"allOf": many(24, "x#").iter().map(|x| json!({"pattern": x})).collect::<Vec<_>>()}),
        ),
        Grammar::JsonSchema(
            json!({"anyOf": many(200, "x#").iter().map(|x| json!({"pattern": x})).collect::<Vec<_>>()}),
        ),
    ];
    for grammar in refused {
        let found = compiler.compile(&grammar);
        let short: String = format!("{grammar:?}").chars().take(60).collect();
        assert!(found.is_err(), "{short}");
    }
    // These are small and look harmless; what they take shows on the way.
    for grammar in [
        Grammar::Lark("start: a{1,1000}\na: b{1,1000}\nb: c{1,1000}\nc: \"x\" | \"y\"".into()),
        Grammar::Lark("start: a\na: b\nb: a".into()),
        Grammar::JsonSchema(json!({"$ref": "#"})),
    ] {
        let mut constraint = compiler.compile(&grammar).unwrap();
        let error = (0..2000).find_map(|_| {
            let token = match constraint.allowed() {
                Ok(words) => words
                    .iter()
                    .enumerate()
                    // The last one; the first are the end tokens.
                    .rfind(|(_, word)| **word != 0)
                    .map(|(at, word)| at as u32 * 32 + word.ilog2()),
                Err(error) => return Some(error),
            };
            constraint.accept(token.unwrap()).err()
        });
        let error = error.unwrap_or_else(|| panic!("{grammar:?} goes on"));
        assert!(matches!(error, GrammarError::TooMuchWork { .. } | GrammarError::DeadEnd { .. }), "{error}");
        assert!(constraint.allowed().is_err());
    }
}

#[test]
fn the_same_tokens_lead_to_the_same_masks() {
    let grammar = Grammar::JsonSchema(schemas::schema(&mut |end| 5 % end));
    let (mut one, mut other) = (compiler().compile(&grammar).unwrap(), compiler().compile(&grammar).unwrap());
    let mut numbers = Numbers(5);
    for _ in 0..40 {
        if one.is_complete() {
            break;
        }
        assert_eq!(one.allowed().unwrap(), other.allowed().unwrap());
        let allowed = allowed(&mut one);
        let token = allowed[numbers.below(allowed.len())];
        one.accept(token).unwrap();
        // What a fork works out is not known here, and is not spent here.
        let mut fork = other.clone();
        for token in fork.allowed().unwrap().to_vec().iter().take(1) {
            let _ = fork.accept(*token);
        }
        other.accept(token).unwrap();
    }
    assert_eq!(one.is_complete(), other.is_complete());
}

#[test]
fn a_grammar_is_kept_as_json() {
    for grammar in [
        Grammar::JsonSchema(json!({"type": "object", "properties": {"b": {}, "a": {}}})),
        Grammar::Regex("a\"\\d".into()),
        Grammar::Lark("start: \"x\"\n".into()),
    ] {
        let text = serde_json::to_string(&grammar).unwrap();
        assert_eq!(serde_json::from_str::<Grammar>(&text).unwrap(), grammar);
    }
}

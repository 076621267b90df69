//! A Lark grammar, compiled to a constraint and followed for some tokens.

use membrane_text::Grammar;

use super::json_schema::follow;

/// What grammars are made of.
pub const WORDS: &[&str] = &[
    "start:",
    "\n",
    "|",
    "\"a\"",
    "/[a-z]+/",
    "/x/i",
    "%import common.INT",
    "%ignore",
    "%json {\"type\":\"null\"}",
    "%llguidance {}",
    "%regex {\"substring_chars\":\"abc\"}",
    "[capture]",
    "[lazy]",
    "[stop=\"x\"]",
    "[max_tokens=3]",
    "[suffix=\"x\"]",
    "<[1,2]>",
    "<|im_end|>",
    "~ 2..4",
    "{2,4}",
    "?",
    "*",
    "+",
    "(",
    ")",
    "&",
    "~",
    "@a",
    "->",
    "%declare",
    "\"a\"..\"z\"",
];

/// Compiles and follows it.
pub fn target(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        follow(&Grammar::Lark(text.to_owned()), data);
    }
}

/// Grammars of each construct.
pub fn seeds() -> Vec<Vec<u8>> {
    let grammars = [
        "start: greeting (\" \" NAME)? \"!\"\ngreeting: \"hello\" | \"bye\"\nNAME: /[A-Z][a-z]{1,8}/\n",
        "start: sum\nsum: product ((\"+\" | \"-\") product)*\nproduct: atom ((\"*\" | \"/\") atom)*\natom: INT | \"(\" sum \")\"\n\
         %import common.INT\n",
        "start: item{1,3}\nitem: \"a\"..\"f\" | X~2..4\nX: \"x\"i\n%ignore /[ \\t]+/\n",
        "start: \"{\" obj \"}\"\nobj: %json {\"type\": \"integer\", \"minimum\": 1}\n",
        "start: t\nt[lazy]: /[a-z]*/ \"end\"\n",
        "start: A\nA: B & ~C\nB: /[a-z]+/\nC: \"no\"\n",
    ];
    grammars.iter().map(|grammar| grammar.as_bytes().to_vec()).collect()
}

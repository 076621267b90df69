//! Answers a question of arithmetic with expressions that a calculator has worked out.
//!
//! The model writes several expressions, in forks of one context and at the same time, and a tool works them out. The equation
//! that the model finds likeliest is written, and behind it the model says the answer in a sentence.
#![forbid(unsafe_code)]

use membrane_plugin::agent::{Agent, Generation, GenerationOptions, Role, Session, Turn, call_tool, output};
use membrane_plugin::log;
use serde::{Deserialize, Serialize};

const SYSTEM: &str = "Write the arithmetic expression that answers the question, and nothing else.";
const QUESTION: &str = "A shelf has 4 rows of 6 cups. How many cups are there?";
const EQUATION: &str = "4 * 6 = 24";
const SENTENCE: &str = "Say the answer in one sentence.";

/// What the profile sets. See `plugin.toml` for the ranges.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Parameters {
    tries: u32,
    tool: String,
}

impl Default for Parameters {
    fn default() -> Self {
        Self { tries: 4, tool: "calculator".into() }
    }
}

/// What the tool is given.
#[derive(Serialize)]
struct Arguments<'a> {
    expression: &'a str,
}

/// The agent.
pub struct CheckedSums(Parameters);

impl Agent for CheckedSums {
    type Parameters = Parameters;

    fn new(parameters: Parameters) -> Result<Self, String> {
        if !(1..=16).contains(&parameters.tries) {
            return Err(format!("tries: {} is not between 1 and 16", parameters.tries));
        }
        Ok(Self(parameters))
    }

    fn run(&mut self, task: &str) -> Result<String, String> {
        let session = Session::new();
        let mut turns = vec![
            Turn::new(Role::System, SYSTEM),
            Turn::new(Role::User, QUESTION),
            Turn::new(Role::Assistant, EQUATION),
            Turn::new(Role::User, task),
        ];
        session.chat(&turns, false)?;
        let equations = self.worked_out(self.expressions(&session)?)?;
        let equation = likeliest(&session, equations)?;
        output::write(&format!("{equation}\n"));
        turns.extend([Turn::new(Role::Assistant, equation), Turn::new(Role::User, SENTENCE)]);
        session.chat(&turns, false)?;
        let sentence = session.generate(&GenerationOptions::new().at_most(48).until("\n"))?;
        while let Some(piece) = sentence.next()? {
            output::write(&piece);
        }
        Ok(String::new())
    }
}

impl CheckedSums {
    /// What the model writes in forks of a session, all of which are in the making at the same time.
    fn expressions(&self, session: &Session) -> Result<Vec<String>, String> {
        let options = GenerationOptions::new().at_most(24).until("=").until("\n");
        let started: Result<Vec<Generation>, _> =
            (0..self.0.tries).map(|_| session.fork()?.generate(&options)).collect();
        let written = started?.into_iter().map(|generation| Ok(cleaned(&generation.finish()?.text)));
        written.collect()
    }

    /// The equations that the tool makes of expressions, each once. What it can't work out is left out.
    fn worked_out(&self, expressions: Vec<String>) -> Result<Vec<String>, String> {
        let mut equations = Vec::new();
        let mut wrong = "the model wrote none".to_owned();
        for (place, expression) in expressions.iter().enumerate() {
            if expression.is_empty() || expressions[..place].contains(expression) {
                continue;
            }
            match call_tool(&self.0.tool, &Arguments { expression }) {
                Ok(result) => equations.push(format!("{expression} = {result}")),
                Err(error) => {
                    log::debug(&format!("{expression}: {error}"));
                    wrong = error;
                }
            }
        }
        if equations.is_empty() {
            return Err(format!("no expression could be worked out: {wrong}"));
        }
        Ok(equations)
    }
}

/// What of a text can stand in an expression.
fn cleaned(text: &str) -> String {
    let kept: String = text.chars().filter(|character| "0123456789.+-*/() ".contains(*character)).collect();
    kept.trim().to_owned()
}

/// The text that has the largest mean log probability of its tokens behind a session's context; the first of equal ones.
fn likeliest(session: &Session, texts: Vec<String>) -> Result<String, String> {
    let scores = session.score(&texts)?;
    let means = scores.iter().map(|score| score.log_probability / f64::from(score.tokens.max(1)));
    let mut best = (0, f64::NEG_INFINITY);
    for (place, mean) in means.enumerate() {
        if mean > best.1 {
            best = (place, mean);
        }
    }
    texts.into_iter().nth(best.0).ok_or_else(|| "there is no equation".to_owned())
}

membrane_plugin::export_agent!(CheckedSums);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_part_of_an_expression_is_dropped() {
        assert_eq!(cleaned(" 12 eggs * 7 boxes "), "12  * 7");
        assert_eq!(cleaned("$(1,000 - 3) / 2"), "(1000 - 3) / 2");
        assert_eq!(cleaned("twelve"), "");
    }
}

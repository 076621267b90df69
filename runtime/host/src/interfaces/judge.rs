//! The interface `judge`, for policies.

use wasmtime::Result;

use crate::bindings::policy::membrane::plugin::judge::{Host, Question};
use crate::judge::JudgeError;
use crate::limits::{
    ITEM_UNITS, MAX_JUDGE_CALLS, MAX_JUDGE_CONTINUATION_BYTES, MAX_JUDGE_CONTINUATIONS, MAX_JUDGE_TOKENS,
    MAX_JUDGED_BYTES, MAX_JUDGED_BYTES_TOGETHER, MAX_JUDGED_MESSAGES, REFUSED_BYTES_PER_TOKEN,
};
use crate::state::State;

impl Host for State {
    fn score(&mut self, question: Question, continuations: Vec<String>) -> Result<Result<Vec<f64>, String>> {
        let texts = continuations.iter().map(String::len).sum::<usize>();
        let asked = bytes(&question).saturating_add(texts);
        let items =
            continuations.len() + if let Question::Chat(messages) = &question { messages.len() } else { 0 };
        self.charge(asked.saturating_add(items * ITEM_UNITS))?;
        if let Err(why) = check(&question, &continuations) {
            return Ok(Err(why));
        }
        let (bench, policy) = self.bench()?;
        if bench.calls == MAX_JUDGE_CALLS {
            return Ok(Err(format!(
                "this policy has asked {MAX_JUDGE_CALLS} times in this answer, the most"
            )));
        }
        bench.calls += 1;
        let together = bench.bytes.saturating_add(asked);
        if together > MAX_JUDGED_BYTES_TOGETHER {
            return Ok(Err(format!(
                "with this question the policy asks {together} bytes in this answer; the limit is \
                 {MAX_JUDGED_BYTES_TOGETHER}"
            )));
        }
        bench.bytes = together;
        let left = MAX_JUDGE_TOKENS - bench.tokens;
        let judged = bench.judge.lock().score(&policy, &question.into(), &continuations, left);
        let spent = match &judged {
            Ok(judged) => judged.tokens,
            // It was cut into tokens to find out.
            Err(JudgeError::Tokens { .. } | JudgeError::Invalid(_)) => asked as u64 / REFUSED_BYTES_PER_TOKEN,
            Err(JudgeError::Unavailable(_) | JudgeError::Cancelled) => 0,
        };
        bench.tokens = bench.tokens.saturating_add(spent).min(MAX_JUDGE_TOKENS);
        match judged {
            Ok(judged) if judged.scores.len() == continuations.len() => Ok(Ok(judged.scores)),
            Ok(_) => Err(self.unjudged("it gave another number of scores")),
            Err(JudgeError::Tokens { tokens }) => Ok(Err(format!(
                "the question and its continuations have {tokens} tokens, and {left} of the {MAX_JUDGE_TOKENS} of this \
                 answer are left"
            ))),
            Err(JudgeError::Invalid(why)) => Ok(Err(why)),
            Err(error @ (JudgeError::Unavailable(_) | JudgeError::Cancelled)) => {
                Err(self.unjudged(&error.to_string()))
            }
        }
    }
}

fn bytes(question: &Question) -> usize {
    match question {
        Question::Text(text) => text.len(),
        Question::Chat(messages) => messages.iter().map(|message| message.content.len()).sum(),
    }
}

/// Checks what can be checked without a model.
fn check(question: &Question, continuations: &[String]) -> Result<(), String> {
    let asked = bytes(question);
    if asked > MAX_JUDGED_BYTES {
        return Err(format!("the question has {asked} bytes; the limit is {MAX_JUDGED_BYTES}"));
    }
    if let Question::Chat(messages) = question
        && !(1..=MAX_JUDGED_MESSAGES).contains(&messages.len())
    {
        let found = messages.len();
        return Err(format!("a conversation has 1 to {MAX_JUDGED_MESSAGES} messages, and this one {found}"));
    }
    let count = continuations.len();
    if !(1..=MAX_JUDGE_CONTINUATIONS).contains(&count) {
        return Err(format!("{count} continuations; there must be 1 to {MAX_JUDGE_CONTINUATIONS}"));
    }
    let wrong = continuations.iter().find(|text| !(1..=MAX_JUDGE_CONTINUATION_BYTES).contains(&text.len()));
    wrong.map_or(Ok(()), |text| {
        let bytes = text.len();
        Err(format!("a continuation has 1 to {MAX_JUDGE_CONTINUATION_BYTES} bytes, and this one {bytes}"))
    })
}

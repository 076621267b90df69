//! Generates several answers at a time, in forks of one context, and gives the one that the model itself finds likeliest.

use membrane_plugin::agent::{Agent, Completion, Generation, GenerationOptions, Role, Session, Turn};
use serde::Deserialize;

/// What the profile may set.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Parameters {
    /// Answers, 1 to 16.
    n: u32,
    /// Most tokens of each; 0 is as many as the context holds.
    max_tokens: u32,
    /// A system message before the task.
    system: String,
}

impl Default for Parameters {
    fn default() -> Self {
        Self { n: 4, max_tokens: 512, system: String::new() }
    }
}

/// The agent.
pub struct BestOfN(Parameters);

impl Agent for BestOfN {
    type Parameters = Parameters;

    fn new(parameters: Parameters) -> Result<Self, String> {
        if !(1..=16).contains(&parameters.n) {
            return Err(format!("n: {} is not between 1 and 16", parameters.n));
        }
        Ok(Self(parameters))
    }

    fn run(&mut self, task: &str) -> Result<String, String> {
        let session = Session::new();
        let system = (!self.0.system.is_empty()).then(|| Turn::new(Role::System, self.0.system.clone()));
        let turns: Vec<Turn> = system.into_iter().chain([Turn::new(Role::User, task)]).collect();
        session.chat(&turns, false)?;
        let answers = self.answers(&session)?;
        let texts = written(answers);
        if texts.len() <= 1 {
            return Ok(texts.into_iter().next().unwrap_or_default());
        }
        let scores = session.score(&texts)?;
        let means = scores.iter().map(|score| score.log_probability / f64::from(score.tokens.max(1)));
        let best = best(means.collect());
        texts.into_iter().nth(best).ok_or_else(|| "the model gave no answer".to_owned())
    }
}

impl BestOfN {
    /// The answers, all of which are in the making at the same time. One that a policy refused is left out, unless all are.
    fn answers(&self, session: &Session) -> Result<Vec<Completion>, String> {
        let mut options = GenerationOptions::new();
        options.max_tokens = (self.0.max_tokens > 0).then_some(self.0.max_tokens);
        let forks = (0..self.0.n).map(|_| session.fork()).collect::<Result<Vec<Session>, _>>()?;
        let started: Result<Vec<Generation>, _> = forks.iter().map(|fork| fork.generate(&options)).collect();
        let (mut answers, mut refused) = (Vec::new(), None);
        for generation in started? {
            match generation.finish() {
                Ok(answer) => answers.push(answer),
                Err(error) => refused = Some(error),
            }
        }
        match refused {
            Some(error) if answers.is_empty() => Err(error.into()),
            _ => Ok(answers),
        }
    }
}

/// The texts that are not empty. An empty one has no tokens and the score 0, which no other exceeds.
fn written(answers: Vec<Completion>) -> Vec<String> {
    answers.into_iter().map(|answer| answer.text).filter(|text| !text.is_empty()).collect()
}

/// The place of the largest number, the first of equal ones.
fn best(means: Vec<f64>) -> usize {
    let mut best = 0;
    for (place, mean) in means.iter().enumerate() {
        if *mean > means[best] {
            best = place;
        }
    }
    best
}

membrane_plugin::export_agent!(BestOfN);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_the_largest_is_best() {
        assert_eq!(best(vec![-2.0, -1.0, -1.0]), 1);
        assert_eq!(best(vec![f64::NEG_INFINITY]), 0);
    }
}

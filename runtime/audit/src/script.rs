//! An answer as a sequence of steps that can be taken again, from its records and, where there is one, the text
//! file.

use serde_json::Value;

use crate::content::{CallText, Content, EndText, Output, PromptText, TokensText};
use crate::judgement::{JudgedIds, Judgement, JudgementText, LogProbability};
use crate::record::{Constraint, Sealed, Swap, Tokens, Verdict};
use crate::text::Texts;
use crate::transcript::{Event, RecordedAnswer};

/// One step of an answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// A round begins.
    Prompt {
        /// Token ids; none if the log has only their digest.
        ids: Option<Vec<u32>>,
        /// The prompt as policies saw it; none without a text.
        rendered: Option<String>,
    },
    /// A token was chosen.
    Token(ChosenToken),
    /// A text was sent through the policies.
    Output(Output),
    /// The session goes on behind its prompt and these tokens.
    Rewind {
        /// Token ids behind the prompt; none if the log has only their digest.
        ids: Option<Vec<u32>>,
    },
    /// The model asked for a tool.
    Call(CallText),
    /// Plugins were exchanged.
    Swap(Swap),
}

/// A token as it was chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct ChosenToken {
    /// Its place in the answer, from 0.
    pub index: u64,
    /// Its id; none if the log has only the digest.
    pub id: Option<u32>,
    /// Name of the sampler.
    pub by: String,
    /// Its probability among the tokens in the running, where the sampler drew it from those.
    pub probability: Option<f32>,
}

/// What the model judged for a policy.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    /// Name of the policy.
    pub policy: String,
    /// Tokens of question and texts together.
    pub tokens: u64,
    /// How likely each text is; none where the model could not say.
    pub scores: Option<Vec<LogProbability>>,
    /// Token ids; none if the log has only their digest.
    pub ids: Option<JudgedIds>,
    /// What was asked; none without a text.
    pub text: Option<JudgementText>,
}

/// An answer, ready to be made again.
#[derive(Debug, Clone, PartialEq)]
pub struct Script {
    /// Number of the behaviour that the answer would have gone back to, if it began on trial.
    pub before: Option<u64>,
    /// The messages that were asked; none without a text.
    pub messages: Option<Vec<Value>>,
    /// What the text had to follow, if there was something.
    pub constraint: Option<Constraint>,
    /// The steps, in order.
    pub steps: Vec<Step>,
    /// The verdicts, in order.
    pub verdicts: Vec<Verdict>,
    /// What the model judged for policies, in order.
    pub judgements: Vec<Judged>,
    /// What came of it; none without a text, or where the program was killed.
    pub end: Option<EndText>,
    /// Whether every content is there: then decisions can be replayed.
    pub texts: bool,
    /// Whether all token ids are there: then generation can be replayed.
    pub ids: bool,
}

impl Script {
    /// Puts an answer together. The error says which records contradict each other.
    pub fn of(answer: &RecordedAnswer, texts: Option<&Texts>) -> Result<Self, String> {
        let mut reader = Reader { texts, complete: true };
        let request = match reader.content(&answer.start.request) {
            Some(Content::Request(text)) => Some(text),
            _ => None,
        };
        let mut script = Self {
            before: answer.start.before,
            messages: request.map(|text| text.messages.clone()),
            constraint: answer.start.constraint.clone(),
            steps: Vec::new(),
            verdicts: Vec::new(),
            judgements: Vec::new(),
            end: None,
            texts: false,
            ids: false,
        };
        if let Some(constraint) = &mut script.constraint
            && constraint.grammar.is_none()
        {
            constraint.grammar = request.and_then(|text| text.grammar.clone());
        }
        let mut chosen = 0;
        for event in &answer.events {
            match event {
                Event::Round(round) => {
                    let text = reader.prompt(&round.prompt);
                    let ids = round.ids.clone().or_else(|| text.map(|text| text.ids.clone()));
                    check_count("a prompt", ids.as_deref(), round.tokens)?;
                    script.steps.push(Step::Prompt { ids, rendered: text.map(|text| text.rendered.clone()) });
                }
                Event::Tokens(tokens) => {
                    check_place("a run of tokens", tokens.first, chosen)?;
                    chosen = chosen.saturating_add(tokens.count);
                    reader.tokens(tokens, &mut script.steps)?;
                }
                Event::Verdict(verdict) => script.verdicts.push(verdict.clone()),
                Event::Judgement(judgement) => script.judgements.push(reader.judgement(judgement)),
                Event::Tool(tool) => {
                    if let Some(Content::Call(text)) = reader.content(&tool.call) {
                        script.steps.push(Step::Call(text.clone()));
                    }
                }
                Event::Rewind(rewind) => {
                    let text = reader.prompt(&rewind.prompt);
                    let ids = rewind.ids.clone().or_else(|| text.map(|text| text.ids.clone()));
                    script.steps.push(Step::Rewind { ids });
                }
                Event::Swap(swap) => {
                    check_place("an exchange of plugins", swap.token, chosen)?;
                    script.steps.push(Step::Swap(swap.clone()));
                }
                Event::End(end) => {
                    if let Some(Content::End(text)) = reader.content(&end.text) {
                        script.end = Some(text.clone());
                    }
                }
            }
        }
        script.texts = reader.complete;
        script.ids = script.steps.iter().all(|step| match step {
            Step::Prompt { ids, .. } | Step::Rewind { ids } => ids.is_some(),
            Step::Token(token) => token.id.is_some(),
            _ => true,
        });
        Ok(script)
    }

    /// The reloads in the middle of the answer, in order.
    pub fn swaps(&self) -> impl Iterator<Item = &Swap> {
        self.steps.iter().filter_map(|step| match step {
            Step::Swap(swap) => Some(swap),
            _ => None,
        })
    }

    /// The tokens, in order.
    pub fn tokens(&self) -> impl Iterator<Item = &ChosenToken> {
        self.steps.iter().filter_map(|step| match step {
            Step::Token(token) => Some(token),
            _ => None,
        })
    }
}

struct Reader<'a> {
    texts: Option<&'a Texts>,
    complete: bool,
}

impl<'a> Reader<'a> {
    fn content(&mut self, sealed: &Sealed) -> Option<&'a Content> {
        let content = self.texts.and_then(|texts| texts.get(&sealed.digest));
        self.complete &= content.is_some();
        content
    }

    fn prompt(&mut self, sealed: &Sealed) -> Option<&'a PromptText> {
        match self.content(sealed) {
            Some(Content::Prompt(text)) => Some(text),
            _ => None,
        }
    }

    fn judgement(&mut self, judgement: &Judgement) -> Judged {
        let text = match self.content(&judgement.text) {
            Some(Content::Judgement(text)) => Some(text.clone()),
            _ => None,
        };
        Judged {
            policy: judgement.policy.clone(),
            tokens: judgement.tokens,
            scores: judgement.scores.clone(),
            ids: judgement.ids.clone().or_else(|| text.as_ref().map(|text| text.ids.clone())),
            text,
        }
    }

    /// Tokens with the texts that were sent through the policies between them.
    fn tokens(&mut self, tokens: &Tokens, steps: &mut Vec<Step>) -> Result<(), String> {
        let text: Option<&TokensText> = match self.content(&tokens.text) {
            Some(Content::Tokens(text)) => Some(text),
            _ => None,
        };
        let ids = tokens.ids.as_deref().or_else(|| text.map(|text| &text.ids[..]));
        check_count("a run of tokens", ids, tokens.count)?;
        let by: Vec<&str> = tokens
            .by
            .iter()
            .flat_map(|(name, count)| (0..*count).map(move |_| name.as_str()))
            .take(1 << 20)
            .collect();
        if by.len() as u64 != tokens.count || tokens.probabilities.len() as u64 != tokens.count {
            return Err(format!("a run of {} tokens does not say who chose each of them", tokens.count));
        }
        let mut outputs = text.map(|text| text.outputs.iter()).unwrap_or_default().peekable();
        for index in 0..tokens.count as usize {
            let place = tokens.first.saturating_add(index as u64);
            while let Some(output) = outputs.next_if(|output| output.token <= place) {
                steps.push(Step::Output(output.clone()));
            }
            steps.push(Step::Token(ChosenToken {
                index: place,
                id: ids.map(|ids| ids[index]),
                by: by[index].to_owned(),
                probability: tokens.probabilities[index],
            }));
        }
        steps.extend(outputs.map(|output| Step::Output(output.clone())));
        Ok(())
    }
}

/// What happens at a token must stand behind the tokens before it, and before the others.
fn check_place(what: &str, token: u64, chosen: u64) -> Result<(), String> {
    if token == chosen {
        return Ok(());
    }
    Err(format!("{what} is at token {token} and stands behind {chosen} tokens"))
}

fn check_count(what: &str, ids: Option<&[u32]>, count: u64) -> Result<(), String> {
    match ids {
        Some(ids) if ids.len() as u64 != count => {
            Err(format!("{what} has {} ids and should have {count}", ids.len()))
        }
        _ => Ok(()),
    }
}

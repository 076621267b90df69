//! A prompt on its way from the chat template to the model, in which a person's text can't pass for the
//! template's.
//!
//! The template writes control tokens such as `<|im_start|>` as text, between messages that may hold the same
//! text. If one does, the conversation is rendered once more with a mark behind each character of it; where
//! marks come out, there is no control token.

use std::ops::Range;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::conversation::{ChatMessage, Conversation};
use crate::error::{Result, TextError, shown};
use crate::template::ChatTemplate;
use crate::tokenizer::{Specials, Tokenizer};

/// A prompt that knows which of its text to trust.
#[derive(Debug, Clone)]
pub struct Prompt {
    text: String,
    /// What it was rendered from; none if a person wrote it all.
    origin: Option<Arc<Origin>>,
}

#[derive(Debug)]
struct Origin {
    template: ChatTemplate,
    messages: Vec<ChatMessage>,
    tools: Vec<Value>,
    add_generation_prompt: bool,
    extra: Map<String, Value>,
    bos_token: String,
    eos_token: String,
    now: i64,
}

impl Prompt {
    /// A prompt that a person wrote, without any template: no control token is made of it.
    pub fn user_text(text: &str) -> Self {
        Self { text: text.to_owned(), origin: None }
    }

    pub(crate) fn render(template: ChatTemplate, conversation: &Conversation<'_>) -> Result<Self> {
        let text = template.render(conversation)?;
        let origin = Origin {
            template,
            messages: conversation.messages.to_vec(),
            tools: conversation.tools.to_vec(),
            add_generation_prompt: conversation.add_generation_prompt,
            extra: conversation.extra.clone(),
            bos_token: conversation.bos_token.to_owned(),
            eos_token: conversation.eos_token.to_owned(),
            now: conversation.now,
        };
        Ok(Self { text, origin: Some(Arc::new(origin)) })
    }

    /// The whole text, as the model will read it.
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl Origin {
    fn conversation(&self) -> Conversation<'_> {
        Conversation {
            messages: &self.messages,
            tools: &self.tools,
            add_generation_prompt: self.add_generation_prompt,
            extra: &self.extra,
            bos_token: &self.bos_token,
            eos_token: &self.eos_token,
            now: self.now,
        }
    }
}

/// Characters that Unicode keeps free for a program's own use and that no text should have.
const MARKS: std::ops::RangeInclusive<char> = '\u{FDD0}'..='\u{FDEF}';

impl Tokenizer {
    /// The tokens of a prompt. Control tokens come only from the chat template, never from what a message, a
    /// tool or a call holds, whatever its text.
    ///
    /// Without such text the tokens are those of [`Tokenizer::encode`] for the whole.
    pub fn encode_prompt(&self, prompt: &Prompt) -> Result<Vec<u32>> {
        let Some(origin) = &prompt.origin else {
            return self.encode(&prompt.text, Specials::AsText);
        };
        let untrusted = self.untrusted(prompt, origin)?;
        self.encode_parts(&prompt.text, true, &untrusted)
    }

    /// Where in the prompt there is text like a control token's that the template didn't write.
    fn untrusted(&self, prompt: &Prompt, origin: &Origin) -> Result<Vec<Range<usize>>> {
        let first = std::cell::RefCell::new(None);
        let used = std::cell::RefCell::new(Vec::new());
        let (conversation, reads) = (origin.conversation(), origin.template.reads());
        conversation.variables(reads, &|text| {
            if first.borrow().is_none() {
                *first.borrow_mut() = self.look_alikes(text).first().map(|range| shown(&text[range.clone()]));
            }
            used.borrow_mut().extend(text.chars().filter(|character| MARKS.contains(character)));
            text.to_owned()
        });
        let Some(look_alike) = first.into_inner() else { return Ok(Vec::new()) };
        let used = used.into_inner();
        let forged = || TextError::Forged { text: look_alike.clone() };
        let mark = MARKS.into_iter().find(|mark| !used.contains(mark) && !prompt.text.contains(*mark));
        let mark = mark.ok_or_else(forged)?;
        let variables = conversation.variables(reads, &|text| marked(text, &self.look_alikes(text), mark));
        let marked = origin.template.render_variables(&variables, origin.now)?;
        let (text, untrusted) = unmarked(&marked, mark);
        // A template that looks for such text in a message may write something else for the marked one.
        if text == prompt.text { Ok(untrusted) } else { Err(forged()) }
    }

    /// Where in a text there is a control token's text, or a part of it that what surrounds the text could
    /// complete.
    fn look_alikes(&self, text: &str) -> Vec<Range<usize>> {
        let added = self.added();
        let mut ranges: Vec<Range<usize>> =
            added.control_places(text).into_iter().map(|found| found.start..found.end).collect();
        let (head, tail) = added.control_edges(text);
        ranges.extend([0..head, text.len() - tail..text.len()].into_iter().filter(|range| !range.is_empty()));
        ranges
    }
}

/// `text` with `mark` behind each character that starts in one of `ranges`.
fn marked(text: &str, ranges: &[Range<usize>], mark: char) -> String {
    let mut out = String::with_capacity(text.len());
    for (at, character) in text.char_indices() {
        out.push(character);
        if ranges.iter().any(|range| range.contains(&at)) {
            out.push(mark);
        }
    }
    out
}

/// The text without marks, and the places of the characters before them.
fn unmarked(text: &str, mark: char) -> (String, Vec<Range<usize>>) {
    let mut out = String::with_capacity(text.len());
    let mut ranges: Vec<Range<usize>> = Vec::new();
    let mut last = 0;
    for character in text.chars() {
        if character != mark {
            last = out.len();
            out.push(character);
        } else if ranges.last().is_none_or(|range| range.end <= last) {
            ranges.push(last..out.len());
        }
    }
    (out, ranges)
}

//! The decode loop: the only place where a token is emitted.
//!
//! Logits go to the samplers, the token that they choose becomes bytes, bytes become text, text goes through the tool-call
//! parser to the policies, and what they release becomes an event. The token then goes back into the session.

use std::sync::atomic::{AtomicBool, Ordering};

use membrane_engine::{EngineError, Session};
use membrane_host::{Ended, Refused};
use membrane_text::{ParserEvent, Specials, Tokenizer, ToolCall, ToolCallParser, Utf8Stream};

use crate::behaviour::Running;
use crate::error::{GenerateError, Result};
use crate::event::{EndReason, Event, Intervention};

/// What one round of decoding starts from.
pub(crate) struct Round<'a> {
    /// The prompt; the session holds it, with logits.
    pub prompt: &'a [u32],
    /// Most tokens to choose.
    pub max_tokens: Option<usize>,
    /// Whether tool calls are looked for.
    pub tools: bool,
}

/// How a round ended.
pub(crate) enum RoundEnd {
    Ended(EndReason),
    ToolCalls(Vec<ToolCall>),
}

/// What ends a round early.
pub(crate) enum DecodeError {
    Refused(Refused),
    Failed(GenerateError),
}

impl<E: Into<GenerateError>> From<E> for DecodeError {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// One round of decoding.
pub(crate) struct Decoder<'a> {
    tokenizer: &'a Tokenizer,
    session: &'a mut Session,
    running: &'a mut Running,
    round: Round<'a>,
    utf8: Utf8Stream,
    parser: Option<ToolCallParser>,
    calls: Vec<ToolCall>,
    /// Text of this round that policies have released.
    released: String,
    logits: Vec<f32>,
    chosen: usize,
}

impl<'a> Decoder<'a> {
    pub fn new(
        tokenizer: &'a Tokenizer,
        session: &'a mut Session,
        running: &'a mut Running,
        round: Round<'a>,
    ) -> Self {
        let parser = (round.tools && !running.tools.is_empty()).then(ToolCallParser::new);
        Self {
            tokenizer,
            session,
            running,
            round,
            utf8: Utf8Stream::default(),
            parser,
            calls: Vec::new(),
            released: String::new(),
            logits: Vec::new(),
            chosen: 0,
        }
    }

    /// Tokens that samplers have chosen.
    pub fn chosen(&self) -> usize {
        self.chosen
    }

    /// Decodes until something ends the round.
    pub fn run(
        &mut self,
        cancel: &AtomicBool,
        sink: &mut dyn FnMut(Event),
    ) -> std::result::Result<RoundEnd, DecodeError> {
        let reason = loop {
            if cancel.load(Ordering::Relaxed) {
                return Ok(RoundEnd::Ended(EndReason::Cancelled));
            }
            if self.round.max_tokens.is_some_and(|max| self.chosen >= max) {
                break EndReason::Length;
            }
            let token = self.choose()?;
            if self.tokenizer.end_tokens().contains(&token) {
                break EndReason::Stop;
            }
            if let Some(flow) = self.emit(token, sink)? {
                match flow {
                    Flow::Ended(reason) => return Ok(RoundEnd::Ended(reason)),
                    Flow::Forced => continue,
                }
            }
            if self.session.room() == 0 {
                break EndReason::Context;
            }
            match self.session.append(&[token]) {
                Err(EngineError::Cancelled) => return Ok(RoundEnd::Ended(EndReason::Cancelled)),
                result => result?,
            }
        };
        self.finish(reason, sink)
    }

    /// The samplers' choice for the next token.
    fn choose(&mut self) -> Result<u32> {
        self.logits.clear();
        self.logits.extend_from_slice(self.session.logits());
        let history = self.session.tokens();
        let chosen = self.running.samplers.next(&mut self.logits, history, self.round.prompt.len())?;
        self.chosen += 1;
        Ok(chosen.token)
    }

    /// Sends a token's text on its way to the person.
    fn emit(
        &mut self,
        token: u32,
        sink: &mut dyn FnMut(Event),
    ) -> std::result::Result<Option<Flow>, DecodeError> {
        if self.tokenizer.is_control(token) {
            return Ok(None);
        }
        let text = self.utf8.push(self.tokenizer.token_bytes(token)?);
        self.text(&text, false, sink)
    }

    /// Text through the tool-call parser and the policies.
    fn text(
        &mut self,
        text: &str,
        done: bool,
        sink: &mut dyn FnMut(Event),
    ) -> std::result::Result<Option<Flow>, DecodeError> {
        let mut plain = String::new();
        match &mut self.parser {
            None => plain.push_str(text),
            Some(parser) => {
                let mut events = parser.feed(text);
                if done {
                    events.extend(parser.finish());
                }
                for event in events {
                    match event {
                        ParserEvent::Text(text) => plain.push_str(&text),
                        ParserEvent::ToolCall(call) => self.calls.push(call),
                        ParserEvent::Malformed { raw, .. } => plain.push_str(&raw),
                    }
                }
            }
        }
        let last = done && self.calls.is_empty();
        if plain.is_empty() && !last {
            return Ok(None);
        }
        let outcome = self.running.policies.output(&plain, last);
        for intervention in &outcome.interventions {
            sink(Event::Intervention(Intervention::from(intervention)));
        }
        if !outcome.released.is_empty() {
            self.released.push_str(&outcome.released);
            sink(Event::Text { text: outcome.released });
        }
        match outcome.ended {
            None => Ok(None),
            Some(Ended::Stopped) => Ok(Some(Flow::Ended(EndReason::PolicyStop))),
            Some(Ended::Refused(refused)) => Err(DecodeError::Refused(refused)),
            Some(Ended::Forced) => {
                self.rewind()?;
                Ok(Some(Flow::Forced))
            }
        }
    }

    /// Puts the session where it would be had the model written what was released, forced text included.
    fn rewind(&mut self) -> Result<()> {
        let mut tokens = self.round.prompt.to_vec();
        tokens.extend(self.tokenizer.encode(&self.released, Specials::AsText)?);
        self.session.sync(&tokens)?;
        self.utf8 = Utf8Stream::default();
        if let Some(parser) = &mut self.parser {
            *parser = ToolCallParser::new();
        }
        Ok(())
    }

    fn finish(
        &mut self,
        reason: EndReason,
        sink: &mut dyn FnMut(Event),
    ) -> std::result::Result<RoundEnd, DecodeError> {
        let rest = self.utf8.finish();
        match self.text(&rest, true, sink)? {
            Some(Flow::Ended(reason)) => Ok(RoundEnd::Ended(reason)),
            _ if !self.calls.is_empty() => Ok(RoundEnd::ToolCalls(std::mem::take(&mut self.calls))),
            _ => Ok(RoundEnd::Ended(reason)),
        }
    }
}

/// What a policy did to the round.
enum Flow {
    Ended(EndReason),
    Forced,
}

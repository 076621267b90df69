//! The decode loop: the only place where a token is emitted.
//!
//! Logits go to the samplers, without what a constraint does not allow; the token that they choose becomes
//! bytes, bytes become text, text goes through the tool-call parser to the policies, and what they release
//! becomes an event. The token then goes back into the session.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use membrane_engine::{EngineError, Session};
use membrane_host::Ended;
use membrane_text::{Constraint, ParserEvent, Tokenizer, ToolCall, Utf8Stream};
use serde_json::Value;

use crate::behaviour::Running;
use crate::error::{GenerateError, Result, Stopped};
use crate::event::{EndReason, Event, Intervention};
use crate::passes::Seat;
use crate::reader::Reader;
use crate::speculate::Drafting;
use crate::stop::StopTexts;

/// What one round of decoding starts from.
pub(crate) struct Round<'a> {
    /// The prompt; the session holds it, with logits.
    pub prompt: &'a [u32],
    /// Most tokens to choose.
    pub max_tokens: Option<usize>,
    /// Whether the prompt is a conversation by the model's chat template, which the model answers in the form that it was taught.
    pub chat: bool,
    /// Whether the text ends with the round, also where it ends in calls.
    pub last: bool,
    /// The tools that calls are looked for of, as chat templates take them.
    pub tools: Arc<[Value]>,
    /// Texts that end it.
    pub stop: &'a [String],
    /// The session's place in passes that it shares with others, if it shares any.
    pub seat: Option<&'a Seat>,
    /// What may be computed ahead.
    pub drafting: Drafting,
    /// What the text must follow.
    pub constraint: Option<&'a mut Constraint>,
}

/// How a round ended.
pub(crate) enum RoundEnd {
    Ended(EndReason),
    ToolCalls(Vec<ToolCall>),
}

/// One round of decoding.
pub(crate) struct Decoder<'a> {
    tokenizer: &'a Tokenizer,
    session: &'a mut Session,
    running: &'a mut Running,
    round: Round<'a>,
    utf8: Utf8Stream,
    reader: Reader,
    stop: StopTexts,
    calls: Vec<ToolCall>,
    /// Text of this round that policies have released.
    released: String,
    logits: Vec<f32>,
    /// The model's logits without what the constraint does not allow.
    masked: Vec<f32>,
    chosen: usize,
}

/// Where the loop goes on.
enum Step {
    /// With the next token.
    Next,
    /// Nowhere: the model's text is complete, and policies are to release what they hold.
    Complete(EndReason),
    /// Nowhere, at once.
    Ended(EndReason),
}

/// What policies did to the answer.
pub(crate) enum Flow {
    Go,
    Stopped,
    Forced,
}

impl<'a> Decoder<'a> {
    pub fn new(
        tokenizer: &'a Tokenizer,
        session: &'a mut Session,
        running: &'a mut Running,
        round: Round<'a>,
    ) -> Self {
        let reader = Reader::new(tokenizer, &round);
        Self {
            tokenizer,
            session,
            running,
            stop: StopTexts::new(round.stop),
            round,
            utf8: Utf8Stream::default(),
            reader,
            calls: Vec::new(),
            released: String::new(),
            logits: Vec::new(),
            masked: Vec::new(),
            chosen: 0,
        }
    }

    /// Tokens that samplers have chosen.
    pub fn chosen(&self) -> usize {
        self.chosen
    }

    /// Tokens that were computed ahead, and those of them that samplers then chose.
    pub fn drafted(&self) -> (usize, usize) {
        (self.round.drafting.drafted, self.round.drafting.accepted)
    }

    /// Decodes until something ends the round; any of the flags cancels it.
    pub fn run(&mut self, cancel: &[&AtomicBool], sink: &mut dyn FnMut(Event)) -> Result<RoundEnd, Stopped> {
        let end = self.steps(cancel, sink);
        self.round.drafting.end(self.session);
        end
    }

    fn steps(&mut self, cancel: &[&AtomicBool], sink: &mut dyn FnMut(Event)) -> Result<RoundEnd, Stopped> {
        loop {
            match self.step(cancel, sink)? {
                Step::Next => {}
                Step::Ended(reason) => return Ok(RoundEnd::Ended(reason)),
                Step::Complete(reason) => {
                    if let Some(end) = self.complete(reason, sink)? {
                        return Ok(end);
                    }
                }
            }
        }
    }

    /// One token: chosen, emitted, appended.
    fn step(&mut self, cancel: &[&AtomicBool], sink: &mut dyn FnMut(Event)) -> Result<Step, Stopped> {
        if cancel.iter().any(|flag| flag.load(Ordering::Relaxed)) {
            return Ok(Step::Ended(EndReason::Cancelled));
        }
        if self.satisfied() {
            return Ok(Step::Complete(EndReason::Stop));
        }
        if self.round.max_tokens.is_some_and(|max| self.chosen >= max) {
            return Ok(Step::Complete(EndReason::Length));
        }
        let token = self.choose(sink)?;
        if self.tokenizer.end_tokens().contains(&token) {
            return Ok(Step::Complete(EndReason::Stop));
        }
        match self.emit(token, sink)? {
            Flow::Stopped => return Ok(Step::Ended(EndReason::PolicyStop)),
            Flow::Forced => return Ok(self.rewind()?),
            Flow::Go if self.reader.is_done() => return Ok(Step::Complete(EndReason::Stop)),
            Flow::Go => {}
        }
        if self.session.room() == 0 {
            let reason = if self.satisfied() { EndReason::Stop } else { EndReason::Context };
            return Ok(Step::Complete(reason));
        }
        match self.append(token) {
            Err(EngineError::Cancelled) => Ok(Step::Ended(EndReason::Cancelled)),
            Ok(()) if self.stop.found() => Ok(Step::Complete(EndReason::StopText)),
            result => Ok(result.map(|()| Step::Next)?),
        }
    }

    fn append(&mut self, token: u32) -> Result<(), EngineError> {
        self.round.drafting.append(self.session, token, self.round.seat)
    }

    /// The samplers' choice for the next token.
    fn choose(&mut self, sink: &mut dyn FnMut(Event)) -> Result<u32> {
        let context = (self.session.tokens(), self.round.prompt.len());
        let mut model = self.session.logits();
        if let Some(constraint) = &mut self.round.constraint {
            self.masked.clear();
            self.masked.extend_from_slice(model);
            constraint.mask(&mut self.masked)?;
            model = &self.masked;
        }
        let chosen = self.running.choose(&mut self.logits, model, context, sink)?;
        self.chosen += 1;
        self.running.journal.token(&chosen)?;
        if let Some(constraint) = &mut self.round.constraint {
            constraint.accept(chosen.token)?;
        }
        Ok(chosen.token)
    }

    /// Whether there is a constraint, and nothing can follow the text.
    fn satisfied(&self) -> bool {
        self.round.constraint.as_ref().is_some_and(|constraint| constraint.is_complete())
    }

    /// Sends a token's text on its way to the person. Tokens with a meaning of their own have no text.
    fn emit(&mut self, token: u32, sink: &mut dyn FnMut(Event)) -> Result<Flow, Stopped> {
        let bytes = self.tokenizer.token_bytes(token)?;
        let events = if self.tokenizer.is_control(token) {
            // A character whose bytes are not all there does not go over from one channel to the next.
            let rest = if self.reader.has_channels() { self.utf8.finish() } else { String::new() };
            let mut events = self.reader.feed(&rest);
            events.extend(self.reader.control(bytes));
            events
        } else {
            self.reader.feed(&self.utf8.push(bytes))
        };
        let plain = self.plain(events);
        if plain.is_empty() {
            return Ok(Flow::Go);
        }
        let plain = self.stop.feed(&plain);
        self.release(&plain, false, sink)
    }

    /// What of an answer is no tool call; calls are kept aside.
    fn plain(&mut self, events: Vec<ParserEvent>) -> String {
        let mut plain = String::new();
        for event in events {
            match event {
                ParserEvent::Text(text) => plain.push_str(&text),
                ParserEvent::ToolCall(call) => self.calls.push(call),
                ParserEvent::Malformed { raw, .. } => plain.push_str(&raw),
            }
        }
        plain
    }

    fn release(&mut self, text: &str, done: bool, sink: &mut dyn FnMut(Event)) -> Result<Flow, Stopped> {
        let released = &mut self.released;
        release(self.running, text, done, &mut |event| {
            if let Event::Text { text } = &event {
                released.push_str(text);
            }
            sink(event);
        })
    }

    /// Puts the session where it would be had the model written what policies let pass, forced text included.
    fn rewind(&mut self) -> Result<Step> {
        let text = self.passed();
        let passed = self.reader.spell(self.tokenizer, &text)?;
        let mut tokens = self.round.prompt.to_vec();
        tokens.extend_from_slice(&passed);
        self.running.journal.rewind(self.round.prompt.len(), &tokens);
        self.constrain(&passed)?;
        self.utf8 = Utf8Stream::default();
        self.calls.clear();
        self.stop = StopTexts::new(self.round.stop);
        self.reader.restart(self.tokenizer, &tokens, &self.round);
        if tokens.len() > self.session.tokens().len() + self.session.room() {
            return Ok(Step::Complete(EndReason::Context));
        }
        match self.session.sync(&tokens) {
            Err(EngineError::Cancelled) => Ok(Step::Ended(EndReason::Cancelled)),
            result => Ok(result.map(|_| Step::Next)?),
        }
    }

    /// What policies let pass, forced text included.
    fn passed(&self) -> String {
        self.released.clone() + &self.running.policies.pending()
    }

    /// Brings the constraint to where a text ends that policies made of the model's. Errors: it does not allow that text.
    fn constrain(&mut self, passed: &[u32]) -> Result<()> {
        let Some(constraint) = &mut self.round.constraint else { return Ok(()) };
        constraint.walk(passed).map_err(GenerateError::ForcedAgainstGrammar)
    }

    /// Ends the text of the round. None if a policy makes the model go on.
    fn complete(
        &mut self,
        mut reason: EndReason,
        sink: &mut dyn FnMut(Event),
    ) -> Result<Option<RoundEnd>, Stopped> {
        // Where the model did not stop by itself, what lacks its end is no character.
        let whole = reason == EndReason::Stop;
        let mut events = if whole { self.reader.feed(&self.utf8.finish()) } else { Vec::new() };
        events.extend(self.reader.finish(whole));
        let rest = self.plain(events);
        let mut plain = self.stop.feed(&rest) + &self.stop.finish();
        loop {
            let calls = reason == EndReason::Stop && !self.calls.is_empty();
            // An answer goes on behind the results of calls, and with it the text that policies look at.
            match self.release(&plain, !calls || self.round.last, sink)? {
                Flow::Stopped => return Ok(Some(RoundEnd::Ended(EndReason::PolicyStop))),
                Flow::Go if calls => return Ok(Some(RoundEnd::ToolCalls(std::mem::take(&mut self.calls)))),
                Flow::Go => return Ok(Some(RoundEnd::Ended(reason))),
                Flow::Forced if reason == EndReason::Stop => match self.rewind()? {
                    Step::Next => return Ok(None),
                    Step::Complete(other) => reason = other,
                    Step::Ended(reason) => return Ok(Some(RoundEnd::Ended(reason))),
                },
                // There is no room for more than the forced text.
                Flow::Forced => {
                    let passed = self.tokenizer.encode_continuation(&self.passed())?;
                    self.constrain(&passed)?;
                }
            }
            plain.clear();
        }
    }
}

/// Sends text through the policies; what they release becomes events. `done` is the end of the answer.
pub(crate) fn release(
    running: &mut Running,
    text: &str,
    done: bool,
    sink: &mut dyn FnMut(Event),
) -> Result<Flow, Stopped> {
    if text.is_empty() && !done {
        // A policy that joined the answer may have ended it since the last text.
        return Ok(if running.policies.has_stopped() { Flow::Stopped } else { Flow::Go });
    }
    let outcome = running.policies.output(text, done);
    running.journal.output(text, done, &outcome);
    for intervention in &outcome.interventions {
        sink(Event::Intervention(Intervention::from(intervention)));
    }
    if !outcome.released.is_empty() {
        sink(Event::Text { text: outcome.released });
    }
    match outcome.ended {
        None => Ok(Flow::Go),
        Some(Ended::Stopped) => Ok(Flow::Stopped),
        Some(Ended::Forced) => Ok(Flow::Forced),
        Some(Ended::Refused(refused)) => Err(refused.into()),
    }
}

//! How a model's answer is read: what of it is text, and what calls of tools.

use membrane_text::{ChannelParser, Channels, ParserEvent, Result, Tokenizer, ToolCallParser};

use crate::decode::Round;

/// Reads an answer in the form that the model writes.
pub(crate) enum Reader {
    /// All is text.
    Plain,
    /// Calls stand in the text.
    Calls(ToolCallParser),
    /// Text and calls stand in channels, as gpt-oss writes them.
    Channels(Channels, ChannelParser),
}

impl Reader {
    /// For an answer behind the prompt of a round.
    pub fn new(tokenizer: &Tokenizer, round: &Round<'_>) -> Self {
        let tools = !round.tools.is_empty();
        match Channels::of(tokenizer) {
            // A text that a constraint binds begins where the final channel does.
            Some(channels) if round.chat && round.constraint.is_none() => {
                Self::Channels(channels, behind(&channels, tokenizer, round.prompt, tools))
            }
            _ if tools => Self::Calls(ToolCallParser::new(round.tools.clone())),
            _ => Self::Plain,
        }
    }

    /// Whether control tokens part the text.
    pub fn has_channels(&self) -> bool {
        matches!(self, Self::Channels(..))
    }

    /// Takes a control token. Most have a meaning of their own and no text.
    pub fn control(&mut self, token: &[u8]) -> Vec<ParserEvent> {
        let Ok(mark) = std::str::from_utf8(token) else { return Vec::new() };
        match self {
            Self::Channels(_, parser) => parser.control(mark),
            Self::Calls(parser) if ToolCallParser::is_mark(mark) => parser.feed(mark),
            Self::Calls(_) | Self::Plain => Vec::new(),
        }
    }

    /// Takes more of the text.
    pub fn feed(&mut self, text: &str) -> Vec<ParserEvent> {
        match self {
            Self::Plain if text.is_empty() => Vec::new(),
            Self::Plain => vec![ParserEvent::Text(text.to_owned())],
            Self::Calls(parser) => parser.feed(text),
            Self::Channels(_, parser) => parser.feed(text),
        }
    }

    /// Ends the answer. `whole`: the model ended it.
    pub fn finish(&mut self, whole: bool) -> Vec<ParserEvent> {
        match self {
            Self::Plain => Vec::new(),
            Self::Calls(parser) => parser.finish(),
            Self::Channels(_, parser) => parser.finish(whole),
        }
    }

    /// Whether the answer has come to its end although no token said so.
    pub fn is_done(&self) -> bool {
        matches!(self, Self::Channels(_, parser) if parser.is_done())
    }

    /// Goes on behind tokens, prompt included, that policies made of the answer.
    pub fn restart(&mut self, tokenizer: &Tokenizer, tokens: &[u32], round: &Round<'_>) {
        match self {
            Self::Plain => {}
            Self::Calls(parser) => *parser = ToolCallParser::new(round.tools.clone()),
            Self::Channels(channels, parser) => {
                *parser = behind(channels, tokenizer, tokens, !round.tools.is_empty());
            }
        }
    }

    /// The tokens of an answer that reads as this text.
    pub fn spell(&self, tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>> {
        match self {
            Self::Channels(channels, _) => channels.spell(tokenizer, text),
            Self::Plain | Self::Calls(_) => tokenizer.encode_continuation(text),
        }
    }
}

/// A parser behind tokens that may end within a message. Those of a session are of its vocabulary.
fn behind(channels: &Channels, tokenizer: &Tokenizer, tokens: &[u32], tools: bool) -> ChannelParser {
    channels.parser_behind(tokenizer, tokens, tools).unwrap_or_else(|_| ChannelParser::new(tools))
}

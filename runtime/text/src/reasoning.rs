//! The part of an answer in which a model thinks, `<think>...</think>`, apart from the rest.

const OPEN: &str = "<think>";
const CLOSE: &str = "</think>";

/// A part of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// The model's reasoning.
    Reasoning(String),
    /// Text for the reader.
    Text(String),
}

/// Separates the reasoning at the start of an answer from its text. The tags, and line breaks beside them,
/// are dropped.
#[derive(Debug)]
pub struct ReasoningSplitter {
    state: State,
    /// Characters that may belong to a tag or be dropped beside one.
    held: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Start,
    Reasoning,
    /// Behind the closing tag, before the first visible character.
    Between,
    Text,
}

impl ReasoningSplitter {
    /// A splitter at the start of an answer. `opened`: the prompt ends with the opening tag already.
    pub fn new(opened: bool) -> Self {
        Self { state: if opened { State::Reasoning } else { State::Start }, held: String::new() }
    }

    /// Takes more of the answer and gives what is certain.
    pub fn feed(&mut self, text: &str) -> Vec<Part> {
        let mut parts = Vec::new();
        for character in text.chars() {
            self.held.push(character);
            self.settle(&mut parts);
        }
        parts
    }

    /// Ends the answer and gives the rest.
    pub fn finish(&mut self) -> Vec<Part> {
        let mut parts = Vec::new();
        let held = std::mem::take(&mut self.held);
        match self.state {
            State::Reasoning => give(&mut parts, true, held.trim_end_matches('\n')),
            State::Start | State::Text => give(&mut parts, false, &held),
            State::Between => {}
        }
        parts
    }

    fn settle(&mut self, parts: &mut Vec<Part>) {
        let tag = match self.state {
            State::Text => return give(parts, false, &std::mem::take(&mut self.held)),
            State::Between => {
                if self.held.trim().is_empty() {
                    return;
                }
                self.state = State::Text;
                return give(parts, false, std::mem::take(&mut self.held).trim_start());
            }
            State::Start => OPEN,
            State::Reasoning => CLOSE,
        };
        loop {
            let rest = self.held.trim_start();
            if rest == tag {
                self.held.clear();
                self.state = if self.state == State::Start { State::Reasoning } else { State::Between };
                return;
            }
            if tag.starts_with(rest) {
                return;
            }
            if self.state == State::Start {
                self.state = State::Text;
                return give(parts, false, &std::mem::take(&mut self.held));
            }
            let space = self.held.len() - rest.len();
            let sure = space + rest.chars().next().map_or(0, char::len_utf8);
            let after = self.held.split_off(sure);
            give(parts, true, &self.held);
            self.held = after;
        }
    }
}

fn give(parts: &mut Vec<Part>, reasoning: bool, text: &str) {
    if text.is_empty() {
        return;
    }
    match (parts.last_mut(), reasoning) {
        (Some(Part::Reasoning(before)), true) | (Some(Part::Text(before)), false) => before.push_str(text),
        (_, true) => parts.push(Part::Reasoning(text.to_owned())),
        (_, false) => parts.push(Part::Text(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(opened: bool, pieces: &[&str]) -> (String, String) {
        let mut splitter = ReasoningSplitter::new(opened);
        let mut parts: Vec<Part> = pieces.iter().flat_map(|piece| splitter.feed(piece)).collect();
        parts.extend(splitter.finish());
        let (mut reasoning, mut text) = (String::new(), String::new());
        for part in parts {
            match part {
                Part::Reasoning(more) => reasoning.push_str(&more),
                Part::Text(more) => text.push_str(&more),
            }
        }
        (reasoning, text)
    }

    #[test]
    fn reasoning_is_apart_for_every_split() {
        let cases = [
            (
                false,
                "\n<think>a < b\n\n</thin</think>\n\nYes </think> <think>.",
                "a < b\n\n</thin",
                "Yes </think> <think>.",
            ),
            (true, "\nhm\n</think>ok", "\nhm", "ok"),
            (false, "no <think>x</think>", "", "no <think>x</think>"),
            (false, "<thin", "", "<thin"),
            (true, "unfinished\n", "unfinished", ""),
            (false, "<think>\n\n</think>\n\nhi\n", "", "hi\n"),
        ];
        for (opened, answer, reasoning, text) in cases {
            for (at, _) in answer.char_indices() {
                let (a, b) = answer.split_at(at);
                assert_eq!(split(opened, &[a, b]), (reasoning.into(), text.into()), "{a:?} {b:?}");
            }
        }
    }
}

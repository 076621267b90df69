//! Finding long quotes of the prompt in a text that arrives piece by piece.
//!
//! White space counts as one space however much there is, and case does not count. At each position the
//! longest stretch that also stands in the prompt is looked for, from left to right; if it is long enough, it
//! is a quote and the search goes on behind it. What is found at a position depends only on what follows it,
//! so the pieces in which a text arrives can't change what is found: where the text ends within a stretch,
//! the rest is held back until it is known how the stretch goes on.

/// The prompt, indexed so that the longest match from a position is found in one walk: a suffix automaton,
/// whose paths are exactly the substrings of the prompt.
pub struct Quotes {
    states: Vec<State>,
    threshold: usize,
}

#[derive(Default)]
struct State {
    /// Sorted by nothing: nearly all states have one successor.
    next: Vec<(char, u32)>,
    link: Option<u32>,
    length: u32,
}

/// What there is to find in a pending text.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// No quote; the first `released` bytes can't become part of one.
    Nothing {
        /// Length in bytes.
        released: usize,
    },
    /// A quote in this range of bytes, with no other before it.
    Quote {
        /// First byte.
        start: usize,
        /// Behind the last byte.
        end: usize,
    },
}

/// The longest match from a position.
struct Stretch {
    /// Length in bytes of text, without white space at its end.
    bytes: usize,
    /// Length in normalised characters, likewise.
    characters: usize,
    /// Whether more text could make it longer.
    open: bool,
}

impl Quotes {
    /// Indexes a prompt. A quote has at least `min_quote` normalised characters, or is the whole prompt if
    /// that is shorter.
    pub fn new(prompt: &str, min_quote: usize) -> Self {
        let normalised = normalise(prompt);
        let threshold = min_quote.min(normalised.len());
        let mut quotes = Self { states: vec![State::default()], threshold };
        let mut last = 0;
        for character in normalised {
            last = quotes.append(last, character);
        }
        quotes
    }

    /// The first quote of a text, or how much of it is free of them. `done` says that no more text follows.
    pub fn find(&self, text: &str, done: bool) -> Found {
        for (start, character) in text.char_indices() {
            if character.is_whitespace() {
                continue;
            }
            let stretch = self.stretch(&text[start..]);
            if stretch.open && !done {
                return Found::Nothing { released: start };
            }
            if stretch.characters >= self.threshold {
                return Found::Quote { start, end: start + stretch.bytes };
            }
        }
        Found::Nothing { released: text.len() }
    }

    fn stretch(&self, text: &str) -> Stretch {
        let mut state = 0;
        let mut characters = 0;
        let mut after_space = false;
        let mut stretch = Stretch { bytes: 0, characters: 0, open: true };
        for (at, character) in text.char_indices() {
            let space = character.is_whitespace();
            if !(space && after_space) {
                let walked = self.walk(state, character, space);
                let Some((next, steps)) = walked else {
                    stretch.open = false;
                    return stretch;
                };
                state = next;
                characters += steps;
            }
            after_space = space;
            if !space {
                stretch.bytes = at + character.len_utf8();
                stretch.characters = characters;
            }
        }
        stretch.open = !self.states[state as usize].next.is_empty();
        stretch
    }

    /// The state behind a character of the text and how many normalised characters that is.
    fn walk(&self, state: u32, character: char, space: bool) -> Option<(u32, usize)> {
        if space {
            return Some((self.next(state, ' ')?, 1));
        }
        character
            .to_lowercase()
            .try_fold((state, 0), |(state, steps), lower| Some((self.next(state, lower)?, steps + 1)))
    }

    fn next(&self, state: u32, character: char) -> Option<u32> {
        self.states[state as usize].next.iter().find(|(c, _)| *c == character).map(|(_, next)| *next)
    }

    /// Extends the automaton by one character (Blumer et al. 1985); gives the state of the whole text.
    fn append(&mut self, last: u32, character: char) -> u32 {
        let added = self.push(State { length: self.states[last as usize].length + 1, ..State::default() });
        let mut from = Some(last);
        while let Some(state) = from.filter(|state| self.next(*state, character).is_none()) {
            self.states[state as usize].next.push((character, added));
            from = self.states[state as usize].link;
        }
        let link = from.and_then(|state| Some((state, self.next(state, character)?)));
        self.states[added as usize].link = Some(match link {
            None => 0,
            Some((state, next))
                if self.states[next as usize].length == self.states[state as usize].length + 1 =>
            {
                next
            }
            Some((state, next)) => self.split(state, next, character),
        });
        added
    }

    /// Splits `next` so that the shorter texts that lead to it from `state` have a state of their own.
    fn split(&mut self, state: u32, next: u32, character: char) -> u32 {
        let original = &self.states[next as usize];
        let (edges, link) = (original.next.clone(), original.link);
        let clone = self.push(State { next: edges, link, length: self.states[state as usize].length + 1 });
        let mut from = Some(state);
        while let Some(state) = from {
            let State { next: edges, link, .. } = &mut self.states[state as usize];
            match edges.iter_mut().find(|edge| **edge == (character, next)) {
                Some(edge) => edge.1 = clone,
                None => break,
            }
            from = *link;
        }
        self.states[next as usize].link = Some(clone);
        clone
    }

    fn push(&mut self, state: State) -> u32 {
        self.states.push(state);
        (self.states.len() - 1) as u32
    }
}

/// Lower case, with each run of white space as one space and none at either end.
fn normalise(text: &str) -> Vec<char> {
    let words = text.split_whitespace().map(|word| word.chars().flat_map(char::to_lowercase));
    let mut normalised = Vec::new();
    for word in words {
        if !normalised.is_empty() {
            normalised.push(' ');
        }
        normalised.extend(word);
    }
    normalised
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_paths_are_exactly_the_substrings() {
        let prompt = "abracadabra aab";
        let quotes = Quotes::new(prompt, 3);
        let accepts = |text: &str| text.chars().try_fold(0, |state, c| quotes.next(state, c)).is_some();
        let characters: Vec<char> = "abrcd ".chars().collect();
        let mut texts = vec![String::new()];
        for _ in 0..5 {
            let longer = texts.iter().flat_map(|t| characters.iter().map(move |c| format!("{t}{c}")));
            texts = longer.collect();
            for text in &texts {
                assert_eq!(accepts(text), prompt.contains(text.as_str()), "{text:?}");
            }
            texts.retain(|text| prompt.contains(text.as_str()));
        }
    }

    #[test]
    fn an_index_of_a_long_uniform_prompt_is_built_and_walked_quickly() {
        let quotes = Quotes::new(&"a".repeat(60_000), 40);
        let text = format!("{}b", "a".repeat(50_000));
        assert_eq!(quotes.find(&text, true), Found::Quote { start: 0, end: 50_000 });
    }
}

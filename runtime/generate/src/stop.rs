//! Texts that end a generation.

/// Looks for stop texts in a text that comes in pieces. What could be the beginning of one is held back.
#[derive(Debug, Default)]
pub(crate) struct StopTexts {
    texts: Vec<String>,
    held: String,
    found: bool,
}

impl StopTexts {
    pub fn new(texts: &[String]) -> Self {
        Self { texts: texts.iter().filter(|text| !text.is_empty()).cloned().collect(), ..Self::default() }
    }

    /// Whether one was found.
    pub fn found(&self) -> bool {
        self.found
    }

    /// What of the text so far can't belong to a stop text. Nothing comes behind one. Letter by letter, so that how the text is
    /// cut into pieces makes no difference.
    pub fn feed(&mut self, text: &str) -> String {
        if self.texts.is_empty() {
            return text.to_owned();
        }
        let mut out = String::new();
        for letter in text.chars() {
            if self.found {
                break;
            }
            self.held.push(letter);
            self.found = self.look(&mut out);
        }
        out
    }

    /// Moves what can't belong to a stop text. True if a stop text is complete.
    fn look(&mut self, out: &mut String) -> bool {
        if let Some(at) = self.texts.iter().filter_map(|stop| self.held.find(stop.as_str())).min() {
            out.push_str(&self.held[..at]);
            self.held.clear();
            return true;
        }
        let could_begin = |&at: &usize| self.texts.iter().any(|stop| stop.starts_with(&self.held[at..]));
        let keep = self.held.char_indices().map(|(at, _)| at).find(could_begin).unwrap_or(self.held.len());
        out.extend(self.held.drain(..keep));
        false
    }

    /// What was held back, where the text is over.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cut(stops: &[String], pieces: &[&str]) -> (String, bool) {
        let mut filter = StopTexts::new(stops);
        let mut text: String = pieces.iter().map(|piece| filter.feed(piece)).collect();
        text += &filter.finish();
        (text, filter.found())
    }

    proptest! {
        #[test]
        fn however_the_text_is_cut_it_ends_before_the_first_stop_text(
            text in "[abä]{0,24}",
            stops in proptest::collection::vec("[abä]{1,4}", 0..4),
            cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..6),
        ) {
            let mut places: Vec<usize> =
                cuts.iter().map(|cut| text.floor_char_boundary(cut.index(text.len() + 1))).collect();
            places.extend([0, text.len()]);
            places.sort_unstable();
            let pieces: Vec<&str> = places.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect();
            let (found, stopped) = cut(&stops, &pieces);
            // The stop text that is complete first ends the text, as it does where the text comes letter by letter.
            let end = (0..=text.len())
                .filter(|end| text.is_char_boundary(*end))
                .find_map(|end| stops.iter().filter_map(|stop| text[..end].find(stop.as_str())).min());
            prop_assert_eq!(stopped, end.is_some());
            prop_assert_eq!(found, &text[..end.unwrap_or(text.len())]);
        }
    }
}

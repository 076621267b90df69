//! Text from the bytes of tokens, as they come.

/// Turns bytes into text, holding back a character until its last byte has come.
///
/// Bytes that can't become UTF-8 give U+FFFD, as `String::from_utf8_lossy` does for the whole.
#[derive(Debug, Clone, Default)]
pub struct Utf8Stream {
    /// The start of a character, at most 3 bytes.
    pending: Vec<u8>,
}

impl Utf8Stream {
    /// Takes bytes and gives the text that is complete.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let mut text = String::new();
        let mut rest = self.pending.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    self.pending.clear();
                    return text;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(valid));
                    match error.error_len() {
                        Some(bad) => {
                            text.push(char::REPLACEMENT_CHARACTER);
                            rest = &after[bad..];
                        }
                        None => {
                            self.pending = after.to_vec();
                            return text;
                        }
                    }
                }
            }
        }
    }

    /// Ends the stream: a character that stayed incomplete gives U+FFFD.
    pub fn finish(&mut self) -> String {
        let text = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn characters_are_held_back_until_complete() {
        let mut stream = Utf8Stream::default();
        let bytes = "a😀".as_bytes();
        assert_eq!(stream.push(&bytes[..3]), "a");
        assert_eq!(stream.push(&bytes[3..4]), "");
        assert_eq!(stream.push(&bytes[4..]), "😀");
        assert_eq!(stream.finish(), "");
    }

    #[test]
    fn a_cut_character_shows_at_the_end() {
        let mut stream = Utf8Stream::default();
        assert_eq!(stream.push(&[0xE4, 0xB8]), "");
        assert_eq!(stream.finish(), "\u{FFFD}");
        assert_eq!(stream.push(b"x"), "x");
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_lossy_whole(
            bytes in proptest::collection::vec(any::<u8>(), 0..40),
            cut in 1usize..7,
        ) {
            let mut stream = Utf8Stream::default();
            let mut text: String = bytes.chunks(cut).map(|chunk| stream.push(chunk)).collect();
            text.push_str(&stream.finish());
            prop_assert_eq!(text, String::from_utf8_lossy(&bytes).into_owned());
        }

        #[test]
        fn text_survives_any_chunking(text in ".*", cut in 1usize..7) {
            let mut stream = Utf8Stream::default();
            let got: String = text.as_bytes().chunks(cut).map(|chunk| stream.push(chunk)).collect();
            prop_assert_eq!(&got, &text);
            prop_assert_eq!(stream.finish(), "");
        }
    }
}

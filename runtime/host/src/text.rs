//! Text from guests, made safe to show to people.

/// Text without control characters, cut at `most` bytes at a character boundary. A newline or tab becomes a
/// space; what changes the direction of text or hides goes too.
pub fn clean(text: &str, most: usize) -> String {
    let mut cleaned = String::new();
    for character in text.chars() {
        let character = match character {
            '\n' | '\r' | '\t' => ' ',
            c if c.is_control() || is_invisible(c) => continue,
            c => c,
        };
        if cleaned.len() + character.len_utf8() > most {
            cleaned.push('…');
            break;
        }
        cleaned.push(character);
    }
    cleaned
}

/// Characters without a shape that reorder or hide what stands beside them.
fn is_invisible(character: char) -> bool {
    matches!(character,
        '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::clean;

    #[test]
    fn control_characters_are_removed_and_lines_joined() {
        assert_eq!(clean("a\u{1b}[31mred\u{1b}[0m\nb\u{7}\u{202e}c\u{0}", 100), "a[31mred[0m bc");
    }

    #[test]
    fn text_is_cut_at_a_character() {
        assert_eq!(clean("ééé", 4), "éé…");
        assert_eq!(clean("ééé", 5), "éé…");
        assert_eq!(clean("ééé", 6), "ééé");
    }
}

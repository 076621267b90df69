//! Parts of a text.

/// Some lines of a text, from `first` on, counted from 1, at most `count`; a note behind them if there are more. Errors:
/// the text has no such line.
pub fn lines(text: &str, first: usize, count: usize) -> Result<String, String> {
    let total = text.lines().count();
    if first == 0 {
        return Err("lines are counted from 1".to_owned());
    }
    if first > total.max(1) {
        return Err(format!("there is no line {first}: the file has {total}"));
    }
    let shown: Vec<&str> = text.lines().skip(first - 1).take(count).collect();
    let last = first - 1 + shown.len();
    let mut part = shown.join("\n");
    if first > 1 || last < total {
        part.push_str(&format!("\n[lines {first} to {last} of {total}]"));
    }
    Ok(part)
}

/// A line that may be long, cut at a character.
pub fn short(line: &str, most: usize) -> String {
    match line.char_indices().nth(most) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_says_what_it_is_a_part_of() {
        let text = "one\ntwo\nthree\n";
        assert_eq!(lines(text, 1, 10).unwrap(), "one\ntwo\nthree");
        assert_eq!(lines(text, 2, 1).unwrap(), "two\n[lines 2 to 2 of 3]");
        assert_eq!(lines(text, 3, 9).unwrap(), "three\n[lines 3 to 3 of 3]");
        assert_eq!(lines("", 1, 5).unwrap(), "");
        assert!(lines(text, 4, 1).unwrap_err().contains("no line 4: the file has 3"));
        assert!(lines(text, 0, 1).is_err());
    }

    #[test]
    fn long_lines_are_cut_at_a_character() {
        assert_eq!(short("éàü", 2), "éà...");
        assert_eq!(short("éàü", 3), "éàü");
    }
}

//! Two values beside each other: whole, or where they are long around the place where they part.

use membrane_profile::Digest;

/// Characters of a value that is shown whole.
const WHOLE: usize = 200;
/// Characters that are shown of what is the same before and behind the difference, and of the difference.
const AROUND: usize = 20;
const DIFFERENT: usize = 120;

/// How two values are shown, of which one may not be there. Values that differ are shown differently.
pub fn pair(from: Option<&str>, to: Option<&str>) -> (Option<String>, Option<String>) {
    let long = |text: &str| text.chars().nth(WHOLE).is_some();
    let (Some(a), Some(b)) = (from, to) else {
        let alone = |text: &str| if long(text) { part(text, 0, text.len()) } else { text.to_owned() };
        return (from.map(alone), to.map(alone));
    };
    if !long(a) && !long(b) {
        return (Some(a.to_owned()), Some(b.to_owned()));
    }
    let same = a.char_indices().zip(b.chars()).take_while(|((_, x), y)| x == y);
    let start = same.last().map_or(0, |((at, x), _)| at + x.len_utf8());
    let behind = a[start..].chars().rev().zip(b[start..].chars().rev()).take_while(|(x, y)| x == y);
    let end: usize = behind.map(|(x, _)| x.len_utf8()).sum();
    (Some(part(a, start, a.len() - end)), Some(part(b, start, b.len() - end)))
}

/// A part of a text with what stands around it, and what the whole is.
fn part(text: &str, start: usize, end: usize) -> String {
    let before = text[..start].char_indices().rev().take(AROUND).last().map_or(start, |(at, _)| at);
    let far = |from: usize, most: usize| {
        text[from..].char_indices().nth(most).map_or(text.len(), |(at, _)| from + at)
    };
    let (shown, more) = (far(start, DIFFERENT).min(end), far(end, AROUND));
    let mut excerpt = String::new();
    if before > 0 {
        excerpt += "...";
    }
    excerpt += &text[before..shown];
    if shown < end {
        excerpt += "...";
    } else {
        excerpt += &text[end..more];
        if more < text.len() {
            excerpt += "...";
        }
    }
    format!("{excerpt} ({} bytes, sha256 {})", text.len(), &Digest::of(text.as_bytes()).hex()[..12])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both(a: &str, b: &str) -> (String, String) {
        let (a, b) = pair(Some(a), Some(b));
        (a.unwrap_or_default(), b.unwrap_or_default())
    }

    #[test]
    fn short_values_are_whole_and_long_ones_show_where_they_part() {
        assert_eq!(both("0.5", "0.7"), ("0.5".into(), "0.7".into()));
        let (head, tail) = ("a".repeat(500), "é".repeat(500));
        let (from, to) = both(&format!("{head}one{tail}"), &format!("{head}two{tail}"));
        let (most, least) = ("a".repeat(AROUND), "é".repeat(AROUND));
        assert!(from.starts_with(&format!("...{most}one{least}... (1503 bytes, sha256 ")), "{from}");
        assert!(to.starts_with(&format!("...{most}two{least}... (1503 bytes, sha256 ")), "{to}");
        assert!(
            pair(None, Some(&head)).1.is_some_and(|alone| alone.len() < 200 && alone.contains("500 bytes"))
        );
    }

    #[test]
    fn values_that_differ_never_look_alike() {
        let text = "xyé".repeat(400);
        for (at, _) in text.char_indices().step_by(37) {
            for other in [format!("{}!{}", &text[..at], &text[at..]), text[..at].to_owned()] {
                let (from, to) = both(&text, &other);
                assert_ne!(from, to);
                assert!(from.chars().count() < 250 && to.chars().count() < 250, "{from}\n{to}");
            }
        }
        // Beyond what is shown of a difference, the digest tells.
        let (from, to) = both(&"p".repeat(1000), &format!("q{}", "p".repeat(998)));
        assert_ne!(from, to);
    }
}

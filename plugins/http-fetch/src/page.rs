//! The text of what a server sent.

use crate::html;

/// The text of a body by its `content-type`. Errors: it is no text.
pub fn text(content_type: &str, body: &[u8]) -> Result<String, String> {
    let mut parts = content_type.split(';').map(str::trim);
    let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
    let charset = parts.find_map(|part| {
        let (name, value) = part.split_once('=')?;
        name.eq_ignore_ascii_case("charset").then(|| value.trim_matches('"').to_ascii_lowercase())
    });
    let is_text = kind.is_empty()
        || kind.starts_with("text/")
        || ["json", "xml", "javascript", "yaml", "toml"].iter().any(|ending| kind.ends_with(ending));
    if !is_text {
        return Err(format!("is no text but {kind}, {} bytes", body.len()));
    }
    let text = match charset.as_deref() {
        // In these a byte is the code point of its character, but for a few signs.
        Some("iso-8859-1" | "latin1" | "windows-1252") => body.iter().map(|byte| char::from(*byte)).collect(),
        _ => String::from_utf8_lossy(body).into_owned(),
    };
    Ok(match kind.as_str() {
        "text/html" | "application/xhtml+xml" => html::to_text(&text),
        _ => text,
    })
}

/// Characters of a text from one on, at most `most`; a note behind them if there are more. Errors: the text is shorter.
pub fn part(text: &str, from: usize, most: usize) -> Result<String, String> {
    let total = text.chars().count();
    if from > total {
        return Err(format!("there is no character {from}: the page has {total}"));
    }
    let part: String = text.chars().skip(from).take(most).collect();
    let to = from.saturating_add(most).min(total);
    Ok(if to < total { format!("{part}\n[characters {from} to {to} of {total}]") } else { part })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_type_says_how_a_body_is_read() {
        assert_eq!(text("text/html; charset=utf-8", b"<p>a&amp;b</p>").as_deref(), Ok("a&b"));
        assert_eq!(text("text/plain", "<p>\u{e9}".as_bytes()).as_deref(), Ok("<p>\u{e9}"));
        assert_eq!(text("text/plain; Charset=\"ISO-8859-1\"", b"\xe9").as_deref(), Ok("\u{e9}"));
        assert_eq!(text("application/ld+json", b"{}").as_deref(), Ok("{}"));
        assert!(text("image/png", b"\x89PNG").unwrap_err().contains("image/png, 4 bytes"));
    }

    #[test]
    fn a_long_page_comes_in_parts() {
        assert_eq!(part("abcdef", 0, 6).as_deref(), Ok("abcdef"));
        assert_eq!(part("abcdef", 2, 3).as_deref(), Ok("cde\n[characters 2 to 5 of 6]"));
        assert_eq!(part("abcdef", 6, 3).as_deref(), Ok(""));
        assert!(part("abcdef", 7, 3).is_err());
    }
}

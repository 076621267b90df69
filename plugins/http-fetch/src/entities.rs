//! Character references of HTML.

/// Those by name that pages have most.
const NAMED: [(&str, char); 28] = [
    ("amp", '&'),
    ("lt", '<'),
    ("gt", '>'),
    ("quot", '"'),
    ("apos", '\''),
    ("nbsp", ' '),
    ("shy", '\u{ad}'),
    ("copy", '©'),
    ("reg", '®'),
    ("trade", '™'),
    ("hellip", '…'),
    ("mdash", '—'),
    ("ndash", '–'),
    ("lsquo", '‘'),
    ("rsquo", '’'),
    ("ldquo", '“'),
    ("rdquo", '”'),
    ("laquo", '«'),
    ("raquo", '»'),
    ("bull", '•'),
    ("middot", '·'),
    ("deg", '°'),
    ("euro", '€'),
    ("pound", '£'),
    ("times", '×'),
    ("rarr", '→'),
    ("larr", '←'),
    ("sect", '§'),
];
/// Bytes of a reference between `&` and `;`.
const MAX_BYTES: usize = 10;

/// A text with its character references replaced; those that are not known stay as they are.
pub fn decode(text: &str) -> String {
    let mut decoded = String::new();
    let mut rest = text;
    while let Some(start) = rest.find('&') {
        decoded.push_str(&rest[..start]);
        rest = &rest[start + 1..];
        let end = rest.bytes().take(MAX_BYTES + 1).position(|byte| byte == b';');
        match end.and_then(|end| Some((end, character(&rest[..end])?))) {
            Some((end, character)) => {
                decoded.push(character);
                rest = &rest[end + 1..];
            }
            None => decoded.push('&'),
        }
    }
    decoded.push_str(rest);
    decoded
}

fn character(name: &str) -> Option<char> {
    match name.strip_prefix('#') {
        Some(number) => {
            let code = match number.strip_prefix(['x', 'X']) {
                Some(hexadecimal) => u32::from_str_radix(hexadecimal, 16),
                None => number.parse(),
            };
            char::from_u32(code.ok()?).filter(|character| !character.is_control() || *character == '\n')
        }
        None => NAMED.iter().find(|(known, _)| *known == name).map(|(_, character)| *character),
    }
}

#[cfg(test)]
mod tests {
    use super::decode;

    #[test]
    fn known_references_are_characters_and_others_stay() {
        assert_eq!(decode("a &lt;b&gt; &#233;&#xE9; &amp;amp;"), "a <b> éé &amp;");
        assert_eq!(decode("&nope; &#xD800; &#27; & &é; &"), "&nope; &#xD800; &#27; & &é; &");
    }
}

//! The text of an HTML page: what a reader sees, without where it stands.

use crate::entities::decode;

/// Elements whose content is not shown.
const UNSEEN: [&str; 7] = ["script", "style", "template", "noscript", "svg", "iframe", "object"];
/// Elements that begin and end a line.
const BLOCKS: [&str; 35] = [
    "address",
    "article",
    "aside",
    "blockquote",
    "body",
    "caption",
    "dd",
    "details",
    "dialog",
    "div",
    "dl",
    "dt",
    "fieldset",
    "figcaption",
    "figure",
    "footer",
    "form",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "header",
    "hr",
    "li",
    "main",
    "nav",
    "ol",
    "p",
    "pre",
    "section",
    "table",
    "title",
    "ul",
];

/// The text of a page. Takes anything: what is no good HTML is read as far as it goes.
pub fn to_text(html: &str) -> String {
    let mut text = Text::default();
    let mut rest = html;
    while let Some(start) = rest.find('<') {
        text.add(&decode(&rest[..start]));
        rest = &rest[start..];
        rest = match markup(rest) {
            Some(Markup::Tag { name, closing, end }) => {
                text.tag(&name, closing);
                let after = &rest[end..];
                if !closing && UNSEEN.contains(&name.as_str()) { behind(after, &name) } else { after }
            }
            Some(Markup::Other { end }) => &rest[end..],
            None => {
                text.add("<");
                &rest[1..]
            }
        };
    }
    text.add(&decode(rest));
    text.finish()
}

enum Markup {
    Tag {
        name: String,
        closing: bool,
        end: usize,
    },
    /// A comment or a declaration.
    Other {
        end: usize,
    },
}

/// The markup that a text begins with; none if its `<` is just that.
fn markup(text: &str) -> Option<Markup> {
    if let Some(comment) = text.strip_prefix("<!--") {
        return Some(Markup::Other { end: comment.find("-->").map_or(text.len(), |at| 4 + at + 3) });
    }
    if text.starts_with("<!") || text.starts_with("<?") {
        return Some(Markup::Other { end: text.find('>').map_or(text.len(), |at| at + 1) });
    }
    let closing = text.starts_with("</");
    let name_at = if closing { 2 } else { 1 };
    let name: String = text[name_at..].chars().take_while(char::is_ascii_alphanumeric).collect();
    if !name.starts_with(|first: char| first.is_ascii_alphabetic()) {
        return None;
    }
    let end = tag_end(text, name_at + name.len());
    Some(Markup::Tag { name: name.to_ascii_lowercase(), closing, end })
}

/// Where a tag ends: at the `>` that is in no quoted value.
fn tag_end(text: &str, from: usize) -> usize {
    let mut quote = None;
    for (at, byte) in text.bytes().enumerate().skip(from) {
        match (quote, byte) {
            (None, b'>') => return at + 1,
            (None, b'"' | b'\'') => quote = Some(byte),
            (Some(open), byte) if open == byte => quote = None,
            _ => {}
        }
    }
    text.len()
}

/// What follows the end tag of an element.
fn behind<'a>(text: &'a str, name: &str) -> &'a str {
    let mut from = 0;
    while let Some(at) = text[from..].find("</") {
        let tag = from + at;
        let after = &text.as_bytes()[tag + 2..];
        if after.len() >= name.len() && after[..name.len()].eq_ignore_ascii_case(name.as_bytes()) {
            return &text[tag_end(text, tag + 2 + name.len())..];
        }
        from = tag + 2;
    }
    ""
}

/// Text that is put together, white space as browsers show it.
#[derive(Default)]
struct Text {
    text: String,
    /// Elements `pre` that are open: white space in them stays.
    preformatted: usize,
    /// White space stands before the next word.
    space: bool,
}

impl Text {
    fn add(&mut self, piece: &str) {
        if self.preformatted > 0 {
            self.text.push_str(piece);
            return;
        }
        for character in piece.chars() {
            if character.is_whitespace() {
                self.space = true;
                continue;
            }
            let begins = self.text.is_empty() || self.text.ends_with(['\n', ' ']);
            if self.space && !begins {
                self.text.push(' ');
            }
            self.space = false;
            self.text.push(character);
        }
    }

    fn tag(&mut self, name: &str, closing: bool) {
        match name {
            "br" => self.line(),
            "td" | "th" if !closing => self.cell(),
            "tr" => self.line(),
            "li" if !closing => {
                self.line();
                self.text.push_str("- ");
            }
            // A paragraph stands apart.
            "p" | "h1" | "h2" | "h3" | "h4" | "h5" | "h6" | "title" => {
                self.line();
                if !self.text.is_empty() && !self.text.ends_with("\n\n") {
                    self.text.push('\n');
                }
            }
            name if BLOCKS.contains(&name) => self.line(),
            _ => {}
        }
        if name == "pre" {
            self.preformatted =
                if closing { self.preformatted.saturating_sub(1) } else { self.preformatted + 1 };
        }
    }

    /// Begins a line, if it is not begun.
    fn line(&mut self) {
        self.space = false;
        let end = self.text.trim_end_matches(' ').len();
        self.text.truncate(end);
        if !self.text.is_empty() && !self.text.ends_with('\n') {
            self.text.push('\n');
        }
    }

    fn cell(&mut self) {
        self.space = false;
        if !self.text.is_empty() && !self.text.ends_with('\n') {
            self.text.push_str(" | ");
        }
    }

    fn finish(self) -> String {
        self.text.trim_end().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::to_text;

    #[test]
    fn a_page_is_read_as_it_is_seen() {
        let page = "<!doctype html><html><head><title>A  page</title><style>p { color: red }</style>\
            <script>if (a < b) document.write('<p>no</p>')</script></head>\n<body><!-- not <b>this</b> -->\n\
            <h1>Head&shy;line</h1><p>One <b>bold</b>\n word,<br>two.</p><ul><li>a</li><li><a href='x>y'>b</a></ul>\
            <table><tr><th>k</th><th>v</th></tr><tr><td>1</td><td>2</td></tr></table><pre>x\n  y</pre>end</body>";
        let text = "A page\n\nHead\u{ad}line\n\nOne bold word,\ntwo.\n\n- a\n- b\nk | v\n1 | 2\nx\n  y\nend";
        assert_eq!(to_text(page), text);
    }

    #[test]
    fn what_is_no_html_is_read_as_far_as_it_goes() {
        for (page, text) in [
            ("", ""),
            ("a < b and c > d", "a < b and c > d"),
            ("<p", ""),
            ("<", "<"),
            ("<p title=\"open>text", ""),
            ("<script>never closed", ""),
            ("x<!-- never closed", "x"),
            ("<SCRIPT>a</Script >b", "b"),
            ("</p></pre>é<pre>é</pre>", "é\né"),
            ("&#x41;&#66;&unknown;&", "AB&unknown;&"),
        ] {
            assert_eq!(to_text(page), text, "{page}");
        }
    }
}

//! Where a redirect leads.

/// The URL that `location` means on the page `base`. Errors: neither is a URL with a host.
pub fn join(base: &str, location: &str) -> Result<String, String> {
    let location = location.trim();
    if has_scheme(location) {
        return Ok(location.to_owned());
    }
    let (scheme, rest) = base.split_once("://").ok_or_else(|| format!("`{base}` is no URL"))?;
    if location.starts_with("//") {
        return Ok(format!("{scheme}:{location}"));
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (host, path) = rest.split_at(end);
    let path = path.split(['?', '#']).next().unwrap_or_default();
    if location.starts_with('/') {
        return Ok(format!("{scheme}://{host}{}", without_dots(location)));
    }
    if location.starts_with(['?', '#']) || location.is_empty() {
        let path = if path.is_empty() { "/" } else { path };
        return Ok(format!("{scheme}://{host}{path}{location}"));
    }
    let folder = path.rfind('/').map_or("/", |slash| &path[..=slash]);
    Ok(format!("{scheme}://{host}{}", without_dots(&format!("{folder}{location}"))))
}

/// Whether a text begins with letters and a colon.
fn has_scheme(text: &str) -> bool {
    let scheme = text.split([':', '/', '?', '#']).next().unwrap_or_default();
    let letters =
        scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'));
    letters && !scheme.is_empty() && text[scheme.len()..].starts_with(':')
}

/// A path without `.` and `..`; what follows `?` or `#` stays.
fn without_dots(path: &str) -> String {
    let end = path.find(['?', '#']).unwrap_or(path.len());
    let (path, rest) = path.split_at(end);
    let mut kept: Vec<&str> = Vec::new();
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    for (index, part) in parts.iter().enumerate() {
        let last = index + 1 == parts.len();
        match *part {
            "." => {}
            ".." => {
                kept.pop();
            }
            part => kept.push(part),
        }
        if last && matches!(*part, "." | "..") {
            kept.push("");
        }
    }
    format!("/{}{rest}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use super::join;

    #[test]
    fn references_are_resolved_as_rfc_3986_says() {
        let base = "http://a.test/b/c/d?q";
        for (location, expected) in [
            ("https://x.test/y", "https://x.test/y"),
            ("//x.test/y", "http://x.test/y"),
            ("/g", "http://a.test/g"),
            ("g", "http://a.test/b/c/g"),
            ("./g/", "http://a.test/b/c/g/"),
            ("../g", "http://a.test/b/g"),
            ("../../../g", "http://a.test/g"),
            ("..", "http://a.test/b/"),
            ("?y=../z", "http://a.test/b/c/d?y=../z"),
            ("g?y=/../z", "http://a.test/b/c/g?y=/../z"),
            ("javascript:x", "javascript:x"),
        ] {
            assert_eq!(join(base, location).as_deref(), Ok(expected), "{location}");
        }
        assert_eq!(join("http://a.test", "g").as_deref(), Ok("http://a.test/g"));
        assert!(join("nowhere", "g").is_err());
    }
}

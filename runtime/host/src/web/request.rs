//! Checking a request of a plugin.

use ::http::uri::PathAndQuery;
use ::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};
use membrane_profile::{WebOrigin, is_framing};

use crate::authority::Opened;
use crate::limits::{
    MAX_HEADER_NAME_BYTES, MAX_HEADER_VALUE_BYTES, MAX_REQUEST_BODY_BYTES, MAX_REQUEST_HEADERS, MAX_URL_BYTES,
};

/// What a request without one of its own says about who sends it.
const USER_AGENT: &str = concat!("membrane/", env!("CARGO_PKG_VERSION"));

/// A request as a plugin makes it.
pub struct Request {
    pub method: Method,
    pub url: String,
    pub headers: Vec<(String, String)>,
    pub body: Option<Vec<u8>>,
}

/// A request that was checked. Its URI is made of what was checked, and has no other parts.
pub struct Outgoing {
    pub method: Method,
    /// Granted.
    pub origin: WebOrigin,
    /// Whether its name may lead to a private address.
    pub private: bool,
    pub uri: Uri,
    pub headers: HeaderMap,
    pub body: Option<Vec<u8>>,
}

/// Checks a request. The error says what is not allowed, or which grant is missing.
pub fn check(request: Request, opened: &Opened) -> Result<Outgoing, String> {
    let Request { method, url, headers, body } = request;
    let (origin, path) = split(&url)?;
    let granted = opened.host(&origin)?;
    let taken: Vec<&str> = opened.secrets(&origin).map(|secret| secret.grant.header.as_str()).collect();
    let headers = check_headers(headers, &taken)?;
    if let Some(body) = &body {
        if !matches!(method, Method::POST | Method::PUT | Method::PATCH) {
            return Err(format!("a request with the method {method} has no body"));
        }
        if body.len() > MAX_REQUEST_BODY_BYTES {
            let bytes = body.len();
            return Err(format!(
                "the body of the request has {bytes} bytes; the limit is {MAX_REQUEST_BODY_BYTES}"
            ));
        }
    }
    let port = match origin.port {
        port if port == WebOrigin::default_port(origin.tls) => String::new(),
        port => format!(":{port}"),
    };
    let uri = Uri::builder()
        .scheme(origin.scheme())
        .authority(format!("{}{port}", origin.host))
        .path_and_query(path)
        .build()
        .map_err(|error| format!("the URL can't be used: {error}"))?;
    Ok(Outgoing { method, private: granted.private, origin, uri, headers, body })
}

/// The origin of a URL, and what is asked for there.
///
/// The parser takes the form of RFC 3986 and repairs nothing: what browsers turn into a host (tabs, backslashes, escapes,
/// numbers in other bases) is an error here, so that no two readers of a URL can find two hosts in it.
fn split(url: &str) -> Result<(WebOrigin, PathAndQuery), String> {
    if url.len() > MAX_URL_BYTES {
        return Err(format!("the URL has {} bytes; the limit is {MAX_URL_BYTES}", url.len()));
    }
    let shown = || crate::text::clean(url, 200);
    if !url.bytes().all(|byte| (b'!'..=b'~').contains(&byte) && byte != b'\\') {
        return Err(format!(
            "the URL `{}` has spaces, backslashes, control characters or other than ASCII in it",
            shown()
        ));
    }
    let without_fragment = url.split('#').next().unwrap_or_default();
    let uri: Uri = without_fragment.parse().map_err(|error| format!("`{}` is no URL: {error}", shown()))?;
    let parts = uri.into_parts();
    let (Some(scheme), Some(authority)) = (parts.scheme, parts.authority) else {
        return Err(format!("`{}` is no whole URL: give it with https:// and the host", shown()));
    };
    if authority.as_str().contains('@') {
        return Err("the URL has a user or a password in it, which is not sent: leave it out".to_owned());
    }
    let scheme = scheme.as_str().to_ascii_lowercase();
    let origin = format!("{scheme}://{authority}").parse::<WebOrigin>().map_err(|error| error.to_string())?;
    let path = match parts.path_and_query {
        None => PathAndQuery::from_static("/"),
        Some(path) if path.as_str().starts_with('/') => path,
        // A query right behind the host.
        Some(query) => format!("/{}", query.as_str())
            .parse::<PathAndQuery>()
            .map_err(|error| format!("`{}` is no URL: {error}", shown()))?,
    };
    Ok((origin, path))
}

/// The headers of a request, with those that the host sets. `taken`: those that hold secrets.
fn check_headers(headers: Vec<(String, String)>, taken: &[&str]) -> Result<HeaderMap, String> {
    if headers.len() > MAX_REQUEST_HEADERS {
        return Err(format!("the request has {} headers; the limit is {MAX_REQUEST_HEADERS}", headers.len()));
    }
    let mut checked = HeaderMap::new();
    for (name, value) in headers {
        let shown = crate::text::clean(&name, 64);
        let parsed = HeaderName::try_from(&name).ok().filter(|_| name.len() <= MAX_HEADER_NAME_BYTES);
        let Some(parsed) = parsed else { return Err(format!("`{shown}` is no name of a header")) };
        if is_framing(parsed.as_str()) {
            return Err(format!("the header `{shown}` is set by the host: leave it out"));
        }
        if taken.contains(&parsed.as_str()) {
            return Err(format!("the header `{shown}` is filled with a secret by the host: leave it out"));
        }
        if value.len() > MAX_HEADER_VALUE_BYTES || !value.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
            return Err(format!(
                "the value of the header `{shown}` is not of at most {MAX_HEADER_VALUE_BYTES} bytes of printable ASCII"
            ));
        }
        let value =
            HeaderValue::try_from(value).map_err(|_| format!("the header `{shown}` has no good value"))?;
        checked.append(parsed, value);
    }
    checked.entry(header::USER_AGENT).or_insert(HeaderValue::from_static(USER_AGENT));
    checked.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    Ok(checked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_url_has_one_host() {
        for (url, origin, path) in [
            ("https://example.org", "https://example.org:443", "/"),
            ("HTTPS://Example.Org:443/a?b=c#d", "https://example.org:443", "/a?b=c"),
            ("http://127.0.0.1:80/../x", "http://127.0.0.1:80", "/../x"),
            ("https://example.org/@evil.org", "https://example.org:443", "/@evil.org"),
            ("https://example.org?x=http://evil.org", "https://example.org:443", "/?x=http://evil.org"),
        ] {
            let (found, asked) = split(url).unwrap_or_else(|error| panic!("{url}: {error}"));
            assert_eq!((found.to_string().as_str(), asked.as_str()), (origin, path), "{url}");
        }
    }

    #[test]
    fn what_readers_of_urls_disagree_about_is_refused() {
        for url in [
            "https://example.org@evil.org/",
            "https://user:pass@example.org/",
            "https://evil.org\\@example.org/",
            "https:\\\\example.org/",
            "https:///example.org/",
            "https:example.org",
            "//example.org/",
            "/path",
            "example.org",
            "https://example.org:443:80/",
            "https://example.org:/",
            "https://example.org:0443x/",
            "https://exa\tmple.org/",
            "https://example.org /",
            "https://example.org/\r\nHost: evil.org",
            "https://ex%61mple.org/",
            "https://example.org%00.evil.org/",
            "https://0x7f000001/",
            "https://2130706433/",
            "https://0177.0.0.1/",
            "https://127.1/",
            "https://[::1",
            "https://example\u{3002}org/",
            "ftp://example.org/",
            "file:///etc/passwd",
            "javascript:alert(1)",
            "",
        ] {
            assert!(split(url).is_err(), "{url}: {:?}", split(url).map(|(origin, _)| origin));
        }
    }

    proptest! {
        // Whatever is taken, a reader that only looks for the first `/` behind the scheme finds the same host.
        #[test]
        fn the_host_is_where_anyone_finds_it(url in "https?://[a-z0-9.:@%\\[\\]/\\\\?#-]{0,30}") {
            if let Ok((origin, _)) = split(&url) {
                let rest = url.split_once("://").map(|(_, rest)| rest).unwrap_or_default();
                let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
                prop_assert!(authority.to_ascii_lowercase().starts_with(&origin.host.to_string())
                    || authority.starts_with('['), "{} {}", url, origin);
                prop_assert!(!authority.contains('@'));
            }
        }
    }
}

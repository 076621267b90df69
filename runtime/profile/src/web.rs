//! Hosts of the network as a profile names them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Bytes of a host's name, and of one of its labels, as in DNS.
const MAX_NAME_BYTES: usize = 253;
const MAX_LABEL_BYTES: usize = 63;

/// Where requests go: a scheme, a host and a port. Written `[https://|http://]HOST[:PORT]`; `https` and the port of the
/// scheme where nothing is said.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WebOrigin {
    /// Whether the connection is encrypted, and the host proves its name.
    pub tls: bool,
    /// The host.
    pub host: WebHost,
    /// TCP port, not 0.
    pub port: u16,
}

/// A host by its name or its address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WebHost {
    /// A DNS name in lower-case ASCII.
    Name(String),
    /// An address.
    Address(IpAddr),
}

/// A text that is no origin, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no host: {why}")]
pub struct WebOriginError {
    text: String,
    why: &'static str,
}

impl FromStr for WebOrigin {
    type Err = WebOriginError;

    fn from_str(text: &str) -> Result<Self, WebOriginError> {
        let error = |why| WebOriginError { text: text.chars().take(300).collect(), why };
        let (tls, rest) = match text.split_once("://") {
            Some(("https", rest)) => (true, rest),
            Some(("http", rest)) => (false, rest),
            Some(_) => return Err(error("the scheme is `https` or `http`")),
            None => (true, text),
        };
        if rest.contains(['/', '?', '#', '@']) {
            return Err(error("a whole host is granted: write it without a path and without a user"));
        }
        // The colons of an address in version 6 are within brackets.
        let (host, port) = match rest.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')) {
            Some((host, port)) => (host, Some(port)),
            None => (rest, None),
        };
        let port = match port {
            Some(port) => decimal(port).ok_or_else(|| error("the port is a number from 1 to 65535"))?,
            None => Self::default_port(tls),
        };
        Ok(Self { tls, host: WebHost::parse(host).map_err(error)?, port })
    }
}

impl WebOrigin {
    /// The port of a scheme.
    pub const fn default_port(tls: bool) -> u16 {
        if tls { 443 } else { 80 }
    }

    /// `https` or `http`.
    pub const fn scheme(&self) -> &'static str {
        if self.tls { "https" } else { "http" }
    }
}

/// A port: `u16::from_str` takes a sign.
fn decimal(text: &str) -> Option<u16> {
    let port = text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())??;
    (port != 0).then_some(port)
}

impl WebHost {
    /// Reads a host as it stands in a URL. The error says what is wrong.
    ///
    /// An address has one form only: four decimal numbers, or version 6 in brackets. What other programs also take for
    /// an address (`0x7f.1`, `2130706433`, `017700000001`) is no name either, since no top-level domain is a number.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if let Some(inner) = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
            let address: Ipv6Addr = inner.parse().map_err(|_| "what is in brackets is an IPv6 address")?;
            return Ok(Self::Address(IpAddr::V6(address)));
        }
        if let Ok(address) = text.parse::<Ipv4Addr>() {
            return Ok(Self::Address(IpAddr::V4(address)));
        }
        if text.contains('*') {
            return Err("each host is granted by its whole name, not by a pattern");
        }
        if !text.is_ascii() {
            return Err("names are in ASCII: write the form that begins with `xn--`");
        }
        let label = |label: &str| {
            (1..=MAX_LABEL_BYTES).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if text.len() > MAX_NAME_BYTES || !text.split('.').all(label) {
            return Err("a name is labels of letters, digits and `-` with `.` between them");
        }
        let last = text.rsplit('.').next().unwrap_or_default();
        let number = last.bytes().all(|byte| byte.is_ascii_digit())
            || last.get(..2).is_some_and(|prefix| prefix.eq_ignore_ascii_case("0x"));
        if number {
            return Err("an address is four decimal numbers, such as 192.0.2.1");
        }
        Ok(Self::Name(text.to_ascii_lowercase()))
    }
}

impl fmt::Display for WebHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WebHost::Name(name) => f.write_str(name),
            WebHost::Address(IpAddr::V4(address)) => address.fmt(f),
            WebHost::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

impl fmt::Display for WebOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}:{}", self.scheme(), self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_origin_has_one_form() {
        for (text, expected) in [
            ("api.example.org", "https://api.example.org:443"),
            ("API.Example.ORG:8443", "https://api.example.org:8443"),
            ("http://localhost", "http://localhost:80"),
            ("https://192.0.2.1", "https://192.0.2.1:443"),
            ("http://[2001:DB8:0::1]:8080", "http://[2001:db8::1]:8080"),
            ("[::1]", "https://[::1]:443"),
        ] {
            let origin: WebOrigin = text.parse().unwrap();
            assert_eq!(origin.to_string(), expected);
            assert_eq!(expected.parse(), Ok(origin));
        }
    }

    #[test]
    fn what_is_no_host_is_told_why() {
        for (text, expected) in [
            ("ftp://x.org", "scheme"),
            ("https://x.org/path", "without a path"),
            ("user@x.org", "without a user"),
            ("*.x.org", "not by a pattern"),
            ("bücher.example", "xn--"),
            ("0x7f.1", "four decimal numbers"),
            ("2130706433", "four decimal numbers"),
            ("017700000001", "four decimal numbers"),
            ("127.0.0.0x1", "four decimal numbers"),
            ("127.1", "four decimal numbers"),
            ("1.2.3.4.", "labels"),
            ("x..org", "labels"),
            ("", "labels"),
            ("x.org:0", "1 to 65535"),
            ("x.org:+80", "1 to 65535"),
            ("x.org:65536", "1 to 65535"),
            ("[::1%eth0]", "IPv6"),
            ("::1", "labels"),
        ] {
            let error = text.parse::<WebOrigin>().unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_read_reads_back(text in "[a-z0-9.:/\\[\\]-]{0,24}") {
            if let Ok(origin) = text.parse::<WebOrigin>() {
                prop_assert_eq!(origin.to_string().parse(), Ok(origin));
            }
        }
    }
}

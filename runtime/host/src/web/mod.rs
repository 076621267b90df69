//! Requests of tools to the hosts that they were granted.
//!
//! A request is checked and written anew from what was checked ([`request`]); the host's name is looked up once and its
//! addresses are checked ([`address`]); the connection goes to these addresses ([`connection`]). Secrets are added last and
//! taken out of what comes back ([`redact`]). There is no proxy, no cookie jar, no cache, and no redirect is followed.

mod address;
mod connection;
mod redact;
mod request;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ::http::HeaderValue;
use membrane_profile::SecretGrant;

use crate::authority::Opened;
use crate::limits::MAX_SHOWN_BYTES;
use connection::Connections;
use redact::Redactor;

pub use request::{Outgoing, Request};

/// Looks the addresses of a host up, by name and port.
pub type Lookup = Arc<dyn Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync>;

/// How the network is reached. By default with the names and the certificates that this machine knows.
#[derive(Clone, Default)]
pub struct Network {
    /// Looks names up in place of the system.
    pub lookup: Option<Lookup>,
    /// Root certificates (DER) in place of the system's.
    pub roots: Option<Vec<Vec<u8>>>,
}

impl Network {
    /// What sends requests in this way.
    pub(crate) fn transport(&self) -> Arc<dyn Transport> {
        Arc::new(Connections::new(self))
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (lookup, roots) = (self.lookup.is_some(), self.roots.as_ref().map(Vec::len));
        f.debug_struct("Network").field("lookup", &lookup).field("roots", &roots).finish()
    }
}

/// A secret with its value. It has no `Debug`, so that no message can have it.
pub struct Secret {
    pub grant: SecretGrant,
    /// Printable ASCII.
    pub value: String,
}

/// What came back.
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, Vec<u8>)>,
    pub body: Vec<u8>,
}

/// Why nothing came back.
#[derive(Debug)]
pub enum Failed {
    /// Time was over.
    TimedOut,
    /// For the plugin, a sentence.
    Told(String),
}

impl From<String> for Failed {
    fn from(text: String) -> Self {
        Failed::Told(text)
    }
}

/// What sends a checked request and receives the response, both within their limits.
pub trait Transport: Send + Sync {
    /// Sends a request; all of it, looking the host up included, may take `time`.
    fn send(&self, request: &Outgoing, time: Duration) -> Result<Response, Failed>;
}

/// Sends a request of a plugin, if that is granted. It may take `time`.
pub fn send(opened: &Opened, request: Request, time: Duration) -> Result<Response, Failed> {
    let mut outgoing = request::check(request, opened)?;
    for secret in opened.secrets(&outgoing.origin) {
        let value = HeaderValue::try_from(format!("{}{}", secret.grant.prefix, secret.value));
        let mut value = value.map_err(|_| format!("the secret `{}` fits no header", secret.grant.name))?;
        value.set_sensitive(true);
        let header = ::http::HeaderName::try_from(secret.grant.header.as_str());
        let header =
            header.map_err(|_| format!("the header of the secret `{}` is none", secret.grant.name))?;
        outgoing.headers.insert(header, value);
    }
    let redactor = Redactor::new(opened.all_secrets());
    let response = opened.transport().send(&outgoing, time).map_err(|failed| match failed {
        Failed::TimedOut => Failed::TimedOut,
        Failed::Told(text) => {
            let text = String::from_utf8_lossy(&redactor.redact(text.into_bytes())).into_owned();
            Failed::Told(format!("{}: {}", outgoing.origin, crate::text::clean(&text, MAX_SHOWN_BYTES)))
        }
    })?;
    refuse_encoded(&response).map_err(|what| format!("{}: {what}", outgoing.origin))?;
    let headers = response.headers.into_iter();
    let headers = headers.map(|(name, value)| (redacted_name(&redactor, name), redactor.redact(value)));
    Ok(Response { status: response.status, headers: headers.collect(), body: redactor.redact(response.body) })
}

/// Refuses a body that is compressed although that was not asked for: it may unfold to any size, and a secret in it would
/// not be found.
fn refuse_encoded(response: &Response) -> Result<(), String> {
    let encodings = response.headers.iter().filter(|(name, _)| name == "content-encoding");
    for (_, value) in encodings {
        if !value.eq_ignore_ascii_case(b"identity") {
            let shown = crate::text::clean(&String::from_utf8_lossy(value), 40);
            return Err(format!(
                "the response is encoded as `{shown}`, which was not asked for and is not taken"
            ));
        }
    }
    Ok(())
}

fn redacted_name(redactor: &Redactor, name: String) -> String {
    String::from_utf8_lossy(&redactor.redact(name.into_bytes())).into_owned()
}

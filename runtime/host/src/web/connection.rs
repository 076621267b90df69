//! Connections to checked addresses, over TLS where the origin says so.

use std::io::{self, Read as _};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use ::http::Uri;
use membrane_profile::WebHost;
use ureq::Agent;
use ureq::config::Config;
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{Connector as _, NextTimeout, RustlsConnector, TcpConnector};

use super::address::{Special, special};
use super::{Failed, Lookup, Network, Outgoing, Response, Transport};
use crate::limits::{MAX_LOOKUPS, MAX_RESPONSE_BODY_BYTES, MAX_RESPONSE_HEAD_BYTES, MAX_RESPONSE_HEADERS};

/// Addresses of a host that are tried.
const MAX_ADDRESSES: usize = 8;

/// What connects.
pub struct Connections {
    lookup: Lookup,
    /// None is the system's.
    roots: Option<Vec<Vec<u8>>>,
    /// Read where they are needed first.
    certificates: OnceLock<Arc<Vec<Certificate<'static>>>>,
}

impl Connections {
    pub fn new(network: &Network) -> Self {
        let lookup = network.lookup.clone().unwrap_or_else(|| Arc::new(system_lookup));
        Self { lookup, roots: network.roots.clone(), certificates: OnceLock::new() }
    }

    /// The addresses of an origin, all of them checked. Nothing else is connected to.
    fn addresses(&self, request: &Outgoing, time: Duration) -> Result<Vec<SocketAddr>, Failed> {
        let origin = &request.origin;
        let name = match &origin.host {
            // Granted as it is.
            WebHost::Address(address) => return Ok(vec![SocketAddr::new(*address, origin.port)]),
            WebHost::Name(name) => name,
        };
        let mut found = look_up(&self.lookup, name, origin.port, time)?;
        found.truncate(MAX_ADDRESSES);
        if found.is_empty() {
            return Err(Failed::Told("its name leads to no address".to_owned()));
        }
        match found.iter().find_map(|address| refusal(address.ip(), request.private)) {
            Some(what) => Err(Failed::Told(what)),
            None => Ok(found),
        }
    }

    /// The root certificates. The error says that there are none.
    fn certificates(&self) -> Result<Arc<Vec<Certificate<'static>>>, String> {
        let certificates = self.certificates.get_or_init(|| {
            let certificate = |der: &[u8]| Certificate::from_der(der).to_owned();
            let all = match &self.roots {
                Some(roots) => roots.iter().map(|der| certificate(der)).collect(),
                None => {
                    let system = rustls_native_certs::load_native_certs().certs;
                    system.iter().map(|der| certificate(der)).collect()
                }
            };
            Arc::new(all)
        });
        if certificates.is_empty() {
            return Err(
                "this machine has no root certificates: install its package ca-certificates".to_owned()
            );
        }
        Ok(certificates.clone())
    }

    fn config(&self, request: &Outgoing, time: Duration) -> Result<Config, String> {
        let mut config = Config::builder()
            .proxy(None)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .max_idle_connections(0)
            .max_response_header_size(MAX_RESPONSE_HEAD_BYTES)
            // Set with the other headers.
            .user_agent("")
            .accept("")
            .accept_encoding("")
            .timeout_global(Some(time));
        if request.origin.tls {
            let tls = TlsConfig::builder()
                .root_certs(RootCerts::Specific(self.certificates()?))
                .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .build();
            config = config.https_only(true).tls_config(tls);
        }
        Ok(config.build())
    }
}

impl Transport for Connections {
    fn send(&self, request: &Outgoing, time: Duration) -> Result<Response, Failed> {
        let begin = Instant::now();
        let addresses = self.addresses(request, time)?;
        let left = time.saturating_sub(begin.elapsed());
        if left.is_zero() {
            return Err(Failed::TimedOut);
        }
        let connector = ().chain(TcpConnector::default()).chain(RustlsConnector::default());
        let agent = Agent::with_parts(self.config(request, left)?, connector, Pinned(addresses));
        let mut message = ::http::Request::builder().method(request.method.clone()).uri(request.uri.clone());
        if let Some(headers) = message.headers_mut() {
            *headers = request.headers.clone();
        }
        let malformed = |error: ::http::Error| error.to_string();
        let response = match &request.body {
            Some(bytes) => agent.run(message.body(bytes.as_slice()).map_err(malformed)?),
            None => agent.run(message.body(()).map_err(malformed)?),
        };
        let response = response.map_err(failed)?;
        receive(response)
    }
}

/// Reads a response within its limits.
fn receive(response: ::http::Response<ureq::Body>) -> Result<Response, Failed> {
    let status = response.status().as_u16();
    if response.headers().len() > MAX_RESPONSE_HEADERS {
        let count = response.headers().len();
        return Err(Failed::Told(format!(
            "the response has {count} headers; the limit is {MAX_RESPONSE_HEADERS}"
        )));
    }
    let headers = response.headers().iter();
    let headers =
        headers.map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())).collect();
    let mut body = Vec::new();
    let mut reader = response.into_body().into_reader().take(MAX_RESPONSE_BODY_BYTES as u64 + 1);
    reader.read_to_end(&mut body).map_err(|error| failed(ureq::Error::from(error)))?;
    if body.len() > MAX_RESPONSE_BODY_BYTES {
        return Err(Failed::Told(format!(
            "the body of the response has more than {MAX_RESPONSE_BODY_BYTES} bytes"
        )));
    }
    Ok(Response { status, headers, body })
}

fn failed(error: ureq::Error) -> Failed {
    match error {
        ureq::Error::Timeout(_) => Failed::TimedOut,
        ureq::Error::Io(error) if error.kind() == io::ErrorKind::TimedOut => Failed::TimedOut,
        ureq::Error::LargeResponseHeader(..) => {
            Failed::Told(format!("the head of the response has more than {MAX_RESPONSE_HEAD_BYTES} bytes"))
        }
        ureq::Error::Io(error) if error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) => {
            Failed::Told(format!("is not trusted: {error}"))
        }
        ureq::Error::Io(error) => Failed::Told(format!("can't be reached: {error}")),
        ureq::Error::Rustls(error) => Failed::Told(format!("is not trusted: {error}")),
        error => Failed::Told(format!("does not answer as HTTP asks for: {error}")),
    }
}

/// Why a name must not lead to an address.
fn refusal(address: IpAddr, private: bool) -> Option<String> {
    match special(address)? {
        Special::Private(_) if private => None,
        Special::Private(what) => Some(format!(
            "its name leads to {address}, {what}: if that is meant, it takes private = true with the host in `hosts` of \
             the profile entry"
        )),
        Special::Never(what) => Some(format!(
            "its name leads to {address}, {what}: only a grant of that address itself in `hosts` allows it"
        )),
    }
}

/// The addresses that were checked, whatever a name leads to by now.
#[derive(Debug)]
struct Pinned(Vec<SocketAddr>);

impl Resolver for Pinned {
    fn resolve(&self, _: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let mut addresses = self.empty();
        self.0.iter().take(MAX_ADDRESSES).for_each(|address| addresses.push(*address));
        Ok(addresses)
    }
}

/// Looks a name up; that may take `time`. The system's way can't be interrupted: one that takes longer ends by itself
/// some time, and is counted until then.
fn look_up(lookup: &Lookup, name: &str, port: u16, time: Duration) -> Result<Vec<SocketAddr>, Failed> {
    static UNDER_WAY: AtomicUsize = AtomicUsize::new(0);
    if UNDER_WAY.fetch_add(1, Ordering::Relaxed) >= MAX_LOOKUPS {
        UNDER_WAY.fetch_sub(1, Ordering::Relaxed);
        return Err(Failed::Told(format!("can't be looked up: {MAX_LOOKUPS} look-ups wait for an answer")));
    }
    let (answer, answered) = mpsc::channel();
    let (lookup, name) = (lookup.clone(), name.to_owned());
    let ask = move || {
        let found = lookup(&name, port);
        UNDER_WAY.fetch_sub(1, Ordering::Relaxed);
        // Nobody waits any more where time was over.
        let _ = answer.send(found);
    };
    if let Err(error) = thread::Builder::new().name("name look-up".to_owned()).spawn(ask) {
        UNDER_WAY.fetch_sub(1, Ordering::Relaxed);
        return Err(Failed::Told(format!("can't be looked up: {error}")));
    }
    match answered.recv_timeout(time) {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(error)) => Err(Failed::Told(format!("can't be looked up: {error}"))),
        Err(mpsc::RecvTimeoutError::Timeout) => Err(Failed::TimedOut),
        Err(mpsc::RecvTimeoutError::Disconnected) => Err(Failed::Told("can't be looked up".to_owned())),
    }
}

fn system_lookup(name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    Ok((name, port).to_socket_addrs()?.collect())
}

//! A server on the loopback address that does what a test tells it to.
#![allow(dead_code, clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// Both directions of a connection.
pub trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// Answers one request, of which it gets head and body.
pub type Answer = dyn Fn(&str, &mut dyn Stream) + Send + Sync;

/// A server that runs to the end of the test program.
pub struct Server {
    pub address: SocketAddr,
    /// The root certificate that it proves its name with.
    pub root: Option<Vec<u8>>,
    requests: Arc<Mutex<Vec<String>>>,
    connections: Arc<Mutex<usize>>,
}

impl Server {
    /// A server without TLS.
    pub fn plain(answer: impl Fn(&str, &mut dyn Stream) + Send + Sync + 'static) -> Self {
        Self::run(None, None, Arc::new(answer))
    }

    /// A server with TLS and a certificate for `name`.
    pub fn tls(name: &str, answer: impl Fn(&str, &mut dyn Stream) + Send + Sync + 'static) -> Self {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        let certificate = made.cert.der().clone();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config =
            ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_no_client_auth().with_single_cert(vec![certificate.clone()], key).unwrap();
        Self::run(Some(Arc::new(config)), Some(certificate.to_vec()), Arc::new(answer))
    }

    fn run(tls: Option<Arc<ServerConfig>>, root: Option<Vec<u8>>, answer: Arc<Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (requests, connections) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(0)));
        let (seen, count) = (requests.clone(), connections.clone());
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                *count.lock().unwrap() += 1;
                // What a client gives up must not keep a thread for ever.
                stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
                let (tls, answer, seen) = (tls.clone(), answer.clone(), seen.clone());
                thread::spawn(move || match tls {
                    None => serve(stream, &*answer, &seen),
                    Some(config) => {
                        let connection = ServerConnection::new(config).unwrap();
                        serve(StreamOwned::new(connection, stream), &*answer, &seen);
                    }
                });
            }
        });
        Self { address, root, requests, connections }
    }

    /// The requests so far, heads and bodies.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }

    /// Connections so far.
    pub fn connections(&self) -> usize {
        *self.connections.lock().unwrap()
    }
}

fn serve(mut stream: impl Stream, answer: &Answer, seen: &Mutex<Vec<String>>) {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => bytes.push(byte[0]),
            _ => return,
        }
    }
    let head = String::from_utf8(bytes).unwrap();
    let length = head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    if stream.read_exact(&mut body).is_err() {
        return;
    }
    let request = head + &String::from_utf8_lossy(&body);
    seen.lock().unwrap().push(request.clone());
    answer(&request, &mut stream);
    let _ = stream.flush();
}

/// A response with a body.
pub fn respond(stream: &mut dyn Stream, headers: &str, body: &str) {
    let length = body.len();
    let _ = write!(stream, "HTTP/1.1 200 OK\r\n{headers}content-length: {length}\r\n\r\n{body}");
}

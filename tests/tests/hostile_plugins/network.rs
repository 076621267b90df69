//! Tools with one host, who want another. `runtime/host/tests/tools_http.rs` has all ways to write one.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use membrane_host::{HostOptions, Lookup, Network, ToolSet, World};
use membrane_profile::{Authority, HostGrant, SecretGrant, SecretSource};
use membrane_tests::guests::guest;
use serde_json::{Value, json};

use crate::arena::{Arena, failed};
use crate::attack::{Attack, Outcome};

const SECRET: &str = "s3cr3t/t0ken+of=the&host";
const URL: &str = "http://api.example.test/";

/// A server on this machine, in the middle of which a function stands, and how many came to it.
struct Server {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Server {
    fn new(serve: impl Fn(&str, &mut TcpStream) + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let connections: Arc<AtomicUsize> = Arc::default();
        let count = connections.clone();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                count.fetch_add(1, Ordering::Relaxed);
                stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
                let mut request = vec![0; 16 << 10];
                let length = stream.read(&mut request).unwrap_or(0);
                serve(&String::from_utf8_lossy(&request[..length]), &mut stream);
            }
        });
        Self { address, connections }
    }

    fn plain() -> Self {
        Self::new(|_, stream| respond(stream, "hello"))
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// All names lead to it.
    fn lookup(&self) -> Lookup {
        let address = self.address;
        Arc::new(move |_, _| Ok(vec![address]))
    }
}

fn respond(stream: &mut TcpStream, body: &str) {
    let _ = write!(
        stream,
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
}

/// A tool that may send to `http://api.example.test`.
struct Client {
    lookup: Lookup,
    private: bool,
    secret: Option<SecretGrant>,
    wall_ms: u64,
}

impl Client {
    fn of(server: &Server) -> Self {
        Self { lookup: server.lookup(), private: true, secret: None, wall_ms: 20_000 }
    }

    fn start(self, arena: &Arena) -> Result<ToolSet, String> {
        let network = Network { lookup: Some(self.lookup), roots: Some(Vec::new()) };
        let host = arena.with(HostOptions { network, ..HostOptions::default() });
        let mut source = arena.source(World::Tool, guest("test-tool"), json!({ "names": ["one"] }));
        source.limits.fuel_per_call = 40_000_000_000;
        source.limits.wall_ms = Some(self.wall_ms);
        let origin = "http://api.example.test".parse().unwrap();
        let hosts = vec![HostGrant { origin, private: self.private }];
        let secrets = self.secret.into_iter().collect();
        source.authority = Authority { hosts, secrets, ..Authority::default() };
        let plugin = host.load(source, World::Tool).map_err(|error| error.to_string())?;
        ToolSet::start(&host, &[plugin]).map_err(|error| error.to_string())
    }

    fn send(self, arena: &Arena, arguments: Value) -> Outcome {
        let mut arguments = arguments;
        arguments["act"] = json!("send");
        failed(self.start(arena)?.call("one", &arguments.to_string()))
    }
}

/// An attack on a server that must not hear of it.
fn unheard(
    name: &'static str,
    tries: &'static str,
    says: &'static [&'static str],
    arguments: fn() -> Value,
) -> Attack {
    Attack::new(name, World::Tool, tries, says, move |arena: &Arena| {
        let server = Server::plain();
        let outcome = Client::of(&server).send(arena, arguments());
        match server.connections() {
            0 => outcome,
            count => Err(format!("{count} connections were made")),
        }
    })
}

/// An attack together with a server.
fn with(
    name: &'static str,
    tries: &'static str,
    says: &'static [&'static str],
    serve: fn(&str, &mut TcpStream),
    wall_ms: u64,
) -> Attack {
    Attack::new(name, World::Tool, tries, says, move |arena: &Arena| {
        let server = Server::new(serve);
        Client { wall_ms, ..Client::of(&server) }.send(arena, json!({ "url": URL }))
    })
}

pub fn attacks() -> Vec<Attack> {
    vec![
        unheard(
            "host without grant",
            "sends to another host",
            &["the host http://other.example.test:80 is not granted", "hosts = ["],
            || json!({ "url": "http://other.example.test/" }),
        ),
        unheard(
            "port without grant",
            "sends to another port",
            &["is not granted"],
            || json!({ "url": "http://api.example.test:22/" }),
        ),
        unheard(
            "metadata service",
            "asks the cloud for credentials",
            &["the host http://169.254.169.254:80 is not granted"],
            || json!({ "url": "http://169.254.169.254/latest/meta-data/" }),
        ),
        unheard(
            "number for an address",
            "writes 127.0.0.1 as one number",
            &["is no host"],
            || json!({ "url": "http://2130706433/" }),
        ),
        unheard(
            "user in the URL",
            "hides the host behind another",
            &["a user or a password"],
            || json!({ "url": "http://api.example.test@evil.test/" }),
        ),
        unheard(
            "smuggled header",
            "ends a header and begins another",
            &["printable ASCII"],
            || json!({ "url": URL, "headers": [["x-a", "b\r\nhost: evil.test"]] }),
        ),
        unheard(
            "header of the host",
            "sends a Host of its own",
            &["is set by the host"],
            || json!({ "url": URL, "headers": [["Host", "evil.test"]] }),
        ),
        Attack::new(
            "name of this machine",
            World::Tool,
            "has a public name lead to a loopback address",
            &["127.0.0.1, a loopback address", "private = true"],
            |arena| {
                let server = Server::plain();
                let outcome =
                    Client { private: false, ..Client::of(&server) }.send(arena, json!({ "url": URL }));
                if server.connections() > 0 { Err("it was reached".into()) } else { outcome }
            },
        ),
        Attack::new(
            "name of the metadata service",
            World::Tool,
            "has its own name lead to 169.254.169.254",
            &["only a grant of that address itself"],
            |arena| {
                let lookup: Lookup = Arc::new(|_, _| Ok(vec!["169.254.169.254:80".parse().unwrap()]));
                Client { lookup, ..Client::of(&Server::plain()) }.send(arena, json!({ "url": URL }))
            },
        ),
        Attack::new(
            "DNS rebinding",
            World::Tool,
            "has a name lead elsewhere the second time",
            &["one look-up", "the trap has none"],
            rebinding,
        ),
        Attack::new(
            "redirect",
            World::Tool,
            "is sent on to the metadata service",
            &["is not followed"],
            redirect,
        ),
        Attack::new(
            "secret that comes back",
            World::Tool,
            "has a server repeat the host's secret",
            &["[secret api-key]"],
            echo,
        ),
        Attack::new(
            "flood of requests",
            World::Tool,
            "sends 1,000 in one call",
            &["more than the 64 requests of one call"],
            |arena| {
                let server = Server::plain();
                let outcome = Client::of(&server).send(arena, json!({ "url": URL, "times": 1000 }));
                if server.connections() > 64 {
                    Err(format!("{} connections", server.connections()))
                } else {
                    outcome
                }
            },
        ),
        with(
            "body without end",
            "has the host take memory",
            &["more than 4194304 bytes"],
            |_, stream| {
                let _ = write!(stream, "HTTP/1.1 200 OK\r\n\r\n");
                while stream.write_all(&[b'x'; 65_536]).is_ok() {}
            },
            20_000,
        ),
        with(
            "head without end",
            "has the host take memory",
            &["the response"],
            |_, stream| {
                let _ = write!(stream, "HTTP/1.1 200 OK\r\n");
                // Few lines, so that their number is not what is refused.
                while write!(stream, "x-more: {}\r\n", "x".repeat(8000)).is_ok() {}
            },
            20_000,
        ),
        with(
            "packed body",
            "unfolds to a gigabyte",
            &["encoded as `gzip`, which was not asked for"],
            |_, stream| {
                let _ = write!(
                    stream,
                    "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\n\u{1f}x"
                );
            },
            20_000,
        ),
        with(
            "server that trickles",
            "has the host wait for ever",
            &["plugin `x`: call took longer than its limit of 600 ms"],
            |_, stream| {
                let _ = write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n");
                while stream.write_all(b"x").and_then(|()| stream.flush()).is_ok() {
                    std::thread::sleep(Duration::from_millis(50));
                }
            },
            600,
        ),
    ]
}

fn rebinding(arena: &Arena) -> Outcome {
    let (server, trap) = (Server::plain(), Server::plain());
    let asked: Arc<AtomicUsize> = Arc::default();
    let (count, first, then) = (asked.clone(), server.address, trap.address);
    let lookup: Lookup =
        Arc::new(move |_, _| Ok(vec![if count.fetch_add(1, Ordering::Relaxed) == 0 { first } else { then }]));
    let mut set = Client { lookup, ..Client::of(&server) }.start(arena)?;
    let sent = set.call("one", &json!({ "act": "send", "url": URL }).to_string());
    sent.map_err(|error| error.to_string())?;
    match (asked.load(Ordering::Relaxed), server.connections(), trap.connections()) {
        (1, 1, 0) => Ok("one look-up, whose address has the connection; the trap has none".into()),
        other => Err(format!("look-ups, connections, connections to the trap: {other:?}")),
    }
}

fn redirect(arena: &Arena) -> Outcome {
    let server = Server::new(|_, stream| {
        let _ = write!(
            stream,
            "HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n"
        );
    });
    let mut set = Client::of(&server).start(arena)?;
    let answer = set
        .call("one", &json!({ "act": "send", "url": URL }).to_string())
        .map_err(|error| error.to_string())?;
    match answer.starts_with("302\n") && server.connections() == 1 {
        true => Ok("the redirect comes back as it is, and is not followed".into()),
        false => Err(answer),
    }
}

fn echo(arena: &Arena) -> Outcome {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    std::fs::write(&path, format!("{SECRET}\n")).unwrap();
    let server = Server::new(|request, stream| {
        let escaped = SECRET.replace('/', "%2F").replace('+', "%2B").replace('=', "%3D").replace('&', "%26");
        respond(stream, &format!("{request}\n{escaped}\n{}", json!({ "all": request })));
    });
    let secret = SecretGrant {
        name: "api-key".to_owned(),
        source: SecretSource::File { written: "key".to_owned(), path },
        origin: "http://api.example.test".parse().unwrap(),
        header: "authorization".to_owned(),
        prefix: "Bearer ".to_owned(),
    };
    let mut set = Client { secret: Some(secret), ..Client::of(&server) }.start(arena)?;
    let answer = set
        .call("one", &json!({ "act": "send", "url": URL }).to_string())
        .map_err(|error| error.to_string())?;
    match [SECRET, "t0ken", "s3cr3t"].into_iter().find(|part| answer.contains(part)) {
        Some(part) => Err(format!("`{part}` comes back")),
        None => Ok(answer.lines().filter(|line| line.contains("[secret")).collect::<Vec<_>>().join("; ")),
    }
}

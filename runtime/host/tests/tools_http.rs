//! Hostile tools, names and servers: nothing but granted hosts is reached, secrets stay with the host, everything ends.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/server.rs"]
mod server;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{component, host, host_with, options, source};
use membrane_host::{Cause, Failure, Grant, HostOptions, Lookup, Network, ToolError, ToolSet, World};
use membrane_profile::{Authority, HostGrant, SecretGrant, SecretSource};
use serde_json::{Value, json};
use server::{Server, respond};

const SECRET: &str = "s3cr3t/t0ken+of=the&host";

/// A tool with hosts, secrets and a way to look names up.
struct Bench {
    hosts: Vec<HostGrant>,
    secrets: Vec<SecretGrant>,
    lookup: Lookup,
    roots: Vec<Vec<u8>>,
    wall_ms: u64,
}

/// A grant as a profile would have it.
fn granted(origin: &str, private: bool) -> HostGrant {
    HostGrant { origin: origin.parse().unwrap(), private }
}

/// All names lead to one place.
fn leads_to(address: SocketAddr) -> Lookup {
    Arc::new(move |_, _| Ok(vec![address]))
}

impl Bench {
    /// The name `api.example.test` is granted, and leads to a server.
    fn of(server: &Server) -> Self {
        let scheme = if server.root.is_some() { "https" } else { "http" };
        Self {
            hosts: vec![granted(&format!("{scheme}://api.example.test"), true)],
            secrets: Vec::new(),
            lookup: leads_to(server.address),
            roots: server.root.iter().cloned().collect(),
            wall_ms: 20_000,
        }
    }

    fn hosts(mut self, hosts: Vec<HostGrant>) -> Self {
        self.hosts = hosts;
        self
    }

    fn start(&self) -> ToolSet {
        let network = Network { lookup: Some(self.lookup.clone()), roots: Some(self.roots.clone()) };
        let host = host_with(HostOptions { network, ..options() });
        let mut source = source("x", component(World::Tool), World::Tool, json!({ "names": ["test"] }));
        source.grants = [Grant::Clock, Grant::Files, Grant::Http, Grant::Environment].into();
        source.limits.fuel_per_call = 40_000_000_000;
        source.limits.wall_ms = Some(self.wall_ms);
        let (hosts, secrets) = (self.hosts.clone(), self.secrets.clone());
        source.authority = Authority { hosts, secrets, ..Authority::default() };
        ToolSet::start(&host, &[host.load(source, World::Tool).unwrap()]).unwrap()
    }

    fn send(&self, url: &str) -> Result<String, String> {
        self.send_with(json!({ "url": url }))
    }

    fn send_with(&self, mut arguments: Value) -> Result<String, String> {
        arguments["act"] = json!("send");
        self.start().call("test", &arguments.to_string()).map_err(|error| error.to_string())
    }

    fn refused(&self, url: &str, part: &str) {
        let error = self.send(url).unwrap_err();
        assert!(error.contains(part), "{url}: {error}");
    }
}

fn ok() -> Server {
    Server::plain(|_, stream| respond(stream, "x-kind: plain\r\n", "hello"))
}

#[test]
fn a_granted_host_answers_over_tls_and_without() {
    let plain = ok();
    let answer = Bench::of(&plain).send("http://api.example.test/a?b=c#d").unwrap();
    assert_eq!(answer, "200\nx-kind: plain\ncontent-length: 5\n\nhello");
    let request = &plain.requests()[0];
    assert!(request.starts_with("GET /a?b=c HTTP/1.1\r\n"), "{request}");
    let head = request.to_ascii_lowercase();
    for line in ["host: api.example.test\r\n", "accept-encoding: identity\r\n", "user-agent: membrane/"] {
        assert_eq!(head.matches(line).count(), 1, "{line}: {request}");
    }
    let tls = Server::tls("api.example.test", |_, stream| respond(stream, "", "private"));
    assert!(Bench::of(&tls).send("https://api.example.test").unwrap().ends_with("\n\nprivate"));
    let post = json!({
        "url": "https://api.example.test/", "method": "post", "body": "text", "headers": [["Content-Type", "text/x"]],
    });
    Bench::of(&tls).send_with(post).unwrap();
    let request = tls.requests().pop().unwrap().to_ascii_lowercase();
    assert!(request.contains("content-length: 4\r\n") && request.ends_with("\r\n\r\ntext"), "{request}");
}

#[test]
fn hosts_ports_and_schemes_that_are_not_granted_are_told_by_name() {
    let server = ok();
    let bench = Bench::of(&server);
    for url in [
        "http://other.example.test/",
        "http://api.example.test:8080/",
        "https://api.example.test/",
        "http://api.example.test.evil.test/",
        "http://evil.test/http://api.example.test/",
        "http://127.0.0.1/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://169.254.169.254/latest/meta-data/",
    ] {
        bench.refused(url, "is not granted: it takes the grant `http` and hosts = [");
    }
    bench.refused("http://other.example.test/", "hosts = [\"http://other.example.test:80\"]");
    assert_eq!(server.connections(), 0);
}

#[test]
fn other_ways_to_write_an_address_are_no_names() {
    let server = ok();
    let bench = Bench::of(&server).hosts(vec![granted("http://127.0.0.1", false)]);
    for host in ["2130706433", "0x7f000001", "0x7f.0.0.1", "0177.0.0.1", "127.1", "127.0.0.1.", "127.0.0.0x1"]
    {
        let error = bench.send(&format!("http://{host}/")).unwrap_err();
        assert!(error.contains("is no host"), "{host}: {error}");
    }
    bench.refused("http://127.0.0.1:81/", "is not granted");
}

#[test]
fn an_address_that_is_granted_itself_is_reached() {
    let server = ok();
    let origin = format!("http://{}", server.address);
    let bench = Bench::of(&server).hosts(vec![granted(&origin, false)]);
    assert!(bench.send(&origin).unwrap().ends_with("hello"));
}

#[test]
fn users_in_urls_and_odd_urls_are_refused() {
    let server = ok();
    let bench = Bench::of(&server);
    for (url, part) in [
        ("http://api.example.test@evil.test/", "a user or a password"),
        ("http://u:p@api.example.test/", "a user or a password"),
        ("http://evil.test\\@api.example.test/", "backslashes"),
        ("http://api.example.test/ x", "spaces"),
        ("http://api.example.test/\r\nx: y", "control characters"),
        ("http://api.ex%61mple.test/", "is no"),
        ("//api.example.test/", "is no"),
        ("ftp://api.example.test/", "the scheme is `https` or `http`"),
        ("file:///etc/passwd", "is no"),
        ("", "is no URL"),
    ] {
        bench.refused(url, part);
    }
    let long = format!("http://api.example.test/{}", "a".repeat(9000));
    bench.refused(&long, "the limit is 8192");
    assert_eq!(server.connections(), 0);
}

#[test]
fn headers_can_not_be_smuggled() {
    let server = ok();
    let bench = Bench::of(&server);
    for (name, value, part) in [
        ("x-a", "b\r\nhost: evil.test", "printable ASCII"),
        ("x-a", "b\n\nGET / HTTP/1.1", "printable ASCII"),
        ("x-a\r\nhost", "b", "no name of a header"),
        ("x a", "b", "no name of a header"),
        ("", "b", "no name of a header"),
        ("Host", "evil.test", "is set by the host"),
        ("content-LENGTH", "0", "is set by the host"),
        ("transfer-encoding", "chunked", "is set by the host"),
        ("connection", "upgrade", "is set by the host"),
        ("proxy-authorization", "x", "is set by the host"),
        ("accept-encoding", "gzip", "is set by the host"),
        ("expect", "100-continue", "is set by the host"),
    ] {
        let error = bench
            .send_with(json!({ "url": "http://api.example.test/", "headers": [[name, value]] }))
            .unwrap_err();
        assert!(error.contains(part), "{name}: {error}");
    }
    let many: Vec<[String; 2]> = (0..65).map(|number| [format!("x-{number}"), "y".to_owned()]).collect();
    let error = bench.send_with(json!({ "url": "http://api.example.test/", "headers": many })).unwrap_err();
    assert!(error.contains("65 headers; the limit is 64"), "{error}");
    let body = json!({ "url": "http://api.example.test/", "body": "x" });
    assert!(bench.send_with(body).unwrap_err().contains("has no body"));
    assert_eq!(server.connections(), 0);
}

#[test]
fn names_that_lead_to_this_machine_take_a_word() {
    let server = ok();
    let mut bench = Bench::of(&server).hosts(vec![granted("http://api.example.test", false)]);
    bench.refused(
        "http://api.example.test/",
        "127.0.0.1, a loopback address: if that is meant, it takes private = true",
    );
    for address in [
        "10.0.0.1:80",
        "192.168.0.1:80",
        "100.64.0.1:80",
        "[::1]:80",
        "[fd00::1]:80",
        "[::ffff:127.0.0.1]:80",
    ] {
        bench.lookup = leads_to(address.parse().unwrap());
        bench.refused("http://api.example.test/", "it takes private = true");
    }
    // One address among others that is not public spoils them all.
    let (public, own) = ("93.184.216.34:80".parse().unwrap(), server.address);
    bench.lookup = Arc::new(move |_, _| Ok(vec![public, own]));
    bench.refused("http://api.example.test/", "it takes private = true");
    assert_eq!(server.connections(), 0);
}

#[test]
fn names_that_lead_to_metadata_take_the_address_itself() {
    let server = ok();
    let mut bench = Bench::of(&server);
    for address in
        ["169.254.169.254:80", "[fd00:ec2::254]:80", "[fe80::1]:80", "0.0.0.0:80", "[::ffff:a9fe:a9fe]:80"]
    {
        bench.lookup = leads_to(address.parse().unwrap());
        bench.refused("http://api.example.test/", "only a grant of that address itself");
    }
}

#[test]
fn a_name_is_looked_up_once_and_the_connection_goes_where_it_led() {
    let (server, trap) = (ok(), ok());
    let count = Arc::new(AtomicUsize::new(0));
    let (asked, first, then) = (count.clone(), server.address, trap.address);
    let mut bench = Bench::of(&server);
    // As a name server would that answers with another address each time.
    bench.lookup =
        Arc::new(move |_, _| Ok(vec![if asked.fetch_add(1, Ordering::Relaxed) == 0 { first } else { then }]));
    bench.send("http://api.example.test/").unwrap();
    assert_eq!(count.load(Ordering::Relaxed), 1);
    assert_eq!((server.connections(), trap.connections()), (1, 0));
}

#[test]
fn redirects_come_back_and_lead_nowhere_by_themselves() {
    let server = Server::plain(|_, stream| {
        let _ = stream.write_all(
            b"HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/latest/meta-data/\r\ncontent-length: 0\r\n\r\n",
        );
    });
    let bench = Bench::of(&server);
    let answer = bench.send("http://api.example.test/").unwrap();
    assert!(answer.starts_with("302\nlocation: http://169.254.169.254/"), "{answer}");
    assert_eq!(server.connections(), 1);
    bench.refused(
        "http://169.254.169.254/latest/meta-data/",
        "the host http://169.254.169.254:80 is not granted",
    );
}

/// A secret in a file, for the header `authorization` of an origin.
fn secret(folder: &tempfile::TempDir, origin: &str) -> SecretGrant {
    let path = folder.path().join("key");
    // As editors and shells leave it; HTTP drops the blank, so that it can't be a part of what is looked for.
    std::fs::write(&path, format!("{SECRET} \n")).unwrap();
    SecretGrant {
        name: "api-key".to_owned(),
        source: SecretSource::File { written: "key".to_owned(), path },
        origin: origin.parse().unwrap(),
        header: "authorization".to_owned(),
        prefix: "Bearer ".to_owned(),
    }
}

#[test]
fn a_secret_is_sent_and_never_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::tls("api.example.test", |request, stream| {
        // All that was sent, as it is and in other forms.
        let json = json!({ "headers": request }).to_string();
        let escaped = SECRET.replace('/', "%2F").replace('+', "%2B").replace('=', "%3D").replace('&', "%26");
        let headers = format!("x-echo: Bearer {SECRET}\r\nset-cookie: k={escaped}\r\n");
        respond(stream, &headers, &format!("{request}\n{json}\n{escaped}"));
    });
    let mut bench = Bench::of(&server);
    bench.secrets = vec![secret(&folder, "https://api.example.test")];
    let answer = bench.send("https://api.example.test/echo").unwrap();
    assert!(server.requests()[0].contains(&format!("authorization: Bearer {SECRET}\r\n")), "it was sent");
    assert!(answer.contains("x-echo: Bearer [secret api-key]"), "{answer}");
    assert!(answer.contains("set-cookie: k=[secret api-key]"), "{answer}");
    for part in [SECRET, "t0ken", "s3cr3t"] {
        assert!(!answer.contains(part), "{part}: {answer}");
    }
    let own = json!({ "url": "https://api.example.test/", "headers": [["Authorization", "mine"]] });
    assert!(bench.send_with(own).unwrap_err().contains("is filled with a secret by the host"));
}

#[test]
fn a_secret_goes_to_its_origin_only() {
    let folder = tempfile::tempdir().unwrap();
    let server = ok();
    let mut bench = Bench::of(&server).hosts(vec![
        granted("https://api.example.test", true),
        granted("http://api.example.test", true),
        granted("http://other.example.test", true),
    ]);
    bench.secrets = vec![secret(&folder, "https://api.example.test")];
    for url in ["http://api.example.test/", "http://other.example.test/"] {
        bench.send(url).unwrap();
    }
    assert!(server.requests().iter().all(|request| !request.contains(SECRET)), "{:?}", server.requests());
    assert_eq!(server.requests().len(), 2);
}

#[test]
fn a_server_that_does_not_prove_its_name_gets_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::tls("api.example.test", |_, stream| respond(stream, "", "x"));
    let mut bench = Bench::of(&server);
    bench.secrets = vec![secret(&folder, "https://api.example.test")];
    // Another root is trusted.
    bench.roots = Server::tls("api.example.test", |_, _| {}).root.into_iter().collect();
    bench.refused("https://api.example.test/", "is not trusted");
    // The certificate is for another name.
    let mut bench = Bench::of(&server).hosts(vec![granted("https://other.example.test", true)]);
    bench.secrets = vec![secret(&folder, "https://other.example.test")];
    bench.refused("https://other.example.test/", "is not trusted");
    // There is no TLS at all.
    let plain = ok();
    let mut bench = Bench::of(&plain).hosts(vec![granted("https://api.example.test", true)]);
    bench.secrets = vec![secret(&folder, "https://api.example.test")];
    bench.roots = server.root.iter().cloned().collect();
    assert!(bench.send("https://api.example.test/").is_err());
    // No root at all.
    bench.roots = Vec::new();
    bench.refused("https://api.example.test/", "no root certificates");
    assert!(plain.requests().is_empty() && server.requests().is_empty());
}

#[test]
fn secrets_that_are_not_there_or_unfit_are_told_without_their_value() {
    let folder = tempfile::tempdir().unwrap();
    let server = ok();
    let load = |source: SecretSource| {
        let bench = Bench::of(&server);
        let host = host();
        let mut plugin =
            common::source("x", component(World::Tool), World::Tool, json!({ "names": ["test"] }));
        plugin.grants = [Grant::Clock, Grant::Files, Grant::Http, Grant::Environment].into();
        let secrets = vec![SecretGrant { source, ..secret(&folder, "http://api.example.test") }];
        plugin.authority = Authority { hosts: bench.hosts, secrets, ..Authority::default() };
        host.load(plugin, World::Tool).unwrap_err().to_string()
    };
    let file = |text: &str| {
        let path = folder.path().join("other");
        std::fs::write(&path, text).unwrap();
        SecretSource::File { written: "other".to_owned(), path }
    };
    let unset = load(SecretSource::Environment("MEMBRANE_TEST_UNSET".to_owned()));
    assert!(
        unset.contains("secret `api-key`: the environment variable MEMBRANE_TEST_UNSET is not set"),
        "{unset}"
    );
    for (text, part) in [
        ("short", "has 5 bytes; 8 to 8192"),
        ("long-enough\nwith-lines", "no header can hold"),
        ("", "0 bytes"),
    ] {
        let error = load(file(text));
        assert!(error.contains(part) && (text.is_empty() || !error.contains(text)), "{error}");
    }
    let missing = load(SecretSource::File { written: "none".to_owned(), path: folder.path().join("none") });
    assert!(missing.contains("secret `api-key`"), "{missing}");
    let device = load(SecretSource::File { written: "/dev/zero".to_owned(), path: "/dev/zero".into() });
    assert!(device.contains("is no regular file"), "{device}");
}

#[test]
fn compressed_bodies_are_refused() {
    // The beginning of a file that unfolds to a gigabyte.
    let server = Server::plain(|_, stream| respond(stream, "Content-Encoding: GZIP\r\n", "\u{1f}\u{8b}..."));
    Bench::of(&server).refused("http://api.example.test/", "encoded as `GZIP`, which was not asked for");
}

#[test]
fn bodies_and_heads_without_end_are_cut_off() {
    for framing in ["", "transfer-encoding: chunked\r\n", "content-length: 9999999999\r\n"] {
        let server = Server::plain(move |_, stream| {
            let chunk = if framing.starts_with("transfer") {
                format!("10000\r\n{}\r\n", "x".repeat(65_536))
            } else {
                "x".repeat(65_536)
            };
            let _ = write!(stream, "HTTP/1.1 200 OK\r\n{framing}\r\n");
            while stream.write_all(chunk.as_bytes()).is_ok() {}
        });
        Bench::of(&server).refused("http://api.example.test/", "more than 4194304 bytes");
    }
    let server = Server::plain(|_, stream| {
        let _ = write!(stream, "HTTP/1.1 200 OK\r\n");
        while write!(stream, "x-more: {}\r\n", "x".repeat(1000)).is_ok() {}
    });
    let error = Bench::of(&server).send("http://api.example.test/").unwrap_err();
    assert!(error.contains("head of the response has more than") || error.contains("HTTP"), "{error}");
    let many = Server::plain(|_, stream| {
        let headers: String = (0..1000).map(|number| format!("x-{number}: y\r\n")).collect();
        respond(stream, &headers, "x");
    });
    assert!(Bench::of(&many).send("http://api.example.test/").is_err());
    let nonsense = Server::plain(|_, stream| {
        let _ = stream.write_all(b"SSH-2.0-OpenSSH\r\n\r\n");
    });
    assert!(Bench::of(&nonsense).send("http://api.example.test/").is_err());
}

/// Calls, and holds the failure to the limit of the clock.
fn out_of_time(bench: &Bench, arguments: &Value) {
    let mut tools = bench.start();
    let begin = Instant::now();
    let error = tools.call("test", &arguments.to_string()).unwrap_err();
    let wall = matches!(&error, ToolError::Failed(Failure { cause: Cause::Wall { ms }, .. }) if *ms == bench.wall_ms);
    assert!(wall, "{error}");
    assert!(error.to_string().contains("ms (limits.wall_ms in its profile entry)"), "{error}");
    assert!(begin.elapsed() < Duration::from_secs(10), "it took {:?}", begin.elapsed());
}

#[test]
fn waiting_ends_by_the_clock() {
    let send = json!({ "act": "send", "url": "http://api.example.test/" });
    // A server that sends a byte now and then: of the head, and of the body.
    for head in ["HTTP/1.1 200 OK\r\nx-slow: ", "HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n"] {
        let slow = Server::plain(move |_, stream| {
            let _ = stream.write_all(head.as_bytes());
            while stream.write_all(b"x").and_then(|()| stream.flush()).is_ok() {
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        out_of_time(&Bench { wall_ms: 700, ..Bench::of(&slow) }, &send);
    }
    let silent = Server::plain(|_, _| std::thread::sleep(Duration::from_secs(15)));
    out_of_time(&Bench { wall_ms: 500, ..Bench::of(&silent) }, &send);
    // A name server that does not answer.
    let lookup: Lookup = Arc::new(|_, _| {
        std::thread::sleep(Duration::from_secs(5));
        Err(io::Error::other("too late"))
    });
    out_of_time(&Bench { wall_ms: 500, lookup, ..Bench::of(&silent) }, &send);
    // One that answers that there is no such name.
    let lookup: Lookup = Arc::new(|name, _| Err(io::Error::other(format!("{name} is not known"))));
    let bench = Bench { lookup, ..Bench::of(&silent) };
    bench.refused("http://api.example.test/", "can't be looked up: api.example.test is not known");
}

#[test]
fn computing_ends_by_the_clock_and_the_next_call_goes_on() {
    let server = ok();
    let bench = Bench { wall_ms: 400, ..Bench::of(&server) };
    // Fuel for some seconds, on any machine.
    out_of_time(&bench, &json!({ "act": "loop" }));
    let mut tools = bench.start();
    for _ in 0..2 {
        let error = tools.call("test", "{\"act\": \"loop\"}").unwrap_err();
        assert!(matches!(error, ToolError::Failed(_)));
        let send = json!({ "act": "send", "url": "http://api.example.test/" }).to_string();
        assert!(tools.call("test", &send).unwrap().ends_with("hello"));
    }
}

#[test]
fn calls_at_a_time_have_time_of_their_own() {
    let server = ok();
    let short = Bench { wall_ms: 200, ..Bench::of(&server) };
    let long = Bench { wall_ms: 20_000, ..Bench::of(&server) };
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..3 {
                out_of_time(&short, &json!({ "act": "loop" }));
            }
        });
        for _ in 0..10 {
            let sent = long.send_with(json!({ "url": "http://api.example.test/", "times": 5 }));
            failures.lock().unwrap().extend(sent.err());
        }
    });
    assert_eq!(*failures.lock().unwrap(), Vec::<String>::new());
}

#[test]
fn a_flood_is_stopped() {
    let server = ok();
    let bench = Bench::of(&server);
    let error = bench.send_with(json!({ "url": "http://api.example.test/", "times": 1000 })).unwrap_err();
    assert!(error.contains("more than the 64 requests of one call"), "{error}");
    assert_eq!(server.connections(), 64);
}

#[test]
fn all_of_this_holds_in_processes_of_their_own() {
    common::again_in_processes("all_of_this_holds_in_processes_of_their_own");
}

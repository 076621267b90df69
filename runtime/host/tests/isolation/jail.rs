//! What a process of a plugin can reach: nothing. Credentials are planted where programs have them, and an attacker, native
//! code with all the rights of the process, goes after them from inside, as a plugin would that had broken out of
//! WebAssembly. The same attacks succeed where nothing holds them.
//!
//! Three processes take part. The test plants, and starts a host that has it all; the host starts the attacker: confined, as
//! it starts the processes of plugins, and free.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use membrane_host::isolation::{Confinement, confine, start};
use nix::errno::Errno;
use nix::sys::{ptrace, signal};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::common::program;

const SECRET: &str = "planted-credential-8c1f";
/// A file that the host has open, and hands down to what it starts.
const INHERITED: i32 = 9;
const VARIABLE: &str = "AWS_SECRET_ACCESS_KEY";
const REPORT: &str = "MEMBRANE_TEST_REPORT";
const SERVICE: &str = "MEMBRANE_TEST_SERVICE";

/// Where to look.
#[derive(Serialize, Deserialize)]
struct Targets {
    home: PathBuf,
    /// Port of the metadata service.
    port: u16,
    /// The host.
    host: i32,
}

/// What came of each attack: none if it succeeded, else what the system said.
type Report = BTreeMap<String, Option<String>>;

#[test]
fn credentials_are_out_of_reach_from_inside() {
    let home = tempfile::tempdir().unwrap();
    fs::create_dir(home.path().join(".aws")).unwrap();
    fs::write(home.path().join(".aws/credentials"), SECRET).unwrap();
    fs::write(home.path().join(".netrc"), SECRET).unwrap();
    let service = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = service.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in service.incoming().flatten() {
            let _ = stream.write_all(format!("HTTP/1.0 200 OK\r\n\r\n{SECRET}").as_bytes());
        }
    });
    let free = attack(home.path(), port, false);
    let failed: Vec<_> = free.iter().filter(|(_, refusal)| refusal.is_some()).collect();
    assert!(failed.is_empty(), "attacks that prove nothing: {failed:?}");
    let _ = fs::remove_file(home.path().join("written"));
    let confined = attack(home.path(), port, true);
    let names = |report: &Report| report.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&confined), names(&free));
    let succeeded: Vec<_> = confined.iter().filter(|(_, refusal)| refusal.is_none()).collect();
    assert!(succeeded.is_empty(), "{succeeded:?}");
    assert!(!home.path().join("written").exists());
}

/// Starts a host that has credentials, for it to start the attacker.
fn attack(home: &Path, port: u16, confined: bool) -> Report {
    let report = home.join("report.json");
    let test = if confined { "jail::host_of_the_confined" } else { "jail::host_of_the_free" };
    let host = program(test);
    // The shell leaves a file open in it.
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(format!("exec {INHERITED}<\"$HOME/.netrc\"; exec \"$0\" \"$@\""));
    shell.arg(&host.path).args(&host.arguments);
    shell.env("HOME", home).env(VARIABLE, SECRET).env(REPORT, &report).env(SERVICE, port.to_string());
    let output = shell.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    serde_json::from_slice(&fs::read(report).unwrap()).unwrap()
}

#[test]
#[ignore = "is a host with credentials, started by a test"]
fn host_of_the_confined() {
    let (child, mut stream) = start(&program("jail::confined_attacker")).unwrap();
    send(&mut stream, &postcard::to_allocvec(&(0_u8, 1_u64 << 30)).unwrap());
    let answer = receive(&mut stream);
    let (kind, _, confinement): (u8, u32, Confinement) = postcard::from_bytes(&answer).unwrap();
    assert_eq!(kind, 0, "it could not confine itself");
    assert_eq!(confinement.missing(), None, "this kernel can't hold it: {confinement}");
    report(child, stream);
}

#[test]
#[ignore = "is a host with credentials, started by a test"]
fn host_of_the_free() {
    let (own, other) = UnixStream::pair().unwrap();
    let attacker = program("jail::free_attacker");
    let mut command = Command::new(attacker.path);
    command.args(attacker.arguments).stdin(Stdio::from(OwnedFd::from(other))).stdout(Stdio::null());
    report(command.spawn().unwrap(), own);
}

/// Tells the attacker where to look, and writes down what it found.
fn report(mut child: Child, mut stream: UnixStream) {
    let targets = Targets {
        home: std::env::var_os("HOME").unwrap().into(),
        port: std::env::var(SERVICE).unwrap().parse().unwrap(),
        host: std::process::id() as i32,
    };
    send(&mut stream, &serde_json::to_vec(&targets).unwrap());
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    fs::write(std::env::var_os(REPORT).unwrap(), receive(&mut stream)).unwrap();
    let _ = child.kill();
    child.wait().unwrap();
}

#[test]
#[ignore = "is an attacker in a jail, started by a test"]
fn confined_attacker() {
    let confined = confine().unwrap();
    attack_all(confined.into_stream());
}

#[test]
#[ignore = "is an attacker without a jail, started by a test"]
fn free_attacker() {
    attack_all(File::from(io::stdin().as_fd().try_clone_to_owned().unwrap()));
}

fn attack_all(mut host: File) {
    let targets: Targets = serde_json::from_slice(&receive(&mut host)).unwrap();
    let Targets { home, port, host: parent } = targets;
    let mut report = Report::new();
    let mut attempt = |name: &str, attack: &dyn Fn() -> io::Result<()>| {
        report.insert(name.to_owned(), attack().err().map(|error| error.to_string()));
    };
    attempt("environment", &|| found(std::env::var(VARIABLE).unwrap_or_default().as_bytes()));
    attempt("dot-file", &|| found(&fs::read(home.join(".aws/credentials"))?));
    attempt("list of files", &|| fs::read_dir(&home).map(drop));
    attempt("own environment in /proc", &|| found(&fs::read("/proc/self/environ")?));
    attempt("the host's environment in /proc", &|| found(&fs::read(format!("/proc/{parent}/environ"))?));
    attempt("the host's memory map", &|| fs::read(format!("/proc/{parent}/maps")).map(drop));
    attempt("inherited file by name", &|| found(&fs::read(format!("/dev/fd/{INHERITED}"))?));
    attempt("metadata service", &|| {
        let mut service = TcpStream::connect(("127.0.0.1", port))?;
        let mut text = Vec::new();
        service.read_to_end(&mut text)?;
        found(&text)
    });
    attempt("datagram socket", &|| UdpSocket::bind("127.0.0.1:0").map(drop));
    attempt("listening socket", &|| TcpListener::bind("127.0.0.1:0").map(drop));
    attempt("local socket", &|| UnixStream::pair().map(drop));
    attempt("written file", &|| fs::write(home.join("written"), "x"));
    attempt("made folder", &|| {
        fs::create_dir(home.join("made")).and_then(|()| fs::remove_dir(home.join("made")))
    });
    attempt("executed program", &|| Command::new("/bin/true").status().map(drop));
    attempt("thread", &|| std::thread::Builder::new().spawn(|| ()).map(drop));
    attempt("signal to the host", &|| Ok(signal::kill(Pid::from_raw(parent), None)?));
    // There is no such process, which only those are told who may ask.
    attempt("tracing", &|| match ptrace::attach(Pid::from_raw(i32::MAX)) {
        Err(Errno::ESRCH) => Ok(()),
        other => Ok(other?),
    });
    // By number: it is not open any more.
    attempt("inherited file by number", &|| Ok(nix::unistd::close(INHERITED)?));
    send(&mut host, &serde_json::to_vec(&report).unwrap());
    std::process::exit(0);
}

fn found(bytes: &[u8]) -> io::Result<()> {
    let there = bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes());
    if there { Ok(()) } else { Err(io::Error::other("it is not there")) }
}

fn send(stream: &mut impl Write, bytes: &[u8]) {
    let length = (bytes.len() as u32).to_le_bytes();
    stream.write_all(&[&length[..], bytes].concat()).unwrap();
}

fn receive(stream: &mut impl Read) -> Vec<u8> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    let mut bytes = vec![0; u32::from_le_bytes(length) as usize];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

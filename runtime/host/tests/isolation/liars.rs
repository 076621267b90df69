//! Processes that confine themselves, take a plugin in, and then lie to their host in the first call. Each is a test
//! that only a host starts. What they say is written out byte by byte: `runtime/host/src/isolation/protocol.rs` has the
//! messages, in this order.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::time::Duration;

const LOADED: u8 = 2;
const STARTED: u8 = 6;
const RETURNED: u8 = 7;
const ENDED: u8 = 8;
const IMPORT: u8 = 9;

/// A process up to its first call.
struct Liar(File);

impl Liar {
    fn new() -> Self {
        let mut liar = Self(membrane_host::isolation::confine().unwrap().into_stream());
        liar.hear();
        liar.say(&[LOADED]);
        liar.hear();
        liar.say(&[STARTED]);
        liar.hear();
        liar
    }

    /// Reads a frame, whatever it says.
    fn hear(&mut self) {
        let mut length = [0; 4];
        self.0.read_exact(&mut length).unwrap();
        let mut rest = vec![0; u32::from_le_bytes(length) as usize];
        self.0.read_exact(&mut rest).unwrap();
    }

    fn say(&mut self, frame: &[u8]) {
        self.raw(&(frame.len() as u32).to_le_bytes());
        self.raw(frame);
    }

    fn raw(&mut self, bytes: &[u8]) {
        if self.0.write_all(bytes).is_err() {
            std::process::exit(0);
        }
    }

    /// Makes the host end the call: a line that costs more than all fuel.
    fn overspend(&mut self) {
        let text = vec![b'x'; 5_000_000];
        let length = [0xc0, 0x96, 0xb1, 0x02];
        let line = [&[IMPORT, 0, 0, 0][..], &length, &text].concat();
        self.say(&line);
        self.hear();
    }
}

fn wait() -> ! {
    loop {
        std::thread::park_timeout(Duration::from_secs(100));
    }
}

macro_rules! liars {
    ($($name:ident: $lie:expr;)*) => {
        $(#[test]
        #[ignore = "is a process that lies, started by tests"]
        fn $name() {
            let lie: fn(Liar) = $lie;
            lie(Liar::new());
            wait()
        })*
    };
}

liars! {
    garbage: |mut host| host.say(&[200, 1]);
    oversized: |mut host| host.raw(&[0xff; 4]);
    half: |mut host| host.raw(&[100, 0, 0, 0, RETURNED]);
    silent: |_| {};
    trickle: |mut host| {
        host.raw(&[0, 0, 1, 0]);
        loop {
            host.raw(&[RETURNED]);
            std::thread::park_timeout(Duration::from_millis(20));
        }
    };
    floods: |mut host| loop {
        host.say(&[IMPORT, 0, 0, 0, 0]);
        host.hear();
    };
    leaves: |_| std::process::exit(7);
    ungranted: |mut host| host.say(&[IMPORT, 6, 0]);
    malformed_import: |mut host| host.say(&[IMPORT, 1, 99]);
    malformed_result: |mut host| host.say(&[RETURNED, 9]);
    result_with_more: |mut host| host.say(&[RETURNED, 0, 0]);
    wrong_answer: |mut host| host.say(&[STARTED]);
    goes_on: |mut host| {
        host.overspend();
        host.say(&[IMPORT, 1, 1]);
    };
    succeeds_all_the_same: |mut host| {
        host.overspend();
        host.say(&[RETURNED, 0]);
    };
    own_end: |mut host| host.say(&[ENDED, 8, 1, b'x']);
}

/// A program of another version of the protocol.
#[test]
#[ignore = "is a process that lies, started by tests"]
fn another_version() {
    let mut liar = Liar(File::from(std::io::stdin().as_fd().try_clone_to_owned().unwrap()));
    liar.hear();
    liar.say(&[0, 99, 0, 0]);
    wait()
}

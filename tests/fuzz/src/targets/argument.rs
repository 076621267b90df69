//! What a command line says: plugins with parameters and grants, sizes, hosts, digests; a line each.

use std::str::FromStr;

use membrane_profile::{ByteSize, Digest, Isolation, PluginArgument, Profile, WebOrigin};

use super::shown;

/// What arguments are made of.
pub const WORDS: &[&str] = &[
    ",grant=",
    "files:notes=./n:rw",
    "http:example.org",
    "environment:LANG",
    ",isolation=required",
    "=[1,2]",
    "={\"a\":\"b,c\"}",
    "\"",
    "https://",
    "[::1]:443",
    ":65536",
    " private",
    "KiB",
    "GiB",
    "1e9",
    "sha256:",
    "xn--",
    "0x7f.1",
    "user@",
];

/// Reads each line as each kind.
pub fn target(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    for line in text.lines() {
        if let Some(size) = read::<ByteSize>(line) {
            assert_eq!(size.to_string().parse::<ByteSize>().ok(), Some(size), "{size} is not {line}");
        }
        if let Some(origin) = read::<WebOrigin>(line) {
            let again = origin.to_string().parse::<WebOrigin>();
            assert_eq!(again.ok().as_ref(), Some(&origin), "{origin} is not {line}");
        }
        if let Some(digest) = read::<Digest>(line) {
            assert_eq!(digest.to_string().parse::<Digest>().ok(), Some(digest));
        }
        let _ = Isolation::from_str(line).inspect_err(|error| shown(error));
        if let Some(argument) = read::<PluginArgument>(line) {
            let profile = Profile::default_profile();
            let _ = profile.clone().with_samplers(vec![argument.clone()]).inspect_err(|error| shown(error));
            let _ = profile.clone().with_tools(vec![argument.clone()]).inspect_err(|error| shown(error));
            let _ = profile.with_agent(argument).inspect_err(|error| shown(error));
        }
    }
}

fn read<T: FromStr<Err: std::fmt::Display>>(text: &str) -> Option<T> {
    T::from_str(text).inspect_err(|error| shown(error)).ok()
}

/// One of each.
pub fn seeds() -> Vec<Vec<u8>> {
    let digest = Digest::of(b"abc").to_string();
    let lines = [
        "standard-sampler,temperature=0.7,top_k=20",
        "files,grant=files:notes=./notes:rw,isolation=process",
        "http-fetch,grant=http:example.org,grant=\"http:http://localhost:8080 private\"",
        "./x.wasm,a=[1,\"b,c\"],b={\"c\":\"d,e\"}",
        "768MiB\n1.5 GiB\n12",
        "https://api.example.org:443\nhttp://[::1]:8080\n10.0.0.1",
        &digest,
    ];
    lines.iter().map(|line| line.as_bytes().to_vec()).collect()
}

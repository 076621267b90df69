//! Grants with values in profiles, in locks and in the digest of a behaviour.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use membrane_profile::{
    ByteSize, Digest, Lock, LockedLimits, LockedPlugin, Profile, ProfileDigest, ProfileError, SecretSource,
};

const ENTRY: &str = r#"
[[tool]]
plugin = "http-fetch"
grants = ["http", "files", "environment"]
folders = [{ name = "notes", path = "n" }, { name = "drafts", path = "/d", write = true }]
hosts = ["api.example.org", { host = "http://intranet.example:8080", private = true }, "[::1]:1 private"]
environment = ["LANG"]
secrets = [
    { name = "key", from_env = "API_KEY", host = "https://API.example.org:443", prefix = "Bearer " },
    { name = "other", file = "k", host = "http://intranet.example:8080", header = "X-Key" },
]
limits = { wall_ms = 5000 }
"#;

fn read(text: &str) -> Result<Profile, ProfileError> {
    Profile::parse(text, "p.toml", Path::new("/profiles"))
}

fn lock(text: &str) -> Lock {
    let profile = read(text).unwrap();
    let plugins = profile.plugins().map(|plugin| {
        let limits = LockedLimits { fuel_per_call: 1, memory: ByteSize(1), wall_ms: plugin.limits.wall_ms };
        LockedPlugin::new(plugin, Digest::of(b""), &[], limits)
    });
    Lock::new(profile.generation, plugins.collect(), None)
}

fn digest(text: &str) -> String {
    let profile = read(text).unwrap();
    let digests = vec![Digest::of(b""); profile.plugins().count()];
    ProfileDigest::of(&profile, &digests).unwrap().to_string()
}

#[test]
fn values_are_read_and_told_in_lines() {
    let profile = read(ENTRY).unwrap();
    let authority = &profile.tools()[0].authority;
    assert_eq!(authority.folders[0].path, Path::new("/profiles/n"));
    assert_eq!(authority.folders[1].path, Path::new("/d"));
    assert_eq!(authority.hosts.iter().map(|host| host.private).collect::<Vec<_>>(), [false, true, true]);
    let SecretSource::File { path, .. } = &authority.secrets[1].source else { panic!("a file") };
    assert_eq!(path, Path::new("/profiles/k"));
    let lines: Vec<String> = authority.lines().into_iter().collect();
    assert_eq!(
        lines,
        [
            "have the secret key (environment variable API_KEY) sent to https://api.example.org:443 as \
             `authorization: Bearer ...`, unseen",
            "have the secret other (file k) sent to http://intranet.example:8080 as `x-key: ...`, unseen",
            "reach http://intranet.example:8080",
            "reach http://intranet.example:8080 at a private address",
            "reach https://[::1]:1",
            "reach https://[::1]:1 at a private address",
            "reach https://api.example.org:443",
            "read the environment variable LANG",
            "read the folder drafts (/d)",
            "read the folder notes (n)",
            "write the folder drafts (/d)",
        ]
    );
}

#[test]
fn what_is_wrong_is_told_with_its_field() {
    for (from, to, expected) in [
        ("name = \"notes\"", "name = \"drafts\"", "folders: `drafts` is there twice"),
        ("name = \"notes\"", "name = \"../notes\"", "folders: the name `../notes`"),
        ("path = \"n\"", "path = \"\"", "folders: `notes` has no path"),
        ("path = \"n\"", "path = \"n\", mode = 1", "unknown field `mode`"),
        ("\"api.example.org\"", "\"*.example.org\"", "not by a pattern"),
        ("\"api.example.org\"", "\"ftp://api.example.org\"", "the scheme is `https` or `http`"),
        ("\"api.example.org\"", "\"api.example.org/v1\"", "without a path"),
        ("\"api.example.org\"", "5", "a host is \"HOST[:PORT]\" or"),
        ("[\"LANG\"]", "[\"A=B\"]", "environment: `A=B` is no name"),
        ("[\"LANG\"]", "[\"LANG\", \"LANG\"]", "`LANG` is there twice"),
        ("from_env = \"API_KEY\", ", "", "needs either `from_env`"),
        ("from_env = \"API_KEY\"", "from_env = \"API_KEY\", file = \"k\"", "needs either `from_env`"),
        ("API.example.org:443", "evil.example", "not among `hosts`: add it there"),
        ("X-Key", "Content-Length", "can't go into the header `content-length`"),
        ("X-Key", "x key", "can't go into the header"),
        ("\"Bearer \"", "\"Bearer\\r\\nx: \"", "has a `prefix`"),
        ("wall_ms = 5000", "wall_ms = 0", "limits.wall_ms: 0 is not from 1"),
        ("[[tool]]", "[[policy]]", "limits.wall_ms is for tools; a policy has"),
    ] {
        let text = ENTRY.replacen(from, to, 1);
        assert_ne!(text, ENTRY, "{from}");
        let error = read(&text).unwrap_err().to_string();
        assert!(error.contains(expected), "{from} -> {to}: {error}");
    }
    let twice = ENTRY.replace(
        "http://intranet.example:8080\", header = \"X-Key",
        "api.example.org\", header = \"AUTHORIZATION",
    );
    let error = read(&twice).unwrap_err().to_string();
    assert!(error.contains("`authorization of https://api.example.org:443` is there twice"), "{error}");
    let many: Vec<String> = (0..65).map(|number| format!("\"h{number}.example\"")).collect();
    let text = ENTRY.replacen("hosts = [", &format!("hosts = [{},", many.join(",")), 1);
    assert!(read(&text).unwrap_err().to_string().contains("hosts: has 68, of which at most 64"));
}

#[test]
fn more_authority_has_to_be_approved_and_less_does_not() {
    let before = lock(ENTRY);
    let path = Path::new("p.lock");
    assert_eq!(Lock::parse(&before.to_toml(path).unwrap(), path).unwrap(), before);
    assert_eq!(before.differences(&before), []);
    for (from, to, more, less) in [
        ("path = \"n\"", "path = \"n\", write = true", 1, 0),
        ("path = \"/d\", write = true", "path = \"/d\"", 0, 1),
        ("path = \"n\"", "path = \"m\"", 1, 1),
        ("\"api.example.org\",", "\"api.example.org\", \"b.example.org\",", 1, 0),
        ("\"api.example.org\",", "\"api.example.org private\",", 1, 0),
        (", private = true", "", 0, 1),
        ("[\"LANG\"]", "[\"LANG\", \"HOME\"]", 1, 0),
        ("[\"LANG\"]", "[]", 0, 1),
        ("from_env = \"API_KEY\"", "from_env = \"OTHER_KEY\"", 1, 1),
        ("file = \"k\"", "file = \"l\"", 1, 1),
        ("header = \"X-Key\"", "header = \"X-Token\"", 1, 1),
        ("wall_ms = 5000", "wall_ms = 5001", 1, 0),
        ("wall_ms = 5000", "wall_ms = 4999", 0, 1),
        ("limits = { wall_ms = 5000 }", "", 1, 0),
    ] {
        let text = ENTRY.replacen(from, to, 1);
        assert_ne!(text, ENTRY, "{from}");
        let found = before.differences(&lock(&text));
        let widening = found.iter().filter(|difference| difference.widens).count();
        assert_eq!((widening, found.len() - widening), (more, less), "{from} -> {to}: {found:?}");
        assert_ne!(digest(&text), digest(ENTRY), "{from}");
    }
}

#[test]
fn a_profile_without_values_has_the_digest_that_it_had() {
    let plain = "[[tool]]\nplugin = \"clock\"\ngrants = [\"clock\"]\n";
    // What the release before made of it.
    assert_eq!(digest(plain), PLAIN);
    assert_ne!(digest(&format!("{plain}environment = [\"LANG\"]\n")), PLAIN);
}

const PLAIN: &str = "681d21b36e45f98838e83645ee1b8a5a0f3741b357811b76ef421b7522f6d3fc";

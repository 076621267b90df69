//! Profiles as files: what is read, what is refused, what counts for the digest.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use membrane_profile::{
    ByteSize, Digest, Isolation, Kind, Location, PluginArgument, Profile, ProfileDigest, ProfileError,
};
use serde_json::json;

const STRICT: &str = r#"
name = "strict"

[generation]
max_tokens = 300
seed = 7

[[sampler]]
plugin = "standard-sampler"
parameters = { temperature = 0.5, top_k = 20 }
grants = ["all-logits"]
limits = { fuel_per_call = 1000, memory = "64MiB" }

[[policy]]
plugin = "guard"
name = "house-rules"
parameters = { rules = "file:rules.txt" }

[[policy]]
plugin = "guard"

[[tool]]
plugin = "tools/my-tool.wasm"
digest = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
"#;

fn parse(text: &str) -> Result<Profile, ProfileError> {
    Profile::parse(text, "p.toml", Path::new("/nowhere"))
}

fn read(text: &str) -> (tempfile::TempDir, Profile) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("p.toml"), text).unwrap();
    fs::write(folder.path().join("rules.txt"), "the rules").unwrap();
    let profile = Profile::read(&folder.path().join("p.toml")).unwrap();
    (folder, profile)
}

fn digest(profile: &Profile) -> String {
    let components: Vec<Digest> =
        profile.plugins().map(|plugin| Digest::of(plugin.name.as_bytes())).collect();
    ProfileDigest::of(profile, &components).unwrap().hex()
}

fn arguments(texts: &[&str]) -> Vec<PluginArgument> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn everything_in_a_profile_is_read_and_resolved() {
    let (folder, profile) = read(STRICT);
    assert_eq!(profile.name, "strict");
    assert_eq!((profile.generation.max_tokens, profile.generation.seed), (Some(300), Some(7)));
    let sampler = &profile.samplers()[0];
    assert_eq!(sampler.location, Location::FirstParty("standard-sampler".to_owned()));
    assert_eq!(serde_json::to_value(&sampler.parameters).unwrap(), json!({"temperature": 0.5, "top_k": 20}));
    assert_eq!(sampler.limits.memory, Some(ByteSize::mebibytes(64)));
    assert_eq!(sampler.grants, ["all-logits"]);
    assert_eq!(profile.policies()[0].parameters["rules"], json!("the rules"));
    let names: Vec<&str> = profile.plugins().map(|plugin| plugin.name.as_str()).collect();
    assert_eq!(names, ["standard-sampler", "house-rules", "guard", "my-tool"]);
    let tool = &profile.tools()[0];
    assert_eq!(tool.location, Location::Path(folder.path().join("tools/my-tool.wasm")));
    assert_eq!(tool.pin, Some(Digest::of(b"abc")));
}

#[test]
fn a_profile_without_a_sampler_has_the_standard_one_and_takes_the_name_of_its_file() {
    let (_folder, profile) = read("");
    assert_eq!(profile.name, "p");
    assert_eq!(profile.samplers(), Profile::default_profile().samplers());
}

#[test]
fn errors_name_the_line_the_entry_and_what_is_allowed() {
    for (text, expected) in [
        ("name = 1", "p.toml:1: invalid type"),
        (
            "\n\ntemperature = 1",
            "p.toml:3: unknown field `temperature`, expected one of `name`, `generation`",
        ),
        ("[[sampler]]\nplugin = \"greedy\"\nparamters = {}", "p.toml:3: unknown field `paramters`"),
        ("[[policy]]\nname = \"x\"", "missing field `plugin`"),
        ("[generation]\ntop_k = 1", "p.toml:2: unknown field `top_k`"),
        ("[generation]\nseed = -1", "p.toml:2: invalid value"),
        ("[[tool]]\nplugin = \"My Tool\"", "p.toml: tool 1: `My Tool` is no plugin"),
        ("[[sampler]]\nplugin = \"a\"\n[[policy]]\nplugin = \"b\"\nname = \"a\"", "policy 1: another plugin"),
        ("[[sampler]]\nplugin = \"a\"\nparameters = { x = [1, nan] }", "sampler 1: parameters.x[1]: NaN"),
        (
            "[[sampler]]\nplugin = \"a\"\nlimits = { memory = \"64XB\" }",
            "p.toml:3: `64XB` has an unknown unit",
        ),
        ("[[sampler]]\nplugin = \"a\"\nlimits = { fuel = 1 }", "unknown field `fuel`"),
        ("[[sampler]]\nplugin = \"a\"\ndigest = \"abc\"", "p.toml:3: `abc` is not a digest"),
        ("[[policy]]\nplugin = \"guard\"\nparameters = { rules = \"file:gone.toml\" }", "/nowhere/gone.toml"),
    ] {
        let error = parse(text).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
}

#[test]
fn files_that_are_no_profile_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.toml");
    fs::write(&path, [0xff, 0xfe, 0x00]).unwrap();
    assert!(matches!(Profile::read(&path), Err(ProfileError::NotText { .. })));
    fs::write(&path, vec![b'#'; (1 << 20) + 1]).unwrap();
    assert!(matches!(Profile::read(&path), Err(ProfileError::TooLarge { .. })));
    assert!(matches!(Profile::read(&folder.path().join("none")), Err(ProfileError::Unreadable { .. })));
}

#[test]
fn the_command_line_replaces_samplers_and_adds_the_rest() {
    let (folder, profile) = read(STRICT);
    let rules = format!("guard,rules=file:{}", folder.path().join("rules.txt").display());
    let profile = profile
        .with_samplers(arguments(&["mirostat,tau=4", "./last.wasm"]))
        .and_then(|p| p.with_policies(arguments(&[&rules])))
        .and_then(|p| p.with_tools(arguments(&["clock,grant=clock"])))
        .and_then(|p| p.with_parameter(Kind::Sampler, "mirostat", "eta", json!(0.2)))
        .unwrap();
    let names: Vec<&str> = profile.plugins().map(|plugin| plugin.name.as_str()).collect();
    assert_eq!(names, ["mirostat", "last", "house-rules", "guard", "guard-2", "my-tool", "clock"]);
    assert_eq!(
        serde_json::to_value(&profile.samplers()[0].parameters).unwrap(),
        json!({"tau": 4, "eta": 0.2})
    );
    assert_eq!(profile.policies()[2].parameters["rules"], json!("the rules"));
    assert_eq!(profile.tools()[1].grants, ["clock"]);
    let error = profile.with_parameter(Kind::Policy, "gard", "x", json!(1)).unwrap_err().to_string();
    assert!(error.contains("no policy named `gard`: it has `house-rules`, `guard`, `guard-2`"), "{error}");
}

#[test]
fn no_sampler_arguments_leave_the_chain_alone() {
    let profile = Profile::default_profile();
    assert_eq!(profile.clone().with_samplers(Vec::new()).unwrap(), profile);
}

#[test]
fn the_digest_follows_what_decides_and_nothing_else() {
    let (_folder, strict) = read(STRICT);
    let reference = digest(&strict);
    let same = [
        STRICT.replace("temperature = 0.5, top_k = 20", "top_k = 20, temperature = 0.5"),
        STRICT.replace("name = \"strict\"", "name = \"other\""),
        STRICT.replace("tools/my-tool.wasm", "other-folder/my-tool.wasm"),
    ];
    for text in same {
        assert_ne!(text, STRICT);
        assert_eq!(digest(&read(&text).1), reference, "{text}");
    }
    let different = [
        STRICT.replace("0.5", "0.6"),
        STRICT.replace("seed = 7", "seed = 8"),
        STRICT.replace("[\"all-logits\"]", "[]"),
        STRICT.replace("64MiB", "32MiB"),
        STRICT.replace("fuel_per_call = 1000", "fuel_per_call = 1001"),
        STRICT.replace("house-rules", "house"),
        STRICT.replace("file:rules.txt", "other rules"),
    ];
    for text in different {
        assert_ne!(digest(&read(&text).1), reference, "{text}");
    }
    let mut components: Vec<Digest> = strict.plugins().map(|p| Digest::of(p.name.as_bytes())).collect();
    components.swap(1, 2);
    assert_ne!(ProfileDigest::of(&strict, &components).unwrap().hex(), reference);
    components.pop();
    assert!(matches!(ProfileDigest::of(&strict, &components), Err(ProfileError::DigestCount { .. })));
}

const KEY: &str = "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=
-----END PUBLIC KEY-----
";

#[test]
fn publishers_are_known_by_fingerprint_file_or_key() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("b.pub"), KEY).unwrap();
    let fingerprint = Digest::of(KEY.as_bytes());
    let entry = |name: &str| format!("[[tool]]\nplugin = \"{name}.wasm\"\npublisher = \"{name}\"\n");
    let text = format!(
        "[publishers]\na = \"{fingerprint}\"\nb = \"file:b.pub\"\nc = \"\"\"\n{KEY}\"\"\"\n{}{}{}",
        entry("a"),
        entry("b"),
        entry("c")
    );
    let profile = Profile::parse(&text, "p.toml", folder.path()).unwrap();
    for (tool, (name, has_key)) in profile.tools().iter().zip([("a", false), ("b", true), ("c", true)]) {
        let publisher = tool.publisher.as_ref().unwrap();
        assert_eq!((publisher.name.as_str(), publisher.key.is_some()), (name, has_key));
        assert_eq!(publisher.fingerprint.to_string(), fingerprint.to_string());
    }
}

#[test]
fn what_says_two_things_about_whose_a_plugin_is_is_refused() {
    let publishers = format!("[publishers]\na = \"{}\"\n", Digest::of(b"a"));
    for (text, expected) in [
        ("[[tool]]\nplugin = \"a.wasm\"\npublisher = \"b\"", "tool 1: there is no publisher `b`"),
        ("[[tool]]\nplugin = \"a.wasm\"\npublisher = \"a\"\nunsigned = true", "contradict each other"),
        ("[[tool]]\nplugin = \"clock\"\nunsigned = true", "part of the program"),
        ("[[tool]]\nplugin = \"clock\"\npublisher = \"a\"", "part of the program"),
        ("[publishers.b]\nkey = 1", "invalid type"),
    ] {
        let error = parse(&format!("{publishers}{text}")).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
    for (value, expected) in [
        ("md5:abc", "publishers.a: give `sha256:` and the fingerprint"),
        ("-----BEGIN PRIVATE KEY-----", "publishers.a: is no public key: it is a PRIVATE KEY"),
        ("file:none.pub", "/nowhere/none.pub"),
    ] {
        let error = parse(&format!("[publishers]\na = \"{value}\"")).unwrap_err().to_string();
        assert!(error.contains(expected), "{value}: {error}");
    }
}

#[test]
fn nothing_else_has_the_name_of_the_sampler_that_is_there_by_default() {
    let named =
        "[[policy]]\nplugin = \"guard\"\nname = \"standard-sampler\"\nparameters = { rules = \"x\" }\n";
    let error = parse(named).unwrap_err().to_string();
    assert!(error.contains("already named `standard-sampler`"), "{error}");
    parse(&format!("[[sampler]]\nplugin = \"standard-sampler\"\nname = \"other\"\n{named}")).unwrap();
}

#[test]
fn names_and_numbers_of_plugins_are_bounded() {
    let long = "x".repeat(101);
    for text in [
        "name = \"\\u001b[2J\"".to_owned(),
        format!("name = \"{long}\""),
        "[publishers]\n\"a\\nb\" = \"x\"".to_owned(),
        "[[tool]]\nplugin = \"clock\"\nname = \" \"".to_owned(),
        "[[tool]]\nplugin = \"clock\"\nname = \"a\\u0007\"".to_owned(),
    ] {
        let error = parse(&text).unwrap_err().to_string();
        assert!(error.contains("control characters in it") && !error.contains('\u{1b}'), "{text}: {error}");
    }
    let tools = |count: usize| parse(&"[[tool]]\nplugin = \"clock\"\n".repeat(count));
    assert_eq!(tools(64).unwrap().tools().len(), 64);
    assert!(tools(65).unwrap_err().to_string().contains("has 65 plugins, of which at most 64"));
}

#[test]
fn a_profile_uses_no_files_outside_of_its_folder() {
    let outer = tempfile::tempdir().unwrap();
    let folder = outer.path().join("profile");
    fs::create_dir_all(folder.join("below")).unwrap();
    fs::write(outer.path().join("secret"), "a secret").unwrap();
    fs::write(folder.join("below/rules"), "rules").unwrap();
    let secret = outer.path().join("secret");
    std::os::unix::fs::symlink(&secret, folder.join("link")).unwrap();
    let read = |path: &str| {
        let text = format!("[[policy]]\nplugin = \"guard\"\nparameters = {{ rules = \"file:{path}\" }}");
        Profile::parse(&text, "p.toml", &folder)
    };
    for path in ["../secret", "below/../../secret", "link", secret.to_str().unwrap()] {
        let error = read(path).unwrap_err();
        assert!(matches!(error, ProfileError::Outside { .. }), "{path}: {error}");
    }
    for path in ["below/rules", "below/../below/rules", "./below/rules"] {
        assert_eq!(read(path).unwrap().policies()[0].parameters["rules"], json!("rules"), "{path}");
    }
    // What is typed may be anywhere.
    let typed: PluginArgument = format!("guard,rules=file:{}", secret.display()).parse().unwrap();
    let profile = Profile::default_profile().with_policies(vec![typed]).unwrap();
    assert_eq!(profile.policies()[0].parameters["rules"], json!("a secret"));
}

#[test]
fn what_nobody_vouches_for_has_a_process_of_its_own() {
    let text = format!(
        "[publishers]\nhouse = \"{digest}\"\n\
         [[tool]]\nplugin = \"clock\"\n\
         [[tool]]\nplugin = \"a.wasm\"\nunsigned = true\n\
         [[tool]]\nplugin = \"b.wasm\"\ndigest = \"{digest}\"\n\
         [[tool]]\nplugin = \"c.wasm\"\npublisher = \"house\"\n\
         [[tool]]\nplugin = \"d.wasm\"\nunsigned = true\nisolation = \"none\"\n\
         [[tool]]\nplugin = \"calculator\"\nisolation = \"required\"\n",
        digest = Digest::of(b"x")
    );
    let profile = Profile::parse(&text, "p.toml", Path::new("/nowhere")).unwrap();
    let profile = profile
        .with_tools(vec!["e.wasm".parse().unwrap(), "f.wasm,isolation=none".parse().unwrap()])
        .unwrap();
    let isolations = |profile: &Profile| -> Vec<String> {
        profile.tools().iter().map(|tool| format!("{} {}", tool.name, tool.isolation())).collect()
    };
    let expected = [
        "clock none",
        "a process",
        "b none",
        "c none",
        "d none",
        "calculator required",
        "e process",
        "f none",
    ];
    assert_eq!(isolations(&profile), expected);
    let all = profile.with_isolation(Isolation::Required);
    assert!(all.plugins().all(|plugin| plugin.isolation() == Isolation::Required));
    let wrong = text.replace("\"required\"", "\"jail\"");
    let error = Profile::parse(&wrong, "p.toml", Path::new("/nowhere")).unwrap_err().to_string();
    assert!(error.contains("`jail`") && error.contains("`required`"), "{error}");
}

#[test]
fn what_the_command_line_grants_an_agent_of_the_profile_is_added_to_its_own() {
    let text =
        "[[agent]]\nplugin = \"react\"\ngrants = [\"files\"]\nfolders = [{ name = \"a\", path = \"a\" }]\n";
    let with = |argument: &str| parse(text).unwrap().with_agent(argument.parse().unwrap());
    let (profile, name) = with("react,grant=store,grant=files:b=/b:rw,steps=3").unwrap();
    let agent = &profile.agents()[0];
    assert_eq!((&name[..], &agent.grants[..]), ("react", &["files".to_owned(), "store".to_owned()][..]));
    let lines: Vec<String> = agent.authority.lines().into_iter().collect();
    assert_eq!(lines, ["read the folder a (a)", "read the folder b (/b)", "write the folder b (/b)"]);
    assert_eq!(agent.parameters["steps"], 3);
    let error = with("react,grant=files:a=/b").unwrap_err().to_string();
    assert!(error.contains("command line: agent 1: folders: `a` is there twice"), "{error}");
    let error = with("react,prompt=file:/no/such").unwrap_err();
    assert!(matches!(error, ProfileError::Unreadable { .. }), "{error}");
}

#[test]
fn memory_is_limited_to_what_an_instance_can_have() {
    let with = |memory: &str| {
        parse(&format!("[[sampler]]\nplugin = \"greedy\"\nlimits = {{ memory = \"{memory}\" }}\n"))
    };
    with("4GiB").unwrap();
    let error = with("4194305KiB").unwrap_err().to_string();
    assert!(
        error.contains("sampler 1: limits.memory: 4194305KiB") && error.contains("at most 4GiB"),
        "{error}"
    );
}

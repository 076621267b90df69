//! What a user gets wrong is named, with what to do.

use membrane_formats::Metadata;

use crate::program::{DENSE, MOE, changed, fixture, membrane};

#[test]
fn files_that_are_no_models() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("notes.gguf");
    std::fs::write(&text, "This is no model, whatever its name says.").unwrap();
    for verb in [&["run"][..], &["model", "inspect"], &["bench"]] {
        let with = |path: &str| membrane(&[verb, &[path]].concat());
        with("nowhere.gguf").failed_saying(&["nowhere.gguf", "No such file"]);
        with(text.to_str().unwrap()).failed_saying(&["notes.gguf", "GGUF"]);
    }
    let mut cut = std::fs::read(fixture(MOE)).unwrap();
    cut.truncate(cut.len() / 2);
    let path = folder.path().join("cut.gguf");
    std::fs::write(&path, cut).unwrap();
    membrane(&["run", path.to_str().unwrap(), "Hello"]).failed_saying(&["cut.gguf"]);
}

#[test]
fn models_that_contradict_themselves_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let with = |change: &dyn Fn(&mut Metadata)| {
        let model = changed(MOE, folder.path(), change);
        let inspect = membrane(&["model", "inspect", &model]);
        assert!(inspect.code == Some(0) || inspect.stdout.contains("changed.gguf: "), "{}", inspect.stdout);
        membrane(&["run", &model, "Hello"])
    };
    let width = |metadata: &mut Metadata| metadata.set("qwen3moe.expert_feed_forward_length", 64u32);
    with(&width).failed_saying(&["changed.gguf: tensor `blk.0.ffn_", "has shape"]);
    let rules = |metadata: &mut Metadata| metadata.set("tokenizer.ggml.pre", "superbpe");
    with(&rules).failed_saying(&["changed.gguf: tokenizer.ggml.pre is \"superbpe\""]);
    let types = |metadata: &mut Metadata| metadata.set("tokenizer.ggml.token_type", vec![1i32; 3]);
    with(&types).failed_saying(&["changed.gguf: tokenizer.ggml.token_type has 3 entries"]);
    let template = |metadata: &mut Metadata| metadata.set("tokenizer.chat_template", "{% if %}");
    with(&template).failed_saying(&["changed.gguf: chat template, line 1"]);
    let failing = |metadata: &mut Metadata| metadata.set("tokenizer.chat_template", "{{ 1 // 0 }}");
    with(&failing).failed_saying(&["changed.gguf: chat template, line 1"]);
    let name = |metadata: &mut Metadata| metadata.set("general.architecture", "a\x1b".repeat(1000));
    let run = with(&name);
    run.failed_saying(&["changed.gguf: architecture `aaaa", "...` is not supported"]);
    assert!(run.stderr.len() < 400, "{}", run.stderr);
}

#[test]
fn more_than_the_machine_has() {
    let model = fixture(MOE);
    let run = |arguments: &[&str]| membrane(&[&["run", &model, "Hello", "-n", "1"], arguments].concat());
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("logits").to_str().unwrap().to_owned();
    for context in ["4294967295", "100000000"] {
        let tokens = format!("for a context of {context} tokens");
        // Where a control group has less than the machine, it is that which has too little.
        let words = [&tokens, "this model takes", " has ", "a smaller --ctx"];
        run(&["--ctx", context]).failed_saying(&words);
        run(&["--ctx", context, "--memory", "1000TiB"]).failed_saying(&words);
        membrane(&["logits", &model, "--tokens", "1", "--out", &out, "--ctx", context]).failed_saying(&words);
    }
    run(&["--ctx", "4294967295", "--prefill-chunk", "18446744073709551615"])
        .failed_saying(&["this model takes", " has "]);
    let inspect = membrane(&["model", "inspect", &model, "--ctx", "4294967295"]);
    assert_eq!(inspect.code, Some(1), "{}", inspect.stderr);
    assert!(inspect.stdout.contains("this model takes"), "{}", inspect.stdout);
}

#[test]
fn threads() {
    let model = fixture(MOE);
    for threads in ["18446744073709551615", "100000", "257"] {
        for verb in [&["run"][..], &["model", "inspect"], &["bench"]] {
            let ended = membrane(&[verb, &[&model, "--threads", threads]].concat());
            if verb[0] == "model" {
                assert!(ended.stdout.contains("may be at most 256"), "{}", ended.stdout);
            } else {
                ended.failed_saying(&[&format!("--threads is {threads} and may be at most 256")]);
            }
        }
    }
    let answer = |threads| {
        membrane(&["run", &model, "Hello", "-n", "4", "--seed", "1", "-q", "--threads", threads]).good()
    };
    assert_eq!(answer("256").stdout, answer("1").stdout);
}

#[test]
fn contexts_beyond_what_the_model_was_trained_for_are_noted() {
    let folder = tempfile::tempdir().unwrap();
    let model = changed(DENSE, folder.path(), |metadata| {
        metadata.set("qwen3.context_length", 64_u32);
        metadata.set("qwen3.rope.scaling.type", "yarn");
        metadata.set("qwen3.rope.scaling.factor", 4_f32);
        metadata.set("qwen3.rope.scaling.original_context_length", 64_u32);
    });
    let told = |context: &str| membrane(&["run", &model, "Hello", "-n", "1", "--ctx", context]).good().stderr;
    assert!(!told("256").contains("longer than"), "{}", told("256"));
    assert!(told("257").contains("257 tokens is longer than the 256"), "{}", told("257"));
}

#[test]
fn measurements_beyond_what_the_model_was_trained_for() {
    let model = fixture(MOE);
    let bench = |arguments: &[&str]| membrane(&[&["bench", &model, "--repeat", "1"], arguments].concat());
    bench(&["--prompt", "999999"]).failed_saying(&["--prompt 999999 and --decode 64 are 1000063", "4096"]);
    bench(&["--prompt", "4096", "--decode", "1"]).failed_saying(&["4097 tokens", "trained for 4096"]);
    bench(&["--prompt", "18446744073709551615"]).failed_saying(&["trained for 4096"]);
    bench(&["--prompt", "0"]).failed_saying(&["--prompt", "must be at least 1"]);
    bench(&["--prompt", "999999", "--against", "llama.cpp"]).failed_saying(&["trained for 4096"]);
    let run = bench(&["--prompt", "16", "--decode", "2"]).good();
    assert!(run.stdout.contains("decode of 2 tokens"), "{}", run.stdout);
}

#[test]
fn flags() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("logits").to_str().unwrap().to_owned();
    let model = fixture(MOE);
    let run = |arguments: &[&str]| membrane(&[&["run", &model, "Hello"], arguments].concat());
    run(&["--memroy", "1GiB"]).failed_saying(&["--memroy", "--memory"]);
    run(&["--memory", "1XB"]).failed_saying(&["--memory", "1XB"]);
    run(&["--memory", "8MiB"]).failed_saying(&[
        "--memory 8MiB",
        "are needed at least",
        "give at least --memory",
    ]);
    run(&["--threads", "0"]).failed_saying(&["--threads", "at least 1"]);
    run(&["--ctx", "0"]).failed_saying(&["--ctx", "at least 1"]);
    run(&["--seed", "x"]).failed_saying(&["--seed", "x"]);
    run(&["--sampler", "greedy", "--temperature", "0.5"]).failed_saying(&["--temperature", "greedy"]);
    run(&["--temperature=-1"]).failed_saying(&["standard-sampler", "temperature"]);
    run(&["--temperature", "nan"]).failed_saying(&["--temperature", "nan", "not a finite number"]);
    run(&["--temperature", "-1"]).failed_saying(&["standard-sampler", "temperature"]);
    run(&["--top-k", "-1", "-n", "1"]).good();
    run(&["--top-p", "7"]).failed_saying(&["standard-sampler", "top_p"]);
    membrane(&["run"]).failed_saying(&["MODEL", "Usage"]);
    membrane(&["walk"]).failed_saying(&["walk", "Usage"]);
    membrane(&["logits", &model, "--tokens", "1,x", "--out", &out]).failed_saying(&["x", "--tokens"]);
    membrane(&["logits", &model, "--tokens", "1,99999", "--out", &out]).failed_saying(&["99999"]);
}

#[test]
fn drawn_traces() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("drawn.trace").to_str().unwrap().to_owned();
    for (layers, experts, bytes, tokens, words) in [
        ("4096", "65536", "1MiB", "1", &["--layers, --experts: more than"][..]),
        ("4096", "65536", "1MiB", "999", &["--prompt, --decode: too many"]),
        ("2", "4", "0", "3", &["--expert-bytes"]),
        ("2", "4", "2TiB", "3", &["--expert-bytes"]),
        ("2", "4", "1MiB", "3", &[]),
    ] {
        let shape = ["--layers", layers, "--experts", experts, "--top-k", "2", "--expert-bytes", bytes];
        let flags = ["--prompt", "0", "--decode", tokens];
        let ended = membrane(&[&["trace", "generate", &out], &shape[..], &flags].concat());
        if words.is_empty() {
            ended.good();
            std::fs::remove_file(&out).unwrap();
        } else {
            ended.failed_saying(words);
            assert!(!ended.stderr.contains("line "), "{}", ended.stderr);
        }
    }
}

#[test]
fn plugins() {
    let folder = tempfile::tempdir().unwrap();
    let module = folder.path().join("module.wasm");
    std::fs::write(&module, b"\0asm\x01\0\0\0").unwrap();
    let (model, module) = (fixture(DENSE), module.to_str().unwrap());
    let run = |arguments: &[&str]| membrane(&[&["run", &model, "Hello"], arguments].concat());
    run(&["--policy", "gaurd"]).failed_saying(&["no first-party plugin `gaurd`", "guard"]);
    run(&["--policy", "./gone.wasm"]).failed_saying(&["plugin `gone`", "gone.wasm", "No such file"]);
    run(&["--policy", module]).failed_saying(&["plugin `module`", "is a core module"]);
    run(&["--policy", "calculator"]).failed_saying(&["plugin `calculator`", "is a tool", "[[tool]]"]);
    run(&["--policy", "guard"]).failed_saying(&["plugin `guard`", "rules"]);
    run(&["--tool", "clock"]).failed_saying(&["plugin `clock`", "needs the grant `clock`"]);
    run(&["--tool", "clock,grant=network"]).failed_saying(&["clock", "no grant `network`", "all-logits"]);
    run(&["--tool", "calculator,grant=clock,precision=3"]).failed_saying(&["plugin `calculator`"]);
    run(&["--tool", "calculator", "--tool", "calculator"]).failed_saying(&["calculator"]);
    run(&["--sampler", "standard-sampler,temprature=1"]).failed_saying(&["standard-sampler", "temprature"]);
    run(&["--sampler", "greedy,x"]).failed_saying(&["`x` is not KEY=VALUE"]);
}

#[test]
fn profiles() {
    let folder = tempfile::tempdir().unwrap();
    let model = fixture(DENSE);
    let run = |text: &str| {
        let path = folder.path().join("p.toml");
        std::fs::write(&path, text).unwrap();
        membrane(&["run", &model, "Hello", "-n", "1", "--profile", path.to_str().unwrap()])
    };
    run("[[sampler]]\nplugin = \"greedy\"").good();
    run("[[sampler]\n").failed_saying(&["p.toml:1", "unclosed"]);
    run("[[polizy]]\nplugin = \"guard\"").failed_saying(&["p.toml", "polizy"]);
    run("[[sampler]]\nplugin = \"greedy\"\ndigest = \"sha256:00\"").failed_saying(&["p.toml", "digest"]);
    let pin = "0".repeat(64);
    run(&format!("[[sampler]]\nplugin = \"greedy\"\ndigest = \"{pin}\"")).failed_saying(&[
        "plugin `greedy`",
        "the profile pins sha256:0000",
        "has the digest sha256:",
    ]);
    run("[[policy]]\nplugin = \"guard\"\nparameters = { rules = \"file:gone.toml\" }")
        .failed_saying(&["gone.toml", "No such file"]);
    let pipe = folder.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let pipe = pipe.to_str().unwrap();
    let of_pipe = |flag, value: &str| membrane(&["run", &model, "Hello", flag, value]);
    of_pipe("--profile", pipe).failed_saying(&["pipe", "no regular file"]);
    of_pipe("--policy", &format!("guard,rules=file:{pipe}")).failed_saying(&["pipe", "no regular file"]);
    let missing = membrane(&["run", &model, "Hello", "--profile", "gone.toml"]);
    missing.failed_saying(&["gone.toml", "No such file"]);
}

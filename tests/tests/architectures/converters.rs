//! Files of other converters than llama.cpp's of today, and of its first: what they leave out or name otherwise gives the same
//! model, to the bit, as a file that says all of it.

use std::path::{Path, PathBuf};

use membrane_engine::{LoadOptions, Model, Precision, Prepared};
use membrane_formats::gguf::GgufWriter;
use membrane_formats::{Array, Checkpoint, DType, FormatError, Metadata, Value};
use membrane_kernels::Format;
use membrane_kernels::quant::dequantise_row;
use membrane_tests::{tiny, workspace};

fn logits(path: &Path) -> Result<Vec<u32>, String> {
    let options = LoadOptions {
        context: Some(128),
        threads: Some(2),
        precision: Precision::Int16,
        ..LoadOptions::default()
    };
    let checkpoint = Checkpoint::open(path).map_err(|error| error.to_string())?.into();
    let prepared = Prepared::without_text(checkpoint, &options).map_err(|error| error.to_string())?;
    let mut session = prepared.load(&mut |_, _| {}).unwrap().session();
    session.append(&[5, 17, 900, 3, 3, 512, 77]).unwrap();
    Ok(session.logits().iter().map(|logit| logit.to_bits()).collect())
}

/// What a tiny model says with other metadata.
fn tiny_logits(architecture: &str, change: &[(&str, Option<Value>)]) -> Result<Vec<u32>, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    tiny::write_changed(architecture, &path, change, |_, dims| Some(dims.to_vec()));
    logits(&path)
}

fn set(key: &'static str, value: impl Into<Value>) -> (&'static str, Option<Value>) {
    (key, Some(value.into()))
}

#[test]
fn gemma_of_ollama_is_gemma() {
    let unsaid = || {
        vec![
            ("attention.layer_norm_rms_epsilon", None),
            ("rope.freq_base", None),
            ("rope.scaling.type", None),
            ("rope.scaling.factor", None),
        ]
    };
    let said = tiny_logits("gemma3", &[set("context_length", 131_072_u32)]).unwrap();
    let mut long = unsaid();
    long.push(set("context_length", 131_072_u32));
    assert!(tiny_logits("gemma3", &long).unwrap() == said);
    // The smallest model has the context of its training.
    let short = tiny_logits("gemma3", &unsaid()).unwrap();
    assert!(short != said);
    assert!(short == tiny_logits("gemma3", &[set("rope.scaling.type", "none")]).unwrap());
    let mut named = unsaid();
    named.extend([set("rope.global.freq_base", 5e5_f32), set("rope.local.freq_base", 2e4_f32)]);
    let usual = [
        set("rope.scaling.type", "none"),
        set("rope.freq_base", 5e5_f32),
        set("rope.freq_base_swa", 2e4_f32),
    ];
    assert!(tiny_logits("gemma3", &named).unwrap() == tiny_logits("gemma3", &usual).unwrap());
}

#[test]
fn a_file_must_say_what_norms_add() {
    for architecture in ["gpt-oss", "deepseek2", "qwen4exp"] {
        let error = tiny_logits(architecture, &[("attention.layer_norm_rms_epsilon", None)]).unwrap_err();
        assert!(error.contains("attention.layer_norm_rms_epsilon"), "{error}");
    }
}

#[test]
fn a_factor_without_a_type_is_linear() {
    let said = tiny_logits("gemma3", &[]).unwrap();
    let untyped = ("rope.scaling.type", None);
    assert!(tiny_logits("gemma3", std::slice::from_ref(&untyped)).unwrap() == said);
    let older = [untyped.clone(), ("rope.scaling.factor", None), set("rope.scale_linear", 8_f32)];
    assert!(tiny_logits("gemma3", &older).unwrap() == said);
    let other = [untyped, set("rope.scale_linear", 2_f32)];
    assert!(tiny_logits("gemma3", &other).unwrap() == said);
}

#[test]
fn what_ollama_says_of_nothing_to_stretch_stretches_nothing() {
    let none = tiny_logits("mistral3", &[set("rope.scaling.type", "none")]).unwrap();
    let empty = set("rope.scaling.type", "");
    let zeros = ["rope.scaling.factor", "rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow"];
    let mut unstretched = vec![empty.clone()];
    unstretched.extend(zeros.map(|key| set(key, 0_f32)));
    assert!(tiny_logits("mistral3", &unstretched).unwrap() == none);
    assert!(tiny_logits("mistral3", &[]).unwrap() != none);
    let error = tiny_logits("mistral3", &[empty]).unwrap_err();
    assert!(error.contains("rope.scaling.type"), "{error}");
    for rate in [-0.1, f32::NAN, 2.0] {
        let error = tiny_logits("mistral3", &[set("attention.temperature_scale", rate)]).unwrap_err();
        assert!(error.contains("attention.temperature_scale"), "{error}");
    }
}

#[test]
fn ministral_of_the_first_files_of_ollama_is_ministral() {
    let lengths =
        [set("rope.scaling.original_context_length", 1024_u32), set("attention.temperature_length", 2_u32)];
    let usual = [
        ("rope.scaling.yarn_beta_fast", 4_f32),
        ("rope.scaling.yarn_beta_slow", 0.5),
        ("rope.scaling.yarn_log_multiplier", 1.0),
        ("attention.temperature_scale", 0.1),
    ];
    let first = [
        "rope.scaling.beta_fast",
        "rope.scaling.beta_slow",
        "rope.scaling.mscale_all_dim",
        "rope.scaling_beta",
    ];
    let said = |change: Vec<(&str, Option<Value>)>| tiny_logits("mistral3", &change).unwrap();
    let now: Vec<_> = usual.iter().map(|&(key, value)| set(key, value)).chain(lengths.clone()).collect();
    let wanted = said(now.clone());
    let unsaid: Vec<_> = usual.iter().map(|&(key, _)| (key, None)).chain(lengths).collect();
    let old: Vec<_> = first.iter().zip(&usual).map(|(&key, &(_, value))| set(key, value)).collect();
    assert!(said([unsaid.clone(), old.clone()].concat()) == wanted);
    // What is said by today's key counts, and each is needed.
    let others: Vec<_> = first.iter().map(|&key| set(key, 0.3_f32)).collect();
    assert!(said([now, others].concat()) == wanted);
    for left_out in first {
        let others = old.iter().filter(|(key, _)| *key != left_out).cloned().collect();
        assert!(said([unsaid.clone(), others].concat()) != wanted, "{left_out}");
    }
}

#[test]
fn ministral_of_ollama_is_cut_as_mistral_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    tiny::write("mistral3", &path);
    let source = Checkpoint::open(&path).unwrap();
    for (told, pre) in [(Some("default"), "tekken"), (None, "tekken"), (Some("gpt-2"), "gpt-2")] {
        let change = |metadata: &mut Metadata| {
            vocabulary(metadata, tiny::VOCABULARY);
            if let Some(told) = told {
                metadata.set("tokenizer.ggml.pre", told);
            }
        };
        let written = written(&source, folder.path(), change, &[]);
        let kind = membrane_engine::tokenizer_kind(&Checkpoint::open(&written).unwrap()).unwrap();
        assert_eq!(kind.pre, pre, "{told:?}");
    }
}

/// A fixture with other metadata, and its tensors by other names.
fn fixture(
    name: &str,
    folder: &Path,
    change: impl FnOnce(&mut Metadata),
    renamed: &[(&str, &str)],
) -> PathBuf {
    let source = workspace().join(format!("tests/fixtures/gguf/tiny-{name}-Q8_0.gguf"));
    written(&Checkpoint::open(&source).unwrap(), folder, change, renamed)
}

fn written(
    source: &Checkpoint,
    folder: &Path,
    change: impl FnOnce(&mut Metadata),
    renamed: &[(&str, &str)],
) -> PathBuf {
    let mut metadata = source.metadata().clone();
    change(&mut metadata);
    let path = folder.join("written.gguf");
    let mut writer = GgufWriter::new(&path, metadata);
    for tensor in source.tensors() {
        let name = renamed.iter().fold(tensor.name.clone(), |name, (from, to)| name.replace(from, to));
        writer.declare(&name, tensor.dtype, tensor.shape.dims()).unwrap();
    }
    let mut tensors = source.tensors().iter();
    let written = writer.write::<FormatError>(|info, sink| {
        let mut bytes = vec![0; info.bytes as usize];
        source.read(tensors.next().unwrap(), 0, &mut bytes)?;
        sink.put(&bytes)
    });
    written.unwrap();
    path
}

#[test]
fn early_qwen_mixtures_say_how_wide_a_feed_forward_is() {
    let folder = tempfile::tempdir().unwrap();
    // As wide as the shared expert are three of the others.
    let said = |metadata: &mut Metadata| metadata.set("qwen2moe.expert_used_count", 3_u32);
    let wanted = logits(&fixture("qwen2moe", folder.path(), said, &[])).unwrap();
    let unsaid = |width: u32| {
        move |metadata: &mut Metadata| {
            said(metadata);
            metadata.remove("qwen2moe.expert_feed_forward_length");
            metadata.remove("qwen2moe.expert_shared_feed_forward_length");
            metadata.set("qwen2moe.feed_forward_length", width);
        }
    };
    assert!(logits(&fixture("qwen2moe", folder.path(), unsaid(96), &[])).unwrap() == wanted);
    let error = logits(&fixture("qwen2moe", folder.path(), unsaid(97), &[])).unwrap_err();
    assert!(error.contains("feed_forward_length"), "{error}");
}

#[test]
fn hybrids_of_ollama_list_heads_by_layers() {
    const HEADS: &str = "qwen35moe.attention.head_count_kv";
    let folder = tempfile::tempdir().unwrap();
    let wanted = logits(&fixture("qwen35moe", folder.path(), |_| (), &[])).unwrap();
    let renamed = [("ssm_dt.bias", "ssm_dt")];
    let listed = |heads: [u32; 8], interval: bool| {
        fixture(
            "qwen35moe",
            folder.path(),
            |metadata| {
                metadata.set(HEADS, Array::U32(heads.to_vec()));
                metadata.remove("qwen35moe.attention.recurrent_layers");
                if !interval {
                    metadata.remove("qwen35moe.full_attention_interval");
                }
            },
            &renamed,
        )
    };
    for interval in [true, false] {
        assert!(logits(&listed([0, 0, 0, 2, 0, 0, 0, 2], interval)).unwrap() == wanted);
    }
    for heads in [[0, 0, 0, 2, 0, 0, 0, 4], [0; 8], [0, 0, 0, 2, 0, 0, 2, 2], [0, 0, 0, 2, 0, 0, 0, 0]] {
        let error = logits(&listed(heads, true)).unwrap_err();
        assert!(error.contains("attention.head_count_kv"), "{heads:?}: {error}");
    }
    // What has attention in every layer has heads in every layer.
    let list = |heads: &[u32]| set("attention.head_count_kv", Array::U32(heads.to_vec()));
    assert!(tiny_logits("gemma3", &[list(&[2; 7])]).unwrap() == tiny_logits("gemma3", &[]).unwrap());
    for heads in [&[2, 2, 2, 2, 2, 2, 0][..], &[2; 6]] {
        let error = tiny_logits("gemma3", &[list(heads)]).unwrap_err();
        assert!(error.contains("attention.head_count_kv"), "{heads:?}: {error}");
    }
}

/// Metadata of a vocabulary whose last two tokens are no text.
fn vocabulary(metadata: &mut Metadata, tokens: usize) {
    let mut texts: Vec<String> = (0..tokens - 2).map(|token| format!("t{token}")).collect();
    texts[..3].clone_from_slice(&["1", "2", "12"].map(str::to_owned));
    texts.extend(["<|end|>", "<image>"].map(str::to_owned));
    let mut types = vec![1; tokens - 2];
    types.extend([3, 4]);
    metadata.set("tokenizer.ggml.model", "gpt2");
    metadata.set("tokenizer.ggml.tokens", Array::Str(texts.iter().map(String::as_str).collect()));
    metadata.set("tokenizer.ggml.token_type", Array::I32(types));
    metadata.set("tokenizer.ggml.merges", Array::Str(["1 2"].into_iter().collect()));
}

#[test]
fn gpt_oss_of_ollama_is_gpt_oss() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    tiny::write("gpt-oss", &path);
    let source = Checkpoint::open(&path).unwrap();
    let renamed = |metadata: &mut Metadata| {
        let keys: Vec<String> = metadata.iter().map(|(key, _)| key.to_owned()).collect();
        for key in keys {
            let value = metadata.remove(&key).unwrap();
            let key = key.replace("gpt-oss.", "gptoss.");
            match key.as_str() {
                "gptoss.rope.scaling.type" => {}
                "gptoss.expert_feed_forward_length" => metadata.set("gptoss.feed_forward_length", value),
                _ => metadata.set(&key, value),
            }
        }
        metadata.set("general.architecture", "gptoss");
        vocabulary(metadata, tiny::VOCABULARY);
    };
    let names = [
        ("attn_output", "attn_out"),
        ("attn_sinks.weight", "attn_sinks"),
        ("post_attention_norm", "ffn_norm"),
    ];
    let theirs = written(&source, folder.path(), renamed, &names);
    assert!(logits(&theirs).unwrap() == logits(&path).unwrap());
    let kind = membrane_engine::tokenizer_kind(&Checkpoint::open(&theirs).unwrap()).unwrap();
    assert_eq!(kind.pre, "gpt-4o");
}

#[test]
fn glm_of_ollama_is_what_deepseek_is_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    let short = [set("rope.scaling.type", "none")];
    tiny::write_changed("deepseek2", &path, &short, |_, dims| Some(dims.to_vec()));
    let renamed = |metadata: &mut Metadata| {
        let keys: Vec<String> = metadata.iter().map(|(key, _)| key.to_owned()).collect();
        for key in keys {
            let value = metadata.remove(&key).unwrap();
            metadata.set(&key.replace("deepseek2.", "glm4moelite."), value);
        }
        metadata.set("general.architecture", "glm4moelite");
        for (key, value) in [
            ("head_count_kv", 4_u32),
            ("key_length", 48),
            ("value_length", 32),
            ("key_length_mla", 80),
            ("value_length_mla", 64),
        ] {
            metadata.set(&format!("glm4moelite.attention.{key}"), value);
        }
    };
    let theirs = written(&Checkpoint::open(&path).unwrap(), folder.path(), renamed, &[]);
    assert!(logits(&theirs).unwrap() == logits(&path).unwrap());
}

/// Files from before May 2024, and Ollama's, do not say how Llama 3 cuts a text; its vocabulary tells it.
#[test]
fn llama_3_is_known_by_its_vocabulary() {
    const TOKENS: usize = 128_256;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    tiny::write_mixtral(&path, &Metadata::default());
    let source = Checkpoint::open(&path).unwrap();
    let cut = |tokens: usize, told: Option<&str>| {
        let change = |metadata: &mut Metadata| {
            vocabulary(metadata, tokens);
            if let Some(told) = told {
                metadata.set("tokenizer.ggml.pre", told);
            }
        };
        let written = written(&source, folder.path(), change, &[]);
        membrane_engine::tokenizer_kind(&Checkpoint::open(&written).unwrap()).unwrap().pre
    };
    for (tokens, told, pre) in [
        (TOKENS, None, "llama-bpe"),
        (TOKENS, Some("default"), "llama-bpe"),
        (TOKENS, Some("smaug-bpe"), "smaug-bpe"),
        (TOKENS - 1, Some("default"), "default"),
    ] {
        assert_eq!(cut(tokens, told), pre, "{tokens} {told:?}");
    }
}

#[test]
fn answers_end_where_a_file_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    tiny::write("gemma3", &path);
    let source = Checkpoint::open(&path).unwrap();
    let ends = |named: &[(&str, Value)]| {
        let change = |metadata: &mut Metadata| {
            vocabulary(metadata, tiny::VOCABULARY);
            for (key, value) in named {
                metadata.set(&format!("tokenizer.ggml.{key}"), value.clone());
            }
        };
        let path = written(&source, folder.path(), change, &[]);
        let options = LoadOptions { context: Some(64), ..LoadOptions::default() };
        Model::open(&path, &options).unwrap().tokenizer().unwrap().end_tokens().to_vec()
    };
    let listed = |ids: &[i32]| ("eos_token_ids", Value::Array(Array::I32(ids.to_vec())));
    let one = |key: &'static str, token: u32| (key, Value::U32(token));
    let list = listed(&[9, 7, 5000]);
    let named = [one("eom_token_id", 8), one("eot_token_id", 7), one("eos_token_id", 6), list];
    assert_eq!(ends(&named), [6, 7, 8, 9]);
    assert_eq!(ends(&[listed(&[9, 7])]), [9, 7]);
    assert_eq!(ends(&[listed(&[-1, 9])]), [9]);
}

#[test]
fn vision_models_of_ollama_are_what_they_are_called_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let named = |architecture: &'static str| {
        move |metadata: &mut Metadata| {
            let keys: Vec<String> = metadata.iter().map(|(key, _)| key.to_owned()).collect();
            for key in keys {
                let value = metadata.remove(&key).unwrap();
                metadata.set(&key.replace("qwen2moe.", &format!("{architecture}.")), value);
            }
            metadata.set("general.architecture", architecture);
            metadata.set(&format!("{architecture}.feed_forward_length"), 32_u32);
        }
    };
    let error =
        |architecture| logits(&fixture("qwen2moe", folder.path(), named(architecture), &[])).unwrap_err();
    // Its layers are looked for, which the mixture does not have.
    assert_eq!(error("qwen25vl"), error("qwen2vl"));
    assert!(error("qwen25vl").contains("ffn_"), "{}", error("qwen25vl"));
}

#[test]
fn other_architectures_than_deepseeks_say_their_growth_in_other_units() {
    const GROWTH: &str = "rope.scaling.yarn_log_multiplier";
    let all = 1.0 + 0.1 * 32_f32.ln();
    let with = |change: &[(&str, Option<Value>)]| -> Vec<f32> {
        tiny_logits("gpt-oss", change).unwrap().into_iter().map(f32::from_bits).collect()
    };
    let same = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-3);
    // As Devstral has it: what rotated dimensions grow by is what scores are to grow by, and nothing is left of it.
    let none = with(&[set("rope.scaling.yarn_attn_factor", 1.0 / all)]);
    assert!(same(&with(&[set(GROWTH, 1_f32)]), &none));
    assert!(!same(&with(&[]), &none));
    let error = tiny_logits("gpt-oss", &[set(GROWTH, 11_f32)]).unwrap_err();
    assert!(error.contains(GROWTH), "{error}");
}

/// A matrix of the tiny model of DeepSeek, its rows as bytes and as floats.
fn rows(source: &Checkpoint, name: &str) -> (Vec<u8>, Vec<f32>) {
    let tensor = source.require(name).unwrap();
    let mut bytes = vec![0; tensor.bytes as usize];
    source.read(tensor, 0, &mut bytes).unwrap();
    let mut floats = vec![0.0; tensor.shape.dims().iter().product::<u64>() as usize];
    dequantise_row(Format::Q8_0, &bytes, &mut floats);
    (bytes, floats)
}

/// The tiny model of DeepSeek whose keys are what its values are of the next head, with these matrices for what makes both: in one,
/// or apart.
fn latent(path: &Path, source: &Checkpoint, dtype: DType, in_one: bool) {
    const HEADS: usize = 4;
    // Of latent vectors, and of a head's values and keys.
    let (rank, width) = (64, 32);
    let mut metadata = source.metadata().clone();
    if in_one {
        for (key, value) in [("head_count_kv", HEADS as u32), ("key_length", 48), ("value_length", 32)] {
            metadata.set(&format!("deepseek2.attention.{key}"), value);
        }
        metadata.remove("deepseek2.attention.key_length_mla");
        metadata.remove("deepseek2.attention.value_length_mla");
    }
    let mut writer = GgufWriter::new(path, metadata);
    for tensor in source.tensors() {
        let dims = tensor.shape.dims();
        match tensor.name.rsplit_once("attn_") {
            Some((block, "k_b.weight")) if in_one => {
                let rows = (HEADS * 2 * width) as u64;
                writer.declare(&format!("{block}attn_kv_b.weight"), dtype, &[rank as u64, rows]).unwrap();
            }
            Some((_, "v_b.weight")) if in_one => {}
            Some((_, "k_b.weight")) => writer.declare(&tensor.name, DType::F32, dims).unwrap(),
            Some((_, "v_b.weight")) => writer.declare(&tensor.name, dtype, dims).unwrap(),
            _ => writer.declare(&tensor.name, tensor.dtype, dims).unwrap(),
        }
    }
    let as_bytes = |floats: &[f32]| floats.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    let written = writer.write::<FormatError>(|info, sink| {
        let Some((block, part)) = info
            .name
            .rsplit_once("attn_")
            .filter(|(_, part)| part.ends_with("_b.weight") && *part != "q_b.weight")
        else {
            let mut bytes = vec![0; info.bytes as usize];
            source.read(source.require(&info.name)?, 0, &mut bytes)?;
            return sink.put(&bytes);
        };
        let (bytes, floats) = rows(source, &format!("{block}attn_v_b.weight"));
        let next = |head: usize| (head + 1) % HEADS;
        if part == "k_b.weight" {
            for head in 0..HEADS {
                let keys = &floats[next(head) * width * rank..][..width * rank];
                let turned: Vec<f32> =
                    (0..rank * width).map(|at| keys[at % width * rank + at / width]).collect();
                sink.put(&as_bytes(&turned))?;
            }
            return Ok(());
        }
        let stored = if dtype == DType::F32 { as_bytes(&floats) } else { bytes };
        let of_head = stored.len() / HEADS;
        for head in 0..HEADS {
            if in_one {
                sink.put(&stored[next(head) * of_head..][..of_head])?;
            }
            sink.put(&stored[head * of_head..][..of_head])?;
        }
        Ok(())
    });
    written.unwrap();
}

#[test]
fn deepseek_with_keys_and_values_in_one_matrix_is_deepseek() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    tiny::write("deepseek2", &path("tiny.gguf"));
    let source = Checkpoint::open(&path("tiny.gguf")).unwrap();
    for dtype in [DType::F32, DType::Q8_0] {
        latent(&path("apart.gguf"), &source, dtype, false);
        latent(&path("one.gguf"), &source, dtype, true);
        assert!(logits(&path("one.gguf")).unwrap() == logits(&path("apart.gguf")).unwrap(), "{dtype:?}");
    }
    // Heads of their own, and nothing that makes their keys.
    let error = tiny_logits("deepseek2", &[set("attention.head_count_kv", 4_u32)]).unwrap_err();
    assert!(error.contains("attn_kv_b"), "{error}");
}

#[test]
fn added_tokens_without_a_row_are_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    tiny::write("gemma3", &path);
    let source = Checkpoint::open(&path).unwrap();
    let tokens = |count: usize| {
        let path = written(&source, folder.path(), |metadata| vocabulary(metadata, count), &[]);
        let options = LoadOptions { context: Some(64), ..LoadOptions::default() };
        let model = Model::open(&path, &options).map_err(|error| error.to_string())?;
        let tokenizer = model.tokenizer().unwrap();
        assert!(tokenizer.encode("12", membrane_text::Specials::Parse).unwrap() == [2]);
        Ok::<_, String>(tokenizer.vocab_size())
    };
    for more in [0, 1, 2] {
        assert_eq!(tokens(tiny::VOCABULARY + more), Ok(tiny::VOCABULARY));
    }
    assert!(tokens(tiny::VOCABULARY + 3).unwrap_err().contains("1024 rows"));
}

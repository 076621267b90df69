//! What the headers of a large folder cost in memory: whoever opens a model has a budget for it, and the files are strangers'.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use membrane_formats::{Checkpoint, limits};

const CONFIG: &str =
    r#"{"model_type": "llama", "num_hidden_layers": 1, "hidden_size": 8, "tie_word_embeddings": true}"#;

/// The most memory that the process has held since [`forget_peak`], bytes.
fn peak_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
}

/// Whether the system can forget what the peak was.
fn forget_peak() -> bool {
    fs::write("/proc/self/clear_refs", "5").is_ok()
}

/// As long as names of tensors get.
fn name(number: u64) -> String {
    let (layer, expert) = (number / 6144, number % 6144 / 12);
    format!(
        "model.language_model.layers.{layer}.mlp.experts.{expert}.gate_up_projection.weight_scale_of_part.{number:08}"
    )
}

/// Writes a shard of tensors of a byte each; gives the bytes of its header.
fn shard(path: &Path, numbers: std::ops::Range<u64>, embedding: bool) -> u64 {
    let (mut header, mut place) = (String::from("{"), 0);
    let mut add = |name: &str| {
        let comma = if place == 0 { "" } else { "," };
        let end = place + 1;
        write!(header, r#"{comma}"{name}":{{"dtype":"U8","shape":[1,1],"data_offsets":[{place},{end}]}}"#)
            .unwrap();
        place = end;
    };
    if embedding {
        add("model.language_model.embed_tokens.weight");
    }
    numbers.for_each(|number| add(&name(number)));
    header.push('}');
    let bytes =
        [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; place as usize]].concat();
    fs::write(path, bytes).unwrap();
    header.len() as u64
}

/// The peak that opening takes, over the bytes of all headers and of the index.
fn cost(folder: &Path, documents: u64) -> f64 {
    assert!(forget_peak());
    let before = peak_bytes();
    let checkpoint = Checkpoint::open(folder).unwrap();
    let taken = peak_bytes() - before;
    let share = taken as f64 / documents as f64;
    println!(
        "{} tensors, {documents} bytes of headers: {taken} bytes, {share:.2} a byte",
        checkpoint.tensors().len()
    );
    share
}

#[test]
fn headers_of_the_longest_kind_take_less_than_three_times_their_bytes() {
    if !forget_peak() {
        println!("this system does not say what a part of the program takes at most: nothing was measured");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.json"), CONFIG).unwrap();
    let count = limits::PUBLISHED_TENSORS - 1;
    let bytes = shard(&folder.path().join("model.safetensors"), 0..count, true);
    assert!(bytes > 75 << 20 && bytes <= limits::PUBLISHED_HEADER_BYTES, "{bytes}");
    let one = cost(folder.path(), bytes);
    fs::remove_file(folder.path().join("model.safetensors")).unwrap();

    let (mut index, mut documents) = (String::from(r#"{"weight_map":{"#), 0);
    let half = count / 2;
    for (number, numbers) in [0..half, half..count].into_iter().enumerate() {
        let file = format!("model-{:05}-of-00002.safetensors", number + 1);
        documents += shard(&folder.path().join(&file), numbers.clone(), number == 0);
        for number in numbers {
            write!(index, r#""{}":"{file}","#, name(number)).unwrap();
        }
    }
    index.push_str(r#""model.language_model.embed_tokens.weight":"model-00001-of-00002.safetensors"}}"#);
    documents += index.len() as u64;
    fs::write(folder.path().join("model.safetensors.index.json"), &index).unwrap();
    drop(index);
    let two = cost(folder.path(), documents);
    assert!(one < 3.0 && two < 3.0, "{one} and {two}");
}

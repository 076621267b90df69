//! `membrane logits`: what it writes is what the model computes.

use safetensors::SafeTensors;

use crate::program::{MOE, fixture, membrane};

/// The bytes of a file that the verb wrote.
fn logits(arguments: &[&str]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.safetensors");
    let model = fixture(MOE);
    let verb = ["logits", &model, "--tokens", "5,900,17,33", "--out", out.to_str().unwrap()];
    membrane(&[&verb[..], arguments].concat()).good();
    std::fs::read(out).unwrap()
}

#[test]
fn all_positions_and_routers_are_written() {
    let file = logits(&[]);
    let tensors = SafeTensors::deserialize(&file).unwrap();
    assert_eq!(tensors.tensor("logits").unwrap().shape(), [4, 1024]);
    for layer in 0..4 {
        let ids = tensors.tensor(&format!("router.{layer}.ids")).unwrap();
        assert_eq!(ids.shape()[0], 4);
        let ids: Vec<u32> =
            ids.data().chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect();
        let top_k = ids.len() / 4;
        assert!(ids.chunks(top_k).all(|row| row.is_sorted() && row.iter().all(|id| *id < 24)), "{ids:?}");
        assert!(tensors.tensor(&format!("router.{layer}.weights")).is_ok());
    }
}

#[test]
fn one_by_one_is_the_same_bits() {
    let whole = logits(&[]);
    assert!(whole == logits(&["--one-by-one"]));
    assert!(whole == logits(&["--prefill-chunk", "3", "--threads", "1"]));
    assert!(whole != logits(&["--reference"]));
}

#[test]
fn the_model_is_never_written_over_and_nothing_half_done_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model.gguf");
    std::fs::copy(fixture(MOE), &model).unwrap();
    let before = std::fs::read(&model).unwrap();
    let path = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    let verb = |out: &str| membrane(&["logits", &path(&model), "--tokens", "1,2", "--out", out]);
    verb(&path(&model)).failed_saying(&["--out", "is a file of the model"]);
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&model, &link).unwrap();
    verb(&path(&link)).failed_saying(&["is a file of the model"]);
    verb(&path(folder.path())).failed_saying(&["is a folder"]);
    // What is written first has a name of its own.
    let (part, aim) = (folder.path().join("m.part"), folder.path().join("m"));
    std::fs::rename(&model, &part).unwrap();
    membrane(&["logits", &path(&part), "--tokens", "1,2", "--out", &path(&aim)])
        .failed_saying(&["m.part is a file of the model"]);
    std::fs::rename(&part, &model).unwrap();
    std::os::unix::fs::symlink(&model, &part).unwrap();
    verb(&path(&aim)).failed_saying(&["m.part is a file of the model"]);
    std::fs::remove_file(&part).unwrap();
    verb(&path(&folder.path().join("missing/out"))).failed_saying(&["--out", "missing/out"]);
    let out = folder.path().join("out.safetensors");
    let far = ["logits", &path(&model), "--tokens", "1,99999", "--out", &path(&out)];
    membrane(&far).failed_saying(&["99999"]);
    assert_eq!(std::fs::read(&model).unwrap(), before);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[test]
fn what_is_kept_of_the_logits_counts_against_the_budget() {
    let tokens = vec!["7"; 4000].join(",");
    let model = fixture(MOE);
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let verb = ["logits", &model, "--tokens", &tokens, "--out", out.to_str().unwrap(), "--memory", "30MiB"];
    membrane(&verb).failed_saying(&["--memory 30MiB can't hold"]);
}

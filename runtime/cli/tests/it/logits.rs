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

//! Chat templates as their publishers wrote them, by digest: a template that is another than its model's name promises is worth a
//! look, since it decides what the model reads.

use membrane_profile::Digest;

/// Digest of the template without white space at its end, and the models that it was published with.
const KNOWN: [(&str, &str); 17] = [
    ("dd2675619a64a449cdcdd2b93e605a0a50764cee41e344f244752bc93643936c", "DeepSeek-R1-Distill-Llama"),
    ("bbe594884b44d740667ee65a70bc8d333a565eab3d63ea59f291ea73ada84ba6", "DeepSeek-R1-Distill-Qwen"),
    ("d9f5f351b276cf9e81d009db08830db7d38e94927aecd09a7beb43e2aafee94e", "DeepSeek-V3.1"),
    ("a4c9919cbbd4acdd51ccffe22da049264b1b73e59055fa58811a99efbd7c8146", "gpt-oss"),
    ("ce62e308475b364e1fc76699dccbddeb9ac08344f90d59719dba86a9922834d9", "Hermes-2-Pro, Hermes-3 (tools)"),
    ("aab20feb9bc6881f941ea649356130ffbc4943b3c2577c0991e1fba90de5a0fc", "Kimi-K2 (first version)"),
    ("02e91795d2270374161c7063c9b1d084bb8cb3fb04b1ae977cf0e2953bdbbf92", "Kimi-K2-Instruct"),
    ("4027d478e682204ecc53bb42cd60402338dcac3c9312c32335865fcaf59cb1e8", "Kimi-K2-Thinking"),
    (
        "93c0e9aa3629bbd77e68dbc0f5621f6e6b23aa8d74b932595cdb8d64684526d7",
        "Llama-3.1-Instruct, Llama-3.3-Instruct",
    ),
    ("d82792f95932f1c9cef5c4bd992f171225e3bf8c7b609b4557c9e1ec96be819f", "Llama-3.2-Instruct"),
    ("e7deee034838db2bfc7487788a3013d8a307ab69f72f3c54a85f06fd76007d4e", "Mistral-Nemo-Instruct"),
    ("55b2f4a26ac9ee719330a61a0c39d9e538b0e9322212f048326318cff4f8674a", "Qwen2.5-Instruct"),
    ("87a2728cb8dc9fe424d624542f6060ec05a1d285ebbec578bb078900e33396b5", "Qwen3"),
    ("eae48a3307931acb10a6fce475a36b711709672ea79ee1a9bc52f083d8b0a2af", "Qwen3-Coder"),
    ("a4aee8afcf2e0711942cf848899be66016f8d14a889ff9ede07bca099c28f715", "Qwen3.5"),
    ("94c6035b4f0eb905c95e2b7d8dace8547abca03f7fe3e441ba8a6388b1941272", "QwQ-32B"),
    ("872be49dbb638044ad01b60388f48d469ff2980e5f0dccdc22ec907db54d0788", "SmolLM2-Instruct"),
];

/// The models that a template was published with.
pub fn known(template: &str) -> Option<&'static str> {
    let digest = Digest::of(template.replace("\r\n", "\n").trim_end().as_bytes()).hex();
    KNOWN.iter().find(|(known, _)| *known == digest).map(|(_, models)| *models)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_digests_and_none_is_there_twice() {
        let mut all: Vec<&str> = KNOWN.iter().map(|(digest, _)| *digest).collect();
        assert!(all.iter().all(|digest| digest.parse::<Digest>().is_ok()));
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), KNOWN.len());
        assert_eq!(known("{{ messages }}"), None);
    }
}

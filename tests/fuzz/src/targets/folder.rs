//! A published folder: its documents in the order of [`NAMES`], split by the byte 0x1e. What is empty is not there.

use std::fs;

use membrane_formats::Checkpoint;

use super::{gguf, plain, safetensors};
use crate::scratch;

/// The documents. The header of the weights comes without its length and gets 64 bytes of data.
const NAMES: [&str; 12] = [
    "config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "generation_config.json",
    "tokenizer_config.json",
    "hf_quant_config.json",
    "chat_template.jinja",
    "tokenizer.json",
    "membrane.packed.json",
    "chat_template.json",
    "vocab.json",
    "merges.txt",
];
const SEPARATOR: u8 = 0x1e;
const DATA_BYTES: usize = 64;

/// What documents are made of.
pub const WORDS: &[&str] = &[
    "\u{1e}",
    "\"model_type\"",
    "\"text_config\"",
    "\"quantization_config\"",
    "\"quant_method\"",
    "gptq",
    "awq",
    "fp8",
    "auto-round",
    "\"packing_format\"",
    "\"extra_config\"",
    "\"weight_block_size\"",
    "\"weight_map\"",
    "\"rope_scaling\"",
    "\"rope_parameters\"",
    "\"layer_types\"",
    "\"eos_token_id\"",
    "\"num_experts\"",
    "qwen3_moe",
    "mixtral",
    "deepseek_v3",
    "gpt_oss",
    "llama",
    "gemma3_text",
    "qwen3_next",
    "../x",
    "model.safetensors",
    "packed.experts.0",
    "packed.version",
    "BF16 2 16",
];

/// Opens the folder.
pub fn target(data: &[u8]) {
    let folder = scratch::folder().join("published");
    fs::create_dir_all(&folder).expect("a folder");
    let mut documents = data.split(|byte| *byte == SEPARATOR);
    let mut longest = 0;
    for name in NAMES {
        let document = documents.next().filter(|document| !document.is_empty());
        let document = document.map(|document| match name == NAMES[1] {
            true => [&(document.len() as u64).to_le_bytes()[..], document, &[1; DATA_BYTES]].concat(),
            false => document.to_vec(),
        });
        longest = longest.max(document.as_ref().map_or(0, Vec::len));
        scratch::file_or_none(&folder.join(name), document.as_deref());
    }
    match Checkpoint::open(&folder) {
        Ok(checkpoint) => {
            gguf::sound(&checkpoint, longest as u64);
            let _ = checkpoint.tokenizer_documents().inspect_err(|error| plain(error));
        }
        Err(error) => plain(&error),
    }
}

/// Configurations of several families with weights that go with them.
pub fn seeds() -> Vec<Vec<u8>> {
    let embedding = r#"{"model.embed_tokens.weight":{"dtype":"BF16","shape":[2,16],"data_offsets":[0,64]}}"#;
    let index =
        r#"{"metadata":{"total_size":64},"weight_map":{"model.embed_tokens.weight":"model.safetensors"}}"#;
    let generation = r#"{"eos_token_id":[1,2],"temperature":0.7}"#;
    let tokenizer = r#"{"bos_token":{"content":"<s>"},"eos_token":"</s>","add_bos_token":true,
        "chat_template":[{"name":"default","template":"{{ messages }}"}]}"#;
    let quantised =
        r#"{"quantization":{"quant_algo":"NVFP4","group_size":16,"exclude_modules":["lm_head"]}}"#;
    let configs = [
        r#"{"model_type":"qwen3","num_hidden_layers":1,"hidden_size":16,"tie_word_embeddings":true,"eos_token_id":2,
            "rope_scaling":{"rope_type":"yarn","factor":4.0,"original_max_position_embeddings":32768}}"#,
        r#"{"model_type":"qwen3_moe","num_hidden_layers":2,"hidden_size":16,"num_experts":4,"num_experts_per_tok":2,
            "moe_intermediate_size":8,"tie_word_embeddings":true,
            "quantization_config":{"quant_method":"fp8","weight_block_size":[128,128]}}"#,
        r#"{"model_type":"gemma3","text_config":{"model_type":"gemma3_text","num_hidden_layers":2,"hidden_size":16,
            "sliding_window":512,"layer_types":["sliding_attention","full_attention"]},"tie_word_embeddings":true}"#,
        r#"{"model_type":"deepseek_v3","num_hidden_layers":2,"hidden_size":16,"n_routed_experts":4,"kv_lora_rank":8,
            "q_lora_rank":8,"n_group":2,"topk_group":1,"scoring_func":"sigmoid","tie_word_embeddings":true}"#,
        r#"{"model_type":"llama","num_hidden_layers":1,"hidden_size":16,"tie_word_embeddings":true,
            "quantization_config":{"quant_method":"gptq","bits":4,"group_size":128,"desc_act":false,"sym":true}}"#,
        r#"{"model_type":"qwen3","num_hidden_layers":1,"hidden_size":16,"tie_word_embeddings":true,
            "quantization_config":{"quant_method":"auto-round","bits":2,"group_size":64,"sym":true,"data_type":"int",
            "packing_format":"auto_round:auto_gptq","extra_config":{"model.layers.0.mlp.down_proj":{"bits":8,"sym":false}}}}"#,
    ];
    let folder = |config: &str| {
        [config, embedding, index, generation, tokenizer, quantised, "{{ messages }}", "{}"]
            .join("\u{1e}")
            .into_bytes()
    };
    let mut seeds: Vec<Vec<u8>> = configs.into_iter().map(folder).collect();
    seeds.push([configs[0], embedding].join("\u{1e}").into_bytes());
    let packed =
        r#"{"packed.version":1,"packed.experts.0":["Q4_0 2 32","Q4_0 2 32 ordered","F8_E4M3 32 2"]}"#;
    seeds.push([configs[1], embedding, "", "", "", "", "", "", packed].join("\u{1e}").into_bytes());
    let (template, vocab) = (r#"{"chat_template":"{{ messages }}"}"#, r#"{"a":0,"b":1,"ab":2}"#);
    let parts = [configs[1], embedding, "", "", tokenizer, "", "", "", "", template, vocab, "a b"];
    seeds.push(parts.join("\u{1e}").into_bytes());
    let whole = safetensors::file(embedding, DATA_BYTES);
    assert_eq!(&whole[8..whole.len() - DATA_BYTES], embedding.as_bytes());
    seeds
}

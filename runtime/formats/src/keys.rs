//! Keys of metadata that published folders have and GGUF files have not. The first five follow the name of the architecture.

/// A truth value: rotary pairs are half the rotated part apart, where a converter would have made them neighbours.
pub const ROPE_HALVES: &str = "rope.halves";
/// A truth value: value heads of delta-nets are grouped by key head, where a converter would have tiled them.
pub const GROUPED_VALUE_HEADS: &str = "ssm.grouped_value_heads";
/// A truth value: the output of a delta-net is gated by SiLU, where a converted file of the architecture has the sigmoid.
pub const SILU_OUTPUT_GATE: &str = "ssm.silu_output_gate";
/// The number of tensors that a table of n-grams is cut into by rows, where it is not one.
pub const NGRAM_PARTS: &str = "ple.table_parts";
/// A truth value: YaRN mixes from a whole pair to a whole pair, `truncate` of a configuration.
pub const YARN_WHOLE_PAIRS: &str = "rope.scaling.yarn_whole_pairs";
/// A truth value: the experts of a layer are in two tensors; in the first a row of a gate and one of its up take turns, and
/// what is not quantised has inputs before outputs. A converter would have made three of them.
pub const ALTERNATING_EXPERTS: &str = "experts.alternating";

/// The tokens that end an answer, most important first.
pub const END_TOKENS: &str = "tokenizer.end_token_ids";
/// The text of the beginning-of-text token.
pub const BOS_TOKEN: &str = "tokenizer.bos_token";
/// The text of the end-of-text or end-of-turn token.
pub const EOS_TOKEN: &str = "tokenizer.eos_token";
/// A truth value: the beginning-of-text token is put before a plain text.
pub const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";
/// A truth value: the end-of-text token is put behind a plain text.
pub const ADD_EOS: &str = "tokenizer.ggml.add_eos_token";
/// The source of the chat template; GGUF files have the key as well.
pub const CHAT_TEMPLATE: &str = "tokenizer.chat_template";
/// The source of the chat template for conversations with tools, where it is another; GGUF files have the key as well.
pub const TOOL_TEMPLATE: &str = "tokenizer.chat_template.tool_use";

/// The name of the quantisation method: `gptq`, `awq`, `fp8`, `modelopt`, `compressed-tensors`.
pub const QUANTISATION: &str = "quantization.method";
/// `gptq`, whose zero points are stored less 1, or `gptq_v2`.
pub const GPTQ_FORM: &str = "quantization.checkpoint_format";
/// A truth value: all zero points are 8, in 8 bits 128.
pub const SYMMETRIC: &str = "quantization.symmetric";
/// Bits of an integer in compressed-tensors where all have 8, or a list where some have; 4 if it is absent.
pub const BITS: &str = "quantization.bits";
/// A truth value: groups are not runs of inputs.
pub const ACT_ORDER: &str = "quantization.act_order";
/// Rows and columns that share a scale.
pub const BLOCK: &str = "quantization.block";

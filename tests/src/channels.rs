//! A fixture that answers in channels as gpt-oss does: its vocabulary has the control tokens of the harmony format, and its template
//! writes that format.

use std::path::Path;

use membrane_formats::{Array, Checkpoint, Value};

use crate::{with_metadata, workspace};

const MARKS: [&str; 7] =
    ["<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|call|>", "<|return|>", "<|constrain|>"];

const TEMPLATE: &str = "\
{%- for message in messages -%}
  {%- if message.role == 'assistant' and message.tool_calls -%}
    {%- if message.content and message.thinking %}{{ raise_exception('both') }}{% endif -%}
    {%- if message.thinking -%}
      {{ '<|start|>assistant<|channel|>analysis<|message|>' + message.thinking + '<|end|>' }}
    {%- endif -%}
    {%- set call = message.tool_calls[0].function -%}
    {{ '<|start|>assistant to=functions.' + call.name + '<|channel|>commentary json<|message|>' }}
    {{- call.arguments | tojson }}<|call|>
  {%- elif message.role == 'assistant' -%}
    {{ '<|start|>assistant<|channel|>final<|message|>' + message.content + '<|end|>' }}
  {%- else -%}
    {{ '<|start|>' + message.role + '<|message|>' + message.content + '<|end|>' }}
  {%- endif -%}
{%- endfor -%}
{{ '<|start|>assistant' }}";

/// Writes the model.
pub fn write(path: &Path) {
    let source = workspace().join("tests/fixtures/gguf/tiny-qwen3moe-Q8_0.gguf");
    let source = Checkpoint::open(&source).expect("the fixture is there");
    let mut metadata = source.metadata().clone();
    let strings = |key: &str| metadata.require_str_array(key).expect("the fixture has a vocabulary");
    let mut tokens: Vec<String> = strings("tokenizer.ggml.tokens").iter().map(str::to_owned).collect();
    let Some(Value::Array(Array::I32(mut kinds))) = metadata.get("tokenizer.ggml.token_type").cloned() else {
        panic!("the fixture has types of tokens")
    };
    let normal: Vec<usize> = (0..tokens.len()).rev().filter(|&id| kinds[id] == 1).take(MARKS.len()).collect();
    let gone: Vec<String> = normal.iter().map(|&id| tokens[id].clone()).collect();
    for (id, mark) in normal.into_iter().zip(MARKS) {
        (tokens[id], kinds[id]) = (mark.into(), 3);
    }
    let whole = |rule: &&str| {
        let parts = rule.split(' ').map(str::to_owned).chain([rule.replace(' ', "")]);
        !parts.into_iter().any(|part| gone.contains(&part))
    };
    let merges = strings("tokenizer.ggml.merges").iter().filter(whole).collect();
    metadata.set("tokenizer.ggml.merges", Value::Array(Array::Str(merges)));
    metadata.set("tokenizer.ggml.tokens", Value::Array(Array::Str(tokens.iter().collect())));
    metadata.set("tokenizer.ggml.token_type", Value::Array(Array::I32(kinds)));
    metadata.set("tokenizer.chat_template", TEMPLATE);
    with_metadata(&source, metadata, path).expect("the model can be written");
}

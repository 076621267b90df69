//! libFuzzer's way into `membrane_fuzz::targets::tokenizer_parts`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| membrane_fuzz::targets::tokenizer_parts::target(data));

//! libFuzzer's way into `membrane_fuzz::targets::audit_text`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| membrane_fuzz::targets::audit_text::target(data));

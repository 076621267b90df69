//! libFuzzer's way into `membrane_fuzz::targets::signature`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| membrane_fuzz::targets::signature::target(data));

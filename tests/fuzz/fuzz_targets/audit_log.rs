//! libFuzzer's way into `membrane_fuzz::targets::audit_log`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| membrane_fuzz::targets::audit_log::target(data));

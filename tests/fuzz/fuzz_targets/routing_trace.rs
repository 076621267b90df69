//! libFuzzer's way into `membrane_fuzz::targets::routing_trace`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| membrane_fuzz::targets::routing_trace::target(data));

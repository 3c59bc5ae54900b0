//! libFuzzer's program of the target `record`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tidegate_fuzz::run("record", data));

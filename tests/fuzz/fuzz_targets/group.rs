//! libFuzzer's program of the target `group`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tidegate_fuzz::run("group", data));

//! libFuzzer's program of the target `reservation_id`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tidegate_fuzz::run("reservation_id", data));

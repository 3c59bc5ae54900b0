//! libFuzzer's program of the target `invoices`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tidegate_fuzz::run("invoices", data));

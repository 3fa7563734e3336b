#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| nebnet::fuzz::wheel(data));

//! `cargo +nightly fuzz run lz4`; see README.md.
#![no_main]

#[path = "../properties/lz4.rs"]
mod properties;

libfuzzer_sys::fuzz_target!(|input: &[u8]| properties::check(input));

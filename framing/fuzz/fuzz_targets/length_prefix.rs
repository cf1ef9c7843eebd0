//! `cargo +nightly fuzz run length_prefix`; see README.md.
#![no_main]

#[path = "../properties/length_prefix.rs"]
mod properties;

libfuzzer_sys::fuzz_target!(|input: &[u8]| properties::check(input));

//! `cargo +nightly fuzz run zmtp`; see README.md.
#![no_main]

#[path = "../properties/zmtp.rs"]
mod properties;

libfuzzer_sys::fuzz_target!(|input: &[u8]| properties::check(input));

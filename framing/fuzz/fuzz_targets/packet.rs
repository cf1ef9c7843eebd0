//! `cargo +nightly fuzz run packet`; see README.md.
#![no_main]

#[path = "../properties/packet.rs"]
mod properties;

libfuzzer_sys::fuzz_target!(|input: &[u8]| properties::check(input));

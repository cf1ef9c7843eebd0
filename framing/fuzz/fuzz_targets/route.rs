//! `cargo +nightly fuzz run route`; see README.md.
#![no_main]

#[path = "../properties/route.rs"]
mod properties;

libfuzzer_sys::fuzz_target!(|input: &[u8]| properties::check(input));

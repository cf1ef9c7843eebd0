//! `cargo +nightly fuzz run websocket`; see README.md.
#![no_main]

#[path = "../properties/websocket.rs"]
mod properties;

libfuzzer_sys::fuzz_target!(|input: &[u8]| properties::check(input));

//! `cargo +nightly fuzz run tls`; see README.md.
#![no_main]

use std::sync::OnceLock;

use proscenium_engine::fuzz_support::{Ends, check};

fn ends() -> &'static Ends {
    static ENDS: OnceLock<Ends> = OnceLock::new();
    ENDS.get_or_init(|| {
        let made = rcgen::generate_simple_self_signed(vec!["stage.test".to_owned()]);
        let made = made.expect("a certificate");
        let (pem, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        Ends::new(&pem, &key).expect("good ones")
    })
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| check(ends(), input));

//! Where the first inputs of the corpus come from: route headers.

/// File names and contents.
pub(crate) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let full = b"\x08\x07\x10\x02\x1a\x04Move\x20\x0f\x2a\x05api-1\x30\x09\x38\x0a\x40\x0b\x48\x01\
        \x50\x05\x58\x01\xa2\x01\x0d\x0a\x05api-1\x10\x01\x18\x02\x20\x03\xa2\x01\x02\x10\x04";
    vec![
        ("nothing", Vec::new()),
        (
            "request",
            b"\x08\x07\x1a\x04Move\x2a\x05api-1\x50\x05".to_vec(),
        ),
        ("full", full.to_vec()),
        ("cut", full[..20].to_vec()),
        (
            "negative_stage",
            b"\x30\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01".to_vec(),
        ),
        (
            "wide_number",
            b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01".to_vec(),
        ),
        (
            "number_too_wide",
            b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02".to_vec(),
        ),
        ("number_cut", b"\x08\xff".to_vec()),
        ("field_0", b"\x00\x01".to_vec()),
        (
            "unknown_fields",
            b"\x78\x01\x7a\x01x\x7d\0\0\0\0\x79\0\0\0\0\0\0\0\0\x08\x01".to_vec(),
        ),
        ("wrong_type", b"\x0a\x01x".to_vec()),
        ("group", b"\x7b\x7c".to_vec()),
        ("not_utf8", b"\x1a\x01\xff".to_vec()),
        ("chain_wrong_type", b"\xa2\x01\x02\x08\x01".to_vec()),
        ("chain_cut", b"\xa2\x01\x05\x10".to_vec()),
        ("twice", b"\x08\x01\x08\x02\x1a\x01a\x1a\x01b".to_vec()),
    ]
}

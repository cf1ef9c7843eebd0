//! Where the first inputs of the corpus come from; their layout is told in `properties/lz4.rs`.
//! Inputs that a fuzzer found are added to the corpus as files.

/// 100 × 'a': one literal, a match of 94 bytes at distance 1, five literals.
const BLOCK: &[u8] = b"\x1fa\x01\0\x4b\x50aaaaa";

/// `cap` values.
const CAP_10_MIB: u8 = 0;
const CAP_0: u8 = 1;
const CAP_300: u8 = 2;
const UNCAPPED: u8 = 3;

/// The size that the container claims.
const CLAIMED: i32 = 0;

/// File names and contents.
pub(crate) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let good = container(&[0x40, 89]);
    let bomb = container(&[0xC0, 0xF5, 0xFF, 0x9F, 0x00]);
    let mut far = good.clone();
    far[2 + 2] = 9;
    let mut long = good.clone();
    long[2 + 4] = 76;
    vec![
        ("nothing", Vec::new()),
        ("empty_container", input(CAP_10_MIB, 1, b"")),
        ("width_1", input(CAP_10_MIB, 100, &good)),
        (
            "width_2",
            input(CAP_300, CLAIMED, &container(&[0x80, 89, 0])),
        ),
        (
            "width_4",
            input(UNCAPPED, CLAIMED, &container(&[0xC0, 89, 0, 0, 0])),
        ),
        ("header_truncated", input(CAP_300, 100, &[0xC0, 89, 0, 0])),
        ("as_it_is", input(CAP_300, CLAIMED, b"\0plain")),
        (
            "as_it_is_with_width",
            input(CAP_300, CLAIMED, b"\x40\0plain"),
        ),
        ("version_1", input(CAP_300, 100, &container(&[0x41, 89]))),
        (
            "unused_bits",
            input(CAP_300, CLAIMED, &container(&[0x78, 89])),
        ),
        ("cap_0", input(CAP_0, 100, &good)),
        ("over_the_cap", input(CAP_300, 301, &good)),
        ("negative", input(UNCAPPED, -1, &good)),
        ("over_10_mib", input(UNCAPPED, 10 * 1024 * 1024 + 1, &good)),
        ("announces_less", input(CAP_300, 99, &good)),
        ("announces_more", input(CAP_300, 101, &good)),
        (
            "truncated",
            input(CAP_300, CLAIMED, &good[..good.len() - 1]),
        ),
        ("distance_too_far", input(CAP_300, CLAIMED, &far)),
        ("inflates_to_more", input(CAP_300, CLAIMED, &long)),
        ("bomb", input(CAP_10_MIB, CLAIMED, &bomb)),
        (
            "bomb_of_4_gib",
            input(UNCAPPED, 1, &container(&[0xC0, 0xFF, 0xFF, 0xFF, 0xFF])),
        ),
        // As payloads: what is worth compressing and what is not.
        ("payload_of_zeros", input(CAP_300, 1, &[0; 4096])),
        (
            "payload_of_text",
            input(CAP_300, 1, &b"the same words again, ".repeat(40)),
        ),
        ("payload_of_512", input(CAP_300, 1, &[7; 512])),
        ("payload_of_513", input(CAP_300, 1, &[7; 513])),
        ("payload_large", input(CAP_300, 1, &vec![1; 70_000])),
    ]
}

fn container(header: &[u8]) -> Vec<u8> {
    [header, BLOCK].concat()
}

fn input(cap: u8, size: i32, container: &[u8]) -> Vec<u8> {
    [&[cap], &size.to_le_bytes()[..], container].concat()
}

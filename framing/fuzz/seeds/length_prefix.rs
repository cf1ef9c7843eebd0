//! Where the first inputs of the corpus come from; their layout is told in
//! `properties/length_prefix.rs`. Inputs that a fuzzer found are added to the corpus as files.

/// `setup` values: byte order and limit.
const BE: u8 = 0;
const LE: u8 = 1;
const LIMIT_0: u8 = 1 << 1;
const LIMIT_255: u8 = 2 << 1;
const LIMIT_MAX: u8 = 3 << 1;

const AT_ONCE: &[u8] = &[];
const BYTE_BY_BYTE: &[u8] = &[0];

/// File names and contents.
pub(crate) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let hello = be(&[b"hello", b"", b"world"]);
    let hello_le = le(&[b"hello", b"", b"world"]);
    let longest = be(&[&[7; 255], b"after"]);
    let one_more = be(&[b"before", &[7; 256], b"after"]);
    let many = be(&[&b"x"[..]; 64]);
    vec![
        ("valid_be", input(BE, AT_ONCE, &hello)),
        ("valid_le", input(LE, AT_ONCE, &hello_le)),
        ("valid_be_byte_by_byte", input(BE, BYTE_BY_BYTE, &hello)),
        ("valid_le_byte_by_byte", input(LE, BYTE_BY_BYTE, &hello_le)),
        (
            "valid_le_limit_max",
            input(LE | LIMIT_MAX, &[2, 6], &hello_le),
        ),
        // Reads that end after the header, one byte before it, one byte after it.
        (
            "split_after_header",
            input(BE, &[3, 4], &be(&[&b"12345"[..]; 4])),
        ),
        (
            "split_in_header",
            input(BE, &[2, 5], &be(&[&b"12345"[..]; 4])),
        ),
        (
            "split_after_first_byte",
            input(BE, &[4, 3], &be(&[&b"12345"[..]; 4])),
        ),
        (
            "many_small_odd_reads",
            input(BE, &[0, 1, 2, 4, 10, 100], &many),
        ),
        ("empty_bodies", input(LE | LIMIT_0, &[0, 2], &[0; 24])),
        ("limit_met", input(BE | LIMIT_255, &[16], &longest)),
        (
            "limit_exceeded_by_one",
            input(BE | LIMIT_255, &[16], &one_more),
        ),
        (
            "limit_0_exceeded",
            input(BE | LIMIT_0, BYTE_BY_BYTE, &be(&[b"", b"1"])),
        ),
        (
            "default_limit_met",
            input(BE, AT_ONCE, &[0x00, 0x20, 0x00, 0x00, 1, 2]),
        ),
        (
            "default_limit_exceeded",
            input(BE, AT_ONCE, &[0x00, 0x20, 0x00, 0x01, 1, 2]),
        ),
        ("hostile_ffffffff", input(BE, AT_ONCE, &[0xFF; 4])),
        (
            "hostile_ffffffff_split",
            input(LE, BYTE_BY_BYTE, &[0xFF; 9]),
        ),
        (
            "hostile_ffffffff_limit_max",
            input(LE | LIMIT_MAX, AT_ONCE, &[0xFF; 9]),
        ),
        (
            "hostile_fffffffb_limit_max",
            input(BE | LIMIT_MAX, &[4], &[0xFF, 0xFF, 0xFF, 0xFB, 0]),
        ),
        ("hostile_80000000_be", input(BE, &[1], &[0x80, 0, 0, 0, 1])),
        ("hostile_80000000_le", input(LE, &[1], &[0, 0, 0, 0x80, 1])),
        (
            "hostile_7fffffff",
            input(BE, AT_ONCE, &[0x7F, 0xFF, 0xFF, 0xFF]),
        ),
        (
            "hostile_after_valid",
            input(BE, &[7], &[&hello[..], &[0xFF; 4], &hello[..]].concat()),
        ),
        ("order_mistaken", input(LE, AT_ONCE, &hello)),
        ("tail_in_header", input(BE, &[5], &hello[..hello.len() - 7])),
        ("tail_in_body", input(BE, &[5], &hello[..hello.len() - 1])),
        (
            "text",
            input(BE, &[9], b"GET / HTTP/1.1\r\nHost: stage\r\n\r\n"),
        ),
        ("no_stream", vec![BE, 0]),
        ("no_sizes", vec![LE, 200, 1, 2, 3]),
        ("nothing", vec![]),
    ]
}

fn input(setup: u8, sizes: &[u8], stream: &[u8]) -> Vec<u8> {
    let n = u8::try_from(sizes.len()).expect("a seed has few sizes");
    [&[setup, n], sizes, stream].concat()
}

/// Frames by hand, not by the codec that the seeds are to test.
fn be(bodies: &[&[u8]]) -> Vec<u8> {
    frames(bodies, u32::to_be_bytes)
}

fn le(bodies: &[&[u8]]) -> Vec<u8> {
    frames(bodies, u32::to_le_bytes)
}

fn frames(bodies: &[&[u8]], header: fn(u32) -> [u8; 4]) -> Vec<u8> {
    bodies
        .iter()
        .flat_map(|body| [&header(body.len() as u32), *body].concat())
        .collect()
}

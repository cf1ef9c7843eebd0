//! Where the first inputs of the corpus come from; their layout is told in
//! `properties/websocket.rs`. Inputs that a fuzzer found are added to the corpus as files.

/// `setup` values: role, limits, RSV1.
const SERVER: u8 = 0;
const CLIENT: u8 = 1;
const SMALL: u8 = 1 << 1;
const ONE_CONTROL: u8 = 2 << 1;
const ALL: u8 = 3 << 1;
const RSV1: u8 = 1 << 3;

const AT_ONCE: &[u8] = &[];
const ODD: &[u8] = &[0, 1, 2, 4, 10, 100];

/// File names and contents.
pub(crate) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let message = masked(0x82, b"a whole message");
    let text = [
        masked(0x01, "pro".as_bytes()),
        masked(0x89, b"ping"),
        masked(0x00, "舞".as_bytes()),
        masked(0x8a, b""),
        masked(0x80, "台".as_bytes()),
        masked(0x88, b"\x03\xe8done"),
    ]
    .concat();
    let long = [&[0x82, 0x7e, 0x01, 0x00][..], &[7; 256]].concat();
    let request = b"GET /ws?a=b HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: \
        Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Protocol: b, a\r\n\r\n";
    let response = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: \
        Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    vec![
        ("message", input(SERVER, AT_ONCE, &message)),
        ("messages_odd_reads", input(SERVER, ODD, &message.repeat(9))),
        ("fragments_and_control", input(SERVER, AT_ONCE, &text)),
        ("fragments_and_control_odd_reads", input(SERVER, ODD, &text)),
        (
            "example_of_the_standard",
            input(CLIENT, &[1], b"\x81\x05Hello"),
        ),
        ("length_of_two_bytes", input(CLIENT, &[99], &long)),
        (
            "length_of_two_bytes_cut",
            input(CLIENT, &[99], &long[..200]),
        ),
        (
            "length_not_minimal",
            input(CLIENT, &[0], b"\x82\x7e\x00\x7d"),
        ),
        (
            "length_of_eight_not_minimal",
            input(CLIENT, &[4], &length(0xffff)),
        ),
        ("hostile_2_to_the_63", input(CLIENT, &[2], &length(1 << 63))),
        (
            "hostile_all_ones",
            input(CLIENT | ALL, &[2], &length(u64::MAX)),
        ),
        (
            "hostile_greatest",
            input(CLIENT | ALL, &[2], &length((1 << 63) - 1)),
        ),
        (
            "hostile_over_the_limit",
            input(CLIENT, &[2], &length(1 << 32)),
        ),
        (
            "frame_limit",
            input(SERVER | SMALL, &[3], &masked(0x82, &[1; 9])),
        ),
        (
            "message_limit",
            input(SERVER | SMALL, &[3], &fragments(&[8, 8, 1])),
        ),
        (
            "fragments_limit",
            input(SERVER | SMALL, &[3], &fragments(&[0, 0, 0, 0])),
        ),
        (
            "control_limit",
            input(SERVER | ONE_CONTROL, &[3], &masked(0x89, b"").repeat(2)),
        ),
        ("not_masked", input(SERVER, AT_ONCE, b"\x82\x01x")),
        ("masked", input(CLIENT, AT_ONCE, &message)),
        ("reserved_bit", input(SERVER, AT_ONCE, &masked(0xc2, b""))),
        (
            "reserved_bit_allowed",
            input(SERVER | RSV1, AT_ONCE, &masked(0xc1, b"\xff")),
        ),
        ("unknown_opcode", input(SERVER, AT_ONCE, &masked(0x83, b""))),
        (
            "control_fragmented",
            input(SERVER, AT_ONCE, &masked(0x09, b"")),
        ),
        (
            "control_too_long",
            input(SERVER, AT_ONCE, &masked(0x89, &[0; 126])),
        ),
        (
            "nothing_to_continue",
            input(SERVER, AT_ONCE, &masked(0x80, b"x")),
        ),
        (
            "not_finished",
            input(
                SERVER,
                AT_ONCE,
                &[masked(0x01, b""), masked(0x81, b"")].concat(),
            ),
        ),
        (
            "after_close",
            input(
                SERVER,
                AT_ONCE,
                &[masked(0x88, b""), message.clone()].concat(),
            ),
        ),
        (
            "close_half_a_code",
            input(SERVER, AT_ONCE, &masked(0x88, b"\x03")),
        ),
        (
            "close_code_1005",
            input(SERVER, AT_ONCE, &masked(0x88, b"\x03\xed")),
        ),
        (
            "close_reason_not_utf8",
            input(SERVER, AT_ONCE, &masked(0x88, b"\x03\xe8\xff")),
        ),
        (
            "text_surrogate",
            input(SERVER, &[0], &masked(0x81, b"a\xed\xa0\x80")),
        ),
        (
            "text_beyond",
            input(SERVER, &[0], &masked(0x81, b"\xf4\x90\x80\x80")),
        ),
        (
            "text_cut_off",
            input(SERVER, &[2], &masked(0x81, b"ok\xf0\x9f\x8e")),
        ),
        ("request", input(SERVER, &[0, 99, 200, 250], request)),
        ("response", input(CLIENT, &[0, 99, 100, 128, 255], response)),
        ("nothing", vec![]),
    ]
}

fn input(setup: u8, sizes: &[u8], stream: &[u8]) -> Vec<u8> {
    let n = u8::try_from(sizes.len()).expect("a seed has few sizes");
    [&[setup, n], sizes, stream].concat()
}

/// A header of a client's stream with an eight-byte length, and some payload.
fn length(len: u64) -> Vec<u8> {
    [&[0x82, 0x7f][..], &len.to_be_bytes(), b"payload"].concat()
}

fn fragments(lens: &[usize]) -> Vec<u8> {
    let frame = |(i, len): (usize, &usize)| {
        let fin = if i + 1 == lens.len() { 0x80 } else { 0 };
        masked(fin | if i == 0 { 2 } else { 0 }, &vec![b'x'; *len])
    };
    lens.iter().enumerate().flat_map(frame).collect()
}

/// A masked frame by hand, not by the codec that the seeds are to test.
fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let key = [0x37, 0xfa, 0x21, 0x3d];
    let len = payload.len() as u16;
    let mut frame = match len {
        0..126 => vec![first, 0x80 | len as u8],
        _ => vec![first, 0xfe, (len >> 8) as u8, len as u8],
    };
    frame.extend(key);
    frame.extend(
        payload
            .iter()
            .enumerate()
            .map(|(i, byte)| byte ^ key[i % 4]),
    );
    frame
}

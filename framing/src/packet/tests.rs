//! Against byte vectors that were written by hand from the description of the format.

use super::*;

/// id "Move", seq 0x0102, stage 0x1122334455667788, payload "up".
const MOVE: [u8; 17] = [
    4, b'M', b'o', b'v', b'e', 0x02, 0x01, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, b'u',
    b'p',
];

/// id "é" (two bytes), seq 65535, stage -2, error 15, original size 0x00020304, payload 1 byte.
const PUSH: [u8; 20] = [
    2, 0xC3, 0xA9, 0xFF, 0xFF, 0xFE, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 15, 0, 0x04, 0x03,
    0x02, 0x00, 0xAB,
];

/// What clients send when they are idle: heartbeat, seq 0, stage 0.
const HEARTBEAT_BODY: [u8; 23] = *b"\x0c@Heart@Beat@\0\0\0\0\0\0\0\0\0\0";

fn client() -> ClientPacket<'static> {
    ClientPacket {
        msg_id: "Move",
        seq: 0x0102,
        stage_id: 0x1122_3344_5566_7788,
        payload: b"up",
    }
}

fn server() -> ServerPacket<'static> {
    ServerPacket {
        msg_id: "é",
        seq: u16::MAX,
        stage_id: -2,
        error: ErrorCode::UNCHECKED_CONTENTS_ERROR,
        original_size: 0x0002_0304,
        payload: &[0xAB],
    }
}

/// What `encode` writes, into a buffer of exactly that size.
macro_rules! encoded {
    ($packet:expr) => {{
        let packet = $packet;
        let mut out = vec![0xEE; packet.encoded_len()];
        packet.encode(&mut out).map(|len| {
            assert_eq!(len, out.len());
            out
        })
    }};
}

#[test]
fn client_packets_are_the_bytes_of_the_format() {
    assert_eq!(ClientPacket::decode(&MOVE), Ok(client()));
    assert_eq!(encoded!(client()).as_deref(), Ok(&MOVE[..]));
    let heartbeat = ClientPacket {
        msg_id: HEARTBEAT,
        seq: 0,
        stage_id: 0,
        payload: b"",
    };
    assert_eq!(ClientPacket::decode(&HEARTBEAT_BODY), Ok(heartbeat));
    assert_eq!(encoded!(heartbeat).as_deref(), Ok(&HEARTBEAT_BODY[..]));
}

#[test]
fn server_packets_are_the_bytes_of_the_format() {
    assert_eq!(ServerPacket::decode(&PUSH), Ok(server()));
    assert_eq!(encoded!(server()).as_deref(), Ok(&PUSH[..]));
}

#[test]
fn the_smallest_packets_have_an_id_of_one_byte_and_no_payload() {
    let body = [1, b'x', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(body.len(), 1 + 1 + 2 + 8);
    let packet = ClientPacket::decode(&body).expect("the smallest legal body");
    assert_eq!((packet.msg_id, packet.payload), ("x", &b""[..]));
    let body = [[1, b'x'].as_slice(), &[0; 16]].concat();
    let packet = ServerPacket::decode(&body).expect("the smallest legal body");
    assert_eq!((packet.msg_id, packet.payload), ("x", &b""[..]));
}

#[test]
fn every_truncation_is_refused_and_says_how_much_is_needed() {
    // Without their payloads, so that every byte counts.
    let (full, needed) = (&MOVE[..15], 15);
    for len in 0..full.len() {
        let error = ClientPacket::decode(&full[..len]).expect_err("truncated");
        let at_least = if len == 0 { 12 } else { needed };
        let needed = at_least;
        assert_eq!(error, PacketError::TooShort { len, needed });
    }
    let (full, needed) = (&PUSH[..19], 19);
    for len in 0..full.len() {
        let error = ServerPacket::decode(&full[..len]).expect_err("truncated");
        let needed = if len == 0 { 18 } else { needed };
        assert_eq!(error, PacketError::TooShort { len, needed });
    }
    assert!(ClientPacket::decode(&MOVE[..15]).is_ok() && ServerPacket::decode(&PUSH[..19]).is_ok());
}

#[test]
fn ids_have_1_to_128_bytes() {
    for len in [0, 129, 200, 255] {
        let body = [vec![len as u8], vec![b'a'; 300]].concat();
        let error = PacketError::IdLength { len };
        assert_eq!(ClientPacket::decode(&body), Err(error));
        assert_eq!(ServerPacket::decode(&body), Err(error));
        let id = "a".repeat(len);
        let mut packet = client();
        packet.msg_id = &id;
        assert_eq!(encoded!(packet), Err(error));
        assert_eq!(encoded!(ServerPacket::reply(&id, 1, 1, b"")), Err(error));
    }
    let id = "a".repeat(128);
    let packet = ServerPacket::reply(&id, 1, 1, b"x");
    let body = encoded!(packet).expect("the longest id");
    assert_eq!(ServerPacket::decode(&body), Ok(packet));
}

#[test]
fn ids_are_utf8() {
    let mut body = MOVE;
    body[3] = 0xFF;
    let error = PacketError::IdNotUtf8 { valid_up_to: 2 };
    assert_eq!(ClientPacket::decode(&body), Err(error));
    let mut body = PUSH;
    body[2] = b'x'; // a beginning of two without its end
    let error = PacketError::IdNotUtf8 { valid_up_to: 0 };
    assert_eq!(ServerPacket::decode(&body), Err(error));
}

#[test]
fn negative_sizes_are_refused_both_ways() {
    let mut body = PUSH;
    body[18] = 0x80;
    let original_size = i32::MIN + 0x0002_0304;
    let error = PacketError::OriginalSize { original_size };
    assert_eq!(ServerPacket::decode(&body), Err(error));
    let mut packet = server();
    packet.original_size = original_size;
    assert_eq!(encoded!(packet), Err(error));
}

#[test]
fn a_short_buffer_is_an_error_and_stays_as_it_was() {
    let mut out = [0xEE; 16];
    let (needed, room) = (17, 16);
    let error = PacketError::NoRoom { needed, room };
    assert_eq!(client().encode(&mut out), Err(error));
    let (needed, room) = (20, 16);
    let error = PacketError::NoRoom { needed, room };
    assert_eq!(server().encode(&mut out), Err(error));
    assert_eq!(out, [0xEE; 16]);
    // A longer one is filled at its front only.
    let mut out = [0xEE; 20];
    assert_eq!(client().encode(&mut out), Ok(17));
    assert_eq!((&out[..17], &out[17..]), (&MOVE[..], &[0xEE; 3][..]));
}

#[test]
fn codes_have_their_numbers_and_names() {
    let numbers: Vec<u16> = ErrorCode::KNOWN.iter().map(|code| code.0).collect();
    let fixed = (0..=17).chain([99, 60201, 60202, 60203]);
    assert_eq!(numbers, fixed.collect::<Vec<u16>>());
    assert_eq!(
        ErrorCode::STAGE_NOT_FOUND.to_string(),
        "stage not found (3)"
    );
    assert_eq!(ErrorCode(1234).to_string(), "error 1234");
    assert_eq!(
        (
            ErrorCode(98).name(),
            ErrorCode(ErrorCode::APPLICATION).name()
        ),
        (None, None)
    );
    assert!(ErrorCode::SUCCESS.is_success() && !ErrorCode::REQUEST_TIMEOUT.is_success());
    assert_eq!(ErrorCode::default(), ErrorCode::SUCCESS);
}

#[test]
fn errors_name_their_numbers() {
    let texts = [
        PacketError::TooShort { len: 3, needed: 12 },
        PacketError::IdLength { len: 129 },
        PacketError::IdNotUtf8 { valid_up_to: 2 },
        PacketError::OriginalSize { original_size: -5 },
        PacketError::NoRoom { needed: 9, room: 8 },
    ]
    .map(|error| error.to_string());
    let expected = [
        "packet of 3 bytes, at least 12 are needed",
        "message id of 129 bytes, allowed are 1 to 128",
        "message id is not UTF-8 after 2 bytes",
        "size before compression is negative: -5",
        "packet of 9 bytes into a buffer of 8 bytes",
    ];
    assert_eq!(texts, expected);
}

//! Properties of the packet codec and of compressed payloads over generated values.

use proptest::collection::vec;
use proptest::prelude::*;
use proscenium_framing::packet::{ClientPacket, ErrorCode, PacketError, ServerPacket};

#[cfg(feature = "lz4")]
#[path = "../fuzz/properties/lz4.rs"]
mod lz4;
#[path = "../fuzz/properties/packet.rs"]
mod properties;

/// Ids of 1 to 128 bytes.
fn id() -> impl Strategy<Value = String> {
    prop_oneof!["[a-zA-Z@]{1,20}", "\\PC{1,32}", "[a-z]{120,128}"]
        .prop_filter("1 to 128 bytes", |id| (1..=128).contains(&id.len()))
}

/// Bytes as a hostile or broken peer writes them: a plausible beginning, then anything.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let id = prop_oneof![id().prop_map(String::into_bytes), vec(any::<u8>(), 0..140),];
    let len = prop_oneof![3 => Just(None), 1 => any::<u8>().prop_map(Some)];
    (id, len, vec(any::<u8>(), 0..40)).prop_map(|(id, len, rest)| {
        let len = len.unwrap_or(id.len() as u8);
        [&[len], &id[..], &rest[..]].concat()
    })
}

/// Payloads that compress, in part or not at all.
#[cfg(feature = "lz4")]
fn payload() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        vec(any::<u8>(), 0..300),
        (any::<u8>(), 0..3000_usize).prop_map(|(byte, len)| vec![byte; len]),
        (vec(any::<u8>(), 1..40), 1..60_usize).prop_map(|(words, times)| words.repeat(times)),
    ];
    vec(piece, 0..4).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn client_packets_come_back(
        id in id(), seq: u16, stage_id: i64, payload in vec(any::<u8>(), 0..100),
    ) {
        let packet = ClientPacket { msg_id: &id, seq, stage_id, payload: &payload };
        let mut body = vec![0; packet.encoded_len()];
        prop_assert_eq!(packet.encode(&mut body), Ok(body.len()));
        prop_assert_eq!(ClientPacket::decode(&body), Ok(packet));
        for cut in 0..body.len() - payload.len() {
            let short = matches!(
                ClientPacket::decode(&body[..cut]),
                Err(PacketError::TooShort { .. })
            );
            prop_assert!(short, "cut at {}", cut);
        }
    }

    #[test]
    fn server_packets_come_back(
        id in id(), seq: u16, stage_id: i64, error: u16, original_size in 0..=i32::MAX,
        payload in vec(any::<u8>(), 0..100),
    ) {
        let error = ErrorCode(error);
        let payload = &payload[..];
        let packet = ServerPacket { msg_id: &id, seq, stage_id, error, original_size, payload };
        let mut body = vec![0; packet.encoded_len()];
        prop_assert_eq!(packet.encode(&mut body), Ok(body.len()));
        prop_assert_eq!(ServerPacket::decode(&body), Ok(packet));
        for cut in 0..body.len() - payload.len() {
            let short = matches!(
                ServerPacket::decode(&body[..cut]),
                Err(PacketError::TooShort { .. })
            );
            prop_assert!(short, "cut at {}", cut);
        }
    }

    #[test]
    fn hostile_bytes_break_no_promise(body in hostile()) {
        properties::check(&body);
    }

    #[cfg(feature = "lz4")]
    #[test]
    fn payloads_are_compressed_and_inflated(payload in payload()) {
        lz4::check(&[&[0, 1, 0, 0, 0], &payload[..]].concat());
    }

    #[cfg(feature = "lz4")]
    #[test]
    fn hostile_containers_break_no_promise(
        cap: u8,
        size in prop_oneof![Just(0), 0..400, any::<i32>()],
        first in prop_oneof![Just(0x40), Just(0x80), Just(0xC0), any::<u8>()],
        rest in vec(any::<u8>(), 0..60),
    ) {
        let mut input = vec![cap];
        input.extend_from_slice(&i32::to_le_bytes(size));
        input.push(first);
        input.extend_from_slice(&rest);
        lz4::check(&input);
    }
}

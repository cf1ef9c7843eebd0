//! Properties of the route header's codec over generated values, against prost.

use proptest::collection::vec;
use proptest::prelude::*;
use proscenium_framing::route::{Chain, ChainEntry, RouteError, RouteHeader};
use prost::Message as _;

#[path = "../fuzz/properties/route.rs"]
mod properties;

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        "[a-z0-9-]{1,20}",
        "\\PC{0,60}",
        "[a-z]{120,140}"
    ]
}

fn number() -> impl Strategy<Value = i64> {
    prop_oneof![Just(0), 0..300_i64, any::<i64>()]
}

prop_compose! {
    fn entry()(nid in text(), stage in number(), invocation: u64, request: u64)
        -> (String, i64, u64, u64)
    {
        (nid, stage, invocation, request)
    }
}

proptest! {
    #[test]
    fn headers_come_back_and_are_what_prost_writes(
        numbers in (any::<u32>(), any::<u32>(), 0..2000_u32, any::<u32>()),
        msg_id in text(), from in text(),
        ids in (number(), number(), number()),
        flags: (bool, bool),
        chain in vec(entry(), 0..4),
    ) {
        let entries: Vec<_> = chain
            .iter()
            .map(|(nid, stage, invocation, request)| ChainEntry {
                nid,
                stage: *stage,
                invocation: *invocation,
                request: *request,
            })
            .collect();
        let header = RouteHeader {
            msg_seq: numbers.0,
            service_id: numbers.1,
            msg_id: &msg_id,
            error_code: numbers.2,
            from: &from,
            stage_id: ids.0,
            account_id: ids.1,
            sid: ids.2,
            is_reply: flags.0,
            payload_size: numbers.3,
            is_system: flags.1,
            chain: Chain::new(&entries),
        };
        let mut bytes = vec![0; header.encoded_len()];
        prop_assert_eq!(header.encode(&mut bytes), Some(bytes.len()));
        prop_assert_eq!(RouteHeader::decode(&bytes), Ok(header));
        properties::check(&bytes);
    }

    #[test]
    fn hostile_bytes_break_no_promise(bytes in vec(any::<u8>(), 0..60)) {
        properties::check(&bytes);
    }

    #[test]
    fn hostile_fields_break_no_promise(
        fields in vec((0..24_u8, 0..8_u8, vec(any::<u8>(), 0..12)), 0..6),
    ) {
        let mut bytes = Vec::new();
        for (field, wire_type, value) in fields {
            bytes.push(field << 3 | wire_type);
            if wire_type == 2 {
                bytes.push(value.len() as u8);
            }
            bytes.extend_from_slice(&value);
        }
        properties::check(&bytes);
    }
}

/// The bytes of a header as a .NET peer writes it: fields in order of their numbers.
#[test]
fn a_header_in_bytes() {
    let header = RouteHeader {
        msg_seq: 300,
        service_id: 1,
        msg_id: "Chat",
        from: "play-1",
        stage_id: -1,
        payload_size: 3,
        is_reply: true,
        ..RouteHeader::default()
    };
    let bytes = b"\x08\xac\x02\x10\x01\x1a\x04Chat\x2a\x06play-1\
        \x30\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x48\x01\x50\x03";
    let mut out = vec![0; header.encoded_len()];
    assert_eq!(header.encode(&mut out), Some(out.len()));
    assert_eq!(out, bytes);
    assert_eq!(RouteHeader::decode(bytes), Ok(header));
    for cut in 1..bytes.len() {
        // A cut between two fields leaves a header; any other is told.
        match RouteHeader::decode(&bytes[..cut]) {
            Ok(header) => assert!(header.encoded_len() == cut),
            Err(error) => assert_eq!(error, RouteError::Truncated, "cut at {cut}"),
        }
    }
}

#[cfg(feature = "prost")]
#[test]
fn system_messages_have_their_numbers() {
    use proscenium_framing::route::proto;

    let create = proto::CreateStageReq {
        stage_type: "room".to_owned(),
        payload_id: "New".to_owned(),
        payload: vec![1],
    };
    assert_eq!(
        create.encode_to_vec(),
        b"\x0a\x04room\x12\x03New\x1a\x01\x01"
    );
    let created = proto::GetOrCreateStageRes {
        result: true,
        is_created: true,
        payload_id: "Ok".to_owned(),
        payload: vec![2],
    };
    assert_eq!(
        created.encode_to_vec(),
        b"\x08\x01\x10\x01\x1a\x02Ok\x22\x01\x02"
    );
    assert!(proto::DestroyStageReq {}.encode_to_vec().is_empty());
}

#[test]
fn unknown_fields_of_prost_are_skipped() {
    #[derive(Clone, PartialEq, prost::Message)]
    struct Newer {
        #[prost(uint32, tag = "1")]
        msg_seq: u32,
        #[prost(double, tag = "30")]
        load: f64,
        #[prost(fixed32, tag = "31")]
        key: u32,
        #[prost(string, tag = "32")]
        zone: String,
    }
    let newer = Newer {
        msg_seq: 9,
        load: 0.5,
        key: 7,
        zone: "eu".to_owned(),
    };
    let bytes = newer.encode_to_vec();
    assert_eq!(
        RouteHeader::decode(&bytes).map(|header| header.msg_seq),
        Ok(9)
    );
}

#[test]
fn chains_travel_on_as_they_came_if_they_came_in_one_piece() {
    let entries = ["play-1", "play-2"].map(|nid| ChainEntry {
        nid,
        stage: -7,
        invocation: 0,
        request: 1 << 60,
    });
    let of = |chain| {
        let header = RouteHeader {
            chain,
            ..RouteHeader::default()
        };
        let mut bytes = vec![0; header.encoded_len()];
        assert_eq!(header.encode(&mut bytes), Some(bytes.len()));
        bytes
    };
    let [first, second] = [0, 1].map(|at| of(Chain::new(&entries[at..=at])));
    let whole = [&b"\x08\x05"[..], &first, &second, b"\x50\x03"].concat();
    let header = RouteHeader::decode(&whole).unwrap();
    let encoded = header.chain.encoded().unwrap();
    assert_eq!(encoded, [&first[..], &second].concat());
    assert_eq!(Chain::of_fields(encoded), Chain::new(&entries));
    // A field between them must not travel on with them.
    let scattered = [&first[..], b"\x08\x05", &second].concat();
    let header = RouteHeader::decode(&scattered).unwrap();
    assert_eq!((header.msg_seq, header.chain.encoded()), (5, None));
    assert_eq!(header.chain, Chain::new(&entries));
    assert_eq!(of(header.chain), encoded);
    assert!(Chain::of_fields(&[]).is_empty());
    assert_eq!(
        Chain::of_fields(&encoded[..encoded.len() - 1]),
        Chain::new(&entries[..1])
    );
    assert_eq!(
        RouteHeader::decode(b"\x08\x05").unwrap().chain.encoded(),
        None
    );
}

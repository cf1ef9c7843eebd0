//! ZMTP against the bytes of the RFCs, against captures of libzmq, and over generated streams.

use proptest::collection::vec;
use proptest::prelude::*;
use proscenium_framing::zmtp::{
    Command, Decoded, Decoder, FrameHeader, Greeting, Handshake, Limits, MechanismName, Null,
    Properties, Step, ZmtpError,
};

#[path = "../fuzz/properties/zmtp.rs"]
mod properties;

use properties::Event;

/// The bytes that hexadecimal text names.
fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(16)).collect();
    digits
        .chunks(2)
        .map(|two| (two[0] << 4 | two[1]) as u8)
        .collect()
}

fn router(identity: &str) -> Properties {
    let mut own = Properties::new();
    own.push("Socket-Type", b"ROUTER");
    own.push("Identity", identity.as_bytes());
    own
}

/// What a ROUTER of libzmq 4.3.5 sent before the first message, with the identity `api-1`.
const LIBZMQ_DIALS: &str =
    "ff00000000000000067f03014e554c4c0000000000000000000000000000000000000000
    00000000000000000000000000000000000000000000000000000000042e0552454144590b536f636b65742d5479706
    500000006524f55544552084964656e74697479000000056170692d31";

/// Behind it: the parts `08 01` and `hello`, sent to `play-1`, whose name is not on the wire.
const LIBZMQ_MESSAGE: &str = "01020801 000568656c6c6f";

/// Its heartbeat, with a time to live of 5 s, and its answers to ours.
const LIBZMQ_HEARTBEAT: &str = "04070450494e470032 040504504f4e47";

#[test]
fn libzmq_is_understood() {
    let stream = hex(&[LIBZMQ_DIALS, LIBZMQ_MESSAGE, LIBZMQ_HEARTBEAT].concat());
    let mut out = Vec::new();
    let own = router("play-1");
    let mut handshake = Handshake::new(Null, own, Limits::default(), &mut out);
    assert_eq!(out.len(), Greeting::LEN);
    let (used, step) = handshake.receive(&stream, &mut out).unwrap();
    let Step::Done(peer) = step else {
        panic!("{step:?}");
    };
    assert_eq!(peer.minor, 1);
    assert_eq!(peer.properties.get("Socket-Type"), Some(&b"ROUTER"[..]));
    assert_eq!(peer.properties.get("identity"), Some(&b"api-1"[..]));
    assert_eq!(peer.properties.iter().count(), 2);
    let rest = &stream[used..];
    let parts = vec![vec![8, 1], b"hello".to_vec()];
    let heartbeat = |text: &str| Event::Command(text.to_owned());
    let wanted = [
        Event::Message(parts),
        heartbeat("Ping { ttl: 50, context: [] }"),
        heartbeat("Pong { context: [] }"),
        Event::Tail(0),
    ];
    assert_eq!(
        properties::events(rest, rest.len(), Limits::default()),
        wanted
    );
}

#[test]
fn our_bytes_are_those_of_libzmq() {
    let mut out = Vec::new();
    let own = router("api-1");
    let mut handshake = Handshake::new(Null, own, Limits::default(), &mut out);
    let greeting = Greeting {
        minor: 1,
        mechanism: MechanismName::NULL,
        as_server: false,
    };
    handshake.receive(&greeting.encode(), &mut out).unwrap();
    for (part, more) in [(&b"\x08\x01"[..], true), (b"hello", false)] {
        out.extend_from_slice(FrameHeader::message(part.len(), more).encode().as_slice());
        out.extend_from_slice(part);
    }
    let context = &[];
    Command::Ping { ttl: 50, context }.encode(&mut out);
    Command::Pong { context }.encode(&mut out);
    let mut theirs = hex(&[LIBZMQ_DIALS, LIBZMQ_MESSAGE, LIBZMQ_HEARTBEAT].concat());
    // The padding of the signature: libzmq has the length of its identity there, which the RFC
    // leaves open.
    assert_eq!((theirs[8], out[8]), (6, 1));
    theirs[8] = 1;
    assert_eq!(out, theirs);
}

/// Parts of 0, 255, 256 and 0 bytes, as libzmq framed them.
#[test]
fn libzmq_frames_parts_of_all_lengths() {
    let mut stream = hex("0100 01ff");
    stream.extend([b'a'; 255]);
    stream.extend(hex("030000000000000100"));
    stream.extend([b'b'; 256]);
    stream.extend(hex("0000"));
    let parts = [vec![], vec![b'a'; 255], vec![b'b'; 256], vec![]];
    let mut ours = Vec::new();
    for (at, part) in parts.iter().enumerate() {
        ours.extend_from_slice(FrameHeader::message(part.len(), at < 3).encode().as_slice());
        ours.extend_from_slice(part);
    }
    assert_eq!(ours, stream);
    for step in 1..=stream.len() {
        let events = properties::events(&stream, step, Limits::default());
        assert_eq!(events, [Event::Message(parts.to_vec()), Event::Tail(0)]);
    }
}

/// RFC 23: the greeting, field by field.
#[test]
fn the_greeting_of_the_rfc() {
    let mut bytes = hex("ff 0000000000000001 7f 03 01");
    bytes.extend(b"NULL\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"); // 20 bytes
    bytes.push(0); // as-server
    bytes.extend([0; 31]); // filler
    let greeting = Greeting {
        minor: 1,
        mechanism: MechanismName::NULL,
        as_server: false,
    };
    assert_eq!(greeting.encode(), bytes[..]);
    assert_eq!(Greeting::decode(&bytes), Ok(Some(greeting)));
    for cut in 0..bytes.len() {
        assert_eq!(Greeting::decode(&bytes[..cut]), Ok(None), "cut at {cut}");
    }
    bytes[32] = 1;
    let server = Greeting {
        as_server: true,
        ..greeting
    };
    assert_eq!(Greeting::decode(&bytes), Ok(Some(server)));
    assert_eq!(server.encode(), bytes[..]);
}

#[test]
fn garbage_is_refused_at_its_first_wrong_byte() {
    let signature = |bytes: &[u8]| match Greeting::decode(bytes) {
        Err(ZmtpError::Signature { at, .. }) => Some(at),
        _ => None,
    };
    assert_eq!(signature(b"G"), Some(0));
    assert_eq!(signature(b"\x01\x00"), Some(0), "ZMTP 1.0: a length");
    assert_eq!(signature(b"\xff\0\0\0\0\0\0\0\x01\x7e"), Some(9));
    let mut old = hex("ff 0000000000000001 7f 01");
    assert_eq!(Greeting::decode(&old), Err(ZmtpError::Version { major: 1 }));
    old[10] = 2;
    assert_eq!(Greeting::decode(&old), Err(ZmtpError::Version { major: 2 }));
    assert_eq!(MechanismName::new("null"), None);
    assert_eq!(MechanismName::new(""), None);
    assert_eq!(MechanismName::new("A23456789012345678901"), None);
    assert_eq!(
        MechanismName::new("CURVE").map(|name| name.to_string()),
        Some("CURVE".into())
    );
}

fn refusal(from_peer: &[u8]) -> (ZmtpError, Vec<u8>) {
    let mut out = Vec::new();
    let mut handshake = Handshake::new(Null, router("a"), Limits::default(), &mut out);
    out.clear();
    let error = handshake.receive(from_peer, &mut out).unwrap_err();
    (error, out)
}

#[test]
fn another_mechanism_is_refused_by_error() {
    let plain = Greeting {
        minor: 1,
        mechanism: MechanismName::new("PLAIN").unwrap(),
        as_server: false,
    };
    let (error, told) = refusal(&plain.encode());
    assert_eq!(
        error,
        ZmtpError::Mechanism {
            name: "PLAIN".into()
        }
    );
    let mut decoder = Decoder::new(Limits::default());
    let Ok(Decoded::Command {
        command: Command::Error { reason },
        consumed,
    }) = decoder.decode(&told)
    else {
        panic!("{told:?}");
    };
    assert_eq!(consumed, told.len());
    let reason = String::from_utf8_lossy(reason);
    assert!(
        reason.contains("PLAIN") && reason.contains("NULL"),
        "{reason}"
    );
}

#[test]
fn what_has_no_business_in_a_handshake_ends_it() {
    let greeting = Greeting {
        minor: 1,
        mechanism: MechanismName::NULL,
        as_server: false,
    };
    let after = |bytes: &[u8]| refusal(&[&greeting.encode()[..], bytes].concat()).0;
    assert_eq!(after(b"\0\0"), ZmtpError::MessageInHandshake);
    let reason = "no".to_owned();
    assert_eq!(
        after(b"\x04\x09\x05ERROR\x02no"),
        ZmtpError::RefusedByPeer { reason }
    );
    assert_eq!(after(b"\x04\x0b\x09SUBSCRIBEx").name(), "refused");
    assert_eq!(after(b"\x04\x07\x04PING\0\0").name(), "refused");
    assert_eq!(after(b"\x04\x09\x05READY\x01 x").name(), "refused");
    let limit = Limits::default().command_max;
    let announced = u64::MAX;
    let huge = ZmtpError::CommandTooLong { announced, limit };
    assert_eq!(after(&[&[6][..], &[0xFF; 8]].concat()), huge);
}

#[test]
fn a_command_between_parts_is_told_once_and_the_message_stays_whole() {
    let stream = hex("0101aa 04070450494e470032 0001bb");
    let mut decoder = Decoder::new(Limits::default());
    let Ok(Decoded::Command {
        command,
        consumed: 0,
    }) = decoder.decode(&stream[..12])
    else {
        panic!("the command is told before the message is whole");
    };
    assert_eq!(command.name(), "PING");
    let Ok(Decoded::Message(message)) = decoder.decode(&stream) else {
        panic!();
    };
    assert_eq!(message.consumed(), stream.len());
    assert_eq!(message.parts().collect::<Vec<_>>(), [&[0xaa][..], &[0xbb]]);
}

#[test]
fn what_is_announced_is_bounded_before_it_comes() {
    let limits = Limits {
        frame_max: 1000,
        parts_max: 3,
        message_max: 1500,
        command_max: 100,
    };
    let error = |bytes: &[u8]| Decoder::new(limits).decode(bytes).unwrap_err().name();
    assert_eq!(error(&hex("02 00000000000003e9")), "frame_too_long");
    assert_eq!(error(&hex("02 ffffffffffffffff")), "frame_too_long");
    assert_eq!(error(&hex("04 65")), "command_too_long");
    assert_eq!(error(&hex("0100 0100 0100")), "too_many_parts");
    assert_eq!(error(&hex("05")), "flags");
    let mut two = hex("03 00000000000003e8");
    two.extend([0; 1000]);
    two.extend(hex("02 00000000000001f4"));
    assert_eq!(error(&two), "message_too_long");
    let mut pings = hex("0100");
    pings.extend(hex("04070450494e470032").repeat(200));
    let events = properties::events(&pings, 7, limits);
    assert!(
        events.len() < 200,
        "commands within a message count as its bytes"
    );
    assert!(matches!(
        events.last(),
        Some(Event::Bad(ZmtpError::MessageTooLong { .. }))
    ));
    // Limits that cannot be added to do not overflow.
    let most = Limits {
        frame_max: usize::MAX,
        parts_max: usize::MAX,
        message_max: usize::MAX,
        command_max: usize::MAX,
    };
    let hostile = hex("0100 02 7fffffffffffffff");
    assert!(Decoder::new(most).decode(&hostile).is_err());
}

#[test]
fn commands_of_other_sockets_are_refused() {
    for name in ["SUBSCRIBE", "CANCEL", "JOIN", "LEAVE", "HELLO", "READY"] {
        let mut stream = Vec::new();
        let data = b"x";
        Command::Other {
            name: name.as_bytes(),
            data,
        }
        .encode(&mut stream);
        let error = Decoder::new(Limits::default()).decode(&stream).unwrap_err();
        assert_eq!(error, ZmtpError::Unexpected { name: name.into() });
    }
}

/// A stream as a peer may send it: mostly sound, then anything.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let frame = (0..8_u8, vec(any::<u8>(), 0..40)).prop_map(|(flags, body)| {
        let len = body.len();
        let mut bytes = vec![flags];
        if flags & 2 != 0 {
            bytes.extend_from_slice(&(len as u64).to_be_bytes());
        } else {
            bytes.push(len as u8);
        }
        bytes.extend_from_slice(&body);
        bytes
    });
    let ping = (any::<u16>(), vec(any::<u8>(), 0..16)).prop_map(|(ttl, context)| {
        let mut bytes = Vec::new();
        let context = &context[..];
        Command::Ping { ttl, context }.encode(&mut bytes);
        bytes
    });
    let part = (any::<bool>(), vec(any::<u8>(), 0..300)).prop_map(|(more, body)| {
        let mut bytes = FrameHeader::message(body.len(), more)
            .encode()
            .as_slice()
            .to_vec();
        bytes.extend_from_slice(&body);
        bytes
    });
    let piece = prop_oneof![4 => part, 2 => ping, 1 => frame, 1 => vec(any::<u8>(), 0..20)];
    vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn streams_are_the_same_at_every_split(setup: u8, stream in stream()) {
        properties::check(&[&[setup], &stream[..]].concat());
    }

    #[test]
    fn handshakes_are_the_same_at_every_split(
        setup: u8,
        names in vec(("[A-Za-z+._-]{1,12}", vec(any::<u8>(), 0..20)), 0..4),
        broken in proptest::option::of((any::<prop::sample::Index>(), any::<u8>())),
        rest in stream(),
    ) {
        let mut own = Properties::new();
        for (name, value) in &names {
            own.push(name, value);
        }
        let mut bytes = vec![setup];
        let properties = own.as_bytes();
        let greeting = Greeting { minor: 1, mechanism: MechanismName::NULL, as_server: false };
        bytes.extend_from_slice(&greeting.encode());
        Command::Ready { properties }.encode(&mut bytes);
        if let Some((at, byte)) = broken {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.extend_from_slice(&rest);
        properties::check(&bytes);
    }

    #[test]
    fn properties_come_back(
        names in vec(("[A-Za-z0-9+._-]{1,30}", vec(any::<u8>(), 0..40)), 0..6),
    ) {
        let mut own = Properties::new();
        for (name, value) in &names {
            own.push(name, value);
        }
        let again = Properties::decode(own.as_bytes()).unwrap();
        prop_assert_eq!(again.iter().count(), names.len());
        for ((name, value), (known, of)) in names.iter().zip(&again) {
            prop_assert_eq!((name.as_str(), &value[..]), (known, of));
        }
        for cut in 1..own.as_bytes().len() {
            if let Ok(shorter) = Properties::decode(&own.as_bytes()[..cut]) {
                prop_assert!(shorter.iter().count() < names.len());
            }
        }
    }
}

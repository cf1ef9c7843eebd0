//! What must hold for any bytes, run by the fuzz target, by the replay of its corpus and by
//! proptest. The first byte of the input says how the rest is cut and which limits hold; the rest
//! is a connection from its first byte if that is 0xFF, else what follows a handshake.

use proscenium_framing::zmtp::{
    Decoded, Decoder, FrameHeader, Handshake, Limits, Null, Properties, Step, ZmtpError,
};

/// By the low two bits of the first byte.
pub(crate) const LIMITS: [Limits; 4] = [
    limits(16 << 20, 16, 16 << 20, 8 << 10),
    limits(300, 3, 700, 64),
    limits(10, 2, 24, 40),
    limits(0, 1, 2, 30),
];

const fn limits(
    frame_max: usize,
    parts_max: usize,
    message_max: usize,
    command_max: usize,
) -> Limits {
    Limits {
        frame_max,
        parts_max,
        message_max,
        command_max,
    }
}

/// What a stream was, as values of its own.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Event {
    Message(Vec<Vec<u8>>),
    Command(String),
    /// The stream ended with so many bytes unread.
    Tail(usize),
    Bad(ZmtpError),
}

/// Panics if the codec breaks a promise on this input.
pub(crate) fn check(input: &[u8]) {
    let Some((&setup, stream)) = input.split_first() else {
        return;
    };
    let limits = LIMITS[usize::from(setup & 3)];
    let step = match setup >> 2 {
        0 => 1,
        step => usize::from(step),
    };
    if stream.first() == Some(&0xFF) {
        let whole = handshake(stream, stream.len(), limits);
        assert_eq!(handshake(stream, step, limits), whole, "in steps of {step}");
        if let Ok(consumed) = whole.0 {
            traffic(&stream[consumed..], step, limits);
        }
    } else {
        traffic(stream, step, limits);
    }
}

/// Bytes consumed until the handshake was over or wanted more; and what was answered.
type Shaken = (Result<usize, ZmtpError>, Vec<u8>);

fn handshake(stream: &[u8], step: usize, limits: Limits) -> Shaken {
    let mut out = Vec::new();
    let mut handshake = Handshake::new(Null, Properties::new(), limits, &mut out);
    let (mut consumed, mut arrived) = (0, 0);
    loop {
        match handshake.receive(&stream[consumed..arrived], &mut out) {
            Ok((used, step)) => {
                assert!(used <= arrived - consumed);
                consumed += used;
                if let Step::Done(peer) = step {
                    assert!(peer.minor <= 1);
                    let again = Properties::decode(peer.properties.as_bytes());
                    assert_eq!(again, Ok(peer.properties));
                    return (Ok(consumed), out);
                }
            }
            Err(error) => return (Err(error), out),
        }
        if arrived == stream.len() {
            return (Ok(consumed), out);
        }
        arrived = stream.len().min(arrived + step.max(1));
    }
}

fn traffic(stream: &[u8], step: usize, limits: Limits) {
    let whole = events(stream, stream.len(), limits);
    assert_eq!(events(stream, step, limits), whole, "in steps of {step}");
    for event in whole {
        if let Event::Message(parts) = event {
            encodes_to_the_same(&parts, limits);
        }
    }
}

/// What `stream` is when it arrives in pieces of `step` bytes.
pub(crate) fn events(stream: &[u8], step: usize, limits: Limits) -> Vec<Event> {
    let mut decoder = Decoder::new(limits);
    let mut events = Vec::new();
    let (mut at, mut arrived) = (0, 0);
    loop {
        let bytes = &stream[at..arrived];
        match decoder.decode(bytes) {
            Ok(Decoded::Message(message)) => {
                let parts: Vec<_> = message.parts().map(<[u8]>::to_vec).collect();
                assert_eq!(parts.len(), message.len());
                assert!(!message.is_empty() && message.len() <= limits.parts_max);
                assert!(message.consumed() <= limits.message_max.min(bytes.len()));
                assert!(parts.iter().all(|part| part.len() <= limits.frame_max));
                at += message.consumed();
                events.push(Event::Message(parts));
            }
            Ok(Decoded::Command { command, consumed }) => {
                assert!(consumed <= bytes.len());
                at += consumed;
                events.push(Event::Command(format!("{command:?}")));
            }
            Ok(Decoded::Incomplete { needs }) => {
                assert!(needs > bytes.len());
                let most = limits.message_max.max(limits.command_max) + FrameHeader::MAX;
                assert!(needs <= most, "{needs} bytes are wanted");
                if arrived == stream.len() {
                    events.push(Event::Tail(bytes.len()));
                    return events;
                }
                arrived = stream.len().min(arrived + step.max(1));
            }
            Err(error) => {
                events.push(Event::Bad(error));
                return events;
            }
        }
    }
}

/// What was decoded is decoded again from our own encoding, which is as short as it can be.
fn encodes_to_the_same(parts: &[Vec<u8>], limits: Limits) {
    let mut stream = Vec::new();
    for (at, part) in parts.iter().enumerate() {
        let header = FrameHeader::message(part.len(), at + 1 < parts.len());
        let mut room = [0; FrameHeader::MAX];
        let written = header.write(&mut room).expect("room for any header");
        assert_eq!(written, header.encoded_len());
        stream.extend_from_slice(&room[..written]);
        stream.extend_from_slice(part);
    }
    let again = events(&stream, stream.len(), limits);
    assert_eq!(again, [Event::Message(parts.to_vec()), Event::Tail(0)]);
}

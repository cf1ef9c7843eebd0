//! What must hold of the length-prefixed codec for any bytes whatever. One copy of this code is
//! run by the fuzz target, by the replay of its corpus and by proptest.
//!
//! An input is read as
//!
//! ```text
//! setup u8 | n u8 | n × read size u8 | stream
//! ```
//!
//! `setup` bit 0 is the byte order (0 big, 1 little), bits 1–2 choose the limit from [`LIMITS`].
//! The stream arrives in reads of `size + 1` bytes, the sizes taken in turn, again and again;
//! with `n` = 0 it arrives at once. `n` = 1, size 0 is one byte at a time.

use proscenium_framing::{ByteOrder, Decoded, FrameError, LengthPrefix};

/// The limits that an input can choose.
pub(crate) const LIMITS: [usize; 4] = [
    LengthPrefix::DEFAULT_LIMIT,
    0,
    255,
    u32::MAX as usize - LengthPrefix::HEADER,
];

/// How a stream ended: the bytes of its whole frames, and why there is no further frame.
#[derive(Debug, PartialEq, Eq)]
struct Ending {
    consumed: usize,
    error: Option<FrameError>,
}

/// Panics if the codec breaks a promise on this input.
pub(crate) fn check(input: &[u8]) {
    let Some((&setup, rest)) = input.split_first() else {
        return;
    };
    let Some((&n, rest)) = rest.split_first() else {
        return;
    };
    let (sizes, stream) = rest.split_at(rest.len().min(n.into()));
    let order = if setup & 1 == 0 {
        ByteOrder::Big
    } else {
        ByteOrder::Little
    };
    let codec = LengthPrefix::new(order, LIMITS[usize::from(setup >> 1 & 3)]);

    let mut bodies = Vec::new();
    let ending = model(&codec, stream, &mut bodies);
    at_once(&codec, stream, &bodies, &ending);
    in_reads(&codec, stream, sizes, &bodies, &ending);
    encoded_again(&codec, stream, &bodies, &ending);
    as_a_body(&codec, stream);
}

/// The format written down a second time, in the plainest way: shifts, 64 bits, indexes.
fn model<'a>(codec: &LengthPrefix, stream: &'a [u8], bodies: &mut Vec<&'a [u8]>) -> Ending {
    let mut at = 0;
    loop {
        let left = (stream.len() - at) as u64;
        if left < 4 {
            return Ending {
                consumed: at,
                error: None,
            };
        }
        let mut len = 0_u64;
        for i in 0..4 {
            let shift = match codec.order() {
                ByteOrder::Big => 24 - 8 * i,
                ByteOrder::Little => 8 * i,
            };
            len |= u64::from(stream[at + i]) << shift;
        }
        if len > codec.limit() as u64 {
            let error = FrameError::TooLong {
                announced: len as usize,
                limit: codec.limit(),
            };
            return Ending {
                consumed: at,
                error: Some(error),
            };
        }
        if len > left - 4 {
            return Ending {
                consumed: at,
                error: None,
            };
        }
        let end = at + 4 + len as usize;
        bodies.push(&stream[at + 4..end]);
        at = end;
    }
}

/// The whole stream in one buffer gives what the model gives, borrowed and not copied.
fn at_once(codec: &LengthPrefix, stream: &[u8], bodies: &[&[u8]], ending: &Ending) {
    let mut frames = codec.frames(stream);
    for expected in bodies {
        let body = frames.next().expect("a frame").expect("a valid frame");
        assert!(
            std::ptr::eq(body, *expected),
            "the body is not the model's slice"
        );
    }
    assert_eq!(frames.next(), ending.error.map(Err));
    assert_eq!(frames.next(), None, "the end is the end");
    assert_eq!(frames.consumed(), ending.consumed);
    assert_eq!(frames.rest(), &stream[ending.consumed..]);
}

/// Any way of cutting the stream into reads gives the same bodies and the same ending.
fn in_reads(codec: &LengthPrefix, stream: &[u8], sizes: &[u8], bodies: &[&[u8]], ending: &Ending) {
    let mut expected = bodies.iter();
    let mut buffer: Vec<u8> = Vec::new();
    let mut consumed = 0;
    let mut arrived = 0;
    let mut sizes = sizes.iter().cycle();
    while arrived < stream.len() {
        let size = sizes
            .next()
            .map_or(stream.len(), |&size| usize::from(size) + 1);
        let upto = stream.len().min(arrived + size);
        buffer.extend_from_slice(&stream[arrived..upto]);
        arrived = upto;
        loop {
            match codec.decode(&buffer) {
                Decoded::Frame {
                    body,
                    consumed: taken,
                } => {
                    assert_eq!(
                        Some(&body),
                        expected.next(),
                        "frame ending by byte {arrived}"
                    );
                    assert_eq!(taken, LengthPrefix::HEADER + body.len());
                    buffer.drain(..taken);
                    consumed += taken;
                }
                Decoded::Incomplete { needs } => {
                    check_needs(codec, &buffer, needs);
                    break;
                }
                Decoded::Invalid(error) => {
                    assert_eq!((consumed, Some(error)), (ending.consumed, ending.error));
                    // Refused with the read that completed the header, not later.
                    let header_end = consumed + LengthPrefix::HEADER;
                    assert!(arrived >= header_end && arrived - header_end < size);
                    return;
                }
            }
        }
    }
    assert_eq!(expected.next(), None, "a frame is missing");
    assert_eq!(
        Ending {
            consumed,
            error: None
        },
        *ending
    );
}

/// What an incomplete frame asks for: more than there is, and never more than the limit allows.
fn check_needs(codec: &LengthPrefix, buffer: &[u8], needs: Option<usize>) {
    assert_eq!(needs.is_some(), buffer.len() >= LengthPrefix::HEADER);
    if let Some(needs) = needs {
        assert!(
            needs > buffer.len(),
            "asks for {needs}, has {}",
            buffer.len()
        );
        assert!(
            needs <= codec.limit() + LengthPrefix::HEADER,
            "asks for {needs}"
        );
    }
    assert_eq!(codec.frames(buffer).needs(), needs);
}

/// There is one encoding: the decoded bodies give back the bytes they came from.
fn encoded_again(codec: &LengthPrefix, stream: &[u8], bodies: &[&[u8]], ending: &Ending) {
    let mut again = Vec::new();
    for body in bodies {
        codec
            .encode(body, &mut again)
            .expect("a body that was decoded");
    }
    assert_eq!(again, &stream[..ending.consumed]);
}

/// Any bytes are a body, unless there are too many of them.
fn as_a_body(codec: &LengthPrefix, body: &[u8]) {
    let mut out = vec![0xA5];
    let mut in_place = [0x5A; LengthPrefix::HEADER];
    let result = codec.encode(body, &mut out);
    assert_eq!(codec.encode_header(body.len(), &mut in_place), result);
    if body.len() > codec.limit() {
        let error = FrameError::TooLong {
            announced: body.len(),
            limit: codec.limit(),
        };
        assert_eq!(result, Err(error));
        assert_eq!(
            (&out[..], in_place),
            (&[0xA5][..], [0x5A; LengthPrefix::HEADER])
        );
    } else {
        assert_eq!(result, Ok(()));
        assert_eq!(out[1..5], in_place);
        let consumed = LengthPrefix::HEADER + body.len();
        assert_eq!(codec.decode(&out[1..]), Decoded::Frame { body, consumed });
    }
}

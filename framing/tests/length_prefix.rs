//! Properties of the length-prefixed codec over generated streams.

use proptest::collection::vec;
use proptest::prelude::*;
use proscenium_framing::{ByteOrder, Decoded, FrameError, LengthPrefix};

#[path = "../fuzz/properties/length_prefix.rs"]
mod properties;

const HEADER: usize = LengthPrefix::HEADER;

fn order() -> impl Strategy<Value = ByteOrder> {
    prop_oneof![Just(ByteOrder::Big), Just(ByteOrder::Little)]
}

fn bodies() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let body = prop_oneof![
        1 => Just(Vec::new()),
        4 => vec(any::<u8>(), 0..20),
        1 => vec(any::<u8>(), 200..700),
    ];
    vec(body, 0..8)
}

/// Streams as a hostile or broken peer writes them: pieces that are frames, headers alone, noise.
fn hostile_stream() -> impl Strategy<Value = Vec<u8>> {
    let interesting = prop_oneof![
        Just(u32::MAX),
        Just(0x8000_0000),
        Just(0x7FFF_FFFF),
        Just(LengthPrefix::DEFAULT_LIMIT as u32),
        Just(LengthPrefix::DEFAULT_LIMIT as u32 + 1),
        0..300_u32,
        any::<u32>(),
    ];
    let piece = prop_oneof![
        interesting
            .clone()
            .prop_map(|len| len.to_be_bytes().to_vec()),
        interesting.prop_map(|len| len.to_le_bytes().to_vec()),
        vec(any::<u8>(), 0..40),
        vec(any::<u8>(), 0..40).prop_map(|body| encode(ByteOrder::Big, &[body])),
        vec(any::<u8>(), 0..40).prop_map(|body| encode(ByteOrder::Little, &[body])),
    ];
    vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

fn encode(order: ByteOrder, bodies: &[Vec<u8>]) -> Vec<u8> {
    let codec = LengthPrefix::new(order, LengthPrefix::DEFAULT_LIMIT);
    let mut stream = Vec::new();
    for body in bodies {
        codec
            .encode(body, &mut stream)
            .expect("a body under the limit");
    }
    stream
}

proptest! {
    #[test]
    fn what_was_encoded_is_decoded(order in order(), bodies in bodies()) {
        let stream = encode(order, &bodies);
        prop_assert_eq!(stream.len(), bodies.iter().map(|body| HEADER + body.len()).sum::<usize>());
        let codec = LengthPrefix::new(order, LengthPrefix::DEFAULT_LIMIT);
        let mut frames = codec.frames(&stream);
        let decoded: Result<Vec<_>, _> = frames.by_ref().collect();
        prop_assert_eq!(decoded.expect("valid frames"), bodies);
        prop_assert_eq!(frames.consumed(), stream.len());
        prop_assert_eq!((frames.rest(), frames.needs()), (&[][..], None));
    }

    #[test]
    fn every_split_point_gives_the_same_frames(order in order(), bodies in bodies()) {
        let stream = encode(order, &bodies);
        let codec = LengthPrefix::new(order, LengthPrefix::DEFAULT_LIMIT);
        for cut in 0..=stream.len() {
            let mut first = codec.frames(&stream[..cut]);
            let mut decoded: Vec<_> = first.by_ref().map(|body| body.expect("a frame")).collect();
            if let Some(needs) = first.needs() {
                prop_assert!(needs > first.rest().len());
                // Exactly what it needs makes it a frame, one byte less does not.
                let frame = &stream[first.consumed()..][..needs];
                let whole = matches!(codec.decode(frame), Decoded::Frame { consumed, .. }
                    if consumed == needs);
                prop_assert!(whole);
                let short = codec.decode(&frame[..needs - 1]);
                prop_assert_eq!(short, Decoded::Incomplete { needs: Some(needs) });
            } else {
                prop_assert!(first.rest().len() < HEADER);
            }
            let tail = [first.rest(), &stream[cut..]].concat();
            let mut second = codec.frames(&tail);
            decoded.extend(second.by_ref().map(|body| body.expect("a frame")));
            prop_assert_eq!(decoded, bodies.iter().collect::<Vec<_>>(), "cut at {}", cut);
            prop_assert!(second.rest().is_empty());
        }
    }

    #[test]
    fn the_limit_is_exact(order in order(), limit in 0..2000_usize, over in 1..2000_usize) {
        let codec = LengthPrefix::new(order, limit);
        let mut frame = Vec::new();
        codec.encode(&vec![1; limit], &mut frame).expect("a body of the limit");
        let is_frame = matches!(codec.decode(&frame), Decoded::Frame { body, .. }
            if body.len() == limit);
        prop_assert!(is_frame);

        let announced = limit + over;
        let error = FrameError::TooLong { announced, limit };
        prop_assert_eq!(codec.header(announced), Err(error));
        let header = LengthPrefix::new(order, announced).header(announced).expect("a header");
        prop_assert_eq!(codec.decode(&header), Decoded::Invalid(error));
    }

    #[test]
    fn no_header_asks_for_more_than_the_limit(
        order in order(),
        limit in any::<u32>(),
        header in any::<[u8; 4]>(),
    ) {
        let codec = LengthPrefix::new(order, limit as usize);
        match codec.decode(&header) {
            Decoded::Frame { body, consumed } => {
                prop_assert_eq!((body, consumed, header), (&[][..], HEADER, [0; 4]));
            }
            Decoded::Incomplete { needs } => {
                let needs = needs.expect("the header is whole");
                prop_assert!(needs > HEADER && needs <= codec.limit() + HEADER);
            }
            Decoded::Invalid(FrameError::TooLong { announced, limit }) => {
                prop_assert!(announced > limit && limit == codec.limit());
            }
            Decoded::Invalid(other) => prop_assert!(false, "{}", other),
        }
    }

    #[test]
    fn hostile_streams_in_any_reads_hold_the_fuzz_properties(
        setup in 0..8_u8,
        sizes in vec(any::<u8>(), 0..6),
        stream in hostile_stream(),
    ) {
        properties::check(&[&[setup, sizes.len() as u8], &sizes[..], &stream[..]].concat());
    }

    #[test]
    fn garbage_holds_the_fuzz_properties(input in vec(any::<u8>(), 0..600)) {
        properties::check(&input);
    }
}

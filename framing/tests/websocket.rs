//! The fuzz properties over generated streams.

use proptest::collection::vec;
use proptest::prelude::*;
use proscenium_framing::websocket::{FrameHeader, HEADER_MAX, Opcode, apply_mask};

#[path = "../fuzz/properties/websocket.rs"]
mod properties;

use properties::Seen;

/// A frame as a broken or hostile peer may send it.
fn frame() -> impl Strategy<Value = Vec<u8>> {
    let first = prop_oneof![
        8 => proptest::sample::select(vec![0x82_u8, 0x81, 0x01, 0x02, 0x80, 0x00, 0x89, 0x8a]),
        1 => Just(0x88),
        1 => any::<u8>(),
    ];
    let payload = prop_oneof![
        4 => "\\PC{0,6}".prop_map(String::into_bytes),
        2 => vec(any::<u8>(), 0..9),
        1 => vec(Just(b'x'), 120..140),
        1 => Just(vec![0x03, 0xe8]),
    ];
    let key = prop_oneof![8 => any::<[u8; 4]>().prop_map(Some), 1 => Just(None)];
    (first, payload, key).prop_map(|(first, mut payload, key)| {
        let header = FrameHeader {
            mask: key,
            ..FrameHeader::new(Opcode::Binary, payload.len())
        };
        let mut out = [0; HEADER_MAX];
        let size = header.encode(&mut out);
        out[0] = first;
        apply_mask(&mut payload, key.unwrap_or_default());
        [&out[..size], &payload].concat()
    })
}

/// Text cut anywhere into frames, with control frames in between.
fn text_in_fragments() -> impl Strategy<Value = (String, Vec<u8>)> {
    let cuts = vec((any::<prop::sample::Index>(), any::<bool>()), 0..6);
    ("\\PC{0,30}", cuts, any::<[u8; 4]>()).prop_map(|(text, cuts, key)| {
        let mut cuts: Vec<_> = cuts
            .into_iter()
            .map(|(at, ping)| (at.index(text.len() + 1), ping))
            .collect();
        cuts.sort_unstable();
        cuts.push((text.len(), false));
        let (mut stream, mut from, last) = (Vec::new(), 0, cuts.len() - 1);
        for (i, (upto, ping)) in cuts.into_iter().enumerate() {
            let part = &text.as_bytes()[from..upto];
            from = upto;
            let opcode = if i == 0 {
                Opcode::Text
            } else {
                Opcode::Continuation
            };
            let mut header = FrameHeader::new(opcode, part.len()).masked(key);
            header.fin = i == last;
            push(&mut stream, header, part, key);
            if ping {
                push(
                    &mut stream,
                    FrameHeader::new(Opcode::Ping, 1).masked(key),
                    b"?",
                    key,
                );
            }
        }
        (text, stream)
    })
}

fn push(stream: &mut Vec<u8>, header: FrameHeader, payload: &[u8], key: [u8; 4]) {
    let mut out = [0; HEADER_MAX];
    let size = header.encode(&mut out);
    stream.extend_from_slice(&out[..size]);
    let begin = stream.len();
    stream.extend_from_slice(payload);
    apply_mask(&mut stream[begin..], key);
}

proptest! {
    #[test]
    fn what_was_sent_is_received(
        (text, stream) in text_in_fragments(),
        sizes in vec(0..9_u8, 0..5),
    ) {
        let input = [&[0, sizes.len() as u8], &sizes[..], &stream].concat();
        properties::check(&input);
        let story = properties::model(0, &stream);
        prop_assert_eq!(story.error, None);
        let messages = story.seen.into_iter().filter_map(|seen| match seen {
            Seen::Message { bytes, whole: true, .. } => Some(bytes),
            _ => None,
        });
        prop_assert_eq!(messages.collect::<Vec<_>>(), vec![text.into_bytes()]);
    }

    #[test]
    fn hostile_streams_in_any_reads_hold_the_fuzz_properties(
        setup in 0..16_u8,
        sizes in vec(any::<u8>(), 0..6),
        frames in vec(frame(), 0..8),
    ) {
        let stream = frames.concat();
        properties::check(&[&[setup, sizes.len() as u8], &sizes[..], &stream[..]].concat());
    }

    #[test]
    fn garbage_holds_the_fuzz_properties(input in vec(any::<u8>(), 0..600)) {
        properties::check(&input);
    }

    #[test]
    fn text_of_http_holds_the_fuzz_properties(
        sizes in vec(any::<u8>(), 0..6),
        lines in vec("(GET /ws HTTP/1.1|HTTP/1.1 101 x|Host: h|[ -~]{0,40})\r\n", 0..9),
    ) {
        let stream = lines.concat();
        properties::check(&[&[0, sizes.len() as u8], &sizes[..], stream.as_bytes()].concat());
    }
}

//! The decoder and the headers, on the vectors of RFC 6455 and on what nobody should send.

use super::*;

/// The masking key of the examples.
const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// What a stream says: parts joined, however they were cut.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Text(Vec<u8>),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<CloseCode>, Vec<u8>),
}

fn text(text: &str) -> Seen {
    Seen::Text(text.into())
}

/// Decodes what arrives in reads that end at `cuts`; panics where a promise is broken.
fn seen(
    decoder: &mut Decoder,
    stream: &[u8],
    cuts: &[usize],
) -> (Vec<Seen>, Option<ProtocolError>) {
    let (mut all, mut message, mut buffer) = (Vec::new(), None, Vec::new());
    let mut from = 0;
    for upto in cuts.iter().copied().chain([stream.len()]) {
        buffer.extend_from_slice(&stream[from..upto]);
        from = upto;
        loop {
            let consumed = match decoder.decode(&mut buffer) {
                Err(error) => return (all, Some(error)),
                Ok(Decoded::Incomplete { needs }) => {
                    assert!(needs > buffer.len() && needs <= HEADER_MAX + CONTROL_MAX);
                    break;
                }
                Ok(Decoded::Data(data)) => {
                    assert_eq!(data.first, message.is_none());
                    let bytes = message.get_or_insert_with(Vec::new);
                    bytes.extend_from_slice(&buffer[data.body.clone()]);
                    if data.last {
                        let whole = message.take().unwrap_or_default();
                        all.push(if data.text {
                            Seen::Text(whole)
                        } else {
                            Seen::Binary(whole)
                        });
                    }
                    data.body.end
                }
                Ok(Decoded::Ping { body }) => {
                    all.push(Seen::Ping(buffer[body.clone()].to_vec()));
                    body.end
                }
                Ok(Decoded::Pong { body }) => {
                    all.push(Seen::Pong(buffer[body.clone()].to_vec()));
                    body.end
                }
                Ok(Decoded::Close { code, reason }) => {
                    all.push(Seen::Close(code, buffer[reason.clone()].to_vec()));
                    reason.end
                }
            };
            buffer.drain(..consumed);
        }
    }
    (all, None)
}

fn server() -> Decoder {
    Decoder::new(Role::Server, DecoderLimits::default())
}

fn client() -> Decoder {
    Decoder::new(Role::Client, DecoderLimits::default())
}

/// A frame by hand: first byte, and payload masked for a server.
fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut header = [0; HEADER_MAX];
    let len = FrameHeader::new(Opcode::Binary, payload.len())
        .masked(KEY)
        .encode(&mut header);
    let mut frame = header[..len].to_vec();
    frame[0] = first;
    let begin = frame.len();
    frame.extend_from_slice(payload);
    apply_mask(&mut frame[begin..], KEY);
    frame
}

/// However the stream is cut in two or byte by byte, it says the same.
#[track_caller]
fn at_every_cut(decoder: &Decoder, stream: &[u8]) -> (Vec<Seen>, Option<ProtocolError>) {
    let whole = seen(&mut decoder.clone(), stream, &[]);
    for cut in 0..=stream.len() {
        assert_eq!(
            seen(&mut decoder.clone(), stream, &[cut]),
            whole,
            "cut at {cut}"
        );
    }
    let bytes: Vec<usize> = (0..stream.len()).collect();
    assert_eq!(
        seen(&mut decoder.clone(), stream, &bytes),
        whole,
        "byte by byte"
    );
    let mut pairs = stream.chunks(2).map(<[u8]>::len);
    let pairs: Vec<usize> =
        std::iter::successors(pairs.next(), |at| pairs.next().map(|len| at + len)).collect();
    assert_eq!(
        seen(&mut decoder.clone(), stream, &pairs),
        whole,
        "two by two"
    );
    whole
}

/// RFC 6455 §5.7, in its order.
#[test]
fn the_examples_of_the_standard() {
    let hello = [0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f];
    assert_eq!(at_every_cut(&client(), &hello), (vec![text("Hello")], None));

    let hello = [
        0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58,
    ];
    assert_eq!(at_every_cut(&server(), &hello), (vec![text("Hello")], None));

    let fragmented = [0x01, 0x03, 0x48, 0x65, 0x6c, 0x80, 0x02, 0x6c, 0x6f];
    assert_eq!(
        at_every_cut(&client(), &fragmented),
        (vec![text("Hello")], None)
    );

    let ping = [0x89, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f];
    assert_eq!(
        at_every_cut(&client(), &ping),
        (vec![Seen::Ping(b"Hello".into())], None)
    );
    let pong = [
        0x8a, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58,
    ];
    assert_eq!(
        at_every_cut(&server(), &pong),
        (vec![Seen::Pong(b"Hello".into())], None)
    );

    let body = vec![0xA5; 256];
    let stream = [&[0x82, 0x7E, 0x01, 0x00][..], &body].concat();
    assert_eq!(
        at_every_cut(&client(), &stream),
        (vec![Seen::Binary(body)], None)
    );
    let body = vec![0x5A; 65536];
    let stream = [&[0x82, 0x7F, 0, 0, 0, 0, 0, 1, 0, 0][..], &body].concat();
    for cut in [0, 1, 2, 9, 10, 11, 40_000, stream.len()] {
        let whole = (vec![Seen::Binary(body.clone())], None);
        assert_eq!(seen(&mut client(), &stream, &[cut]), whole);
    }
}

#[test]
fn control_frames_come_between_fragments() {
    let stream = [
        masked(0x01, "舞".as_bytes()),
        masked(0x89, b"still there?"),
        masked(0x00, &"台".as_bytes()[..1]),
        masked(0x8a, b""),
        masked(0x80, &"台".as_bytes()[1..]),
        masked(0x88, b"\x03\xe8bye"),
    ]
    .concat();
    let (all, error) = at_every_cut(&server(), &stream);
    let expected = vec![
        Seen::Ping(b"still there?".into()),
        Seen::Pong(vec![]),
        text("舞台"),
        Seen::Close(Some(CloseCode::NORMAL), b"bye".into()),
    ];
    assert_eq!((all, error), (expected, None));
}

#[test]
fn empty_messages_and_fragments_are_legal() {
    let stream = [
        masked(0x81, b""),
        masked(0x02, b""),
        masked(0x00, b""),
        masked(0x80, b""),
        masked(0x88, b""),
    ]
    .concat();
    let expected = vec![text(""), Seen::Binary(vec![]), Seen::Close(None, vec![])];
    assert_eq!(at_every_cut(&server(), &stream), (expected, None));
}

#[test]
fn every_broken_rule_has_its_name() {
    use ProtocolError as E;
    let refused = |decoder: &Decoder, stream: &[u8]| at_every_cut(decoder, stream).1;
    let to_server = |first, payload: &[u8]| refused(&server(), &masked(first, payload));
    for bits in 1..8 {
        assert_eq!(
            to_server(0x82 | bits << 4, b"x"),
            Some(E::ReservedBits(bits))
        );
        assert_eq!(
            to_server(0x89 | bits << 4, b"x"),
            Some(E::ReservedBits(bits))
        );
    }
    for opcode in [0x3, 0x4, 0x5, 0x6, 0x7, 0xB, 0xC, 0xD, 0xE, 0xF] {
        assert_eq!(
            to_server(0x80 | opcode, b""),
            Some(E::UnknownOpcode(opcode))
        );
    }
    assert_eq!(refused(&server(), &[0x82, 0x01, 0]), Some(E::NotMasked));
    assert_eq!(refused(&client(), &masked(0x82, b"x")), Some(E::Masked));
    for opcode in [0x8, 0x9, 0xA] {
        assert_eq!(to_server(opcode, b""), Some(E::ControlFragmented));
        assert_eq!(to_server(0x80 | opcode, &[0; 126]), Some(E::ControlTooLong));
        assert_eq!(
            to_server(0x80 | opcode, &[0; 70_000]),
            Some(E::ControlTooLong)
        );
    }
    assert_eq!(to_server(0x80, b"x"), Some(E::NothingToContinue));
    let twice = [masked(0x01, b"a"), masked(0x81, b"b")].concat();
    assert_eq!(refused(&server(), &twice), Some(E::MessageNotFinished));
    let after = [masked(0x88, b""), masked(0x89, b"")].concat();
    assert_eq!(refused(&server(), &after), Some(E::AfterClose));

    assert_eq!(to_server(0x88, &[3]), Some(E::CloseTooShort));
    for code in [0_u16, 999, 1004, 1005, 1006, 1015, 2999, 5000] {
        let expected = Some(E::CloseCode(CloseCode(code)));
        assert_eq!(to_server(0x88, &code.to_be_bytes()), expected);
    }
    assert_eq!(
        to_server(0x88, &[0x03, 0xe8, 0xff]),
        Some(E::CloseReasonNotUtf8)
    );
}

#[test]
fn lengths_are_of_the_shortest_form_and_below_two_to_the_63() {
    use ProtocolError as E;
    let long = |len: u64| [&[0x82, 0x7F][..], &len.to_be_bytes()].concat();
    let short = |len: u16| [&[0x82, 0x7E][..], &len.to_be_bytes()].concat();
    for announced in [0, 1, 125] {
        let error = Some(E::LengthNotMinimal {
            announced: announced.into(),
        });
        assert_eq!(at_every_cut(&client(), &short(announced)).1, error);
    }
    for announced in [0, 125, 126, 65_535] {
        let error = Some(E::LengthNotMinimal { announced });
        assert_eq!(at_every_cut(&client(), &long(announced)).1, error);
    }
    for announced in [1 << 63, 1 << 63 | 5, u64::MAX] {
        assert_eq!(
            at_every_cut(&client(), &long(announced)).1,
            Some(E::LengthTopBit)
        );
    }
    let limit = DecoderLimits::default().frame_max;
    for announced in [limit as u64 + 1, u64::from(u32::MAX), (1 << 63) - 1] {
        let error = Some(E::FrameTooLong { announced, limit });
        assert_eq!(at_every_cut(&client(), &long(announced)).1, error);
    }
    // As much as the address space can hold: nothing overflows, nothing is allocated.
    let all = DecoderLimits::default().message_max(usize::MAX);
    let mut decoder = Decoder::new(Role::Client, all);
    let mut bytes = [long((1 << 63) - 1), vec![7]].concat();
    let unmasked = bytes.clone();
    assert!(matches!(
        decoder.decode_whole(&unmasked),
        Ok(Decoded::Incomplete { .. })
    ));
    assert_eq!(unmask_whole(&mut bytes), 0);
    let Ok(Decoded::Data(data)) = decoder.decode(&mut bytes) else {
        panic!("a part");
    };
    assert_eq!((data.body, data.last), (10..11, false));
    assert_eq!(decoder.frame_left(), (1 << 63) - 2);
}

#[test]
fn limits_are_met_and_not_passed() {
    use ProtocolError as E;
    let limits = DecoderLimits::default().message_max(10).frame_max(6);
    let decoder = Decoder::new(Role::Server, limits.fragments_max(3).control_frames_max(2));
    let stream = |parts: &[(u8, usize)]| -> Vec<u8> {
        parts
            .iter()
            .flat_map(|&(first, len)| masked(first, &vec![b'x'; len]))
            .collect()
    };
    let refused = |parts: &[(u8, usize)]| at_every_cut(&decoder, &stream(parts)).1;
    assert_eq!(
        refused(&[
            (0x82, 6),
            (0x01, 6),
            (0x80, 4),
            (0x02, 1),
            (0x00, 1),
            (0x80, 1)
        ]),
        None
    );
    let (announced, limit) = (7, 6);
    assert_eq!(
        refused(&[(0x82, 7)]),
        Some(E::FrameTooLong { announced, limit })
    );
    let (announced, limit) = (11, 10);
    let error = E::MessageTooLong { announced, limit };
    assert_eq!(refused(&[(0x02, 6), (0x80, 5)]), Some(error));
    assert_eq!(error.close_code(), CloseCode::TOO_BIG);
    let limit = 3;
    let fragments = [(0x02, 0), (0x00, 0), (0x00, 0), (0x80, 0)];
    assert_eq!(refused(&fragments), Some(E::TooManyFragments { limit }));
    let limit = 2;
    let error = Some(E::TooManyControlFrames { limit });
    assert_eq!(refused(&[(0x89, 0), (0x8a, 0), (0x89, 0)]), error);
    assert_eq!(
        refused(&[(0x89, 0), (0x8a, 0), (0x82, 0), (0x89, 0), (0x8a, 0)]),
        None
    );
    assert_eq!(
        refused(&[(0x89, 0), (0x8a, 0), (0x88, 0)]),
        None,
        "a close is always heard"
    );

    let mut patient = decoder.clone();
    for _ in 0..10 {
        assert_eq!(
            seen(&mut patient, &stream(&[(0x89, 0), (0x89, 0)]), &[]).1,
            None
        );
        patient.forget_control_frames();
    }
}

#[test]
fn bad_text_is_refused_with_its_first_bad_byte() {
    // U+110000 in the middle of the second of three frames.
    let stream = [
        masked(0x01, "κόσμε".as_bytes()),
        masked(0x00, b"\xf4\x90\x80\x80"),
        masked(0x80, b"edited"),
    ]
    .concat();
    let bad_at = masked(0x01, "κόσμε".as_bytes()).len() + 6 + 2;
    let error = Some(ProtocolError::TextNotUtf8);
    assert_eq!(at_every_cut(&server(), &stream), (vec![], error));
    assert_eq!(seen(&mut server(), &stream[..bad_at - 1], &[]).1, None);
    assert_eq!(seen(&mut server(), &stream[..bad_at], &[]).1, error);
    assert_eq!(
        error.map(|error| error.close_code()),
        Some(CloseCode::INVALID_DATA)
    );
    // An incomplete character at the end, alone and in the last of several.
    for stream in [
        masked(0x81, b"\xce"),
        [masked(0x01, b"a\xce"), masked(0x80, b"")].concat(),
    ] {
        assert_eq!(at_every_cut(&server(), &stream), (vec![], error));
    }
    // Binary may be anything, text after it begins anew.
    let stream = [masked(0x82, b"\xce"), masked(0x81, b"ok")].concat();
    let expected = vec![Seen::Binary(vec![0xce]), text("ok")];
    assert_eq!(at_every_cut(&server(), &stream), (expected, None));
}

#[test]
fn negotiated_bits_are_for_first_frames_of_messages() {
    let decoder = server().allow_reserved(0x4);
    // Compressed text is not UTF-8 before it is inflated.
    let stream = [masked(0x41, b"\xff"), masked(0x80, b"\xfe")].concat();
    let expected = (vec![Seen::Text(vec![0xff, 0xfe])], None);
    assert_eq!(at_every_cut(&decoder, &stream), expected);
    let error = Some(ProtocolError::ReservedBits(0x4));
    let stream = [masked(0x41, b"\xff"), masked(0xc0, b"\xfe")].concat();
    assert_eq!(at_every_cut(&decoder, &stream).1, error);
    assert_eq!(at_every_cut(&decoder, &masked(0xc9, b"")).1, error);
    let error = Some(ProtocolError::ReservedBits(0x2));
    assert_eq!(at_every_cut(&decoder, &masked(0xe2, b"")).1, error);
}

#[test]
fn unmasking_ahead_is_harmless() {
    let frames = [
        masked(0x82, b"first"),
        masked(0x89, b"ping"),
        masked(0x01, b"te"),
        masked(0x80, b"xt"),
    ];
    let cut = masked(0x82, b"cut off")[..9].to_vec();
    let mut bytes = [frames.concat(), cut.clone()].concat();
    let whole = bytes.len() - cut.len();
    assert_eq!(unmask_whole(&mut bytes), whole);
    assert_eq!(bytes[whole..], cut, "what is not whole stays as it is");
    assert_eq!(bytes[2..6], [0; 4]);
    let again = bytes.clone();
    assert_eq!(unmask_whole(&mut bytes), whole);
    assert_eq!(bytes, again);

    let mut decoder = server();
    let mut at = 0;
    let mut bodies = Vec::new();
    let needs = loop {
        let body = match decoder.decode_whole(&bytes[at..]) {
            Ok(Decoded::Data(Data { body, .. }) | Decoded::Ping { body }) => body,
            Ok(Decoded::Incomplete { needs }) => break needs,
            other => panic!("{other:?}"),
        };
        bodies.push(bytes[at..][body.clone()].to_vec());
        at += body.end;
    };
    assert_eq!(bodies, [&b"first"[..], b"ping", b"te", b"xt"]);
    assert_eq!((at, needs), (whole, 6 + 7));
    assert!(decoder.is_between_messages());
    // The rest is decoded where it may be written to, from the same state.
    let rest = &mut bytes[whole..];
    let Ok(Decoded::Data(data)) = decoder.decode(rest) else {
        panic!("a part");
    };
    assert_eq!(&rest[data.body], b"cut");
    // While a frame is under way, what comes is its payload, whatever it looks like.
    let mut looks_like_a_frame = masked(0x82, b"x");
    unmask_whole(&mut looks_like_a_frame);
    let needs = looks_like_a_frame.len() + 1;
    let incomplete = Ok(Decoded::Incomplete { needs });
    assert_eq!(decoder.decode_whole(&looks_like_a_frame), incomplete);
}

#[test]
fn headers_are_read_as_they_are_written() {
    for len in [0, 1, 125, 126, 127, 65_535, 65_536, 1 << 32] {
        for mask in [None, Some(KEY)] {
            for opcode in (0..16).filter_map(Opcode::from_u8) {
                let header = FrameHeader {
                    fin: len % 2 == 0,
                    reserved: 5,
                    opcode,
                    mask,
                    len: len as u64,
                };
                let mut out = [0; HEADER_MAX];
                let size = header.encode(&mut out);
                assert_eq!(size, FrameHeader::encoded_len(len, mask.is_some()));
                assert_eq!(FrameHeader::decode(&out[..size]), Ok(Some((header, size))));
                for cut in 0..size {
                    assert_eq!(FrameHeader::decode(&out[..cut]), Ok(None));
                    let needs = FrameHeader::needs(&out[..cut]);
                    assert!(needs > cut && needs <= size);
                }
            }
        }
    }
}

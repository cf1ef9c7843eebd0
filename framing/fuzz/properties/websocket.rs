//! What must hold of the WebSocket codec for any bytes whatever. One copy of this code is run by
//! the fuzz target, by the replay of its corpus and by proptest.
//!
//! An input is read as
//!
//! ```text
//! setup u8 | n u8 | n × read size u8 | stream
//! ```
//!
//! `setup` bit 0 is the role (0 server, 1 client), bits 1–2 choose the limits from [`limits`],
//! bit 3 allows RSV1. The stream arrives in reads of `size + 1` bytes, the sizes taken in turn,
//! again and again; with `n` = 0 it arrives at once. It is decoded as frames, and parsed as a
//! request and as a response.

use proscenium_framing::websocket::handshake::{HandshakeLimits, Opening, Policy, Request};
use proscenium_framing::websocket::{
    CloseCode, Decoded, Decoder, DecoderLimits, FrameHeader, HEADER_MAX, ProtocolError, Role,
    unmask_whole,
};

/// The limits that an input can choose.
pub(crate) fn limits(choice: u8) -> DecoderLimits {
    let limits = DecoderLimits::default();
    match choice & 3 {
        0 => limits,
        1 => limits.message_max(16).frame_max(8).fragments_max(3),
        2 => limits.control_frames_max(1),
        _ => limits.message_max(usize::MAX),
    }
}

/// What a stream says, however it is cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// A whole message, or one that the stream leaves unfinished.
    Message {
        text: bool,
        reserved: u8,
        bytes: Vec<u8>,
        whole: bool,
    },
    /// Opcode and payload; `at`: after so many bytes of the message under way.
    Control {
        opcode: u8,
        body: Vec<u8>,
        at: usize,
    },
}

/// All that a stream says, and how it fails.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Story {
    pub(crate) seen: Vec<Seen>,
    pub(crate) error: Option<ProtocolError>,
}

/// Panics if the codec breaks a promise on this input.
pub(crate) fn check(input: &[u8]) {
    let Some((decoder, sizes, stream)) = read(input) else {
        return;
    };
    let expected = model(input[0], stream);
    assert_eq!(at_once(decoder.clone(), stream), expected, "at once");
    assert_eq!(
        in_reads(decoder.clone(), stream, sizes),
        expected,
        "in reads {sizes:?}"
    );
    assert_eq!(
        in_reads(decoder.clone(), stream, &[0]),
        expected,
        "byte by byte"
    );
    assert_eq!(shared(decoder, stream), expected, "unmasked ahead");
    headers_again(stream);
    handshakes(stream, sizes);
}

/// The parts of an input.
fn read(input: &[u8]) -> Option<(Decoder, &[u8], &[u8])> {
    let [setup, n, rest @ ..] = input else {
        return None;
    };
    let (sizes, stream) = rest.split_at(rest.len().min(usize::from(*n)));
    let role = if setup & 1 == 0 {
        Role::Server
    } else {
        Role::Client
    };
    let decoder = Decoder::new(role, limits(setup >> 1)).allow_reserved(setup >> 1 & 4);
    Some((decoder, sizes, stream))
}

/// The protocol written down a second time, in the plainest way.
pub(crate) fn model(setup: u8, stream: &[u8]) -> Story {
    let (masked, limits) = (setup & 1 == 0, limits(setup >> 1));
    let rsv1 = if setup & 8 != 0 { 0x40 } else { 0 };
    let mut story = Story::default();
    // The message under way: text, reserved bits, bytes, frames.
    let mut message: Option<(bool, u8, Vec<u8>, u32)> = None;
    let (mut at, mut controls, mut closed) = (0, 0, false);
    story.error = 'stream: {
        let fail = |error| Some(error);
        while at < stream.len() {
            let first = stream[at];
            let opcode = first & 15;
            if closed {
                break 'stream fail(ProtocolError::AfterClose);
            }
            if !matches!(opcode, 0..=2 | 8..=10) {
                break 'stream fail(ProtocolError::UnknownOpcode(opcode));
            }
            let allowed = if matches!(opcode, 1 | 2) { rsv1 } else { 0 };
            if first & 0x70 & !allowed != 0 {
                break 'stream fail(ProtocolError::ReservedBits((first & 0x70 & !allowed) >> 4));
            }
            match (opcode >= 8, opcode == 0, message.is_some()) {
                (true, ..) if first < 0x80 => break 'stream fail(ProtocolError::ControlFragmented),
                (false, true, false) => break 'stream fail(ProtocolError::NothingToContinue),
                (false, false, true) => break 'stream fail(ProtocolError::MessageNotFinished),
                _ => {}
            }
            let Some(second) = stream.get(at + 1) else {
                break;
            };
            if masked != (second & 0x80 != 0) {
                let error = if masked {
                    ProtocolError::NotMasked
                } else {
                    ProtocolError::Masked
                };
                break 'stream fail(error);
            }
            let (mut len, mut header) = (u128::from(second & 0x7f), 2);
            if opcode >= 8 && len > 125 {
                break 'stream fail(ProtocolError::ControlTooLong);
            }
            if len > 125 {
                let width = if len == 126 { 2 } else { 8 };
                let least: u128 = if width == 2 { 126 } else { 65_536 };
                header += width;
                let Some(field) = stream.get(at + 2..at + header) else {
                    break;
                };
                len = field
                    .iter()
                    .fold(0, |sum, byte| sum * 256 + u128::from(*byte));
                if len >= 1 << 63 {
                    break 'stream fail(ProtocolError::LengthTopBit);
                }
                if len < least {
                    let announced = len as u64;
                    break 'stream fail(ProtocolError::LengthNotMinimal { announced });
                }
            }
            let mut key = [0; 4];
            if masked {
                let Some(bytes) = stream.get(at + header..at + header + 4) else {
                    break;
                };
                key.copy_from_slice(bytes);
                header += 4;
            }
            let payload: Vec<u8> = stream[at + header..]
                .iter()
                .take(len.min(stream.len() as u128) as usize)
                .enumerate()
                .map(|(i, byte)| byte ^ key[i % 4])
                .collect();
            let whole = payload.len() as u128 == len;
            if opcode >= 8 {
                if !whole {
                    break;
                }
                controls += 1;
                if controls > limits.control_frames_max && opcode != 8 {
                    let limit = limits.control_frames_max;
                    break 'stream fail(ProtocolError::TooManyControlFrames { limit });
                }
                if opcode == 8 {
                    if let Err(error) = close(&payload) {
                        break 'stream fail(error);
                    }
                    closed = true;
                }
                let under_way = message.as_ref().map_or(0, |message| message.2.len());
                let (body, at) = (payload, under_way);
                story.seen.push(Seen::Control { opcode, body, at });
            } else {
                if let Err(error) = within(&limits, &message, len) {
                    break 'stream fail(error);
                }
                controls = 0;
                let fresh = (opcode == 1, first >> 4 & 7, Vec::new(), 0);
                let (text, reserved, bytes, frames) = message.get_or_insert(fresh);
                *frames += 1;
                if *frames > limits.fragments_max {
                    let limit = limits.fragments_max;
                    break 'stream fail(ProtocolError::TooManyFragments { limit });
                }
                bytes.extend_from_slice(&payload);
                let last = whole && first >= 0x80;
                if *text && *reserved == 0 && !may_be_text(bytes, last) {
                    break 'stream fail(ProtocolError::TextNotUtf8);
                }
                if last {
                    let (text, reserved, bytes) = (*text, *reserved, std::mem::take(bytes));
                    let whole = true;
                    story.seen.push(Seen::Message {
                        text,
                        reserved,
                        bytes,
                        whole,
                    });
                    message = None;
                }
            }
            if !whole {
                break;
            }
            at += header + payload_len(len);
        }
        None
    };
    if let (None, Some((text, reserved, bytes, _))) = (story.error, message) {
        let whole = false;
        story.seen.push(Seen::Message {
            text,
            reserved,
            bytes,
            whole,
        });
    }
    story
}

/// Of a frame that is whole in memory.
fn payload_len(len: u128) -> usize {
    usize::try_from(len).expect("it is in memory")
}

fn within(
    limits: &DecoderLimits,
    message: &Option<(bool, u8, Vec<u8>, u32)>,
    len: u128,
) -> Result<(), ProtocolError> {
    let (announced, limit) = (len as u64, limits.frame_max);
    if len > limit as u128 {
        return Err(ProtocolError::FrameTooLong { announced, limit });
    }
    // Frames before the last one are whole: their bytes are there.
    let before = message
        .as_ref()
        .map_or(0, |message| message.2.len() as u128);
    let (announced, limit) = ((before + len) as u64, limits.message_max);
    if before + len > limit as u128 {
        return Err(ProtocolError::MessageTooLong { announced, limit });
    }
    Ok(())
}

fn may_be_text(bytes: &[u8], ended: bool) -> bool {
    match std::str::from_utf8(bytes) {
        Ok(_) => true,
        Err(error) => !ended && error.error_len().is_none(),
    }
}

fn close(payload: &[u8]) -> Result<(), ProtocolError> {
    match payload {
        [] => Ok(()),
        [_] => Err(ProtocolError::CloseTooShort),
        [a, b, reason @ ..] => {
            let code = u16::from(*a) << 8 | u16::from(*b);
            match code {
                1000..=1003 | 1007..=1014 | 3000..=4999 => {}
                _ => return Err(ProtocolError::CloseCode(CloseCode(code))),
            }
            match String::from_utf8(reason.to_vec()) {
                Ok(_) => Ok(()),
                Err(_) => Err(ProtocolError::CloseReasonNotUtf8),
            }
        }
    }
}

/// Puts together what a decoder says.
#[derive(Default)]
struct Reader {
    story: Story,
    message: Option<(bool, u8, Vec<u8>)>,
}

impl Reader {
    /// What was decoded at the front of `bytes`; returns how many of them it took.
    fn take(&mut self, decoded: Decoded, bytes: &[u8]) -> usize {
        let at = self.message.as_ref().map_or(0, |message| message.2.len());
        let (opcode, body, end) = match decoded {
            Decoded::Incomplete { .. } => unreachable!("handled by the caller"),
            Decoded::Data(data) => {
                let fresh = || (data.text, data.reserved, Vec::new());
                assert_eq!(data.first, self.message.is_none());
                let message = self.message.get_or_insert_with(fresh);
                assert_eq!((message.0, message.1), (data.text, data.reserved));
                message.2.extend_from_slice(&bytes[data.body.clone()]);
                if data.last {
                    self.end(true);
                }
                return data.body.end;
            }
            Decoded::Ping { body } => (9, bytes[body.clone()].to_vec(), body.end),
            Decoded::Pong { body } => (10, bytes[body.clone()].to_vec(), body.end),
            Decoded::Close { code, reason } => {
                let code = code.map(|code| code.0.to_be_bytes()).into_iter().flatten();
                let body = code.chain(bytes[reason.clone()].iter().copied()).collect();
                (8, body, reason.end)
            }
        };
        self.story.seen.push(Seen::Control { opcode, body, at });
        end
    }

    fn end(&mut self, whole: bool) {
        if let Some((text, reserved, bytes)) = self.message.take() {
            let seen = Seen::Message {
                text,
                reserved,
                bytes,
                whole,
            };
            self.story.seen.push(seen);
        }
    }

    fn ended(mut self, error: Option<ProtocolError>) -> Story {
        if error.is_none() {
            self.end(false);
        }
        self.story.error = error;
        self.story
    }
}

fn at_once(mut decoder: Decoder, stream: &[u8]) -> Story {
    let mut buffer = stream.to_vec();
    let (mut reader, mut at) = (Reader::default(), 0);
    loop {
        match decoder.decode(&mut buffer[at..]) {
            Err(error) => return reader.ended(Some(error)),
            Ok(Decoded::Incomplete { needs }) => {
                assert!(needs > buffer.len() - at && needs <= 125 + HEADER_MAX);
                return reader.ended(None);
            }
            Ok(decoded) => at += reader.take(decoded, &buffer[at..]),
        }
    }
}

/// Any way of cutting the stream into reads says the same.
fn in_reads(mut decoder: Decoder, stream: &[u8], sizes: &[u8]) -> Story {
    let mut reader = Reader::default();
    let (mut buffer, mut arrived): (Vec<u8>, _) = (Vec::new(), 0);
    let mut sizes = sizes.iter().cycle();
    while arrived < stream.len() {
        let size = sizes
            .next()
            .map_or(stream.len(), |&size| usize::from(size) + 1);
        let upto = stream.len().min(arrived + size);
        buffer.extend_from_slice(&stream[arrived..upto]);
        arrived = upto;
        loop {
            match decoder.decode(&mut buffer) {
                Err(error) => return reader.ended(Some(error)),
                Ok(Decoded::Incomplete { needs }) => {
                    assert!(needs > buffer.len() && needs <= 125 + HEADER_MAX);
                    break;
                }
                Ok(decoded) => {
                    let taken = reader.take(decoded, &buffer);
                    assert!(taken > 0);
                    buffer.drain(..taken);
                }
            }
        }
    }
    reader.ended(None)
}

/// Whole frames unmasked ahead and read without writing, the rest in memory of its own.
fn shared(mut decoder: Decoder, stream: &[u8]) -> Story {
    let mut buffer = stream.to_vec();
    let whole = unmask_whole(&mut buffer);
    assert_eq!(buffer[whole..], stream[whole..]);
    let (mut reader, mut at) = (Reader::default(), 0);
    loop {
        match decoder.decode_whole(&buffer[at..]) {
            Err(error) => return reader.ended(Some(error)),
            Ok(Decoded::Incomplete { needs }) => {
                assert!(
                    needs > buffer.len() - at,
                    "{needs} of {}",
                    buffer.len() - at
                );
                break;
            }
            Ok(decoded) => at += reader.take(decoded, &buffer[at..]),
        }
    }
    assert_eq!(at, whole, "all that is whole was read");
    loop {
        match decoder.decode(&mut buffer[at..]) {
            Err(error) => return reader.ended(Some(error)),
            Ok(Decoded::Incomplete { .. }) => return reader.ended(None),
            Ok(decoded) => at += reader.take(decoded, &buffer[at..]),
        }
    }
}

/// There is one encoding: a header that was read is written as it was.
fn headers_again(stream: &[u8]) {
    for cut in 0..stream.len().min(64) {
        let Ok(Some((header, size))) = FrameHeader::decode(&stream[cut..]) else {
            continue;
        };
        let mut out = [0; HEADER_MAX];
        assert_eq!(header.encode(&mut out), size);
        assert_eq!(out[..size], stream[cut..cut + size]);
        assert_eq!(FrameHeader::needs(&stream[cut..]), size);
    }
}

/// A request is a request whatever follows it, and none before its end.
fn handshakes(stream: &[u8], sizes: &[u8]) {
    let limits = HandshakeLimits::default().bytes_max(512).headers_max(8);
    let opening = Opening::new("host", "/").expect("a plain path");
    let key = "dGhlIHNhbXBsZSBub25jZQ==";
    let request = |bytes: &[u8]| {
        Request::parse(bytes, &limits).map(|whole| {
            whole.map(|(request, taken)| {
                assert!(taken <= bytes.len() && taken <= 512);
                let answer = Policy::at("/ws").subprotocol("a").answer(&request);
                assert!(answer.bytes.starts_with("HTTP/1.1 "));
                assert_eq!(answer.refused.is_none(), answer.bytes.contains(" 101 "));
                (taken, answer)
            })
        })
    };
    let (asked, answered) = (request(stream), opening.response(stream, key, &limits));
    let mut cuts = sizes.iter().map(|&size| stream.len().min(size.into()));
    for cut in cuts.by_ref() {
        match request(&stream[..cut]) {
            Ok(None) => {}
            decided => assert_eq!(decided, asked, "cut at {cut}"),
        }
        match opening.response(&stream[..cut], key, &limits) {
            Ok(None) => {}
            decided => assert_eq!(decided, answered, "cut at {cut}"),
        }
    }
}

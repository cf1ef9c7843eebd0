//! What the next bytes of a WebSocket are: RFC 6455 §5.

use std::ops::Range;

use super::close::CloseCode;
use super::error::ProtocolError;
use super::frame::{CONTROL_MAX, FrameHeader, Opcode};
use super::mask::{advance, apply_mask};
use super::utf8::{NotUtf8, Utf8};

/// Which end of the connection decodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// The end that accepted: what it receives is masked, what it sends is not (§5.1).
    Server,
    /// The end that connected: what it sends is masked, what it receives is not (§5.1).
    Client,
}

/// How much of a peer's traffic is taken.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecoderLimits {
    /// Bytes of payload of a frame. 2 MiB.
    pub frame_max: usize,
    /// Bytes of payload of a message, all its frames together. 2 MiB.
    pub message_max: usize,
    /// Frames of a message. 16,384.
    pub fragments_max: u32,
    /// Control frames between two data frames, or two calls of
    /// [`Decoder::forget_control_frames`]. 1,024.
    pub control_frames_max: u32,
}

impl DecoderLimits {
    /// These limits with messages, and frames, of at most so many bytes.
    #[must_use]
    pub const fn message_max(self, bytes: usize) -> Self {
        Self {
            frame_max: bytes,
            message_max: bytes,
            ..self
        }
    }

    /// These limits with frames of at most so many bytes.
    #[must_use]
    pub const fn frame_max(self, bytes: usize) -> Self {
        Self {
            frame_max: bytes,
            ..self
        }
    }

    /// These limits with messages of at most so many frames.
    #[must_use]
    pub const fn fragments_max(self, frames: u32) -> Self {
        Self {
            fragments_max: frames,
            ..self
        }
    }

    /// These limits with at most so many control frames in a row.
    #[must_use]
    pub const fn control_frames_max(self, frames: u32) -> Self {
        Self {
            control_frames_max: frames,
            ..self
        }
    }
}

impl Default for DecoderLimits {
    fn default() -> Self {
        Self {
            frame_max: 2 * 1024 * 1024,
            message_max: 2 * 1024 * 1024,
            fragments_max: 16 * 1024,
            control_frames_max: 1024,
        }
    }
}

/// What [`Decoder::decode`] found at the front of its input. A `body` is a range of the input,
/// and its end is how many bytes of the input were taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// Nothing yet: an ordinary state of a stream, not an error.
    Incomplete {
        /// Bytes that have to be there in all, from the front of the input, before looking again
        /// is worthwhile. Always more than there are. Of data frames no more than the header is
        /// asked for; whole control frames are.
        needs: usize,
    },
    /// A message, or a part of one.
    Data(Data),
    /// A ping: answer with a pong of the same body (§5.5.2).
    Ping {
        /// At most 125 bytes.
        body: Range<usize>,
    },
    /// A pong, asked for or not (§5.5.3).
    Pong {
        /// At most 125 bytes.
        body: Range<usize>,
    },
    /// The peer's last frame (§5.5.1): answer with a close frame unless one was sent.
    Close {
        /// Why, if the peer says.
        code: Option<CloseCode>,
        /// The reason in words, UTF-8, for people and logs; at most 123 bytes.
        reason: Range<usize>,
    },
}

/// A message, or a part of one: of what one frame holds, as much as has arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Data {
    /// True if the message is text; then its parts so far are valid UTF-8, as far as they go.
    pub text: bool,
    /// True for the first part of a message.
    pub first: bool,
    /// True for the last part of a message.
    pub last: bool,
    /// The reserved bits of the message's first frame (see [`FrameHeader::reserved`]).
    pub reserved: u8,
    /// The part, unmasked.
    pub body: Range<usize>,
}

impl Data {
    /// True for a whole message.
    #[inline]
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        self.first && self.last
    }
}

/// The frame whose payload is arriving.
#[derive(Clone, Copy, Debug)]
struct Frame {
    /// Bytes of payload still to come.
    left: u64,
    /// For the next of them.
    key: [u8; 4],
    fin: bool,
}

/// The message whose frames are arriving.
#[derive(Clone, Copy, Debug)]
struct Message {
    text: bool,
    reserved: u8,
    /// True while no part of it was reported.
    unreported: bool,
    /// Bytes of payload that its frames have announced.
    announced: u64,
    fragments: u32,
}

/// Says what the next bytes of a connection are, and enforces the protocol and the limits.
///
/// It owns no buffer. Its caller keeps what has arrived, lets it look at the front, takes what
/// was consumed away. Payload of data frames is consumed as it arrives, in parts, so that a
/// caller never keeps more of a frame than it wants to; text is checked part by part, so that a
/// peer is refused at the first wrong byte. Frames that may come in between are reported in
/// between.
///
/// An error is final: the connection has to be closed with [`ProtocolError::close_code`].
///
/// ```
/// use proscenium_framing::websocket::{Decoded, Decoder, DecoderLimits, Role};
///
/// let mut decoder = Decoder::new(Role::Server, DecoderLimits::default());
/// // "Hello" as RFC 6455 §5.7 masks it, and the beginning of what follows.
/// let mut input = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58, 0x82];
/// let Decoded::Data(data) = decoder.decode(&mut input)? else { panic!() };
/// assert!(data.text && data.is_whole());
/// assert_eq!(&input[data.body.clone()], b"Hello");
/// let rest = &mut input[data.body.end..];
/// assert_eq!(decoder.decode(rest)?, Decoded::Incomplete { needs: 2 });
/// # Ok::<(), proscenium_framing::websocket::ProtocolError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Decoder {
    role: Role,
    /// Bits that an extension has given a meaning.
    reserved: u8,
    closed: bool,
    limits: DecoderLimits,
    frame: Option<Frame>,
    message: Option<Message>,
    utf8: Utf8,
    control_frames: u32,
}

impl Decoder {
    /// A decoder for `role`'s end of a connection whose handshake is done.
    #[must_use]
    pub const fn new(role: Role, limits: DecoderLimits) -> Self {
        Self {
            role,
            reserved: 0,
            closed: false,
            limits,
            frame: None,
            message: None,
            utf8: Utf8::new(),
            control_frames: 0,
        }
    }

    /// Allows reserved bits (RSV1 is 4) in the first frame of messages, because an extension was
    /// negotiated that uses them. The payload of such a message is the extension's: it is not
    /// checked to be UTF-8.
    #[must_use]
    pub const fn allow_reserved(self, bits: u8) -> Self {
        Self {
            reserved: bits,
            ..self
        }
    }

    /// True if nothing is under way: neither a frame nor a message of several.
    #[inline]
    #[must_use]
    pub const fn is_between_messages(&self) -> bool {
        self.frame.is_none() && self.message.is_none()
    }

    /// Payload bytes still to come of the frame under way.
    #[inline]
    #[must_use]
    pub fn frame_left(&self) -> u64 {
        self.frame.map_or(0, |frame| frame.left)
    }

    /// Begins anew to count control frames in a row. For a caller with a clock, so that pings on
    /// a connection without messages do not add up for ever.
    pub fn forget_control_frames(&mut self) {
        self.control_frames = 0;
    }

    /// Looks at the front of `bytes`, unmasks what it reports in place.
    ///
    /// # Errors
    /// [`ProtocolError`]: the connection is lost.
    pub fn decode(&mut self, bytes: &mut [u8]) -> Result<Decoded, ProtocolError> {
        if let Some(frame) = self.frame {
            return self.part(frame, 0, bytes);
        }
        let Some((header, begin)) = self.header(bytes)? else {
            let needs = FrameHeader::needs(bytes);
            return Ok(Decoded::Incomplete { needs });
        };
        if header.opcode.is_control() {
            let end = begin + header.len as usize; // at most 125
            let Some(body) = bytes.get_mut(begin..end) else {
                return Ok(Decoded::Incomplete { needs: end });
            };
            apply_mask(body, header.mask.unwrap_or_default());
            return self.control(header.opcode, bytes, begin..end);
        }
        self.begin_frame(&header)?;
        let frame = Frame {
            left: header.len,
            key: header.mask.unwrap_or_default(),
            fin: header.fin,
        };
        self.part(frame, begin, bytes)
    }

    /// Looks at the front of `bytes` without writing to them: reports frames that are whole and
    /// whose mask is none or zero, as [`unmask_whole`](super::unmask_whole) leaves them.
    /// Everything else is incomplete: give it to [`decode`](Self::decode) in memory of its own.
    ///
    /// # Errors
    /// [`ProtocolError`]: the connection is lost.
    #[inline]
    pub fn decode_whole(&mut self, bytes: &[u8]) -> Result<Decoded, ProtocolError> {
        if self.frame.is_some() {
            return Ok(Decoded::Incomplete {
                needs: bytes.len().saturating_add(1),
            });
        }
        let Some((header, begin)) = self.header(bytes)? else {
            let needs = FrameHeader::needs(bytes);
            return Ok(Decoded::Incomplete { needs });
        };
        let len = usize::try_from(header.len).unwrap_or(usize::MAX);
        let end = begin.saturating_add(len);
        let masked = header.mask.is_some_and(|key| key != [0; 4]);
        if end > bytes.len() || masked {
            let needs = end.max(bytes.len().saturating_add(1));
            return Ok(Decoded::Incomplete { needs });
        }
        if header.opcode.is_control() {
            return self.control(header.opcode, bytes, begin..end);
        }
        if header.fin && header.opcode == Opcode::Binary && self.message.is_none() {
            // What most frames are; the same as below, without the detour.
            self.control_frames = 0;
            return Ok(Decoded::Data(Data {
                text: false,
                first: true,
                last: true,
                reserved: header.reserved,
                body: begin..end,
            }));
        }
        self.begin_frame(&header)?;
        self.finish_part(header.fin, true, bytes, begin..end)
    }

    /// The header at the front of `bytes`, if it is whole and as the rules and limits want it.
    /// What is wrong is said in the order of the bytes, as soon as the byte is there.
    #[inline]
    fn header(&self, bytes: &[u8]) -> Result<Option<(FrameHeader, usize)>, ProtocolError> {
        if let Some(first) = bytes.first() {
            self.check_first(*first)?;
            if let Some(second) = bytes.get(1) {
                self.check_second(*first, *second)?;
            }
        }
        let Some((header, size)) = FrameHeader::decode(bytes)? else {
            return Ok(None);
        };
        if !header.opcode.is_control() {
            self.check_lengths(header.len)?;
        }
        Ok(Some((header, size)))
    }

    /// The rules that concern FIN, the reserved bits and the opcode.
    #[inline]
    fn check_first(&self, first: u8) -> Result<(), ProtocolError> {
        if self.closed {
            return Err(ProtocolError::AfterClose); // §5.5.1
        }
        let Some(opcode) = Opcode::from_u8(first & 0x0F) else {
            return Err(ProtocolError::UnknownOpcode(first & 0x0F)); // §5.2
        };
        if first & 0x70 != 0 {
            self.check_reserved(first >> 4 & 0x7, opcode)?;
        }
        if opcode.is_control() {
            if first & 0x80 == 0 {
                return Err(ProtocolError::ControlFragmented); // §5.5
            }
            return Ok(());
        }
        // §5.4: fragments of one message are not interleaved with those of another.
        match (opcode, self.message.is_some()) {
            (Opcode::Continuation, false) => Err(ProtocolError::NothingToContinue),
            (Opcode::Text | Opcode::Binary, true) => Err(ProtocolError::MessageNotFinished),
            _ => Ok(()),
        }
    }

    /// §5.2: reserved bits "MUST be 0 unless an extension is negotiated"; extensions of messages
    /// set them in the first frame only.
    #[cold]
    fn check_reserved(&self, reserved: u8, opcode: Opcode) -> Result<(), ProtocolError> {
        let first = matches!(opcode, Opcode::Text | Opcode::Binary);
        let allowed = if first { self.reserved } else { 0 };
        match reserved & !allowed {
            0 => Ok(()),
            bits => Err(ProtocolError::ReservedBits(bits)),
        }
    }

    /// The rules that concern the mask bit and the short length.
    #[inline]
    fn check_second(&self, first: u8, second: u8) -> Result<(), ProtocolError> {
        // §5.1: a server closes upon an unmasked frame, a client upon a masked one.
        match (self.role, second & 0x80 != 0) {
            (Role::Server, false) => return Err(ProtocolError::NotMasked),
            (Role::Client, true) => return Err(ProtocolError::Masked),
            _ => {}
        }
        // §5.5: control frames have at most 125 bytes of payload.
        if first & 0x08 != 0 && usize::from(second & 0x7F) > CONTROL_MAX {
            return Err(ProtocolError::ControlTooLong);
        }
        Ok(())
    }

    /// The limits of a data frame of `announced` bytes and of the message it belongs to.
    #[inline]
    fn check_lengths(&self, announced: u64) -> Result<(), ProtocolError> {
        let limit = self.limits.frame_max;
        if announced > limit as u64 {
            return Err(ProtocolError::FrameTooLong { announced, limit });
        }
        let before = self.message.map_or(0, |message| message.announced);
        let announced = before + announced; // two numbers below 2⁶³
        let limit = self.limits.message_max;
        if announced > limit as u64 {
            return Err(ProtocolError::MessageTooLong { announced, limit });
        }
        Ok(())
    }

    /// A data frame begins, whose header was checked.
    fn begin_frame(&mut self, header: &FrameHeader) -> Result<(), ProtocolError> {
        self.control_frames = 0;
        let message = self.message.get_or_insert(Message {
            text: header.opcode == Opcode::Text,
            reserved: header.reserved,
            unreported: true,
            announced: 0,
            fragments: 0,
        });
        message.announced += header.len; // checked against the limit
        message.fragments += 1;
        let limit = self.limits.fragments_max;
        if message.fragments > limit {
            return Err(ProtocolError::TooManyFragments { limit });
        }
        Ok(())
    }

    /// Payload of `frame` is in `bytes` from `begin` on.
    fn part(
        &mut self,
        frame: Frame,
        begin: usize,
        bytes: &mut [u8],
    ) -> Result<Decoded, ProtocolError> {
        let there = bytes.len() - begin;
        if there == 0 && frame.left > 0 && begin == 0 {
            return Ok(Decoded::Incomplete { needs: 1 });
        }
        let left = usize::try_from(frame.left).unwrap_or(usize::MAX);
        let len = there.min(left);
        let body = begin..begin + len;
        apply_mask(&mut bytes[body.clone()], frame.key);
        let left = frame.left - len as u64;
        self.frame = (left > 0).then_some(Frame {
            left,
            key: advance(frame.key, len),
            fin: frame.fin,
        });
        self.finish_part(frame.fin, left == 0, bytes, body)
    }

    /// A part of a message is in `bytes`, unmasked; `whole` if it is the end of its frame.
    fn finish_part(
        &mut self,
        fin: bool,
        whole: bool,
        bytes: &[u8],
        body: Range<usize>,
    ) -> Result<Decoded, ProtocolError> {
        let Some(message) = &mut self.message else {
            // A frame is only begun with its message.
            return Err(ProtocolError::NothingToContinue);
        };
        let first = std::mem::take(&mut message.unreported);
        let (text, reserved) = (message.text, message.reserved);
        let last = fin && whole;
        if text && reserved == 0 {
            // §8.1: text that is not UTF-8 fails the connection, here at its first wrong byte.
            let part = &bytes[body.clone()];
            if first && last {
                simdutf8::basic::from_utf8(part).map_err(|_| ProtocolError::TextNotUtf8)?;
            } else {
                let end = |utf8: &mut Utf8| if last { utf8.finish() } else { Ok(()) };
                let fed = self.utf8.feed(part).and_then(|()| end(&mut self.utf8));
                fed.map_err(|NotUtf8| ProtocolError::TextNotUtf8)?;
            }
        }
        if last {
            self.message = None;
        }
        Ok(Decoded::Data(Data {
            text,
            first,
            last,
            reserved,
            body,
        }))
    }

    /// A whole control frame, unmasked.
    fn control(
        &mut self,
        opcode: Opcode,
        bytes: &[u8],
        body: Range<usize>,
    ) -> Result<Decoded, ProtocolError> {
        let limit = self.limits.control_frames_max;
        self.control_frames = self.control_frames.saturating_add(1);
        if self.control_frames > limit && opcode != Opcode::Close {
            return Err(ProtocolError::TooManyControlFrames { limit });
        }
        match opcode {
            Opcode::Ping => Ok(Decoded::Ping { body }),
            Opcode::Pong => Ok(Decoded::Pong { body }),
            _ => {
                let code = close_code(&bytes[body.clone()])?;
                self.closed = true;
                let reason = (body.start + 2).min(body.end)..body.end;
                Ok(Decoded::Close { code, reason })
            }
        }
    }
}

/// §5.5.1: nothing, or a code and a reason in UTF-8; §7.4: a code that may be sent.
fn close_code(body: &[u8]) -> Result<Option<CloseCode>, ProtocolError> {
    let Some((code, reason)) = body.split_first_chunk::<2>() else {
        return match body {
            [] => Ok(None),
            _ => Err(ProtocolError::CloseTooShort),
        };
    };
    let code = CloseCode(u16::from_be_bytes(*code));
    if !code.is_sendable() {
        return Err(ProtocolError::CloseCode(code));
    }
    match std::str::from_utf8(reason) {
        Ok(_) => Ok(Some(code)),
        Err(_) => Err(ProtocolError::CloseReasonNotUtf8),
    }
}

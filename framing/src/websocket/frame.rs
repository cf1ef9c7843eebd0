//! Frame headers: RFC 6455 §5.2.

use super::error::ProtocolError;

/// Bytes of the longest header: two, eight of length, four of masking key.
pub const HEADER_MAX: usize = 14;

/// Bytes of the longest payload of a control frame (RFC 6455 §5.5).
pub const CONTROL_MAX: usize = 125;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Opcode {
    /// A further part of the message that a text or binary frame began.
    Continuation = 0x0,
    /// A message of UTF-8, or its beginning.
    Text = 0x1,
    /// A message of any bytes, or its beginning.
    Binary = 0x2,
    /// The sender's last frame.
    Close = 0x8,
    /// To be answered by a pong with the same payload.
    Ping = 0x9,
    /// The answer to a ping, or a sign of life.
    Pong = 0xA,
}

impl Opcode {
    /// The opcode of this number, unless it is reserved (0x3 to 0x7, 0xB to 0xF).
    #[inline]
    #[must_use]
    pub const fn from_u8(number: u8) -> Option<Self> {
        Some(match number {
            0x0 => Self::Continuation,
            0x1 => Self::Text,
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xA => Self::Pong,
            _ => return None,
        })
    }

    /// True for close, ping and pong.
    #[inline]
    #[must_use]
    pub const fn is_control(self) -> bool {
        self as u8 & 0x8 != 0
    }
}

/// What stands before a frame's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// True in the last frame of a message.
    pub fin: bool,
    /// The bits RSV1 (4), RSV2 (2) and RSV3 (1), which belong to extensions.
    pub reserved: u8,
    /// What the frame is.
    pub opcode: Opcode,
    /// The key by which the payload is masked, if it is.
    pub mask: Option<[u8; 4]>,
    /// Bytes of payload; below 2⁶³.
    pub len: u64,
}

impl FrameHeader {
    /// The header of an unmasked frame that is a whole message or a control frame.
    #[inline]
    #[must_use]
    pub const fn new(opcode: Opcode, len: usize) -> Self {
        Self {
            fin: true,
            reserved: 0,
            opcode,
            mask: None,
            len: len as u64,
        }
    }

    /// The same header, for a payload masked by `key` (every frame of a client is, §5.3).
    #[inline]
    #[must_use]
    pub const fn masked(self, key: [u8; 4]) -> Self {
        Self {
            mask: Some(key),
            ..self
        }
    }

    /// Reads the header at the front of `bytes` and how many bytes it has; `None` if it is not
    /// whole yet.
    ///
    /// # Errors
    /// [`ProtocolError`] for reserved opcodes and for lengths that are not of the shortest form
    /// or have the top bit. The other rules depend on what came before: see
    /// [`Decoder`](super::Decoder).
    #[inline]
    pub fn decode(bytes: &[u8]) -> Result<Option<(Self, usize)>, ProtocolError> {
        let Some((&[first, second], rest)) = bytes.split_first_chunk::<2>() else {
            return Ok(None);
        };
        let Some(opcode) = Opcode::from_u8(first & 0x0F) else {
            return Err(ProtocolError::UnknownOpcode(first & 0x0F));
        };
        // §5.2: 126 and 127 announce a longer field, "in network byte order", "the minimal number
        // of bytes MUST be used", "the most significant bit MUST be 0".
        let (len, rest) = match second & 0x7F {
            126 => {
                let Some((len, rest)) = rest.split_first_chunk::<2>() else {
                    return Ok(None);
                };
                let len = u64::from(u16::from_be_bytes(*len));
                if len < 126 {
                    return Err(ProtocolError::LengthNotMinimal { announced: len });
                }
                (len, rest)
            }
            127 => {
                let Some((len, rest)) = rest.split_first_chunk::<8>() else {
                    return Ok(None);
                };
                let len = u64::from_be_bytes(*len);
                if len >> 63 != 0 {
                    return Err(ProtocolError::LengthTopBit);
                }
                if len <= u64::from(u16::MAX) {
                    return Err(ProtocolError::LengthNotMinimal { announced: len });
                }
                (len, rest)
            }
            len => (u64::from(len), rest),
        };
        let (mask, rest) = if second & 0x80 == 0 {
            (None, rest)
        } else {
            let Some((key, rest)) = rest.split_first_chunk::<4>() else {
                return Ok(None);
            };
            (Some(*key), rest)
        };
        let header = Self {
            fin: first & 0x80 != 0,
            reserved: first >> 4 & 0x7,
            opcode,
            mask,
            len,
        };
        Ok(Some((header, bytes.len() - rest.len())))
    }

    /// How many bytes the header at the front of `bytes` has, as far as they say: more than there
    /// are if [`decode`](Self::decode) finds it incomplete.
    #[must_use]
    pub fn needs(bytes: &[u8]) -> usize {
        let Some(second) = bytes.get(1) else {
            return 2;
        };
        let len = match second & 0x7F {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        2 + len + 4 * usize::from(second >> 7)
    }

    /// Bytes of the header of a payload of `len` bytes.
    #[inline]
    #[must_use]
    pub const fn encoded_len(len: usize, masked: bool) -> usize {
        let field = match len {
            0..126 => 0,
            126..0x1_0000 => 2,
            _ => 8,
        };
        2 + field + if masked { 4 } else { 0 }
    }

    /// Writes the header to the front of `out`; returns its length. What is behind it may be
    /// overwritten too.
    #[inline]
    pub fn encode(&self, out: &mut [u8; HEADER_MAX]) -> usize {
        out[0] = u8::from(self.fin) << 7 | (self.reserved & 0x7) << 4 | self.opcode as u8;
        let masked = u8::from(self.mask.is_some()) << 7;
        let mut end = match self.len {
            len @ 0..126 => {
                out[1] = masked | len as u8;
                2
            }
            len @ 126..0x1_0000 => {
                out[1] = masked | 126;
                out[2..4].copy_from_slice(&(len as u16).to_be_bytes());
                4
            }
            len => {
                out[1] = masked | 127;
                out[2..10].copy_from_slice(&len.to_be_bytes());
                10
            }
        };
        if let Some(key) = self.mask {
            out[end..end + 4].copy_from_slice(&key);
            end += 4;
        }
        end
    }
}

/// Unmasks, in place, the payload of every whole frame at the front of `bytes` and puts zero in
/// place of its key, so that looking at the frame again does not mask it anew; stops at the first
/// frame that is not whole or is none. Returns where that was.
///
/// Afterwards [`Decoder::decode_whole`](super::Decoder::decode_whole) can go through the same
/// bytes without writing to them: for memory that is shared once its first message was handed
/// out.
pub fn unmask_whole(bytes: &mut [u8]) -> usize {
    let mut at = 0;
    while let Ok(Some((header, size))) = FrameHeader::decode(&bytes[at..]) {
        let begin = at + size;
        // What does not fit the address space is not in `bytes` either.
        let len = usize::try_from(header.len).unwrap_or(usize::MAX);
        let Some(payload) = bytes[begin..].get_mut(..len) else {
            break;
        };
        if let Some(key) = header.mask {
            super::apply_mask(payload, key);
            bytes[begin - 4..begin].fill(0);
        }
        at = begin + len;
    }
    at
}

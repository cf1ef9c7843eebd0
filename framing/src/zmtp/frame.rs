//! [`FrameHeader`]: flags and length before each frame.

use super::{Limits, ZmtpError};

const MORE: u8 = 0b001;
const LONG: u8 = 0b010;
const COMMAND: u8 = 0b100;

/// What precedes the body of a frame (RFC 23 §"Framing").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// A part of a message that another part follows.
    pub more: bool,
    /// A command, not a part of a message.
    pub command: bool,
    /// Length of the body, in bytes.
    pub len: usize,
}

/// A [`FrameHeader`] as bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncodedHeader {
    bytes: [u8; FrameHeader::MAX],
    len: usize,
}

impl EncodedHeader {
    /// The bytes: 2, or 9 when the body has more than 255.
    #[inline]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl FrameHeader {
    /// Its greatest length, in bytes.
    pub const MAX: usize = 9;

    /// The header of a part of a message, `len` bytes long.
    #[inline]
    pub const fn message(len: usize, more: bool) -> Self {
        Self {
            more,
            command: false,
            len,
        }
    }

    /// The header of a command, `len` bytes long.
    pub const fn command(len: usize) -> Self {
        Self {
            more: false,
            command: true,
            len,
        }
    }

    /// Bytes that the header takes: 2, or 9 when the body has more than 255.
    #[inline]
    pub const fn encoded_len(&self) -> usize {
        if self.len > 255 { 9 } else { 2 }
    }

    /// The bytes, as short as they can be.
    #[inline]
    pub fn encode(&self) -> EncodedHeader {
        let mut bytes = [0; Self::MAX];
        bytes[0] = u8::from(self.more) * MORE + u8::from(self.command) * COMMAND;
        if self.len > 255 {
            bytes[0] |= LONG;
            bytes[1..].copy_from_slice(&(self.len as u64).to_be_bytes());
        } else {
            bytes[1] = self.len as u8; // not more than 255
        }
        let len = self.encoded_len();
        EncodedHeader { bytes, len }
    }

    /// Writes the header to the front of `out`, and tells how many bytes that were; `None`, and
    /// `out` as it was, if there is no room.
    #[inline]
    pub fn write(&self, out: &mut [u8]) -> Option<usize> {
        let encoded = self.encode();
        let bytes = encoded.as_slice();
        out.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(bytes.len())
    }

    /// Reads the front of `bytes`, and tells how many of them the header took; `None` if there are
    /// too few yet.
    ///
    /// # Errors
    /// `Flags`, `FrameTooLong`, `CommandTooLong` of [`ZmtpError`].
    #[inline]
    pub fn decode(bytes: &[u8], limits: &Limits) -> Result<Option<(Self, usize)>, ZmtpError> {
        let Some(&flags) = bytes.first() else {
            return Ok(None);
        };
        let command = flags & COMMAND != 0;
        let more = flags & MORE != 0;
        if flags > (MORE | LONG | COMMAND) || (command && more) {
            return Err(ZmtpError::Flags { flags });
        }
        let (announced, taken) = if flags & LONG == 0 {
            let Some(&len) = bytes.get(1) else {
                return Ok(None);
            };
            (u64::from(len), 2)
        } else {
            let Some(len) = bytes.get(1..9).and_then(|len| len.first_chunk()) else {
                return Ok(None);
            };
            (u64::from_be_bytes(*len), 9)
        };
        let limit = if command {
            limits.command_max
        } else {
            limits.frame_max
        };
        let Some(len) = usize::try_from(announced).ok().filter(|&len| len <= limit) else {
            return Err(too_long(command, announced, limit));
        };
        Ok(Some((Self { more, command, len }, taken)))
    }
}

#[cold]
fn too_long(command: bool, announced: u64, limit: usize) -> ZmtpError {
    if command {
        ZmtpError::CommandTooLong { announced, limit }
    } else {
        ZmtpError::FrameTooLong { announced, limit }
    }
}

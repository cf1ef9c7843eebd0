//! The packets between game clients and a Play server, without their length prefix.
//!
//! Integers are little-endian. What follows the length ([`LengthPrefix`](crate::LengthPrefix),
//! whose byte order is an option of the listener) is
//!
//! ```text
//! client → server  id length u8 | id | seq u16 | stage i64 | payload
//! server → client  id length u8 | id | seq u16 | stage i64 | error u16 | original size i32
//!                  | payload
//! ```
//!
//! The id is 1 to 128 bytes of UTF-8. `seq` 0 is a message without an answer (a client's send, a
//! server's push); requests use 1 to 65535, and the answer carries the number of its request. An
//! `original size` above 0 says that the payload is compressed, see [`lz4`].
//!
//! ```
//! use proscenium_framing::LengthPrefix;
//! use proscenium_framing::packet::{ClientPacket, ErrorCode, ServerPacket};
//!
//! let request = ClientPacket { msg_id: "Move", seq: 1, stage_id: 7, payload: b"north" };
//! let mut body = vec![0; request.encoded_len()];
//! request.encode(&mut body)?;
//! let mut stream = Vec::new();
//! LengthPrefix::le32().encode(&body, &mut stream)?; // what a client sends
//!
//! let received = ClientPacket::decode(&body)?;
//! assert_eq!(received, request);
//! let reply = ServerPacket::reply(received.msg_id, received.seq, received.stage_id, b"moved");
//! assert_eq!(reply.error, ErrorCode::SUCCESS);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod code;
#[cfg(feature = "lz4")]
pub mod lz4;

use std::error::Error;
use std::fmt;

pub use code::ErrorCode;

use crate::text::text;

/// The greatest length of a message id, in bytes.
pub const ID_MAX: usize = 128;

/// The least length of a message id, in bytes.
pub const ID_MIN: usize = 1;

/// Id of the packet that keeps a quiet connection alive. A server sends it back with the same
/// `seq` and stage, [`ErrorCode::SUCCESS`] and no payload.
pub const HEARTBEAT: &str = "@Heart@Beat@";

/// Id of the diagnostic packet, which servers ignore unless told otherwise.
pub const DEBUG: &str = "@Debug@";

/// Id under which a time-out is told.
pub const TIMEOUT: &str = "@Timeout@";

/// A packet from a client to the server, borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientPacket<'a> {
    /// What the message is: 1 to 128 bytes.
    pub msg_id: &'a str,
    /// 0 for a message without an answer, else the number that the answer has to carry.
    pub seq: u16,
    /// The stage that it is for.
    pub stage_id: i64,
    /// The message itself; may be empty.
    pub payload: &'a [u8],
}

/// A packet from the server to a client, borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerPacket<'a> {
    /// What the message is: 1 to 128 bytes. In an answer it is the handler's choice.
    pub msg_id: &'a str,
    /// 0 for a push, else the number of the request that this answers.
    pub seq: u16,
    /// The stage that it comes from.
    pub stage_id: i64,
    /// How the request went.
    pub error: ErrorCode,
    /// 0: `payload` is the message. Greater: `payload` is an [`lz4`] container, and this is the
    /// length of what is in it. Negative numbers are neither decoded nor encoded.
    pub original_size: i32,
    /// The message itself, or a container of it; may be empty.
    pub payload: &'a [u8],
}

impl<'a> ClientPacket<'a> {
    /// Bytes of all fields except id and payload.
    pub const FIXED: usize = 1 + 2 + 8;

    /// Reads what follows the length. Borrows, copies nothing.
    ///
    /// # Errors
    /// A [`PacketError`] when the bytes are no packet: the peer's fault.
    #[inline]
    pub fn decode(body: &'a [u8]) -> Result<Self, PacketError> {
        let (msg_id, rest) = split_id(body, Self::FIXED)?;
        let short = || too_short(body.len(), Self::FIXED + msg_id.len());
        let (seq, rest) = rest.split_first_chunk().ok_or_else(short)?;
        let (stage_id, payload) = rest.split_first_chunk().ok_or_else(short)?;
        Ok(Self {
            msg_id: id_text(msg_id)?,
            seq: u16::from_le_bytes(*seq),
            stage_id: i64::from_le_bytes(*stage_id),
            payload,
        })
    }

    /// Bytes that [`encode`](Self::encode) writes.
    #[inline]
    pub fn encoded_len(&self) -> usize {
        Self::FIXED + self.msg_id.len() + self.payload.len()
    }

    /// Writes what follows the length to the front of `out`, and tells how many bytes that were:
    /// [`encoded_len`](Self::encoded_len).
    ///
    /// # Errors
    /// [`PacketError::IdLength`], and [`PacketError::NoRoom`] when `out` is too short; `out` is
    /// then as it was.
    #[inline]
    pub fn encode(&self, out: &mut [u8]) -> Result<usize, PacketError> {
        let mut out = Writer::new(out, self.encoded_len(), self.msg_id)?;
        out.put(&self.seq.to_le_bytes());
        out.put(&self.stage_id.to_le_bytes());
        out.put(self.payload);
        Ok(out.written)
    }
}

impl<'a> ServerPacket<'a> {
    /// Bytes of all fields except id and payload.
    pub const FIXED: usize = 1 + 2 + 8 + 2 + 4;

    /// A successful, uncompressed answer to request `seq`; with `seq` 0, a push.
    pub const fn reply(msg_id: &'a str, seq: u16, stage_id: i64, payload: &'a [u8]) -> Self {
        Self {
            msg_id,
            seq,
            stage_id,
            error: ErrorCode::SUCCESS,
            original_size: 0,
            payload,
        }
    }

    /// An answer to request `seq` that says why it failed, without payload.
    pub const fn failure(msg_id: &'a str, seq: u16, stage_id: i64, error: ErrorCode) -> Self {
        Self {
            msg_id,
            seq,
            stage_id,
            error,
            original_size: 0,
            payload: &[],
        }
    }

    /// Reads what follows the length. Borrows, copies nothing; a compressed payload stays as it
    /// is.
    ///
    /// # Errors
    /// A [`PacketError`] when the bytes are no packet: the peer's fault.
    #[inline]
    pub fn decode(body: &'a [u8]) -> Result<Self, PacketError> {
        let (msg_id, rest) = split_id(body, Self::FIXED)?;
        let short = || too_short(body.len(), Self::FIXED + msg_id.len());
        let (seq, rest) = rest.split_first_chunk().ok_or_else(short)?;
        let (stage_id, rest) = rest.split_first_chunk().ok_or_else(short)?;
        let (error, rest) = rest.split_first_chunk().ok_or_else(short)?;
        let (original_size, payload) = rest.split_first_chunk().ok_or_else(short)?;
        let original_size = i32::from_le_bytes(*original_size);
        if original_size < 0 {
            return Err(PacketError::OriginalSize { original_size });
        }
        Ok(Self {
            msg_id: id_text(msg_id)?,
            seq: u16::from_le_bytes(*seq),
            stage_id: i64::from_le_bytes(*stage_id),
            error: ErrorCode(u16::from_le_bytes(*error)),
            original_size,
            payload,
        })
    }

    /// Bytes that [`encode`](Self::encode) writes.
    #[inline]
    pub fn encoded_len(&self) -> usize {
        Self::FIXED + self.msg_id.len() + self.payload.len()
    }

    /// Writes what follows the length to the front of `out`, and tells how many bytes that were:
    /// [`encoded_len`](Self::encoded_len).
    ///
    /// # Errors
    /// [`PacketError::IdLength`], [`PacketError::OriginalSize`] for a negative one, and
    /// [`PacketError::NoRoom`] when `out` is too short; `out` is then as it was.
    #[inline(always)] // what the caller knows of its fields falls away
    pub fn encode(&self, out: &mut [u8]) -> Result<usize, PacketError> {
        let original_size = self.original_size;
        if original_size < 0 {
            return Err(PacketError::OriginalSize { original_size });
        }
        let mut out = Writer::new(out, self.encoded_len(), self.msg_id)?;
        // Together, so that they are two stores.
        let mut rest = [0; Self::FIXED - 1];
        rest[..2].copy_from_slice(&self.seq.to_le_bytes());
        rest[2..10].copy_from_slice(&self.stage_id.to_le_bytes());
        rest[10..12].copy_from_slice(&self.error.0.to_le_bytes());
        rest[12..].copy_from_slice(&original_size.to_le_bytes());
        out.put(&rest);
        out.put(self.payload);
        Ok(out.written)
    }
}

/// The id, not yet known to be text, and what follows it. `fixed` is for the error only.
#[inline]
fn split_id(body: &[u8], fixed: usize) -> Result<(&[u8], &[u8]), PacketError> {
    let Some((&len, rest)) = body.split_first() else {
        return Err(too_short(0, fixed + ID_MIN));
    };
    let len = usize::from(len);
    if !(ID_MIN..=ID_MAX).contains(&len) {
        return Err(PacketError::IdLength { len });
    }
    rest.split_at_checked(len)
        .ok_or_else(|| too_short(body.len(), fixed + len))
}

#[inline]
fn id_text(id: &[u8]) -> Result<&str, PacketError> {
    text(id).map_err(|error| PacketError::IdNotUtf8 {
        valid_up_to: error.valid_up_to(),
    })
}

/// Out of the way, so that decoding stays short.
#[cold]
fn too_short(len: usize, needed: usize) -> PacketError {
    PacketError::TooShort { len, needed }
}

/// Fills the front of a buffer that is known to be long enough.
struct Writer<'o> {
    out: &'o mut [u8],
    written: usize,
}

impl<'o> Writer<'o> {
    /// Checks everything that can be wrong before the first byte is written, then writes the id.
    #[inline(always)]
    fn new(out: &'o mut [u8], needed: usize, msg_id: &str) -> Result<Self, PacketError> {
        let len = msg_id.len();
        if !(ID_MIN..=ID_MAX).contains(&len) {
            return Err(PacketError::IdLength { len });
        }
        let room = out.len();
        if room < needed {
            return Err(PacketError::NoRoom { needed, room });
        }
        let mut writer = Self { out, written: 0 };
        writer.put(&[len as u8]); // at most ID_MAX
        writer.put_short(msg_id.as_bytes());
        Ok(writer)
    }

    /// [`put`](Self::put) for what mostly has 4 to 16 bytes: two copies that overlap, of a fixed
    /// length, instead of a call.
    #[inline(always)]
    fn put_short(&mut self, bytes: &[u8]) {
        let room = &mut self.out[self.written..self.written + bytes.len()];
        if bytes.len() > 16 || !ends::<8>(room, bytes) && !ends::<4>(room, bytes) {
            room.copy_from_slice(bytes);
        }
        self.written += bytes.len();
    }

    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        self.out[self.written..self.written + bytes.len()].copy_from_slice(bytes);
        self.written += bytes.len();
    }
}

/// Copies the first and the last `N` bytes, which is all of `from` up to twice as many; false if it
/// has not so many.
#[inline]
fn ends<const N: usize>(to: &mut [u8], from: &[u8]) -> bool {
    let (Some(first), Some(last)) = (from.first_chunk::<N>(), from.last_chunk::<N>()) else {
        return false;
    };
    if let Some(to) = to.first_chunk_mut() {
        *to = *first;
    }
    if let Some(to) = to.last_chunk_mut() {
        *to = *last;
    }
    true
}

/// Why bytes are no packet, or a packet cannot be made bytes.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacketError {
    /// The body ends before the payload begins.
    TooShort {
        /// Length of the body, in bytes.
        len: usize,
        /// The least that it must have, in bytes.
        needed: usize,
    },
    /// The message id is empty or longer than [`ID_MAX`].
    IdLength {
        /// Its length, in bytes.
        len: usize,
    },
    /// The message id is not UTF-8.
    IdNotUtf8 {
        /// How many of its bytes are.
        valid_up_to: usize,
    },
    /// The size before compression is negative.
    OriginalSize {
        /// What it is.
        original_size: i32,
    },
    /// The buffer to encode into is too short: the caller's fault.
    NoRoom {
        /// Bytes that the packet takes.
        needed: usize,
        /// Bytes that the buffer has.
        room: usize,
    },
}

impl fmt::Display for PacketError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooShort { len, needed } => {
                write!(f, "packet of {len} bytes, at least {needed} are needed")
            }
            Self::IdLength { len } => {
                let (min, max) = (ID_MIN, ID_MAX);
                write!(f, "message id of {len} bytes, allowed are {min} to {max}")
            }
            Self::IdNotUtf8 { valid_up_to } => {
                write!(f, "message id is not UTF-8 after {valid_up_to} bytes")
            }
            Self::OriginalSize { original_size } => {
                write!(f, "size before compression is negative: {original_size}")
            }
            Self::NoRoom { needed, room } => {
                write!(f, "packet of {needed} bytes into a buffer of {room} bytes")
            }
        }
    }
}

impl Error for PacketError {}

#[cfg(test)]
mod tests;

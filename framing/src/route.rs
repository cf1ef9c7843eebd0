//! What nodes send each other: a [`RouteHeader`], and behind it the payload.
//!
//! Between nodes a message has two parts, each a frame of [`zmtp`](crate::zmtp): the header in
//! protobuf, then the payload as it is. The sender is known from the connection; the header's
//! `from` repeats it.
//!
//! [`RouteHeader`] borrows and knows its format by itself, because it is on the way of every
//! message. With the feature `prost` there is [`proto`] beside it: the same header and the system
//! messages as structs of prost, for what is rare.
//!
//! ```
//! use proscenium_framing::route::RouteHeader;
//!
//! let request = RouteHeader {
//!     msg_seq: 7,
//!     service_id: 2,
//!     msg_id: "GetRoom",
//!     from: "api-1",
//!     payload_size: 5,
//!     ..RouteHeader::default()
//! };
//! let mut bytes = vec![0; request.encoded_len()];
//! assert_eq!(request.encode(&mut bytes), Some(bytes.len()));
//! assert_eq!(RouteHeader::decode(&bytes)?, request);
//! # Ok::<(), proscenium_framing::route::RouteError>(())
//! ```

mod chain;
#[cfg(feature = "prost")]
pub mod proto;
mod varint;

use std::error::Error;
use std::fmt;

pub use chain::{Chain, ChainEntry, ChainIter};

use chain::Span;
use varint::{Reader, Value, Writer, varint_len};

/// What precedes each payload between nodes. The numbers of its fields in protobuf are fixed;
/// fields that are zero or empty are not sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouteHeader<'a> {
    /// 1: the number of the request; 0 = a message without an answer. To peers that are not
    /// Proscenium at most 65,535.
    pub msg_seq: u32,
    /// 2: the service that it is for or from.
    pub service_id: u32,
    /// 3: what the message is.
    pub msg_id: &'a str,
    /// 4: how the request went, in a reply; 0 = success.
    pub error_code: u32,
    /// 5: the sender's NID.
    pub from: &'a str,
    /// 6: the stage that it is for; 0 = none.
    pub stage_id: i64,
    /// 7: the account that it is about; 0 = none.
    pub account_id: i64,
    /// 8: the session that it is about; 0 = none.
    pub sid: i64,
    /// 9: it answers the request `msg_seq`.
    pub is_reply: bool,
    /// 10: length of the payload in bytes. Receivers may size a buffer by it.
    pub payload_size: u32,
    /// 11: it is for the framework, not for the application.
    pub is_system: bool,
    /// 20, repeated: the requests that wait for this one. Peers that are not Proscenium ignore it.
    pub chain: Chain<'a>,
}

impl<'a> RouteHeader<'a> {
    /// Reads a whole header. Borrows, copies nothing. Unknown fields are skipped; of a field that
    /// comes twice the last counts, except of those that repeat.
    ///
    /// # Errors
    /// A [`RouteError`] when the bytes are no header: the peer's fault.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, RouteError> {
        let mut header = Self::default();
        let mut reader = Reader::new(bytes);
        let mut chain = Span::default();
        loop {
            let at = bytes.len() - reader.left();
            let Some((field, value)) = reader.next()? else {
                break;
            };
            match (field, value) {
                // As protobuf has it: longer numbers are cut.
                (1, Value::Varint(value)) => header.msg_seq = value as u32,
                (2, Value::Varint(value)) => header.service_id = value as u32,
                (3, Value::Bytes(value)) => header.msg_id = text(3, value)?,
                (4, Value::Varint(value)) => header.error_code = value as u32,
                (5, Value::Bytes(value)) => header.from = text(5, value)?,
                (6, Value::Varint(value)) => header.stage_id = value as i64,
                (7, Value::Varint(value)) => header.account_id = value as i64,
                (8, Value::Varint(value)) => header.sid = value as i64,
                (9, Value::Varint(value)) => header.is_reply = value != 0,
                (10, Value::Varint(value)) => header.payload_size = value as u32,
                (11, Value::Varint(value)) => header.is_system = value != 0,
                (Chain::FIELD, Value::Bytes(value)) => {
                    ChainEntry::decode(value)?;
                    chain.add(at, bytes.len() - reader.left());
                }
                (1..=11 | Chain::FIELD, _) => return Err(RouteError::WireType { field }),
                _ => {}
            }
        }
        header.chain.set(chain, bytes);
        Ok(header)
    }

    /// Bytes that [`encode`](Self::encode) writes.
    #[inline]
    pub fn encoded_len(&self) -> usize {
        let number = |value: u64| {
            if value == 0 { 0 } else { 1 + varint_len(value) }
        };
        let text = |text: &str| match text.len() {
            0 => 0,
            len => 1 + varint_len(len as u64) + len,
        };
        number(self.msg_seq.into())
            + number(self.service_id.into())
            + text(self.msg_id)
            + number(self.error_code.into())
            + text(self.from)
            + number(self.stage_id as u64)
            + number(self.account_id as u64)
            + number(self.sid as u64)
            + number(self.is_reply.into())
            + number(self.payload_size.into())
            + number(self.is_system.into())
            + self.chain.encoded_len()
    }

    /// Writes the header to the front of `out`, and tells how many bytes that were:
    /// [`encoded_len`](Self::encoded_len). `None`, and `out` half written, if it is too short.
    #[inline]
    pub fn encode(&self, out: &mut [u8]) -> Option<usize> {
        let mut out = Writer::new(out);
        out.number(1, self.msg_seq.into())?;
        out.number(2, self.service_id.into())?;
        out.bytes(3, self.msg_id.as_bytes())?;
        out.number(4, self.error_code.into())?;
        out.bytes(5, self.from.as_bytes())?;
        out.number(6, self.stage_id as u64)?;
        out.number(7, self.account_id as u64)?;
        out.number(8, self.sid as u64)?;
        out.number(9, self.is_reply.into())?;
        out.number(10, self.payload_size.into())?;
        out.number(11, self.is_system.into())?;
        self.chain.write(&mut out)?;
        Some(out.written())
    }
}

fn text(field: u32, bytes: &[u8]) -> Result<&str, RouteError> {
    crate::text::text(bytes).map_err(|_| RouteError::NotUtf8 { field })
}

/// Why bytes are no [`RouteHeader`].
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteError {
    /// They end in the middle of a field.
    Truncated,
    /// A number of more than ten bytes, or a field whose number is 0 or too great.
    Varint,
    /// A field of ours has the type of another one.
    WireType {
        /// The field's number.
        field: u32,
    },
    /// A type that does not exist, or groups, which are not used any more.
    UnknownWireType {
        /// The type: 3, 4, 6 or 7.
        wire_type: u8,
    },
    /// A text is not UTF-8.
    NotUtf8 {
        /// The field's number.
        field: u32,
    },
}

impl fmt::Display for RouteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => f.write_str("the route header ends in the middle of a field"),
            Self::Varint => f.write_str("a number in the route header is broken"),
            Self::WireType { field } => {
                write!(f, "field {field} of the route header has a wrong type")
            }
            Self::UnknownWireType { wire_type } => {
                write!(f, "the route header has a field of type {wire_type}")
            }
            Self::NotUtf8 { field } => {
                write!(f, "field {field} of the route header is not UTF-8")
            }
        }
    }
}

impl Error for RouteError {}

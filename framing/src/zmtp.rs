//! ZMTP 3.1, the wire protocol of ZeroMQ sockets; 3.0 is accepted.
//!
//! Sources: ZeroMQ RFC 23 (ZMTP 3.0) and RFC 37 (ZMTP 3.1). Nothing here owns a socket, a buffer or
//! a clock. A connection goes through two stages:
//!
//! 1. [`Handshake`]: both ends send a [`Greeting`], then the commands of a security [`Mechanism`]
//!    ([`Null`]: one READY each), in which they tell each other their [`Properties`].
//! 2. [`Decoder`]: what follows are [`Message`]s of one or more parts, and [`Command`]s such as
//!    PING. To write them, see [`FrameHeader`] and the functions of [`command`].
//!
//! ```
//! use proscenium_framing::zmtp::{
//!     Decoded, Decoder, FrameHeader, Handshake, Limits, Null, Properties, Step,
//! };
//!
//! let own = |identity: &str| {
//!     let mut own = Properties::new();
//!     own.push("Socket-Type", b"ROUTER").push("Identity", identity.as_bytes());
//!     own
//! };
//! let (mut to_b, mut to_a) = (Vec::new(), Vec::new());
//! let mut a = Handshake::new(Null, own("a"), Limits::default(), &mut to_b);
//! let mut b = Handshake::new(Null, own("b"), Limits::default(), &mut to_a);
//!
//! // Bytes may arrive in any pieces; what was not consumed is given again, with more behind it.
//! let (used, step) = b.receive(&to_b, &mut to_a)?; // the greeting: answered by READY
//! assert!(matches!(step, Step::Incomplete));
//! to_b.drain(..used);
//! let (used, step) = a.receive(&to_a, &mut to_b)?;
//! let Step::Done(peer) = step else { panic!("{step:?}") };
//! assert_eq!(peer.properties.get("identity"), Some(&b"b"[..]));
//! assert_eq!((used, peer.minor), (to_a.len(), 1));
//! let (used, _) = b.receive(&to_b, &mut to_a)?;
//! to_b.drain(..used);
//!
//! for (part, more) in [(&b"header"[..], true), (b"payload", false)] {
//!     let header = FrameHeader::message(part.len(), more);
//!     to_b.extend_from_slice(header.encode().as_slice());
//!     to_b.extend_from_slice(part);
//! }
//! let mut decoder = Decoder::new(Limits::default());
//! let Decoded::Message(message) = decoder.decode(&to_b)? else { panic!() };
//! assert_eq!(message.parts().collect::<Vec<_>>(), [&b"header"[..], b"payload"]);
//! # Ok::<(), proscenium_framing::zmtp::ZmtpError>(())
//! ```

pub mod command;
mod error;
mod frame;
mod greeting;
mod handshake;
mod message;
mod properties;

pub use command::Command;
pub use error::ZmtpError;
pub use frame::{EncodedHeader, FrameHeader};
pub use greeting::{Greeting, MechanismName};
pub use handshake::{Established, Handshake, Mechanism, Null, Refusal, Step};
pub use message::{Decoded, Decoder, Message, Parts};
pub use properties::{Properties, PropertiesIter};

/// The bounds of one connection. All are checked against what is announced, before the bytes come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Greatest body of one frame of a message, in bytes. Default 16 MiB.
    pub frame_max: usize,
    /// Most parts (frames) of one message. Default 16.
    pub parts_max: usize,
    /// Greatest message in bytes: its frames with their headers, and commands between them.
    /// Default 16 MiB and 64 KiB.
    pub message_max: usize,
    /// Greatest body of a command in bytes, which bounds the properties that a peer sends.
    /// Default 8 KiB.
    pub command_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            frame_max: 16 << 20,
            parts_max: 16,
            message_max: (16 << 20) + (64 << 10),
            command_max: 8 << 10,
        }
    }
}

impl Limits {
    /// The same, none so great that adding a few of them overflows.
    fn clamped(self) -> Self {
        const MOST: usize = usize::MAX / 8;
        Self {
            frame_max: self.frame_max.min(MOST),
            parts_max: self.parts_max.min(MOST),
            message_max: self.message_max.min(MOST),
            command_max: self.command_max.min(MOST),
        }
    }
}

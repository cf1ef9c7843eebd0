//! WebSocket (RFC 6455): the opening handshake and the frames.
//!
//! - [`handshake`]: what a server answers to a request, what a client asks and expects.
//! - [`Decoder`]: what the next bytes of a connection are; it enforces the protocol and the
//!   [limits](DecoderLimits), and owns no buffer.
//! - [`FrameHeader`], [`apply_mask`], [`close_body`]: what a sender writes.
//!
//! Bytes that follow a handshake belong to the first frames: nothing here drops or keeps them.
//!
//! ```
//! use proscenium_framing::websocket::{FrameHeader, HEADER_MAX, Opcode};
//!
//! let body = b"Hello";
//! let mut header = [0; HEADER_MAX];
//! let len = FrameHeader::new(Opcode::Text, body.len()).encode(&mut header);
//! assert_eq!(&header[..len], [0x81, 0x05]); // RFC 6455 §5.7
//! ```
//!
//! Extensions: none is negotiated. A later one finds its place in the request's
//! [`extensions`](handshake::Request::extensions), in [`Decoder::allow_reserved`], and in
//! [`FrameHeader::reserved`].

mod close;
mod decoder;
mod error;
mod frame;
pub mod handshake;
mod mask;
mod utf8;

pub use close::{CloseCode, close_body};
pub use decoder::{Data, Decoded, Decoder, DecoderLimits, Role};
pub use error::ProtocolError;
pub use frame::{CONTROL_MAX, FrameHeader, HEADER_MAX, Opcode, unmask_whole};
pub use mask::{advance, apply_mask};
pub use utf8::{NotUtf8, Utf8};

#[cfg(test)]
mod tests;

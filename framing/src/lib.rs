//! Sans-IO codecs of the Proscenium networking engine.
//!
//! A codec here is a value that looks at bytes and says what they are. It owns no buffer, reads
//! no socket and no clock, and never allocates because of a number that a peer sent: what to do
//! with "not a whole frame yet" is the caller's business.
//!
//! - [`LengthPrefix`] is the stream framing: a 4-byte body length, then the body.
//! - [`packet`] has what game clients and a Play server put into such bodies, and their LZ4
//!   payloads (feature `lz4`, on by default).
//! - [`zmtp`] is the protocol between servers, that of ZeroMQ; [`route`] is the header of the
//!   messages that they exchange (feature `prost`: also as structs of prost).
//! - `websocket` (feature of that name) is RFC 6455: the opening handshake and the frames.
//!
//! # Reading from a buffer that grows
//!
//! Bytes arrive in pieces of any size. Append what came, take every whole frame, keep the tail.
//! The buffer grows only by bytes that have arrived, and the limit is checked as soon as a header
//! is there, so that it never has to hold more than one frame of the limit and one read.
//!
//! ```
//! use std::io::{self, Read};
//!
//! use proscenium_framing::LengthPrefix;
//!
//! fn read_frames(mut source: impl Read, mut on_frame: impl FnMut(&[u8])) -> io::Result<()> {
//!     let codec = LengthPrefix::be32();
//!     let mut buffer = Vec::new();
//!     let mut chunk = [0; 4096];
//!     loop {
//!         let n = source.read(&mut chunk)?;
//!         if n == 0 {
//!             return match buffer.len() {
//!                 0 => Ok(()),
//!                 _ => Err(io::ErrorKind::UnexpectedEof.into()), // ended inside a frame
//!             };
//!         }
//!         buffer.extend_from_slice(&chunk[..n]);
//!
//!         let mut frames = codec.frames(&buffer);
//!         for body in &mut frames {
//!             on_frame(body.map_err(io::Error::other)?); // a slice of `buffer`, not a copy
//!         }
//!         let consumed = frames.consumed();
//!         buffer.drain(..consumed);
//!     }
//! }
//!
//! let mut stream = Vec::new();
//! for body in [&b"hello"[..], b"", b"world"] {
//!     LengthPrefix::be32().encode(body, &mut stream)?;
//! }
//! let mut bodies = Vec::new();
//! // `chain` makes a read end in the middle of the first frame.
//! let (front, back) = stream.split_at(6);
//! read_frames(front.chain(back), |body| bodies.push(body.to_vec()))?;
//! assert_eq!(bodies, [&b"hello"[..], b"", b"world"]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod length;
pub mod packet;
pub mod route;
mod text;
#[cfg(feature = "websocket")]
pub mod websocket;
pub mod zmtp;

pub use length::{ByteOrder, Decoded, FrameError, Frames, LengthPrefix};

/// Compiles and runs the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

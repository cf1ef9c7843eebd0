//! [`Messages`]: what one read of a connection brought.

use std::cell::Cell;
use std::fmt;
use std::ops::Range;
use std::rc::Rc;

#[cfg(feature = "ws")]
use proscenium_framing::websocket::{Decoded as WebSocketDecoded, Decoder, ProtocolError};
use proscenium_framing::{Decoded, FrameError, LengthPrefix};

use crate::body::{Chunk, Lease, Message};

/// The whole messages that one read of a connection brought, one after the other; none is left
/// once something was done that closes the connection, pauses it or moves it.
pub struct Messages<'a> {
    codec: LengthPrefix,
    chunk: &'a Rc<Chunk>,
    /// Of `chunk`: what has not been taken.
    bytes: &'a [u8],
    lease: Lease,
    taken: u64,
    bad: Option<FrameError>,
    /// No more of them may come.
    stop: &'a Cell<bool>,
    /// Of a WebSocket without framing: then `bytes` is empty.
    #[cfg(feature = "ws")]
    web_socket: Option<WebSocketMessages<'a>>,
}

/// What is special about messages in WebSocket frames.
#[cfg(feature = "ws")]
struct WebSocketMessages<'a> {
    decoder: &'a mut Decoder,
    /// Of the chunk: what has not been decoded.
    frames: &'a [u8],
    /// What was decoded and is no whole message.
    other: Option<Result<WebSocketDecoded, ProtocolError>>,
}

impl<'a> Messages<'a> {
    #[inline]
    pub(crate) fn new(
        codec: LengthPrefix,
        chunk: &'a Rc<Chunk>,
        range: Range<usize>,
        lease: Lease,
        stop: &'a Cell<bool>,
    ) -> Self {
        Self {
            codec,
            chunk,
            bytes: &chunk.bytes()[range],
            lease,
            taken: 0,
            bad: None,
            stop,
            #[cfg(feature = "ws")]
            web_socket: None,
        }
    }

    /// The messages in WebSocket frames, unmasked already, up to the first that is not a whole
    /// message.
    #[cfg(feature = "ws")]
    pub(crate) fn in_frames(
        decoder: &'a mut Decoder,
        chunk: &'a Rc<Chunk>,
        range: Range<usize>,
        lease: Lease,
        stop: &'a Cell<bool>,
    ) -> Self {
        Self {
            codec: LengthPrefix::be32(),
            chunk,
            bytes: &[],
            lease,
            taken: 0,
            bad: None,
            stop,
            web_socket: Some(WebSocketMessages {
                decoder,
                frames: &chunk.bytes()[range],
                other: None,
            }),
        }
    }

    /// Of [`in_frames`](Self::in_frames): how many bytes were not decoded, and what was found
    /// that is no whole message, with its place in front of those bytes.
    #[cfg(feature = "ws")]
    pub(crate) fn into_frames(self) -> (usize, Option<Result<WebSocketDecoded, ProtocolError>>) {
        match self.web_socket {
            Some(ws) => (ws.frames.len(), ws.other),
            None => (0, None),
        }
    }

    #[cfg(feature = "ws")]
    #[inline(never)]
    fn next_in_frames(&mut self) -> Option<Message<'a>> {
        let ws = self.web_socket.as_mut()?;
        if ws.other.is_some() {
            return None;
        }
        match ws.decoder.decode_whole(ws.frames) {
            Ok(WebSocketDecoded::Data(data)) if data.is_whole() => {
                let (body, rest) = ws.frames.split_at(data.body.end);
                ws.frames = rest;
                self.taken += 1;
                let message = Message::of(self.chunk, &body[data.body.start..], self.lease);
                Some(message.as_text(data.text))
            }
            other => {
                ws.other = Some(other);
                None
            }
        }
    }

    /// Messages taken.
    pub(crate) fn taken(&self) -> u64 {
        self.taken
    }

    /// Bytes not taken.
    pub(crate) fn left(&self) -> usize {
        self.bytes.len()
    }

    /// Why what is left can never be a message.
    pub(crate) fn bad(self) -> Option<FrameError> {
        self.bad
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    #[inline]
    fn next(&mut self) -> Option<Message<'a>> {
        if self.stop.get() {
            return None;
        }
        match self.codec.decode(self.bytes) {
            Decoded::Frame { body, consumed } => {
                self.bytes = &self.bytes[consumed..];
                self.taken += 1;
                Some(Message::of(self.chunk, body, self.lease))
            }
            #[cfg(feature = "ws")]
            Decoded::Incomplete { .. } => self.next_in_frames(),
            #[cfg(not(feature = "ws"))]
            Decoded::Incomplete { .. } => None,
            Decoded::Invalid(error) => {
                self.bad = Some(error);
                None
            }
        }
    }
}

impl fmt::Debug for Messages<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Messages({} bytes left)", self.left())
    }
}

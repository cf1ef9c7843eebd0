//! [`Messages`]: what one read of a connection brought.

use std::cell::Cell;
use std::fmt;
use std::ops::Range;
use std::rc::Rc;

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

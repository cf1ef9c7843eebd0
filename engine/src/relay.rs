//! [`Relay`]: bytes of somebody else's memory that go out as they stand there: frames that were
//! received ([`Context::forward`]) and frames that many connections are sent
//! ([`Context::broadcast`]).
//!
//! A connection has at most one, and it goes before everything in its send queue: so it is begun
//! only where nothing waits. What the socket does not take of it is copied, so that a slow peer
//! never holds the memory.
//!
//! [`Context::forward`]: crate::Context::forward
//! [`Context::broadcast`]: crate::Context::broadcast

use std::ops::Range;
use std::rc::Rc;

use crate::body::{Chunk, Message};
use crate::connection::{Connection, State};
use crate::send_queue::BufferPool;
use crate::wire::Wire;

/// See the module's page.
pub(crate) struct Relay {
    chunk: Rc<Chunk>,
    start: usize,
    end: usize,
}

impl Relay {
    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.chunk.bytes()[self.start..self.end]
    }

    /// The first `bytes` were taken; true if that was all.
    #[cfg(feature = "tls")]
    pub(crate) fn advance(&mut self, bytes: usize) -> bool {
        self.start += bytes;
        self.start == self.end
    }
}

impl Connection {
    /// `message` with its header in this connection's framing, if it stands so in its chunk.
    #[inline]
    pub(crate) fn frame_of(&self, message: &Message<'_>) -> Option<Range<usize>> {
        let length = message.len() as u32;
        match self.wire {
            Wire::Be32 => message.with_header(length.to_be_bytes()),
            Wire::Le32 => message.with_header(length.to_le_bytes()),
            Wire::Raw => message.with_header([]),
            #[cfg(feature = "ws")]
            Wire::WebSocket(_) => None, // what was received stands in the peer's frames
        }
    }

    /// Sends `frame` of a received `chunk` on without copying it, if it continues what is being
    /// relayed or nothing else waits, and that is at most `most` bytes; says whether it did. Not
    /// while a write is pending: it would keep the chunk for as long as the peer does not read.
    #[inline]
    pub(crate) fn relay(&mut self, chunk: &Rc<Chunk>, frame: Range<usize>, most: usize) -> bool {
        if self.state != State::Open || self.held.is_some() || self.out.bytes() > 0 {
            return false;
        }
        match &mut self.relay {
            Some(relay) => {
                let goes_on = relay.end == frame.start && Rc::ptr_eq(&relay.chunk, chunk);
                if goes_on && frame.end - relay.start <= most {
                    relay.end = frame.end;
                    return true;
                }
                false
            }
            None => {
                let fits = frame.len() <= most && !self.blocked;
                if fits {
                    self.relay = Some(Relay {
                        chunk: Rc::clone(chunk),
                        start: frame.start,
                        end: frame.end,
                    });
                }
                fits
            }
        }
    }

    /// Begins to send all of `chunk`, which is a frame in this connection's framing, if nothing
    /// waits; says whether it did.
    #[inline]
    pub(crate) fn relay_frame(&mut self, chunk: &Rc<Chunk>) -> bool {
        let is_first = chunk.len() > 0
            && self.state == State::Open
            && self.relay.is_none()
            && self.out.bytes() == 0
            && self.held.is_none()
            && !self.blocked;
        if is_first {
            self.relay = Some(Relay {
                chunk: Rc::clone(chunk),
                start: 0,
                end: chunk.len(),
            });
        }
        is_first
    }

    /// What the queue may hold if that and what is relayed are to be at most `most` bytes.
    #[inline]
    pub(crate) fn most_behind_relay(&self, most: usize) -> usize {
        match &self.relay {
            None => most,
            Some(relay) => most.saturating_sub(relay.end - relay.start),
        }
    }

    /// Bytes that are being relayed.
    pub(crate) fn relayed(&self) -> usize {
        self.relay
            .as_ref()
            .map_or(0, |relay| relay.end - relay.start)
    }

    /// Copies what is being relayed to the front of the send queue, so that its chunk is free.
    pub(crate) fn queue_relay(&mut self, written: usize, buffers: &mut BufferPool) {
        if let Some(relay) = self.relay.take() {
            self.out.prepend(&relay.bytes()[written..], buffers);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::Lease;
    use crate::handler::{Origin, Peer};
    use crate::limits::Overflow;
    use crate::router_id::RouterId;

    #[test]
    fn what_follows_is_relayed_too_and_nothing_else() {
        let peer = Peer {
            address: None,
            origin: Origin::Accepted { listener: 0 },
        };
        let mut connection = Connection::new(RouterId::NONE, Wire::Be32, Overflow::default(), peer);
        let chunk = Chunk::of(b"\0\0\0\x02ab\0\0\0\x02cd".to_vec().into());
        for (start, relayed) in [(4, 6), (10, 12)] {
            let message = Message::new(&chunk, start..start + 2, Lease::Chunk);
            let frame = connection.frame_of(&message).unwrap();
            assert!(connection.relay(&chunk, frame, 12));
            assert_eq!((connection.relayed(), connection.out.bytes()), (relayed, 0));
        }
        let again = Message::new(&chunk, 4..6, Lease::Chunk);
        let frame = connection.frame_of(&again).unwrap();
        assert!(!connection.relay(&chunk, frame, 100), "it comes before");
        assert!(!connection.relay_frame(&chunk), "something is under way");
        assert_eq!(connection.most_behind_relay(20), 8);
    }
}

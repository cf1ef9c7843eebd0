//! [`Relay`]: bytes of somebody else's memory that go out as they stand there: frames that were
//! received ([`Context::forward`], [`Context::forward_behind`]) and frames that many connections
//! are sent ([`Context::broadcast`]).
//!
//! A connection has at most one, and it goes before everything in its send queue: so it is begun
//! only where nothing waits. What the socket does not take of it is copied, so that a slow peer
//! never holds the memory.
//!
//! [`Context::forward`]: crate::Context::forward
//! [`Context::forward_behind`]: crate::Context::forward_behind
//! [`Context::broadcast`]: crate::Context::broadcast

use std::io::IoSlice;
use std::ops::Range;
use std::rc::Rc;

use crate::body::{Chunk, Spot};
use crate::connection::{Connection, State};
use crate::send_queue::{BufferPool, PARTS_MAX};
use crate::wire::Wire;

/// Pieces of one relay, so that they and what is behind them make one write.
const PIECES_MAX: u8 = 24;

const _: () = assert!(2 * (PIECES_MAX as usize) < PARTS_MAX);

/// See the module's page.
pub(crate) struct Relay {
    chunk: Rc<Chunk>,
    start: usize,
    end: usize,
    /// Other pieces, which go first, and what goes between them and the chunk's bytes.
    before: Option<Box<Before>>,
}

struct Before {
    relay: Option<Relay>,
    head: Box<[u8]>,
    /// Bytes of both.
    len: usize,
    /// Pieces so far, this one included.
    pieces: u8,
}

impl Relay {
    /// Of a chunk's bytes alone.
    #[inline]
    fn new(chunk: &Rc<Chunk>, range: Range<usize>) -> Self {
        Self {
            chunk: Rc::clone(chunk),
            start: range.start,
            end: range.end,
            before: None,
        }
    }

    /// The chunk's bytes: all, unless there are heads.
    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.chunk.bytes()[self.start..self.end]
    }

    /// Everything, if it is in one piece.
    #[inline]
    pub(crate) fn single(&self) -> Option<&[u8]> {
        self.before.is_none().then(|| self.bytes())
    }

    /// Bytes of all pieces and heads.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.end - self.start + self.before.as_ref().map_or(0, |before| before.len)
    }

    fn pieces(&self) -> u8 {
        self.before.as_ref().map_or(1, |before| before.pieces)
    }

    /// Everything in order, from `parts[0]` on; returns how many parts that are.
    #[inline]
    pub(crate) fn parts<'a>(&'a self, parts: &mut [IoSlice<'a>; PARTS_MAX]) -> usize {
        let mut count = match &self.before {
            Some(before) => before.parts(parts),
            None => 0,
        };
        parts[count] = IoSlice::new(self.bytes());
        count += 1;
        count
    }

    /// The first `bytes` were taken; true if that was all.
    #[cfg(feature = "tls")]
    pub(crate) fn advance(&mut self, bytes: usize) -> bool {
        debug_assert!(self.before.is_none(), "heads are for bare connections");
        self.start += bytes;
        self.start == self.end
    }
}

impl Before {
    fn parts<'a>(&'a self, parts: &mut [IoSlice<'a>; PARTS_MAX]) -> usize {
        let count = self.relay.as_ref().map_or(0, |relay| relay.parts(parts));
        parts[count] = IoSlice::new(&self.head);
        count + 1
    }
}

impl Connection {
    /// A message with its header in this connection's framing, if it stands so in its chunk.
    #[inline]
    pub(crate) fn frame_of(&self, spot: &Spot<'_>) -> Option<Range<usize>> {
        let length = spot.len() as u32;
        match self.wire {
            Wire::Be32 => spot.with_header(length.to_be_bytes()),
            Wire::Le32 => spot.with_header(length.to_le_bytes()),
            Wire::Raw => spot.with_header([]),
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
                if goes_on && relay.len() + (frame.end - frame.start) <= most {
                    relay.end = frame.end;
                    return true;
                }
                false
            }
            None => {
                let fits = frame.end - frame.start <= most && !self.blocked;
                if fits {
                    self.relay = Some(Relay::new(chunk, frame));
                }
                fits
            }
        }
    }

    /// Whether `bytes` more can be relayed behind a head: they follow what is being relayed or
    /// nothing else waits, and all that is at most `most` bytes. For connections without framing
    /// and layers.
    pub(crate) fn relays_behind(&self, bytes: usize, most: usize) -> bool {
        let is_bare = self.wire == Wire::Raw && self.layers.is_none();
        let waits = self.out.bytes() > 0 || self.blocked || self.held.is_some();
        let pieces = self.relay.as_ref().map_or(0, Relay::pieces);
        is_bare
            && self.state == State::Open
            && !waits
            && pieces < PIECES_MAX
            && self.relayed() + bytes <= most
    }

    /// Sends `head` and behind it the bytes `range` of a `chunk` without copying these, if
    /// [`relays_behind`](Self::relays_behind) allows that; says whether it did.
    pub(crate) fn relay_behind(
        &mut self,
        head: Box<[u8]>,
        chunk: &Rc<Chunk>,
        range: Range<usize>,
        most: usize,
    ) -> bool {
        if !self.relays_behind(head.len() + range.len(), most) {
            return false;
        }
        let before = Before {
            len: self.relayed() + head.len(),
            pieces: self.relay.as_ref().map_or(0, Relay::pieces) + 1,
            relay: self.relay.take(),
            head,
        };
        self.relay = Some(Relay {
            before: Some(Box::new(before)),
            ..Relay::new(chunk, range)
        });
        true
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
            self.relay = Some(Relay::new(chunk, 0..chunk.len()));
        }
        is_first
    }

    /// What the queue may hold if that and what is relayed are to be at most `most` bytes.
    #[inline]
    pub(crate) fn most_behind_relay(&self, most: usize) -> usize {
        match &self.relay {
            None => most,
            Some(relay) => most.saturating_sub(relay.len()),
        }
    }

    /// Bytes that are being relayed.
    pub(crate) fn relayed(&self) -> usize {
        self.relay.as_ref().map_or(0, Relay::len)
    }

    /// Copies what is being relayed to the front of the send queue, so that its chunk is free.
    pub(crate) fn queue_relay(&mut self, written: usize, buffers: &mut BufferPool) {
        if let Some(relay) = self.relay.take() {
            let mut parts = [IoSlice::new(&[]); PARTS_MAX];
            let count = relay.parts(&mut parts);
            let mut unwritten = &mut parts[..count];
            IoSlice::advance_slices(&mut unwritten, written);
            self.out.prepend(unwritten, buffers);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::{Lease, Message};
    use crate::handler::{Origin, Peer};
    use crate::limits::Overflow;
    use crate::router_id::RouterId;

    fn connection(wire: Wire) -> Connection {
        let peer = Peer {
            address: None,
            origin: Origin::Accepted { listener: 0 },
        };
        Connection::new(RouterId::NONE, wire, Overflow::default(), peer)
    }

    fn behind(
        connection: &mut Connection,
        head: &[u8],
        chunk: &Rc<Chunk>,
        range: Range<usize>,
        most: usize,
    ) -> bool {
        connection.relay_behind(head.into(), chunk, range, most)
    }

    #[test]
    fn what_follows_is_relayed_too_and_nothing_else() {
        let mut connection = connection(Wire::Be32);
        let chunk = Chunk::of(b"\0\0\0\x02ab\0\0\0\x02cd".to_vec().into());
        for (start, relayed) in [(4, 6), (10, 12)] {
            let message = Message::new(&chunk, start..start + 2, Lease::Chunk);
            let frame = connection.frame_of(&message.spot()).unwrap();
            assert_eq!(frame, start - 4..start + 2);
            assert!(connection.relay(&chunk, frame, 12));
            assert_eq!((connection.relayed(), connection.out.bytes()), (relayed, 0));
        }
        let again = Message::new(&chunk, 4..6, Lease::Chunk);
        let frame = connection.frame_of(&again.spot()).unwrap();
        assert!(!connection.relay(&chunk, frame, 100), "it comes before");
        assert!(!connection.relay_frame(&chunk), "something is under way");
        assert_eq!(connection.most_behind_relay(20), 8);
        let framed = behind(&mut connection, b"head", &chunk, 4..6, 100);
        assert!(!framed, "heads are an embedder's own framing");
    }

    /// What a relay would write, and what it puts into the queue if `written` bytes have gone.
    #[test]
    fn pieces_leave_in_order_behind_their_heads_however_much_is_taken() {
        let first = Chunk::of(b"0123456789".as_slice().into());
        let second = Chunk::of(b"abcdef".as_slice().into());
        let whole = b"<1>0123<22>6789abcdef";
        for written in 0..whole.len() {
            let mut connection = connection(Wire::Raw);
            let mut pool = BufferPool::new(1 << 20);
            assert!(behind(&mut connection, b"<1>", &first, 0..4, 100));
            assert!(
                !behind(&mut connection, b"<22>", &first, 6..10, 14),
                "7 and 8"
            );
            assert!(behind(&mut connection, b"<22>", &first, 6..10, 15));
            assert!(!connection.relay(&second, 0..6, 100), "not what follows");
            assert!(behind(&mut connection, b"", &second, 0..6, 100));
            assert_eq!(connection.relayed(), whole.len());
            assert_eq!(
                (Rc::strong_count(&first), Rc::strong_count(&second)),
                (3, 2)
            );
            let mut parts = [IoSlice::new(&[]); PARTS_MAX];
            let count = connection
                .relay
                .as_ref()
                .map_or(0, |relay| relay.parts(&mut parts));
            let all: Vec<u8> = parts[..count]
                .iter()
                .flat_map(|part| part.to_vec())
                .collect();
            assert_eq!(all, whole);
            connection.queue_relay(written, &mut pool);
            assert!(connection.relay.is_none());
            assert_eq!(
                (Rc::strong_count(&first), Rc::strong_count(&second)),
                (1, 1)
            );
            assert!(connection.out.fill());
            assert_eq!(connection.out.single(), Some(&whole[written..]));
            assert!(
                !behind(&mut connection, b"<3>", &second, 0..6, 100),
                "it comes before"
            );
        }
    }

    #[test]
    fn pieces_are_as_many_as_one_write_takes() {
        let mut connection = connection(Wire::Raw);
        let chunk = Chunk::of(b"body".as_slice().into());
        let taken = (0..100).take_while(|_| behind(&mut connection, b"head", &chunk, 0..4, 10_000));
        assert_eq!(taken.count(), usize::from(PIECES_MAX));
        assert_eq!(connection.relayed(), 8 * usize::from(PIECES_MAX));
    }
}

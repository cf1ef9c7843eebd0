//! What a handler leaves of the bytes of a connection without framing: the beginning of a long
//! message, which stands where it was received while the next read goes on behind it.
//!
//! There is one such beginning at a time, of the connection that was read last. When the next
//! bytes are another connection's, it is kept like any incomplete frame; when its rest would not
//! fit behind it, or somebody has leased the chunk, it moves to the front of a chunk.

use std::ops::Range;
use std::rc::Rc;

use super::Shard;
use super::core::Core;
use crate::connection::State;
use crate::driver::Driver;
use crate::handler::Handler;
use crate::router_id::RouterId;

/// Bytes of a connection that stay in the receive chunk: `start..end`. There will be `needs` of
/// them, which are more, and no more than a chunk has.
#[derive(Debug)]
pub(super) struct Left {
    slot: u32,
    id: RouterId,
    start: usize,
    end: usize,
    needs: usize,
}

/// What the handler said during a call.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum Rest {
    /// It may not: the bytes are not in the receive chunk, or not the connection's own.
    #[default]
    Refused,
    Allowed,
    /// So many bytes at the end, which are worth looking at when there are so many.
    Asked {
        bytes: usize,
        needs: usize,
    },
}

impl<P> Core<P> {
    /// See `Context::leave`.
    pub(crate) fn leave(&mut self, from: RouterId, bytes: usize, needs: usize) -> bool {
        let is_current = self
            .connections
            .get(self.current)
            .is_some_and(|connection| connection.id == from);
        let allowed = !matches!(self.rest, Rest::Refused);
        let fits = bytes < needs && needs <= self.limits.receive_chunk;
        if !is_current || !allowed || !fits {
            return false;
        }
        self.rest = Rest::Asked { bytes, needs };
        true
    }
}

impl<D: Driver, H: Handler> Shard<D, H> {
    /// Where in the chunk the next read begins.
    #[inline]
    pub(super) fn read_at(&self) -> usize {
        self.left.as_ref().map_or(0, |left| left.end)
    }

    /// The chunk is about to be read into: sees to it that there is room behind what was left.
    pub(super) fn make_room_behind_left(&mut self) {
        let Some(left) = &mut self.left else { return };
        let range = left.start..left.end;
        if Rc::strong_count(&self.chunk) > 1 {
            let old = Rc::clone(&self.chunk);
            self.chunks.replace(&mut self.chunk);
            if let Some(chunk) = Rc::get_mut(&mut self.chunk) {
                chunk.bytes_mut()[..range.len()].copy_from_slice(&old.bytes()[range.clone()]);
            }
        } else if left.start + left.needs > self.chunk.len()
            && let Some(chunk) = Rc::get_mut(&mut self.chunk)
        {
            chunk.bytes_mut().copy_within(range.clone(), 0);
        } else {
            return;
        }
        (left.start, left.end) = (0, range.len());
    }

    /// `len` bytes of `slot` were received behind what was left: where they are to be dispatched,
    /// that included if it is the same connection's.
    pub(super) fn place_received(&mut self, slot: u32, len: usize) -> Range<usize> {
        let Some(left) = &self.left else {
            return 0..len;
        };
        let connection = self.core.connections.get(slot);
        if left.slot == slot && connection.is_some_and(|connection| connection.id == left.id) {
            let range = left.start..left.end + len;
            self.left = None;
            return range;
        }
        let at = left.end;
        self.keep_left();
        if let Some(chunk) = Rc::get_mut(&mut self.chunk) {
            chunk.bytes_mut().copy_within(at..at + len, 0);
        }
        0..len
    }

    /// What was left goes into memory of its own.
    pub(super) fn keep_left(&mut self) {
        let Some(left) = self.left.take() else { return };
        let connection = self.core.connections.get(left.slot);
        if connection.is_some_and(|connection| connection.id == left.id) {
            let bytes = &self.chunk.bytes()[left.start..left.end];
            self.core.keep(left.slot, bytes);
        }
    }

    /// The handler was told of what is in `range` of the chunk: notes what it leaves of that.
    pub(super) fn note_left(&mut self, slot: u32, id: RouterId, range: &Range<usize>) {
        let core = &mut self.core;
        let Rest::Asked { bytes, needs } = std::mem::take(&mut core.rest) else {
            return;
        };
        let goes_on = core.connections.get(slot).is_some_and(|connection| {
            connection.id == id && connection.state == State::Open && connection.ending.is_none()
        });
        let bytes = bytes.min(range.len());
        if goes_on && bytes > 0 {
            self.left = Some(Left {
                slot,
                id,
                start: range.end - bytes,
                end: range.end,
                needs,
            });
        }
    }
}

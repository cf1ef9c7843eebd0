//! [`Outbox`]: messages that wait for one link, already as bytes.
//!
//! Messages are put together into chunks, so that a backlog leaves in few large writes, and chunks
//! that have left become those that follow; long shared payloads are segments of their own.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

/// A chunk is closed when it has so many bytes.
const CHUNK: usize = 64 * 1024;
/// Room behind that, for the message that closes it.
const SPARE: usize = 16 * 1024 + 256;
/// So many chunks that have left are kept for those to come: what the engine's send queue holds,
/// and some.
const SPENT_MAX: usize = 32;

/// Bytes that leave together.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) bytes: Bytes,
    /// Messages that end in it.
    messages: usize,
    /// Its memory can become another chunk.
    is_chunk: bool,
}

/// See the module's page.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    segments: VecDeque<Segment>,
    /// The chunk that is being filled, behind all segments.
    open: BytesMut,
    open_messages: usize,
    messages: usize,
    bytes: usize,
    /// Chunks that have left. A backlog of megabytes that comes from the allocator and goes back
    /// to it, chunk by chunk, costs more than its copies.
    spent: VecDeque<Bytes>,
}

impl Outbox {
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Messages whose end waits.
    pub(crate) fn messages(&self) -> usize {
        self.messages
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether a message of `bytes` more fits within the bounds.
    pub(crate) fn has_room(&self, bytes: usize, messages_max: usize, bytes_max: usize) -> bool {
        self.bytes == 0 || (self.messages < messages_max && self.bytes + bytes <= bytes_max)
    }

    /// Appends `lead` bytes that `write` fills in, and a copy of `rest`; `messages` end with them.
    pub(crate) fn push_with(
        &mut self,
        lead: usize,
        write: impl FnOnce(&mut [u8]),
        rest: &[u8],
        messages: usize,
    ) {
        self.make_room(lead + rest.len().min(CHUNK));
        let at = self.open.len();
        self.open.resize(at + lead, 0);
        write(&mut self.open[at..]);
        self.count(lead + rest.len(), messages);
        let mut rest = rest;
        // A long one fills several chunks.
        while self.open.len() + rest.len() > CHUNK + SPARE {
            let (part, more) = rest.split_at(rest.len().min(CHUNK.saturating_sub(self.open.len())));
            self.open.extend_from_slice(part);
            rest = more;
            self.seal();
            self.make_room(rest.len().min(CHUNK));
        }
        self.open.extend_from_slice(rest);
        self.open_messages += messages;
        if self.open.len() >= CHUNK {
            self.seal();
        }
    }

    /// Sees to it that `bytes` more have room in the open chunk without moving it, as a rule.
    #[inline]
    fn make_room(&mut self, bytes: usize) {
        if self.open.capacity() - self.open.len() < bytes {
            self.make_room_slowly(bytes);
        }
    }

    #[cold]
    fn make_room_slowly(&mut self, bytes: usize) {
        if !self.open.is_empty() {
            // The first chunk of a backlog grows as it is filled: most backlogs are short.
            return self.open.reserve(bytes);
        }
        if let Some(spent) = self.spent.pop_front() {
            match spent.try_into_mut() {
                Ok(mut chunk) if chunk.capacity() >= CHUNK + SPARE => {
                    chunk.clear();
                    self.open = chunk;
                    return;
                }
                Ok(_) => {}
                // The engine has not written it yet.
                Err(spent) => self.spent.push_front(spent),
            }
        }
        let whole = bytes >= CHUNK / 2 || !self.segments.is_empty();
        let room = if whole {
            CHUNK + SPARE
        } else {
            bytes.max(1024)
        };
        self.open = BytesMut::with_capacity(room);
    }

    /// Appends bytes without copying them; `messages` end with them.
    pub(crate) fn push_shared(&mut self, bytes: Bytes, messages: usize) {
        self.seal();
        self.count(bytes.len(), messages);
        self.segments.push_back(Segment {
            bytes,
            messages,
            is_chunk: false,
        });
    }

    fn count(&mut self, bytes: usize, messages: usize) {
        self.bytes += bytes;
        self.messages += messages;
    }

    fn seal(&mut self) {
        if !self.open.is_empty() {
            let is_chunk = self.open.capacity() >= CHUNK + SPARE;
            let bytes = std::mem::take(&mut self.open).freeze();
            let messages = std::mem::take(&mut self.open_messages);
            self.segments.push_back(Segment {
                bytes,
                messages,
                is_chunk,
            });
        }
    }

    /// The bytes that leave next.
    pub(crate) fn front(&mut self) -> Option<&Segment> {
        if self.segments.is_empty() {
            self.seal();
        }
        self.segments.front()
    }

    /// The front has left.
    pub(crate) fn pop(&mut self) {
        if let Some(segment) = self.segments.pop_front() {
            self.bytes -= segment.bytes.len();
            self.messages -= segment.messages;
            if segment.is_chunk && self.spent.len() < SPENT_MAX {
                self.spent.push_back(segment.bytes);
            }
        }
    }

    /// Gives memory back that only a backlog needs, if there is none.
    pub(crate) fn rest(&mut self) {
        if self.is_empty() {
            *self = Self::default();
        }
    }

    /// Cuts the front, so that at most `len` bytes leave next.
    pub(crate) fn split_front(&mut self, len: usize) {
        if let Some(segment) = self.segments.front_mut()
            && len < segment.bytes.len()
        {
            let bytes = segment.bytes.split_to(len);
            segment.is_chunk = false;
            let first = Segment {
                bytes,
                messages: 0,
                is_chunk: false,
            };
            self.segments.push_front(first);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_goes_in_comes_out_in_order_and_is_counted(
            pushes in proptest::collection::vec((any::<bool>(), 1..200_000_usize), 0..12),
            cut in 1..70_000_usize,
        ) {
            let mut outbox = Outbox::default();
            let mut model = Vec::new();
            for (number, &(shared, len)) in pushes.iter().enumerate() {
                let bytes = vec![number as u8; len];
                model.extend_from_slice(&bytes);
                if shared {
                    outbox.push_shared(Bytes::from(bytes), 1);
                } else {
                    let (lead, rest) = bytes.split_at(len.min(30));
                    outbox.push_with(lead.len(), |room| room.copy_from_slice(lead), rest, 1);
                }
                prop_assert_eq!((outbox.bytes(), outbox.messages()), (model.len(), number + 1));
            }
            let mut out = Vec::new();
            while let Some(segment) = outbox.front() {
                if segment.bytes.len() > cut {
                    outbox.split_front(cut);
                    continue;
                }
                out.extend_from_slice(&segment.bytes);
                outbox.pop();
                prop_assert_eq!(outbox.bytes(), model.len() - out.len());
            }
            prop_assert_eq!(out, model);
            prop_assert_eq!((outbox.messages(), outbox.is_empty()), (0, true));
        }
    }

    #[test]
    fn an_empty_queue_takes_one_message_of_any_length() {
        let mut outbox = Outbox::default();
        assert!(outbox.has_room(1000, 2, 100));
        outbox.push_with(10, |_| {}, &[], 1);
        assert!(outbox.has_room(90, 2, 100) && !outbox.has_room(91, 2, 100));
        outbox.push_with(10, |_| {}, &[], 1);
        assert!(!outbox.has_room(1, 2, 100), "two messages are the most");
    }

    #[test]
    fn a_long_backlog_uses_the_memory_of_what_has_left() {
        let mut outbox = Outbox::default();
        let mut seen = Vec::new();
        for turn in 0..100 {
            for _ in 0..80 {
                outbox.push_with(24, |room| room.fill(1), &[turn; 1000], 1);
            }
            // One chunk more than that leaves, and the engine has written it.
            let Some(front) = outbox.front() else { break };
            let at = front.bytes.as_ptr().addr();
            outbox.pop();
            if turn > 10 {
                seen.push(at);
            }
        }
        let count = seen.len();
        seen.sort_unstable();
        seen.dedup();
        assert!(seen.len() < count, "{count} chunks, none of them twice");
        while outbox.front().is_some() {
            outbox.pop();
        }
        assert_eq!((outbox.bytes(), outbox.messages()), (0, 0));
        assert!(!outbox.spent.is_empty() && outbox.spent.len() <= SPENT_MAX);
        outbox.rest();
        assert!(outbox.spent.is_empty());
    }

    #[test]
    fn what_the_engine_still_holds_is_not_written_over() {
        let mut outbox = Outbox::default();
        let mut held = Vec::new();
        for turn in 0..50_u8 {
            for _ in 0..70 {
                outbox.push_with(0, |_| {}, &[turn; 1000], 1);
            }
            if let Some(front) = outbox.front() {
                held.push((front.bytes.clone(), front.bytes.to_vec()));
                outbox.pop();
            }
        }
        assert!(held.iter().all(|(shared, copy)| shared == copy));
    }
}

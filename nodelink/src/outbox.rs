//! [`Outbox`]: messages that wait for one link, already as bytes.
//!
//! Short messages are put together into chunks, so that a backlog leaves in few large writes;
//! long payloads are segments of their own and not copied again.

use std::collections::VecDeque;

use bytes::Bytes;

/// A chunk of short messages is closed when it has so many bytes.
const CHUNK: usize = 64 * 1024;

/// Bytes that leave together.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) bytes: Bytes,
    /// Messages that end in it.
    messages: usize,
}

/// See the module's page.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    segments: VecDeque<Segment>,
    /// The chunk that is being filled, behind all segments.
    open: Vec<u8>,
    open_messages: usize,
    messages: usize,
    bytes: usize,
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

    /// Appends `len` bytes that `write` fills in; `messages` end with them.
    pub(crate) fn push_with(&mut self, len: usize, messages: usize, write: impl FnOnce(&mut [u8])) {
        let at = self.open.len();
        self.open.resize(at + len, 0);
        write(&mut self.open[at..]);
        self.count(len, messages);
        self.open_messages += messages;
        if self.open.len() >= CHUNK {
            self.seal();
        }
    }

    /// Appends bytes without copying them; `messages` end with them.
    pub(crate) fn push_shared(&mut self, bytes: Bytes, messages: usize) {
        self.seal();
        self.count(bytes.len(), messages);
        self.segments.push_back(Segment { bytes, messages });
    }

    fn count(&mut self, bytes: usize, messages: usize) {
        self.bytes += bytes;
        self.messages += messages;
    }

    fn seal(&mut self) {
        if !self.open.is_empty() {
            let bytes = Bytes::from(std::mem::take(&mut self.open));
            let messages = std::mem::take(&mut self.open_messages);
            self.segments.push_back(Segment { bytes, messages });
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
        }
    }

    /// Cuts the front, so that at most `len` bytes leave next.
    pub(crate) fn split_front(&mut self, len: usize) {
        if let Some(segment) = self.segments.front_mut()
            && len < segment.bytes.len()
        {
            let bytes = segment.bytes.split_to(len);
            let first = Segment { bytes, messages: 0 };
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
            pushes in proptest::collection::vec((any::<bool>(), 1..90_000_usize), 0..12),
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
                    outbox.push_with(len, 1, |room| room.copy_from_slice(&bytes));
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
        outbox.push_with(10, 1, |_| {});
        assert!(outbox.has_room(90, 2, 100) && !outbox.has_room(91, 2, 100));
        outbox.push_with(10, 1, |_| {});
        assert!(!outbox.has_room(1, 2, 100), "two messages are the most");
    }
}

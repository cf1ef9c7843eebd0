//! The send queue of one connection: `main` collects while `flush` is being written.
//!
//! ```text
//! send ─► main ──swap──► flush ─► one write in flight, re-entered until empty
//!          └─ a shared body closes main: [main][shared][main][shared] … wait in `chain`
//! ```
//!
//! Buffers are leased from the shard's pool when the first byte comes and go back when the last
//! one is written: a connection that has nothing to say holds no memory. Short bodies are copied
//! into `main`; long shared ones (`send_shared`) wait as reference-counted segments in order.
//! Bounds are the caller's (`Core::admit_slowly`); the queue only counts its bytes.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf as _, Bytes};

use crate::pool::{Pool, size_for};
#[cfg(feature = "ws")]
use crate::wire::{HEAD_MAX, Head};

/// Shared bodies below this many bytes are copied: a segment of their own costs more.
pub(crate) const SHARED_MIN: usize = 4096;
/// Parts of one vectored write.
pub(crate) const PARTS_MAX: usize = 64;

pub(crate) type BufferPool = Pool<Box<[u8]>>;

/// A leased buffer: bytes `start..end` are waiting.
#[derive(Debug)]
struct Buffer {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Buffer {
    fn lease(pool: &mut BufferPool, bytes: usize) -> Self {
        Self {
            bytes: pool.lease(bytes),
            start: 0,
            end: 0,
        }
    }

    #[inline]
    fn room(&self) -> usize {
        self.bytes.len() - self.end
    }

    #[inline]
    fn waiting(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// The next `bytes` of the room, counted as waiting.
    #[inline]
    fn take(&mut self, bytes: usize) -> &mut [u8] {
        let room = &mut self.bytes[self.end..self.end + bytes];
        self.end += bytes;
        room
    }
}

#[derive(Debug)]
enum Segment {
    Copied(Buffer),
    Shared(Bytes),
}

/// See the module's page.
#[derive(Debug, Default)]
pub(crate) struct SendQueue {
    main: Option<Buffer>,
    flush: Option<Buffer>,
    /// Only connections that were sent shared bodies have one.
    #[expect(
        clippy::box_collection,
        reason = "one word in every connection instead of four"
    )]
    chain: Option<Box<VecDeque<Segment>>>,
    bytes: usize,
    /// Size that `main` last needed, so that the next lease fits at once.
    hint: usize,
}

impl SendQueue {
    /// Bytes that wait, headers included.
    #[inline]
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Appends a copy of `header` and `body`; returns how many bytes that are.
    #[inline]
    pub(crate) fn push<const H: usize>(
        &mut self,
        header: &[u8; H],
        body: &[u8],
        pool: &mut BufferPool,
    ) -> usize {
        let need = H + body.len();
        let room = self.room_for(need, pool).take(need);
        room[..H].copy_from_slice(header);
        room[H..].copy_from_slice(body);
        self.bytes += need;
        need
    }

    /// Appends a copy of `header` and `body` if the leased buffer has room for it and the queue
    /// then holds at most `most` bytes: what nearly every push finds.
    #[inline]
    pub(crate) fn push_within(&mut self, header: [u8; 4], body: &[u8], most: usize) -> bool {
        let need = header.len() + body.len();
        if self.bytes + need <= most
            && let Some(main) = &mut self.main
            && let Some(room) = main.bytes.get_mut(main.end..main.end + need)
            && let Some((head, rest)) = room.split_first_chunk_mut()
        {
            *head = header;
            rest.copy_from_slice(body);
            main.end += need;
            self.bytes += need;
            return true;
        }
        false
    }

    /// [`push_within`](Self::push_within) for a body of at most `max` bytes that `encode` writes;
    /// returns its length, or gives `encode` back.
    #[inline]
    pub(crate) fn push_with_within<E: FnOnce(&mut [u8]) -> usize>(
        &mut self,
        max: usize,
        header: impl FnOnce(u32) -> [u8; 4],
        encode: E,
        most: usize,
    ) -> Result<usize, E> {
        if self.bytes + 4 + max <= most
            && let Some(main) = &mut self.main
            && let Some(room) = main.bytes.get_mut(main.end..main.end + 4 + max)
            && let Some((head, rest)) = room.split_first_chunk_mut()
        {
            let length = encode(rest);
            assert!(
                length <= max,
                "send_with: {length} bytes written into a room of {max}"
            );
            *head = header(length as u32);
            main.end += 4 + length;
            self.bytes += 4 + length;
            return Ok(length);
        }
        Err(encode)
    }

    /// [`push_within`](Self::push_within) for a message of a WebSocket; returns how many bytes
    /// were appended, 0 if none.
    #[cfg(feature = "ws")]
    #[inline]
    pub(crate) fn push_head_within(&mut self, head: &Head, body: &[u8], most: usize) -> usize {
        let need = head.len + body.len();
        if self.bytes + need <= most
            && let Some(main) = &mut self.main
            // A little more than needed, so that the copy of the head has a fixed length.
            && let Some(room) = main.bytes.get_mut(main.end..main.end + need.max(HEAD_MAX))
            && let Some(front) = room.first_chunk_mut()
        {
            *front = head.bytes;
            room[head.len..need].copy_from_slice(body);
            head.mask(&mut room[..need]);
            main.end += need;
            self.bytes += need;
            return need;
        }
        0
    }

    /// Appends a message of a WebSocket; returns how many bytes that are.
    #[cfg(feature = "ws")]
    pub(crate) fn push_head(&mut self, head: &Head, body: &[u8], pool: &mut BufferPool) -> usize {
        let need = head.len + body.len();
        let room = self.room_for(need, pool).take(need);
        room[..head.len].copy_from_slice(&head.bytes[..head.len]);
        room[head.len..].copy_from_slice(body);
        head.mask(room);
        self.bytes += need;
        need
    }

    /// [`push_with`](Self::push_with) for a message of a WebSocket, whose head has at most
    /// `head_max` bytes.
    #[cfg(feature = "ws")]
    pub(crate) fn push_head_with(
        &mut self,
        (head_max, max): (usize, usize),
        pool: &mut BufferPool,
        encode: impl FnOnce(&mut [u8]) -> usize,
        head: impl FnOnce(usize) -> Head,
    ) -> (usize, usize) {
        let main = self.room_for(head_max + max, pool);
        let room = main.take(head_max + max);
        let length = encode(&mut room[head_max..]);
        assert!(
            length <= max,
            "send_with: {length} bytes written into a room of {max}"
        );
        let head = head(length);
        if head.len < head_max {
            room.copy_within(head_max..head_max + length, head.len);
        }
        room[..head.len].copy_from_slice(&head.bytes[..head.len]);
        let need = head.len + length;
        head.mask(&mut room[..need]);
        main.end -= head_max + max - need;
        self.bytes += need;
        (length, need)
    }

    /// Puts a copy of `parts` before everything that waits. Nothing may be half written.
    pub(crate) fn prepend(&mut self, parts: &[IoSlice<'_>], pool: &mut BufferPool) {
        debug_assert!(self.flush.is_none(), "half written bytes come first");
        let len = parts.iter().map(|part| part.len()).sum();
        let mut flush = Buffer::lease(pool, len);
        for part in parts {
            flush.take(part.len()).copy_from_slice(part);
        }
        self.flush = Some(flush);
        self.bytes += len;
    }

    /// Lets `encode` write at most `max` bytes of a body in place; `header` makes the header from
    /// the length it returns. Returns that length, and how many bytes were appended.
    #[inline]
    pub(crate) fn push_with<const H: usize>(
        &mut self,
        max: usize,
        pool: &mut BufferPool,
        encode: impl FnOnce(&mut [u8]) -> usize,
        header: impl FnOnce(u32) -> [u8; H],
    ) -> (usize, usize) {
        let main = self.room_for(H + max, pool);
        let room = main.take(H + max);
        let length = encode(&mut room[H..]);
        assert!(
            length <= max,
            "send_with: {length} bytes written into a room of {max}"
        );
        room[..H].copy_from_slice(&header(length as u32));
        main.end -= max - length;
        self.bytes += H + length;
        (length, H + length)
    }

    /// Appends `header` and the shared `body`, without copying it if it is long.
    pub(crate) fn push_shared(&mut self, header: &[u8], body: &Bytes, pool: &mut BufferPool) {
        self.push(&[], header, pool);
        if body.len() < SHARED_MIN {
            self.push(&[], body, pool);
            return;
        }
        let chain = self.chain.get_or_insert_default();
        if let Some(main) = self.main.take() {
            chain.push_back(Segment::Copied(main));
        }
        chain.push_back(Segment::Shared(body.clone()));
        self.bytes += body.len();
    }

    #[inline]
    fn room_for(&mut self, need: usize, pool: &mut BufferPool) -> &mut Buffer {
        if self.main.as_ref().is_none_or(|main| main.room() < need) {
            self.grow(need, pool);
        }
        self.main.as_mut().expect("grow has made room")
    }

    #[cold]
    fn grow(&mut self, need: usize, pool: &mut BufferPool) {
        let Some(old) = self.main.take() else {
            self.main = Some(Buffer::lease(pool, need.max(self.hint)));
            return;
        };
        let waiting = old.end - old.start;
        let mut new = Buffer::lease(pool, waiting + need);
        new.take(waiting).copy_from_slice(old.waiting());
        pool.release(old.bytes);
        self.hint = new.bytes.len();
        self.main = Some(new);
    }

    /// Makes the next bytes to write available by [`parts`](Self::parts); false if there are none.
    #[inline]
    pub(crate) fn fill(&mut self) -> bool {
        if self.bytes > 0 && self.flush.is_none() && self.chain.is_none() {
            self.flush = self.main.take();
            if let Some(flush) = &self.flush
                && flush.end * 8 < flush.bytes.len()
            {
                // The last need was far smaller than the buffer: forget the peak.
                self.hint = size_for(flush.end.max(1));
            }
        }
        self.bytes > 0
    }

    /// Takes back what [`fill`](Self::fill) did, if nothing of it was written.
    pub(crate) fn unfill(&mut self) {
        if self.main.is_none() {
            self.main = self.flush.take();
        }
    }

    /// What is to be written next, in order. Call after [`fill`](Self::fill).
    #[inline]
    pub(crate) fn parts<'a>(&'a self, parts: &mut [IoSlice<'a>; PARTS_MAX]) -> usize {
        let mut count = 0;
        let mut put = |bytes: &'a [u8]| {
            if count < PARTS_MAX && !bytes.is_empty() {
                parts[count] = IoSlice::new(bytes);
                count += 1;
            }
        };
        if let Some(flush) = &self.flush {
            put(flush.waiting());
        }
        if let Some(chain) = &self.chain {
            for segment in chain.iter().take(PARTS_MAX) {
                match segment {
                    Segment::Copied(buffer) => put(buffer.waiting()),
                    Segment::Shared(bytes) => put(bytes),
                }
            }
        }
        count
    }

    /// The first bytes that wait, in one piece. Call after [`fill`](Self::fill).
    #[cfg(feature = "tls")]
    pub(crate) fn front(&self) -> &[u8] {
        if let Some(flush) = &self.flush {
            return flush.waiting();
        }
        match self.chain.as_ref().and_then(|chain| chain.front()) {
            Some(Segment::Copied(buffer)) => buffer.waiting(),
            Some(Segment::Shared(bytes)) => bytes,
            None => &[],
        }
    }

    /// True if everything that waits is in the flush buffer: one plain write does.
    #[inline]
    pub(crate) fn single(&self) -> Option<&[u8]> {
        if self.chain.is_some() {
            return None;
        }
        self.flush.as_ref().map(Buffer::waiting)
    }

    /// `taken` bytes of the parts were written.
    pub(crate) fn consume(&mut self, taken: usize, pool: &mut BufferPool) {
        debug_assert!(taken <= self.bytes);
        self.bytes -= taken;
        let mut taken = taken;
        if let Some(flush) = &mut self.flush {
            let here = taken.min(flush.end - flush.start);
            flush.start += here;
            taken -= here;
            if flush.start == flush.end
                && let Some(done) = self.flush.take()
            {
                pool.release(done.bytes);
            }
        }
        let Some(chain) = &mut self.chain else { return };
        while let Some(segment) = chain.front_mut() {
            let waiting = match segment {
                Segment::Copied(buffer) => {
                    let here = taken.min(buffer.end - buffer.start);
                    buffer.start += here;
                    taken -= here;
                    buffer.end - buffer.start
                }
                Segment::Shared(bytes) => {
                    let here = taken.min(bytes.len());
                    bytes.advance(here);
                    taken -= here;
                    bytes.len()
                }
            };
            if waiting > 0 {
                return;
            }
            if let Some(Segment::Copied(buffer)) = chain.pop_front() {
                pool.release(buffer.bytes);
            }
        }
        self.chain = None;
    }

    /// Forgets what waits and gives all memory back; returns how many bytes are lost.
    pub(crate) fn clear(&mut self, pool: &mut BufferPool) -> usize {
        let lost = std::mem::take(&mut self.bytes);
        for buffer in self.main.take().into_iter().chain(self.flush.take()) {
            pool.release(buffer.bytes);
        }
        for segment in self.chain.take().into_iter().flat_map(|chain| *chain) {
            if let Segment::Copied(buffer) = segment {
                pool.release(buffer.bytes);
            }
        }
        lost
    }

    /// Appends everything of `other`, in order.
    pub(crate) fn append(&mut self, mut other: Self, pool: &mut BufferPool) {
        let first = other.flush.take().map(Segment::Copied);
        let chain = other.chain.take().map(|chain| *chain).unwrap_or_default();
        let last = other.main.take().map(Segment::Copied);
        for segment in first.into_iter().chain(chain).chain(last) {
            match segment {
                Segment::Copied(buffer) => {
                    self.push(&[], buffer.waiting(), pool);
                    pool.release(buffer.bytes);
                }
                Segment::Shared(bytes) => self.push_shared(&[], &bytes, pool),
            }
        }
    }

    /// What the queue takes: its buffers at their full size, or its bytes if shared bodies are
    /// most of them.
    pub(crate) fn memory(&self) -> usize {
        self.bytes.max(self.leased())
    }

    /// Sizes of the leased buffers, for moving the queue to the pool of another shard.
    pub(crate) fn leased(&self) -> usize {
        let chained = self
            .chain
            .iter()
            .flat_map(|chain| chain.iter())
            .map(|s| match s {
                Segment::Copied(buffer) => buffer.bytes.len(),
                Segment::Shared(_) => 0,
            });
        let own = self
            .main
            .iter()
            .chain(&self.flush)
            .map(|buffer| buffer.bytes.len());
        own.chain(chained).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn drain(queue: &mut SendQueue, pool: &mut BufferPool, step: usize) -> Vec<u8> {
        let mut written = Vec::new();
        while queue.fill() {
            let taken = {
                let mut parts = [IoSlice::new(&[]); PARTS_MAX];
                let count = queue.parts(&mut parts);
                let all: Vec<u8> = parts[..count]
                    .iter()
                    .flat_map(|part| part.to_vec())
                    .collect();
                if let Some(single) = queue.single() {
                    assert_eq!(single, &all[..]);
                }
                let taken = step.min(all.len());
                written.extend_from_slice(&all[..taken]);
                taken
            };
            assert!(taken > 0);
            queue.consume(taken, pool);
        }
        written
    }

    #[derive(Clone, Debug)]
    enum Push {
        Copy(Vec<u8>),
        With(Vec<u8>, usize),
        /// Within so many bytes of the queue, if there is room; else as above.
        WithWithin(Vec<u8>, usize, usize),
        Shared(Vec<u8>),
        Drain(usize),
    }

    fn pushes() -> impl Strategy<Value = Vec<Push>> {
        let body = || proptest::collection::vec(any::<u8>(), 0..3000);
        let push = prop_oneof![
            body().prop_map(Push::Copy),
            (body(), 0usize..5000).prop_map(|(body, spare)| Push::With(body, spare)),
            (body(), 0usize..1000, 0usize..20_000)
                .prop_map(|(body, spare, most)| Push::WithWithin(body, spare, most)),
            body().prop_map(Push::Shared),
            (1usize..4000).prop_map(Push::Drain),
        ];
        proptest::collection::vec(push, 0..40)
    }

    proptest! {
        #[test]
        fn bytes_leave_in_order_however_they_came_and_memory_comes_back(
            pushes in pushes(), step in 1usize..5000,
        ) {
            let mut pool = BufferPool::new(1 << 20);
            let mut queue = SendQueue::default();
            let (mut model, mut written) = (Vec::new(), Vec::new());
            for push in pushes {
                match push {
                    Push::Copy(body) => {
                        queue.push(b"head", &body, &mut pool);
                        model.extend_from_slice(b"head");
                        model.extend_from_slice(&body);
                    }
                    Push::With(body, spare) => {
                        let length = queue.push_with(
                            body.len() + spare,
                            &mut pool,
                            |room| { room[..body.len()].copy_from_slice(&body); body.len() },
                            u32::to_be_bytes,
                        ).0;
                        model.extend_from_slice(&(length as u32).to_be_bytes());
                        model.extend_from_slice(&body);
                    }
                    Push::WithWithin(body, spare, most) => {
                        let max = body.len() + spare;
                        let encode = |room: &mut [u8]| {
                            assert_eq!(room.len(), max);
                            room[..body.len()].copy_from_slice(&body);
                            body.len()
                        };
                        let before = queue.bytes();
                        let header = u32::to_le_bytes;
                        match queue.push_with_within(max, header, encode, most) {
                            Ok(length) => {
                                prop_assert_eq!(length, body.len());
                                prop_assert!(before + 4 + max <= most);
                            }
                            Err(encode) => {
                                prop_assert_eq!(queue.bytes(), before);
                                queue.push_with(max, &mut pool, encode, header);
                            }
                        }
                        model.extend_from_slice(&(body.len() as u32).to_le_bytes());
                        model.extend_from_slice(&body);
                    }
                    Push::Shared(body) => {
                        queue.push_shared(b"s", &Bytes::from(body.clone()), &mut pool);
                        model.push(b's');
                        model.extend_from_slice(&body);
                    }
                    Push::Drain(step) => written.extend(drain(&mut queue, &mut pool, step)),
                }
                prop_assert_eq!(queue.bytes(), model.len() - written.len());
            }
            written.extend(drain(&mut queue, &mut pool, step));
            prop_assert_eq!(written, model);
            prop_assert_eq!(queue.leased(), 0);
            prop_assert_eq!(pool.leased_bytes(), 0);
        }
    }

    #[test]
    fn clear_gives_the_memory_back_and_append_keeps_the_order() {
        let mut pool = BufferPool::new(1 << 20);
        let mut first = SendQueue::default();
        let mut second = SendQueue::default();
        first.push(b"a", b"b", &mut pool);
        second.push(b"c", &[b'd'; 5000], &mut pool);
        second.push_shared(b"e", &Bytes::from(vec![b'f'; 5000]), &mut pool);
        second.push(b"g", b"", &mut pool);
        first.append(second, &mut pool);
        let written = drain(&mut first, &mut pool, 777);
        assert_eq!(written.len(), 2 + 5001 + 5001 + 1);
        assert_eq!(written.last(), Some(&b'g'));
        first.push(b"x", b"y", &mut pool);
        assert_eq!(first.clear(&mut pool), 2);
        assert_eq!(pool.leased_bytes(), 0);
    }
}

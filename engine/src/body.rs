//! Receive memory: chunks, the messages that borrow from them, and the leases that outlive a read.

use std::fmt;
use std::ops::{Deref, Range};
use std::rc::Rc;

use bytes::Bytes;

/// Memory into which a shard receives. Counted without atomics; only its shard writes it, and only
/// while nobody else holds it (`Rc::get_mut`).
pub(crate) struct Chunk {
    bytes: Box<[u8]>,
    /// What a [`Body`] owns that was not received; then `bytes` is empty.
    foreign: Bytes,
}

impl Chunk {
    pub(crate) fn new(size: usize) -> Rc<Self> {
        Self::of(vec![0; size].into_boxed_slice())
    }

    /// One that holds `bytes`, which nobody receives into.
    pub(crate) fn of(bytes: Box<[u8]>) -> Rc<Self> {
        Rc::new(Self {
            bytes,
            foreign: Bytes::new(),
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

/// The receive chunks of a shard: one in use, the others leased out or free.
///
/// There are at most `max` chunks. While the last one is in use, messages are leased by copying,
/// so that it is never leased and there is always a chunk to receive into.
pub(crate) struct ChunkPool {
    size: usize,
    max: usize,
    made: usize,
    free: Vec<Rc<Chunk>>,
    /// Replaced while leased; free again when we hold the only count.
    leased: Vec<Rc<Chunk>>,
}

impl ChunkPool {
    pub(crate) fn new(size: usize, max: usize) -> Self {
        Self {
            size,
            max: max.max(1),
            made: 0,
            free: Vec::new(),
            leased: Vec::new(),
        }
    }

    /// Puts a chunk that nobody else holds in place of `used`, if somebody does.
    pub(crate) fn replace(&mut self, used: &mut Rc<Chunk>) {
        if Rc::strong_count(used) > 1 {
            let fresh = self.take();
            self.leased.push(std::mem::replace(used, fresh));
        }
    }

    pub(crate) fn take(&mut self) -> Rc<Chunk> {
        if let Some(chunk) = self.free.pop() {
            return chunk;
        }
        // Leases are mostly short: by now most of the replaced chunks are free again.
        let free = &mut self.free;
        self.leased.retain(|chunk| {
            let ended = Rc::strong_count(chunk) == 1;
            if ended {
                free.push(Rc::clone(chunk));
            }
            !ended
        });
        self.free.pop().unwrap_or_else(|| {
            debug_assert!(self.made < self.max, "the last chunk is never leased");
            self.made += 1;
            Chunk::new(self.size)
        })
    }

    /// True if the chunk in use is the last one, so that messages have to be copied to be kept.
    pub(crate) fn is_low(&self) -> bool {
        self.made >= self.max
            && self.free.is_empty()
            && !self.leased.iter().any(|chunk| Rc::strong_count(chunk) == 1)
    }

    /// Bytes of all chunks.
    pub(crate) fn bytes(&self) -> usize {
        self.made * self.size
    }
}

/// A message as the synchronous handler sees it: a borrowed slice, valid during the call.
///
/// [`lease`](Message::lease) makes a [`Body`] of it that may be kept.
#[derive(Clone, Copy)]
pub struct Message<'a> {
    chunk: &'a Rc<Chunk>,
    /// Of `chunk`.
    bytes: &'a [u8],
    lease: Lease,
    text: bool,
}

/// How a message may be kept beyond the handler's call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lease {
    /// By a lease on the receive chunk.
    Chunk,
    /// By a lease on the memory in which its parts were put together. That is not used again
    /// afterwards, so it pays for long messages only.
    Tail,
    /// By copying, because the chunk is the last one of its pool.
    Copy,
}

/// Messages shorter than this are copied rather than relayed out of a [`Lease::Tail`].
const TAIL_RELAY_MIN: usize = 64 * 1024;

/// A part of what is in a [`Lease::Tail`] holds at most so many times its length.
const SMALL_PART: usize = 8;

impl<'a> Message<'a> {
    #[inline]
    pub(crate) fn new(chunk: &'a Rc<Chunk>, range: Range<usize>, lease: Lease) -> Self {
        let bytes = &chunk.bytes()[range];
        Self {
            chunk,
            bytes,
            lease,
            text: false,
        }
    }

    /// The same, for `bytes` that are in `chunk`.
    #[inline]
    pub(crate) fn of(chunk: &'a Rc<Chunk>, bytes: &'a [u8], lease: Lease) -> Self {
        Self {
            chunk,
            bytes,
            lease,
            text: false,
        }
    }

    /// The same message, as text if it is.
    #[cfg(feature = "ws")]
    #[inline]
    pub(crate) fn as_text(self, text: bool) -> Self {
        Self { text, ..self }
    }

    /// Where it stands.
    #[inline]
    pub(crate) fn spot(&self) -> Spot<'a> {
        let start = self.start();
        Spot {
            chunk: self.chunk,
            start,
            end: start + self.bytes.len(),
            lease: self.lease,
        }
    }

    /// Where the message begins in its chunk.
    #[inline]
    fn start(&self) -> usize {
        self.bytes.as_ptr().addr() - self.chunk.bytes().as_ptr().addr()
    }

    /// The bytes of the message, for the whole of the handler's call.
    #[inline]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Whether it came as a text message of a WebSocket: then it is UTF-8.
    #[inline]
    pub fn is_text(&self) -> bool {
        self.text
    }

    /// A part of the message, which can be leased by itself: for framings of an embedder's own. A
    /// small part of what was put together in memory of its own is copied then: receive chunks are
    /// few, but that memory is not, and the part would hold all of it.
    ///
    /// # Panics
    /// If `range` is not within the message.
    #[inline]
    pub fn slice(&self, range: Range<usize>) -> Message<'a> {
        let bytes = &self.bytes[range];
        let is_small = bytes.len() < self.chunk.len() / SMALL_PART;
        let lease = match self.lease {
            Lease::Tail if is_small => Lease::Copy,
            lease => lease,
        };
        Self {
            bytes,
            lease,
            ..*self
        }
    }

    /// Keeps the message beyond the call, without copying it as long as the shard has receive
    /// chunks left (see [`Limits::receive_chunks_max`](crate::Limits)).
    #[inline]
    pub fn lease(&self) -> Body {
        let start = self.start();
        let end = start + self.bytes.len();
        if self.lease == Lease::Copy || end > Place::END_MAX {
            return Body::copied(self.bytes, self.text);
        }
        Body {
            chunk: Rc::clone(self.chunk),
            place: Place::new(start, end, self.lease, self.text),
        }
    }
}

/// Where received bytes stand, and how they may be kept: what [`Message`] and [`Body`] know alike.
#[derive(Clone, Copy)]
pub(crate) struct Spot<'a> {
    pub(crate) chunk: &'a Rc<Chunk>,
    start: usize,
    end: usize,
    lease: Lease,
}

impl<'a> Spot<'a> {
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.end - self.start
    }

    #[inline]
    pub(crate) fn bytes(&self) -> &'a [u8] {
        &self.chunk.bytes()[self.start..self.end]
    }

    /// With `header` before it, if it stands so in a chunk that may be kept.
    #[inline]
    pub(crate) fn with_header<const H: usize>(&self, header: [u8; H]) -> Option<Range<usize>> {
        let keep = match self.lease {
            Lease::Chunk => true,
            Lease::Tail => self.len() >= TAIL_RELAY_MIN,
            Lease::Copy => false,
        };
        if !keep {
            return None;
        }
        let begin = self.start.checked_sub(H)?;
        let found = self.chunk.bytes().get(begin..self.start)?;
        (found == header).then_some(begin..self.end)
    }
}

impl Deref for Message<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.bytes()
    }
}

impl fmt::Debug for Message<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Message({} bytes)", self.len())
    }
}

/// Where a body stands in its chunk, and what it is: start 32 bits | end 30 | text 1 |
/// [`Lease::Tail`] 1. No lease begins where what is foreign pretends to.
#[derive(Clone, Copy)]
struct Place(u64);

impl Place {
    /// The place of what is foreign.
    const FOREIGN: u64 = (u32::MAX as u64) << 32;
    /// The greatest end of a lease. What ends beyond is copied.
    const END_MAX: usize = u32::MAX as usize >> 2;

    #[inline]
    fn new(start: usize, end: usize, lease: Lease, text: bool) -> Self {
        let marks = u64::from(text) << 1 | u64::from(lease == Lease::Tail);
        Self((start as u64) << 32 | (end as u64) << 2 | marks)
    }

    fn foreign(text: bool) -> Self {
        Self(Self::FOREIGN | u64::from(text) << 1)
    }

    #[inline]
    fn is_foreign(self) -> bool {
        self.0 >= Self::FOREIGN
    }

    #[inline]
    fn range(self) -> Range<usize> {
        (self.0 >> 32) as usize..(self.0 as u32 >> 2) as usize
    }

    #[inline]
    fn is_text(self) -> bool {
        self.0 & 2 != 0
    }

    #[inline]
    fn lease(self) -> Lease {
        if self.0 & 1 == 0 {
            Lease::Chunk
        } else {
            Lease::Tail
        }
    }
}

/// An owned message: a lease on receive memory of the shard (counted without atomics, so it stays
/// on its thread), or bytes of its own.
///
/// Two words, so that it is passed in registers: it is moved several times on its way to a handler,
/// and what is stored in parts and read as a whole just after holds the CPU up.
#[derive(Clone)]
pub struct Body {
    chunk: Rc<Chunk>,
    place: Place,
}

impl Body {
    /// The bytes, independent of the shard: copied if they are leased, as they are otherwise.
    pub fn into_bytes(self) -> Bytes {
        if self.is_leased() {
            return Bytes::copy_from_slice(&self);
        }
        match Rc::try_unwrap(self.chunk) {
            Ok(chunk) => chunk.foreign,
            Err(shared) => shared.foreign.clone(),
        }
    }

    /// Where it stands, if it is leased, or the bytes that are nobody else's memory.
    #[inline]
    pub(crate) fn spot(&self) -> Result<Spot<'_>, &Bytes> {
        if !self.is_leased() {
            return Err(&self.chunk.foreign);
        }
        let range = self.place.range();
        Ok(Spot {
            chunk: &self.chunk,
            start: range.start,
            end: range.end,
            lease: self.place.lease(),
        })
    }

    /// Of parts, so that nobody has to put a message together for it who does not copy.
    #[cold]
    #[inline(never)]
    fn copied(bytes: &[u8], text: bool) -> Self {
        Self::foreign(Bytes::copy_from_slice(bytes), text)
    }

    fn foreign(bytes: Bytes, text: bool) -> Self {
        let chunk = Chunk {
            bytes: Box::default(),
            foreign: bytes,
        };
        Self {
            chunk: Rc::new(chunk),
            place: Place::foreign(text),
        }
    }

    /// Whether it came as a text message of a WebSocket: then it is UTF-8.
    pub fn is_text(&self) -> bool {
        self.place.is_text()
    }

    /// True if the body holds a lease on the shard's receive memory.
    #[inline]
    pub fn is_leased(&self) -> bool {
        !self.place.is_foreign()
    }
}

impl Deref for Body {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        if self.is_leased() {
            &self.chunk.bytes()[self.place.range()]
        } else {
            &self.chunk.foreign
        }
    }
}

impl AsRef<[u8]> for Body {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::foreign(bytes, false)
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Self::from(Bytes::from(bytes))
    }
}

impl From<&[u8]> for Body {
    fn from(bytes: &[u8]) -> Self {
        Self::from(Bytes::copy_from_slice(bytes))
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Body({} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(pool: &ChunkPool) -> Lease {
        if pool.is_low() {
            Lease::Copy
        } else {
            Lease::Chunk
        }
    }

    fn pool_of_two() -> ChunkPool {
        ChunkPool::new(4096, 2)
    }

    #[test]
    fn a_leased_chunk_is_replaced_and_comes_back_when_the_lease_ends() {
        let mut pool = pool_of_two();
        let first = pool.take();
        let body = Message::new(&first, 0..10, lease(&pool)).lease();
        assert!(body.is_leased());
        let address = first.bytes().as_ptr();
        let mut second = first;
        pool.replace(&mut second);
        assert_ne!(second.bytes().as_ptr(), address);
        drop(body);
        assert!(!pool.is_low(), "the first chunk is free again");
        let lease = Message::new(&second, 0..1, Lease::Chunk).lease();
        let mut third = second;
        pool.replace(&mut third);
        assert_eq!(third.bytes().as_ptr(), address);
        drop(lease);
        assert_eq!(pool.bytes(), 2 * 4096);
    }

    #[test]
    fn a_part_is_leased_by_itself() {
        let mut pool = pool_of_two();
        let mut chunk = pool.take();
        if let Some(memory) = Rc::get_mut(&mut chunk) {
            memory.bytes_mut()[..8].copy_from_slice(b"headbody");
        }
        let part = Message::new(&chunk, 0..8, lease(&pool)).slice(4..8);
        let body = part.lease();
        assert!(body.is_leased());
        assert_eq!((part.bytes(), &body[..]), (&b"body"[..], &b"body"[..]));
        pool.replace(&mut chunk);
        assert_eq!(&*body.into_bytes(), b"body");
    }

    #[test]
    fn a_small_part_does_not_keep_all_that_was_put_together() {
        let tail = Chunk::of(vec![7; 512 * 1024].into());
        let message = Message::new(&tail, 0..300_000, Lease::Tail);
        let small = message.slice(1000..2024);
        assert!(!small.lease().is_leased());
        assert_eq!((&small.lease()[..], small.len()), (&[7; 1024][..], 1024));
        let eighth = message.slice(0..64 * 1024);
        assert!(eighth.lease().is_leased());
        assert!(!eighth.slice(0..64 * 1024 - 1).lease().is_leased());
        // Receive chunks are few, and counted: there a part is as good as the whole.
        let part = Message::new(&tail, 0..300_000, Lease::Chunk).slice(0..1024);
        assert!(part.lease().is_leased());
    }

    #[test]
    fn the_last_chunk_is_leased_by_copy() {
        let mut pool = pool_of_two();
        let first = pool.take();
        let kept = Message::new(&first, 0..10, lease(&pool)).lease();
        let mut second = first;
        pool.replace(&mut second);
        assert!(pool.is_low());
        let copied = Message::new(&second, 0..10, lease(&pool)).lease();
        assert!(!copied.is_leased());
        let same = second.bytes().as_ptr();
        pool.replace(&mut second);
        assert_eq!(second.bytes().as_ptr(), same);
        assert_eq!(kept.len(), 10);
        assert_eq!(copied.into_bytes().len(), 10);
    }
}

//! Fixed-size buffers by class, leased by connections while they have something to hold.

use std::rc::Rc;

use crate::body::Chunk;

/// Sizes of the buffers: powers of two from 4 KiB to 4 MiB. Longer ones are made to measure, to
/// the next 4 MiB.
const CLASSES: usize = 11;
const SMALLEST: usize = 4 << 10;
const GREATEST: usize = SMALLEST << (CLASSES - 1);

/// The class for `bytes`; [`CLASSES`] for what is longer than the greatest.
fn class_of(bytes: usize) -> usize {
    if bytes > GREATEST {
        return CLASSES;
    }
    let size = bytes.max(SMALLEST).next_power_of_two();
    (size / SMALLEST).trailing_zeros() as usize
}

/// The size of the buffer that [`Pool::lease`] gives for `bytes`.
pub(crate) fn size_for(bytes: usize) -> usize {
    if bytes > GREATEST {
        return bytes.next_multiple_of(GREATEST);
    }
    bytes.max(SMALLEST).next_power_of_two()
}

/// Memory that a pool can hand out.
pub(crate) trait Block {
    fn make(size: usize) -> Self;
    fn size(&self) -> usize;
    /// False if somebody else still holds it, so that it cannot be used again.
    fn is_reusable(&self) -> bool;
}

impl Block for Box<[u8]> {
    fn make(size: usize) -> Self {
        vec![0; size].into_boxed_slice()
    }

    fn size(&self) -> usize {
        self.len()
    }

    fn is_reusable(&self) -> bool {
        true
    }
}

impl Block for Rc<Chunk> {
    fn make(size: usize) -> Self {
        Chunk::new(size)
    }

    fn size(&self) -> usize {
        self.len()
    }

    fn is_reusable(&self) -> bool {
        Rc::strong_count(self) == 1
    }
}

/// Buffers by class. The last one returned is the first one leased: it is the one in cache.
pub(crate) struct Pool<B> {
    free: [Vec<B>; CLASSES],
    free_bytes: usize,
    free_bytes_max: usize,
    leased_bytes: usize,
}

impl<B: Block> Pool<B> {
    /// Keeps at most `free_bytes_max` bytes for later; the rest goes back to the allocator.
    pub(crate) fn new(free_bytes_max: usize) -> Self {
        Self {
            free: Default::default(),
            free_bytes: 0,
            free_bytes_max,
            leased_bytes: 0,
        }
    }

    /// A buffer of at least `bytes`.
    pub(crate) fn lease(&mut self, bytes: usize) -> B {
        let kept = self.free.get_mut(class_of(bytes)).and_then(Vec::pop);
        let block = match kept {
            Some(block) => {
                self.free_bytes -= block.size();
                block
            }
            None => B::make(size_for(bytes)),
        };
        self.leased_bytes += block.size();
        block
    }

    /// Takes a buffer back.
    pub(crate) fn release(&mut self, block: B) {
        let size = block.size();
        self.leased_bytes -= size;
        self.keep(block, size);
    }

    /// The leased buffer goes to another pool (with a connection that moves to another shard).
    pub(crate) fn export(&mut self, size: usize) {
        self.leased_bytes -= size;
    }

    /// Counts a buffer of another pool as leased from this one.
    pub(crate) fn import(&mut self, size: usize) {
        self.leased_bytes += size;
    }

    fn keep(&mut self, block: B, size: usize) {
        let class = class_of(size);
        if class < CLASSES && self.free_bytes + size <= self.free_bytes_max && block.is_reusable() {
            self.free_bytes += size;
            self.free[class].push(block);
        }
    }

    /// Bytes of all leased buffers, at their full size.
    pub(crate) fn leased_bytes(&self) -> usize {
        self.leased_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_last_in_first_out_and_only_as_many_as_may_be_kept() {
        let mut pool = Pool::<Box<[u8]>>::new(8 << 10);
        let (a, b, c) = (pool.lease(1), pool.lease(4096), pool.lease(4096));
        let address = b.as_ptr();
        assert_eq!(pool.leased_bytes(), 3 * 4096);
        pool.release(a);
        pool.release(b);
        pool.release(c);
        assert_eq!((pool.leased_bytes(), pool.free_bytes), (0, 8192));
        let again = pool.lease(100);
        assert_eq!(again.as_ptr(), address);
    }

    #[test]
    fn classes_are_powers_of_two() {
        for (bytes, class, size) in [
            (0, 0, 4096),
            (4096, 0, 4096),
            (4097, 1, 8192),
            (4 << 20, 10, 4 << 20),
            ((4 << 20) + 1, CLASSES, 8 << 20),
        ] {
            assert_eq!((class_of(bytes), size_for(bytes)), (class, size), "{bytes}");
        }
    }

    #[test]
    fn long_ones_are_made_to_measure_and_not_kept() {
        let mut pool = Pool::<Box<[u8]>>::new(64 << 20);
        let long = pool.lease((4 << 20) + 1);
        assert_eq!(long.len(), 8 << 20);
        pool.release(long);
        assert_eq!((pool.leased_bytes(), pool.free_bytes), (0, 0));
    }

    #[test]
    fn a_chunk_that_is_leased_as_a_body_is_not_used_again() {
        let mut pool = Pool::<Rc<Chunk>>::new(1 << 20);
        let chunk = pool.lease(10);
        let body = Rc::clone(&chunk);
        pool.release(chunk);
        assert_eq!((pool.leased_bytes(), pool.free_bytes), (0, 0));
        drop(body);
    }
}

//! Bytes in a buffer that is leased from a pool as long as there are any.

use crate::send_queue::BufferPool;

/// A queue of bytes; empty, it holds no memory.
#[derive(Debug, Default)]
pub(crate) struct LeasedBytes {
    memory: Box<[u8]>,
    start: usize,
    end: usize,
}

impl LeasedBytes {
    pub(crate) fn len(&self) -> usize {
        self.end - self.start
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Size of the leased buffer, 0 if there is none.
    pub(crate) fn memory(&self) -> usize {
        self.memory.len()
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.end]
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.end]
    }

    /// Room behind the bytes: at least `need`, all there is. Use with [`add`](Self::add).
    pub(crate) fn room(&mut self, need: usize, pool: &mut BufferPool) -> &mut [u8] {
        if self.memory.len() - self.end < need {
            let length = self.len();
            let mut memory = pool.lease(length + need);
            memory[..length].copy_from_slice(self.bytes());
            self.give_back(pool);
            (self.memory, self.end) = (memory, length);
        }
        &mut self.memory[self.end..]
    }

    /// So many bytes were written into the room.
    pub(crate) fn add(&mut self, bytes: usize) {
        debug_assert!(self.end + bytes <= self.memory.len());
        self.end += bytes;
    }

    pub(crate) fn append(&mut self, bytes: &[u8], pool: &mut BufferPool) {
        if !bytes.is_empty() {
            self.room(bytes.len(), pool)[..bytes.len()].copy_from_slice(bytes);
            self.add(bytes.len());
        }
    }

    /// Forgets the first `bytes`; gives the buffer back with the last one.
    pub(crate) fn consume(&mut self, bytes: usize, pool: &mut BufferPool) {
        debug_assert!(bytes <= self.len());
        self.start += bytes;
        if self.is_empty() {
            self.give_back(pool);
        }
    }

    /// Forgets everything; returns how much that was.
    #[cfg(any(feature = "tls", test))]
    pub(crate) fn clear(&mut self, pool: &mut BufferPool) -> usize {
        let length = self.len();
        self.give_back(pool);
        length
    }

    fn give_back(&mut self, pool: &mut BufferPool) {
        let memory = std::mem::take(&mut self.memory);
        if !memory.is_empty() {
            pool.release(memory);
        }
        (self.start, self.end) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_stay_in_order_while_the_buffer_grows_and_the_memory_comes_back() {
        let mut pool = BufferPool::new(1 << 20);
        let mut queue = LeasedBytes::default();
        let (mut model, mut next) = (Vec::new(), 0u8);
        for round in 0..50 {
            let more: Vec<u8> = (0..round * 97)
                .map(|i| next.wrapping_add(i as u8))
                .collect();
            next = next.wrapping_add(31);
            queue.append(&more, &mut pool);
            model.extend_from_slice(&more);
            let taken = model.len() / 3;
            queue.consume(taken, &mut pool);
            model.drain(..taken);
            assert_eq!(queue.bytes(), model);
            assert_eq!(pool.leased_bytes(), queue.memory());
        }
        assert_eq!(queue.clear(&mut pool), model.len());
        assert_eq!((pool.leased_bytes(), queue.memory()), (0, 0));
    }
}

//! What the mailbox takes from outside: atomics, locks and queues.
//!
//! An ordinary build uses std and crossbeam-queue. Under `--cfg loom` the atomics and locks are
//! loom's, and the queues are stand-ins, because loom cannot see inside crossbeam. The stand-ins
//! are deliberately no stronger than crossbeam where the mailbox leans on its own fences: whether
//! a queue looks empty or full is read from an atomic that no lock orders.

#[cfg(loom)]
pub(super) use self::modelled::*;
#[cfg(not(loom))]
pub(super) use self::real::*;

#[cfg(not(loom))]
mod real {
    pub(in super::super) use crossbeam_queue::{ArrayQueue, SegQueue};
    pub(in super::super) use std::sync::atomic::{
        AtomicBool, AtomicPtr, AtomicU8, Ordering, fence,
    };
    pub(in super::super) use std::sync::{Arc, Condvar, Mutex, MutexGuard};
}

#[cfg(loom)]
mod modelled {
    pub(in super::super) use loom::sync::atomic::{
        AtomicBool, AtomicPtr, AtomicU8, AtomicUsize, Ordering, fence,
    };
    pub(in super::super) use loom::sync::{Arc, Condvar, Mutex, MutexGuard};
    use std::collections::VecDeque;

    /// Stands in for [`crossbeam_queue::SegQueue`].
    pub(in super::super) struct SegQueue<T> {
        items: Mutex<VecDeque<T>>,
        /// Written under the lock, read without it.
        len: AtomicUsize,
    }

    impl<T> SegQueue<T> {
        pub(in super::super) fn new() -> Self {
            SegQueue {
                items: Mutex::new(VecDeque::new()),
                len: AtomicUsize::new(0),
            }
        }

        pub(in super::super) fn push(&self, item: T) {
            let mut items = self.items.lock().unwrap();
            items.push_back(item);
            self.len.store(items.len(), Ordering::Release);
        }

        pub(in super::super) fn pop(&self) -> Option<T> {
            let mut items = self.items.lock().unwrap();
            let item = items.pop_front();
            self.len.store(items.len(), Ordering::Release);
            item
        }

        pub(in super::super) fn is_empty(&self) -> bool {
            self.len() == 0
        }

        pub(in super::super) fn len(&self) -> usize {
            self.len.load(Ordering::Acquire)
        }
    }

    /// Stands in for [`crossbeam_queue::ArrayQueue`].
    pub(in super::super) struct ArrayQueue<T> {
        queue: SegQueue<T>,
        capacity: usize,
    }

    impl<T> ArrayQueue<T> {
        pub(in super::super) fn new(capacity: usize) -> Self {
            ArrayQueue {
                queue: SegQueue::new(),
                capacity,
            }
        }

        pub(in super::super) fn push(&self, item: T) -> Result<(), T> {
            // May be a stale "full", as with crossbeam.
            if self.queue.len() >= self.capacity {
                return Err(item);
            }
            let mut items = self.queue.items.lock().unwrap();
            if items.len() >= self.capacity {
                return Err(item);
            }
            items.push_back(item);
            self.queue.len.store(items.len(), Ordering::Release);
            Ok(())
        }

        pub(in super::super) fn pop(&self) -> Option<T> {
            self.queue.pop()
        }

        pub(in super::super) fn is_empty(&self) -> bool {
            self.queue.is_empty()
        }

        pub(in super::super) fn len(&self) -> usize {
            self.queue.len()
        }

        pub(in super::super) fn capacity(&self) -> usize {
            self.capacity
        }
    }
}

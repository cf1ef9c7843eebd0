//! Where producers wait for room in the bounded lane.
//!
//! `waiting` is set under the lock by a producer about to wait, and cleared under the lock by who
//! wakes them all, so a consumer with nobody waiting pays one relaxed load per item.
//!
//! A producer sets `waiting`, fences, and tries once more to push; the consumer takes items, and
//! before it sleeps fences and looks at `waiting`. So either the producer finds the room, or the
//! consumer finds the producer. While the consumer does not sleep it may see `waiting` late, but
//! sees it.

use super::sync::{AtomicBool, Condvar, Mutex, MutexGuard, Ordering, fence};
use std::sync::PoisonError;
use std::time::Duration;

pub(super) struct Room {
    waiting: AtomicBool,
    gate: Mutex<()>,
    freed: Condvar,
}

impl Room {
    pub(super) fn new() -> Self {
        Room {
            waiting: AtomicBool::new(false),
            gate: Mutex::new(()),
            freed: Condvar::new(),
        }
    }

    /// Nobody panics while holding the gate, and it guards no data that could be broken.
    pub(super) fn enter(&self) -> MutexGuard<'_, ()> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Producer, inside the gate: after this it looks for room once more, then waits.
    pub(super) fn announce_waiting(&self, _gate: &MutexGuard<'_, ()>) {
        self.waiting.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Producer: waits until released, at most `limit`; may return for no reason. Loom knows no
    /// time: there it waits until released.
    pub(super) fn wait<'a>(
        &'a self,
        gate: MutexGuard<'a, ()>,
        limit: Duration,
    ) -> MutexGuard<'a, ()> {
        self.freed
            .wait_timeout(gate, limit)
            .unwrap_or_else(PoisonError::into_inner)
            .0
    }

    /// Consumer: whether a producer waits.
    pub(super) fn is_awaited(&self) -> bool {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Wakes all who wait; each looks again for itself.
    pub(super) fn release(&self) {
        let gate = self.enter();
        self.waiting.store(false, Ordering::Relaxed);
        drop(gate);
        self.freed.notify_all();
    }
}

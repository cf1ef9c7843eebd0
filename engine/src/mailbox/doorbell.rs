//! Whether the consumer sleeps, and who wakes it.
//!
//! The word `state` holds three bits. `ASLEEP` is set by the consumer only; it is cleared by the
//! consumer, or by the one producer whose clearing makes it the one to call [`Wake::wake`].
//! `CLOSED` and `GONE` are set once and stay.
//!
//! No wake is lost, because each side publishes, fences, then looks (Dekker's pattern): a producer
//! publishes its item, then looks for `ASLEEP`; the consumer publishes `ASLEEP`, then looks for
//! items. Of two sequentially consistent fences one is first, so at least one side sees the other.
//! The same pattern, with `GONE` for `ASLEEP`, leaves nothing behind in a dead mailbox.

use super::Wake;
use super::sync::{AtomicU8, Ordering, fence};
use std::sync::atomic::AtomicU64;

const ASLEEP: u8 = 1;
/// The bounded lane takes nothing more.
const CLOSED: u8 = 2;
/// The consumer does not exist any more: what is in the queues belongs to who sees it.
const GONE: u8 = 4;

// A line of its own: producers of other cores read `state` with every push, and it changes only
// when the consumer goes to sleep.
#[repr(align(64))]
pub(super) struct Doorbell {
    state: AtomicU8,
    /// A statistic, deliberately outside of loom's model.
    wakes: AtomicU64,
    waker: Box<dyn Wake>,
}

impl Doorbell {
    /// The consumer begins awake.
    pub(super) fn new(waker: Box<dyn Wake>) -> Self {
        Doorbell {
            state: AtomicU8::new(0),
            wakes: AtomicU64::new(0),
            waker,
        }
    }

    /// Called by a producer after it has published: wakes the consumer if it sleeps. `false` if
    /// there is no consumer any more and the caller has to take back what it published.
    #[must_use]
    pub(super) fn announce(&self) -> bool {
        fence(Ordering::SeqCst);
        let state = self.state.load(Ordering::Relaxed);
        if state & ASLEEP != 0 {
            self.wake_if_asleep();
        }
        state & GONE == 0
    }

    /// Of all who find the consumer asleep, one wakes it.
    fn wake_if_asleep(&self) {
        if self.state.fetch_and(!ASLEEP, Ordering::AcqRel) & ASLEEP != 0 {
            self.wakes
                .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            self.waker.wake();
        }
    }

    /// Consumer: announces sleep, and learns whether the lane is closed. It must look at all queues
    /// once more before it blocks. A close that is not seen here finds the consumer asleep.
    pub(super) fn fall_asleep(&self) -> bool {
        let before = self.state.fetch_or(ASLEEP, Ordering::AcqRel);
        fence(Ordering::SeqCst);
        before & CLOSED != 0
    }

    /// Consumer: awake again, whoever woke it.
    pub(super) fn stay_awake(&self) {
        self.state.fetch_and(!ASLEEP, Ordering::AcqRel);
    }

    /// Closes the bounded lane, and wakes the consumer so that it learns of it.
    pub(super) fn close(&self) {
        self.state.fetch_or(CLOSED, Ordering::AcqRel);
        self.wake_if_asleep();
    }

    /// Consumer: it is being dropped. It must empty all queues after this; whoever publishes and
    /// is not seen by that sees `GONE`, and empties them itself.
    pub(super) fn abandon(&self) {
        self.state.swap(CLOSED | GONE, Ordering::AcqRel);
        fence(Ordering::SeqCst);
    }

    pub(super) fn is_closed(&self) -> bool {
        self.state.load(Ordering::Relaxed) & CLOSED != 0
    }

    pub(super) fn wakes(&self) -> u64 {
        self.wakes.load(std::sync::atomic::Ordering::Relaxed)
    }
}

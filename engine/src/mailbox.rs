//! How other threads reach a shard: a bounded mailbox with many producers and one consumer.
//!
//! Three ways in, one doorbell:
//! - the **bounded lane**, for what others send. Full is an answer, see [`PushError`];
//! - the **control lane**, without a capacity of its own, for what must not be refused and is
//!   bounded by who sends it: accepted sockets, re-homing, forwards, shutdown;
//! - the **wake list**: a [`ShardWaker`] says "run this token" and needs no room at all.
//!
//! A producer publishes, then looks whether the consumer sleeps; only the one that finds it so and
//! wins calls [`Wake::wake`]. While the consumer is awake a push costs the queue's own work and a
//! fence, and no system call: one wake per batch.
//!
//! # Who may touch what
//!
//! | field | producers | consumer | what the ordering guarantees |
//! |---|---|---|---|
//! | `bounded`, `control` | push; pop when `GONE` | pop | an item's bytes: by the queue |
//! | `Doorbell::state` | read; clear `ASLEEP` (one wins) | set and clear `ASLEEP`, set `GONE` | both sides publish, then `SeqCst` fence, then look: at least one sees the other |
//! | `Doorbell::wakes`, `lost` | add | add | nothing: relaxed counters |
//! | `Room::waiting` | set, under the gate | clear, under the gate; read | as for `state`, before the consumer sleeps |
//! | `WakeList::head` | link one (`Release`) | take all (`Acquire`) | the nodes' `next` |
//! | `WakeNode::pending` | set (`AcqRel`) | clear (`AcqRel`) before the run | what was written before a wake is visible to the run |
//! | `Consumer`'s own | – | all | not shared |
//!
//! # Ending
//!
//! [`Mailbox::close`] ends the bounded lane: pushes fail, parked producers return, what is in it
//! can still be popped. Dropping the [`Consumer`] ends everything: what is left is dropped and
//! counted in [`Mailbox::lost`]. An item pushed just at that time is dropped by its producer, so
//! nothing stays in a mailbox that only producers still hold.
//!
//! # Memory
//!
//! The bounded lane is allocated whole at the start: capacity × (`size_of::<T>()` + 8 bytes,
//! aligned). The control lane allocates blocks of 31 items as it fills, and frees them as it is
//! emptied. A waker is one node of 32 bytes and a reference count.

use self::doorbell::Doorbell;
use self::room::Room;
use self::sync::{ArrayQueue, SegQueue};
pub use self::wake_list::ShardWaker;
use self::wake_list::{Chain, Signals, WakeList};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

mod doorbell;
mod room;
mod sync;
mod wake_list;

/// Ends the consumer's sleep, from any thread: the driver's eventfd.
///
/// A wake that comes before the consumer blocks must make it return at once, and stay until then.
pub trait Wake: Send + Sync {
    /// Makes the consumer's present or next blocking call return.
    fn wake(&self);
}

/// Why the bounded lane did not take an item; gives it back.
#[derive(Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PushError<T> {
    /// There is no room, or there was none until the deadline.
    Full(T),
    /// The mailbox is closed, or its consumer is gone.
    Closed(T),
}

impl<T> PushError<T> {
    /// The item that was not taken.
    pub fn into_inner(self) -> T {
        match self {
            PushError::Full(item) | PushError::Closed(item) => item,
        }
    }
}

impl<T> fmt::Debug for PushError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PushError::Full(_) => "Full(..)",
            PushError::Closed(_) => "Closed(..)",
        })
    }
}

impl<T> fmt::Display for PushError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PushError::Full(_) => "the mailbox is full",
            PushError::Closed(_) => "the mailbox is closed",
        })
    }
}

impl<T> std::error::Error for PushError<T> {}

/// The producers' side; shared by `Arc`. See the [module documentation](self).
pub struct Mailbox<T> {
    signals: sync::Arc<Signals>,
    bounded: ArrayQueue<T>,
    control: SegQueue<T>,
    room: Room,
    /// A statistic, deliberately outside of loom's model.
    lost: AtomicU64,
}

impl<T> Mailbox<T> {
    /// A mailbox whose bounded lane holds `capacity` items, and its only consumer, awake.
    ///
    /// # Panics
    /// If `capacity` is 0.
    pub fn new(capacity: usize, waker: Box<dyn Wake>) -> (Arc<Self>, Consumer<T>) {
        assert!(capacity > 0, "a mailbox needs a capacity of at least 1");
        let signals = Signals {
            doorbell: Doorbell::new(waker),
            wake_list: WakeList::new(),
        };
        let mailbox = Arc::new(Mailbox {
            signals: sync::Arc::new(signals),
            bounded: ArrayQueue::new(capacity),
            control: SegQueue::new(),
            room: Room::new(),
            lost: AtomicU64::new(0),
        });
        let consumer = Consumer {
            mailbox: Arc::clone(&mailbox),
            taken: Chain::default(),
            close_told: false,
        };
        (mailbox, consumer)
    }

    /// Pushes onto the bounded lane. Items of one producer keep their order.
    ///
    /// `Ok` means accepted, not handled: see "Ending" in the [module documentation](self).
    ///
    /// # Errors
    /// [`PushError::Full`] or [`PushError::Closed`], with the item.
    pub fn try_push(&self, item: T) -> Result<(), PushError<T>> {
        self.offer(item)?;
        self.announce();
        Ok(())
    }

    /// Pushes onto the bounded lane, waiting for room until `deadline`.
    ///
    /// A producer that had to wait is woken when the consumer has drained the lane to half of its
    /// capacity, not at every item; with others that push meanwhile there is no order among
    /// producers. Never call this from a shard's thread: two shards that wait for each other's
    /// mailboxes stand still until the deadline.
    ///
    /// # Errors
    /// [`PushError::Full`] at the deadline, [`PushError::Closed`], with the item.
    pub fn push_deadline(&self, item: T, deadline: Instant) -> Result<(), PushError<T>> {
        let mut item = match self.try_push(item) {
            Err(PushError::Full(item)) => item,
            done => return done,
        };
        let mut gate = self.room.enter();
        loop {
            self.room.announce_waiting(&gate);
            item = match self.offer(item) {
                Ok(()) => break,
                Err(PushError::Full(item)) => item,
                closed => return closed,
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(PushError::Full(item));
            }
            gate = self.room.wait(gate, left);
        }
        // Outside of the gate: the consumer may need it while the wake is under way.
        drop(gate);
        self.announce();
        Ok(())
    }

    /// Pushes onto the control lane, which is first in, first out, and has no capacity: what is
    /// pushed must be bounded by who pushes it. After [`close`](Self::close) it still takes items;
    /// after the consumer is gone the item is dropped and counted in [`lost`](Self::lost).
    pub fn push_control(&self, item: T) {
        self.control.push(item);
        self.announce();
    }

    /// A handle that wakes `token`: [`Consumer::drain_wakes`] will name it.
    pub fn waker(&self, token: u64) -> ShardWaker {
        ShardWaker::new(sync::Arc::clone(&self.signals), token)
    }

    /// How many items are in the bounded lane; a moment's look.
    pub fn len(&self) -> usize {
        self.bounded.len()
    }

    /// Whether the bounded lane is empty; a moment's look.
    pub fn is_empty(&self) -> bool {
        self.bounded.is_empty()
    }

    /// How many items are in the control lane; a moment's look, for those who bound it.
    pub fn control_len(&self) -> usize {
        self.control.len()
    }

    /// How many items the bounded lane can hold.
    pub fn capacity(&self) -> usize {
        self.bounded.capacity()
    }

    /// Closes the bounded lane for good: pushes fail, parked producers return, the consumer is
    /// woken if it sleeps. What the lane holds can still be popped. Idempotent.
    pub fn close(&self) {
        self.signals.doorbell.close();
        self.room.release();
    }

    /// Whether the bounded lane is closed.
    pub fn is_closed(&self) -> bool {
        self.signals.doorbell.is_closed()
    }

    /// How often [`Wake::wake`] was called: the system calls really made to wake this consumer.
    pub fn wakes(&self) -> u64 {
        self.signals.doorbell.wakes()
    }

    /// How many accepted items were dropped because the consumer was gone.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Puts an item into the bounded lane without telling the consumer.
    fn offer(&self, item: T) -> Result<(), PushError<T>> {
        if self.is_closed() {
            return Err(PushError::Closed(item));
        }
        self.bounded.push(item).map_err(PushError::Full)
    }

    fn announce(&self) {
        if !self.signals.doorbell.announce() {
            self.discard();
        }
    }

    /// Empties both lanes for a consumer that is gone.
    fn discard(&self) {
        while self.control.pop().or_else(|| self.bounded.pop()).is_some() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// At or below this, parked producers are woken.
    fn low_water(&self) -> usize {
        self.capacity() / 2
    }
}

impl<T> fmt::Debug for Mailbox<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mailbox")
            .field("len", &self.len())
            .field("capacity", &self.capacity())
            .field("closed", &self.is_closed())
            .finish_non_exhaustive()
    }
}

/// The one consumer of a [`Mailbox`]; may move to another thread, cannot be cloned.
///
/// Its turn: drain what there is, within a budget; then
/// ```
/// # struct Eventfd;
/// # impl proscenium_engine::mailbox::Wake for Eventfd { fn wake(&self) {} }
/// # fn block_until_woken() {}
/// # use proscenium_engine::mailbox::Mailbox;
/// let (mailbox, mut consumer) = Mailbox::<u32>::new(64, Box::new(Eventfd));
/// mailbox.try_push(7).unwrap();
/// assert!(!consumer.prepare_sleep()); // there is work
/// assert_eq!(consumer.pop(), Some(7));
/// if consumer.prepare_sleep() {
///     block_until_woken();
///     consumer.awake();
/// }
/// ```
pub struct Consumer<T> {
    mailbox: Arc<Mailbox<T>>,
    /// Wakes taken off the list and not run yet; not empty only if a run panicked.
    taken: Chain,
    /// Whether the consumer was kept awake to learn that the mailbox is closed.
    close_told: bool,
}

impl<T> Consumer<T> {
    /// The next item of the control lane.
    pub fn pop_control(&mut self) -> Option<T> {
        self.mailbox.control.pop()
    }

    /// The next item of the bounded lane. Wakes parked producers when the lane is at low water.
    pub fn pop(&mut self) -> Option<T> {
        let item = self.mailbox.bounded.pop();
        self.release_parked();
        item
    }

    /// Runs `f` with the token of each wake that is pending now, oldest first. A wake that comes
    /// during the call is left for the next one, so the call ends. If `f` panics, the wakes not
    /// yet run are kept.
    pub fn drain_wakes(&mut self, mut f: impl FnMut(u64)) {
        while let Some(token) = self.taken.next_token() {
            f(token);
        }
        // Most turns have none: a load, not an exchange.
        if self.mailbox.signals.wake_list.is_empty() {
            return;
        }
        self.taken = self.mailbox.signals.wake_list.take();
        while let Some(token) = self.taken.next_token() {
            f(token);
        }
    }

    /// Whether both lanes and the wake list are empty; a moment's look.
    pub fn is_empty(&self) -> bool {
        let mailbox = &*self.mailbox;
        self.taken.is_empty()
            && mailbox.signals.wake_list.is_empty()
            && mailbox.control.is_empty()
            && mailbox.bounded.is_empty()
    }

    /// Whether the control lane has an item; a moment's look.
    pub fn has_control(&self) -> bool {
        !self.mailbox.control.is_empty()
    }

    /// Announces that the consumer is about to block. `true`: block, whoever publishes from here
    /// on calls [`Wake::wake`]; afterwards call [`awake`](Self::awake). `false`: there is work, do
    /// not block; the consumer counts as awake again (one wake may have been spent already). That
    /// the mailbox was [closed](Mailbox::close) counts as work once.
    #[must_use]
    pub fn prepare_sleep(&mut self) -> bool {
        let closed = self.mailbox.signals.doorbell.fall_asleep();
        self.release_parked();
        let close_is_news = closed && !std::mem::replace(&mut self.close_told, closed);
        let sleep = self.is_empty() && !close_is_news;
        if !sleep {
            self.awake();
        }
        sleep
    }

    /// Ends the sleep, whatever ended the blocking: from here on producers make no wakes.
    pub fn awake(&mut self) {
        self.mailbox.signals.doorbell.stay_awake();
    }

    /// The producers' side.
    pub fn mailbox(&self) -> &Arc<Mailbox<T>> {
        &self.mailbox
    }

    fn release_parked(&self) {
        let mailbox = &*self.mailbox;
        if mailbox.room.is_awaited() && mailbox.bounded.len() <= mailbox.low_water() {
            mailbox.room.release();
        }
    }
}

impl<T> Drop for Consumer<T> {
    fn drop(&mut self) {
        let mailbox = &*self.mailbox;
        mailbox.signals.doorbell.abandon();
        mailbox.room.release();
        mailbox.discard();
        drop(mailbox.signals.wake_list.take());
    }
}

impl<T> fmt::Debug for Consumer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer")
            .field("mailbox", &self.mailbox)
            .finish_non_exhaustive()
    }
}

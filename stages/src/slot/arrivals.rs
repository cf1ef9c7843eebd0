//! What the stages of a type were given and have not looked at yet, in the order in which it came:
//! one ring for all of them.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::mem::MaybeUninit;
use std::ptr::NonNull;

use crate::samples::{ONE_IN, Stamp};

/// Entries of a new ring, and of one that was given up after a burst.
const FEW: u32 = 64;
/// A ring with more entries is given up when it is empty.
const KEPT: u32 = 64 * 1024;
/// Of the address of an entry's target: it is no message, but the next of `others`.
const OTHER: usize = 1;

/// A message and whom it is for.
struct Entry<T, M> {
    /// With `OTHER` in it if nothing is in `message`.
    target: NonNull<T>,
    message: MaybeUninit<M>,
}

/// The ring. `T` is what targets are; they are kept as addresses and never looked at.
pub(super) struct Arrivals<T, M, O> {
    /// Places, a power of two; those from `first` up to `next` hold entries.
    entries: Cell<NonNull<Entry<T, M>>>,
    /// So many, less one.
    mask: Cell<u32>,
    /// Count entries from the beginning, and wrap.
    first: Cell<u32>,
    next: Cell<u32>,
    /// `next` at which a stamp or room is due, before the entry.
    pause: Cell<u32>,
    others: RefCell<VecDeque<O>>,
    /// When the entries came whose number is a multiple of `ONE_IN`, less one.
    stamps: RefCell<VecDeque<Stamp>>,
}

impl<T, M, O> Arrivals<T, M, O> {
    pub(super) fn new() -> Self {
        const { assert!(align_of::<T>() > OTHER, "an address has room for a bit") };
        Self {
            entries: Cell::new(Self::allocate(FEW)),
            mask: Cell::new(FEW - 1),
            first: Cell::new(0),
            next: Cell::new(0),
            pause: Cell::new(ONE_IN - 1),
            others: RefCell::default(),
            stamps: RefCell::default(),
        }
    }

    #[inline]
    fn capacity(&self) -> u32 {
        self.mask.get() + 1
    }

    /// The number of the first entry, which is also that of all before it.
    #[inline]
    pub(super) fn passed(&self) -> u32 {
        self.first.get()
    }

    /// Entries that wait.
    #[inline]
    pub(super) fn len(&self) -> u32 {
        self.next.get().wrapping_sub(self.first.get())
    }

    /// Appends a message. `stamp` is called for one of `ONE_IN`.
    #[inline(always)] // so that the message is made where it will lie
    pub(super) fn push(&self, target: NonNull<T>, message: M, stamp: impl FnOnce() -> Stamp) {
        let next = self.vacant(stamp);
        let place = self.place(next);
        // SAFETY: `vacant` gives a place of the ring in which nothing is.
        unsafe {
            (&raw mut (*place).target).write(target);
            (&raw mut (*place).message).write(MaybeUninit::new(message));
        }
        self.next.set(next.wrapping_add(1));
    }

    /// Appends anything else.
    pub(super) fn push_other(&self, target: NonNull<T>, other: O, stamp: impl FnOnce() -> Stamp) {
        let next = self.vacant(stamp); // may panic
        self.others.borrow_mut().push_back(other);
        let target = target.map_addr(|address| address | OTHER);
        // SAFETY: as in `push`.
        unsafe { (&raw mut (*self.place(next)).target).write(target) };
        self.next.set(next.wrapping_add(1));
    }

    /// The number of the next entry, for which there is room.
    #[inline(always)]
    fn vacant(&self, stamp: impl FnOnce() -> Stamp) -> u32 {
        let next = self.next.get();
        if next == self.pause.get() {
            self.pause(stamp);
        }
        next
    }

    /// Notes the time if it is due, and makes room. Both are looked at every `ONE_IN` entries at
    /// least, so that nobody else has to.
    #[cold]
    #[inline(never)]
    fn pause(&self, stamp: impl FnOnce() -> Stamp) {
        let next = self.next.get();
        if self.len() == self.capacity() {
            self.grow(); // may panic
        }
        let due = next % ONE_IN == ONE_IN - 1;
        if due {
            self.stamps.borrow_mut().push_back(stamp());
        }
        let stamp = (next | (ONE_IN - 1)).wrapping_add(if due { ONE_IN } else { 0 });
        let room = self.capacity() - self.len();
        let entries = stamp.wrapping_sub(next).min(room);
        self.pause.set(next.wrapping_add(entries));
    }

    #[inline]
    fn place(&self, number: u32) -> *mut Entry<T, M> {
        let index = number & self.mask.get();
        // SAFETY: at most `mask`.
        unsafe { self.entries.get().as_ptr().add(index as usize) }
    }

    /// The target of the first entry, and whether that is a message.
    #[inline(always)]
    pub(super) fn peek(&self) -> Option<(NonNull<T>, bool)> {
        let first = self.first.get();
        if first == self.next.get() {
            return None;
        }
        // SAFETY: the place holds an entry.
        let target = unsafe { (*self.place(first)).target };
        if target.addr().get() & OTHER == 0 {
            return Some((target, true));
        }
        // SAFETY: an address without its lowest bit is not zero: `new` has checked the alignment.
        let target = unsafe { NonNull::new_unchecked(target.as_ptr().map_addr(|a| a & !OTHER)) };
        Some((target, false))
    }

    /// Takes the first entry if it is a message.
    #[inline(always)]
    pub(super) fn pop_message(&self) -> Option<(M, Stamp)> {
        let (_, true) = self.peek()? else {
            return None;
        };
        // SAFETY: the place holds an entry, which is a message; it counts as empty from `pass` on.
        let message = unsafe { (*self.place(self.first.get())).message.assume_init_read() };
        Some((message, self.pass()))
    }

    /// Takes the first entry if it is anything else.
    pub(super) fn pop_other(&self) -> Option<(O, Stamp)> {
        let (_, false) = self.peek()? else {
            return None;
        };
        let stamp = self.pass();
        let other = self.others.borrow_mut().pop_front();
        Some((other?, stamp))
    }

    /// The first entry is one no more.
    #[inline(always)]
    fn pass(&self) -> Stamp {
        let first = self.first.get();
        self.first.set(first.wrapping_add(1));
        if first % ONE_IN == ONE_IN - 1 {
            let stamp = self.stamps.borrow_mut().pop_front();
            return stamp.unwrap_or_default();
        }
        Stamp::default()
    }

    /// Makes room for twice as many.
    #[cold]
    #[inline(never)]
    fn grow(&self) {
        let old = self.capacity();
        assert!(old < 1 << 30, "too much waits for the stages of a shard");
        let from = self.entries.get();
        let to = Self::allocate(2 * old);
        for number in 0..self.len() {
            let number = self.first.get().wrapping_add(number);
            let (was, is) = (number & (old - 1), number & (2 * old - 1));
            // SAFETY: each entry moves from a place of the old ring to one of the new.
            unsafe { to.add(is as usize).write(from.add(was as usize).read()) };
        }
        self.entries.set(to);
        self.mask.set(2 * old - 1);
        // SAFETY: made by `allocate` with that capacity; what was in it has moved out.
        unsafe { Self::free(from, old) };
    }

    /// Gives memory back after a burst, if nothing waits.
    #[inline]
    pub(super) fn shrink(&self) {
        if self.capacity() > KEPT && self.len() == 0 {
            self.give_up();
        }
    }

    #[cold]
    fn give_up(&self) {
        let (old, capacity) = (self.entries.get(), self.capacity());
        self.entries.set(Self::allocate(FEW));
        self.mask.set(FEW - 1);
        self.pause.set(self.next.get());
        // SAFETY: as in `grow`; it is empty.
        unsafe { Self::free(old, capacity) };
        // They are empty, too.
        self.others.take();
        self.stamps.take();
    }

    fn layout(capacity: u32) -> Layout {
        let layout = Layout::array::<Entry<T, M>>(capacity as usize);
        layout.expect("what waits fits into memory")
    }

    fn allocate(capacity: u32) -> NonNull<Entry<T, M>> {
        let layout = Self::layout(capacity);
        // SAFETY: an entry holds an address, so the size is not zero.
        let memory = NonNull::new(unsafe { alloc(layout) }.cast());
        memory.unwrap_or_else(|| handle_alloc_error(layout))
    }

    /// # Safety
    /// Made by `allocate` with that capacity, empty, and not used again.
    unsafe fn free(entries: NonNull<Entry<T, M>>, capacity: u32) {
        // SAFETY: by the contract.
        unsafe { dealloc(entries.as_ptr().cast(), Self::layout(capacity)) };
    }
}

impl<T, M, O> Drop for Arrivals<T, M, O> {
    fn drop(&mut self) {
        while self.len() > 0 {
            drop(self.pop_message());
            drop(self.pop_other());
        }
        // SAFETY: as in `grow`; it is empty.
        unsafe { Self::free(self.entries.get(), self.capacity()) };
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;

    #[test]
    fn entries_come_in_order_through_growth_and_around_the_ring() {
        let ring = Arrivals::<u64, Rc<u32>, u32>::new();
        let (all, targets) = (Rc::new(7), [1_u64, 2]);
        let target = |n: u32| NonNull::from(&targets[n as usize % 2]);
        let (mut pushed, mut popped, mut stamped) = (0, 0, 0);
        for round in 0..50 {
            for _ in 0..round * 3 {
                let stamp = Stamp::default;
                if pushed % 7 == 3 {
                    ring.push_other(target(pushed), pushed, stamp);
                } else {
                    let message = Rc::new(pushed);
                    ring.push(target(pushed), message, || {
                        stamped += 1;
                        Stamp::default()
                    });
                }
                pushed += 1;
            }
            for _ in 0..round * 2 {
                assert_eq!(ring.peek(), Some((target(popped), popped % 7 != 3)));
                let seen = match ring.pop_message() {
                    Some((message, _)) => *message,
                    None => ring.pop_other().unwrap().0,
                };
                assert_eq!(seen, popped);
                popped += 1;
            }
            assert_eq!(ring.len(), pushed - popped);
        }
        assert!(stamped > 0);
        ring.push(target(0), Rc::clone(&all), Stamp::default);
        drop(ring);
        assert_eq!(Rc::strong_count(&all), 1, "what was left is dropped");
    }

    #[test]
    fn a_large_ring_is_given_up_when_it_is_empty() {
        let ring = Arrivals::<u64, (), u8>::new();
        let target = NonNull::from(&0);
        for _ in 0..=KEPT {
            ring.push_other(target, 1, Stamp::default);
        }
        while ring.pop_other().is_some() {
            ring.shrink();
        }
        assert_eq!(ring.capacity(), FEW);
        assert_eq!(ring.peek(), None);
        let others = ring.others.borrow().capacity();
        assert_eq!((others, ring.stamps.borrow().capacity()), (0, 0));
    }

    #[test]
    fn counts_wrap_around() {
        let ring = Arrivals::<u64, Box<u32>, u32>::new();
        let before = u32::MAX - 1000;
        for count in [&ring.first, &ring.next, &ring.pause] {
            count.set(before);
        }
        let target = NonNull::from(&0);
        let mut seen = 0;
        for number in 0..3000 {
            ring.push(target, Box::new(number), Stamp::default);
            ring.push_other(target, number, Stamp::default);
            if number % 3 > 0 {
                let (message, _) = ring.pop_message().unwrap();
                assert_eq!((*message, ring.pop_other().unwrap().0), (seen, seen));
                seen += 1;
            }
        }
        assert!(ring.passed() < before, "it has wrapped");
        assert_eq!(ring.len(), 2 * (3000 - seen));
        // Those of entries that have passed are gone.
        let all = (before.wrapping_add(6000) / ONE_IN).wrapping_sub(ring.passed() / ONE_IN);
        assert_eq!(ring.stamps.borrow().len(), all as usize);
    }
}

//! An allocator that counts what each thread allocates, and the bytes that it holds.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "every test binary uses a part of it"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

pub struct Counting;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
    static HELD: Cell<isize> = const { Cell::new(0) };
}

/// Allocations of this thread so far.
pub fn allocations() -> u64 {
    COUNT.with(Cell::get)
}

/// Bytes that this thread has allocated more than freed.
pub fn held() -> isize {
    HELD.with(Cell::get)
}

fn count(bytes: usize) {
    COUNT.with(|count| count.set(count.get() + 1));
    HELD.with(|held| held.set(held.get() + bytes as isize));
}

fn discount(bytes: usize) {
    HELD.with(|held| held.set(held.get() - bytes as isize));
}

// SAFETY: everything is passed on to the system's allocator as it came; counting touches
// thread-local cells without destructors and allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        discount(layout.size());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(old, layout, size) }
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        discount(layout.size());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(old, layout) }
    }
}

/// Stretches of messages among which one must be without an allocation.
const WINDOWS_MAX: usize = 5;

/// How many messages were handled and how much was allocated meanwhile, after a warm-up, in the
/// best of a few stretches of `messages` each. `run_until` goes on until so many have been handled
/// in all, and returns how many were.
///
/// The pools grow until they have seen the most that is ever under way at once. A stretch in which
/// that happens is followed by another; one that allocates by the message never ends.
pub fn counted(messages: u64, mut run_until: impl FnMut(u64) -> u64) -> (u64, u64) {
    let mut handled = run_until(messages / 5);
    let mut window = || {
        let (before, from) = (allocations(), handled);
        handled = run_until(from + messages);
        (handled - from, allocations() - before)
    };
    let mut best = window();
    for _ in 1..WINDOWS_MAX {
        if best.1 > 0 {
            best = std::cmp::min_by_key(best, window(), |(_, counted)| *counted);
        }
    }
    best
}

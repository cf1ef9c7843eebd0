//! The shard's table of frames: who may be woken, and who was.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use crate::head::NONE;
use crate::slot::WakeKey;

/// Whose frame it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// The stage of this type and slot.
    Stage { stage_type: u8, slot: u32 },
    /// A detached task.
    Task(u32),
}

#[derive(Clone, Debug)]
struct Entry {
    owner: Cell<Owner>,
    /// Counts the uses; part of a waker's name.
    generation: Cell<u32>,
    woken: Cell<bool>,
    /// Its requests under way: a list in the shard's table of waits.
    waits: Cell<u32>,
}

/// See the module's page.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    entries: RefCell<Vec<Entry>>,
    free: RefCell<Vec<u32>>,
    woken: RefCell<VecDeque<(u32, u32)>>,
}

impl Frames {
    /// A number for a new frame.
    ///
    /// # Panics
    /// With more than 2^24 invocations suspended on one shard.
    pub(crate) fn number(&self) -> u32 {
        if let Some(index) = self.free.borrow_mut().pop() {
            return index;
        }
        let mut entries = self.entries.borrow_mut();
        let index = entries.len() as u32;
        assert!(
            index < WakeKey::FRAMES_MAX,
            "too many suspended invocations"
        );
        entries.push(Entry {
            owner: Cell::new(Owner::Task(u32::MAX)),
            generation: Cell::new(0),
            woken: Cell::new(false),
            waits: Cell::new(NONE),
        });
        index
    }

    /// A frame was given back to the allocator: its number is free, its generation goes on.
    pub(crate) fn forget(&self, index: u32) {
        self.free.borrow_mut().push(index);
    }

    /// What is in the frame waits to be woken, or was woken already while it was polled.
    #[inline]
    pub(crate) fn suspend(&self, index: u32, owner: Owner) {
        self.entries.borrow()[index as usize].owner.set(owner);
    }

    /// The use of the frame is over: wakers of it are out of date. Returns the next generation.
    pub(crate) fn end(&self, index: u32) -> u32 {
        let entries = self.entries.borrow();
        let entry = &entries[index as usize];
        let next = (entry.generation.get() + 1) & 0xf_ffff;
        entry.generation.set(next);
        entry.woken.set(false);
        next
    }

    /// The generation of the present use.
    pub(crate) fn generation(&self, index: u32) -> u32 {
        self.entries.borrow()[index as usize].generation.get()
    }

    /// The list of its requests under way: the number of the first.
    pub(crate) fn waits(&self, index: u32) -> u32 {
        self.entries.borrow()[index as usize].waits.get()
    }

    pub(crate) fn set_waits(&self, index: u32, first: u32) {
        self.entries.borrow()[index as usize].waits.set(first);
    }

    /// Notes that a frame is to be polled; harmless for one that is out of date or was woken.
    #[inline]
    pub(crate) fn wake(&self, index: u32, generation: u32) {
        let entries = self.entries.borrow();
        let Some(entry) = entries.get(index as usize) else {
            return;
        };
        if entry.generation.get() == generation && !entry.woken.replace(true) {
            self.woken.borrow_mut().push_back((index, generation));
        }
    }

    /// The same for a wake from another thread, which does not tell the generation: whoever uses
    /// the frame now.
    pub(crate) fn wake_any(&self, index: u32) {
        let generation = self
            .entries
            .borrow()
            .get(index as usize)
            .map(|entry| entry.generation.get());
        if let Some(generation) = generation {
            self.wake(index, generation);
        }
    }

    /// Frames to be polled.
    pub(crate) fn woken(&self) -> usize {
        self.woken.borrow().len()
    }

    /// The next frame to be polled; may be woken again from here on.
    pub(crate) fn next(&self) -> Option<(u32, Owner)> {
        loop {
            let (index, generation) = self.woken.borrow_mut().pop_front()?;
            let entries = self.entries.borrow();
            let entry = &entries[index as usize];
            if entry.generation.get() == generation {
                entry.woken.set(false);
                return Some((index, entry.owner.get()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wake_that_is_out_of_date_or_double_does_nothing() {
        let frames = Frames::default();
        let index = frames.number();
        let owner = Owner::Stage {
            stage_type: 1,
            slot: 7,
        };
        let first = frames.generation(index);
        frames.suspend(index, owner);
        frames.wake(index, first);
        frames.wake(index, first);
        assert_eq!(frames.woken(), 1);
        assert_eq!(frames.next(), Some((index, owner)));
        assert_eq!(frames.next(), None);
        frames.wake(index, first);
        frames.end(index);
        assert_eq!(frames.next(), None, "ended between wake and poll");
        let second = frames.generation(index);
        frames.suspend(index, owner);
        frames.wake(index, first);
        assert_eq!(frames.next(), None, "the first use is over");
        frames.wake(index, second);
        assert_eq!(frames.next(), Some((index, owner)));
        frames.wake(u32::MAX, 0);
        frames.wake_any(1000);
    }
}

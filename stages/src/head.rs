//! What the scheduler keeps of one stage, besides its state: at most two cache lines.

use std::cell::{Cell, RefCell};

use proscenium_engine::{RouterId, Time};
use slab::Slab;

use crate::detach::TaskId;
use crate::request::Reply;
use crate::timers::{StageTimer, TimerId};

/// Ends a list of nodes.
pub(crate) const NONE: u32 = u32::MAX;

/// How far the end of a stage has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    No,
    /// `on_destroy` is the next thing that it runs.
    Wanted,
    /// `on_destroy` runs.
    Destroying,
}

/// See the module's page. Sequence numbers count from the making of the cell and wrap.
#[derive(Debug)]
pub(crate) struct Head {
    /// Of the name; counts the stages that lived in this cell.
    pub(crate) generation: Cell<u32>,
    /// The next free cell, while this one is free.
    pub(crate) link: Cell<u32>,
    /// What waits: the backlog, and what has arrived and was not looked at.
    pub(crate) len: Cell<u32>,
    /// The backlog: a list of nodes of the type's shared pool.
    pub(crate) first: Cell<u32>,
    pub(crate) last: Cell<u32>,
    pub(crate) listed: Cell<u32>,
    /// Of `len`: timers, ends of connections and the like, which need no room.
    pub(crate) unlimited: Cell<u32>,
    /// Of these: ends of connections.
    pub(crate) ends: Cell<u32>,
    /// The sequence number of the item whose handling began last.
    pub(crate) started: Cell<u32>,
    /// When it was active last, as `lifecycle::coarse` gives it.
    pub(crate) active: Cell<u32>,
    /// It is on the ready list.
    pub(crate) queued: Cell<bool>,
    /// `on_create` has begun.
    pub(crate) created: Cell<bool>,
    /// Whether it is about to end: what is in its backlog then is dropped.
    pub(crate) ending: Cell<Ending>,
    /// It was told to end, and has perhaps not come to that: not found by its id any more.
    pub(crate) stopping: Cell<bool>,
    /// Somebody was told `Full` or was paused.
    pub(crate) crowded: Cell<bool>,
    /// It was made by the factory, under this id.
    pub(crate) id: Cell<Option<u64>>,
    /// What few stages have.
    pub(crate) extras: RefCell<Option<Box<Extras>>>,
}

/// Connections, timers, tasks and restarts of a stage.
#[derive(Debug, Default)]
pub(crate) struct Extras {
    /// Connections bound to it.
    pub(crate) connections: Vec<RouterId>,
    /// Of these: paused, because the backlog was full.
    pub(crate) paused: Vec<RouterId>,
    /// Its timers that are not over, by their ids.
    pub(crate) timers: Vec<StageTimer>,
    /// The last timer id given out.
    pub(crate) last_timer: u64,
    /// Detached futures that are not over: their closures have not entered. Each has its place
    /// among them in its name.
    pub(crate) tasks: Slab<TaskId>,
    /// Who waits for room in the backlog.
    pub(crate) waiting: Vec<Reply<()>>,
    /// Restarts since the last quiet time, and when the last one was.
    pub(crate) restarts: u32,
    pub(crate) restarted: Time,
}

impl Extras {
    /// True if nothing of it has to outlive a moment's rest.
    pub(crate) fn is_empty(&self) -> bool {
        self.connections.is_empty() && self.timers.is_empty() && self.tasks.is_empty()
    }

    /// What belongs to a state that panicked, taken away; the rest is left to the next one:
    /// connections, who waits for room, and the last timer id, so that no id comes again.
    pub(crate) fn leave_to_next(&mut self) -> Self {
        Self {
            timers: std::mem::take(&mut self.timers),
            tasks: std::mem::take(&mut self.tasks),
            ..Self::default()
        }
    }

    /// The index of a timer that is not over.
    pub(crate) fn timer(&self, id: TimerId) -> Option<usize> {
        self.timers.binary_search_by_key(&id, |timer| timer.id).ok()
    }
}

impl Head {
    pub(crate) fn new(link: u32) -> Self {
        Self {
            generation: Cell::new(1),
            link: Cell::new(link),
            first: Cell::new(NONE),
            last: Cell::new(NONE),
            len: Cell::new(0),
            listed: Cell::new(0),
            unlimited: Cell::new(0),
            ends: Cell::new(0),
            started: Cell::new(0),
            active: Cell::new(0),
            queued: Cell::new(false),
            created: Cell::new(false),
            ending: Cell::new(Ending::No),
            stopping: Cell::new(false),
            crowded: Cell::new(false),
            id: Cell::new(None),
            extras: RefCell::new(None),
        }
    }

    /// For the next stage in the cell. Generation and sequence go on; a cell that is still on the
    /// ready list stays there.
    pub(crate) fn reset(&self) {
        debug_assert_eq!(self.len.get(), 0, "the backlog was emptied");
        // What arrived late was counted when it came, but not when it was dropped.
        self.unlimited.set(0);
        self.ends.set(0);
        self.link.set(NONE);
        self.created.set(false);
        self.ending.set(Ending::No);
        self.stopping.set(false);
        self.crowded.set(false);
        self.id.set(None);
        self.extras.take();
    }

    /// True if nothing that comes now will be handled.
    pub(crate) fn is_ending(&self) -> bool {
        self.stopping.get() || self.ending.get() != Ending::No
    }

    /// Messages, requests and packets that wait.
    #[inline]
    pub(crate) fn waiting(&self) -> u32 {
        self.len.get() - self.unlimited.get()
    }

    /// The sequence number of the item queued last.
    pub(crate) fn enqueued(&self) -> u32 {
        self.started.get().wrapping_add(self.len.get())
    }

    /// What was counted of an item that waits no more.
    pub(crate) fn uncount(&self, limited: bool, end: bool) {
        self.unlimited
            .set(self.unlimited.get() - u32::from(!limited));
        self.ends.set(self.ends.get() - u32::from(end));
    }

    pub(crate) fn with_extras<R>(&self, call: impl FnOnce(&mut Extras) -> R) -> R {
        call(self.extras.borrow_mut().get_or_insert_default())
    }

    /// Does not make them if there are none.
    pub(crate) fn extras<R: Default>(&self, call: impl FnOnce(&mut Extras) -> R) -> R {
        self.extras
            .borrow_mut()
            .as_mut()
            .map_or_else(R::default, |extras| call(extras))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_small() {
        assert!(size_of::<Head>() <= 88, "{}", size_of::<Head>());
    }
}

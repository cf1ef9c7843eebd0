//! Virtual time: a clock that only moves when told to, and the events that wait for it.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use crate::time::Time;

/// The clock of a simulation with its queue of events. Events of the same time come out in the
/// order in which they were scheduled, so that nothing depends on how the heap is arranged.
#[derive(Debug)]
pub(super) struct Clock<E> {
    now: Time,
    agenda: BinaryHeap<Reverse<Entry<E>>>,
    sequence: u64,
    /// Events on the agenda that keep the simulation from being quiet.
    foreground: usize,
}

#[derive(Debug)]
struct Entry<E> {
    at: Time,
    sequence: u64,
    background: bool,
    event: E,
}

impl<E> Clock<E> {
    pub(super) fn new() -> Self {
        Self {
            now: Time::ZERO,
            agenda: BinaryHeap::new(),
            sequence: 0,
            foreground: 0,
        }
    }

    pub(super) fn now(&self) -> Time {
        self.now
    }

    /// Puts an event on the agenda. A time that has passed means "at once".
    pub(super) fn schedule(&mut self, at: Time, event: E) {
        self.foreground += 1;
        self.push(at, false, event);
    }

    /// Like [`schedule`](Self::schedule), for what may never matter (a time-out that is seldom
    /// reached): it does not count as something that is still under way.
    pub(super) fn schedule_background(&mut self, at: Time, event: E) {
        self.push(at, true, event);
    }

    fn push(&mut self, at: Time, background: bool, event: E) {
        let sequence = self.sequence;
        self.sequence += 1;
        self.agenda.push(Reverse(Entry {
            at,
            sequence,
            background,
            event,
        }));
    }

    /// Takes the next event whose time has come.
    pub(super) fn pop_due(&mut self) -> Option<E> {
        if self.agenda.peek()?.0.at > self.now {
            return None;
        }
        let Reverse(entry) = self.agenda.pop()?;
        self.foreground -= usize::from(!entry.background);
        Some(entry.event)
    }

    /// When the next event is due.
    pub(super) fn next_at(&self) -> Option<Time> {
        Some(self.agenda.peek()?.0.at)
    }

    /// True if nothing but background events is on the agenda.
    pub(super) fn is_quiet(&self) -> bool {
        self.foreground == 0
    }

    /// Moves the clock by what something cost.
    pub(super) fn charge(&mut self, nanos: u64) {
        self.now = Time::from_nanos(self.now.as_nanos().saturating_add(nanos));
    }

    /// Moves the clock to `at`; never backwards.
    pub(super) fn jump(&mut self, at: Time) {
        self.now = self.now.max(at);
    }
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<E> Eq for Entry<E> {}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Entry<E> {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_by_time_and_then_by_order_of_scheduling() {
        let mut clock = Clock::new();
        let at = Time::from_nanos;
        clock.schedule(at(20), "c");
        clock.schedule(at(10), "a");
        clock.schedule(at(10), "b");
        clock.schedule_background(at(30), "d");
        assert_eq!(clock.pop_due(), None);
        assert_eq!(clock.next_at(), Some(at(10)));
        clock.jump(at(20));
        let due: Vec<_> = std::iter::from_fn(|| clock.pop_due()).collect();
        assert_eq!(due, ["a", "b", "c"]);
        assert!(clock.is_quiet());
        clock.jump(at(5));
        assert_eq!(clock.now(), at(20), "time never goes backwards");
        clock.charge(10);
        assert_eq!(clock.pop_due(), Some("d"));
    }
}

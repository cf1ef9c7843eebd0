//! Up to which time everything that arrived has been dispatched.
//!
//! A connection is idle if nothing has arrived, not if nothing has been read: after a shard was
//! stuck in a handler, or while it has more to do than one round, data of a silent connection may
//! wait in its socket. A driver reports what had arrived before it was asked, the oldest first, but
//! maybe not all of it at once.

use crate::time::Time;

/// Besides connections and listeners, what a driver may tell events of: wake and timer.
const OTHER_SOURCES: usize = 2;

#[derive(Debug, Default)]
pub(super) struct Sweep {
    /// A time before the driver was asked for the first of the rounds under way.
    asked: Time,
    /// Events that these rounds brought.
    brought: usize,
    last_turn_ended: Time,
    /// The last round is not over.
    under_way: bool,
}

impl Sweep {
    /// Remembers a time before the next round without reading the clock for it.
    pub(super) fn turn_ended(&mut self, now: Time) {
        self.last_turn_ended = now;
    }

    /// The driver is about to be asked.
    pub(super) fn begin(&mut self) {
        if !self.under_way && self.brought == 0 {
            self.asked = self.last_turn_ended;
        }
        self.under_way = true;
    }

    /// The round is over. `part`: how many events it brought if there may have been more, else 0;
    /// `sources`: how many connections and listeners there are. Returns the new time if all that
    /// had arrived by then has been reported: once nothing was left, or more was reported than
    /// there are sources, each of which counts once before any comes again.
    pub(super) fn round_over(&mut self, part: usize, sources: usize) -> Option<Time> {
        self.under_way = false;
        self.brought += part;
        if part > 0 && self.brought <= sources + OTHER_SOURCES {
            return None;
        }
        self.brought = 0;
        Some(self.asked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(nanos: u64) -> Time {
        Time::from_nanos(nanos)
    }

    #[test]
    fn everything_is_swept_when_nothing_is_left_or_all_had_their_turn() {
        let mut sweep = Sweep::default();
        sweep.turn_ended(at(5));
        sweep.begin();
        assert_eq!(sweep.round_over(0, 10), Some(at(5)));
        // Three parts for 2500 sources; the time is that before the first.
        for (ended, swept) in [(10, None), (20, None), (30, Some(at(10)))] {
            sweep.turn_ended(at(ended));
            sweep.begin();
            assert_eq!(sweep.round_over(1024, 2500), swept);
        }
        sweep.turn_ended(at(40));
        sweep.begin();
        assert_eq!(sweep.round_over(1024, 2500), None);
        sweep.turn_ended(at(50));
        sweep.begin();
        assert_eq!(sweep.round_over(0, 2500), Some(at(40)), "the rest");
    }

    #[test]
    fn a_round_that_is_left_early_counts_from_its_beginning() {
        let mut sweep = Sweep::default();
        sweep.turn_ended(at(1));
        sweep.begin();
        sweep.turn_ended(at(2));
        sweep.begin();
        assert_eq!(sweep.round_over(0, 10), Some(at(1)));
        sweep.begin();
        assert_eq!(sweep.round_over(0, 10), Some(at(2)));
    }
}

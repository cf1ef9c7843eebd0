//! How long polls take and how long messages wait, sampled: reading the clock for each of them
//! would cost a good part of what they cost themselves.

use std::cell::Cell;
use std::time::Duration;

use proscenium_engine::{SharedHistogram, Time};

use crate::core::Core;

/// One of so many is measured.
pub(crate) const ONE_IN: u32 = 64;

/// Counts down to the next sample.
#[derive(Debug)]
struct Countdown(Cell<u32>);

impl Countdown {
    #[inline]
    fn hit(&self) -> bool {
        let left = self.0.get();
        self.0.set(if left == 0 { ONE_IN - 1 } else { left - 1 });
        left == 0
    }

    /// Counts one that is not measured; true, and nothing is counted, if the next one is.
    #[inline]
    fn is_due(&self) -> bool {
        let left = self.0.get();
        self.0.set(left.saturating_sub(1));
        left == 0
    }
}

impl Default for Countdown {
    fn default() -> Self {
        Self(Cell::new(ONE_IN - 1))
    }
}

/// What of a shard is measured next.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    polls: Countdown,
}

/// Written by the shard, read by all.
#[derive(Debug, Default)]
pub(crate) struct SharedSamples {
    pub(crate) poll_time: SharedHistogram,
    pub(crate) queue_time: SharedHistogram,
}

/// When an item was queued, if that is measured: in units of 1,024 ns, wrapping; zero: it is not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stamp(u32);

impl Stamp {
    fn of(now: Time) -> Self {
        Self((now.as_nanos() >> 10) as u32 | 1)
    }

    fn until(self, now: Self) -> Duration {
        Duration::from_nanos(u64::from(now.0.wrapping_sub(self.0)) << 10)
    }
}

impl Core {
    /// A run begins, which counts as one poll that is not measured; true if the next poll is to be
    /// measured instead.
    #[inline]
    pub(crate) fn sample_is_due(&self) -> bool {
        self.samples.polls.is_due()
    }

    /// A poll begins; `Some` if it is to be measured.
    #[inline]
    pub(crate) fn sample_poll(&self) -> Option<Time> {
        self.samples.polls.hit().then(|| self.clock())
    }

    #[cold]
    pub(crate) fn polled_since(&self, began: Time) {
        let nanos = self.clock().as_nanos().saturating_sub(began.as_nanos());
        self.shared_samples().poll_time.record(nanos);
    }

    /// Something arrives whose wait is to be measured.
    #[cold]
    pub(crate) fn stamp(&self) -> Stamp {
        Stamp::of(self.clock())
    }

    /// It is taken out of the backlog.
    #[inline]
    pub(crate) fn waited(&self, since: Stamp) {
        if since != Stamp::default() {
            self.waited_since(since);
        }
    }

    #[cold]
    fn waited_since(&self, since: Stamp) {
        let waited = since.until(Stamp::of(self.clock()));
        let nanos = u64::try_from(waited.as_nanos()).unwrap_or(u64::MAX);
        self.shared_samples().queue_time.record(nanos);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_in_sixty_four_and_stamps_wrap() {
        let countdown = Countdown::default();
        let hits: Vec<bool> = (0..ONE_IN * 3).map(|_| countdown.hit()).collect();
        assert_eq!(hits.iter().filter(|hit| **hit).count(), 3);
        assert!(hits[63] && hits[127] && hits[191]);

        let wrap = 1_u64 << 42; // 2^32 units
        let before = Stamp::of(Time::from_nanos(wrap - 10 * 1024));
        let after = Stamp::of(Time::from_nanos(wrap + 10 * 1024));
        assert_eq!(before.until(after), Duration::from_nanos(20 * 1024));
        assert_ne!(Stamp::of(Time::ZERO), Stamp::default());
    }
}

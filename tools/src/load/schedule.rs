//! A fixed offered rate: when which message is due.
//!
//! Messages are due in bursts at even distances, and keep their intended time if they cannot be
//! sent then: their latency counts from it. So a server that stalls shows the whole stall.

/// When bursts are due.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    start: u64,
    nanos_per_burst: f64,
    burst: u32,
    taken: u64,
}

impl Schedule {
    /// `rate` messages per second, `burst` at a time, from `start` (nanoseconds) on.
    pub(super) fn new(rate: f64, burst: u32, start: u64) -> Self {
        debug_assert!(rate > 0.0 && burst > 0);
        Self {
            start,
            nanos_per_burst: f64::from(burst) * 1e9 / rate,
            burst,
            taken: 0,
        }
    }

    /// Messages that are due together.
    pub(super) const fn burst(&self) -> u32 {
        self.burst
    }

    /// The intended time of the next burst, in nanoseconds.
    pub(super) fn next(&self) -> u64 {
        self.start
            .saturating_add((self.taken as f64 * self.nanos_per_burst) as u64)
    }

    /// The next burst was sent.
    pub(super) fn take(&mut self) {
        self.taken += 1;
    }

    /// Messages that were due by `now` and are not taken.
    pub(super) fn overdue(&self, now: u64) -> u64 {
        let elapsed = now.saturating_sub(self.start) as f64;
        let due = (elapsed / self.nanos_per_burst) as u64 + 1;
        due.saturating_sub(self.taken) * u64::from(self.burst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bursts_are_evenly_spaced() {
        let mut schedule = Schedule::new(1_000_000.0, 10, 500);
        let mut times = Vec::new();
        for _ in 0..4 {
            times.push(schedule.next());
            schedule.take();
        }
        assert_eq!(times, [500, 10_500, 20_500, 30_500]);
    }

    #[test]
    fn rates_that_do_not_divide_a_second_do_not_drift() {
        let mut schedule = Schedule::new(3.0, 1, 0);
        for _ in 0..3_000 {
            schedule.take();
        }
        assert_eq!(schedule.next(), 1_000_000_000_000);
    }

    #[test]
    fn what_could_not_be_sent_is_overdue() {
        let mut schedule = Schedule::new(1_000_000.0, 10, 0);
        assert_eq!(schedule.overdue(0), 10);
        assert_eq!(schedule.overdue(25_000), 30);
        schedule.take();
        assert_eq!(schedule.overdue(25_000), 20);
        schedule.take();
        schedule.take();
        assert_eq!(schedule.overdue(25_000), 0);
    }
}

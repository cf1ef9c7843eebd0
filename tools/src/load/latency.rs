//! Latencies: collected in runs of equal values, reported as percentiles.

use hdrhistogram::Histogram;

/// Longest latency told apart: two minutes. Longer ones count as this one.
const NANOS_MAX: u64 = 120_000_000_000;

/// Collects latencies of one client thread.
///
/// Messages that were sent together come back together; so the latencies of a batch are few
/// different values, and equal ones are recorded at once.
#[derive(Debug)]
pub(super) struct Latency {
    histogram: Histogram<u64>,
    now: u64,
    run_stamp: u64,
    run_length: u64,
}

impl Latency {
    pub(super) fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, NANOS_MAX, 3)
            .expect("constant bounds and precision are valid");
        Self {
            histogram,
            now: 0,
            run_stamp: 0,
            run_length: 0,
        }
    }

    /// Starts a batch: the answers added from now on arrived at `now` (nanoseconds).
    #[inline]
    pub(super) fn begin_batch(&mut self, now: u64) {
        self.flush();
        self.now = now;
    }

    /// Adds an answer to a message sent at `stamp` (nanoseconds).
    #[inline]
    pub(super) fn add(&mut self, stamp: u64) {
        if stamp != self.run_stamp {
            self.flush();
            self.run_stamp = stamp;
        }
        self.run_length += 1;
    }

    /// Ends the batch.
    #[inline]
    fn flush(&mut self) {
        if self.run_length > 0 {
            let nanos = self.now.saturating_sub(self.run_stamp).max(1);
            self.histogram.saturating_record_n(nanos, self.run_length);
            self.run_length = 0;
        }
    }

    /// Ends the collection.
    pub(super) fn finish(mut self) -> Histogram<u64> {
        self.flush();
        self.histogram
    }
}

/// Percentiles in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Percentiles {
    pub(super) p50: f64,
    pub(super) p95: f64,
    pub(super) p99: f64,
    pub(super) p99_9: f64,
    pub(super) max: f64,
}

impl Percentiles {
    /// Of a histogram of nanoseconds; all zero if it is empty.
    pub(super) fn of(histogram: &Histogram<u64>) -> Self {
        if histogram.is_empty() {
            return Self::default();
        }
        let micros = |nanos: u64| nanos as f64 / 1e3;
        let at = |quantile| micros(histogram.value_at_quantile(quantile));
        Self {
            p50: at(0.5),
            p95: at(0.95),
            p99: at(0.99),
            p99_9: at(0.999),
            max: micros(histogram.max()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_values() {
        let mut latency = Latency::new();
        for micros in 1..=1000 {
            latency.begin_batch(1_000_000 + micros * 1000);
            latency.add(1_000_000);
        }
        let histogram = latency.finish();
        assert_eq!(histogram.len(), 1000);
        let got = Percentiles::of(&histogram);
        let wanted = [500.0, 950.0, 990.0, 999.0, 1000.0];
        for (got, wanted) in [got.p50, got.p95, got.p99, got.p99_9, got.max]
            .iter()
            .zip(wanted)
        {
            assert!(
                (got - wanted).abs() <= wanted * 0.002,
                "{got} instead of {wanted}"
            );
        }
    }

    #[test]
    fn runs_count_every_message_with_its_own_time() {
        let mut latency = Latency::new();
        latency.begin_batch(10_000);
        for stamp in [1_000, 1_000, 1_000, 4_000, 1_000] {
            latency.add(stamp);
        }
        latency.begin_batch(20_000);
        latency.add(1_000);
        let histogram = latency.finish();
        let counts = [9_000, 6_000, 19_000].map(|nanos| histogram.count_at(nanos));
        assert_eq!(counts, [4, 1, 1]);
    }

    #[test]
    fn the_same_stamp_in_the_next_batch_is_another_latency() {
        let mut latency = Latency::new();
        for now in [2_000, 3_000] {
            latency.begin_batch(now);
            latency.add(1_000);
        }
        let histogram = latency.finish();
        assert_eq!(
            [1_000, 2_000].map(|nanos| histogram.count_at(nanos)),
            [1, 1]
        );
    }

    #[test]
    fn the_longest_are_kept_and_nothing_is_reported_of_nothing() {
        let mut latency = Latency::new();
        latency.begin_batch(u64::MAX);
        latency.add(0);
        assert_eq!(latency.finish().len(), 1);
        assert_eq!(
            Percentiles::of(&Latency::new().finish()),
            Percentiles::default()
        );
    }
}

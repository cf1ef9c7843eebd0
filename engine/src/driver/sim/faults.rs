//! What goes wrong in a simulation, how often, and what things cost.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::random::SimRandom;

/// The fault plan of a simulated network: chances (0 = never, 1 = always) and ranges from which
/// the seed draws. [`none`](Self::none) is a network where nothing goes wrong,
/// [`from_seed`](Self::from_seed) one where a random part of everything does.
///
/// ```
/// use std::time::Duration;
/// # use proscenium_engine::sim::Faults;
/// let mut faults = Faults::none();
/// faults.stall = 0.01;
/// faults.stall_max = Duration::from_secs(2);
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Faults {
    /// One-way latency; drawn once per connection.
    pub latency: RangeInclusive<Duration>,
    /// Greatest additional delay of a segment; drawn for each. Segments of one connection never
    /// overtake each other, those of different ones do.
    pub jitter_max: Duration,
    /// Capacity in bytes of each socket's send buffer and receive buffer; drawn once for each,
    /// every power of two as likely as the next. At least 1.
    pub buffer_bytes: RangeInclusive<usize>,
    /// The longest segment in bytes, drawn once per connection like `buffer_bytes`; the length of
    /// each segment is then drawn up to it. `None`: whatever is there goes in one segment.
    pub segment_bytes: Option<RangeInclusive<usize>>,
    /// Chance, per segment, that its direction of the connection delivers nothing for a while.
    pub stall: f64,
    /// The longest such stall.
    pub stall_max: Duration,
    /// Chance, per connection, that the network resets it at some time.
    pub reset: f64,
    /// Half of these resets come after so many bytes at most, in both directions together.
    pub reset_bytes_max: u64,
    /// The other half comes so long after the connection was begun, at most.
    pub reset_time_max: Duration,
    /// Chance that a reset takes away what was under way or unread, unless the stream had ended
    /// before. Otherwise what was sent before it arrives before it.
    pub reset_discards: f64,
    /// Chance that a connection attempt of a shard is refused, one in four at once.
    pub refuse: f64,
    /// Chance that a connection attempt of a shard is never answered.
    pub unanswered: f64,
    /// Chance, per accept of a shard, that the process runs out of descriptors for a while.
    pub accept_failure: f64,
    /// The longest such while.
    pub accept_failure_max: Duration,
    /// Chance that a send takes only part of what there is room for.
    pub partial_send: f64,
    /// Chance that a send takes nothing although there is room.
    pub pending_send: f64,
    /// Chance that a read brings only part of what has arrived.
    pub short_read: f64,
    /// Completions come in random order (within a connection they keep theirs), and random
    /// shards turn first.
    pub shuffle: bool,
    /// Chance, per turn, that the shard gets no processor for a while after it.
    pub deschedule: f64,
    /// The longest such while.
    pub deschedule_max: Duration,
    /// Chance, per step, that some shard turns without a reason.
    pub spurious_turn: f64,
}

impl Faults {
    /// A well-behaved network: 50 µs one way, 64 KiB buffers, nothing goes wrong, shards turn in
    /// order.
    pub fn none() -> Self {
        let latency = Duration::from_micros(50);
        Self {
            latency: latency..=latency,
            jitter_max: Duration::ZERO,
            buffer_bytes: 65536..=65536,
            segment_bytes: None,
            stall: 0.0,
            stall_max: Duration::from_secs(1),
            reset: 0.0,
            reset_bytes_max: 1 << 20,
            reset_time_max: Duration::from_secs(10),
            reset_discards: 0.0,
            refuse: 0.0,
            unanswered: 0.0,
            accept_failure: 0.0,
            accept_failure_max: Duration::from_millis(500),
            partial_send: 0.0,
            pending_send: 0.0,
            short_read: 0.0,
            shuffle: false,
            deschedule: 0.0,
            deschedule_max: Duration::from_millis(20),
            spurious_turn: 0.0,
        }
    }

    /// A random subset of all faults, each with a random intensity. Runs in which only a few
    /// things go wrong reach states that a run with everything on never does.
    pub fn from_seed(seed: u64) -> Self {
        // Other numbers than those which the network of the same seed draws.
        let random = &mut SimRandom::new(seed ^ 0x6661_756c_7473);
        let mut faults = Self::none();
        if random.chance(0.5) {
            let least = Duration::from_micros(random.between_log(1, 1000));
            faults.latency = least..=least * random.between(1, 100) as u32;
        }
        if random.chance(0.5) {
            faults.jitter_max = Duration::from_micros(random.between_log(1, 20_000));
        }
        if random.chance(0.5) {
            let least = random.between_log(1, 65536);
            faults.buffer_bytes = least as usize..=random.between_log(least, 65536) as usize;
        }
        if random.chance(0.5) {
            let least = random.between_log(1, 16384);
            faults.segment_bytes = Some(least as usize..=random.between_log(least, 65536) as usize);
        }
        if random.chance(0.3) {
            faults.stall = one_in(random, 5, 2000);
            faults.stall_max = Duration::from_millis(random.between_log(1, 5000));
        }
        if random.chance(0.3) {
            faults.reset = one_in(random, 2, 50);
            faults.reset_bytes_max = random.between_log(1, 1 << 22);
            faults.reset_time_max = Duration::from_millis(random.between_log(1, 20_000));
        }
        if random.chance(0.5) {
            faults.reset_discards = one_in(random, 1, 8);
        }
        if random.chance(0.3) {
            faults.refuse = one_in(random, 2, 20);
        }
        if random.chance(0.2) {
            faults.unanswered = one_in(random, 4, 50);
        }
        if random.chance(0.2) {
            faults.accept_failure = one_in(random, 4, 200);
            faults.accept_failure_max = Duration::from_millis(random.between_log(1, 2000));
        }
        if random.chance(0.5) {
            faults.partial_send = one_in(random, 1, 100);
        }
        if random.chance(0.5) {
            faults.pending_send = one_in(random, 2, 100);
        }
        if random.chance(0.5) {
            faults.short_read = one_in(random, 1, 100);
        }
        faults.shuffle = random.chance(0.7);
        if random.chance(0.3) {
            faults.deschedule = one_in(random, 2, 200);
            faults.deschedule_max = Duration::from_micros(random.between_log(10, 100_000));
        }
        if random.chance(0.3) {
            faults.spurious_turn = one_in(random, 4, 200);
        }
        faults
    }
}

/// A chance between 1 in `least` and 1 in `greatest`.
fn one_in(random: &mut SimRandom, least: u64, greatest: u64) -> f64 {
    1.0 / random.between_log(least, greatest) as f64
}

/// How much virtual time things take, in nanoseconds. This is what moves the clock while a shard
/// works; between turns it jumps to the next event or deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Costs {
    /// Each wait for events, that is each turn of a shard; at least 1, so that a shard which
    /// always has work cannot stop the clock. Default 1,000.
    pub turn_ns: u64,
    /// Each completion that a shard handles. Default 300.
    pub completion_ns: u64,
    /// Each send of a shard. Default 500.
    pub send_ns: u64,
    /// Each reading of the clock by a shard. Default 20.
    pub clock_ns: u64,
}

impl Default for Costs {
    fn default() -> Self {
        Self {
            turn_ns: 1000,
            completion_ns: 300,
            send_ns: 500,
            clock_ns: 20,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_turn_on_different_subsets() {
        let plans: Vec<_> = (0..200).map(Faults::from_seed).collect();
        let none = Faults::none();
        let some = |on: fn(&Faults, &Faults) -> bool| {
            let count = plans.iter().filter(|plan| on(plan, &none)).count();
            assert!((10..190).contains(&count), "{count} of 200");
        };
        some(|plan, none| plan.latency != none.latency);
        some(|plan, none| plan.buffer_bytes != none.buffer_bytes);
        some(|plan, _| plan.segment_bytes.is_some());
        some(|plan, _| plan.stall > 0.0);
        some(|plan, _| plan.reset > 0.0);
        some(|plan, _| plan.accept_failure > 0.0);
        some(|plan, _| plan.partial_send > 0.0);
        some(|plan, _| plan.shuffle);
        assert_eq!(plans[7], Faults::from_seed(7));
        for plan in &plans {
            assert!(*plan.buffer_bytes.start() >= 1 && !plan.buffer_bytes.is_empty());
            assert!(
                plan.segment_bytes
                    .as_ref()
                    .is_none_or(|range| *range.start() >= 1)
            );
        }
    }
}

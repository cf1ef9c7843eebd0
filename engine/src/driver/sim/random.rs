//! The simulation's generator of random numbers.

use std::time::Duration;

/// A small seeded generator (splitmix64). The same seed gives the same numbers on every machine:
/// it uses integers only, apart from the comparison in [`chance`](Self::chance), which is exact.
///
/// Not for anything that must not be guessed.
#[derive(Clone, Debug)]
pub struct SimRandom {
    state: u64,
}

impl SimRandom {
    /// A generator that starts at `seed`. Seeds that differ in one bit give unrelated numbers.
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// A generator of its own, so that what draws from it does not shift the numbers of this one.
    pub fn fork(&mut self) -> Self {
        Self::new(self.next_u64())
    }

    /// The next number, uniform over all 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.state)
    }

    /// A number in `0..bound`, or 0 if `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        let wide = u128::from(self.next_u64()) * u128::from(bound);
        (wide >> 64) as u64
    }

    /// An index in `0..length`, or 0 if `length` is 0.
    pub fn index(&mut self, length: usize) -> usize {
        self.below(length as u64) as usize
    }

    /// A number in `least..=greatest`, uniform; `least` if the range is empty.
    pub fn between(&mut self, least: u64, greatest: u64) -> u64 {
        let span = greatest.saturating_sub(least);
        least
            + if span == u64::MAX {
                self.next_u64()
            } else {
                self.below(span + 1)
            }
    }

    /// A number in `least..=greatest`, every power of two as likely as the next one: sizes that
    /// span orders of magnitude. `least` if the range is empty.
    pub fn between_log(&mut self, least: u64, greatest: u64) -> u64 {
        if greatest <= least {
            return least;
        }
        let bits = self.between(
            u64::from(least.max(1).ilog2()), //
            u64::from(greatest.max(1).ilog2()),
        );
        let low = 1u64 << bits;
        let high = low.saturating_mul(2) - 1;
        self.between(low.max(least), high.min(greatest))
    }

    /// A duration in `least..=greatest`, uniform in nanoseconds.
    pub fn duration(&mut self, least: Duration, greatest: Duration) -> Duration {
        Duration::from_nanos(self.between(nanos(least), nanos(greatest)))
    }

    /// True with probability `chance` (0 = never, 1 = always). Draws nothing if it is 0.
    pub fn chance(&mut self, chance: f64) -> bool {
        // 53 random bits are a double in 0..1 without rounding.
        chance > 0.0 && ((self.next_u64() >> 11) as f64) < chance * (1u64 << 53) as f64
    }

    /// Puts the elements in random order.
    pub fn shuffle<T>(&mut self, elements: &mut [T]) {
        for end in (1..elements.len()).rev() {
            let other = self.index(end + 1);
            elements.swap(end, other);
        }
    }
}

/// Nanoseconds, saturating.
pub(super) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The finalizer of splitmix64: every input bit moves every output bit.
pub(super) fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_in_their_ranges_and_reach_both_ends() {
        let mut random = SimRandom::new(1);
        let (mut low, mut high) = (false, false);
        for _ in 0..10_000 {
            assert!(random.below(7) < 7);
            let size = random.between_log(1, 1000);
            assert!((1..=1000).contains(&size));
            low |= size == 1;
            high |= size > 900;
        }
        assert!(low && high);
        assert_eq!(random.between(5, 5), 5);
        assert_eq!(random.below(0), 0);
        assert!(!random.chance(0.0));
        assert!(random.chance(1.0));
    }

    #[test]
    fn the_known_first_numbers_of_splitmix64() {
        let mut random = SimRandom::new(0);
        assert_eq!(random.next_u64(), 0xe220_a839_7b1d_cdaf);
        assert_eq!(random.next_u64(), 0x6e78_9e6a_a1b9_65f4);
    }
}

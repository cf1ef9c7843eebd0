//! Numbers that others cannot guess, without a dependency.

use std::hash::{BuildHasher, RandomState};

/// SipHash of a counter, under keys that the standard library draws from the system.
#[derive(Debug, Default)]
pub(crate) struct Random {
    keys: RandomState,
    count: u64,
}

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.count += 1;
        self.keys.hash_one(self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_differ_within_and_between_sources() {
        let (mut one, mut other) = (Random::default(), Random::default());
        let mut all: Vec<u64> = (0..100).flat_map(|_| [one.next(), other.next()]).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 200);
    }
}

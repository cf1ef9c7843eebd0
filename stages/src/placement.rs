//! On which shard a stage with an id lives.

/// Says on which of `shards` shards the stage `id` of a type lives: a number below `shards`. Has to
/// give the same answer every time, on every thread.
pub type Placement = fn(id: u64, shards: usize) -> usize;

/// The default [`Placement`]: "A Fast, Minimal Memory, Consistent Hash Algorithm" (Lamping and
/// Veach, 2014). Spreads evenly; with one shard more, only the stages that move there move.
///
/// ```
/// use proscenium_stages::jump_hash;
///
/// let moved = (0..10_000).filter(|&id| jump_hash(id, 4) != jump_hash(id, 5));
/// assert!(moved.count() < 2_200); // about one of five
/// ```
pub fn jump_hash(id: u64, shards: usize) -> usize {
    let mut key = id;
    let (mut bucket, mut next) = (0, 0_i64);
    while next < shards.max(1) as i64 {
        bucket = next;
        key = key.wrapping_mul(2_862_933_555_777_941_757).wrapping_add(1);
        let divisor = ((key >> 33) + 1) as f64;
        next = ((bucket + 1) as f64 * ((1_u64 << 31) as f64 / divisor)) as i64;
    }
    bucket as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spreads_evenly_and_moves_little() {
        for shards in 1..20 {
            let mut counts = vec![0; shards];
            for id in 0..20_000 {
                counts[jump_hash(id, shards)] += 1;
            }
            let even = 20_000 / shards;
            assert!(
                counts
                    .iter()
                    .all(|&n| n > even * 8 / 10 && n < even * 12 / 10),
                "{counts:?}"
            );
        }
        for id in 0..1_000 {
            let (before, after) = (jump_hash(id, 7), jump_hash(id, 8));
            assert!(after == before || after == 7);
        }
        assert_eq!(jump_hash(5, 0), 0);
    }
}

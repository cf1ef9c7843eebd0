//! Which server of a service a message goes to: pure functions over [`Candidate`]s.
//!
//! The candidates of a service are its running servers that can be reached now, in the order of
//! their names; see [`NodeHandle::candidates`](crate::NodeHandle::candidates). All policies answer
//! `None` only if there is none.
//!
//! ```
//! use proscenium_nodelink::Nid;
//! use proscenium_nodelink::routing::{Candidate, RoundRobin, by_key};
//!
//! let candidates = ["play-1", "play-2"].map(|nid| Candidate::new(Nid::new(nid).unwrap()));
//! let mut turns = RoundRobin::default();
//! let first = turns.pick(&candidates).unwrap().nid.clone();
//! assert_ne!(turns.pick(&candidates).unwrap().nid, first);
//! // The same key goes to the same server, whoever asks, as long as that is there.
//! assert_eq!(by_key(&candidates, b"room 7"), by_key(&candidates, b"room 7"));
//! ```

use std::collections::HashMap;

use crate::Nid;

/// A server that could be chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Candidate {
    /// Its name.
    pub nid: Nid,
    /// Its share of the work, at least 1.
    pub weight: u32,
    /// Requests that it has not answered to this node.
    pub pending: usize,
}

impl Candidate {
    /// With weight 100 and nothing pending.
    pub fn new(nid: Nid) -> Self {
        Self {
            nid,
            weight: 100,
            pending: 0,
        }
    }

    /// With that weight; 0 counts as 1.
    #[must_use]
    pub fn weight(mut self, weight: u32) -> Self {
        self.weight = weight.max(1);
        self
    }

    /// With so many requests pending.
    #[must_use]
    pub fn pending(mut self, pending: usize) -> Self {
        self.pending = pending;
        self
    }
}

/// One after the other. It remembers the last name, not a number: when a server joins or leaves,
/// the turn goes on from there.
#[derive(Clone, Debug, Default)]
pub struct RoundRobin {
    last: Option<Nid>,
}

impl RoundRobin {
    /// The next one, in the order of the names.
    pub fn pick<'a>(&mut self, candidates: &'a [Candidate]) -> Option<&'a Candidate> {
        let after = candidates
            .iter()
            .filter(|one| self.last.as_ref().is_none_or(|last| one.nid > *last))
            .min_by(|a, b| a.nid.cmp(&b.nid));
        let next = after.or_else(|| candidates.iter().min_by(|a, b| a.nid.cmp(&b.nid)))?;
        self.last = Some(next.nid.clone());
        Some(next)
    }
}

/// By weight, evenly spread: of weights 5, 1, 1 the picks are `a a b a c a a`, not five times `a`
/// at once ("smooth weighted round-robin").
#[derive(Clone, Debug, Default)]
pub struct Weighted {
    credits: HashMap<Nid, i64>,
}

impl Weighted {
    /// The one that is most behind its share.
    pub fn pick<'a>(&mut self, candidates: &'a [Candidate]) -> Option<&'a Candidate> {
        self.credits
            .retain(|nid, _| candidates.iter().any(|one| one.nid == *nid));
        let total: i64 = candidates
            .iter()
            .map(|one| i64::from(one.weight.max(1)))
            .sum();
        let mut best: Option<(&Candidate, i64)> = None;
        for one in candidates {
            let credit = self.credits.entry(one.nid.clone()).or_default();
            *credit += i64::from(one.weight.max(1));
            if best.is_none_or(|(_, most)| *credit > most) {
                best = Some((one, *credit));
            }
        }
        let (best, _) = best?;
        *self.credits.get_mut(&best.nid)? -= total;
        Some(best)
    }
}

/// The one with the fewest unanswered requests for its weight; of several, the one that `random`
/// (any uniformly distributed number) says, so that nodes which see the same do not all turn to the
/// same.
pub fn least_pending(candidates: &[Candidate], random: u64) -> Option<&Candidate> {
    // pending / weight, compared without dividing. Both products fit into 128 bits.
    let load = |a: &Candidate, b: &Candidate| {
        let of_a = a.pending as u128 * u128::from(b.weight.max(1));
        let of_b = b.pending as u128 * u128::from(a.weight.max(1));
        of_a.cmp(&of_b)
    };
    let least = candidates.iter().min_by(|a, b| load(a, b))?;
    let equal = || candidates.iter().filter(|one| load(one, least).is_eq());
    let count = equal().count() as u64;
    equal().nth((random % count) as usize)
}

/// The server of a key, by rendezvous hashing with weights: each server gets keys in proportion to
/// its weight, every node chooses the same one, and when a server comes or goes only the keys that
/// it gets or had move.
pub fn by_key<'a>(candidates: &'a [Candidate], key: &[u8]) -> Option<&'a Candidate> {
    let score = |one: &Candidate| {
        let hash = hash(one.nid.as_bytes(), key);
        // Uniform in (0, 1): 53 bits, never 0.
        let uniform = ((hash >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
        -f64::from(one.weight.max(1)) / uniform.ln()
    };
    let better = |a: &&Candidate, b: &&Candidate| {
        score(a)
            .total_cmp(&score(b))
            .then_with(|| b.nid.cmp(&a.nid))
    };
    candidates.iter().max_by(better)
}

/// FNV-1a over both, then the finisher of SplitMix64. It must never change: nodes of different
/// versions have to agree.
fn hash(nid: &[u8], key: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    // No NID has the byte 0xFF, so no two pairs are the same sequence.
    for &byte in nid.iter().chain(&[0xFF]).chain(key) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(names: &[&str]) -> Vec<Candidate> {
        let named = names.iter().map(|name| Nid::new(name).unwrap());
        named.map(Candidate::new).collect()
    }

    fn names(picked: impl IntoIterator<Item = Nid>) -> String {
        let all: Vec<String> = picked.into_iter().map(|nid| nid.to_string()).collect();
        all.join(" ")
    }

    #[test]
    fn turns_go_round_and_on_when_servers_come_and_go() {
        let mut turns = RoundRobin::default();
        let mut pick = |names: &[&str]| {
            let servers = servers(names);
            turns.pick(&servers).map(|one| one.nid.to_string())
        };
        let three = ["a", "b", "c"];
        let order: Vec<_> = (0..4).map(|_| pick(&three).unwrap()).collect();
        assert_eq!(order, ["a", "b", "c", "a"]);
        assert_eq!(pick(&["a", "c"]).as_deref(), Some("c"), "b has left");
        assert_eq!(
            pick(&["a", "b", "d"]).as_deref(),
            Some("d"),
            "c has, d is new"
        );
        assert_eq!(pick(&[]), None);
    }

    #[test]
    fn weights_are_kept_and_spread() {
        let mut servers = servers(&["a", "b", "c"]);
        for (server, weight) in servers.iter_mut().zip([5, 1, 1]) {
            server.weight = weight;
        }
        let mut weighted = Weighted::default();
        let picked = (0..14).map(|_| weighted.pick(&servers).unwrap().nid.clone());
        assert_eq!(names(picked), "a a b a c a a a a b a c a a");
        servers.remove(0);
        let picked = (0..4).map(|_| weighted.pick(&servers).unwrap().nid.clone());
        assert_eq!(
            names(picked).matches('b').count(),
            2,
            "the others share evenly"
        );
        assert_eq!(weighted.pick(&[]), None);
    }

    #[test]
    fn the_least_pending_for_its_weight_is_chosen_and_ties_are_drawn() {
        let mut servers = servers(&["a", "b", "c"]);
        servers[0].pending = 10;
        servers[0].weight = 1000;
        servers[1].pending = 2;
        servers[2].pending = 3;
        let pick = |servers: &[Candidate], random| {
            least_pending(servers, random).map(|one| one.nid.to_string())
        };
        assert_eq!(
            pick(&servers, 0).as_deref(),
            Some("a"),
            "1 in 100, against 2 in 100"
        );
        servers[0].weight = 100;
        assert_eq!(pick(&servers, 0).as_deref(), Some("b"));
        servers[2].pending = 2;
        let drawn: Vec<_> = (0..4)
            .map(|random| pick(&servers, random).unwrap())
            .collect();
        assert_eq!(drawn, ["b", "c", "b", "c"]);
        assert_eq!(pick(&[], 1), None);
    }

    #[test]
    fn keys_spread_by_weight_and_move_only_if_they_must() {
        let mut all = servers(&["a", "b", "c", "d"]);
        all[3].weight = 300;
        let keys: Vec<[u8; 4]> = (0..30_000_u32).map(u32::to_le_bytes).collect();
        let of = |servers: &[Candidate], key: &[u8]| by_key(servers, key).unwrap().nid.clone();
        let mut counts: HashMap<Nid, u32> = HashMap::new();
        for key in &keys {
            *counts.entry(of(&all, key)).or_default() += 1;
        }
        for server in &all {
            let share = f64::from(counts[&server.nid]) / 30_000.0;
            let wanted = f64::from(server.weight) / 600.0;
            assert!(
                (share - wanted).abs() < 0.02,
                "{}: {share} of {wanted}",
                server.nid
            );
        }
        let fewer: Vec<Candidate> = all.iter().filter(|one| &*one.nid != "b").cloned().collect();
        let mut reversed = all.clone();
        reversed.reverse();
        for key in &keys {
            let before = of(&all, key);
            assert_eq!(
                of(&reversed, key),
                before,
                "the order of the list has no say"
            );
            if &*before != "b" {
                assert_eq!(of(&fewer, key), before, "a key moved without need");
            }
        }
        assert_eq!(by_key(&[], b"x"), None);
    }

    /// Nodes of other versions choose the same.
    #[test]
    fn the_server_of_a_key_never_changes() {
        let servers = servers(&["play-1", "play-2", "play-3", "play-4"]);
        let chosen = (0..12_u8).map(|key| by_key(&servers, &[key]).unwrap().nid.clone());
        assert_eq!(
            names(chosen).replace("play-", ""),
            "1 3 3 3 2 3 3 1 4 3 4 1"
        );
    }
}

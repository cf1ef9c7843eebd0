//! [`Requests`]: the unanswered requests to one peer, by number.
//!
//! Between two Proscenium nodes numbers are `u32` and come round after 4 billion requests. To a
//! foreign peer they are 1 to 65,535, and a late reply could meet a new request: so a number is
//! free again only when its reply has come. One whose request timed out, or was lost with its link,
//! is in quarantine until then. A reply may have been lost with the link as well, or may still come
//! by another one, of which the peer has two, or the next: those numbers rest for as long as there
//! are others, and the one that has rested longest is free first.

use std::collections::VecDeque;

use proscenium_engine::timer::TimerKey;
use rustc_hash::FxHashMap;

use crate::completion::Completion;
use crate::link::LinkKey;

/// The greatest number for foreign peers.
const NARROW_MAX: u32 = u16::MAX as u32;
/// So many of these may be taken: with a quarter free, finding the next one stays cheap.
const NARROW_TAKEN_MAX: usize = 49_152;

pub(crate) struct Pending {
    pub(crate) completion: Completion,
    /// The link it was sent on.
    pub(crate) link: LinkKey,
    /// The peer is a Proscenium node.
    pub(crate) wide: bool,
    pub(crate) deadline: TimerKey,
    /// When it was sent, in nanoseconds of the engine's clock.
    pub(crate) sent_ns: u64,
}

pub(crate) struct Requests {
    pending: FxHashMap<u32, Pending>,
    /// Numbers of narrow links whose requests were given up.
    quarantined: FxHashMap<u32, Rest>,
    /// Of these, those whose links have ended, in that order. May name some that are free again.
    orphans: VecDeque<(u32, LinkKey)>,
    last: u32,
}

/// Why a number is in quarantine.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Rest {
    /// The link of its request.
    link: LinkKey,
    has_ended: bool,
}

impl Rest {
    const fn ended(link: LinkKey) -> Self {
        let has_ended = true;
        Self { link, has_ended }
    }
}

/// What is known of the number of a reply.
pub(crate) enum Answered {
    Pending(Pending),
    /// Its request was given up.
    Late,
}

impl Requests {
    /// `first` is where the numbers begin: random, so that those of an earlier run of this node
    /// are not used again at once.
    pub(crate) fn new(first: u32) -> Self {
        Self {
            pending: FxHashMap::default(),
            quarantined: FxHashMap::default(),
            orphans: VecDeque::new(),
            last: first,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.pending.len()
    }

    /// A number that nobody else has; `None` if all are taken.
    pub(crate) fn number(&mut self, wide: bool) -> Option<u32> {
        let most = if wide { u32::MAX } else { NARROW_MAX };
        while !wide && self.pending.len() + self.quarantined.len() >= NARROW_TAKEN_MAX {
            let (number, link) = self.orphans.pop_front()?;
            self.free_orphan(number, link);
        }
        let mut number = self.last;
        loop {
            number = if number >= most { 1 } else { number + 1 };
            if !self.pending.contains_key(&number) && !self.quarantined.contains_key(&number) {
                self.last = number;
                return Some(number);
            }
        }
    }

    pub(crate) fn insert(&mut self, number: u32, pending: Pending) {
        let before = self.pending.insert(number, pending);
        debug_assert!(before.is_none(), "number {number} was pending");
    }

    /// A reply has come.
    pub(crate) fn answered(&mut self, number: u32) -> Answered {
        match self.pending.remove(&number) {
            Some(pending) => Answered::Pending(pending),
            None => {
                self.quarantined.remove(&number);
                Answered::Late
            }
        }
    }

    /// The deadline has come.
    pub(crate) fn timed_out(&mut self, number: u32) -> Option<Pending> {
        let pending = self.pending.remove(&number)?;
        if !pending.wide {
            let (link, has_ended) = (pending.link, false);
            self.quarantined.insert(number, Rest { link, has_ended });
        }
        Some(pending)
    }

    /// Takes out all that were sent on a link, in the order of their numbers. What it leaves in
    /// quarantine is free when numbers get short.
    pub(crate) fn link_lost(&mut self, link: LinkKey) -> Vec<Pending> {
        // What is free again meanwhile.
        let rests = &self.quarantined;
        self.orphans
            .retain(|(number, link)| rests.get(number) == Some(&Rest::ended(*link)));
        let taken = self.take(|pending| pending.link == link);
        let mut orphans = Vec::new();
        for (number, rest) in &mut self.quarantined {
            if rest.link == link && !std::mem::replace(&mut rest.has_ended, true) {
                orphans.push(*number);
            }
        }
        for (number, _) in taken.iter().filter(|(_, pending)| !pending.wide) {
            self.quarantined.insert(*number, Rest::ended(link));
            orphans.push(*number);
        }
        orphans.sort_unstable();
        self.orphans
            .extend(orphans.into_iter().map(|number| (number, link)));
        taken.into_iter().map(|(_, pending)| pending).collect()
    }

    /// Ends the quarantine of a number whose link has ended, if it is still that one's.
    fn free_orphan(&mut self, number: u32, link: LinkKey) {
        if self.quarantined.get(&number) == Some(&Rest::ended(link)) {
            self.quarantined.remove(&number);
        }
    }

    /// Takes out all.
    pub(crate) fn take_all(&mut self) -> Vec<Pending> {
        let taken = self.take(|_| true);
        taken.into_iter().map(|(_, pending)| pending).collect()
    }

    fn take(&mut self, which: impl Fn(&Pending) -> bool) -> Vec<(u32, Pending)> {
        let taken = self.pending.extract_if(|_, pending| which(pending));
        let mut taken: Vec<_> = taken.collect();
        taken.sort_unstable_by_key(|(number, _)| *number);
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proscenium_engine::timer::TimerWheel;

    fn pending(link: LinkKey) -> Pending {
        Pending {
            completion: Completion::Token(0),
            link,
            wide: false,
            deadline: TimerWheel::new(0).insert(1, ()),
            sent_ns: 0,
        }
    }

    const LINK: LinkKey = LinkKey::test(1);

    #[test]
    fn foreign_numbers_are_1_to_65535_and_none_is_given_twice() {
        let mut requests = Requests::new(40_000);
        let mut seen = vec![false; 65_536];
        for _ in 0..NARROW_TAKEN_MAX {
            let number = requests.number(false).unwrap();
            assert!(number != 0 && !std::mem::replace(&mut seen[number as usize], true));
            requests.insert(number, pending(LINK));
        }
        assert_eq!(requests.number(false), None);
        assert!(matches!(requests.answered(40_001), Answered::Pending(_)));
        let next = requests.number(false).unwrap();
        assert!(!seen[next as usize] || next == 40_001);
        assert_eq!(Requests::new(u32::MAX).number(false), Some(1));
        assert_eq!(Requests::new(u32::MAX).number(true), Some(1));
        assert_eq!(Requests::new(65_535).number(true), Some(65_536));
    }

    #[test]
    fn a_timed_out_number_of_a_foreign_peer_rests_until_its_reply_also_by_another_link() {
        let mut requests = Requests::new(65_534);
        for number in 1..=10 {
            requests.insert(number, pending(LinkKey::test(number % 2)));
        }
        assert!(requests.timed_out(5).is_some());
        assert!(requests.timed_out(6).is_some());
        assert!(requests.timed_out(6).is_none());
        requests.last = 4;
        assert_eq!(
            requests.number(false),
            Some(11),
            "5 and 6 are in quarantine"
        );
        assert!(matches!(requests.answered(5), Answered::Late));
        requests.last = 4;
        assert_eq!(requests.number(false), Some(5));
        let lost = requests.link_lost(LinkKey::test(0));
        assert_eq!((lost.len(), requests.len()), (4, 4));
        requests.last = 5;
        // 6 and those that were lost with their link may still be answered by the other one.
        assert_eq!(requests.number(false), Some(11));
        for number in [6, 8] {
            assert!(matches!(requests.answered(number), Answered::Late));
            requests.last = 5;
            assert_eq!(requests.number(false), Some(number));
            requests.insert(number, pending(LINK));
        }
        let wide = Pending {
            wide: true,
            ..pending(LINK)
        };
        requests.insert(20, wide);
        assert!(requests.timed_out(20).is_some());
        requests.last = 19;
        assert_eq!(
            requests.number(true),
            Some(20),
            "wide numbers need no quarantine"
        );
    }

    #[test]
    fn numbers_of_lost_links_are_free_again_when_numbers_get_short() {
        let mut requests = Requests::new(0);
        for round in 0..3_u32 {
            let link = LinkKey::test(round);
            for _ in 0..NARROW_TAKEN_MAX {
                let number = requests.number(false).unwrap();
                requests.insert(number, pending(link));
            }
            assert_eq!(requests.number(false), None, "all are pending");
            assert_eq!(requests.link_lost(link).len(), NARROW_TAKEN_MAX);
            assert_eq!(requests.quarantined.len(), NARROW_TAKEN_MAX);
            assert_eq!(requests.orphans.len(), NARROW_TAKEN_MAX);
        }
        // Those that have rested longest are free first.
        let oldest = requests.orphans[0].0;
        let _ = requests.number(false).unwrap();
        assert!(!requests.quarantined.contains_key(&oldest));
        // Of links that are there, none is.
        let link = LinkKey::test(9);
        let mut requests = Requests::new(0);
        for _ in 0..NARROW_TAKEN_MAX {
            let number = requests.number(false).unwrap();
            requests.insert(number, pending(link));
            assert!(requests.timed_out(number).is_some());
        }
        assert_eq!(requests.number(false), None);
    }

    proptest::proptest! {
        /// Whatever is asked, answered late or in time, given up or lost: a number that is pending
        /// or could still be answered is never given out.
        #[test]
        fn no_number_is_ambiguous(
            steps in proptest::collection::vec((0..5_u8, 0..40_usize), 0..300),
        ) {
            let mut requests = Requests::new(65_500);
            let mut under_way: Vec<(u32, u32)> = Vec::new();
            for (step, pick) in steps {
                let picked = under_way.get(pick % under_way.len().max(1)).copied();
                match (step, picked) {
                    (0 | 1, _) => {
                        let number = requests.number(false).unwrap();
                        let link = pick as u32 % 3;
                        proptest::prop_assert!(under_way.iter().all(|(known, _)| *known != number));
                        requests.insert(number, pending(LinkKey::test(link)));
                        under_way.push((number, link));
                    }
                    (2, Some((number, _))) => {
                        requests.answered(number);
                        under_way.retain(|(known, _)| *known != number);
                    }
                    (3, Some((number, _))) => {
                        requests.timed_out(number);
                    }
                    // The peer may still answer by another link.
                    (4, Some((_, link))) => {
                        requests.link_lost(LinkKey::test(link));
                    }
                    _ => {}
                }
            }
        }
    }
}

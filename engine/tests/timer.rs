//! The timer wheel against a binary heap, and the edges one would get wrong.
#![cfg(not(loom))]

use proptest::prelude::*;
use proscenium_engine::timer::{TimerKey, TimerWheel};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet};

const TICK: u64 = TimerWheel::<()>::TICK_NS;

fn drain<T>(wheel: &mut TimerWheel<T>, now: u64) -> Vec<T> {
    std::iter::from_fn(|| wheel.pop_due(now)).collect()
}

/// What the wheel promises, the slow way.
#[derive(Default)]
struct Model {
    /// (tick, order of insertion = value, the tick counted from a late insertion included)
    heap: BinaryHeap<Reverse<(u64, usize)>>,
    cancelled: HashSet<usize>,
    now: u64,
    inserted: usize,
}

impl Model {
    fn tick_reached(&self) -> u64 {
        if self.now == u64::MAX {
            1 << 47
        } else {
            self.now / TICK
        }
    }

    fn insert(&mut self, deadline: u64) -> usize {
        let tick = if deadline <= self.now {
            self.tick_reached()
        } else {
            deadline.div_ceil(TICK)
        };
        self.heap.push(Reverse((tick, self.inserted)));
        self.inserted += 1;
        self.inserted - 1
    }

    fn prune(&mut self) {
        while let Some(Reverse((_, id))) = self.heap.peek() {
            if !self.cancelled.contains(id) {
                return;
            }
            self.heap.pop();
        }
    }

    /// What is due at `now`, in order.
    fn advance(&mut self, now: u64) -> Vec<usize> {
        self.now = self.now.max(now);
        let mut due = Vec::new();
        loop {
            self.prune();
            match self.heap.peek() {
                Some(&Reverse((tick, id))) if tick <= self.tick_reached() => {
                    self.heap.pop();
                    due.push(id);
                }
                _ => return due,
            }
        }
    }

    fn next_deadline(&mut self) -> Option<u64> {
        self.prune();
        self.heap.peek().map(|Reverse((tick, _))| {
            u64::try_from(u128::from(*tick) * u128::from(TICK)).unwrap_or(u64::MAX)
        })
    }

    fn len(&self) -> usize {
        self.heap
            .iter()
            .filter(|Reverse((_, id))| !self.cancelled.contains(id))
            .count()
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// A deadline this far from now, in either direction.
    Insert {
        ahead: bool,
        by: u64,
    },
    /// A deadline whose tick is a power of 64 or its neighbour, from tick 0.
    InsertAtBoundary {
        level: u32,
        times: u64,
        off: i64,
    },
    Cancel(prop::sample::Index),
    Advance(u64),
    AdvanceToNext,
    /// Advance, inserting and cancelling from inside the batch.
    AdvanceBusy {
        by: u64,
        insert: Vec<i64>,
        cancel: prop::sample::Index,
    },
}

/// How far from now timers are inserted within a batch: a little over one level.
const SPREAD: i64 = 70 * TICK as i64;

/// Distances of every order of magnitude.
fn distance() -> impl Strategy<Value = u64> {
    (0u32..64, any::<u64>()).prop_map(|(bits, x)| x >> bits)
}

fn step(insert_weight: u32) -> impl Strategy<Value = Step> {
    prop_oneof![
        insert_weight => (prop::bool::weighted(0.9), distance())
            .prop_map(|(ahead, by)| Step::Insert { ahead, by }),
        insert_weight => (0u64..64).prop_map(|t| Step::Insert { ahead: true, by: t * TICK / 4 }),
        2 => (0u32..8, 1u64..64, -1i64..=1)
            .prop_map(|(level, times, off)| Step::InsertAtBoundary { level, times, off }),
        3 => any::<prop::sample::Index>().prop_map(Step::Cancel),
        2 => (17u32..64, any::<u64>()).prop_map(|(bits, x)| Step::Advance(x >> bits)),
        1 => distance().prop_map(Step::Advance),
        2 => Just(Step::AdvanceToNext),
        1 => {
            let insert = prop::collection::vec(-SPREAD..SPREAD, 0..4);
            (distance(), insert, any::<prop::sample::Index>())
                .prop_map(|(by, insert, cancel)| Step::AdvanceBusy { by, insert, cancel })
        },
    ]
}

struct Pair {
    wheel: TimerWheel<usize>,
    model: Model,
    keys: Vec<TimerKey>,
    ever_cancelled: bool,
}

impl Pair {
    fn new(start: u64) -> Self {
        Pair {
            wheel: TimerWheel::new(start),
            model: Model {
                now: start,
                ..Model::default()
            },
            keys: Vec::new(),
            ever_cancelled: false,
        }
    }

    fn insert(&mut self, deadline: u64) {
        let id = self.model.insert(deadline);
        self.keys.push(self.wheel.insert(deadline, id));
    }

    fn advance(&mut self, by: u64) {
        let now = self.model.now.saturating_add(by);
        assert_eq!(drain(&mut self.wheel, now), self.model.advance(now));
    }

    fn run(&mut self, step: Step) {
        let now = self.model.now;
        match step {
            Step::Insert { ahead: true, by } => self.insert(now.saturating_add(by)),
            Step::Insert { ahead: false, by } => self.insert(now.saturating_sub(by)),
            Step::InsertAtBoundary { level, times, off } => {
                let tick = (times << (6 * level)).saturating_add_signed(off);
                self.insert(u64::try_from(u128::from(tick) * u128::from(TICK)).unwrap_or(u64::MAX));
            }
            Step::Cancel(which) if !self.keys.is_empty() => {
                let id = which.index(self.keys.len());
                let pending = self.wheel.cancel(self.keys[id]);
                let expected = self
                    .model
                    .heap
                    .iter()
                    .any(|Reverse((_, other))| *other == id)
                    && self.model.cancelled.insert(id);
                assert_eq!(pending, expected.then_some(id));
                self.ever_cancelled |= expected;
            }
            Step::Cancel(_) => {}
            Step::Advance(by) => self.advance(by),
            Step::AdvanceToNext => {
                if let Some(next) = self.wheel.next_deadline() {
                    self.advance(next.saturating_sub(now));
                }
            }
            Step::AdvanceBusy { by, insert, cancel } => {
                let now = now.saturating_add(by);
                let mut batch = self.model.advance(now);
                if batch.is_empty() {
                    assert_eq!(self.wheel.pop_due(now), None);
                    return;
                }
                assert_eq!(self.wheel.pop_due(now), Some(batch.remove(0)));
                for offset in insert {
                    self.insert(now.saturating_add_signed(offset));
                }
                if !batch.is_empty() {
                    let id = batch.remove(cancel.index(batch.len()));
                    assert_eq!(self.wheel.cancel(self.keys[id]), Some(id));
                }
                assert_eq!(drain(&mut self.wheel, now), batch);
                // Only the next batch has what was inserted late.
                self.advance(0);
            }
        }
    }

    fn check(&mut self) {
        assert_eq!(self.wheel.len(), self.model.len());
        assert_eq!(self.wheel.is_empty(), self.model.len() == 0);
        let (next, expected) = (self.wheel.next_deadline(), self.model.next_deadline());
        if self.ever_cancelled {
            assert_eq!(next.is_some(), expected.is_some());
            assert!(next <= expected, "{next:?} would be late for {expected:?}");
        } else {
            assert_eq!(next, expected);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn behaves_as_a_heap(
        start in prop_oneof![Just(0), distance()],
        steps in prop::collection::vec(step(4), 1..200),
    ) {
        let mut pair = Pair::new(start);
        for step in steps {
            pair.run(step);
            pair.check();
        }
        pair.advance(u64::MAX);
        prop_assert!(pair.wheel.is_empty());
    }
}

#[test]
fn never_early_and_at_most_a_tick_late() {
    for start in [0, 1, TICK - 1, TICK, 12_345_678_901] {
        for ahead in [
            1,
            TICK - 1,
            TICK,
            TICK + 1,
            63 * TICK,
            64 * TICK,
            4096 * TICK + 7,
        ] {
            let deadline = start + ahead;
            let mut wheel = TimerWheel::new(start);
            wheel.insert(deadline, ());
            assert_eq!(wheel.pop_due(deadline - 1), None);
            assert_eq!(wheel.pop_due(deadline + TICK - 1), Some(()));
        }
    }
}

#[test]
fn a_deadline_of_now_or_before_fires_at_the_next_call() {
    let now = 5 * TICK + 77;
    let mut wheel = TimerWheel::new(now);
    wheel.insert(now, 'a');
    wheel.insert(0, 'b');
    assert!(wheel.next_deadline().unwrap() <= now);
    assert_eq!(drain(&mut wheel, now), ['a', 'b']);
}

#[test]
fn every_cascade_boundary_keeps_time_and_order() {
    for level in 1..7u32 {
        let edge = 1u64 << (6 * level);
        let mut wheel = TimerWheel::new(0);
        let ticks = [
            edge - 1,
            edge,
            edge + 1,
            2 * edge - 1,
            2 * edge,
            63 * edge,
            64 * edge,
        ];
        for tick in ticks.iter().rev() {
            wheel.insert(tick * TICK, *tick);
        }
        for tick in ticks {
            assert_eq!(wheel.next_deadline(), Some(tick * TICK));
            assert_eq!(wheel.pop_due(tick * TICK - 1), None);
            assert_eq!(drain(&mut wheel, tick * TICK), [tick]);
        }
    }
}

#[test]
fn one_tick_fires_in_the_order_of_insertion_wherever_the_timers_were() {
    let mut wheel = TimerWheel::new(0);
    let deadline = 64 * 64 * 64 * TICK + 65 * TICK;
    let mut expected = Vec::new();
    // From four distances, hence from four levels.
    for (i, now) in [0, 64 * 64 * TICK, 64 * 64 * 64 * TICK, deadline - 2 * TICK]
        .iter()
        .enumerate()
    {
        assert_eq!(wheel.pop_due(*now), None);
        for k in 0..3 {
            wheel.insert(deadline - k, (i, k));
            expected.push((i, k));
        }
    }
    assert_eq!(drain(&mut wheel, deadline), expected);
}

#[test]
fn a_self_renewing_timer_does_not_hold_the_loop() {
    let mut wheel = TimerWheel::new(0);
    wheel.insert(TICK, 0);
    for now in [TICK, TICK, 2 * TICK, 2 * TICK + 1] {
        let mut fired = 0;
        while let Some(n) = wheel.pop_due(now) {
            fired += 1;
            wheel.insert(now, n + 1);
        }
        assert_eq!(fired, 1, "at {now}");
    }
}

#[test]
fn an_abandoned_batch_goes_on_before_the_next() {
    let mut wheel = TimerWheel::new(0);
    for i in 0..4 {
        wheel.insert(TICK, i);
    }
    assert_eq!(wheel.pop_due(TICK), Some(0));
    wheel.insert(0, 10);
    assert_eq!(wheel.pop_due(TICK), Some(1));
    wheel.insert(2 * TICK, 11);
    assert_eq!(drain(&mut wheel, 9 * TICK), [2, 3, 10, 11]);
}

#[test]
fn the_end_of_time_is_a_deadline_like_others() {
    let mut wheel = TimerWheel::new(0);
    wheel.insert(u64::MAX, "max");
    wheel.insert(u64::MAX - 1, "max - 1");
    assert_eq!(wheel.next_deadline(), Some(u64::MAX));
    assert_eq!(wheel.pop_due(u64::MAX - 1), None);
    wheel.insert(u64::MAX - TICK, "before");
    assert_eq!(drain(&mut wheel, u64::MAX), ["before", "max", "max - 1"]);
    wheel.insert(u64::MAX, "again");
    assert_eq!(drain(&mut wheel, u64::MAX), ["again"]);
}

#[test]
fn a_stale_key_is_harmless() {
    let mut wheel = TimerWheel::new(0);
    let fired = wheel.insert(TICK, 1);
    assert_eq!(wheel.pop_due(TICK), Some(1));
    let cancelled = wheel.insert(9 * TICK, 2);
    assert_eq!(wheel.cancel(cancelled), Some(2));
    wheel.insert(9 * TICK, 3);
    for stale in [fired, cancelled] {
        assert_eq!(wheel.cancel(stale), None);
    }
    assert_eq!(wheel.len(), 1);
    assert_eq!(TimerWheel::<u8>::new(0).cancel(fired), None);
}

#[test]
fn a_clock_that_goes_back_stands_still() {
    let mut wheel = TimerWheel::new(10 * TICK);
    wheel.insert(12 * TICK, ());
    assert_eq!(wheel.pop_due(0), None);
    assert_eq!(wheel.pop_due(11 * TICK), None);
    assert_eq!(wheel.pop_due(12 * TICK), Some(()));
}

#[test]
fn a_cancelled_earliest_timer_costs_a_bounded_number_of_early_wakes() {
    let mut wheel = TimerWheel::new(0);
    let hour = 3_600_000_000_000;
    let first = wheel.insert(hour, ());
    wheel.insert(hour + 30_000_000_000, ());
    wheel.cancel(first);
    let mut early = 0;
    loop {
        let next = wheel.next_deadline().unwrap();
        if wheel.pop_due(next).is_some() {
            assert_eq!(next, (hour + 30_000_000_000).div_ceil(TICK) * TICK);
            break;
        }
        early += 1;
        assert!(early <= 7, "early wakes do not end");
        assert!(wheel.next_deadline().unwrap() > next);
    }
    assert!(early >= 1, "the case is not the one meant");
}

//! What stages cost in memory: little while they rest, nothing when they have gone.

#[path = "../../tests/support/counting.rs"]
mod counting;
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use counting::{Counting, held};
use proscenium_engine::{Engine, Shard};
use proscenium_stages::{Cx, Stage, StageRef, StageShard, StageType, Stages};
use support::run_all;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Stages at the same time, and of one generation after the other.
fn stages_wanted() -> u64 {
    if run_all() { 1_000_000 } else { 100_000 }
}

/// What a stage may take besides its own state, in bytes.
const STAGE_BYTES_MAX: isize = 256;

/// Generations of stages among which one must leave nothing behind.
const ROUNDS_MAX: usize = 5;

struct Small(#[allow(dead_code, reason = "what it owns")] u64);

impl Stage for Small {
    type Msg = ();

    async fn on_message(&mut self, cx: &mut Cx<'_, Self>, (): ()) {
        cx.sleep(Duration::from_millis(1)).await;
    }
}

/// Makes so many stages, in portions; then ends them all.
struct Maker {
    made: Vec<StageRef<Small>>,
    count: Arc<AtomicU64>,
}

enum Make {
    Stages(u64),
    /// One message for each.
    Tell,
    End,
}

impl Stage for Maker {
    type Msg = Make;

    async fn on_message(&mut self, cx: &mut Cx<'_, Self>, make: Make) {
        match make {
            Make::Stages(count) => {
                self.made.reserve_exact(count as usize);
                for n in 0..count {
                    self.made.push(cx.spawn(Small(n)).unwrap());
                    if n % 1000 == 0 {
                        cx.sleep(Duration::from_nanos(1)).await;
                    }
                }
            }
            Make::Tell => {
                for (n, &stage) in self.made.iter().enumerate() {
                    cx.tell(stage, ()).unwrap();
                    if n % 1000 == 0 {
                        cx.sleep(Duration::from_millis(2)).await;
                    }
                }
            }
            Make::End => {
                for (n, stage) in self.made.drain(..).enumerate() {
                    if n % 2 == 0 {
                        cx.stop(stage);
                    } else {
                        cx.destroy(stage);
                    }
                }
                self.made = Vec::new();
            }
        }
        self.count.fetch_add(1, Ordering::SeqCst);
    }
}

struct Place {
    shard: Shard<StageShard>,
    stages: Stages,
    maker: StageRef<Maker>,
    count: Arc<AtomicU64>,
    orders: u64,
}

impl Place {
    fn new() -> Self {
        let count = Arc::new(AtomicU64::new(0));
        let of = Arc::clone(&count);
        let makers = StageType::new("maker").factory(move |_| Maker {
            made: Vec::new(),
            count: Arc::clone(&of),
        });
        let smalls = StageType::<Small>::new("small").stages_max(1 << 24);
        let stages = Stages::builder().register(makers).register(smalls).build();
        let mut shard = Engine::builder().host(stages.shards()(0)).unwrap();
        stages.attach(&shard.handle());
        let made = stages.get_or_create::<Maker>(0);
        while stages.total().live < 1 {
            shard.turn(Duration::from_millis(10)).unwrap();
        }
        Self {
            shard,
            maker: made.wait(Duration::ZERO).unwrap(),
            stages,
            count,
            orders: 0,
        }
    }

    /// Has the maker do something, and everything come to rest.
    fn order(&mut self, make: Make, live: u64) {
        self.orders += 1;
        self.maker.tell(make).unwrap();
        while self.count.load(Ordering::SeqCst) < self.orders || self.stages.total().live != live {
            self.shard.turn(Duration::from_millis(10)).unwrap();
        }
        let busy = |shard: &Shard<StageShard>| shard.handle().stats().total().timers > 0;
        while busy(&self.shard) {
            self.shard.turn(Duration::from_millis(1)).unwrap();
        }
        for _ in 0..10 {
            self.shard.turn(Duration::ZERO).unwrap();
        }
    }
}

#[test]
fn stages_that_rest_take_little_and_those_that_have_gone_nothing() {
    let count = stages_wanted();
    let mut place = Place::new();
    place.order(Make::Stages(1000), 1001);
    place.order(Make::End, 1);
    let before = held();
    place.order(Make::Stages(count), count + 1);
    // The maker's addresses and the states are no part of it.
    let own = (size_of::<StageRef<Small>>() + size_of::<Small>()) as isize;
    let each = |held: isize| (held - before) / count as isize - own;
    assert!(each(held()) <= STAGE_BYTES_MAX, "{} bytes", each(held()));
    // All of them have been busy: what that took is not kept for each.
    place.order(Make::Tell, count + 1);
    assert!(each(held()) <= STAGE_BYTES_MAX, "{} bytes", each(held()));
    place.order(Make::End, 1);
    let mut most = held();
    // Cells and lists are used again. A queue may double once more, when more came together than
    // ever before; what is left behind by each stage grows every time.
    let mut grown = Vec::new();
    while grown.last().is_none_or(|grown| *grown > 4096) {
        assert!(
            grown.len() < ROUNDS_MAX,
            "bytes by which it has grown: {grown:?}"
        );
        place.order(Make::Stages(count), count + 1);
        place.order(Make::End, 1);
        grown.push(held() - most);
        most = most.max(held());
    }
    let generations = 1 + grown.len() as u64;
    assert_eq!(place.stages.total().ended, generations * count + 1000);
}

/// One at a time: a stage that comes and goes leaves nothing behind.
#[test]
fn a_stage_after_the_other_takes_the_memory_of_one() {
    let mut place = Place::new();
    for _ in 0..10 {
        place.order(Make::Stages(1), 2);
        place.order(Make::End, 1);
    }
    let before = held();
    for _ in 0..stages_wanted() / 1000 {
        place.order(Make::Stages(1), 2);
        place.order(Make::End, 1);
    }
    assert!(held() <= before + 4096, "{before} became {}", held());
}

//! What a run of a shard gets done while others tell stages more and more: who is told much
//! catches up as long as there is time, and who is told little does not wait for it.
#![cfg(feature = "sim")]

#[path = "support/sim.rs"]
mod sim;

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::task::Poll;
use std::time::Duration;

use proscenium_engine::sim::{Costs, Faults, SimNet};
use proscenium_stages::{Cx, Local, Stage, StageRef, StageType, Stages};
use sim::{House, SECOND};

/// Takes all that it is told, and counts for all.
struct Sink(Arc<AtomicU64>);

impl Stage for Sink {
    type Msg = ();

    async fn on_message(&mut self, _cx: &mut Cx<'_, Self>, (): ()) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Tells a sink so many at a time, and goes on in the next run of its shard.
struct Source(StageRef<Sink>);

impl Stage for Source {
    type Msg = (u32, u32);

    async fn on_message(&mut self, cx: &mut Cx<'_, Self>, (times, messages): (u32, u32)) {
        for _ in 0..times {
            for _ in 0..messages {
                let _ = cx.tell(self.0, ());
            }
            next_run().await;
        }
    }
}

async fn next_run() {
    let mut is_next = false;
    poll_fn(|cx| {
        if is_next {
            return Poll::Ready(());
        }
        is_next = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Tells a sink so many, as often as it has told itself to.
struct Feeder(StageRef<Sink>);

impl Stage for Feeder {
    type Msg = (u32, u32);

    async fn on_message(&mut self, cx: &mut Cx<'_, Self>, (times, messages): (u32, u32)) {
        for _ in 0..messages {
            let _ = cx.tell(self.0, ());
        }
        if times > 1 {
            cx.tell(cx.me(), (times - 1, messages)).unwrap();
        }
    }
}

/// Returns a ball as often as it says; shows how many runs there had been when it was the last.
struct Player {
    runs: Arc<AtomicU64>,
    took: Arc<AtomicU64>,
}

impl Stage for Player {
    type Msg = (StageRef<Player>, u32);

    async fn on_message(&mut self, cx: &mut Cx<'_, Self>, (other, hops): Self::Msg) {
        if hops == 0 {
            let runs = self.runs.load(Ordering::Relaxed);
            return self.took.store(runs, Ordering::Relaxed);
        }
        cx.tell(other, (cx.me(), hops - 1)).unwrap();
    }
}

/// Counts the runs of its shard: it is woken in each.
struct Clock(Arc<AtomicU64>);

impl Stage for Clock {
    type Msg = ();

    async fn on_message(&mut self, _cx: &mut Cx<'_, Self>, (): ()) {
        loop {
            self.0.fetch_add(1, Ordering::Relaxed);
            next_run().await;
        }
    }
}

/// A shard, and what all its sinks have taken.
struct Shard {
    house: House,
    taken: Arc<AtomicU64>,
}

impl Shard {
    fn new(backlog: u32) -> Self {
        let stages = Stages::builder()
            .register(StageType::<Sink>::new("sink").backlog(backlog))
            .register(StageType::<Source>::new("source"))
            .register(StageType::<Feeder>::new("feeder"))
            .register(StageType::<Player>::new("player"))
            .register(StageType::<Clock>::new("clock"));
        let net = SimNet::new(1, Faults::none());
        Self {
            house: House::new(&net, stages, |engine| engine.shards(1)),
            taken: Arc::default(),
        }
    }

    fn run(&mut self, time: Duration) {
        self.house.world.run_for(time);
    }

    /// Runs this on the shard, with a sink, which it returns.
    fn begin(
        &mut self,
        begin: impl FnOnce(&Local<'_>, StageRef<Sink>) + Send + 'static,
    ) -> StageRef<Sink> {
        let (taken, (tell, told)) = (Arc::clone(&self.taken), channel());
        let start = move |local: &Local<'_>| {
            let sink = local.spawn(Sink(taken)).unwrap();
            tell.send(sink).unwrap();
            begin(local, sink);
        };
        self.house.stages.run_on(0, start).unwrap();
        self.run(Duration::from_micros(1));
        told.recv().unwrap()
    }

    /// Each look at the clock takes so long: there is one every 32 messages.
    fn each_look_costs(&self, time: Duration) {
        let mut costs = Costs::default();
        costs.clock_ns = time.as_nanos() as u64;
        self.house.net.set_costs(costs);
    }

    /// Counts runs from now on, in which something is always woken.
    fn count_runs(&self) -> Arc<AtomicU64> {
        let runs: Arc<AtomicU64> = Arc::default();
        let clock = Clock(Arc::clone(&runs));
        let start = |local: &Local<'_>| local.tell(local.spawn(clock).unwrap(), ()).unwrap();
        self.house.stages.run_on(0, start).unwrap();
        runs
    }

    fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    #[track_caller]
    fn check_taken(&self, told: u64) {
        assert_eq!(self.house.stages.total().full, 0, "of {told}");
        assert_eq!(self.taken(), told);
    }
}

const TIMES: u32 = 200;

/// A sink that is told so many so often by what `begin` begins gets all of them, though its backlog
/// holds two times only.
fn catches_up(messages: u32, begin: impl FnOnce(&Local<'_>, StageRef<Sink>) + Send + 'static) {
    let mut shard = Shard::new(2 * messages);
    shard.begin(begin);
    shard.run(SECOND);
    shard.check_taken(u64::from(TIMES * messages));
}

#[test]
fn who_is_told_many_per_run_catches_up_while_continuations_are_woken() {
    for per_run in [500, 3000] {
        catches_up(per_run, move |local, sink| {
            let source = local.spawn(Source(sink)).unwrap();
            local.tell(source, (TIMES, per_run)).unwrap();
        });
    }
}

#[test]
fn who_is_told_many_by_a_stage_that_tells_itself_to_go_on_catches_up() {
    catches_up(500, |local, sink| {
        let feeder = local.spawn(Feeder(sink)).unwrap();
        local.tell(feeder, (TIMES, 500)).unwrap();
    });
}

/// What came while the shard was slow goes by the backlog, and what follows it, too: that must not
/// cost so much that it stays so.
#[test]
fn who_is_told_many_per_run_catches_up_after_a_time_in_which_the_shard_was_slow() {
    for per_run in [2200, 3000, 4000] {
        let mut shard = Shard::new(20 * per_run);
        let (times, burst) = (500, 10_000);
        shard.each_look_costs(Duration::from_micros(50));
        let sink = shard.begin(move |local, sink| {
            let source = local.spawn(Source(sink)).unwrap();
            local.tell(source, (times, per_run)).unwrap();
        });
        shard.run(Duration::from_millis(3));
        shard.each_look_costs(Duration::ZERO);
        let all = move |local: &Local<'_>| {
            for _ in 0..burst {
                local.tell(sink, ()).unwrap();
            }
        };
        shard.house.stages.run_on(0, all).unwrap();
        shard.run(5 * SECOND);
        shard.check_taken(u64::from(times * per_run + burst));
    }
}

#[test]
fn who_is_told_little_does_not_wait_for_all_that_others_were_told_before() {
    let flood = 400_000;
    let mut shard = Shard::new(2 * flood);
    let runs = shard.count_runs();
    let quiet: Arc<AtomicU64> = Arc::default();
    let seen = Arc::clone(&quiet);
    shard.begin(move |local, sink| {
        for _ in 0..flood {
            local.tell(sink, ()).unwrap();
        }
        let quiet = local.spawn(Sink(seen)).unwrap();
        local.tell(quiet, ()).unwrap();
    });
    let limit = SECOND;
    let told = || quiet.load(Ordering::Relaxed) > 0;
    assert!(shard.house.world.run_until_true(limit, told));
    let (runs, before) = (runs.load(Ordering::Relaxed), shard.taken());
    assert!(
        runs <= 5 && before <= 20_000,
        "in run {runs}, after {before}"
    );
}

#[test]
fn stages_that_answer_each_other_get_far_in_a_run_while_continuations_are_woken() {
    let mut shard = Shard::new(16);
    let (runs, took) = (shard.count_runs(), Arc::new(AtomicU64::new(0)));
    let [one, other] = [0, 1].map(|_| Player {
        runs: Arc::clone(&runs),
        took: Arc::clone(&took),
    });
    let hops = 10_000;
    shard.begin(move |local, _| {
        let [one, other] = [one, other].map(|player| local.spawn(player).unwrap());
        local.tell(one, (other, hops)).unwrap();
    });
    shard.run(SECOND);
    let took = took.load(Ordering::Relaxed);
    assert!((1..100).contains(&took), "{hops} hops took {took} runs");
}

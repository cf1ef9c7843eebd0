//! What a message to a stage costs, without a socket: one shard in the bench's loop.
//!
//! `cargo bench --features stages --bench stages`. Times are per message.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use proscenium::Engine;
use proscenium::stages::{Cx, Reply, Stage, StageRef, StageShard, StageType, Stages};

/// Counts; its future is as small as they come, or holds `N` bytes.
struct Counter<const N: usize> {
    count: u64,
}

impl<const N: usize> Stage for Counter<N> {
    type Msg = Told;

    async fn on_message(&mut self, cx: &mut Cx<'_, Self>, message: Told) {
        match message {
            Told::Count(n) => {
                self.count += n;
                if N > 0 {
                    let held = [n as u8; N];
                    if black_box(n) == u64::MAX {
                        // Never, but the future has room for it.
                        cx.sleep(Duration::from_secs(1)).await;
                    }
                    black_box(&held);
                }
            }
            Told::Report(reply) => {
                let _ = reply.send(self.count);
            }
        }
    }
}

enum Told {
    Count(u64),
    Report(Reply<u64>),
}

/// Tells `left` messages to the counters in turn, a batch at a time.
struct Producer<const N: usize> {
    counters: Vec<StageRef<Counter<N>>>,
    next: usize,
}

/// Messages on their way at the same time.
const BATCH: u64 = 256;

impl<const N: usize> Stage for Producer<N> {
    type Msg = (u64, Reply<()>);

    async fn on_message(&mut self, cx: &mut Cx<'_, Self>, (mut left, done): (u64, Reply<()>)) {
        let batch = left.min(BATCH);
        for _ in 0..batch {
            let counter = self.counters[self.next];
            self.next += 1;
            if self.next == self.counters.len() {
                self.next = 0;
            }
            if cx.tell(counter, Told::Count(1)).is_err() {
                left += 1; // full: later
            }
        }
        if left > batch {
            cx.tell(cx.me(), (left - batch, done))
                .expect("room for one");
        } else {
            let _ = done.send(());
        }
    }
}

/// Adds up messages that are one number each; shows the sum when told 0.
struct Tally {
    sum: u64,
    shown: Arc<AtomicU64>,
}

impl Stage for Tally {
    type Msg = u64;

    async fn on_message(&mut self, _: &mut Cx<'_, Self>, n: u64) {
        self.sum += n;
        if n == 0 {
            self.shown.store(self.sum, Ordering::Relaxed);
        }
    }
}

/// Tells so many numbers to the tallies in turn, a batch at a time.
struct Teller {
    tallies: Vec<StageRef<Tally>>,
    next: usize,
}

impl Stage for Teller {
    type Msg = (u64, Reply<()>);

    async fn on_message(&mut self, cx: &mut Cx<'_, Self>, (mut left, done): (u64, Reply<()>)) {
        let batch = left.min(BATCH);
        for _ in 0..batch {
            let tally = self.tallies[self.next];
            self.next += 1;
            if self.next == self.tallies.len() {
                self.next = 0;
            }
            left += u64::from(cx.tell(tally, 1).is_err()); // full: later
        }
        if left > batch {
            cx.tell(cx.me(), (left - batch, done))
                .expect("room for one");
        } else {
            let _ = done.send(());
        }
    }
}

/// Sends the ball back until it has crossed so often.
struct Player {
    other: Option<StageRef<Player>>,
}

enum Ball {
    Partner(StageRef<Player>),
    Play(u64, Reply<()>),
}

impl Stage for Player {
    type Msg = Ball;

    async fn on_message(&mut self, cx: &mut Cx<'_, Self>, ball: Ball) {
        match (ball, self.other) {
            (Ball::Partner(other), _) => self.other = Some(other),
            (Ball::Play(0, done), _) => {
                let _ = done.send(());
            }
            (Ball::Play(left, done), Some(other)) => {
                cx.tell(other, Ball::Play(left - 1, done))
                    .expect("room for one");
            }
            (Ball::Play(..), None) => {}
        }
    }
}

/// Makes stages and ends them again.
struct Maker;

impl Stage for Maker {
    type Msg = (u64, Reply<()>);

    async fn on_message(&mut self, cx: &mut Cx<'_, Self>, (left, done): (u64, Reply<()>)) {
        let batch = left.min(BATCH);
        for _ in 0..batch {
            let made = cx.spawn(Counter::<0> { count: 0 }).expect("room");
            cx.stop(made);
        }
        if left > batch {
            cx.tell(cx.me(), (left - batch, done))
                .expect("room for one");
        } else {
            let _ = done.send(());
        }
    }
}

struct House {
    shard: proscenium::Shard<StageShard>,
    stages: Stages,
}

impl House {
    fn new() -> Self {
        let stages = Stages::builder()
            .register(StageType::<Counter<0>>::new("counter"))
            .register(StageType::<Counter<2048>>::new("large counter"))
            .register(StageType::<Producer<0>>::new("producer"))
            .register(StageType::<Producer<2048>>::new("producer of large"))
            .register(StageType::<Tally>::new("tally"))
            .register(StageType::<Teller>::new("teller"))
            .register(StageType::<Player>::new("player"))
            .register(StageType::<Maker>::new("maker"))
            .build();
        let shard = Engine::builder().host(stages.shards()(0)).expect("a shard");
        stages.attach(&shard.handle());
        Self { shard, stages }
    }

    fn turn_until<T>(&mut self, future: impl Future<Output = T>) -> T {
        let mut future = std::pin::pin!(future);
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        loop {
            self.shard.turn(Duration::ZERO).expect("a turn");
            if let std::task::Poll::Ready(value) = future.as_mut().poll(&mut cx) {
                return value;
            }
        }
    }

    fn spawn<S: Stage>(&mut self, make: impl FnOnce() -> S + Send + 'static) -> StageRef<S> {
        let creating = self.stages.spawn_on(0, make);
        self.turn_until(creating).expect("a stage")
    }
}

fn round_robin<const N: usize>(house: &mut House, stages: usize) -> impl FnMut(u64) -> Duration {
    let counters: Vec<_> = (0..stages)
        .map(|_| house.spawn(|| Counter::<N> { count: 0 }))
        .collect();
    let first = counters[0];
    let producer = house.spawn(move || Producer { counters, next: 0 });
    let mut sent = 0;
    move |messages| {
        let begin = Instant::now();
        house
            .turn_until(producer.ask(|reply| (messages, reply)))
            .expect("an end");
        let took = begin.elapsed();
        sent += messages;
        let counted = house.turn_until(first.ask(Told::Report)).expect("a report");
        assert!(counted >= sent / stages as u64, "{counted} of {sent}");
        took
    }
}

fn numbers(house: &mut House, stages: usize) -> impl FnMut(u64) -> Duration {
    let shown = Arc::new(AtomicU64::new(0));
    let tallies: Vec<_> = (0..stages)
        .map(|_| {
            let shown = Arc::clone(&shown);
            house.spawn(move || Tally { sum: 0, shown })
        })
        .collect();
    let first = tallies[0];
    let teller = house.spawn(move || Teller { tallies, next: 0 });
    let mut sent = 0;
    move |messages| {
        let begin = Instant::now();
        house
            .turn_until(teller.ask(|reply| (messages, reply)))
            .expect("an end");
        let took = begin.elapsed();
        sent += messages;
        first.tell(0).expect("room");
        house.shard.turn(Duration::ZERO).expect("a turn");
        let sum = shown.load(Ordering::Relaxed);
        assert!(sum >= sent / stages as u64, "{sum} of {sent}");
        took
    }
}

fn tells(c: &mut Criterion) {
    let mut group = c.benchmark_group("stages/tell");
    for stages in [1, 10, 100, 1_000, 10_000, 100_000] {
        let mut house = House::new();
        let mut run = round_robin::<0>(&mut house, stages);
        group.bench_function(BenchmarkId::new("small", stages), |b| {
            b.iter_custom(&mut run)
        });
    }
    for stages in [10, 100, 1_000, 10_000, 100_000] {
        let mut house = House::new();
        let mut run = round_robin::<2048>(&mut house, stages);
        group.bench_function(BenchmarkId::new("2 KiB", stages), |b| {
            b.iter_custom(&mut run)
        });
    }
    for stages in [1, 10, 10_000, 100_000] {
        let mut house = House::new();
        let mut run = numbers(&mut house, stages);
        group.bench_function(BenchmarkId::new("one number", stages), |b| {
            b.iter_custom(&mut run)
        });
    }
    group.finish();
}

fn ping_pong(c: &mut Criterion) {
    let mut house = House::new();
    let first = house.spawn(|| Player { other: None });
    let second = house.spawn(move || Player { other: Some(first) });
    first.tell(Ball::Partner(second)).expect("room");
    c.bench_function("stages/ping-pong round trip", |b| {
        b.iter_custom(|trips| {
            let begin = Instant::now();
            let played = first.ask(|reply| Ball::Play(2 * trips, reply));
            house.turn_until(played).expect("an end");
            begin.elapsed()
        });
    });
}

fn create_and_destroy(c: &mut Criterion) {
    let mut house = House::new();
    let maker = house.spawn(|| Maker);
    c.bench_function("stages/create and destroy", |b| {
        b.iter_custom(|stages| {
            let begin = Instant::now();
            house
                .turn_until(maker.ask(|reply| (stages, reply)))
                .expect("an end");
            begin.elapsed()
        });
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().measurement_time(Duration::from_secs(2)).sample_size(20);
    targets = tells, ping_pong, create_and_destroy
}
criterion_main!(benches);

//! The mailbox: what a push costs while its consumer is awake, batches, producers on threads of
//! their own, and the way to another shard and back, wakes included.

use std::hint::black_box;
use std::sync::Barrier;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use proscenium::mailbox::{Mailbox, Wake};
use proscenium::{Context, Engine, Handler, Message, RouterId};

const CAPACITY: usize = 16 * 1024;
/// What a shard takes from its mailbox in one slice.
const BATCH: u64 = 256;
/// Looks into an empty mailbox before the consumer gives its core away.
const SPINS: u32 = 200;

struct NoWake;

impl Wake for NoWake {
    fn wake(&self) {}
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    one_thread(&mut criterion);
    producers(&mut criterion);
    wake_round_trip(&mut criterion);
    criterion.final_summary();
}

fn one_thread(criterion: &mut Criterion) {
    let (mailbox, mut consumer) = Mailbox::<u64>::new(CAPACITY, Box::new(NoWake));
    let mut group = criterion.benchmark_group("mailbox/one thread");
    group.throughput(Throughput::Elements(1));
    group.bench_function("push+pop, consumer awake", |bencher| {
        bencher.iter(|| {
            mailbox.try_push(black_box(1)).expect("there is room");
            black_box(consumer.pop())
        });
    });
    group.bench_function("control push+pop", |bencher| {
        bencher.iter(|| {
            mailbox.push_control(black_box(1));
            black_box(consumer.pop_control())
        });
    });
    group.bench_function("nothing to do: look, fall asleep, awake", |bencher| {
        bencher.iter(|| {
            consumer.drain_wakes(|_| ());
            black_box((consumer.pop_control(), consumer.pop()));
            assert!(consumer.prepare_sleep());
            consumer.awake();
        });
    });
    group.throughput(Throughput::Elements(BATCH));
    group.bench_function("drain of a batch", |bencher| {
        bencher.iter_custom(|iterations| {
            let mut spent = Duration::ZERO;
            for _ in 0..iterations {
                for item in 0..BATCH {
                    mailbox.try_push(item).expect("there is room");
                }
                let began = Instant::now();
                while let Some(item) = consumer.pop() {
                    black_box(item);
                }
                spent += began.elapsed();
            }
            spent
        });
    });
    group.finish();
}

/// Producers push as fast as they can; the time is the consumer's, per item. With more producers
/// than free cores, the scheduler of the system is in the number.
fn producers(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("mailbox/producers");
    group.throughput(Throughput::Elements(1));
    group.sample_size(10);
    for producers in [1, 2, 4, 8] {
        group.bench_function(producers.to_string(), |bencher| {
            bencher.iter_custom(|items| pump(producers, items));
        });
    }
    group.finish();
}

/// The time from the first push until `items` items of all producers together have come out.
fn pump(producers: u64, items: u64) -> Duration {
    let (mailbox, mut consumer) = Mailbox::<u64>::new(CAPACITY, Box::new(NoWake));
    let barrier = Barrier::new(producers as usize + 1);
    let patience = Duration::from_secs(60);
    std::thread::scope(|scope| {
        for producer in 0..producers {
            let (mailbox, barrier) = (&mailbox, &barrier);
            let share = items / producers + u64::from(producer < items % producers);
            scope.spawn(move || {
                barrier.wait();
                let deadline = Instant::now() + patience;
                for item in 0..share {
                    let pushed = mailbox.push_deadline(item, deadline);
                    pushed.expect("the consumer takes everything");
                }
            });
        }
        barrier.wait();
        let began = Instant::now();
        let (mut taken, mut idle) = (0, 0_u32);
        while taken < items {
            if let Some(item) = consumer.pop() {
                black_box(item);
                (taken, idle) = (taken + 1, 0);
                continue;
            }
            idle += 1;
            if idle.is_multiple_of(SPINS) {
                std::thread::yield_now(); // a producer may need this core
            } else {
                std::hint::spin_loop();
            }
        }
        began.elapsed()
    })
}

/// A ball that two shards post to each other.
struct Ball {
    bounces: u64,
    done: Sender<()>,
}

struct Player;

impl Handler for Player {
    type Post = Ball;

    fn on_message(&mut self, _: &mut Context<'_, Ball>, _: RouterId, _: Message<'_>) {}

    fn on_posted(&mut self, cx: &mut Context<'_, Ball>, mut ball: Ball) {
        if ball.bounces == 0 {
            // Nobody waits for it any more only if the bench failed.
            let _ = ball.done.send(());
            return;
        }
        ball.bounces -= 1;
        let posted = cx.post(1 - cx.shard(), ball);
        assert!(posted.is_ok(), "the other shard takes the ball");
    }
}

/// There and back between two shards on threads of their own that sleep in between: two posts,
/// two wakes, two turns.
fn wake_round_trip(criterion: &mut Criterion) {
    let engine = Engine::builder().shards(2).start(|_| Player);
    let engine = engine.expect("two threads");
    let (done, ended): (Sender<()>, Receiver<()>) = channel();
    let mut group = criterion.benchmark_group("mailbox/two shards");
    group.throughput(Throughput::Elements(1));
    group.bench_function("wake round trip", |bencher| {
        bencher.iter_custom(|round_trips| {
            let ball = Ball {
                bounces: 2 * round_trips,
                done: done.clone(),
            };
            let began = Instant::now();
            let posted = engine.handle().post(0, ball);
            assert!(posted.is_ok(), "the shard runs");
            ended.recv().expect("the ball comes back");
            began.elapsed()
        });
    });
    group.finish();
    let _report = engine.shutdown(Duration::from_secs(5));
}

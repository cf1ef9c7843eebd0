//! The timer wheel: inserting and cancelling, inserting and firing, alone and among 100,000.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use proscenium::timer::TimerWheel;

const SECOND: u64 = 1_000_000_000;
const MANY: u64 = 100_000;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    insert_cancel(&mut criterion);
    insert_fire(&mut criterion);
    many(&mut criterion);
    criterion.final_summary();
}

/// Deadlines spread over the next 60 seconds, the same every time.
fn deadline(now: u64, number: u64) -> u64 {
    now + 1 + number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % (60 * SECOND)
}

/// A wheel in which `pending` timers wait that are not due during the bench.
fn wheel(pending: u64) -> TimerWheel<u64> {
    let mut wheel = TimerWheel::new(0);
    for number in 0..pending {
        wheel.insert(deadline(1000 * SECOND, number), number);
    }
    wheel
}

fn insert_cancel(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("timer/insert+cancel");
    group.throughput(Throughput::Elements(1));
    for pending in [0, MANY] {
        let (mut wheel, mut number) = (wheel(pending), 0);
        group.bench_function(format!("among {pending}"), |bencher| {
            bencher.iter(|| {
                number += 1;
                let key = wheel.insert(deadline(0, number), number);
                assert!(black_box(wheel.cancel(black_box(key))).is_some());
            });
        });
    }
    group.finish();
}

/// One timer at a time, 1 ms ahead, as an idle shard sees it.
fn insert_fire(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("timer/insert+fire");
    group.throughput(Throughput::Elements(1));
    let mut wheel = TimerWheel::new(0);
    let mut now = 0;
    group.bench_function("1 ms ahead", |bencher| {
        bencher.iter(|| {
            wheel.insert(now + 1_000_000, now);
            now = wheel.next_deadline().expect("a timer is pending");
            assert!(black_box(wheel.pop_due(now)).is_some());
            assert!(wheel.pop_due(now).is_none());
        });
    });
    group.finish();
}

/// 100,000 timers, all inserted, then all fired or cancelled.
fn many(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group(format!("timer/{MANY}"));
    group.throughput(Throughput::Elements(MANY));
    group.sample_size(20);
    let (mut wheel, mut now) = (TimerWheel::new(0), 0);
    group.bench_function("insert all, fire all", |bencher| {
        bencher.iter(|| {
            for number in 0..MANY {
                wheel.insert(deadline(now, number), number);
            }
            let mut fired = 0;
            while let Some(due) = wheel.next_deadline() {
                now = now.max(due);
                while wheel.pop_due(now).is_some() {
                    fired += 1;
                }
            }
            assert_eq!(fired, MANY);
        });
    });
    let mut keys = Vec::with_capacity(MANY as usize);
    group.bench_function("insert all, cancel all", |bencher| {
        bencher.iter(|| {
            keys.extend((0..MANY).map(|number| wheel.insert(deadline(now, number), number)));
            assert!(keys.drain(..).all(|key| wheel.cancel(key).is_some()));
        });
    });
    group.finish();
}

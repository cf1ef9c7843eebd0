//! The send queue of one connection: queueing in the three ways there are, and draining.

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{Criterion, Throughput};
use proscenium::bench_support::Queue;

/// Messages between two flushes.
const BATCH: usize = 60;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    for size in [64, 1024] {
        queueing(&mut criterion, size);
        draining(&mut criterion, size);
    }
    criterion.final_summary();
}

/// Queues a batch with `push` and drains it, as a slice of a shard does.
fn queueing(criterion: &mut Criterion, size: usize) {
    let body = vec![7; size];
    let shared = Bytes::from(body.clone());
    let mut group = criterion.benchmark_group(format!("send_queue/{size} B"));
    group.throughput(Throughput::Elements(BATCH as u64));
    let mut bench = |name: &str, push: &mut dyn FnMut(&mut Queue)| {
        let mut queue = Queue::default();
        group.bench_function(name, |bencher| bencher.iter(|| push(&mut queue)));
    };
    bench("push", &mut |queue| {
        for _ in 0..BATCH {
            queue.push(black_box(&body));
        }
        assert_eq!(queue.drain(usize::MAX), BATCH * (4 + size));
    });
    bench("push_with", &mut |queue| {
        for _ in 0..BATCH {
            queue.push_with(black_box(size), |room| {
                room.copy_from_slice(black_box(&body));
                room.len()
            });
        }
        assert_eq!(queue.drain(usize::MAX), BATCH * (4 + size));
    });
    bench("push_shared", &mut |queue| {
        for _ in 0..BATCH {
            queue.push_shared(black_box(&shared));
        }
        assert_eq!(queue.drain(usize::MAX), BATCH * (4 + size));
    });
    group.finish();
}

/// Draining alone, of one batch: at once, and in writes of 4 KiB as a full socket takes them.
fn draining(criterion: &mut Criterion, size: usize) {
    let body = vec![7; size];
    let mut group = criterion.benchmark_group(format!("send_queue/drain, {size} B"));
    group.throughput(Throughput::Elements(BATCH as u64));
    for (name, most) in [("at once", usize::MAX), ("4 KiB writes", 4096)] {
        let mut queue = Queue::default();
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|iterations| {
                let mut spent = Duration::ZERO;
                for _ in 0..iterations {
                    for _ in 0..BATCH {
                        queue.push(&body);
                    }
                    let began = Instant::now();
                    black_box(queue.drain(most));
                    spent += began.elapsed();
                }
                spent
            });
        });
    }
    group.finish();
}

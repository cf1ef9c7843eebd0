//! One turn of the production shard without the kernel: what one message costs from the received
//! bytes to the written ones.

mod echo;
mod frames;

use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use proscenium::Framing;

use crate::echo::{Echo, ReplayEcho, SimEcho};

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    simulated(&mut criterion);
    replayed(&mut criterion);
    criterion.final_summary();
}

/// On the simulated network, which copies every byte five times and counts into the turn; only
/// the turn is timed, not what the peer does.
fn simulated(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("shard/simulated");
    for (name, framing, size) in [
        ("echo 64 B", Framing::Be32, 64),
        ("echo 1 KiB", Framing::Be32, 1024),
        ("bytes of 64 B frames, unframed", Framing::Raw, 64),
    ] {
        let count = SimEcho::frames_per_turn(size);
        group.throughput(Throughput::Elements(count as u64));
        let mut echo = SimEcho::new(framing, size);
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|iterations| {
                let mut spent = Duration::ZERO;
                for _ in 0..iterations {
                    echo.offer();
                    let began = Instant::now();
                    echo.turn();
                    spent += began.elapsed();
                    echo.collect();
                }
                spent
            });
        });
    }
    group.finish();
}

/// On a replay: one copy into the receive chunk stands for the kernel, writes go nowhere.
fn replayed(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("shard/replayed");
    for (name, framing, size, connections) in [
        ("echo 64 B", Framing::Be32, 64, 100),
        ("echo 1 KiB", Framing::Be32, 1024, 100),
        ("bytes of 64 B frames, unframed", Framing::Raw, 64, 100),
    ] {
        let frame = 4 + size;
        let messages = <ReplayEcho>::bytes_per_turn(connections) / frame;
        group.throughput(Throughput::Elements(messages as u64));
        let mut echo = ReplayEcho::new(Echo, framing, size, connections);
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|iterations| {
                let began = Instant::now();
                for _ in 0..iterations {
                    echo.turn();
                }
                let spent = began.elapsed();
                echo.check(iterations, frame);
                spent
            });
        });
    }
    group.finish();
}

//! Frame decoding: one frame of 64 B and of 1 KiB, and a receive chunk full of frames.

mod frames;

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use proscenium::framing::{Decoded, LengthPrefix};

use crate::frames::frames;

const CHUNK: usize = 64 * 1024;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    one_frame(&mut criterion);
    full_chunk(&mut criterion);
    criterion.final_summary();
}

fn one_frame(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode/one");
    group.throughput(Throughput::Elements(1));
    for size in [64, 1024] {
        let input = frames(size, 1);
        group.bench_function(format!("{size} B"), |bencher| {
            bencher.iter(|| LengthPrefix::be32().decode(black_box(&input)));
        });
    }
    let cut = &frames(1024, 1)[..1000];
    group.bench_function("incomplete", |bencher| {
        bencher.iter(|| LengthPrefix::be32().decode(black_box(cut)));
    });
    group.finish();
}

/// Both ways of decoding many: `decode` in a loop, as the shard does it, and the iterator.
fn full_chunk(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode/chunk");
    for size in [64, 1024] {
        let count = CHUNK / (LengthPrefix::HEADER + size);
        let input = frames(size, count);
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(format!("decode, {size} B"), |bencher| {
            bencher.iter(|| {
                let (codec, bytes) = (black_box(LengthPrefix::be32()), black_box(&input[..]));
                let (mut at, mut count) = (0, 0);
                while let Decoded::Frame { body, consumed } = codec.decode(&bytes[at..]) {
                    black_box(body);
                    at += consumed;
                    count += 1;
                }
                count
            });
        });
        group.bench_function(format!("frames, {size} B"), |bencher| {
            bencher.iter(|| {
                let codec = black_box(LengthPrefix::be32());
                codec.frames(black_box(&input)).map(black_box).count()
            });
        });
    }
    group.finish();
}

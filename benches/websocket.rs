//! WebSocket frames: masking against a copy of the same bytes, and a receive chunk full of frames
//! unmasked and decoded as the shard does it.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput};
use proscenium::framing::websocket::{
    Decoded, Decoder, DecoderLimits, FrameHeader, HEADER_MAX, Opcode, Role, apply_mask,
    unmask_whole,
};

const CHUNK: usize = 64 * 1024;
const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    mask(&mut criterion);
    full_chunk(&mut criterion);
    header(&mut criterion);
    criterion.final_summary();
}

fn mask(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("websocket/mask");
    for size in [64, 1024, 65_536] {
        let mut bytes = vec![0xA5; size];
        let source = vec![0x5A; size];
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(format!("mask, {size} B"), |bencher| {
            bencher.iter(|| apply_mask(black_box(&mut bytes), black_box(KEY)));
        });
        // What it is to be compared with: the same bytes read and written.
        group.bench_function(format!("copy, {size} B"), |bencher| {
            bencher.iter(|| black_box(&mut bytes).copy_from_slice(black_box(&source)));
        });
    }
    group.finish();
}

/// Frames of a client, as many as a receive chunk holds.
fn frames(opcode: Opcode, size: usize) -> (Vec<u8>, usize) {
    let mut bytes = Vec::new();
    let mut out = [0; HEADER_MAX];
    let header = FrameHeader::new(opcode, size).masked(KEY).encode(&mut out);
    let count = CHUNK / (header + size);
    for _ in 0..count {
        bytes.extend_from_slice(&out[..header]);
        let begin = bytes.len();
        bytes.resize(begin + size, b'x');
        apply_mask(&mut bytes[begin..], KEY);
    }
    (bytes, count)
}

fn full_chunk(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("websocket/chunk");
    for (opcode, name) in [(Opcode::Binary, "binary"), (Opcode::Text, "text")] {
        for size in [64, 1024] {
            let (input, count) = frames(opcode, size);
            group.throughput(Throughput::Elements(count as u64));
            group.bench_function(format!("{name}, {size} B"), |bencher| {
                let fresh = || input.clone();
                bencher.iter_batched_ref(fresh, |chunk| received(chunk), BatchSize::SmallInput);
            });
        }
    }
    group.finish();
}

/// Counts the messages in a chunk, as the shard goes through it.
fn received(chunk: &mut [u8]) -> usize {
    let mut decoder = Decoder::new(Role::Server, DecoderLimits::default());
    unmask_whole(chunk);
    let (mut rest, mut count) = (&*chunk, 0);
    while let Ok(Decoded::Data(data)) = decoder.decode_whole(rest) {
        black_box(&rest[data.body.clone()]);
        rest = &rest[data.body.end..];
        count += 1;
    }
    count
}

fn header(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("websocket/header");
    group.throughput(Throughput::Elements(1));
    for size in [64, 1024] {
        group.bench_function(format!("{size} B"), |bencher| {
            let mut out = [0; HEADER_MAX];
            bencher.iter(|| FrameHeader::new(Opcode::Binary, black_box(size)).encode(&mut out));
        });
    }
    group.finish();
}

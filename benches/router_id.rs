//! Finding a connection by its `RouterId` among 10,000.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use proscenium::RouterId;
use proscenium::bench_support::Table;

const CONNECTIONS: usize = 10_000;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("router_id");
    group.throughput(Throughput::Elements(CONNECTIONS as u64));
    let (mut table, old) = Table::new(CONNECTIONS);
    for id in &old {
        assert!(table.remove(*id));
    }
    // The same slots again, under new ids.
    let mut new: Vec<RouterId> = old.iter().map(|_| table.insert()).collect();

    let mut bench = |name: &str, ids: &[RouterId], expected: usize| {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let found = |id: &&RouterId| table.queued_bytes(black_box(**id)).is_some();
                assert_eq!(ids.iter().filter(found).count(), expected);
            });
        });
    };
    new.sort_unstable();
    bench("hit, in order", &new, CONNECTIONS);
    shuffle(&mut new);
    bench("hit, random order", &new, CONNECTIONS);
    bench("stale", &old, 0);
    let one = vec![new[0]; CONNECTIONS];
    bench("hit, always the same", &one, CONNECTIONS);
    group.finish();
    criterion.final_summary();
}

/// Fisher and Yates, with a generator that is good enough for this.
fn shuffle(ids: &mut [RouterId]) {
    let mut state = 1_u64;
    for last in (1..ids.len()).rev() {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        ids.swap(last, (state >> 33) as usize % (last + 1));
    }
}

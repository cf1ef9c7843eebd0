//! The same seed is the same run: every event, every statistic, every call of a handler.
#![cfg(feature = "sim")]

#[path = "support/recorder.rs"]
mod recorder;
#[path = "support/sim.rs"]
mod support;
#[path = "support/wanderer.rs"]
mod wanderer;

use std::collections::BTreeSet;
use std::time::Duration;

use proscenium::sim::{SimNet, SimWorld};
use proscenium::{Backoff, Connector, Engine, EngineStats, Listener, ShardStats};
use recorder::{Entry, Stage};
use support::{ADDRESS, Client, Echo, SECOND, SharedLog, byte_budget, for_seeds, random_limits};
use wanderer::Wanderer;

/// What can be seen of a run.
#[derive(Debug, PartialEq)]
struct Seen {
    trace: u64,
    stats: Vec<ShardStats>,
    records: Vec<Entry>,
    lives: String,
}

/// Echoes, wanderers and connectors in one world, with all the faults of the seed.
fn run(seed: u64) -> Seen {
    let net = SimNet::from_seed(seed);
    let mut random = net.fork_random();
    let limits = random_limits(&mut random);
    let mut stage = Stage::new(&net, |builder| {
        builder.listen(Listener::tcp("10.0.0.3:9").unwrap())
    });
    let (echo_log, wander_log) = (SharedLog::default(), SharedLog::default());
    let echo = Engine::builder()
        .shards(2)
        .limits(limits.clone())
        .listen(Listener::tcp(ADDRESS).unwrap())
        .simulate(&mut stage.world, |_| Echo::new(&echo_log))
        .unwrap();
    let wander = Engine::builder()
        .shards(3)
        .listen(Listener::tcp("10.0.0.2:9").unwrap())
        .simulate(&mut stage.world, |_| Wanderer::new(&wander_log))
        .unwrap();
    let mut clients = Vec::new();
    for address in [&echo.local_addrs()[0], &wander.local_addrs()[0]] {
        let connector = Connector::to(address.clone()).reconnect(Backoff::default());
        stage.engine.with(0, |_, cx| {
            cx.connect(&connector);
            cx.set_timer(SECOND, 1);
        });
        for _ in 0..2 {
            clients.push(Client::new(&net, address, byte_budget(&net) / 4, 64));
        }
    }
    for _ in 0..100 {
        for client in &mut clients {
            client.act(&mut random);
        }
        let time = Duration::from_nanos(random.between_log(1000, 50_000_000));
        stage.world.run_for(time);
    }
    let stats = |stats: EngineStats| stats.shards;
    let engines = [
        stage.engine.handle().stats(),
        echo.handle().stats(),
        wander.handle().stats(),
    ];
    finish(&mut stage.world, || {
        echo.handle().shutdown(SECOND);
        wander.handle().shutdown(SECOND);
        stage.engine.handle().shutdown(SECOND);
    });
    let records = stage.records.borrow().clone();
    Seen {
        trace: net.trace_hash(),
        stats: engines.into_iter().flat_map(stats).collect(),
        records,
        lives: format!("{echo_log:?} {wander_log:?}"),
    }
}

fn finish(world: &mut SimWorld, shut_down: impl FnOnce()) {
    shut_down();
    world.run_until_finished(10 * SECOND);
}

#[test]
fn the_same_seed_is_the_same_run() {
    for_seeds("the_same_seed_is_the_same_run", 100, |net| {
        let (first, second) = (run(net.seed()), run(net.seed()));
        assert!(first == second, "{first:#?}\nthen\n{second:#?}");
    });
}

#[test]
fn different_seeds_are_different_runs() {
    let hashes: BTreeSet<u64> = (0..50).map(|seed| run(seed).trace).collect();
    assert_eq!(hashes.len(), 50);
}

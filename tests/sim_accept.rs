//! Accepting when descriptors run out, and dealing connections out.
#![cfg(feature = "sim")]

#[path = "support/recorder.rs"]
mod recorder;
#[path = "support/sim.rs"]
mod support;

use std::time::Duration;

use proscenium::sim::{Faults, SimNet, SimPeer};
use proscenium::{Balance, Limits, Listener};
use recorder::Stage;
use support::{ADDRESS, HOUR, SECOND, check_empty, for_seeds, frame};

fn stage(net: &SimNet, shards: usize, balance: Balance, limits: Limits) -> Stage {
    Stage::new(net, |builder| {
        let listener = Listener::tcp(ADDRESS).unwrap().balance(balance);
        builder.shards(shards).listen(listener).limits(limits)
    })
}

/// The process has no descriptors from time to time: every peer is served in the end, or was shed
/// and knows it; the shard does not spin, and accepts again by itself.
fn descriptors_run_out(net: &SimNet) {
    let mut random = net.fork_random();
    let mut faults = net.faults();
    faults.reset = 0.0;
    faults.accept_failure = 1.0 / random.between(1, 10) as f64;
    faults.accept_failure_max = Duration::from_millis(random.between_log(1, 3000));
    net.set_faults(faults.clone());
    let balance = if random.chance(0.5) {
        Balance::RoundRobin
    } else {
        Balance::ReusePort
    };
    let retry = Duration::from_millis(random.between(10, 500));
    let limits = Limits::default().accept_retry(retry);
    let mut stage = stage(net, random.between(1, 3) as usize, balance, limits);
    let mut peers: Vec<SimPeer> = Vec::new();
    for _ in 0..random.between(1, 30) {
        peers.push(stage.connect());
        let time = Duration::from_nanos(random.between_log(1000, 200_000_000));
        stage.world.run_for(time);
    }
    stage.world.run_for(SECOND);
    if faults.accept_failure < 1.0 {
        stage.world.run_for(HOUR); // with failures all the time
    }
    net.set_faults(Faults::none());
    stage.world.run_for(10 * SECOND);
    let total = stage.total();
    assert_eq!(total.accepted + total.accept_shed, peers.len() as u64);
    assert_eq!(total.connections, total.accepted, "nobody waits any more");
    // One attempt per rest and listener at the most, not one per turn.
    let listeners = stage.engine.handle().shards() as u128;
    let rests = u128::from(net.now().as_nanos()) / retry.as_nanos() + 1;
    assert!(u128::from(total.accept_failed) <= peers.len() as u128 + listeners * rests);
    assert!(total.accept_failed >= total.accept_shed);

    let mut served = 0;
    for mut peer in peers {
        let (mut left, mut back) = (frame(b"anybody?"), Vec::new());
        for _ in 0..200 {
            let written = peer.write(&left);
            left.drain(..written);
            stage.world.run_for(SECOND / 10);
            peer.read(&mut back);
        }
        let answered = back == frame(b"anybody?");
        served += u64::from(answered);
        assert!(
            answered || peer.is_read_closed() || peer.error().is_some(),
            "neither served nor told that it is not"
        );
    }
    assert_eq!(served, total.accepted);
    stage.world.run_for(HOUR);
    check_empty(&stage.engine.handle().stats());
}

#[test]
fn accepting_goes_on_after_descriptors_have_run_out() {
    for_seeds(
        "accepting_goes_on_after_descriptors_have_run_out",
        300,
        descriptors_run_out,
    );
}

#[test]
fn round_robin_deals_exactly_evenly() {
    let net = SimNet::new(1, Faults::none());
    let mut stage = stage(&net, 3, Balance::RoundRobin, Limits::default());
    let _peers: Vec<SimPeer> = (0..300).map(|_| stage.connect()).collect();
    stage.world.run_for(SECOND);
    let stats = stage.engine.handle().stats();
    let connections: Vec<u64> = stats.shards.iter().map(|shard| shard.connections).collect();
    assert_eq!(connections, [100, 100, 100]);
}

#[test]
fn every_shard_accepts_where_they_share_the_port() {
    let net = SimNet::new(1, Faults::none());
    let mut stage = stage(&net, 3, Balance::ReusePort, Limits::default());
    let _peers: Vec<SimPeer> = (0..300).map(|_| stage.connect()).collect();
    stage.world.run_for(SECOND);
    let stats = stage.engine.handle().stats();
    assert_eq!(stats.total().connections, 300);
    assert!(
        stats
            .shards
            .iter()
            .all(|shard| shard.connections == shard.accepted)
    );
    assert!(stats.shards.iter().all(|shard| shard.connections > 50));
}

#[test]
fn unix_sockets_are_dealt_out_and_have_no_address() {
    let net = SimNet::new(1, Faults::none());
    let mut stage = Stage::new(&net, |builder| {
        builder.shards(2).listen(Listener::unix("/run/echo"))
    });
    let mut peers: Vec<SimPeer> = (0..4).map(|_| stage.connect()).collect();
    stage.world.run_for(SECOND);
    let ids = stage.connects();
    let shards: Vec<usize> = ids.iter().map(|id| id.shard()).collect();
    assert_eq!(shards.iter().filter(|shard| **shard == 0).count(), 2);
    for id in ids {
        let peer = stage.engine.with(id.shard(), |_, cx| cx.peer(id));
        assert_eq!(peer.expect("it lives").address, None);
    }
    peers[3].write(&frame(b"x"));
    stage.world.run_for(SECOND);
    assert_eq!(peers[3].unread(), 5);
}

#[test]
fn a_listener_rests_as_long_as_it_was_told_to() {
    for retry in [SECOND / 100, SECOND] {
        let net = SimNet::from_seed(7);
        let mut faults = Faults::none();
        faults.accept_failure = 1.0;
        net.set_faults(faults);
        let limits = Limits::default().accept_retry(retry);
        let mut stage = stage(&net, 1, Balance::ReusePort, limits);
        // Shedding takes a waiting peer each time: there has to be another.
        let peers: Vec<_> = (0..3000).map(|_| stage.connect()).collect();
        stage.world.run_for(20 * SECOND);
        let failed = stage.total().accept_failed as f64;
        let rests = 20.0 / retry.as_secs_f64();
        // Timers are up to 0.3 ms late.
        let most = rests + 1.0;
        assert!(
            failed <= most && failed >= 0.95 * rests - 1.0,
            "{failed} in {rests} rests"
        );
        drop(peers);
    }
}

//! Shutdown: at any time, within its deadline, with a report that is true.
#![cfg(feature = "sim")]

#[path = "support/recorder.rs"]
mod recorder;
#[path = "support/sim.rs"]
mod support;
#[path = "support/wanderer.rs"]
mod wanderer;

use std::time::Duration;

use proscenium::sim::{SimNet, SimPeer, SimRandom, SimWorld};
use proscenium::{Connector, DrainReport, Engine, Handle, Limits, Listener, PostError};
use recorder::{Stage, Told};
use support::{
    ADDRESS, Client, Echo, HOUR, Life, SECOND, SharedLog, body, byte_budget, for_seeds, frame,
    random_limits,
};
use wanderer::Wanderer;

/// By how much an end may be late: what the shards were busy with, or had no processor for.
fn slack(net: &SimNet) -> Duration {
    Duration::from_millis(5) + 4 * net.faults().deschedule_max
}

/// Shuts down within a random time and checks what the engine says of it.
fn shut_down<P>(
    world: &mut SimWorld,
    random: &mut SimRandom,
    handle: &Handle<P>,
    log: &SharedLog,
    stopped: impl Fn() -> Option<DrainReport>,
) -> DrainReport {
    let within = Duration::from_nanos(random.between_log(1000, 20_000_000_000));
    let before = handle.stats().total().bytes_lost;
    handle.shutdown(within);
    let net = world.net().clone();
    let ended = world.run_until_finished(within + slack(&net));
    assert!(ended, "no end after {within:?}");
    let report = stopped().expect("all shards are finished");
    assert!(
        report.elapsed <= within + slack(&net),
        "{within:?}: {report}"
    );
    let total = handle.stats().total();
    assert_eq!(log.borrow().living(), 0, "{report}: {:?}", log.borrow());
    assert_eq!((total.connections, total.send_queue_bytes), (0, 0));
    assert_eq!((total.send_buffer_bytes, total.reassembly_bytes), (0, 0));
    assert!(report.bytes_lost <= total.bytes_lost, "{report}");
    assert!(report.cut > 0 || report.bytes_lost == 0, "{report}");
    // One that was cut lost a byte at least, or was broken with nothing queued for it.
    let log = log.borrow();
    let is_broken = |life: &&Life| life.reason == Some("broken");
    let broken = log.lives.values().filter(is_broken).count() as u64;
    assert!(report.cut <= report.bytes_lost + broken, "{report}");
    assert!(total.bytes_lost >= before);
    report
}

fn shutdown_of_an_echo(net: &SimNet) {
    let mut random = net.fork_random();
    let mut world = SimWorld::new(net, Vec::new());
    let limits = random_limits(&mut random).linger(2 * SECOND);
    let log = SharedLog::default();
    let engine = Engine::builder()
        .shards(random.between(1, 3) as usize)
        .limits(limits.clone())
        .listen(Listener::tcp(ADDRESS).unwrap())
        .simulate(&mut world, |_| Echo::new(&log))
        .unwrap();
    let target = engine.local_addrs()[0].clone();
    let budget = byte_budget(net);
    let mut clients: Vec<Client> = (0..random.between(0, 5))
        .map(|_| Client::new(net, &target, budget, limits.frame_max))
        .collect();
    for _ in 0..random.between_log(1, 200) {
        for client in &mut clients {
            client.act(&mut random);
        }
        world.run_for(Duration::from_nanos(random.between_log(1000, 5_000_000)));
    }
    let report = shut_down(&mut world, &mut random, &engine.handle(), &log, || {
        engine.stopped()
    });
    assert_eq!(report.flushed + report.cut, report.connections, "{report}");
    for _ in 0..200 {
        for client in &mut clients {
            client.act(&mut random); // what still comes is still a prefix
        }
        world.run_for(Duration::from_millis(100));
    }
    drop(clients);
    world.run_for(HOUR);
    assert_eq!(net.connections(), 0);
}

#[test]
fn a_shutdown_at_any_time_ends_in_time_and_every_connection_with_it() {
    for_seeds(
        "a_shutdown_at_any_time_ends_in_time_and_every_connection_with_it",
        300,
        shutdown_of_an_echo,
    );
}

fn shutdown_of_wanderers(net: &SimNet) {
    let mut random = net.fork_random();
    let mut world = SimWorld::new(net, Vec::new());
    let log = SharedLog::default();
    let engine = Engine::builder()
        .shards(random.between(2, 4) as usize)
        .limits(Limits::default().frame_max(1000))
        .listen(Listener::tcp(ADDRESS).unwrap())
        .simulate(&mut world, |_| Wanderer::new(&log))
        .unwrap();
    let target = engine.local_addrs()[0].clone();
    let mut peers: Vec<SimPeer> = (0..4).map(|_| net.connect(target.clone())).collect();
    let mut back = Vec::new();
    let mut act = |world: &mut SimWorld, random: &mut SimRandom, steps: u64| {
        for _ in 0..steps {
            for peer in &mut peers {
                if random.chance(0.5) {
                    peer.write(&frame(&body(1, random.index(100))));
                }
                peer.read(&mut back);
            }
            world.run_for(Duration::from_nanos(random.between_log(100, 1_000_000)));
        }
    };
    let steps = random.between_log(1, 200);
    act(&mut world, &mut random, steps);
    shut_down(&mut world, &mut random, &engine.handle(), &log, || {
        engine.stopped()
    });
    drop(peers);
    world.run_for(HOUR);
    assert_eq!(
        net.connections(),
        0,
        "a connection was forgotten on its way"
    );
}

#[test]
fn no_connection_is_forgotten_on_its_way_between_shards() {
    for_seeds(
        "no_connection_is_forgotten_on_its_way_between_shards",
        300,
        shutdown_of_wanderers,
    );
}

#[test]
fn handlers_are_told_and_given_time_to_finish_their_work() {
    let mut stage = Stage::listening(Limits::default());
    let (mut peer, id) = stage.connected();
    stage.engine.with(0, |handler, cx| {
        (handler.work, handler.timer_finishes) = (3, 3);
        cx.set_timer(2 * SECOND, 1);
    });
    let began = stage.net.now();
    stage.engine.handle().shutdown(10 * SECOND);
    stage.world.run_for(SECOND);
    assert!(stage.engine.stopped().is_none());
    peer.write(&frame(b"still served"));
    let late = stage.connect();
    stage.world.run_for(SECOND / 2);
    assert_eq!(peer.unread(), 16);
    assert!(late.error().is_some(), "nothing is accepted any more");
    stage.world.run_for(SECOND);
    assert!(peer.unread() == 16 && stage.end_of(id).is_none());
    peer.finish();
    stage.world.run_for(SECOND);
    let report = stage.engine.stopped().expect("the work is done");
    assert!(report.is_clean(), "{report}");
    assert_eq!((report.connections, report.flushed), (1, 1));
    assert!(report.elapsed >= 2 * SECOND && began + report.elapsed <= stage.net.now());
    assert_eq!(
        stage
            .pick(|told| (*told == Told::Shutdown).then_some(()))
            .len(),
        1
    );
}

#[test]
fn work_that_never_ends_is_reported_and_sockets_are_still_flushed() {
    let mut stage = Stage::listening(Limits::default());
    let (mut peer, id) = stage.connected();
    stage.engine.with(0, |handler, cx| {
        handler.work = 3;
        cx.send(id, &[5; 200_000]).unwrap(); // more than the socket takes
    });
    stage.engine.handle().shutdown(4 * SECOND);
    let mut back = Vec::new();
    while stage.engine.stopped().is_none() {
        peer.read(&mut back);
        if peer.is_read_closed() {
            peer.finish();
        }
        stage.world.run_for(SECOND / 10);
    }
    let report = stage.engine.stopped().expect("just seen");
    assert_eq!((report.work_lost, report.cut, report.bytes_lost), (3, 0, 0));
    assert_eq!(back.len(), 200_004);
    assert!(!report.is_clean() && report.elapsed <= 4 * SECOND);
}

#[test]
fn what_a_peer_does_not_take_until_the_deadline_is_reported_as_lost() {
    let mut stage = Stage::listening(Limits::default());
    let (peer, id) = stage.connected();
    let (_other, other) = stage.connected();
    stage
        .engine
        .with(0, |_, cx| cx.send(id, &[5; 500_000]).unwrap());
    stage.world.run_for(SECOND);
    let unsent = stage
        .engine
        .with(0, |_, cx| cx.queued_bytes(id))
        .expect("open");
    stage.engine.handle().shutdown(SECOND);
    stage.world.run_for(2 * SECOND);
    let report = stage.engine.stopped().expect("the time is over");
    assert_eq!((report.connections, report.cut, report.flushed), (2, 1, 1));
    assert_eq!(report.bytes_lost, unsent as u64);
    assert!(report.elapsed >= SECOND);
    let (reason, other_reason) = (stage.end_of(id), stage.end_of(other));
    assert_eq!(reason.map(|(_, name)| name), Some("shutdown"));
    assert_eq!(other_reason.map(|(_, name)| name), Some("shutdown"));
    drop(peer);
}

#[test]
fn attempts_under_way_are_given_up_without_an_end_of_a_connection_that_never_was() {
    let (mut stage, address) = Stage::unanswered();
    let _server = stage.net.listen(address).unwrap();
    stage.engine.with(0, |_, cx| {
        cx.connect(&Connector::to(address));
    });
    stage.world.run_for(SECOND);
    stage.engine.handle().shutdown(SECOND);
    stage.world.run_for(2 * SECOND);
    let report = stage.engine.stopped().expect("nothing is left");
    assert_eq!(report.connections, 0, "{report}");
    assert!(report.is_clean() && report.elapsed < SECOND);
    let disconnects = stage.pick(|told| match told {
        Told::Disconnect(id, reason) => Some((*id, *reason)),
        _ => None,
    });
    assert_eq!(disconnects, []);
    assert_eq!(stage.net.connections(), 0);
}

#[test]
fn a_stopped_engine_refuses_what_is_posted() {
    let mut stage = Stage::listening(Limits::default());
    let handle = stage.engine.handle();
    handle.shutdown(SECOND);
    handle.shutdown(HOUR); // changes nothing
    stage.world.run_for(SECOND);
    assert!(stage.engine.stopped().expect("at once").is_clean());
    assert_eq!(handle.post(0, 1), Err(PostError::Stopped(1)));
}

//! Time-outs, deadlines and back-off over long virtual times.
#![cfg(feature = "sim")]

#[path = "support/recorder.rs"]
mod recorder;
#[path = "support/sim.rs"]
mod support;

use std::time::Duration;

use proscenium::sim::SimNet;
use proscenium::{Backoff, Connector, Limits, Listener, Overflow, Time};
use recorder::{Stage, Told, calm};
use support::{ADDRESS, HOUR, SECOND, for_seeds, frame, take_frames};

/// `at` lies in `after..after + slack` since `from`.
fn assert_after(at: Time, from: Time, after: Duration, slack: Duration) {
    let passed = at.since(from);
    assert!(
        passed >= after && passed <= after + slack,
        "{passed:?}, not {after:?}"
    );
}

const TICK: Duration = Duration::from_millis(1);

#[test]
fn a_silent_connection_ends_after_the_idle_timeout_and_one_with_heartbeats_never() {
    let idle = 30 * SECOND;
    let mut stage = Stage::listening(Limits::default().idle_timeout(idle));
    let (_silent, silent) = stage.connected();
    let (mut lively, living) = stage.connected();
    let began = stage.net.now();
    let mut back = Vec::new();
    while stage.net.now().since(began) < HOUR {
        lively.write(&frame(b"beat"));
        stage.world.run_for(29 * SECOND);
        lively.read(&mut back);
    }
    let (ended, reason) = stage.end_of(silent).expect("it was silent");
    assert_eq!(reason, "idle_timeout");
    assert_after(ended, Time::ZERO, idle, Duration::from_millis(20));
    assert_eq!(stage.end_of(living), None);
    assert_eq!(take_frames(&mut back).len(), 125);
    stage.world.run_for(31 * SECOND);
    let (_, reason) = stage.end_of(living).expect("it fell silent");
    assert_eq!(reason, "idle_timeout");
    assert_eq!(stage.total().timers, 0);
}

#[test]
fn the_idle_clock_stands_still_while_reading_is_paused() {
    let idle = 30 * SECOND;
    let mut stage = Stage::listening(Limits::default().idle_timeout(idle));
    let (mut peer, id) = stage.connected();
    stage.engine.with(0, |_, cx| assert!(cx.pause_reading(id)));
    peer.write(&frame(b"later"));
    stage.world.run_for(HOUR);
    assert_eq!(stage.end_of(id), None);
    assert_eq!(stage.messages_of(id), Vec::<Vec<u8>>::new());
    stage.engine.with(0, |_, cx| assert!(cx.resume_reading(id)));
    stage.world.run_for(SECOND);
    assert_eq!(stage.messages_of(id), [b"later"]);
    let resumed = stage.net.now();
    stage.world.run_for(HOUR);
    let (ended, reason) = stage.end_of(id).expect("nothing came any more");
    assert_eq!(reason, "idle_timeout");
    assert!(ended.since(resumed) <= idle);
}

#[test]
fn a_peer_that_does_not_end_its_side_is_given_the_linger_time() {
    let mut stage = Stage::listening(Limits::default().linger(5 * SECOND));
    let (mut peer, id) = stage.connected();
    stage.engine.handle().send(id, &b"last words"[..]).unwrap();
    stage.engine.handle().close(id).unwrap();
    let closed = stage.net.now();
    stage.world.run_for(4 * SECOND);
    let mut back = Vec::new();
    peer.read(&mut back);
    assert_eq!(back, frame(b"last words"));
    assert!(peer.is_read_closed());
    peer.write(&frame(b"ignored"));
    assert_eq!(stage.end_of(id), None);
    stage.world.run_for(HOUR);
    let (ended, reason) = stage.end_of(id).expect("the time is over");
    assert_eq!(reason, "linger_timeout");
    assert_after(ended, closed, 5 * SECOND, TICK);
    assert!(stage.messages_of(id).is_empty());
}

#[test]
fn a_peer_that_ends_its_side_in_time_was_closed_by_us() {
    let mut stage = Stage::listening(Limits::default());
    let (mut peer, id) = stage.connected();
    stage.engine.handle().close(id).unwrap();
    stage.world.run_for(SECOND);
    peer.finish();
    stage.world.run_for(SECOND);
    assert_eq!(stage.end_of(id).map(|(_, reason)| reason), Some("local"));
    stage.world.run_for(HOUR);
    assert_eq!(stage.total().timers, 0);
}

#[test]
fn an_attempt_that_nobody_answers_fails_at_its_deadline() {
    let (mut stage, address) = Stage::unanswered();
    let _server = stage.net.listen(address).unwrap();
    let connector = Connector::to(address).deadline(3 * SECOND);
    stage.world.run_for(SECOND);
    let began = stage.net.now();
    stage.engine.with(0, |_, cx| {
        cx.connect(&connector);
    });
    stage.world.run_for(HOUR);
    let records = stage.records.borrow();
    let [(at, _, Told::ConnectFailed(_, error, None))] = &records[..] else {
        panic!("{records:?}");
    };
    assert!(error.contains("deadline"), "{error}");
    assert_after(*at, began, 3 * SECOND, TICK);
    assert_eq!(stage.total().connections, 0);
    assert_eq!(stage.net.connections(), 0);
}

#[test]
fn attempts_come_ever_more_seldom_and_at_once_again_after_a_connection_that_spoke() {
    let net = calm();
    let mut stage = Stage::new(&net, |builder| builder);
    let address = std::net::SocketAddr::from(([10, 0, 0, 2], 9));
    let backoff = Backoff {
        first: Duration::from_millis(100),
        max: 8 * SECOND,
    };
    stage.engine.with(0, |_, cx| {
        cx.connect(&Connector::to(address).reconnect(backoff));
    });
    stage.world.run_for(HOUR);
    let retries = |stage: &Stage| {
        stage.pick(|told| match told {
            Told::ConnectFailed(_, _, retry) => Some(retry.expect("it goes on")),
            _ => None,
        })
    };
    let delays = retries(&stage);
    for (attempt, delay) in delays.iter().enumerate() {
        let whole = backoff.first * 2u32.pow(attempt.min(10) as u32);
        let whole = whole.min(backoff.max);
        assert!(
            *delay >= whole / 2 && *delay <= whole,
            "{attempt}: {delay:?}"
        );
    }
    // An hour of delays between 4 s and 8 s.
    assert!((450..=910).contains(&delays.len()), "{}", delays.len());

    let mut server = net.listen(address).unwrap();
    stage.world.run_for(10 * SECOND);
    let mut peer = server.accept().expect("it was tried again");
    peer.write(&frame(b"hello"));
    stage.world.run_for(SECOND);
    assert_eq!(stage.connects().len(), 1);
    drop((peer, server));
    stage.records.borrow_mut().clear();
    stage.world.run_for(SECOND);
    let delays = retries(&stage);
    assert!(delays[0] <= 2 * backoff.first, "{delays:?}: it starts over");
}

#[test]
fn a_connection_that_this_side_closed_is_not_made_again_even_if_the_peer_lingers() {
    let net = calm();
    let mut stage = Stage::new(&net, |builder| builder);
    let mut server = net
        .listen(std::net::SocketAddr::from(([10, 0, 0, 2], 9)))
        .unwrap();
    let to = server.local_addr().clone();
    stage.engine.with(0, |_, cx| {
        cx.connect(&Connector::to(to).reconnect(Backoff::default()));
    });
    stage.world.run_for(SECOND);
    let _peer = server.accept().expect("it connected");
    let id = stage.connects()[0];
    stage.engine.handle().close(id).unwrap();
    stage.world.run_for(HOUR);
    assert_eq!(stage.end_of(id).map(|(_, why)| why), Some("linger_timeout"));
    assert_eq!(stage.connects().len(), 1);
    assert!(server.accept().is_none());
}

#[test]
fn a_cancelled_attempt_is_heard_of_no_more() {
    let (mut stage, address) = Stage::unanswered();
    let _server = stage.net.listen(address).unwrap();
    let connector = Connector::to(address).reconnect(Backoff::default());
    let connect = stage.engine.with(0, |_, cx| cx.connect(&connector));
    stage.world.run_for(SECOND);
    stage.engine.with(0, |_, cx| cx.cancel_connect(connect));
    stage.world.run_for(HOUR);
    assert_eq!(*stage.records.borrow(), []);
    stage.engine.handle().post(0, 7).unwrap(); // a turn, for the statistics
    stage.world.run_for(SECOND);
    let total = stage.total();
    assert_eq!((total.connections, total.timers), (0, 0));
    assert_eq!(stage.net.connections(), 0);
}

/// Timers against a list: each fires once, never early, in order, and late only by what the
/// shard was busy with.
fn timers_keep_their_time(net: &SimNet) {
    let mut random = net.fork_random();
    let mut stage = Stage::new(net, |builder| builder);
    let mut set = Vec::new();
    for token in 0..60 {
        let delay = Duration::from_nanos(random.between_log(1, 1 << 44));
        let (key, at) = stage.engine.with(0, |_, cx| {
            let at = cx.clock() + delay;
            (cx.set_timer_at(at, token), at)
        });
        if random.chance(0.2) {
            assert!(stage.engine.with(0, |_, cx| cx.cancel_timer(key)));
            assert!(!stage.engine.with(0, |_, cx| cx.cancel_timer(key)));
        } else {
            set.push((at, token));
        }
        let pause = Duration::from_nanos(random.between_log(1, 1 << 40));
        stage.world.run_for(pause);
    }
    stage.world.run_for(10 * HOUR);
    let late = Duration::from_micros(400) + 2 * net.faults().deschedule_max;
    let records = stage.records.borrow();
    assert_eq!(records.len(), set.len());
    for (at, _, told) in records.iter() {
        let Told::Timer(token) = told else {
            panic!("{told:?}");
        };
        let due = set
            .iter()
            .find(|(_, set)| set == token)
            .expect("not cancelled");
        assert!(*at >= due.0, "{token} fired early");
        let by = at.since(due.0);
        assert!(by <= late, "{token} fired late by {by:?}");
    }
}

#[test]
fn timers_fire_once_and_never_early() {
    for_seeds(
        "timers_fire_once_and_never_early",
        300,
        timers_keep_their_time,
    );
}

#[test]
fn a_paused_writer_does_not_outlive_its_reset_peer() {
    let limits = Limits::default()
        .frame_max(1000)
        .send_low(10)
        .send_high(100);
    let mut stage = Stage::new(&calm(), |builder| {
        let listener = Listener::tcp(ADDRESS).unwrap();
        builder.limits(limits).listen(
            listener
                .overflow(Overflow::PauseReading)
                .socket_buffers(None, Some(64)),
        )
    });
    let (mut peer, id) = stage.connected();
    for _ in 0..2000 {
        peer.write(&frame(&[7; 500]));
        stage.world.run_for(TICK);
    }
    assert!(stage.total().pauses > 0 && stage.total().send_queue_bytes > 0);
    peer.reset();
    stage.world.run_for(SECOND);
    assert_eq!(stage.end_of(id).map(|(_, reason)| reason), Some("broken"));
    assert_eq!(stage.total().send_buffer_bytes, 0);
}

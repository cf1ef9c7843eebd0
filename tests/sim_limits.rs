//! Small limits: what happens when each of them is reached.
#![cfg(feature = "sim")]

#[path = "support/recorder.rs"]
mod recorder;
#[path = "support/sim.rs"]
mod support;

use std::net::SocketAddr;
use std::time::Duration;

use proscenium::sim::{Faults, SimNet, SimPeer};
use proscenium::{Balance, Limits, Listener, Overflow, PostError, RouterId, SendError};
use recorder::{Stage, Told, calm};
use support::{
    ADDRESS, HOUR, Pace, SECOND, body, check_empty, check_limits, for_seeds, frame, take_frames,
};

/// Peers come and go; the shards never hold more than they may, and every one accepted is either
/// kept or refused, and refused only while the shard is full.
fn the_limit_of_connections_holds(net: &SimNet) {
    let mut random = net.fork_random();
    let limits = Limits::default().connections_max(random.between(1, 4) as usize);
    let shards = random.between(1, 3) as usize;
    let mut stage = Stage::new(net, |builder| {
        let listener = Listener::tcp(ADDRESS).unwrap().balance(Balance::RoundRobin);
        builder
            .shards(shards)
            .limits(limits.clone())
            .listen(listener)
    });
    let mut peers: Vec<SimPeer> = Vec::new();
    let mut pace = Pace::default();
    for _ in 0..60 {
        if random.chance(0.5) {
            peers.push(stage.connect());
        } else if !peers.is_empty() {
            drop(peers.swap_remove(random.index(peers.len())));
        }
        let time = pace.next(&mut random, true);
        stage.world.run_for(time);
        check_limits(&stage.engine.handle().stats(), &limits);
    }
    net.set_faults(Faults::none());
    drop(peers);
    stage.world.run_for(HOUR);
    let total = stage.total();
    assert_eq!(
        total.accepted,
        total.refused_limit + stage.connects().len() as u64
    );
    check_empty(&stage.engine.handle().stats());
    assert_eq!(net.connections(), 0);
    stage.connected(); // there is room again
}

#[test]
fn no_shard_has_more_connections_than_its_limit() {
    for_seeds(
        "no_shard_has_more_connections_than_its_limit",
        300,
        the_limit_of_connections_holds,
    );
}

#[test]
fn one_address_cannot_open_connections_faster_than_the_rate() {
    let mut stage = Stage::listening(Limits::default().accepts_per_second(10).accept_burst(5));
    let target = stage.engine.local_addrs()[0].clone();
    let flood = |stage: &Stage, host: u8, ports: std::ops::Range<u16>| -> Vec<SimPeer> {
        let from = |port| SocketAddr::from(([10, 1, 0, host], port));
        ports
            .map(|port| stage.net.connect_from(from(port), target.clone()))
            .collect()
    };
    let first = flood(&stage, 1, 1000..1100);
    let other = flood(&stage, 2, 1000..1003);
    stage.world.run_for(Duration::from_millis(50));
    assert_eq!(
        (stage.connects().len(), stage.total().refused_rate),
        (8, 95)
    );
    let refused = |peer: &&SimPeer| peer.is_read_closed() || peer.error().is_some();
    assert_eq!(first.iter().filter(refused).count(), 95);
    assert_eq!(other.iter().filter(refused).count(), 0);
    stage.world.run_for(Duration::from_millis(300));
    let _later = flood(&stage, 1, 2000..2010);
    stage.world.run_for(Duration::from_millis(50));
    assert_eq!(stage.connects().len(), 8 + 3, "0.3 s at 10 per second");
}

#[test]
fn when_memory_for_incomplete_frames_runs_out_the_oldest_goes() {
    let limits = Limits::default()
        .frame_max(64 << 10)
        .reassembly_bytes_max(300 << 10);
    let mut stage = Stage::listening(limits.clone());
    let mut hoarders = Vec::new();
    for _ in 0..12 {
        let (mut peer, id) = stage.connected();
        let mut bytes = frame(&vec![0; 64 << 10]);
        bytes.pop(); // one byte short
        let mut at = 0;
        while at < bytes.len() {
            at += peer.write(&bytes[at..]);
            stage.world.run_for(Duration::from_millis(1));
            check_limits(&stage.engine.handle().stats(), &limits);
        }
        hoarders.push((peer, id));
    }
    let ended: Vec<RouterId> = stage.pick(|told| match told {
        Told::Disconnect(id, "reassembly_pressure") => Some(*id),
        _ => None,
    });
    assert!((8..12).contains(&ended.len()), "{}", ended.len());
    let oldest: Vec<RouterId> = hoarders
        .iter()
        .map(|(_, id)| *id)
        .take(ended.len())
        .collect();
    assert_eq!(ended, oldest);
    let (mut peer, _) = stage.connected();
    peer.write(&frame(b"served all the same"));
    stage.world.run_for(SECOND);
    assert_eq!(peer.unread(), 23);
    let (last, last_id) = hoarders.last_mut().expect("twelve");
    last.write(&[0]);
    stage.world.run_for(SECOND);
    assert_eq!(stage.messages_of(*last_id).len(), 1);
    drop((hoarders, peer));
    stage.world.run_for(HOUR);
    check_empty(&stage.engine.handle().stats());
}

/// Peers that send frames byte by byte, or never finish them: the memory stays within its limit.
fn reassembly_stays_bounded(net: &SimNet) {
    let mut random = net.fork_random();
    let frame_max = random.between_log(64, 20_000) as usize;
    let limits = Limits::default()
        .frame_max(frame_max)
        .reassembly_bytes_max(random.between(32 << 10, 120_000) as usize);
    let mut stage = Stage::new(net, |builder| {
        builder
            .limits(limits.clone())
            .listen(Listener::tcp(ADDRESS).unwrap())
    });
    let mut peers: Vec<(SimPeer, Vec<u8>)> = Vec::new();
    for _ in 0..80 {
        if peers.len() < 12 {
            peers.push((stage.connect(), frame(&body(1, frame_max))));
        }
        let mut back = Vec::new();
        for (peer, left) in &mut peers {
            let most = random.between_log(1, 8192) as usize;
            let written = peer.write(&left[..most.min(left.len())]);
            left.drain(..written);
            if left.is_empty() && random.chance(0.5) {
                left.extend(frame(&body(2, frame_max)));
            }
            peer.read(&mut back);
        }
        let time = Duration::from_nanos(random.between_log(1000, 5_000_000));
        stage.world.run_for(time);
        check_limits(&stage.engine.handle().stats(), &limits);
    }
    net.set_faults(Faults::none());
    drop(peers);
    stage.world.run_for(HOUR);
    check_empty(&stage.engine.handle().stats());
    let reasons = stage.pick(|told| match told {
        Told::Disconnect(_, reason) => Some(*reason),
        _ => None,
    });
    assert_eq!(reasons.len(), stage.connects().len());
    assert!(!reasons.contains(&"bad_frame"));
}

#[test]
fn incomplete_frames_never_take_more_memory_than_their_limit() {
    for_seeds(
        "incomplete_frames_never_take_more_memory_than_their_limit",
        150,
        reassembly_stays_bounded,
    );
}

#[test]
fn a_full_mailbox_refuses_and_what_it_took_comes_in_order() {
    let mut stage = Stage::listening(Limits::default().mailbox_max(5));
    let handle = stage.engine.handle();
    stage.world.run_for(SECOND);
    let posted: Vec<bool> = (0..9).map(|n| handle.post(0, n).is_ok()).collect();
    assert_eq!(
        posted,
        [true, true, true, true, true, false, false, false, false]
    );
    assert_eq!(handle.post(0, 9), Err(PostError::Full(9)));
    assert_eq!(handle.post(1, 9), Err(PostError::Stopped(9)));
    let (id, late) = (RouterId::from_u64(3), &b"x"[..]);
    assert_eq!(handle.send(id, late), Err(SendError::Full));
    assert_eq!(handle.stats().total().mailbox_len, 5);
    stage.world.run_for(SECOND);
    assert!(handle.post(0, 10).is_ok());
    stage.world.run_for(SECOND);
    let seen = stage.pick(|told| match told {
        Told::Posted(number) => Some(*number),
        _ => None,
    });
    assert_eq!(seen, [0, 1, 2, 3, 4, 10]);
}

#[test]
fn when_memory_for_unsent_bytes_runs_out_the_largest_offender_goes_and_the_refused_are_told() {
    let limits = Limits::default()
        .frame_max(10_000)
        .send_low(1_000)
        .send_high(300_000)
        .send_queue_max(400_000)
        .send_bytes_max(350_000);
    let mut stage = Stage::new(&calm(), |builder| {
        let listener = Listener::tcp(ADDRESS)
            .unwrap()
            .socket_buffers(None, Some(1024));
        builder.limits(limits.clone()).listen(listener)
    });
    let (_small, small) = stage.connected();
    let (_big, big) = stage.connected();
    let (reader, other) = stage.connected();
    // Peers that do not read: what their sockets take comes off.
    for (id, count) in [(small, 8), (big, 32)] {
        for _ in 0..count {
            stage
                .engine
                .with(0, |_, cx| cx.send(id, &[1; 9_996]))
                .unwrap();
            stage.world.run_for(Duration::from_millis(10));
        }
    }
    let queued = |stage: &Stage, id| stage.engine.with(0, |_, cx| cx.queued_bytes(id));
    assert!(queued(&stage, big) > queued(&stage, small));
    let mut sent = 0;
    let refused = loop {
        match stage.engine.with(0, |_, cx| cx.send(other, &[2; 9_996])) {
            Ok(()) => sent += 1,
            Err(error) => break error,
        }
        assert!(sent < 10, "there is no room for so many");
    };
    assert_eq!(refused, SendError::Full);
    stage.world.run_for(SECOND);
    check_limits(&stage.engine.handle().stats(), &limits);
    assert_eq!(stage.end_of(big).map(|(_, why)| why), Some("send_pressure"));
    assert_eq!(stage.end_of(small), None);
    let told = stage.pick(|told| (*told == Told::Drained(other)).then_some(()));
    assert_eq!(
        told.len(),
        1,
        "who was told Full is told once when there is room"
    );
    drop(reader);
}

#[test]
fn a_refusal_for_want_of_the_shards_memory_is_taken_back_even_if_nothing_is_queued() {
    let limits = Limits::default()
        .frame_max(10_000)
        .send_low(1_000)
        .send_high(50_000)
        .send_queue_max(60_000)
        .send_bytes_max(15_000);
    let mut stage = Stage::listening(limits);
    let (_big, big) = stage.connected();
    let (_idle, idle) = stage.connected();
    stage.engine.with(0, |_, cx| {
        cx.send(big, &[1; 9_996]).unwrap();
        assert_eq!(cx.send(idle, &[2; 9_996]), Err(SendError::Full));
    });
    stage.world.run_for(SECOND);
    assert_eq!(stage.end_of(big).map(|(_, why)| why), Some("send_pressure"));
    let told = stage.pick(|told| (*told == Told::Drained(idle)).then_some(()));
    assert_eq!(told.len(), 1);
}

#[test]
fn frames_over_the_limit_cost_their_sender_the_connection_and_nobody_else() {
    let mut stage = Stage::listening(Limits::default().frame_max(100));
    let (mut good, good_id) = stage.connected();
    for length in [101u32, 0x8000_0000, u32::MAX] {
        let (mut bad, id) = stage.connected();
        bad.write(&frame(b"fine"));
        bad.write(&length.to_be_bytes());
        stage.world.run_for(SECOND);
        let mut back = Vec::new();
        bad.read(&mut back);
        assert_eq!(take_frames(&mut back), [b"fine"]);
        assert!(bad.is_read_closed());
        bad.finish();
        stage.world.run_for(SECOND);
        assert_eq!(
            stage.end_of(id).map(|(_, reason)| reason),
            Some("bad_frame")
        );
        assert_eq!(stage.messages_of(id), [b"fine"]);
        assert_eq!(stage.total().reassembly_bytes, 0);
    }
    good.write(&frame(&[3; 100]));
    stage.world.run_for(SECOND);
    let mut back = Vec::new();
    good.read(&mut back);
    assert_eq!(take_frames(&mut back), [[3; 100]]);
    let too_long = SendError::TooLong {
        length: 101,
        limit: 100,
    };
    let handle = stage.engine.handle();
    assert_eq!(handle.send(good_id, vec![0; 101]), Err(too_long));
    let sent = stage.engine.with(0, |_, cx| cx.send(good_id, &[0; 101]));
    assert_eq!(sent, Err(too_long));
}

#[test]
fn a_message_longer_than_the_watermark_fits_into_an_empty_queue_whatever_the_policy() {
    for overflow in [
        Overflow::PauseReading,
        Overflow::DropNewest,
        Overflow::Close,
    ] {
        let limits = Limits::default()
            .frame_max(5_000)
            .send_low(10)
            .send_high(1_000);
        let mut stage = Stage::new(&calm(), |builder| {
            let listener = Listener::tcp(ADDRESS).unwrap().overflow(overflow);
            builder.limits(limits).listen(listener)
        });
        let (mut peer, id) = stage.connected();
        for _ in 0..3 {
            peer.write(&frame(&[9; 5_000]));
            stage.world.run_for(SECOND);
        }
        assert_eq!(peer.unread(), 3 * 5_004, "{overflow:?}");
        assert_eq!(stage.end_of(id), None);
    }
}

#[test]
fn a_stale_id_is_gone_after_its_slot_is_used_again() {
    let mut stage = Stage::listening(Limits::default());
    let (old, old_id) = stage.connected();
    drop(old);
    stage.world.run_for(SECOND);
    let (mut new, new_id) = stage.connected();
    assert_ne!(old_id, new_id);
    let sent = stage
        .engine
        .with(0, |_, cx| cx.send(old_id, b"for the old one"));
    assert_eq!(sent, Err(SendError::Gone));
    stage
        .engine
        .handle()
        .send(old_id, &b"for the old one"[..])
        .unwrap();
    stage.engine.handle().close(old_id).unwrap();
    stage.world.run_for(SECOND);
    assert_eq!((new.unread(), stage.end_of(new_id)), (0, None));
    assert_eq!(stage.total().sends_gone, 2);
    new.write(&frame(b"here"));
    stage.world.run_for(SECOND);
    assert_eq!(new.unread(), 8);
}

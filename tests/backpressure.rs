//! Back-pressure: readers that stop reading, every overflow policy, every bound on sends.

mod support;

use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use proscenium::{Connector, Context, Limits, Listener, Overflow, RouterId, SendError};
use support::{
    Behaviour, Job, Server, ask, connect_narrow, engine, eventually, frame, loopback, patient,
    read_frame, try_read_frame,
};

const KIB: usize = 1024;

/// Small watermarks, so that a few hundred messages fill a queue.
fn small_queues() -> Limits {
    patient()
        .frame_max(16 * KIB)
        .send_high(64 * KIB)
        .send_low(16 * KIB)
        .send_queue_max(128 * KIB)
}

/// The kernel holds little for a connection of this listener.
fn narrow(overflow: Overflow) -> Listener {
    loopback()
        .overflow(overflow)
        .socket_buffers(None, Some(8 * KIB))
}

/// A peer whose kernel holds little, and which does not read.
fn silent_peer(server: &Server) -> (TcpStream, proscenium::RouterId) {
    let stream = connect_narrow(server.address(), 4 * KIB);
    let id = server.id_of(&stream);
    (stream, id)
}

/// A body that carries its number.
fn numbered(number: u32, length: usize) -> Vec<u8> {
    let mut body = vec![number as u8; length];
    body[..4].copy_from_slice(&number.to_be_bytes());
    body
}

fn number_of(body: &[u8]) -> u32 {
    u32::from_be_bytes(body[..4].try_into().unwrap())
}

/// Sends numbered messages to a connection until one is refused.
fn fill(server: &Server, id: proscenium::RouterId, from: u32) -> (u32, SendError) {
    server.on(0, move |cx| {
        let mut number = from;
        loop {
            match cx.send(id, &numbered(number, KIB)) {
                Ok(()) => number += 1,
                Err(error) => return (number, error),
            }
            assert!(number - from < 1_000_000, "never refused");
        }
    })
}

#[test]
fn a_peer_that_stops_reading_is_not_read_any_more_and_gets_everything_in_the_end() {
    let server = Server::with(
        small_queues(),
        narrow(Overflow::PauseReading),
        Behaviour::echo(),
    );
    let (mut stuck, id) = silent_peer(&server);
    let (mut other, _) = server.accept();
    const MESSAGES: u32 = 5_000;
    let mut writer = stuck.try_clone().unwrap();
    let writing = std::thread::spawn(move || {
        for number in 0..MESSAGES {
            writer.write_all(&frame(&numbered(number, KIB))).unwrap();
        }
    });
    server.until_stats(|stats| stats.pauses >= 1);
    // While it is stuck, its queue stays within the high watermark (its own messages stop as
    // soon as it is passed), and others are answered.
    for number in 0..1_000u32 {
        ask(&mut other, &number.to_be_bytes());
        assert!(server.stats().send_queue_bytes <= (65 * KIB) as u64);
    }
    let stats = server.stats();
    assert!(stats.messages_in < u64::from(MESSAGES), "{stats:?}");
    assert_eq!((stats.pauses, stats.refused_full), (1, 0));
    for number in 0..MESSAGES {
        assert!(read_frame(&mut stuck) == numbered(number, KIB));
        if number % 100 == 0 {
            assert!(server.stats().send_queue_bytes <= (66 * KIB) as u64);
        }
    }
    writing.join().unwrap();
    let stats = server.until_stats(|stats| stats.send_queue_bytes == 0);
    assert_eq!((stats.dropped, stats.refused_full), (0, 0));
    // Told once for each time it was paused.
    assert_eq!(server.log.drained(id) as u64, stats.pauses);
    drop((stuck, other));
    server.until_stats(|stats| stats.closed("peer_closed") == 2);
    server.end_clean();
}

#[test]
fn sends_of_others_are_accepted_up_to_the_hard_bound() {
    let server = Server::with(
        small_queues(),
        narrow(Overflow::PauseReading),
        Behaviour::echo(),
    );
    let (mut stuck, id) = silent_peer(&server);
    let (mut next, mut read) = (0, 0);
    for round in 1..=3 {
        // What the kernel takes makes room: full is when it takes nothing any more.
        let full = eventually("the kernel's buffers are full too", || {
            let (reached, error) = fill(&server, id, next);
            assert_eq!(error, SendError::Full);
            let progress = reached - next;
            next = reached;
            let stats = server.stats();
            let queued = server.on(0, move |cx| cx.queued_bytes(id)).unwrap();
            assert!(queued <= 128 * KIB, "{queued}");
            let most = stats.send_queue_bytes.min(queued as u64) > (126 * KIB) as u64;
            (progress == 0 && most && stats.refused_full > 0).then_some(stats)
        });
        assert!(full.send_queue_bytes <= (128 * KIB) as u64);
        assert_eq!(
            server.log.drained(id),
            round - 1,
            "not told before there is room"
        );
        for number in std::mem::replace(&mut read, next)..next {
            assert_eq!(number_of(&read_frame(&mut stuck)), number);
        }
        server.until_stats(|stats| stats.send_queue_bytes == 0);
        assert_eq!(server.log.drained(id), round, "told once per fill");
    }
    assert_eq!(server.stats().messages_out, u64::from(next));
    drop(stuck);
    server.until_stats(|stats| stats.connections == 0);
    server.end_clean();
}

#[test]
fn the_newest_is_dropped_and_counted_and_the_sender_told_once_when_there_is_room() {
    let server = Server::with(
        small_queues(),
        narrow(Overflow::DropNewest),
        Behaviour::echo(),
    );
    let (mut stuck, id) = silent_peer(&server);
    let mut accepted = Vec::new();
    let mut refused = 0;
    let mut number = 0;
    eventually("full for good", || {
        let tried = number..number + 200;
        number += 200;
        let results = server.on(0, move |cx| {
            tried
                .map(|number| (number, cx.send(id, &numbered(number, KIB))))
                .collect::<Vec<_>>()
        });
        let before = accepted.len();
        for (number, result) in results {
            match result {
                Ok(()) => accepted.push(number),
                Err(error) => {
                    assert_eq!(error, SendError::Full);
                    refused += 1;
                }
            }
        }
        // Orders may follow each other within a slice: full is what is so after a flush, too.
        let queued = server.stats().send_queue_bytes;
        (accepted.len() == before && queued > (62 * KIB) as u64).then_some(())
    });
    let stats = server.until_stats(|stats| stats.dropped == refused);
    assert!(
        stats.send_queue_bytes <= (64 * KIB) as u64,
        "the watermark is the bound"
    );
    assert_eq!((stats.pauses, stats.refused_full), (0, 0));
    assert_eq!(server.log.drained(id), 0);
    // It is still read from: a message of its own is answered with a drop, too.
    stuck.write_all(&frame(&[0; 2 * KIB])).unwrap();
    server.until_stats(|stats| stats.messages_in == 1 && stats.dropped == refused + 1);
    // What was accepted arrives without a gap of its own, then one notice.
    for number in &accepted {
        assert_eq!(number_of(&read_frame(&mut stuck)), *number);
    }
    server.until_stats(|stats| stats.send_queue_bytes == 0);
    assert_eq!(server.log.drained(id), 1);
    ask(&mut stuck, b"goes on");
    assert_eq!(server.log.drained(id), 1);
    drop(stuck);
    server.until_stats(|stats| stats.closed("peer_closed") == 1);
    server.end_clean();
}

#[test]
fn a_slow_consumer_is_closed_with_both_numbers() {
    let server = Server::with(small_queues(), narrow(Overflow::Close), Behaviour::echo());
    let (stuck, id) = silent_peer(&server);
    let (mut other, _) = server.accept();
    let mut next = 0;
    let error = eventually("the watermark is passed", || {
        let sent = server.on(0, move |cx| cx.send(id, &numbered(next, KIB)));
        next += 1;
        sent.err()
    });
    assert_eq!(error, SendError::Gone);
    let (reason, text) = server.log.until_closed(id);
    assert_eq!(reason, "slow_consumer");
    assert!(text.contains(&(64 * KIB).to_string()), "{text}");
    ask(&mut other, b"unaffected");
    let stats = server.until_stats(|stats| stats.connections == 1);
    assert_eq!(
        (stats.closed("slow_consumer"), stats.send_queue_bytes),
        (1, 0)
    );
    assert!(stats.bytes_lost > 0);
    assert_eq!(server.log.disconnects(id), 1);
    drop((stuck, other));
    server.end_clean();
}

/// One message that is longer than the watermark is not slow consumption, nor is it refused for
/// ever: the watermarks judge what waits, not what comes.
#[test]
fn a_message_above_the_watermark_reaches_a_peer_that_reads_under_every_policy() {
    for overflow in [
        Overflow::PauseReading,
        Overflow::DropNewest,
        Overflow::Close,
    ] {
        let limits = patient(); // frames of 2 MiB, watermark of 1 MiB
        let long = vec![5; limits.frame_max];
        let server = Server::with(limits, loopback().overflow(overflow), Behaviour::echo());
        let (mut stream, id) = server.accept();
        let body = long.clone();
        assert_eq!(
            server.on(0, move |cx| cx.send(id, &body)),
            Ok(()),
            "{overflow:?}"
        );
        assert!(read_frame(&mut stream) == long);
        ask(&mut stream, b"and on");
        drop(stream);
        server.end_clean();
    }
}

#[test]
fn the_bound_on_all_unsent_bytes_refuses_and_closes_the_largest() {
    // The bound counts buffers, which are powers of two: 512 + 64 + 64 KiB and a few small ones.
    let limits = small_queues()
        .send_queue_max(512 * KIB)
        .send_bytes_max(760 * KIB);
    let server = Server::with(limits, narrow(Overflow::PauseReading), Behaviour::echo());
    let mut peers: Vec<_> = (0..4).map(|_| silent_peer(&server)).collect();
    let queued = |id| server.on(0, move |cx| cx.queued_bytes(id)).unwrap();
    let targets = [(0, 50), (1, 300), (2, 50)];
    for (peer, target) in targets {
        let id = peers[peer].1;
        eventually("so much is queued", || {
            let have = queued(id);
            if have < target * KIB {
                assert_eq!(server.on(0, move |cx| cx.send(id, &[1; KIB])), Ok(()));
            }
            // The kernel takes some of it at first.
            (have >= target * KIB && queued(id) == have).then_some(())
        });
    }
    let before = server.stats();
    assert_eq!(before.closed("send_pressure"), 0);
    // The fourth one asks for what is left, and more.
    let (victim, small) = (peers[1].1, peers[3].1);
    let (_, error) = fill(&server, small, 0);
    assert_eq!(error, SendError::Full);
    let (reason, text) = server.log.until_closed(victim);
    assert_eq!(reason, "send_pressure");
    assert!(text.contains("most"), "{text}");
    let stats = server.until_stats(|stats| stats.connections == 3);
    assert_eq!(stats.closed("send_pressure"), 1);
    assert!(stats.send_queue_bytes <= (760 * KIB) as u64);
    // Who was refused is told, and can go on.
    eventually("on_drained", || {
        while let Ok(Some(_)) = peek(&mut peers[3].0) {}
        (server.log.drained(small) == 1).then_some(())
    });
    assert_eq!(server.on(0, move |cx| cx.send(small, b"again")), Ok(()));
    drop(peers);
    server.until_stats(|stats| stats.connections == 0 && stats.send_queue_bytes == 0);
    server.end_clean();
}

/// A frame if one comes at once.
fn peek(stream: &mut TcpStream) -> std::io::Result<Option<Vec<u8>>> {
    let mut byte = [0; 1];
    stream.set_nonblocking(true)?;
    let found = stream.peek(&mut byte);
    stream.set_nonblocking(false)?;
    found?;
    try_read_frame(stream)
}

/// Whoever was refused while nothing of its own waits is told as well: nothing that drains later
/// would tell it.
#[test]
fn a_send_refused_for_want_of_shard_memory_is_followed_by_a_notice() {
    // Two buffers of 128 KiB fit, one being written and one being filled, and hardly more.
    let limits = small_queues().send_bytes_max(262 * KIB);
    let server = Server::with(limits, narrow(Overflow::PauseReading), Behaviour::echo());
    let (large, large_id) = silent_peer(&server);
    let (mut idle, idle_id) = server.accept();
    eventually("nearly everything is in use", || {
        server.on(0, move |cx| {
            while cx.queued_bytes(large_id).unwrap() < 98 * KIB {
                cx.send(large_id, &[1; KIB]).unwrap();
            }
        });
        (server.stats().send_queue_bytes >= 98 * KIB as u64).then_some(())
    });
    let refused = eventually("no room", || {
        let queued = server.on(0, move |cx| {
            while cx.queued_bytes(large_id).unwrap() < 98 * KIB {
                cx.send(large_id, &[1; KIB]).unwrap();
            }
            cx.send(idle_id, &[2; 8 * KIB])
        });
        queued.err()
    });
    assert_eq!(refused, SendError::Full);
    assert_eq!(server.log.until_closed(large_id).0, "send_pressure");
    eventually("on_drained of the idle connection", || {
        (server.log.drained(idle_id) == 1).then_some(())
    });
    assert_eq!(server.on(0, move |cx| cx.send(idle_id, b"now")), Ok(()));
    while read_frame(&mut idle) != b"now" {}
    drop((large, idle));
    server.end_clean();
}

/// A source that refills on `on_drained` keeps its queue full for as long as the peer reads; the
/// shard's other connections are served all the same.
#[test]
fn a_stream_kept_full_by_on_drained_does_not_starve_others() {
    const TOTAL: usize = 60_000;
    let next = Arc::new(AtomicUsize::new(0));
    let pump = {
        let next = Arc::clone(&next);
        move |cx: &mut proscenium::Context<'_, support::Job>, id| loop {
            let number = next.load(Ordering::Relaxed);
            if number == TOTAL {
                return cx.close(id);
            }
            if cx.send(id, &numbered(number as u32, KIB)).is_err() {
                return;
            }
            next.store(number + 1, Ordering::Relaxed);
        }
    };
    let start = pump.clone();
    let behaviour = Behaviour::on_message(move |cx, from, message| {
        if message.bytes() == b"start" {
            start(cx, from);
        } else {
            let _ = cx.send(from, &message);
        }
    })
    .on_drained(pump);
    let server = Server::with(small_queues(), loopback(), behaviour);
    let (mut reader, id) = server.accept();
    let (mut other, _) = server.accept();
    reader.write_all(&frame(b"start")).unwrap();
    let reading = std::thread::spawn(move || {
        for number in 0..TOTAL {
            assert_eq!(number_of(&read_frame(&mut reader)), number as u32);
        }
        assert_eq!(try_read_frame(&mut reader).unwrap(), None);
    });
    while next.load(Ordering::Relaxed) < TOTAL {
        ask(&mut other, b"served in between");
        let stats = server.stats();
        assert!(stats.send_queue_bytes <= (130 * KIB) as u64);
    }
    reading.join().unwrap();
    assert_eq!(server.log.until_closed(id).0, "local");
    drop(other);
    server.end_clean();
}

/// Sends `total` messages as long as they are taken, and goes on when there is room; counts what
/// comes.
fn talker(total: u32, heard: &Arc<AtomicUsize>) -> Behaviour {
    let said = Arc::new(AtomicUsize::new(0));
    let talk = move |cx: &mut Context<'_, Job>, to: RouterId| {
        let mut number = said.load(Ordering::Relaxed) as u32;
        while number < total && cx.send(to, &numbered(number, 8 * KIB)).is_ok() {
            number += 1;
        }
        said.store(number as usize, Ordering::Relaxed);
    };
    let (again, heard) = (talk.clone(), Arc::clone(heard));
    Behaviour::on_message(move |_, _, message| {
        let before = heard.fetch_add(1, Ordering::Relaxed);
        assert_eq!(number_of(&message) as usize, before);
    })
    .on_connect(talk)
    .on_drained(again)
}

/// Both ends say much at once before they listen. If both stopped reading until what they said is
/// taken, they would wait for each other for ever.
#[test]
fn two_engines_that_both_say_more_than_the_socket_takes_hear_each_other() {
    const MESSAGES: u32 = 500;
    let limits = small_queues().send_queue_max(8 * KIB * KIB);
    let (at_server, at_client) = (Arc::default(), Arc::default());
    let listener = narrow(Overflow::default());
    let server = Server::with(limits.clone(), listener, talker(MESSAGES, &at_server));
    let builder = engine().limits(limits);
    let client = Server::start(builder, talker(MESSAGES, &at_client));
    let connector = Connector::to(server.address()).socket_buffers(Some(4 * KIB), Some(8 * KIB));
    client.handle.connect(0, connector).unwrap();
    eventually("everything is heard", || {
        let heard = [&at_server, &at_client].map(|heard| heard.load(Ordering::Relaxed));
        (heard == [MESSAGES as usize; 2]).then_some(())
    });
    assert!(server.stats().pauses > 0, "the server had to wait");
    assert!(client.stats().dropped > 0, "the client was told to wait");
    client.end_clean();
    server.end_clean();
}

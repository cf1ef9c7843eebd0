//! Connections that move between shards: nothing is lost, doubled or overtaken, whoever sends.

mod support;

use std::collections::HashMap;
use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use proscenium::{Balance, Limits, RouterId, SendError};
use support::{
    Behaviour, PATIENCE, Seen, Server, ask, connect_narrow, engine, eventually, expect_end, frame,
    loopback, on_shard, patient, read_frame, reset, try_read_frame,
};

const SHARDS: usize = 3;

fn serve(limits: Limits, behaviour: Behaviour) -> Server {
    let builder = engine()
        .shards(SHARDS)
        .limits(limits)
        .listen(loopback().socket_buffers(None, Some(16 << 10)));
    Server::start(builder, behaviour)
}

/// Sender and number of a message.
fn numbered(sender: u32, number: u32) -> [u8; 8] {
    let mut body = [0; 8];
    body[..4].copy_from_slice(&sender.to_be_bytes());
    body[4..].copy_from_slice(&number.to_be_bytes());
    body
}

fn parse(body: &[u8]) -> (u32, u32) {
    let number = |at: usize| u32::from_be_bytes(body[at..at + 4].try_into().unwrap());
    (number(0), number(4))
}

/// Has whichever shard has the connection move it to `to`.
fn move_to(server: &Server, id: RouterId, to: usize) {
    for shard in 0..SHARDS {
        let _ = server.on(shard, move |cx| cx.rehome(id, to));
    }
}

/// The shard where a connection lives, once it is there.
fn until_at(server: &Server, id: RouterId, shard: usize) {
    eventually("the connection is there", || {
        server
            .on(shard, move |cx| cx.peer(id).is_some())
            .then_some(())
    });
}

/// Reads the messages of `senders` senders, `each` of each, in order per sender.
fn read_all(stream: &mut TcpStream, senders: u32, each: u32) {
    let mut next = vec![0; senders as usize];
    for _ in 0..senders * each {
        let (sender, number) = parse(&read_frame(stream));
        assert_eq!(number, next[sender as usize], "of sender {sender}");
        next[sender as usize] += 1;
    }
}

#[test]
fn both_directions_stay_in_order_while_the_connection_moves_under_load() {
    const CLIENTS: usize = 4;
    const MESSAGES: u32 = 3_000;
    const THREADS: u32 = 2;
    // More than may ever be under way between two shards, so that none is refused.
    const { assert!(CLIENTS as u32 * MESSAGES * 5 < 4 * 16 * 1024) };
    let senders = 1 + SHARDS as u32 + THREADS;
    // What each connection said last, wherever it lived.
    let heard: Arc<Mutex<HashMap<RouterId, u32>>> = Arc::default();
    let hears = Arc::clone(&heard);
    let behaviour = Behaviour::on_message(move |cx, from, message| {
        let (_, number) = parse(&message);
        let last = hears.lock().unwrap().insert(from, number);
        assert_eq!(number, last.map_or(0, |last| last + 1), "from {from}");
        cx.send(from, &message).unwrap();
        if number % 3 == 0 {
            let to = (cx.shard() + 1 + number as usize % 2) % SHARDS;
            cx.rehome(from, to).unwrap();
        }
    });
    let server = serve(patient(), behaviour);
    let mut clients = Vec::new();
    let mut others = Vec::new();
    for _ in 0..CLIENTS {
        let (mut stream, id) = server.accept();
        for thread in 0..THREADS {
            let handle = server.handle.clone();
            others.push(std::thread::spawn(move || {
                for number in 0..MESSAGES {
                    let body = numbered(1 + SHARDS as u32 + thread, number).to_vec();
                    handle.send_timeout(id, body, PATIENCE).unwrap();
                }
            }));
        }
        let handle = server.handle.clone();
        others.push(std::thread::spawn(move || {
            let mut next = [0; SHARDS];
            while next.iter().any(|next| *next < MESSAGES) {
                for (shard, next) in next.iter_mut().enumerate() {
                    let from = *next;
                    *next = on_shard(&handle, shard, move |cx| {
                        let mut number = from;
                        while number < MESSAGES.min(from + 50) {
                            match cx.send(id, &numbered(1 + shard as u32, number)) {
                                Ok(()) => number += 1,
                                Err(SendError::Full) => break,
                                Err(error) => panic!("{error}"),
                            }
                        }
                        number
                    });
                }
            }
        }));
        clients.push(std::thread::spawn(move || {
            let mut writer = stream.try_clone().unwrap();
            let writing = std::thread::spawn(move || {
                for number in 0..MESSAGES {
                    writer.write_all(&frame(&numbered(0, number))).unwrap();
                }
            });
            read_all(&mut stream, senders, MESSAGES);
            writing.join().unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            assert_eq!(try_read_frame(&mut stream).unwrap(), None, "nothing twice");
            id
        }));
    }
    for other in others {
        other.join().unwrap();
    }
    let ids: Vec<RouterId> = clients.into_iter().map(|c| c.join().unwrap()).collect();
    for id in &ids {
        assert_eq!(server.log.until_closed(*id).0, "peer_closed");
        assert_eq!(server.log.disconnects(*id), 1);
    }
    let stats = server.until_stats(|stats| stats.connections == 0);
    assert!(stats.adopted > u64::from(MESSAGES) / 3, "{}", stats.adopted);
    assert_eq!(stats.adopted, stats.departed);
    assert_eq!((stats.dropped, stats.sends_gone), (0, 0));
    assert_eq!((stats.send_queue_bytes, stats.reassembly_bytes), (0, 0));
    assert_eq!(stats.closes.iter().sum::<u64>(), CLIENTS as u64);
    // Only ids that were told at first were ever adopted: they do not change.
    for seen in server.log.all() {
        if let Seen::Adopted { id, .. } = seen {
            assert!(ids.contains(&id));
        }
    }
    server.end_clean();
}

#[test]
fn a_connection_moves_away_and_home_and_can_be_reached_from_everywhere() {
    let server = serve(patient(), Behaviour::echo());
    let (mut client, id) = server.accept();
    let home = id.shard();
    for step in [1, 2, 1, 0, 2, 0] {
        let to = (home + step) % SHARDS;
        move_to(&server, id, to);
        until_at(&server, id, to);
        ask(&mut client, b"from here");
        for shard in 0..SHARDS {
            server
                .on(shard, move |cx| cx.send(id, &[shard as u8]))
                .unwrap();
            assert_eq!(read_frame(&mut client), [shard as u8]);
        }
        server.handle.send(id, &b"handle"[..]).unwrap();
        assert_eq!(read_frame(&mut client), b"handle");
        assert_eq!(server.log.disconnects(id), 0);
        eventually("every shard has counted", || {
            let shards = server.handle.stats().shards;
            let here = |(shard, stats): (usize, &proscenium::ShardStats)| {
                stats.connections == u64::from(shard == to)
            };
            shards.iter().enumerate().all(here).then_some(())
        });
    }
    // Away again, it can be closed by anybody.
    let to = (home + 1) % SHARDS;
    move_to(&server, id, to);
    until_at(&server, id, to);
    let nowhere = server.on(to, move |cx| cx.rehome(id, SHARDS));
    assert_eq!(nowhere, Err(SendError::Gone));
    server.on((home + 2) % SHARDS, move |cx| cx.close(id));
    expect_end(&mut client);
    drop(client);
    assert_eq!(server.log.until_closed(id).0, "local");
    eventually("its birth shard has forgotten it", || {
        let sent = server.on(home, move |cx| cx.send(id, b"late"));
        (sent == Err(SendError::Gone)).then_some(())
    });
    server.end_clean();
}

#[test]
fn a_tag_moves_along_and_every_shard_knows_what_it_can_of_the_home() {
    let server = serve(patient(), Behaviour::echo());
    let (client, id) = server.accept();
    let home = id.shard();
    let (away, third) = ((home + 1) % SHARDS, (home + 2) % SHARDS);
    let known = |shard| server.on(shard, move |cx| (cx.tag(id), cx.home(id)));
    assert_eq!(known(home), (0, Some(home)));
    assert_eq!(known(away), (0, Some(home)));
    assert!(!server.on(away, move |cx| cx.set_tag(id, 1)), "not here");
    assert!(server.on(home, move |cx| cx.set_tag(id, u64::MAX)));
    assert_eq!(known(home), (u64::MAX, Some(home)));
    move_to(&server, id, away);
    until_at(&server, id, away);
    assert_eq!(known(away), (u64::MAX, Some(away)));
    assert_eq!(known(home), (0, Some(away)));
    assert_eq!(known(third), (0, Some(home)));
    let departed = |seen: &Seen| match seen {
        Seen::Departed { tag, .. } => Some(*tag),
        _ => None,
    };
    assert_eq!(server.log.find(departed), Some(u64::MAX));
    assert!(server.on(away, move |cx| cx.set_tag(id, 7)));
    // By way of its birth shard, and home again.
    for to in [third, home] {
        move_to(&server, id, to);
        until_at(&server, id, to);
        eventually("the tag", || (known(to) == (7, Some(to))).then_some(()));
    }
    // Ended, but the handler has not been told yet: neither.
    let ended = server.on(home, move |cx| {
        cx.abort(id);
        (cx.tag(id), cx.set_tag(id, 8), cx.home(id))
    });
    assert_eq!(ended, (0, false, None));
    let tag = eventually("the end", || {
        server.log.find(|seen| match seen {
            Seen::Disconnected { tag, .. } => Some(*tag),
            _ => None,
        })
    });
    assert_eq!(tag, 7, "as it was when it ended");
    assert_eq!(known(home), (0, None));
    assert_eq!(known(third), (0, Some(home)));
    let nobody = RouterId::from_u64((SHARDS as u64) << 56 | 1);
    let found = server.on(home, move |cx| (cx.tag(nobody), cx.home(nobody)));
    assert_eq!(found, (0, None));
    let (client2, next) = server.accept();
    let shard = next.shard();
    assert_eq!(server.on(shard, move |cx| cx.tag(next)), 0, "a new one");
    drop((client, client2));
    server.until_stats(|stats| stats.connections == 0);
    server.end_clean();
}

#[test]
fn an_unsent_backlog_moves_along_ahead_of_what_follows() {
    const KIB: usize = 1024;
    let server = serve(patient(), Behaviour::echo());
    let mut client = connect_narrow(server.address(), 4 * KIB);
    let id = server.id_of(&client);
    let home = id.shard();
    let away = (home + 1) % SHARDS;
    let body = |number: u32| {
        let mut body = vec![number as u8; KIB];
        body[..4].copy_from_slice(&number.to_be_bytes());
        body
    };
    let send = |shard: usize, from: u32| {
        server.on(shard, move |cx| {
            for number in from..from + 200 {
                cx.send(id, &body(number)).unwrap();
            }
        });
    };
    send(home, 0);
    let there = |shard: usize| server.handle.stats().shards[shard].send_queue_bytes;
    eventually("a backlog", || {
        (there(home) > 50 * KIB as u64).then_some(())
    });
    move_to(&server, id, away);
    until_at(&server, id, away);
    send(away, 200);
    eventually("the backlog has moved", || {
        (there(home) == 0 && there(away) > 250 * KIB as u64).then_some(())
    });
    move_to(&server, id, home);
    until_at(&server, id, home);
    send(home, 400);
    let long = bytes::Bytes::from(body(600));
    server
        .on(home, move |cx| cx.send_shared(id, &long))
        .unwrap();
    move_to(&server, id, away);
    for number in 0..=600 {
        assert!(read_frame(&mut client) == body(number), "{number}");
    }
    let stats = server.until_stats(|stats| stats.send_queue_bytes == 0);
    assert_eq!(stats.bytes_lost, 0);
    drop(client);
    server.until_stats(|stats| stats.connections == 0);
    server.end_clean();
}

#[test]
fn what_was_received_and_held_back_moves_along() {
    let heard: Arc<Mutex<Vec<u32>>> = Arc::default();
    let hears = Arc::clone(&heard);
    let behaviour = Behaviour::on_message(move |cx, from, message| {
        let (_, number) = parse(&message);
        hears.lock().unwrap().push(number);
        if number == 10 {
            cx.pause_reading(from);
        }
    });
    let server = serve(patient(), behaviour);
    let (mut client, id) = server.accept();
    let away = (id.shard() + 1) % SHARDS;
    let mut bytes: Vec<u8> = (0..100).flat_map(|n| frame(&numbered(0, n))).collect();
    // And the beginning of one more.
    let last = frame(&numbered(0, 100));
    bytes.extend(&last[..7]);
    client.write_all(&bytes).unwrap();
    eventually("ten messages", || {
        (heard.lock().unwrap().len() == 11).then_some(())
    });
    move_to(&server, id, away);
    until_at(&server, id, away);
    assert_eq!(heard.lock().unwrap().len(), 11, "it is still paused");
    assert!(server.on(away, move |cx| cx.resume_reading(id)));
    client.write_all(&last[7..]).unwrap();
    eventually("all messages", || {
        (heard.lock().unwrap().len() == 101).then_some(())
    });
    assert!(*heard.lock().unwrap() == (0..=100).collect::<Vec<_>>());
    drop(client);
    server.until_stats(|stats| stats.connections == 0 && stats.reassembly_bytes == 0);
    server.end_clean();
}

#[test]
fn a_half_closed_peer_is_told_once_wherever_it_moves() {
    let server = serve(patient(), Behaviour::echo().keep_half_open());
    let (mut client, id) = server.accept();
    client.shutdown(Shutdown::Write).unwrap();
    let told = || server.log.count(|seen| matches!(seen, Seen::ReadClosed(_)));
    eventually("on_read_closed", || (told() == 1).then_some(()));
    for step in [1, 2, 0] {
        let to = (id.shard() + step) % SHARDS;
        move_to(&server, id, to);
        until_at(&server, id, to);
        server
            .on(to, move |cx| cx.send(id, b"still sending"))
            .unwrap();
        assert_eq!(read_frame(&mut client), b"still sending");
    }
    server.handle.close(id).unwrap();
    assert_eq!(try_read_frame(&mut client).unwrap(), None);
    assert_eq!(server.log.until_closed(id).0, "peer_closed");
    assert_eq!(told(), 1);
    server.end_clean();
}

#[test]
fn peers_that_close_while_they_are_moved_end_once() {
    const ROUNDS: usize = 300;
    let server = serve(patient(), Behaviour::echo());
    let mut ids = Vec::new();
    let stop = Arc::new(AtomicBool::new(false));
    let moving: Arc<Mutex<Vec<RouterId>>> = Arc::default();
    let mover = {
        let (stop, moving, handle) = (
            Arc::clone(&stop),
            Arc::clone(&moving),
            server.handle.clone(),
        );
        std::thread::spawn(move || {
            let mut step = 0;
            while !stop.load(Ordering::Relaxed) {
                step += 1;
                // Locked only for this line: who waits for the lock might not get it for long.
                let ids = moving.lock().unwrap().clone();
                for id in ids {
                    for shard in 0..SHARDS {
                        on_shard(&handle, shard, move |cx| {
                            let _ = cx.rehome(id, (shard + step) % SHARDS);
                        });
                    }
                }
            }
        })
    };
    for round in 0..ROUNDS {
        let (mut client, id) = server.accept();
        *moving.lock().unwrap() = vec![id];
        ids.push(id);
        client.write_all(&frame(b"on the move")).unwrap();
        // Most are moving by then, and go on moving.
        let adopted = |seen: &Seen| matches!(seen, Seen::Adopted { id: moved, .. } if *moved == id);
        eventually("it moves", || {
            (server.log.count(adopted) >= round % 4).then_some(())
        });
        match round % 3 {
            0 => drop(client),
            1 => reset(client),
            _ => {
                // The mover keeps mailboxes full.
                server.handle.close_timeout(id, PATIENCE).unwrap();
                let mut byte = [0; 64];
                while matches!(std::io::Read::read(&mut client, &mut byte), Ok(n) if n > 0) {}
            }
        }
    }
    for id in &ids {
        server.log.until_closed(*id);
    }
    stop.store(true, Ordering::Relaxed);
    mover.join().unwrap();
    let stats = server.until_stats(|stats| stats.connections == 0);
    assert_eq!(stats.closes.iter().sum::<u64>(), ROUNDS as u64);
    assert_eq!(stats.adopted, stats.departed);
    assert_eq!((stats.send_queue_bytes, stats.reassembly_bytes), (0, 0));
    for id in ids {
        assert_eq!(server.log.disconnects(id), 1);
        for shard in 0..SHARDS {
            eventually("everybody has forgotten it", || {
                let there = server.on(shard, move |cx| {
                    cx.peer(id).is_some() || (shard == id.shard() && cx.send(id, b"").is_ok())
                });
                (!there).then_some(())
            });
        }
    }
    server.end_clean();
}

#[test]
fn a_connection_whose_messages_pile_up_between_shards_is_closed_not_thinned_out() {
    const ROOM: usize = 8;
    let server = serve(patient().mailbox_max(ROOM), Behaviour::echo());
    let (mut client, id) = server.accept();
    let home = id.shard();
    let away = (home + 1) % SHARDS;
    move_to(&server, id, away);
    until_at(&server, id, away);
    ask(&mut client, b"settled");
    let (release, released) = std::sync::mpsc::channel::<()>();
    let (begin, begun) = std::sync::mpsc::channel::<()>();
    let blocked = support::Job::new(move |_| {
        begin.send(()).unwrap();
        let _ = released.recv_timeout(PATIENCE);
    });
    server.handle.post(away, blocked).unwrap();
    // From here on it takes nothing.
    begun.recv_timeout(PATIENCE).unwrap();
    let (sent, error) = server.on(home, move |cx| {
        let mut sent = 0u32;
        loop {
            match cx.send(id, &numbered(0, sent)) {
                Ok(()) => sent += 1,
                Err(error) => return (sent, error),
            }
        }
    });
    assert_eq!(error, SendError::Full);
    assert!(sent as usize <= 4 * ROOM + 1, "{sent}");
    drop(release);
    assert_eq!(server.log.until_closed(id).0, "forward_overflow");
    // What arrives is the beginning of what was sent.
    let mut next = 0;
    while let Ok(Some(body)) = try_read_frame(&mut client) {
        assert_eq!(parse(&body), (0, next));
        next += 1;
    }
    assert!(next <= sent);
    server.until_stats(|stats| stats.connections == 0 && stats.closed("forward_overflow") == 1);
    server.end_clean();
}

#[test]
fn no_shard_takes_more_connections_than_it_may_and_no_place_is_lost() {
    const MAX: usize = 4;
    let builder = engine()
        .shards(SHARDS)
        .limits(patient().connections_max(MAX))
        .listen(loopback().balance(Balance::RoundRobin));
    let server = Server::start(builder, Behaviour::echo());
    let full = Err(SendError::Full);
    let rehome = |at: usize, id: RouterId, to: usize| {
        let moved = server.on(at, move |cx| cx.rehome(id, to));
        if moved.is_ok() {
            until_at(&server, id, to);
        }
        moved
    };
    // Twice, to find places that were not given back.
    for _ in 0..2 {
        // Three on each shard: one place is free.
        let mut clients = [(); 9].map(|()| server.accept());
        clients.sort_by_key(|(_, id)| id.shard());
        let on = |shard: usize, n: usize| clients[3 * shard + n].1;
        // All at once: one of them fits, whatever is on its way.
        let all = [on(0, 0), on(0, 1), on(0, 2)];
        let moved = server.on(0, move |cx| all.map(|id| cx.rehome(id, 1)));
        assert_eq!(moved, [Ok(()), full, full]);
        until_at(&server, all[0], 1);
        let count = |shard: usize| server.on(shard, |cx| cx.connections());
        eventually("2, 4, 3", || {
            ([count(0), count(1), count(2)] == [2, 4, 3]).then_some(())
        });
        // A guest that goes by the shard of its birth needs a place there too.
        assert_eq!(rehome(1, on(0, 0), 2), Ok(()));
        assert_eq!([count(0), count(1), count(2)], [2, 3, 4]);
        assert_eq!(rehome(0, on(0, 1), 2), full);
        assert_eq!(rehome(1, on(1, 0), 0), Ok(()));
        assert_eq!(rehome(1, on(1, 1), 0), Ok(()));
        assert_eq!([count(0), count(1), count(2)], [4, 1, 4]);
        assert_eq!(
            rehome(2, on(0, 0), 1),
            full,
            "there is none where it was born"
        );
        assert_eq!(rehome(2, on(2, 0), 1), Ok(()));
        // What was asked for last counts, and here means: nowhere.
        let id = on(2, 0);
        let last = server.on(1, move |cx| [2, 0, 2, 1].map(|to| cx.rehome(id, to)));
        assert_eq!(last, [Ok(()), full, Ok(()), Ok(())]);
        assert_eq!(rehome(1, on(2, 0), 1), Ok(()));
        // One that ends on its way gives its place back.
        let aborted = on(2, 1);
        server.on(2, move |cx| {
            cx.rehome(aborted, 1).unwrap();
            cx.abort(aborted);
        });
        for (client, id) in &mut clients {
            if *id != aborted {
                ask(client, b"still here");
            }
        }
        drop(clients);
        server.until_stats(|stats| stats.connections == 0 && stats.away == 0);
    }
    // Every shard can be full again, and no fuller.
    let clients = [(); SHARDS * MAX].map(|()| server.accept());
    let mut refused = server.connect();
    expect_end(&mut refused);
    server.until_stats(|stats| stats.connections == (SHARDS * MAX) as u64);
    drop((clients, refused));
    server.until_stats(|stats| stats.connections == 0);
    server.end_clean();
}

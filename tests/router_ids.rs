//! Ids: a stale one is `Gone`, even when its slot has another tenant; every end is told once.

mod support;

use std::io::Write;

use proscenium::{RouterId, SendError};
use support::{
    Behaviour, Seen, Server, ask, engine, expect_end, frame, loopback, patient, read_frame, reset,
};

/// `shard.slot.generation`, as an id prints.
fn parts(id: RouterId) -> [u64; 3] {
    let text = id.to_string();
    let parts: Vec<u64> = text.split('.').map(|part| part.parse().unwrap()).collect();
    parts.try_into().unwrap()
}

#[test]
fn a_stale_id_is_gone_although_its_slot_is_in_use_again() {
    let server = Server::with(patient(), loopback(), Behaviour::echo());
    let (first, old) = server.accept();
    drop(first);
    server.log.until_closed(old);
    let (mut second, new) = server.accept();
    assert_eq!(parts(old)[..2], parts(new)[..2], "the slot is used again");
    assert_ne!(old, new);
    let answers = server.on(0, move |cx| {
        let shared = bytes::Bytes::from_static(b"stale");
        cx.close(old);
        cx.abort(old);
        (
            cx.send(old, b"stale"),
            cx.send_with(old, 5, |_| unreachable!("never asked")),
            cx.send_shared(old, &shared),
            cx.queued_bytes(old),
            cx.pause_reading(old),
            cx.peer(old),
            cx.rehome(old, 0),
        )
    });
    let gone = SendError::Gone;
    assert_eq!(
        answers,
        (
            Err(gone),
            Err(gone),
            Err(gone),
            None,
            false,
            None,
            Err(gone)
        )
    );
    // By way of the mailbox it is found out later, and counted.
    server.handle.send(old, &b"stale"[..]).unwrap();
    server.handle.close(old).unwrap();
    server.until_stats(|stats| stats.sends_gone == 4);
    // The new tenant heard nothing of it.
    ask(&mut second, b"mine");
    assert_eq!(server.log.disconnects(new), 0);
    drop(second);
    server.end_clean();
}

#[test]
fn any_number_is_a_harmless_id() {
    let builder = engine().shards(2).listen(loopback());
    let server = Server::start(builder, Behaviour::echo());
    let (mut client, id) = server.accept();
    let raw = id.to_u64();
    let strange = [
        0,
        1,
        raw ^ 1,
        raw ^ 1 << 32,
        raw ^ 1 << 40,
        2 << 56,
        0xff << 56,
        u64::MAX,
    ];
    for number in strange.into_iter().filter(|number| *number != raw) {
        let id = RouterId::from_u64(number);
        assert_eq!(id.to_u64(), number);
        for shard in 0..2 {
            let sent = server.on(shard, move |cx| {
                cx.close(id);
                cx.send(id, b"nobody")
            });
            // To another shard that exists it is on its way; that shard will find nobody.
            let there = id.shard() < 2 && id.shard() != shard;
            assert_eq!(sent, if there { Ok(()) } else { Err(SendError::Gone) });
        }
        let sent = server.handle.send(id, &b"nobody"[..]);
        assert_eq!(sent.is_ok(), id.shard() < 2);
        assert_eq!(server.handle.close(id).is_ok(), id.shard() < 2);
    }
    assert!(server.handle.waker(2, 0).is_none());
    ask(&mut client, b"untouched");
    assert_eq!(server.log.disconnects(id), 0);
    drop(client);
    server.end_clean();
}

#[test]
fn every_end_is_told_exactly_once() {
    let limits = patient().frame_max(1000);
    let server = Server::with(
        limits,
        loopback(),
        Behaviour::on_message(|cx, from, message| {
            match message.bytes() {
                b"close" => cx.close(from),
                b"close twice" => {
                    cx.close(from);
                    cx.close(from);
                }
                b"abort" => cx.abort(from),
                b"close and abort" => {
                    let _ = cx.send(from, b"lost");
                    cx.close(from);
                    cx.abort(from);
                    cx.abort(from);
                }
                b"pause and close" => {
                    cx.pause_reading(from);
                    cx.close(from);
                }
                _ => {}
            }
            // Gone for sends at once, not only when the handler has returned.
            let left = cx.send(from, b"after");
            let ended = message.bytes() != b"stay";
            assert_eq!(left.is_err(), ended);
        }),
    );
    let mut ids = Vec::new();
    let local: [&[u8]; 5] = [
        b"close",
        b"close twice",
        b"abort",
        b"close and abort",
        b"pause and close",
    ];
    for wish in local {
        let (mut client, id) = server.accept();
        // What follows is not dispatched any more.
        client
            .write_all(&[frame(wish), frame(wish)].concat())
            .unwrap();
        expect_end(&mut client);
        drop(client);
        assert_eq!(server.log.until_closed(id).0, "local");
        ids.push(id);
    }
    for bad in [false, true] {
        let (mut client, id) = server.accept();
        if bad {
            client.write_all(&[0xff; 100]).unwrap();
        } else {
            client.write_all(&frame(b"stay")).unwrap();
            assert_eq!(read_frame(&mut client), b"after");
        }
        reset(client);
        assert!(["broken", "bad_frame"].contains(&server.log.until_closed(id).0));
        ids.push(id);
    }
    let stats = server.until_stats(|stats| stats.connections == 0);
    assert_eq!(stats.closes.iter().sum::<u64>(), ids.len() as u64);
    for id in ids {
        assert_eq!(server.log.disconnects(id), 1);
    }
    let ends = |seen: &Seen| matches!(seen, Seen::Disconnected { .. });
    assert_eq!(server.log.count(ends), 7);
    server.end_clean();
}

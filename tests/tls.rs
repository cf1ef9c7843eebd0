//! TLS over real sockets: what goes through, what is agreed on, how it ends.

mod support;
#[path = "support/tls.rs"]
mod tls;

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

use proscenium::{
    Address, Balance, Connector, Framing, HandshakeKind, Listener, Origin, RouterId, TlsVersion,
};
use support::{Behaviour, Seen, Server, engine, eventually, frame, loopback, patient, read_frame};
use tls::{Authority, Foreign, NAME, foreign};

#[test]
fn messages_of_any_length_go_both_ways() {
    let authority = Authority::new();
    let tls = authority.server().build().unwrap();
    let server = Server::with(patient(), loopback().tls(&tls), Behaviour::echo());
    let config = Arc::new(authority.foreign());
    let mut client = foreign(server.address(), &config, NAME);
    for length in [
        0,
        1,
        100,
        16_380,
        16_384,
        16_385,
        64 << 10,
        1 << 20,
        2 << 20,
    ] {
        let body: Vec<u8> = (0..length).map(|i| (i * 7 + i / 251) as u8).collect();
        let sent = frame(&body);
        client.write_all(&sent).unwrap();
        assert!(
            read_frame(&mut client) == body,
            "{length} bytes came back changed"
        );
    }
    let id = server.nth(0);
    let info = server.on(0, move |cx| cx.tls(id).cloned()).unwrap();
    assert_eq!(info.version, TlsVersion::Tls13);
    assert_eq!(info.kind, HandshakeKind::Full);
    assert_eq!(info.server_name.as_deref(), Some(NAME));
    assert_eq!((info.alpn, info.peer_certificates.len()), (None, 0));
    client.conn.send_close_notify();
    client.flush().unwrap();
    assert_eq!(
        support::read_some(&mut client, &mut [0; 1]).unwrap(),
        0,
        "an end as TLS wants it"
    );
    assert_eq!(server.log.until_closed(id).0, "peer_closed");
    server.end_clean();
}

#[test]
fn an_engine_connects_to_an_engine() {
    let authority = Authority::new();
    let tls = authority.server().build().unwrap();
    let server = Server::with(patient(), loopback().tls(&tls), Behaviour::echo());
    let client = Server::start(engine(), Behaviour::sink());
    let connector = Connector::to(server.address()).tls(&authority.client().build().unwrap());
    client.on(0, move |cx| cx.connect(&connector));
    let id = client.nth(0);
    client.on(0, move |cx| cx.send(id, &[7; 100_000])).unwrap();
    client.until_stats(|stats| stats.messages_in == 1);
    let info = client.on(0, move |cx| cx.tls(id).cloned()).unwrap();
    assert_eq!(info.peer_certificates.len(), 1);
    let peer = client.on(0, move |cx| cx.peer(id)).unwrap();
    assert!(matches!(peer.origin, Origin::Outgoing(_)));
    client.on(0, move |cx| cx.close(id));
    assert_eq!(client.log.until_closed(id).0, "local");
    let peer = server.nth(0);
    assert_eq!(server.log.until_closed(peer).0, "peer_closed");
    client.end_clean();
    server.end_clean();
}

/// A client that is through its handshake, and what the engine calls it.
fn come(server: &Server, authority: &Authority) -> (Foreign, RouterId) {
    let config = Arc::new(authority.foreign());
    let mut client = foreign(server.address(), &config, NAME);
    client.write_all(&frame(b"hello")).unwrap();
    assert_eq!(read_frame(&mut client), b"hello");
    let id = server.id_of(&client.sock);
    (client, id)
}

#[test]
fn a_close_sends_what_is_queued_and_then_the_end_of_tls() {
    let authority = Authority::new();
    let tls = authority.server().build().unwrap();
    let server = Server::with(patient(), loopback().tls(&tls), Behaviour::echo());
    let (mut client, id) = come(&server, &authority);
    server.on(0, move |cx| {
        cx.send(id, &[1; 300_000]).unwrap();
        cx.close(id);
    });
    assert_eq!(read_frame(&mut client), [1; 300_000]);
    // rustls tells an end without close_notify as an error.
    assert_eq!(support::read_some(&mut client, &mut [0; 1]).unwrap(), 0);
    drop(client);
    assert_eq!(server.log.until_closed(id).0, "local");
    // An abort says nothing.
    let (mut client, id) = come(&server, &authority);
    server.on(0, move |cx| cx.abort(id));
    assert!(support::read_some(&mut client, &mut [0; 1]).is_err());
    server.end_clean();
}

#[test]
fn whoever_has_ended_its_stream_still_gets_answers() {
    let authority = Authority::new();
    let tls = authority.server().build().unwrap();
    let behaviour = Behaviour::echo().keep_half_open();
    let server = Server::with(patient(), loopback().tls(&tls), behaviour);
    let (mut client, id) = come(&server, &authority);
    client.conn.send_close_notify();
    client.flush().unwrap();
    eventually("the end", || {
        server
            .log
            .find(|seen| matches!(seen, Seen::ReadClosed(_)).then_some(()))
    });
    server.on(0, move |cx| cx.send(id, b"late")).unwrap();
    assert_eq!(read_frame(&mut client), b"late");
    server.on(0, move |cx| cx.close(id));
    assert_eq!(support::read_some(&mut client, &mut [0; 1]).unwrap(), 0);
    assert_eq!(server.log.until_closed(id).0, "peer_closed");
    server.end_clean();
}

/// The end of the stream comes together with messages, and the handler pauses at the first.
#[test]
fn an_end_behind_messages_that_wait_is_told_after_them() {
    let authority = Authority::new();
    let tls = authority.server().build().unwrap();
    for framing in [Framing::Be32, Framing::Raw] {
        let behaviour = Behaviour::on_message(|cx, from, message| {
            // Without framing, a read is a message.
            if message.windows(4).any(|part| part == b"stop") {
                cx.pause_reading(from);
            }
            let _ = cx.send(from, &message);
        });
        let listener = loopback().framing(framing).tls(&tls);
        let server = Server::with(patient(), listener, behaviour);
        let (mut client, id) = come(&server, &authority);
        let mut batch = Vec::new();
        for text in [&b"stop"[..], b"one", b"two"] {
            client.conn.writer().write_all(&frame(text)).unwrap();
            if framing == Framing::Raw {
                // A record of its own.
                client.conn.write_tls(&mut batch).unwrap();
            }
        }
        client.conn.send_close_notify();
        while client.conn.wants_write() {
            client.conn.write_tls(&mut batch).unwrap();
        }
        client.sock.write_all(&batch).unwrap();
        assert_eq!(read_frame(&mut client), b"stop");
        let paused = server.on(0, move |cx| cx.resume_reading(id));
        assert!(paused);
        assert_eq!(read_frame(&mut client), b"one");
        assert_eq!(read_frame(&mut client), b"two");
        assert_eq!(support::read_some(&mut client, &mut [0; 1]).unwrap(), 0);
        assert_eq!(server.log.until_closed(id).0, "peer_closed");
        let ends = |seen: &Seen| matches!(seen, Seen::ReadClosed(_));
        assert_eq!(server.log.count(ends), 1);
        server.end_clean();
    }
}

#[test]
fn a_peer_that_does_not_read_is_not_read() {
    let authority = Authority::new();
    let tls = authority.server().build().unwrap();
    let limits = patient().send_low(10_000).send_high(50_000);
    let listener = loopback().socket_buffers(None, Some(64 << 10)).tls(&tls);
    let server = Server::with(limits, listener, Behaviour::echo());
    let (client, id) = come(&server, &authority);
    let Foreign { mut conn, mut sock } = client;
    let body = vec![3; 10_000];
    let message = frame(&body);
    // Until the server has paused us, and everything between is full.
    sock.set_nonblocking(true).unwrap();
    let (mut sent, mut rest) = (0u64, Vec::new());
    eventually("a pause", || {
        if rest.is_empty() {
            conn.writer().write_all(&message).unwrap();
            while conn.wants_write() {
                conn.write_tls(&mut rest).unwrap();
            }
            sent += 1;
        }
        let written = sock.write(&rest).unwrap_or(0);
        rest.drain(..written);
        (written == 0 && server.stats().pauses > 0).then_some(())
    });
    assert_eq!(
        server.on(0, move |cx| cx
            .queued_bytes(id)
            .map(|queued| queued > 50_000)),
        Some(true)
    );
    sock.set_nonblocking(false).unwrap();
    let mut writer = sock.try_clone().unwrap();
    let writing = std::thread::spawn(move || writer.write_all(&rest).unwrap());
    let mut client = Foreign { conn, sock };
    for _ in 0..sent {
        assert!(read_frame(&mut client) == body);
    }
    writing.join().unwrap();
    assert!(server.log.drained(id) > 0);
    server.until_stats(|stats| (stats.send_queue_bytes, stats.send_buffer_bytes) == (0, 0));
    drop(client);
    server.shutdown();
}

#[test]
fn incomplete_records_are_counted_and_bounded() {
    let authority = Authority::new();
    let tls = authority.server().build().unwrap();
    let limits = patient().frame_max(1000).reassembly_bytes_max(64 << 10);
    let server = Server::with(limits, loopback().tls(&tls), Behaviour::echo());
    let mut clients = Vec::new();
    for _ in 0..5 {
        let (mut client, id) = come(&server, &authority);
        let mut record = Vec::new();
        client
            .conn
            .writer()
            .write_all(&frame(&[1; 1000]).repeat(16))
            .unwrap();
        client.conn.write_tls(&mut record).unwrap();
        // All but its last byte: 16 KiB have to be held, in a buffer of 16 or 32.
        client.sock.write_all(&record[..record.len() - 1]).unwrap();
        clients.push((client, id, record.pop().unwrap()));
        server.until_stats(|stats| {
            stats.bytes_in > stats.messages_in * 1000 && stats.reassembly_bytes <= 64 << 10
        });
    }
    let (_, first, _) = &clients[0];
    assert_eq!(server.log.until_closed(*first).0, "reassembly_pressure");
    // The last one's record is there still.
    let (mut client, _, last) = clients.pop().unwrap();
    client.sock.write_all(&[last]).unwrap();
    for _ in 0..16 {
        assert_eq!(read_frame(&mut client), [1; 1000]);
    }
    drop((client, clients));
    let stats = server.until_stats(|stats| stats.connections == 0);
    assert_eq!((stats.reassembly_bytes, stats.send_buffer_bytes), (0, 0));
    server.shutdown();
}

#[test]
fn a_silent_connection_is_idle_under_tls_too() {
    let authority = Authority::new();
    let tls = authority.server().build().unwrap();
    let limits = patient().idle_timeout(Duration::from_millis(100));
    let server = Server::with(limits, loopback().tls(&tls), Behaviour::echo());
    let (_client, id) = come(&server, &authority);
    assert_eq!(server.log.until_closed(id).0, "idle_timeout");
    server.shutdown();
}

#[test]
fn a_connection_under_load_moves_with_its_keys() {
    let authority = Authority::new();
    let tls = authority.server().build().unwrap();
    let behaviour = Behaviour::on_message(|cx, from, message| {
        cx.forward(from, &message).unwrap();
        if cx.random() % 8 == 0 {
            let _ = cx.rehome(from, (cx.shard() + 1) % cx.shards()); // one may be under way
        }
    });
    let listener = loopback().balance(Balance::RoundRobin).tls(&tls);
    let builder = engine().shards(3).listen(listener);
    let server = Server::start(builder, behaviour);
    let config = Arc::new(authority.foreign());
    let address = server.address();
    let clients: Vec<_> = (0..3u32)
        .map(|number| {
            let config = Arc::clone(&config);
            std::thread::spawn(move || {
                let mut client = foreign(address, &config, NAME);
                for round in 0..60 {
                    let bodies: Vec<Vec<u8>> = (0..10u32)
                        .map(|n| {
                            let length = (round * 7919 + n * 104_729 + number) % 9000;
                            vec![(round + n) as u8; length as usize]
                        })
                        .collect();
                    let batch: Vec<u8> = bodies.iter().flat_map(|body| frame(body)).collect();
                    client.write_all(&batch).unwrap();
                    for body in bodies {
                        assert!(read_frame(&mut client) == body);
                    }
                }
                client.conn.send_close_notify();
                client.flush().unwrap();
                assert_eq!(support::read_some(&mut client, &mut [0; 1]).unwrap(), 0);
            })
        })
        .collect();
    for client in clients {
        client.join().unwrap();
    }
    let stats = server.until_stats(|stats| stats.connections == 0);
    assert!(stats.departed > 10, "{}", stats.departed);
    assert_eq!((stats.reassembly_bytes, stats.send_buffer_bytes), (0, 0));
    assert_eq!(stats.closed("peer_closed"), 3);
    server.end_clean();
}

#[test]
fn a_unix_socket_carries_tls() {
    let authority = Authority::new();
    let tls = authority.server().build().unwrap();
    let path = std::env::temp_dir().join(format!("proscenium-tls-{}.sock", std::process::id()));
    let server = Server::with(
        patient(),
        Listener::unix(&path).tls(&tls),
        Behaviour::echo(),
    );
    let client = Server::start(engine(), Behaviour::sink());
    let connector = Connector::to(Address::Unix(path)).tls(&authority.client().build().unwrap());
    client.on(0, move |cx| cx.connect(&connector));
    let id = client.nth(0);
    client.on(0, move |cx| cx.send(id, b"hello")).unwrap();
    client.until_stats(|stats| stats.messages_in == 1);
    client.shutdown();
    server.shutdown();
}

/// One write for many messages, one record for 16 KiB of them.
#[test]
fn a_flush_is_as_few_records_as_possible() {
    let authority = Authority::new();
    let tls = authority.server().build().unwrap();
    let server = Server::with(patient(), loopback().tls(&tls), Behaviour::sink());
    let config = Arc::new(authority.foreign());
    let mut client = foreign(server.address(), &config, NAME);
    client.write_all(&frame(b"hello")).unwrap();
    client.flush().unwrap();
    server.until_stats(|stats| stats.messages_in == 1);
    let id = server.id_of(&client.sock);
    server.on(0, move |cx| {
        for _ in 0..40 {
            cx.send(id, &[5; 1020]).unwrap();
        }
    });
    // 40 KiB: two full records and a half, read as they stand on the wire.
    let mut lengths = Vec::new();
    while lengths.iter().sum::<usize>() < 40 << 10 {
        let mut header = [0; 5];
        client.sock.read_exact(&mut header).unwrap();
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        std::io::copy(
            &mut (&client.sock).take(length as u64),
            &mut std::io::sink(),
        )
        .unwrap();
        // The tickets are records, too, far shorter ones.
        if length > 1000 {
            lengths.push(length - 17);
        }
    }
    assert_eq!(lengths, [16_384, 16_384, 8_192]);
    drop(client);
    server.shutdown();
}

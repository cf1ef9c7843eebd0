//! Hostile and broken TLS peers: each costs itself its connection, with a counted reason, and
//! nobody else anything.

mod support;
#[path = "support/tls.rs"]
mod tls;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use proscenium::{Backoff, Connector, Engine, Limits, RouterId, SendError};
use support::{
    Behaviour, Seen, Server, connect, eventually, expect_end, frame, loopback, read_frame, reset,
    tcp_address,
};
use tls::{Authority, Foreign, NAME, foreign};

/// Short, so that what a peer leaves open does not make the tests wait.
const LINGER: Duration = Duration::from_millis(50);

fn serve(authority: &Authority, limits: Limits) -> Server {
    let tls = authority.server().build().unwrap();
    let limits = limits.linger(LINGER);
    Server::with(limits, loopback().tls(&tls), Behaviour::echo())
}

/// A client that is through its handshake.
fn come(server: &Server, authority: &Authority) -> Foreign {
    let config = Arc::new(authority.foreign());
    let mut client = foreign(server.address(), &config, NAME);
    ask(&mut client);
    client
}

fn ask(client: &mut Foreign) {
    client.write_all(&frame(b"hello")).unwrap();
    assert_eq!(read_frame(client), b"hello");
}

fn announced(server: &Server) -> usize {
    server.log.connected().len()
}

/// A record as it stands on the wire.
fn record(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind, 3, 3];
    bytes.extend_from_slice(&u16::try_from(body.len()).unwrap().to_be_bytes());
    bytes.extend_from_slice(body);
    bytes
}

/// All bytes that come until the end.
fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes); // an end or a reset
    bytes
}

#[test]
fn garbage_instead_of_a_hello_costs_its_connection_alone() {
    let authority = Authority::new();
    let server = serve(&authority, Limits::default());
    let mut bystander = come(&server, &authority);
    let hello_of_nothing = record(22, &[1, 0, 0, 2, 3, 3]);
    let mut cases: Vec<Vec<u8>> = vec![
        b"GET / HTTP/1.1\r\nHost: stage.test\r\n\r\n".to_vec(),
        vec![0; 100],
        vec![0xff; 100_000],
        hello_of_nothing,
        record(22, &[0; 64]),
        record(23, &[7; 64]),
        record(21, &[2, 40]),
        record(20, &[2]),
        // Longer than any record may be.
        vec![22, 3, 1, 0x48, 0x01, 1, 0],
        // A hello that announces 16 MiB.
        record(22, &[1, 0xff, 0xff, 0xff, 3, 3]),
        // Nothing in it, again and again.
        record(22, &[]).repeat(1000),
    ];
    // Of any kind, and cut anywhere.
    let mut state = 1u64;
    for length in [6, 20, 300, 5000] {
        let noise = (0..length).map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 56) as u8
        });
        let noise: Vec<u8> = noise.collect();
        cases.push(record(22, &noise));
        cases.push(noise);
    }
    for (count, bytes) in cases.iter().enumerate() {
        let mut client = connect(server.address());
        // The server may have closed before it has read everything.
        let _ = client.write_all(bytes);
        let _ = client.shutdown(Shutdown::Write);
        let answer = rest(&mut client);
        let is_alert = answer.is_empty() || answer[0] == 21;
        assert!(is_alert, "case {count}: {answer:?}");
        server.until_stats(|stats| {
            let broken = stats.closed("broken"); // by its own reset
            stats.closed("handshake_failed") + broken == count as u64 + 1
        });
    }
    assert!(server.stats().closed("handshake_failed") > cases.len() as u64 / 2);
    assert_eq!(announced(&server), 1, "nobody else ever came through");
    ask(&mut bystander);
    let stats = server.until_stats(|stats| stats.connections == 1);
    assert_eq!((stats.reassembly_bytes, stats.send_buffer_bytes), (0, 0));
    server.shutdown();
}

#[test]
fn a_handshake_that_stalls_ends_at_its_deadline() {
    let authority = Authority::new();
    let tls = authority.server().build().unwrap();
    let limits = Limits::default().linger(LINGER);
    let limits = limits.handshake_timeout(Duration::from_millis(300));
    let builder = Engine::builder().limits(limits);
    let builder = builder.listen(loopback().tls(&tls)).listen(loopback());
    let server = Server::start(builder, Behaviour::echo());
    // Without a handshake, which would have to be in time on any machine.
    let mut bystander = connect(tcp_address(&server.engine.local_addrs()[1]));
    support::ask(&mut bystander, b"hello");
    // One says nothing, one begins a record, one begins a hello.
    let mut silent = connect(server.address());
    let mut begun = connect(server.address());
    begun.write_all(&[22, 3, 1, 2]).unwrap();
    let mut half = connect(server.address());
    half.write_all(&record(22, &[1, 0, 2, 0, 3, 3])).unwrap();
    server.until_stats(|stats| stats.closed("handshake_timeout") == 3);
    for stream in [&mut silent, &mut begun, &mut half] {
        expect_end(stream);
    }
    // One stops after its hello: it may have taken too long for that, and has to try again.
    let config = Arc::new(authority.foreign());
    let mut ended = 3;
    eventually("the server's flight", || {
        let mut hello = foreign(server.address(), &config, NAME);
        let said = hello.conn.write_tls(&mut hello.sock);
        ended += 1;
        server.until_stats(|stats| stats.closed("handshake_timeout") == ended);
        (said.is_ok() && !rest(&mut hello.sock).is_empty()).then_some(())
    });
    assert_eq!(announced(&server), 1);
    support::ask(&mut bystander, b"hello");
    let stats = server.until_stats(|stats| stats.connections == 1);
    assert_eq!((stats.reassembly_bytes, stats.send_buffer_bytes), (0, 0));
    server.shutdown();
}

#[test]
fn a_peer_that_gives_up_its_handshake_is_counted() {
    let authority = Authority::new();
    let server = serve(&authority, Limits::default());
    let mut closes = connect(server.address());
    closes.write_all(&[22, 3, 1]).unwrap();
    drop(closes);
    server.until_stats(|stats| stats.closed("handshake_failed") == 1);
    let resets = connect(server.address());
    server.until_stats(|stats| stats.accepted == 2);
    reset(resets);
    server.until_stats(|stats| stats.closed("broken") == 1);
    let stats = server.until_stats(|stats| stats.connections == 0);
    assert_eq!(stats.reassembly_bytes, 0);
    assert_eq!(announced(&server), 0);
    server.end_clean();
}

/// What is written past TLS after the handshake ends the connection for this reason.
#[track_caller]
fn breaks(bytes: &[u8], text: &str) {
    let authority = Authority::new();
    let server = serve(&authority, Limits::default());
    let mut bystander = come(&server, &authority);
    let mut client = come(&server, &authority);
    let id = server.id_of(&client.sock);
    client.sock.write_all(bytes).unwrap();
    let (reason, found) = server.log.until_closed(id);
    assert_eq!(reason, "tls");
    assert!(found.contains(text), "{found}");
    // The peer is told by an alert.
    let error = support::read_some(&mut client, &mut [0; 1])
        .unwrap_err()
        .to_string();
    assert!(error.contains("received fatal alert"), "{error}");
    ask(&mut bystander);
    server.until_stats(|stats| stats.connections == 1 && stats.reassembly_bytes == 0);
    server.shutdown();
}

#[test]
fn a_record_with_other_keys_ends_the_connection() {
    breaks(&record(23, &[7; 40]), "cannot be decrypted");
    breaks(&record(23, &[7; 3]), "cannot be decrypted");
}

#[test]
fn records_that_are_not_encrypted_end_the_connection() {
    breaks(&record(22, &[1, 0, 0, 0]), "cannot be decrypted");
    breaks(&record(21, &[1, 0]), "cannot be decrypted");
    breaks(&record(20, &[1]), "misbehaved");
    breaks(b"GET / HTTP/1.1\r\n", "TLS message");
}

#[test]
fn a_record_over_the_limit_ends_the_connection_by_its_header_alone() {
    breaks(&[23, 3, 3, 0x48, 0x01], "greatest length");
    breaks(&record(23, &[7; 16_384 + 257]), "cannot be decrypted"); // fits TLS 1.2
}

#[test]
fn a_stream_that_is_cut_off_is_no_ordinary_end() {
    let authority = Authority::new();
    let server = serve(&authority, Limits::default());
    let client = come(&server, &authority);
    let id = server.id_of(&client.sock);
    client.sock.shutdown(Shutdown::Write).unwrap();
    assert_eq!(server.log.until_closed(id).0, "tls_truncated");
    // In the middle of a record as well.
    let mut client = come(&server, &authority);
    let id = server.id_of(&client.sock);
    client.sock.write_all(&[23, 3, 3, 0, 100, 1, 2, 3]).unwrap();
    client.sock.shutdown(Shutdown::Write).unwrap();
    assert_eq!(server.log.until_closed(id).0, "tls_truncated");
    // With an end as TLS wants it, in the middle of a frame.
    let mut client = come(&server, &authority);
    let id = server.id_of(&client.sock);
    client.write_all(&[0, 0, 0, 9, 1]).unwrap();
    client.conn.send_close_notify();
    client.flush().unwrap();
    assert_eq!(server.log.until_closed(id).0, "peer_closed_mid_frame");
    // And with a reset.
    let client = come(&server, &authority);
    let id = server.id_of(&client.sock);
    reset(client.sock);
    assert_eq!(server.log.until_closed(id).0, "broken");
    let stats = server.until_stats(|stats| stats.connections == 0);
    assert_eq!((stats.reassembly_bytes, stats.send_buffer_bytes), (0, 0));
    server.end_clean();
}

#[test]
fn frames_over_the_limit_are_refused_inside_of_tls_too() {
    let authority = Authority::new();
    let server = serve(&authority, Limits::default().frame_max(1000));
    let mut client = come(&server, &authority);
    let id = server.id_of(&client.sock);
    // The one before it is still answered.
    let mut bytes = frame(b"last");
    bytes.extend_from_slice(&1001u32.to_be_bytes());
    client.write_all(&bytes).unwrap();
    assert_eq!(read_frame(&mut client), b"last");
    assert_eq!(
        support::read_some(&mut client, &mut [0; 1]).unwrap(),
        0,
        "a proper end"
    );
    assert_eq!(server.log.until_closed(id).0, "bad_frame");
    server.end_clean();
}

/// An attempt to connect fails with this text, and is tried again.
#[track_caller]
fn fails(answer: impl Fn(TcpStream) + Send + 'static, deadline: Duration, text: &str) {
    let authority = Authority::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let accepting = std::thread::spawn(move || {
        for _ in 0..2 {
            let (stream, _) = listener.accept().unwrap();
            answer(stream);
        }
    });
    let limits = Limits::default().linger(LINGER);
    let client = Server::start(Engine::builder().limits(limits), Behaviour::sink());
    let backoff = Backoff {
        first: Duration::from_millis(1),
        max: Duration::from_millis(2),
    };
    let connector = Connector::to(address)
        .tls(&authority.client().build().unwrap())
        .deadline(deadline)
        .reconnect(backoff);
    let connect = client.on(0, move |cx| cx.connect(&connector));
    let failures = || {
        let log = client.log.all().into_iter();
        let texts = log.filter_map(|seen| match seen {
            Seen::ConnectFailed { text, retry, .. } => Some((text, retry.is_some())),
            _ => None,
        });
        texts.collect::<Vec<_>>()
    };
    let found = eventually("two failures", || Some(failures()).filter(|f| f.len() >= 2));
    for (found, is_retried) in &found[..2] {
        assert!(found.contains(text) && *is_retried, "{found}");
    }
    client.on(0, move |cx| cx.cancel_connect(connect));
    accepting.join().unwrap();
    assert_eq!(announced(&client), 0);
    client.until_stats(|stats| stats.connections == 0 && stats.reassembly_bytes == 0);
    client.end_clean();
}

#[test]
fn an_attempt_whose_handshake_fails_is_an_attempt_that_failed() {
    let long = Duration::from_secs(60);
    fails(drop, long, "cannot connect");
    fails(
        |mut stream| {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
            rest(&mut stream);
        },
        long,
        "expected a TLS message",
    );
    fails(
        |mut stream| {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(&record(21, &[2, 40]));
            rest(&mut stream);
        },
        long,
        "alert 40",
    );
}

#[test]
fn the_deadline_of_an_attempt_covers_its_handshake() {
    fails(
        |mut stream| {
            rest(&mut stream); // and says nothing
        },
        Duration::from_millis(100),
        "within the deadline",
    );
}

#[test]
fn shutdown_ends_what_is_still_shaking_hands() {
    let authority = Authority::new();
    let server = serve(&authority, Limits::default());
    let mut waiting = connect(server.address());
    server.until_stats(|stats| stats.accepted == 1);
    let report = server.shutdown();
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.connections, 0, "it never was one");
    expect_end(&mut waiting);

    // One of ours that connects.
    let deaf = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let client = Server::start(Engine::builder(), Behaviour::sink());
    let connector = Connector::to(deaf.local_addr().unwrap());
    let connector = connector.tls(&authority.client().build().unwrap());
    client.on(0, move |cx| cx.connect(&connector));
    let (mut stream, _) = deaf.accept().unwrap();
    stream.read_exact(&mut [0; 5]).unwrap();
    let log = client.log.clone();
    client.end_clean();
    let told = log.find(|seen| match seen {
        Seen::ConnectFailed { text, .. } => Some(text.clone()),
        _ => None,
    });
    assert!(told.unwrap().contains("shutting down"));
}

#[test]
fn nobody_can_send_before_the_handshake_is_over() {
    let authority = Authority::new();
    let server = serve(&authority, Limits::default());
    let mut first = come(&server, &authority);
    let id = server.id_of(&first.sock);
    let waiting = connect(server.address());
    server.until_stats(|stats| stats.accepted == 2);
    // The slot and the generation after the first one's.
    let next = RouterId::from_u64(id.to_u64() + (1 << 32) + 1);
    let peer = server
        .on(0, move |cx| cx.peer(next))
        .expect("it has its place already");
    assert_eq!(peer.address, waiting.local_addr().ok());
    let sent = server.on(0, move |cx| cx.send(next, b"too early"));
    assert_eq!(sent, Err(SendError::Gone));
    assert_eq!(
        server.handle.send(next, b"too early".to_vec()),
        Ok(()),
        "counted where it lives"
    );
    server.until_stats(|stats| stats.sends_gone == 2);
    assert_eq!(server.on(0, move |cx| cx.queued_bytes(next)), None);
    assert_eq!(
        server.on(0, move |cx| cx.rehome(next, 0)),
        Err(SendError::Gone)
    );
    drop(waiting);
    ask(&mut first);
    server.shutdown();
}

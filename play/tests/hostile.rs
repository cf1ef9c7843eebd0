//! Clients that do not keep to the format, over real sockets: each costs itself its connection,
//! and nobody else anything.

mod support;

use std::time::Duration;

use proscenium_play::{PlayServer, PlayServerBuilder, PlayStats};
use support::hall::server;
use support::{AUTHENTICATE, Client, eventually, packet};

/// Waits until the server has counted.
#[track_caller]
fn counted(server: &PlayServer, what: &str, count: impl Fn(&PlayStats) -> u64) {
    eventually(what, || (count(&server.handle().stats()) > 0).then_some(()));
}

/// A body with its length in front.
fn framed(body: &[u8]) -> Vec<u8> {
    let mut bytes = (body.len() as i32).to_le_bytes().to_vec();
    bytes.extend_from_slice(body);
    bytes
}

/// Bodies that are no packets.
fn no_packets() -> Vec<Vec<u8>> {
    let whole = packet("Echo", 1, 1, b"")[4..].to_vec();
    let mut bodies: Vec<Vec<u8>> = (0..whole.len()).map(|n| whole[..n].to_vec()).collect();
    let mut bad_utf8 = whole.clone();
    bad_utf8[2] = 0xff;
    bodies.push(bad_utf8);
    let mut empty_id = whole.clone();
    empty_id[0] = 0;
    bodies.push(empty_id);
    let mut long_id = vec![129];
    long_id.extend_from_slice(&[b'x'; 200]);
    bodies.push(long_id);
    bodies.push(vec![0xff; 300]);
    bodies
}

#[test]
fn bytes_that_are_no_packet_close_the_connection_before_and_after_authentication() {
    let (server, _journal) = server(|builder| builder);
    let mut witness = Client::join(&server, 1, "witness");
    let bodies = no_packets();
    for body in &bodies {
        let mut stranger = Client::connect(&server);
        stranger.write(&framed(body));
        stranger.is_closed();
        let mut player = Client::join(&server, 1, "ann");
        player.write(&framed(body));
        player.is_closed();
    }
    let expected = 2 * bodies.len() as u64;
    assert_eq!(server.handle().stats().closed_bad_packet, expected);
    assert_eq!(witness.request("Echo", 2, "here").text(), "here");
}

#[test]
fn lengths_that_are_none_close_the_connection() {
    let (server, _journal) = server(|builder| builder);
    for length in [-1, i32::MIN, i32::MAX, 2 * 1024 * 1024 + 1] {
        let mut client = Client::connect(&server);
        client.write(&i32::to_le_bytes(length));
        client.is_closed();
        let mut client = Client::join(&server, 1, "ann");
        client.write(&i32::to_le_bytes(length));
        client.is_closed();
    }
    let mut zero = Client::connect(&server);
    zero.write(&[0; 4]);
    zero.is_closed();
    let stats = server.engine().handle().stats().total();
    assert_eq!(
        stats.reassembly_bytes, 0,
        "nothing is kept for what was announced"
    );
}

#[test]
fn chatter_before_authentication_closes_the_connection() {
    let (server, journal) = server(|builder| builder);
    for bytes in [
        packet("Echo", 1, 1, b"hi"),
        packet("Echo", 0, 1, b"hi"),
        packet("@Debug@", 1, 1, b""),
        packet("@Timeout@", 1, 1, b""),
        packet("authenticaterequest", 1, 1, b"ann"),
    ] {
        let mut client = Client::connect(&server);
        client.write(&bytes);
        client.is_closed();
    }
    assert_eq!(server.handle().stats().closed_chatter, 5);
    assert!(journal.all().is_empty(), "nobody was bothered");
}

#[test]
fn chatter_behind_a_failed_authentication_closes_the_connection() {
    let (server, _journal) = server(|builder| builder);
    let mut client = Client::connect(&server);
    let mut bytes = packet(AUTHENTICATE, 1, 1, b"ann:wrong");
    bytes.extend(packet("Echo", 2, 1, b"hi"));
    client.write(&bytes);
    assert_eq!(client.receive().error, 5);
    client.is_closed();
    assert_eq!(server.handle().stats().closed_chatter, 1);
}

#[test]
fn a_long_authentication_closes_the_connection_before_it_is_kept() {
    let (server, journal) = server(|builder| builder.authentication_bytes_max(2048));
    let head = packet(AUTHENTICATE, 1, 1, b"").len() - 4;
    let payload = |len: usize| {
        let mut payload = b"ann:".to_vec();
        payload.resize(len - head, b'x');
        payload
    };
    let mut client = Client::connect(&server);
    client.write(&packet(AUTHENTICATE, 1, 1, &payload(2049)));
    client.is_closed();
    assert_eq!(server.handle().stats().closed_long_authentication, 1);
    assert!(journal.all().is_empty(), "nobody was bothered");
    let mut client = Client::connect(&server);
    client.write(&packet(AUTHENTICATE, 1, 1, &payload(2048)));
    assert_eq!(client.receive().error, 0);
    client.stage = 1;
    let long = client.request("Echo", 2, vec![b'x'; 4096]);
    assert_eq!(long.payload.len(), 4096, "only that of authentication");
}

#[test]
fn who_does_not_authenticate_in_time_is_closed() {
    let deadline = Duration::from_millis(30);
    let (server, _journal) = server(|builder| builder.authentication_deadline(deadline));
    let mut silent = Client::connect(&server);
    let mut half = Client::connect(&server);
    half.write(&packet(AUTHENTICATE, 1, 1, b"ann")[..9]);
    let mut beating = Client::connect(&server);
    beating.write(&packet("@Heart@Beat@", 1, 1, b""));
    silent.is_closed();
    half.is_closed();
    while let Some(answer) = beating.read().unwrap() {
        assert_eq!(answer.msg_id, "@Heart@Beat@");
    }
    eventually("all are counted", || {
        (server.handle().stats().closed_deadline == 3).then_some(())
    });
}

#[test]
fn rates_are_bounded() {
    let (server, _journal) = server(|builder| builder.messages_per_second(1000));
    let mut client = Client::join(&server, 1, "ann");
    let mut bytes = Vec::new();
    for n in 0..10_000_u16 {
        bytes.extend(packet("Note", 0, 1, &n.to_le_bytes()));
    }
    // Faster than any clock: ten times what is allowed, at once.
    let _ = std::io::Write::write_all(&mut client.stream, &bytes);
    while let Ok(Some(_)) = client.read() {}
    counted(&server, "closed", |stats| stats.closed_rate);
    drop(server);

    let (server, _journal) = self::server(|builder| {
        builder
            .limits(|limits| limits.frame_max(64 * 1024))
            .bytes_per_second(128 * 1024)
    });
    let mut client = Client::join(&server, 1, "ann");
    let big = packet("Note", 0, 1, &[b'x'; 60 * 1024]);
    let _ = std::io::Write::write_all(&mut client.stream, &big.repeat(40));
    while let Ok(Some(_)) = client.read() {}
    counted(&server, "closed", |stats| stats.closed_rate);
}

#[test]
fn options_that_contradict_each_other_are_refused() {
    let refused = |change: fn(PlayServerBuilder) -> PlayServerBuilder| {
        let journal = support::hall::Journal::default();
        let builder = PlayServer::builder().stage(support::hall::halls("hall", &journal));
        change(builder).start().unwrap_err().to_string()
    };
    assert!(refused(|b| b.default_stage("castle")).contains("\"castle\" is not registered"));
    assert!(refused(|b| b.authentication("")).contains("authenticates"));
    assert!(refused(|b| b.authentication("@Heart@Beat@")).contains("authenticates"));
    assert!(refused(|b| b.idle_timeout(Duration::ZERO)).contains("idle timeout"));
    assert!(refused(|b| b.bytes_per_second(1)).contains("1 bytes per second"));
    assert!(refused(|b| b.shards(0)).contains("at least 1 shard"));
    let journal = support::hall::Journal::default();
    let twice = PlayServer::builder()
        .stage(support::hall::halls("hall", &journal))
        .stage(support::hall::halls("hall", &journal));
    let error = twice.start().unwrap_err().to_string();
    assert!(error.contains("registered twice"), "{error}");
}

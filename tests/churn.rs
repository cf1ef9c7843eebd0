//! Connections that come and go by the ten thousands leave nothing behind.

mod support;
#[cfg(feature = "tls")]
#[path = "support/tls.rs"]
mod tls;

use std::io::Write;
use std::sync::Mutex;

use support::{
    Behaviour, Server, ask, connect, engine, frame, loopback, patient, reset, resident_bytes,
};
#[cfg(feature = "tls")]
use {std::sync::Arc, std::time::Duration, support::read_frame};

/// Resident memory is the whole process's: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

#[test]
fn connects_and_disconnects_leave_nothing_behind() {
    let _alone = ALONE.lock().unwrap();
    let rounds: u64 = if support::run_all() { 100_000 } else { 20_000 };
    let limits = patient().idle_timeout(support::PATIENCE * 100);
    let server = Server::with(limits, loopback(), Behaviour::echo());
    let mut early = 0;
    for round in 0..rounds {
        let mut client = connect(server.address());
        match round % 10 {
            // In the middle of a frame, with a reply under way, and after a reply.
            0 => client.write_all(&frame(&[1; 3000])[..1500]).unwrap(),
            1 => client.write_all(&frame(&[1; 300])).unwrap(),
            2 => ask(&mut client, &[2; 3000]),
            _ => {}
        }
        // A reset spares the client's port the wait that follows a close.
        reset(client);
        if round == rounds / 10 {
            server.until_stats(|stats| stats.accepted + 1000 > round);
            early = resident_bytes();
        }
    }
    let stats = server.until_stats(|stats| stats.accepted == rounds && stats.connections == 0);
    assert_eq!(
        stats.closes.iter().sum::<u64>(),
        stats.accepted - stats.accept_failed
    );
    assert_eq!(
        (stats.send_queue_bytes, stats.reassembly_bytes, stats.timers),
        (0, 0, 0)
    );
    // The log of this test itself holds about 200 bytes per connection.
    let grown = resident_bytes().saturating_sub(early);
    assert!(grown < rounds * 400 + (8 << 20), "grown by {grown} bytes");
    ask(&mut server.connect(), b"and still");
    server.until_stats(|stats| stats.connections == 0);
    server.end_clean();
}

#[test]
fn many_moves_leave_nothing_behind() {
    const MOVES: usize = 10_000;
    const SHARDS: usize = 3;
    let _alone = ALONE.lock().unwrap();
    let behaviour = Behaviour::on_message(|cx, from, message| {
        cx.send(from, &message).unwrap();
        cx.rehome(from, (cx.shard() + 1) % SHARDS).unwrap();
    });
    let builder = engine().shards(SHARDS).listen(loopback());
    let server = Server::start(builder, behaviour);
    let (mut client, id) = server.accept();
    let mut early = 0;
    for number in 0..MOVES {
        ask(&mut client, &(number as u64).to_be_bytes());
        if number == MOVES / 10 {
            early = resident_bytes();
        }
    }
    // The log of this test itself grows by a few words per move.
    let grown = resident_bytes().saturating_sub(early);
    assert!(grown < 16 << 20, "{grown} bytes");
    let stats =
        server.until_stats(|stats| stats.connections == 1 && stats.adopted == stats.departed);
    assert!(stats.adopted as usize >= MOVES);
    assert_eq!((stats.timers, stats.send_queue_bytes), (0, 0));
    drop(client);
    assert_eq!(server.log.until_closed(id).0, "peer_closed");
    server.end_clean();
}

#[cfg(feature = "tls")]
#[test]
fn tls_connections_that_come_and_go_in_any_state_leave_nothing_behind() {
    let _alone = ALONE.lock().unwrap();
    let rounds: u64 = if support::run_all() { 5000 } else { 500 };
    let authority = tls::Authority::new();
    let end = authority.server().build().unwrap();
    let limits = patient().linger(Duration::from_millis(50));
    let server = Server::with(limits, loopback().tls(&end), Behaviour::echo());
    let config = Arc::new(authority.foreign());
    let ask = |client: &mut tls::Foreign| {
        client.write_all(&frame(b"hello")).unwrap();
        assert_eq!(read_frame(client), b"hello");
    };
    let mut early = 0;
    for round in 0..rounds {
        let mut client = tls::foreign(server.address(), &config, tls::NAME);
        match round % 5 {
            // Before, within and after the handshake; in the middle of a record; and properly.
            0 => {}
            1 => {
                client.conn.write_tls(&mut client.sock).unwrap();
            }
            2 => ask(&mut client),
            3 => {
                ask(&mut client);
                client.sock.write_all(&[23, 3, 3, 64, 0, 1]).unwrap();
            }
            _ => {
                ask(&mut client);
                client.conn.send_close_notify();
                client.flush().unwrap();
                assert_eq!(support::read_some(&mut client, &mut [0; 1]).unwrap(), 0);
            }
        }
        // A reset spares the client's port the wait that follows a close.
        reset(client.sock);
        if round == rounds / 5 {
            server.until_stats(|stats| stats.connections == 0);
            early = resident_bytes();
        }
    }
    let stats = server.until_stats(|stats| stats.accepted == rounds && stats.connections == 0);
    assert_eq!(
        stats.closes.iter().sum::<u64>(),
        rounds - stats.accept_failed
    );
    assert_eq!(
        (
            stats.send_buffer_bytes,
            stats.reassembly_bytes,
            stats.timers
        ),
        (0, 0, 0)
    );
    // The log of this test itself holds some of it.
    let grown = resident_bytes().saturating_sub(early);
    assert!(grown < rounds * 1000 + (8 << 20), "grown by {grown} bytes");
    server.end_clean();
}

//! Clients that connect, authenticate and go, thousands of times and over every transport: nothing
//! of them stays. Alone in its process, whose memory it looks at.
#![cfg(all(target_os = "linux", feature = "tls", feature = "ws"))]

#[path = "support/layers.rs"]
mod layers;
#[path = "support/room.rs"]
mod room;
mod support;

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use layers::{Identity, TRANSPORTS, trusting};
use proscenium_connector::Connector;
use proscenium_play::PlayServer;
use support::{AUTH, PATIENCE};

/// Accounts, whose actors wait for them in between.
const ACCOUNTS: usize = 7;

fn visit(server: &PlayServer, identity: &Identity, round: usize) {
    let transport = round % TRANSPORTS.len();
    let address = room::address(server, transport);
    let builder = Connector::builder("127.0.0.1", address.port())
        .connect_timeout(PATIENCE)
        .request_timeout(PATIENCE);
    let connector = trusting(builder, TRANSPORTS[transport], identity).build();
    let connector = connector.expect("a connector");
    connector.connect().wait().expect("connected");
    let account = format!("player {}", round / TRANSPORTS.len() % ACCOUNTS);
    let answer = connector.authenticate(1, AUTH, account.as_bytes()).wait();
    answer.expect("authenticated");
    match round % 3 {
        // In the middle of something, after an answer, and at once.
        0 => connector.send(1, "PushMe", b"").expect("sent"),
        1 => drop(connector.request(1, "Echo", &[7; 5000]).wait()),
        _ => {}
    }
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").expect("descriptors").count()
}

/// Resident memory of this process, in bytes.
fn resident() -> usize {
    let text = fs::read_to_string("/proc/self/statm").expect("its memory");
    let pages = text
        .split_whitespace()
        .nth(1)
        .and_then(|n| n.parse::<usize>().ok());
    pages.expect("a number") * 4096
}

/// Waits until all connections have ended.
fn quiet(server: &PlayServer) {
    let begin = Instant::now();
    while server.engine().handle().stats().total().connections > 0 {
        assert!(begin.elapsed() < PATIENCE, "they stay");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn thousands_of_visits_leave_nothing_behind() {
    let all = std::env::var_os("PROSCENIUM_ALL").is_some_and(|value| value == "1");
    let rounds = if all { 20_000 } else { 2_000 };
    let identity = Identity::new();
    let server = room::start(&identity);
    // Keeps the thread of all connectors from ending with each.
    let keeper = Connector::builder("127.0.0.1", 1).build().expect("one");
    let (mut early, mut open) = (0, 0);
    for round in 0..rounds {
        visit(&server, &identity, round);
        if round == rounds / 4 {
            quiet(&server);
            (early, open) = (resident(), descriptors());
        }
    }
    quiet(&server);
    let stats = server.engine().handle().stats().total();
    assert_eq!(stats.accepted, rounds as u64);
    assert_eq!((stats.send_buffer_bytes, stats.reassembly_bytes), (0, 0));
    let stats = server.handle().stats();
    assert_eq!((stats.stages, stats.actors), (1, ACCOUNTS as u64));
    assert_eq!(stats.joins + stats.reconnects, rounds as u64);
    assert_eq!(descriptors(), open);
    // A kilobyte for each visit would be 1.5 MB here and 15 MB in the long run.
    let grown = resident().saturating_sub(early);
    let most = if all { 8 << 20 } else { 4 << 20 };
    assert!(grown < most, "grown by {grown} bytes in {rounds} visits");
    drop(keeper);
    server.shutdown(PATIENCE);
}

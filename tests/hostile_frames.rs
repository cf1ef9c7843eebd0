//! Memory under hostile frames: many peers that each hold an incomplete frame of the greatest
//! size cost no more than the limit for incomplete frames; the oldest are closed, others served.

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use proscenium::ShardStats;
use support::{Behaviour, Seen, Server, ask, connect, eventually, loopback, patient};

const KIB: usize = 1024;
const FRAME_MAX: usize = 2 << 20;
const BODY_SENT: usize = 20_000;
/// What a tail of 20 to 32 KiB leases: the next power of two.
const LEASED: usize = 32 * KIB;
/// Connections per client process: an ordinary limit of descriptors is enough.
const PER_PROCESS: usize = 2_500;

/// Begins a frame of the greatest size and sends a part of it.
fn begin_frame(stream: &mut TcpStream) {
    let mut bytes = (FRAME_MAX as u32).to_be_bytes().to_vec();
    bytes.resize(4 + BODY_SENT, 0);
    // The server may have closed an older one meanwhile, not this one.
    stream.write_all(&bytes).unwrap();
}

/// The part of the next test that runs as another process, so that both sides stay below their
/// limits of descriptors: holds so many connections until its standard input ends.
fn hold_incomplete_frames(peers: usize) {
    let address = std::env::var("PROSCENIUM_TARGET").unwrap().parse().unwrap();
    let mut streams: Vec<TcpStream> = Vec::new();
    for _ in 0..peers {
        let mut stream = connect(address);
        begin_frame(&mut stream);
        streams.push(stream);
    }
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

struct Peers(Child);

impl Peers {
    fn spawn(server: &Server, count: usize) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", INCOMPLETE_FRAMES])
            .env("PROSCENIUM_PEERS", count.to_string())
            .env("PROSCENIUM_TARGET", server.address().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }

    fn finish(mut self) {
        drop(self.0.stdin.take());
        assert!(self.0.wait().unwrap().success());
    }
}

/// The name of the next test.
const INCOMPLETE_FRAMES: &str =
    "incomplete_frames_cost_no_more_than_the_limit_and_the_oldest_goes_first";

#[test]
fn incomplete_frames_cost_no_more_than_the_limit_and_the_oldest_goes_first() {
    if let Ok(peers) = std::env::var("PROSCENIUM_PEERS") {
        return hold_incomplete_frames(peers.parse().unwrap());
    }
    let peers = if support::run_all() { 10_000 } else { 2_000 };
    let room = peers / 4;
    let limit = room * LEASED;
    let limits = patient().frame_max(FRAME_MAX).reassembly_bytes_max(limit);
    let server = Server::with(limits, loopback(), Behaviour::echo());
    let (mut served, _) = server.accept();
    ask(&mut served, b"before");

    let within = |stats: &ShardStats| assert!(stats.reassembly_bytes <= limit as u64);
    let mut holders = Vec::new();
    let mut left = peers;
    while left > 0 {
        let some = left.min(PER_PROCESS);
        holders.push(Peers::spawn(&server, some));
        left -= some;
    }
    // Everybody holds a part, as much as fits; meanwhile a peer that behaves is served.
    let stats = server.until_stats(|stats| {
        within(stats);
        ask(&mut served, &[9; 3 * KIB]);
        let closed = stats.closed("reassembly_pressure");
        stats.accepted == peers as u64 + 1
            && stats.connections + closed == stats.accepted
            && closed >= (peers - room) as u64
    });
    within(&stats);
    let reasons: u64 = stats.closes.iter().sum();
    assert_eq!(reasons, stats.closed("reassembly_pressure"));

    for holder in holders {
        holder.finish();
    }
    let stats = server.until_stats(|stats| stats.connections == 1);
    assert_eq!(stats.reassembly_bytes, 0);
    assert_eq!(
        stats.closed("reassembly_pressure")
            + stats.closed("peer_closed_mid_frame")
            + stats.closed("broken"),
        peers as u64
    );
    ask(&mut served, b"after");
    drop(served);
    server.end_clean();
}

#[test]
fn the_order_of_closing_is_the_order_of_beginning() {
    let limits = patient()
        .frame_max(30 * KIB)
        .reassembly_bytes_max(4 * LEASED);
    let server = Server::with(limits, loopback(), Behaviour::echo());
    let mut sent = 0;
    let mut send = |stream: &mut TcpStream, bytes: &[u8]| {
        stream.write_all(bytes).unwrap();
        sent += bytes.len() as u64;
        server.until_stats(|stats| stats.bytes_in == sent)
    };
    let mut part = (30 * KIB as u32).to_be_bytes().to_vec();
    part.resize(20 * KIB, 1);
    let rest = vec![1; 10 * KIB + 4];
    let mut peers: Vec<_> = (0..4).map(|_| server.accept()).collect();
    for (stream, _) in &mut peers {
        send(stream, &part);
    }
    assert_eq!(server.stats().reassembly_bytes, 4 * LEASED as u64);
    // The first one finishes its frame and begins another: now it is the newest.
    send(&mut peers[0].0, &rest);
    assert_eq!(support::read_frame(&mut peers[0].0).len(), 30 * KIB);
    send(&mut peers[0].0, &part);
    // The third one adds to its frame, which makes it no younger.
    send(&mut peers[2].0, &[1; KIB]);
    let mut more: Vec<_> = (0..4).map(|_| server.accept()).collect();
    for ((stream, _), victim) in more.iter_mut().zip([1, 2, 3, 0]) {
        send(stream, &part);
        let (reason, text) = server.log.until_closed(peers[victim].1);
        assert_eq!(reason, "reassembly_pressure");
        assert!(text.contains("oldest"), "{text}");
    }
    assert_eq!(
        server
            .log
            .count(|seen| matches!(seen, Seen::Disconnected { .. })),
        4
    );
    // Those that were spared can finish.
    for (stream, _) in &mut more {
        send(stream, &rest);
        assert_eq!(support::read_frame(stream).len(), 30 * KIB);
    }
    eventually("no memory is held", || {
        (server.stats().reassembly_bytes == 0).then_some(())
    });
    drop((peers, more));
    server.end_clean();
}

#[test]
fn an_idle_connection_holds_no_memory_and_an_announced_length_costs_nothing() {
    let limits = patient().frame_max(FRAME_MAX);
    let server = Server::with(limits, loopback(), Behaviour::echo());
    let mut peers: Vec<_> = (0..100).map(|_| server.accept().0).collect();
    for stream in &mut peers {
        ask(stream, &[3; 10_000]);
    }
    let stats = server.until_stats(|stats| stats.messages_in == 100);
    assert_eq!((stats.reassembly_bytes, stats.send_queue_bytes), (0, 0));
    // A header that announces 2 MiB, and nothing more: the smallest buffer, 4 KiB, each.
    for stream in &mut peers {
        stream.write_all(&(FRAME_MAX as u32).to_be_bytes()).unwrap();
    }
    let stats = server.until_stats(|stats| stats.reassembly_bytes >= 100 * 4 * KIB as u64);
    assert_eq!(stats.reassembly_bytes, 100 * 4 * KIB as u64);
    drop(peers);
    server.until_stats(|stats| stats.connections == 0 && stats.reassembly_bytes == 0);
    server.end_clean();
}

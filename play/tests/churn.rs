//! Thousands of clients that come, authenticate and go: nothing of them stays.

#[path = "../../tests/support/counting.rs"]
mod counting;
mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use counting::{Counting, held};
use proscenium_play::{
    Actor, ActorCx, Member, Packet, PlayListener, PlayParts, PlayServer, PlayStage, Result,
    StageCx, StageKind, Verdict,
};
use support::{AUTHENTICATE, PATIENCE, packet, run_all, tcp};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Players and rooms that are there.
static PLAYERS: AtomicI64 = AtomicI64::new(0);
static ROOMS: AtomicI64 = AtomicI64::new(0);

struct Player;

impl Drop for Player {
    fn drop(&mut self) {
        PLAYERS.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Actor for Player {
    async fn on_authenticate(
        &mut self,
        cx: &mut ActorCx<'_>,
        packet: Packet<'_>,
    ) -> Result<Verdict> {
        let name = std::str::from_utf8(packet.payload())?;
        cx.set_account_id(name);
        Ok(if name.starts_with("bad") {
            Verdict::refuse()
        } else {
            Verdict::accept()
        })
    }
}

struct Room;

impl Drop for Room {
    fn drop(&mut self) {
        ROOMS.fetch_sub(1, Ordering::Relaxed);
    }
}

impl PlayStage for Room {
    type Actor = Player;

    async fn on_dispatch(
        &mut self,
        cx: &mut StageCx<'_, Self>,
        _actor: &mut Member<'_, Player>,
        _packet: Packet<'_>,
    ) -> Result {
        cx.reply("Reply", ())?;
        Ok(())
    }
}

/// One client: comes, authenticates, mostly says something, and goes in one of several ways.
fn visit(address: std::net::SocketAddr, n: u64) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // Eight rooms of their own in turn, and one for all.
    let stage = if n.is_multiple_of(3) {
        0
    } else {
        1 + (n % 8) as i64
    };
    let name = match n % 5 {
        0 => format!("bad {n}"),
        1 => "the same again".to_owned(),
        _ => n.to_string(),
    };
    let mut bytes = packet(AUTHENTICATE, 1, stage, name.as_bytes());
    if !n.is_multiple_of(5) {
        bytes.extend(packet("Play", 2, stage, b"x"));
    }
    stream.write_all(&bytes).unwrap();
    if !n.is_multiple_of(7) {
        let mut header = [0; 4];
        let _ = stream.read_exact(&mut header); // or it was taken over already
    }
}

#[test]
fn thousands_of_clients_leave_nothing_behind() {
    let rounds = if run_all() { 40 } else { 8 };
    let of_a_round = 500;
    let rooms = StageKind::new(
        "room",
        |_| {
            ROOMS.fetch_add(1, Ordering::Relaxed);
            Room
        },
        || {
            PLAYERS.fetch_add(1, Ordering::Relaxed);
            Player
        },
    )
    .keep_disconnected(Duration::ZERO)
    .close_when_empty(Duration::from_millis(1));
    let PlayParts {
        engine,
        handle,
        shards,
        ..
    } = PlayServer::builder()
        .stage(rooms)
        .default_stage("room")
        .authentication_deadline(Duration::from_secs(3600))
        .listen(PlayListener::tcp("127.0.0.1:0").unwrap())
        .into_parts()
        .unwrap();
    let mut shard = engine.host(shards.shard(0)).unwrap();
    let address = tcp(&shard.local_addrs()[0]);
    let mut after_round = Vec::new();
    for round in 0..rounds {
        let first = round * of_a_round;
        let visits = std::thread::spawn(move || {
            (first..first + of_a_round).for_each(|n| visit(address, n));
        });
        while !visits.is_finished() {
            shard.turn(Duration::from_millis(10)).unwrap();
        }
        visits.join().unwrap();
        let quiet = |shard: &proscenium_engine::Shard<_>| {
            let connections = shard.handle().stats().total().connections;
            let left = (
                PLAYERS.load(Ordering::Relaxed),
                ROOMS.load(Ordering::Relaxed),
            );
            connections == 0 && left == (0, 0)
        };
        let began = std::time::Instant::now();
        while !quiet(&shard) {
            assert!(began.elapsed() < PATIENCE, "they stay");
            shard.turn(Duration::from_millis(10)).unwrap();
        }
        after_round.push(held());
    }
    let stats = handle.stats();
    assert_eq!((stats.stages, stats.actors), (0, 0));
    assert!(stats.joins > 0 && stats.authentications_refused > 0);
    // Pools are as large as they get after a few rounds; what grows by the visit is not.
    let (early, late) = (
        after_round[rounds as usize / 2],
        *after_round.last().unwrap(),
    );
    assert!(
        late - early < 64 * 1024,
        "held after each round: {after_round:?}"
    );
}

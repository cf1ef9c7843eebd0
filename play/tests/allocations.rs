//! No heap allocation per message: counted on the shard's thread, from the socket through
//! `on_dispatch` and back.

#[path = "../../tests/support/counting.rs"]
mod counting;
mod support;

use std::io::{BufReader, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use counting::{Counting, counted};
use proscenium_play::{
    Actor, ActorCx, Member, Packet, PlayListener, PlayParts, PlayServer, PlayStage, Result,
    StageCx, StageKind, Verdict,
};
use support::{AUTHENTICATE, connect, packet, tcp};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const MESSAGES: u64 = 50_000;
const IN_FLIGHT: usize = 30;
const CLIENTS: usize = 4;

struct Player;

impl Actor for Player {
    async fn on_authenticate(
        &mut self,
        cx: &mut ActorCx<'_>,
        packet: Packet<'_>,
    ) -> Result<Verdict> {
        cx.set_account_id(std::str::from_utf8(packet.payload())?);
        Ok(Verdict::accept())
    }
}

struct Counter {
    count: Arc<AtomicU64>,
    yields: bool,
}

impl PlayStage for Counter {
    type Actor = Player;

    async fn on_dispatch(
        &mut self,
        cx: &mut StageCx<'_, Self>,
        actor: &mut Member<'_, Player>,
        packet: Packet<'_>,
    ) -> Result {
        if self.yields {
            let mut yielded = false;
            std::future::poll_fn(|task| {
                if std::mem::replace(&mut yielded, true) {
                    return std::task::Poll::Ready(());
                }
                task.waker().wake_by_ref();
                std::task::Poll::Pending
            })
            .await;
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        if packet.is_request() {
            cx.reply(packet.msg_id(), packet.payload())?;
        } else {
            let _ = cx.send(actor.id(), "Pushed", packet.payload());
        }
        Ok(())
    }
}

/// Sends batches of requests and messages, each when the last one has been answered, until the
/// server closes.
fn client(address: SocketAddr, stage: i64, account: &str) {
    let mut stream = connect(address);
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut read = || {
        let mut header = [0; 4];
        reader.read_exact(&mut header)?;
        let mut body = vec![0; i32::from_le_bytes(header) as usize];
        reader.read_exact(&mut body)
    };
    stream
        .write_all(&packet(AUTHENTICATE, 1, stage, account.as_bytes()))
        .unwrap();
    read().unwrap();
    let lengths = [0, 1, 64, 1000, 1024, 4000];
    let batch: Vec<u8> = (0..IN_FLIGHT)
        .flat_map(|n| {
            let seq = if n % 4 == 3 { 0 } else { n as u16 + 1 };
            packet(
                "Play",
                seq,
                stage,
                &vec![n as u8; lengths[n % lengths.len()]],
            )
        })
        .collect();
    while stream.write_all(&batch).is_ok() {
        for _ in 0..IN_FLIGHT {
            if read().is_err() {
                return;
            }
        }
    }
}

fn measure(yields: bool, one_stage: bool) -> u64 {
    let count = Arc::new(AtomicU64::new(0));
    let of_stages = Arc::clone(&count);
    let counters = StageKind::new(
        "counter",
        move |_| Counter {
            count: Arc::clone(&of_stages),
            yields,
        },
        || Player,
    );
    let PlayParts { engine, shards, .. } = PlayServer::builder()
        .stage(counters)
        .default_stage("counter")
        .listen(PlayListener::tcp("127.0.0.1:0").unwrap())
        .into_parts()
        .unwrap();
    let mut shard = engine.host(shards.shard(0)).unwrap();
    let address = tcp(&shard.local_addrs()[0]);
    let clients: Vec<_> = (0..CLIENTS)
        .map(|n| {
            let stage = if one_stage { 1 } else { n as i64 };
            std::thread::spawn(move || client(address, stage, &n.to_string()))
        })
        .collect();
    let (handled, allocations) = counted(MESSAGES, |messages| {
        while count.load(Ordering::Relaxed) < messages {
            shard.turn(Duration::from_millis(100)).unwrap();
        }
        count.load(Ordering::Relaxed)
    });
    assert!(handled >= MESSAGES);
    shard.handle().shutdown(Duration::from_millis(10));
    while shard.stopped().is_none() {
        shard.turn(Duration::from_millis(10)).unwrap();
    }
    drop(shard);
    for client in clients {
        client.join().unwrap();
    }
    allocations
}

#[test]
fn dispatch_and_reply_allocate_nothing() {
    for (yields, one_stage) in [(false, false), (false, true), (true, false), (true, true)] {
        let allocations = measure(yields, one_stage);
        assert_eq!(allocations, 0, "yields: {yields}, one stage: {one_stage}");
    }
}

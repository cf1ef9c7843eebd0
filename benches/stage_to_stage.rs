//! Stage to stage over two Play servers in this process, each with one shard and one link: how many
//! requests of 64 bytes a second, with a window of 1,000 stages that each ask again when they are
//! answered. `cargo bench --bench stage_to_stage -- [SECONDS] [WINDOW]`.
#![allow(clippy::print_stdout, reason = "its output is its purpose")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use proscenium::nodelink::{Endpoint, Nid, Node, NodeOptions};
use proscenium::play::{
    Content, Failure, Packet, PlayServer, PlayStage, Result, StageCx, StageKind,
};

#[derive(Default)]
struct Board {
    answered: AtomicU64,
    stop: AtomicBool,
}

struct Asker {
    id: i64,
    board: Arc<Board>,
}

impl PlayStage for Asker {
    type Actor = ();

    async fn on_dispatch_server(
        &mut self,
        cx: &mut StageCx<'_, Self>,
        packet: Packet<'_>,
    ) -> Result {
        match packet.msg_id() {
            "Echo" => cx.reply("EchoReply", packet.payload())?,
            "Begin" => {
                let payload = [7_u8; 64];
                while !self.board.stop.load(Ordering::Relaxed) {
                    let echoed = cx
                        .request_to_stage(("two", self.id), "Echo", payload)
                        .await?;
                    assert_eq!(echoed.payload.len(), payload.len());
                    self.board.answered.fetch_add(1, Ordering::Relaxed);
                }
            }
            _ => return Err(Failure::code(12)),
        }
        Ok(())
    }
}

fn server(nid: &str, to: Option<&PlayServer>, board: &Arc<Board>) -> PlayServer {
    let board = Arc::clone(board);
    let make = move |id| Asker {
        id,
        board: Arc::clone(&board),
    };
    let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    let mut node = Node::builder(NodeOptions::new(Nid::new(nid).expect("a name"))).bind(any);
    if let Some(to) = to {
        node = node.connect(Endpoint::new(to.node_addrs()[0].clone()));
    }
    let server = PlayServer::builder().stage(StageKind::new("asker", make, || ()));
    server.node(node).start().expect("a server")
}

fn main() {
    let numbers: Vec<u64> = std::env::args()
        .filter_map(|arg| arg.parse().ok())
        .collect();
    // As criterion's benches: only whether it runs.
    let is_test = std::env::args().any(|arg| arg == "--test");
    let seconds = numbers
        .first()
        .copied()
        .unwrap_or(if is_test { 0 } else { 3 });
    let window = numbers.get(1).copied().unwrap_or(1000) as i64;
    let board = Arc::new(Board::default());
    let one = server("one", None, &board);
    let two = server("two", Some(&one), &board);
    let patience = Duration::from_secs(60);
    for server in [&one, &two] {
        for id in 0..window {
            let made = server
                .handle()
                .create_stage("asker", id, Content::default());
            assert!(made.wait(patience).is_ok_and(|made| made.is_new));
        }
    }
    let node = one.handle().node().cloned().expect("a node");
    assert!(node.wait_routable("two", patience));
    for id in 0..window {
        one.handle().send_to_stage(id, "Begin", ()).expect("room");
    }
    std::thread::sleep(Duration::from_millis(500));
    let (began, before) = (Instant::now(), board.answered.load(Ordering::Relaxed));
    std::thread::sleep(Duration::from_secs(seconds));
    let answered = board.answered.load(Ordering::Relaxed) - before;
    let rate = answered as f64 / began.elapsed().as_secs_f64();
    board.stop.store(true, Ordering::Relaxed);
    let stats = one.handle().stats();
    println!(
        "stage to stage, window {window}: {rate:.0} requests/s, failed {}",
        stats.node_failures
    );
    println!("{}", one.shutdown(patience));
    println!("{}", two.shutdown(patience));
}

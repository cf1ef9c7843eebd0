//! Play servers of a mesh are replaced, one after the other, while their stages are asked.

mod support;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use proscenium_nodelink::directory::{ServerInfo, ServerType, StaticDirectory};
use proscenium_nodelink::routing::RoundRobin;
use proscenium_nodelink::{
    Membership, Node, NodeContext, NodeHandle, NodeHandler, NodeMessage, RequestError,
    RequestOptions, RouteHeader,
};
use proscenium_play::PlayServer;
use support::mesh::{create, node_of, options, server_at};
use support::{PATIENCE, eventually};

const SERVICE: u16 = 1;
const STAGES: i64 = 4;
/// So many ask at the same time.
const THREADS: u64 = 2;
const RESTARTS: u64 = 3;

struct Silent;

impl NodeHandler<()> for Silent {
    fn on_message(&mut self, _: &mut NodeContext<'_, '_, ()>, _: NodeMessage<'_>) {}
}

/// A server with its stages, which has joined.
fn start(number: u64, list: &StaticDirectory) -> (PlayServer, Membership) {
    let (server, _) = server_at(&format!("play-{number}"), &[], |builder| builder);
    create(&server, 1..=STAGES);
    let (node, address) = (node_of(&server), server.node_addrs()[0].clone());
    let info = ServerInfo::new(node.nid().clone(), address, ServerType::Play, SERVICE);
    let membership = node.join(list.clone(), info, Duration::from_secs(15));
    (server, membership.unwrap())
}

/// Asks stages until `over`; how many were answered, and how many had another end.
fn ask(node: &NodeHandle, over: &AtomicBool, answered: &AtomicU64) -> (u64, u64) {
    let mut turns = RoundRobin::default();
    let (mut answers, mut others, mut number) = (0, 0, 0);
    while !over.load(Ordering::Relaxed) {
        let candidates = node.candidates(SERVICE);
        let Some(server) = turns.pick(&candidates) else {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        };
        number += 1;
        let header = RouteHeader {
            msg_id: "Echo",
            stage_id: 1 + number % STAGES,
            ..RouteHeader::default()
        };
        let options = RequestOptions::within(PATIENCE);
        let asked = node.request(&server.nid, &header, number.to_string(), options);
        match asked.wait() {
            Ok(reply) if reply.error_code == 0 => {
                assert_eq!(&reply.payload[..], number.to_string().as_bytes());
                answers += 1;
                answered.fetch_add(1, Ordering::Relaxed);
            }
            // Told, one way or the other.
            Ok(_) | Err(RequestError::Send(_) | RequestError::LinkLost) => others += 1,
            Err(other) => panic!("request {number}: {other}"),
        }
    }
    (answers, others)
}

#[test]
fn a_rolling_restart_of_play_servers_loses_no_request_silently() {
    let list = StaticDirectory::default();
    let client = Node::builder(options("api-1")).start(Silent).unwrap();
    let handle = client.handle();
    let _watch = handle.follow(&list).unwrap();
    let (over, answered) = (AtomicBool::new(false), AtomicU64::new(0));
    let ends: Vec<(u64, u64)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|_| scope.spawn(|| ask(&handle, &over, &answered)))
            .collect();
        let (mut serving, mut membership) = start(0, &list);
        for number in 1..=RESTARTS {
            let (next, joined) = start(number, &list);
            eventually("the new one is asked", || {
                (next.handle().stats().node_received > 0).then_some(())
            });
            let before = answered.load(Ordering::Relaxed);
            eventually("both work", || {
                (answered.load(Ordering::Relaxed) > before + 50).then_some(())
            });
            let departure = membership.leave(PATIENCE);
            assert!(departure.is_clean(), "{departure}");
            let report = serving.shutdown(PATIENCE);
            // Connections may be closed by the other end at the same time.
            let lost = [report.bytes_lost, report.work_lost, report.mailbox_lost];
            assert_eq!(lost, [0; 3], "{report}");
            (serving, membership) = (next, joined);
        }
        over.store(true, Ordering::Relaxed);
        let ends = threads.into_iter().map(|thread| thread.join().unwrap());
        ends.collect()
    });
    let sum = |of: fn(&(u64, u64)) -> u64| ends.iter().map(of).sum::<u64>();
    let (answers, others) = (sum(|one| one.0), sum(|one| one.1));
    // Each thread may have chosen a server just before that said it leaves, and asked it after it
    // had left.
    assert!(
        others <= THREADS * RESTARTS,
        "{others} besides {answers} answers"
    );
}

//! What the tests of nodes on real sockets share.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "every test binary uses a part of it"
)]

pub mod raw_peer;
pub mod rolling;
#[path = "../../../tests/support/signal.rs"]
pub mod signal;

use std::net::SocketAddr;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use proscenium_nodelink::{
    Endpoint, Nid, Node, NodeBuilder, NodeContext, NodeHandle, NodeHandler, NodeMessage,
    NodeOptions, RouteHeader,
};

/// Longer than anything takes, also on a slow and loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `condition` holds.
#[track_caller]
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < until, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[track_caller]
pub fn wait_routable(from: &NodeHandle, to: &str) {
    let reached = from.wait_routable(to, PATIENCE);
    assert!(reached, "{} does not reach {to}", from.nid());
}

pub fn any() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// Patient: nothing ends by itself, however long a machine has other things to do.
pub fn options(nid: &str) -> NodeOptions {
    NodeOptions::new(Nid::new(nid).unwrap())
        .handshake_deadline(PATIENCE)
        .dead_after(PATIENCE)
        .request_deadline(PATIENCE)
}

pub fn header(msg_id: &str) -> RouteHeader<'_> {
    RouteHeader {
        msg_id,
        ..RouteHeader::default()
    }
}

/// A node that listens and answers.
pub fn echo(nid: &str) -> Node {
    Node::builder(options(nid))
        .bind(any())
        .start(Echo::default())
        .unwrap()
}

pub fn at(node: &Node) -> Endpoint {
    Endpoint::new(node.local_addrs()[0].clone())
}

pub fn dialler(nid: &str, to: &Node) -> NodeBuilder {
    Node::builder(options(nid)).connect(at(to))
}

/// What an [`Echo`] saw: sender, message id, payload.
pub type Seen = (String, String, Vec<u8>);

/// Answers requests with their payload. `Fail` is answered with error 1234, `Keep` with nothing;
/// sends are passed on to the test.
#[derive(Default)]
pub struct Echo {
    pub seen: Option<Sender<Seen>>,
}

impl<P> NodeHandler<P> for Echo {
    fn on_message(&mut self, cx: &mut NodeContext<'_, '_, P>, message: NodeMessage<'_>) {
        let NodeMessage {
            from,
            header,
            payload,
            reply_to,
            ..
        } = message;
        if let Some(seen) = &self.seen {
            let id = header.msg_id.to_owned();
            let _ = seen.send((from.to_string(), id, payload.to_vec()));
        }
        let Some(reply_to) = reply_to else { return };
        if header.msg_id == "Keep" {
            return;
        }
        let error_code = if header.msg_id == "Fail" { 1234 } else { 0 };
        let header = RouteHeader {
            error_code,
            ..super::support::header(header.msg_id)
        };
        let _ = cx.reply(reply_to, &header, payload);
    }
}

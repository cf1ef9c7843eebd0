//! What the tests of servers in a mesh share: nodes on loopback, and one that plays a server by a
//! script.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "every test binary uses a part of it"
)]

use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use proscenium_nodelink::{
    Endpoint, Nid, Node, NodeContext, NodeHandle, NodeHandler, NodeMessage, NodeOptions,
    RouteHeader,
};
use proscenium_play::api::{ApiServer, ApiServerBuilder};

/// How long anything may take before a test fails. No test passes or fails by being fast.
pub const PATIENCE: Duration = Duration::from_secs(60);

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

/// An API server that listens.
pub fn api(nid: &str) -> ApiServerBuilder {
    ApiServer::builder(options(nid)).bind(any())
}

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

/// A message as the scripted server saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub from: String,
    pub msg_id: String,
    pub service_id: u32,
    pub stage_id: i64,
    pub is_system: bool,
    pub is_request: bool,
    /// Stages of the chain: node and stage.
    pub chain: Vec<(String, i64)>,
    pub payload: Vec<u8>,
}

/// Error code, message id and payload of an answer; `None`: none is given.
pub type Script = dyn Fn(&Seen) -> Option<(u32, String, Vec<u8>)> + Send;

struct Scripted {
    script: Box<Script>,
    seen: Sender<Seen>,
}

impl NodeHandler<()> for Scripted {
    fn on_message(&mut self, cx: &mut NodeContext<'_, '_, ()>, message: NodeMessage<'_>) {
        let header = message.header;
        let seen = Seen {
            from: message.from.to_string(),
            msg_id: header.msg_id.to_owned(),
            service_id: header.service_id,
            stage_id: header.stage_id,
            is_system: header.is_system,
            is_request: message.reply_to.is_some(),
            chain: header
                .chain
                .iter()
                .map(|entry| (entry.nid.to_owned(), entry.stage))
                .collect(),
            payload: message.payload.to_vec(),
        };
        let answer = (self.script)(&seen);
        let _ = self.seen.send(seen);
        if let (Some((error_code, msg_id, payload)), Some(reply_to)) = (answer, message.reply_to) {
            let header = RouteHeader {
                error_code,
                msg_id: &msg_id,
                ..RouteHeader::default()
            };
            cx.reply(reply_to, &header, &payload).unwrap();
        }
    }
}

/// A node that answers as the script says, linked to that server.
pub fn scripted(
    nid: &str,
    server: &ApiServer,
    script: impl Fn(&Seen) -> Option<(u32, String, Vec<u8>)> + Send + 'static,
) -> (Node, Receiver<Seen>) {
    let (seen, arrived) = channel();
    let script = Box::new(script);
    let node = Node::builder(options(nid))
        .connect(Endpoint::new(server.local_addrs()[0].clone()))
        .start(Scripted { script, seen })
        .unwrap();
    wait_routable(server.sender().node(), nid);
    wait_routable(&node.handle(), server.node().nid());
    (node, arrived)
}

/// One that answers nothing: for asking.
pub fn asker(nid: &str, server: &ApiServer) -> Node {
    scripted(nid, server, |_| None).0
}

/// What a server answers: error code, message id, payload.
pub fn ask(node: &Node, to: &str, msg_id: &str, payload: &str) -> (u32, String, String) {
    let header = RouteHeader {
        msg_id,
        ..RouteHeader::default()
    };
    let options = proscenium_nodelink::RequestOptions::within(PATIENCE);
    let reply = node
        .handle()
        .request(to, &header, payload.to_owned(), options);
    let reply = reply.wait().unwrap();
    let payload = String::from_utf8(reply.payload.to_vec()).unwrap();
    (reply.error_code, reply.msg_id, payload)
}

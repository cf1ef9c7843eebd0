//! A node that another one asks: every request is answered with its payload.

use proscenium::framing::zmtp::{FrameHeader, Handshake, Limits, Null, Properties};
use proscenium::nodelink::{
    Nid, NodeContext, NodeHandler, NodeLink, NodeMessage, NodeOptions, RouteHeader,
};
use proscenium::{Context, Handler, Message, Origin, Peer, RouterId};

struct Echo;

impl NodeHandler<()> for Echo {
    #[inline]
    fn on_message(&mut self, cx: &mut NodeContext<'_, '_, ()>, message: NodeMessage<'_>) {
        let reply_to = message.reply_to.expect("a request");
        let header = RouteHeader {
            msg_id: "Echo",
            ..RouteHeader::default()
        };
        cx.reply(reply_to, &header, message.payload)
            .expect("the queue has room");
    }
}

/// The handler of a shard whose connections are links of the node, as if it had accepted them.
pub(crate) struct AskedNode(NodeLink);

impl AskedNode {
    pub(crate) fn new() -> Self {
        let nid = Nid::new("echo").expect("a name");
        Self(NodeLink::new(NodeOptions::new(nid), &[0]))
    }
}

impl Handler for AskedNode {
    type Post = ();

    fn on_start(&mut self, cx: &mut Context<'_, ()>) {
        self.0.on_start(cx);
    }

    fn on_connect(&mut self, cx: &mut Context<'_, ()>, id: RouterId, peer: &Peer) {
        let mut peer = *peer;
        peer.origin = Origin::Accepted { listener: 0 };
        assert!(self.0.on_connect(cx, id, &peer));
    }

    #[inline]
    fn on_message(&mut self, cx: &mut Context<'_, ()>, from: RouterId, message: Message<'_>) {
        assert!(self.0.on_message(cx, &mut Echo, from, &message));
    }
}

/// What a node says that asks: greeting and handshake, then requests of `size` bytes on the wire,
/// `bytes` of them at least.
pub(crate) fn asking(size: usize, bytes: usize) -> Vec<u8> {
    let mut out = introduction();
    let mut number = 0;
    while out.len() < bytes {
        number = number % 60_000 + 1;
        let lead = lead(number, 0).len();
        let rest = size - 2 * FrameHeader::message(size, true).encoded_len() - lead;
        let head = self::lead(number, rest);
        // The header's length is that of the payload's, too.
        let rest = rest + lead - head.len();
        let head = self::lead(number, rest);
        out.extend_from_slice(FrameHeader::message(head.len(), true).encode().as_slice());
        out.extend_from_slice(&head);
        out.extend_from_slice(FrameHeader::message(rest, false).encode().as_slice());
        out.resize(out.len() + rest, 7);
    }
    out
}

fn lead(number: u32, payload: usize) -> Vec<u8> {
    let header = RouteHeader {
        msg_seq: number,
        msg_id: "Echo",
        from: "asker",
        payload_size: payload as u32,
        ..RouteHeader::default()
    };
    let mut bytes = vec![0; header.encoded_len()];
    header.encode(&mut bytes).expect("there is room");
    bytes
}

/// The bytes of one end of a handshake.
fn introduction() -> Vec<u8> {
    let end = |nid: &str| {
        let mut own = Properties::new();
        own.push("Socket-Type", b"ROUTER")
            .push("Identity", nid.as_bytes());
        let mut out = Vec::new();
        (Handshake::new(Null, own, Limits::default(), &mut out), out)
    };
    let (mut asker, mut said) = end("asker");
    let (mut other, mut heard) = end("other");
    let (mut read, mut answered) = (0, 0);
    for _ in 0..4 {
        let (used, _) = other
            .receive(&said[read..], &mut heard)
            .expect("a handshake");
        read += used;
        let (used, _) = asker
            .receive(&heard[answered..], &mut said)
            .expect("a handshake");
        answered += used;
    }
    said
}

//! Replies have room of their own in the queue of a link; who asks is told if even that is full.

mod support;

use std::sync::mpsc::{Receiver, Sender, channel};

use proscenium_nodelink::{
    Endpoint, LinkEnd, Node, NodeContext, NodeHandle, NodeHandler, NodeMessage, NotReplied,
    PeerCounters, ReplyTo, SendError,
};
use support::raw_peer::{Got, Hand, RawPeer, dial, dialled, ended, quiet, request_header};
use support::{PATIENCE, any, header, wait_routable, wait_until};

/// A peer with two links, what it is sent being held back: until `release`, all of it waits.
struct Held {
    old: RawPeer,
    new: RawPeer,
    context: Vec<u8>,
}

impl Held {
    fn new(node: &Node) -> Self {
        let handle = node.handle();
        let mut old = dial(node, "peer", Some(1));
        wait_routable(&handle, "peer");
        handle.send("peer", &header("1"), "1").unwrap();
        assert_eq!(old.message(), (0, false));
        let new = dialled(node, "peer", Some(1));
        let Got::Ping(context) = old.next() else {
            panic!("no PING behind the last message");
        };
        Self { old, new, context }
    }

    /// Sends it as much as it may be sent; says how many messages that were.
    fn fill(&self, handle: &NodeHandle) -> usize {
        let mut sent = 0;
        while handle.send("peer", &header("x"), vec![0; 100]).is_ok() {
            // The shard has begun it, so that the next one is judged by the queue alone.
            handle.stats(PATIENCE).unwrap();
            sent += 1;
        }
        sent
    }

    fn ask(&mut self, numbers: std::ops::Range<u32>) {
        for seq in numbers {
            self.old.send(&request_header(seq), b"");
        }
    }

    /// The next reply: its number, its code and the length of its payload.
    fn reply(&mut self) -> (u32, u32, usize) {
        loop {
            match self.new.next() {
                Got::Message {
                    seq,
                    is_reply: true,
                    error,
                    payload,
                } => return (seq, error, payload.len()),
                Got::Message { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

fn counters(node: &NodeHandle) -> PeerCounters {
    node.stats(PATIENCE).unwrap().peer("peer").unwrap().counters
}

const REPLY: usize = 1000;

/// As many requests as were asked.
fn requests_of(requests: &Receiver<ReplyTo>, numbers: std::ops::Range<u32>) -> Vec<ReplyTo> {
    numbers
        .map(|_| requests.recv_timeout(PATIENCE).unwrap())
        .collect()
}

fn reply_to_all(handle: &NodeHandle, requests: Vec<ReplyTo>) {
    for to in requests {
        handle.reply(to, &header("Reply"), vec![1; REPLY]).unwrap();
    }
}

/// A node for [`Held`]: it takes 4 KiB of sends, then 12 KiB of replies, then 4 KiB of excuses.
fn held() -> (Node, Held, Receiver<ReplyTo>) {
    let (hand, requests) = channel();
    let small = quiet().queue_bytes_max(4096).reply_bytes_max(16 << 10);
    let node = Node::builder(small).bind(any()).start(Hand(hand)).unwrap();
    let held = Held::new(&node);
    (node, held, requests)
}

#[test]
fn replies_need_no_room_among_what_is_sent() {
    let (node, mut peer, requests) = held();
    let handle = node.handle();
    let sent = peer.fill(&handle);
    assert!(sent > 10, "{sent} messages fill 4 KiB");
    peer.ask(1..4);
    reply_to_all(&handle, requests_of(&requests, 1..4));
    let full = handle.send("peer", &header("x"), vec![0; 100]);
    assert_eq!(
        full,
        Err(SendError::Full),
        "what replies may take is theirs"
    );
    peer.old.pong(&peer.context);
    for seq in 1..4 {
        assert_eq!(peer.reply(), (seq, 0, REPLY));
    }
    assert_eq!(counters(&handle).replies_replaced, 0);
}

#[test]
fn who_asks_is_told_that_there_is_no_room_for_its_reply() {
    let (node, mut peer, requests) = held();
    let handle = node.handle();
    peer.ask(1..31);
    let accepted = requests_of(&requests, 1..31);
    peer.fill(&handle);
    reply_to_all(&handle, accepted);
    wait_until("they are begun", || counters(&handle).replies_replaced > 0);
    // What comes now is not accepted.
    peer.ask(31..41);
    wait_until("they are refused", || {
        counters(&handle).requests_refused == 10
    });
    assert!(requests.try_recv().is_err());
    peer.old.pong(&peer.context);
    let replies: Vec<_> = (1..41).map(|_| peer.reply()).collect();
    let whole = replies.iter().filter(|reply| reply.2 == REPLY).count();
    assert!((9..13).contains(&whole), "{whole} replies in 12 KiB");
    for (at, reply) in replies.iter().enumerate() {
        let as_it_is = if at < whole { (0, REPLY) } else { (14, 0) };
        assert_eq!(*reply, (at as u32 + 1, as_it_is.0, as_it_is.1));
    }
    let told = counters(&handle);
    assert_eq!(told.replies_replaced as usize, 40 - whole);
    let stats = handle.stats(PATIENCE).unwrap();
    assert_eq!(
        (
            stats.peer("peer").unwrap().unanswered,
            stats.replies_refused
        ),
        (0, 0)
    );
    // All is as before.
    peer.ask(50..51);
    reply_to_all(&handle, requests_of(&requests, 50..51));
    assert_eq!(peer.reply(), (50, 0, REPLY));
}

#[test]
fn a_peer_that_asks_on_and_reads_nothing_loses_the_link_it_asks_by() {
    use std::io::Write;
    let (node, mut peer, requests) = held();
    let handle = node.handle();
    peer.ask(1..21);
    let accepted = requests_of(&requests, 1..21);
    peer.fill(&handle);
    reply_to_all(&handle, accepted);
    wait_until("it is full", || counters(&handle).replies_replaced > 0);
    // 4 KiB of refusals are fewer than these.
    let mut bytes = Vec::new();
    for seq in 100..1100 {
        let header = request_header(seq);
        let at = bytes.len() + 2;
        bytes.extend_from_slice(&[1, header.encoded_len() as u8]);
        bytes.resize(at + header.encoded_len(), 0);
        header.encode(&mut bytes[at..]).unwrap();
        bytes.extend_from_slice(&[0, 0]);
    }
    let _ = peer.old.stream.write_all(&bytes); // the link may end in between
    wait_until("it is closed", || ended(&handle, LinkEnd::Overflow) == 1);
    let refused = counters(&handle).requests_refused;
    assert!((50..1000).contains(&refused), "{refused} refusals in 4 KiB");
    assert!(requests.try_recv().is_err());
    // The other link has what there was room for.
    for seq in 1..21 {
        assert_eq!(peer.reply().0, seq);
    }
}

#[test]
fn a_reply_that_is_too_long_is_one_all_the_same() {
    let (node, mut peer, requests) = held();
    let handle = node.handle();
    peer.old.pong(&peer.context);
    peer.ask(1..2);
    let to = requests.recv_timeout(PATIENCE).unwrap();
    let refused = handle.reply(to, &header("Reply"), vec![0; (16 << 20) + 1]);
    let NotReplied { error, to } = refused.unwrap_err();
    assert!(matches!(error, SendError::TooLong { .. }), "{error}");
    // Of the handler itself, who asked is told.
    handle.reply(to, &header("Reply"), "short").unwrap();
    assert_eq!(peer.reply(), (1, 0, 5));
    let node = Node::builder(quiet()).bind(any()).start(TooLong).unwrap();
    let mut asking = dial(&node, "peer", Some(1));
    asking.send(&request_header(7), b"");
    let (seq, is_reply, error, payload) = (7, true, 14, Vec::new());
    let expected = Got::Message {
        seq,
        is_reply,
        error,
        payload,
    };
    assert_eq!(asking.next(), expected);
    let stats = node.handle().stats(PATIENCE).unwrap();
    assert_eq!(stats.peer("peer").unwrap().counters.replies_replaced, 1);
}

/// Answers more than a message may have.
struct TooLong;

impl NodeHandler<()> for TooLong {
    fn on_message(&mut self, cx: &mut NodeContext<'_, '_, ()>, message: NodeMessage<'_>) {
        let to = message.reply_to.unwrap();
        let refused = cx.reply(to, &header("Reply"), &vec![0; (16 << 20) + 1]);
        assert!(matches!(refused, Err(SendError::TooLong { .. })));
    }
}

/// Hands the way of each answer to the test, and blocks the shard until that says so: nothing that
/// handles ask for is begun meanwhile.
struct Block {
    hand: Sender<ReplyTo>,
    go: Receiver<()>,
}

impl NodeHandler<()> for Block {
    fn on_message(&mut self, _: &mut NodeContext<'_, '_, ()>, message: NodeMessage<'_>) {
        let _ = self.hand.send(message.reply_to.unwrap());
        let _ = self.go.recv_timeout(PATIENCE);
    }
}

#[test]
fn a_handle_that_is_told_full_can_reply_again() {
    let (hand, requests) = channel();
    let (going, go) = channel();
    let node = Node::builder(quiet().commands_max(4)).bind(any());
    let node = node.start(Block { hand, go }).unwrap();
    let handle = node.handle();
    let mut peer = dial(&node, "peer", Some(1));
    peer.send(&request_header(1), b"");
    let to = requests.recv_timeout(PATIENCE).unwrap();
    while handle.disconnect(Endpoint::new(any())).is_ok() {}
    let refused = handle.reply(to, &header("Reply"), "x").unwrap_err();
    assert_eq!(refused.error, SendError::Full);
    going.send(()).unwrap();
    let mut again = Some(refused.to);
    wait_until("there is room", || {
        let Some(to) = again.take() else { return true };
        again = handle
            .reply(to, &header("Reply"), "x")
            .map_err(|refused| refused.to)
            .err();
        again.is_none()
    });
    assert_eq!(peer.message(), (1, true));
    let stats = handle.stats(PATIENCE).unwrap();
    assert_eq!(stats.peer("peer").unwrap().unanswered, 0);
}

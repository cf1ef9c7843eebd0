//! Rules of links and numbers, with peers whose every byte the test decides.

mod support;

use std::net::TcpListener;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use proscenium_nodelink::{
    Endpoint, LinkEnd, Node, NodeContext, NodeHandler, NodeMessage, NodeOptions, RequestError,
    RequestOptions, RouteHeader,
};
use support::raw_peer::{Got, Hand, RawPeer, dial, dialled, ended, quiet, request_header};
use support::{Echo, PATIENCE, any, header, options, wait_routable, wait_until};

fn node(options: NodeOptions) -> Node {
    Node::builder(options)
        .bind(any())
        .start(Echo::default())
        .unwrap()
}

fn reply_header(seq: u32) -> RouteHeader<'static> {
    RouteHeader {
        msg_seq: seq,
        is_reply: true,
        ..header("Reply")
    }
}

#[test]
fn a_reply_is_refused_when_the_link_of_its_request_is_gone() {
    let (hand, requests) = channel();
    let node = Node::builder(quiet()).bind(any());
    let node = node.start(Hand(hand)).unwrap();
    let handle = node.handle();
    let mut first = dial(&node, "peer", Some(1));
    first.send(&request_header(7), b"");
    let to_first = requests.recv_timeout(PATIENCE).unwrap();
    drop(first);
    wait_until("the link is gone", || !handle.is_routable("peer"));
    // The peer has restarted, and asks with the same number.
    let mut second = dial(&node, "peer", Some(2));
    second.send(&request_header(7), b"");
    let to_second = requests.recv_timeout(PATIENCE).unwrap();
    handle.reply(to_first, &header("Old"), "old").unwrap();
    handle.reply(to_second, &header("New"), "new").unwrap();
    let got = second.next();
    let payload = b"new".to_vec();
    let (seq, is_reply, error) = (7, true, 0);
    assert_eq!(
        got,
        Got::Message {
            seq,
            is_reply,
            error,
            payload
        }
    );
    assert_eq!(handle.stats(PATIENCE).unwrap().replies_refused, 1);
}

#[test]
fn a_peer_that_has_restarted_loses_the_links_of_its_past() {
    let node = node(quiet());
    let mut past = dial(&node, "peer", Some(1));
    wait_routable(&node.handle(), "peer");
    let request = node
        .handle()
        .request("peer", &header("x"), "", RequestOptions::default());
    assert!(matches!(past.next(), Got::Message { .. }));
    let _present = dialled(&node, "peer", Some(2));
    assert_eq!(past.next(), Got::Closed);
    assert_eq!(request.wait(), Err(RequestError::LinkLost));
    wait_until("it is counted", || {
        ended(&node.handle(), LinkEnd::Superseded) == 1
    });
    wait_routable(&node.handle(), "peer");
}

#[test]
fn both_links_of_one_run_stay() {
    let node = node(quiet());
    let mut accepted = dial(&node, "peer", Some(1));
    let mut dialled = dialled(&node, "peer", Some(1));
    for peer in [&mut accepted, &mut dialled] {
        peer.send(
            &RouteHeader {
                msg_seq: 1,
                ..header("Echo")
            },
            b"x",
        );
    }
    // Answers go by the link that the node dialled.
    assert_eq!(
        (dialled.message(), dialled.message()),
        ((1, true), (1, true))
    );
    assert_eq!(ended(&node.handle(), LinkEnd::Handover), 0);
}

#[test]
fn a_newer_accepted_link_takes_over_and_a_second_dialled_one_is_refused() {
    let node = node(quiet());
    let mut first = dial(&node, "peer", None);
    wait_routable(&node.handle(), "peer");
    let mut second = dial(&node, "peer", None);
    assert_eq!(first.next(), Got::Closed);
    node.handle().send("peer", &header("x"), "").unwrap();
    assert_eq!(second.message(), (0, false));
    let handle = node.handle();
    wait_until("it is counted", || ended(&handle, LinkEnd::Handover) == 1);
    let mut called = dialled(&node, "peer", None);
    wait_until("it is up", || {
        handle
            .stats(PATIENCE)
            .unwrap()
            .peer("peer")
            .unwrap()
            .dialled
    });
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    handle
        .connect(Endpoint::new(listener.local_addr().unwrap()))
        .unwrap();
    let _refused = RawPeer::new(listener.accept().unwrap().0, "peer", None);
    wait_until("it is refused", || ended(&handle, LinkEnd::Duplicate) >= 1);
    handle.send("peer", &header("y"), "").unwrap();
    // Behind what was sent on the accepted link, which the node wants confirmed first.
    let Got::Ping(context) = second.next() else {
        panic!("no PING behind the last message");
    };
    second.pong(&context);
    assert_eq!(called.message(), (0, false));
}

#[test]
fn a_change_of_links_waits_until_everything_has_arrived() {
    let node = node(quiet());
    let handle = node.handle();
    let mut old = dial(&node, "peer", Some(1));
    wait_routable(&handle, "peer");
    handle.send("peer", &header("1"), "1").unwrap();
    assert_eq!(old.message(), (0, false));
    let mut new = dialled(&node, "peer", Some(1));
    let Got::Ping(context) = old.next() else {
        panic!("no PING behind the last message");
    };
    handle.send("peer", &header("2"), "2").unwrap();
    wait_until("it waits", || {
        let stats = handle.stats(PATIENCE).unwrap();
        stats.peer("peer").unwrap().queued_messages == 1
    });
    // Another answer is not the one that is waited for.
    old.pong(b"?");
    old.send(
        &RouteHeader {
            msg_seq: 3,
            ..header("Echo")
        },
        b"",
    );
    wait_until("the answer waits, too", || {
        let stats = handle.stats(PATIENCE).unwrap();
        stats.peer("peer").unwrap().queued_messages == 2
    });
    old.pong(&context);
    assert_eq!((new.message(), new.message()), ((0, false), (3, true)));
}

#[test]
fn what_comes_by_a_link_after_its_turn_is_late_and_ends_it() {
    let node = node(quiet());
    let mut accepted = dial(&node, "peer", Some(1));
    let mut dialled = dialled(&node, "peer", Some(1));
    let ask = |seq| RouteHeader {
        msg_seq: seq,
        ..header("Echo")
    };
    accepted.begin_turn(1);
    accepted.send(&ask(1), b"");
    assert_eq!(dialled.message(), (1, true));
    dialled.begin_turn(2);
    dialled.send(&ask(2), b"");
    assert_eq!(dialled.message(), (2, true));
    // A link may have another turn.
    accepted.begin_turn(3);
    accepted.send(&ask(3), b"");
    assert_eq!(dialled.message(), (3, true));
    dialled.send(&ask(4), b"");
    assert_eq!(dialled.next(), Got::Closed, "its turn is over");
    accepted.send(&ask(5), b"");
    assert_eq!(accepted.message(), (5, true));
    wait_until("it is counted", || {
        ended(&node.handle(), LinkEnd::Superseded) == 1
    });
}

#[test]
fn the_number_of_a_foreign_peer_rests_until_its_late_reply() {
    let node = node(quiet());
    let handle = node.handle();
    let mut peer = dial(&node, "peer", None);
    wait_routable(&handle, "peer");
    let short = RequestOptions::within(Duration::from_millis(20));
    let request = handle.request("peer", &header("x"), "", short);
    let (seq, _) = peer.message();
    assert!((1..=65_535).contains(&seq));
    assert_eq!(request.wait(), Err(RequestError::TimedOut));
    peer.send(&reply_header(seq), b"late");
    wait_until("the late reply is counted", || {
        let stats = handle.stats(PATIENCE).unwrap();
        stats.peer("peer").unwrap().counters.late_replies == 1
    });
    let request = handle.request("peer", &header("x"), "", RequestOptions::default());
    let (next, _) = peer.message();
    assert_ne!(next, seq);
    peer.send(&reply_header(next), b"in time");
    assert_eq!(&request.wait().unwrap().payload[..], b"in time");
    // A reply that nobody asked for is nobody's.
    peer.send(&reply_header(next), b"again");
    wait_until("it is counted", || {
        let stats = handle.stats(PATIENCE).unwrap();
        stats.peer("peer").unwrap().counters.late_replies == 2
    });
}

#[test]
fn a_peer_that_shakes_hands_and_falls_silent_is_dead_and_its_requests_fail_together() {
    let quick = options("node")
        .heartbeat(Duration::from_millis(40))
        .dead_after(Duration::from_millis(120));
    let node = node(quick);
    let handle = node.handle();
    let _peer = dial(&node, "peer", Some(1));
    wait_routable(&handle, "peer");
    let within = RequestOptions::within(PATIENCE * 10);
    let requests: Vec<_> = (0..50)
        .map(|_| handle.request("peer", &header("x"), "", within))
        .collect();
    for request in requests {
        assert_eq!(request.wait(), Err(RequestError::LinkLost));
    }
    wait_until("it is counted", || ended(&handle, LinkEnd::Dead) == 1);
}

/// A PING may say how long its sender will be silent at most.
#[test]
fn a_peer_that_is_silent_for_longer_than_it_said_is_dead() {
    let patient = options("node")
        .heartbeat(Duration::from_secs(1))
        .dead_after(PATIENCE * 10);
    let node = node(patient);
    let handle = node.handle();
    let mut patient = dial(&node, "patient", None);
    let mut peer = dial(&node, "peer", None);
    patient.ping(0, b"for ever");
    assert_eq!(patient.next(), Got::Pong);
    peer.ping(1, b"a tenth");
    assert_eq!(peer.next(), Got::Pong);
    // It is asked itself before that, and does not answer.
    while let Got::Ping(_) = peer.next() {}
    wait_until("it is counted", || ended(&handle, LinkEnd::Dead) == 1);
    assert!(handle.is_routable("patient"));
}

/// PING is of ZMTP 3.1.
#[test]
fn a_peer_of_zmtp_3_0_is_served_and_never_pinged() {
    let beating = options("node")
        .heartbeat(Duration::from_millis(40))
        .dead_after(PATIENCE);
    let node = node(beating);
    let stream = std::net::TcpStream::connect(node.local_addrs()[0].to_string()).unwrap();
    let mut old = RawPeer::with_minor(stream, "old", None, 0);
    wait_routable(&node.handle(), "old");
    // All links are looked at together: this one is pinged, and would be after the other one.
    let mut new = dial(&node, "new", None);
    for _ in 0..3 {
        let Got::Ping(context) = new.next() else {
            panic!("something else than a PING");
        };
        new.pong(&context);
    }
    old.send(&request_header(7), b"still here");
    let payload = b"still here".to_vec();
    let (seq, is_reply, error) = (7, true, 0);
    let reply = Got::Message {
        seq,
        is_reply,
        error,
        payload,
    };
    assert_eq!(old.next(), reply, "nothing came before it");
}

#[test]
fn a_malformed_message_costs_the_link() {
    let node = node(quiet());
    let handle = node.handle();
    for (round, head) in [&b"\xff"[..], b"\x0a\x01x", b"\x1a\x01\xff"]
        .into_iter()
        .enumerate()
    {
        let mut peer = dial(&node, "peer", None);
        let mut bytes = vec![1, head.len() as u8];
        bytes.extend_from_slice(head);
        bytes.extend_from_slice(&[0, 0]);
        std::io::Write::write_all(&mut peer.stream, &bytes).unwrap();
        assert_eq!(peer.next(), Got::Closed);
        wait_until("it is counted", || {
            ended(&handle, LinkEnd::Protocol) == round as u64 + 1
        });
    }
    let mut peer = dial(&node, "peer", None);
    // A wrong payload_size is counted, and the payload taken as it is.
    let wrong = RouteHeader {
        payload_size: 9,
        msg_seq: 4,
        ..header("Echo")
    };
    peer.send(&wrong, b"four");
    let payload = b"four".to_vec();
    let (seq, is_reply, error) = (4, true, 0);
    assert_eq!(
        peer.next(),
        Got::Message {
            seq,
            is_reply,
            error,
            payload
        }
    );
    let stats = handle.stats(PATIENCE).unwrap();
    assert_eq!(stats.peer("peer").unwrap().counters.size_mismatches, 1);
}

/// Keeps payloads, and says whether without copying them.
struct Keep(Sender<bool>);

impl NodeHandler<()> for Keep {
    fn on_message(&mut self, _: &mut NodeContext<'_, '_, ()>, message: NodeMessage<'_>) {
        let body = message.lease();
        assert_eq!(&*body, message.payload);
        let _ = self.0.send(body.is_leased());
    }
}

#[test]
fn payloads_can_be_kept_and_long_ones_are_not_copied() {
    let (kept, leased) = channel();
    let node = Node::builder(quiet()).bind(any());
    let node = node.start(Keep(kept)).unwrap();
    let mut peer = dial(&node, "peer", None);
    let mut send = |length| {
        peer.send(&header("x"), &vec![7; length]);
        leased.recv_timeout(PATIENCE).unwrap()
    };
    assert!(!send(0) && !send(100), "short ones are copied");
    send(500_000); // in several reads: put together, so copied once more, whatever the answer
    // A read may end anywhere; sooner or later a message comes in one.
    wait_until("one is leased", || send(5000));
}

/// A long message that has come in pieces leaves no memory behind that nobody counts: neither to an
/// empty link, nor to one with the first byte of the next message.
#[test]
fn a_long_message_does_not_leave_its_memory_to_a_short_one() {
    use std::io::Write;
    const LONG: usize = 4 << 20;
    let node = node(quiet());
    let handle = node.handle();
    let kept = || handle.stats(PATIENCE).unwrap().reassembly_bytes;
    let mut peers: Vec<RawPeer> = Vec::new();
    for number in 0..4 {
        let mut peer = dial(&node, &format!("peer-{number}"), Some(1));
        let payload = vec![7; LONG];
        let header = RouteHeader {
            payload_size: LONG as u32,
            ..request_header(1)
        };
        peer.send(&header, &payload);
        assert_eq!(peer.message(), (1, true));
        if number % 2 == 0 {
            // The first byte of a frame, and of no more.
            peer.stream.write_all(&[0]).unwrap();
        }
        peers.push(peer);
    }
    wait_until("the memory is given back", || kept() < LONG / 4);
    // One that is under way is counted, as long as it is.
    let mut peer = dial(&node, "peer-9", Some(1));
    let mut frame = vec![3];
    frame.extend_from_slice(&(LONG as u64).to_be_bytes());
    frame.resize(LONG / 2, 0);
    peer.stream.write_all(&frame).unwrap();
    wait_until("it is counted", || kept() >= LONG / 2);
    drop(peer);
    wait_until("it is given back", || kept() < LONG / 4);
}

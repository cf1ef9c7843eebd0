//! Nodes and libzmq: pyzmq peers that bind, connect, have one socket or two.
//!
//! They need a Python with pyzmq, see `tests/support/foreign.rs` of the workspace.

#[path = "../../tests/support/foreign.rs"]
mod foreign;
mod support;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use proscenium_engine::{Address, Backoff};
use proscenium_nodelink::{
    Endpoint, LinkEnd, Node, NodeHandle, NodeOptions, RequestError, RequestOptions, SendError,
};
use support::signal::send_signal;
use support::{Echo, PATIENCE, any, header, options, wait_routable, wait_until};

/// A process that runs `zmq_peer.py`; it ends with this.
struct ZmqPeer {
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
}

impl ZmqPeer {
    /// `None` where there is no pyzmq.
    fn start(arguments: &[&str]) -> Option<Self> {
        let python = foreign::python("pyzmq", "zmq")?;
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/zmq_peer.py");
        let mut child = Command::new(python)
            .arg(script)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let output = child.stdout.take().unwrap();
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Some(Self {
            child,
            input,
            lines,
        })
    }

    /// One that listens, and where.
    fn bind(arguments: &[&str]) -> Option<(Self, Endpoint)> {
        let mut peer = Self::start(arguments)?;
        let line = peer.line();
        let port = line.strip_prefix("port ").unwrap().parse().unwrap();
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
        Some((peer, Endpoint::new(address)))
    }

    fn ask(&mut self, line: &str) {
        writeln!(self.input, "{line}").unwrap();
    }

    fn line(&mut self) -> String {
        self.lines
            .recv_timeout(PATIENCE)
            .expect("a line of the peer")
    }

    fn signal(&self, signal: &str) {
        send_signal(self.child.id(), signal);
    }
}

impl Drop for ZmqPeer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn port(address: &Address) -> String {
    let Address::Tcp(address) = address else {
        panic!("{address} has no port");
    };
    address.port().to_string()
}

fn quick(nid: &str) -> NodeOptions {
    let millis = Duration::from_millis;
    options(nid).backoff(Backoff {
        first: millis(20),
        max: millis(200),
    })
}

/// Payloads of all lengths there and back, errors, and numbers that fit into 16 bits.
fn converse(node: &NodeHandle, peer: &mut ZmqPeer, name: &str) {
    wait_routable(node, name);
    for length in [0, 1, 255, 256, 70_000, 3_000_000] {
        let payload = vec![7; length];
        let options = RequestOptions::within(PATIENCE);
        let reply = node.request(name, &header("Echo"), payload.clone(), options);
        let reply = reply.wait().unwrap();
        assert!(reply.payload == payload && reply.error_code == 0);
        let line = peer.line();
        let words: Vec<_> = line.split(' ').collect();
        assert_eq!(words[..2], ["request", node.nid().as_str()]);
        let number: u32 = words[2].parse().unwrap();
        assert!((1..=65_535).contains(&number), "{line}");
        assert_eq!(words[5], length.to_string());
    }
    let failed = node.request(name, &header("Fail"), "", RequestOptions::default());
    assert_eq!(failed.wait().unwrap().error_code, 1234);
    assert!(peer.line().starts_with("request"));
    node.send(name, &header("Note"), "hello").unwrap();
    assert_eq!(peer.line(), format!("message {} 0 Note 0 5", node.nid()));
    let stats = node.stats(PATIENCE).unwrap();
    let stats = stats.peer(name).unwrap();
    assert!(!stats.proscenium && stats.counters.late_replies == 0);
    assert_eq!(stats.counters.size_mismatches, 0);
}

#[test]
fn a_peer_that_binds() {
    let Some((mut peer, endpoint)) = ZmqPeer::bind(&["zmq-1", "bind=0"]) else {
        return;
    };
    let node = Node::builder(quick("node-1")).connect(endpoint);
    let node = node.start(Echo::default()).unwrap();
    converse(&node.handle(), &mut peer, "zmq-1");
    for length in [0, 300, 2_000_000] {
        peer.ask(&format!("request node-1 77 {length}"));
        assert_eq!(peer.line(), format!("reply node-1 77 Echo 0 {length}"));
    }
}

#[test]
fn a_peer_that_connects() {
    let (seen, arrived) = channel();
    let node = Node::builder(quick("node-1")).bind(any());
    let node = node.start(Echo { seen: Some(seen) }).unwrap();
    let connect = format!("connect={}", port(&node.local_addrs()[0]));
    let Some(mut peer) = ZmqPeer::start(&["zmq-1", &connect]) else {
        return;
    };
    converse(&node.handle(), &mut peer, "zmq-1");
    peer.ask("send node-1 hello");
    let (from, id, payload) = arrived.recv_timeout(PATIENCE).unwrap();
    assert_eq!(
        (from.as_str(), id.as_str(), &payload[..]),
        ("zmq-1", "Send", &b"hello"[..])
    );
}

#[test]
fn peers_that_dial_each_other_in_both_directions() {
    let node = Node::builder(quick("node-1")).bind(any());
    let node = node.start(Echo::default()).unwrap();
    let connect = format!("connect={}", port(&node.local_addrs()[0]));
    let Some((mut peer, endpoint)) = ZmqPeer::bind(&["zmq-1", "bind=0", &connect, "split"]) else {
        return;
    };
    node.handle().connect(endpoint).unwrap();
    let handle = node.handle();
    wait_until("both links are up", || {
        let stats = handle.stats(PATIENCE).unwrap();
        stats
            .peer("zmq-1")
            .is_some_and(|peer| peer.dialled && peer.accepted)
    });
    // It answers by the socket that dials; we ask by the link that we dialled.
    converse(&handle, &mut peer, "zmq-1");
    peer.ask("request node-1 5 10");
    assert_eq!(peer.line(), "reply node-1 5 Echo 0 10");
}

#[test]
fn a_split_mesh_sends_on_dialled_links_only() {
    let node = Node::builder(quick("node-1").split(true))
        .bind(any())
        .start(Echo::default())
        .unwrap();
    let connect = format!("connect={}", port(&node.local_addrs()[0]));
    let Some((mut peer, endpoint)) = ZmqPeer::bind(&["zmq-1", "bind=0", &connect, "split"]) else {
        return;
    };
    node.handle().connect(endpoint).unwrap();
    wait_until("its link is there", || {
        let stats = node.handle().stats(PATIENCE).unwrap();
        stats.peer("zmq-1").is_some_and(|peer| peer.accepted)
    });
    converse(&node.handle(), &mut peer, "zmq-1");
}

#[test]
fn a_dealer_is_a_peer_too() {
    let node = Node::builder(quick("node-1"))
        .bind(any())
        .start(Echo::default())
        .unwrap();
    let connect = format!("connect={}", port(&node.local_addrs()[0]));
    let Some(mut peer) = ZmqPeer::start(&["zmq-1", &connect, "dealer"]) else {
        return;
    };
    wait_routable(&node.handle(), "zmq-1");
    peer.ask("request - 9 100");
    assert_eq!(peer.line(), "reply - 9 Echo 0 100");
}

#[test]
fn messages_of_other_than_two_parts_cost_the_link() {
    let node = Node::builder(quick("node-1"))
        .bind(any())
        .start(Echo::default())
        .unwrap();
    let connect = format!("connect={}", port(&node.local_addrs()[0]));
    let Some(mut peer) = ZmqPeer::start(&["zmq-1", &connect]) else {
        return;
    };
    let handle = node.handle();
    wait_routable(&handle, "zmq-1");
    for (round, parts) in [1, 3, 20].into_iter().enumerate() {
        peer.ask(&format!("parts node-1 {parts}"));
        wait_until("the link is closed", || {
            let ended = handle.stats(PATIENCE).unwrap().ended(LinkEnd::Protocol);
            ended == round as u64 + 1
        });
        // libzmq connects again.
        wait_routable(&handle, "zmq-1");
        peer.ask("request node-1 3 3");
        assert_eq!(peer.line(), "reply node-1 3 Echo 0 3");
    }
}

#[test]
fn a_second_peer_of_the_same_name_takes_over() {
    let node = Node::builder(quick("node-1"))
        .bind(any())
        .start(Echo::default())
        .unwrap();
    let connect = format!("connect={}", port(&node.local_addrs()[0]));
    let Some(first) = ZmqPeer::start(&["zmq-1", &connect]) else {
        return;
    };
    let handle = node.handle();
    wait_routable(&handle, "zmq-1");
    first.signal("STOP");
    let mut second = ZmqPeer::start(&["zmq-1", &connect]).unwrap();
    wait_until("the second one has the name", || {
        handle.stats(PATIENCE).unwrap().ended(LinkEnd::Handover) == 1
    });
    converse(&handle, &mut second, "zmq-1");
}

#[test]
fn a_peer_that_comes_back_is_found_again() {
    let Some((mut peer, endpoint)) = ZmqPeer::bind(&["zmq-1", "bind=0"]) else {
        return;
    };
    let bind = format!("bind={}", port(&endpoint.address));
    let node = Node::builder(quick("node-1")).connect(endpoint);
    let node = node.start(Echo::default()).unwrap();
    let handle = node.handle();
    converse(&handle, &mut peer, "zmq-1");
    let pending = handle.request(
        "zmq-1",
        &header("Keep"),
        "",
        RequestOptions::within(PATIENCE),
    );
    assert!(peer.line().starts_with("request"));
    drop(peer);
    assert_eq!(pending.wait(), Err(RequestError::LinkLost));
    let mut again = ZmqPeer::start(&["zmq-1", &bind]).unwrap();
    assert!(again.line().starts_with("port"));
    converse(&handle, &mut again, "zmq-1");
}

#[test]
fn heartbeats_keep_a_link_up_and_find_a_peer_that_has_stopped() {
    let Some((mut peer, endpoint)) = ZmqPeer::bind(&["zmq-1", "bind=0", "heartbeat=50"]) else {
        return;
    };
    let beating = quick("node-1")
        .heartbeat(Duration::from_millis(100))
        .dead_after(Duration::from_millis(2000));
    let node = Node::builder(beating)
        .connect(endpoint)
        .start(Echo::default())
        .unwrap();
    let handle = node.handle();
    // Where a machine has other things to do for longer than either of them waits, the link is
    // lost, and comes back: then it has to be looked at once more.
    wait_until("heartbeats keep a link up", || {
        let counters = || {
            let stats = handle.stats(PATIENCE).unwrap();
            stats.peer("zmq-1").map(|peer| peer.counters)
        };
        wait_routable(&handle, "zmq-1");
        let Some(before) = counters() else {
            return false;
        };
        loop {
            let Some(now) = counters() else {
                return false;
            };
            if now.links_up != before.links_up {
                return false;
            }
            if now.bytes_in > before.bytes_in + 200 {
                return true;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    });
    let within = RequestOptions::within(PATIENCE);
    wait_until("it is answered", || {
        let asked = handle.request("zmq-1", &header("Echo"), "", within);
        asked.wait().is_ok()
    });
    let dead = || handle.stats(PATIENCE).unwrap().ended(LinkEnd::Dead);
    let before = dead();
    // Its kernel goes on accepting and acknowledging; nothing answers.
    peer.signal("STOP");
    let requests: Vec<_> = (0..10)
        .map(|_| handle.request("zmq-1", &header("Echo"), "", within))
        .collect();
    for request in requests {
        let lost = request.wait().unwrap_err();
        let unroutable = RequestError::Send(SendError::Unroutable);
        assert!(
            lost == RequestError::LinkLost || lost == unroutable,
            "{lost}"
        );
    }
    wait_until("it is found to be dead", || dead() > before);
    peer.signal("CONT");
    let until = Instant::now() + PATIENCE;
    while !handle.is_routable("zmq-1") {
        let ended = peer.child.try_wait().unwrap();
        let stats = handle.stats(PATIENCE);
        assert!(Instant::now() < until, "{stats:#?}, the peer: {ended:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn another_mechanism_is_refused() {
    let node = Node::builder(quick("node-1"))
        .bind(any())
        .start(Echo::default())
        .unwrap();
    let connect = format!("connect={}", port(&node.local_addrs()[0]));
    let Some(_peer) = ZmqPeer::start(&["zmq-1", &connect, "plain"]) else {
        return;
    };
    // Whoever sees the other's greeting first gives up.
    wait_until("it is refused", || {
        let stats = node.handle().stats(PATIENCE).unwrap();
        stats.ended(LinkEnd::Protocol) + stats.ended(LinkEnd::Closed) >= 1
    });
    assert!(!node.handle().is_routable("zmq-1"));
}

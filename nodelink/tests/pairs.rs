//! Two nodes on real sockets: sends, requests, errors, and what becomes of lost links.

mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use proscenium_nodelink::{Endpoint, LinkEnd, Nid, Node, RequestError, RequestOptions, SendError};
use support::{Echo, PATIENCE, any, at, dialler, echo, header, options, wait_routable, wait_until};

#[test]
fn requests_are_answered_in_both_directions_over_one_link() {
    let play = echo("play-1");
    let api = dialler("api-1", &play).start(Echo::default()).unwrap();
    let (api, play_handle) = (api.handle(), play.handle());
    let _keep = (
        wait_routable(&api, "play-1"),
        wait_routable(&play_handle, "api-1"),
    );
    for (from, to) in [(&api, "play-1"), (&play_handle, "api-1")] {
        let reply = from.request(to, &header("Echo"), "hello", RequestOptions::default());
        let reply = reply.wait().unwrap();
        assert_eq!((&reply.payload[..], reply.error_code), (&b"hello"[..], 0));
        assert_eq!(reply.msg_id, "Echo");
        let failed = from.request(to, &header("Fail"), "", RequestOptions::default());
        assert_eq!(failed.wait().unwrap().error_code, 1234);
    }
}

#[test]
fn payloads_of_every_length_come_back() {
    let play = echo("play-1");
    let node = dialler("api-1", &play).start(Echo::default()).unwrap();
    let api = node.handle();
    wait_routable(&api, "play-1");
    let lengths = [
        0,
        1,
        255,
        256,
        16_383,
        16_384,
        32_000,
        65_536,
        3_000_000,
        16 << 20,
    ];
    let requests: Vec<_> = lengths
        .iter()
        .map(|&length| {
            let payload: Vec<u8> = (0..length).map(|at: usize| (at % 251) as u8).collect();
            let options = RequestOptions::within(PATIENCE);
            (
                payload.clone(),
                api.request("play-1", &header("Echo"), payload, options),
            )
        })
        .collect();
    for (payload, request) in requests {
        let reply = request.wait().unwrap();
        assert!(
            reply.payload == payload,
            "{} bytes came back otherwise",
            payload.len()
        );
    }
    let too_long = vec![0; (16 << 20) + 1];
    let sent = api.send("play-1", &header("Echo"), too_long);
    assert!(matches!(sent, Err(SendError::TooLong { .. })), "{sent:?}");
    // Nor does a header: whoever received it would end the link.
    let long = "x".repeat((16 << 20) + 1);
    let sent = api.send("play-1", &header(&long), "");
    assert!(matches!(sent, Err(SendError::TooLong { .. })), "{sent:?}");

    assert!(!api.is_stopped());
    drop(node);
    assert!(api.is_stopped());
}

#[test]
fn sends_arrive_in_order() {
    let (seen, arrived) = channel();
    let echo = Echo { seen: Some(seen) };
    let play = Node::builder(options("play-1"))
        .bind(any())
        .start(echo)
        .unwrap();
    let node = dialler("api-1", &play).start(Echo::default()).unwrap();
    let api = node.handle();
    wait_routable(&api, "play-1");
    const COUNT: u32 = 50_000;
    for number in 0..COUNT {
        loop {
            match api.send("play-1", &header("Number"), number.to_le_bytes().to_vec()) {
                Ok(()) => break,
                Err(SendError::Full) => std::thread::yield_now(),
                Err(error) => panic!("{error}"),
            }
        }
    }
    for number in 0..COUNT {
        let (from, id, payload) = arrived.recv_timeout(PATIENCE).unwrap();
        assert_eq!((from.as_str(), id.as_str()), ("api-1", "Number"));
        assert_eq!(payload, number.to_le_bytes());
    }
}

#[test]
fn what_cannot_be_routed_is_an_error_at_once() {
    let play = echo("play-1");
    let handle = play.handle();
    assert_eq!(
        handle.send("nobody", &header("x"), ""),
        Err(SendError::Unroutable)
    );
    let request = handle.request("nobody", &header("x"), "", RequestOptions::default());
    assert_eq!(
        request.wait(),
        Err(RequestError::Send(SendError::Unroutable))
    );
    drop(play);
    let request = handle.request("nobody", &header("x"), "", RequestOptions::default());
    assert!(request.wait().is_err());
    let stopped = handle.connect(Endpoint::new(
        "127.0.0.1:1".parse::<std::net::SocketAddr>().unwrap(),
    ));
    assert_eq!(stopped, Err(SendError::Stopped));
}

#[test]
fn a_request_without_an_answer_fails_at_its_deadline_and_a_late_reply_is_dropped() {
    let play = echo("play-1");
    let node = dialler("api-1", &play).start(Echo::default()).unwrap();
    let api = node.handle();
    wait_routable(&api, "play-1");
    let options = RequestOptions::within(Duration::from_millis(30));
    let request = api.request("play-1", &header("Keep"), "", options);
    assert_eq!(request.wait(), Err(RequestError::TimedOut));
    let stats = api.stats(PATIENCE).unwrap();
    let counters = stats.peer("play-1").unwrap().counters;
    assert_eq!((counters.timeouts, counters.requests), (1, 1));
}

#[test]
fn requests_fail_at_once_when_their_link_is_lost() {
    let play = echo("play-1");
    let node = dialler("api-1", &play).start(Echo::default()).unwrap();
    let api = node.handle();
    wait_routable(&api, "play-1");
    let requests: Vec<_> = (0..100)
        .map(|_| {
            api.request(
                "play-1",
                &header("Keep"),
                "",
                RequestOptions::within(PATIENCE * 10),
            )
        })
        .collect();
    wait_until("all are under way", || {
        let stats = play.handle().stats(PATIENCE).unwrap();
        stats
            .peer("api-1")
            .is_some_and(|peer| peer.counters.messages_in == 100)
    });
    drop(play);
    for request in requests {
        assert_eq!(request.wait(), Err(RequestError::LinkLost));
    }
    wait_until("the peer is down", || !api.is_routable("play-1"));
}

#[test]
fn a_node_that_comes_back_is_found_again() {
    let play = echo("play-1");
    let address = play.local_addrs()[0].clone();
    let node = dialler("api-1", &play).start(Echo::default()).unwrap();
    let api = node.handle();
    wait_routable(&api, "play-1");
    drop(play);
    wait_until("it is down", || !api.is_routable("play-1"));
    let again = Node::builder(options("play-1"))
        .bind(address)
        .start(Echo::default())
        .unwrap();
    wait_routable(&api, "play-1");
    let reply = api.request(
        "play-1",
        &header("Echo"),
        "again",
        RequestOptions::default(),
    );
    assert_eq!(&reply.wait().unwrap().payload[..], b"again");
    drop(again);
}

#[test]
fn two_nodes_that_dial_each_other_keep_both_links() {
    let a = echo("a");
    let b = dialler("b", &a).bind(any()).start(Echo::default()).unwrap();
    a.handle().connect(at(&b)).unwrap();
    for (from, to) in [(&a, "b"), (&b, "a")] {
        wait_until("both links are up", || {
            let stats = from.handle().stats(PATIENCE).unwrap();
            stats
                .peer(to)
                .is_some_and(|peer| peer.dialled && peer.accepted)
        });
    }
    for (from, to) in [(&a, "b"), (&b, "a")] {
        let reply = from
            .handle()
            .request(to, &header("Echo"), "x", RequestOptions::default());
        assert!(reply.wait().is_ok());
        let stats = from.handle().stats(PATIENCE).unwrap();
        assert_eq!(
            stats.peer(to).unwrap().counters.links_up,
            2,
            "no link was replaced"
        );
        assert_eq!(stats.ended, [0; LinkEnd::COUNT]);
    }
}

#[test]
fn split_nodes_send_on_dialled_links_only() {
    let (seen, arrived) = channel();
    let split = |nid| options(nid).split(true);
    let play = Node::builder(split("play-1")).bind(any());
    let play = play.start(Echo { seen: Some(seen) }).unwrap();
    let api = Node::builder(split("api-1")).bind(any()).connect(at(&play));
    let api = api.start(Echo::default()).unwrap();
    wait_routable(&api.handle(), "play-1");
    api.handle().send("play-1", &header("One"), "").unwrap();
    assert_eq!(arrived.recv_timeout(PATIENCE).unwrap().1, "One");
    let back = play.handle().send("api-1", &header("x"), "");
    assert_eq!(back, Err(SendError::Unroutable), "the link was accepted");
    play.handle().connect(at(&api)).unwrap();
    wait_routable(&play.handle(), "api-1");
    let reply = api
        .handle()
        .request("play-1", &header("Echo"), "x", RequestOptions::default());
    assert!(reply.wait().is_ok());
}

#[test]
fn a_node_refuses_itself_and_whom_it_did_not_call() {
    let a = echo("a");
    let b = echo("b");
    b.handle().connect(at(&b)).unwrap();
    let other = Endpoint::of(Nid::new("c").unwrap(), a.local_addrs()[0].clone());
    b.handle().connect(other).unwrap();
    wait_until("both are refused", || {
        let stats = b.handle().stats(PATIENCE).unwrap();
        stats.ended(LinkEnd::Refused) >= 3 && !b.handle().is_routable("a")
    });
}

#[test]
fn garbage_and_silence_cost_the_peer_its_connection() {
    let mut strict = options("play-1");
    strict = strict.handshake_deadline(Duration::from_millis(200));
    let play = Node::builder(strict)
        .bind(any())
        .start(Echo::default())
        .unwrap();
    let address = play.local_addrs()[0].to_string();
    let hello = |bytes: &[u8]| {
        let mut stream = TcpStream::connect(&address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(bytes).unwrap();
        let mut answer = Vec::new();
        // Ended by us in either way.
        let _ = stream.read_to_end(&mut answer);
        answer
    };
    let mut plain = vec![0xFF, 0, 0, 0, 0, 0, 0, 0, 1, 0x7F, 3, 1];
    plain.extend_from_slice(b"PLAIN");
    plain.resize(64, 0);
    let told = hello(&plain);
    let told = String::from_utf8_lossy(&told[64..]);
    assert!(told.contains("ERROR") && told.contains("PLAIN"), "{told}");
    hello(b"GET / HTTP/1.1\r\n\r\n");
    hello(b"");
    hello(&[0xFF]);
    wait_until("all four are counted", || {
        let stats = play.handle().stats(PATIENCE).unwrap();
        assert!(stats.peers.is_empty());
        let ends = [LinkEnd::Protocol, LinkEnd::HandshakeTimeout];
        ends.map(|end| stats.ended(end)) == [2, 2]
    });
}

#[test]
fn a_port_that_accepts_and_says_nothing_is_given_up_and_tried_more_and_more_rarely() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = Endpoint::new(silent.local_addr().unwrap());
    let impatient = options("api-1")
        .handshake_deadline(Duration::from_millis(20))
        .backoff(proscenium_engine::Backoff {
            first: Duration::from_millis(5),
            max: Duration::from_secs(3600),
        });
    let begin = Instant::now();
    let api = Node::builder(impatient)
        .connect(endpoint)
        .start(Echo::default())
        .unwrap();
    wait_until("some attempts were given up", || {
        let stats = api.handle().stats(PATIENCE).unwrap();
        stats.ended(LinkEnd::HandshakeTimeout) >= 8
    });
    // Between them at least half of 5, 10, 20, … and 320 ms.
    assert!(begin.elapsed() >= Duration::from_millis(635 / 2));
}

#[test]
fn peers_that_are_not_allowed_are_turned_away() {
    let far =
        Node::builder(options("far")).bind("0.0.0.0:0".parse::<std::net::SocketAddr>().unwrap());
    let refused = far.start(Echo::default()).unwrap_err();
    assert!(refused.to_string().contains("allow-list"), "{refused}");
    let ranges = ["192.0.2.0/24".parse().unwrap()];
    let closed = options("play-1").allow(proscenium_nodelink::AllowList::new(ranges));
    let play = Node::builder(closed)
        .bind(any())
        .start(Echo::default())
        .unwrap();
    let api = dialler("api-1", &play).start(Echo::default()).unwrap();
    wait_until("it is turned away", || {
        play.handle()
            .stats(PATIENCE)
            .unwrap()
            .ended(LinkEnd::NotAllowed)
            >= 1
    });
    assert!(!api.handle().is_routable("play-1"));
}

#[test]
fn a_peer_that_does_not_read_fills_its_own_queue_and_nobody_else_waits() {
    let well = echo("well");
    // Reads the handshake, then nothing.
    let stuck = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = Endpoint::new(stuck.local_addr().unwrap());
    let small = options("api-1")
        .queue_bytes_max(1 << 20)
        .dead_after(PATIENCE);
    let api = Node::builder(small).connect(at(&well)).connect(endpoint);
    let node = api.start(Echo::default()).unwrap();
    let api = node.handle();
    let (mut peer, _) = stuck.accept().unwrap();
    let mut greeting = vec![0xFF, 0, 0, 0, 0, 0, 0, 0, 1, 0x7F, 3, 0];
    greeting.extend_from_slice(b"NULL");
    greeting.resize(64, 0);
    peer.write_all(&greeting).unwrap();
    peer.write_all(b"\x04\x2e\x05READY\x0bSocket-Type\0\0\0\x06ROUTER\x08Identity\0\0\0\x05stuck")
        .unwrap();
    wait_routable(&api, "stuck");
    wait_routable(&api, "well");
    let mut accepted = 0;
    let full = loop {
        match api.send("stuck", &header("x"), vec![0; 10_000]) {
            Ok(()) => accepted += 1,
            Err(error) => break error,
        }
        assert!(accepted < 10_000, "100 MB are not a bounded queue");
        let reply = api.request(
            "well",
            &header("Echo"),
            "x",
            RequestOptions::within(PATIENCE),
        );
        assert!(reply.wait().is_ok());
    };
    assert_eq!(full, SendError::Full);
    let stats = api.stats(PATIENCE).unwrap();
    let stuck = stats.peer("stuck").unwrap();
    assert!(
        stuck.queued_bytes > 500_000 && stuck.queued_messages > 50,
        "{stuck:?}"
    );
    assert!(!stuck.proscenium);
}

/// The smallest executor: it polls when it is woken, and sleeps in between.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut future = std::pin::pin!(future);
    loop {
        let polled = future
            .as_mut()
            .poll(&mut std::task::Context::from_waker(&waker));
        if let std::task::Poll::Ready(output) = polled {
            return output;
        }
        std::thread::park_timeout(PATIENCE);
    }
}

#[test]
fn requests_can_be_awaited_and_called_back() {
    let play = echo("play-1");
    let node = dialler("api-1", &play).start(Echo::default()).unwrap();
    let api = node.handle();
    wait_routable(&api, "play-1");
    let options = RequestOptions::default();
    let reply = block_on(api.request("play-1", &header("Echo"), "await", options));
    assert_eq!(&reply.unwrap().payload[..], b"await");
    let refused = block_on(api.request("nobody", &header("Echo"), "", options));
    assert_eq!(refused, Err(RequestError::Send(SendError::Unroutable)));
    let (sender, replies) = channel();
    api.request_with("play-1", &header("Fail"), "x", options, move |reply| {
        let _ = sender.send(reply.map(|reply| reply.to_reply()));
    })
    .unwrap();
    let reply = replies.recv_timeout(PATIENCE).unwrap().unwrap();
    assert_eq!((reply.error_code, &reply.payload[..]), (1234, &b"x"[..]));
}

#[test]
fn many_requests_in_flight_are_each_answered_once() {
    let play = echo("play-1");
    let node = dialler("api-1", &play).start(Echo::default()).unwrap();
    let api = node.handle();
    wait_routable(&api, "play-1");
    const COUNT: usize = 100_000;
    let (sender, replies) = channel();
    for number in 0..COUNT {
        let payload = number.to_le_bytes().to_vec();
        loop {
            let sender = sender.clone();
            let options = RequestOptions::within(PATIENCE * 10);
            let call = move |reply: Result<proscenium_nodelink::ReplyRef<'_>, _>| {
                let payload = reply.map(|reply| reply.payload.to_vec());
                let _ = sender.send((number, payload));
            };
            match api.request_with("play-1", &header("Echo"), payload.clone(), options, call) {
                Ok(()) => break,
                Err(SendError::Full) => std::thread::yield_now(),
                Err(error) => panic!("{error}"),
            }
        }
    }
    let mut answered = vec![false; COUNT];
    for _ in 0..COUNT {
        let (number, payload) = replies.recv_timeout(PATIENCE).unwrap();
        assert_eq!(payload.unwrap(), number.to_le_bytes());
        assert!(!std::mem::replace(&mut answered[number], true));
    }
    let stats = api.stats(PATIENCE).unwrap();
    let peer = stats.peer("play-1").unwrap();
    assert_eq!((peer.counters.replies, peer.pending), (COUNT as u64, 0));
}

#[test]
fn the_end_of_a_node_ends_its_requests() {
    let play = echo("play-1");
    let node = dialler("api-1", &play).start(Echo::default()).unwrap();
    let api = node.handle();
    wait_routable(&api, "play-1");
    let options = RequestOptions::within(PATIENCE * 10);
    let requests: Vec<_> = (0..10)
        .map(|_| api.request("play-1", &header("Keep"), "", options))
        .collect();
    node.shutdown(Duration::from_millis(10));
    for request in requests {
        let ended = request.wait().unwrap_err();
        assert!(
            matches!(ended, RequestError::LinkLost | RequestError::Stopped),
            "{ended}"
        );
    }
    let after = api.request("play-1", &header("Echo"), "", options).wait();
    assert!(
        matches!(after, Err(RequestError::Send(_) | RequestError::Stopped)),
        "{after:?}"
    );
}

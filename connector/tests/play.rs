//! Against the real Play server, over every transport.
#![cfg(all(feature = "tls", feature = "ws"))]

#[path = "support/layers.rs"]
mod layers;
#[path = "support/room.rs"]
mod room;
mod support;

use std::thread;
use std::time::{Duration, Instant};

use layers::{Identity, TRANSPORTS, trusting};
use proscenium_connector::{
    Connector, DisconnectReason, ErrorCode, Event, Reconnect, RequestError, SendError,
};
use proscenium_play::{PlayServer, PlayStats};
use support::{AUTH, PATIENCE, next_news};

/// Bytes of the longest payload that an answer with the id "Echo" has room for in 2 MiB.
const PAYLOAD_MAX: usize = (2 << 20) - 1 - 4 - 2 - 8 - 2 - 4;

struct Hall {
    server: PlayServer,
    identity: Identity,
}

impl Hall {
    fn open() -> Self {
        let identity = Identity::new();
        let server = room::start(&identity);
        Self { server, identity }
    }

    fn builder(&self, number: usize) -> proscenium_connector::Builder {
        let port = room::address(&self.server, number).port();
        let builder = Connector::builder("127.0.0.1", port).request_timeout(PATIENCE);
        let builder = builder.send_queue_bytes_max(64 << 20);
        trusting(builder, TRANSPORTS[number % 4], &self.identity)
    }

    fn client(&self, number: usize, account: &str) -> Connector {
        let connector = self.builder(number).build().expect("a connector");
        connector.connect().wait().expect("connected");
        let answer = connector.authenticate(1, AUTH, account.as_bytes()).wait();
        assert_eq!(answer.expect("authenticated").payload, b"welcome");
        connector
    }

    fn stats(&self) -> PlayStats {
        self.server.handle().stats()
    }

    #[track_caller]
    fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let begin = Instant::now();
        while !holds(self) {
            assert!(begin.elapsed() < PATIENCE, "never: {what}");
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn close(self) {
        self.server.shutdown(PATIENCE);
    }
}

/// As often as it takes, without much waiting.
const AT_ONCE: Reconnect = Reconnect {
    first: Duration::from_millis(1),
    max: Duration::from_millis(20),
    attempts: 0,
};

#[test]
fn clients_play_over_every_transport() {
    let hall = Hall::open();
    let clients: Vec<_> = (0..TRANSPORTS.len())
        .map(|number| hall.client(number, &format!("player {number}")))
        .collect();
    for client in &clients {
        assert!(client.is_authenticated());
        // What repeats comes compressed, what does not as it is.
        for size in [0, 1, 512, 513, 65_536, 1 << 20, PAYLOAD_MAX] {
            let zeros = vec![0; size];
            let mut state = 1_u64;
            let noise = (0..size).map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                (state >> 56) as u8
            });
            for payload in [zeros, noise.collect()] {
                let answer = client
                    .request(1, "Echo", &payload)
                    .wait()
                    .expect("an answer");
                assert_eq!(answer.msg_id, "Echo");
                assert!(answer.payload == payload, "{client:?}, {size} bytes");
            }
        }
        let refused = client
            .request(1, "Refuse", b"")
            .wait()
            .expect_err("refused");
        let RequestError::Refused(packet) = &refused else {
            panic!("{refused}");
        };
        assert_eq!(
            (packet.error, &packet.payload[..]),
            (ErrorCode(1234), &b"no"[..])
        );
    }
    // One says something, all hear it, whatever they came by.
    clients[0].send(1, "Say", b"hello").expect("sent");
    for client in &clients {
        let news = next_news(client);
        assert!(
            matches!(&news, Event::Received(said) if said.payload == b"hello"),
            "{news:?}"
        );
    }
    drop(clients);
    hall.close();
}

#[test]
fn refused_credentials_can_be_replaced() {
    let hall = Hall::open();
    let connector = hall.builder(0).build().expect("a connector");
    connector.connect().wait().expect("connected");
    let refused = connector.authenticate(1, AUTH, b"wrong").wait();
    assert_eq!(
        refused.expect_err("refused").code(),
        ErrorCode::AUTHENTICATION_FAILED
    );
    assert!(connector.is_connected() && !connector.is_authenticated());
    connector
        .authenticate(1, AUTH, b"right")
        .wait()
        .expect("authenticated");
    connector
        .request(1, "Echo", b"x")
        .wait()
        .expect("an answer");
    drop(connector);
    hall.close();
}

#[test]
fn who_is_thrown_out_comes_back() {
    let hall = Hall::open();
    for (number, transport) in TRANSPORTS.into_iter().enumerate() {
        let connector = hall.builder(number).reconnect(AT_ONCE).build();
        let connector = connector.expect("a connector");
        connector.connect().wait().expect("connected");
        connector
            .authenticate(1, AUTH, b"fool")
            .wait()
            .expect("authenticated");
        let never = connector.request(1, "Never", b"");
        connector.send(1, "Kick", b"").expect("sent");
        let news = next_news(&connector);
        let lost = matches!(
            news,
            Event::Disconnected {
                reconnecting: true,
                ..
            }
        );
        assert!(lost, "{transport:?}: {news:?}");
        // What the server does with an unanswered request of one that it throws out is its own.
        never.wait().expect_err("no success");
        let news = next_news(&connector);
        assert!(matches!(news, Event::Reauthenticated(_)), "{news:?}");
        connector
            .request(1, "Echo", b"again")
            .wait()
            .expect("an answer");
    }
    hall.close();
}

#[test]
fn who_logs_in_twice_is_told_where_it_is_not_any_more() {
    let hall = Hall::open();
    for (number, transport) in TRANSPORTS.into_iter().enumerate() {
        let first = hall.builder(number).reconnect(AT_ONCE).build();
        let first = first.expect("a connector");
        first.connect().wait().expect("connected");
        let login = first.authenticate(1, AUTH, b"twin").wait();
        login.expect("authenticated");
        let second = hall.client(number, "twin");
        let news = next_news(&first);
        let replaced = matches!(
            news,
            Event::Disconnected {
                reason: DisconnectReason::Replaced,
                reconnecting: false,
            }
        );
        assert!(replaced, "{transport:?}: {news:?}");
        let answer = second.request(1, "Echo", b"mine").wait();
        assert_eq!(answer.expect("an answer").payload, b"mine");
    }
    assert_eq!(hall.server.handle().stats().replaced, 4);
    hall.close();
}

#[test]
fn heartbeats_are_answered_and_told_to_nobody() {
    let hall = Hall::open();
    let builder = hall.builder(0);
    let builder = builder
        .heartbeat(Duration::from_millis(10))
        .dead_after(PATIENCE);
    let connector = builder.build().expect("a connector");
    connector.connect().wait().expect("connected");
    connector
        .authenticate(1, AUTH, b"quiet")
        .wait()
        .expect("authenticated");
    assert!(matches!(connector.next_event(), Some(Event::Connected)));
    hall.until("heartbeats come", |hall| hall.stats().heartbeats >= 5);
    // This comes behind the answers to them.
    connector.request(1, "Echo", b"").wait().expect("an answer");
    let event = connector.next_event();
    assert!(event.is_none(), "{event:?}");
    drop(connector);
    hall.close();
}

#[test]
fn a_server_that_shuts_down_is_told() {
    let hall = Hall::open();
    let clients: Vec<_> = (0..TRANSPORTS.len())
        .map(|number| hall.client(number, &format!("player {number}")))
        .collect();
    hall.close();
    for client in &clients {
        let news = next_news(client);
        assert!(
            matches!(
                news,
                Event::Disconnected {
                    reconnecting: false,
                    ..
                }
            ),
            "{news:?}"
        );
        let failed = client
            .request(1, "Echo", b"")
            .wait()
            .expect_err("nobody there");
        assert_eq!(failed.code(), ErrorCode::DISCONNECTED);
    }
}

/// One byte more is refused on this side; what the server may be sent can be longer than what it
/// can answer with.
#[test]
fn packets_up_to_the_limit_go_both_ways_on_every_transport() {
    let hall = Hall::open();
    let longest = (2 << 20) - 1 - "Echo".len() - 2 - 8;
    // The answer also has a code, and the length of what was compressed.
    let longest_answer = longest - 2 - 4;
    for (number, transport) in TRANSPORTS.into_iter().enumerate() {
        let client = hall.client(number + TRANSPORTS.len(), "giant");
        for len in [64 << 10, 1 << 20, longest_answer] {
            let payload: Vec<u8> = (0..len).map(|at| (at * 31 + at / 251) as u8).collect();
            let answer = client.request(1, "Echo", &payload).wait();
            let same = answer.expect("an answer").payload == payload;
            assert!(same, "{transport:?}: {len} bytes");
        }
        let refused = client.request(1, "Echo", &vec![7; longest]).wait();
        let refused = refused.expect_err("too long for an answer");
        assert_eq!(
            refused.code(),
            ErrorCode::UNCHECKED_CONTENTS_ERROR,
            "{transport:?}"
        );
        let too_long = client.request(1, "Echo", &vec![7; longest + 1]).wait();
        let too_long = too_long.expect_err("too long for a packet");
        let limit = 2 << 20;
        let len = limit + 1;
        let expected = RequestError::NotSent(SendError::TooLong { len, limit });
        assert_eq!(too_long, expected);
        let answer = client.request(1, "Echo", b"still").wait();
        assert_eq!(answer.expect("an answer").payload, b"still");
    }
    hall.close();
}

//! Messages, requests and their answers, codes.

mod support;

use std::collections::HashSet;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::mpsc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use proscenium_connector::{
    Answer, ByteOrder, Connector, DisconnectReason, ErrorCode, Event, ProtocolError, RequestError,
    SendError,
};
use support::{AUTH, Peer, Received, Server, log_in, next_news, packet, pump_until, push};

#[test]
fn what_is_sent_arrives_byte_for_byte() {
    let server = Server::once(|mut peer: Peer| {
        let first = peer.accept_credentials();
        (first, peer.expect(), peer.expect())
    });
    let connector = server.client();
    connector.send(-7, "Wave", b"hello").expect("sent");
    drop(connector.request(i64::MAX, "é", b""));
    let (first, sent, requested) = server.join();
    let received = |id: &str, seq, stage, payload: &[u8]| Received {
        id: id.to_owned(),
        seq,
        stage,
        payload: payload.to_vec(),
    };
    assert_eq!(first, received(AUTH, 1, 1, b"token"));
    assert_eq!(sent, received("Wave", 0, -7, b"hello"));
    assert_eq!(requested, received("é", 2, i64::MAX, b""));
}

#[test]
fn the_length_can_be_big_endian() {
    let server = Server::once(|mut peer: Peer| {
        let mut bytes = [0; 4 + 12];
        std::io::Read::read_exact(&mut peer.stream, &mut bytes).expect("a packet");
        let mut answer = packet("Answer", 1, 0, 0, 0, b"welcome");
        answer[..4].reverse();
        peer.send(&answer);
        bytes
    });
    let builder = server.builder().length_order(ByteOrder::Big);
    let connector = builder.build().expect("a connector");
    connector.connect().wait().expect("connected");
    let answer = connector.authenticate(0, "A", b"").wait();
    assert_eq!(answer.expect("an answer").msg_id, "Answer");
    assert_eq!(server.join()[..6], [0, 0, 0, 12, 1, b'A']);
}

#[test]
fn requests_are_answered_in_any_order() {
    let server = Server::once(|mut peer: Peer| {
        peer.accept_credentials();
        let requests: Vec<_> = (0..10).map(|_| peer.expect()).collect();
        for request in requests.iter().rev() {
            peer.answer(request, 0, &request.payload);
        }
        peer.echo();
    });
    let connector = server.client();
    let answers: Vec<_> = (0..10_u8)
        .map(|i| connector.request(1, "R", &[i]))
        .collect();
    for (i, answer) in answers.into_iter().enumerate() {
        assert_eq!(answer.wait().expect("an answer").payload, [i as u8]);
    }
    drop(connector);
    server.join();
}

/// The smallest executor there is.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => thread::park(),
        }
    }
}

#[test]
fn answers_can_be_awaited() {
    let server = Server::once(|mut peer: Peer| {
        peer.accept_credentials();
        peer.echo();
    });
    let connector = server.builder().build().expect("a connector");
    let sum = block_on(async {
        connector.connect().await.expect("connected");
        connector
            .authenticate(1, AUTH, b"")
            .await
            .expect("authenticated");
        let mut sum = 0;
        for i in 0..100_u8 {
            let answer = connector.request(1, "Add", &[i]).await;
            sum += u32::from(answer.expect("an answer").payload[0]);
        }
        sum
    });
    assert_eq!(sum, 4950);
    drop(connector);
    server.join();
}

#[test]
fn callbacks_run_in_main_thread_action_on_its_thread() {
    let server = Server::once(|mut peer: Peer| {
        peer.accept_credentials();
        peer.send(&push("News", b"1"));
        peer.echo();
    });
    let here = thread::current().id();
    let (told, events) = mpsc::channel();
    let builder = server.builder().on_event(move |event| {
        assert_eq!(thread::current().id(), here);
        told.send(format!("{event:?}")).expect("the test listens");
    });
    let connector = builder.build().expect("a connector");
    log_in(&connector);
    let (told, answers) = mpsc::channel();
    let asked = connector.request_with(1, "Echo", b"x", move |answer| {
        assert_eq!(thread::current().id(), here);
        told.send(answer).expect("the test listens");
    });
    asked.expect("sent");
    // Whatever came by now, nothing was called.
    connector
        .request(1, "Echo", b"y")
        .wait()
        .expect("an answer");
    assert!(events.try_recv().is_err() && answers.try_recv().is_err());

    let mut answer = None;
    pump_until(&connector, || {
        answer = answers.try_recv().ok();
        answer.is_some()
    });
    let answer = answer.expect("called").expect("an answer");
    assert_eq!((&*answer.msg_id, &answer.payload[..]), ("Echo", &b"x"[..]));
    let events: Vec<_> = events.try_iter().collect();
    assert_eq!(events.len(), 2, "{events:?}");
    assert!(
        events[0].starts_with("Connected") && events[1].contains("News"),
        "{events:?}"
    );
    drop(connector);
    server.join();
}

#[test]
fn without_a_handler_events_are_pulled_and_answers_called_meanwhile() {
    let server = Server::once(|mut peer: Peer| {
        peer.accept_credentials();
        peer.send(&push("News", b"1"));
        peer.echo();
    });
    let connector = server.client();
    let (told, answers) = mpsc::channel();
    connector
        .request_with(1, "Echo", b"x", move |answer| drop(told.send(answer)))
        .expect("sent");
    assert!(matches!(connector.next_event(), Some(Event::Connected)));
    let Event::Received(news) = support::next_event(&connector) else {
        panic!("not the news");
    };
    assert_eq!(
        (&*news.msg_id, &news.payload[..], news.stage_id),
        ("News", &b"1"[..], 1)
    );
    pump_until(&connector, || answers.try_recv().is_ok());
    assert!(connector.next_event().is_none());
    drop(connector);
    server.join();
}

#[test]
fn codes_tell_what_is_missing() {
    let server = Server::once(|mut peer: Peer| {
        let refused = peer.expect();
        peer.answer(&refused, 5, b"who?");
        peer.accept_credentials();
        let request = peer.expect();
        peer.answer(&request, 1234, b"no");
        peer.echo();
    });
    let connector = server.builder().build().expect("a connector");
    let code = |answer: Result<_, RequestError>| answer.expect_err("no answer").code();
    assert_eq!(connector.send(1, "M", b""), Err(SendError::Disconnected));
    assert_eq!(SendError::Disconnected.code(), ErrorCode(60201));
    assert_eq!(
        code(connector.request(1, "M", b"").wait()),
        ErrorCode(60201)
    );
    connector.connect().wait().expect("connected");
    assert!(connector.is_connected() && !connector.is_authenticated());
    assert_eq!(connector.send(1, "M", b""), Err(SendError::Unauthenticated));
    assert_eq!(
        code(connector.request(1, "M", b"").wait()),
        ErrorCode(60203)
    );

    let refused = connector.authenticate(1, AUTH, b"").wait();
    let Err(RequestError::Refused(refused)) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(
        (refused.error, &refused.payload[..]),
        (ErrorCode(5), &b"who?"[..])
    );
    assert!(!connector.is_authenticated());
    connector.authenticate(1, AUTH, b"").wait().expect("taken");
    assert!(connector.is_authenticated());

    assert_eq!(code(connector.request(1, "M", b"").wait()), ErrorCode(1234));
    let id = "x".repeat(129);
    for id in ["", &id] {
        let error = SendError::IdLength { len: id.len() };
        assert_eq!(connector.send(1, id, b""), Err(error));
    }
    let (len, limit) = (12 + (2 << 20), 2 << 20);
    let error = SendError::TooLong { len, limit };
    assert_eq!(connector.send(1, "x", &vec![0; 2 << 20]), Err(error));
    drop(connector);
    server.join();
}

#[test]
fn requests_run_out_of_time_and_late_answers_are_counted() {
    let (late, wait) = mpsc::channel::<()>();
    let server = Server::once(move |mut peer: Peer| {
        // On a slow machine even authentication may take several attempts.
        let slow = loop {
            let request = peer.expect();
            if request.id == "Slow" {
                break request;
            }
            peer.answer(&request, 0, b"");
        };
        wait.recv().expect("the request timed out");
        peer.answer(&slow, 0, b"late");
        peer.echo();
    });
    let builder = server.builder().request_timeout(Duration::from_millis(300));
    let connector = builder.build().expect("a connector");
    connector.connect().wait().expect("connected");
    while !connector.is_authenticated() {
        let _ = connector.authenticate(1, AUTH, b"").wait();
    }
    let error = connector
        .request(1, "Slow", b"")
        .wait()
        .expect_err("no answer");
    assert_eq!(
        (&error, error.code()),
        (&RequestError::Timeout, ErrorCode(60202))
    );
    let before = connector.unknown_answers();
    late.send(()).expect("the server waits");
    pump_until(&connector, || connector.unknown_answers() > before);
    assert!(connector.is_connected());
    drop(connector);
    server.join();
}

#[test]
fn numbers_of_requests_skip_0_and_what_is_pending() {
    const REQUESTS: usize = 65_600;
    let server = Server::once(|mut peer: Peer| {
        peer.accept_credentials();
        let mut first = None;
        let mut seen = HashSet::new();
        while let Some(request) = peer.read() {
            match first {
                None => first = Some(request.seq), // never answered
                Some(first) => {
                    assert!(request.seq != 0 && request.seq != first);
                    seen.insert(request.seq);
                    peer.answer(&request, 0, b"");
                }
            }
        }
        seen.len()
    });
    let builder = server.builder().request_timeout(support::PATIENCE * 10);
    let connector = builder.build().expect("a connector");
    log_in(&connector);
    let pending = connector.request(1, "Never", b"");
    let mut window = std::collections::VecDeque::new();
    for _ in 0..REQUESTS {
        if window.len() == 1000 {
            let answer: proscenium_connector::Pending<Result<_, RequestError>> =
                window.pop_front().expect("1000");
            answer.wait().expect("an answer");
        }
        window.push_back(connector.request(1, "Next", b""));
    }
    for answer in window {
        answer.wait().expect("an answer");
    }
    drop(connector);
    assert_eq!(pending.wait(), Err(RequestError::Disconnected));
    // All of 1 to 65535 but the first, which was 2 after the authentication's 1.
    assert_eq!(server.join(), 65_534);
}

#[test]
fn compressed_payloads_are_inflated() {
    /// 100 × 'a': one literal, a match of 94 bytes at distance 1, five literals.
    const PICKLED: &[u8] = b"\x40\x59\x1fa\x01\0\x4b\x50aaaaa";
    let server = Server::once(|mut peer: Peer| {
        peer.accept_credentials();
        let request = peer.expect();
        peer.send(&packet("Map", request.seq, 1, 0, 100, PICKLED));
        peer.send(&packet("Map", 0, 1, 0, 100, PICKLED));
        peer.send(&packet("Map", 0, 1, 0, 99, PICKLED));
        peer.echo();
    });
    let connector = server.client();
    let answer = connector.request(1, "Map", b"").wait().expect("an answer");
    assert_eq!(answer.payload, vec![b'a'; 100]);
    let Event::Received(pushed) = next_news(&connector) else {
        panic!("not the push");
    };
    assert_eq!(pushed.payload, vec![b'a'; 100]);
    let event = next_news(&connector);
    let Event::Disconnected { reason, .. } = event else {
        panic!("{event:?}");
    };
    let payload = matches!(
        reason,
        DisconnectReason::Protocol(ProtocolError::Payload(_))
    );
    assert!(payload, "{reason}");
    server.join();
}

/// Each costs the connection, with a reason that says what was wrong.
#[test]
fn bytes_that_are_no_packets_end_the_connection() {
    let mut not_utf8 = push("ab", b"");
    not_utf8[4 + 1] = 0xFF;
    let mut negative = push("ab", b"");
    negative[4 + 1 + 2 + 15] = 0x80;
    let hostile: [(&[u8], &str); 7] = [
        (&[0, 0, 0, 0], "packet of 0 bytes"),
        (&[0xFF; 4], "over the limit of 2097152"),
        (&[0x01, 0x00, 0x20, 0x00], "2097153 bytes is over the limit"),
        (&[3, 0, 0, 0, 1, b'a', 0], "packet of 3 bytes, at least 18"),
        (&[2, 0, 0, 0, 0, 0], "message id of 0 bytes"),
        (&not_utf8, "not UTF-8"),
        (&negative, "negative"),
    ];
    for (bytes, expected) in hostile {
        let bytes = bytes.to_vec();
        let server = Server::once(move |mut peer: Peer| {
            peer.accept_credentials();
            peer.send(&push("Before", b""));
            peer.send(&bytes);
            peer.echo();
        });
        let connector = server.client();
        let before = next_news(&connector);
        assert!(matches!(before, Event::Received(_)), "{before:?}");
        let event = next_news(&connector);
        let Event::Disconnected { reason, .. } = event else {
            panic!("{event:?}");
        };
        assert!(matches!(reason, DisconnectReason::Protocol(_)), "{reason}");
        assert!(
            reason.to_string().contains(expected),
            "{reason}, not {expected}"
        );
        server.join();
    }
}

#[test]
fn a_full_send_queue_refuses_and_takes_again() {
    let (read_on, wait) = mpsc::channel::<()>();
    let server = Server::once(move |mut peer: Peer| {
        peer.accept_credentials();
        wait.recv().expect("the queue is full");
        peer.echo().len()
    });
    let builder = server.builder().send_queue_bytes_max(1 << 20);
    let connector = builder.build().expect("a connector");
    log_in(&connector);
    let payload = vec![7; 100_000];
    let mut sent = 0;
    // The sockets hold some megabytes; the queue one.
    while connector.send(1, "Much", &payload) != Err(SendError::Full) {
        sent += 1;
        assert!(sent < 10_000, "a gigabyte waits");
    }
    read_on.send(()).expect("the server waits");
    pump_until(&connector, || connector.send(1, "More", b"").is_ok());
    sent += 1;
    drop(connector);
    assert_eq!(server.join(), sent);
}

#[test]
fn so_many_requests_wait_and_no_more() {
    let (answer, wait) = mpsc::channel::<()>();
    let server = Server::once(move |mut peer: Peer| {
        peer.accept_credentials();
        let requests = [peer.expect(), peer.expect(), peer.expect()];
        wait.recv().expect("a fourth was refused");
        for request in &requests {
            peer.answer(request, 0, b"");
        }
        peer.echo().len()
    });
    let connector = server
        .builder()
        .requests_max(3)
        .build()
        .expect("a connector");
    log_in(&connector);
    let waiting: Vec<_> = (0..3).map(|_| connector.request(1, "R", b"")).collect();
    let called = |_| panic!("refused, and called all the same");
    assert_eq!(
        connector.request_with(1, "R", b"", called),
        Err(SendError::Full)
    );
    let refused = Err(RequestError::NotSent(SendError::Full));
    assert_eq!(connector.request(1, "R", b"").wait(), refused);
    answer.send(()).expect("the server waits");
    for answer in waiting {
        answer.wait().expect("an answer");
    }
    connector.request(1, "R", b"").wait().expect("an answer");
    drop(connector);
    assert_eq!(server.join(), 1);
}

#[test]
fn a_full_event_queue_stops_reading_and_loses_nothing() {
    const PUSHES: u32 = 20_000;
    let server = Server::once(|mut peer: Peer| {
        peer.accept_credentials();
        for i in 0..PUSHES {
            peer.send(&push("Tick", &[&i.to_le_bytes()[..], &[0; 1000]].concat()));
        }
    });
    let builder = server.builder().event_queue_max(50, 1 << 20);
    let connector = builder.build().expect("a connector");
    log_in(&connector);
    for expected in 0..PUSHES {
        let Event::Received(tick) = next_news(&connector) else {
            panic!("not tick {expected}");
        };
        assert_eq!(tick.payload[..4], expected.to_le_bytes());
    }
    // Only behind everything that came before.
    assert!(matches!(next_news(&connector), Event::Disconnected { .. }));
    server.join();
}

/// Otherwise 64 MiB would end up in the memory of a client that takes nothing.
#[test]
fn nobody_taking_events_holds_the_server_up() {
    let server = Server::once(|mut peer: Peer| {
        peer.accept_credentials();
        let timeout = Some(Duration::from_millis(500));
        peer.socket.set_write_timeout(timeout).expect("a socket");
        let tick = push("Tick", &[0; 64 * 1024]);
        (0..1024).any(|_| peer.write(&tick).is_err())
    });
    let builder = server.builder().event_queue_max(10_000, 1 << 20);
    let connector = builder.build().expect("a connector");
    log_in(&connector);
    assert!(server.join(), "the server could send everything");
    // The connection is as it was: nothing was read, so nothing is known of its end.
    assert!(connector.is_connected());
}

/// The same for answers to callbacks.
#[test]
fn nobody_taking_answers_holds_the_server_up() {
    const REQUESTS: usize = 1024;
    let server = Server::once(|mut peer: Peer| {
        peer.accept_credentials();
        let requests: Vec<_> = (0..REQUESTS).map(|_| peer.expect()).collect();
        let timeout = Some(Duration::from_millis(500));
        peer.socket.set_write_timeout(timeout).expect("a socket");
        let payload = [0; 64 * 1024];
        requests.iter().any(|request| {
            let answer = packet("Answer", request.seq, 1, 0, 0, &payload);
            peer.write(&answer).is_err()
        })
    });
    let builder = server.builder().event_queue_max(10_000, 1 << 20);
    let connector = builder.build().expect("a connector");
    log_in(&connector);
    for _ in 0..REQUESTS {
        connector.request_with(1, "R", b"", |_| {}).expect("sent");
    }
    assert!(server.join(), "the server could send everything");
    assert!(connector.is_connected());
}

#[test]
fn answers_that_were_taken_make_room_for_more() {
    const REQUESTS: usize = 1000;
    for (handled, most, bytes) in [
        (true, 20, 1 << 20),
        (false, 20, 1 << 20),
        (false, 500, 9000),
    ] {
        let server = Server::once(|mut peer: Peer| {
            peer.accept_credentials();
            peer.echo().len()
        });
        let mut builder = server.builder().event_queue_max(most, bytes);
        if handled {
            builder = builder.on_event(|_| {});
        }
        let connector = builder.build().expect("a connector");
        log_in(&connector);
        let (told, answers) = mpsc::channel();
        for _ in 0..REQUESTS {
            let told = told.clone();
            let callback = move |answer: Answer| {
                told.send(answer.is_ok()).expect("the test waits");
            };
            connector
                .request_with(1, "R", &[1; 1000], callback)
                .expect("sent");
        }
        let mut taken = 0;
        pump_until(&connector, || {
            taken += answers.try_iter().filter(|ok| *ok).count();
            while !handled && connector.next_event().is_some() {}
            taken == REQUESTS
        });
        drop(connector);
        assert_eq!(server.join(), REQUESTS);
    }
}

#[test]
fn many_threads_share_a_connector() {
    let server = Server::once(|mut peer: Peer| {
        peer.accept_credentials();
        peer.echo().len()
    });
    let connector: Connector = server.client();
    thread::scope(|scope| {
        for i in 0..8_u8 {
            let connector = &connector;
            scope.spawn(move || {
                for j in 0..200_u8 {
                    let answer = connector.request(1, "Echo", &[i, j]).wait();
                    assert_eq!(answer.expect("an answer").payload, [i, j]);
                }
            });
        }
    });
    drop(connector);
    assert_eq!(server.join(), 1600);
}

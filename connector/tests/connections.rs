//! Connecting, losing the connection, reconnecting, ending.

mod support;

use std::future::Future;
use std::net::TcpListener;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use proscenium_connector::{
    ConnectError, Connector, Delivery, DisconnectReason, ErrorCode, Event, Packet, Reconnect,
    RequestError,
};
use support::{
    AUTH, PATIENCE, Peer, Server, accept, closed_port, log_in, next_event, next_news, packet,
    pump_until, push,
};

const SOON: Reconnect = {
    let (first, max) = (Duration::from_millis(1), Duration::from_millis(20));
    Reconnect {
        first,
        max,
        attempts: 0,
    }
};

#[track_caller]
fn expect_disconnect(connector: &Connector, reconnecting: bool) -> DisconnectReason {
    match next_news(connector) {
        Event::Disconnected {
            reason,
            reconnecting: told,
        } => {
            assert_eq!(told, reconnecting);
            reason
        }
        event => panic!("{event:?}"),
    }
}

#[test]
fn a_refused_connection_is_told_by_result_and_event() {
    let connector = Connector::builder("127.0.0.1", closed_port()).build();
    let connector = connector.expect("a connector");
    let refused = connector.connect().wait();
    assert!(matches!(refused, Err(ConnectError::Io(_))), "{refused:?}");
    let event = next_event(&connector);
    let Event::ConnectFailed { reconnecting, .. } = event else {
        panic!("{event:?}");
    };
    assert!(!reconnecting && !connector.is_connected());
    // It can be tried again.
    assert!(connector.connect().wait().is_err());
}

#[test]
fn addresses_are_tried_in_turn() {
    let server = Server::once(|mut peer: Peer| peer.echo().len());
    let nobody = ([127, 0, 0, 1], closed_port()).into();
    let builder = Connector::builder("not.a.host.invalid", 1);
    let builder = builder.addresses(&[nobody, server.address]);
    let connector = builder.build().expect("a connector");
    connector.connect().wait().expect("the second address");
    let again = connector.connect().wait();
    assert!(matches!(again, Err(ConnectError::AlreadyConnected)));
    drop(connector);
    assert_eq!(server.join(), 0);
}

#[test]
fn hosts_are_resolved() {
    let server = Server::once(|mut peer: Peer| peer.echo().len());
    let connector = Connector::builder("localhost", server.address.port()).build();
    let connector = connector.expect("a connector");
    connector.connect().wait().expect("connected");
    drop(connector);
    assert_eq!(server.join(), 0);
}

#[test]
fn pending_requests_fail_at_once_when_the_server_closes() {
    let server = Server::once(|mut peer: Peer| {
        peer.accept_credentials();
        for _ in 0..3 {
            peer.expect();
        }
    });
    let connector = server.client();
    let (told, called) = mpsc::channel();
    let futures = [
        connector.request(1, "R", b""),
        connector.request(1, "R", b""),
    ];
    connector
        .request_with(1, "R", b"", move |answer| drop(told.send(answer)))
        .expect("sent");
    for future in futures {
        let error = future.wait().expect_err("no answer");
        assert_eq!(
            (&error, error.code()),
            (&RequestError::Disconnected, ErrorCode(60201))
        );
    }
    let reason = expect_disconnect(&connector, false);
    assert!(matches!(reason, DisconnectReason::PeerClosed), "{reason}");
    assert_eq!(called.try_recv(), Ok(Err(RequestError::Disconnected)));
    assert!(!connector.is_connected());
    server.join();
}

#[test]
fn disconnecting_fails_requests_sends_the_rest_and_can_connect_again() {
    let server = Server::start(|listener: TcpListener| {
        let mut first = accept(&listener);
        first.accept_credentials();
        let seen = first.echo().len();
        let mut second = accept(&listener);
        second.accept_credentials();
        (seen, second.echo().len())
    });
    let connector = server.client();
    // Nobody answers a send; the queue is not empty when the connection ends.
    for _ in 0..1000 {
        connector.send(1, "Last", &[0; 500]).expect("sent");
    }
    connector.disconnect();
    assert!(!connector.is_connected());
    let reason = expect_disconnect(&connector, false);
    assert!(matches!(reason, DisconnectReason::Requested), "{reason}");
    connector.disconnect(); // nothing more
    log_in(&connector);
    connector.send(1, "Again", b"").expect("sent");
    drop(connector);
    assert_eq!(server.join(), (1000, 1));
}

#[test]
fn after_close_nothing_is_called_and_every_request_was() {
    let server = Server::once(|mut peer: Peer| {
        peer.accept_credentials();
        let answered = peer.expect();
        peer.expect();
        peer.answer(&answered, 0, b"came");
        peer.send(&push("Untold", b""));
        peer.echo();
    });
    let events = Arc::new(AtomicUsize::new(0));
    let counted = events.clone();
    let builder = server.builder().on_event(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
    });
    let connector = builder.build().expect("a connector");
    log_in(&connector);
    let (told, called) = mpsc::channel();
    for name in ["answered", "pending"] {
        let told = told.clone();
        let callback = move |answer: Result<Packet, RequestError>| {
            drop(told.send((name, answer.map(|packet| packet.payload))));
        };
        connector.request_with(1, "R", b"", callback).expect("sent");
    }
    drop(told);
    connector.close();
    let mut called: Vec<_> = called.iter().collect(); // ends: all callbacks are gone
    called.sort_by_key(|(name, _)| *name);
    assert_eq!(called.len(), 2);
    assert_eq!(called[1], ("pending", Err(RequestError::Disconnected)));
    assert_eq!(connector.main_thread_action(), 0);
    assert_eq!(events.load(Ordering::Relaxed), 0);
    assert_eq!(Arc::strong_count(&events), 1, "the handler is gone");
    assert!(connector.request_with(1, "R", b"", |_| {}).is_err());
    connector.close();
    drop(connector);
    server.join();
}

#[test]
fn a_callback_may_close_its_connector() {
    let server = Server::once(|mut peer: Peer| {
        peer.accept_credentials();
        for _ in 0..10 {
            peer.send(&push("News", b""));
        }
        peer.echo();
    });
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let (give, take) = mpsc::channel::<Arc<Connector>>();
    let builder = server.builder().on_event(move |event| {
        if let Event::Received(_) = event {
            counted.fetch_add(1, Ordering::Relaxed);
            let connector = take.recv().expect("the connector");
            assert_eq!(connector.main_thread_action(), 0, "not within a callback");
            connector.close();
        }
    });
    let connector = Arc::new(builder.build().expect("a connector"));
    give.send(connector.clone()).expect("taken");
    log_in(&connector);
    pump_until(&connector, || calls.load(Ordering::Relaxed) == 1);
    assert_eq!(connector.main_thread_action(), 0);
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    drop(connector);
    server.join();
}

#[test]
fn heartbeats_begin_with_authentication_and_are_not_told() {
    let server = Server::once(|mut peer: Peer| {
        peer.accept_credentials(); // nothing came before
        let first = peer.expect();
        assert_eq!((&*first.id, first.seq), ("@Heart@Beat@", 0));
        assert_eq!((first.stage, first.payload.len()), (0, 0));
        peer.send(&packet("@Heart@Beat@", 0, 0, 0, 0, b""));
        let mut beats = 0;
        while beats < 5 {
            beats += usize::from(peer.expect().id == "@Heart@Beat@");
            peer.send(&packet("@Heart@Beat@", 0, 0, 0, 0, b""));
        }
        peer.send(&push("Beaten", b""));
        peer.echo();
    });
    let builder = server
        .builder()
        .heartbeat(Duration::from_millis(20))
        .dead_after(PATIENCE);
    let connector = builder.build().expect("a connector");
    connector.connect().wait().expect("connected");
    thread::sleep(Duration::from_millis(60)); // three beats, were it not for the authentication
    connector
        .authenticate(1, AUTH, b"")
        .wait()
        .expect("authenticated");
    let event = next_news(&connector);
    assert!(
        matches!(&event, Event::Received(news) if news.msg_id == "Beaten"),
        "{event:?}"
    );
    drop(connector);
    server.join();
}

#[test]
fn a_silent_server_is_dead() {
    let server = Server::once(|mut peer: Peer| {
        peer.accept_credentials();
        while peer.read().is_some() {}
    });
    let builder = server.builder();
    let builder = builder
        .heartbeat(Duration::from_millis(20))
        .dead_after(Duration::from_millis(90));
    let connector = builder.build().expect("a connector");
    log_in(&connector);
    let reason = expect_disconnect(&connector, false);
    assert!(matches!(reason, DisconnectReason::Silent), "{reason}");
    server.join();
}

#[test]
fn a_lost_connection_comes_back_with_the_same_credentials() {
    const LOSSES: usize = 5;
    let server = Server::start(|listener: TcpListener| {
        for _ in 0..=LOSSES {
            let mut peer = accept(&listener);
            let request = peer.accept_credentials();
            assert_eq!((request.stage, &request.payload[..]), (1, &b"token"[..]));
            peer.expect(); // a request, lost with the connection
        }
    });
    let connector = server
        .builder()
        .reconnect(SOON)
        .build()
        .expect("a connector");
    log_in(&connector);
    assert!(matches!(next_event(&connector), Event::Connected));
    for _ in 0..LOSSES {
        let lost = connector.request(1, "R", b"").wait();
        assert_eq!(lost, Err(RequestError::Disconnected));
        let reason = expect_disconnect(&connector, true);
        assert!(matches!(
            reason,
            DisconnectReason::PeerClosed | DisconnectReason::Io(_)
        ));
        assert!(matches!(next_event(&connector), Event::Connected));
        let event = next_event(&connector);
        let Event::Reauthenticated(answer) = event else {
            panic!("{event:?}");
        };
        assert_eq!(answer.payload, b"welcome");
        assert!(connector.is_authenticated());
    }
    drop(connector.request(1, "R", b""));
    server.join();
    // And now there is nobody any more.
    expect_disconnect(&connector, true);
    let event = next_event(&connector);
    assert!(
        matches!(
            event,
            Event::ConnectFailed {
                reconnecting: true,
                ..
            }
        ),
        "{event:?}"
    );
}

#[test]
fn refused_credentials_end_reconnecting() {
    let server = Server::start(|listener: TcpListener| {
        accept(&listener).accept_credentials();
        let mut second = accept(&listener);
        let request = second.expect();
        second.answer(&request, 5, b"banned");
        second.echo();
    });
    let connector = server
        .builder()
        .reconnect(SOON)
        .build()
        .expect("a connector");
    log_in(&connector);
    expect_disconnect(&connector, true);
    let reason = expect_disconnect(&connector, false);
    let expected = DisconnectReason::AuthenticationRefused(ErrorCode::AUTHENTICATION_FAILED);
    assert_eq!(reason.to_string(), expected.to_string());
    server.join();
}

#[test]
fn who_was_replaced_does_not_come_back() {
    let server = Server::once(|mut peer: Peer| {
        peer.accept_credentials();
        // Only the authentication's own id says so, and only with that code, as a push.
        peer.send(&push("News", b""));
        peer.send(&packet("News", 0, 1, 7, 0, b""));
        peer.send(&packet(AUTH, 0, 1, 5, 0, b""));
        peer.send(&packet(AUTH, 0, 1, 7, 0, b""));
        peer.echo()
    });
    let connector = server.builder().reconnect(SOON).build();
    let connector = connector.expect("a connector");
    log_in(&connector);
    let never = connector.request(1, "Never", b"");
    for code in [0, 7, 5] {
        let event = next_news(&connector);
        let told = matches!(&event, Event::Received(packet) if packet.error == ErrorCode(code));
        assert!(told, "{event:?}");
    }
    let reason = expect_disconnect(&connector, false);
    assert!(matches!(reason, DisconnectReason::Replaced), "{reason}");
    assert!(never.wait().is_err() && !connector.is_connected());
    server.join();
    // It may be told to.
    assert!(
        connector.connect().wait().is_err(),
        "nobody is there any more"
    );
}

#[test]
fn reconnecting_ends_after_so_many_attempts() {
    let server = Server::once(|mut peer: Peer| drop(peer.accept_credentials()));
    let policy = Reconnect {
        attempts: 3,
        ..SOON
    };
    let connector = server
        .builder()
        .reconnect(policy)
        .build()
        .expect("a connector");
    log_in(&connector);
    server.join();
    expect_disconnect(&connector, true);
    for left in [2, 1, 0] {
        let event = next_event(&connector);
        let Event::ConnectFailed { reconnecting, .. } = event else {
            panic!("{event:?}");
        };
        assert_eq!(reconnecting, left > 0);
    }
    assert!(!connector.is_connected());
}

#[test]
fn callbacks_can_run_on_the_io_thread_and_may_panic_there() {
    let server = Server::once(|mut peer: Peer| {
        peer.accept_credentials();
        peer.send(&push("News", b""));
        peer.echo();
    });
    let (told, events) = mpsc::channel();
    let builder = server
        .builder()
        .delivery(Delivery::IoThread)
        .on_event(move |event| {
            let name = thread::current().name().map(str::to_owned);
            told.send((name, format!("{event:?}")))
                .expect("the test listens");
            assert!(
                !matches!(event, Event::Received(_)),
                "a panic that is part of the test"
            );
        });
    let connector = builder.build().expect("a connector");
    log_in(&connector);
    let event = || events.recv_timeout(PATIENCE).expect("an event");
    let (thread_name, first) = event();
    assert_eq!(thread_name.as_deref(), Some("proscenium-connector"));
    assert!(first.starts_with("Connected"), "{first}");
    assert!(event().1.starts_with("Received"));
    // The panic ended this connector and nothing else.
    pump_until(&connector, || !connector.is_connected());
    server.join();
    let server = Server::once(|mut peer: Peer| {
        peer.accept_credentials();
        peer.echo().len()
    });
    let other = server.client();
    other.request(1, "R", b"").wait().expect("an answer");
    drop((connector, other));
    assert_eq!(server.join(), 1);
}

#[test]
fn one_that_closes_at_once_loses_nothing_that_was_sent() {
    for _ in 0..20 {
        let server = Server::once(|mut peer: Peer| {
            peer.accept_credentials();
            peer.echo()
                .iter()
                .map(|sent| sent.payload.len())
                .sum::<usize>()
        });
        let connector = server.client();
        for _ in 0..20 {
            connector.send(1, "Bulk", &vec![1; 10_000]).expect("sent");
        }
        drop(connector);
        assert_eq!(server.join(), 200_000);
    }
}

/// Times that no clock reaches: none of them may break the thread of all connectors.
#[test]
fn the_longest_durations_mean_never() {
    let server = Server::once(|mut peer: Peer| {
        peer.accept_credentials();
        let request = peer.expect();
        peer.answer(&request, 0, b"yes");
    });
    let connector = server
        .builder()
        .heartbeat(Duration::MAX / 2)
        .dead_after(Duration::MAX)
        .connect_timeout(Duration::MAX)
        .request_timeout(Duration::MAX)
        .reconnect(Reconnect {
            first: Duration::MAX,
            max: Duration::MAX,
            attempts: 0,
        })
        .build()
        .expect("a connector");
    log_in(&connector);
    let mut answer = connector.request(1, "R", b"");
    let answer = answer.wait_timeout(PATIENCE).expect("an answer in time");
    assert_eq!(answer.expect("an answer").payload, b"yes");
    server.join();
    let event = connector.wait_event(Duration::MAX);
    assert!(matches!(event, Some(Event::Connected)), "{event:?}");
    expect_disconnect(&connector, true);
}

#[test]
fn a_waker_that_panics_stops_nobody() {
    struct Panics;
    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            panic!("a test's waker panics");
        }
    }
    let (answer, wait) = mpsc::channel::<()>();
    let server = Server::once(move |mut peer: Peer| {
        peer.accept_credentials();
        let request = peer.expect();
        wait.recv().expect("the waker waits");
        peer.answer(&request, 0, b"");
        peer.echo().len()
    });
    let connector = server.client();
    let mut pending = connector.request(1, "R", b"");
    let waker = Waker::from(Arc::new(Panics));
    let polled = Pin::new(&mut pending).poll(&mut Context::from_waker(&waker));
    assert!(polled.is_pending());
    answer.send(()).expect("the server waits");
    let answer = pending.wait_timeout(PATIENCE);
    answer.expect("in time").expect("an answer");
    let mut next = connector.request(1, "R", b"");
    let next = next.wait_timeout(PATIENCE).expect("the thread goes on");
    next.expect("an answer");
    drop(connector);
    assert_eq!(server.join(), 1);
}

#[test]
fn every_close_waits_for_the_callback_that_runs() {
    let server = Server::once(|mut peer: Peer| {
        peer.accept_credentials();
        peer.echo();
    });
    let connector = server.client();
    let ((begun, running), (end, ending)) = (mpsc::channel(), mpsc::channel::<()>());
    let done = Arc::new(AtomicUsize::new(0));
    let finished = Arc::clone(&done);
    let callback = move |_| {
        begun.send(()).expect("the test waits");
        ending.recv().expect("the test lets it go on");
        finished.store(1, Ordering::SeqCst);
    };
    connector.request_with(1, "R", b"", callback).expect("sent");
    thread::scope(|scope| {
        let dispatcher =
            scope.spawn(|| pump_until(&connector, || done.load(Ordering::SeqCst) == 1));
        running.recv().expect("the callback runs");
        let close = || {
            connector.close();
            assert_eq!(done.load(Ordering::SeqCst), 1, "the callback still runs");
        };
        let first = scope.spawn(close);
        let begin = Instant::now();
        while !matches!(connector.connect().wait(), Err(ConnectError::Cancelled)) {
            assert!(begin.elapsed() < PATIENCE, "it does not close");
            thread::yield_now();
        }
        let second = scope.spawn(close);
        // Time for a close that does not wait to be found out.
        let begin = Instant::now();
        while !second.is_finished() && begin.elapsed() < Duration::from_millis(100) {
            thread::yield_now();
        }
        end.send(()).expect("the callback waits");
        for thread in [dispatcher, first, second] {
            thread.join().expect("nobody panicked");
        }
    });
    drop(connector);
    server.join();
}

//! Outgoing connections: refusals and their retries, deadlines, giving up, coming back.

mod support;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use proscenium::{Backoff, ConnectId, Connector, Origin, RouterId};
use support::{
    Behaviour, Seen, Server, ask, engine, eventually, expect_end, loopback, patient, prepare,
};

const FIRST: Duration = Duration::from_millis(1);
const MAX: Duration = Duration::from_millis(32);

fn client(shards: usize) -> Server {
    Server::start(engine().shards(shards), Behaviour::echo())
}

/// An address at which nobody listens, for now. As long as the socket is kept, the kernel gives
/// the port to nobody who asks for any, the connecting end of a client included.
fn nobody() -> (SocketAddr, socket2::Socket) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    // So that the test itself may listen there.
    socket.set_reuse_address(true).unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    socket.bind(&any.into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (address, socket)
}

fn connect(server: &Server, connector: Connector) -> ConnectId {
    server.on(0, move |cx| cx.connect(&connector))
}

fn retrying(address: SocketAddr) -> Connector {
    Connector::to(address).reconnect(Backoff {
        first: FIRST,
        max: MAX,
    })
}

/// The delays that were announced for this connector so far.
fn retries(server: &Server, of: ConnectId) -> Vec<Duration> {
    let failed = server.log.all().into_iter().filter_map(|seen| match seen {
        Seen::ConnectFailed { connect, retry, .. } if connect == of => retry,
        _ => None,
    });
    failed.collect()
}

/// The connections that a connector has made so far.
fn made(server: &Server, of: ConnectId) -> Vec<RouterId> {
    let made = server.log.all().into_iter().filter_map(|seen| match seen {
        Seen::Connected { id, peer, .. } if peer.origin == Origin::Outgoing(of) => Some(id),
        _ => None,
    });
    made.collect()
}

#[track_caller]
fn take(listener: &TcpListener) -> TcpStream {
    listener.set_nonblocking(true).unwrap();
    let (stream, _) = eventually("a connection comes", || listener.accept().ok());
    stream.set_nonblocking(false).unwrap();
    prepare(&stream);
    stream
}

/// A listener that answers nobody: its queue is full and never emptied.
fn deaf() -> (TcpListener, Vec<socket2::Socket>) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket
        .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
        .unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap();
    let waiting = (0..8)
        .map(|_| {
            let one =
                socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            one.set_nonblocking(true).unwrap();
            let _ = one.connect(&address);
            one
        })
        .collect();
    (socket.into(), waiting)
}

#[test]
fn a_refused_connection_fails_once_without_a_retry() {
    let server = client(1);
    let (address, _kept) = nobody();
    let connect = connect(&server, Connector::to(address));
    let (text, retry) = eventually("on_connect_failed", || {
        server.log.find(|seen| match seen {
            Seen::ConnectFailed { text, retry, .. } => Some((text.clone(), *retry)),
            _ => None,
        })
    });
    assert!(text.contains("refused"), "{text}");
    assert_eq!(retry, None);
    let stats = server.until_stats(|stats| stats.connect_failed == 1);
    assert_eq!(
        (stats.connections, stats.timers, stats.connected),
        (0, 0, 0)
    );
    assert_eq!(made(&server, connect), []);
    assert_eq!(stats.closes.iter().sum::<u64>(), 0);
    server.end_clean();
}

#[test]
fn retries_wait_longer_each_time_with_jitter_and_find_the_server_when_it_comes() {
    let server = client(1);
    let (address, _kept) = nobody();
    let connect = connect(&server, retrying(address));
    let delays = eventually("enough attempts", || {
        let delays = retries(&server, connect);
        (delays.len() >= 16).then_some(delays)
    });
    for (attempt, delay) in delays.iter().enumerate() {
        let whole = MAX.min(FIRST * 2u32.saturating_pow(attempt as u32));
        assert!(
            (whole / 2..=whole).contains(delay),
            "attempt {attempt}: {delay:?} of {whole:?}"
        );
    }
    let late = &delays[5..];
    assert!(
        late.iter().any(|delay| *delay != late[0]),
        "jitter: {late:?}"
    );

    let listener = TcpListener::bind(address).unwrap();
    let mut peer = take(&listener);
    ask(&mut peer, b"there you are");
    assert_eq!(made(&server, connect).len(), 1);
    let stats = server.until_stats(|stats| stats.connected == 1);
    assert_eq!(stats.connect_failed, retries(&server, connect).len() as u64);
    drop((peer, listener));
    server.end_clean();
}

#[test]
fn a_lost_connection_comes_back_and_a_message_resets_the_back_off() {
    let server = client(1);
    let (address, _kept) = nobody();
    let connect = connect(&server, retrying(address));
    let attempts = |more: usize| {
        let before = retries(&server, connect).len();
        eventually("more attempts", || {
            let delays = retries(&server, connect);
            (delays.len() >= before + more).then(|| delays[before..].to_vec())
        })
    };
    attempts(8);
    // A connection that is made and lost without a word starts nothing over.
    let listener = TcpListener::bind(address).unwrap();
    let peer = take(&listener);
    drop((listener, peer));
    let delays = attempts(3);
    assert!(delays.iter().all(|delay| *delay >= MAX / 2), "{delays:?}");
    // One that has brought a message does.
    let listener = TcpListener::bind(address).unwrap();
    let mut peer = take(&listener);
    ask(&mut peer, b"a word");
    let before = retries(&server, connect).len();
    drop((listener, peer));
    let delays = eventually("attempts", || {
        let delays = retries(&server, connect);
        (delays.len() >= before + 2).then(|| delays[before..].to_vec())
    });
    // The loss itself took the first delay; the attempts that fail go on from there.
    assert!(
        delays[0] <= FIRST * 2 && delays[1] <= FIRST * 4,
        "{delays:?}"
    );

    let listener = TcpListener::bind(address).unwrap();
    let mut peer = take(&listener);
    ask(&mut peer, b"back again");
    let ids = made(&server, connect);
    assert!(ids.len() >= 3, "every connection made has an id of its own");
    assert!(ids.windows(2).all(|pair| pair[0] != pair[1]));
    // Closed by us, it does not come back.
    let id = ids[ids.len() - 1];
    server.on(0, move |cx| cx.close(id));
    expect_end(&mut peer);
    drop(peer);
    assert_eq!(server.log.until_closed(id).0, "local");
    let stats = server.until_stats(|stats| stats.connections == 0 && stats.timers == 0);
    assert_eq!(stats.closes.iter().sum::<u64>(), ids.len() as u64);
    server.end_clean();
}

#[test]
fn no_answer_within_the_deadline_is_a_time_out() {
    let (listener, waiting) = deaf();
    let server = client(1);
    let connector =
        Connector::to(listener.local_addr().unwrap()).deadline(Duration::from_millis(100));
    connect(&server, connector.clone());
    let connect = connect(
        &server,
        connector.reconnect(Backoff {
            first: FIRST,
            max: MAX,
        }),
    );
    eventually("two time-outs in a row", || {
        (retries(&server, connect).len() >= 2).then_some(())
    });
    let other = |seen: &Seen| {
        matches!(
            seen,
            Seen::ConnectFailed {
                timed_out: false,
                ..
            }
        )
    };
    assert_eq!(server.log.count(other), 0);
    server.on(0, move |cx| cx.cancel_connect(connect));
    let stats = server.until_stats(|stats| stats.connections == 0 && stats.timers == 0);
    assert!(stats.connect_failed >= 3);
    assert_eq!(stats.connected, 0);
    drop(waiting);
    server.end_clean();
}

#[test]
fn an_attempt_given_up_is_not_heard_of_again() {
    let (listener, waiting) = deaf();
    let server = client(1);
    let under_way = connect(&server, Connector::to(listener.local_addr().unwrap()));
    let (address, _kept) = nobody();
    let between = connect(
        &server,
        Connector::to(address).reconnect(Backoff {
            first: Duration::from_secs(3600),
            max: Duration::from_secs(3600),
        }),
    );
    eventually("the second one waits for its next attempt", || {
        (retries(&server, between).len() == 1).then_some(())
    });
    server.until_stats(|stats| stats.connections == 1);
    server.on(0, move |cx| {
        cx.cancel_connect(under_way);
        cx.cancel_connect(between);
        cx.cancel_connect(between);
    });
    let stats = server.until_stats(|stats| stats.connections == 0 && stats.timers == 0);
    assert_eq!((stats.connect_failed, stats.connected), (1, 0));
    // What never was cannot end.
    let told = |seen: &Seen| !matches!(seen, Seen::ConnectFailed { .. });
    assert_eq!(server.log.count(told), 0, "{:?}", server.log.all());
    assert_eq!(stats.closes.iter().sum::<u64>(), 0);
    drop(waiting);
    server.end_clean();
}

#[test]
fn attempts_under_way_do_not_hold_up_a_shutdown() {
    let (listener, waiting) = deaf();
    let server = client(1);
    for _ in 0..3 {
        connect(&server, retrying(listener.local_addr().unwrap()));
    }
    server.until_stats(|stats| stats.connections == 3);
    let log = server.log.clone();
    let report = server.shutdown();
    assert!(report.is_clean(), "{report}");
    assert!(report.elapsed < support::PATIENCE);
    let ended = |seen: &Seen| matches!(seen, Seen::Disconnected { .. });
    assert_eq!(log.count(ended), 0);
    drop(waiting);
}

#[test]
fn the_limit_of_connections_holds_for_outgoing_ones() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let builder = engine().limits(patient().connections_max(1));
    let server = Server::start(builder, Behaviour::echo());
    let connector = Connector::to(listener.local_addr().unwrap());
    connect(&server, connector.clone());
    let mut peer = take(&listener);
    ask(&mut peer, b"the one");
    connect(&server, connector);
    let text = eventually("on_connect_failed", || {
        server.log.find(|seen| match seen {
            Seen::ConnectFailed { text, .. } => Some(text.clone()),
            _ => None,
        })
    });
    assert!(text.contains("1 connections, its limit"), "{text}");
    drop(peer);
    server.end_clean();
}

/// A connection that moves to another shard still belongs to its connector, on the shard where it
/// was born, and is not taken for one that a connector of the same number has made there.
#[test]
fn a_moved_connection_is_made_again_by_its_connector_and_disturbs_no_other() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = client(2);
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let elsewhere = retrying(other.local_addr().unwrap());
    server.on(1, move |cx| cx.connect(&elsewhere));
    let mut bystander = take(&other);
    ask(&mut bystander, b"stays");

    let connect = connect(&server, retrying(listener.local_addr().unwrap()));
    let mut peer = take(&listener);
    ask(&mut peer, b"here");
    let id = made(&server, connect)
        .into_iter()
        .find(|id| id.shard() == 0)
        .unwrap();
    server.on(0, move |cx| cx.rehome(id, 1)).unwrap();
    eventually("on_adopted", || {
        server
            .log
            .find(|seen| matches!(seen, Seen::Adopted { shard: 1, .. }).then_some(()))
    });
    ask(&mut peer, b"there");
    drop(peer);
    assert_eq!(server.log.until_closed(id).0, "peer_closed");
    let mut peer = take(&listener);
    ask(&mut peer, b"once more");
    let stats = server.until_stats(|stats| stats.connections == 2 && stats.timers == 0);
    assert_eq!((stats.connected, stats.connect_failed), (3, 0));
    ask(&mut bystander, b"stayed");
    // The other one is still its connector's: lost, it comes back.
    drop(bystander);
    let mut again = take(&other);
    ask(&mut again, b"back");
    drop((again, peer));
    server.end_clean();
}

#[test]
fn two_engines_talk_over_a_connection_that_each_calls_its_own() {
    let listening = Server::with(patient(), loopback(), Behaviour::echo());
    let calling = Server::start(
        engine(),
        Behaviour::on_message(|cx, from, message| {
            let round = u32::from_be_bytes(message.bytes().try_into().unwrap());
            if round < 1000 {
                cx.send(from, &(round + 1).to_be_bytes()).unwrap();
            } else {
                cx.close(from);
            }
        })
        .on_connect(|cx, id| cx.send(id, &0u32.to_be_bytes()).unwrap()),
    );
    let connect = connect(&calling, Connector::to(listening.address()));
    let id = eventually("on_connect", || made(&calling, connect).first().copied());
    assert_eq!(calling.log.until_closed(id).0, "local");
    let stats = listening.until_stats(|stats| stats.closed("peer_closed") == 1);
    assert_eq!((stats.messages_in, stats.messages_out), (1001, 1001));
    calling.end_clean();
    listening.end_clean();
}

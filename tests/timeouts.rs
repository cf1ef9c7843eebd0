//! Idle and linger timeouts, timers, and the socket options that can be seen from outside.

mod support;

use std::io::{ErrorKind, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use proscenium::Listener;
use support::{
    Behaviour, Job, PATIENCE, Seen, Server, connect_narrow, eventually, expect_end, loopback,
    patient, read_frame, try_read_frame,
};

#[test]
fn a_silent_connection_is_closed_but_not_while_we_pause_it() {
    let limits = patient().idle_timeout(Duration::from_millis(100));
    // The first one is paused before its time can be up, however long we take.
    let is_first = AtomicBool::new(true);
    let behaviour = Behaviour::echo().on_connect(move |cx, id| {
        if is_first.swap(false, Ordering::Relaxed) {
            assert!(cx.pause_reading(id));
        }
    });
    let server = Server::with(limits, loopback(), behaviour);
    let (mut paused, paused_id) = server.accept();
    // Its own message waits for us, not we for it.
    paused.write_all(&support::frame(b"waiting")).unwrap();
    for _ in 0..3 {
        let (mut silent, id) = server.accept();
        assert_eq!(server.log.until_closed(id).0, "idle_timeout");
        expect_end(&mut silent);
    }
    assert_eq!(server.log.disconnects(paused_id), 0);
    assert!(server.on(0, move |cx| cx.resume_reading(paused_id)));
    assert_eq!(read_frame(&mut paused), b"waiting");
    assert_eq!(server.log.until_closed(paused_id).0, "idle_timeout");
    let stats = server.until_stats(|stats| stats.connections == 0);
    assert_eq!((stats.closed("idle_timeout"), stats.timers), (4, 0));
    server.end_clean();
}

#[test]
fn a_connection_that_speaks_is_not_idle() {
    // On a loaded machine we may be silent for longer than we want: then it has to be done again,
    // with more time.
    let idle = [1, 2, 4, 8, 16].map(Duration::from_secs);
    let spoke_in_time = idle.into_iter().any(|idle| {
        let limits = patient().idle_timeout(idle);
        let server = Server::with(limits, loopback(), Behaviour::echo());
        let is_valid = speaks(&server, idle).is_some();
        server.end_clean();
        is_valid
    });
    assert!(spoke_in_time, "something keeps us from speaking");
}

/// Speaks while others fall silent, and is not closed. `None`: it could not speak often enough.
fn speaks(server: &Server, idle: Duration) -> Option<()> {
    let (mut speaking, id) = server.accept();
    let (mut spoke, mut longest) = (Instant::now(), Duration::ZERO);
    for _ in 0..2 {
        let (_silent, silent_id) = server.accept();
        while server.log.disconnects(silent_id) == 0 {
            speaking.write_all(&support::frame(b"hello")).ok()?;
            try_read_frame(&mut speaking).ok()??;
            longest = longest.max(spoke.elapsed());
            spoke = Instant::now();
        }
    }
    if longest >= idle / 2 {
        return None;
    }
    assert_eq!(server.log.disconnects(id), 0);
    drop(speaking);
    assert_eq!(server.log.until_closed(id).0, "peer_closed");
    Some(())
}

/// How many connections to itself this process may have, at most `wanted`.
fn connections_to_ourselves(wanted: usize) -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let files = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let soft = files.and_then(|line| line.split_whitespace().nth(3)?.parse().ok());
    soft.map_or(wanted, |soft: usize| wanted.min((soft - 200) / 2))
}

#[test]
fn a_shard_that_was_stuck_reads_what_has_come_before_it_calls_anybody_idle() {
    let idle = Duration::from_secs(1);
    let limits = patient().idle_timeout(idle);
    let server = Server::with(limits, loopback(), Behaviour::echo());
    // More than one slice handles, and than the kernel tells of at once.
    let mut clients: Vec<_> = (0..connections_to_ourselves(1500))
        .map(|_| server.connect())
        .collect();
    eventually("all are accepted", || {
        (server.stats().accepted == clients.len() as u64).then_some(())
    });
    let log = server.log.clone();
    let (release, released) = mpsc::channel();
    let (tell, told) = mpsc::channel();
    let stuck = Job::new(move |_| {
        tell.send(log.all()).unwrap();
        released.recv_timeout(PATIENCE).unwrap();
    });
    server.handle.post(0, stuck).unwrap();
    // On a slow machine some were idle for too long before that: those may go.
    let gone = told.recv_timeout(PATIENCE).unwrap();
    let gone = gone
        .iter()
        .filter(|seen| matches!(seen, Seen::Disconnected { .. }));
    let gone = gone.count();
    for client in &mut clients {
        let _ = client.write_all(&support::frame(b"I am here"));
    }
    std::thread::sleep(idle + idle / 4);
    release.send(()).unwrap();
    let answered = clients
        .iter_mut()
        .filter_map(|client| try_read_frame(client).ok()?);
    assert!(answered.count() + gone >= clients.len());
    // Those that fall silent now are found all the same.
    let stats = server.until_stats(|stats| stats.connections == 0);
    assert!(stats.closed("idle_timeout") > 0);
    server.end_clean();
}

#[test]
fn a_peer_that_does_not_finish_within_the_linger_time_is_cut() {
    let limits = patient().linger(Duration::from_millis(50));
    let listener = loopback().socket_buffers(None, Some(8 << 10));
    let server = Server::with(limits, listener, Behaviour::echo());
    // Has read everything and keeps its side open.
    let (mut open, open_id) = server.accept();
    server.on(0, move |cx| {
        cx.send(open_id, b"the last").unwrap();
        cx.close(open_id);
    });
    assert_eq!(read_frame(&mut open), b"the last");
    assert_eq!(try_read_frame(&mut open).unwrap(), None);
    assert_eq!(server.log.until_closed(open_id).0, "linger_timeout");
    assert_eq!(server.stats().bytes_lost, 0);
    // Does not read.
    let stuck = connect_narrow(server.address(), 4 << 10);
    let stuck_id = server.id_of(&stuck);
    server.on(0, move |cx| {
        for _ in 0..200 {
            cx.send(stuck_id, &[0; 1000]).unwrap();
        }
        cx.close(stuck_id);
    });
    assert_eq!(server.log.until_closed(stuck_id).0, "linger_timeout");
    let stats = server.until_stats(|stats| stats.connections == 0);
    assert!(stats.bytes_lost > 100_000);
    assert_eq!((stats.closed("linger_timeout"), stats.timers), (2, 0));
    drop((open, stuck));
    server.end_clean();
}

#[test]
fn what_arrives_after_a_close_is_discarded_and_the_peer_may_finish() {
    let limits = patient().linger(support::PATIENCE);
    let server = Server::with(limits, loopback(), Behaviour::echo());
    let (mut client, id) = server.accept();
    server.on(0, move |cx| cx.close(id));
    assert_eq!(try_read_frame(&mut client).unwrap(), None);
    for _ in 0..100 {
        client.write_all(&support::frame(&[0; 10_000])).unwrap();
    }
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(server.log.until_closed(id).0, "local");
    let stats = server.until_stats(|stats| stats.connections == 0);
    assert_eq!((stats.messages_in, stats.bytes_in), (0, 100 * 10_004));
    server.end_clean();
}

#[test]
fn timers_fire_once_in_order_and_not_when_cancelled() {
    let server = Server::with(patient(), loopback(), Behaviour::echo());
    server.on(0, |cx| {
        for token in (0..100u64).rev() {
            let due = cx.now() + Duration::from_micros(200 * token);
            let timer = cx.set_timer_at(due, token);
            if token % 3 == 0 {
                assert!(cx.cancel_timer(timer));
                assert!(!cx.cancel_timer(timer));
            }
        }
    });
    server.until_stats(|stats| stats.timers_fired == 66 && stats.timers == 0);
    let fired: Vec<u64> = server
        .log
        .all()
        .into_iter()
        .filter_map(|seen| match seen {
            Seen::Timer(token) => Some(token),
            _ => None,
        })
        .collect();
    let expected: Vec<u64> = (0..100).filter(|token| token % 3 != 0).collect();
    assert_eq!(fired, expected);
    server.end_clean();
}

/// A peer of a server which does not read.
struct Unread {
    stream: TcpStream,
    written: usize,
    _server: Server,
}

impl Unread {
    fn of(listener: Listener) -> Self {
        let behaviour = Behaviour::echo().on_connect(|cx, id| {
            cx.pause_reading(id);
        });
        let server = Server::with(patient(), listener, behaviour);
        let (stream, _) = server.accept();
        socket2::SockRef::from(&stream)
            .set_send_buffer_size(8 << 10)
            .unwrap();
        stream.set_nonblocking(true).unwrap();
        Self {
            stream,
            written: 0,
            _server: server,
        }
    }

    /// Writes what there is room for now. Answers how much that was, with all before.
    fn fill(&mut self) -> usize {
        loop {
            match self.stream.write(&[0; 4096]) {
                Ok(n) => self.written += n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return self.written,
                Err(error) => panic!("{error}"),
            }
        }
    }
}

#[test]
fn the_receive_buffer_of_a_connection_is_the_one_asked_for() {
    let mut small = Unread::of(loopback().socket_buffers(Some(4 << 10), None));
    let mut large = Unread::of(loopback().socket_buffers(Some(1 << 20), None));
    // Full is when nothing has gone out for a while. Where that was too short, for the kernel has
    // other things to do, the large one has less to take than it could.
    let mut full = small.fill();
    let mut since = Instant::now();
    eventually("the small one is full", || {
        let now = small.fill();
        if now != full {
            (full, since) = (now, Instant::now());
        }
        (since.elapsed() > Duration::from_millis(100)).then_some(())
    });
    eventually("the large one takes more than twice as much", || {
        (large.fill() > 2 * full).then_some(())
    });
}

#[test]
fn keep_alive_is_on_where_it_was_asked_for() {
    let hour = Duration::from_secs(3600);
    for asked in [false, true] {
        let listener = match asked {
            true => loopback().keep_alive(hour, hour),
            false => loopback(),
        };
        let server = Server::with(patient(), listener, Behaviour::echo());
        let (stream, _) = server.accept();
        assert_eq!(timer_of_peer(&stream), if asked { "02" } else { "00" });
        drop(stream);
        server.end_clean();
    }
}

/// The kind of timer that runs for the server's end of a connection, as the kernel lists it:
/// "02" is keep-alive, "00" none.
fn timer_of_peer(stream: &TcpStream) -> String {
    let here = format!(":{:04X}", stream.local_addr().unwrap().port());
    let there = format!(":{:04X}", stream.peer_addr().unwrap().port());
    let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
    let line = table.lines().find(|line| {
        let mut words = line.split_whitespace().skip(1);
        let ends = (words.next(), words.next());
        matches!(ends, (Some(local), Some(remote))
            if local.ends_with(&there) && remote.ends_with(&here))
    });
    let timer = line.and_then(|line| line.split_whitespace().nth(5));
    timer.expect("the connection is listed")[..2].to_owned()
}

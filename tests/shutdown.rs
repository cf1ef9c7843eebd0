//! Ending: what is queued arrives, what is under way is waited for, what is lost is reported.

mod support;

use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::Ordering;
use std::time::Duration;

use proscenium::{DrainReport, Engine, Limits, RouterId};
use support::{
    Behaviour, Job, PATIENCE, Seen, Server, ask, connect_narrow, eventually, frame, loopback,
    read_frame, try_read_frame,
};

const KIB: usize = 1024;
const BACKLOG: u32 = 300;

fn serve(shards: usize, limits: Limits, behaviour: Behaviour) -> Server {
    let builder = Engine::builder()
        .shards(shards)
        .limits(limits)
        .listen(loopback().socket_buffers(None, Some(8 * KIB)));
    Server::start(builder, behaviour)
}

/// A peer for whom [`BACKLOG`] messages of 1 KiB are queued, of which the kernel took a few.
fn with_backlog(server: &Server) -> (TcpStream, RouterId) {
    let stream = connect_narrow(server.address(), 4 * KIB);
    let id = server.id_of(&stream);
    server.on(id.shard(), move |cx| {
        for number in 0..BACKLOG {
            let mut body = [0; KIB];
            body[..4].copy_from_slice(&number.to_be_bytes());
            cx.send(id, &body).unwrap();
        }
    });
    (stream, id)
}

fn read_backlog(stream: &mut TcpStream) {
    for number in 0..BACKLOG {
        assert_eq!(read_frame(stream)[..4], number.to_be_bytes());
    }
    assert_eq!(try_read_frame(stream).unwrap(), None);
}

fn until_shutdown_began(server: &Server, shards: usize) {
    eventually("on_shutdown", || {
        let began = |seen: &Seen| matches!(seen, Seen::ShutdownBegan(_));
        (server.log.count(began) == shards).then_some(())
    });
}

fn numbers(report: &DrainReport) -> [u64; 4] {
    [
        report.connections,
        report.flushed,
        report.cut,
        report.work_lost,
    ]
}

#[test]
fn queued_bytes_arrive_before_the_end_and_the_report_is_clean() {
    for shards in [1, 2] {
        let server = serve(
            shards,
            Limits::default().linger(PATIENCE),
            Behaviour::echo(),
        );
        let mut peers: Vec<_> = (0..8).map(|_| with_backlog(&server)).collect();
        let idle = server.connect();
        server.id_of(&idle);
        server.handle.shutdown(PATIENCE);
        until_shutdown_began(&server, shards);
        // Nobody new is let in.
        assert!(TcpStream::connect(server.address()).is_err());
        let readers: Vec<_> = peers
            .drain(..)
            .map(|(mut stream, id)| {
                std::thread::spawn(move || {
                    read_backlog(&mut stream);
                    id
                })
            })
            .collect();
        drop(idle);
        let ids: Vec<_> = readers.into_iter().map(|r| r.join().unwrap()).collect();
        let (log, handle) = (server.log.clone(), server.handle.clone());
        let report = server.engine.join();
        assert!(report.is_clean(), "{report}");
        assert_eq!(numbers(&report), [9, 9, 0, 0]);
        assert_eq!((report.bytes_lost, report.mailbox_lost), (0, 0));
        for id in ids {
            assert_eq!(log.until_closed(id).0, "shutdown");
        }
        assert_eq!(handle.stats().total().closes.iter().sum::<u64>(), 9);
    }
}

#[test]
fn a_peer_that_never_reads_is_cut_at_the_deadline_and_its_bytes_reported() {
    for linger in [PATIENCE, Duration::from_millis(20)] {
        let server = serve(1, Limits::default().linger(linger), Behaviour::echo());
        let (stuck, id) = with_backlog(&server);
        let (mut good, _) = with_backlog(&server);
        let reader = std::thread::spawn(move || {
            for number in 0..BACKLOG {
                assert_eq!(read_frame(&mut good)[..4], number.to_be_bytes());
            }
            good
        });
        let mut good = reader.join().unwrap();
        let queued = server.until_stats(|stats| stats.send_queue_bytes > 0);
        let log = server.log.clone();
        let closing = std::thread::spawn(move || {
            assert_eq!(try_read_frame(&mut good).unwrap(), None);
        });
        // Ends with the linger time or the deadline, whichever is first.
        let report = server.engine.shutdown(Duration::from_millis(500));
        closing.join().unwrap();
        assert_eq!(numbers(&report), [2, 1, 1, 0], "{report}");
        assert!(report.bytes_lost > 100 * KIB as u64);
        assert!(report.bytes_lost <= queued.send_queue_bytes);
        assert!(!report.is_clean());
        assert_eq!(log.until_closed(id).0, "shutdown");
        drop(stuck);
    }
}

#[test]
fn work_under_way_is_waited_for_and_connections_live_until_it_is_done() {
    let behaviour = Behaviour::echo();
    let work = behaviour.work.clone();
    let server = serve(1, Limits::default(), behaviour);
    let (mut client, id) = server.accept();
    work.store(3, Ordering::Relaxed);
    server.handle.shutdown(PATIENCE);
    until_shutdown_began(&server, 1);
    for _ in 0..100 {
        ask(&mut client, b"finishing");
    }
    assert!(!server.engine.is_finished());
    let body = b"the result";
    server.on(0, move |cx| cx.send(id, body)).unwrap();
    server
        .handle
        .post(0, Job::new(move |_| work.store(0, Ordering::Relaxed)))
        .unwrap();
    assert_eq!(read_frame(&mut client), body);
    assert_eq!(try_read_frame(&mut client).unwrap(), None);
    drop(client);
    let report = server.engine.join();
    assert!(report.is_clean(), "{report}");
    assert_eq!(numbers(&report), [1, 1, 0, 0]);
}

#[test]
fn work_that_does_not_end_is_reported_and_queues_are_flushed_all_the_same() {
    let behaviour = Behaviour::echo();
    behaviour.work.store(2, Ordering::Relaxed);
    let server = serve(2, Limits::default(), behaviour);
    let (mut client, id) = server.accept();
    server
        .on(id.shard(), move |cx| cx.send(id, b"last words"))
        .unwrap();
    let report = server.engine.shutdown(Duration::from_millis(100));
    assert_eq!(report.work_lost, 4, "two on each shard");
    assert!(!report.is_clean());
    assert_eq!((report.cut, report.bytes_lost), (0, 0), "{report}");
    assert_eq!(read_frame(&mut client), b"last words");
}

/// Peers that never fall silent do not keep a shutdown from going on to its next phase.
#[test]
fn a_flood_does_not_use_up_the_time_for_flushing() {
    let limits = Limits::default().linger(Duration::from_millis(50));
    let server = serve(1, limits, Behaviour::sink());
    let floods: Vec<_> = (0..4)
        .map(|_| {
            let (mut stream, _) = server.accept();
            std::thread::spawn(move || {
                let bytes = frame(&[0; 60_000]).repeat(16);
                while stream.write_all(&bytes).is_ok() {}
            })
        })
        .collect();
    server.until_stats(|stats| stats.bytes_in > 10_000_000);
    let within = Duration::from_secs(20);
    let report = server.engine.shutdown(within);
    for flood in floods {
        flood.join().unwrap();
    }
    assert_eq!((report.connections, report.cut), (4, 0), "{report}");
    assert!(report.elapsed < within, "{report}");
}

#[test]
fn a_handler_may_end_the_engine_and_messages_in_mailboxes_are_handled_first() {
    let server = serve(2, Limits::default(), Behaviour::echo());
    let (count, counted) = std::sync::mpsc::channel();
    server.on(0, move |cx| {
        for to in [0, 1] {
            for _ in 0..1000 {
                let count = count.clone();
                let job = Job::new(move |_| count.send(()).unwrap());
                cx.post(to, job).unwrap();
            }
        }
        cx.shutdown(PATIENCE);
    });
    let report = server.engine.join();
    assert!(report.is_clean(), "{report}");
    assert_eq!(counted.iter().count(), 2000);
}

#[test]
fn dropping_an_engine_shuts_it_down() {
    let server = serve(1, Limits::default(), Behaviour::echo());
    let (mut client, _) = server.accept();
    let reader = std::thread::spawn(move || {
        assert_eq!(read_frame(&mut client), b"left behind");
        assert_eq!(try_read_frame(&mut client).unwrap(), None);
    });
    let id = server.nth(0);
    server.on(0, move |cx| cx.send(id, b"left behind")).unwrap();
    let handle = server.handle.clone();
    drop(server);
    reader.join().unwrap();
    assert_eq!(handle.stats().total().closed("shutdown"), 1);
}

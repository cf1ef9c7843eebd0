//! A handler that blocks is reported while it does, with what it was given last.

mod support;

use std::io::Write;
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use proscenium::Stall;
use support::{Behaviour, PATIENCE, Server, engine, frame, loopback, read_frame};

/// After so long without a report there was one before.
const REPORT: Duration = Duration::from_secs(1);

#[test]
fn a_handler_that_blocks_is_reported_once_while_it_blocks() {
    const THRESHOLD: Duration = Duration::from_millis(20);
    let (tell, told) = mpsc::channel::<Stall>();
    let (first, told_first) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let released = Mutex::new(released);
    let behaviour = Behaviour::on_message(move |cx, from, message| {
        if message.is_empty() {
            released.lock().unwrap().recv_timeout(PATIENCE).unwrap();
        }
        cx.send(from, &message).unwrap();
    });
    let builder = engine()
        .shards(2)
        .listen(loopback())
        .stall_after(THRESHOLD)
        .on_stall(move |_| first.send(()).unwrap())
        .on_stall(move |stall| {
            tell.send(stall.clone()).unwrap();
            panic!("a hook that panics is called again all the same");
        });
    let server = Server::start(builder, behaviour);
    let (mut client, id) = server.accept();
    // A slow machine finds other stalls too. If one was in the very slice of our message, before
    // the handler began, there is no second report of that slice, and we try again.
    let mut reports = 0;
    let deadline = Instant::now() + PATIENCE;
    while reports < 2 {
        assert!(Instant::now() < deadline, "no report");
        client.write_all(&frame(b"")).unwrap();
        while let Ok(stall) = told.recv_timeout(REPORT) {
            assert!(stall.taken >= THRESHOLD, "{stall:?}");
            if stall.last_connection == Some(id) {
                reports += 1;
                assert_eq!(stall.shard, id.shard());
                let counted = server.handle.stats().shards[stall.shard].stalls;
                assert!(counted >= reports, "{counted}");
                break;
            }
        }
        release.send(()).unwrap();
        assert_eq!(read_frame(&mut client), b"");
    }
    drop(client);
    server.end_clean();
    assert!(told_first.try_recv().is_err(), "the last hook counts");
}

#[test]
fn without_a_threshold_nobody_watches() {
    let calls = Arc::new(Mutex::new(0));
    let called = Arc::clone(&calls);
    let builder = engine()
        .stall_after(Duration::ZERO)
        .on_stall(move |_| *called.lock().unwrap() += 1);
    let server = Server::start(builder, Behaviour::sink());
    server.on(0, |_| std::thread::sleep(Duration::from_millis(50)));
    server.end_clean();
    assert_eq!(*calls.lock().unwrap(), 0);
}

//! A shard in somebody else's loop: `poll(2)` on its descriptor, turns without waiting.

mod support;

use std::cell::Cell;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::mpsc;
use std::time::Duration;

use proscenium::{Context, Engine, Handler, Message, Peer, RouterId, Shard};
use support::{
    Behaviour, Job, Log, PATIENCE, Probe, Seen, connect, frame, loopback, on_shard, read_frame,
    tcp_address, try_read_frame,
};

fn host(behaviour: &Behaviour) -> (Shard<Probe>, Log) {
    let log = Log::default();
    let handler = behaviour.handler(&log);
    let shard = Engine::builder().listen(loopback()).host(handler).unwrap();
    (shard, log)
}

/// Waits as a host does: until the descriptor is readable, no longer than the shard asks for.
/// Fails the test when neither happens for too long.
fn wait<H: Handler>(shard: &Shard<H>) {
    let patience = i32::try_from(PATIENCE.as_millis()).unwrap();
    let timeout = match shard.next_deadline() {
        // Rounded up: poll counts in milliseconds.
        Some(rest) => i32::try_from(rest.as_micros().div_ceil(1000)).unwrap_or(patience),
        None => patience,
    };
    let mut poll = libc::pollfd {
        fd: shard.as_fd().as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one valid `pollfd`, which lives for the call.
    let ready = unsafe { libc::poll(&raw mut poll, 1, timeout.min(patience)) };
    assert!(ready >= 0, "{}", std::io::Error::last_os_error());
    assert!(ready > 0 || timeout < patience, "nothing happened at all");
}

/// Drives the shard until `done`.
fn drive<H: Handler>(shard: &mut Shard<H>, mut done: impl FnMut(&mut Shard<H>) -> bool) {
    while !done(shard) {
        wait(shard);
        shard.turn(Duration::ZERO).unwrap();
    }
}

#[test]
fn messages_timers_and_posts_come_through_a_poll_loop() {
    let (mut shard, log) = host(&Behaviour::echo());
    let address = tcp_address(&shard.local_addrs()[0]);
    let handle = shard.handle();
    let (done, is_done) = mpsc::channel();
    let client = std::thread::spawn(move || {
        let mut stream = connect(address);
        for number in 0..1_000u32 {
            // One at a time, and the shard asleep in between: each has to wake the poll.
            stream.write_all(&frame(&number.to_be_bytes())).unwrap();
            assert_eq!(read_frame(&mut stream), number.to_be_bytes());
            if number % 10 == 0 {
                let answer = on_shard(&handle, 0, move |_| number);
                assert_eq!(answer, number);
            }
        }
        on_shard(&handle, 0, |cx| {
            for token in 0..20 {
                cx.set_timer(Duration::from_millis(token), token);
            }
        });
        done.send(()).unwrap();
        stream
    });
    drive(&mut shard, |_| is_done.try_recv().is_ok());
    let timers = |seen: &Seen| matches!(seen, Seen::Timer(_));
    // Nothing but the deadline ends these waits.
    drive(&mut shard, |_| log.count(timers) == 20);
    let mut stream = client.join().unwrap();
    assert!(
        shard.next_deadline().is_none(),
        "nothing is left to wait for"
    );

    // Between turns the host may send, and call the handler.
    let id = log.connected()[0];
    shard.send(id, b"between turns").unwrap();
    assert_eq!(shard.next_deadline(), Some(Duration::ZERO));
    let queued = shard.with(|_, cx| {
        cx.send(id, b"from within").unwrap();
        cx.queued_bytes(id)
    });
    assert_eq!(queued, Some(4 + 13 + 4 + 11));
    shard.turn(Duration::ZERO).unwrap();
    assert_eq!(read_frame(&mut stream), b"between turns");
    assert_eq!(read_frame(&mut stream), b"from within");

    shard.handle().shutdown(PATIENCE);
    let reader = std::thread::spawn(move || {
        assert_eq!(try_read_frame(&mut stream).unwrap(), None);
    });
    drive(&mut shard, |shard| shard.stopped().is_some());
    reader.join().unwrap();
    assert!(shard.stopped().unwrap().is_clean());
}

#[test]
fn wakes_posts_and_closes_from_other_threads_end_the_poll() {
    let (mut shard, log) = host(&Behaviour::echo());
    let handle = shard.handle();
    let (go, gone) = mpsc::channel::<()>();
    let (ran, runs) = mpsc::channel();
    // Answers each go with a wake or a post, never before the shard has gone to sleep for the
    // last one.
    let other = std::thread::spawn(move || {
        let waker = handle.waker(0, 7).unwrap();
        for number in 0.. {
            if gone.recv().is_err() {
                return;
            }
            if number % 2 == 0 {
                waker.wake();
            } else {
                let ran = ran.clone();
                let job = Job::new(move |_| ran.send(()).unwrap());
                handle.post(0, job).unwrap();
            }
        }
    });
    let wakes = |seen: &Seen| matches!(seen, Seen::Woken(7));
    for round in 0..1_000 {
        go.send(()).unwrap();
        if round % 2 == 0 {
            drive(&mut shard, |_| log.count(wakes) == round / 2 + 1);
        } else {
            drive(&mut shard, |_| runs.try_recv().is_ok());
        }
    }
    drop(go);
    other.join().unwrap();
}

#[test]
fn a_hosted_engine_has_one_shard() {
    let log = Log::default();
    let two = Engine::builder()
        .shards(2)
        .host(Behaviour::echo().handler(&log));
    let error = two.expect_err("two shards need two threads");
    assert!(error.to_string().contains("not 2"), "{error}");
}

/// Tags its connections from 1 on, and counts the messages before which theirs was announced.
#[derive(Default)]
struct Foresight {
    connections: u64,
    announced: Cell<u64>,
    messages: usize,
    foreseen: usize,
}

impl Handler for Foresight {
    type Post = ();

    fn on_connect(&mut self, cx: &mut Context<'_, ()>, id: RouterId, _: &Peer) {
        self.connections += 1;
        assert!(cx.set_tag(id, self.connections));
    }

    fn prefetch(&self, tag: u64) {
        self.announced.set(tag);
    }

    fn on_message(&mut self, cx: &mut Context<'_, ()>, from: RouterId, _: Message<'_>) {
        self.messages += 1;
        self.foreseen += usize::from(self.announced.get() == cx.tag(from));
    }
}

#[test]
fn a_handler_is_told_whose_messages_come_next() {
    const CLIENTS: usize = 8;
    const ROUNDS: usize = 20;
    let listening = Engine::builder().listen(loopback());
    let mut shard = listening.host(Foresight::default()).unwrap();
    let address = tcp_address(&shard.local_addrs()[0]);
    let mut streams = [(); CLIENTS].map(|()| connect(address));
    for round in 1..=ROUNDS {
        for stream in &mut streams {
            stream.write_all(&frame(b"on its way")).unwrap();
        }
        drive(&mut shard, |shard| {
            shard.with(|handler, _| handler.messages == round * CLIENTS)
        });
    }
    // A hint: what else the system had to say of a connection may come between.
    let foreseen = shard.with(|handler, _| handler.foreseen);
    assert!(foreseen > ROUNDS * CLIENTS / 2, "{foreseen} foreseen");
}

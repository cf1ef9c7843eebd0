//! Handles: full mailboxes and their recovery, order per sender, wakers, the end.

mod support;

use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use proscenium::{Address, Connector, Handle, PostError, RouterId, SendError};
use support::{
    Behaviour, Job, PATIENCE, Seen, Server, ask, engine, eventually, loopback, patient, read_frame,
};

/// Keeps a shard from doing anything until dropped.
struct Blocked {
    release: Option<mpsc::Sender<()>>,
}

impl Blocked {
    fn new(server: &Server) -> Self {
        let (release, released) = mpsc::channel::<()>();
        let (began, begun) = mpsc::channel();
        let job = Job::new(move |_| {
            began.send(()).unwrap();
            let _ = released.recv_timeout(PATIENCE);
        });
        server.handle.post(0, job).unwrap();
        begun.recv_timeout(PATIENCE).unwrap();
        Self {
            release: Some(release),
        }
    }

    fn release(&mut self) {
        self.release = None;
    }
}

#[test]
fn a_full_mailbox_says_so_gives_the_message_back_and_recovers() {
    const ROOM: usize = 8;
    let limits = patient().mailbox_max(ROOM);
    let server = Server::with(limits, loopback(), Behaviour::echo());
    let (mut client, id) = server.accept();
    let mut blocked = Blocked::new(&server);
    let ran = Arc::new(Mutex::new(Vec::new()));
    let job = |number: usize| {
        let ran = Arc::clone(&ran);
        Job::new(move |_| ran.lock().unwrap().push(number))
    };
    for number in 0..ROOM {
        assert!(server.handle.post(0, job(number)).is_ok());
    }
    assert_eq!(server.stats().mailbox_len, ROOM as u64);
    let Err(PostError::Full(given_back)) = server.handle.post(0, job(ROOM)) else {
        panic!("there is no room")
    };
    assert_eq!(server.handle.send(id, &b"full"[..]), Err(SendError::Full));
    assert_eq!(server.handle.close(id), Err(SendError::Full));
    let somewhere = Connector::to(Address::from(server.address()));
    assert_eq!(server.handle.connect(0, somewhere), Err(SendError::Full));
    let short = Duration::from_millis(5);
    assert_eq!(
        server.handle.send_timeout(id, &b"late"[..], short),
        Err(SendError::Full)
    );
    assert!(matches!(
        server.handle.post_timeout(0, job(99), short),
        Err(PostError::Full(_))
    ));
    // Somebody waits for room while there is none, and gets it.
    let handle = server.handle.clone();
    let waiting = std::thread::spawn(move || handle.send_timeout(id, &b"waited"[..], PATIENCE));
    blocked.release();
    assert_eq!(waiting.join().unwrap(), Ok(()));
    assert_eq!(read_frame(&mut client), b"waited");
    server.handle.post_timeout(0, given_back, PATIENCE).unwrap();
    eventually("all that was accepted has run, in order", || {
        (*ran.lock().unwrap() == (0..=ROOM).collect::<Vec<_>>()).then_some(())
    });
    ask(&mut client, b"as before");
    drop(client);
    server.end_clean();
}

fn keep_trying(mut attempt: impl FnMut() -> Result<(), SendError>) {
    eventually("there is room", || match attempt() {
        Ok(()) => Some(()),
        Err(SendError::Full) => None,
        Err(error) => panic!("{error}"),
    });
}

/// Sender and number of a message.
fn numbered(sender: u32, number: u32) -> [u8; 8] {
    let mut body = [0; 8];
    body[..4].copy_from_slice(&sender.to_be_bytes());
    body[4..].copy_from_slice(&number.to_be_bytes());
    body
}

fn send_all(handle: &Handle<Job>, to: RouterId, sender: u32, count: u32) {
    for number in 0..count {
        let body = Bytes::copy_from_slice(&numbered(sender, number));
        handle.send_timeout(to, body, PATIENCE).unwrap();
    }
}

#[test]
fn sends_arrive_in_order_per_sender_from_threads_and_shards() {
    const SHARDS: usize = 3;
    const THREADS: u32 = 3;
    const MESSAGES: u32 = 5_000;
    let builder = engine()
        .shards(SHARDS)
        .limits(patient().mailbox_max(64))
        .listen(loopback());
    let server = Server::start(builder, Behaviour::echo());
    let (mut client, id) = server.accept();
    let mut senders = Vec::new();
    for sender in 0..THREADS {
        let handle = server.handle.clone();
        senders.push(std::thread::spawn(move || {
            send_all(&handle, id, sender, MESSAGES);
        }));
    }
    for shard in 0..SHARDS {
        // Each shard is a sender of its own; it goes on where it left off when told `Full`.
        let handle = server.handle.clone();
        let sender = THREADS + shard as u32;
        senders.push(std::thread::spawn(move || {
            let mut next = 0;
            while next < MESSAGES {
                next = support::on_shard(&handle, shard, move |cx| {
                    let mut next = next;
                    while next < MESSAGES && cx.send(id, &numbered(sender, next)).is_ok() {
                        next += 1;
                    }
                    next
                });
            }
        }));
    }
    let count = THREADS + SHARDS as u32;
    let mut expected = vec![0; count as usize];
    for _ in 0..count * MESSAGES {
        let body = read_frame(&mut client);
        let sender = u32::from_be_bytes(body[..4].try_into().unwrap());
        let number = &mut expected[sender as usize];
        assert_eq!(body, numbered(sender, *number));
        *number += 1;
    }
    for sender in senders {
        sender.join().unwrap();
    }
    assert_eq!(server.stats().dropped, 0);
    drop(client);
    server.end_clean();
}

#[test]
fn posts_arrive_in_order_per_sender_on_every_shard() {
    const SHARDS: usize = 3;
    const THREADS: usize = 4;
    const POSTS: usize = 5_000;
    let builder = engine().shards(SHARDS).limits(patient().mailbox_max(128));
    let server = Server::start(builder, Behaviour::echo());
    // Per shard and thread, the numbers as they came.
    let came: Arc<Vec<Mutex<Vec<usize>>>> =
        Arc::new((0..SHARDS * THREADS).map(|_| Mutex::default()).collect());
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| {
            let (handle, came) = (server.handle.clone(), Arc::clone(&came));
            std::thread::spawn(move || {
                for number in 0..POSTS {
                    for shard in 0..SHARDS {
                        let came = Arc::clone(&came);
                        let job = Job::new(move |cx| {
                            assert_eq!(cx.shard(), shard);
                            came[shard * THREADS + thread].lock().unwrap().push(number);
                        });
                        handle.post_timeout(shard, job, PATIENCE).unwrap();
                    }
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    server.until_stats(|stats| stats.mailbox_items >= (SHARDS * THREADS * POSTS) as u64);
    for numbers in came.iter() {
        assert!(*numbers.lock().unwrap() == (0..POSTS).collect::<Vec<_>>());
    }
    server.end_clean();
}

#[test]
fn a_shard_may_post_to_itself_and_to_others() {
    let server = Server::start(engine().shards(2), Behaviour::echo());
    let (seen, sees) = mpsc::channel();
    server.on(0, move |cx| {
        for to in [0, 1, 0] {
            let seen = seen.clone();
            cx.post(to, Job::new(move |cx| seen.send(cx.shard()).unwrap()))
                .unwrap();
        }
        let nobody = cx.post(2, Job::new(|_| {}));
        assert!(matches!(nobody, Err(PostError::Stopped(_))));
    });
    let mut shards: Vec<_> = (0..3)
        .map(|_| sees.recv_timeout(PATIENCE).unwrap())
        .collect();
    shards.sort_unstable();
    assert_eq!(shards, [0, 0, 1]);
    server.end_clean();
}

#[test]
fn a_wake_needs_no_room_and_is_never_lost() {
    let limits = patient().mailbox_max(1);
    let server = Server::with(limits, loopback(), Behaviour::echo());
    let woken = |token| {
        server
            .log
            .count(|seen| matches!(seen, Seen::Woken(woken) if *woken == token))
    };
    let mut blocked = Blocked::new(&server);
    while server.handle.post(0, Job::new(|_| {})).is_ok() {}
    let wakers: Vec<_> = (0..50)
        .map(|token| server.handle.waker(0, token).unwrap())
        .collect();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..100 {
                    wakers.iter().for_each(|waker| waker.wake());
                }
            });
        }
    });
    blocked.release();
    for token in 0..50 {
        eventually("the wake arrives", || (woken(token) > 0).then_some(()));
        assert!(woken(token) <= 2, "wakes of a busy shard become one");
    }
    // Each one again, one by one, while the shard sleeps.
    for token in 0..50 {
        let before = woken(token);
        wakers[token as usize].wake();
        eventually("the wake arrives", || {
            (woken(token) == before + 1).then_some(())
        });
    }
    server.end_clean();
}

#[test]
fn after_the_end_everything_is_refused_and_harmless() {
    let server = Server::with(patient(), loopback(), Behaviour::echo());
    let (mut client, id) = server.accept();
    ask(&mut client, b"before");
    let waker = server.handle.waker(0, 1).unwrap();
    let handle = server.handle.clone();
    let address = server.address();
    drop(client);
    server.end_clean();
    assert_eq!(handle.send(id, &b"late"[..]), Err(SendError::Gone));
    let waited = handle.send_timeout(id, &b"late"[..], PATIENCE);
    assert_eq!(waited, Err(SendError::Gone));
    assert_eq!(handle.close(id), Err(SendError::Gone));
    assert_eq!(
        handle.connect(0, Connector::to(address)),
        Err(SendError::Gone)
    );
    assert!(matches!(
        handle.post(0, Job::new(|_| {})),
        Err(PostError::Stopped(_))
    ));
    let too_long = vec![0; (2 << 20) + 1];
    assert!(matches!(
        handle.send(id, too_long),
        Err(SendError::TooLong { length, limit }) if (length, limit) == ((2 << 20) + 1, 2 << 20)
    ));
    waker.wake();
    handle.shutdown(PATIENCE);
    assert_eq!(handle.stats().total().connections, 0);
}

#[test]
fn a_handle_closes_and_counts_what_is_gone() {
    let server = Server::with(patient(), loopback(), Behaviour::echo());
    let (mut client, id) = server.accept();
    keep_trying(|| server.handle.send(id, &b"bye"[..]));
    keep_trying(|| server.handle.close(id));
    keep_trying(|| server.handle.send(id, &b"too late"[..]));
    assert_eq!(read_frame(&mut client), b"bye");
    assert_eq!(support::try_read_frame(&mut client).unwrap(), None);
    drop(client);
    assert_eq!(server.log.until_closed(id).0, "local");
    server.until_stats(|stats| stats.sends_gone == 1);
    server.end_clean();
}

//! No heap allocation per message: the framed echo path is counted, on the shard's thread.

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{BufReader, Write};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use proscenium::{Context, Engine, Handler, Listener, Message, RouterId, Shard};
use support::{connect, frame, loopback, tcp_address, try_read_frame};

struct Counting;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    COUNT.with(|count| count.set(count.get() + 1));
}

/// Allocations of this thread so far.
fn allocations() -> u64 {
    COUNT.with(Cell::get)
}

// SAFETY: everything is passed on to the system's allocator as it came; counting touches a
// thread-local cell without a destructor and allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(old, layout, size) }
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(old, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const MESSAGES: u64 = 100_000;
const WARM_UP: u64 = 20_000;
/// Stretches of [`MESSAGES`] among which one must be without an allocation.
const WINDOWS_MAX: usize = 5;
/// Requests that a client has under way.
const IN_FLIGHT: usize = 30;
const CLIENTS: usize = 4;

#[derive(Clone, Copy)]
enum Way {
    Copied,
    Forwarded,
    Encoded,
    Shared,
}

struct Echo {
    way: Way,
    answer: Bytes,
    messages: u64,
}

impl Handler for Echo {
    type Post = ();

    fn on_message(&mut self, cx: &mut Context<'_, ()>, from: RouterId, message: Message<'_>) {
        self.messages += 1;
        // A peer that has gone at the end of the test is no matter here.
        let _ = match self.way {
            Way::Copied => cx.send(from, &message),
            Way::Forwarded => cx.forward(from, &message),
            Way::Encoded => {
                let encode = |room: &mut [u8]| {
                    room[..message.len()].copy_from_slice(&message);
                    message.len()
                };
                cx.send_with(from, 4096, encode).map(drop)
            }
            Way::Shared => cx.send_shared(from, &self.answer),
        };
    }
}

/// Sends batches of messages of mixed lengths, each when the last one has been answered, until
/// the server closes.
fn client(address: SocketAddr) {
    let mut stream = connect(address);
    let lengths = [0, 1, 64, 1000, 1024, 4000];
    let batch: Vec<u8> = (0..IN_FLIGHT)
        .flat_map(|n| frame(&vec![n as u8; lengths[n % lengths.len()]]))
        .collect();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    while stream.write_all(&batch).is_ok() {
        for _ in 0..IN_FLIGHT {
            let Ok(Some(_)) = try_read_frame(&mut reader) else {
                return;
            };
        }
    }
}

fn turn_until(shard: &mut Shard<Echo>, messages: u64) {
    while shard.handler().messages < messages {
        shard.turn(Duration::from_millis(100)).unwrap();
    }
}

/// Messages handled and allocations meanwhile, after a warm-up, in the best of a few windows.
fn measure(way: Way, answer: Bytes) -> (u64, u64) {
    measure_on(loopback(), client, way, answer)
}

/// The same on another listener, with clients that fit.
fn measure_on(listener: Listener, client: fn(SocketAddr), way: Way, answer: Bytes) -> (u64, u64) {
    let echo = Echo {
        way,
        answer,
        messages: 0,
    };
    let mut shard = Engine::builder().listen(listener).host(echo).unwrap();
    let address = tcp_address(&shard.local_addrs()[0]);
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| std::thread::spawn(move || client(address)))
        .collect();
    turn_until(&mut shard, WARM_UP);
    // The pools grow until they have seen the most that is ever under way at once. A window in
    // which that happens is followed by another; one that allocates by the message never ends.
    let mut window = || {
        let (before, from) = (allocations(), shard.handler().messages);
        turn_until(&mut shard, from + MESSAGES);
        (shard.handler().messages - from, allocations() - before)
    };
    let mut best = window();
    for _ in 1..WINDOWS_MAX {
        if best.1 > 0 {
            best = std::cmp::min_by_key(best, window(), |(_, counted)| *counted);
        }
    }
    shard.handle().shutdown(Duration::from_millis(10));
    while shard.stopped().is_none() {
        shard.turn(Duration::from_millis(10)).unwrap();
    }
    drop(shard);
    for client in clients {
        client.join().unwrap();
    }
    best
}

#[test]
fn echoing_allocates_nothing() {
    let (handled, counted) = measure(Way::Copied, Bytes::new());
    assert!(handled >= MESSAGES);
    assert_eq!(counted, 0, "allocations in {handled} messages");
}

#[test]
fn forwarding_allocates_nothing() {
    let (handled, counted) = measure(Way::Forwarded, Bytes::new());
    assert!(handled >= MESSAGES);
    assert_eq!(counted, 0, "allocations in {handled} messages");
}

#[test]
fn encoding_in_place_allocates_nothing() {
    let (handled, counted) = measure(Way::Encoded, Bytes::new());
    assert!(handled >= MESSAGES);
    assert_eq!(counted, 0, "allocations in {handled} messages");
}

#[test]
fn short_shared_bodies_allocate_nothing() {
    let (handled, counted) = measure(Way::Shared, Bytes::from_static(&[1; 1023]));
    assert!(handled >= MESSAGES);
    assert_eq!(counted, 0, "allocations in {handled} messages");
}

/// Long ones wait in a chain of segments, which is made when a connection has such a body under
/// way and given back when all is written: a few allocations for a batch, none for the bodies.
#[test]
fn long_shared_bodies_allocate_by_the_batch_at_most() {
    let (handled, counted) = measure(Way::Shared, Bytes::from_static(&[1; 8192]));
    assert!(handled >= MESSAGES);
    assert!(
        counted < handled,
        "{counted} allocations in {handled} messages"
    );
}

/// Frames are unmasked where they are; headers are written in place.
#[cfg(feature = "ws")]
mod web_socket {
    use std::io::Read;

    use proscenium::framing::websocket::handshake::Opening;
    use proscenium::framing::websocket::{FrameHeader, HEADER_MAX, Opcode, apply_mask};
    use proscenium::{Framing, WebSocketServer};

    use super::*;

    fn client(address: SocketAddr) {
        const KEY: [u8; 4] = [1, 2, 3, 4];
        let mut stream = connect(address);
        let opening = Opening::new("localhost", "/ws").unwrap();
        let request = opening.request(&Opening::key([1; 16]));
        stream.write_all(request.as_bytes()).unwrap();
        let (mut batch, mut answered) = (Vec::new(), 0);
        for n in 0..IN_FLIGHT {
            let body = vec![n as u8; [0, 1, 64, 125, 126, 1024, 4000][n % 7]];
            let mut out = [0; HEADER_MAX];
            let header = FrameHeader::new(Opcode::Binary, body.len()).masked(KEY);
            let len = header.encode(&mut out);
            batch.extend_from_slice(&out[..len]);
            let begin = batch.len();
            batch.extend_from_slice(&body);
            apply_mask(&mut batch[begin..], KEY);
            answered += FrameHeader::encoded_len(body.len(), false) + body.len();
        }
        let mut answer = vec![0; 129]; // the response of the handshake, always the same
        while stream.read_exact(&mut answer).is_ok() && stream.write_all(&batch).is_ok() {
            answer.resize(answered, 0);
        }
    }

    fn measured(way: Way) -> (u64, u64) {
        let listener = loopback()
            .framing(Framing::Raw)
            .web_socket(&WebSocketServer::new());
        measure_on(listener, client, way, Bytes::from_static(&[1; 1023]))
    }

    #[test]
    fn echoing_in_web_sockets_allocates_nothing() {
        let (handled, counted) = measured(Way::Copied);
        assert!(handled >= MESSAGES);
        assert_eq!(counted, 0, "allocations in {handled} messages");
    }

    #[test]
    fn encoding_in_place_in_web_sockets_allocates_nothing() {
        let (handled, counted) = measured(Way::Encoded);
        assert!(handled >= MESSAGES);
        assert_eq!(counted, 0, "allocations in {handled} messages");
    }
}

//! No heap allocation per message: the framed echo path is counted, on the shard's thread.

#[path = "support/counting.rs"]
mod counting;
mod support;
#[cfg(feature = "tls")]
#[path = "support/tls.rs"]
mod tls;

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use counting::{Counting, counted};
use proscenium::{Context, Engine, Handler, Listener, Message, RouterId};
use support::{ask_in_batches, connect, loopback, tcp_address};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const MESSAGES: u64 = 100_000;
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

/// Messages handled and allocations meanwhile, after a warm-up, in the best of a few windows.
fn measure(way: Way, answer: Bytes) -> (u64, u64) {
    measure_with(way, answer, loopback(), |address| {
        ask_in_batches(connect(address))
    })
}

fn measure_with(
    way: Way,
    answer: Bytes,
    listener: Listener,
    client: impl Fn(SocketAddr) + Clone + Send + 'static,
) -> (u64, u64) {
    let echo = Echo {
        way,
        answer,
        messages: 0,
    };
    let mut shard = Engine::builder().listen(listener).host(echo).unwrap();
    let address = tcp_address(&shard.local_addrs()[0]);
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let client = client.clone();
            std::thread::spawn(move || client(address))
        })
        .collect();
    let best = counted(MESSAGES, |messages| {
        while shard.handler().messages < messages {
            shard.turn(Duration::from_millis(100)).unwrap();
        }
        shard.handler().messages
    });
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

#[cfg(feature = "tls")]
fn measure_tls(way: Way) -> (u64, u64) {
    let authority = tls::Authority::new();
    let listener = loopback().tls(&authority.server().build().unwrap());
    let config = std::sync::Arc::new(authority.foreign());
    measure_with(
        way,
        Bytes::from_static(&[1; 1023]),
        listener,
        move |address| {
            ask_in_batches(tls::foreign(address, &config, tls::NAME));
        },
    )
}

/// rustls takes a few vectors for each record; a record holds all that was sent together.
#[cfg(feature = "tls")]
#[test]
fn echoing_over_tls_allocates_by_the_record_not_by_the_message() {
    for way in [Way::Copied, Way::Forwarded, Way::Encoded, Way::Shared] {
        let (handled, counted) = measure_tls(way);
        assert!(handled >= MESSAGES);
        assert!(
            counted < handled,
            "{counted} allocations in {handled} messages"
        );
    }
}

/// Frames are unmasked where they are; headers are written in place.
#[cfg(feature = "ws")]
mod web_socket {
    use std::io::{Read, Write};

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
        for n in 0..30_usize {
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
        measure_with(way, Bytes::new(), listener, client)
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

//! What handlers leave of long messages of their own framing comes again, with its rest behind it.

mod support;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use proscenium::{Context, Engine, Framing, Limits, Message, RouterId};
use support::{Behaviour, Job, Seen, Server, loopback};

const KIB: usize = 1024;
/// Bytes before each body: its length.
const HEAD: usize = 4;

/// What the handler did.
#[derive(Default)]
struct Counts {
    /// Calls that left something.
    left: AtomicUsize,
    /// Calls that wanted to and had to keep it themselves.
    kept: AtomicUsize,
    /// Messages that went back without a copy.
    relayed: AtomicUsize,
}

/// Sends every message back: by turns as a relay and as a copy.
fn echo(counts: &Arc<Counts>) -> Behaviour {
    let counts = Arc::clone(counts);
    let kept: Mutex<HashMap<RouterId, Vec<u8>>> = Mutex::default();
    Behaviour::on_message(move |cx, from, message| {
        let mut kept = kept.lock().unwrap();
        let own = kept.entry(from).or_default();
        if own.is_empty() {
            let (at, needs) = take(cx, from, &message, Some(message), &counts);
            let rest = message.len() - at;
            if rest > 0 && cx.leave(from, rest, needs) {
                counts.left.fetch_add(1, Ordering::Relaxed);
            } else {
                counts
                    .kept
                    .fetch_add(usize::from(rest > 0), Ordering::Relaxed);
                own.extend_from_slice(&message[at..]);
            }
        } else {
            own.extend_from_slice(&message);
            let (at, _) = take(cx, from, own, None, &counts);
            own.drain(..at);
        }
    })
}

/// Answers the whole messages in `bytes`; returns where they end, and how many bytes the next one
/// has.
fn take(
    cx: &mut Context<'_, Job>,
    from: RouterId,
    bytes: &[u8],
    received: Option<Message<'_>>,
    counts: &Counts,
) -> (usize, usize) {
    let mut at = 0;
    loop {
        let rest = &bytes[at..];
        let Some(head) = rest.first_chunk::<HEAD>() else {
            return (at, rest.len() + 1);
        };
        let needs = HEAD + u32::from_le_bytes(*head) as usize;
        if rest.len() < needs {
            return (at, needs);
        }
        let part = received.map(|message| message.slice(at + HEAD..at + needs));
        let relays = head[0] % 3 != 0 && cx.forwards_behind(from, needs);
        if relays && cx.forward_behind(from, head.to_vec(), part.as_ref()) {
            counts.relayed.fetch_add(1, Ordering::Relaxed);
            if part.is_none() {
                // A head alone: its body is a second one.
                let body = rest[HEAD..needs].to_vec();
                assert!(
                    cx.forward_behind(from, body.clone(), None) || cx.send(from, &body).is_ok()
                );
            }
        } else {
            cx.send(from, &rest[..needs]).unwrap();
        }
        at += needs;
    }
}

/// One that writes messages of these lengths in pieces, and reads them back meanwhile.
fn client(mut stream: TcpStream, lengths: Vec<usize>, piece: usize) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let message = |(n, &length): (usize, &usize)| {
            let body = (0..length).map(move |at| (at / 3 + at / 251 + n) as u8);
            (length as u32).to_le_bytes().into_iter().chain(body)
        };
        let sent: Vec<u8> = lengths.iter().enumerate().flat_map(message).collect();
        let (mut writer, bytes) = (stream.try_clone().unwrap(), sent.clone());
        let writing = thread::spawn(move || {
            for piece in bytes.chunks(piece) {
                writer.write_all(piece).unwrap();
            }
        });
        let mut back = vec![0; sent.len()];
        stream.read_exact(&mut back).unwrap();
        assert!(back == sent, "{lengths:?} in pieces of {piece}");
        writing.join().unwrap();
    })
}

fn server(limits: Limits, counts: &Arc<Counts>) -> Server {
    // Nothing is refused however late a client reads.
    let limits = limits.send_high(16 << 20).send_queue_max(16 << 20);
    Server::with(limits, loopback().framing(Framing::Raw), echo(counts))
}

#[test]
fn what_one_connection_leaves_is_completed_in_place() {
    let counts = Arc::new(Counts::default());
    let limits = Limits::default()
        .receive_chunk(256 * KIB)
        .receive_max(16 * KIB);
    let server = server(limits, &counts);
    let (stream, _) = server.accept();
    let lengths = vec![
        100 * KIB,
        3,
        200 * KIB,
        0,
        256 * KIB - HEAD,
        64 * KIB,
        70_000,
        1,
    ];
    client(stream, lengths, 40_000).join().unwrap();
    server.end_clean();
    // 16 KiB are read at once: each long message was left several times, and was never copied.
    assert!(counts.left.load(Ordering::Relaxed) >= 20);
    assert_eq!(counts.kept.load(Ordering::Relaxed), 0);
    assert!(counts.relayed.load(Ordering::Relaxed) > 0);
}

#[test]
fn messages_longer_than_a_chunk_are_the_handlers() {
    let counts = Arc::new(Counts::default());
    let server = server(Limits::default(), &counts);
    let (stream, _) = server.accept();
    let lengths = vec![64 * KIB, 10, 300 * KIB, 64 * KIB - HEAD, 20];
    client(stream, lengths, 1 << 20).join().unwrap();
    server.end_clean();
    assert!(counts.kept.load(Ordering::Relaxed) > 0);
}

#[test]
fn several_connections_do_not_mix_what_they_leave() {
    let counts = Arc::new(Counts::default());
    for (chunk, most, chunks) in [(256, 16, 16), (64, 64, 2), (16, 4, 1), (128, 64, 1)] {
        let limits = Limits::default()
            .receive_chunk(chunk * KIB)
            .receive_max(most * KIB)
            .receive_chunks_max(chunks);
        let server = server(limits, &counts);
        let clients: Vec<_> = (1..=4)
            .map(|n: usize| {
                let lengths = (0..30)
                    .map(|at| (at * at * 977 * n) % (100 * KIB))
                    .collect();
                client(server.accept().0, lengths, 3000 * n * n)
            })
            .collect();
        for client in clients {
            client.join().unwrap();
        }
        server.end_clean();
    }
    assert!(counts.left.load(Ordering::Relaxed) > 0);
}

/// A connection that is closed with something left leaves nothing to the next one in its place.
#[test]
fn what_a_connection_left_ends_with_it() {
    let counts = Arc::new(Counts::default());
    let limits = Limits::default().receive_chunk(256 * KIB);
    let server = server(limits, &counts);
    for n in 1..=20 {
        let (mut stream, id) = server.accept();
        stream.write_all(&(200 * KIB as u32).to_le_bytes()).unwrap();
        stream.write_all(&vec![n; 10_000]).unwrap();
        support::eventually("it is left", || {
            (counts.left.load(Ordering::Relaxed) >= usize::from(n)).then_some(())
        });
        drop(stream);
        server.log.until_closed(id);
        client(server.accept().0, vec![20_000, 5], 9_000)
            .join()
            .unwrap();
    }
    server.end_clean();
}

/// What a connection has left goes with it to another shard; where that is more than may be kept,
/// it ends, rather than going on without these bytes.
#[test]
fn what_is_left_is_too_much_for_a_connection_that_moves() {
    let limits = Limits::default()
        .frame_max(4 * KIB)
        .reassembly_bytes_max(8 * KIB);
    let builder = Engine::builder().shards(2).limits(limits);
    let behaviour = Behaviour::on_message(|cx, from, message| {
        if message.len() >= 20 * KIB {
            assert!(cx.leave(from, message.len(), 60 * KIB));
            cx.rehome(from, 1 - cx.shard()).unwrap();
        } else {
            cx.leave(from, message.len(), 60 * KIB);
        }
    });
    let server = Server::start(builder.listen(loopback().framing(Framing::Raw)), behaviour);
    let (mut stream, id) = server.accept();
    stream.write_all(&vec![0; 20 * KIB]).unwrap();
    let (reason, _) = server.log.until_closed(id);
    assert_eq!(reason, "reassembly_pressure");
    let moved = |seen: &Seen| matches!(seen, Seen::Adopted { .. } | Seen::Departed { .. });
    assert_eq!(server.log.count(moved), 0);
    server.shutdown();
}

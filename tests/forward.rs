//! Forwarding received messages: without a copy where that is possible, correct where it is not.

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};

use proscenium::{Balance, Body, Context, Framing, Handler, Message, RouterId};
use support::{
    Behaviour, PATIENCE, Server, connect, engine, eventually, frame, loopback, patient, read_frame,
    tcp_address,
};

const KIB: usize = 1024;

/// Keeps every message; the answer to [`GO`] is all of them, to [`FIRST_AND_LAST`] those two.
#[derive(Default)]
struct Keeper {
    kept: Vec<Body>,
}

const GO: &[u8] = b"go";
const FIRST_AND_LAST: &[u8] = b"first and last";

impl Handler for Keeper {
    type Post = ();

    fn on_message(&mut self, cx: &mut Context<'_, ()>, from: RouterId, message: Message<'_>) {
        match &message[..] {
            GO => self.answer(cx, from),
            FIRST_AND_LAST => {
                let (first, last) = (&self.kept[0], &self.kept[self.kept.len() - 1]);
                cx.forward_body(from, first).unwrap();
                cx.forward_body(from, last).unwrap();
                self.kept.clear();
            }
            _ => self.kept.push(message.lease()),
        }
    }
}

impl Keeper {
    fn answer(&mut self, cx: &mut Context<'_, ()>, to: RouterId) {
        for (n, body) in self.kept.drain(..).enumerate() {
            match n % 5 {
                3 => cx.send(to, &body).unwrap(),
                4 => cx.forward_body(to, &Body::from(&body[..])).unwrap(),
                _ => cx.forward_body(to, &body).unwrap(),
            }
        }
    }
}

fn read_exactly(stream: &mut TcpStream, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

#[test]
fn forwarded_and_copied_messages_leave_in_order_however_they_are_split() {
    let behaviour = Behaviour::on_message(|cx, from, message| {
        if message.first().is_some_and(|first| first % 3 == 0) {
            cx.send(from, &message).unwrap();
        } else {
            cx.forward(from, &message).unwrap();
        }
    });
    let server = Server::with(patient(), loopback(), behaviour);
    let (mut stream, _) = server.accept();
    // Some shorter than what is worth forwarding, some longer.
    let bytes: Vec<u8> = (0..30u8)
        .flat_map(|n| frame(&vec![n; usize::from(n) * 20]))
        .collect();
    for split in (1..bytes.len()).step_by(7) {
        stream.write_all(&bytes[..split]).unwrap();
        stream.write_all(&bytes[split..]).unwrap();
        assert!(
            read_exactly(&mut stream, bytes.len()) == bytes,
            "split at {split}"
        );
    }
    drop(stream);
    server.end_clean();
}

#[test]
fn long_messages_are_forwarded_whole() {
    let behaviour = Behaviour::on_message(|cx, from, message| {
        cx.forward(from, &message).unwrap();
    });
    let server = Server::with(patient(), loopback(), behaviour);
    let (mut stream, _) = server.accept();
    for length in [64 * KIB - 4, 64 * KIB, 300 * KIB, 2 * KIB * KIB] {
        let body: Vec<u8> = (0..length).map(|n| (n / 7) as u8).collect();
        let (mut writer, bytes) = (stream.try_clone().unwrap(), frame(&body));
        let writing = std::thread::spawn(move || writer.write_all(&bytes).unwrap());
        assert!(read_frame(&mut stream) == body, "{length}");
        writing.join().unwrap();
    }
    drop(stream);
    server.end_clean();
}

/// Everything that one peer says goes to all others: some read, one does not for a while, and one
/// speaks another framing, so that its frames cannot be those that were received.
#[test]
fn a_broadcast_reaches_peers_that_read_late_or_speak_another_framing() {
    let everybody = Arc::new(Mutex::new(Vec::new()));
    let newcomers = Arc::clone(&everybody);
    let behaviour = Behaviour::on_message(move |cx, from, message| {
        for to in everybody.lock().unwrap().iter() {
            if *to != from {
                cx.forward(*to, &message).unwrap();
            }
        }
    })
    .on_connect(move |_, id| newcomers.lock().unwrap().push(id));
    let limits = patient()
        .receive_chunks_max(2)
        .send_high(4 * KIB * KIB)
        .send_queue_max(8 * KIB * KIB);
    let builder = engine()
        .limits(limits)
        .listen(loopback())
        .listen(loopback().framing(Framing::Le32));
    let server = Server::start(builder, behaviour);
    let (mut speaker, _) = server.accept();
    let (mut reader, _) = server.accept();
    let (mut late, _) = server.accept();
    let mut other = connect(tcp_address(&server.engine.local_addrs()[1]));
    eventually("four peers", || {
        (server.stats().connections == 4).then_some(())
    });
    let bodies: Vec<Vec<u8>> = (0..2000u32)
        .map(|n| n.to_be_bytes().repeat(1 + n as usize % 200))
        .collect();
    let bytes: Vec<u8> = bodies.iter().flat_map(|body| frame(body)).collect();
    let reading = std::thread::spawn(move || {
        let got: Vec<Vec<u8>> = (0..2000).map(|_| read_frame(&mut reader)).collect();
        (got, reader)
    });
    let foreign = std::thread::spawn(move || {
        let read = |stream: &mut TcpStream| {
            let length = u32::from_le_bytes(read_exactly(stream, 4).try_into().unwrap());
            read_exactly(stream, length as usize)
        };
        let got: Vec<Vec<u8>> = (0..2000).map(|_| read(&mut other)).collect();
        (got, other)
    });
    speaker.write_all(&bytes).unwrap();
    let (got, reader) = reading.join().unwrap();
    assert!(got == bodies);
    let (got, other) = foreign.join().unwrap();
    assert!(got == bodies);
    let got: Vec<Vec<u8>> = (0..2000).map(|_| read_frame(&mut late)).collect();
    assert!(got == bodies);
    drop((speaker, reader, late, other));
    server.end_clean();
}

#[test]
fn kept_messages_are_forwarded_in_order_whatever_memory_they_are_in() {
    // Two chunks: most of the leases are copies. 64: none is.
    for chunks in [2, 64] {
        let limits = patient().receive_chunks_max(chunks);
        let builder = engine().limits(limits).listen(loopback());
        let engine = builder.start(|_| Keeper::default()).unwrap();
        let mut client = connect(tcp_address(&engine.local_addrs()[0]));
        let mut bodies: Vec<Vec<u8>> = (0..300usize).map(|n| vec![n as u8; n * 13]).collect();
        bodies.extend([64, 65, 100, 300].map(|kib| vec![kib as u8; kib * KIB]));
        let mut bytes: Vec<u8> = bodies.iter().flat_map(|body| frame(body)).collect();
        bytes.extend(frame(GO));
        for round in 0..5 {
            for part in bytes.chunks(KIB << (2 * round)) {
                client.write_all(part).unwrap();
            }
            for body in &bodies {
                assert!(
                    read_frame(&mut client) == *body,
                    "{} of {round}",
                    body.len()
                );
            }
        }
        drop(client);
        let report = engine.shutdown(PATIENCE);
        assert!(report.is_clean(), "{report}");
    }
}

#[test]
fn a_forwarded_message_and_a_copied_one_leave_in_one_write() {
    let builder = engine().listen(loopback());
    let engine = builder.start(|_| Keeper::default()).unwrap();
    let mut client = connect(tcp_address(&engine.local_addrs()[0]));
    let bodies = [1, 2, 3].map(|n| vec![n; KIB]);
    let ask: Vec<u8> = [&bodies[0], &bodies[1], &bodies[2], &FIRST_AND_LAST.to_vec()]
        .into_iter()
        .flat_map(|body| frame(body))
        .collect();
    let handle = engine.handle();
    let writes = || handle.stats().total().writes;
    // The first is written out of the chunk, the last, which does not follow it there, out of the
    // send queue. (The question may come in two reads.)
    eventually("one write", || {
        let before = writes();
        client.write_all(&ask).unwrap();
        assert!(read_frame(&mut client) == bodies[0] && read_frame(&mut client) == bodies[2]);
        eventually("the turn is counted", || (writes() > before).then_some(()));
        (writes() == before + 1).then_some(())
    });
    drop(client);
    let report = engine.shutdown(PATIENCE);
    assert!(report.is_clean(), "{report}");
}

#[test]
fn a_kept_message_reaches_a_connection_of_another_shard() {
    let log = Arc::new(Mutex::new(Vec::new()));
    let newcomers = Arc::clone(&log);
    let behaviour = Behaviour::on_message(move |cx, from, message| {
        let others = log.lock().unwrap().clone();
        for to in others.into_iter().filter(|to| *to != from) {
            cx.forward_body(to, &message.lease()).unwrap();
        }
    })
    .on_connect(move |_, id| newcomers.lock().unwrap().push(id));
    let builder = engine()
        .shards(2)
        .listen(loopback().balance(Balance::RoundRobin));
    let server = Server::start(builder, behaviour);
    let (mut speaker, here) = server.accept();
    let (mut listener, there) = server.accept();
    assert_ne!(here.shard(), there.shard());
    for length in [0, 10, 300, 5_000, 100_000] {
        let body = vec![length as u8; length];
        speaker.write_all(&frame(&body)).unwrap();
        assert!(read_frame(&mut listener) == body, "{length}");
    }
    drop((speaker, listener));
    server.end_clean();
}

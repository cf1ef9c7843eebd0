//! Forwarding received messages: without a copy where that is possible, correct where it is not.

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};

use proscenium::{Engine, Framing, Limits};
use support::{Behaviour, Server, connect, eventually, frame, loopback, read_frame, tcp_address};

const KIB: usize = 1024;

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
    let server = Server::with(Limits::default(), loopback(), behaviour);
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
    let server = Server::with(Limits::default(), loopback(), behaviour);
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
    let limits = Limits::default()
        .receive_chunks_max(2)
        .send_high(4 * KIB * KIB)
        .send_queue_max(8 * KIB * KIB);
    let builder = Engine::builder()
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

//! One body for many connections.

mod support;

use std::io::Write;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use proscenium::Framing;
use support::{
    Behaviour, Server, connect, engine, eventually, frame, loopback, patient, read_frame,
    tcp_address,
};

#[test]
fn all_that_a_call_broadcasts_and_sends_leaves_in_one_write_each_and_in_order() {
    let everybody = Arc::new(Mutex::new(Vec::new()));
    let newcomers = Arc::clone(&everybody);
    let behaviour = Behaviour::on_message(move |cx, from, message| {
        let all = everybody.lock().unwrap().clone();
        let body = Bytes::copy_from_slice(&message);
        for number in 0..10u8 {
            let numbered = Bytes::from([&body[..], &[number]].concat());
            assert_eq!(cx.broadcast(all.iter().copied(), &numbered), 0);
            if number == 4 {
                cx.send(from, b"between").unwrap();
            }
        }
    })
    .on_connect(move |_, id| newcomers.lock().unwrap().push(id));
    let server = Server::with(patient(), loopback(), behaviour);
    let mut clients: Vec<_> = (0..3).map(|_| server.accept().0).collect();
    let writes = || server.stats().writes;
    // Longest: shared by reference, so that what is behind the first is not in one piece.
    for (length, most) in [(0, 3), (300, 3), (5000, u64::MAX)] {
        let body = vec![7; length];
        // The question may come in two reads; then nothing is different.
        let before = writes();
        clients[0].write_all(&frame(&body)).unwrap();
        for (client, stream) in clients.iter_mut().enumerate() {
            for number in 0..10 {
                assert_eq!(read_frame(stream), [&body[..], &[number]].concat());
                if client == 0 && number == 4 {
                    assert_eq!(read_frame(stream), b"between");
                }
            }
        }
        eventually("the writes are counted", || {
            (writes() >= before + 3).then_some(())
        });
        assert!(
            writes() - before <= most,
            "{} writes of {length} bytes",
            writes() - before
        );
    }
    drop(clients);
    server.end_clean();
}

#[test]
fn everybody_gets_it_in_its_own_framing_and_who_is_gone_is_counted() {
    let everybody = Arc::new(Mutex::new(Vec::new()));
    let newcomers = Arc::clone(&everybody);
    let refused = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&refused);
    let behaviour = Behaviour::on_message(move |cx, _, message| {
        let all = everybody.lock().unwrap().clone();
        let body = Bytes::copy_from_slice(&message);
        *counted.lock().unwrap() = cx.broadcast(all, &body);
    })
    .on_connect(move |_, id| newcomers.lock().unwrap().push(id));
    let builder = engine()
        .limits(patient().frame_max(10_000))
        .listen(loopback())
        .listen(loopback().framing(Framing::Le32));
    let server = Server::start(builder, behaviour);
    let (mut speaker, _) = server.accept();
    let (gone, _) = server.accept();
    let mut other = connect(tcp_address(&server.engine.local_addrs()[1]));
    eventually("three peers", || {
        (server.stats().connections == 3).then_some(())
    });
    drop(gone);
    eventually("two peers", || {
        (server.stats().connections == 2).then_some(())
    });
    for length in [1, 300, 9_000] {
        let body = vec![length as u8; length];
        speaker.write_all(&frame(&body)).unwrap();
        assert_eq!(read_frame(&mut speaker), body);
        let mut swapped = vec![0; 4 + length];
        std::io::Read::read_exact(&mut other, &mut swapped).unwrap();
        let length = u32::try_from(length).unwrap();
        assert_eq!(swapped, [&length.to_le_bytes()[..], &body].concat());
        assert_eq!(*refused.lock().unwrap(), 1);
    }
    drop((speaker, other));
    server.end_clean();
}

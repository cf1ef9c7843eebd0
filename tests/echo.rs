//! Echo over real sockets: every split, every framing, every size.

mod support;

use std::io::{Read, Write};

use proscenium::{Address, Context, Engine, Framing, Handler, Listener, Message, RouterId};
use support::{PATIENCE, connect, frame};

struct Echo;

impl Handler for Echo {
    type Post = ();

    fn on_message(&mut self, cx: &mut Context<'_, ()>, from: RouterId, message: Message<'_>) {
        let _ = cx.send(from, &message);
    }
}

fn serve(framing: Framing) -> (Engine<()>, std::net::SocketAddr) {
    let listener = Listener::tcp("127.0.0.1:0").unwrap().framing(framing);
    let engine = Engine::builder().listen(listener).start(|_| Echo).unwrap();
    let Address::Tcp(address) = engine.local_addrs()[0] else {
        panic!("not TCP")
    };
    (engine, address)
}

#[test]
fn echoes_every_split_of_a_stream_of_frames() {
    let (engine, address) = serve(Framing::Be32);
    let mut stream = connect(address);
    let mut bytes = Vec::new();
    for length in [0, 1, 5, 300, 4096] {
        bytes.extend(frame(&vec![length as u8; length]));
    }
    for split in 1..bytes.len() {
        stream.write_all(&bytes[..split]).unwrap();
        if split % 7 == 0 {
            std::thread::yield_now();
        }
        stream.write_all(&bytes[split..]).unwrap();
        let mut back = vec![0; bytes.len()];
        stream.read_exact(&mut back).unwrap();
        assert!(back == bytes, "split at {split}");
    }
    drop(stream);
    let report = engine.shutdown(PATIENCE);
    assert!(report.is_clean(), "{report}");
}

#[test]
fn echoes_bodies_up_to_the_limit_one_byte_at_a_time_or_all_at_once() {
    let (engine, address) = serve(Framing::Be32);
    let mut stream = connect(address);
    for byte in frame(b"one byte at a time") {
        stream.write_all(&[byte]).unwrap();
    }
    let mut back = vec![0; 22];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(back, frame(b"one byte at a time"));
    let long: Vec<u8> = (0..2 << 20).map(|n: u32| ((n * 7) >> 3) as u8).collect();
    let bytes = [frame(&long), frame(b""), frame(&long)].concat();
    let mut writer = stream.try_clone().unwrap();
    let sent = bytes.clone();
    let writing = std::thread::spawn(move || writer.write_all(&sent).unwrap());
    let mut back = vec![0; bytes.len()];
    stream.read_exact(&mut back).unwrap();
    writing.join().unwrap();
    assert!(back == bytes);
    drop(stream);
    assert!(engine.shutdown(PATIENCE).is_clean());
}

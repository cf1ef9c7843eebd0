//! What the tests of stages on real threads share.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "every test binary uses a part of it"
)]

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use proscenium_engine::{Address, Engine, Listener};
use proscenium_stages::StagePost;

/// How long anything may take before a test fails. No test passes or fails by being fast.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// True if the long form of the tests was asked for (`PROSCENIUM_ALL=1`).
pub fn run_all() -> bool {
    std::env::var_os("PROSCENIUM_ALL").is_some_and(|value| value == "1")
}

/// Asks until the answer is there, and fails the test if that never happens.
#[track_caller]
pub fn eventually<R>(what: &str, mut ask: impl FnMut() -> Option<R>) -> R {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A listener on a free port of the loopback interface.
pub fn loopback() -> Listener {
    Listener::tcp("127.0.0.1:0").unwrap()
}

/// Where the first listener of an engine listens.
pub fn address_of(engine: &Engine<StagePost>) -> SocketAddr {
    tcp(&engine.local_addrs()[0])
}

pub fn tcp(address: &Address) -> SocketAddr {
    match address {
        Address::Tcp(address) => *address,
        other => panic!("not TCP: {other:?}"),
    }
}

pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// A frame as the wire has it.
pub fn frame(body: &[u8]) -> Vec<u8> {
    let mut bytes = (body.len() as u32).to_be_bytes().to_vec();
    bytes.extend_from_slice(body);
    bytes
}

pub fn send(stream: &mut TcpStream, body: &[u8]) {
    stream.write_all(&frame(body)).unwrap();
}

/// The next frame, or `None` at the end of the stream.
pub fn read_frame(stream: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut header = [0; 4];
    match stream.read_exact(&mut header) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let mut body = vec![0; u32::from_be_bytes(header) as usize];
    stream.read_exact(&mut body)?;
    Ok(Some(body))
}

#[track_caller]
pub fn receive(stream: &mut TcpStream) -> Vec<u8> {
    read_frame(stream).unwrap().expect("a frame, not the end")
}

//! Patience, and blocking clients that speak frames: for the tests of all packages.

use std::io::{self, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

#[path = "frames.rs"]
mod frames;
pub use frames::*;

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

/// A blocking client that gives up after [`PATIENCE`].
#[track_caller]
pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the server takes connections");
    prepare(&stream);
    stream
}

pub fn prepare(stream: &TcpStream) {
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
}

/// Reads what there is, and goes on when that is interrupted: where sockets have timeouts, a
/// process that was stopped for a moment is.
pub fn read_some(stream: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match stream.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => return read,
        }
    }
}

/// Reads one frame; `None` at the end of the stream.
pub fn try_read_frame(stream: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut header = [0; 4];
    let mut have = 0;
    while have < 4 {
        match read_some(stream, &mut header[have..])? {
            0 if have == 0 => return Ok(None),
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => have += n,
        }
    }
    let mut body = vec![0; u32::from_be_bytes(header) as usize];
    stream.read_exact(&mut body)?;
    Ok(Some(body))
}

#[track_caller]
pub fn read_frame(stream: &mut impl Read) -> Vec<u8> {
    try_read_frame(stream)
        .expect("a frame arrives")
        .expect("a frame, not the end")
}

/// Sends batches of 30 messages of mixed lengths, each when the last one has been answered, until
/// the server closes.
pub fn ask_in_batches(stream: impl Read + Write) {
    let batch: Vec<u8> = [0, 1, 64, 1000, 1024, 4000]
        .repeat(5)
        .into_iter()
        .flat_map(|length| frame(&vec![length as u8; length]))
        .collect();
    let mut reader = BufReader::new(stream);
    while reader.get_mut().write_all(&batch).is_ok() {
        for _ in 0..30 {
            let Ok(Some(_)) = try_read_frame(&mut reader) else {
                return;
            };
        }
    }
}

//! A server written by hand: it speaks the bytes of the format and knows nothing of our codec.
#![allow(dead_code, reason = "every test binary uses a part of it")]

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use proscenium_connector::{Builder, Connector, Event};

/// How long anything may take before a test gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) const AUTH: &str = "AuthenticateRequest";

pub(crate) trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// One connection as the server sees it.
pub(crate) struct Peer {
    pub(crate) stream: Box<dyn Stream>,
    pub(crate) socket: TcpStream,
}

/// A packet that a client sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) id: String,
    pub(crate) seq: u16,
    pub(crate) stage: i64,
    pub(crate) payload: Vec<u8>,
}

impl Peer {
    pub(crate) fn new(socket: TcpStream) -> Self {
        socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
        socket.set_nodelay(true).expect("a socket");
        let stream = Box::new(socket.try_clone().expect("a socket"));
        Self { stream, socket }
    }

    /// The next packet; `None` at the end of the connection.
    pub(crate) fn read(&mut self) -> Option<Received> {
        let mut head = [0; 4];
        self.stream.read_exact(&mut head).ok()?;
        let mut body = vec![0; u32::from_le_bytes(head) as usize];
        self.stream.read_exact(&mut body).ok()?;
        let id_end = 1 + usize::from(body[0]);
        let number = |range: std::ops::Range<usize>| {
            let mut bytes = [0; 8];
            bytes[..range.len()].copy_from_slice(&body[range]);
            u64::from_le_bytes(bytes)
        };
        Some(Received {
            id: String::from_utf8(body[1..id_end].to_vec()).expect("UTF-8"),
            seq: number(id_end..id_end + 2) as u16,
            stage: number(id_end + 2..id_end + 10) as i64,
            payload: body[id_end + 10..].to_vec(),
        })
    }

    pub(crate) fn expect(&mut self) -> Received {
        self.read().expect("a packet")
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)?;
        self.stream.flush()
    }

    pub(crate) fn send(&mut self, packet: &[u8]) {
        self.write(packet).expect("the client reads");
    }

    pub(crate) fn answer(&mut self, to: &Received, error: u16, payload: &[u8]) {
        self.send(&packet("Answer", to.seq, to.stage, error, 0, payload));
    }

    /// Takes the authentication, whatever it is.
    pub(crate) fn accept_credentials(&mut self) -> Received {
        let request = self.expect();
        assert_eq!(request.id, AUTH);
        self.answer(&request, 0, b"welcome");
        request
    }

    /// Answers requests with their payload and heartbeats with heartbeats, until the end.
    pub(crate) fn echo(&mut self) -> Vec<Received> {
        let mut all = Vec::new();
        while let Some(received) = self.read() {
            if received.seq > 0 {
                let (seq, stage) = (received.seq, received.stage);
                self.send(&packet(&received.id, seq, stage, 0, 0, &received.payload));
            } else if received.id == "@Heart@Beat@" {
                self.send(&packet("@Heart@Beat@", 0, received.stage, 0, 0, b""));
            }
            all.push(received);
        }
        all
    }
}

/// A server's packet with its length.
pub(crate) fn packet(
    id: &str,
    seq: u16,
    stage: i64,
    error: u16,
    original_size: i32,
    payload: &[u8],
) -> Vec<u8> {
    let mut body = vec![id.len() as u8];
    body.extend_from_slice(id.as_bytes());
    body.extend_from_slice(&seq.to_le_bytes());
    body.extend_from_slice(&stage.to_le_bytes());
    body.extend_from_slice(&error.to_le_bytes());
    body.extend_from_slice(&original_size.to_le_bytes());
    body.extend_from_slice(payload);
    let mut bytes = (body.len() as u32).to_le_bytes().to_vec();
    bytes.extend_from_slice(&body);
    bytes
}

pub(crate) fn push(id: &str, payload: &[u8]) -> Vec<u8> {
    packet(id, 0, 1, 0, 0, payload)
}

/// A server that runs `serve` on a thread of its own.
pub(crate) struct Server<T> {
    pub(crate) address: SocketAddr,
    thread: JoinHandle<T>,
}

impl<T: Send + 'static> Server<T> {
    pub(crate) fn start(serve: impl FnOnce(TcpListener) -> T + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("a port");
        let thread = thread::spawn(move || serve(listener));
        Self { address, thread }
    }

    /// For one connection.
    pub(crate) fn once(serve: impl FnOnce(Peer) -> T + Send + 'static) -> Self {
        Self::start(|listener| serve(accept(&listener)))
    }

    /// What `serve` returned; its panic is the test's.
    pub(crate) fn join(self) -> T {
        match self.thread.join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Patient, and without heartbeats, which on a slow machine would come among what is counted.
    pub(crate) fn builder(&self) -> Builder {
        Connector::builder("127.0.0.1", self.address.port())
            .connect_timeout(PATIENCE)
            .request_timeout(PATIENCE)
            .dead_after(Duration::ZERO)
            .heartbeat(Duration::ZERO)
    }

    /// Connected and authenticated, with default options.
    pub(crate) fn client(&self) -> Connector {
        let connector = self.builder().build().expect("a connector");
        log_in(&connector);
        connector
    }
}

pub(crate) fn accept(listener: &TcpListener) -> Peer {
    Peer::new(listener.accept().expect("a connection").0)
}

pub(crate) fn log_in(connector: &Connector) {
    connector.connect().wait().expect("connected");
    let answer = connector.authenticate(1, AUTH, b"token").wait();
    assert_eq!(answer.expect("authenticated").payload, b"welcome");
}

/// Pumps the connector until `done`.
pub(crate) fn pump_until(connector: &Connector, mut done: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !done() {
        connector.main_thread_action();
        assert!(begin.elapsed() < PATIENCE, "waited in vain");
        thread::yield_now();
    }
}

#[track_caller]
pub(crate) fn next_event(connector: &Connector) -> Event {
    connector.wait_event(PATIENCE).expect("an event")
}

/// The next event that is not `Connected`.
#[track_caller]
pub(crate) fn next_news(connector: &Connector) -> Event {
    loop {
        match next_event(connector) {
            Event::Connected => {}
            event => return event,
        }
    }
}

/// A port where nobody listens.
pub(crate) fn closed_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("a port").port()
}

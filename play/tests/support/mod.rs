//! What the tests of Play servers share: packets as bytes, a client on a real socket, and a stage
//! that writes down what happens to it.
#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "every test binary uses a part of it"
)]

#[path = "../../../tests/support/clients.rs"]
mod clients;
pub mod hall;
pub mod mesh;
pub use clients::*;

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

use proscenium_engine::Address;
use proscenium_play::PlayServer;

/// The message that authenticates, unless a test says otherwise.
pub const AUTHENTICATE: &str = "AuthenticateRequest";

pub fn address_of(server: &PlayServer, listener: usize) -> SocketAddr {
    tcp(&server.local_addrs()[listener])
}

pub fn tcp(address: &Address) -> SocketAddr {
    match address {
        Address::Tcp(address) => *address,
        other => panic!("not TCP: {other:?}"),
    }
}

/// A packet of a client, with its length: written by hand from the format's description.
pub fn packet(msg_id: &str, seq: u16, stage: i64, payload: &[u8]) -> Vec<u8> {
    let mut body = vec![msg_id.len() as u8];
    body.extend_from_slice(msg_id.as_bytes());
    body.extend_from_slice(&seq.to_le_bytes());
    body.extend_from_slice(&stage.to_le_bytes());
    body.extend_from_slice(payload);
    let mut bytes = (body.len() as i32).to_le_bytes().to_vec();
    bytes.extend_from_slice(&body);
    bytes
}

/// A packet of the server, as its bytes say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub msg_id: String,
    pub seq: u16,
    pub stage: i64,
    pub error: u16,
    pub original_size: i32,
    pub payload: Vec<u8>,
}

impl Answer {
    pub fn parse(body: &[u8]) -> Self {
        let id = usize::from(body[0]);
        let rest = &body[1 + id..];
        Self {
            msg_id: String::from_utf8(body[1..1 + id].to_vec()).expect("UTF-8"),
            seq: u16::from_le_bytes(rest[..2].try_into().unwrap()),
            stage: i64::from_le_bytes(rest[2..10].try_into().unwrap()),
            error: u16::from_le_bytes(rest[10..12].try_into().unwrap()),
            original_size: i32::from_le_bytes(rest[12..16].try_into().unwrap()),
            payload: rest[16..].to_vec(),
        }
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.payload).expect("text")
    }

    /// Id, sequence, error and payload: what most tests look at.
    pub fn short(&self) -> (&str, u16, u16, &str) {
        (&self.msg_id, self.seq, self.error, self.text())
    }
}

/// A client on a real socket, without any code of ours.
pub struct Client {
    pub stream: TcpStream,
    pub stage: i64,
    big_endian: bool,
}

impl Client {
    pub fn connect(server: &PlayServer) -> Self {
        Self::to(address_of(server, 0))
    }

    pub fn to(address: SocketAddr) -> Self {
        Self {
            stream: connect(address),
            stage: 0,
            big_endian: false,
        }
    }

    pub fn big_endian(mut self) -> Self {
        self.big_endian = true;
        self
    }

    /// Connects and joins a stage.
    #[track_caller]
    pub fn join(server: &PlayServer, stage: i64, account: &str) -> Self {
        let mut client = Self::connect(server);
        let answer = client.authenticate(stage, account);
        assert_eq!(answer.short(), (AUTHENTICATE, 1, 0, ""), "{account}");
        client
    }

    pub fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    pub fn send(&mut self, msg_id: &str, seq: u16, payload: impl AsRef<[u8]>) {
        let mut bytes = packet(msg_id, seq, self.stage, payload.as_ref());
        if self.big_endian {
            bytes[..4].reverse();
        }
        self.write(&bytes);
    }

    #[track_caller]
    pub fn request(&mut self, msg_id: &str, seq: u16, payload: impl AsRef<[u8]>) -> Answer {
        self.send(msg_id, seq, payload);
        self.receive()
    }

    #[track_caller]
    pub fn authenticate(&mut self, stage: i64, account: &str) -> Answer {
        self.stage = stage;
        self.request(AUTHENTICATE, 1, account)
    }

    /// The next packet, or `None` at the end of the stream.
    pub fn read(&mut self) -> io::Result<Option<Answer>> {
        let mut header = [0; 4];
        match self.stream.read_exact(&mut header) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
            Err(error) => return Err(error),
        }
        if self.big_endian {
            header.reverse();
        }
        let mut body = vec![0; i32::from_le_bytes(header) as usize];
        self.stream.read_exact(&mut body)?;
        Ok(Some(Answer::parse(&body)))
    }

    #[track_caller]
    pub fn receive(&mut self) -> Answer {
        self.read().unwrap().expect("a packet, not the end")
    }

    /// Nothing but the end follows.
    #[track_caller]
    pub fn is_closed(&mut self) {
        assert_eq!(self.read().unwrap(), None);
    }
}

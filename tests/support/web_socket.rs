//! A WebSocket client that can misbehave at will, and frames made by hand.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "every test binary uses a part of it"
)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use proscenium::framing::websocket::handshake::{HandshakeLimits, Opening};
use proscenium::framing::websocket::{
    CloseCode, Decoded, Decoder, DecoderLimits, FrameHeader, HEADER_MAX, Opcode, Role, apply_mask,
};

use super::support::{connect, read_some};

/// The masking key of everything that is made by hand.
pub const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// What a client received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Got {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, String),
    /// The end of the stream.
    End,
}

/// A masked frame: `first` is its first byte, FIN and opcode.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = [0; HEADER_MAX];
    let header = FrameHeader::new(Opcode::Binary, payload.len()).masked(KEY);
    let len = header.encode(&mut out);
    out[0] = first;
    let mut frame = [&out[..len], payload].concat();
    apply_mask(&mut frame[len..], KEY);
    frame
}

pub fn binary(payload: &[u8]) -> Vec<u8> {
    frame(0x82, payload)
}

pub fn text(payload: &str) -> Vec<u8> {
    frame(0x81, payload.as_bytes())
}

/// The request of a client, and the key in it.
pub fn request(target: &str) -> (String, String) {
    let opening = Opening::new("localhost", target).unwrap();
    let key = Opening::key([7; 16]);
    (opening.request(&key), key)
}

/// A client whose handshake is done.
pub struct Client<S = TcpStream> {
    pub stream: S,
    decoder: Decoder,
    buffer: Vec<u8>,
}

impl Client {
    #[track_caller]
    pub fn connect(address: SocketAddr) -> Self {
        Self::over(connect(address), "/ws")
    }

    /// Sends `frames` in the same write as the request.
    #[track_caller]
    pub fn connect_with(address: SocketAddr, frames: &[u8]) -> Self {
        Self::hasty(connect(address), "/ws", frames)
    }
}

impl<S: Read + Write> Client<S> {
    #[track_caller]
    pub fn over(stream: S, target: &str) -> Self {
        Self::hasty(stream, target, &[])
    }

    #[track_caller]
    fn hasty(mut stream: S, target: &str, frames: &[u8]) -> Self {
        let (request, key) = request(target);
        let hello = [request.as_bytes(), frames].concat();
        stream.write_all(&hello).unwrap();
        let opening = Opening::new("localhost", target).unwrap();
        let mut buffer = Vec::new();
        let limits = HandshakeLimits::default();
        let taken = loop {
            match opening.response(&buffer, &key, &limits).unwrap() {
                Some(established) => break established.taken,
                None => assert!(read_more(&mut stream, &mut buffer) > 0, "no handshake"),
            }
        };
        buffer.drain(..taken);
        let limits = DecoderLimits::default().message_max(64 << 20);
        Self {
            stream,
            decoder: Decoder::new(Role::Client, limits),
            buffer,
        }
    }

    #[track_caller]
    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// The next message, control frame, or end.
    #[track_caller]
    pub fn get(&mut self) -> Got {
        let mut message = Vec::new();
        loop {
            match self.decoder.decode(&mut self.buffer).unwrap() {
                Decoded::Incomplete { .. } => {
                    if read_more(&mut self.stream, &mut self.buffer) == 0 {
                        assert!(message.is_empty() && self.buffer.is_empty());
                        return Got::End;
                    }
                }
                Decoded::Data(data) => {
                    message.extend(self.take(data.body));
                    if data.last && data.text {
                        return Got::Text(String::from_utf8(message).unwrap());
                    } else if data.last {
                        return Got::Binary(message);
                    }
                }
                Decoded::Ping { body } => return Got::Ping(self.take(body)),
                Decoded::Pong { body } => return Got::Pong(self.take(body)),
                Decoded::Close { code, reason } => {
                    let reason = String::from_utf8(self.take(reason)).unwrap();
                    return Got::Close(code.map(|CloseCode(code)| code), reason);
                }
            }
        }
    }

    fn take(&mut self, body: std::ops::Range<usize>) -> Vec<u8> {
        let taken = self.buffer[body.clone()].to_vec();
        self.buffer.drain(..body.end);
        taken
    }

    /// Sends `frames` and wants to be told that it broke the protocol, with this code.
    #[track_caller]
    pub fn breaks_the_rules(mut self, frames: &[u8], expected: u16) {
        self.send(frames);
        match self.get() {
            Got::Close(code, _) => assert_eq!(code, Some(expected)),
            other => panic!("{other:?}"),
        }
        assert_eq!(self.get(), Got::End);
    }
}

fn read_more(stream: &mut impl Read, buffer: &mut Vec<u8>) -> usize {
    let mut chunk = [0; 65_536];
    let n = read_some(stream, &mut chunk).unwrap();
    buffer.extend_from_slice(&chunk[..n]);
    n
}

//! Our codec against tungstenite, over sockets, at both ends.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

use proscenium_framing::websocket::handshake::{HandshakeLimits, Opening, Policy, Request};
use proscenium_framing::websocket::{
    CONTROL_MAX, CloseCode, Decoded, Decoder, DecoderLimits, FrameHeader, HEADER_MAX, Opcode, Role,
    apply_mask, close_body,
};
use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::coding::CloseCode as TheirCode;
use tungstenite::{Bytes, Message, Utf8Bytes};

const MIB: usize = 1024 * 1024;

/// Our end, as simple as it can be.
struct Peer {
    stream: TcpStream,
    decoder: Decoder,
    /// What has arrived and was not decoded.
    buffer: Vec<u8>,
    /// For the next frame, if this is a client's end.
    key: Option<[u8; 4]>,
}

/// What our end received.
#[derive(Debug, PartialEq, Eq)]
enum Received {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<CloseCode>, String),
}

impl Peer {
    fn new(stream: TcpStream, role: Role, buffer: Vec<u8>) -> Self {
        let limits = DecoderLimits::default().message_max(4 * MIB);
        Self {
            stream,
            decoder: Decoder::new(role, limits),
            buffer,
            key: (role == Role::Client).then_some([1, 2, 3, 4]),
        }
    }

    fn accept(mut stream: TcpStream) -> Self {
        let limits = HandshakeLimits::default();
        let mut buffer = Vec::new();
        let (answer, taken) = loop {
            let parsed = Request::parse(&buffer, &limits).expect("HTTP");
            if let Some((request, taken)) = parsed {
                break (
                    Policy::at("/ws").subprotocol("demo").answer(&request),
                    taken,
                );
            }
            read_more(&mut stream, &mut buffer);
        };
        stream
            .write_all(answer.bytes.as_bytes())
            .expect("an answer");
        assert_eq!(answer.refused, None);
        buffer.drain(..taken);
        Self::new(stream, Role::Server, buffer)
    }

    fn connect(mut stream: TcpStream) -> Self {
        let opening = Opening::new("localhost", "/ws").expect("a plain path");
        let key = Opening::key([42; 16]);
        stream
            .write_all(opening.request(&key).as_bytes())
            .expect("a request");
        let limits = HandshakeLimits::default();
        let mut buffer = Vec::new();
        let taken = loop {
            match opening
                .response(&buffer, &key, &limits)
                .expect("a WebSocket")
            {
                Some(established) => break established.taken,
                None => read_more(&mut stream, &mut buffer),
            }
        };
        buffer.drain(..taken);
        Self::new(stream, Role::Client, buffer)
    }

    fn send(&mut self, opcode: Opcode, body: &[u8]) {
        self.send_fragment(opcode, body, true);
    }

    fn send_fragment(&mut self, opcode: Opcode, body: &[u8], fin: bool) {
        let mut out = [0; HEADER_MAX];
        let mut header = FrameHeader::new(opcode, body.len());
        (header.fin, header.mask) = (fin, self.key);
        let size = header.encode(&mut out);
        let mut frame = [&out[..size], body].concat();
        if let Some(key) = &mut self.key {
            apply_mask(&mut frame[size..], *key);
            key[0] = key[0].wrapping_add(71);
        }
        self.stream.write_all(&frame).expect("a write");
    }

    fn send_close(&mut self, code: CloseCode, reason: &str) {
        let mut body = [0; CONTROL_MAX];
        let len = close_body(code, reason, &mut body);
        self.send(Opcode::Close, &body[..len]);
    }

    fn receive(&mut self) -> Received {
        let mut message = Vec::new();
        loop {
            match self.decoder.decode(&mut self.buffer).expect("no error") {
                Decoded::Incomplete { .. } => read_more(&mut self.stream, &mut self.buffer),
                Decoded::Data(data) => {
                    message.extend_from_slice(&self.buffer[data.body.clone()]);
                    self.buffer.drain(..data.body.end);
                    if data.last && data.text {
                        return Received::Text(String::from_utf8(message).expect("checked"));
                    } else if data.last {
                        return Received::Binary(message);
                    }
                }
                Decoded::Ping { body } => return Received::Ping(self.take(body)),
                Decoded::Pong { body } => return Received::Pong(self.take(body)),
                Decoded::Close { code, reason } => {
                    let reason = String::from_utf8(self.take(reason)).expect("checked");
                    return Received::Close(code, reason);
                }
            }
        }
    }

    fn take(&mut self, body: std::ops::Range<usize>) -> Vec<u8> {
        let taken = self.buffer[body.clone()].to_vec();
        self.buffer.drain(..body.end);
        taken
    }
}

fn read_more(stream: &mut TcpStream, buffer: &mut Vec<u8>) {
    let mut chunk = [0; 4096];
    let n = stream.read(&mut chunk).expect("a read");
    assert!(n > 0, "ended early");
    buffer.extend_from_slice(&chunk[..n]);
}

/// Two ends of a connection.
fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    let client = TcpStream::connect(address).expect("a connection");
    let (server, _) = listener.accept().expect("its other end");
    (client, server)
}

/// What the foreign peer does: echoes until the close.
fn echo<S: Read + Write>(mut socket: tungstenite::WebSocket<S>) -> Option<CloseFrame> {
    let mut why = None;
    loop {
        match socket.read() {
            Ok(message @ (Message::Text(_) | Message::Binary(_))) => {
                socket.send(message).expect("an echo");
            }
            Ok(Message::Close(frame)) => why = frame,
            Ok(_) => {}
            Err(tungstenite::Error::ConnectionClosed) => return why,
            Err(other) => panic!("{other}"),
        }
    }
}

/// Everything that our end sends comes back.
fn talk(ours: &mut Peer) {
    for len in [0, 1, 125, 126, 127, 4_000, 65_535, 65_536, MIB] {
        let body: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
        ours.send(Opcode::Binary, &body);
        assert_eq!(ours.receive(), Received::Binary(body));
    }
    ours.send(Opcode::Text, "舞台".as_bytes());
    assert_eq!(ours.receive(), Received::Text("舞台".to_owned()));
    ours.send_fragment(Opcode::Text, &"舞台".as_bytes()[..2], false);
    ours.send(Opcode::Ping, b"in between");
    assert_eq!(ours.receive(), Received::Pong(b"in between".to_vec()));
    ours.send_fragment(Opcode::Continuation, &"舞台".as_bytes()[2..], true);
    assert_eq!(ours.receive(), Received::Text("舞台".to_owned()));
    ours.send_close(CloseCode(4321), "enough");
    let echoed = Received::Close(Some(CloseCode(4321)), "enough".to_owned());
    assert_eq!(ours.receive(), echoed);
}

/// With a code from the range of applications.
fn enough() -> Option<CloseFrame> {
    Some(CloseFrame {
        code: TheirCode::from(4321),
        reason: Utf8Bytes::from_static("enough"),
    })
}

#[test]
fn a_foreign_client_talks_to_our_server() {
    let (client, server) = pair();
    let foreign = thread::spawn(move || {
        let (socket, response) =
            tungstenite::client("ws://localhost/ws", client).expect("a handshake");
        assert_eq!(response.status(), 101);
        echo(socket)
    });
    talk(&mut Peer::accept(server));
    assert_eq!(foreign.join().expect("the foreign end"), enough());
}

#[test]
fn our_client_talks_to_a_foreign_server() {
    let (client, server) = pair();
    let foreign = thread::spawn(move || {
        let socket = tungstenite::accept(server);
        let Ok(socket) = socket else {
            panic!("a handshake");
        };
        echo(socket)
    });
    let mut ours = Peer::connect(client);
    talk(&mut ours);
    // The server closes first (RFC 6455 §7.1.1); our end has to follow.
    drop(ours);
    assert_eq!(foreign.join().expect("the foreign end"), enough());
}

#[test]
fn a_foreign_client_sends_and_closes_and_our_server_answers() {
    let (client, server) = pair();
    let foreign = thread::spawn(move || {
        let request = tungstenite::ClientRequestBuilder::new(
            "ws://localhost/ws".parse().expect("a plain address"),
        )
        .with_sub_protocol("demo");
        let (mut socket, response) = tungstenite::client(request, client).expect("a handshake");
        assert_eq!(response.headers()["sec-websocket-protocol"], "demo");
        socket
            .send(Message::Ping(Bytes::from_static(b"?")))
            .expect("a ping");
        socket.send(Message::text("with the ping")).expect("a text");
        assert!(matches!(socket.read(), Ok(Message::Pong(body)) if &body[..] == b"?"));
        socket.close(enough()).expect("a close");
        match socket.read() {
            Ok(Message::Close(frame)) => frame,
            other => panic!("{other:?}"),
        }
    });
    let mut ours = Peer::accept(server);
    assert_eq!(ours.receive(), Received::Ping(b"?".to_vec()));
    ours.send(Opcode::Pong, b"?");
    assert_eq!(ours.receive(), Received::Text("with the ping".to_owned()));
    let close = Received::Close(Some(CloseCode(4321)), "enough".to_owned());
    assert_eq!(ours.receive(), close);
    ours.send_close(CloseCode(4321), "enough");
    assert_eq!(foreign.join().expect("the foreign end"), enough());
}

#[test]
fn a_foreign_client_understands_a_refusal() {
    let (client, mut server) = pair();
    let foreign =
        thread::spawn(
            move || match tungstenite::client("ws://localhost/elsewhere", client) {
                Err(tungstenite::HandshakeError::Failure(tungstenite::Error::Http(response))) => {
                    response.status().as_u16()
                }
                other => panic!("{:?}", other.is_ok()),
            },
        );
    let mut buffer = Vec::new();
    let answer = loop {
        match Request::parse(&buffer, &HandshakeLimits::default()).expect("HTTP") {
            Some((request, _)) => break Policy::at("/ws").answer(&request),
            None => read_more(&mut server, &mut buffer),
        }
    };
    server
        .write_all(answer.bytes.as_bytes())
        .expect("an answer");
    server.shutdown(std::net::Shutdown::Write).expect("an end");
    assert_eq!(foreign.join().expect("the foreign end"), 404);
    assert_eq!(
        server.read(&mut [0; 1]).map_err(|e: io::Error| e.kind()),
        Ok(0)
    );
}

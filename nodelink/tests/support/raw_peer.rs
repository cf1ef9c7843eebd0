//! A peer whose every byte the test decides.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::Sender;

use proscenium_framing::route::RouteHeader;
use proscenium_framing::zmtp::{
    Command, Decoded, Decoder, FrameHeader, Greeting, Handshake, Limits, Null, Properties, Step,
};

use proscenium_nodelink::{
    Endpoint, LinkEnd, Node, NodeContext, NodeHandle, NodeHandler, NodeMessage, NodeOptions,
    ReplyTo,
};

use super::{PATIENCE, header, options};

/// One end of a link, after the handshake.
pub struct RawPeer {
    pub stream: TcpStream,
    decoder: Decoder,
    unread: Vec<u8>,
}

/// What arrived.
#[derive(Debug, PartialEq, Eq)]
pub enum Got {
    Message {
        seq: u32,
        is_reply: bool,
        error: u32,
        payload: Vec<u8>,
    },
    Ping(Vec<u8>),
    Pong,
    /// The node closed the link.
    Closed,
}

impl RawPeer {
    /// Shakes hands as `identity`; with a `run`, as a Proscenium node.
    pub fn new(stream: TcpStream, identity: &str, run: Option<u64>) -> Self {
        Self::with_minor(stream, identity, run, Greeting::MINOR)
    }

    /// The same as a peer of ZMTP 3.`minor`.
    pub fn with_minor(mut stream: TcpStream, identity: &str, run: Option<u64>, minor: u8) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut own = Properties::new();
        own.push("Socket-Type", b"ROUTER");
        own.push("Identity", identity.as_bytes());
        if let Some(run) = run {
            own.push("X-Proscenium", b"1");
            own.push("X-Proscenium-Run", format!("{run:016x}").as_bytes());
        }
        let limits = Limits::default();
        let (mut out, mut unread) = (Vec::new(), Vec::new());
        let mut handshake = Handshake::new(Null, own, limits, &mut out);
        out[11] = minor; // of the greeting
        loop {
            stream.write_all(&out).unwrap();
            out.clear();
            let mut chunk = [0; 4096];
            let read = loop {
                match stream.read(&mut chunk) {
                    // It was stopped for a moment.
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    read => break read.unwrap(),
                }
            };
            assert!(read > 0, "the node closed in the handshake");
            unread.extend_from_slice(&chunk[..read]);
            let (used, step) = handshake.receive(&unread, &mut out).unwrap();
            unread.drain(..used);
            if let Step::Done(_) = step {
                stream.write_all(&out).unwrap();
                break;
            }
        }
        Self {
            stream,
            decoder: Decoder::new(limits),
            unread,
        }
    }

    pub fn send(&mut self, header: &RouteHeader<'_>, payload: &[u8]) {
        let mut head = vec![0; header.encoded_len()];
        header.encode(&mut head).unwrap();
        let mut bytes = Vec::new();
        for (part, more) in [(&head[..], true), (payload, false)] {
            bytes.extend_from_slice(FrameHeader::message(part.len(), more).encode().as_slice());
            bytes.extend_from_slice(part);
        }
        self.stream.write_all(&bytes).unwrap();
    }

    /// As a Proscenium node that begins to send on this link.
    pub fn begin_turn(&mut self, turn: u64) {
        let context = [&b"turn"[..], &turn.to_be_bytes()].concat();
        self.ping(0, &context);
        assert_eq!(self.next(), Got::Pong);
    }

    /// Asks for a sign of life. `ttl`: tenths of a second that we may be silent; 0: for ever.
    pub fn ping(&mut self, ttl: u16, context: &[u8]) {
        let mut bytes = Vec::new();
        Command::Ping { ttl, context }.encode(&mut bytes);
        self.stream.write_all(&bytes).unwrap();
    }

    pub fn pong(&mut self, context: &[u8]) {
        let mut bytes = Vec::new();
        Command::Pong { context }.encode(&mut bytes);
        self.stream.write_all(&bytes).unwrap();
    }

    /// The next thing that arrives.
    pub fn next(&mut self) -> Got {
        loop {
            let (got, used) = match self.decoder.decode(&self.unread).unwrap() {
                Decoded::Message(message) => {
                    let mut parts = message.parts();
                    let header = RouteHeader::decode(parts.next().unwrap()).unwrap();
                    let payload = parts.next().unwrap().to_vec();
                    assert_eq!(header.payload_size as usize, payload.len());
                    let (seq, is_reply) = (header.msg_seq, header.is_reply);
                    let error = header.error_code;
                    let got = Got::Message {
                        seq,
                        is_reply,
                        error,
                        payload,
                    };
                    (Some(got), message.consumed())
                }
                Decoded::Command { command, consumed } => {
                    let got = match command {
                        Command::Ping { context, .. } => Got::Ping(context.to_vec()),
                        Command::Pong { .. } => Got::Pong,
                        other => panic!("{other:?}"),
                    };
                    (Some(got), consumed)
                }
                Decoded::Incomplete { .. } => (None, 0),
            };
            self.unread.drain(..used);
            match got {
                // What Proscenium nodes say to each other when they begin to send.
                Some(Got::Ping(context)) if context.starts_with(b"turn") => continue,
                Some(got) => return got,
                None => {}
            }
            let mut chunk = [0; 65536];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Got::Closed,
                Ok(read) => self.unread.extend_from_slice(&chunk[..read]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                    return Got::Closed;
                }
                // It was stopped for a moment.
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// The next message: its number and whether it is a reply.
    pub fn message(&mut self) -> (u32, bool) {
        match self.next() {
            Got::Message { seq, is_reply, .. } => (seq, is_reply),
            other => panic!("{other:?}"),
        }
    }
}

/// No heartbeats, which on a slow machine would come in between.
pub fn quiet() -> NodeOptions {
    options("node").heartbeat(PATIENCE).dead_after(PATIENCE)
}

/// A peer that connects to `node`.
pub fn dial(node: &Node, identity: &str, run: Option<u64>) -> RawPeer {
    let stream = TcpStream::connect(node.local_addrs()[0].to_string()).unwrap();
    RawPeer::new(stream, identity, run)
}

/// A peer that `node` connects to.
pub fn dialled(node: &Node, identity: &str, run: Option<u64>) -> RawPeer {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = Endpoint::new(listener.local_addr().unwrap());
    node.handle().connect(endpoint).unwrap();
    RawPeer::new(listener.accept().unwrap().0, identity, run)
}

pub fn ended(node: &NodeHandle, end: LinkEnd) -> u64 {
    node.stats(PATIENCE).unwrap().ended(end)
}

/// Hands the way of each answer to the test.
pub struct Hand(pub Sender<ReplyTo>);

impl NodeHandler<()> for Hand {
    fn on_message(&mut self, _: &mut NodeContext<'_, '_, ()>, message: NodeMessage<'_>) {
        let _ = self.0.send(message.reply_to.unwrap());
    }
}

pub fn request_header(seq: u32) -> RouteHeader<'static> {
    RouteHeader {
        msg_seq: seq,
        ..header("Ask")
    }
}

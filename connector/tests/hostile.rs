//! What clients and servers that do not keep to the rules can do: nothing but lose their own
//! connection, over every transport.
#![cfg(all(feature = "tls", feature = "ws"))]

#[path = "support/layers.rs"]
mod layers;
#[path = "support/room.rs"]
mod room;
mod support;

use std::io::Read;
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use layers::{Identity, Messages, TRANSPORTS, trusting};
use proscenium_connector::{Connector, DisconnectReason, Event, ProtocolError, Transport};
use proscenium_play::{PlayServer, PlayStats};
use support::{AUTH, PATIENCE, Peer, Server, Stream, log_in, next_news, packet};

/// A packet of a client, with its length.
fn request(id: &[u8], seq: u16, payload: &[u8]) -> Vec<u8> {
    let mut body = vec![id.len() as u8];
    body.extend_from_slice(id);
    body.extend_from_slice(&seq.to_le_bytes());
    body.extend_from_slice(&1_i64.to_le_bytes());
    body.extend_from_slice(payload);
    framed(&body)
}

fn framed(body: &[u8]) -> Vec<u8> {
    let mut bytes = (body.len() as u32).to_le_bytes().to_vec();
    bytes.extend_from_slice(body);
    bytes
}

/// Bytes that no client may send, whether authenticated or not.
fn no_packets() -> Vec<Vec<u8>> {
    let whole = request(b"Echo", 1, b"")[4..].to_vec();
    let mut all: Vec<_> = [0, 1, 5, whole.len() - 1]
        .map(|n| framed(&whole[..n]))
        .into();
    all.push(request(b"Ec\xffo", 1, b"wrong UTF-8"));
    all.push(request(b"\xed\xa0\x80", 1, b"a surrogate"));
    all.push(request(b"", 1, b"no id"));
    all.push(request(&[b'x'; 129], 1, b"a long id"));
    for length in [-1, i32::MIN, i32::MAX, (2 << 20) + 1] {
        all.push(length.to_le_bytes().to_vec());
    }
    all
}

/// A server, and a client in it that must not notice any of this.
struct Scene {
    server: PlayServer,
    identity: Identity,
    witness: Connector,
}

impl Scene {
    fn open() -> Self {
        let identity = Identity::new();
        let server = room::start(&identity);
        let port = room::address(&server, 0).port();
        let witness = Connector::builder("127.0.0.1", port).request_timeout(PATIENCE);
        let witness = witness.build().expect("a connector");
        witness.connect().wait().expect("connected");
        let answer = witness.authenticate(1, AUTH, b"witness").wait();
        answer.expect("authenticated");
        Self {
            server,
            identity,
            witness,
        }
    }

    fn socket(&self, number: usize) -> TcpStream {
        let socket = TcpStream::connect(room::address(&self.server, number));
        let socket = socket.expect("a connection");
        socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
        socket.set_nodelay(true).expect("a socket");
        socket
    }

    /// A connection without any code of ours.
    fn come(&self, number: usize) -> Box<dyn Stream> {
        let socket = self.socket(number);
        match TRANSPORTS[number] {
            Transport::Tls => Box::new(self.identity.ask(socket)),
            Transport::Ws => Box::new(Messages::ask(socket)),
            Transport::Wss => Box::new(Messages::ask(self.identity.ask(socket))),
            _ => Box::new(socket),
        }
    }

    fn join(&self, number: usize) -> Box<dyn Stream> {
        let mut stream = self.come(number);
        say(&mut *stream, &request(AUTH.as_bytes(), 1, b"villain"));
        let mut head = [0; 4];
        stream.read_exact(&mut head).expect("an answer");
        let mut body = vec![0; u32::from_le_bytes(head) as usize];
        stream.read_exact(&mut body).expect("an answer");
        assert!(body.ends_with(b"welcome"));
        stream
    }

    #[track_caller]
    fn count(&self, what: impl Fn(&PlayStats) -> u64, expected: u64) {
        reaches(expected, || what(&self.server.handle().stats()));
    }

    /// So many connections have ended for that reason, which some are told of later than their
    /// clients.
    #[track_caller]
    fn closed(&self, reason: &str, expected: u64) {
        let engine = self.server.engine().handle();
        reaches(expected, || engine.stats().total().closed(reason));
    }

    fn close(self) {
        let answer = self.witness.request(1, "Echo", b"unharmed").wait();
        assert_eq!(answer.expect("an answer").payload, b"unharmed");
        drop(self.witness);
        self.server.shutdown(PATIENCE);
    }
}

/// Waits for a count, which must not go beyond.
#[track_caller]
fn reaches(expected: u64, count: impl Fn() -> u64) {
    let begin = Instant::now();
    loop {
        let counted = count();
        if counted == expected {
            return;
        }
        let late = begin.elapsed() > PATIENCE || counted > expected;
        assert!(!late, "{counted}, not {expected}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// The server may have ended already.
fn say(stream: &mut dyn Stream, bytes: &[u8]) {
    let _ = stream.write_all(bytes).and_then(|()| stream.flush());
}

/// Whatever it still says, the server ends.
#[track_caller]
fn ends(stream: &mut dyn Stream) {
    let mut chunk = [0; 4096];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) => {
                let kind = error.kind();
                let waited = [std::io::ErrorKind::WouldBlock, std::io::ErrorKind::TimedOut];
                return assert!(!waited.contains(&kind), "it does not end: {error}");
            }
        }
    }
}

#[test]
fn bytes_that_are_no_packet_cost_their_connection_on_every_transport() {
    let scene = Scene::open();
    for number in 0..TRANSPORTS.len() {
        for bytes in no_packets() {
            let mut stranger = scene.come(number);
            say(&mut *stranger, &bytes);
            ends(&mut *stranger);
            let mut player = scene.join(number);
            say(&mut *player, &bytes);
            ends(&mut *player);
        }
    }
    // Those whose length is none do not come so far as to be packets.
    let (bodies, lengths) = (8, 4);
    let transports = TRANSPORTS.len() as u64;
    scene.count(|stats| stats.closed_bad_packet, 2 * bodies * transports);
    scene.closed("bad_frame", 2 * lengths * transports);
    scene.close();
}

#[test]
fn chatter_before_authentication_costs_its_connection_on_every_transport() {
    let scene = Scene::open();
    for number in 0..TRANSPORTS.len() {
        for bytes in [
            request(b"Echo", 1, b"hello"),
            request(b"Echo", 0, b"hello"),
            request(b"@Debug@", 1, b""),
        ] {
            let mut stranger = scene.come(number);
            say(&mut *stranger, &bytes);
            ends(&mut *stranger);
        }
    }
    scene.count(|stats| stats.closed_chatter, 3 * TRANSPORTS.len() as u64);
    scene.close();
}

/// Messages in pieces without end, and frames between them.
#[test]
fn floods_of_web_socket_frames_cost_their_connection() {
    // Masked with zeros; not the last of its message, the next part, ping, pong.
    let frame = |first: u8| [first, 0x80, 0, 0, 0, 0];
    let parts = [frame(0x02).to_vec(), frame(0x00).repeat(20_000)].concat();
    let floods = [parts, frame(0x89).repeat(3_000), frame(0x8a).repeat(3_000)];
    let scene = Scene::open();
    for number in [2, 3] {
        for flood in &floods {
            let socket = scene.socket(number);
            if TRANSPORTS[number] == Transport::Ws {
                let mut stream = Messages::ask(socket);
                say(stream.stream(), flood);
                ends(stream.stream());
            } else {
                let mut stream = Messages::ask(scene.identity.ask(socket));
                say(stream.stream(), flood);
                ends(stream.stream());
            }
        }
    }
    scene.closed("web_socket", 6);
    scene.close();
}

/// Payloads that say they are, or become, much longer than what came.
#[test]
fn bombs_of_a_server_end_the_connection_and_inflate_nothing() {
    // Version 0, a difference of 4 bytes: 10 MiB less the 7 bytes of a block behind it.
    let bomb = |size: u32| {
        let block = b"\x1fa\x01\0\xff\xff\xff";
        let difference = size - block.len() as u32;
        [&[0xc0], &difference.to_le_bytes()[..], block].concat()
    };
    let ten_mib = 10 << 20;
    // A hundred zeros of which one says that they are fifty.
    let more: &[u8] = b"\x40\x27\x1fa\x01\0\x4b\x50aaaaa";
    let bombs: [(i32, Vec<u8>, usize); 6] = [
        (i32::MAX, bomb(i32::MAX as u32), usize::MAX),
        (ten_mib + 1, bomb(ten_mib as u32 + 1), usize::MAX),
        (ten_mib, bomb(ten_mib as u32), usize::MAX),
        (50, more.to_vec(), usize::MAX),
        (-1, more.to_vec(), usize::MAX),
        // What would be a good one, but for our own limit: see `compressed_payloads_are_inflated`.
        (100, b"\x40\x59\x1fa\x01\0\x4b\x50aaaaa".to_vec(), 99),
    ];
    for (original_size, container, limit) in bombs {
        let server = Server::once(move |mut peer: Peer| {
            peer.accept_credentials();
            peer.send(&packet("Bomb", 0, 1, 0, original_size, &container));
            peer.echo();
        });
        let builder = server.builder().inflated_bytes_max(limit);
        let connector = builder.build().expect("a connector");
        log_in(&connector);
        let event = next_news(&connector);
        let Event::Disconnected { reason, .. } = event else {
            panic!("{original_size}: {event:?}");
        };
        let told = match &reason {
            DisconnectReason::Protocol(ProtocolError::Payload(_)) => true,
            // It is negative: no packet at all.
            DisconnectReason::Protocol(ProtocolError::Packet(_)) => original_size < 0,
            _ => false,
        };
        assert!(told, "{original_size}: {reason}");
        server.join();
    }
}

/// A server's oversized packets, on every transport.
#[test]
fn packets_over_the_limit_end_the_connection_on_every_transport() {
    let identity = std::sync::Arc::new(Identity::new());
    for transport in TRANSPORTS {
        let served = identity.clone();
        let server = Server::once(move |peer: Peer| {
            let mut peer = layers::layered(peer, transport, &served);
            peer.accept_credentials();
            peer.send(&((2 << 20) + 1_u32).to_le_bytes());
            peer.echo();
        });
        let builder = trusting(server.builder(), transport, &identity);
        let connector = builder.build().expect("a connector");
        log_in(&connector);
        let event = next_news(&connector);
        let refused = matches!(
            &event,
            Event::Disconnected {
                reason: DisconnectReason::Protocol(ProtocolError::Frame(_)),
                ..
            }
        );
        assert!(refused, "{transport:?}: {event:?}");
        server.join();
    }
}

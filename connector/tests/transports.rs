//! The same over every transport, and what is special to each.
#![cfg(all(feature = "tls", feature = "ws"))]

#[path = "support/layers.rs"]
mod layers;
mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use layers::{Identity, Messages, TRANSPORTS, layered, trusting};
use proscenium_connector::{
    BuildError, Builder, ConnectError, Connector, DisconnectReason, Event, Reconnect, Transport,
};
use support::{PATIENCE, Peer, Server, accept, log_in, next_news, push};
use tungstenite::Message;

/// Bytes of the longest payload that the default limit of 2 MiB leaves: in answers, and in
/// requests with the id "Echo".
const PAYLOAD_MAX: usize = (2 << 20) - 1 - 4 - 2 - 8 - 2 - 4;

#[test]
fn small_and_large_packets_go_both_ways_on_every_transport() {
    let identity = Arc::new(Identity::new());
    for transport in TRANSPORTS {
        let served = identity.clone();
        let server = Server::once(move |peer: Peer| {
            let mut peer = layered(peer, transport, &served);
            peer.accept_credentials();
            peer.send(&push("News", b"pushed"));
            peer.echo().len()
        });
        let builder = trusting(server.builder(), transport, &identity);
        let builder = builder.send_queue_bytes_max(64 << 20);
        let connector = builder.build().expect("a connector");
        log_in(&connector);
        let news = next_news(&connector);
        assert!(
            matches!(&news, Event::Received(news) if news.payload == b"pushed"),
            "{news:?}"
        );
        let sizes = [0, 1, 125, 126, 1024, 65_535, 65_536, 1 << 20, PAYLOAD_MAX];
        let payload = |size: usize| (0..size).map(|i| (i % 251) as u8).collect::<Vec<u8>>();
        let ask = |&size: &usize| (size, connector.request(1, "Echo", &payload(size)));
        let answers: Vec<_> = sizes.iter().map(ask).collect();
        for (size, answer) in answers {
            let answer = answer.wait().expect("an answer");
            assert!(
                answer.payload == payload(size),
                "{transport:?}, {size} bytes"
            );
        }
        for _ in 0..1000 {
            connector.send(1, "Last", b"words").expect("sent");
        }
        drop(connector);
        assert_eq!(server.join(), sizes.len() + 1000, "{transport:?}");
    }
}

#[test]
fn every_transport_reconnects() {
    let identity = Arc::new(Identity::new());
    let policy = Reconnect {
        first: Duration::from_millis(1),
        max: Duration::from_millis(10),
        attempts: 0,
    };
    for transport in TRANSPORTS {
        let served = identity.clone();
        let server = Server::start(move |listener: TcpListener| {
            for _ in 0..3 {
                layered(accept(&listener), transport, &served).accept_credentials();
            }
            layered(accept(&listener), transport, &served).accept_credentials();
        });
        let builder = trusting(server.builder(), transport, &identity);
        let connector = builder.reconnect(policy).build().expect("a connector");
        log_in(&connector);
        let mut reauthenticated = 0;
        while reauthenticated < 3 {
            reauthenticated += match next_news(&connector) {
                Event::Reauthenticated(_) => 1,
                Event::Disconnected { reconnecting, .. } => {
                    assert!(reconnecting);
                    0
                }
                event => panic!("{transport:?}: {event:?}"),
            };
        }
        server.join();
    }
}

/// The server's side of a TLS handshake, whatever becomes of it.
fn try_tls(identity: Arc<Identity>) -> Server<()> {
    Server::once(move |peer: Peer| {
        let mut peer = layered(peer, Transport::Tls, &identity);
        let _ = peer.stream.read(&mut [0; 100]);
    })
}

fn connect(builder: Builder) -> Result<(), ConnectError> {
    let connector = builder.build().expect("a connector");
    connector.connect().wait()
}

#[test]
fn servers_that_are_not_trusted_are_refused() {
    let identity = Arc::new(Identity::new());
    // Nobody vouches for it; another name; another pin.
    let cases: [fn(Builder, &Identity) -> Builder; 3] = [
        |builder, _| builder.server_name("play.test"),
        |builder, identity| trusting(builder, Transport::Tls, identity).server_name("other.test"),
        |builder, identity| trusting(builder, Transport::Tls, identity).pin_sha256([7; 32]),
    ];
    for case in cases {
        let server = try_tls(identity.clone());
        let builder = server.builder().transport(Transport::Tls);
        let refused = connect(case(builder, &identity));
        let Err(ConnectError::Tls(text)) = refused else {
            panic!("{refused:?}");
        };
        assert!(text.contains("certificate"), "{text}");
        server.join();
    }
}

#[test]
fn a_pinned_certificate_is_trusted_for_itself() {
    let identity = Arc::new(Identity::new());
    let provider = rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
    let hash = provider
        .tls13()
        .expect("a suite of 1.3")
        .common
        .hash_provider;
    let digest = |bytes: &[u8]| -> [u8; 32] {
        let digest = hash.hash(bytes);
        digest.as_ref().try_into().expect("32 bytes")
    };
    let (certificate, key) = (digest(&identity.certificate), digest(&identity.public_key));
    for (pin, key_pin, trusted) in [
        (certificate, [0; 32], true),
        ([0; 32], key, true),
        (key, certificate, false),
    ] {
        let server = try_tls(identity.clone());
        // No authority, and a name that the certificate does not have.
        let builder = server.builder().transport(Transport::Tls);
        let builder = builder.pin_sha256(pin).pin_public_key_sha256(key_pin);
        assert_eq!(connect(builder).is_ok(), trusted);
        server.join();
    }
}

#[test]
fn useless_certificates_and_paths_are_refused_before_connecting() {
    let builder = || Connector::builder("127.0.0.1", 1).transport(Transport::Tls);
    for wrong in [
        builder().trust_pem("no certificate"),
        builder().trust_pem("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"),
        builder().server_name("not a name"),
    ] {
        let built = wrong.build();
        assert!(matches!(built, Err(BuildError::Tls(_))), "{built:?}");
    }
    for path in ["", "ws", "/w s", "/ws\r\nX: y", "/ws#part"] {
        let built = builder().transport(Transport::Ws).path(path).build();
        assert!(matches!(built, Err(BuildError::Option(_))), "{built:?}");
    }
}

#[test]
fn a_handshake_that_stalls_runs_out_of_time() {
    for transport in [Transport::Tls, Transport::Ws] {
        let server = Server::once(|mut peer: Peer| {
            let mut all = Vec::new();
            peer.stream.read_to_end(&mut all).map(|_| all.len())
        });
        let builder = server.builder().transport(transport);
        let refused = connect(builder.connect_timeout(Duration::from_millis(100)));
        assert!(matches!(refused, Err(ConnectError::Timeout)), "{refused:?}");
        let _ = server.join(); // it too sees an end
    }
}

#[test]
fn disconnecting_cancels_connecting() {
    for close in [Connector::disconnect, Connector::close] {
        // It is asked for the handshake, and never answers.
        let (asked, first) = mpsc::channel();
        let server = Server::once(move |mut peer: Peer| {
            peer.stream.read_exact(&mut [0]).expect("a request");
            asked.send(()).expect("the test waits");
            while matches!(peer.stream.read(&mut [0; 1000]), Ok(1..)) {}
        });
        let builder = server.builder().transport(Transport::Ws);
        let connector = builder.build().expect("a connector");
        let result = connector.connect();
        first.recv_timeout(PATIENCE).expect("a request");
        close(&connector);
        let result = result.wait();
        assert!(matches!(result, Err(ConnectError::Cancelled)), "{result:?}");
        server.join();
    }
}

#[test]
fn servers_that_speak_something_else_are_refused() {
    let answers: [(Transport, &[u8], &str); 4] = [
        (
            Transport::Tls,
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
            "corrupt",
        ),
        (Transport::Ws, b"HTTP/1.1 404 Not Found\r\n\r\n", "404"),
        (Transport::Ws, b"\x16\x03\x01\x00\x00", ""),
        (Transport::Ws, b"", "closed"),
    ];
    for (transport, answer, expected) in answers {
        let server = Server::once(move |mut peer: Peer| {
            let _ = peer.stream.read(&mut [0; 1000]);
            peer.send(answer);
            peer.socket.shutdown(Shutdown::Write).expect("shut down");
            // Closing with something unread would be a reset, which may overtake the answer.
            let _ = peer.stream.read_to_end(&mut Vec::new());
        });
        let refused = connect(server.builder().transport(transport));
        let (Err(ConnectError::Tls(text)) | Err(ConnectError::WebSocket(text))) = refused else {
            panic!("{refused:?}");
        };
        assert!(text.contains(expected), "{text}");
        server.join();
    }
}

/// A server may put packets into messages and frames as it likes.
#[test]
fn packets_and_messages_need_not_coincide() {
    let server = Server::once(|peer: Peer| {
        let socket = peer.socket.try_clone().expect("a socket");
        let mut peer = Peer {
            stream: Box::new(Messages::accept(peer.socket)),
            socket,
        };
        peer.accept_credentials();
        let packets: Vec<_> = (0..50_u8).map(|i| push("Part", &[i; 100])).collect();
        peer.write(&packets.concat()).expect("written");
        for byte in packets.concat() {
            peer.write(&[byte]).expect("written");
        }
        peer.write(&[]).expect("written");
        peer.echo();
    });
    let builder = server.builder().transport(Transport::Ws);
    let connector = builder.build().expect("a connector");
    log_in(&connector);
    for i in (0..50_u8).chain(0..50) {
        let news = next_news(&connector);
        assert!(
            matches!(&news, Event::Received(part) if part.payload == [i; 100]),
            "{news:?}"
        );
    }
    drop(connector);
    server.join();
}

#[test]
fn pings_are_answered_and_text_is_not_taken() {
    let server = Server::once(|peer: Peer| {
        let mut socket = tungstenite::accept(peer.socket).expect("a WebSocket");
        socket
            .send(Message::Ping(b"alive?"[..].into()))
            .expect("sent");
        let answer = socket.read().expect("a pong");
        assert_eq!(answer, Message::Pong(b"alive?"[..].into()));
        socket.send(Message::text("hello")).expect("sent");
        while socket.read().is_ok() {}
    });
    let builder = server.builder().transport(Transport::Ws);
    let connector = builder.build().expect("a connector");
    connector.connect().wait().expect("connected");
    let event = next_news(&connector);
    let Event::Disconnected { reason, .. } = event else {
        panic!("{event:?}");
    };
    assert!(reason.to_string().contains("text"), "{reason}");
    server.join();
}

#[test]
fn close_frames_are_answered() {
    let server = Server::once(|peer: Peer| {
        let mut socket = tungstenite::accept(peer.socket).expect("a WebSocket");
        socket.close(None).expect("sent");
        loop {
            match socket.read() {
                Ok(_) => {}
                Err(error) => break error.to_string(),
            }
        }
    });
    let builder = server.builder().transport(Transport::Ws);
    let connector = builder.build().expect("a connector");
    connector.connect().wait().expect("connected");
    let event = next_news(&connector);
    let closed = matches!(
        &event,
        Event::Disconnected {
            reason: DisconnectReason::PeerClosed,
            ..
        }
    );
    assert!(closed, "{event:?}");
    // What tungstenite says when both sides have sent their close frames.
    assert_eq!(
        server.join(),
        tungstenite::Error::ConnectionClosed.to_string()
    );
}

#[test]
fn a_tls_connection_that_breaks_is_not_one_that_ended() {
    let identity = Arc::new(Identity::new());
    let served = identity.clone();
    let server = Server::once(move |peer: Peer| {
        let mut peer = layered(peer, Transport::Tls, &served);
        peer.accept_credentials();
        peer.stream.flush().expect("flushed");
        peer.socket.shutdown(Shutdown::Write).expect("shut down");
        peer.echo();
    });
    let builder = trusting(server.builder(), Transport::Tls, &identity);
    let connector = builder.build().expect("a connector");
    log_in(&connector);
    let event = next_news(&connector);
    let broke = matches!(
        &event,
        Event::Disconnected { reason: DisconnectReason::Io(error), .. }
            if error.kind() == std::io::ErrorKind::UnexpectedEof
    );
    assert!(broke, "{event:?}");
    server.join();
}

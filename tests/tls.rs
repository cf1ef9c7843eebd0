//! TLS over real sockets: what goes through, what is agreed on, how it ends.

mod support;
#[path = "support/tls.rs"]
mod tls;

use std::io::{Read, Write};
use std::sync::Arc;

use proscenium::{Connector, Engine, HandshakeKind, Limits, Origin, RouterId, TlsVersion};
use support::{Behaviour, Seen, Server, eventually, frame, loopback, read_frame};
use tls::{Authority, NAME, foreign};

/// The n-th connection that a server announced.
fn nth(server: &Server, n: usize) -> RouterId {
    eventually("a connection is announced", || {
        let log = server.log.all();
        let mut ids = log.iter().filter_map(|seen| match seen {
            Seen::Connected { id, .. } => Some(*id),
            _ => None,
        });
        ids.nth(n)
    })
}

#[test]
fn messages_of_any_length_go_both_ways() {
    let authority = Authority::new();
    let tls = authority.server().build().unwrap();
    let server = Server::with(Limits::default(), loopback().tls(&tls), Behaviour::echo());
    let config = Arc::new(authority.foreign());
    let mut client = foreign(server.address(), &config, NAME);
    for length in [
        0,
        1,
        100,
        16_380,
        16_384,
        16_385,
        64 << 10,
        1 << 20,
        2 << 20,
    ] {
        let body: Vec<u8> = (0..length).map(|i| (i * 7 + i / 251) as u8).collect();
        let sent = frame(&body);
        client.write_all(&sent).unwrap();
        assert!(
            read_frame(&mut client) == body,
            "{length} bytes came back changed"
        );
    }
    let id = nth(&server, 0);
    let info = server.on(0, move |cx| cx.tls(id).cloned()).unwrap();
    assert_eq!(info.version, TlsVersion::Tls13);
    assert_eq!(info.kind, HandshakeKind::Full);
    assert_eq!(info.server_name.as_deref(), Some(NAME));
    assert_eq!((info.alpn, info.peer_certificates.len()), (None, 0));
    client.conn.send_close_notify();
    client.flush().unwrap();
    assert_eq!(
        client.read(&mut [0; 1]).unwrap(),
        0,
        "an end as TLS wants it"
    );
    assert_eq!(server.log.until_closed(id).0, "peer_closed");
    server.end_clean();
}

#[test]
fn an_engine_connects_to_an_engine() {
    let authority = Authority::new();
    let tls = authority.server().build().unwrap();
    let server = Server::with(Limits::default(), loopback().tls(&tls), Behaviour::echo());
    let client = Server::start(Engine::builder(), Behaviour::sink());
    let connector = Connector::to(server.address()).tls(&authority.client().build().unwrap());
    client.on(0, move |cx| cx.connect(&connector));
    let id = nth(&client, 0);
    client.on(0, move |cx| cx.send(id, &[7; 100_000])).unwrap();
    client.until_stats(|stats| stats.messages_in == 1);
    let info = client.on(0, move |cx| cx.tls(id).cloned()).unwrap();
    assert_eq!(info.peer_certificates.len(), 1);
    let peer = client.on(0, move |cx| cx.peer(id)).unwrap();
    assert!(matches!(peer.origin, Origin::Outgoing(_)));
    client.on(0, move |cx| cx.close(id));
    assert_eq!(client.log.until_closed(id).0, "local");
    let peer = nth(&server, 0);
    assert_eq!(server.log.until_closed(peer).0, "peer_closed");
    client.end_clean();
    server.end_clean();
}

//! Two sessions joined by buffers.

use super::*;
use crate::layer::tls::{Identity, TlsClient, TlsServer};

struct Pair {
    client: RustlsSession,
    server: RustlsSession,
}

/// What one read after the other brings, in order.
#[derive(Debug, Default, PartialEq)]
struct Told {
    plain: Vec<u8>,
    closed: bool,
    error: Option<TlsError>,
}

/// Gives `bytes` to a session, `step` bytes at a time; what it answers goes to `reply`.
fn give(to: &mut RustlsSession, bytes: &[u8], step: usize, reply: &mut Vec<u8>) -> Told {
    let (mut held, mut told) = (Vec::new(), Told::default());
    for piece in bytes.chunks(step) {
        held.extend_from_slice(piece);
        loop {
            let read = to.read(&mut held, reply);
            if let Ok(Event::Plain(range)) = &read.event {
                assert!(range.end <= read.used);
                told.plain.extend_from_slice(&held[range.clone()]);
            }
            held.drain(..read.used);
            match read.event {
                Ok(Event::Nothing) => break,
                Ok(Event::Plain(_)) => {}
                Ok(Event::Closed) => {
                    told.closed = true;
                    return told;
                }
                Err(error) => {
                    told.error = Some(error);
                    return told;
                }
            }
        }
    }
    told
}

fn server() -> (TlsServer, String) {
    let made = rcgen::generate_simple_self_signed(vec!["stage.test".to_owned()]).unwrap();
    let pem = made.cert.pem();
    let key = made.signing_key.serialize_pem();
    let identity = Identity::from_pem(pem.as_bytes(), key.as_bytes()).unwrap();
    let server = TlsServer::builder(identity).tls12(true).build().unwrap();
    (server, pem)
}

impl Pair {
    /// After the handshake, made in pieces of `step` bytes.
    fn new(step: usize) -> Self {
        let (server, pem) = server();
        let client = TlsClient::builder("stage.test")
            .roots_pem(pem.as_bytes())
            .and_then(|builder| builder.build())
            .unwrap();
        Self::of(&server, &client, step)
    }

    fn of(server: &TlsServer, client: &TlsClient, step: usize) -> Self {
        let mut pair = Self {
            client: client.rustls_session().unwrap(),
            server: server.rustls_session().unwrap(),
        };
        let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
        let begun = pair.client.read(&mut [], &mut to_server);
        assert!(begun.event.is_ok() && !to_server.is_empty());
        while !to_server.is_empty() || !to_client.is_empty() {
            let bytes = std::mem::take(&mut to_server);
            let told = give(&mut pair.server, &bytes, step, &mut to_client);
            assert_eq!(told, Told::default());
            let bytes = std::mem::take(&mut to_client);
            let told = give(&mut pair.client, &bytes, step, &mut to_server);
            assert_eq!(told, Told::default());
        }
        assert!(pair.client.is_up() && pair.server.is_up());
        pair
    }

    /// Says `text` in both directions.
    #[track_caller]
    fn talk(&mut self, text: &[u8]) {
        let mut out = vec![0; text.len() + RECORD_OVERHEAD];
        for from_client in [true, false] {
            let (from, to) = if from_client {
                (&mut self.client, &mut self.server)
            } else {
                (&mut self.server, &mut self.client)
            };
            let written = from.write(text, &mut out).unwrap();
            let told = give(to, &out[..written], usize::MAX, &mut Vec::new());
            assert_eq!((told.plain, told.error), (text.to_vec(), None));
        }
    }
}

#[test]
fn a_handshake_in_pieces_of_any_length_leads_to_the_same() {
    for step in [1, 2, 7, 100, 1000, usize::MAX] {
        let mut pair = Pair::new(step);
        assert_eq!(
            pair.server.info().server_name.as_deref(),
            Some("stage.test")
        );
        assert_eq!(pair.client.info().version, TlsVersion::Tls13);
        pair.talk(b"hello");
        pair.talk(&[7; 16_384]);
        let mut end = Vec::new();
        pair.client.close(&mut end);
        end.extend_from_slice(b"whatever");
        let told = give(&mut pair.server, &end, step, &mut Vec::new());
        assert!(told.closed && told.error.is_none());
    }
}

#[test]
fn tickets_are_kept_and_used() {
    let (server, pem) = server();
    let client = TlsClient::builder("stage.test").roots_pem(pem.as_bytes());
    let client = client.unwrap().build().unwrap();
    for (step, kind) in [
        (usize::MAX, HandshakeKind::Full),
        (1, HandshakeKind::Resumed),
        (50, HandshakeKind::Resumed),
    ] {
        let mut pair = Pair::of(&server, &client, step);
        assert_eq!(pair.client.info().kind, kind);
        assert_eq!(pair.server.info().kind, kind);
        pair.talk(b"hello");
    }
}

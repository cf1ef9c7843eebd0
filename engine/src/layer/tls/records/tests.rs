//! Two sessions joined by buffers: what goes through, and what one of them may not send.

use super::*;
use crate::layer::tls::record::HANDSHAKE;
use crate::layer::tls::session::RustlsSession;
use crate::layer::tls::{
    HandshakeKind, Identity, RECORD_OVERHEAD, TlsClient, TlsServer, TlsSession, TlsVersion,
};

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
            let was_up = to.is_up();
            let read = to.read(&mut held, reply);
            if let Ok(Event::Plain(range)) = &read.event {
                assert!(range.end <= read.used);
                told.plain.extend_from_slice(&held[range.clone()]);
            }
            held.drain(..read.used);
            match read.event {
                Ok(Event::Nothing) if was_up == to.is_up() => break,
                Ok(Event::Nothing | Event::Plain(_)) => {}
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

    /// Sends records of these types from one side to the other; what the other side is told.
    fn misuse(&mut self, from_client: bool, records: Sent<'_>) -> (Told, Vec<u8>) {
        let (from, to) = if from_client {
            (&mut self.client, &mut self.server)
        } else {
            (&mut self.server, &mut self.client)
        };
        let mut bytes = Vec::new();
        for (content, plain) in records {
            let write = &mut from.records().write;
            write.seal_behind(*content, plain, &mut bytes).unwrap();
        }
        let mut reply = Vec::new();
        let told = give(to, &bytes, usize::MAX, &mut reply);
        (told, reply)
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

/// Records: their types and plaintexts.
type Sent<'a> = &'a [(u8, &'a [u8])];

const ASK: [u8; 5] = [KEY_UPDATE, 0, 0, 1, 1];

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

#[test]
fn keys_are_changed_when_asked_when_told_and_when_they_are_used_up() {
    let mut pair = Pair::new(usize::MAX);
    pair.talk(b"before");
    for from_client in [true, false, true] {
        let (told, reply) = pair.misuse(from_client, &[(HANDSHAKE, &ASK)]);
        assert_eq!(told, Told::default());
        let (asking, asked) = if from_client {
            (&mut pair.client, &mut pair.server)
        } else {
            (&mut pair.server, &mut pair.client)
        };
        assert_eq!(asked.records().write.sequence(), 0, "it has a new key");
        asking.records().next_write_key().unwrap();
        let told = give(asking, &reply, usize::MAX, &mut Vec::new());
        assert_eq!(told, Told::default());
        pair.talk(b"after");
    }
    pair.client.records().write.set_sequence(KEY_RECORDS);
    pair.server.records().read.set_sequence(KEY_RECORDS);
    pair.talk(b"a key is used up");
    assert_eq!(pair.client.records().write.sequence(), 1);
    pair.talk(b"on we go");
}

#[test]
fn handshake_messages_in_pieces_and_together_are_put_together() {
    let mut pair = Pair::new(usize::MAX);
    // A ticket (RFC 8446 §4.6.1): lifetime, age, nonce, ticket, extensions.
    let mut ticket = vec![NEW_SESSION_TICKET, 0, 0, 17];
    ticket.extend_from_slice(&[0, 0, 1, 0, 0, 0, 0, 7, 1, 9, 0, 4, 1, 2, 3, 4, 0]);
    let ticket_len = ticket.len() - 4;
    ticket[3] = ticket_len as u8;
    ticket.push(0);
    ticket[3] += 1;
    let two = [ticket.clone(), ticket.clone()].concat();
    let (told, reply) = pair.misuse(
        false,
        &[
            (HANDSHAKE, &ticket),
            (HANDSHAKE, &two),
            (HANDSHAKE, &ticket[..2]),
            (HANDSHAKE, &ticket[2..10]),
            (HANDSHAKE, &ticket[10..]),
        ],
    );
    assert_eq!((told, reply.len()), (Told::default(), 0));
    pair.talk(b"on we go");
}

/// Each of these ends the connection, with an alert for the other side.
#[test]
fn what_may_not_come_after_the_handshake_is_refused() {
    let hello = [1, 0, 0, 2, 3, 3];
    let long = [NEW_SESSION_TICKET, 2, 0, 0, 0];
    let flood = vec![(HANDSHAKE, &ASK[..]); 33];
    let empty = vec![(APPLICATION_DATA, &[][..]); 33];
    let cases: [(bool, Sent<'_>); 14] = [
        // Refused by their headers: nobody keeps 64 KiB of what is no key update.
        (true, &[(HANDSHAKE, &[KEY_UPDATE, 0, 255, 255, 0])]),
        (true, &[(HANDSHAKE, &[11, 0, 0, 255])]),
        (true, &[(HANDSHAKE, &hello)]),
        (true, &[(HANDSHAKE, &[NEW_SESSION_TICKET, 0, 0, 0])]),
        (false, &[(HANDSHAKE, &[NEW_SESSION_TICKET, 0, 0, 1, 0])]),
        (false, &[(HANDSHAKE, &[0, 0, 0, 0])]),
        (false, &[(HANDSHAKE, &long)]),
        (true, &[(HANDSHAKE, &[])]),
        (true, &[(HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, 2])]),
        (true, &[(HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, 0, KEY_UPDATE])]),
        (true, &[(HANDSHAKE, &ASK[..2]), (APPLICATION_DATA, b"x")]),
        (true, &[(20, &[1])]),
        (true, &[(ALERT, &[2])]),
        (true, &empty),
    ];
    for (number, (from_client, records)) in cases.iter().enumerate() {
        let mut pair = Pair::new(usize::MAX);
        let (told, reply) = pair.misuse(*from_client, records);
        let error = told
            .error
            .unwrap_or_else(|| panic!("case {number} was let through"));
        assert!(told.plain.is_empty(), "case {number}");
        // The other side understands why.
        let back = if *from_client {
            &mut pair.client
        } else {
            &mut pair.server
        };
        let answer = give(back, &reply, usize::MAX, &mut Vec::new());
        let code = match error {
            TlsError::Misbehaved { .. } => 10,
            TlsError::OversizedRecord => 22,
            TlsError::BadMessage { .. } => 50,
            other => panic!("case {number}: {other}"),
        };
        assert!(
            matches!(answer.error, Some(TlsError::PeerAlert { code: found, .. }) if found == code),
            "case {number}: {answer:?}"
        );
    }
    // Key updates without end are refused as well; here the keys change on the way.
    let mut pair = Pair::new(usize::MAX);
    let mut refused = false;
    for record in &flood {
        let (told, _) = pair.misuse(true, &[*record]);
        refused |= told.error.is_some();
        if !refused {
            pair.client.records().next_write_key().unwrap();
        }
    }
    assert!(refused);
}

#[test]
fn alerts_are_ends_or_refusals() {
    let mut pair = Pair::new(usize::MAX);
    let (told, _) = pair.misuse(
        true,
        &[(ALERT, &[1, USER_CANCELED]), (APPLICATION_DATA, b"x")],
    );
    assert_eq!((told.plain, told.error), (b"x".to_vec(), None));
    let (told, reply) = pair.misuse(true, &[(ALERT, &[2, 40]), (APPLICATION_DATA, b"x")]);
    assert!(matches!(
        told.error,
        Some(TlsError::PeerAlert { code: 40, .. })
    ));
    assert_eq!(
        (told.plain.len(), reply.len()),
        (0, 0),
        "no alert answers one"
    );
}

//! What a TLS server shows, asks for and allows, and whom a TLS client trusts.

mod support;
#[path = "support/tls.rs"]
mod tls;

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use proscenium::{
    ClientCertificates, Connector, Engine, HandshakeKind, Limits, Pin, TlsClient, TlsConfigError,
    TlsInfo, TlsServer, TlsServerBuilder, TlsVersion,
};
use rustls::ClientConfig;
use rustls::client::Resumption;
use support::{Behaviour, Seen, Server, eventually, frame, loopback, read_frame};
use tls::{Authority, Foreign, NAME, Pems, foreign};

fn serve(builder: TlsServerBuilder) -> (Server, TlsServer) {
    let tls = builder.build().unwrap();
    let limits = Limits::default().linger(Duration::from_millis(50));
    let server = Server::with(limits, loopback().tls(&tls), Behaviour::echo());
    (server, tls)
}

fn ask(stream: &mut Foreign) {
    stream.write_all(&frame(b"hello")).unwrap();
    assert_eq!(read_frame(stream), b"hello");
}

/// A client that is through its handshake.
fn come(server: &Server, config: &Arc<ClientConfig>) -> Foreign {
    let mut client = foreign(server.address(), config, NAME);
    ask(&mut client);
    client
}

fn info(server: &Server, n: usize) -> TlsInfo {
    let id = server.nth(n);
    server
        .on(0, move |cx| cx.tls(id).cloned())
        .expect("it speaks TLS")
}

/// The certificate that the server showed.
fn shown(stream: &Foreign) -> Vec<u8> {
    stream.conn.peer_certificates().unwrap()[0].to_vec()
}

/// The handshake fails on our side of the world as well.
fn refused(server: &Server, before: u64) {
    server.until_stats(|stats| stats.closed("handshake_failed") == before + 1);
}

/// What an attempt of an engine to connect came to: its info, or the error.
fn attempt(server: &Server, client: TlsClient) -> Result<TlsInfo, String> {
    let engine = Server::start(Engine::builder(), Behaviour::sink());
    let connector = Connector::to(server.address()).tls(&client);
    engine.on(0, move |cx| cx.connect(&connector));
    eventually("an answer", || {
        engine.log.find(|seen| match seen {
            Seen::Connected { id, .. } => Some(Ok(*id)),
            Seen::ConnectFailed { text, .. } => Some(Err(text.clone())),
            _ => None,
        })
    })
    .map(|id| engine.on(0, move |cx| cx.tls(id).cloned()).unwrap())
}

#[test]
fn a_certificate_is_chosen_by_name() {
    let authority = Authority::new();
    let (first, second) = (authority.issue(NAME), authority.issue("other.test"));
    let builder =
        TlsServer::builder(first.identity()).identity_for("Other.Test", second.identity());
    let (server, _tls) = serve(builder);
    let config = Arc::new(authority.foreign());
    for (n, (name, pems)) in [(NAME, &first), ("other.test", &second)]
        .into_iter()
        .enumerate()
    {
        let mut client = foreign(server.address(), &config, name);
        ask(&mut client);
        assert_eq!(shown(&client), pems.der(), "{name}");
        assert_eq!(info(&server, n).server_name.as_deref(), Some(name));
    }
    // Whoever asks for another name sees the default one, and does not like it.
    let mut client = foreign(server.address(), &config, "third.test");
    assert!(client.write_all(&frame(b"hello")).is_err());
    refused(&server, 0);
    server.end_clean();
}

#[test]
fn an_application_protocol_is_agreed_on_or_the_client_refused() {
    let authority = Authority::new();
    let (server, _tls) = serve(authority.server().alpn(["game/2", "game/1"]));
    let with = |protocols: &[&str]| {
        let mut config = authority.foreign();
        config.alpn_protocols = protocols.iter().map(|p| p.as_bytes().to_vec()).collect();
        Arc::new(config)
    };
    let mut client = foreign(server.address(), &with(&["game/1", "game/2"]), NAME);
    ask(&mut client);
    assert_eq!(
        client.conn.alpn_protocol(),
        Some(&b"game/2"[..]),
        "the server's best"
    );
    assert_eq!(info(&server, 0).alpn.as_deref(), Some(&b"game/2"[..]));
    let mut silent = foreign(server.address(), &with(&[]), NAME);
    ask(&mut silent);
    assert_eq!(info(&server, 1).alpn, None);
    let mut client = foreign(server.address(), &with(&["chess"]), NAME);
    let error = client.write_all(&frame(b"hello")).unwrap_err().to_string();
    assert!(
        error.contains("NoApplicationProtocol"),
        "the alert says so: {error}"
    );
    refused(&server, 0);
    let client = authority.client().alpn(["game/1"]).build().unwrap();
    assert_eq!(
        attempt(&server, client).unwrap().alpn.as_deref(),
        Some(&b"game/1"[..])
    );
    let error = attempt(&server, authority.client().alpn(["chess"]).build().unwrap()).unwrap_err();
    assert!(error.contains("alert 120"), "{error}");
    server.end_clean();
}

fn client_with(authority: &Authority, pems: Option<&Pems>) -> Arc<ClientConfig> {
    Arc::new(authority.foreign_with(pems, rustls::DEFAULT_VERSIONS))
}

#[test]
fn clients_show_a_certificate_if_they_have_to() {
    let (authority, clients, strangers) = (Authority::new(), Authority::new(), Authority::new());
    let (known, unknown) = (clients.issue("player"), strangers.issue("player"));
    let pem = clients.pem().into_bytes();
    let asking = |clients| serve(authority.server().client_certificates(clients)).0;

    let server = asking(ClientCertificates::Required(pem.clone()));
    let _known = come(&server, &client_with(&authority, Some(&known)));
    assert_eq!(info(&server, 0).peer_certificate(), Some(&known.der()[..]));
    for (refusals, pems) in [None, Some(&unknown)].into_iter().enumerate() {
        let mut client = foreign(server.address(), &client_with(&authority, pems), NAME);
        // In TLS 1.3 the client is through before the server has looked.
        let _ = client.write_all(&frame(b"hello"));
        assert!(
            support::read_some(&mut client, &mut [0; 1]).is_err(),
            "an alert"
        );
        refused(&server, refusals as u64);
    }
    let with = authority
        .client()
        .identity(known.identity())
        .build()
        .unwrap();
    assert!(attempt(&server, with).is_ok());
    server.nth(1);
    let announced = server.log.connected().len();
    assert_eq!(announced, 2, "the others never came through");
    server.shutdown();

    let server = asking(ClientCertificates::Optional(pem));
    let _anonymous = come(&server, &client_with(&authority, None));
    assert_eq!(info(&server, 0).peer_certificate(), None);
    let _known = come(&server, &client_with(&authority, Some(&known)));
    assert_eq!(info(&server, 1).peer_certificate(), Some(&known.der()[..]));
    let mut client = foreign(
        server.address(),
        &client_with(&authority, Some(&unknown)),
        NAME,
    );
    let _ = client.write_all(&frame(b"hello"));
    assert!(
        support::read_some(&mut client, &mut [0; 1]).is_err(),
        "an alert"
    );
    refused(&server, 0);
    server.shutdown();
}

/// SHA-256 of `bytes`.
fn sha256(bytes: &[u8]) -> [u8; 32] {
    let suite = rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
    let hash = suite.tls13().unwrap().common.hash_provider.hash(bytes);
    hash.as_ref().try_into().unwrap()
}

#[test]
fn a_client_trusts_roots_pins_or_both() {
    let (authority, other) = (Authority::new(), Authority::new());
    let pems = authority.issue(NAME);
    let (server, _tls) = serve(TlsServer::builder(pems.identity()));
    let key = rustls::pki_types::CertificateDer::from(pems.der());
    let key = rustls::server::ParsedCertificate::try_from(&key).unwrap();
    let certificate = Pin::Certificate(sha256(&pems.der()));
    let key = Pin::PublicKey(sha256(&key.subject_public_key_info()));
    let wrong = [Pin::Certificate([7; 32]), Pin::PublicKey([7; 32])];
    let plain = || TlsClient::builder(NAME);

    assert!(attempt(&server, authority.client().build().unwrap()).is_ok());
    for pin in [certificate, key] {
        assert!(
            attempt(&server, plain().pin(pin).build().unwrap()).is_ok(),
            "{pin:?}"
        );
        let both = authority.client().pin(wrong[0]).pin(pin);
        assert!(
            attempt(&server, both.build().unwrap()).is_ok(),
            "one of several"
        );
        let anonymous = TlsClient::builder("somewhere.else").pin(pin);
        assert!(
            attempt(&server, anonymous.build().unwrap()).is_ok(),
            "a pin is enough"
        );
        let stranger = other.client().pin(pin).build().unwrap();
        let error = attempt(&server, stranger).unwrap_err();
        assert!(
            error.contains("certificate"),
            "roots have to vouch as well: {error}"
        );
    }
    for pin in wrong {
        for builder in [plain(), authority.client()] {
            let error = attempt(&server, builder.pin(pin).build().unwrap()).unwrap_err();
            assert!(error.contains("not a pinned one"), "{error}");
        }
    }
    let error = attempt(&server, other.client().build().unwrap()).unwrap_err();
    assert!(error.contains("UnknownIssuer"), "{error}");
    let misnamed = TlsClient::builder("other.test").roots_pem(authority.pem().as_bytes());
    let error = attempt(&server, misnamed.unwrap().build().unwrap()).unwrap_err();
    assert!(error.contains("not valid for name"), "{error}");
    let any = plain().dangerous_accept_any_certificate().build().unwrap();
    assert!(attempt(&server, any).is_ok());
    assert!(matches!(plain().build(), Err(TlsConfigError::NoTrust)));
    let nameless = TlsClient::builder("no name").pin(certificate).build();
    assert!(matches!(nameless, Err(TlsConfigError::ServerName { .. })));
    server.shutdown();
}

/// Comes to a server once more, with the same tickets; how the handshake was made.
fn come_again(server: &Server, config: &Arc<ClientConfig>, n: usize) -> HandshakeKind {
    let mut client = foreign(server.address(), config, NAME);
    ask(&mut client); // its ticket comes before the answer
    let kind = info(server, n).kind;
    let same = match client.conn.handshake_kind().unwrap() {
        rustls::HandshakeKind::Resumed => HandshakeKind::Resumed,
        _ => HandshakeKind::Full,
    };
    assert_eq!(kind, same);
    kind
}

#[test]
fn whoever_has_a_ticket_comes_back_without_a_full_handshake() {
    use HandshakeKind::{Full, Resumed};
    let authority = Authority::new();
    let (server, tls) = serve(authority.server());
    let config = Arc::new(authority.foreign());
    assert_eq!(come_again(&server, &config, 0), Full);
    assert_eq!(come_again(&server, &config, 1), Resumed);
    let mut forgetful = authority.foreign();
    forgetful.resumption = Resumption::disabled();
    let forgetful = Arc::new(forgetful);
    assert_eq!(come_again(&server, &forgetful, 2), Full);
    assert_eq!(come_again(&server, &forgetful, 3), Full);
    // Other options, other keys of tickets.
    tls.reload(authority.server()).unwrap();
    assert_eq!(come_again(&server, &config, 4), Full);
    assert_eq!(come_again(&server, &config, 5), Resumed);
    tls.reload(authority.server().resumption(false)).unwrap();
    assert_eq!(come_again(&server, &config, 6), Full);
    assert_eq!(come_again(&server, &config, 7), Full);
    server.shutdown();

    // An engine as the client.
    let (server, _tls) = serve(authority.server());
    let engine = Server::start(Engine::builder(), Behaviour::sink());
    for (client, kinds) in [
        (authority.client().build().unwrap(), [Full, Resumed]),
        (
            authority.client().resumption(false).build().unwrap(),
            [Full, Full],
        ),
    ] {
        for kind in kinds {
            let connector = Connector::to(server.address()).tls(&client);
            let count = engine.log.connected().len();
            engine.on(0, move |cx| cx.connect(&connector));
            let id = engine.nth(count);
            let before = engine.stats().messages_in;
            engine.on(0, move |cx| cx.send(id, b"hello")).unwrap();
            engine.until_stats(|stats| stats.messages_in == before + 1);
            let info = engine.on(0, move |cx| cx.tls(id).cloned()).unwrap();
            assert_eq!(info.kind, kind);
            assert_eq!(
                info.peer_certificates.len(),
                1,
                "that of the ticket's handshake"
            );
        }
    }
    engine.shutdown();
    server.shutdown();
}

#[test]
fn certificates_are_reloaded_without_a_restart() {
    let authority = Authority::new();
    let (old, new) = (authority.issue(NAME), authority.issue(NAME));
    let (server, tls) = serve(TlsServer::builder(old.identity()));
    let config = Arc::new(authority.foreign());
    let mut first = foreign(server.address(), &config, NAME);
    ask(&mut first);
    // It connects before and says its first word after.
    let mut silent = foreign(server.address(), &config, NAME);
    server.until_stats(|stats| stats.accepted == 2);
    let mismatch = proscenium::Identity::from_pem(old.certificate.as_bytes(), new.key.as_bytes());
    let error = tls
        .reload(TlsServer::builder(mismatch.unwrap()))
        .unwrap_err();
    assert!(matches!(error, TlsConfigError::Identity { .. }), "{error}");
    tls.reload(TlsServer::builder(new.identity())).unwrap();
    ask(&mut silent);
    let mut second = foreign(server.address(), &config, NAME);
    ask(&mut second);
    ask(&mut first);
    assert_eq!((shown(&first), shown(&second)), (old.der(), new.der()));
    assert_eq!(shown(&silent), new.der());
    server.shutdown();
}

#[test]
fn tls_1_2_is_refused_unless_it_is_allowed() {
    let authority = Authority::new();
    let config = Arc::new(authority.foreign_with(None, &[&rustls::version::TLS12]));
    let (server, tls) = serve(authority.server());
    let mut client = foreign(server.address(), &config, NAME);
    let error = client.write_all(&frame(b"hello")).unwrap_err().to_string();
    assert!(error.contains("ProtocolVersion"), "{error}");
    refused(&server, 0);
    tls.reload(authority.server().tls12(true)).unwrap();
    let mut client = foreign(server.address(), &config, NAME);
    ask(&mut client);
    assert_eq!(info(&server, 0).version, TlsVersion::Tls12);
    for length in [16_384, 100_000, 1 << 20] {
        let body = vec![length as u8; length];
        client.write_all(&frame(&body)).unwrap();
        assert!(read_frame(&mut client) == body, "{length} bytes");
    }
    client.conn.send_close_notify();
    client.flush().unwrap();
    assert_eq!(support::read_some(&mut client, &mut [0; 1]).unwrap(), 0);
    assert_eq!(server.log.until_closed(server.nth(0)).0, "peer_closed");
    assert_eq!(
        attempt(&server, authority.client().tls12(true).build().unwrap())
            .unwrap()
            .version,
        TlsVersion::Tls13
    );
    server.shutdown();
}

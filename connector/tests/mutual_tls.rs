//! Clients with certificates, against the real Play server.
#![cfg(all(feature = "tls", feature = "ws"))]

mod support;

use std::net::SocketAddr;

use proscenium_connector::{
    BuildError, Builder, ConnectError, Connector, DisconnectReason, Event, ProtocolError,
    RequestError, Transport,
};
use proscenium_engine::{
    Address, ClientCertificates, Identity, Listener, TlsServer, WebSocketServer,
};
use proscenium_play::{
    Actor, ActorCx, Member, Packet, PlayServer, PlayStage, Result, StageCx, StageKind, Verdict,
};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use support::{AUTH, PATIENCE, next_news};

#[derive(Default)]
struct Player;

impl Actor for Player {
    async fn on_authenticate(&mut self, cx: &mut ActorCx<'_>, _: Packet<'_>) -> Result<Verdict> {
        cx.set_account_id("somebody");
        Ok(Verdict::accept())
    }
}

#[derive(Default)]
struct Room;

impl PlayStage for Room {
    type Actor = Player;

    async fn on_dispatch(
        &mut self,
        cx: &mut StageCx<'_, Self>,
        _: &mut Member<'_, Player>,
        packet: Packet<'_>,
    ) -> Result {
        Ok(cx.reply("Echo", packet.payload())?)
    }
}

/// An authority, in PEM, and what it issues.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).expect("a certificate").pem();
        let issuer = Issuer::new(params, key);
        Self { pem, issuer }
    }

    /// A certificate and its key, in PEM.
    fn issue(&self, purpose: ExtendedKeyUsagePurpose) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let names = vec!["play.test".to_owned()];
        let mut params = CertificateParams::new(names).expect("parameters");
        params.extended_key_usages = vec![purpose];
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        (certificate.pem(), key.serialize_pem())
    }

    fn client(&self) -> (String, String) {
        self.issue(ExtendedKeyUsagePurpose::ClientAuth)
    }
}

/// Wants certificates of that authority; TLS first, then WebSocket on it.
fn server(authority: &Authority) -> PlayServer {
    let (certificate, key) = authority.issue(ExtendedKeyUsagePurpose::ServerAuth);
    let identity = Identity::from_pem(certificate.as_bytes(), key.as_bytes()).expect("one");
    let clients = ClientCertificates::Required(authority.pem.clone().into_bytes());
    let tls = TlsServer::builder(identity).client_certificates(clients);
    let tls = tls.build().expect("TLS");
    let listener = || Listener::tcp("127.0.0.1:0").expect("an address").tls(&tls);
    PlayServer::builder()
        .stage(StageKind::new("room", |_id| Room, Player::default))
        .default_stage("room")
        .listen(listener())
        .listen(listener().web_socket(&WebSocketServer::new()))
        .start()
        .expect("a server")
}

fn builder(server: &PlayServer, transport: Transport, authority: &Authority) -> Builder {
    let number = usize::from(transport == Transport::Wss);
    let address: SocketAddr = match &server.local_addrs()[number] {
        Address::Tcp(address) => *address,
        other => panic!("{other:?}"),
    };
    Connector::builder("127.0.0.1", address.port())
        .transport(transport)
        .server_name("play.test")
        .trust_pem(&authority.pem)
        .connect_timeout(PATIENCE)
        .request_timeout(PATIENCE)
}

#[test]
fn a_client_with_a_certificate_plays() {
    let authority = Authority::new();
    let server = server(&authority);
    for transport in [Transport::Tls, Transport::Wss] {
        let (certificate, key) = authority.client();
        let builder = builder(&server, transport, &authority);
        let connector = builder.client_certificate_pem(&certificate, &key).build();
        let connector = connector.expect("a connector");
        // Twice: the second time the session is resumed, and is that of a known client.
        for _ in 0..2 {
            connector.connect().wait().expect("connected");
            let answer = connector.authenticate(1, AUTH, b"").wait();
            answer.expect("authenticated");
            let answer = connector.request(1, "Echo", b"x").wait();
            assert_eq!(answer.expect("an answer").payload, b"x");
            connector.disconnect();
        }
    }
    server.shutdown(PATIENCE);
}

#[test]
fn a_client_without_one_or_with_another_is_thrown_out() {
    let authority = Authority::new();
    let server = server(&authority);
    let stranger = Authority::new().client();
    let wrong_purpose = authority.issue(ExtendedKeyUsagePurpose::ServerAuth);
    for transport in [Transport::Tls, Transport::Wss] {
        for shown in [None, Some(&stranger), Some(&wrong_purpose)] {
            let mut builder = builder(&server, transport, &authority);
            if let Some((certificate, key)) = shown {
                builder = builder.client_certificate_pem(certificate, key);
            }
            let connector = builder.build().expect("a connector");
            // The server looks at the certificate when the client is through with TLS, but not
            // with WebSocket.
            match connector.connect().wait() {
                Err(ConnectError::WebSocket(_) | ConnectError::Io(_)) => {
                    assert_eq!(transport, Transport::Wss);
                }
                Err(ConnectError::Tls(text)) => assert!(text.contains("alert"), "{text}"),
                Err(error) => panic!("{error}"),
                Ok(()) => {
                    let answer = connector.authenticate(1, AUTH, b"").wait();
                    let error = answer.expect_err("thrown out");
                    let gone = matches!(error, RequestError::Disconnected)
                        || matches!(error, RequestError::NotSent(_));
                    assert!(gone, "{error}");
                    let event = next_news(&connector);
                    let Event::Disconnected { reason, .. } = event else {
                        panic!("{event:?}");
                    };
                    // The alert, unless the socket was reset before it was read.
                    let told = match &reason {
                        DisconnectReason::Protocol(ProtocolError::Tls(text)) => {
                            text.contains("alert")
                        }
                        reason => matches!(reason, DisconnectReason::Io(_)),
                    };
                    assert!(told, "{reason}");
                }
            }
        }
    }
    assert_eq!(server.handle().stats().joins, 0);
    server.shutdown(PATIENCE);
}

#[test]
fn useless_client_certificates_are_refused_before_connecting() {
    let (certificate, key) = Authority::new().client();
    let (_, other_key) = Authority::new().client();
    for (certificate, key) in [
        ("none", &*key),
        (&*certificate, "none"),
        (&*certificate, &*certificate),
        (&*certificate, &*other_key),
    ] {
        let builder = Connector::builder("127.0.0.1", 1).transport(Transport::Tls);
        let built = builder.client_certificate_pem(certificate, key).build();
        assert!(matches!(built, Err(BuildError::Tls(_))), "{built:?}");
    }
}

//! TLS and WebSocket under the hand-written server, by other people's code: rustls' server side
//! and tungstenite.
#![allow(dead_code, reason = "every test binary uses a part of it")]

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use proscenium_connector::{Builder, Transport};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, PublicKeyData as _,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned,
};
use tungstenite::{Message, WebSocket};

use crate::support::{Peer, Stream};

pub(crate) const TRANSPORTS: [Transport; 4] = [
    Transport::Tcp,
    Transport::Tls,
    Transport::Ws,
    Transport::Wss,
];

/// A server's certificate and the authority that issued it.
pub(crate) struct Identity {
    pub(crate) authority_pem: String,
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) certificate_pem: String,
    pub(crate) key_pem: String,
    /// The SubjectPublicKeyInfo, in DER.
    pub(crate) public_key: Vec<u8>,
    config: Arc<ServerConfig>,
}

impl Identity {
    /// For the name `play.test`.
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // OpenSSL takes a certificate whose subject is its issuer for one that signed itself.
        let name = &mut params.distinguished_name;
        name.push(DnType::CommonName, "authority of the tests");
        let authority = params.self_signed(&key).expect("a certificate");
        let authority_pem = authority.pem();
        let issuer = Issuer::new(params, key);

        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec!["play.test".to_owned()]).expect("parameters");
        let certificate = params.signed_by(&key, &issuer).expect("a certificate");
        let certificate_pem = certificate.pem();
        let certificate = certificate.der().clone();
        let key_pem = key.serialize_pem();
        let public_key = key.subject_public_key_info();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)
            .expect("a certificate and its key");
        Self {
            authority_pem,
            certificate,
            certificate_pem,
            key_pem,
            public_key,
            config: Arc::new(config),
        }
    }

    /// The client's side, for what is no connector.
    pub(crate) fn ask(&self, socket: TcpStream) -> StreamOwned<ClientConnection, TcpStream> {
        let mut roots = RootCertStore::empty();
        let authority = CertificateDer::from_pem_slice(self.authority_pem.as_bytes());
        roots
            .add(authority.expect("a certificate"))
            .expect("an authority");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("play.test").expect("a name");
        let connection = ClientConnection::new(Arc::new(config), name).expect("a connection");
        StreamOwned::new(connection, socket)
    }

    fn wrap(&self, socket: TcpStream) -> StreamOwned<ServerConnection, TcpStream> {
        let connection = ServerConnection::new(self.config.clone()).expect("a connection");
        StreamOwned::new(connection, socket)
    }
}

/// Has the builder connect by `transport` and trust the server.
pub(crate) fn trusting(builder: Builder, transport: Transport, identity: &Identity) -> Builder {
    let builder = builder.transport(transport).server_name("play.test");
    builder.trust_pem(&identity.authority_pem)
}

/// Puts the transport's layers on the server's side of a connection.
pub(crate) fn layered(mut peer: Peer, transport: Transport, identity: &Identity) -> Peer {
    let socket = peer.socket.try_clone().expect("a socket");
    let stream: Box<dyn Stream> = match transport {
        Transport::Tls => Box::new(identity.wrap(socket)),
        Transport::Ws => Box::new(Messages::accept(socket)),
        Transport::Wss => Box::new(Messages::accept(identity.wrap(socket))),
        _ => Box::new(socket),
    };
    peer.stream = stream;
    peer
}

/// The payloads of binary messages as a stream of bytes; each flush ends a message.
pub(crate) struct Messages<S> {
    socket: WebSocket<S>,
    unread: Vec<u8>,
    unsent: Vec<u8>,
}

impl<S: Read + Write> Messages<S> {
    #[expect(
        clippy::result_large_err,
        reason = "the callback's signature is tungstenite's"
    )]
    pub(crate) fn accept(stream: S) -> Self {
        use tungstenite::handshake::server::{Request, Response};
        let check = |request: &Request, response: Response| {
            assert_eq!(request.uri().path(), "/ws");
            Ok(response)
        };
        let Ok(socket) = tungstenite::accept_hdr(stream, check) else {
            panic!("a WebSocket handshake");
        };
        Self::over(socket)
    }

    /// As a client, for what is no connector.
    pub(crate) fn ask(stream: S) -> Self {
        let Ok((socket, _)) = tungstenite::client("ws://play.test/ws", stream) else {
            panic!("a WebSocket handshake");
        };
        Self::over(socket)
    }

    fn over(socket: WebSocket<S>) -> Self {
        Self {
            socket,
            unread: Vec::new(),
            unsent: Vec::new(),
        }
    }
}

impl<S> Messages<S> {
    /// Below the messages.
    pub(crate) fn stream(&mut self) -> &mut S {
        self.socket.get_mut()
    }
}

impl<S: Read + Write> Read for Messages<S> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.unread.is_empty() {
            match self.socket.read() {
                Ok(Message::Binary(bytes)) => self.unread = bytes.to_vec(),
                Ok(Message::Text(text)) => panic!("text: {text}"),
                Ok(_) => {}
                Err(tungstenite::Error::ConnectionClosed) => return Ok(0),
                // Among them that a read was interrupted.
                Err(tungstenite::Error::Io(error)) => return Err(error),
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        let n = out.len().min(self.unread.len());
        out[..n].copy_from_slice(&self.unread[..n]);
        self.unread.drain(..n);
        Ok(n)
    }
}

impl<S: Read + Write> Write for Messages<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.unsent.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let message = Message::binary(std::mem::take(&mut self.unsent));
        self.socket.send(message).map_err(io::Error::other)
    }
}

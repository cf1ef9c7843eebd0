//! TLS 1.3 as a client, with rustls.

use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::sync::Arc;

use mio::net::TcpStream;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore,
    SignatureScheme,
};

use crate::config::Builder;
use crate::transport::Read;
use crate::{BuildError, ConnectError, DisconnectReason, ProtocolError};

/// Whom to trust; options of [`Builder`].
#[derive(Default)]
pub(crate) struct Trust {
    roots: Vec<CertificateDer<'static>>,
    pins: Vec<Pin>,
    server_name: Option<String>,
    /// The certificate, with those that issued it, and its key, for servers that ask for one.
    client: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    /// The first thing that was wrong with an option.
    error: Option<String>,
}

/// TLS options.
impl Builder {
    /// Trusts servers with a certificate from one of these authorities (PEM, one or several)
    /// besides the public ones. A server's own certificate goes too, if it says of itself that it
    /// is an authority.
    pub fn trust_pem(mut self, certificates: &str) -> Self {
        let parsed: Result<Vec<_>, _> =
            CertificateDer::pem_slice_iter(certificates.as_bytes()).collect();
        match parsed {
            Ok(certificates) if certificates.is_empty() => {
                self.tls.error = Some("no certificate in the PEM text".to_owned());
            }
            Ok(certificates) => self.tls.roots.extend(certificates),
            Err(error) => self.tls.error = Some(error.to_string()),
        }
        self
    }

    /// Trusts only servers whose certificate has this SHA-256 (of its DER form), whoever issued
    /// it and whatever name it has; several are alternatives. The authorities then do not count.
    pub fn pin_sha256(mut self, digest: [u8; 32]) -> Self {
        self.tls.pins.push(Pin::Certificate(digest));
        self
    }

    /// Like [`pin_sha256`](Self::pin_sha256), with the SHA-256 of the certificate's public key (the
    /// SubjectPublicKeyInfo, in DER), which outlives renewals.
    pub fn pin_public_key_sha256(mut self, digest: [u8; 32]) -> Self {
        self.tls.pins.push(Pin::PublicKey(digest));
        self
    }

    /// Shows this certificate to a server that asks for one (mutual TLS): PEM, the client's own
    /// first, then those that lead to an authority that the server trusts; and its private key
    /// (PEM, PKCS#8, PKCS#1 or SEC1). By default none is shown. A server that does not take it ends
    /// the connection, with TLS 1.3 only after [`Connector::connect`](crate::Connector::connect)
    /// has succeeded.
    pub fn client_certificate_pem(mut self, certificates: &str, key: &str) -> Self {
        let parsed: Result<Vec<_>, _> =
            CertificateDer::pem_slice_iter(certificates.as_bytes()).collect();
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes());
        match (parsed, key) {
            (Ok(certificates), _) if certificates.is_empty() => {
                self.tls.error = Some("no client certificate in the PEM text".to_owned());
            }
            (Ok(certificates), Ok(key)) => self.tls.client = Some((certificates, key)),
            (Err(error), _) | (_, Err(error)) => self.tls.error = Some(error.to_string()),
        }
        self
    }

    /// The name that the server's certificate has to have, and that is asked for (SNI). The host.
    pub fn server_name(mut self, name: &str) -> Self {
        self.tls.server_name = Some(name.to_owned());
        self
    }
}

/// What sessions begin with. It resumes former ones.
pub(crate) struct Client {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Makes the options what sessions begin with, if the transport needs it.
pub(crate) fn prepare(mut builder: Builder) -> Result<Builder, BuildError> {
    if !builder.config.transport.is_encrypted() {
        return Ok(builder);
    }
    let trust = std::mem::take(&mut builder.tls);
    let client = trust
        .client(&builder.config.host)
        .map_err(BuildError::Tls)?;
    builder.config.tls = Some(client);
    Ok(builder)
}

impl Trust {
    fn client(self, host: &str) -> Result<Client, String> {
        if let Some(error) = self.error {
            return Err(error);
        }
        let name = self.server_name.as_deref().unwrap_or(host);
        let name = ServerName::try_from(name.to_owned()).map_err(|error| error.to_string())?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| error.to_string())?;
        let config = if self.pins.is_empty() {
            let mut roots = RootCertStore::empty();
            roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
            for certificate in self.roots {
                roots.add(certificate).map_err(|error| error.to_string())?;
            }
            config.with_root_certificates(roots)
        } else {
            let verifier = Pinned {
                pins: self.pins,
                provider,
            };
            config
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(verifier))
        };
        let config = match self.client {
            Some((certificates, key)) => config
                .with_client_auth_cert(certificates, key)
                .map_err(|error| error.to_string())?,
            None => config.with_no_client_auth(),
        };
        Ok(Client {
            config: Arc::new(config),
            name,
        })
    }
}

/// SHA-256 of what a server has to show.
#[derive(Debug)]
enum Pin {
    Certificate([u8; 32]),
    PublicKey([u8; 32]),
}

/// Trusts certificates by their digest.
#[derive(Debug)]
struct Pinned {
    pins: Vec<Pin>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let certificate = sha256(end_entity);
        let key = sha256(&parsed.subject_public_key_info());
        let is_shown = |pin: &Pin| match pin {
            Pin::Certificate(digest) => digest[..] == certificate[..],
            Pin::PublicKey(digest) => digest[..] == key[..],
        };
        match self.pins.iter().any(is_shown) {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// By the hash that the provider has for a cipher suite of TLS 1.3.
fn sha256(bytes: &[u8]) -> Vec<u8> {
    let suite = rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
    match suite.tls13() {
        Some(suite) => suite.common.hash_provider.hash(bytes).as_ref().to_vec(),
        None => Vec::new(), // it is a suite of TLS 1.3; no pin has no bytes
    }
}

impl Client {
    pub(crate) fn session(&self) -> Result<Session, ConnectError> {
        let connection = ClientConnection::new(self.config.clone(), self.name.clone());
        match connection {
            Ok(connection) => Ok(Session(Box::new(connection))),
            Err(error) => Err(ConnectError::Tls(error.to_string())),
        }
    }
}

/// One connection's TLS.
pub(crate) struct Session(Box<ClientConnection>);

impl Session {
    /// Goes on with the handshake; true once it is done.
    pub(crate) fn handshake(&mut self, socket: &mut TcpStream) -> Result<bool, ConnectError> {
        let failed = |error| ConnectError::Io(Arc::new(error));
        loop {
            self.flush(socket).map_err(failed)?;
            if !self.0.is_handshaking() {
                return Ok(true);
            }
            match self.0.read_tls(socket) {
                Ok(0) => {
                    let closed = "the server closed the connection".to_owned();
                    return Err(ConnectError::Tls(closed));
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(failed(error)),
            }
            if let Err(error) = self.0.process_new_packets() {
                let _ = self.flush(socket); // the alert, if it goes
                return Err(ConnectError::Tls(error.to_string()));
            }
        }
    }

    /// Reads records once and appends what is in them to `into`.
    pub(crate) fn read(
        &mut self,
        socket: &mut TcpStream,
        into: &mut Vec<u8>,
    ) -> Result<Read, DisconnectReason> {
        // What came with the end of the handshake is there without a further record.
        let before = into.len();
        let ended = self.take_plaintext(into)?;
        if ended {
            return Ok(Read::End);
        }
        if into.len() > before {
            return Ok(Read::Bytes(into.len() - before));
        }
        let received = loop {
            match self.0.read_tls(socket) {
                Ok(n) => break n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Read::Blocked);
                }
                Err(error) => return Err(DisconnectReason::Io(error)),
            }
        };
        if let Err(error) = self.0.process_new_packets() {
            let _ = self.flush(socket); // the alert, if it goes
            return Err(ProtocolError::Tls(error.to_string()).into());
        }
        if self.take_plaintext(into)? && into.len() == before {
            return Ok(Read::End);
        }
        Ok(Read::Bytes(received))
    }

    /// True if the server has ended.
    fn take_plaintext(&mut self, into: &mut Vec<u8>) -> Result<bool, DisconnectReason> {
        let mut chunk = [0; 4096];
        loop {
            match self.0.reader().read(&mut chunk) {
                Ok(0) => return Ok(true),
                Ok(n) => into.extend_from_slice(&chunk[..n]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                // The end without a close_notify: a connection that broke.
                Err(error) => return Err(DisconnectReason::Io(error)),
            }
        }
    }

    pub(crate) fn write(&mut self, socket: &mut TcpStream, bytes: &[u8]) -> io::Result<usize> {
        if !self.flush(socket)? {
            return Ok(0);
        }
        // Takes as much as its own bounded buffer holds.
        let n = self.0.writer().write(bytes)?;
        self.flush(socket)?;
        Ok(n)
    }

    /// Sends records; true if none is left.
    pub(crate) fn flush(&mut self, socket: &mut TcpStream) -> io::Result<bool> {
        while self.0.wants_write() {
            match self.0.write_tls(socket) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    pub(crate) fn begin_close(&mut self) {
        self.0.send_close_notify();
    }
}

//! [`TlsClient`]: whom the connecting side trusts, and what it shows.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};

use super::TlsSession;
use super::identity::{Identity, TlsConfigError, other, read};
use super::server::{roots_of, versions};
use super::session::{RustlsSession, error_of};
use super::verify::Trust;
use crate::layer::error::TlsError;

/// SHA-256 of what a server has to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Pin {
    /// Of its certificate, in DER.
    Certificate([u8; 32]),
    /// Of the public key in it (the SubjectPublicKeyInfo, in DER), which outlives renewals.
    PublicKey([u8; 32]),
}

/// Prepares a [`TlsClient`].
#[derive(Clone, Debug)]
#[must_use]
pub struct TlsClientBuilder {
    server_name: String,
    roots: Option<RootCertStore>,
    pins: Vec<Pin>,
    any: bool,
    alpn: Vec<Vec<u8>>,
    identity: Option<Identity>,
    resumption: bool,
    tls12: bool,
}

impl TlsClientBuilder {
    /// Trusts the authorities of some PEM, besides those given before.
    ///
    /// # Errors
    /// If there is no certificate in it.
    pub fn roots_pem(mut self, pem: &[u8]) -> Result<Self, TlsConfigError> {
        let more = roots_of(pem)?;
        let roots = self.roots.get_or_insert_with(RootCertStore::empty);
        roots.roots.extend(more.roots);
        Ok(self)
    }

    /// Trusts the authorities of a PEM file: the system's, for one, which Debian keeps at
    /// `/etc/ssl/certs/ca-certificates.crt`.
    ///
    /// # Errors
    /// Those of [`roots_pem`](Self::roots_pem), and a file that cannot be read.
    pub fn roots_file(self, path: impl AsRef<Path>) -> Result<Self, TlsConfigError> {
        self.roots_pem(&read(path.as_ref())?)
    }

    /// Trusts the authorities that Mozilla's programs trust, as of this library's version.
    #[cfg(feature = "webpki-roots")]
    pub fn webpki_roots(mut self) -> Self {
        let roots = self.roots.get_or_insert_with(RootCertStore::empty);
        roots
            .roots
            .extend_from_slice(webpki_roots::TLS_SERVER_ROOTS);
        self
    }

    /// Demands that the server's own certificate is this one; with several pins, one of them. If
    /// roots are given, they have to vouch for it as well; if not, the pin is enough, whatever
    /// name and dates are in the certificate.
    pub fn pin(mut self, pin: Pin) -> Self {
        self.pins.push(pin);
        self
    }

    /// Trusts everybody: anybody on the way can read and change everything. For tests.
    pub fn dangerous_accept_any_certificate(mut self) -> Self {
        self.any = true;
        self
    }

    /// Sets the application protocols (ALPN) that are offered, the best first; default none.
    pub fn alpn<T: Into<Vec<u8>>>(mut self, protocols: impl IntoIterator<Item = T>) -> Self {
        self.alpn = protocols.into_iter().map(Into::into).collect();
        self
    }

    /// Shows this certificate to servers that ask for one.
    pub fn identity(mut self, identity: Identity) -> Self {
        self.identity = Some(identity);
        self
    }

    /// Whether tickets of the server are kept (in memory) to come back without a full handshake;
    /// default on.
    pub fn resumption(mut self, on: bool) -> Self {
        self.resumption = on;
        self
    }

    /// Whether TLS 1.2 is allowed beside 1.3; default off.
    pub fn tls12(mut self, allowed: bool) -> Self {
        self.tls12 = allowed;
        self
    }

    /// Checks it all.
    ///
    /// # Errors
    /// `NoTrust` without roots and pins; a name that is none; a key that does not fit.
    pub fn build(self) -> Result<TlsClient, TlsConfigError> {
        let name = ServerName::try_from(self.server_name.clone()).map_err(|_| {
            TlsConfigError::ServerName {
                name: self.server_name.clone(),
            }
        })?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let trust = Trust::new(self.roots, self.pins, self.any, &provider)?;
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions(self.tls12))
            .map_err(other)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(trust));
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let (chain, key) = identity.parts();
                let made = builder.with_client_auth_cert(chain, key);
                made.map_err(|error| TlsConfigError::Identity {
                    found: error.to_string(),
                })?
            }
        };
        config.alpn_protocols = self.alpn;
        if !self.resumption {
            config.resumption = Resumption::disabled();
        }
        let config = Arc::new(config);
        Ok(TlsClient { config, name })
    }
}

/// TLS of a connector. Cheap to clone; clones share the tickets of servers they have been to.
///
/// ```no_run
/// use proscenium_engine::{Connector, TlsClient};
/// let tls = TlsClient::builder("play.example.org")
///     .roots_file("/etc/ssl/certs/ca-certificates.crt")?
///     .build()?;
/// let connector = Connector::parse("play.example.org:7443")?.tls(&tls);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct TlsClient {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl TlsClient {
    /// Begins with the name that the server's certificate has to bear (and that it is asked for,
    /// SNI): a host name, or an IP address (for which it is not asked).
    pub fn builder(server_name: impl Into<String>) -> TlsClientBuilder {
        TlsClientBuilder {
            server_name: server_name.into(),
            roots: None,
            pins: Vec::new(),
            any: false,
            alpn: Vec::new(),
            identity: None,
            resumption: true,
            tls12: false,
        }
    }

    pub(super) fn session(&self) -> Result<Box<dyn TlsSession>, TlsError> {
        Ok(Box::new(self.rustls_session()?))
    }

    pub(super) fn rustls_session(&self) -> Result<RustlsSession, TlsError> {
        let (config, name) = (Arc::clone(&self.config), self.name.clone());
        RustlsSession::client(config, name).map_err(|error| error_of(&error))
    }
}

impl fmt::Debug for TlsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsClient")
            .field("server_name", &self.name)
            .finish_non_exhaustive()
    }
}

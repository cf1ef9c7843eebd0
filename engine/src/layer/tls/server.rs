//! [`TlsServer`]: what the listening side shows, asks for and allows.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{
    ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};

use super::TlsSession;
use super::identity::{Identity, TlsConfigError, certificates_of, other};
use super::session::{RustlsSession, error_of};
use crate::layer::error::TlsError;

/// What clients have to show.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum ClientCertificates {
    /// Nothing; they are not asked. The default.
    #[default]
    None,
    /// They are asked. One without a certificate may come; a certificate has to come from one of
    /// these authorities (PEM).
    Optional(Vec<u8>),
    /// A certificate from one of these authorities (PEM).
    Required(Vec<u8>),
}

/// Prepares a [`TlsServer`].
#[derive(Clone, Debug)]
#[must_use]
pub struct TlsServerBuilder {
    identity: Identity,
    named: Vec<(String, Identity)>,
    alpn: Vec<Vec<u8>>,
    clients: ClientCertificates,
    resumption: bool,
    tls12: bool,
}

impl TlsServerBuilder {
    /// Shows `identity` to clients that ask for `name` (SNI), instead of the default one. `name`
    /// is a host name without wildcard; several may be given.
    pub fn identity_for(mut self, name: impl Into<String>, identity: Identity) -> Self {
        self.named
            .push((name.into().to_ascii_lowercase(), identity));
        self
    }

    /// Sets the application protocols (ALPN), the best first; default none. A client that offers
    /// some, but none of these, is refused; one that offers none is not.
    pub fn alpn<T: Into<Vec<u8>>>(mut self, protocols: impl IntoIterator<Item = T>) -> Self {
        self.alpn = protocols.into_iter().map(Into::into).collect();
        self
    }

    /// Sets what clients have to show; default nothing.
    pub fn client_certificates(mut self, clients: ClientCertificates) -> Self {
        self.clients = clients;
        self
    }

    /// Whether clients get tickets with which they can come back without a full handshake;
    /// default on. The keys of the tickets are this server's alone, and change every few hours.
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
    /// Keys that do not fit their certificates, authorities that are none.
    pub fn build(self) -> Result<TlsServer, TlsConfigError> {
        let config = ArcSwap::new(self.config()?);
        let config = Arc::new(config);
        Ok(TlsServer { config })
    }

    fn config(&self) -> Result<Arc<ServerConfig>, TlsConfigError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions(self.tls12))
            .map_err(other)?;
        let builder = match self.clients.authorities()? {
            None => builder.with_no_client_auth(),
            Some(roots) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(
                    Arc::new(roots),
                    Arc::clone(&provider),
                );
                let verifier = match self.clients {
                    ClientCertificates::Optional(_) => verifier.allow_unauthenticated(),
                    _ => verifier,
                };
                builder.with_client_cert_verifier(verifier.build().map_err(other)?)
            }
        };
        let resolver = Arc::new(ByName::new(self, &provider)?);
        let mut config = builder.with_cert_resolver(resolver);
        config.alpn_protocols.clone_from(&self.alpn);
        // Tickets hold all there is to know; nothing is kept here.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        if self.resumption {
            config.ticketer = aws_lc_rs::Ticketer::new().map_err(other)?;
        } else {
            config.send_tls13_tickets = 0;
        }
        Ok(Arc::new(config))
    }
}

pub(super) fn versions(tls12: bool) -> &'static [&'static rustls::SupportedProtocolVersion] {
    static TLS13_ONLY: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];
    if tls12 {
        rustls::ALL_VERSIONS
    } else {
        TLS13_ONLY
    }
}

impl ClientCertificates {
    fn authorities(&self) -> Result<Option<RootCertStore>, TlsConfigError> {
        match self {
            Self::None => Ok(None),
            Self::Optional(pem) | Self::Required(pem) => roots_of(pem).map(Some),
        }
    }
}

/// A store of the authorities in some PEM.
pub(super) fn roots_of(pem: &[u8]) -> Result<RootCertStore, TlsConfigError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates_of(pem)? {
        roots.add(certificate).map_err(other)?;
    }
    Ok(roots)
}

/// TLS of a listener. Cheap to clone; all clones are the same server, so that one of them can be
/// kept to [`reload`](Self::reload) it.
///
/// ```no_run
/// use proscenium_engine::{Identity, Listener, TlsServer};
/// let identity = Identity::from_pem_files("server.pem", "server.key")?;
/// let tls = TlsServer::builder(identity).alpn(["game/1"]).build()?;
/// let listener = Listener::tcp("0.0.0.0:7443")?.tls(&tls);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct TlsServer {
    config: Arc<ArcSwap<ServerConfig>>,
}

impl TlsServer {
    /// Begins with the certificate that clients are shown if no other one fits the name they ask
    /// for.
    pub fn builder(identity: Identity) -> TlsServerBuilder {
        TlsServerBuilder {
            identity,
            named: Vec::new(),
            alpn: Vec::new(),
            clients: ClientCertificates::None,
            resumption: true,
            tls12: false,
        }
    }

    /// Uses other certificates and options for handshakes that begin from now on; connections go
    /// on with what they have. Tickets given before are not taken any more, because they would
    /// pass what is new here by. Any thread may call it.
    ///
    /// # Errors
    /// Those of [`TlsServerBuilder::build`]; then everything stays as it was.
    pub fn reload(&self, with: TlsServerBuilder) -> Result<(), TlsConfigError> {
        self.config.store(with.config()?);
        Ok(())
    }

    pub(super) fn session(&self) -> Result<Box<dyn TlsSession>, TlsError> {
        Ok(Box::new(self.rustls_session()?))
    }

    pub(super) fn rustls_session(&self) -> Result<RustlsSession, TlsError> {
        RustlsSession::server(self.config.load_full()).map_err(|error| error_of(&error))
    }
}

impl fmt::Debug for TlsServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsServer").finish_non_exhaustive()
    }
}

thread_local! {
    /// The name that the ClientHello under way asks for: the session has no other way to it.
    static ASKED: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// The name that a client asked for since the last call, on this thread.
pub(super) fn take_asked() -> Option<String> {
    ASKED.with_borrow_mut(Option::take)
}

/// Finds the certificate by the name that the client asks for.
#[derive(Debug)]
struct ByName {
    default: Arc<CertifiedKey>,
    named: HashMap<String, Arc<CertifiedKey>>,
}

impl ByName {
    fn new(options: &TlsServerBuilder, provider: &CryptoProvider) -> Result<Self, TlsConfigError> {
        let mut named = HashMap::new();
        for (name, identity) in &options.named {
            named.insert(name.clone(), Arc::new(identity.certified(provider)?));
        }
        let default = Arc::new(options.identity.certified(provider)?);
        Ok(Self { default, named })
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(str::to_ascii_lowercase);
        let found = name.as_ref().and_then(|name| self.named.get(name));
        let key = Arc::clone(found.unwrap_or(&self.default));
        ASKED.set(name);
        Some(key)
    }
}

//! Certificates and keys, and what is wrong with them.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

/// Why TLS cannot be set up so.
#[derive(Debug)]
#[non_exhaustive]
pub enum TlsConfigError {
    /// A file cannot be read.
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// PEM that is none, or in which something is missing.
    Pem {
        /// What was expected, and what was found.
        found: String,
    },
    /// A certificate or key that is no good, or two that do not belong together.
    Identity {
        /// Why.
        found: String,
    },
    /// A name that no server can have.
    ServerName {
        /// The name.
        name: String,
    },
    /// A client that would trust nobody: neither roots nor pins are given.
    NoTrust,
    /// Something else that TLS refuses.
    Other {
        /// What.
        found: String,
    },
}

impl fmt::Display for TlsConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, error } => write!(f, "cannot read {}: {error}", path.display()),
            Self::Pem { found } => write!(f, "PEM: {found}"),
            Self::Identity { found } => write!(f, "certificate or key: {found}"),
            Self::ServerName { name } => write!(f, "expected a server's name, found {name:?}"),
            Self::NoTrust => f.write_str("expected roots or pins to trust, found neither"),
            Self::Other { found } => f.write_str(found),
        }
    }
}

impl std::error::Error for TlsConfigError {}

pub(super) fn other(error: impl fmt::Display) -> TlsConfigError {
    let found = error.to_string();
    TlsConfigError::Other { found }
}

/// A certificate with those that vouch for it, and its private key.
#[derive(Clone)]
pub struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: Arc<PrivateKeyDer<'static>>,
}

impl Identity {
    /// From PEM: the certificates, the own one first, and the private key (PKCS #8, PKCS #1 or
    /// SEC 1).
    ///
    /// # Errors
    /// If there is no certificate or no key in it. Whether they fit is seen when they are used.
    pub fn from_pem(certificates: &[u8], key: &[u8]) -> Result<Self, TlsConfigError> {
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| TlsConfigError::Pem {
            found: format!("expected a private key: {error}"),
        })?;
        Ok(Self {
            chain: certificates_of(certificates)?,
            key: Arc::new(key),
        })
    }

    /// From two PEM files, as [`from_pem`](Self::from_pem).
    ///
    /// # Errors
    /// Those of [`from_pem`](Self::from_pem), and files that cannot be read.
    pub fn from_pem_files(
        certificates: impl AsRef<Path>,
        key: impl AsRef<Path>,
    ) -> Result<Self, TlsConfigError> {
        Self::from_pem(&read(certificates.as_ref())?, &read(key.as_ref())?)
    }

    /// The private key with its certificates, as rustls wants them.
    pub(super) fn certified(
        &self,
        provider: &CryptoProvider,
    ) -> Result<CertifiedKey, TlsConfigError> {
        let key = self.key.clone_key();
        CertifiedKey::from_der(self.chain.clone(), key, provider).map_err(|error| {
            TlsConfigError::Identity {
                found: error.to_string(),
            }
        })
    }

    pub(super) fn parts(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        (self.chain.clone(), self.key.clone_key())
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({} certificates)", self.chain.len())
    }
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, TlsConfigError> {
    std::fs::read(path).map_err(|error| TlsConfigError::File {
        path: path.to_path_buf(),
        error,
    })
}

/// The certificates of some PEM, at least one.
pub(super) fn certificates_of(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsConfigError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|error| TlsConfigError::Pem {
        found: format!("expected certificates: {error}"),
    })?;
    if found.is_empty() {
        let found = "expected certificates, found none".to_owned();
        return Err(TlsConfigError::Pem { found });
    }
    Ok(found)
}

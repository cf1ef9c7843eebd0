//! Whom a client trusts.

use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::hash::Hash;
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore};

use super::client::Pin;
use super::identity::{TlsConfigError, other};

/// Roots, pins, or both; or everybody.
#[derive(Debug)]
pub(super) struct Trust {
    roots: Option<Arc<WebPkiServerVerifier>>,
    pins: Vec<Pin>,
    provider: Arc<CryptoProvider>,
}

/// The server's certificate is none of those that are pinned.
#[derive(Debug)]
pub(super) struct PinMismatch;

impl std::fmt::Display for PinMismatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("not a pinned certificate")
    }
}

impl std::error::Error for PinMismatch {}

impl Trust {
    /// `any`: whoever it is.
    pub(super) fn new(
        roots: Option<RootCertStore>,
        pins: Vec<Pin>,
        any: bool,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, TlsConfigError> {
        let roots = match roots {
            _ if any => None,
            None if pins.is_empty() => return Err(TlsConfigError::NoTrust),
            None => None,
            Some(roots) => {
                let provider = Arc::clone(provider);
                let made = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider);
                Some(made.build().map_err(other)?)
            }
        };
        Ok(Self {
            roots,
            pins: if any { Vec::new() } else { pins },
            provider: Arc::clone(provider),
        })
    }

    fn is_pinned(&self, certificate: &CertificateDer<'_>) -> Result<bool, Error> {
        if self.pins.is_empty() {
            return Ok(true);
        }
        let key = ParsedCertificate::try_from(certificate)?.subject_public_key_info();
        let (whole, key) = (sha256(certificate), sha256(&key));
        Ok(self.pins.iter().any(|pin| match pin {
            Pin::Certificate(pinned) => whole == *pinned,
            Pin::PublicKey(pinned) => key == *pinned,
        }))
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let suite = aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
    let hash: Option<&dyn Hash> = suite.tls13().map(|suite| suite.common.hash_provider);
    let mut digest = [0; 32];
    if let Some(hash) = hash {
        digest.copy_from_slice(hash.hash(bytes).as_ref());
    }
    digest
}

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if !self.is_pinned(end_entity)? {
            let reason = OtherError(Arc::new(PinMismatch));
            return Err(CertificateError::Other(reason).into());
        }
        match &self.roots {
            None => Ok(ServerCertVerified::assertion()),
            Some(roots) => {
                roots.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let schemes = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, schemes)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let schemes = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, schemes)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let schemes = &self.provider.signature_verification_algorithms;
        schemes.supported_schemes()
    }
}

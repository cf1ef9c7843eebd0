//! What the two sides agreed on.

/// Version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum TlsVersion {
    /// TLS 1.2 (RFC 5246).
    Tls12,
    /// TLS 1.3 (RFC 8446).
    Tls13,
}

/// How a TLS session came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HandshakeKind {
    /// With certificates.
    Full,
    /// From a ticket of an earlier one.
    Resumed,
}

/// What a TLS handshake agreed on; see [`Context::tls`](crate::Context::tls).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TlsInfo {
    /// The version.
    pub version: TlsVersion,
    /// A full handshake or a resumed one.
    pub kind: HandshakeKind,
    /// The application protocol that was agreed on (ALPN, RFC 7301); `None` if one side has not
    /// asked for any.
    pub alpn: Option<Vec<u8>>,
    /// The name that the client asked for (SNI, RFC 6066 §3), in lower case; `None` if it did not.
    /// On the client's side, the name it asked for.
    pub server_name: Option<String>,
    /// The peer's certificates in DER, its own first; empty if it has shown none. Of a client,
    /// only what [`ClientCertificates`](crate::ClientCertificates) asks for, verified.
    pub peer_certificates: Vec<Vec<u8>>,
}

impl TlsInfo {
    pub(super) fn new(server_name: Option<String>) -> Self {
        Self {
            version: TlsVersion::Tls13,
            kind: HandshakeKind::Full,
            alpn: None,
            server_name,
            peer_certificates: Vec::new(),
        }
    }

    /// The peer's own certificate in DER.
    pub fn peer_certificate(&self) -> Option<&[u8]> {
        self.peer_certificates.first().map(Vec::as_slice)
    }
}

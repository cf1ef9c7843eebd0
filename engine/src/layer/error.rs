//! What goes wrong in layers.

use std::fmt;

/// Why the handshake of a layer failed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HandshakeError {
    /// That of TLS.
    Tls(TlsError),
    /// That of WebSocket: what was wrong with the request, or why the server refused.
    #[cfg(feature = "ws")]
    WebSocket(proscenium_framing::websocket::handshake::HandshakeError),
    /// The peer closed the connection before the handshake was over.
    PeerClosed,
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tls(error) => write!(f, "TLS: {error}"),
            #[cfg(feature = "ws")]
            Self::WebSocket(error) => write!(f, "WebSocket: {error}"),
            Self::PeerClosed => f.write_str("the peer closed before the handshake was over"),
        }
    }
}

impl std::error::Error for HandshakeError {}

/// Why TLS refused what a peer sent, or the peer refused us.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TlsError {
    /// The peer refused: the fatal alert it sent.
    PeerAlert {
        /// The code, as of RFC 8446 §6.
        code: u8,
        /// Its name there, if it has one.
        name: String,
    },
    /// Bytes that are no TLS message.
    BadMessage {
        /// What was found.
        found: String,
    },
    /// A record longer than RFC 8446 §5.2 allows (2^14 + 256 bytes; TLS 1.2: + 2048).
    OversizedRecord,
    /// A record that was not encrypted with the keys agreed on, or was changed on its way.
    BadRecordMac,
    /// A message that is well-formed but may not come now: a renegotiation, for one.
    Misbehaved {
        /// What the peer did.
        found: String,
    },
    /// No version, cipher suite or the like that both sides have.
    Incompatible {
        /// What they do not share.
        found: String,
    },
    /// The peer offered application protocols (ALPN), but none of ours.
    NoApplicationProtocol,
    /// The peer had to show a certificate and did not.
    NoCertificate,
    /// The peer's certificate does not convince.
    BadCertificate {
        /// Why.
        found: String,
    },
    /// The server's certificate is none of those that are pinned.
    PinMismatch,
    /// Something else; mostly this side's fault.
    Other {
        /// What.
        found: String,
    },
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PeerAlert { code, name } => write!(f, "the peer sent the alert {code} ({name})"),
            Self::BadMessage { found } => write!(f, "expected a TLS message, found {found}"),
            Self::OversizedRecord => f.write_str("a record over the greatest length"),
            Self::BadRecordMac => f.write_str("a record that cannot be decrypted"),
            Self::Misbehaved { found } => write!(f, "the peer misbehaved: {found}"),
            Self::Incompatible { found } => write!(f, "nothing in common: {found}"),
            Self::NoApplicationProtocol => f.write_str("no application protocol in common"),
            Self::NoCertificate => f.write_str("the peer has shown no certificate"),
            Self::BadCertificate { found } => write!(f, "the peer's certificate: {found}"),
            Self::PinMismatch => f.write_str("the server's certificate is not a pinned one"),
            Self::Other { found } => f.write_str(found),
        }
    }
}

impl std::error::Error for TlsError {}

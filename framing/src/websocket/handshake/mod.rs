//! The opening handshake: RFC 6455 §4, on HTTP/1.1.
//!
//! A server gives what has arrived to [`Request::parse`] until it is a whole request, and the
//! request to [`Policy::answer`], whose bytes it sends. A client sends [`Opening::request`] and
//! gives what has arrived to [`Opening::response`].

mod client;
mod error;
mod server;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};

pub use client::{Established, Opening};
pub use error::HandshakeError;
pub use server::{Answer, Origins, Policy, Request};

#[cfg(test)]
mod tests;

/// The version of the protocol that RFC 6455 describes.
pub const VERSION: &str = "13";

/// Header lines that a request or response may have at most, whatever the limits say.
pub const HEADERS_MAX: usize = 100;

/// How long a request or response may be.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandshakeLimits {
    /// Bytes, the empty line at the end included. 8 KiB.
    pub bytes_max: usize,
    /// Header lines; at most [`HEADERS_MAX`]. 64.
    pub headers_max: usize,
}

impl HandshakeLimits {
    /// These limits with at most so many bytes.
    #[must_use]
    pub const fn bytes_max(self, bytes: usize) -> Self {
        Self {
            bytes_max: bytes,
            ..self
        }
    }

    /// These limits with at most so many header lines.
    #[must_use]
    pub const fn headers_max(self, lines: usize) -> Self {
        Self {
            headers_max: lines,
            ..self
        }
    }
}

impl Default for HandshakeLimits {
    fn default() -> Self {
        Self {
            bytes_max: 8 * 1024,
            headers_max: 64,
        }
    }
}

/// What a server answers to a client's key: RFC 6455 §4.2.2, 5.4.
///
/// ```
/// use proscenium_framing::websocket::handshake::accept_key;
///
/// // The example of RFC 6455 §1.3.
/// assert_eq!(accept_key("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
/// ```
#[must_use]
pub fn accept_key(key: &str) -> String {
    const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    let digest = Sha1::new().chain_update(key).chain_update(GUID).finalize();
    STANDARD.encode(digest)
}

/// The header lines of a message, as they came.
#[derive(Clone, Debug)]
struct Headers<'a>(Vec<(&'a str, &'a [u8])>);

impl<'a> Headers<'a> {
    fn of(parsed: &[httparse::Header<'a>]) -> Self {
        Self(parsed.iter().map(|line| (line.name, line.value)).collect())
    }

    /// The values of all lines of this name (RFC 9110 §5.1: in any case).
    fn all(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        let lines = self.0.iter();
        lines.filter_map(move |(n, value)| n.eq_ignore_ascii_case(name).then_some(*value))
    }

    /// The value of the only line of this name.
    fn one(&self, name: &'static str) -> Result<Option<&'a str>, HandshakeError> {
        let mut values = self.all(name);
        let Some(value) = values.next() else {
            return Ok(None);
        };
        if values.next().is_some() {
            return Err(HandshakeError::Repeated(name));
        }
        match std::str::from_utf8(value) {
            Ok(value) => Ok(Some(value.trim_matches([' ', '\t']))),
            Err(_) => Err(HandshakeError::BadHeader(name)),
        }
    }

    /// The elements of a list, which may be spread over several lines (RFC 9110 §5.6.1).
    fn list(&self, name: &str) -> impl Iterator<Item = &'a str> {
        let texts = self.all(name).filter_map(|v| std::str::from_utf8(v).ok());
        let elements = texts.flat_map(|text| text.split(','));
        elements
            .map(|element| element.trim_matches([' ', '\t']))
            .filter(|element| !element.is_empty())
    }

    /// True if the list has this token, in any case.
    fn has_token(&self, name: &str, token: &str) -> bool {
        self.list(name)
            .any(|element| element.eq_ignore_ascii_case(token))
    }
}

/// How many of `bytes` a message takes, by what httparse says; `None` if it is not whole yet.
fn taken(
    parsed: httparse::Result<usize>,
    bytes: &[u8],
    limits: &HandshakeLimits,
) -> Result<Option<usize>, HandshakeError> {
    let (taken, arrived) = match parsed {
        Ok(httparse::Status::Complete(taken)) => (Some(taken), taken),
        Ok(httparse::Status::Partial) => (None, bytes.len() + 1), // at least one is to come
        Err(httparse::Error::TooManyHeaders) => {
            let limit = limits.headers_max;
            return Err(HandshakeError::TooManyHeaders { limit });
        }
        Err(httparse::Error::Version) => return Err(HandshakeError::HttpVersion),
        Err(_) => return Err(HandshakeError::NotHttp),
    };
    let limit = limits.bytes_max;
    if arrived > limit {
        return Err(HandshakeError::TooLong { limit });
    }
    Ok(taken)
}

/// RFC 9110 §5.6.2: what names of headers and subprotocols are made of.
fn is_token(text: &str) -> bool {
    let is_tchar = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !text.is_empty() && text.bytes().all(is_tchar)
}

/// True for text that can stand in a header line: no line break, nothing but visible ASCII and
/// blanks.
fn is_field_value(text: &str) -> bool {
    text.bytes().all(|b| matches!(b, b' '..=b'~'))
}

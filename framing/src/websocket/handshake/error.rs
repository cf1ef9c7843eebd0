//! Why there is no WebSocket.

use std::error::Error;
use std::fmt;

/// What is wrong with a request or a response, or why it was refused.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeError {
    /// No HTTP.
    NotHttp,
    /// Another version of HTTP than 1.1.
    HttpVersion,
    /// More bytes than we take.
    TooLong {
        /// The limit, in bytes.
        limit: usize,
    },
    /// More header lines than we take.
    TooManyHeaders {
        /// The limit.
        limit: usize,
    },
    /// Another method than GET.
    Method,
    /// A path that is not served.
    Path,
    /// A header that may come once came several times.
    Repeated(&'static str),
    /// A header that has to be there is not.
    Missing(&'static str),
    /// A header whose value is none of those it may have.
    BadHeader(&'static str),
    /// Ordinary HTTP: no upgrade to a WebSocket was asked for.
    NoUpgrade,
    /// Another version of the protocol than 13.
    Version,
    /// The request has a body.
    Body,
    /// The page it comes from is not one of those that may.
    Origin,
    /// The server did not switch protocols but answered with this status.
    Status(u16),
    /// The server's answer to our key is wrong: it does not speak the protocol.
    AcceptKey,
    /// The server chose a subprotocol that was not offered.
    Subprotocol,
    /// The server chose an extension that was not offered.
    Extension,
}

impl HandshakeError {
    /// The HTTP status with which a server refuses such a request.
    #[must_use]
    pub const fn status(&self) -> u16 {
        match self {
            Self::Path => 404,
            Self::Method => 405,
            Self::TooLong { .. } | Self::TooManyHeaders { .. } => 431,
            // RFC 9110 §15.5.22; §4.4 of RFC 6455 for the version.
            Self::NoUpgrade | Self::Version => 426,
            Self::Origin => 403, // §4.2.2, 4
            Self::HttpVersion => 505,
            _ => 400,
        }
    }
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotHttp => f.write_str("not HTTP"),
            Self::HttpVersion => f.write_str("not HTTP/1.1"),
            Self::TooLong { limit } => write!(f, "handshake over the limit of {limit} bytes"),
            Self::TooManyHeaders { limit } => {
                write!(f, "handshake over the limit of {limit} header lines")
            }
            Self::Method => f.write_str("the method is not GET"),
            Self::Path => f.write_str("nothing is served at this path"),
            Self::Repeated(name) => write!(f, "{name} is there more than once"),
            Self::Missing(name) => write!(f, "{name} is missing"),
            Self::BadHeader(name) => write!(f, "{name} has a wrong value"),
            Self::NoUpgrade => f.write_str("no upgrade to a WebSocket"),
            Self::Version => f.write_str("not version 13 of the WebSocket protocol"),
            Self::Body => f.write_str("a handshake has no body"),
            Self::Origin => f.write_str("this origin is not allowed"),
            Self::Status(status) => write!(f, "the server answered with status {status}"),
            Self::AcceptKey => f.write_str("the server's answer to our key is wrong"),
            Self::Subprotocol => f.write_str("the server chose a subprotocol nobody offered"),
            Self::Extension => f.write_str("the server chose an extension nobody offered"),
        }
    }
}

impl Error for HandshakeError {}

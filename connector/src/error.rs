//! What can go wrong, and why connections end.

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;

use proscenium_framing::FrameError;
use proscenium_framing::packet::lz4::UnpickleError;
use proscenium_framing::packet::{ErrorCode, PacketError};

use crate::Packet;

/// Why a connector could not be built.
#[non_exhaustive]
#[derive(Debug)]
pub enum BuildError {
    /// An option is out of its range; the text names it.
    Option(&'static str),
    /// Certificates, pins or the server's name cannot be used.
    Tls(String),
    /// The system refused the I/O thread or what it needs.
    Io(io::Error),
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Option(what) => f.write_str(what),
            Self::Tls(what) => write!(f, "TLS: {what}"),
            Self::Io(error) => write!(f, "starting the I/O thread: {error}"),
        }
    }
}

impl Error for BuildError {}

/// Why there is no connection.
#[non_exhaustive]
#[derive(Clone, Debug)]
pub enum ConnectError {
    /// The host's name could not be resolved.
    Resolve(Arc<io::Error>),
    /// The last address tried refused or could not be reached.
    Io(Arc<io::Error>),
    /// Not connected, with every handshake, within the connect time-out.
    Timeout,
    /// The TLS handshake failed; the text says why.
    Tls(String),
    /// The server refused the WebSocket handshake; the text says how.
    WebSocket(String),
    /// There is a connection, or an attempt under way.
    AlreadyConnected,
    /// [`disconnect`](crate::Connector::disconnect) or [`close`](crate::Connector::close) was
    /// called meanwhile.
    Cancelled,
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resolve(error) => write!(f, "resolving the host: {error}"),
            Self::Io(error) => write!(f, "connecting: {error}"),
            Self::Timeout => f.write_str("connecting took too long"),
            Self::Tls(what) => write!(f, "TLS handshake: {what}"),
            Self::WebSocket(what) => write!(f, "WebSocket handshake: {what}"),
            Self::AlreadyConnected => f.write_str("connected already"),
            Self::Cancelled => f.write_str("cancelled"),
        }
    }
}

impl Error for ConnectError {}

/// Why a message was not taken.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendError {
    /// There is no connection.
    Disconnected,
    /// The connection has not authenticated.
    Unauthenticated,
    /// What waits to be sent would be over its bound, or as many requests as allowed wait for
    /// their answers. Try again later.
    Full,
    /// The packet would be longer than the server takes.
    TooLong {
        /// Its length without the prefix, in bytes.
        len: usize,
        /// The greatest that is allowed, in bytes.
        limit: usize,
    },
    /// The message id has not 1 to 128 bytes.
    IdLength {
        /// Its length, in bytes.
        len: usize,
    },
}

impl SendError {
    /// The code that stands for it: 60201, 60203, 11 (invalid message) for what can never be sent
    /// and 14 (system error) for [`Full`](Self::Full).
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Disconnected => ErrorCode::DISCONNECTED,
            Self::Unauthenticated => ErrorCode::UNAUTHENTICATED,
            Self::Full => ErrorCode::SYSTEM_ERROR,
            Self::TooLong { .. } | Self::IdLength { .. } => ErrorCode::INVALID_MESSAGE,
        }
    }
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disconnected => f.write_str("disconnected"),
            Self::Unauthenticated => f.write_str("not authenticated"),
            Self::Full => f.write_str("too much waits to be sent or answered"),
            Self::TooLong { len, limit } => {
                write!(
                    f,
                    "packet of {len} bytes is over the limit of {limit} bytes"
                )
            }
            Self::IdLength { len } => {
                write!(f, "message id of {len} bytes, allowed are 1 to 128")
            }
        }
    }
}

impl Error for SendError {}

/// Why a request has no successful answer.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestError {
    /// It was not sent.
    NotSent(SendError),
    /// The connection ended before the answer came. Whether the server saw the request is unknown.
    Disconnected,
    /// No answer came in time.
    Timeout,
    /// The server answered with an error code, which is the packet's.
    Refused(Packet),
}

impl RequestError {
    /// The code that stands for it: the server's, or 60201, 60202, 60203; see also
    /// [`SendError::code`].
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::NotSent(error) => error.code(),
            Self::Disconnected => ErrorCode::DISCONNECTED,
            Self::Timeout => ErrorCode::CONNECTOR_REQUEST_TIMEOUT,
            Self::Refused(packet) => packet.error,
        }
    }
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotSent(error) => error.fmt(f),
            Self::Disconnected => f.write_str("disconnected before the answer"),
            Self::Timeout => f.write_str("no answer in time"),
            Self::Refused(packet) => write!(f, "refused: {}", packet.error),
        }
    }
}

impl Error for RequestError {}

impl From<SendError> for RequestError {
    fn from(error: SendError) -> Self {
        Self::NotSent(error)
    }
}

/// Why a connection ended.
#[non_exhaustive]
#[derive(Debug)]
pub enum DisconnectReason {
    /// [`disconnect`](crate::Connector::disconnect) was called.
    Requested,
    /// The server closed the connection.
    PeerClosed,
    /// Nothing came from the server for as long as makes it dead.
    Silent,
    /// The socket failed.
    Io(io::Error),
    /// The server broke the protocol.
    Protocol(ProtocolError),
    /// After reconnecting the server refused the credentials that it took before.
    AuthenticationRefused(ErrorCode),
    /// The server gave the account to another connection that authenticated for it, and said so.
    /// This one is not made again: two clients would throw each other out for ever.
    Replaced,
}

impl fmt::Display for DisconnectReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Requested => f.write_str("requested"),
            Self::PeerClosed => f.write_str("closed by the server"),
            Self::Silent => f.write_str("the server is silent"),
            Self::Io(error) => error.fmt(f),
            Self::Protocol(error) => error.fmt(f),
            Self::AuthenticationRefused(code) => write!(f, "authentication refused: {code}"),
            Self::Replaced => f.write_str("the account came with another connection"),
        }
    }
}

/// What a server did wrong.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProtocolError {
    /// The length of a packet is over the limit.
    Frame(FrameError),
    /// Bytes that are no packet.
    Packet(PacketError),
    /// A compressed payload that cannot be inflated.
    Payload(UnpickleError),
    /// A TLS record that is none; the text says how.
    Tls(String),
    /// A WebSocket frame that is none; the text says how.
    WebSocket(String),
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frame(error) => error.fmt(f),
            Self::Packet(error) => error.fmt(f),
            Self::Payload(error) => error.fmt(f),
            Self::Tls(what) => write!(f, "TLS: {what}"),
            Self::WebSocket(what) => write!(f, "WebSocket: {what}"),
        }
    }
}

impl Error for ProtocolError {}

impl From<FrameError> for ProtocolError {
    fn from(error: FrameError) -> Self {
        Self::Frame(error)
    }
}

impl From<PacketError> for ProtocolError {
    fn from(error: PacketError) -> Self {
        Self::Packet(error)
    }
}

impl From<UnpickleError> for ProtocolError {
    fn from(error: UnpickleError) -> Self {
        Self::Payload(error)
    }
}

impl From<ProtocolError> for DisconnectReason {
    fn from(error: ProtocolError) -> Self {
        Self::Protocol(error)
    }
}

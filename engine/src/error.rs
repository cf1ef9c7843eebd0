//! Errors and reasons, split by who is to blame.

use std::fmt;
use std::io;

use proscenium_framing::FrameError;

#[cfg(feature = "ws")]
use proscenium_framing::websocket::ProtocolError;

use crate::layer::error::{HandshakeError, TlsError};

/// Why a connection ended. Every close has exactly one reason, which the handler is told and the
/// statistics count by [`name`](CloseReason::name).
#[derive(Debug)]
#[non_exhaustive]
pub enum CloseReason {
    /// The peer finished sending, on a frame boundary, and everything queued for it was written.
    PeerClosed,
    /// The peer finished sending in the middle of a frame.
    PeerClosedMidFrame {
        /// Bytes of the incomplete frame that had arrived, header included.
        received: usize,
    },
    /// The connection broke: reset by the peer, or another socket error.
    Broken(io::Error),
    /// We closed it: [`Context::close`](crate::Context::close) or the handle's `close`.
    Local,
    /// The peer sent bytes that are not a frame of the listener's framing, or a frame over its
    /// limit; the error names what was expected and what came. What was queued for it is still
    /// written, as after a graceful close, whose time limit holds.
    BadFrame(FrameError),
    /// Its send queue passed the high watermark under
    /// [`Overflow::Close`](crate::Overflow::Close).
    SlowConsumer {
        /// Bytes that were queued.
        queued: usize,
        /// The watermark they passed.
        limit: usize,
    },
    /// Nothing arrived for the idle timeout of its listener.
    IdleTimeout,
    /// The shard's memory for incomplete frames ran out, and this connection had the oldest one.
    ReassemblyPressure,
    /// The shard's memory for unsent bytes ran out, and this connection had the most of them.
    SendPressure,
    /// After a graceful close the peer took too long to read the rest or to close its side.
    LingerTimeout,
    /// Messages forwarded to it after a move between shards overran the limit.
    ForwardOverflow,
    /// The engine shut down.
    Shutdown,
    /// A layer of an accepted connection was not up within
    /// [`Limits::handshake_timeout`](crate::Limits). The handler was never told of it.
    HandshakeTimeout,
    /// The handshake of a layer failed. The handler was never told of the connection.
    HandshakeFailed(HandshakeError),
    /// The peer broke the rules of TLS, or said that we did.
    Tls(TlsError),
    /// The peer's stream ended without TLS's own end (close_notify): anybody on the way can have
    /// cut it off.
    TlsTruncated,
    /// The peer broke the WebSocket protocol or its limits.
    #[cfg(feature = "ws")]
    WebSocket(ProtocolError),
    /// The peer closed the WebSocket.
    WebSocketClosed {
        /// The code of its close frame (RFC 6455 §7.4); 1005 if it had none, 1006 if the peer
        /// ended the stream without a close frame.
        code: u16,
        /// The reason in its close frame, at most 123 bytes; what a peer says, for logs.
        reason: String,
    },
}

impl CloseReason {
    /// All names, in the order in which the statistics list them.
    pub const NAMES: [&'static str; 18] = [
        "peer_closed",
        "peer_closed_mid_frame",
        "broken",
        "local",
        "bad_frame",
        "slow_consumer",
        "idle_timeout",
        "reassembly_pressure",
        "send_pressure",
        "linger_timeout",
        "forward_overflow",
        "shutdown",
        "handshake_timeout",
        "handshake_failed",
        "tls",
        "tls_truncated",
        "web_socket",
        "web_socket_closed",
    ];

    pub(crate) const fn index(&self) -> usize {
        match self {
            Self::PeerClosed => 0,
            Self::PeerClosedMidFrame { .. } => 1,
            Self::Broken(_) => 2,
            Self::Local => 3,
            Self::BadFrame(_) => 4,
            Self::SlowConsumer { .. } => 5,
            Self::IdleTimeout => 6,
            Self::ReassemblyPressure => 7,
            Self::SendPressure => 8,
            Self::LingerTimeout => 9,
            Self::ForwardOverflow => 10,
            Self::Shutdown => 11,
            Self::HandshakeTimeout => 12,
            Self::HandshakeFailed(_) => 13,
            Self::Tls(_) => 14,
            Self::TlsTruncated => 15,
            #[cfg(feature = "ws")]
            Self::WebSocket(_) => 16,
            Self::WebSocketClosed { .. } => 17,
        }
    }

    /// The same reason once more; of an operating-system error, its code.
    pub fn duplicate(&self) -> Self {
        match self {
            Self::PeerClosed => Self::PeerClosed,
            Self::PeerClosedMidFrame { received } => Self::PeerClosedMidFrame {
                received: *received,
            },
            Self::Broken(error) => Self::Broken(duplicate(error)),
            Self::Local => Self::Local,
            Self::BadFrame(error) => Self::BadFrame(*error),
            Self::SlowConsumer { queued, limit } => Self::SlowConsumer {
                queued: *queued,
                limit: *limit,
            },
            Self::IdleTimeout => Self::IdleTimeout,
            Self::ReassemblyPressure => Self::ReassemblyPressure,
            Self::SendPressure => Self::SendPressure,
            Self::LingerTimeout => Self::LingerTimeout,
            Self::ForwardOverflow => Self::ForwardOverflow,
            Self::Shutdown => Self::Shutdown,
            Self::HandshakeTimeout => Self::HandshakeTimeout,
            Self::HandshakeFailed(error) => Self::HandshakeFailed(error.clone()),
            Self::Tls(error) => Self::Tls(error.clone()),
            Self::TlsTruncated => Self::TlsTruncated,
            #[cfg(feature = "ws")]
            Self::WebSocket(error) => Self::WebSocket(*error),
            Self::WebSocketClosed { code, reason } => Self::WebSocketClosed {
                code: *code,
                reason: reason.clone(),
            },
        }
    }

    /// Whether the peer's bytes are why: then that stays the reason, however the close after it
    /// ends.
    pub(crate) const fn is_fault(&self) -> bool {
        #[cfg(feature = "ws")]
        if matches!(self, Self::WebSocket(_)) {
            return true;
        }
        matches!(
            self,
            Self::BadFrame(_)
                | Self::HandshakeFailed(_)
                | Self::Tls(_)
                | Self::TlsTruncated
                | Self::WebSocketClosed { .. }
        )
    }

    /// The reason's name in statistics and metrics.
    pub const fn name(&self) -> &'static str {
        Self::NAMES[self.index()]
    }
}

/// The same error once more, as far as it can be had: its code, or its kind.
fn duplicate(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::from(error.kind()),
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PeerClosed => f.write_str("the peer closed the connection"),
            Self::PeerClosedMidFrame { received } => {
                write!(
                    f,
                    "the peer closed in the middle of a frame, {received} bytes into it"
                )
            }
            Self::Broken(error) => write!(f, "the connection broke: {error}"),
            Self::Local => f.write_str("closed by this side"),
            Self::BadFrame(error) => write!(f, "bad frame: {error}"),
            Self::SlowConsumer { queued, limit } => {
                write!(
                    f,
                    "slow consumer: {queued} bytes queued, the watermark is {limit}"
                )
            }
            Self::IdleTimeout => f.write_str("nothing arrived within the idle timeout"),
            Self::ReassemblyPressure => {
                f.write_str("out of memory for incomplete frames; this one was the oldest")
            }
            Self::SendPressure => {
                f.write_str("out of memory for unsent bytes; this connection had the most")
            }
            Self::LingerTimeout => f.write_str("the peer did not finish within the linger time"),
            Self::ForwardOverflow => {
                f.write_str("too many messages under way between shards after a move")
            }
            Self::Shutdown => f.write_str("the engine shut down"),
            Self::HandshakeTimeout => f.write_str("no handshake within the deadline"),
            Self::HandshakeFailed(error) => write!(f, "handshake failed: {error}"),
            Self::Tls(error) => write!(f, "TLS: {error}"),
            Self::TlsTruncated => f.write_str("the TLS stream was cut off without its end"),
            #[cfg(feature = "ws")]
            Self::WebSocket(error) => write!(f, "WebSocket: {error}"),
            Self::WebSocketClosed { code, reason } => {
                write!(f, "the peer closed the WebSocket with code {code}")?;
                if !reason.is_empty() {
                    write!(f, " ({reason:?})")?;
                }
                Ok(())
            }
        }
    }
}

/// Why a message was not queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SendError {
    /// The connection is gone or closing (or the id never named one).
    Gone,
    /// A bound was reached: the connection's send queue, the shard's send memory, or the mailbox
    /// of the shard that owns the connection. For a connection of the same shard, `on_drained`
    /// follows once the queue has passed low water.
    Full,
    /// The body is longer than the listener's frame limit.
    TooLong {
        /// Length of the body in bytes.
        length: usize,
        /// The limit in bytes.
        limit: usize,
    },
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone => f.write_str("the connection is gone"),
            Self::Full => f.write_str("the queue is full"),
            Self::TooLong { length, limit } => {
                write!(f, "a body of {length} bytes is over the limit of {limit}")
            }
        }
    }
}

impl std::error::Error for SendError {}

/// Why something posted to a shard was refused; it is handed back.
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PostError<T> {
    /// The shard's mailbox is full.
    Full(T),
    /// The shard has stopped, or there is no shard of that number.
    Stopped(T),
}

impl<T> PostError<T> {
    /// What was not posted.
    pub fn into_inner(self) -> T {
        match self {
            Self::Full(posted) | Self::Stopped(posted) => posted,
        }
    }
}

impl<T> fmt::Display for PostError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full(_) => f.write_str("the shard's mailbox is full"),
            Self::Stopped(_) => f.write_str("the shard has stopped"),
        }
    }
}

impl<T: fmt::Debug> std::error::Error for PostError<T> {}

/// Why an outgoing connection was not made.
#[derive(Debug)]
#[non_exhaustive]
pub enum ConnectError {
    /// The system refused: connection refused, unreachable, no descriptors, …
    Io(io::Error),
    /// No answer within the connect deadline.
    TimedOut,
    /// The shard's limit of connections is reached.
    ConnectionLimit {
        /// The limit.
        limit: usize,
    },
    /// The engine is shutting down.
    Shutdown,
    /// The connection was made, but the handshake of a layer failed.
    Handshake(HandshakeError),
}

impl ConnectError {
    /// The same error once more; of an operating-system error, its code.
    pub(crate) fn duplicate(&self) -> Self {
        match self {
            Self::Io(error) => Self::Io(duplicate(error)),
            Self::TimedOut => Self::TimedOut,
            Self::ConnectionLimit { limit } => Self::ConnectionLimit { limit: *limit },
            Self::Shutdown => Self::Shutdown,
            Self::Handshake(error) => Self::Handshake(error.clone()),
        }
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "cannot connect: {error}"),
            Self::TimedOut => f.write_str("cannot connect: no answer within the deadline"),
            Self::ConnectionLimit { limit } => {
                write!(
                    f,
                    "cannot connect: the shard has {limit} connections, its limit"
                )
            }
            Self::Shutdown => f.write_str("cannot connect: the engine is shutting down"),
            Self::Handshake(error) => write!(f, "cannot connect: {error}"),
        }
    }
}

impl std::error::Error for ConnectError {}

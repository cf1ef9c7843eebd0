//! Why messages are not sent, and requests not answered.

use std::fmt;

use proscenium_framing::packet::ErrorCode;

use crate::message::ReplyTo;

/// Why a message was not queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SendError {
    /// There is no link to that node now (or, with `split`, none that we dialled).
    Unroutable,
    /// The link's queue is full, in messages or bytes, or too many requests are unanswered; or the
    /// queue between the calling thread and the node's shard is full.
    Full,
    /// The message is longer than a frame or message may be.
    TooLong {
        /// Its length, in bytes.
        length: usize,
        /// The limit, in bytes.
        limit: usize,
    },
    /// The request that is answered came by a link that is gone since: who asked has been told.
    LinkGone,
    /// The request that is answered did not want an answer.
    NotARequest,
    /// The node has ended.
    Stopped,
}

impl SendError {
    /// The code that stands for it in packets.
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Unroutable | Self::LinkGone | Self::Stopped => ErrorCode::SERVER_NOT_FOUND,
            Self::Full | Self::TooLong { .. } | Self::NotARequest => ErrorCode::SYSTEM_ERROR,
        }
    }
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unroutable => f.write_str("no link to that node"),
            Self::Full => f.write_str("the queue to that node is full"),
            Self::TooLong { length, limit } => {
                write!(
                    f,
                    "a message of {length} bytes is over the limit of {limit}"
                )
            }
            Self::LinkGone => f.write_str("the link by which the request came is gone"),
            Self::NotARequest => f.write_str("the message did not want an answer"),
            Self::Stopped => f.write_str("the node has ended"),
        }
    }
}

impl std::error::Error for SendError {}

/// A reply that [`NodeHandle::reply`](crate::NodeHandle::reply) did not take.
#[derive(Debug)]
pub struct NotReplied {
    /// Why.
    pub error: SendError,
    /// The request, which is still to be answered.
    pub to: ReplyTo,
}

impl fmt::Display for NotReplied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not replied: {}", self.error)
    }
}

impl std::error::Error for NotReplied {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// Why a request has no reply. What the other node answers, its errors included, is a
/// [`Reply`](crate::Reply).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RequestError {
    /// It was not sent.
    Send(SendError),
    /// No reply came within the deadline. Whether the request was handled is not known.
    TimedOut,
    /// The link that it was sent on was lost, or the peer is dead. Whether the request was handled
    /// is not known.
    LinkLost,
    /// The node ended first.
    Stopped,
}

impl RequestError {
    /// The code that stands for it in packets.
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Send(error) => error.code(),
            Self::TimedOut => ErrorCode::REQUEST_TIMEOUT,
            Self::LinkLost | Self::Stopped => ErrorCode::SERVER_NOT_FOUND,
        }
    }
}

impl From<SendError> for RequestError {
    fn from(error: SendError) -> Self {
        Self::Send(error)
    }
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Send(error) => write!(f, "not sent: {error}"),
            Self::TimedOut => f.write_str("no reply within the deadline"),
            Self::LinkLost => f.write_str("the link was lost before the reply"),
            Self::Stopped => f.write_str("the node ended before the reply"),
        }
    }
}

impl std::error::Error for RequestError {}

/// Why a node closed a link, or did not let one come up: names for logs and statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LinkEnd {
    /// The peer or the network closed it.
    Closed,
    /// The attempt to connect failed.
    ConnectFailed,
    /// This node closed it: the endpoint was removed, or the node ends.
    Local,
    /// The peer's address is not on the allow-list.
    NotAllowed,
    /// Too many links or peers.
    Limit,
    /// Greeting and handshake took too long.
    HandshakeTimeout,
    /// The peer broke the protocol (ZMTP, or the layout of messages), or refused us.
    Protocol,
    /// The peer's socket type, identity or role is not what it has to be.
    Refused,
    /// The peer gave no sign of life, or did not read what it was sent.
    Dead,
    /// A newer link of the same peer in the same direction replaced it.
    Handover,
    /// There is a dialled link to that peer already.
    Duplicate,
    /// The peer has restarted, or uses its other link now.
    Superseded,
    /// Incomplete messages of all links took too much memory.
    Reassembly,
    /// It had no room for an answer that must not wait: the peer asks, but does not read.
    Overflow,
}

impl LinkEnd {
    /// How many there are.
    pub const COUNT: usize = 14;

    /// All of them, with their names.
    pub const ALL: [(Self, &'static str); Self::COUNT] = [
        (Self::Closed, "closed"),
        (Self::ConnectFailed, "connect_failed"),
        (Self::Local, "local"),
        (Self::NotAllowed, "not_allowed"),
        (Self::Limit, "limit"),
        (Self::HandshakeTimeout, "handshake_timeout"),
        (Self::Protocol, "protocol"),
        (Self::Refused, "refused"),
        (Self::Dead, "dead"),
        (Self::Handover, "handover"),
        (Self::Duplicate, "duplicate"),
        (Self::Superseded, "superseded"),
        (Self::Reassembly, "reassembly"),
        (Self::Overflow, "overflow"),
    ];

    /// Its name in statistics.
    pub const fn name(self) -> &'static str {
        Self::ALL[self as usize].1
    }
}

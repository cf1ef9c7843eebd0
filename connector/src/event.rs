//! What a connector tells.

use proscenium_framing::packet::ErrorCode;

use crate::{ConnectError, DisconnectReason, RequestError};

/// A packet from the server, inflated if it was compressed.
#[non_exhaustive]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packet {
    /// What the message is. In an answer, what the server's handler chose.
    pub msg_id: String,
    /// The stage that it comes from.
    pub stage_id: i64,
    /// [`ErrorCode::SUCCESS`], or what is wrong.
    pub error: ErrorCode,
    /// The message itself.
    pub payload: Vec<u8>,
}

/// How a request went: what the server answered, or why there is no answer. A code other than
/// success is an error, too: [`RequestError::Refused`].
pub type Answer = Result<Packet, RequestError>;

/// What happened on a connector.
#[non_exhaustive]
#[derive(Debug)]
pub enum Event {
    /// There is a connection, the first or a further one. It has to authenticate, which after
    /// reconnecting happens by itself.
    Connected,
    /// After reconnecting, the server took the credentials again; this is its answer.
    Reauthenticated(Packet),
    /// The server sent something that is not the answer to a request.
    Received(Packet),
    /// The connection ended, and with it every request without an answer.
    Disconnected {
        /// Why.
        reason: DisconnectReason,
        /// True if the connector now tries to connect again.
        reconnecting: bool,
    },
    /// An attempt to connect failed.
    ConnectFailed {
        /// Why.
        error: ConnectError,
        /// True if a further attempt follows.
        reconnecting: bool,
    },
}

impl Event {
    /// What it counts as in the bound of the queue, in bytes.
    pub(crate) fn size(&self) -> usize {
        let payload = match self {
            Self::Received(packet) | Self::Reauthenticated(packet) => packet.size(),
            _ => 0,
        };
        size_of::<Self>() + payload
    }
}

impl Packet {
    /// A packet that nobody sent, without an error: for tests of what takes packets.
    pub fn new(stage_id: i64, msg_id: impl Into<String>, payload: impl Into<Vec<u8>>) -> Self {
        Self {
            msg_id: msg_id.into(),
            stage_id,
            error: ErrorCode::SUCCESS,
            payload: payload.into(),
        }
    }

    pub(crate) fn size(&self) -> usize {
        self.msg_id.len() + self.payload.len()
    }
}

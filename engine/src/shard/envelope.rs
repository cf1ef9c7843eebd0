//! What travels between shards and from other threads to a shard.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use crate::connection::{Connection, Pause};
use crate::driver::RawSocket;
use crate::handler::{ConnectId, Peer};
use crate::layer::Layers;
use crate::limits::Overflow;
use crate::options::Connector;
use crate::router_id::RouterId;
use crate::send_queue::SendQueue;
use crate::wire::Wire;

/// One mailbox item. The first group goes through the bounded lane, the second through the
/// control lane, which never refuses and whose senders keep the bound.
pub(crate) enum Envelope<P> {
    /// Send to a connection that was born on the receiving shard.
    Send {
        to: RouterId,
        body: Bytes,
        /// A text message, if it goes to a WebSocket.
        text: bool,
    },
    /// For `Handler::on_posted`.
    Post(P),
    /// Close a connection that was born on the receiving shard, gracefully.
    Close(RouterId),
    /// Make an outgoing connection.
    Connect(ConnectId, Box<Connector>),
    /// Everything that the old shard posted before a connection moved has arrived: reads go on.
    ReadFence(RouterId),
    /// Everything that shard `from` sent to the connection through the receiving shard has been
    /// passed on: answer with `SendsArrived`.
    SendFence { id: RouterId, from: usize },

    /// A connection dealt out by the accepting shard.
    Accepted {
        listener: u32,
        socket: RawSocket,
        peer: Option<SocketAddr>,
    },
    /// A connection moves in.
    Adopt(Box<Moved>),
    /// A send that was passed on.
    Forward {
        to: RouterId,
        body: Bytes,
        text: bool,
    },
    /// A close that was passed on.
    ForwardClose(RouterId),
    /// Too many sends were passed on: the connection cannot be kept in order.
    ForwardOverflow(RouterId),
    /// The answer to `SendFence`.
    SendsArrived(RouterId),
    /// A connection that was born on the receiving shard ended elsewhere. `lost`: it was an
    /// outgoing one whose connector goes on.
    Ended { id: RouterId, lost: Option<Lost> },
    /// Begin to shut down, within the time given.
    Shutdown(Duration),
}

/// An outgoing connection that ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lost {
    /// The number of its connector, on the shard where the connection was born.
    pub(crate) connect: u32,
    /// It had brought a message.
    pub(crate) spoke: bool,
    /// This side ended it: it is not made again.
    pub(crate) wanted: bool,
}

/// A connection between two shards.
pub(crate) struct Moved {
    pub(crate) id: RouterId,
    pub(crate) from: usize,
    /// Go on to this shard once settled (moves go by the birth shard).
    pub(crate) then: Option<usize>,
    pub(crate) socket: RawSocket,
    pub(crate) unread: Vec<u8>,
    pub(crate) unsent: SendQueue,
    pub(crate) layers: Option<Box<Layers>>,
    pub(crate) wire: Wire,
    pub(crate) overflow: Overflow,
    pub(crate) peer: Peer,
    pub(crate) spoke: bool,
    pub(crate) paused_by_handler: bool,
    pub(crate) paused_by_overflow: bool,
    pub(crate) tell_drained: bool,
    pub(crate) read_closed: bool,
    pub(crate) tag: u64,
}

impl Moved {
    /// The connection as the new shard keeps it, and what it needs beside.
    pub(crate) fn into_connection(self) -> (Connection, RawSocket, Vec<u8>) {
        let mut connection = Connection::new(self.id, self.wire, self.overflow, self.peer);
        connection.announced = true;
        connection.out = self.unsent;
        connection.layers = self.layers;
        connection.spoke = self.spoke;
        connection.tell_drained = self.tell_drained;
        connection.read_closed = self.read_closed;
        connection.tag = self.tag;
        connection.pause.set(Pause::HANDLER, self.paused_by_handler);
        connection
            .pause
            .set(Pause::OVERFLOW, self.paused_by_overflow);
        (connection, self.socket, self.unread)
    }
}

impl<P> Envelope<P> {
    /// True if it carries work that is lost when the shard stops before handling it.
    pub(crate) fn is_work(&self) -> bool {
        matches!(
            self,
            Self::Send { .. } | Self::Post(_) | Self::Forward { .. } | Self::Connect(..)
        )
    }
}

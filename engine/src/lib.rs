//! The engine of Proscenium: event loop, shards, connections, mailboxes, timers.

mod body;
mod driver;
mod error;
mod handler;
mod limits;
mod options;
mod router_id;
mod time;

pub use body::{Body, Message};
pub use error::{CloseReason, ConnectError, PostError, SendError};
pub use handler::{ConnectId, Handler, Origin, Peer, Run};
pub use limits::{Limits, Overflow};
pub use options::{
    Address, Backoff, Balance, ConnectionOptions, Connector, Framing, Listener, SocketOptions,
};
pub use router_id::RouterId;
pub use time::Time;

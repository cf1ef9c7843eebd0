//! The engine of Proscenium: event loop, shards, connections, mailboxes, timers.
//!
//! A [`Handler`] is told what happens to connections, each named by a [`RouterId`], and acts
//! through a [`Context`]. An [`Engine`] runs one handler per shard on threads of its own; a
//! [`Shard`] is driven by the host; a [`StreamSocket`] turns it all into a queue to pull from.
//!
//! # Invariants worth naming
//!
//! - A shard owns everything it touches; other threads only push into its mailbox.
//! - On one shard a message takes no lock, no atomic read-modify-write, no heap allocation and one
//!   copy of its body, into the send buffer.
//! - Every queue has a bound and a stated answer when full ([`Limits`], [`Overflow`]); none grows
//!   silently, none drops silently.
//! - Messages of one sender to one connection, and of one connection to its handler, never
//!   overtake, whatever shards they cross and even while the connection moves.
//! - What a peer sends can cost that peer its connection, with a counted reason
//!   ([`CloseReason`]), and nobody else anything.
//! - The same shard runs on epoll and on the seeded simulation (feature `sim`).

mod accept_rate;
#[cfg(feature = "bench")]
#[doc(hidden)]
pub mod bench_support;
mod body;
mod bound;
mod connection;
mod context;
mod driver;
mod engine;
mod error;
#[cfg(feature = "fuzz")]
#[doc(hidden)]
pub mod fuzz_support;
mod handle;
mod handler;
mod layer;
mod limits;
pub mod mailbox;
mod messages;
mod options;
mod pool;
mod prefetch;
mod random;
mod relay;
mod router_id;
mod send_queue;
mod shard;
#[cfg(feature = "sim")]
pub mod sim;
mod stats;
mod stream_socket;
mod time;
pub mod timer;
mod watchdog;
mod wire;

pub use body::{Body, Message};
pub use context::Context;
pub use engine::{Engine, EngineBuilder, Shard};
pub use error::{CloseReason, ConnectError, PostError, SendError};
pub use handle::Handle;
pub use handler::{ConnectId, Handler, Origin, Peer, Run};
pub use layer::error::{HandshakeError, TlsError};
#[cfg(feature = "tls")]
pub use layer::tls::{
    ClientCertificates, HandshakeKind, Identity, Pin, TlsClient, TlsClientBuilder, TlsConfigError,
    TlsInfo, TlsServer, TlsServerBuilder, TlsVersion,
};
#[cfg(feature = "ws")]
pub use layer::web_socket::{WebSocketClient, WebSocketInfo, WebSocketServer};
pub use limits::{Limits, Overflow};
pub use mailbox::ShardWaker;
pub use messages::Messages;
pub use options::{
    Address, Backoff, Balance, ConnectionOptions, Connector, Framing, Listener, SocketOptions,
};
pub use prefetch::prefetch;
pub use router_id::RouterId;
pub use shard::DrainReport;
pub use stats::{EngineStats, HISTOGRAM_BUCKETS, Histogram, ShardStats, SharedHistogram};
pub use stream_socket::{Event, FailedConnect, StreamSocket, StreamSocketBuilder};
pub use time::Time;
pub use timer::TimerKey;
pub use watchdog::Stall;

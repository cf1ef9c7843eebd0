//! Server-to-server links of Proscenium: a mesh of nodes that send each other messages and
//! requests by name, over ZMTP, so that ZeroMQ peers can take part.
//!
//! A [`Node`] runs on a thread of its own; a [`NodeLink`] is the same inside somebody's engine,
//! beside connections that are none of its business. Both tell a [`NodeHandler`] what arrives.
//! Other threads hold a [`NodeHandle`].
//!
//! # Invariants worth naming
//!
//! - A request is answered or fails within its deadline, exactly once. A reply reaches the request
//!   that it answers, or nobody: numbers that could still be answered are not used again.
//! - Messages from one node to another never overtake each other, also when a second link between
//!   them comes up or one of two is lost. Across a lost link messages may be missing, not late.
//! - A request lives as long as the link that it was sent on: when that ends it fails, and its
//!   reply is refused at the other end. So a restarted node never gets answers of its past.
//! - Each link has queues of its own, bounded in messages and bytes: a peer that does not read
//!   delays nobody else. What is refused is told to the caller, what is lost is counted.
//! - A peer can cost itself its connection, with a counted reason, and nobody else anything.
//! - There is no thread and no clock of its own: the same code runs on the seeded simulation
//!   (feature `sim`).
#![forbid(unsafe_code)]

mod allow;
mod commands;
mod completion;
mod context;
mod dial;
mod dialling;
pub mod directory;
mod error;
mod establish;
mod handle;
mod link;
mod liveness;
mod membership;
mod message;
mod nid;
mod node;
mod node_link;
mod options;
mod outbox;
mod peer;
mod receive;
mod requests;
pub mod routing;
mod send;
mod servers;
mod stats;
mod wait;

pub use allow::{AddressRange, AddressRangeError, AllowList};
pub use completion::{Reply, ReplyRef, Request};
pub use context::{NodeContext, NodeHandler, Target};
pub use dial::{Endpoint, EndpointId};
pub use error::{LinkEnd, NotReplied, RequestError, SendError};
pub use handle::{NodeHandle, PeerGauge, RequestOptions};
pub use membership::{Departure, Membership};
pub use message::{Encoded, NodeMessage, ReplyTo};
pub use nid::{Nid, NidError};
pub use node::{Node, NodeBuilder, NodeParts, NodeShard};
pub use node_link::NodeLink;
pub use options::NodeOptions;
pub use peer::PeerId;
pub use stats::{NodeStats, PeerCounters, PeerStats};

pub use proscenium_framing::packet::ErrorCode;
pub use proscenium_framing::route::{Chain, ChainEntry, RouteHeader};

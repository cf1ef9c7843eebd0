//! A Play server: game stages and their actors, for clients that authenticate, join, come back and
//! leave.
//!
//! A game developer writes a [`PlayStage`] (a room, a match, a zone) and an [`Actor`] (what stands
//! for one account in it), both in plain `async fn`, and starts a [`PlayServer`]. Everything that
//! happens to a stage happens in its own order, one thing at a time, on one shard of the engine;
//! the connections of its actors live there, too.
//!
//! # Invariants worth naming
//!
//! - A connection is that of an actor only when its stage has let it in; before, everything but
//!   authentication (and heartbeats) closes it.
//! - Every request gets exactly one answer, whatever its handler does.
//! - An account has at most one actor in a stage, and that actor at most one connection. A
//!   connection that has lost its actor says nothing about it any more.
//! - Nothing is created for who is not authenticated, and a creation that failed leaves nothing.
//! - A message costs no allocation from the socket to the handler and back.

#![forbid(unsafe_code)]

mod actor;
mod announce;
pub mod api;
mod call;
mod context;
mod directory;
mod error;
mod gate;
mod handle;
mod join;
mod kind;
mod listener;
mod mesh;
mod packet;
mod policies;
mod room;
mod seats;
mod server;
mod shared;
mod stage;
mod stats;
pub mod system;
mod target;
mod verdict;
mod wire;

pub use actor::{Actor, ActorCx};
pub use call::LateReply;
pub use context::StageCx;
pub use error::{DeliverError, Failure, Result};
pub use handle::{Created, Pending, PendingContent, PlayHandle};
pub use kind::StageKind;
pub use listener::PlayListener;
pub use mesh::{Link, PlayShard, PlayShards, Request};
pub use packet::{Content, Packet, Payload, Proto};
pub use proscenium_framing::packet::ErrorCode;
pub use proscenium_stages::{DetachError, Offload, OffloadError, Sleep, Tick, TimerId};
pub use seats::{ActorId, Leave, Member};
pub use server::{PlayParts, PlayServer, PlayServerBuilder};
pub use stage::PlayStage;
pub use stats::PlayStats;
pub use target::{Policy, StageTarget, To};
pub use verdict::Verdict;

// The example of the README is compiled and run by `cargo test --doc`.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

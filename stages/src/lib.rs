//! Stages: stateful, sequential services as `async fn`, thousands of them on each shard of the
//! Proscenium engine.
//!
//! A [`Stage`] owns its state and handles one thing at a time; while its handler awaits, what
//! comes for it waits in order. It lives on one shard and is addressed by a [`StageRef`], a
//! number. [`Stages`] is the system of all stage types of one engine.
//!
//! # Invariants worth naming
//!
//! - One thing at a time: a handler of a stage never runs while another one of it is under way.
//! - Messages of one sender to one stage never overtake.
//! - On one shard a message costs no lock, no atomic read-modify-write and no allocation; a
//!   coroutine that is ready at its first poll occupies a pooled frame for that long only.
//! - Wakes, replies, timers and ends of connections never need room; everything else is bounded
//!   and says `Full`.
//! - A panic costs its stage, and nobody else anything.

#![deny(unsafe_code)]

mod backlog;
mod by_id;
mod chain;
mod core;
mod cx;
mod detach;
mod error;
mod frames;
mod front;
mod handler;
mod head;
mod invocation;
mod lifecycle;
mod local;
mod offload;
mod options;
mod outbox;
mod panics;
mod placement;
mod post;
mod registry;
mod request;
mod room;
mod samples;
mod slot;
mod stage;
mod stage_ref;
mod stats;
mod system;
mod timers;
mod type_shard;
mod watch;

pub use cx::Cx;
pub use error::{CreateError, DetachError, OffloadError, RequestError, TellError};
pub use front::{Front, Interest};
pub use handler::StageShard;
pub use local::{Creating, Local};
pub use offload::Offload;
pub use options::{OnPanic, StageType};
pub use placement::{Placement, jump_hash};
pub use post::StagePost;
pub use request::{Asked, Reply, Request};
pub use stage::Stage;
pub use stage_ref::StageRef;
pub use stats::StageStats;
pub use system::{Stages, StagesBuilder};
pub use timers::{Sleep, Tick, TimerId};

//! Proscenium: a networking engine for real-time servers on Linux.
//!
//! The engine turns socket bytes into whole messages, each tagged with the [`RouterId`] of its
//! connection, hands them to your [`Handler`] on the thread that read them, and writes what the
//! handler sends. This crate is the facade: everything of `proscenium-engine`, the codecs of
//! `proscenium-framing` as [`framing`], and with the feature `stages` those of `proscenium-stages`
//! as `stages`.
//!
//! ```no_run
//! use proscenium::{Context, Engine, Handler, Listener, Message, RouterId};
//!
//! struct Echo;
//!
//! impl Handler for Echo {
//!     type Post = ();
//!
//!     fn on_message(&mut self, cx: &mut Context<'_, ()>, from: RouterId, message: Message<'_>) {
//!         // `Full` or `Gone` are the peer's loss: the listener's overflow policy has acted.
//!         let _ = cx.send(from, &message);
//!     }
//! }
//!
//! fn main() -> std::io::Result<()> {
//!     let listener = Listener::tcp("127.0.0.1:7000")?;
//!     let engine = Engine::builder().listen(listener).start(|_shard| Echo)?;
//!     println!("listening on {}", engine.local_addrs()[0]);
//!     println!("{}", engine.join()); // until `Handle::shutdown`; then what the drain did
//!     Ok(())
//! }
//! ```
//!
//! # How the pieces relate
//!
//! | to … | use |
//! |---|---|
//! | say where to listen or connect, with which options | [`Listener`], [`Connector`], [`Framing`] |
//! | bound everything that could grow | [`Limits`], [`Overflow`] |
//! | be told what happens | [`Handler`], one value per shard |
//! | act from inside a handler: send, close, pause, timers, connect, post, move | [`Context`] |
//! | act from any other thread | [`Handle`] |
//! | run the shards on threads of the engine | [`Engine`], made by [`EngineBuilder::start`] |
//! | run one shard in a loop of your own | [`Shard`], made by [`EngineBuilder::host`] |
//! | pull events from a queue and write no handler | [`StreamSocket`] |
//! | keep a message beyond the handler's call | [`Message::lease`], which gives a [`Body`] |
//! | wake a shard from elsewhere without needing room | [`ShardWaker`] |
//! | know what is going on | [`Handle::stats`], which gives [`EngineStats`] |
//! | know why a connection ended or was not made | [`CloseReason`], [`ConnectError`] |
//! | know why a message was refused | [`SendError`], [`PostError`] |
//! | know what a shutdown lost | [`DrainReport`] |
//!
//! [`mailbox`] and [`timer`] are the parts a shard is made of; they can be used on their own.
//!
//! # Features
//!
//! - `stages`: the module `stages`, stateful services written as `async fn`, to which one thing
//!   happens at a time: thousands of them on each shard, without locks.
//! - `play`: the module `play`, a Play server for games: stages with actors, whose clients
//!   authenticate, join, come back and leave. With it comes `stages`.
//! - `http`: HTTP for the API servers of `play`: routes of axum on a thread of their own, health,
//!   readiness, metrics.
//! - `nodelink`: the module `nodelink`, nodes of a mesh of servers that send each other messages
//!   and requests by name, over the protocol of ZeroMQ.
//! - `redis`, `redis-tls`: `nodelink::directory::RedisDirectory`, by which nodes find each other.
//! - `sim`: the module `sim`, in which the same shards (and stages) run on virtual time and an
//!   in-memory network with seeded faults. For tests.
//!
//! The default is the engine alone. Linux only.
//!
//! # Further reading
//!
//! The guide is in `docs/guide/` of the repository: concepts, embedding, stages, connections,
//! limits, tuning, operations, simulation, tools. `ARCHITECTURE.md` shows the house on one page.

#![forbid(unsafe_code)]

pub use proscenium_engine::*;
pub use proscenium_framing as framing;
#[cfg(feature = "nodelink")]
pub use proscenium_nodelink as nodelink;
#[cfg(feature = "play")]
pub use proscenium_play as play;
#[cfg(feature = "stages")]
pub use proscenium_stages as stages;

// The examples of the pages below are compiled and run by `cargo test --doc`.
#[cfg(doctest)]
mod pages {
    #[doc = include_str!("../README.md")]
    struct Readme;
    #[doc = include_str!("../docs/guide/concepts.md")]
    struct Concepts;
    #[doc = include_str!("../docs/guide/embedding.md")]
    struct Embedding;
    #[doc = include_str!("../docs/guide/connections.md")]
    struct Connections;
    #[cfg(feature = "ws")]
    #[doc = include_str!("../docs/guide/web_socket.md")]
    struct WebSocket;
    #[doc = include_str!("../docs/guide/limits.md")]
    struct Limits;
    #[doc = include_str!("../docs/guide/tuning.md")]
    struct Tuning;
    #[doc = include_str!("../docs/guide/operations.md")]
    struct Operations;
    #[cfg(all(feature = "stages", feature = "sim"))]
    #[doc = include_str!("../docs/guide/stages.md")]
    struct Stages;
    #[cfg(feature = "nodelink")]
    #[doc = include_str!("../docs/guide/nodelink.md")]
    struct NodeLinks;
    #[cfg(feature = "redis")]
    #[doc = include_str!("../docs/guide/discovery.md")]
    struct Discovery;
    #[cfg(feature = "play")]
    #[doc = include_str!("../docs/guide/play.md")]
    struct Play;
    #[cfg(feature = "http")]
    #[doc = include_str!("../docs/guide/api.md")]
    struct Api;
    #[cfg(feature = "sim")]
    #[doc = include_str!("../docs/guide/simulation.md")]
    struct Simulation;
    #[cfg(feature = "tls")]
    #[doc = include_str!("../docs/guide/tls.md")]
    struct Tls;
}

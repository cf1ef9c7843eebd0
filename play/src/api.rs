//! API servers: handlers without a state of their own, by message id, that talk to the stages and
//! servers of a mesh.
//!
//! An [`ApiServer`] is a node of the mesh ([`proscenium_nodelink`]) and needs nothing else of the
//! engine: it has no clients. What other servers send it goes to an `async fn`; in that, and in
//! every other thread of the program, an [`ApiSender`] creates stages on Play servers, and sends
//! and asks them and other API servers.
//!
//! ```
//! use std::net::SocketAddr;
//! use std::time::Duration;
//! use proscenium_nodelink::{Endpoint, Nid, NodeOptions};
//! use proscenium_play::api::{ApiCx, ApiServer};
//! use proscenium_play::{Content, Result};
//!
//! async fn greet(cx: ApiCx, request: Content) -> Result<Content> {
//!     let name = std::str::from_utf8(&request.payload)?;
//!     Ok(Content::new("Greeting", format!("hello {name} of {}", cx.from())))
//! }
//!
//! let any: SocketAddr = "127.0.0.1:0".parse()?;
//! let server = ApiServer::builder(NodeOptions::new(Nid::new("api-1")?))
//!     .bind(any)
//!     .handle("Greet", greet)
//!     .start()?;
//! let other = ApiServer::builder(NodeOptions::new(Nid::new("api-2")?))
//!     .connect(Endpoint::new(server.local_addrs()[0].clone()))
//!     .start()?;
//!
//! let sender = other.sender();
//! assert!(sender.node().wait_routable("api-1", Duration::from_secs(60)));
//! let answer = sender.request_to_api("api-1", "Greet", "arthur").wait()?; // or `.await`
//! assert_eq!(&answer.payload[..], b"hello arthur of api-2");
//! # other.shutdown(Duration::from_secs(1));
//! # server.shutdown(Duration::from_secs(1));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Invariants worth naming
//!
//! - Every request is answered once, whatever its handler does: also when that panics, is never
//!   woken, is dropped by its executor, or outlives the server.
//! - What is under way is bounded, in number and bytes, and ends: a handler has a deadline.
//! - Handlers never run on the thread of the links: one that blocks delays no other server.

mod context;
mod executor;
mod handlers;
#[cfg(feature = "http")]
pub mod http;
mod policies;
mod running;
mod sender;
mod server;
mod stats;
mod status;

pub use crate::target::{Policy, To};
pub use context::ApiCx;
pub use sender::{ApiSender, Asking};
pub use server::{ApiReport, ApiServer, ApiServerBuilder};
pub use stats::ApiStats;

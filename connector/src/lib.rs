//! Client of Proscenium Play servers, for games and bots.
//!
//! A [`Connector`] is one connection to a server: it connects, authenticates, sends messages and
//! requests, and tells what the server sent. It needs no async runtime: one background thread,
//! started with the first connector and ended with the last, does the I/O of all of them.
//!
//! ```no_run
//! use proscenium_connector::{Connector, Event};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let connector = Connector::builder("play.example.com", 7000)
//!         .on_event(|event| {
//!             if let Event::Received(packet) = event {
//!                 println!("{}: {} bytes", packet.msg_id, packet.payload.len());
//!             }
//!         })
//!         .build()?;
//!     let stage = 1;
//!     connector.connect().wait()?;
//!     connector.authenticate(stage, "AuthenticateRequest", b"token").wait()?;
//!     connector.request_with(stage, "Move", b"north", |answer| match answer {
//!         Ok(packet) => println!("moved: {}", packet.msg_id),
//!         Err(error) => println!("not moved: {error}"),
//!     });
//!     loop {
//!         connector.main_thread_action(); // once per frame of the game: runs all callbacks here
//!         std::thread::sleep(std::time::Duration::from_millis(16));
//!     }
//! }
//! ```
//!
//! # Three ways to get an answer
//!
//! [`Connector::request`] gives a [`Pending`], which is a future for any executor and can be
//! waited for without one; [`Connector::request_with`] calls back. The callback, like those for
//! events, runs in [`Connector::main_thread_action`], on the thread that calls it
//! ([`Delivery::Queue`]), or on the I/O thread ([`Delivery::IoThread`]). Who wants no callbacks
//! takes events with [`Connector::next_event`].
//!
//! # Bounds
//!
//! What waits to be sent, requests without answer, and events that nobody took are bounded
//! ([`Builder`]). A full send queue refuses ([`SendError::Full`]); a full event queue stops
//! reading, so that the server's own bounds tell it.
#![forbid(unsafe_code)]

mod config;
mod connector;
mod error;
mod event;
mod io_thread;
mod pending;
mod random;
mod session;
mod shared;
#[cfg(feature = "tls")]
mod tls;
mod transport;
#[cfg(feature = "ws")]
mod web_socket;

pub use config::{Builder, Delivery, Reconnect, Transport};
pub use connector::Connector;
pub use error::{
    BuildError, ConnectError, DisconnectReason, ProtocolError, RequestError, SendError,
};
pub use event::{Answer, Event, Packet};
pub use pending::Pending;
pub use proscenium_framing::ByteOrder;
pub use proscenium_framing::packet::ErrorCode;

// The examples of these pages are compiled by `cargo test --doc`.
#[cfg(all(doctest, feature = "tls", feature = "ws"))]
mod pages {
    #[doc = include_str!("../README.md")]
    struct Readme;
    #[doc = include_str!("../../docs/guide/connector.md")]
    struct Guide;
}

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Nothing is left half done in our critical sections, so that a panic elsewhere spoils nothing.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

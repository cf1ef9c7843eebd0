//! What the tests of stages on real threads share.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "every test binary uses a part of it"
)]

#[path = "../../../tests/support/clients.rs"]
mod clients;
pub use clients::*;

use std::net::SocketAddr;

use proscenium_engine::{Address, Engine, Listener};
use proscenium_stages::StagePost;

/// A listener on a free port of the loopback interface.
pub fn loopback() -> Listener {
    Listener::tcp("127.0.0.1:0").unwrap()
}

/// Where the first listener of an engine listens.
pub fn address_of(engine: &Engine<StagePost>) -> SocketAddr {
    tcp(&engine.local_addrs()[0])
}

pub fn tcp(address: &Address) -> SocketAddr {
    match address {
        Address::Tcp(address) => *address,
        other => panic!("not TCP: {other:?}"),
    }
}

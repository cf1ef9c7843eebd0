//! Layers: what lies between a socket and the framing of its connection.
//!
//! ```text
//! received:  socket ─► chunk ─► TLS: records, decrypted in place ─► WebSocket ─► framing
//! sent:      socket ◄─ output ◄─ TLS: a flush is few records ◄─ send queue (plaintext)
//! ```
//!
//! A connection without layers has none of this: [`Connection::layers`] is `None`, which is looked
//! at once per read and once per flush. Layers are sans-IO: they are given bytes and give bytes;
//! `shard/layered.rs` moves them, keeps the deadlines and calls the handler.
//!
//! | layers | state of the connection | received bytes | send queue |
//! |---|---|---|---|
//! | a handshake is under way | `Handshaking` | for the layer | what layers above write, once those below are up |
//! | all are up | `Open` | decoded, then framed | encoded at the flush |
//! | we are done | `Closing` | discarded | its rest, then the layers' own ends (close_notify) |
//!
//! [`Connection::layers`]: crate::connection::Connection

pub(crate) mod error;
#[cfg(any(feature = "tls", feature = "ws"))]
pub(crate) mod leased;
#[cfg(feature = "tls")]
pub(crate) mod tls;
#[cfg(feature = "ws")]
pub(crate) mod web_socket;

use std::fmt;

use crate::limits::Limits;
use crate::options::Framing;
use crate::random::Random;
use crate::wire::Wire;

/// The layers of a connection. They move along when it does.
#[derive(Default)]
pub(crate) struct Layers {
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<tls::TlsLayer>,
    #[cfg(feature = "ws")]
    pub(crate) web_socket: Option<web_socket::WebSocketLayer>,
}

const _: () = {
    const fn moves_between_shards<T: Send>() {}
    moves_between_shards::<Layers>();
};

impl Layers {
    /// Whether all of them have made their handshakes.
    pub(crate) fn are_up(&self) -> bool {
        #[cfg(feature = "tls")]
        if self.tls.as_ref().is_some_and(|tls| !tls.is_up()) {
            return false;
        }
        #[cfg(feature = "ws")]
        if self.web_socket.as_ref().is_some_and(|ws| !ws.up) {
            return false;
        }
        true
    }

    /// Whether a stream that ends now was cut off: TLS has an end of its own, which did not come.
    pub(crate) fn is_truncated(&self) -> bool {
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            return !tls.has_ended();
        }
        false
    }

    /// Whether a layer has seen the end of the peer's stream; true once.
    pub(crate) fn take_end(&mut self) -> bool {
        #[cfg(feature = "tls")]
        if let Some(tls) = &mut self.tls {
            return tls.take_end();
        }
        false
    }

    /// Memory of encoded bytes that wait for the socket.
    pub(crate) fn send_memory(&self) -> usize {
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            return tls.output.memory();
        }
        0
    }

    /// Whether received bytes are held that are not decoded yet.
    pub(crate) fn holds_received(&self) -> bool {
        #[cfg(feature = "tls")]
        if self.tls.as_ref().is_some_and(|tls| tls.input.memory() > 0) {
            return true;
        }
        #[cfg(feature = "ws")]
        if let Some(ws) = &self.web_socket {
            return ws.input.memory() > 0;
        }
        false
    }
}

/// Which layers the connections of a listener or connector get, from the socket upwards.
#[derive(Clone, Debug, Default)]
pub(crate) struct LayerOptions {
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<tls::TlsEnd>,
    #[cfg(feature = "ws")]
    pub(crate) web_socket: Option<web_socket::WebSocketEnd>,
}

impl LayerOptions {
    /// The layers of a new connection, `None` if there are none.
    pub(crate) fn make(
        &self,
        framing: Framing,
        limits: &Limits,
        random: &mut Random,
    ) -> Option<Box<Layers>> {
        let mut layers = None::<Box<Layers>>;
        #[cfg(feature = "tls")]
        if let Some(end) = &self.tls {
            layers.get_or_insert_default().tls = Some(tls::TlsLayer::new(end.clone()));
        }
        #[cfg(feature = "ws")]
        if let Some(end) = &self.web_socket {
            let ws = web_socket::WebSocketLayer::new(end.clone(), framing, limits, random.next());
            layers.get_or_insert_default().web_socket = Some(ws);
        }
        let _ = (framing, limits, random, &mut layers);
        layers
    }

    /// How bodies stand in the send queue of a connection with these layers.
    pub(crate) fn wire(&self, framing: Framing) -> Wire {
        #[cfg(feature = "ws")]
        if let Some(end) = &self.web_socket {
            let masks = end.role() == proscenium_framing::websocket::Role::Client;
            return Wire::WebSocket(crate::wire::WsWire { framing, masks });
        }
        framing.into()
    }
}

impl fmt::Debug for Layers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Layers")
            .field("up", &self.are_up())
            .finish_non_exhaustive()
    }
}

//! WebSocket as a layer: frames in, messages out, and the other way round (RFC 6455).
//!
//! The protocol itself is `proscenium_framing::websocket`; here is what one connection keeps of
//! it. `shard/web_socket.rs` moves the bytes:
//!
//! | what was received | where it is |
//! |---|---|
//! | whole frames | unmasked in place in the receive chunk, dispatched from there |
//! | payload of messages that are not whole | the connection's tail |
//! | what cannot be decoded yet: the handshake, a header cut off, frames while paused | `input` |
//!
//! What is sent stands in the send queue as it goes out: frame headers included, and masked, if
//! this is the client's end.

mod options;
mod send;

use std::hash::{DefaultHasher, Hash, Hasher};

use proscenium_framing::websocket::handshake::{Opening, Request};
use proscenium_framing::websocket::{CloseCode, Decoder, DecoderLimits, Role};

pub(crate) use self::options::Common;
pub use self::options::{WebSocketClient, WebSocketServer};
use crate::layer::leased::LeasedBytes;
use crate::limits::Limits;
use crate::options::Framing;
use crate::send_queue::BufferPool;
use crate::time::Time;

/// Which end of a WebSocket a connection is, with its options.
#[derive(Clone, Debug)]
pub(crate) enum WebSocketEnd {
    Server(WebSocketServer),
    Client(WebSocketClient),
}

impl WebSocketEnd {
    pub(crate) fn role(&self) -> Role {
        match self {
            Self::Server(_) => Role::Server,
            Self::Client(_) => Role::Client,
        }
    }

    pub(crate) fn common(&self) -> &Common {
        match self {
            Self::Server(server) => &server.inner.common,
            Self::Client(client) => &client.inner.common,
        }
    }

    fn decoder(&self, framing: Framing, limits: &Limits) -> Decoder {
        let common = self.common();
        let message_max = common.message_max.unwrap_or(match framing {
            Framing::Raw => limits.frame_max,
            // Pieces of a stream, whose packets are bounded by themselves.
            _ => limits.frame_max.saturating_mul(16),
        });
        let mut limits = DecoderLimits::default().message_max(message_max);
        limits.fragments_max = common.fragments_max.unwrap_or(limits.fragments_max);
        limits.control_frames_max = common
            .control_frames_max
            .unwrap_or(limits.control_frames_max);
        Decoder::new(self.role(), limits)
    }
}

/// What the opening handshake of a WebSocket agreed on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WebSocketInfo {
    /// What the client asked for: the path.
    pub path: String,
    /// What the client asked for: what follows the `?`.
    pub query: Option<String>,
    /// The page that a browser says the client belongs to.
    pub origin: Option<String>,
    /// What the server chose of the subprotocols that the client offered.
    pub subprotocol: Option<String>,
}

impl WebSocketInfo {
    pub(crate) fn of(request: &Request<'_>, subprotocol: Option<String>) -> Self {
        Self {
            path: request.path().to_owned(),
            query: request.query().map(str::to_owned),
            origin: request.origin().map(str::to_owned),
            subprotocol,
        }
    }

    pub(crate) fn asked(opening: &Opening, subprotocol: Option<String>) -> Self {
        let (path, query) = match opening.target().split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (opening.target(), None),
        };
        Self {
            path: path.to_owned(),
            query: query.map(str::to_owned),
            origin: None,
            subprotocol,
        }
    }
}

/// WebSocket of one connection.
pub(crate) struct WebSocketLayer {
    pub(crate) end: WebSocketEnd,
    /// What is above.
    pub(crate) framing: Framing,
    /// The handshake is over.
    pub(crate) up: bool,
    /// A client's request was sent.
    pub(crate) asked: bool,
    pub(crate) info: WebSocketInfo,
    /// The client's key, while its handshake is under way.
    pub(crate) key: String,
    pub(crate) decoder: Decoder,
    /// Received and not decoded.
    pub(crate) input: LeasedBytes,
    /// The message whose parts are in the tail is text.
    pub(crate) text: bool,
    /// Our close frame is in the queue.
    pub(crate) said_end: bool,
    /// What it is to say.
    pub(crate) farewell: Option<(CloseCode, String)>,
    /// When control frames were last begun to be counted anew.
    pub(crate) counted_from: Time,
    /// A ping was sent after the last that arrived.
    pub(crate) pinged: bool,
    pub(crate) keys: Keys,
}

impl WebSocketLayer {
    pub(crate) fn new(end: WebSocketEnd, framing: Framing, limits: &Limits, secret: u64) -> Self {
        Self {
            framing,
            up: false,
            asked: false,
            info: WebSocketInfo::default(),
            key: String::new(),
            decoder: end.decoder(framing, limits),
            input: LeasedBytes::default(),
            text: false,
            said_end: false,
            farewell: None,
            counted_from: Time::ZERO,
            pinged: false,
            keys: Keys::new(secret),
            end,
        }
    }

    pub(crate) fn is_client(&self) -> bool {
        self.end.role() == Role::Client
    }
}

/// What a shard has for all its WebSockets.
pub(crate) struct ShardWebSocket {
    /// Memory for what was received and cannot be decoded yet.
    pub(crate) received: BufferPool,
    /// Payload on its way from there to the connection's tail.
    pub(crate) payload: Vec<u8>,
}

impl ShardWebSocket {
    pub(crate) fn new(free_bytes_max: usize) -> Self {
        Self {
            received: BufferPool::new(free_bytes_max),
            payload: Vec::new(),
        }
    }
}

/// Where masking keys and nonces come from. Nobody who sees some of them can tell the next one
/// (RFC 6455 §10.3): they are SipHash of a secret and a counter. The secret comes from the shard's
/// generator, which the system's randomness seeds unless the embedder does.
pub(crate) struct Keys {
    secret: u64,
    counter: u64,
    spare: Option<[u8; 4]>,
}

impl Keys {
    pub(crate) fn new(secret: u64) -> Self {
        Self {
            secret,
            counter: 0,
            spare: None,
        }
    }

    fn next_word(&mut self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.counter += 1;
        (self.secret, self.counter).hash(&mut hasher);
        hasher.finish()
    }

    /// The key of the next frame.
    pub(crate) fn mask(&mut self) -> [u8; 4] {
        if let Some(key) = self.spare.take() {
            return key;
        }
        let [a, b, c, d, e, f, g, h] = self.next_word().to_ne_bytes();
        self.spare = Some([e, f, g, h]);
        [a, b, c, d]
    }

    /// The nonce of a handshake.
    pub(crate) fn nonce(&mut self) -> [u8; 16] {
        let words = [self.next_word(), self.next_word()];
        let mut nonce = [0; 16];
        for (bytes, word) in nonce.chunks_exact_mut(8).zip(words) {
            bytes.copy_from_slice(&word.to_ne_bytes());
        }
        nonce
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_differ_from_frame_to_frame_and_between_connections() {
        let keys = |secret| {
            let mut keys = Keys::new(secret);
            let nonce = keys.nonce();
            (nonce, std::array::from_fn::<_, 64, _>(|_| keys.mask()))
        };
        let (one, other) = (keys(1), keys(2));
        assert_eq!(one, keys(1), "a simulation replays");
        assert_ne!(one.0, other.0);
        let distinct: std::collections::BTreeSet<_> = one.1.iter().chain(&other.1).collect();
        assert!(distinct.len() > 126, "{}", distinct.len());
    }
}

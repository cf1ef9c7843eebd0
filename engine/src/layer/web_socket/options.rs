//! What an embedder sets up: the WebSocket of a listener or a connector.

use std::sync::Arc;
use std::time::Duration;

use proscenium_framing::websocket::handshake::{
    HandshakeError, HandshakeLimits, Opening, Origins, Policy,
};

/// What both ends can set.
#[derive(Clone, Debug, Default)]
pub(crate) struct Common {
    pub(crate) handshake: HandshakeLimits,
    pub(crate) message_max: Option<usize>,
    pub(crate) fragments_max: Option<u32>,
    pub(crate) control_frames_max: Option<u32>,
    pub(crate) ping_after: Option<Duration>,
}

/// Setters that [`WebSocketServer`] and [`WebSocketClient`] share.
macro_rules! common_setters {
    () => {
        /// Takes messages of at most so many bytes; longer ones end the connection with code
        /// 1009. Default: with [`Framing::Raw`](crate::Framing) the
        /// [`frame_max`](crate::Limits) of the engine; with the others, whose packets that bounds
        /// and whose messages are only pieces of a stream, 16 times as much.
        #[must_use]
        pub fn message_max(mut self, bytes: usize) -> Self {
            Arc::make_mut(&mut self.inner).common.message_max = Some(bytes);
            self
        }

        /// Takes messages of at most so many frames; default 16,384.
        #[must_use]
        pub fn fragments_max(mut self, frames: u32) -> Self {
            Arc::make_mut(&mut self.inner).common.fragments_max = Some(frames);
            self
        }

        /// Takes at most so many pings and pongs between two data frames, and within a second;
        /// default 1,024.
        #[must_use]
        pub fn control_frames_max(mut self, frames: u32) -> Self {
            Arc::make_mut(&mut self.inner).common.control_frames_max = Some(frames);
            self
        }

        /// Sends a ping when nothing has arrived for so long, so that the pong keeps a quiet but
        /// living connection from the idle timeout, which has to be longer. Off by default; off
        /// without [`Limits::idle_timeout`](crate::Limits).
        #[must_use]
        pub fn ping_after(mut self, silence: Duration) -> Self {
            Arc::make_mut(&mut self.inner).common.ping_after = Some(silence);
            self
        }

        /// Limits of the opening handshake; default 8 KiB, 64 header lines.
        #[must_use]
        pub fn handshake_limits(mut self, limits: HandshakeLimits) -> Self {
            Arc::make_mut(&mut self.inner).common.handshake = limits;
            self
        }
    };
}

/// The accepting end of WebSocket connections: see [`Listener::web_socket`](crate::Listener).
///
/// ```
/// use proscenium_engine::{Listener, WebSocketServer};
///
/// let chat = WebSocketServer::new().path("/chat").subprotocol("chat.v1");
/// let listener = Listener::tcp("127.0.0.1:0")?.web_socket(&chat);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct WebSocketServer {
    pub(crate) inner: Arc<ServerOptions>,
}

#[derive(Clone, Debug)]
pub(crate) struct ServerOptions {
    pub(crate) policy: Policy,
    pub(crate) common: Common,
}

impl Default for WebSocketServer {
    fn default() -> Self {
        Self::new()
    }
}

impl WebSocketServer {
    /// Serves the path `/ws`, to pages of any origin.
    #[must_use]
    pub fn new() -> Self {
        Self::with(Policy::at("/ws"))
    }

    fn with(policy: Policy) -> Self {
        let common = Common::default();
        Self {
            inner: Arc::new(ServerOptions { policy, common }),
        }
    }

    /// Serves this path only; others are answered 404.
    #[must_use]
    pub fn path(mut self, path: impl Into<String>) -> Self {
        let inner = Arc::make_mut(&mut self.inner);
        inner.policy = std::mem::take(&mut inner.policy).with_path(Some(path.into()));
        self
    }

    /// Serves every path; [`Context::web_socket`](crate::Context::web_socket) tells which was
    /// asked for.
    #[must_use]
    pub fn any_path(mut self) -> Self {
        let inner = Arc::make_mut(&mut self.inner);
        inner.policy = std::mem::take(&mut inner.policy).with_path(None);
        self
    }

    /// Which pages may connect from a browser; others are answered 403. Default: all.
    #[must_use]
    pub fn origins(mut self, origins: Origins) -> Self {
        let inner = Arc::make_mut(&mut self.inner);
        inner.policy = std::mem::take(&mut inner.policy).origins(origins);
        self
    }

    /// Speaks this subprotocol too; of those that a client offers, the first one that is spoken is
    /// chosen. A client that offers none of them has none.
    #[must_use]
    pub fn subprotocol(mut self, name: impl Into<String>) -> Self {
        let inner = Arc::make_mut(&mut self.inner);
        inner.policy = std::mem::take(&mut inner.policy).subprotocol(name);
        self
    }

    common_setters!();
}

/// The connecting end of a WebSocket: see [`Connector::web_socket`](crate::Connector).
///
/// ```
/// use proscenium_engine::{Connector, WebSocketClient};
///
/// let socket = WebSocketClient::new("localhost:7000", "/ws?room=9")?;
/// let connector = Connector::parse("127.0.0.1:7000")?.web_socket(&socket);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct WebSocketClient {
    pub(crate) inner: Arc<ClientOptions>,
}

#[derive(Clone, Debug)]
pub(crate) struct ClientOptions {
    pub(crate) opening: Opening,
    pub(crate) common: Common,
}

impl WebSocketClient {
    /// Asks `host` (as in an address of the web: `example.com`, `[::1]:7000`) for `target`: a path,
    /// and perhaps a query.
    ///
    /// # Errors
    /// [`HandshakeError`] for text that cannot stand in a request.
    pub fn new(host: impl Into<String>, target: impl Into<String>) -> Result<Self, HandshakeError> {
        let opening = Opening::new(host, target)?;
        let common = Common::default();
        Ok(Self {
            inner: Arc::new(ClientOptions { opening, common }),
        })
    }

    /// Offers this subprotocol too, the one that is liked best first.
    ///
    /// # Errors
    /// [`HandshakeError`] for a name that is no token.
    pub fn subprotocol(mut self, name: impl Into<String>) -> Result<Self, HandshakeError> {
        let inner = Arc::make_mut(&mut self.inner);
        inner.opening = inner.opening.clone().subprotocol(name)?;
        Ok(self)
    }

    /// Sends this header too (`Authorization`, `Origin`).
    ///
    /// # Errors
    /// [`HandshakeError`] for text that cannot stand in a header, and for headers that the
    /// handshake writes itself.
    pub fn header(
        mut self,
        name: impl Into<String>,
        value: impl Into<String>,
    ) -> Result<Self, HandshakeError> {
        let inner = Arc::make_mut(&mut self.inner);
        inner.opening = inner.opening.clone().header(name, value)?;
        Ok(self)
    }

    common_setters!();
}

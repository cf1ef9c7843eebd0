//! How to listen and how to connect.

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use crate::Overflow;
use crate::driver::socket::take_passed_listener;
#[cfg(feature = "ws")]
use crate::layer::web_socket::WebSocketEnd;
use crate::layer::{LayerOptions, Layers};
use crate::random::Random;
use crate::wire::Wire;

/// Where to listen or connect: a TCP address or the path of a Unix socket.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Address {
    /// TCP over IPv4 or IPv6.
    Tcp(SocketAddr),
    /// A Unix stream socket.
    Unix(PathBuf),
}

impl Address {
    /// Parses `host:port`, `[v6]:port`, `unix:/path` or `/path`. Host names are resolved with the
    /// system's resolver (which blocks); the first address counts.
    ///
    /// # Errors
    /// Says what was expected, and the resolver's error if there is one.
    pub fn parse(text: &str) -> io::Result<Self> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Self::Unix(PathBuf::from(path)));
        }
        if text.starts_with('/') {
            return Ok(Self::Unix(PathBuf::from(text)));
        }
        let expected = "expected HOST:PORT or unix:/PATH";
        let mut found = text.to_socket_addrs().map_err(|error| {
            io::Error::new(error.kind(), format!("{text}: {expected}: {error}"))
        })?;
        let first = found.next().ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::NotFound,
                format!("{text}: {expected}: no address"),
            )
        })?;
        Ok(Self::Tcp(first))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

/// How bytes become messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Framing {
    /// `u32` big-endian body length, then the body.
    #[default]
    Be32,
    /// `u32` little-endian body length, then the body.
    Le32,
    /// No framing: a message is whatever one read brought; sends are written as they are.
    Raw,
}

/// How the connections of one listener are spread over the shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Balance {
    /// Every shard has a listening socket of its own (`SO_REUSEPORT`); the kernel spreads by a
    /// hash of the addresses. Nothing crosses threads. Not for Unix sockets or inherited
    /// descriptors, which use `RoundRobin`.
    #[default]
    ReusePort,
    /// Shard 0 accepts and deals the connections out in turn: exactly even.
    RoundRobin,
    /// The shard of this number accepts and keeps them all: for what lives on one shard, like the
    /// links of a node. An engine without such a shard does not start.
    Only(usize),
}

/// Socket options of a connection.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SocketOptions {
    /// `TCP_NODELAY`; default on, because the engine writes once per slice already.
    pub nodelay: bool,
    /// `SO_RCVBUF` in bytes; `None` leaves the kernel's auto-tuning, the default.
    pub receive_buffer: Option<usize>,
    /// `SO_SNDBUF` in bytes; `None` leaves the kernel's auto-tuning, the default.
    pub send_buffer: Option<usize>,
    /// TCP keep-alive: idle time before the first probe and time between probes. Off by default.
    pub keep_alive: Option<(Duration, Duration)>,
}

impl Default for SocketOptions {
    fn default() -> Self {
        Self {
            nodelay: true,
            receive_buffer: None,
            send_buffer: None,
            keep_alive: None,
        }
    }
}

/// What every connection of a listener or connector is given.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ConnectionOptions {
    /// How bytes become messages.
    pub framing: Framing,
    /// What happens when the send queue passes its high watermark.
    pub overflow: Overflow,
    /// Socket options.
    pub socket: SocketOptions,
    /// What lies between the socket and the framing.
    pub(crate) layers: LayerOptions,
}

impl ConnectionOptions {
    /// The layers of a new connection, `None` if there are none.
    pub(crate) fn make_layers(
        &self,
        limits: &crate::Limits,
        random: &mut Random,
    ) -> Option<Box<Layers>> {
        self.layers.make(self.framing, limits, random)
    }

    /// How bodies stand in the send queue of a connection.
    pub(crate) fn wire(&self) -> Wire {
        self.layers.wire(self.framing)
    }
}

#[derive(Debug)]
pub(crate) enum ListenSource {
    Bind(Address),
    Inherited(OwnedFd),
}

/// A listener to be: where, and with which options.
///
/// ```
/// use proscenium_engine::{Balance, Listener};
/// let listener = Listener::tcp("127.0.0.1:0").unwrap().balance(Balance::RoundRobin);
/// ```
#[derive(Debug)]
pub struct Listener {
    pub(crate) source: ListenSource,
    pub(crate) backlog: u32,
    pub(crate) balance: Balance,
    pub(crate) options: ConnectionOptions,
}

macro_rules! connection_setters {
    () => {
        /// Sets how bytes become messages; default [`Framing::Be32`].
        #[must_use]
        pub fn framing(mut self, framing: Framing) -> Self {
            self.options.framing = framing;
            self
        }

        /// Sets `TCP_NODELAY`; default on.
        #[must_use]
        pub fn nodelay(mut self, on: bool) -> Self {
            self.options.socket.nodelay = on;
            self
        }

        /// Sets the kernel's receive and send buffer of each connection, in bytes.
        #[must_use]
        pub fn socket_buffers(mut self, receive: Option<usize>, send: Option<usize>) -> Self {
            self.options.socket.receive_buffer = receive;
            self.options.socket.send_buffer = send;
            self
        }

        /// Turns TCP keep-alive on: idle time before the first probe, time between probes.
        #[must_use]
        pub fn keep_alive(mut self, idle: Duration, interval: Duration) -> Self {
            self.options.socket.keep_alive = Some((idle, interval));
            self
        }
    };
}

impl Listener {
    /// Listens at `address`.
    pub fn at(address: impl Into<Address>) -> Self {
        Self::from_source(ListenSource::Bind(address.into()))
    }

    /// Listens at the address that [`Address::parse`] reads.
    ///
    /// # Errors
    /// Those of [`Address::parse`].
    pub fn parse(text: &str) -> io::Result<Self> {
        Ok(Self::at(Address::parse(text)?))
    }

    /// Listens on TCP; port 0 takes a free one (see `Engine::local_addrs`).
    ///
    /// # Errors
    /// When the address does not resolve.
    pub fn tcp(address: impl ToSocketAddrs) -> io::Result<Self> {
        let first = address.to_socket_addrs()?.next();
        let first = first.ok_or_else(|| io::Error::other("the name resolves to no address"))?;
        Ok(Self::at(first))
    }

    /// Listens on a Unix socket. A stale socket file (one that refuses connections) is replaced;
    /// the file is removed on shutdown.
    pub fn unix(path: impl Into<PathBuf>) -> Self {
        Self::at(Address::Unix(path.into()))
    }

    /// Takes over a listening stream socket, TCP or Unix.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self::from_source(ListenSource::Inherited(fd))
    }

    /// Takes over the sockets that a service supervisor passed (`LISTEN_FDS`, `LISTEN_PID`; see
    /// `sd_listen_fds(3)`), in its order. Empty when there are none or they are meant for another
    /// process.
    ///
    /// # Errors
    /// When a descriptor that should be one of them is no listening stream socket, or was opened by
    /// this process itself or taken before (a passed one is not yet close-on-exec): names it.
    pub fn from_environment() -> io::Result<Vec<Self>> {
        let number = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
        if number("LISTEN_PID") != Some(std::process::id()) {
            return Ok(Vec::new());
        }
        let count = number("LISTEN_FDS").unwrap_or(0).min(1024) as i32;
        (3..3 + count)
            .map(|fd| match take_passed_listener(fd) {
                Ok(fd) => Ok(Self::from_fd(fd)),
                Err(error) => {
                    let text = format!("descriptor {fd} of LISTEN_FDS: {error}");
                    Err(io::Error::new(error.kind(), text))
                }
            })
            .collect()
    }

    fn from_source(source: ListenSource) -> Self {
        let options = ConnectionOptions::default();
        Self {
            source,
            backlog: 4096,
            balance: Balance::default(),
            options,
        }
    }

    /// Sets the length of the kernel's queue of connections that wait to be accepted; default
    /// 4,096 (the kernel cuts it at `net.core.somaxconn`).
    #[must_use]
    pub fn backlog(mut self, backlog: u32) -> Self {
        self.backlog = backlog;
        self
    }

    /// Sets what happens when the send queue of a connection passes its high watermark; default
    /// [`Overflow::PauseReading`].
    #[must_use]
    pub fn overflow(mut self, overflow: Overflow) -> Self {
        self.options.overflow = overflow;
        self
    }

    /// Speaks TLS on every connection. [`on_connect`](crate::Handler::on_connect) comes after the
    /// handshake, which has [`Limits::handshake_timeout`](crate::Limits).
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(mut self, tls: &crate::TlsServer) -> Self {
        let end = crate::layer::tls::TlsEnd::Server(tls.clone());
        self.options.layers.tls = Some(end);
        self
    }

    /// Speaks WebSocket on every connection: below the framing, above TLS if there is that too.
    /// With [`Framing::Raw`] a message of the handler is one message of the WebSocket; with the
    /// others the payload of the messages is a stream of packets, and each that is sent goes out
    /// as one binary message. [`on_connect`](crate::Handler::on_connect) comes after the
    /// handshake, which has [`Limits::handshake_timeout`](crate::Limits).
    #[cfg(feature = "ws")]
    #[must_use]
    pub fn web_socket(mut self, web_socket: &crate::WebSocketServer) -> Self {
        let end = WebSocketEnd::Server(web_socket.clone());
        self.options.layers.web_socket = Some(end);
        self
    }

    /// Sets how connections are spread over the shards.
    #[must_use]
    pub fn balance(mut self, balance: Balance) -> Self {
        self.balance = balance;
        self
    }

    connection_setters!();
}

/// Exponential back-off with jitter, for reconnecting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The first delay.
    pub first: Duration,
    /// The greatest delay.
    pub max: Duration,
}

impl Default for Backoff {
    /// From 100 ms to 30 s.
    fn default() -> Self {
        Self {
            first: Duration::from_millis(100),
            max: Duration::from_secs(30),
        }
    }
}

impl Backoff {
    /// The delay before attempt `attempt` (0 = the first retry): doubled each time up to `max`,
    /// then a random half to the whole of it, so that peers which lost the same server do not
    /// come back together. `random` is any uniformly distributed number.
    pub fn delay(&self, attempt: u32, random: u64) -> Duration {
        let doubled = self
            .first
            .saturating_mul(1u32.checked_shl(attempt).unwrap_or(u32::MAX));
        let whole = doubled.min(self.max);
        let half = whole / 2;
        let span = u64::try_from(half.as_nanos())
            .unwrap_or(u64::MAX)
            .saturating_add(1);
        half + Duration::from_nanos(random % span)
    }
}

/// How to make an outgoing connection.
///
/// ```
/// use std::time::Duration;
/// use proscenium_engine::{Backoff, Connector};
/// let connector = Connector::parse("127.0.0.1:7000").unwrap()
///     .deadline(Duration::from_secs(3))
///     .reconnect(Backoff::default());
/// ```
#[derive(Clone, Debug)]
pub struct Connector {
    pub(crate) address: Address,
    pub(crate) deadline: Duration,
    pub(crate) reconnect: Option<Backoff>,
    pub(crate) options: ConnectionOptions,
}

impl Connector {
    /// Connects to `address`, within 10 s, once.
    pub fn to(address: impl Into<Address>) -> Self {
        Self {
            address: address.into(),
            deadline: Duration::from_secs(10),
            reconnect: None,
            options: ConnectionOptions {
                overflow: Overflow::DropNewest,
                ..ConnectionOptions::default()
            },
        }
    }

    /// Connects to the address that [`Address::parse`] reads.
    ///
    /// # Errors
    /// Those of [`Address::parse`].
    pub fn parse(text: &str) -> io::Result<Self> {
        Ok(Self::to(Address::parse(text)?))
    }

    /// Sets how long the connection may take to be made; default 10 s.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Connects again, after a growing and jittered delay, when the attempt fails or the
    /// connection is lost (not when this side closed it). The back-off starts over once a
    /// connection has brought a message. Each connection made has a `RouterId` of its own.
    #[must_use]
    pub fn reconnect(mut self, backoff: Backoff) -> Self {
        self.reconnect = Some(backoff);
        self
    }

    /// Speaks TLS. [`on_connect`](crate::Handler::on_connect) comes after the handshake, for which
    /// the [`deadline`](Self::deadline) holds as well.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(mut self, tls: &crate::TlsClient) -> Self {
        let end = crate::layer::tls::TlsEnd::Client(tls.clone());
        self.options.layers.tls = Some(end);
        self
    }

    /// Speaks WebSocket, as [`Listener::web_socket`] says. The [`deadline`](Self::deadline) holds
    /// for the handshake as well.
    #[cfg(feature = "ws")]
    #[must_use]
    pub fn web_socket(mut self, web_socket: &crate::WebSocketClient) -> Self {
        let end = WebSocketEnd::Client(web_socket.clone());
        self.options.layers.web_socket = Some(end);
        self
    }

    /// Sets what happens when the send queue passes its high watermark; default
    /// [`Overflow::DropNewest`], unlike that of a [`Listener`]: a send that is too much is refused
    /// with `Full`, `on_drained` says when there is room, and reading goes on.
    ///
    /// `PauseReading` holds back a peer that asks more than it takes answers to. It is for one end
    /// of a connection: if both ends use it and both send without being asked, each can come to
    /// stop reading until the other reads, which is never, and no idle timeout ends it. Here it
    /// belongs to relays and the like that only send in answer to what they receive, to peers that
    /// always read.
    #[must_use]
    pub fn overflow(mut self, overflow: Overflow) -> Self {
        self.options.overflow = overflow;
        self
    }

    connection_setters!();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_parse_and_print() {
        assert_eq!(
            Address::parse("127.0.0.1:80").unwrap().to_string(),
            "127.0.0.1:80"
        );
        assert_eq!(Address::parse("[::1]:80").unwrap().to_string(), "[::1]:80");
        assert_eq!(
            Address::parse("unix:/run/x").unwrap().to_string(),
            "unix:/run/x"
        );
        assert_eq!(
            Address::parse("/run/x").unwrap(),
            Address::Unix("/run/x".into())
        );
        let error = Address::parse("nonsense").unwrap_err().to_string();
        assert!(error.contains("HOST:PORT"), "{error}");
    }

    #[test]
    fn backoff_grows_to_its_greatest_and_jitters_between_half_and_whole() {
        let backoff = Backoff {
            first: Duration::from_millis(100),
            max: Duration::from_secs(1),
        };
        for (attempt, whole) in [
            (0, 100),
            (1, 200),
            (2, 400),
            (3, 800),
            (4, 1000),
            (40, 1000),
        ] {
            let whole = Duration::from_millis(whole);
            for random in [0, 1, u64::MAX, 0x1234_5678_9abc_def0] {
                let delay = backoff.delay(attempt, random);
                assert!(
                    delay >= whole / 2 && delay <= whole,
                    "{attempt} {random} {delay:?}"
                );
            }
        }
    }
}

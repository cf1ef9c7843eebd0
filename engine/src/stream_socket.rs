//! [`StreamSocket`]: the engine as a queue to pull from, for programs that want no callbacks.

mod threads;

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use bytes::Bytes;

use self::threads::Threads;
use crate::body::{Body, Message};
use crate::context::Context;
use crate::engine::{Engine, EngineBuilder, Shard};
use crate::error::{CloseReason, ConnectError, SendError};
use crate::handle::Handle;
use crate::handler::{ConnectId, Handler, Peer, Run};
use crate::limits::Limits;
use crate::options::{Address, Connector, Listener};
use crate::router_id::RouterId;
use crate::shard::DrainReport;
use crate::stats::EngineStats;

/// What [`StreamSocket::recv`] brings, with the connection it concerns.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// A connection was accepted or made.
    Connected(Peer),
    /// A whole message arrived.
    Message(Body),
    /// The send queue that was full is below low water.
    Drained,
    /// The connection ended; its id is `Gone`.
    Disconnected(CloseReason),
    /// An outgoing connection was not made. The id beside it is [`RouterId::NONE`].
    ConnectFailed(FailedConnect),
}

/// An attempt of [`StreamSocket::connect`] that failed.
#[derive(Debug)]
#[non_exhaustive]
pub struct FailedConnect {
    /// What `connect` returned.
    pub connect: ConnectId,
    /// Why.
    pub error: ConnectError,
    /// After which delay it is tried again; `None`: it is not.
    pub retry: Option<Duration>,
}

/// A stream socket for any number of connections, accepted and outgoing: `recv` yields
/// `(RouterId, Event)`, `send` takes `(RouterId, body)`.
///
/// With one shard (the default) there is no thread and no queue to cross: `recv` runs the shard's
/// turn on the caller's thread, messages are leases on its receive memory, and what was sent is
/// written by the next `recv` or by [`flush`](Self::flush). With more shards, they run on threads
/// of their own and messages are copied once into a bounded queue; when that is full, the shards
/// stop reading until it is half empty.
///
/// The socket stays on the thread that made it; [`handle`](Self::handle) sends from others.
///
/// ```
/// use proscenium_engine::{Address, Event, StreamSocket};
/// use std::io::{Read, Write};
///
/// let mut socket = StreamSocket::bind("127.0.0.1:0")?;
/// let Address::Tcp(address) = socket.local_addrs()[0].clone() else { unreachable!() };
/// let mut client = std::net::TcpStream::connect(address)?;
/// client.write_all(b"\0\0\0\x05hello")?;
/// loop {
///     let (from, event) = socket.recv()?;
///     if let Event::Message(body) = event {
///         socket.send(from, &body).unwrap();
///         break;
///     }
/// }
/// socket.flush();
/// let mut back = [0; 9];
/// client.read_exact(&mut back)?;
/// assert_eq!(&back, b"\0\0\0\x05hello");
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct StreamSocket {
    mode: Mode,
}

enum Mode {
    Inline(Box<Shard<Inline>>),
    Threads(Threads),
}

/// Prepares a [`StreamSocket`].
#[derive(Debug)]
#[must_use]
pub struct StreamSocketBuilder {
    engine: EngineBuilder,
    shards: usize,
    receive_max: usize,
}

impl StreamSocketBuilder {
    /// Adds a listener.
    pub fn listen(mut self, listener: Listener) -> Self {
        self.engine = self.engine.listen(listener);
        self
    }

    /// Sets the limits of each shard.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.engine = self.engine.limits(limits);
        self
    }

    /// Sets the number of shards; default 1, which runs on the caller's thread.
    pub fn shards(mut self, shards: usize) -> Self {
        self.shards = shards;
        self
    }

    /// Binds the shards' threads to CPUs; without effect with one shard.
    pub fn pin_cpus(mut self, cpus: &[usize]) -> Self {
        self.engine = self.engine.pin_cpus(cpus);
        self
    }

    /// Sets how many events may wait to be received with more than one shard; default 65,536.
    pub fn receive_max(mut self, events: usize) -> Self {
        self.receive_max = events.max(1);
        self
    }

    /// Binds the listeners and opens the socket.
    ///
    /// # Errors
    /// Those of [`EngineBuilder::start`].
    pub fn open(self) -> io::Result<StreamSocket> {
        if self.shards == 1 {
            let shard = self.engine.host(Inline::default())?;
            return Ok(StreamSocket {
                mode: Mode::Inline(Box::new(shard)),
            });
        }
        let engine = self.engine.shards(self.shards);
        Ok(StreamSocket {
            mode: Mode::Threads(Threads::start(engine, self.receive_max)?),
        })
    }
}

impl StreamSocket {
    /// Begins to prepare a socket.
    pub fn builder() -> StreamSocketBuilder {
        let receive_max = 64 * 1024;
        StreamSocketBuilder {
            engine: Engine::builder(),
            shards: 1,
            receive_max,
        }
    }

    /// Listens at the address that [`Address::parse`] reads, with one shard and all defaults.
    ///
    /// # Errors
    /// When the address does not resolve or cannot be bound.
    pub fn bind(address: &str) -> io::Result<Self> {
        Self::builder().listen(Listener::parse(address)?).open()
    }

    /// Where the listeners listen, with real ports.
    pub fn local_addrs(&self) -> &[Address] {
        match &self.mode {
            Mode::Inline(shard) => shard.local_addrs(),
            Mode::Threads(threads) => threads.local_addrs(),
        }
    }

    /// The next event; waits for it. An error of kind `BrokenPipe` says that the socket was shut
    /// down.
    ///
    /// # Errors
    /// `BrokenPipe`, or whatever makes epoll itself fail.
    pub fn recv(&mut self) -> io::Result<(RouterId, Event)> {
        loop {
            if let Some(event) = self.receive(Duration::MAX)? {
                return Ok(event);
            }
        }
    }

    /// The next event, or `None` after `timeout`.
    ///
    /// # Errors
    /// Those of [`recv`](Self::recv).
    pub fn recv_timeout(&mut self, timeout: Duration) -> io::Result<Option<(RouterId, Event)>> {
        let Some(deadline) = Instant::now().checked_add(timeout) else {
            return self.recv().map(Some);
        };
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let event = self.receive(left)?;
            if event.is_some() || left.is_zero() {
                return Ok(event);
            }
        }
    }

    /// The next event if there is one now.
    ///
    /// # Errors
    /// Those of [`recv`](Self::recv).
    pub fn try_recv(&mut self) -> io::Result<Option<(RouterId, Event)>> {
        self.receive(Duration::ZERO)
    }

    fn receive(&mut self, wait: Duration) -> io::Result<Option<(RouterId, Event)>> {
        match &mut self.mode {
            Mode::Inline(shard) => {
                if let Some(event) = next_inline(shard) {
                    return Ok(Some(event));
                }
                if shard.stopped().is_some() {
                    return Err(io::Error::from(io::ErrorKind::BrokenPipe));
                }
                shard.turn_without_parking(wait)?;
                Ok(next_inline(shard))
            }
            Mode::Threads(threads) => threads.receive(wait),
        }
    }

    /// Sends one message. With one shard it is queued and written by the next `recv` or
    /// [`flush`](Self::flush); with more it goes through the mailbox of the connection's shard.
    ///
    /// # Errors
    /// See [`SendError`].
    #[inline]
    pub fn send(&mut self, to: RouterId, body: &[u8]) -> Result<(), SendError> {
        match &mut self.mode {
            Mode::Inline(shard) => shard.send(to, body),
            Mode::Threads(threads) => threads.handle().send(to, Bytes::copy_from_slice(body)),
        }
    }

    /// Sends one shared message; with one shard, long bodies are not copied.
    ///
    /// # Errors
    /// See [`SendError`].
    pub fn send_shared(&mut self, to: RouterId, body: &Bytes) -> Result<(), SendError> {
        match &mut self.mode {
            Mode::Inline(shard) => shard.with(|_, cx| cx.send_shared(to, body)),
            Mode::Threads(threads) => threads.handle().send(to, body.clone()),
        }
    }

    /// Writes what was sent, as far as the sockets take it; the rest is written by `recv`. With
    /// more than one shard there is nothing to do: they write on their own.
    pub fn flush(&mut self) {
        match &mut self.mode {
            Mode::Inline(shard) => shard.flush(),
            Mode::Threads(_) => {}
        }
    }

    /// Makes an outgoing connection. [`Event::Connected`] follows, with the returned name in the
    /// origin of its peer, or [`Event::ConnectFailed`]. With more than one shard, failures after
    /// which it is tried again are not told while the receive queue is full.
    ///
    /// # Errors
    /// `Full` if the shard's mailbox is full (more than one shard).
    pub fn connect(&mut self, connector: &Connector) -> Result<ConnectId, SendError> {
        match &mut self.mode {
            Mode::Inline(shard) => Ok(shard.with(|_, cx| cx.connect(connector))),
            Mode::Threads(threads) => threads.connect(connector),
        }
    }

    /// Closes a connection gracefully; [`Event::Disconnected`] follows.
    pub fn close(&mut self, id: RouterId) {
        match &mut self.mode {
            Mode::Inline(shard) => shard.with(|_, cx| cx.close(id)),
            Mode::Threads(threads) => threads.close(id),
        }
    }

    /// A handle for other threads.
    pub fn handle(&self) -> Handle<()> {
        match &self.mode {
            Mode::Inline(shard) => shard.handle(),
            Mode::Threads(threads) => threads.handle().clone(),
        }
    }

    /// The statistics of the shards.
    pub fn stats(&self) -> EngineStats {
        self.handle().stats()
    }

    /// Shuts down within `deadline`: queues are flushed, connections closed. Events that were not
    /// received are dropped.
    ///
    /// # Errors
    /// Only when epoll itself fails.
    pub fn shutdown(self, deadline: Duration) -> io::Result<DrainReport> {
        match self.mode {
            Mode::Inline(mut shard) => {
                shard.handle().shutdown(deadline);
                loop {
                    shard.turn_without_parking(Duration::MAX)?;
                    shard.handler().events.clear();
                    if let Some(report) = shard.stopped() {
                        return Ok(report.clone());
                    }
                }
            }
            Mode::Threads(threads) => Ok(threads.shutdown(deadline)),
        }
    }
}

impl fmt::Debug for StreamSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamSocket")
            .field("local_addrs", &self.local_addrs())
            .finish()
    }
}

/// The next event of the shard on the caller's thread.
fn next_inline(shard: &mut Shard<Inline>) -> Option<(RouterId, Event)> {
    loop {
        let (id, event) = shard.handler().events.pop_front()?;
        match event {
            Some(event) => return Some((id, event)),
            None => shard.with(|_, cx| cx.close(id)),
        }
    }
}

/// The handler of the one shard on the caller's thread. Holds at most what one slice brought.
#[derive(Default)]
struct Inline {
    /// `None`: the peer finished sending, see [`Crossing::Finished`].
    events: VecDeque<(RouterId, Option<Event>)>,
}

impl Handler for Inline {
    type Post = ();

    fn on_connect(&mut self, _: &mut Context<'_, ()>, id: RouterId, peer: &Peer) {
        self.events.push_back((id, Some(Event::Connected(*peer))));
    }

    fn on_message(&mut self, _: &mut Context<'_, ()>, from: RouterId, message: Message<'_>) {
        let event = Event::Message(message.lease());
        self.events.push_back((from, Some(event)));
    }

    fn on_drained(&mut self, _: &mut Context<'_, ()>, id: RouterId) {
        self.events.push_back((id, Some(Event::Drained)));
    }

    fn on_read_closed(&mut self, _: &mut Context<'_, ()>, id: RouterId) {
        self.events.push_back((id, None));
    }

    fn on_disconnect(&mut self, _: &mut Context<'_, ()>, id: RouterId, reason: &CloseReason) {
        let event = Event::Disconnected(reason.duplicate());
        self.events.push_back((id, Some(event)));
    }

    fn on_connect_failed(
        &mut self,
        _: &mut Context<'_, ()>,
        connect: ConnectId,
        error: &ConnectError,
        retry: Option<Duration>,
    ) {
        let event = Event::ConnectFailed(FailedConnect {
            connect,
            error: error.duplicate(),
            retry,
        });
        self.events.push_back((RouterId::NONE, Some(event)));
    }

    fn run(&mut self, _: &mut Context<'_, ()>) -> Run {
        if self.events.is_empty() {
            Run::Idle
        } else {
            Run::Leave
        }
    }
}

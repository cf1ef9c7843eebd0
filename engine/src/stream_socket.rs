//! [`StreamSocket`]: the engine as a queue to pull from, for programs that want no callbacks.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::thread::Thread;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::body::{Body, Message};
use crate::context::Context;
use crate::engine::{Engine, EngineBuilder, Shard};
use crate::error::{CloseReason, ConnectError, SendError};
use crate::handle::Handle;
use crate::handler::{ConnectId, Handler, Peer, Run};
use crate::limits::Limits;
use crate::mailbox::{Consumer, Mailbox, PushError, ShardWaker, Wake};
use crate::options::{Address, Connector, Listener};
use crate::router_id::RouterId;
use crate::shard::DrainReport;
use crate::stats::EngineStats;

/// How long a close waits for room in a mailbox before it looks whether the engine still runs.
const CLOSE_PATIENCE: Duration = Duration::from_millis(100);

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
        let wake = Box::new(Unpark(std::thread::current()));
        let (queue, receiver) = Mailbox::new(self.receive_max, wake);
        let starved = Arc::new(AtomicBool::new(false));
        let shards = {
            let (queue, starved) = (Arc::clone(&queue), Arc::clone(&starved));
            self.engine.shards(self.shards).start(move |_| Remote {
                queue: Arc::clone(&queue),
                starved: Arc::clone(&starved),
                late: VecDeque::new(),
                paused: Vec::new(),
            })?
        };
        let handle = shards.handle();
        let wakers = (0..handle.shards())
            .filter_map(|shard| handle.waker(shard, 0))
            .collect();
        let next_shard = 0;
        let threads = Threads {
            engine: shards,
            handle,
            receiver,
            starved,
            wakers,
            next_shard,
        };
        Ok(StreamSocket {
            mode: Mode::Threads(threads),
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
            Mode::Threads(threads) => threads.engine.local_addrs(),
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
            Mode::Threads(threads) => threads.handle.send(to, Bytes::copy_from_slice(body)),
        }
    }

    /// Sends one shared message; with one shard, long bodies are not copied.
    ///
    /// # Errors
    /// See [`SendError`].
    pub fn send_shared(&mut self, to: RouterId, body: &Bytes) -> Result<(), SendError> {
        match &mut self.mode {
            Mode::Inline(shard) => shard.with(|_, cx| cx.send_shared(to, body)),
            Mode::Threads(threads) => threads.handle.send(to, body.clone()),
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

    /// Makes an outgoing connection; [`Event::Connected`] follows. If it cannot be made (and
    /// `connector` does not try again), nothing follows: see `connect_failed` in
    /// [`stats`](Self::stats), or use a [`Handler`].
    ///
    /// # Errors
    /// `Full` if the shard's mailbox is full (more than one shard).
    pub fn connect(&mut self, connector: &Connector) -> Result<(), SendError> {
        match &mut self.mode {
            Mode::Inline(shard) => {
                shard.with(|_, cx| cx.connect(connector));
                Ok(())
            }
            Mode::Threads(threads) => {
                let shard = threads.next_shard % threads.handle.shards();
                threads.next_shard = shard + 1;
                threads.handle.connect(shard, connector.clone())
            }
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
            Mode::Threads(threads) => threads.handle.clone(),
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
            Mode::Threads(threads) => {
                let Threads {
                    engine, receiver, ..
                } = threads;
                drop(receiver);
                Ok(engine.shutdown(deadline))
            }
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
        tracing::warn!(?connect, %error, ?retry, "an outgoing connection was not made");
    }

    fn run(&mut self, _: &mut Context<'_, ()>) -> Run {
        if self.events.is_empty() {
            Run::Idle
        } else {
            Run::Leave
        }
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(&self) {
        self.0.unpark();
    }
}

/// What crosses from the shards' threads; an [`Event`] whose body is its own.
enum Crossing {
    Connected(Peer),
    Message(Bytes),
    Drained,
    /// The peer finished sending: to be closed once everything before has been received, so that
    /// it can still be answered.
    Finished,
    Disconnected(CloseReason),
}

struct Threads {
    engine: Engine<()>,
    handle: Handle<()>,
    receiver: Consumer<(RouterId, Crossing)>,
    /// Some shard found the queue full and waits to be woken.
    starved: Arc<AtomicBool>,
    wakers: Vec<ShardWaker>,
    next_shard: usize,
}

impl Threads {
    fn receive(&mut self, wait: Duration) -> io::Result<Option<(RouterId, Event)>> {
        if let Some(event) = self.next_event() {
            return Ok(Some(event));
        }
        if wait.is_zero() {
            return Ok(None);
        }
        if self.engine.is_finished() {
            // What the shards pushed last is there by now.
            let last = self.next_event();
            return match last {
                Some(event) => Ok(Some(event)),
                None => Err(io::Error::from(io::ErrorKind::BrokenPipe)),
            };
        }
        // Pairs with the fence in `Remote::push`: either we see the flag, or the shard sees that
        // the queue is empty.
        fence(Ordering::SeqCst);
        self.feed_starved();
        if self.receiver.prepare_sleep() {
            // Bounded, to notice an engine that was shut down by a handle.
            std::thread::park_timeout(wait.min(Duration::from_millis(100)));
            self.receiver.awake();
        }
        Ok(self.next_event())
    }

    fn next_event(&mut self) -> Option<(RouterId, Event)> {
        loop {
            let (id, crossing) = self.pop()?;
            let event = match crossing {
                Crossing::Connected(peer) => Event::Connected(peer),
                Crossing::Message(body) => Event::Message(Body::from(body)),
                Crossing::Drained => Event::Drained,
                Crossing::Disconnected(reason) => Event::Disconnected(reason),
                Crossing::Finished => {
                    self.close(id);
                    continue;
                }
            };
            return Some((id, event));
        }
    }

    /// Behind everything sent so far. Shards never wait for us, so the room comes.
    fn close(&self, id: RouterId) {
        while let Err(SendError::Full) = self.handle.close_timeout(id, CLOSE_PATIENCE) {
            if self.engine.is_finished() {
                return;
            }
        }
    }

    fn pop(&mut self) -> Option<(RouterId, Crossing)> {
        let popped = self.receiver.pop();
        self.feed_starved();
        popped
    }

    /// Wakes the shards that found the queue full, once it is half empty.
    fn feed_starved(&self) {
        let mailbox = self.receiver.mailbox();
        if self.starved.load(Ordering::Relaxed)
            && mailbox.len() <= mailbox.capacity() / 2
            && self.starved.swap(false, Ordering::AcqRel)
        {
            for waker in &self.wakers {
                waker.wake();
            }
        }
    }
}

/// The handler of a shard on its own thread.
struct Remote {
    queue: Arc<Mailbox<(RouterId, Crossing)>>,
    starved: Arc<AtomicBool>,
    /// Events that found the queue full, in order. Bounded: their connections are paused.
    late: VecDeque<(RouterId, Crossing)>,
    paused: Vec<RouterId>,
}

impl Remote {
    fn push(&mut self, cx: &mut Context<'_, ()>, id: RouterId, crossing: Crossing) {
        if self.late.is_empty() {
            match self.queue.try_push((id, crossing)) {
                Err(PushError::Full(item)) => self.late.push_back(item),
                _ => return,
            }
        } else {
            self.late.push_back((id, crossing));
        }
        if cx.pause_reading(id) {
            self.paused.push(id);
        }
        self.starved.store(true, Ordering::Release);
        // Pairs with the fence in `Threads::receive`: the receiver may have emptied the queue
        // before it could see the flag.
        fence(Ordering::SeqCst);
        if self.queue.is_empty() {
            self.catch_up(cx);
        }
    }

    fn catch_up(&mut self, cx: &mut Context<'_, ()>) {
        while let Some(item) = self.late.pop_front() {
            if let Err(PushError::Full(item)) = self.queue.try_push(item) {
                self.late.push_front(item);
                self.starved.store(true, Ordering::Release);
                return;
            }
        }
        for id in self.paused.drain(..) {
            cx.resume_reading(id);
        }
    }
}

impl Handler for Remote {
    type Post = ();

    fn on_connect(&mut self, cx: &mut Context<'_, ()>, id: RouterId, peer: &Peer) {
        self.push(cx, id, Crossing::Connected(*peer));
    }

    fn on_message(&mut self, cx: &mut Context<'_, ()>, from: RouterId, message: Message<'_>) {
        self.push(
            cx,
            from,
            Crossing::Message(Bytes::copy_from_slice(&message)),
        );
    }

    fn on_drained(&mut self, cx: &mut Context<'_, ()>, id: RouterId) {
        self.push(cx, id, Crossing::Drained);
    }

    fn on_read_closed(&mut self, cx: &mut Context<'_, ()>, id: RouterId) {
        self.push(cx, id, Crossing::Finished);
    }

    fn on_disconnect(&mut self, cx: &mut Context<'_, ()>, id: RouterId, reason: &CloseReason) {
        self.push(cx, id, Crossing::Disconnected(reason.duplicate()));
    }

    fn on_wake(&mut self, cx: &mut Context<'_, ()>, _: u64) {
        self.catch_up(cx);
    }

    /// A shard that waits for the receiver looks again each turn, should a wake have crossed with
    /// its own look.
    fn run(&mut self, cx: &mut Context<'_, ()>) -> Run {
        if !self.late.is_empty() && self.queue.len() <= self.queue.capacity() / 2 {
            self.catch_up(cx);
        }
        Run::Idle
    }
}

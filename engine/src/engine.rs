//! [`Engine`]: shards on threads of their own; [`Shard`]: one shard in the host's loop.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::bound::{Bound, UnixPaths};
use crate::context::Context;
use crate::driver::epoll::EpollDriver;
use crate::driver::{Driver, RawSocket, socket};
use crate::error::SendError;
use crate::handle::{Handle, Shared};
use crate::handler::Handler;
use crate::limits::Limits;
use crate::mailbox::{Consumer, Mailbox};
use crate::options::{Address, Listener};
use crate::router_id::RouterId;
use crate::shard::envelope::Envelope;
use crate::shard::{DrainReport, Listening, Shard as ShardOn};
use crate::time::Time;
use crate::watchdog::{Stall, StallHook, Watchdog};

/// What [`Engine`]'s `Drop` gives the shards to end in good order.
const DROP_DEADLINE: Duration = Duration::from_secs(5);

/// Prepares an engine: how many shards, where to listen, which limits.
///
/// ```
/// use proscenium_engine::{Context, Engine, Handler, Listener, Message, RouterId};
/// use std::time::Duration;
///
/// struct Echo;
/// impl Handler for Echo {
///     type Post = ();
///     fn on_message(&mut self, cx: &mut Context<'_, ()>, from: RouterId, message: Message<'_>) {
///         let _ = cx.send(from, &message);
///     }
/// }
///
/// let engine = Engine::builder()
///     .listen(Listener::tcp("127.0.0.1:0")?)
///     .start(|_shard| Echo)?;
/// println!("listening on {}", engine.local_addrs()[0]);
/// let report = engine.shutdown(Duration::from_secs(1));
/// assert!(report.is_clean());
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
#[must_use]
pub struct EngineBuilder {
    pub(crate) shards: usize,
    pub(crate) limits: Limits,
    pub(crate) listeners: Vec<Listener>,
    cpus: Vec<usize>,
    name: String,
    pub(crate) seed: Option<u64>,
    stall: Duration,
    on_stall: Option<StallHook>,
}

impl EngineBuilder {
    fn new() -> Self {
        Self {
            shards: 1,
            limits: Limits::default(),
            listeners: Vec::new(),
            cpus: Vec::new(),
            name: "proscenium".to_owned(),
            seed: None,
            stall: Duration::from_millis(500),
            on_stall: None,
        }
    }

    /// Sets the number of shards, one thread each; default 1, at most 256.
    pub fn shards(mut self, shards: usize) -> Self {
        self.shards = shards;
        self
    }

    /// Sets the limits of each shard.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// How many listeners were added so far: the number that the next one gets.
    pub fn listeners(&self) -> usize {
        self.listeners.len()
    }

    /// Adds a listener; its number in [`Origin`](crate::Origin) and
    /// [`Engine::local_addrs`] is the number of those added before.
    pub fn listen(mut self, listener: Listener) -> Self {
        self.listeners.push(listener);
        self
    }

    /// Binds shard `n` to the CPU `cpus[n % cpus.len()]`; empty = no binding, the default.
    pub fn pin_cpus(mut self, cpus: &[usize]) -> Self {
        self.cpus = cpus.to_vec();
        self
    }

    /// Sets the name of the shards' threads (`NAME-0`, `NAME-1`, …); default `proscenium`.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Sets after which time in one slice of events a shard counts as stalled: mostly a handler
    /// that blocks. A watchdog thread logs it (target `proscenium_engine::watchdog`) with the
    /// shard and the connection, and counts it in [`ShardStats::stalls`](crate::ShardStats).
    /// Default 500 ms; zero = no watchdog. Hosted shards have none.
    pub fn stall_after(mut self, threshold: Duration) -> Self {
        self.stall = threshold;
        self
    }

    /// Has `call` called beside the log line, once per stall and while it lasts: for what knows
    /// more of what runs on a shard than the engine does. It runs on the watchdog's thread, which
    /// looks at no shard meanwhile and which the engine's end waits for: it must not block. The
    /// last call of this counts.
    pub fn on_stall(mut self, call: impl Fn(&Stall) + Send + Sync + 'static) -> Self {
        self.on_stall = Some(StallHook::new(call));
        self
    }

    /// Seeds the generators of the shards ([`Context::random`]); default: from the clock.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Binds the listeners and starts the shards, each on its own thread. `make` is called once
    /// on each of these threads, with the shard's number, and makes its handler.
    ///
    /// # Errors
    /// Contradicting limits, addresses that cannot be bound, no more descriptors or threads. Then
    /// no shard is left running.
    pub fn start<H, F>(self, make: F) -> io::Result<Engine<H::Post>>
    where
        H: Handler,
        F: Fn(usize) -> H + Send + Sync + 'static,
    {
        self.start_by(make, |name, body| {
            std::thread::Builder::new().name(name).spawn(body)
        })
    }

    /// [`start`](Self::start) with a `spawn` that tests can let fail.
    fn start_by<H, F>(
        mut self,
        make: F,
        spawn: impl Fn(String, ShardThread) -> io::Result<JoinHandle<DrainReport>>,
    ) -> io::Result<Engine<H::Post>>
    where
        H: Handler,
        F: Fn(usize) -> H + Send + Sync + 'static,
    {
        let Prepared {
            shared,
            parts,
            addresses,
            listening,
            unix_paths,
            epoch,
        } = self.prepare()?;
        let watchdog = Watchdog::start(&shared, epoch, self.stall, self.on_stall.take())?;
        let make = Arc::new(make);
        let seed = self.base_seed();
        let mut engine = Engine {
            handle: Handle::new(&shared),
            addresses,
            threads: Vec::new(),
            unix_paths,
            watchdog,
        };
        for (number, (driver, mailbox)) in parts.into_iter().enumerate() {
            let (shared, make) = (Arc::clone(&shared), Arc::clone(&make));
            let listening = listening.clone();
            let cpu = self.cpus.get(number % self.cpus.len().max(1)).copied();
            let body = move || {
                if let Some(cpu) = cpu
                    && let Err(error) = socket::pin_thread(cpu)
                {
                    tracing::warn!(%error, cpu, "cannot bind the shard's thread to its CPU");
                }
                let _guard = PanicGuard(Arc::clone(&shared));
                let handler = make(number);
                let shard =
                    ShardOn::new(number, driver, handler, mailbox, &shared, listening, seed);
                run(shard)
            };
            match spawn(format!("{}-{number}", self.name), Box::new(body)) {
                Ok(thread) => engine.threads.push(thread),
                Err(error) => {
                    // Those that run wait for the others to end; dropping the engine for them.
                    (number..self.shards).for_each(|_| engine.handle.begin_ending());
                    return Err(error);
                }
            }
        }
        Ok(engine)
    }

    /// Binds the listeners and makes one shard that the caller drives in a loop of its own.
    ///
    /// # Errors
    /// Those of [`start`](Self::start), and more than one shard.
    pub fn host<H: Handler>(mut self, handler: H) -> io::Result<Shard<H>> {
        if self.shards != 1 {
            let message = format!("a hosted engine has 1 shard, not {}", self.shards);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let prepared = self.prepare()?;
        let Prepared {
            shared,
            parts,
            addresses,
            listening,
            unix_paths,
            epoch: _,
        } = prepared;
        let Some((driver, mailbox)) = parts.into_iter().next() else {
            unreachable!("one shard was asked for");
        };
        let seed = self.base_seed();
        let inner = ShardOn::new(0, driver, handler, mailbox, &shared, listening, seed);
        Ok(Shard {
            inner,
            addresses,
            unix_paths,
        })
    }

    fn base_seed(&self) -> u64 {
        self.seed.unwrap_or_else(|| {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            now.map_or(0, |now| now.as_nanos() as u64) ^ u64::from(std::process::id()) << 32
        })
    }

    fn prepare<P>(&mut self) -> io::Result<Prepared<P>> {
        let invalid = |message| io::Error::new(io::ErrorKind::InvalidInput, message);
        self.limits.validate().map_err(invalid)?;
        if self.shards == 0 || self.shards > RouterId::SHARDS_MAX {
            let most = RouterId::SHARDS_MAX;
            return Err(invalid(format!(
                "an engine has 1 to {most} shards, not {}",
                self.shards
            )));
        }
        let epoch = Instant::now();
        let mut drivers = Vec::new();
        let (mut mailboxes, mut consumers) = (Vec::new(), Vec::new());
        for _ in 0..self.shards {
            let driver = EpollDriver::new(epoch)?;
            let (mailbox, consumer) = Mailbox::new(self.limits.mailbox_max, driver.waker()?);
            drivers.push(driver);
            mailboxes.push(mailbox);
            consumers.push(consumer);
        }
        let mut addresses = Vec::new();
        let mut listening = Vec::new();
        let mut unix_paths = UnixPaths::default();
        for (number, listener) in self.listeners.drain(..).enumerate() {
            let bound = Bound::new(listener, self.shards)?;
            if let Some(path) = bound.unix_path {
                unix_paths.push(path);
            }
            let accepting = drivers.iter_mut().skip(bound.first_shard);
            for (driver, socket) in accepting.zip(bound.sockets) {
                driver.listen(number as u32, RawSocket::Fd(socket))?;
            }
            addresses.push(bound.address);
            listening.push(bound.listening);
        }
        let shared = Shared::new(mailboxes, self.limits.clone());
        let parts = drivers.into_iter().zip(consumers).collect();
        Ok(Prepared {
            epoch,
            shared: Arc::new(shared),
            parts,
            addresses,
            listening,
            unix_paths,
        })
    }
}

/// What a shard's thread does.
type ShardThread = Box<dyn FnOnce() -> DrainReport + Send>;

/// Everything that the shards of an engine need to begin.
struct Prepared<P> {
    /// The zero of all shards' clocks.
    epoch: Instant,
    shared: Arc<Shared<P>>,
    parts: Vec<(EpollDriver, Consumer<Envelope<P>>)>,
    addresses: Vec<Address>,
    listening: Vec<Listening>,
    unix_paths: UnixPaths,
}

/// When a handler panics, its shard is gone: the others are shut down rather than left with a hole.
/// [`Engine::join`] passes the panic on.
struct PanicGuard<P>(Arc<Shared<P>>);

impl<P> Drop for PanicGuard<P> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.begin_ending();
            self.0.shutdown(DROP_DEADLINE);
        }
    }
}

/// The loop of a shard's thread.
fn run<H: Handler>(mut shard: ShardOn<EpollDriver, H>) -> DrainReport {
    loop {
        if let Err(error) = shard.turn(Duration::MAX) {
            // Only a broken invariant of ours gets here: the epoll descriptor itself failed.
            tracing::error!(%error, "the shard's driver failed; the engine ends");
            let report = shard.fail(error);
            // As after a panic: rather no engine than one with a hole.
            shard.handle().shutdown(DROP_DEADLINE);
            return report;
        }
        if let Some(report) = shard.stopped() {
            return report.clone();
        }
    }
}

/// A running engine: its shards on their threads. Dropping it shuts it down, waiting up to five
/// seconds for queues to be written.
#[must_use = "dropping an engine shuts it down"]
pub struct Engine<P: Send + 'static> {
    handle: Handle<P>,
    addresses: Vec<Address>,
    threads: Vec<JoinHandle<DrainReport>>,
    unix_paths: UnixPaths,
    #[expect(dead_code, reason = "ends with the engine")]
    watchdog: Option<Watchdog>,
}

impl Engine<()> {
    /// Begins to prepare an engine.
    pub fn builder() -> EngineBuilder {
        EngineBuilder::new()
    }
}

impl<P: Send + 'static> Engine<P> {
    /// Where the listeners listen, in the order in which they were added, with real ports.
    pub fn local_addrs(&self) -> &[Address] {
        &self.addresses
    }

    /// A handle for other threads.
    pub fn handle(&self) -> Handle<P> {
        self.handle.clone()
    }

    /// True if every shard has ended.
    pub fn is_finished(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// Shuts down: no further connections, handlers finish, queues are flushed, connections
    /// closed, all within `deadline`; waits for it and reports what was lost.
    ///
    /// # Panics
    /// If a handler panicked.
    pub fn shutdown(self, deadline: Duration) -> DrainReport {
        self.handle.shutdown(deadline);
        self.join()
    }

    /// Waits until the engine was shut down by a [`Handle`] or a handler, or because the driver of
    /// a shard failed (see [`DrainReport::shards_failed`]).
    ///
    /// # Panics
    /// If a handler panicked.
    pub fn join(mut self) -> DrainReport {
        let mut report = DrainReport::default();
        for thread in self.threads.drain(..) {
            match thread.join() {
                Ok(one) => report.add(&one),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        drop(std::mem::take(&mut self.unix_paths));
        report
    }
}

impl<P: Send + 'static> Drop for Engine<P> {
    fn drop(&mut self) {
        if !self.threads.is_empty() {
            self.handle.shutdown(DROP_DEADLINE);
        }
        for thread in self.threads.drain(..) {
            // A panic of a handler was reported by the panic hook; here it cannot be passed on.
            let _ = thread.join();
        }
    }
}

impl<P: Send + 'static> fmt::Debug for Engine<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

/// One shard that the caller drives: call [`turn`](Self::turn) again and again, or whenever its
/// descriptor ([`AsFd`]) is readable and no later than [`next_deadline`](Self::next_deadline).
///
/// ```
/// use proscenium_engine::{Context, Engine, Handler, Listener, Message, RouterId};
/// use std::time::Duration;
/// # struct Echo;
/// # impl Handler for Echo {
/// #     type Post = ();
/// #     fn on_message(&mut self, cx: &mut Context<'_, ()>, from: RouterId, m: Message<'_>) {
/// #         let _ = cx.send(from, &m);
/// #     }
/// # }
/// let mut shard = Engine::builder().listen(Listener::tcp("127.0.0.1:0")?).host(Echo)?;
/// shard.handle().shutdown(Duration::from_secs(1));
/// while shard.stopped().is_none() {
///     shard.turn(Duration::from_millis(100))?; // your own work between the turns
/// }
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Shard<H: Handler> {
    inner: ShardOn<EpollDriver, H>,
    addresses: Vec<Address>,
    #[expect(dead_code, reason = "removes the socket files when dropped")]
    unix_paths: UnixPaths,
}

impl<H: Handler> Shard<H> {
    /// Waits at most `max_wait` for something to do (zero: does not wait; [`Duration::MAX`]: for
    /// ever), and does it.
    ///
    /// # Errors
    /// Only when the epoll descriptor itself fails.
    pub fn turn(&mut self, max_wait: Duration) -> io::Result<()> {
        self.inner.turn(max_wait)?;
        self.inner.park();
        Ok(())
    }

    /// Writes what was queued between turns.
    pub(crate) fn flush(&mut self) {
        self.inner.flush_between_turns();
    }

    /// A turn after which the host will not sleep on the descriptor: saves the preparation.
    pub(crate) fn turn_without_parking(&mut self, max_wait: Duration) -> io::Result<()> {
        self.inner.turn(max_wait)
    }

    /// In how long the shard wants its next turn even if its descriptor does not become readable;
    /// `None`: never, zero: at once.
    pub fn next_deadline(&self) -> Option<Duration> {
        match self.inner.wants_turn_at() {
            Time::MAX => None,
            at => Some(at.since(self.inner.driver().now())),
        }
    }

    /// Where the listeners listen, in the order in which they were added, with real ports.
    pub fn local_addrs(&self) -> &[Address] {
        &self.addresses
    }

    /// A handle for other threads.
    pub fn handle(&self) -> Handle<H::Post> {
        self.inner.handle()
    }

    /// Queues a message; it is written in the next turn.
    ///
    /// # Errors
    /// Those of [`Context::send`].
    #[inline]
    pub fn send(&mut self, to: RouterId, body: &[u8]) -> Result<(), SendError> {
        self.inner.core.send(to, body)
    }

    /// Calls `call` with the handler and a context, between turns. What it sends is written in
    /// the next turn.
    pub fn with<R>(&mut self, call: impl FnOnce(&mut H, &mut Context<'_, H::Post>) -> R) -> R {
        self.inner.with(call)
    }

    /// The handler.
    pub fn handler(&mut self) -> &mut H {
        self.inner.handler_mut()
    }

    /// The report of the shutdown, once it is over.
    pub fn stopped(&self) -> Option<&DrainReport> {
        self.inner.stopped()
    }
}

impl<H: Handler> AsFd for Shard<H> {
    /// Readable whenever the shard has something to do before its next deadline.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.driver().as_fd()
    }
}

impl<H: Handler> fmt::Debug for Shard<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shard")
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::Message;
    use std::sync::atomic::{AtomicUsize, Ordering};

    struct Counted(Arc<AtomicUsize>);

    impl Handler for Counted {
        type Post = ();
        fn on_message(&mut self, _: &mut Context<'_, ()>, _: RouterId, _: Message<'_>) {}
    }

    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn shards_that_run_are_stopped_when_a_thread_cannot_be_had() {
        for fails_at in 0..3 {
            let alive = Arc::new(AtomicUsize::new(0));
            let handlers = Arc::clone(&alive);
            let make = move |_| {
                handlers.fetch_add(1, Ordering::SeqCst);
                Counted(Arc::clone(&handlers))
            };
            let listener = Listener::tcp("127.0.0.1:0").unwrap();
            let builder = Engine::builder().shards(3).listen(listener);
            let started = builder.start_by(make, |name, body| {
                if name.ends_with(&fails_at.to_string()) {
                    return Err(io::Error::from(io::ErrorKind::WouldBlock));
                }
                std::thread::Builder::new().name(name).spawn(body)
            });
            let error = started.err().map(|error| error.kind());
            assert_eq!(error, Some(io::ErrorKind::WouldBlock));
            assert_eq!(alive.load(Ordering::SeqCst), 0, "failed at {fails_at}");
        }
    }
}

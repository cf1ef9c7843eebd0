//! A shard: one driver, one handler, and the turn that joins them.
//!
//! ```text
//! turn:  wait (only if nothing is ready) ─► slices until the round of events is over
//! slice: ≤ 32 completions, or 128 KiB received and queued
//!        ─► mailbox batch ─► due timers ─► Handler::run ─► flush
//! ```
//!
//! Flushing after each slice, not after each round, keeps the send buffers in cache and the
//! latency of a full round low (`docs/decisions/0001-slices.md`).

mod broadcast;
pub(crate) mod core;
pub(crate) mod envelope;
mod flush;
mod forward;
mod layered;
pub(crate) mod left;
mod lifecycle;
mod mail;
pub(crate) mod outgoing;
mod receive;
mod rehome;
mod shutdown;
mod sweep;
#[cfg(feature = "tls")]
mod tls;
#[cfg(feature = "ws")]
mod web_socket;

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use self::core::{Core, Op, Timer};
use self::envelope::Envelope;
pub use self::shutdown::DrainReport;
use self::shutdown::Phase;
use self::sweep::Sweep;
use crate::body::{Chunk, ChunkPool, Lease};
use crate::context::Context;
use crate::driver::{Completion, Driver};
use crate::handle::{Handle, Shared};
use crate::handler::{Handler, Run};
use crate::mailbox::Consumer;
use crate::options::ConnectionOptions;
use crate::router_id::RouterId;
use crate::time::Time;

/// Connections handled before a flush.
const SLICE_EVENTS: usize = 32;
/// Bytes received and queued before a flush.
const SLICE_BYTES: usize = 128 * 1024;
/// Mailbox items handled per slice.
const MAIL_BATCH: usize = 256;
/// Timers fired per slice.
const TIMER_BATCH: usize = 256;

/// What a listener of the engine gives to its connections, on every shard.
#[derive(Clone, Debug)]
pub(crate) struct Listening {
    pub(crate) options: ConnectionOptions,
    /// Deal the accepted connections out to all shards in turn.
    pub(crate) deal: bool,
}

/// A shard on the driver `D`. What an embedder sees of it is [`crate::Shard`].
pub(crate) struct Shard<D, H: Handler> {
    driver: D,
    handler: H,
    pub(crate) core: Core<H::Post>,
    mailbox: Consumer<Envelope<H::Post>>,
    chunks: ChunkPool,
    chunk: Rc<Chunk>,
    /// How messages in the chunk may be kept.
    lease: Lease,
    /// What stands in the chunk and goes on with the next read.
    left: Option<left::Left>,
    listening: Vec<Listening>,
    /// The shard that gets the next connection of a listener that deals.
    next_deal: usize,
    /// Fences whose mailbox was full.
    fences: Vec<(usize, RouterId, rehome::Fence)>,
    sweep: Sweep,
    phase: Phase,
    report: DrainReport,
    /// `bytes_lost` when the shutdown began.
    lost_before: u64,
    /// Other threads have to wake us: the mailbox's state is "asleep".
    parked: bool,
    /// The handler has more to run.
    runnable: bool,
    /// This flush told the handler something.
    told: bool,
    started: bool,
}

impl<D: Driver, H: Handler> Shard<D, H> {
    pub(crate) fn new(
        number: usize,
        driver: D,
        handler: H,
        mailbox: Consumer<Envelope<H::Post>>,
        shared: &Arc<Shared<H::Post>>,
        listening: Vec<Listening>,
        seed: u64,
    ) -> Self {
        let limits = &shared.limits;
        let mut chunks = ChunkPool::new(limits.receive_chunk, limits.receive_chunks_max);
        let chunk = chunks.take();
        let core = Core::new(number, Arc::clone(shared), driver.clock(), seed);
        Self {
            driver,
            handler,
            core,
            mailbox,
            chunks,
            chunk,
            lease: Lease::Copy, // until the first look at the pool
            left: None,
            listening,
            next_deal: number,
            fences: Vec::new(),
            sweep: Sweep::default(),
            phase: Phase::Running,
            report: DrainReport::default(),
            lost_before: 0,
            parked: false,
            runnable: false,
            told: false,
            started: false,
        }
    }

    pub(crate) fn driver(&self) -> &D {
        &self.driver
    }

    #[cfg(feature = "bench")]
    pub(crate) fn driver_mut(&mut self) -> &mut D {
        &mut self.driver
    }

    pub(crate) fn handler_mut(&mut self) -> &mut H {
        &mut self.handler
    }

    pub(crate) fn handle(&self) -> Handle<H::Post> {
        Handle::new(&self.core.shared)
    }

    /// Calls the handler from outside a turn, then does what it asked for.
    pub(crate) fn with<R>(
        &mut self,
        call: impl FnOnce(&mut H, &mut Context<'_, H::Post>) -> R,
    ) -> R {
        self.core.now = self.driver.now();
        let result = call(&mut self.handler, &mut Context::new(&mut self.core));
        self.runnable |= !self.core.ops.is_empty();
        self.run_ops();
        result
    }

    /// When the shard wants its next turn at the latest, even if no event comes: at once
    /// (`Time::ZERO`), at a time, or never (`Time::MAX`).
    pub(crate) fn wants_turn_at(&self) -> Time {
        if self.phase == Phase::Stopped {
            return Time::MAX;
        }
        let busy = !self.started
            || self.runnable
            || self.driver.has_ready()
            || !self.core.dirty.is_empty()
            || !self.core.ops.is_empty()
            || self.core.handshakes_wait()
            || !self.mailbox.is_empty();
        if busy {
            return Time::ZERO;
        }
        let timer = self.core.timers.next_deadline();
        timer
            .map_or(Time::MAX, Time::from_nanos)
            .min(self.phase.deadline())
    }

    /// One turn: waits at most `max_wait` for something to do, and does it.
    pub(crate) fn turn(&mut self, max_wait: Duration) -> io::Result<()> {
        self.start();
        self.flush_between_turns();
        self.driver_round(max_wait)?;
        let began = self.driver.now();
        self.core.now = began;
        self.watch(began);
        self.begin_handshakes();
        while self.slice() {
            self.core.now = self.driver.now();
            self.watch(self.core.now);
        }
        self.step_shutdown();
        self.watch(Time::ZERO);
        self.end_turn(began);
        Ok(())
    }

    /// Tells the watchdog when this slice began; `Time::ZERO`: none is under way.
    fn watch(&self, began: Time) {
        let stats = &self.core.shared.stats[self.core.shard];
        stats.slice_began.store(began.as_nanos(), Ordering::Relaxed);
    }

    /// Writes what was queued since the last turn.
    pub(crate) fn flush_between_turns(&mut self) {
        if !self.core.dirty.is_empty() {
            self.runnable |= self.flush_dirty();
        }
    }

    /// Has the driver collect events, sleeping only if there is nothing else to do. Only then do
    /// other threads have to wake us.
    fn driver_round(&mut self, max_wait: Duration) -> io::Result<()> {
        let mut until = Time::ZERO;
        let wanted = self.wants_turn_at();
        if wanted != Time::ZERO
            && !max_wait.is_zero()
            && (self.parked || self.mailbox.prepare_sleep())
        {
            self.parked = true;
            let longest = match max_wait {
                Duration::MAX => Time::MAX,
                _ => self.driver.now() + max_wait,
            };
            until = wanted.min(longest);
        }
        self.sweep.begin();
        self.driver.wait(until)?;
        if self.parked {
            self.parked = false;
            self.mailbox.awake();
        }
        Ok(())
    }

    /// Between turns of a hosted shard: from now on other threads wake the driver, so that the
    /// host may sleep on its descriptor.
    pub(crate) fn park(&mut self) {
        self.parked = self.mailbox.prepare_sleep();
    }

    fn start(&mut self) {
        if !self.started {
            self.started = true;
            self.core.now = self.driver.now();
            self.handler.on_start(&mut Context::new(&mut self.core));
            self.run_ops();
        }
    }

    fn end_turn(&mut self, began: Time) {
        let core = &mut self.core;
        let (send_bytes, reassembly_bytes) = (core.send_bytes(), core.reassembly_bytes());
        let stats = &mut core.stats;
        stats.turns += 1;
        stats.connections = core.connections.len() as u64;
        stats.away = core.connections.away() as u64;
        stats.send_queue_bytes = send_bytes as u64;
        stats.send_buffer_bytes = core.buffers.leased_bytes() as u64;
        stats.reassembly_bytes = reassembly_bytes as u64;
        stats.receive_chunk_bytes = self.chunks.bytes() as u64;
        stats.timers = core.timers.len() as u64;
        let shared = &core.shared.stats[core.shard];
        shared.publish(stats);
        let now = self.driver.now();
        shared.record_turn(now.as_nanos().saturating_sub(began.as_nanos()));
        self.sweep.turn_ended(now);
    }

    /// One slice; false when the turn is over.
    fn slice(&mut self) -> bool {
        self.core.stats.slices += 1;
        self.core.slice_received = 0;
        let queued = self.core.queued;
        let mut round_over = false;
        for _ in 0..SLICE_EVENTS {
            let core = &self.core;
            if core.slice_received + core.queued.wrapping_sub(queued) >= SLICE_BYTES {
                break;
            }
            self.renew_chunk();
            self.prefetch();
            let from = self.read_at();
            let Some(chunk) = Rc::get_mut(&mut self.chunk) else {
                unreachable!("the chunk was just renewed");
            };
            let to = chunk.len().min(from + self.core.limits.receive_max);
            let Some(completion) = self.driver.next(&mut chunk.bytes_mut()[from..to]) else {
                round_over = true;
                let sources = self.core.connections.len() + self.listening.len();
                let part = self.driver.brought_a_part();
                if let Some(swept) = self.sweep.round_over(part, sources) {
                    self.core.swept = swept;
                }
                break;
            };
            self.complete(completion);
        }
        self.take_mail(MAIL_BATCH);
        self.fire_timers();
        let run = self.handler.run(&mut Context::new(&mut self.core));
        // What is done for the handler now may tell it something (an end, messages held back): it
        // gets another run.
        self.runnable = run == Run::Ready || !self.core.ops.is_empty();
        self.run_ops();
        // What a flush told the handler comes after its run: it gets another one.
        self.runnable |= self.flush_dirty();
        !round_over && run != Run::Leave
    }

    /// With many connections what belongs to each is in no cache when its turn comes. The system
    /// call that reads from one takes long enough to have that fetched, and the connection of the
    /// next, whose tag tells the handler then what else to fetch.
    #[inline]
    fn prefetch(&self) {
        let connections = &self.core.connections;
        if let Some(slot) = self.driver.upcoming(1) {
            connections.prefetch(slot);
        }
        if let Some(slot) = self.driver.upcoming(0)
            && let Some(connection) = connections.get(slot)
        {
            self.handler.prefetch(connection.tag);
        }
    }

    /// Makes sure that nobody else holds the chunk, and knows how it may be leased.
    fn renew_chunk(&mut self) {
        let leased = Rc::strong_count(&self.chunk) > 1;
        if self.left.is_some() {
            self.make_room_behind_left();
        }
        if leased {
            self.chunks.replace(&mut self.chunk);
        }
        if leased || self.lease == Lease::Copy {
            self.lease = if self.chunks.is_low() {
                Lease::Copy
            } else {
                Lease::Chunk
            };
        }
    }

    fn complete(&mut self, completion: Completion) {
        match completion {
            Completion::Received { conn, len } => self.received(conn, len),
            Completion::Sent { conn, len } => self.sent(conn, len),
            Completion::ReadClosed { conn } => self.stream_closed(conn),
            Completion::Failed { conn, error } => self.broken(conn, error),
            Completion::Connected { conn, result } => self.connected(conn, result),
            Completion::Accepted {
                listener,
                socket,
                peer,
            } => {
                self.accepted(listener, socket, peer);
            }
            Completion::AcceptFailed {
                listener,
                error,
                shed,
            } => {
                self.accept_failed(listener, &error, shed);
            }
        }
        self.run_ops();
    }

    /// Does what the handler asked for and the core could not do itself.
    pub(super) fn run_ops(&mut self) {
        let mut at = 0;
        while let Some(op) = self.core.ops.get_mut(at) {
            let op = std::mem::replace(op, Op::Bury(crate::connection::NONE));
            at += 1;
            match op {
                Op::Reading(id) => self.follow_pause(id),
                Op::Close(id) => self.begin_close(id),
                Op::Bury(slot) => self.bury(slot),
                Op::Connect { connect } => self.attempt(connect),
                Op::Rehome(id) => self.rehome(id),
            }
        }
        self.core.ops.clear();
    }

    fn fire_timers(&mut self) {
        for _ in 0..TIMER_BATCH {
            let Some(timer) = self.core.timers.pop_due(self.core.now.as_nanos()) else {
                break;
            };
            self.core.stats.timers_fired += 1;
            match timer {
                Timer::Handler { token } => {
                    self.handler
                        .on_timer(&mut Context::new(&mut self.core), token);
                }
                Timer::Connection(id) => self.connection_timer(id),
                Timer::ConnectDeadline { connect, attempt } => {
                    self.connect_deadline(connect, attempt);
                }
                Timer::Reconnect { connect } => self.attempt(connect),
                Timer::ResumeAccept { listener } => self.driver.resume_accept(listener),
                Timer::Fences => self.retry_fences(),
            }
            self.run_ops();
        }
    }
}

//! One client thread: the connections of one shard, driven by the engine.
//!
//! The way of an answer is as short as the engine's own: an index into a dense table, a few
//! compares, a count, and one copy of the next message into the send buffer. The clock is read once
//! for what one connection brought at once; nothing is allocated. What stands around the bodies is
//! said by the [`Protocol`].

mod joining;
mod sending;

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::time::Duration;

use hdrhistogram::Histogram;
use proscenium_engine::{
    CloseReason, ConnectError, ConnectId, Connector, Context, Handler, Message, Peer, RouterId,
    Run, Time,
};

use super::body::{Checker, Corrupt, Template, Verify};
use super::fan::Fan;
use super::latency::Latency;
use super::protocol::{Incoming, Protocol};
use super::schedule::Schedule;
use super::window::{Answer, Exchange, Phase, Tally, Window};
use crate::errno::{self, ErrorCounts};

/// Connections whose windows are filled between two looks at the sockets. More at once would only
/// pile up unsent messages.
const FILL_AT_ONCE: usize = 32;

/// Shortest wait for the next burst of a fixed rate; what falls due meanwhile is sent together.
const TICK: Duration = Duration::from_micros(100);

/// What a client thread is told to do; in this order.
#[derive(Debug)]
pub(super) enum Order {
    /// Make the connections.
    Connect,
    /// Have the server let the clients in.
    Join,
    /// Go on to this phase.
    Enter(Phase),
    /// Report and ignore what comes from now on.
    Finish,
}

/// What a client thread tells.
#[derive(Debug)]
pub(super) enum Report {
    /// Every connection was made or failed.
    Connected,
    /// Every client was let in or not.
    Joined,
    /// Everything sent is answered, and nothing more will be sent.
    Drained,
    /// The result, after [`Order::Finish`].
    Finished(Box<Outcome>),
}

/// What one client thread has to do.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) connector: Connector,
    pub(super) connections: usize,
    pub(super) connect_at_once: usize,
    pub(super) size: usize,
    pub(super) inflight: u32,
    /// Messages to send at most.
    pub(super) budget: u64,
    /// Messages per second and per burst; `None`: closed loop.
    pub(super) rate: Option<(f64, u32)>,
    pub(super) verify: Verify,
    /// Stages in each of which one client speaks to all; `None`: everybody has answers of his own.
    pub(super) stages: Option<usize>,
    /// At a rate: messages that one who speaks to all sends together.
    pub(super) speeches: u32,
}

/// What one client thread measured.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) tally: Tally,
    /// Of the answers inside the measuring window, in nanoseconds.
    pub(super) latency: Histogram<u64>,
    pub(super) connect: ConnectTally,
    pub(super) join: JoinTally,
    /// Length of the measuring window.
    pub(super) measured: Duration,
    /// Connections that still wait for answers.
    pub(super) waiting: u64,
    /// Messages due by the offered rate and not sent at the end of the measuring window.
    pub(super) overdue: u64,
    pub(super) errors: ErrorCounts,
}

/// What became of the attempts to connect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ConnectTally {
    pub(super) made: u64,
    pub(super) failed: u64,
    pub(super) timed_out: u64,
}

/// What became of those who wanted to be let in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct JoinTally {
    pub(super) joined: u64,
    /// Refused, or lost meanwhile.
    pub(super) failed: u64,
}

/// Numbers that a client thread publishes after each slice, for the progress line.
#[derive(Debug, Default)]
#[repr(align(128))] // a cache line pair of its own: written millions of times, read rarely
pub(super) struct Progress {
    /// Connections made.
    pub(super) made: AtomicU64,
    /// Connections alive.
    pub(super) alive: AtomicU64,
    /// Answers so far.
    pub(super) received: AtomicU64,
}

#[derive(Clone, Copy, Debug)]
struct Connection<S> {
    id: RouterId,
    window: Window,
    /// What the protocol remembers.
    state: S,
    /// It waits to be let in.
    joining: bool,
    /// Send time of the latest answer: later answers were sent later.
    last_stamp: u64,
    alive: bool,
    /// In the line of those that can take a burst.
    queued: bool,
}

/// The measuring window of this thread.
#[derive(Clone, Copy, Debug, Default)]
struct Span {
    from: Time,
    to: Time,
}

/// The handler of one client thread.
pub(super) struct Client<P: Protocol> {
    protocol: P,
    settings: Settings,
    report: Sender<Report>,
    progress: Arc<Progress>,

    /// By the slot of the id; made to measure before the first message.
    connections: Vec<Connection<P::State>>,
    alive: u64,
    connecting: usize,
    connect: ConnectTally,
    /// Connections before this one have asked to be let in; so many wait for the answer.
    join_from: usize,
    joining: usize,
    join: JoinTally,
    errors: ErrorCounts,
    fan: Option<Fan>,

    exchange: Exchange,
    template: Template,
    checker: Checker,
    phases: RangeInclusive<u8>,
    latency: Latency,
    span: Span,

    /// The clock as of the current batch: what one connection brought in one slice.
    clock: u64,
    batch_of: Option<RouterId>,
    batch_slice: Time,

    /// Slots from here on have not had their window filled.
    fill_from: usize,
    schedule: Option<Schedule>,
    /// Slots that can take a burst, the longest waiting first.
    line: VecDeque<u32>,
    tick_is_set: bool,
    overdue: u64,

    drain_reported: bool,
    finished: bool,
}

/// The connection's slot: the engine numbers its connections densely, from zero.
#[inline]
fn slot(id: RouterId) -> usize {
    (id.to_u64() >> 32) as usize & (RouterId::SLOTS_MAX - 1)
}

impl<P: Protocol> Client<P> {
    pub(super) fn new(
        protocol: P,
        settings: Settings,
        report: Sender<Report>,
        progress: Arc<Progress>,
    ) -> Self {
        let (size, verify) = (settings.size, settings.verify);
        let fan = settings
            .stages
            .map(|stages| Fan::new(stages, settings.inflight));
        // What is said to all has its window in the fan.
        let inflight = if fan.is_some() {
            u32::MAX
        } else {
            settings.inflight
        };
        Self {
            exchange: Exchange::new(inflight, settings.budget),
            template: Template::new(size).behind(protocol.prefix()),
            protocol,
            fan,
            join_from: 0,
            joining: 0,
            join: JoinTally::default(),
            checker: Checker::new(size, verify),
            phases: phases_until(Phase::Warmup),
            latency: Latency::new(),
            connections: Vec::with_capacity(settings.connections),
            settings,
            report,
            progress,
            alive: 0,
            connecting: 0,
            connect: ConnectTally::default(),
            errors: ErrorCounts::new(),
            span: Span::default(),
            clock: 0,
            batch_of: None,
            batch_slice: Time::ZERO,
            fill_from: usize::MAX,
            schedule: None,
            line: VecDeque::new(),
            tick_is_set: false,
            overdue: 0,
            drain_reported: false,
            finished: false,
        }
    }

    /// Starts as many connections as may be under way.
    fn connect_more(&mut self, cx: &mut Context<'_, Order>) {
        let ConnectTally {
            made,
            failed,
            timed_out,
        } = self.connect;
        let ended = (made + failed + timed_out) as usize;
        let left = self.settings.connections - ended - self.connecting;
        let room = self.settings.connect_at_once - self.connecting;
        for _ in 0..left.min(room) {
            self.connecting += 1;
            cx.connect(&self.settings.connector);
        }
        if ended == self.settings.connections {
            self.tell(Report::Connected);
        }
    }

    /// Makes the numbers of the progress line those of now.
    #[inline]
    fn publish(&self) {
        self.progress
            .made
            .store(self.connect.made, Ordering::Relaxed);
        self.progress.alive.store(self.alive, Ordering::Relaxed);
        self.progress
            .received
            .store(self.exchange.tally().received, Ordering::Relaxed);
    }

    /// Publishes, and reports the end of the exchange once it is there.
    #[inline]
    fn look(&mut self) {
        if !self.drain_reported && self.exchange.is_drained() {
            self.drain_reported = true;
            self.tell(Report::Drained);
        }
        self.publish();
    }

    fn tell(&self, report: Report) {
        // Whoever acts on the report finds the numbers that belong to it.
        self.publish();
        // The other end is gone only when the run was given up.
        let _ = self.report.send(report);
    }

    fn enter(&mut self, cx: &mut Context<'_, Order>, phase: Phase) {
        if phase == Phase::Drain {
            // What is due now and has room is not late: only what is held back by full windows.
            while self.send_due(cx) {}
            let now = cx.now().as_nanos();
            self.overdue = self.schedule.map_or(0, |schedule| schedule.overdue(now));
        }
        let now = cx.clock();
        self.clock = now.as_nanos();
        match phase {
            Phase::Measure => self.span.from = now,
            Phase::Drain => self.span.to = now,
            Phase::Connect | Phase::Warmup => {}
        }
        let began_sending = !self.exchange.phase().sends() && phase.sends();
        self.exchange.enter(phase);
        self.phases = phases_until(phase.min(Phase::Measure));
        self.template.set_phase(phase.to_byte());
        if !began_sending {
            return;
        }
        match self.settings.rate {
            None => self.fill_from = 0,
            Some((rate, burst)) => {
                self.schedule = Some(Schedule::new(rate, burst, self.clock));
                for at in 0..self.connections.len() {
                    self.stand_in_line(at);
                }
            }
        }
    }

    /// Reads the clock and stamps the messages sent from now on.
    #[inline]
    fn read_clock(&mut self, cx: &Context<'_, Order>) {
        self.clock = cx.clock().as_nanos();
        self.template.set_stamp(self.clock);
    }

    /// What follows was brought by one read of one connection: it all arrived now.
    fn begin_batch(&mut self, cx: &Context<'_, Order>, of: RouterId) {
        self.batch_of = Some(of);
        self.batch_slice = cx.now();
        self.read_clock(cx);
        self.latency.begin_batch(self.clock);
    }

    /// True if the latency of an answer that arrives now counts. In a closed loop: if it arrives
    /// inside the measuring window. At an offered rate: if it was to be sent inside the window,
    /// however late it is answered; else a server that stalls over the window's end looked fast.
    #[inline]
    fn is_measured(&self, stamp: u64) -> bool {
        let phase = self.exchange.phase();
        match self.schedule {
            None => phase == Phase::Measure,
            Some(_) => phase >= Phase::Measure && stamp >= self.span.from.as_nanos(),
        }
    }

    fn count_corrupt(&mut self, how: Corrupt) {
        self.exchange.on_corrupt();
        let name = match how {
            Corrupt::Length => "corrupt_length",
            Corrupt::Phase => "corrupt_phase",
            Corrupt::Stamp => "corrupt_stamp",
            Corrupt::Pattern => "corrupt_pattern",
        };
        errno::count(&mut self.errors, name.to_owned());
    }

    fn count_wrong(&mut self, how: String) {
        self.exchange.on_corrupt();
        errno::count(&mut self.errors, how);
    }

    fn finish(&mut self) {
        self.finished = true;
        let waiting = |connection: &&Connection<P::State>| {
            connection.alive && connection.window.outstanding() > 0
        };
        let outcome = Outcome {
            tally: *self.exchange.tally(),
            latency: std::mem::replace(&mut self.latency, Latency::new()).finish(),
            connect: self.connect,
            join: self.join,
            measured: self.span.to.since(self.span.from),
            waiting: self.connections.iter().filter(waiting).count() as u64,
            overdue: self.overdue,
            errors: std::mem::take(&mut self.errors),
        };
        self.tell(Report::Finished(Box::new(outcome)));
    }
}

/// The phases in which an answer's question may have been sent.
fn phases_until(phase: Phase) -> RangeInclusive<u8> {
    Phase::Warmup.to_byte()..=phase.max(Phase::Warmup).to_byte()
}

impl<P: Protocol> Handler for Client<P> {
    type Post = Order;

    fn on_posted(&mut self, cx: &mut Context<'_, Order>, order: Order) {
        match order {
            Order::Connect => self.connect_more(cx),
            Order::Join => self.join_more(cx),
            Order::Enter(phase) => self.enter(cx, phase),
            Order::Finish => self.finish(),
        }
    }

    fn on_connect(&mut self, cx: &mut Context<'_, Order>, id: RouterId, _: &Peer) {
        let vacant = Connection {
            id,
            window: Window::default(),
            state: P::State::default(),
            joining: false,
            last_stamp: 0,
            alive: false,
            queued: false,
        };
        let at = slot(id);
        if at >= self.connections.len() {
            self.connections.resize(at + 1, vacant);
        }
        self.connections[at] = Connection {
            alive: true,
            ..vacant
        };
        self.alive += 1;
        self.connecting -= 1;
        self.connect.made += 1;
        self.connect_more(cx);
    }

    fn on_connect_failed(
        &mut self,
        cx: &mut Context<'_, Order>,
        _: ConnectId,
        error: &ConnectError,
        _: Option<Duration>,
    ) {
        let name = match error {
            ConnectError::Io(error) => errno::name(error),
            ConnectError::TimedOut => "ETIMEDOUT".to_owned(),
            ConnectError::ConnectionLimit { .. } => "connection_limit".to_owned(),
            ConnectError::Handshake(error) => {
                // The column of errors is parted by these.
                format!("handshake ({error})").replace([':', ';'], ",")
            }
            other => format!("{other:?}"),
        };
        let counter = match name.as_str() {
            "ETIMEDOUT" => &mut self.connect.timed_out,
            _ => &mut self.connect.failed,
        };
        *counter += 1;
        errno::count(&mut self.errors, name);
        self.connecting -= 1;
        self.connect_more(cx);
    }

    #[inline]
    fn on_message(&mut self, cx: &mut Context<'_, Order>, from: RouterId, message: Message<'_>) {
        if self.batch_of != Some(from) || self.batch_slice != cx.now() {
            self.begin_batch(cx, from);
        }
        let at = slot(from);
        let connection = &mut self.connections[at];
        debug_assert_eq!(connection.id, from);
        let body = match self.protocol.read(&mut connection.state, &message) {
            Incoming::Answer(body) => Ok(body),
            Incoming::Wrong(how) => Err(how),
            Incoming::Hello(result) => return self.on_hello(cx, at, result),
            Incoming::Other => return,
        };
        if self.finished || self.exchange.on_answer(&mut connection.window) == Answer::Unsolicited {
            return;
        }
        let stamps = connection.last_stamp..=self.clock;
        match body.map(|body| self.checker.check(body, &self.phases, stamps)) {
            Ok(Ok(stamp)) => {
                connection.last_stamp = stamp;
                if self.is_measured(stamp) {
                    self.latency.add(stamp);
                }
            }
            Ok(Err(how)) => self.count_corrupt(how),
            Err(how) => self.count_wrong(how),
        }
        if let Some(fan) = &mut self.fan {
            fan.on_delivered(at);
        }
        let at = self.speaker(at);
        if self.schedule.is_none() {
            self.fill(cx, at);
        } else {
            self.stand_in_line(at);
        }
    }

    fn on_drained(&mut self, cx: &mut Context<'_, Order>, id: RouterId) {
        if self.schedule.is_none() {
            self.batch_of = None;
            self.read_clock(cx);
            self.fill(cx, slot(id));
        }
    }

    fn on_timer(&mut self, _: &mut Context<'_, Order>, _: u64) {
        // `run` follows and sends what is due.
        self.tick_is_set = false;
    }

    fn on_disconnect(&mut self, cx: &mut Context<'_, Order>, id: RouterId, reason: &CloseReason) {
        let at = slot(id);
        let connection = &mut self.connections[at];
        connection.alive = false;
        self.alive -= 1;
        if self.finished {
            return;
        }
        self.exchange.on_lost(connection.window);
        let outstanding = u64::from(connection.window.outstanding());
        connection.window = Window::default();
        if std::mem::take(&mut connection.joining) {
            self.joining -= 1;
            self.join.failed += 1;
            self.join_more(cx);
        } else if let Some(fan) = &mut self.fan {
            fan.on_lost(at, outstanding);
        }
        let name = match reason {
            CloseReason::Broken(error) => errno::name(error),
            other => other.name().to_owned(),
        };
        errno::count(&mut self.errors, name);
        // A write may have found out, after the last `run` before the shard sleeps.
        self.look();
    }

    fn run(&mut self, cx: &mut Context<'_, Order>) -> Run {
        let more = self.fill_some(cx) | self.send_due(cx);
        self.look();
        if more { Run::Ready } else { Run::Idle }
    }
}

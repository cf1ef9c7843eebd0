//! The node that puts the load on: waits for the other one, warms up, measures, drains.

use std::sync::mpsc::Sender;
use std::time::Duration;

use bytes::Bytes;
use proscenium_engine::{
    CloseReason, ConnectError, ConnectId, Context, Handler, Message, Peer, RouterId, Run, Time,
};
use proscenium_nodelink::{
    Nid, NodeContext, NodeHandler, NodeLink, NodeMessage, PeerId, ReplyRef, RequestError,
    RequestOptions, RouteHeader, SendError,
};

use super::record::NodeRecord;
use super::{NodeArgs, NodeMode};
use crate::load::latency::{Latency, Percentiles};
use crate::process::Process;

/// The NID of the node that answers.
pub(crate) const SERVER_NID: &str = "echo";
/// What is answered with its payload, and counted.
pub(crate) const ECHO: &str = "Echo";
/// What is answered with the count of messages, the clock and the CPU time of the other node.
pub(crate) const MARK: &str = "Mark";
/// Length of that answer: three u64, little-endian.
pub(crate) const MARK_BYTES: usize = 24;

/// What is sent in one turn of the engine at most: as much as one write takes well.
const TURN_BYTES: usize = 128 * 1024;

/// Tokens of timers.
const CONNECTED: u64 = 1;
const WARM: u64 = 2;
const END: u64 = 3;
const DRAINED: u64 = 4;
/// Tokens of requests from here on are marks; below, numbers of the window.
const MARKS: u64 = 1 << 32;

/// What is to be done.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    mode: NodeMode,
    payload: Bytes,
    window: usize,
    hwm: u64,
    warmup: Duration,
    measure: Duration,
    drain: Duration,
    connect: Duration,
    target: String,
}

impl Plan {
    pub(super) fn of(args: &NodeArgs) -> Self {
        Self {
            mode: args.mode,
            payload: (0..args.size).map(|at| at as u8).collect(),
            window: args.window as usize,
            hwm: args.hwm.into(),
            warmup: args.run.warmup,
            measure: args.run.measure,
            drain: args.run.drain,
            connect: args.run.connect_timeout,
            target: args.target.clone(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Connecting,
    Warmup,
    Measuring,
    Draining,
    Over,
}

/// What the other node said of itself.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::load) struct Mark {
    pub(in crate::load) count: u64,
    clock_ns: u64,
    cpu_ns: u64,
}

impl Mark {
    pub(in crate::load) fn read(bytes: &[u8]) -> Option<Self> {
        let mut fields = bytes.chunks_exact(8).map(|field| {
            let field: [u8; 8] = field.try_into().unwrap_or_default();
            u64::from_le_bytes(field)
        });
        let mark = Self {
            count: fields.next()?,
            clock_ns: fields.next()?,
            cpu_ns: fields.next()?,
        };
        (bytes.len() == MARK_BYTES).then_some(mark)
    }

    /// Share of one CPU that the other side used since.
    pub(in crate::load) fn cpu_share_since(self, earlier: Self) -> f64 {
        let wall = self.clock_ns.saturating_sub(earlier.clock_ns).max(1) as f64;
        self.cpu_ns.saturating_sub(earlier.cpu_ns) as f64 / wall
    }
}

/// The load, as told by its node.
struct Load {
    plan: Plan,
    phase: Phase,
    peer: Option<PeerId>,
    /// The queue was full; `on_room` tells when it is not.
    blocked: bool,
    /// When each request of the window was sent, in nanoseconds.
    sent_at: Vec<u64>,
    latency: Latency,
    batch: u64,
    sent: u64,
    received: u64,
    /// Marks that are to be sent, that were sent, and their answers.
    marks_due: u64,
    marks_sent: u64,
    /// When the load begins, when the window does, and at the end of both.
    marks: [Option<Mark>; 3],
    /// Beginning and end of the window: time, answers, CPU time.
    window: [(Time, u64, Duration); 2],
    failures: Vec<String>,
    wrong: u64,
    report: Option<Sender<Result<NodeRecord, String>>>,
}

impl Load {
    fn header(msg_id: &str) -> RouteHeader<'_> {
        RouteHeader {
            msg_id,
            ..RouteHeader::default()
        }
    }

    fn is_loading(&self) -> bool {
        matches!(self.phase, Phase::Warmup | Phase::Measuring)
    }

    /// Sends the request with that number.
    fn request(&mut self, cx: &mut NodeContext<'_, '_, ()>, number: usize) {
        let Some(peer) = self.peer else { return };
        let now = cx.engine().now().as_nanos();
        self.sent_at[number] = now;
        let (header, options) = (Self::header(ECHO), RequestOptions::default());
        match cx.request_shared(peer, &header, &self.plan.payload, options, number as u64) {
            Ok(()) => self.sent += 1,
            Err(error) => self.failed(format!("a request was refused: {error}")),
        }
    }

    /// Sends messages until the turn has had its share or the queue is full.
    fn fill(&mut self, cx: &mut NodeContext<'_, '_, ()>) {
        let Some(peer) = self.peer else { return };
        let mut room = TURN_BYTES;
        while self.is_loading() && !self.blocked && room > 0 {
            match cx.send_shared(peer, &Self::header(ECHO), &self.plan.payload) {
                Ok(()) => self.sent += 1,
                Err(SendError::Full) => self.blocked = true,
                Err(error) => {
                    return self.failed(format!("a message was refused: {error}"));
                }
            }
            room = room.saturating_sub(self.plan.payload.len() + 32);
        }
    }

    /// Sends the marks that are due, behind everything that was sent before.
    fn mark(&mut self, cx: &mut NodeContext<'_, '_, ()>) {
        let Some(peer) = self.peer else { return };
        while self.marks_sent < self.marks_due && !self.blocked {
            let (header, options) = (Self::header(MARK), RequestOptions::default());
            match cx.request(peer, &header, &[], options, MARKS + self.marks_sent) {
                Ok(()) => self.marks_sent += 1,
                Err(SendError::Full) => self.blocked = true,
                Err(error) => {
                    return self.failed(format!("a mark was refused: {error}"));
                }
            }
        }
    }

    fn failed(&mut self, why: String) {
        // One of a kind says it.
        if self.failures.len() < 10 && !self.failures.contains(&why) {
            self.failures.push(why);
        }
    }

    fn begin(&mut self, cx: &mut NodeContext<'_, '_, ()>) {
        self.phase = Phase::Warmup;
        self.marks_due = 1;
        self.mark(cx);
        cx.engine().set_timer(self.plan.warmup, WARM);
        let end = self.plan.warmup + self.plan.measure;
        cx.engine().set_timer(end, END);
        if self.plan.mode == NodeMode::Request {
            for number in 0..self.plan.window {
                self.request(cx, number);
            }
        }
    }

    fn timer(&mut self, cx: &mut NodeContext<'_, '_, ()>, token: u64) {
        let now = cx.engine().now();
        let cpu = || Process::this().cpu_time().unwrap_or_default();
        match (token, self.phase) {
            (CONNECTED, Phase::Connecting) => {
                let (target, within) = (&self.plan.target, self.plan.connect);
                let why = format!(
                    "no node could be reached at {target} within {within:?}: it has to be one of \
                     `proscenium echo --mode node`, or another that answers the same"
                );
                self.tell(Err(why));
            }
            (WARM, Phase::Warmup) => {
                self.phase = Phase::Measuring;
                self.window[0] = (now, self.received, cpu());
                self.marks_due = 2;
                self.mark(cx);
            }
            (END, Phase::Measuring) => {
                self.phase = Phase::Draining;
                self.window[1] = (now, self.received, cpu());
                self.marks_due = 3;
                self.mark(cx);
                cx.engine().set_timer(self.plan.drain, DRAINED);
                self.settle();
            }
            (DRAINED, Phase::Draining) => self.finish(),
            _ => {}
        }
    }

    /// Ends the run if nothing is outstanding.
    fn settle(&mut self) {
        let answered = self.plan.mode == NodeMode::Send || self.received >= self.sent;
        if self.phase == Phase::Draining && answered && self.marks.iter().all(Option::is_some) {
            self.finish();
        }
    }

    fn finish(&mut self) {
        let mut failures = std::mem::take(&mut self.failures);
        if self.wrong > 0 {
            failures.push(format!("{} wrong answers", self.wrong));
        }
        let [(from, before, cpu_before), (to, after, cpu_after)] = self.window;
        // A thread that had no turn for so long sees both ends of the window at once.
        let seconds = to.since(from).as_secs_f64().max(1e-9);
        let (mut throughput, mut server) = ((after - before) as f64 / seconds, 0.0);
        if let [Some(begin), Some(first), Some(last)] = self.marks {
            let wall = last.clock_ns.saturating_sub(first.clock_ns).max(1) as f64;
            server = last.cpu_share_since(first);
            if self.plan.mode == NodeMode::Send {
                throughput = last.count.saturating_sub(first.count) as f64 / wall * 1e9;
                // The last mark went behind all messages.
                self.received = last.count.saturating_sub(begin.count);
            }
        } else {
            failures.push("a mark was not answered".to_owned());
        }
        let missing = self.sent.saturating_sub(self.received);
        if missing > 0 {
            failures.push(match self.plan.mode {
                NodeMode::Request => format!("{missing} requests were not answered"),
                NodeMode::Send => format!("{missing} messages did not arrive"),
            });
        }
        let histogram = std::mem::replace(&mut self.latency, Latency::new()).finish();
        let latency = Percentiles::of(&histogram);
        self.tell(Ok(NodeRecord {
            mode: self.plan.mode.name().to_owned(),
            size: self.plan.payload.len() as u64,
            window: self.plan.window as u64,
            hwm: self.plan.hwm,
            sent: self.sent,
            received: self.received,
            throughput,
            seconds,
            p50: latency.p50,
            p99: latency.p99,
            p99_9: latency.p99_9,
            max: latency.max,
            client_cpu_share: cpu_after.saturating_sub(cpu_before).as_secs_f64() / seconds,
            server_cpu_share: server,
            failures,
            ..NodeRecord::default()
        }));
    }

    fn tell(&mut self, result: Result<NodeRecord, String>) {
        self.phase = Phase::Over;
        if let Some(report) = self.report.take() {
            // Who waits for it has given up, at worst.
            let _ = report.send(result);
        }
    }
}

impl NodeHandler<()> for Load {
    fn on_message(&mut self, _: &mut NodeContext<'_, '_, ()>, _: NodeMessage<'_>) {
        self.wrong += 1; // nobody is to ask us anything
    }

    fn on_reply(
        &mut self,
        cx: &mut NodeContext<'_, '_, ()>,
        token: u64,
        reply: Result<ReplyRef<'_>, RequestError>,
    ) {
        let reply = match reply {
            Ok(reply) => reply,
            Err(error) => return self.failed(format!("a request failed: {error}")),
        };
        if token >= MARKS {
            self.marks[(token - MARKS) as usize] = Mark::read(reply.payload);
            return self.settle();
        }
        let (number, payload) = (token as usize, reply.payload);
        let expected = &self.plan.payload;
        let same = payload.len() == expected.len()
            && payload.first() == expected.first()
            && payload.last() == expected.last();
        if !same || reply.header.error_code != 0 {
            self.wrong += 1;
        }
        self.received += 1;
        if self.phase == Phase::Measuring {
            let now = cx.engine().now().as_nanos();
            if now != self.batch {
                self.batch = now;
                self.latency.begin_batch(now);
            }
            self.latency.add(self.sent_at[number]);
        }
        if self.is_loading() {
            self.request(cx, number);
        } else {
            self.settle();
        }
    }

    fn on_peer_up(&mut self, cx: &mut NodeContext<'_, '_, ()>, peer: PeerId, _: &Nid) {
        if self.phase == Phase::Connecting {
            self.peer = Some(peer);
            self.begin(cx);
        }
    }

    fn on_peer_down(&mut self, _: &mut NodeContext<'_, '_, ()>, _: PeerId, nid: &Nid) {
        if self.phase != Phase::Over {
            self.failed(format!("the link to {nid} was lost"));
            self.finish();
        }
    }

    fn on_room(&mut self, cx: &mut NodeContext<'_, '_, ()>, _: PeerId, _: &Nid) {
        self.blocked = false;
        self.mark(cx);
        self.fill(cx);
    }
}

/// The node as the engine's handler.
pub(super) struct Client {
    link: NodeLink,
    load: Load,
}

impl Client {
    pub(super) fn new(
        link: NodeLink,
        plan: Plan,
        report: Sender<Result<NodeRecord, String>>,
    ) -> Self {
        let load = Load {
            phase: Phase::Connecting,
            peer: None,
            blocked: false,
            sent_at: vec![0; plan.window],
            latency: Latency::new(),
            batch: 0,
            sent: 0,
            received: 0,
            marks_due: 0,
            marks_sent: 0,
            marks: [None; 3],
            window: [(Time::ZERO, 0, Duration::ZERO); 2],
            failures: Vec::new(),
            wrong: 0,
            report: Some(report),
            plan,
        };
        Self { link, load }
    }
}

impl Handler for Client {
    type Post = ();

    fn on_start(&mut self, cx: &mut Context<'_, ()>) {
        cx.set_timer(self.load.plan.connect, CONNECTED);
        self.link.on_start(cx);
    }

    fn on_connect(&mut self, cx: &mut Context<'_, ()>, id: RouterId, peer: &Peer) {
        self.link.on_connect(cx, id, peer);
    }

    fn on_message(&mut self, cx: &mut Context<'_, ()>, from: RouterId, message: Message<'_>) {
        self.link.on_message(cx, &mut self.load, from, &message);
    }

    fn on_drained(&mut self, cx: &mut Context<'_, ()>, id: RouterId) {
        self.link.on_drained(cx, &mut self.load, id);
    }

    fn on_read_closed(&mut self, cx: &mut Context<'_, ()>, id: RouterId) {
        self.link.on_read_closed(cx, id);
    }

    fn on_disconnect(&mut self, cx: &mut Context<'_, ()>, id: RouterId, reason: &CloseReason) {
        self.link.on_disconnect(cx, &mut self.load, id, reason);
    }

    fn on_connect_failed(
        &mut self,
        cx: &mut Context<'_, ()>,
        connect: ConnectId,
        error: &ConnectError,
        _retry: Option<Duration>,
    ) {
        self.link.on_connect_failed(cx, connect, error);
    }

    fn on_timer(&mut self, cx: &mut Context<'_, ()>, token: u64) {
        if !self.link.on_timer(cx, &mut self.load, token) {
            self.load.timer(&mut self.link.with(cx), token);
        }
    }

    fn on_wake(&mut self, cx: &mut Context<'_, ()>, token: u64) {
        self.link.on_wake(cx, &mut self.load, token);
    }

    fn run(&mut self, cx: &mut Context<'_, ()>) -> Run {
        if self.load.plan.mode != NodeMode::Send || !self.load.is_loading() || self.load.blocked {
            return Run::Idle;
        }
        self.load.fill(&mut self.link.with(cx));
        if self.load.blocked {
            Run::Idle
        } else {
            Run::Ready
        }
    }

    fn on_shutdown(&mut self, cx: &mut Context<'_, ()>) {
        self.link.on_shutdown(cx);
    }
}

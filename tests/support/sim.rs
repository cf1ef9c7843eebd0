//! What the tests on the simulation share: seeds, the log of what handlers were told, an echo with
//! every way to send, and clients that behave at random.
#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "every test binary uses a part of it"
)]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use proscenium::sim::{Faults, SimNet, SimPeer, SimRandom};
use proscenium::{
    Address, Body, CloseReason, Context, EngineStats, Handler, Limits, Message, Peer, RouterId, Run,
};

#[path = "frames.rs"]
mod frames;
#[path = "seeds.rs"]
mod seeds;
pub use frames::*;
pub use seeds::*;

pub const SECOND: Duration = Duration::from_secs(1);
pub const HOUR: Duration = Duration::from_secs(3600);

/// Where the engines of these tests listen.
pub const ADDRESS: &str = "10.0.0.1:7000";

/// Where a connection is, by what handlers were told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    At(usize),
    /// It left for this shard and has not arrived.
    Moving(usize),
    Ended,
}

/// What handlers were told about one connection.
#[derive(Debug)]
pub struct Life {
    pub place: Place,
    pub peer: Peer,
    pub messages: u64,
    /// How it ended, by the reason's name.
    pub reason: Option<&'static str>,
    pub read_closed: bool,
    /// The handler itself gave it up: a send was refused.
    pub spoiled: bool,
    pub moves: u32,
}

/// What the handlers of all shards of an engine were told. Asserts that the calls about each
/// connection come in an order that the documentation allows.
#[derive(Debug, Default)]
pub struct Log {
    pub lives: BTreeMap<RouterId, Life>,
}

pub type SharedLog = Rc<RefCell<Log>>;

impl Log {
    pub fn connected(&mut self, shard: usize, id: RouterId, peer: &Peer) {
        assert_eq!(id.shard(), shard, "{id} was not born on shard {shard}");
        let life = Life {
            place: Place::At(shard),
            peer: *peer,
            messages: 0,
            reason: None,
            read_closed: false,
            spoiled: false,
            moves: 0,
        };
        let before = self.lives.insert(id, life);
        assert!(before.is_none(), "{id} connected twice");
    }

    fn at(&mut self, shard: usize, id: RouterId, what: &str) -> &mut Life {
        let life = self.lives.get_mut(&id);
        let life = life.unwrap_or_else(|| panic!("{what} of {id}, which never connected"));
        assert_eq!(life.place, Place::At(shard), "{what} of {id}");
        life
    }

    pub fn message(&mut self, shard: usize, id: RouterId) {
        self.at(shard, id, "a message").messages += 1;
    }

    pub fn read_closed(&mut self, shard: usize, id: RouterId) {
        let life = self.at(shard, id, "the end of the stream");
        assert!(!life.read_closed, "{id}: the stream ended twice");
        life.read_closed = true;
    }

    pub fn drained(&mut self, shard: usize, id: RouterId) {
        self.at(shard, id, "on_drained");
    }

    pub fn ended(&mut self, shard: usize, id: RouterId, reason: &CloseReason) {
        let life = self.at(shard, id, "on_disconnect");
        life.place = Place::Ended;
        life.reason = Some(reason.name());
    }

    pub fn departed(&mut self, shard: usize, id: RouterId, to: usize) {
        let life = self.at(shard, id, "on_departed");
        life.place = Place::Moving(to);
        life.moves += 1;
    }

    pub fn adopted(&mut self, shard: usize, id: RouterId, peer: &Peer) {
        let life = self.lives.get_mut(&id);
        let life = life.unwrap_or_else(|| panic!("{id} moved in and never connected"));
        assert_eq!(life.place, Place::Moving(shard), "on_adopted of {id}");
        assert_eq!(life.peer, *peer, "{id}");
        life.place = Place::At(shard);
    }

    pub fn spoil(&mut self, id: RouterId) {
        if let Some(life) = self.lives.get_mut(&id) {
            life.spoiled = true;
        }
    }

    pub fn is_spoiled(&self, id: RouterId) -> bool {
        self.lives.get(&id).is_none_or(|life| life.spoiled)
    }

    /// The life of the connection that the peer of this address made.
    pub fn of_peer(&self, address: &Address) -> Option<(RouterId, &Life)> {
        let Address::Tcp(address) = address else {
            return None;
        };
        let mut lives = self.lives.iter().map(|(id, life)| (*id, life));
        lives.find(|(_, life)| life.peer.address == Some(*address))
    }

    pub fn living(&self) -> usize {
        let ended = |life: &&Life| life.place != Place::Ended;
        self.lives.values().filter(ended).count()
    }
}

/// How an [`Echo`] answers; chosen by the connection's id, so that a connection's order is one.
#[derive(Clone, Copy, Debug)]
enum Answer {
    Copied,
    Encoded,
    SharedBytes,
    /// Broadcast, now and then between copies.
    Broadcast,
    /// Forwarded, now and then between copies.
    Forwarded,
    /// Leased, and sent when the slice ends.
    Leased,
    /// Posted to a shard, this one or another, and sent from there.
    Posted,
}

/// What an [`Echo`] posts.
#[derive(Debug)]
pub enum EchoPost {
    Answer(RouterId, Vec<u8>),
    Close(RouterId),
}

/// A handler that sends back what it receives, in every way there is.
pub struct Echo {
    log: SharedLog,
    leased: Vec<(RouterId, Option<Body>)>,
}

impl Echo {
    pub fn new(log: &SharedLog) -> Self {
        Self {
            log: Rc::clone(log),
            leased: Vec::new(),
        }
    }

    fn answer(id: RouterId) -> Answer {
        use Answer::{Broadcast, Copied, Encoded, Forwarded, Leased, Posted, SharedBytes};
        let all = [
            Copied,
            Encoded,
            SharedBytes,
            Broadcast,
            Forwarded,
            Leased,
            Posted,
        ];
        all[SimRandom::new(id.to_u64()).index(all.len())]
    }

    fn send(&self, cx: &mut Context<'_, EchoPost>, to: RouterId, body: &[u8]) {
        if self.log.borrow().is_spoiled(to) {
            return; // what came after a hole would not be a prefix
        }
        let sent = match Self::answer(to) {
            Answer::Encoded => cx
                .send_with(to, body.len() + 7, |room| {
                    room[..body.len()].copy_from_slice(body);
                    body.len()
                })
                .map(|_| ()),
            Answer::SharedBytes => cx.send_shared(to, &Bytes::copy_from_slice(body)),
            Answer::Broadcast if body.len() % 4 != 3 => {
                match cx.broadcast([to], &Bytes::copy_from_slice(body)) {
                    0 => Ok(()),
                    _ => {
                        self.give_up(cx, to);
                        return;
                    }
                }
            }
            _ => cx.send(to, body),
        };
        if sent.is_err() {
            self.give_up(cx, to);
        }
    }

    fn give_up(&self, cx: &mut Context<'_, EchoPost>, id: RouterId) {
        self.log.borrow_mut().spoil(id);
        cx.close(id);
    }

    fn post_to(cx: &Context<'_, EchoPost>, id: RouterId) -> usize {
        (SimRandom::new(id.to_u64() ^ 1).index(cx.shards()) + cx.shard()) % cx.shards()
    }
}

impl Handler for Echo {
    type Post = EchoPost;

    fn on_connect(&mut self, cx: &mut Context<'_, EchoPost>, id: RouterId, peer: &Peer) {
        self.log.borrow_mut().connected(cx.shard(), id, peer);
    }

    fn on_message(&mut self, cx: &mut Context<'_, EchoPost>, from: RouterId, m: Message<'_>) {
        self.log.borrow_mut().message(cx.shard(), from);
        match Self::answer(from) {
            Answer::Leased => self.leased.push((from, Some(m.lease()))),
            Answer::Posted => {
                let to = Self::post_to(cx, from);
                if cx.post(to, EchoPost::Answer(from, m.to_vec())).is_err() {
                    self.give_up(cx, from);
                }
            }
            Answer::Forwarded if m.len() % 4 != 3 => {
                let is_spoiled = self.log.borrow().is_spoiled(from);
                if !is_spoiled && cx.forward(from, &m).is_err() {
                    self.give_up(cx, from);
                }
            }
            _ => self.send(cx, from, &m),
        }
    }

    fn on_posted(&mut self, cx: &mut Context<'_, EchoPost>, posted: EchoPost) {
        match posted {
            EchoPost::Answer(to, body) => self.send(cx, to, &body),
            EchoPost::Close(id) => cx.close(id),
        }
    }

    fn on_read_closed(&mut self, cx: &mut Context<'_, EchoPost>, id: RouterId) {
        self.log.borrow_mut().read_closed(cx.shard(), id);
        match Self::answer(id) {
            Answer::Leased => self.leased.push((id, None)),
            Answer::Posted => {
                let to = Self::post_to(cx, id);
                if cx.post(to, EchoPost::Close(id)).is_err() {
                    self.give_up(cx, id);
                }
            }
            _ => cx.close(id),
        }
    }

    fn on_drained(&mut self, cx: &mut Context<'_, EchoPost>, id: RouterId) {
        self.log.borrow_mut().drained(cx.shard(), id);
    }

    fn on_disconnect(&mut self, cx: &mut Context<'_, EchoPost>, id: RouterId, why: &CloseReason) {
        self.log.borrow_mut().ended(cx.shard(), id, why);
    }

    fn run(&mut self, cx: &mut Context<'_, EchoPost>) -> Run {
        for (id, body) in std::mem::take(&mut self.leased) {
            match body {
                Some(body) => self.send(cx, id, &body),
                None => cx.close(id),
            }
        }
        Run::Idle
    }
}

/// A body in which every position differs from its neighbourhood and from other bodies.
pub fn body(mark: u64, length: usize) -> Vec<u8> {
    let mut random = SimRandom::new(mark);
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        bytes.extend_from_slice(&random.next_u64().to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// How a client ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Sends everything, finishes, reads to the end.
    Complete,
    /// The same, but what it sends ends inside a frame.
    MidFrame,
    /// Resets, closes or is cut off when it has written a part.
    Reset,
    Drop,
    Cut,
}

/// A client of an echo that the test drives; checks what comes back.
pub struct Client {
    peer: Option<SimPeer>,
    pub address: Address,
    pub plan: Plan,
    /// The stream it sends, ending inside a frame with `MidFrame`.
    out: Vec<u8>,
    /// How much of `out` are whole frames.
    whole: usize,
    /// Where `Reset`, `Drop` and `Cut` happen.
    stop_at: usize,
    written: usize,
    back: usize,
    /// It ended otherwise than planned.
    pub broken: bool,
}

impl Client {
    /// Connects to `to`, to send about `bytes` in frames of at most `frame_max`.
    pub fn new(net: &SimNet, to: &Address, bytes: usize, frame_max: usize) -> Self {
        let mut random = net.fork_random();
        let peer = net.connect(to.clone());
        let address = peer.local_addr().expect("it was just begun");
        let mut out = Vec::new();
        let mut whole = 0;
        while out.len() < bytes {
            let length = match random.below(8) {
                0 => 0,
                1 => frame_max,
                _ => random.between_log(1, frame_max as u64) as usize,
            };
            let length = length.min(bytes);
            whole = out.len();
            out.extend(frame(&body(random.next_u64(), length)));
        }
        let plan = match random.below(10) {
            0 => Plan::MidFrame,
            1 => Plan::Reset,
            2 => Plan::Drop,
            3 => Plan::Cut,
            _ => Plan::Complete,
        };
        if plan == Plan::MidFrame {
            let last = random.between(1, (out.len() - whole - 1) as u64);
            out.truncate(whole + last as usize);
        } else {
            whole = out.len();
        }
        let stop_at = match plan {
            Plan::Complete | Plan::MidFrame => usize::MAX,
            _ => random.index(out.len() + 1),
        };
        Self {
            peer: Some(peer),
            address,
            plan,
            out,
            whole,
            stop_at,
            written: 0,
            back: 0,
            broken: false,
        }
    }

    /// One that sends everything, whatever happens, and reads it all.
    pub fn patient(net: &SimNet, to: &Address, bytes: usize, frame_max: usize) -> Self {
        loop {
            let client = Self::new(net, to, bytes, frame_max);
            if client.plan == Plan::Complete {
                return client;
            }
        }
    }

    pub fn has_all(&self) -> bool {
        self.back == self.whole
    }

    pub fn is_done(&self) -> bool {
        self.peer.is_none()
    }

    /// Ends it where it is.
    pub fn leave(&mut self) {
        self.broken |= self.peer.take().is_some();
    }

    /// Does something, or nothing. True if bytes moved.
    pub fn act(&mut self, random: &mut SimRandom) -> bool {
        let Some(peer) = &mut self.peer else {
            return false;
        };
        let mut moved = 0;
        if random.chance(0.7) && self.written < self.out.len() {
            let most = random.between_log(1, 8192) as usize;
            let end = (self.written + most)
                .min(self.out.len())
                .min(self.stop_at.max(self.written));
            let written = peer.write(&self.out[self.written..end]);
            self.written += written;
            moved += written;
        }
        if random.chance(0.01) {
            peer.stall(random.duration(Duration::ZERO, 2 * SECOND));
        }
        let mut read = Vec::new();
        if random.chance(0.8) {
            moved += peer.read_at_most(random.between_log(1, 65536) as usize, &mut read);
        }
        let expected = self.out.get(self.back..self.back + read.len());
        assert!(
            expected == Some(&read[..]) && self.back + read.len() <= self.written,
            "{:?}: {} bytes that came back after {} are not what was sent",
            self.plan,
            read.len(),
            self.back,
        );
        self.back += read.len();
        if self.written == self.out.len() && self.stop_at == usize::MAX {
            peer.finish();
        }
        self.end_if_planned();
        moved > 0
    }

    fn end_if_planned(&mut self) {
        let Some(peer) = &mut self.peer else { return };
        // The network may break a connection after our end has learnt of its end.
        self.broken |= peer.error().is_some();
        if self.written >= self.stop_at || peer.is_read_closed() {
            match (self.plan, self.peer.take()) {
                (Plan::Reset, Some(peer)) => peer.reset(),
                (Plan::Cut, Some(mut peer)) => peer.cut(),
                _ => {}
            }
        } else if self.broken && peer.unread() == 0 {
            self.peer = None;
        }
    }

    /// Checks what became of it, once it is done and the engine knows.
    pub fn check(&self, log: &Log) {
        let (plan, back, whole) = (self.plan, self.back, self.whole);
        let Some((id, life)) = log.of_peer(&self.address) else {
            assert_eq!(back, 0, "{plan:?}: an answer without a connection");
            return; // shed for want of descriptors, or it left too early
        };
        let reason = life.reason.expect("it has ended");
        let planned = matches!(plan, Plan::Complete | Plan::MidFrame);
        if life.spoiled {
            return;
        }
        if self.broken || !planned {
            let known = ["broken", "peer_closed", "peer_closed_mid_frame"];
            assert!(known.contains(&reason), "{plan:?}: {reason}");
            return;
        }
        let expected = match plan {
            Plan::MidFrame => "peer_closed_mid_frame",
            _ => "peer_closed",
        };
        assert_eq!(reason, expected, "{plan:?}, {back} of {whole} came back");
        // An end inside a frame closes at once: answers that were still to be sent are not.
        let late = matches!(Echo::answer(id), Answer::Leased | Answer::Posted);
        if plan == Plan::Complete || !late {
            assert_eq!(back, whole, "{plan:?}: not everything came back");
        }
    }
}

/// How many bytes a client may send in this network so that it ends in reasonable time.
pub fn byte_budget(net: &SimNet) -> usize {
    let faults = net.faults();
    let segment = faults.segment_bytes.map_or(65536, |range| *range.start());
    let narrow = segment.min(*faults.buffer_bytes.start());
    (narrow * 30).clamp(120, 40_000)
}

/// Small limits, different for each seed, with which no message is refused. Lingering takes as
/// long as it takes.
pub fn random_limits(random: &mut SimRandom) -> Limits {
    let send_low = random.between_log(1, 8192) as usize;
    Limits::default()
        .frame_max(random.between_log(64, 16384) as usize)
        .receive_chunk(random.between_log(4096, 32768) as usize)
        .receive_chunks_max(random.between(1, 4) as usize)
        .send_low(send_low)
        .send_high(send_low + random.between_log(1, 16384) as usize)
        .send_queue_max(1 << 20)
        .mailbox_max(random.between_log(512, 4096) as usize)
        .linger(100 * HOUR)
}

/// What each shard may never hold more of.
pub fn check_limits(stats: &EngineStats, limits: &Limits) {
    for shard in &stats.shards {
        assert!(shard.connections <= limits.connections_max as u64);
        // Bytes are bounded by what is known when they are queued, leased memory a little later:
        // the buffer that a message goes into may be twice as long as the message needs.
        assert!(shard.send_queue_bytes <= limits.send_bytes_max as u64);
        let buffers = limits.send_bytes_max + 2 * (limits.send_queue_max + 4096);
        assert!(shard.send_buffer_bytes <= buffers as u64);
        assert!(shard.reassembly_bytes <= limits.reassembly_bytes_max as u64);
        let chunks = limits.receive_chunks_max * limits.receive_chunk;
        assert!(shard.receive_chunk_bytes <= chunks as u64);
        assert!(shard.mailbox_len <= limits.mailbox_max as u64);
    }
}

/// What an engine holds when all peers have gone: nothing.
pub fn check_empty(stats: &EngineStats) {
    let total = stats.total();
    assert_eq!(total.connections, 0, "connections");
    assert_eq!(total.send_queue_bytes, 0, "unsent bytes");
    assert_eq!(total.send_buffer_bytes, 0, "leased send buffers");
    assert_eq!(total.reassembly_bytes, 0, "leased reassembly memory");
    assert_eq!(total.mailbox_len, 0, "messages in mailboxes");
}

/// Waits ever longer as long as nothing happens.
#[derive(Debug)]
pub struct Pace {
    longest: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Self { longest: 1 << 14 }
    }
}

impl Pace {
    /// How long to let the engine run, given whether the last step moved anything.
    pub fn next(&mut self, random: &mut SimRandom, moved: bool) -> Duration {
        self.longest = if moved {
            1 << 17
        } else {
            (self.longest * 2).min(1 << 30)
        };
        Duration::from_nanos(random.between_log(1 << 10, self.longest))
    }
}

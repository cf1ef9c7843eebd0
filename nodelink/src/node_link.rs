//! [`NodeLink`]: all links of a node, on one shard of somebody's engine.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use proscenium_engine::timer::TimerWheel;
use proscenium_engine::{
    Address, CloseReason, ConnectError, ConnectId, Connector, Context, Framing, Limits, Listener,
    Message, Origin, Overflow, Peer as EnginePeer, RouterId, Time, TimerKey,
};
use proscenium_framing::zmtp::{Decoder, Handshake, Null, Properties};
use rustc_hash::FxHashMap;
use slab::Slab;

use crate::context::{NodeContext, NodeHandler};
use crate::dial::{Dial, EndpointId};
use crate::error::{LinkEnd, RequestError};
use crate::handle::{NodeHandle, PeerGauge, Shared};
use crate::link::{Direction, Link, LinkKey, Stage};
use crate::peer::{Peer, PeerId};
use crate::servers::Parting;
use crate::{Nid, NodeOptions};

/// READY's property by which Proscenium nodes know each other.
pub(crate) const MARK: (&str, &[u8]) = ("X-Proscenium", b"1");
/// READY's property that names one run of a node: 16 hexadecimal digits.
pub(crate) const RUN: &str = "X-Proscenium-Run";

/// What the low half of a timer's token means; greater numbers are endpoints.
pub(crate) const TICK: u64 = 0;
pub(crate) const DEADLINES: u64 = 1;
pub(crate) const DIALS: u64 = 2;

/// All links of a node: a part of a [`Handler`](proscenium_engine::Handler) that passes on to it
/// what concerns its connections, so that they live in the engine of a server whose other
/// connections are somebody else's. Each `on_…` here says whether the call was for it.
///
/// It lives on one shard; [`NodeHandle`]s reach it from the others. [`Node`](crate::Node) is one
/// with an engine of its own.
pub struct NodeLink {
    pub(crate) options: Arc<NodeOptions>,
    pub(crate) shared: Arc<Shared>,
    /// Which of the engine's listeners are ours.
    listeners: Vec<usize>,
    pub(crate) links: Slab<Link>,
    pub(crate) by_router: FxHashMap<RouterId, u32>,
    pub(crate) peers: Slab<Peer>,
    /// Names come from outside; never iterated.
    pub(crate) by_nid: HashMap<Nid, u32>,
    pub(crate) dials: Slab<Dial>,
    pub(crate) by_connect: FxHashMap<ConnectId, u32>,
    /// The servers of the directory that are dialled.
    pub(crate) followed: BTreeMap<Nid, (Address, EndpointId)>,
    /// Deadlines of requests.
    pub(crate) deadlines: TimerWheel<(PeerId, u32)>,
    pub(crate) armed: Option<(u64, TimerKey)>,
    /// Of links, peers and endpoints: no two have the same.
    generations: u32,
    /// The last turn of our sending, to whomever.
    pub(crate) turns: u64,
    /// This run of the node.
    pub(crate) run: u64,
    /// Memory of the tails of all links, in bytes.
    pub(crate) tail_bytes: usize,
    pub(crate) ended: [u64; LinkEnd::COUNT],
    pub(crate) unroutable: u64,
    pub(crate) replies_refused: u64,
    pub(crate) last_tick: Time,
    started: bool,
    pub(crate) ending: bool,
    /// Peers are told not to choose this node any more.
    pub(crate) leaving: bool,
    /// Links on which a peer is still to be told that we know it leaves.
    pub(crate) confirm: Vec<LinkKey>,
    /// Links to servers that have left the directory, until they are quiet.
    pub(crate) parting: Vec<Parting>,
}

impl NodeLink {
    /// The high half of the tokens of its timers and wakes; the embedder's own must not have it.
    pub const TOKEN: u64 = 0x4e4f_4445 << 32;

    /// A node without links. `listeners` are the numbers of the engine's listeners at which peers
    /// come in; make them with [`listener`](Self::listener).
    pub fn new(options: NodeOptions, listeners: &[usize]) -> Self {
        let options = Arc::new(options);
        Self {
            shared: Arc::new(Shared::new(Arc::clone(&options))),
            listeners: listeners.to_vec(),
            links: Slab::new(),
            by_router: FxHashMap::default(),
            peers: Slab::new(),
            by_nid: HashMap::new(),
            dials: Slab::new(),
            by_connect: FxHashMap::default(),
            followed: BTreeMap::new(),
            deadlines: TimerWheel::new(0),
            armed: None,
            generations: 0,
            turns: 0,
            run: 0,
            tail_bytes: 0,
            ended: [0; LinkEnd::COUNT],
            unroutable: 0,
            replies_refused: 0,
            last_tick: Time::ZERO,
            started: false,
            ending: false,
            leaving: false,
            confirm: Vec::new(),
            parting: Vec::new(),
            options,
        }
    }

    /// `listener` as peers need it: bytes as they are, and no pausing when a peer reads slowly. On
    /// an engine of several shards it is also to be told that only the node's shard accepts:
    /// [`Balance::Only`](proscenium_engine::Balance).
    pub fn listener(options: &NodeOptions, listener: Listener) -> Listener {
        let (idle, interval) = options.keep_alive;
        listener
            .framing(Framing::Raw)
            .overflow(Overflow::DropNewest)
            .keep_alive(idle, interval)
    }

    pub(crate) fn connector(&self, dial: &Dial) -> Connector {
        let (idle, interval) = self.options.keep_alive;
        Connector::to(dial.endpoint.address.clone())
            .deadline(self.options.handshake_deadline)
            .framing(Framing::Raw)
            .overflow(Overflow::DropNewest)
            .keep_alive(idle, interval)
    }

    /// Bounds for the engine of a node: those of every engine, but with receive chunks of 512 KiB,
    /// 8 of them at most, so that messages of up to that length are received in one piece, and up
    /// to 160 KiB read at once: two messages of 64 KiB with their headers.
    pub fn limits() -> Limits {
        Limits::default()
            .receive_chunk(512 << 10)
            .receive_max(160 << 10)
            .receive_chunks_max(8)
    }

    /// The node's name.
    pub fn nid(&self) -> &Nid {
        &self.options.nid
    }

    /// The longest payload that a message can have with any header of up to 4 KiB.
    pub fn payload_max(&self) -> usize {
        self.options.payload_max()
    }

    /// A handle for other threads.
    pub fn handle(&self) -> NodeHandle {
        NodeHandle::new(&self.shared)
    }

    /// The peer of that name, if it is known: connected, or about to be again.
    pub fn peer(&self, nid: &str) -> Option<PeerId> {
        let slot = *self.by_nid.get(nid)?;
        self.peers.get(slot as usize).map(|peer| peer.id)
    }

    /// Whether messages can be sent to a peer now.
    pub fn is_routable(&self, peer: PeerId) -> bool {
        self.peer_at(peer)
            .is_some_and(|peer| peer.current.is_some())
    }

    /// What threads and shards other than the node's see of a peer.
    pub fn gauge(&self, peer: PeerId) -> Option<PeerGauge> {
        let peer = self.peer_at(peer)?;
        Some(PeerGauge::new(&peer.gauge, &self.options))
    }

    /// Whether a connection is this node's.
    #[inline]
    pub fn owns(&self, id: RouterId) -> bool {
        self.by_router.contains_key(&id)
    }

    pub(crate) fn next_generation(&mut self) -> u32 {
        self.generations = self.generations.wrapping_add(1);
        self.generations
    }

    #[inline]
    pub(crate) fn link_at(&self, key: LinkKey) -> Option<&Link> {
        let link = self.links.get(key.slot as usize)?;
        (link.key == key).then_some(link)
    }

    #[inline]
    pub(crate) fn link_mut(&mut self, key: LinkKey) -> Option<&mut Link> {
        let link = self.links.get_mut(key.slot as usize)?;
        (link.key == key).then_some(link)
    }

    #[inline]
    pub(crate) fn peer_at(&self, id: PeerId) -> Option<&Peer> {
        let peer = self.peers.get(id.slot as usize)?;
        (peer.id == id).then_some(peer)
    }

    #[inline]
    pub(crate) fn peer_mut(&mut self, id: PeerId) -> Option<&mut Peer> {
        let peer = self.peers.get_mut(id.slot as usize)?;
        (peer.id == id).then_some(peer)
    }

    /// Begins: to be called in the handler's `on_start`.
    pub fn on_start<P>(&mut self, cx: &mut Context<'_, P>) {
        self.started = true;
        self.run = cx.random().max(1);
        self.last_tick = cx.now();
        self.deadlines = TimerWheel::new(cx.now().as_nanos());
        self.shared.start(cx.waker(Self::TOKEN));
        cx.set_timer(self.options.tick(), Self::TOKEN | TICK);
        let waiting: Vec<u32> = self.dials.iter().map(|(slot, _)| slot as u32).collect();
        for dial in waiting {
            self.attempt(cx, dial);
        }
    }

    pub(crate) fn is_started(&self) -> bool {
        self.started
    }

    /// A connection was made or accepted.
    pub fn on_connect<P>(
        &mut self,
        cx: &mut Context<'_, P>,
        id: RouterId,
        peer: &EnginePeer,
    ) -> bool {
        let direction = match peer.origin {
            Origin::Accepted { listener } if self.listeners.contains(&listener) => {
                Direction::Accepted
            }
            Origin::Outgoing(connect) => match self.by_connect.remove(&connect) {
                Some(dial) => Direction::Dialled { dial },
                None => return false,
            },
            _ => return false,
        };
        let refused = match (direction, peer.address) {
            _ if self.links.len() >= self.options.links_max || self.ending => Some(LinkEnd::Limit),
            (Direction::Accepted, Some(address)) if !self.options.allow.allows(address.ip()) => {
                tracing::warn!(%address, "a peer is not on the allow-list");
                Some(LinkEnd::NotAllowed)
            }
            _ => None,
        };
        self.add_link(cx, id, direction);
        if let (Some(end), Some(&slot)) = (refused, self.by_router.get(&id)) {
            let key = self.links[slot as usize].key;
            self.close(cx, key, end);
            return true;
        }
        true
    }

    /// Notes a connection and sends our greeting.
    fn add_link<P>(&mut self, cx: &mut Context<'_, P>, id: RouterId, direction: Direction) {
        let mut own = Properties::new();
        own.push("Socket-Type", b"ROUTER")
            .push("Identity", self.options.nid.as_bytes())
            .push(MARK.0, MARK.1)
            .push(RUN, format!("{:016x}", self.run).as_bytes());
        let mut greeting = Vec::new();
        let limits = self.options.zmtp;
        let handshake = Handshake::new(Null, own, limits, &mut greeting);
        let generation = self.next_generation();
        let entry = self.links.vacant_entry();
        let slot = entry.key() as u32;
        let key = LinkKey { slot, generation };
        let decoder = Decoder::new(limits);
        entry.insert(Link::new(key, id, direction, handshake, decoder, cx.now()));
        self.by_router.insert(id, slot);
        // Heartbeats find out who is dead; foreign peers without these may be silent for long.
        cx.disable_idle_timeout(id);
        if let Direction::Dialled { dial } = direction {
            self.connected(dial, slot);
        }
        // The first bytes of a connection; if they find no room, nothing does, and the handshake
        // does not end in time.
        let _ = cx.send(id, &greeting);
    }

    /// Bytes arrived.
    pub fn on_message<P, H: NodeHandler<P>>(
        &mut self,
        cx: &mut Context<'_, P>,
        handler: &mut H,
        from: RouterId,
        message: &Message<'_>,
    ) -> bool {
        let Some(&slot) = self.by_router.get(&from) else {
            return false;
        };
        self.received(cx, handler, slot, message);
        true
    }

    /// There is room again.
    pub fn on_drained<P, H: NodeHandler<P>>(
        &mut self,
        cx: &mut Context<'_, P>,
        handler: &mut H,
        id: RouterId,
    ) -> bool {
        let Some(&slot) = self.by_router.get(&id) else {
            return false;
        };
        self.pump(cx, slot);
        self.tell_room(cx, handler, slot);
        true
    }

    /// The peer finished: nothing further comes, and what it was sent is not read any more.
    pub fn on_read_closed<P>(&mut self, cx: &mut Context<'_, P>, id: RouterId) -> bool {
        let Some(&slot) = self.by_router.get(&id) else {
            return false;
        };
        let key = self.links[slot as usize].key;
        self.close(cx, key, LinkEnd::Closed);
        true
    }

    /// A connection ended.
    pub fn on_disconnect<P, H: NodeHandler<P>>(
        &mut self,
        cx: &mut Context<'_, P>,
        handler: &mut H,
        id: RouterId,
        _reason: &CloseReason,
    ) -> bool {
        let Some(slot) = self.by_router.remove(&id) else {
            return false;
        };
        let link = self.links.remove(slot as usize);
        let end = match link.stage {
            Stage::Closing(end) => end,
            _ => LinkEnd::Closed,
        };
        self.link_ended(cx, handler, link, end);
        true
    }

    /// An attempt to connect failed.
    pub fn on_connect_failed<P>(
        &mut self,
        cx: &mut Context<'_, P>,
        connect: ConnectId,
        error: &ConnectError,
    ) -> bool {
        let Some(dial) = self.by_connect.remove(&connect) else {
            return false;
        };
        tracing::debug!(nid = %self.nid(), %error, "an attempt to connect failed");
        self.ended[LinkEnd::ConnectFailed as usize] += 1;
        self.retry(cx, dial);
        true
    }

    /// A timer is due.
    pub fn on_timer<P, H: NodeHandler<P>>(
        &mut self,
        cx: &mut Context<'_, P>,
        handler: &mut H,
        token: u64,
    ) -> bool {
        if token & !u64::from(u32::MAX) != Self::TOKEN {
            return false;
        }
        match token & u64::from(u32::MAX) {
            TICK => self.tick(cx, handler),
            DEADLINES => {
                self.armed = None;
                self.expire(cx, handler);
            }
            dial => self.attempt(cx, (dial - DIALS) as u32),
        }
        true
    }

    /// A handle asked for something.
    pub fn on_wake<P, H: NodeHandler<P>>(
        &mut self,
        cx: &mut Context<'_, P>,
        handler: &mut H,
        token: u64,
    ) -> bool {
        if token != Self::TOKEN {
            return false;
        }
        self.run_commands(cx, handler);
        true
    }

    /// The engine shuts down: no further attempts to connect.
    pub fn on_shutdown<P>(&mut self, cx: &mut Context<'_, P>) {
        self.ending = true;
        let all: Vec<_> = self.dials.iter().map(|(_, dial)| dial.id).collect();
        for dial in all {
            self.forget_dial(cx, dial);
        }
    }

    /// Messages that wait, what handles have asked for, and requests without an answer, of this
    /// node and of others: for the handler's `pending_work`.
    pub fn pending_work(&self) -> usize {
        let requests = self.peers.iter().map(|(_, peer)| peer.requests.len());
        let of_links = self
            .links
            .iter()
            .map(|(_, link)| link.outbox.messages() + link.unanswered);
        requests.sum::<usize>() + of_links.sum::<usize>() + self.shared.queue.len()
    }

    /// What can be done with the node during a call.
    pub fn with<'n, 'c, P>(&'n mut self, cx: &'n mut Context<'c, P>) -> NodeContext<'n, 'c, P> {
        NodeContext::new(self, cx)
    }

    /// Sets the engine's timer to the first deadline of a request.
    pub(crate) fn arm<P>(&mut self, cx: &mut Context<'_, P>) {
        let Some(next) = self.deadlines.next_deadline() else {
            return;
        };
        match self.armed {
            Some((armed, _)) if armed <= next => return,
            Some((_, timer)) => {
                cx.cancel_timer(timer);
            }
            None => {}
        }
        let at = Time::from_nanos(next).max(cx.now() + Duration::from_micros(100));
        let timer = cx.set_timer_at(at, Self::TOKEN | DEADLINES);
        self.armed = Some((next, timer));
    }
}

impl Drop for NodeLink {
    /// Requests that are still unanswered fail; those that need a handler have none any more.
    fn drop(&mut self) {
        self.shared.stop();
        for (_, peer) in &mut self.peers {
            for pending in peer.requests.take_all() {
                pending.completion.fail(RequestError::Stopped);
            }
        }
    }
}

impl std::fmt::Debug for NodeLink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeLink")
            .field("nid", self.nid())
            .field("peers", &self.peers.len())
            .field("links", &self.links.len())
            .finish_non_exhaustive()
    }
}

//! Links that come up and end: which one a peer is sent on, and what becomes of the others.
//!
//! The order of messages holds although a peer may be sent on one link after the other:
//!
//! - If the present link is well when another one takes its place, a PING goes behind the last
//!   message, and what is sent on the other is held back until the PONG. ([`Fence`])
//! - If it was lost, what it still had under way may arrive afterwards, because the other end need
//!   not know yet. So a Proscenium node is told when sending begins on a link: by a PING whose
//!   context is a *turn*, a number that only grows. Messages by a link whose turn is not the newest
//!   are late, and end that link.

use std::sync::Arc;

use proscenium_engine::Context;
use proscenium_framing::zmtp::{Command, Established};

use crate::Nid;
use crate::context::{NodeContext, NodeHandler};
use crate::error::{LinkEnd, RequestError};
use crate::handle::Gauge;
use crate::link::{Direction, Link, LinkKey, Stage};
use crate::node_link::NodeLink;
use crate::peer::{Fence, Peer, PeerId};
use crate::receive::Introduced;
use crate::requests::Requests;
use crate::stats::PeerCounters;

impl NodeLink {
    /// The handshake is over. False if the link does not come up.
    pub(crate) fn establish<P, H: NodeHandler<P>>(
        &mut self,
        cx: &mut Context<'_, P>,
        handler: &mut H,
        key: LinkKey,
        established: &Established,
    ) -> bool {
        let admitted = Introduced::new(established)
            .map_err(|reason| (LinkEnd::Refused, reason))
            .and_then(|peer| self.admit(cx, key, &peer).map(|id| (peer, id)));
        let (introduced, id) = match admitted {
            Ok(admitted) => admitted,
            Err((end, reason)) => {
                tracing::warn!(nid = %self.nid(), reason, "a peer is refused");
                let mut told = Vec::new();
                let reason = reason.as_bytes();
                Command::Error { reason }.encode(&mut told);
                self.transmit_command(cx, key, &told);
                self.close_told(cx, key, end);
                return false;
            }
        };
        let Some(link) = self.link_mut(key) else {
            return false;
        };
        link.stage = Stage::Up(id);
        link.pings = introduced.pings;
        link.run = introduced.run;
        link.since = cx.now();
        link.waiting_ticks = None;
        let direction = link.direction;
        let Some(peer) = self.peer_mut(id) else {
            return false;
        };
        peer.counters.links_up += 1;
        let is_anew = std::mem::replace(&mut peer.run, introduced.run) != introduced.run;
        if is_anew {
            peer.turn_in = 0;
            peer.gauge.set_leaving(false);
        }
        let (before, other) = if direction.is_dialled() {
            (peer.dialled.replace(key), peer.accepted)
        } else {
            (peer.accepted.replace(key), peer.dialled)
        };
        if is_anew {
            self.shared.changed(); // also if the peer can be reached as before
        }
        tracing::debug!(peer = %introduced.nid, ?direction, "a link is up");
        if let Some(before) = before {
            self.close(cx, before, LinkEnd::Handover);
        }
        // Another run of the same node: the peer has restarted, what is left of the earlier one
        // is dead.
        if let Some(other) = other
            && self
                .link_at(other)
                .is_some_and(|link| link.run != introduced.run)
        {
            self.close(cx, other, LinkEnd::Superseded);
        }
        if let Some(dial) = self.dial_of(key) {
            self.dials[dial as usize].answered = Some(introduced.nid);
        }
        self.choose(cx, id);
        self.tell_leaving(cx, key);
        self.tell_up(cx, handler, id);
        self.link_at(key).is_some_and(|link| link.peer().is_some())
    }

    /// Whether this peer may come in on this link, and its entry.
    fn admit<P>(
        &mut self,
        cx: &mut Context<'_, P>,
        key: LinkKey,
        peer: &Introduced,
    ) -> Result<PeerId, (LinkEnd, String)> {
        let nid = &peer.nid;
        if nid == self.nid() {
            return Err((LinkEnd::Refused, format!("{nid} is my own name")));
        }
        if let Some(dial) = self.dial_of(key) {
            let expected = self.dials[dial as usize].endpoint.nid.as_ref();
            if expected.is_some_and(|expected| expected != nid) {
                return Err((LinkEnd::Refused, format!("{nid} is not whom I called")));
            }
            let known = self
                .by_nid
                .get(nid)
                .and_then(|&at| self.peers.get(at as usize));
            if known.is_some_and(|known| known.dialled.is_some()) {
                return Err((LinkEnd::Duplicate, format!("I have called {nid} already")));
            }
        }
        if let Some(id) = self.peer(nid) {
            return Ok(id);
        }
        if self.peers.len() >= self.options.peers_max {
            return Err((LinkEnd::Limit, "too many peers".to_owned()));
        }
        let first = cx.random() as u32; // the low half is as random
        Ok(self.add_peer(nid, first))
    }

    fn add_peer(&mut self, nid: &Nid, first_number: u32) -> PeerId {
        let generation = self.next_generation();
        let entry = self.peers.vacant_entry();
        let slot = entry.key() as u32;
        let id = PeerId { slot, generation };
        let gauge = Arc::new(Gauge::default());
        self.shared.add(nid, &gauge);
        entry.insert(Peer {
            id,
            nid: nid.clone(),
            dialled: None,
            accepted: None,
            current: None,
            fence: None,
            turn_in: 0,
            run: 0,
            requests: Requests::new(first_number),
            counters: PeerCounters::default(),
            told_up: false,
            gauge,
        });
        self.by_nid.insert(nid.clone(), slot);
        id
    }

    /// Decides which link a peer is sent on. If the present one is well, what is sent on the next
    /// is held back until everything sent before has arrived: the order of messages holds.
    pub(crate) fn choose<P>(&mut self, cx: &mut Context<'_, P>, id: PeerId) {
        let split = self.options.split;
        let Some(peer) = self.peer_mut(id) else {
            return;
        };
        let wanted = peer.wanted(split);
        if wanted == peer.current {
            return;
        }
        let old = std::mem::replace(&mut peer.current, wanted);
        peer.gauge.set_up(wanted.is_some());
        self.shared.changed();
        let old = old.and_then(|key| self.link_at(key));
        let busy = old.filter(|link| link.pings && link.messages_out > 0 && link.peer().is_some());
        let (Some(busy), Some(next)) = (busy, wanted) else {
            if let Some(key) = wanted {
                self.begin_turn(cx, key, false);
            }
            return;
        };
        let old = busy.key;
        let nonce = cx.random();
        let mut ping = Vec::with_capacity(32);
        let context = &nonce.to_be_bytes();
        Command::Ping { ttl: 0, context }.encode(&mut ping);
        if !self.transmit_command(cx, old, &ping) {
            return self.close(cx, old, LinkEnd::Overflow);
        }
        if let Some(link) = self.link_mut(old) {
            link.waiting_ticks.get_or_insert(0);
            link.ping_end = link.bytes_out;
        }
        if let Some(link) = self.link_mut(next) {
            link.held = true;
        }
        if let Some(peer) = self.peer_mut(id) {
            peer.fence = Some(Fence { old, nonce });
        }
    }

    /// A PONG: of a heartbeat, or the answer behind the last message on the old link.
    pub(crate) fn pong<P>(
        &mut self,
        cx: &mut Context<'_, P>,
        id: PeerId,
        key: LinkKey,
        context: &[u8],
    ) {
        self.knows_of_leaving(key, context);
        let fence = self.peer_at(id).and_then(|peer| peer.fence);
        if fence.is_some_and(|fence| fence.old == key && context == fence.nonce.to_be_bytes()) {
            self.release(cx, id);
        }
    }

    /// Everything sent on the old link has arrived, or never will.
    fn release<P>(&mut self, cx: &mut Context<'_, P>, id: PeerId) {
        let Some(peer) = self.peer_mut(id) else {
            return;
        };
        peer.fence = None;
        for key in peer.links() {
            if let Some(link) = self.link_mut(key)
                && std::mem::take(&mut link.held)
            {
                self.begin_turn(cx, key, true);
                self.pump(cx, key.slot);
            }
        }
    }

    /// Tells a Proscenium node that it is sent on this link from now on. `fresh`: nothing of what
    /// waits for the link has begun to leave, and all of it comes after this.
    fn begin_turn<P>(&mut self, cx: &mut Context<'_, P>, key: LinkKey, fresh: bool) {
        let Some(link) = self
            .link_at(key)
            .filter(|link| link.is_wide() && link.pings)
        else {
            return;
        };
        let id = link.id;
        self.turns += 1;
        let mut ping = Vec::with_capacity(32);
        let context = &turn_context(self.turns);
        Command::Ping { ttl: 0, context }.encode(&mut ping);
        let told = if fresh {
            cx.send(id, &ping).is_ok()
        } else {
            self.transmit_command(cx, key, &ping)
        };
        if !told {
            self.close(cx, key, LinkEnd::Overflow);
        }
    }

    /// A PING of the peer: if it begins a turn, that is noted.
    pub(crate) fn turn_begins(&mut self, id: PeerId, key: LinkKey, context: &[u8]) {
        let Some(turn) = turn_of(context) else {
            return;
        };
        if let Some(link) = self.link_mut(key)
            && link.is_wide()
        {
            link.turn_in = link.turn_in.max(turn);
            if let Some(peer) = self.peer_mut(id) {
                peer.turn_in = peer.turn_in.max(turn);
            }
        }
    }

    /// Tells the handler whether the peer can be reached, if that has changed.
    fn tell_up<P, H: NodeHandler<P>>(
        &mut self,
        cx: &mut Context<'_, P>,
        handler: &mut H,
        id: PeerId,
    ) {
        let Some(peer) = self.peer_mut(id) else {
            return;
        };
        let up = peer.current.is_some();
        if std::mem::replace(&mut peer.told_up, up) == up {
            return;
        }
        let nid = peer.nid.clone();
        self.shared.changed();
        let cx = &mut NodeContext::new(self, cx);
        if up {
            handler.on_peer_up(cx, id, &nid);
        } else {
            handler.on_peer_down(cx, id, &nid);
        }
    }

    /// Closes a link at once; what is queued for it is lost. The engine tells its end.
    pub(crate) fn close<P>(&mut self, cx: &mut Context<'_, P>, key: LinkKey, end: LinkEnd) {
        if let Some(id) = self.begin_close(cx, key, end) {
            cx.abort(id);
        }
    }

    /// Closes a link once the peer has read why.
    pub(crate) fn close_told<P>(&mut self, cx: &mut Context<'_, P>, key: LinkKey, end: LinkEnd) {
        if let Some(id) = self.begin_close(cx, key, end) {
            cx.close(id);
        }
    }

    fn begin_close<P>(
        &mut self,
        cx: &mut Context<'_, P>,
        key: LinkKey,
        end: LinkEnd,
    ) -> Option<proscenium_engine::RouterId> {
        let link = self.link_mut(key)?;
        let (id, peer) = (link.id, link.peer());
        if matches!(link.stage, Stage::Closing(_)) {
            return None;
        }
        link.stage = Stage::Closing(end);
        link.closing_peer = peer;
        if let Some(peer) = peer {
            self.detach(cx, peer, key);
        }
        Some(id)
    }

    /// The peer is not sent on that link any more.
    fn detach<P>(&mut self, cx: &mut Context<'_, P>, id: PeerId, key: LinkKey) {
        let Some(peer) = self.peer_mut(id) else {
            return;
        };
        for link in [&mut peer.dialled, &mut peer.accepted] {
            if *link == Some(key) {
                *link = None;
            }
        }
        if peer.current == Some(key) {
            peer.current = None;
            peer.gauge.set_up(false);
        }
        let fence = peer.fence;
        if fence.is_some_and(|fence| fence.old == key) || peer.current.is_none() {
            self.release(cx, id);
        }
        self.choose(cx, id);
        self.shared.changed();
    }

    /// The engine has told that a link's connection is gone.
    pub(crate) fn link_ended<P, H: NodeHandler<P>>(
        &mut self,
        cx: &mut Context<'_, P>,
        handler: &mut H,
        link: Link,
        end: LinkEnd,
    ) {
        self.ended[end as usize] += 1;
        self.tail_bytes -= link.tail.capacity();
        let key = link.key;
        if let Some(id) = link.peer().or(link.closing_peer) {
            tracing::debug!(nid = %self.nid(), reason = end.name(), "a link has ended");
            self.detach(cx, id, key);
            let lost = match self.peer_mut(id) {
                Some(peer) => {
                    peer.counters.messages_lost += link.outbox.messages() as u64;
                    let lost = peer.requests.link_lost(key);
                    peer.counters.requests_lost += lost.len() as u64;
                    peer.gauge.set_pending(peer.requests.len());
                    peer.gauge.clear_queued();
                    lost
                }
                None => Vec::new(),
            };
            for pending in lost {
                self.deadlines.cancel(pending.deadline);
                self.complete(cx, handler, pending.completion, Err(RequestError::LinkLost));
            }
            self.tell_up(cx, handler, id);
            self.forget_peer(id);
        }
        if let Direction::Dialled { dial } = link.direction
            && self.is_attempt_of(dial, key.slot)
        {
            self.retry(cx, dial);
        }
    }

    /// Forgets a peer of which there is nothing left.
    fn forget_peer(&mut self, id: PeerId) {
        let Some(peer) = self.peer_at(id) else {
            return;
        };
        let awaited = self.dials.iter().any(|(_, dial)| {
            let nid = dial.endpoint.nid.as_ref().or(dial.answered.as_ref());
            nid == Some(&peer.nid)
        });
        if peer.links().next().is_none() && peer.requests.len() == 0 && !awaited {
            let peer = self.peers.remove(id.slot as usize);
            self.by_nid.remove(&peer.nid);
            self.shared.remove(&peer.nid);
        }
    }
}

/// What the context of a PING that begins a turn begins with.
const TURN: &[u8; 4] = b"turn";

fn turn_context(turn: u64) -> [u8; 12] {
    let mut context = [0; 12];
    context[..4].copy_from_slice(TURN);
    context[4..].copy_from_slice(&turn.to_be_bytes());
    context
}

fn turn_of(context: &[u8]) -> Option<u64> {
    let turn = context.strip_prefix(TURN)?;
    Some(u64::from_be_bytes(turn.try_into().ok()?))
}

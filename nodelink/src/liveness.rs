//! What happens with time: heartbeats, dead peers, deadlines of requests.
//!
//! Links are looked at in ticks, and time is counted in them: a shard that was late, or a machine
//! that slept, sees one tick pass, so that nobody is called dead whose bytes wait in the socket.

use proscenium_engine::Context;
use proscenium_framing::zmtp::Command;

use crate::context::NodeHandler;
use crate::error::{LinkEnd, RequestError};
use crate::link::{Direction, Link, LinkKey, Stage};
use crate::node_link::{NodeLink, TICK};
use crate::stats::{NodeStats, PeerStats};

/// What a look at a link says.
enum Verdict {
    Well,
    Ping,
    Over(LinkEnd),
}

impl NodeLink {
    pub(crate) fn tick<P, H: NodeHandler<P>>(&mut self, cx: &mut Context<'_, P>, handler: &mut H) {
        cx.set_timer(self.options.tick(), Self::TOKEN | TICK);
        self.last_tick = cx.now();
        let all: Vec<LinkKey> = self.links.iter().map(|(_, link)| link.key).collect();
        for key in all {
            self.pump(cx, key.slot);
            if let Some(link) = self.link_mut(key) {
                link.outbox.rest();
            }
            self.tell_room(cx, handler, key.slot);
            match self.look_at(cx, key) {
                Verdict::Well => {}
                Verdict::Ping => self.ping(cx, key),
                Verdict::Over(end) => {
                    tracing::warn!(nid = %self.nid(), reason = end.name(), "a link is closed");
                    self.close(cx, key, end);
                }
            }
        }
        self.settle_dials(cx);
        self.part(cx);
        // What handles asked for while the wake was under way is not lost, but may wait for this.
        self.run_commands(cx, handler);
    }

    fn look_at<P>(&mut self, cx: &mut Context<'_, P>, key: LinkKey) -> Verdict {
        let options = std::sync::Arc::clone(&self.options);
        let Some(link) = self.link_mut(key) else {
            return Verdict::Well;
        };
        let is_up = match link.stage {
            Stage::Closing(_) => return Verdict::Well,
            Stage::Handshaking(_) => false,
            Stage::Up(_) => true,
        };
        let waits = link.outbox.bytes() + cx.queued_bytes(link.id).unwrap_or(0);
        let left = link.bytes_out.saturating_sub(waits as u64);
        if let Some(ticks) = &mut link.waiting_ticks {
            // A PING behind much else is not unanswered, but not yet asked.
            *ticks += u32::from(!is_up || left >= link.ping_end);
            if !is_up && *ticks > options.ticks(options.handshake_deadline) {
                return Verdict::Over(LinkEnd::HandshakeTimeout);
            }
            if is_up && *ticks > options.ticks(options.dead_after) {
                return Verdict::Over(LinkEnd::Dead);
            }
        }
        if !is_up {
            return Verdict::Well;
        }
        link.silent_ticks = link.silent_ticks.saturating_add(1);
        if link
            .ttl_ticks
            .is_some_and(|most| link.silent_ticks > most.max(4))
        {
            return Verdict::Over(LinkEnd::Dead);
        }
        if waits == 0 || left != link.left || link.held {
            link.stuck_ticks = 0;
        } else {
            link.stuck_ticks += 1;
        }
        link.left = left;
        if link.stuck_ticks > options.ticks(options.dead_after) {
            return Verdict::Over(LinkEnd::Dead);
        }
        let now = cx.now();
        if link.last_sent.0 != link.bytes_out {
            link.last_sent = (link.bytes_out, now);
        }
        // Our PINGs say when we want to be taken for dead, so we must not be silent either, however
        // much we are told meanwhile.
        let quiet = now.since(link.last_received) >= options.heartbeat
            || now.since(link.last_sent.1) >= options.heartbeat;
        if quiet && link.pings && link.waiting_ticks.is_none() {
            return Verdict::Ping;
        }
        Verdict::Well
    }

    fn ping<P>(&mut self, cx: &mut Context<'_, P>, key: LinkKey) {
        let tenths = self.options.dead_after.as_millis().div_ceil(100);
        let ttl = u16::try_from(tenths).unwrap_or(u16::MAX);
        let mut ping = Vec::with_capacity(32);
        Command::Ping { ttl, context: &[] }.encode(&mut ping);
        if self.transmit_command(cx, key, &ping)
            && let Some(link) = self.link_mut(key)
        {
            link.waiting_ticks = Some(0);
            link.ping_end = link.bytes_out;
        }
    }

    /// A link that has been up for the longest back-off is proof enough that the peer is well,
    /// also if it has nothing to say.
    fn settle_dials<P>(&mut self, cx: &mut Context<'_, P>) {
        let now = cx.now();
        for (_, link) in &self.links {
            let settled =
                link.peer().is_some() && now.since(link.since) >= self.options.backoff.max;
            if settled
                && let Direction::Dialled { dial } = link.direction
                && let Some(dial) = self.dials.get_mut(dial as usize)
            {
                dial.attempts = 0;
            }
        }
    }

    /// Requests whose deadline has come.
    pub(crate) fn expire<P, H: NodeHandler<P>>(
        &mut self,
        cx: &mut Context<'_, P>,
        handler: &mut H,
    ) {
        let now = cx.now().as_nanos();
        while let Some((id, seq)) = self.deadlines.pop_due(now) {
            let Some(peer) = self.peer_at(id) else {
                continue;
            };
            let links: Vec<LinkKey> = peer.links().collect();
            let Some(peer) = self.peer_mut(id) else {
                continue;
            };
            let Some(pending) = peer.requests.timed_out(seq) else {
                continue;
            };
            peer.counters.timeouts += 1;
            peer.gauge.set_pending(peer.requests.len());
            let sent = pending.sent_ns;
            self.complete(cx, handler, pending.completion, Err(RequestError::TimedOut));
            // A peer from which nothing at all came since it was asked, long ago, is dead, and its
            // other requests need not wait: peers of ZMTP 3.0 cannot be asked by PING.
            let heard = |key: &LinkKey| {
                let link = self.link_at(*key);
                link.is_some_and(|link| link.last_received.as_nanos() > sent)
            };
            let long_ago = u128::from(now - sent) >= self.options.dead_after.as_nanos();
            if long_ago && !links.is_empty() && !links.iter().any(heard) {
                for key in links {
                    self.close(cx, key, LinkEnd::Dead);
                }
            }
        }
        self.arm(cx);
    }

    pub(crate) fn stats<P>(&self, cx: &Context<'_, P>) -> NodeStats {
        let queued = |link: &Link| link.outbox.bytes() + cx.queued_bytes(link.id).unwrap_or(0);
        let mut peers: Vec<PeerStats> = Vec::with_capacity(self.peers.len());
        for (_, peer) in &self.peers {
            let links = || peer.links().filter_map(|key| self.link_at(key));
            peers.push(PeerStats {
                nid: peer.nid.clone(),
                dialled: peer.dialled.is_some(),
                accepted: peer.accepted.is_some(),
                proscenium: links().any(Link::is_wide),
                counters: peer.counters,
                pending: peer.requests.len(),
                unanswered: links().map(|link| link.unanswered).sum(),
                leaving: peer.gauge.is_leaving(),
                queued_messages: links().map(|link| link.outbox.messages()).sum(),
                queued_bytes: links().map(queued).sum(),
            });
        }
        peers.sort_by(|a, b| a.nid.cmp(&b.nid));
        NodeStats {
            peers,
            ended: self.ended,
            links: self.links.len(),
            reassembly_bytes: self.tail_bytes,
            unroutable: self.unroutable,
            replies_refused: self.replies_refused,
        }
    }
}

//! Sends, requests and replies: which link, which number, which queue.

use std::time::Duration;

use proscenium_engine::{Context, SendError as EngineError};
use proscenium_framing::packet::ErrorCode;
use proscenium_framing::route::RouteHeader;
use slab::Slab;

use crate::completion::Completion;
use crate::context::{NodeContext, NodeHandler};
use crate::error::{LinkEnd, SendError};
use crate::link::{Link, LinkKey, Stage};
use crate::message::{Head, LONG, Outgoing, Payload, ReplyTo, Share};
use crate::node_link::NodeLink;
use crate::options::NodeOptions;
use crate::peer::{Peer, PeerId};
use crate::requests::Pending;

/// Longer messages are queued in pieces rather than written into the engine's buffer at once.
const DIRECT_MAX: usize = 2 * LONG;

/// A longer message id is left out where a reply is replaced.
const EXCUSE_ID_MAX: usize = 128;

impl NodeLink {
    pub(crate) fn send<P>(
        &mut self,
        cx: &mut Context<'_, P>,
        to: PeerId,
        header: &RouteHeader<'_>,
        payload: Payload<'_>,
    ) -> Result<(), SendError> {
        let key = self.route(to)?;
        let header = RouteHeader {
            msg_seq: 0,
            is_reply: false,
            ..*header
        };
        self.transmit_header(cx, key, to, header, payload, Share::Ordinary)
    }

    /// On failure the completion is given back, unused.
    pub(crate) fn request<P>(
        &mut self,
        cx: &mut Context<'_, P>,
        to: PeerId,
        header: &RouteHeader<'_>,
        payload: Payload<'_>,
        deadline: Option<Duration>,
        completion: Completion,
    ) -> Result<(), (SendError, Completion)> {
        let (key, seq) = match self.number(to) {
            Ok(numbered) => numbered,
            Err(error) => return Err((error, completion)),
        };
        let header = RouteHeader {
            msg_seq: seq,
            is_reply: false,
            ..*header
        };
        let share = Share::Ordinary;
        if let Err(error) = self.transmit_header(cx, key, to, header, payload, share) {
            return Err((error, completion));
        }
        self.await_reply(cx, to, key, seq, deadline, completion);
        Ok(())
    }

    /// The link and the number of a request to `to`. The number is taken by
    /// [`await_reply`](Self::await_reply).
    pub(crate) fn number(&mut self, to: PeerId) -> Result<(LinkKey, u32), SendError> {
        let key = self.route(to)?;
        let wide = self.link_at(key).is_some_and(Link::is_wide);
        let most = self.options.requests_max;
        let peer = self.peer_mut(to).ok_or(SendError::Unroutable)?;
        if peer.requests.len() >= most {
            peer.counters.refused_full += 1;
            return Err(SendError::Full);
        }
        match peer.requests.number(wide) {
            Some(seq) => Ok((key, seq)),
            None => {
                peer.counters.refused_full += 1;
                Err(SendError::Full)
            }
        }
    }

    /// A request is on its way.
    pub(crate) fn await_reply<P>(
        &mut self,
        cx: &mut Context<'_, P>,
        to: PeerId,
        link: LinkKey,
        seq: u32,
        deadline: Option<Duration>,
        completion: Completion,
    ) {
        let now = cx.now();
        let at = now + deadline.unwrap_or(self.options.request_deadline);
        let deadline = self.deadlines.insert(at.as_nanos(), (to, seq));
        let wide = self.link_at(link).is_some_and(Link::is_wide);
        let pending = Pending {
            completion,
            link,
            wide,
            deadline,
            sent_ns: now.as_nanos(),
        };
        if let Some(peer) = self.peer_mut(to) {
            peer.counters.requests += 1;
            peer.requests.insert(seq, pending);
            peer.gauge.set_pending(peer.requests.len());
        }
        self.arm(cx);
    }

    pub(crate) fn reply<P>(
        &mut self,
        cx: &mut Context<'_, P>,
        to: &ReplyTo,
        header: &RouteHeader<'_>,
        payload: Payload<'_>,
    ) -> Result<(), SendError> {
        let key = self.reply_route(to)?;
        let header = RouteHeader {
            msg_seq: to.seq,
            is_reply: true,
            ..*header
        };
        let sent = self.transmit_header(cx, key, to.peer, header, payload, Share::Reply);
        if let Err(error) = sent {
            self.reply_failed(cx, key, to, &header, error);
        }
        sent
    }

    /// A reply with that header was not sent.
    #[cold]
    pub(crate) fn reply_failed<P>(
        &mut self,
        cx: &mut Context<'_, P>,
        key: LinkKey,
        to: &ReplyTo,
        reply: &RouteHeader<'_>,
        error: SendError,
    ) {
        match error {
            SendError::Full | SendError::TooLong { .. } => self.excuse(cx, key, to, reply),
            // The end of the link, which is about to be told, tells who asked.
            _ => self.replies_refused += 1,
        }
    }

    /// Who asked is told by an empty reply with code 14 that there is no other, or if there is no
    /// room even for that, by the end of the link on which it asked.
    fn excuse<P>(
        &mut self,
        cx: &mut Context<'_, P>,
        key: LinkKey,
        to: &ReplyTo,
        reply: &RouteHeader<'_>,
    ) {
        let fits = reply.msg_id.len() <= EXCUSE_ID_MAX;
        let header = RouteHeader {
            msg_seq: to.seq,
            is_reply: true,
            service_id: reply.service_id,
            msg_id: if fits { reply.msg_id } else { "" },
            error_code: ErrorCode::SYSTEM_ERROR.0.into(),
            stage_id: reply.stage_id,
            ..RouteHeader::default()
        };
        let empty = Payload::Borrowed(&[]);
        let told = self.transmit_header(cx, key, to.peer, header, empty, Share::Excuse);
        if told.is_err() {
            tracing::warn!(nid = %self.nid(), "a peer asks and does not read what it is answered");
            return self.close(cx, to.link, LinkEnd::Overflow);
        }
        if let Some(peer) = self.peer_mut(to.peer) {
            peer.counters.replies_replaced += 1;
        }
    }

    /// Whether a request of that peer can be accepted; if not, it has been answered so.
    #[inline]
    pub(crate) fn accepts<P>(
        &mut self,
        cx: &mut Context<'_, P>,
        to: &ReplyTo,
        request: &RouteHeader<'_>,
    ) -> bool {
        // Without a link for the reply there is nothing that could be full.
        let Ok(key) = self.route(to.peer) else {
            return true;
        };
        let queued = self.link_at(key).map_or(0, |link| link.outbox.bytes());
        if self.options.accepts_requests(queued) {
            return true;
        }
        if let Some(link) = self.link_mut(to.link) {
            link.unanswered = link.unanswered.saturating_sub(1);
        }
        if let Some(peer) = self.peer_mut(to.peer) {
            peer.counters.requests_refused += 1;
        }
        self.excuse(cx, key, to, request);
        false
    }

    /// The link for a reply. Who asked fails the request when its link ends, so a reply after that
    /// could only meet another request of the same number.
    pub(crate) fn reply_route(&mut self, to: &ReplyTo) -> Result<LinkKey, SendError> {
        let asked_by = self.link_mut(to.link);
        let alive = asked_by.is_some_and(|link| {
            // Whatever becomes of this answer, there will be no other.
            link.unanswered = link.unanswered.saturating_sub(1);
            matches!(link.stage, Stage::Up(_))
        });
        let route = if alive {
            self.route(to.peer)
        } else {
            Err(SendError::LinkGone)
        };
        let same_run = |key: &LinkKey| {
            let link = self.link_at(*key);
            link.is_some_and(|link| to.run == 0 || link.run == to.run)
        };
        match route {
            Ok(key) if same_run(&key) => Ok(key),
            Ok(_) => {
                self.replies_refused += 1;
                Err(SendError::LinkGone)
            }
            Err(error) => {
                self.replies_refused += 1;
                Err(error)
            }
        }
    }

    #[inline]
    pub(crate) fn route(&self, to: PeerId) -> Result<LinkKey, SendError> {
        let peer = self.peer_at(to).ok_or(SendError::Unroutable)?;
        peer.current.ok_or(SendError::Unroutable)
    }

    fn transmit_header<P>(
        &mut self,
        cx: &mut Context<'_, P>,
        key: LinkKey,
        to: PeerId,
        header: RouteHeader<'_>,
        payload: Payload<'_>,
        share: Share,
    ) -> Result<(), SendError> {
        let length = payload.len();
        let Self {
            options,
            links,
            peers,
            ..
        } = self;
        let header = RouteHeader {
            from: &options.nid,
            payload_size: u32::try_from(length).unwrap_or(u32::MAX), // too long then, told below
            ..header
        };
        let outgoing = Outgoing::new(Head::Route(header), payload).with_share(share);
        transmit(cx, options, (links, key), (peers, to), &outgoing, length)
    }

    /// Puts a message into the engine's send queue, or behind those that wait.
    pub(crate) fn transmit<P>(
        &mut self,
        cx: &mut Context<'_, P>,
        key: LinkKey,
        to: PeerId,
        outgoing: &Outgoing<'_>,
        payload: usize,
    ) -> Result<(), SendError> {
        let (links, peers) = (&mut self.links, &mut self.peers);
        transmit(
            cx,
            &self.options,
            (links, key),
            (peers, to),
            outgoing,
            payload,
        )
    }

    /// Moves what waits for a link into the engine's send queue, as far as there is room.
    pub(crate) fn pump<P>(&mut self, cx: &mut Context<'_, P>, slot: u32) {
        let Some(link) = self.links.get_mut(slot as usize) else {
            return;
        };
        pump(cx, link);
        let (outbox, peer) = (&link.outbox, link.peer());
        if let Some(peer) = peer.and_then(|peer| self.peers.get(peer.slot as usize)) {
            peer.gauge.set_queued(outbox);
        }
    }

    /// Tells the handler once that a queue which was full has room.
    pub(crate) fn tell_room<P, H: NodeHandler<P>>(
        &mut self,
        cx: &mut Context<'_, P>,
        handler: &mut H,
        slot: u32,
    ) {
        let Some(link) = self.links.get_mut(slot as usize) else {
            return;
        };
        let (options, outbox) = (&self.options, &link.outbox);
        let has_room = outbox.messages() <= options.queue_messages_max / 2
            && outbox.bytes() <= options.queue_bytes_max / 2;
        if !link.told_full || !has_room {
            return;
        }
        link.told_full = false;
        if let Some(peer) = link.peer().and_then(|peer| self.peer_at(peer)) {
            let (id, nid) = (peer.id, peer.nid.clone());
            handler.on_room(&mut NodeContext::new(self, cx), id, &nid);
        }
    }

    /// Queues bytes of ours, which must not be refused: commands.
    pub(crate) fn transmit_command<P>(
        &mut self,
        cx: &mut Context<'_, P>,
        key: LinkKey,
        bytes: &[u8],
    ) -> bool {
        let (_, most) = self.options.queue_max(Share::Excuse);
        let most = most.saturating_add(64 << 10);
        let Some(link) = self.link_mut(key) else {
            return false;
        };
        link.bytes_out += bytes.len() as u64;
        if link.outbox.is_empty() && cx.send(link.id, bytes).is_ok() {
            return true;
        }
        if link.outbox.bytes() > most {
            return false;
        }
        link.outbox.push_with(0, |_| {}, bytes, 0);
        true
    }
}

/// See [`NodeLink::transmit`].
#[inline]
fn transmit<P>(
    cx: &mut Context<'_, P>,
    options: &NodeOptions,
    (links, key): (&mut Slab<Link>, LinkKey),
    (peers, to): (&mut Slab<Peer>, PeerId),
    outgoing: &Outgoing<'_>,
    payload: usize,
) -> Result<(), SendError> {
    let limits = &options.zmtp;
    let total = outgoing.len();
    let frame = payload.max(outgoing.head_len());
    if frame > limits.frame_max.min(u32::MAX as usize) || total > limits.message_max {
        let limit = limits.frame_max.min(limits.message_max);
        return Err(SendError::TooLong {
            length: total,
            limit,
        });
    }
    let Some(link) = links.get_mut(key.slot as usize) else {
        return Err(SendError::Unroutable);
    };
    let sent = push(cx, link, options, outgoing, total);
    let Some(peer) = peers.get_mut(to.slot as usize) else {
        return sent;
    };
    match sent {
        Ok(()) => {
            peer.counters.messages_out += 1;
            peer.counters.bytes_out += total as u64;
        }
        Err(SendError::Full) => peer.counters.refused_full += 1,
        Err(_) => {}
    }
    if !link.outbox.is_empty() {
        peer.gauge.set_queued(&link.outbox);
    }
    sent
}

/// Puts a message of `total` bytes into the engine's send queue, or behind those that wait.
#[inline]
fn push<P>(
    cx: &mut Context<'_, P>,
    link: &mut Link,
    options: &NodeOptions,
    outgoing: &Outgoing<'_>,
    total: usize,
) -> Result<(), SendError> {
    let direct = link.outbox.is_empty() && !link.held;
    if direct && total > DIRECT_MAX && !outgoing.is_shared() && cx.forwards_behind(link.id, total) {
        let (head, received) = outgoing.relayed();
        if cx.forward_behind(link.id, head, received) {
            link.messages_out += 1;
            link.bytes_out += total as u64;
            return Ok(());
        }
    }
    if direct && total <= DIRECT_MAX {
        match cx.send_with(link.id, total, |room| outgoing.write(room)) {
            Ok(_) => {
                link.messages_out += 1;
                link.bytes_out += total as u64;
                return Ok(());
            }
            Err(EngineError::Gone) => return Err(SendError::Unroutable),
            // Full: it waits here. Too long for the engine: it goes in pieces.
            Err(_) => {}
        }
    }
    let (messages_max, bytes_max) = options.queue_max(outgoing.share());
    if !link.outbox.has_room(total, messages_max, bytes_max) {
        link.told_full = true;
        return Err(SendError::Full);
    }
    let was_empty = link.outbox.is_empty();
    outgoing.queue(&mut link.outbox);
    link.messages_out += 1;
    link.bytes_out += total as u64;
    if was_empty {
        pump(cx, link);
    }
    Ok(())
}

/// See [`NodeLink::pump`].
fn pump<P>(cx: &mut Context<'_, P>, link: &mut Link) {
    if link.held {
        return;
    }
    while let Some(segment) = link.outbox.front() {
        match cx.send_shared(link.id, &segment.bytes) {
            Ok(()) => link.outbox.pop(),
            Err(EngineError::TooLong { limit, .. }) if limit > 0 => link.outbox.split_front(limit),
            // Full: `on_drained` or the next tick goes on. Gone: its end is about to be told.
            Err(_) => return,
        }
    }
}

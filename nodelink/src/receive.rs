//! From received bytes to messages, replies and commands.

use proscenium_engine::{Context, Time};
use proscenium_framing::route::RouteHeader;
use proscenium_framing::zmtp::{Command, Decoded, Decoder, Established, Message, Step, ZmtpError};

use crate::Nid;
use crate::completion::{Completion, ReplyRef, call_back};
use crate::context::{NodeContext, NodeHandler};
use crate::error::{LinkEnd, RequestError};
use crate::link::{Direction, LinkKey, Stage};
use crate::message::{LONG, NodeMessage, Received, ReplyTo};
use crate::node_link::NodeLink;
use crate::peer::PeerId;
use crate::requests::Answered;

/// A tail's memory is kept for the next one up to this size.
const TAIL_KEPT_MAX: usize = 256 * 1024;

/// The link that bytes are read from.
struct Source {
    key: LinkKey,
    peer: PeerId,
    nid: Nid,
    run: u64,
}

/// Where reading came to.
enum Read {
    /// So many bytes are done; the next item needs so many.
    Done { consumed: usize, needs: usize },
    /// The link is being closed.
    Stop,
}

impl NodeLink {
    pub(crate) fn received<P, H: NodeHandler<P>>(
        &mut self,
        cx: &mut Context<'_, P>,
        handler: &mut H,
        slot: u32,
        bytes: &Received<'_>,
    ) {
        let now: Time = cx.now();
        let Some(link) = self.links.get_mut(slot as usize) else {
            return;
        };
        link.last_received = now;
        link.silent_ticks = 0;
        let key = link.key;
        let tail = std::mem::take(&mut link.tail);
        self.tail_bytes -= tail.capacity();
        match link.stage {
            Stage::Closing(_) => {}
            Stage::Handshaking(_) => self.shake(cx, handler, key, tail, bytes),
            Stage::Up(_) => {
                link.waiting_ticks = None;
                self.read(cx, handler, key, tail, Some(bytes));
            }
        }
    }

    /// Bytes of a handshake.
    fn shake<P, H: NodeHandler<P>>(
        &mut self,
        cx: &mut Context<'_, P>,
        handler: &mut H,
        key: LinkKey,
        mut tail: Vec<u8>,
        bytes: &[u8],
    ) {
        tail.extend_from_slice(bytes);
        let Some(link) = self.link_mut(key) else {
            return;
        };
        let Stage::Handshaking(handshake) = &mut link.stage else {
            return;
        };
        let (id, mut out) = (link.id, Vec::new());
        let received = handshake.receive(&tail, &mut out);
        if !out.is_empty() {
            // As with the greeting: without room the deadline ends it.
            let _ = cx.send(id, &out);
        }
        match received {
            Ok((used, step)) => {
                tail.drain(..used);
                let Step::Done(peer) = step else {
                    return self.keep(cx, key, tail);
                };
                if self.establish(cx, handler, key, &peer) {
                    self.read(cx, handler, key, tail, None);
                }
            }
            Err(error) => self.broken(cx, key, &error),
        }
    }

    /// Bytes behind the handshake: `tail` is what was kept, `rest` what has just arrived.
    fn read<P, H: NodeHandler<P>>(
        &mut self,
        cx: &mut Context<'_, P>,
        handler: &mut H,
        key: LinkKey,
        mut tail: Vec<u8>,
        received: Option<&Received<'_>>,
    ) {
        let mut rest = received.map_or(&[][..], |received| received.bytes());
        let limits = self.options.zmtp;
        let Some(link) = self.link_mut(key) else {
            return;
        };
        let Some(peer) = link.peer() else { return };
        let mut decoder = std::mem::replace(&mut link.decoder, Decoder::new(limits));
        let left = std::mem::take(&mut link.unfinished);
        let (run, bytes) = (link.run, rest.len().saturating_sub(left) as u64);
        let Some(of) = self.peer_mut(peer) else {
            return;
        };
        of.counters.bytes_in += bytes;
        let nid = of.nid.clone();
        let source = Source {
            key,
            peer,
            nid,
            run,
        };
        // The kept message is completed by no more than it needs: what follows is read in place.
        while !tail.is_empty() {
            let read = self.read_items(cx, handler, &source, &mut decoder, &tail, None);
            let Read::Done { consumed, needs } = read else {
                return;
            };
            tail.drain(..consumed);
            if tail.is_empty() {
                break;
            }
            let missing = (needs - tail.len()).min(rest.len());
            if missing == 0 {
                return self.suspend(cx, key, decoder, tail);
            }
            tail.extend_from_slice(&rest[..missing]);
            rest = &rest[missing..];
        }
        let read = self.read_items(cx, handler, &source, &mut decoder, rest, received);
        if let Read::Done { consumed, needs } = read {
            let rest = &rest[consumed..];
            let left = received.is_some() && self.leave_rest(cx, key, rest.len(), needs);
            if !left {
                tail.extend_from_slice(rest);
            }
            self.suspend(cx, key, decoder, tail);
        }
    }

    /// Leaves the beginning of a long message where it was received, so that its rest is received
    /// behind it; false if it has to be kept.
    fn leave_rest<P>(
        &mut self,
        cx: &mut Context<'_, P>,
        key: LinkKey,
        len: usize,
        needs: usize,
    ) -> bool {
        let Some(link) = self.link_mut(key) else {
            return false;
        };
        let left = len > 0 && needs >= LONG && cx.leave(link.id, len, needs);
        link.unfinished = if left { len } else { 0 };
        left
    }

    /// Everything whole at the front of `bytes`, which are in `received` if that is given.
    fn read_items<P, H: NodeHandler<P>>(
        &mut self,
        cx: &mut Context<'_, P>,
        handler: &mut H,
        source: &Source,
        decoder: &mut Decoder,
        bytes: &[u8],
        received: Option<&Received<'_>>,
    ) -> Read {
        let mut at = 0;
        loop {
            match decoder.decode(&bytes[at..]) {
                Ok(Decoded::Message(message)) => {
                    at += message.consumed();
                    if let Err(what) = self.message(cx, handler, source, &message, received) {
                        tracing::warn!(peer = %source.nid, what, "a message is malformed");
                        self.close(cx, source.key, LinkEnd::Protocol);
                    }
                }
                Ok(Decoded::Command { command, consumed }) => {
                    at += consumed;
                    self.command(cx, source, &command);
                }
                Ok(Decoded::Incomplete { needs }) => {
                    let consumed = at;
                    return Read::Done { consumed, needs };
                }
                Err(error) => {
                    self.broken(cx, source.key, &error);
                    return Read::Stop;
                }
            }
            let link = self.link_at(source.key);
            if link.is_none_or(|link| link.peer().is_none()) {
                return Read::Stop;
            }
        }
    }

    /// Reading goes on when more has arrived.
    fn suspend<P>(
        &mut self,
        cx: &mut Context<'_, P>,
        key: LinkKey,
        decoder: Decoder,
        tail: Vec<u8>,
    ) {
        if let Some(link) = self.link_mut(key) {
            link.decoder = decoder;
            self.keep(cx, key, tail);
        }
    }

    fn keep<P>(&mut self, cx: &mut Context<'_, P>, key: LinkKey, mut tail: Vec<u8>) {
        let most = self.options.reassembly_bytes_max;
        let room = tail.capacity();
        if tail.is_empty() && (room > TAIL_KEPT_MAX || self.tail_bytes + room > most / 4) {
            // Memory that is only kept for later must not take the place of what is needed.
            tail = Vec::new();
        } else if room > TAIL_KEPT_MAX && tail.len() < room / 4 {
            // A long message has left its memory to the beginning of a short one.
            tail.shrink_to(0);
        }
        let room = tail.capacity();
        if let Some(link) = self.link_mut(key) {
            link.tail = tail;
            self.tail_bytes += room;
            if self.tail_bytes > self.options.reassembly_bytes_max {
                self.close(cx, key, LinkEnd::Reassembly);
            }
        }
    }

    fn broken<P>(&mut self, cx: &mut Context<'_, P>, key: LinkKey, error: &ZmtpError) {
        tracing::warn!(nid = %self.nid(), %error, "a peer broke the protocol");
        self.close_told(cx, key, LinkEnd::Protocol);
    }

    /// A whole message.
    #[inline]
    fn message<P, H: NodeHandler<P>>(
        &mut self,
        cx: &mut Context<'_, P>,
        handler: &mut H,
        source: &Source,
        message: &Message<'_>,
        received: Option<&Received<'_>>,
    ) -> Result<(), &'static str> {
        let mut parts = message.parts();
        let (Some(head), Some(payload), None) = (parts.next(), parts.next(), parts.next()) else {
            return Err("it has not two parts");
        };
        let header = RouteHeader::decode(head).map_err(|_| "its header is not one")?;
        let Some(link) = self.links.get_mut(source.key.slot as usize) else {
            return Ok(());
        };
        let Some(peer) = self.peers.get_mut(source.peer.slot as usize) else {
            return Ok(());
        };
        if link.turn_in < peer.turn_in {
            // Sent before what has come by another link: too late.
            self.close(cx, source.key, LinkEnd::Superseded);
            return Ok(());
        }
        link.messages_in += 1;
        link.unanswered += usize::from(!header.is_reply && header.msg_seq != 0);
        if link.messages_in == 1
            && let Some(Direction::Dialled { dial }) = peer
                .dialled
                .and_then(|key| self.links.get(key.slot as usize))
                .map(|link| link.direction)
            && let Some(dial) = self.dials.get_mut(dial as usize)
        {
            dial.attempts = 0; // the peer is well
        }
        peer.counters.messages_in += 1;
        if header.payload_size as usize != payload.len() {
            peer.counters.size_mismatches += 1;
        }
        if header.is_reply {
            self.reply_arrived(cx, handler, source.peer, ReplyRef { header, payload });
            return Ok(());
        }
        let reply_to = (header.msg_seq != 0).then_some(ReplyTo {
            peer: source.peer,
            seq: header.msg_seq,
            link: source.key,
            run: source.run,
        });
        if let Some(to) = &reply_to
            && !self.accepts(cx, to, &header)
        {
            return Ok(());
        }
        let message = NodeMessage {
            from: &source.nid,
            peer: source.peer,
            header,
            payload,
            reply_to,
            received,
        };
        handler.on_message(&mut NodeContext::bringing(self, cx, received), message);
        Ok(())
    }

    fn reply_arrived<P, H: NodeHandler<P>>(
        &mut self,
        cx: &mut Context<'_, P>,
        handler: &mut H,
        from: PeerId,
        reply: ReplyRef<'_>,
    ) {
        let Some(peer) = self.peers.get_mut(from.slot as usize) else {
            return;
        };
        match peer.requests.answered(reply.header.msg_seq) {
            Answered::Pending(pending) => {
                peer.counters.replies += 1;
                peer.gauge.set_pending(peer.requests.len());
                self.deadlines.cancel(pending.deadline);
                self.complete(cx, handler, pending.completion, Ok(reply));
            }
            Answered::Late => peer.counters.late_replies += 1,
        }
    }

    pub(crate) fn complete<P, H: NodeHandler<P>>(
        &mut self,
        cx: &mut Context<'_, P>,
        handler: &mut H,
        completion: Completion,
        reply: Result<ReplyRef<'_>, RequestError>,
    ) {
        match completion {
            Completion::Token(token) => {
                handler.on_reply(&mut NodeContext::new(self, cx), token, reply);
            }
            Completion::Call(call) => call_back(call, reply),
            Completion::Slot(slot) => slot.fill(reply.map(|reply| reply.to_reply())),
        }
    }

    fn command<P>(&mut self, cx: &mut Context<'_, P>, source: &Source, command: &Command<'_>) {
        match command {
            Command::Ping { ttl, context } => {
                let ticks = (*ttl > 0).then(|| {
                    let ttl = std::time::Duration::from_millis(u64::from(*ttl) * 100);
                    self.options.ticks(ttl)
                });
                if let Some(link) = self.link_mut(source.key) {
                    link.ttl_ticks = ticks;
                }
                self.turn_begins(source.peer, source.key, context);
                if self.peer_leaves(source.peer, source.key, context) {
                    return; // answered behind what has been asked for
                }
                let mut pong = Vec::with_capacity(32);
                Command::Pong { context }.encode(&mut pong);
                if !self.transmit_command(cx, source.key, &pong) {
                    self.close(cx, source.key, LinkEnd::Overflow);
                }
            }
            Command::Pong { context } => self.pong(cx, source.peer, source.key, context),
            Command::Error { reason } => {
                let reason = String::from_utf8_lossy(reason).into_owned();
                self.broken(cx, source.key, &ZmtpError::RefusedByPeer { reason });
            }
            // The decoder lets nothing else through.
            _ => {}
        }
    }
}

/// What READY said of the peer.
pub(crate) struct Introduced {
    pub(crate) nid: Nid,
    pub(crate) pings: bool,
    /// 0 if it is no Proscenium node.
    pub(crate) run: u64,
}

impl Introduced {
    /// # Errors
    /// Why the peer cannot be one of ours; it is told.
    pub(crate) fn new(peer: &Established) -> Result<Self, String> {
        let properties = &peer.properties;
        match properties.get("Socket-Type") {
            Some(b"ROUTER" | b"DEALER") => {}
            Some(other) => return Err(format!("socket type {}", other.escape_ascii())),
            None => return Err("no socket type".to_owned()),
        }
        let identity = properties.get("Identity").unwrap_or_default();
        let nid = std::str::from_utf8(identity).map_err(|_| "the identity is not UTF-8")?;
        let nid = Nid::new(nid)
            .map_err(|_| "an identity of 1 to 255 bytes, without control characters, is needed")?;
        let is_ours = properties.get(crate::node_link::MARK.0) == Some(crate::node_link::MARK.1);
        let run = properties.get(crate::node_link::RUN).unwrap_or_default();
        let run = std::str::from_utf8(run).ok();
        let run = run.and_then(|run| u64::from_str_radix(run, 16).ok());
        Ok(Self {
            nid,
            pings: peer.minor >= 1,
            // One of ours that does not name its run is some run all the same.
            run: if is_ours { run.unwrap_or(1).max(1) } else { 0 },
        })
    }
}

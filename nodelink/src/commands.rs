//! [`Command`]: what handles ask of a node, and how it is done on the node's shard.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proscenium_engine::Context;
use proscenium_framing::route::RouteHeader;

use crate::Nid;
use crate::completion::{Completion, Filler};
use crate::context::NodeHandler;
use crate::dial::{Endpoint, EndpointId};
use crate::error::{RequestError, SendError};
use crate::handle::Gauge;
use crate::link::LinkKey;
use crate::membership::Departure;
use crate::message::{Encoded, Head, Outgoing, Payload, ReplyTo, Share};
use crate::node_link::NodeLink;
use crate::peer::PeerId;
use crate::stats::NodeStats;

/// So many are done before the shard's other work has its turn.
const BATCH: usize = 1024;

pub(crate) enum Command {
    Send {
        to: Nid,
        gauge: Arc<Gauge>,
        /// The header without its number.
        head: Vec<u8>,
        payload: Bytes,
    },
    Request {
        to: Nid,
        gauge: Arc<Gauge>,
        head: Vec<u8>,
        payload: Bytes,
        deadline: Option<Duration>,
        completion: Completion,
    },
    Reply {
        to: ReplyTo,
        head: Vec<u8>,
        payload: Bytes,
    },
    Connect(Endpoint),
    Disconnect(Endpoint),
    Stats(Filler<NodeStats>),
    Leave(Filler<Departure>),
}

impl Command {
    /// It is not done.
    pub(crate) fn fail(self, error: SendError) {
        match self {
            Self::Send { gauge, payload, .. } => gauge.begun(payload.len()),
            Self::Request {
                gauge,
                payload,
                completion,
                ..
            } => {
                gauge.begun(payload.len());
                completion.fail(match error {
                    SendError::Stopped => RequestError::Stopped,
                    other => RequestError::Send(other),
                });
            }
            _ => {}
        }
    }
}

impl NodeLink {
    pub(crate) fn run_commands<P, H: NodeHandler<P>>(
        &mut self,
        cx: &mut Context<'_, P>,
        handler: &mut H,
    ) {
        if !self.ending {
            self.follow_servers(cx);
        }
        for _ in 0..BATCH {
            let Some(command) = self.shared.queue.pop() else {
                self.confirm_leaving(cx);
                return;
            };
            self.run_command(cx, handler, command);
        }
        self.shared.wake();
    }

    fn run_command<P, H: NodeHandler<P>>(
        &mut self,
        cx: &mut Context<'_, P>,
        handler: &mut H,
        command: Command,
    ) {
        match command {
            Command::Send {
                to,
                gauge,
                head,
                payload,
            } => {
                gauge.begun(payload.len());
                let peer = self.peer(&to);
                let routed = peer.and_then(|peer| Some((peer, self.route(peer).ok()?)));
                let sent = routed.map(|(peer, key)| {
                    let (key, seq) = (key, 0);
                    self.transmit_encoded(cx, key, peer, seq, &head, &payload)
                });
                // Room was promised to the caller; what is refused all the same is counted.
                if !matches!(sent, Some(Ok(()))) {
                    self.unroutable += 1;
                }
            }
            Command::Request {
                to,
                gauge,
                head,
                payload,
                deadline,
                completion,
            } => {
                gauge.begun(payload.len());
                let numbered = match self.peer(&to) {
                    Some(peer) => self.number(peer).map(|(key, seq)| (peer, key, seq)),
                    None => Err(SendError::Unroutable),
                };
                let sent = numbered.and_then(|(peer, key, seq)| {
                    self.transmit_encoded(cx, key, peer, seq, &head, &payload)?;
                    Ok((peer, key, seq))
                });
                match sent {
                    Ok((peer, key, seq)) => {
                        self.await_reply(cx, peer, key, seq, deadline, completion);
                    }
                    Err(error) => self.complete(cx, handler, completion, Err(error.into())),
                }
            }
            Command::Reply { to, head, payload } => {
                if let Ok(key) = self.reply_route(&to) {
                    let payload = Payload::Shared(&payload);
                    // What becomes of it is counted, and told to who asked.
                    let _ = self.reply_with(cx, key, &to, &head, payload);
                }
            }
            Command::Connect(endpoint) => {
                self.connect(cx, endpoint);
            }
            Command::Disconnect(endpoint) => {
                for id in self.endpoints_at(&endpoint) {
                    self.disconnect(cx, id);
                }
            }
            Command::Stats(filler) => filler.fill(self.stats(cx)),
            Command::Leave(filler) => {
                let left = self.leave(cx);
                filler.fill(left);
            }
        }
    }

    fn transmit_encoded<P>(
        &mut self,
        cx: &mut Context<'_, P>,
        key: LinkKey,
        to: PeerId,
        seq: u32,
        rest: &[u8],
        payload: &Bytes,
    ) -> Result<(), SendError> {
        let head = Head::Encoded { seq, rest };
        let outgoing = Outgoing::new(head, Payload::Shared(payload));
        self.transmit(cx, key, to, &outgoing, payload.len())
    }

    fn transmit_ready<P>(
        &mut self,
        cx: &mut Context<'_, P>,
        key: LinkKey,
        to: PeerId,
        seq: u32,
        message: Encoded<'_>,
    ) -> Result<(), SendError> {
        let rest = message.head;
        let payload = Payload::Borrowed(message.payload);
        let outgoing = Outgoing::new(Head::Encoded { seq, rest }, payload);
        self.transmit(cx, key, to, &outgoing, message.payload.len())
    }

    /// The shard begins what a [`PeerGauge`](crate::PeerGauge) made room for.
    fn begun(&self, to: PeerId, message: Encoded<'_>) {
        if let Some(peer) = self.peer_at(to) {
            peer.gauge.begun(message.payload.len());
        }
    }

    pub(crate) fn send_ready<P>(
        &mut self,
        cx: &mut Context<'_, P>,
        to: PeerId,
        message: Encoded<'_>,
    ) -> Result<(), SendError> {
        self.begun(to, message);
        let key = self.route(to)?;
        self.transmit_ready(cx, key, to, 0, message)
    }

    pub(crate) fn request_ready<P>(
        &mut self,
        cx: &mut Context<'_, P>,
        to: PeerId,
        message: Encoded<'_>,
        deadline: Option<Duration>,
        completion: Completion,
    ) -> Result<(), SendError> {
        self.begun(to, message);
        let (key, seq) = self.number(to)?;
        self.transmit_ready(cx, key, to, seq, message)?;
        self.await_reply(cx, to, key, seq, deadline, completion);
        Ok(())
    }

    pub(crate) fn reply_ready<P>(
        &mut self,
        cx: &mut Context<'_, P>,
        to: &ReplyTo,
        message: Encoded<'_>,
    ) -> Result<(), SendError> {
        let key = self.reply_route(to)?;
        let payload = Payload::Borrowed(message.payload);
        self.reply_with(cx, key, to, message.head, payload)
    }

    /// A reply whose header is encoded.
    fn reply_with<P>(
        &mut self,
        cx: &mut Context<'_, P>,
        key: LinkKey,
        to: &ReplyTo,
        rest: &[u8],
        payload: Payload<'_>,
    ) -> Result<(), SendError> {
        let length = payload.len();
        let head = Head::Encoded { seq: to.seq, rest };
        let outgoing = Outgoing::new(head, payload).with_share(Share::Reply);
        let sent = self.transmit(cx, key, to.peer, &outgoing, length);
        if let Err(error) = sent {
            // It is one of ours, so it can be read.
            let header = RouteHeader::decode(rest).unwrap_or_default();
            self.reply_failed(cx, key, to, &header, error);
        }
        sent
    }

    fn endpoints_at(&self, endpoint: &Endpoint) -> Vec<EndpointId> {
        let all = self.dials.iter().map(|(_, dial)| dial);
        all.filter(|dial| dial.endpoint.address == endpoint.address)
            .map(|dial| dial.id)
            .collect()
    }
}

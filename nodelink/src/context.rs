//! [`NodeHandler`]: what an embedder implements; [`NodeContext`]: what can be done with a node.

use bytes::Bytes;
use proscenium_engine::Context;
use proscenium_framing::route::RouteHeader;

use crate::completion::{Completion, ReplyRef};
use crate::dial::{Endpoint, EndpointId};
use crate::error::{RequestError, SendError};
use crate::message::{Encoded, LONG, NodeMessage, Payload, Received, ReplyTo, part_of};
use crate::node_link::NodeLink;
use crate::peer::PeerId;
use crate::stats::NodeStats;
use crate::{Nid, RequestOptions};

/// What an embedder implements: told of messages and of what becomes of peers and requests. `P` is
/// what may be posted to the handler of the engine.
///
/// ```
/// use proscenium_nodelink::{NodeContext, NodeHandler, NodeMessage, RouteHeader};
///
/// struct Echo;
///
/// impl<P> NodeHandler<P> for Echo {
///     fn on_message(&mut self, cx: &mut NodeContext<'_, '_, P>, message: NodeMessage<'_>) {
///         if let Some(reply_to) = message.reply_to {
///             let header = RouteHeader { msg_id: message.header.msg_id, ..Default::default() };
///             // Refused only if who asked has given up or cannot take it: then it is told so.
///             let _ = cx.reply(reply_to, &header, message.payload);
///         }
///     }
/// }
/// ```
pub trait NodeHandler<P> {
    /// A message of another node: a send, or a request if there is `reply_to`.
    fn on_message(&mut self, cx: &mut NodeContext<'_, '_, P>, message: NodeMessage<'_>);

    /// What became of a request of [`NodeContext::request`]: told exactly once for each.
    fn on_reply(
        &mut self,
        cx: &mut NodeContext<'_, '_, P>,
        token: u64,
        reply: Result<ReplyRef<'_>, RequestError>,
    ) {
        let _ = (cx, token, reply);
    }

    /// A peer can be reached from now on.
    fn on_peer_up(&mut self, cx: &mut NodeContext<'_, '_, P>, peer: PeerId, nid: &Nid) {
        let _ = (cx, peer, nid);
    }

    /// A peer cannot be reached any more. Its requests have failed, or are about to.
    fn on_peer_down(&mut self, cx: &mut NodeContext<'_, '_, P>, peer: PeerId, nid: &Nid) {
        let _ = (cx, peer, nid);
    }

    /// Somebody woke the shard, by a [`ShardWaker`](proscenium_engine::ShardWaker) with a token
    /// that is not of the node: for what other threads leave for this handler. Only for handlers
    /// of a [`Node`](crate::Node), see [`Node::engine`](crate::Node::engine).
    fn on_wake(&mut self, cx: &mut NodeContext<'_, '_, P>, token: u64) {
        let _ = (cx, token);
    }

    /// The queue to a peer, which was full, is less than half full.
    fn on_room(&mut self, cx: &mut NodeContext<'_, '_, P>, peer: PeerId, nid: &Nid) {
        let _ = (cx, peer, nid);
    }
}

/// Names a peer: its [`Nid`], that as text, or its [`PeerId`], which is found faster.
pub trait Target {
    /// The peer, if the node knows it.
    fn find(&self, node: &NodeLink) -> Option<PeerId>;
}

impl Target for PeerId {
    fn find(&self, _node: &NodeLink) -> Option<PeerId> {
        Some(*self)
    }
}

impl Target for &str {
    fn find(&self, node: &NodeLink) -> Option<PeerId> {
        node.peer(self)
    }
}

impl Target for &Nid {
    fn find(&self, node: &NodeLink) -> Option<PeerId> {
        node.peer(self)
    }
}

/// A node together with the engine's context, for the time of one call.
///
/// The payload of the message that a call brought can be sent on or back as it is: if the message
/// is longer than 32 KiB and stands in one piece in the engine's receive memory, it is not copied
/// then, as long as the peer keeps up.
///
/// Of the headers that are given here, `msg_seq`, `from`, `is_reply` and `payload_size` are filled
/// in, whatever they are.
pub struct NodeContext<'n, 'c, P> {
    node: &'n mut NodeLink,
    cx: &'n mut Context<'c, P>,
    /// What the call brought.
    received: Option<&'n Received<'n>>,
}

impl<'n, 'c, P> NodeContext<'n, 'c, P> {
    pub(crate) fn new(node: &'n mut NodeLink, cx: &'n mut Context<'c, P>) -> Self {
        let received = None;
        Self { node, cx, received }
    }

    /// For a call that brings a part of `received`.
    #[inline]
    pub(crate) fn bringing(
        node: &'n mut NodeLink,
        cx: &'n mut Context<'c, P>,
        received: Option<&'n Received<'n>>,
    ) -> Self {
        Self { node, cx, received }
    }

    /// As a part of what was received, if it is one that is long enough for that to matter.
    #[inline]
    fn payload<'p>(&self, bytes: &'p [u8]) -> Payload<'p>
    where
        'n: 'p,
    {
        if bytes.len() >= LONG
            && let Some(received) = self.received
            && let Some(part) = part_of(received, bytes)
        {
            return Payload::Received(part);
        }
        Payload::Borrowed(bytes)
    }

    /// The engine's context. Closing connections of the node by it is left to the node.
    pub fn engine(&mut self) -> &mut Context<'c, P> {
        self.cx
    }

    /// The node's links.
    pub fn node(&self) -> &NodeLink {
        self.node
    }

    /// Sends a message that wants no answer.
    ///
    /// # Errors
    /// A [`SendError`]; the message is then not sent, and nobody else is told.
    pub fn send(
        &mut self,
        to: impl Target,
        header: &RouteHeader<'_>,
        payload: &[u8],
    ) -> Result<(), SendError> {
        let peer = to.find(self.node).ok_or(SendError::Unroutable)?;
        let payload = self.payload(payload);
        self.node.send(self.cx, peer, header, payload)
    }

    /// The same with a payload that is shared: a long one is not copied.
    ///
    /// # Errors
    /// Those of [`send`](Self::send).
    pub fn send_shared(
        &mut self,
        to: impl Target,
        header: &RouteHeader<'_>,
        payload: &Bytes,
    ) -> Result<(), SendError> {
        let peer = to.find(self.node).ok_or(SendError::Unroutable)?;
        let payload = Payload::Shared(payload);
        self.node.send(self.cx, peer, header, payload)
    }

    /// Sends a request; [`NodeHandler::on_reply`] is told with `token` what became of it, within
    /// its deadline.
    ///
    /// # Errors
    /// A [`SendError`]; then `on_reply` is not called.
    pub fn request(
        &mut self,
        to: impl Target,
        header: &RouteHeader<'_>,
        payload: &[u8],
        options: RequestOptions,
        token: u64,
    ) -> Result<(), SendError> {
        self.ask(to, header, payload, options, Completion::Token(token))
    }

    /// The same with a payload that is shared: a long one is not copied.
    ///
    /// # Errors
    /// Those of [`request`](Self::request).
    pub fn request_shared(
        &mut self,
        to: impl Target,
        header: &RouteHeader<'_>,
        payload: &Bytes,
        options: RequestOptions,
        token: u64,
    ) -> Result<(), SendError> {
        let peer = to.find(self.node).ok_or(SendError::Unroutable)?;
        let completion = Completion::Token(token);
        let payload = Payload::Shared(payload);
        let deadline = options.deadline;
        let sent = self
            .node
            .request(self.cx, peer, header, payload, deadline, completion);
        sent.map_err(|(error, _)| error)
    }

    /// Sends a request and calls `call` with what became of it, on this shard, within its
    /// deadline.
    ///
    /// # Errors
    /// A [`SendError`]; then `call` is not called.
    pub fn request_with(
        &mut self,
        to: impl Target,
        header: &RouteHeader<'_>,
        payload: &[u8],
        options: RequestOptions,
        call: impl FnOnce(Result<ReplyRef<'_>, RequestError>) + Send + 'static,
    ) -> Result<(), SendError> {
        self.ask(
            to,
            header,
            payload,
            options,
            Completion::Call(Box::new(call)),
        )
    }

    fn ask(
        &mut self,
        to: impl Target,
        header: &RouteHeader<'_>,
        payload: &[u8],
        options: RequestOptions,
        completion: Completion,
    ) -> Result<(), SendError> {
        let peer = to.find(self.node).ok_or(SendError::Unroutable)?;
        let payload = self.payload(payload);
        let sent = self
            .node
            .request(self.cx, peer, header, payload, options.deadline, completion);
        sent.map_err(|(error, _)| error)
    }

    /// Answers a request. `error_code` of the header says how it went. Replies have
    /// [room of their own](crate::NodeOptions::reply_bytes_max) in the queue.
    ///
    /// # Errors
    /// `LinkGone` if who asked has been told that the link was lost. `Full` and `TooLong` if the
    /// reply was not sent; who asked was told so by code 14, or by the end of the link.
    /// `Unroutable` if there is no link to send it on.
    pub fn reply(
        &mut self,
        to: ReplyTo,
        header: &RouteHeader<'_>,
        payload: &[u8],
    ) -> Result<(), SendError> {
        let payload = self.payload(payload);
        self.node.reply(self.cx, &to, header, payload)
    }

    /// [`send`](Self::send) of a message that is encoded, for which a
    /// [`PeerGauge`](crate::PeerGauge) has made room.
    ///
    /// # Errors
    /// Those of [`send`](Self::send).
    pub fn send_encoded(&mut self, to: PeerId, message: Encoded<'_>) -> Result<(), SendError> {
        self.node.send_ready(self.cx, to, message)
    }

    /// [`request`](Self::request) likewise.
    ///
    /// # Errors
    /// Those of [`request`](Self::request).
    pub fn request_encoded(
        &mut self,
        to: PeerId,
        message: Encoded<'_>,
        options: RequestOptions,
        token: u64,
    ) -> Result<(), SendError> {
        let completion = Completion::Token(token);
        let deadline = options.deadline;
        self.node
            .request_ready(self.cx, to, message, deadline, completion)
    }

    /// [`reply`](Self::reply) with a message that is encoded, its header as that of a reply.
    ///
    /// # Errors
    /// Those of [`reply`](Self::reply).
    pub fn reply_encoded(&mut self, to: ReplyTo, message: Encoded<'_>) -> Result<(), SendError> {
        self.node.reply_ready(self.cx, &to, message)
    }

    /// The same with a payload that is shared: a long one is not copied.
    ///
    /// # Errors
    /// Those of [`reply`](Self::reply).
    pub fn reply_shared(
        &mut self,
        to: ReplyTo,
        header: &RouteHeader<'_>,
        payload: &Bytes,
    ) -> Result<(), SendError> {
        let payload = Payload::Shared(payload);
        self.node.reply(self.cx, &to, header, payload)
    }

    /// Connects to another node, and again whenever the link is lost, until
    /// [`disconnect`](Self::disconnect).
    pub fn connect(&mut self, endpoint: Endpoint) -> EndpointId {
        self.node.connect(self.cx, endpoint)
    }

    /// Ends the link to an endpoint, if there is one, and does not connect there again.
    pub fn disconnect(&mut self, endpoint: EndpointId) {
        self.node.disconnect(self.cx, endpoint);
    }

    /// The statistics, as of now.
    pub fn stats(&self) -> NodeStats {
        self.node.stats(self.cx)
    }
}

impl<P> std::fmt::Debug for NodeContext<'_, '_, P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeContext")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

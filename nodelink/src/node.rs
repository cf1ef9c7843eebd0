//! [`Node`]: a node with an engine of its own.

use std::io;
use std::time::{Duration, Instant};

use proscenium_engine::{
    Address, CloseReason, ConnectError, ConnectId, Context, DrainReport, Engine, EngineBuilder,
    Handler, Limits, Listener, Message, Peer, RouterId,
};

use crate::context::NodeHandler;
use crate::dial::Endpoint;
use crate::directory::{Directory, ServerInfo};
use crate::handle::NodeHandle;
use crate::node_link::NodeLink;
use crate::wait::deadline_in;
use crate::{Membership, Nid, NodeOptions};

/// A [`NodeLink`] and the handler of its messages, as the handler of an engine.
#[derive(Debug)]
pub struct NodeShard<H> {
    link: NodeLink,
    handler: H,
}

impl<H> NodeShard<H> {
    /// Of these two.
    pub fn new(link: NodeLink, handler: H) -> Self {
        Self { link, handler }
    }

    /// The links.
    pub fn link(&self) -> &NodeLink {
        &self.link
    }

    /// Both parts, for calls from outside.
    pub fn parts(&mut self) -> (&mut NodeLink, &mut H) {
        (&mut self.link, &mut self.handler)
    }
}

impl<H: NodeHandler<()> + 'static> Handler for NodeShard<H> {
    type Post = ();

    fn on_start(&mut self, cx: &mut Context<'_, ()>) {
        self.link.on_start(cx);
    }

    fn on_connect(&mut self, cx: &mut Context<'_, ()>, id: RouterId, peer: &Peer) {
        self.link.on_connect(cx, id, peer);
    }

    fn on_message(&mut self, cx: &mut Context<'_, ()>, from: RouterId, message: Message<'_>) {
        self.link.on_message(cx, &mut self.handler, from, &message);
    }

    fn on_drained(&mut self, cx: &mut Context<'_, ()>, id: RouterId) {
        self.link.on_drained(cx, &mut self.handler, id);
    }

    fn on_read_closed(&mut self, cx: &mut Context<'_, ()>, id: RouterId) {
        if !self.link.on_read_closed(cx, id) {
            cx.close(id);
        }
    }

    fn on_disconnect(&mut self, cx: &mut Context<'_, ()>, id: RouterId, reason: &CloseReason) {
        self.link.on_disconnect(cx, &mut self.handler, id, reason);
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
        self.link.on_timer(cx, &mut self.handler, token);
    }

    fn on_wake(&mut self, cx: &mut Context<'_, ()>, token: u64) {
        if !self.link.on_wake(cx, &mut self.handler, token) {
            self.handler.on_wake(&mut self.link.with(cx), token);
        }
    }

    fn on_shutdown(&mut self, cx: &mut Context<'_, ()>) {
        self.link.on_shutdown(cx);
    }

    fn pending_work(&self) -> usize {
        self.link.pending_work()
    }
}

/// Prepares a [`Node`].
#[derive(Debug)]
#[must_use]
pub struct NodeBuilder {
    options: NodeOptions,
    limits: Limits,
    listeners: Vec<Listener>,
    addresses: Vec<Address>,
    endpoints: Vec<Endpoint>,
}

impl NodeBuilder {
    /// Sets the bounds of the engine, [`NodeLink::limits`] by default.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Listens for other nodes there. An address beyond loopback needs an allow-list that says who
    /// may come: [`NodeOptions::allow`].
    pub fn bind(mut self, address: impl Into<Address>) -> Self {
        let address = address.into();
        let listener = Listener::at(address.clone());
        self.listeners
            .push(NodeLink::listener(&self.options, listener));
        self.addresses.push(address);
        self
    }

    /// Connects to another node, and again whenever the link is lost.
    pub fn connect(mut self, endpoint: Endpoint) -> Self {
        self.endpoints.push(endpoint);
        self
    }

    /// What it takes to make the node a part of somebody's engine. The limits of that engine hold.
    ///
    /// # Errors
    /// An address beyond loopback without an allow-list.
    pub fn into_parts(self) -> io::Result<NodeParts> {
        for address in &self.addresses {
            if let Address::Tcp(address) = address
                && !address.ip().is_loopback()
                && self.options.allow.is_loopback()
            {
                let nid = &self.options.nid;
                let text = format!(
                    "{nid}: {address} is beyond loopback: an allow-list has to say who may come"
                );
                return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
            }
        }
        Ok(NodeParts {
            options: self.options,
            listeners: self.listeners,
            endpoints: self.endpoints,
        })
    }

    /// The engine to be and the links for its only shard: for hosting it or simulating it.
    ///
    /// # Errors
    /// An address beyond loopback without an allow-list.
    pub fn prepare(self) -> io::Result<(EngineBuilder, NodeLink)> {
        let limits = self.limits.clone();
        let mut parts = self.into_parts()?;
        let mut builder = Engine::builder()
            .name(format!("node {}", parts.options.nid))
            .limits(limits);
        let numbers: Vec<usize> = (0..parts.listeners.len()).collect();
        for listener in parts.listeners.drain(..) {
            builder = builder.listen(listener);
        }
        Ok((builder, parts.link(&numbers)))
    }

    /// Binds, and starts the node on a thread of its own.
    ///
    /// # Errors
    /// Those of [`prepare`](Self::prepare) and of the engine: addresses that cannot be bound, no
    /// more descriptors or threads, contradicting limits.
    pub fn start<H>(self, handler: H) -> io::Result<Node>
    where
        H: NodeHandler<()> + Send + 'static,
    {
        self.start_with(|_| handler)
    }

    /// The same with a handler that needs the node's handle: `make` is called before anything
    /// arrives.
    ///
    /// # Errors
    /// Those of [`start`](Self::start).
    pub fn start_with<H>(self, make: impl FnOnce(NodeHandle) -> H) -> io::Result<Node>
    where
        H: NodeHandler<()> + Send + 'static,
    {
        let (builder, link) = self.prepare()?;
        let handle = link.handle();
        let handler = make(handle.clone());
        let shard = std::sync::Mutex::new(Some(NodeShard::new(link, handler)));
        let engine = builder.start(move |_| {
            let mut shard = shard
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            // An engine of one shard makes one handler.
            shard.take().expect("the only shard takes the only node")
        })?;
        Ok(Node {
            membership: None,
            engine,
            handle,
        })
    }
}

/// The parts of a node, for somebody's engine: see [`NodeBuilder::into_parts`].
#[derive(Debug)]
pub struct NodeParts {
    /// Its name and bounds.
    pub options: NodeOptions,
    /// Where it listens: for the engine, with [`Balance::Only`](proscenium_engine::Balance) if
    /// that has several shards.
    pub listeners: Vec<Listener>,
    /// Where it connects to.
    pub endpoints: Vec<Endpoint>,
}

impl NodeParts {
    /// The links; `numbers` are those that the listeners have got in the engine.
    pub fn link(self, numbers: &[usize]) -> NodeLink {
        let mut link = NodeLink::new(self.options, numbers);
        for endpoint in self.endpoints {
            link.add_endpoint(endpoint);
        }
        link
    }
}

/// A node that runs on a thread of its own. Dropping it shuts it down.
///
/// ```
/// use std::net::SocketAddr;
/// use std::time::Duration;
/// use proscenium_nodelink::{
///     Endpoint, Nid, Node, NodeContext, NodeHandler, NodeMessage, NodeOptions, RequestOptions,
///     RouteHeader,
/// };
///
/// struct Greeter;
/// impl NodeHandler<()> for Greeter {
///     fn on_message(&mut self, cx: &mut NodeContext<'_, '_, ()>, message: NodeMessage<'_>) {
///         if let Some(reply_to) = message.reply_to {
///             let header = RouteHeader { msg_id: "Hello", ..Default::default() };
///             let _ = cx.reply(reply_to, &header, message.payload);
///         }
///     }
/// }
///
/// let any: SocketAddr = "127.0.0.1:0".parse()?;
/// let play = Node::builder(NodeOptions::new(Nid::new("play-1")?)).bind(any).start(Greeter)?;
/// let endpoint = Endpoint::new(play.local_addrs()[0].clone());
/// let api = Node::builder(NodeOptions::new(Nid::new("api-1")?))
///     .connect(endpoint)
///     .start(Greeter)?;
/// let api = api.handle();
/// assert!(api.wait_routable("play-1", Duration::from_secs(60)));
/// let header = RouteHeader { msg_id: "Greet", ..Default::default() };
/// let reply = api.request("play-1", &header, "world", RequestOptions::default());
/// // … .await it, or, where nothing else is to be done:
/// # let reply = reply;
/// # drop(play);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "dropping a node shuts it down"]
#[derive(Debug)]
pub struct Node {
    /// Dropped first: others are told before the links end.
    membership: Option<Membership>,
    engine: Engine<()>,
    handle: NodeHandle,
}

impl Node {
    /// Begins to prepare a node.
    pub fn builder(options: NodeOptions) -> NodeBuilder {
        NodeBuilder {
            options,
            limits: NodeLink::limits(),
            listeners: Vec::new(),
            addresses: Vec::new(),
            endpoints: Vec::new(),
        }
    }

    /// The node's name.
    pub fn nid(&self) -> &Nid {
        self.handle.nid()
    }

    /// A handle for any thread.
    pub fn handle(&self) -> NodeHandle {
        self.handle.clone()
    }

    /// The engine under it: its statistics, and its own handle.
    pub fn engine(&self) -> &Engine<()> {
        &self.engine
    }

    /// Where it listens, in the order of the calls to `bind`, with real ports.
    pub fn local_addrs(&self) -> &[Address] {
        self.engine.local_addrs()
    }

    /// Joins a directory as [`NodeHandle::join`] does, until the node is shut down.
    ///
    /// # Errors
    /// Those of [`NodeHandle::join`]; `AlreadyExists` if it has joined one.
    pub fn join(
        &mut self,
        directory: impl Directory + 'static,
        server: ServerInfo,
        ttl: Duration,
    ) -> io::Result<&mut Membership> {
        if self.membership.is_some() {
            let text = format!("{} has joined a directory already", self.nid());
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
        }
        let membership = self.handle.join(directory, server, ttl)?;
        Ok(self.membership.insert(membership))
    }

    /// The place in the directory that it has joined.
    pub fn membership(&mut self) -> Option<&mut Membership> {
        self.membership.as_mut()
    }

    /// Shuts the node down: it leaves the directory that it has joined, in good order, for at most
    /// three quarters of `deadline` ([`Membership::leave`]). Then no further links, requests are
    /// answered and awaited and queues written, all within `deadline`.
    ///
    /// # Panics
    /// If the handler panicked.
    pub fn shutdown(mut self, deadline: Duration) -> DrainReport {
        let until = deadline_in(deadline);
        if let Some(membership) = self.membership.take() {
            // What was left is logged, and the report below says what was lost.
            let _ = membership.leave(deadline / 4 * 3);
        }
        let rest = until.saturating_duration_since(Instant::now());
        self.engine.shutdown(rest)
    }
}

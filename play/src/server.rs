//! [`PlayServer`]: a Play server that runs, and its builder.

use std::any::TypeId;
use std::error::Error;
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proscenium_engine::{Address, Balance, DrainReport, Engine, EngineBuilder, Limits};
use proscenium_framing::packet::ErrorCode;
use proscenium_nodelink::NodeBuilder;
use proscenium_nodelink::directory::{Directory, ServerType};
use proscenium_stages::{StagePost, Stages, StagesBuilder};

use crate::announce::Announcement;
use crate::gate::Gate;
use crate::handle::PlayHandle;
use crate::kind::{AnyKind, Registration, StageKind};
use crate::listener::PlayListener;
use crate::mesh::{NodePart, PlayShards};
use crate::shared::{Config, ListenerConfig, Shared};
use crate::stage::PlayStage;

/// A Play server that runs, each of its shards on a thread of its own. Dropping it shuts it down.
pub struct PlayServer {
    /// First: others are told before the links end.
    place: OwnPlace,
    engine: Engine<StagePost>,
    handle: PlayHandle,
    /// The numbers of its listeners for clients; those for other servers follow.
    listeners: Range<usize>,
}

impl PlayServer {
    /// A builder with the defaults.
    pub fn builder() -> PlayServerBuilder {
        PlayServerBuilder::new()
    }

    /// Where the listeners of [`PlayServerBuilder::listen`] listen, in the order in which they were
    /// added, with real ports.
    pub fn local_addrs(&self) -> &[Address] {
        let all = self.engine.local_addrs();
        all.get(self.listeners.clone()).unwrap_or_default()
    }

    /// Where the server listens for other servers, with real ports: see
    /// [`PlayServerBuilder::node`].
    pub fn node_addrs(&self) -> &[Address] {
        let all = self.engine.local_addrs();
        all.get(self.listeners.end..).unwrap_or_default()
    }

    /// The server from other threads.
    pub fn handle(&self) -> PlayHandle {
        self.handle.clone()
    }

    /// The engine under it: its statistics, and its own handle.
    pub fn engine(&self) -> &Engine<StagePost> {
        &self.engine
    }

    /// Shuts down, all within `deadline`: the server leaves the
    /// [directory](PlayServerBuilder::directory) in good order, for at most half of that time; no
    /// more connections are accepted, every stage handles what is in its backlog and runs its
    /// `on_destroy`, its connections are flushed and closed.
    pub fn shutdown(self, deadline: Duration) -> DrainReport {
        let began = Instant::now();
        self.place.0.leave_directory(deadline / 2);
        self.engine
            .shutdown(deadline.saturating_sub(began.elapsed()))
    }

    /// Waits until the server was shut down by somebody else, for example by
    /// [`PlayHandle::shutdown`] from a signal handler's thread.
    pub fn join(self) -> DrainReport {
        self.engine.join()
    }
}

impl fmt::Debug for PlayServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PlayServer")
            .field("engine", &self.engine)
            .finish_non_exhaustive()
    }
}

/// The place of a server in its directory, which handles share: it is left when the server is no
/// more, however many handles there are.
struct OwnPlace(Arc<Shared>);

impl Drop for OwnPlace {
    fn drop(&mut self) {
        drop(self.0.place.lock().take());
    }
}

/// Prepares a Play server.
#[must_use]
pub struct PlayServerBuilder {
    engine: EngineBuilder,
    stages: StagesBuilder,
    limits: Limits,
    shards: usize,
    kinds: Vec<Arc<dyn AnyKind>>,
    known: Vec<TypeId>,
    listeners: Vec<PlayListener>,
    node: Option<NodeBuilder>,
    announcement: Announcement,
    default_stage: Option<String>,
    config: Config,
    twice: Option<&'static str>,
}

impl fmt::Debug for PlayServerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds: Vec<_> = self.kinds.iter().map(|kind| kind.name()).collect();
        f.debug_struct("PlayServerBuilder")
            .field("kinds", &kinds)
            .field("listeners", &self.listeners)
            .finish_non_exhaustive()
    }
}

/// The parts of a Play server, for engines that are hosted or simulated: see
/// [`PlayServerBuilder::into_parts`].
#[derive(Debug)]
pub struct PlayParts {
    /// With shards, limits and listeners.
    pub engine: EngineBuilder,
    /// Makes the handlers of the shards.
    pub stages: Stages,
    /// The server from other threads.
    pub handle: PlayHandle,
    /// Makes the handlers of the shards: `stages`, and on shard 0 the node link.
    pub shards: PlayShards,
}

/// # What there is
impl PlayServerBuilder {
    fn new() -> Self {
        Self {
            engine: Engine::builder(),
            stages: Stages::builder(),
            limits: Limits::default().idle_timeout(Duration::from_secs(60)),
            shards: 1,
            kinds: Vec::new(),
            known: Vec::new(),
            listeners: Vec::new(),
            node: None,
            announcement: Announcement::new(ServerType::Play, 1),
            default_stage: None,
            config: Config {
                authentication_id: "AuthenticateRequest".to_owned(),
                authentication_deadline: Duration::from_secs(10),
                authentication_tries: 3,
                authentication_bytes_max: 16 * 1024,
                packet_max: 0,
                messages_per_second: 0,
                bytes_per_second: 0,
                debug: false,
                unanswered: ErrorCode::UNCHECKED_CONTENTS_ERROR,
                request_deadline: Duration::from_secs(30),
                map_errors: None,
                listeners: Vec::new(),
                first_listener: 0,
                elsewhere: ListenerConfig::default(),
            },
            twice: None,
        }
    }

    /// Adds a stage type. One Rust type may be added several times, under several names.
    pub fn stage<S: PlayStage>(mut self, kind: StageKind<S>) -> Self {
        let (kind, Registration { of, register }) = kind.into_parts();
        if self.kinds.iter().any(|other| other.name() == kind.name()) {
            self.twice = Some(kind.name());
        }
        if !self.known.contains(&of) {
            self.known.push(of);
            self.stages = register(self.stages);
        }
        self.kinds.push(kind);
        self
    }

    /// Adds a listener: a [`PlayListener`], or one of the engine, whose framing is set to that of
    /// packets.
    pub fn listen(mut self, listener: impl Into<PlayListener>) -> Self {
        self.listeners.push(listener.into());
        self
    }

    /// Makes the server one of a mesh, by the name and with the addresses and endpoints of `node`:
    /// its stages and actors can then [send to and ask](crate::StageCx::request_to_stage) other
    /// servers, and these its stages. The links live on shard 0, beside its stages; the limits are
    /// those of this builder. See [`directory`](Self::directory) for finding each other.
    pub fn node(mut self, node: NodeBuilder) -> Self {
        self.node = Some(node);
        self
    }

    /// Sets the message id by which clients authenticate; default `AuthenticateRequest`.
    pub fn authentication(mut self, msg_id: impl Into<String>) -> Self {
        self.config.authentication_id = msg_id.into();
        self
    }

    /// Sets the stage type that is created when a client authenticates for a stage that does not
    /// exist. It is created for who is authenticated only. Default: none, the client is answered
    /// error 3.
    pub fn default_stage(mut self, stage_type: impl Into<String>) -> Self {
        self.default_stage = Some(stage_type.into());
        self
    }

    /// Sets the number of shards, one thread each; default 1.
    pub fn shards(mut self, shards: usize) -> Self {
        self.shards = shards;
        self
    }

    /// Changes what else can be said of the engine: names of threads, CPUs, the watchdog. Shards
    /// and limits are those of this builder. A listener that is added here is one of the engine,
    /// with the engine's framing: for clients of this server it has to have that of packets, and
    /// the server's defaults hold for it.
    pub fn with_engine(mut self, change: impl FnOnce(EngineBuilder) -> EngineBuilder) -> Self {
        self.engine = change(self.engine);
        self
    }

    /// Changes what else can be said of the stages: threads for offloaded work, the simulation.
    pub fn with_stages(mut self, change: impl FnOnce(StagesBuilder) -> StagesBuilder) -> Self {
        self.stages = change(self.stages);
        self
    }
}

/// # In the mesh
impl PlayServerBuilder {
    /// Links the [node](Self::node) to all servers of a directory, and announces it there (if it
    /// listens anywhere), to be forgotten `ttl` after the process has ended without a word; 15 s
    /// are a good choice. It is announced when it is started: one that has something to do before
    /// others turn to it, such as creating stages, joins by
    /// [`NodeHandle::join`](proscenium_nodelink::NodeHandle::join) instead. The server leaves it in
    /// good order when it is shut down
    /// ([`Membership::leave`](proscenium_nodelink::Membership::leave)).
    ///
    /// ```
    /// use std::net::SocketAddr;
    /// use std::time::Duration;
    /// use proscenium_nodelink::directory::StaticDirectory;
    /// use proscenium_nodelink::{Nid, Node, NodeOptions};
    /// use proscenium_play::PlayServer;
    ///
    /// let any: SocketAddr = ([127, 0, 0, 1], 0).into();
    /// let list = StaticDirectory::default(); // or a RedisDirectory
    /// let start = |nid| {
    ///     let node = Node::builder(NodeOptions::new(Nid::new(nid)?)).bind(any);
    ///     let server = PlayServer::builder().node(node);
    ///     let server = server.directory(list.clone(), Duration::from_secs(15)).start()?;
    ///     Ok::<_, Box<dyn std::error::Error>>(server)
    /// };
    /// let (one, two) = (start("play-1")?, start("play-2")?);
    /// let handle = one.handle();
    /// let node = handle.node().ok_or("it is a node")?;
    /// assert!(node.wait_candidates(1, 1, Duration::from_secs(60)));
    /// # two.shutdown(Duration::from_secs(1));
    /// # one.shutdown(Duration::from_secs(1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn directory(mut self, directory: impl Directory + 'static, ttl: Duration) -> Self {
        self.announcement.directory = Some((Arc::new(directory), ttl));
        self
    }

    /// Sets the address that is announced; default: the first at which the node listens.
    pub fn advertise(mut self, address: impl Into<Address>) -> Self {
        self.announcement.advertise = Some(address.into());
        self
    }

    /// Sets the number of the service that it is announced as; default 1.
    pub fn service(mut self, service_id: u16) -> Self {
        self.announcement.service_id = service_id;
        self
    }

    /// Sets its share of the service's work, in comparison to the others; default 100.
    pub fn weight(mut self, weight: u32) -> Self {
        self.announcement.weight = weight;
        self
    }
}

/// # Bounds
impl PlayServerBuilder {
    /// Changes the limits of each shard: connections, memory, queues. The greatest packet is
    /// [`frame_max`](Limits::frame_max), 2 MiB by default.
    pub fn limits(mut self, change: impl FnOnce(Limits) -> Limits) -> Self {
        self.limits = change(self.limits);
        self
    }

    /// Sets the time after which a connection from which nothing arrives is closed. Default 60 s;
    /// not zero. Clients' heartbeats come every 10 s by default.
    pub fn idle_timeout(self, timeout: Duration) -> Self {
        self.limits(|limits| limits.idle_timeout(timeout))
    }

    /// Sets the time that a connection has to authenticate, from when it is made, or from when its
    /// actor has left. Default 10 s; not zero.
    pub fn authentication_deadline(mut self, deadline: Duration) -> Self {
        self.config.authentication_deadline = deadline;
        self
    }

    /// Sets how often a connection may fail to authenticate or to join before it is closed: after
    /// the answer to the last one. That a stage has no room for one more (14) is no try. Default 3;
    /// at least 1.
    pub fn authentication_tries(mut self, tries: u32) -> Self {
        self.config.authentication_tries = tries.max(1);
        self
    }

    /// Sets how many bytes the packet may have by which a connection authenticates, its id and all
    /// but the length in front included; a longer one closes the connection. It is kept in memory
    /// until the stage has decided, and there may be one of each connection. Default 16 KiB; at
    /// least 1 KiB.
    pub fn authentication_bytes_max(mut self, bytes: usize) -> Self {
        self.config.authentication_bytes_max = bytes.max(1024);
        self
    }

    /// Sets how many messages a connection may send in one second, heartbeats included; more close
    /// it. Zero, the default: as many as it can.
    pub fn messages_per_second(mut self, messages: u32) -> Self {
        self.config.messages_per_second = messages;
        self
    }

    /// Sets how many bytes of packets a connection may send in one second; more close it. Not less
    /// than one packet may have. Zero, the default: as many as it can.
    pub fn bytes_per_second(mut self, bytes: u32) -> Self {
        self.config.bytes_per_second = bytes;
        self
    }

    /// Sets how long [`StageCx::request_to_stage`](crate::StageCx::request_to_stage) and its likes
    /// wait for an answer unless told otherwise; default 30 s.
    pub fn request_deadline(mut self, deadline: Duration) -> Self {
        self.config.request_deadline = deadline;
        self
    }
}

/// # Answers
impl PlayServerBuilder {
    /// Sets which error code stands for an error that a handler returned which answers somebody:
    /// of messages, `on_authenticate` and `on_join`. Where it gives none, and by default, that is
    /// 15, unchecked contents error, and for `on_join` 10, join stage failed. A failed `on_create`
    /// is always 9, stage creation failed.
    pub fn map_errors(
        mut self,
        map: impl Fn(&(dyn Error + 'static)) -> Option<ErrorCode> + Send + Sync + 'static,
    ) -> Self {
        self.config.map_errors = Some(Box::new(map));
        self
    }

    /// Sets the error code with which a request is answered that its handler did not answer;
    /// default 15. 0 makes an empty success of it.
    pub fn unanswered(mut self, code: impl Into<ErrorCode>) -> Self {
        self.config.unanswered = code.into();
        self
    }

    /// Answers `@Debug@` with a line about the shard, to anybody. Off by default.
    pub fn debug_messages(mut self, on: bool) -> Self {
        self.config.debug = on;
        self
    }
}

/// # Starting
impl PlayServerBuilder {
    /// Starts the server.
    ///
    /// # Errors
    /// Contradicting or missing options, addresses that cannot be bound, no more descriptors or
    /// threads; those of [`NodeHandle::join`](proscenium_nodelink::NodeHandle::join) if there is a
    /// [directory](Self::directory).
    pub fn start(mut self) -> io::Result<PlayServer> {
        self.announcement.check().map_err(contradiction)?;
        let none = Announcement::new(ServerType::Play, 1);
        let announcement = std::mem::replace(&mut self.announcement, none);
        if announcement.directory.is_some() && self.node.is_none() {
            return Err(contradiction("a directory needs a node"));
        }
        let PlayParts {
            engine,
            stages,
            handle,
            shards,
        } = self.into_parts()?;
        let config = &handle.shared.config;
        let first = config.first_listener;
        let listeners = first..first + config.listeners.len();
        let engine = stages.start_in(engine, move |shard, stages| shards.wrap(shard, stages))?;
        let server = PlayServer {
            place: OwnPlace(Arc::clone(&handle.shared)),
            engine,
            handle,
            listeners,
        };
        if let Some(node) = server.handle.node() {
            let place = announcement.join(node, server.node_addrs().first())?;
            *server.place.0.place.lock() = Some(place);
        }
        Ok(server)
    }

    /// What [`start`](Self::start) starts, for an engine that is hosted
    /// (`parts.engine.host(parts.shards.shard(0))`) or simulated
    /// (`parts.engine.simulate(&mut world, parts.shards.make())`; then
    /// [`with_stages`](Self::with_stages) says [`simulated`](StagesBuilder::simulated)).
    ///
    /// # Errors
    /// Contradicting or missing options; a [directory](Self::directory), which such a server joins
    /// by itself once it listens, by [`PlayHandle::node`].
    pub fn into_parts(mut self) -> io::Result<PlayParts> {
        self.check().map_err(|text| contradiction(&text))?;
        if self.announcement.directory.is_some() {
            return Err(contradiction(
                "only a server that is started joins a directory",
            ));
        }
        let number = |kinds: &[Arc<dyn AnyKind>], name: &Option<String>| {
            let name = name.as_ref()?;
            kinds.iter().position(|kind| kind.name() == name)
        };
        self.config.elsewhere.default_stage = number(&self.kinds, &self.default_stage);
        self.config.packet_max = self.limits.frame_max;
        let mut engine = self.engine.shards(self.shards).limits(self.limits);
        self.config.first_listener = engine.listeners();
        for listener in self.listeners {
            let own = listener.default_stage.or(self.default_stage.clone());
            self.config.listeners.push(ListenerConfig {
                lz4: listener.lz4,
                default_stage: number(&self.kinds, &own),
            });
            engine = engine.listen(listener.listener);
        }
        let mut link = None;
        if let Some(node) = self.node {
            let mut parts = node.into_parts()?;
            let first = engine.listeners();
            let numbers: Vec<usize> = (first..).take(parts.listeners.len()).collect();
            for listener in parts.listeners.drain(..) {
                engine = engine.listen(listener.balance(Balance::Only(0)));
            }
            link = Some(parts.link(&numbers));
        }
        let part = link.as_ref().map(NodePart::new);
        let shared = Shared::new(self.config, self.kinds, self.shards, part);
        let of_gates = Arc::clone(&shared);
        let stages = self
            .stages
            .front(move |shard| Gate::new(Arc::clone(&of_gates), shard))
            .build();
        let handle = PlayHandle {
            shared: Arc::clone(&shared),
            stages: stages.clone(),
        };
        let shards = PlayShards::new(stages.clone(), shared, link);
        Ok(PlayParts {
            engine,
            stages,
            handle,
            shards,
        })
    }

    fn check(&self) -> Result<(), String> {
        let config = &self.config;
        if let Some(name) = self.twice {
            return Err(format!("the stage type {name:?} is registered twice"));
        }
        let of_listeners = self.listeners.iter().map(|one| &one.default_stage);
        for name in of_listeners.chain([&self.default_stage]).flatten() {
            if !self.kinds.iter().any(|kind| kind.name() == name) {
                return Err(format!("the default stage type {name:?} is not registered"));
            }
        }
        let id = &config.authentication_id;
        if crate::DeliverError::check_id(id).is_err() || id.starts_with('@') {
            return Err(format!("{id:?} cannot be the message that authenticates"));
        }
        if config.authentication_deadline.is_zero() || self.limits.idle_timeout.is_zero() {
            return Err("authentication deadline and idle timeout must not be zero".to_owned());
        }
        let (bytes, packet) = (config.bytes_per_second as usize, self.limits.frame_max);
        if bytes > 0 && bytes < packet {
            return Err(format!(
                "{bytes} bytes per second are less than the longest packet of {packet} bytes"
            ));
        }
        if self.shards == 0 {
            return Err("a server has at least 1 shard".to_owned());
        }
        Ok(())
    }
}

fn contradiction(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("Play server: {text}"))
}

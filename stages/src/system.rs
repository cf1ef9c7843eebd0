//! [`Stages`]: the stage types of an engine and their shards, as all threads see them.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use proscenium_engine::{
    Engine, EngineBuilder, Handle, Handler, Message, Peer, PostError, RouterId, ShardWaker, Stall,
};

use crate::core::Core;
use crate::error::{CreateError, TellError};
use crate::front::Front;
use crate::handler::StageShard;
use crate::local::{Creating, Local};
use crate::offload::{Executor, Pool};
use crate::options::{StageType, TypeInfo};
use crate::post::{StagePost, Tell, TellId, refused_tell};
use crate::registry;
use crate::request::{Asked, Reply};
use crate::samples::SharedSamples;
use crate::slot::{WakeKey, with_current};
use crate::stage::Stage;
use crate::stage_ref::{StageKey, StageRef};
use crate::stats::{SharedCounters, StageStats};
use crate::watch::{Watched, Watching};

pub(crate) type OnConnect = dyn Fn(&Local<'_>, RouterId, &Peer) + Send + Sync;
pub(crate) type OnUnbound = dyn Fn(&Local<'_>, RouterId, Message<'_>) + Send + Sync;
type MakeFront = dyn Fn(usize) -> Box<dyn Front> + Send + Sync;
type OnStall = dyn Fn(&Stall, Option<&str>) + Send + Sync;

/// What all shards of a system share.
pub(crate) struct System {
    /// Never that of another system of the process.
    pub(crate) number: u32,
    pub(crate) types: Vec<Arc<TypeInfo>>,
    pub(crate) request_deadline: Duration,
    pub(crate) executor: Executor,
    pub(crate) on_connect: Option<Box<OnConnect>>,
    pub(crate) on_unbound: Option<Box<OnUnbound>>,
    pub(crate) front: Option<Box<MakeFront>>,
    on_stall: Option<Box<OnStall>>,
    shards: Box<[OnceLock<Arc<ShardShared>>]>,
    count: AtomicUsize,
    handle: OnceLock<Handle<StagePost>>,
}

/// What other threads have of one shard.
#[derive(Default)]
pub(crate) struct ShardShared {
    pub(crate) counters: SharedCounters,
    pub(crate) samples: SharedSamples,
    pub(crate) watched: Watched,
    wakers: Wakers,
}

impl ShardShared {
    fn stats(&self) -> StageStats {
        self.counters.read(&self.samples)
    }
}

impl System {
    /// The upper bits of a waker's name.
    pub(crate) fn registered(&self) -> usize {
        (self.number & 0xfff) as usize
    }

    pub(crate) fn shards(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    pub(crate) fn type_number<S: Stage>(&self) -> Result<u8, CreateError> {
        let of = std::any::TypeId::of::<S>();
        self.types
            .iter()
            .find(|info| info.of == of)
            .map(|info| info.number)
            .ok_or(CreateError::UnknownType(std::any::type_name::<S>()))
    }

    /// Runs `call` on a shard, which takes a place in its mailbox.
    pub(crate) fn run_on(
        &self,
        shard: usize,
        call: impl FnOnce(&Local<'_>) + Send + 'static,
    ) -> Result<(), TellError<()>> {
        let run = move |core: &Core| call(&Local::new(core.ptr()));
        let posted = self.post(shard, StagePost::run(run));
        posted.map_err(|error| match error {
            PostError::Full(_) => TellError::Full(()),
            _ => TellError::Gone(()),
        })
    }

    /// Type number and shard of the stage with that id.
    pub(crate) fn place<S: Stage>(&self, id: u64) -> Result<(u8, usize), CreateError> {
        let number = self.type_number::<S>()?;
        let shards = self.shards();
        if shards == 0 {
            return Err(CreateError::Stopped);
        }
        let placement = self.types[usize::from(number)].options.placement;
        Ok((number, placement(id, shards).min(shards - 1)))
    }

    /// A shard begins to exist.
    pub(crate) fn shard_begins(&self, shard: usize) -> Arc<ShardShared> {
        let shared = Arc::new(ShardShared::default());
        assert!(
            self.shards[shard].set(Arc::clone(&shared)).is_ok(),
            "these stages run on an engine already; build another system for another engine"
        );
        shared
    }

    pub(crate) fn shard(&self, shard: usize) -> Option<&ShardShared> {
        Some(self.shards.get(shard)?.get()?)
    }

    /// The engine runs: its shards can be reached.
    pub(crate) fn engine_runs(&self, handle: Handle<StagePost>, shards: usize) {
        if self.handle.set(handle).is_ok() {
            self.count.store(shards, Ordering::Release);
        }
    }

    /// A wake from a thread that is not inside the shard.
    pub(crate) fn wake(&self, key: WakeKey) {
        if let (Some(shard), Some(handle)) = (self.shard(key.shard()), self.handle.get()) {
            shard.wakers.wake(handle, key);
        }
    }

    pub(crate) fn tell<S: Stage>(
        &self,
        to: StageRef<S>,
        message: S::Msg,
    ) -> Result<(), TellError<S::Msg>> {
        let post = StagePost::new(Tell::<S> {
            to: to.key,
            message: Some(message),
        });
        self.post(to.key.shard(), post).map_err(Tell::<S>::refused)
    }

    /// Tells a stage of another shard by its id.
    pub(crate) fn tell_id<S: Stage>(
        &self,
        stage_type: u8,
        shard: usize,
        id: u64,
        message: S::Msg,
    ) -> Result<(), TellError<S::Msg>> {
        let post = StagePost::new(TellId::<S> {
            stage_type,
            id,
            message,
        });
        let posted = self.post(shard, post);
        posted.map_err(|error| refused_tell(error, |tell: TellId<S>| Some(tell.message)))
    }

    pub(crate) fn post(
        &self,
        shard: usize,
        mut post: StagePost,
    ) -> Result<(), PostError<StagePost>> {
        post.system = self.number;
        match self.handle.get() {
            Some(handle) => handle.post(shard, post),
            None => Err(PostError::Stopped(post)),
        }
    }
}

/// Wakers of a shard's frames for other threads: made when first used, kept as long as the system.
struct Wakers {
    chunks: Box<[OnceLock<Chunk>]>,
}

type Chunk = Box<[OnceLock<ShardWaker>]>;

/// Frames per chunk of [`Wakers`].
const WAKERS: usize = 4096;

impl Default for Wakers {
    fn default() -> Self {
        let chunks = WakeKey::FRAMES_MAX as usize / WAKERS;
        Self {
            chunks: (0..chunks).map(|_| OnceLock::new()).collect(),
        }
    }
}

impl Wakers {
    fn wake(&self, handle: &Handle<StagePost>, key: WakeKey) {
        let frame = key.frame() as usize;
        let chunk = self.chunks[frame / WAKERS]
            .get_or_init(|| (0..WAKERS).map(|_| OnceLock::new()).collect());
        let waker = &chunk[frame % WAKERS];
        if let Some(waker) = waker.get() {
            return waker.wake();
        }
        if let Some(made) = handle.waker(key.shard(), u64::from(key.frame())) {
            waker.get_or_init(|| made).wake();
        }
    }
}

/// Prepares the stages of an engine: which types there are, what happens to connections.
#[must_use]
pub struct StagesBuilder {
    types: Vec<Arc<TypeInfo>>,
    request_deadline: Duration,
    compute_threads: usize,
    io_threads: usize,
    offloads_max: usize,
    simulated: bool,
    on_connect: Option<Box<OnConnect>>,
    on_unbound: Option<Box<OnUnbound>>,
    front: Option<Box<MakeFront>>,
    on_stall: Option<Box<OnStall>>,
}

impl fmt::Debug for StagesBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.types.iter().map(|info| info.name).collect();
        f.debug_struct("StagesBuilder")
            .field("types", &names)
            .finish_non_exhaustive()
    }
}

impl StagesBuilder {
    /// Adds a stage type.
    ///
    /// # Panics
    /// If the type was added before, or with more than 255 types.
    pub fn register<S: Stage>(mut self, stage_type: StageType<S>) -> Self {
        let of = std::any::TypeId::of::<S>();
        let known = self.types.iter().any(|info| info.of == of);
        assert!(!known, "{} is registered twice", std::any::type_name::<S>());
        let number = u8::try_from(self.types.len()).ok().filter(|&n| n < u8::MAX);
        let number = number.expect("at most 255 stage types");
        self.types.push(stage_type.into_info(number));
        self
    }

    /// Sets what happens to a new connection, on its shard: mostly it is
    /// [bound](Local::bind) to a stage. Default: nothing.
    pub fn on_connect(
        mut self,
        call: impl Fn(&Local<'_>, RouterId, &Peer) + Send + Sync + 'static,
    ) -> Self {
        self.on_connect = Some(Box::new(call));
        self
    }

    /// Sets what happens to messages of connections that are bound to no stage. Default: the
    /// connection is closed, and that is counted.
    pub fn on_unbound(
        mut self,
        call: impl Fn(&Local<'_>, RouterId, Message<'_>) + Send + Sync + 'static,
    ) -> Self {
        self.on_unbound = Some(Box::new(call));
        self
    }

    /// Puts something before the stages of each shard, which `make` makes there from the shard's
    /// number: it takes the place of [`on_connect`](Self::on_connect) and
    /// [`on_unbound`](Self::on_unbound), keeps a state of its own, and sees messages first.
    pub fn front<F: Front>(mut self, make: impl Fn(usize) -> F + Send + Sync + 'static) -> Self {
        self.front = Some(Box::new(move |shard| Box::new(make(shard))));
        self
    }

    /// Has `call` called beside the log line when a shard is stuck in one slice of events, with
    /// what it is running as [`Stages::running`] says; `None` if that is no stage. It takes the
    /// place of [`EngineBuilder::on_stall`], whose rules it follows, for engines that
    /// [`Stages::start`] starts.
    pub fn on_stall(mut self, call: impl Fn(&Stall, Option<&str>) + Send + Sync + 'static) -> Self {
        self.on_stall = Some(Box::new(call));
        self
    }

    /// Sets how long a [request](crate::Cx::request) waits for its answer; default 30 s.
    pub fn request_deadline(mut self, deadline: Duration) -> Self {
        self.request_deadline = deadline;
        self
    }

    /// Sets the number of threads for [`offload_compute`](crate::Local::offload_compute); default:
    /// as many as there are CPUs. They are made when there is work.
    pub fn compute_threads(mut self, threads: usize) -> Self {
        self.compute_threads = threads;
        self
    }

    /// Sets the number of threads for [`offload_io`](crate::Local::offload_io); default 64. They
    /// are made when there is work.
    pub fn io_threads(mut self, threads: usize) -> Self {
        self.io_threads = threads;
        self
    }

    /// Sets how much offloaded work may wait for a thread, for each of the two pools; beyond,
    /// offloads answer `Full`. Default 4,096.
    pub fn offloads_max(mut self, waiting: usize) -> Self {
        self.offloads_max = waiting;
        self
    }

    /// For the engine's simulation: offloaded work runs on the shard, at a seeded time later.
    pub fn simulated(mut self) -> Self {
        self.simulated = true;
        self
    }

    /// Makes the system. Its shards are then given to an engine by [`Stages::shards`].
    pub fn build(self) -> Stages {
        let executor = if self.simulated {
            Executor::Inline
        } else {
            Executor::Threads {
                compute: Pool::new("compute", self.compute_threads, self.offloads_max),
                io: Pool::new("io", self.io_threads, self.offloads_max),
            }
        };
        let system = registry::register(|number| System {
            number,
            types: self.types,
            request_deadline: self.request_deadline,
            executor,
            on_connect: self.on_connect,
            on_unbound: self.on_unbound,
            front: self.front,
            on_stall: self.on_stall,
            shards: (0..RouterId::SHARDS_MAX).map(|_| OnceLock::new()).collect(),
            count: AtomicUsize::new(0),
            handle: OnceLock::new(),
        });
        Stages { system }
    }
}

/// The stages of one engine, from any thread: cloneable, and keeps nothing running.
///
/// ```
/// use std::time::Duration;
/// use proscenium_engine::Engine;
/// use proscenium_stages::{Cx, Reply, Stage, StageType, Stages};
///
/// struct Counter(u64);
///
/// impl Stage for Counter {
///     type Msg = Reply<u64>;
///
///     async fn on_message(&mut self, _cx: &mut Cx<'_, Self>, reply: Reply<u64>) {
///         self.0 += 1;
///         let _ = reply.send(self.0);
///     }
/// }
///
/// let stages = Stages::builder()
///     .register(StageType::new("counter").factory(|_id| Counter(0)))
///     .build();
/// let engine = stages.start(Engine::builder().shards(2))?;
///
/// let second = Duration::from_secs(1);
/// let counter = stages.get_or_create::<Counter>(7).wait(second)?;
/// assert_eq!(counter.ask(|reply| reply).wait(second)?, 1);
/// assert_eq!(counter.ask(|reply| reply).wait(second)?, 2);
/// assert!(engine.shutdown(second).is_clean());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Stages {
    pub(crate) system: Arc<System>,
}

impl Stages {
    /// A builder with the defaults and no stage type.
    pub fn builder() -> StagesBuilder {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        StagesBuilder {
            types: Vec::new(),
            request_deadline: Duration::from_secs(30),
            compute_threads: cpus,
            io_threads: 64,
            offloads_max: 4096,
            simulated: false,
            on_connect: None,
            on_unbound: None,
            front: None,
            on_stall: None,
        }
    }

    /// Starts an engine whose shards run these stages, each on a thread of its own. A stalled shard
    /// is reported by the name of the stage and handler that holds it up, in the log and to
    /// [`StagesBuilder::on_stall`]; an [`EngineBuilder::on_stall`] is replaced.
    ///
    /// # Errors
    /// Those of [`EngineBuilder::start`].
    ///
    /// # Panics
    /// If these stages run on an engine already: one system, one engine.
    pub fn start(&self, engine: EngineBuilder) -> io::Result<Engine<StagePost>> {
        self.start_in(engine, |_, shard| shard)
    }

    /// [`start`](Self::start), with each shard's handler inside of one that `wrap` makes, which
    /// passes the engine's calls on. See [`StageShard::with_local`].
    ///
    /// # Errors
    /// Those of [`start`](Self::start).
    ///
    /// # Panics
    /// As [`start`](Self::start).
    pub fn start_in<H: Handler<Post = StagePost>>(
        &self,
        engine: EngineBuilder,
        wrap: impl Fn(usize, StageShard) -> H + Send + Sync + 'static,
    ) -> io::Result<Engine<StagePost>> {
        let (stages, make) = (self.clone(), self.shards());
        let engine = engine.on_stall(move |stall| stages.stalled(stall));
        let engine = engine.start(move |shard| wrap(shard, make(shard)))?;
        self.attach(&engine.handle());
        Ok(engine)
    }

    /// Tells the system its engine, if that was not started by [`start`](Self::start). The shards
    /// do so themselves in their first turn; before that, other threads find them
    /// [`Stopped`](CreateError::Stopped).
    pub fn attach(&self, engine: &Handle<StagePost>) {
        self.system.engine_runs(engine.clone(), engine.shards());
    }

    /// Makes the handler of each shard: for [`EngineBuilder::start`], [`EngineBuilder::host`] and
    /// the simulation.
    pub fn shards(&self) -> impl Fn(usize) -> StageShard + Send + Sync + Clone + use<> {
        let system = Arc::clone(&self.system);
        move |shard| StageShard::new(Arc::clone(&system), shard)
    }

    /// The stage of that type and id; its factory makes it if there is none, exactly once, on the
    /// shard that the type's placement names. One that is about to end is waited for: see
    /// [`Local::get_or_create`].
    pub fn get_or_create<S: Stage>(&self, id: u64) -> Creating<S> {
        match self.system.place::<S>(id) {
            Ok((number, shard)) => {
                self.on_shard(shard, move |core, reply| core.want_for(number, id, reply))
            }
            Err(error) => refused(error),
        }
    }

    /// Tells the stage of that type and id something; its factory makes it if there is none: see
    /// [`Local::tell_id`].
    ///
    /// # Errors
    /// [`TellError`], with the message. `Gone` if the type was not registered, or the engine does
    /// not run; that the stage cannot be made is found out on its shard, and counted.
    pub fn tell_id<S: Stage>(&self, id: u64, message: S::Msg) -> Result<(), TellError<S::Msg>> {
        let told = with_current(|core| match core {
            Some(core) if core.system_number == self.system.number => {
                Ok(Local::new(core.ptr()).tell_id::<S>(id, message))
            }
            _ => Err(message),
        });
        told.unwrap_or_else(|message| match self.system.place::<S>(id) {
            Ok((number, shard)) => self.system.tell_id::<S>(number, shard, id, message),
            Err(_) => Err(TellError::Gone(message)),
        })
    }

    /// The stage of that type and id, if there is one that is not about to end.
    pub fn get<S: Stage>(&self, id: u64) -> Creating<S, Option<StageRef<S>>> {
        match self.system.place::<S>(id) {
            Ok((number, shard)) => self.on_shard(shard, move |core, reply| {
                let found = core.living(number, id);
                let found = found.map(|key| StageRef::new(core.system_number, key));
                let _ = reply.send(Ok(found)); // who asked may have given up
            }),
            Err(error) => refused(error),
        }
    }

    /// Puts a stage on a shard, which makes it there.
    pub fn spawn_on<S: Stage>(
        &self,
        shard: usize,
        make: impl FnOnce() -> S + Send + 'static,
    ) -> Creating<S> {
        self.create(shard, move |core| core.insert_made(make))
    }

    fn create<S: Stage>(
        &self,
        shard: usize,
        create: impl FnOnce(&Core) -> Result<StageKey, CreateError> + Send + 'static,
    ) -> Creating<S> {
        self.on_shard(shard, move |core, reply| {
            let _ = reply.send(create(core).map(|key| StageRef::new(core.system_number, key)));
        })
    }

    fn on_shard<S: Stage, T: Send + 'static>(
        &self,
        shard: usize,
        call: impl FnOnce(&Core, Reply<Result<T, CreateError>>) + Send + 'static,
    ) -> Creating<S, T> {
        let (reply, asked) = Reply::pair();
        let post = StagePost::run(move |core| call(core, reply));
        match self.system.post(shard, post) {
            Ok(()) => Creating::new(asked),
            Err(PostError::Full(_)) => refused(CreateError::Full),
            Err(_) => refused(CreateError::Stopped),
        }
    }

    /// Has a stage end after what is in its backlog now.
    ///
    /// # Errors
    /// `Full` if the mailbox of its shard is full, `Gone` if that shard has stopped. That the
    /// stage itself is gone is no error: it is what was wanted.
    pub fn stop<S: Stage>(&self, stage: StageRef<S>) -> Result<(), TellError<()>> {
        self.on_shard_of(stage, |core, key| {
            core.stages(key.stage_type()).stop(core, key);
        })
    }

    /// Has a stage end at once: what it awaits is cancelled, its backlog dropped.
    ///
    /// # Errors
    /// `Full` if the mailbox of its shard is full, `Gone` if that shard has stopped. That the
    /// stage itself is gone is no error: it is what was wanted.
    pub fn destroy<S: Stage>(&self, stage: StageRef<S>) -> Result<(), TellError<()>> {
        self.on_shard_of(stage, Core::doom)
    }

    fn on_shard_of<S: Stage>(
        &self,
        stage: StageRef<S>,
        call: impl FnOnce(&Core, StageKey) + Send + 'static,
    ) -> Result<(), TellError<()>> {
        let system = self.system.number;
        if stage.system != system {
            return Err(TellError::Gone(()));
        }
        // From inside of a handler nothing is refused.
        let call = with_current(|core| match core {
            Some(core) if core.system_number == system => {
                core.on_shard_of(stage, call);
                None
            }
            _ => Some(call),
        });
        let Some(call) = call else {
            return Ok(());
        };
        let key = stage.key;
        let post = StagePost::run(move |core| call(core, key));
        self.system
            .post(key.shard(), post)
            .map_err(|error| match error {
                PostError::Full(_) => TellError::Full(()),
                _ => TellError::Gone(()),
            })
    }

    /// Begins to shut the engine down that runs these stages, as
    /// [`Handle::shutdown`](proscenium_engine::Handle::shutdown) does. Nothing if none runs yet.
    pub fn shutdown(&self, deadline: Duration) {
        if let Some(engine) = self.system.handle.get() {
            engine.shutdown(deadline);
        }
    }

    /// What happened so far, of each shard as of its last run.
    pub fn stats(&self) -> Vec<StageStats> {
        let shards = (0..self.system.shards()).map(|shard| {
            let shard = self.system.shard(shard);
            shard.map_or_else(StageStats::default, |shard| shard.stats())
        });
        shards.collect()
    }

    /// The sum of [`stats`](Self::stats).
    pub fn total(&self) -> StageStats {
        let mut total = StageStats::default();
        for shard in self.stats() {
            total.add(&shard);
        }
        total
    }

    /// Runs `call` on a shard, from any thread.
    ///
    /// # Errors
    /// `Full` if the mailbox of the shard is full, `Gone` if it has stopped or does not run yet.
    pub fn run_on(
        &self,
        shard: usize,
        call: impl FnOnce(&Local<'_>) + Send + 'static,
    ) -> Result<(), TellError<()>> {
        self.system.run_on(shard, call)
    }

    fn stalled(&self, stall: &Stall) {
        let culprit = self.running(stall.shard);
        if let Some(culprit) = &culprit {
            let (shard, taken) = (stall.shard, stall.taken);
            tracing::warn!(shard, ?taken, %culprit, "a stage holds up its shard");
        }
        if let Some(call) = &self.system.on_stall {
            call(stall, culprit.as_deref());
        }
    }

    /// What a shard runs at this moment: the stage and its handler, as in `room#7 in on_message`.
    /// Stages without an id are told by shard, type and slot: `room@0.2.15 in on_timer`.
    pub fn running(&self, shard: usize) -> Option<String> {
        let Watching {
            stage_type,
            method,
            slot,
            id,
        } = self.system.shard(shard)?.watched.read()?;
        let name = self.system.types.get(usize::from(stage_type))?.name;
        Some(match id {
            Some(id) => format!("{name}#{id} in {method}"),
            None => format!("{name}@{shard}.{stage_type}.{slot} in {method}"),
        })
    }
}

fn refused<S, T>(error: CreateError) -> Creating<S, T> {
    Creating::new(Asked::answered(Err(error)))
}

impl fmt::Debug for Stages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stages")
            .field("shards", &self.system.shards())
            .finish_non_exhaustive()
    }
}

//! [`Local`]: what can be done on a shard, by whoever runs there.

use std::any::Any;
use std::fmt;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use proscenium_engine::{Body, CloseReason, Peer, PostError, RouterId, SendError, Time};

use crate::core::Core;
use crate::error::{CreateError, RequestError, TellError};
use crate::front::{Front, HELD};
use crate::offload::Offload;
use crate::post::{StagePost, Tell};
use crate::request::{Asked, Reply, Request};
use crate::slot::{CorePtr, downcast_stages};
use crate::stage::Stage;
use crate::stage_ref::{StageKey, StageRef};
use crate::timers::{Due, Sleep};
use crate::type_shard::TypeShard;

/// The shard as what runs on it sees it: stages (their [`Cx`](crate::Cx) derefs to it) and the
/// callbacks of [`StagesBuilder`](crate::StagesBuilder). Nothing of it blocks.
#[derive(Clone, Copy)]
pub struct Local<'a> {
    core: CorePtr,
    /// Neither sent to another thread nor kept beyond `'a`.
    life: PhantomData<(&'a (), *mut ())>,
}

impl<'a> Local<'a> {
    pub(crate) fn new(core: CorePtr) -> Self {
        Self {
            core,
            life: PhantomData,
        }
    }

    #[inline]
    pub(crate) fn core(&self) -> &Core {
        self.core.core()
    }

    /// The number of this shard, from 0.
    pub fn shard(&self) -> usize {
        self.core().shard
    }

    /// How many shards there are.
    pub fn shards(&self) -> usize {
        self.core().system.shards()
    }

    /// The time as of the beginning of this slice of events. Costs nothing.
    pub fn now(&self) -> Time {
        self.core().now()
    }

    /// A number from the shard's generator: seeded, so that simulations replay. Not for secrets.
    pub fn random(&self) -> u64 {
        let random = self.core().engine.with(|engine| engine.random());
        random.unwrap_or_default()
    }

    /// Tells a stage something: puts it into its backlog, or into the mailbox of its shard. It is
    /// handled after this handler, in the order of this sender.
    ///
    /// # Errors
    /// [`TellError`], with the message; see [`StageRef::tell`] for stages of other shards.
    #[inline]
    pub fn tell<S: Stage>(
        &self,
        to: StageRef<S>,
        message: S::Msg,
    ) -> Result<(), TellError<S::Msg>> {
        self.core().tell(to, message)
    }

    /// Tells the stage of that type and id something; its factory makes it if there is none. The
    /// address of stages that [leave memory](crate::StageType::passivate_after), which a
    /// [`StageRef`] does not survive. In the order of this sender, but not in one order with what
    /// it tells by `StageRef`.
    ///
    /// # Errors
    /// [`TellError`], with the message. `Gone` if the type was not registered, or the stage is of
    /// this shard and is about to end, or cannot be made ([`CreateError`] says why); for other
    /// shards these are found out there, and counted.
    pub fn tell_id<S: Stage>(&self, id: u64, message: S::Msg) -> Result<(), TellError<S::Msg>> {
        self.core().tell_id::<S>(id, message)
    }

    /// Asks a stage something, and waits for its answer as [`Cx::request`](crate::Cx::request)
    /// does, but for code that is no handler: it begins a new chain, and takes no part in the
    /// finding of cycles. Handlers use `Cx::request`.
    pub fn ask<S: Stage, R: Send + 'static>(
        &self,
        to: StageRef<S>,
        message: impl FnOnce(Reply<R>) -> S::Msg,
    ) -> Request<'a, R> {
        let (reply, asked) = Reply::pair();
        if let Err(error) = self.tell(to, message(reply)) {
            asked.refuse((&error).into());
        }
        let deadline = self.core().system.request_deadline;
        Request::new(*self, asked, deadline, None)
    }

    /// Queues a copy of `body` as one message to a connection.
    ///
    /// # Errors
    /// Those of the engine's [`Context::send`](proscenium_engine::Context::send).
    #[inline]
    pub fn send(&self, to: RouterId, body: &[u8]) -> Result<(), SendError> {
        self.engine(|engine| engine.send(to, body))
    }

    /// Sends a received message on as it is, without copying it where that is possible.
    ///
    /// # Errors
    /// Those of [`send`](Self::send).
    #[inline]
    pub fn forward(&self, to: RouterId, body: &Body) -> Result<(), SendError> {
        self.engine(|engine| engine.forward_body(to, body))
    }

    /// Lets `encode` write a body of at most `max` bytes straight into the send buffer. `encode`
    /// must not use this `Local` or a `Cx`: the engine is busy with it, sends are told `Gone`, and
    /// timers are not set.
    ///
    /// # Errors
    /// Those of [`send`](Self::send), judged by `max`; then `encode` is not called.
    ///
    /// # Panics
    /// If `encode` returns more than `max`.
    #[inline]
    pub fn send_with(
        &self,
        to: RouterId,
        max: usize,
        encode: impl FnOnce(&mut [u8]) -> usize,
    ) -> Result<usize, SendError> {
        self.engine(|engine| engine.send_with(to, max, encode))
    }

    /// Queues a shared body for each of `to`, and returns how many of them did not take it (gone,
    /// or full: then the listener's overflow policy has acted).
    pub fn broadcast(&self, to: impl IntoIterator<Item = RouterId>, body: &Bytes) -> usize {
        // Collected before: the engine is busy in there, and `to` is anybody's code.
        let to: Vec<RouterId> = to.into_iter().collect();
        let count = to.len();
        let refused = self.core().engine.with(|engine| engine.broadcast(to, body));
        refused.unwrap_or(count)
    }

    /// Bytes queued for a connection of this shard and not yet written.
    pub fn queued_bytes(&self, id: RouterId) -> Option<usize> {
        self.core()
            .engine
            .with(|engine| engine.queued_bytes(id))
            .flatten()
    }

    /// Who is at the other end of a connection of this shard.
    pub fn peer(&self, id: RouterId) -> Option<Peer> {
        self.core().engine.with(|engine| engine.peer(id)).flatten()
    }

    /// Closes a connection gracefully.
    pub fn close(&self, id: RouterId) {
        self.core().engine.with(|engine| engine.close(id));
    }

    #[inline]
    fn engine<R>(
        &self,
        call: impl FnOnce(&mut proscenium_engine::Context<'_, StagePost>) -> Result<R, SendError>,
    ) -> Result<R, SendError> {
        self.core()
            .engine
            .with(call)
            .unwrap_or(Err(SendError::Gone))
    }

    /// Puts a stage on this shard. [`Stage::on_create`] is the first that it runs, after this
    /// handler.
    ///
    /// # Errors
    /// `UnknownType`, `TooMany`, or `Stopped` during a shutdown.
    pub fn spawn<S: Stage>(&self, stage: S) -> Result<StageRef<S>, CreateError> {
        let core = self.core();
        let stages = core.stages_of::<S>()?;
        let key = stages.insert(core, stage)?;
        Ok(StageRef::new(core.system.number, key))
    }

    /// Puts a stage on this shard and [binds](Self::bind) a connection to it: what
    /// [`StagesBuilder::on_connect`](crate::StagesBuilder::on_connect) mostly does.
    ///
    /// # Errors
    /// Those of [`spawn`](Self::spawn). Then the connection is closed: nobody serves it.
    pub fn spawn_bound<S: Stage>(
        &self,
        id: RouterId,
        stage: S,
    ) -> Result<StageRef<S>, CreateError> {
        let spawned = self.spawn(stage);
        match spawned {
            Ok(stage) => self.bind(id, stage),
            Err(_) => self.close(id),
        }
        spawned
    }

    /// Puts a stage on a shard, which makes it there.
    pub fn spawn_on<S: Stage>(
        &self,
        shard: usize,
        make: impl FnOnce() -> S + Send + 'static,
    ) -> Creating<S> {
        self.core()
            .create_on(shard, move |core| core.insert_made(make))
    }

    /// The stage of that type and id; its factory makes it if there is none. On the shard that the
    /// type's placement names, so that under any concurrency it is made once. While one that was
    /// told to end has not ended, this waits for its end, at most for the
    /// [request deadline](crate::StagesBuilder::request_deadline): then it is
    /// [`Ending`](CreateError::Ending).
    pub fn get_or_create<S: Stage>(&self, id: u64) -> Creating<S> {
        Creating::new(self.core().get_or_create(id))
    }

    /// The stage of that type and id, if there is one that is not about to end.
    pub fn get<S: Stage>(&self, id: u64) -> Creating<S, Option<StageRef<S>>> {
        Creating::new(self.core().get(id))
    }

    /// Has a stage end after what is in its backlog now: [`Stage::on_destroy`] is the last that it
    /// runs.
    pub fn stop<S: Stage>(&self, stage: StageRef<S>) {
        self.core().on_shard_of(stage, |core, key| {
            core.stages(key.stage_type()).stop(core, key);
        });
    }

    /// Has a stage end at once: what it awaits is cancelled, its backlog is dropped, then it runs
    /// [`Stage::on_destroy`].
    pub fn destroy<S: Stage>(&self, stage: StageRef<S>) {
        self.core().on_shard_of(stage, Core::doom);
    }

    /// Binds a connection to a stage: its messages go straight to [`Stage::on_packet`], and its
    /// end to [`Stage::on_disconnect`]. If stage and connection live on different shards, the
    /// connection moves to the stage's. It was bound to another stage before: not any more, and
    /// what that one has in its backlog stays there. When the stage ends, the connection is closed.
    ///
    /// If the stage is gone when the connection arrives there, the connection is closed; so it is
    /// if the ends of as many connections wait for the stage as its backlog has room for (and at
    /// least 1,024). A stage that lives is told of that end as of any other, with the reason
    /// [`Local`](proscenium_engine::CloseReason::Local), and so it is if the connection is gone,
    /// with the reason [`PeerClosed`](proscenium_engine::CloseReason::PeerClosed) whatever the true
    /// one was: no stage waits for a connection that never comes. Ends need no room, so whoever
    /// binds without end to a stage that looks at nothing fills its backlog with them.
    pub fn bind<S: Stage>(&self, id: RouterId, stage: StageRef<S>) {
        let core = self.core();
        if stage.system == core.system_number {
            core.bind(id, stage.key);
        } else {
            self.close(id); // as if the stage were gone
        }
    }

    /// Takes a connection of this shard from its stage, or ends its [`hold`](Self::hold); its
    /// further messages go to [`StagesBuilder::on_unbound`](crate::StagesBuilder::on_unbound).
    pub fn unbind(&self, id: RouterId) {
        self.core().unbind(id);
    }

    /// Does not read a connection of this shard that is bound to no stage, until it is
    /// [bound](Self::bind) or [unbound](Self::unbind): for the time in which it is found out whose
    /// it is. What it sends meanwhile, also what has arrived already, follows after that, in
    /// order. False if there is no such connection here, or it is bound.
    pub fn hold(&self, id: RouterId) -> bool {
        let held = self.core().engine.with(|engine| {
            let free = engine.tag(id) == 0 && engine.set_tag(id, HELD);
            if free {
                engine.pause_reading(id);
            }
            free
        });
        held.unwrap_or(false)
    }

    /// True if a connection of this shard is not read because the backlog of its stage is full.
    pub fn is_stalled(&self, id: RouterId) -> bool {
        let core = self.core();
        let tag = core.engine.with(|engine| engine.tag(id)).unwrap_or(0);
        let stages = core.stages_named(tag);
        stages.is_some_and(|stages| stages.is_stalled(StageKey::from_tag(tag), id))
    }

    /// What stands before the stages of this shard, if [`StagesBuilder::front`] made it and it is
    /// of that type.
    ///
    /// [`StagesBuilder::front`]: crate::StagesBuilder::front
    #[inline]
    pub fn front<F: Front>(&self) -> Option<&F> {
        let front: &dyn Any = &**self.core().front.as_ref()?;
        front.downcast_ref()
    }

    /// Calls `call` on this shard once, after `delay`. Not during a shutdown's last moments.
    pub fn after(&self, delay: Duration, call: impl FnOnce(&Local<'_>) + 'static) {
        let core = self.core();
        let at = core.clock() + delay;
        let due = Due::Run(Box::new(move |core: &Core| call(&Local::new(core.ptr()))));
        core.set_timer(at, due);
    }

    /// Runs `call` on a shard: at once on this one, after this slice on another. Needs no room
    /// there: what cannot be posted waits in a queue without a bound, in order. So it is for what
    /// must not be lost, and what calls it has to be bounded itself. A shard that has stopped
    /// drops it.
    pub fn run_on(&self, shard: usize, call: impl FnOnce(&Local<'_>) + Send + 'static) {
        let core = self.core();
        if shard == core.shard {
            call(self);
        } else {
            let run = move |core: &Core| call(&Local::new(core.ptr()));
            core.post_at_last(shard, StagePost::run(run));
        }
    }

    /// [`run_on`](Self::run_on) for what may be refused: takes a place in the mailbox of another
    /// shard.
    ///
    /// # Errors
    /// `Full` if the mailbox is full, `Gone` if that shard has stopped; `call` is dropped.
    pub fn try_run_on(
        &self,
        shard: usize,
        call: impl FnOnce(&Local<'_>) + Send + 'static,
    ) -> Result<(), TellError<()>> {
        let core = self.core();
        if shard == core.shard {
            call(self);
            return Ok(());
        }
        core.system.run_on(shard, call)
    }

    /// Runs `work` on a thread for computing, of which there are few
    /// ([`StagesBuilder::compute_threads`](crate::StagesBuilder::compute_threads)), and brings its
    /// result back. A stage that awaits it is busy meanwhile; with [`detach`](crate::Cx::detach)
    /// it is not.
    pub fn offload_compute<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Offload<T> {
        self.core().offload(true, work)
    }

    /// Runs `work`, which may block, on a thread for that
    /// ([`StagesBuilder::io_threads`](crate::StagesBuilder::io_threads)), and brings its result
    /// back. A stage that awaits it is busy meanwhile; with [`detach`](crate::Cx::detach) it is
    /// not.
    pub fn offload_io<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Offload<T> {
        self.core().offload(false, work)
    }

    /// Waits for some time.
    pub fn sleep(&self, time: Duration) -> Sleep<'a> {
        Sleep::new(*self, time)
    }
}

impl fmt::Debug for Local<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Local")
            .field("shard", &self.shard())
            .finish_non_exhaustive()
    }
}

/// A stage that is being looked for or made, here or on another shard.
#[must_use = "await it, or wait for it, to know how it went"]
pub struct Creating<S, T = StageRef<S>> {
    asked: Asked<Result<T, CreateError>>,
    stage: PhantomData<fn(S)>,
}

impl<S, T> Creating<S, T> {
    pub(crate) fn new(asked: Asked<Result<T, CreateError>>) -> Self {
        Self {
            asked,
            stage: PhantomData,
        }
    }

    /// Blocks this thread until it is known, at most for `timeout`. Not for shard threads.
    ///
    /// # Errors
    /// [`CreateError`]; `Stopped` also if it takes longer than `timeout`.
    pub fn wait(self, timeout: Duration) -> Result<T, CreateError> {
        flatten(self.asked.wait(timeout))
    }
}

fn flatten<T>(answer: Result<Result<T, CreateError>, RequestError>) -> Result<T, CreateError> {
    match answer {
        Ok(answer) => answer,
        Err(RequestError::Full) => Err(CreateError::Full),
        Err(_) => Err(CreateError::Stopped),
    }
}

impl<S, T> Future for Creating<S, T> {
    type Output = Result<T, CreateError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.get_mut().asked).poll(cx).map(flatten)
    }
}

impl<S, T> fmt::Debug for Creating<S, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Creating(..)")
    }
}

impl Core {
    /// The stages of type `S` on this shard.
    pub(crate) fn stages_of<S: Stage>(&self) -> Result<&TypeShard<S>, CreateError> {
        let number = self.system.type_number::<S>()?;
        Ok(downcast_stages(self.stages(number)))
    }

    /// Puts a stage on this shard that `make` makes.
    pub(crate) fn insert_made<S: Stage>(
        &self,
        make: impl FnOnce() -> S,
    ) -> Result<StageKey, CreateError> {
        let stages = self.stages_of::<S>()?;
        let made = self.contained("what makes a stage", make);
        stages.insert(self, made.ok_or(CreateError::Panicked)?)
    }

    #[inline]
    pub(crate) fn tell<S: Stage>(
        &self,
        to: StageRef<S>,
        message: S::Msg,
    ) -> Result<(), TellError<S::Msg>> {
        if to.system != self.system_number {
            return crate::registry::tell_from_afar(to, message);
        }
        if to.key.shard() == self.shard {
            let stages: &TypeShard<S> = downcast_stages(self.stages(to.key.stage_type()));
            return stages.tell(self, to.key, message);
        }
        self.tell_across(to, message)
    }

    #[cold]
    #[inline(never)]
    fn tell_across<S: Stage>(
        &self,
        to: StageRef<S>,
        message: S::Msg,
    ) -> Result<(), TellError<S::Msg>> {
        let post = StagePost::new(Tell::<S> {
            to: to.key,
            message: Some(message),
        });
        let posted = self.system.post(to.key.shard(), post);
        posted.map_err(Tell::<S>::refused)
    }

    /// Has `call` find something out on a shard, and answer now or later.
    pub(crate) fn ask_shard<T: Send + 'static>(
        &self,
        shard: usize,
        call: impl FnOnce(&Core, Reply<T>) + Send + 'static,
    ) -> Asked<T> {
        let (reply, asked) = Reply::pair();
        if shard == self.shard {
            call(self, reply);
            return asked;
        }
        let post = StagePost::run(move |core| call(core, reply));
        match self.system.post(shard, post) {
            Err(PostError::Full(_)) => asked.refuse(RequestError::Full),
            Err(_) => asked.refuse(RequestError::Gone),
            Ok(()) => {}
        }
        asked
    }

    pub(crate) fn create_on<S: Stage>(
        &self,
        shard: usize,
        create: impl FnOnce(&Core) -> Result<StageKey, CreateError> + Send + 'static,
    ) -> Creating<S> {
        let number = self.system.number;
        Creating::new(self.ask_shard(shard, move |core, reply| {
            let _ = reply.send(create(core).map(|key| StageRef::new(number, key)));
        }))
    }

    pub(crate) fn on_shard_of<S: Stage>(
        &self,
        stage: StageRef<S>,
        call: impl FnOnce(&Core, StageKey) + Send + 'static,
    ) {
        if stage.system == self.system.number {
            let key = stage.key;
            if key.shard() == self.shard {
                call(self, key);
            } else {
                self.post_at_last(key.shard(), StagePost::run(move |core| call(core, key)));
            }
        }
    }

    pub(crate) fn bind(&self, id: RouterId, stage: StageKey) {
        let home = self.engine.with(|engine| engine.home(id)).flatten();
        match home {
            Some(home) if home == self.shard => self.bind_here(id, stage),
            // It lives elsewhere: bound there, where it may have to move from.
            Some(home) => {
                let bind = move |core: &Core| core.bind(id, stage);
                self.post_at_last(home, StagePost::run(bind));
            }
            None => self.disconnected(stage, id, CloseReason::PeerClosed),
        }
    }

    fn bind_here(&self, id: RouterId, stage: StageKey) {
        let was_paused = self.leave_stage(id);
        // Also what `on_adopted` finds, as the tag goes with the connection.
        let tagged = self
            .engine
            .with(|engine| engine.set_tag(id, stage.to_tag()));
        if tagged != Some(true) {
            return self.disconnected(stage, id, CloseReason::PeerClosed);
        }
        let bound = if stage.shard() == self.shard {
            let bound = self.stages(stage.stage_type()).bind(self, stage, id);
            if !bound {
                // Its end is told here, once: a stage that lives counts on hearing of it.
                self.engine.with(|engine| engine.set_tag(id, 0));
                self.disconnected(stage, id, CloseReason::Local);
            }
            bound
        } else {
            let moved = self.engine.with(|engine| engine.rehome(id, stage.shard()));
            moved.is_some_and(|moved| moved.is_ok())
        };
        self.counters.binds_refused.add(u64::from(!bound));
        self.engine.with(|engine| {
            if !bound {
                engine.close(id);
            } else if was_paused {
                // Noted behind the move: what was held back comes at the new stage.
                engine.resume_reading(id);
            }
        });
    }

    fn unbind(&self, id: RouterId) {
        if self.leave_stage(id) {
            self.engine.with(|engine| engine.resume_reading(id));
        }
    }

    /// Takes a connection from its stage; true if that had it paused.
    fn leave_stage(&self, id: RouterId) -> bool {
        self.rebound.set(true);
        let tag = self.engine.with(|engine| {
            let tag = engine.tag(id);
            engine.set_tag(id, 0);
            tag
        });
        let tag = tag.unwrap_or(0);
        if tag == HELD {
            return true;
        }
        let key = StageKey::from_tag(tag);
        let stages = self.stages_named(tag);
        stages.is_some_and(|stages| stages.unbind(key, id))
    }
}

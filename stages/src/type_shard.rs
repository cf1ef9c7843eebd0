//! All stages of one type on one shard: their cells, frames and backlogs, and what happens to them.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Poll;

use proscenium_engine::{Body, CloseReason, Message, RouterId};

use crate::backlog::Backlogs;
use crate::chain::Call;
use crate::core::{CLOCK_POLLS, Core, SLICE_TIME};
use crate::cx::Cx;
use crate::error::{CreateError, TellError};
use crate::frames::Owner;
use crate::head::Ending;
use crate::options::TypeInfo;
use crate::slot::{Arena, At, FramePool, Phase};
use crate::stage::Stage;
use crate::stage_ref::StageKey;
use crate::timers::{Tick, TimerId, TimerKey};
use crate::watch::Method;

/// What waits in a backlog.
pub(crate) enum Item<S: Stage> {
    Create,
    Message(S::Msg),
    Call(S::Msg, Box<Call>),
    Packet(RouterId, Body),
    Timer(TimerId),
    Tick(Tick),
    Disconnect(RouterId, Box<CloseReason>),
    Enter(Enter<S>),
    /// A connection's peer has finished sending: closed when what it sent before is handled.
    ReadClosed(RouterId),
    Stop,
    /// What a state that is gone had set in motion: nothing.
    Void,
}

/// The end of a detached task: enters the stage in its order.
pub(crate) type Enter<S> = Box<dyn FnOnce(&mut S, &mut Cx<'_, S>)>;

/// The stages of a type on a shard, whatever the type.
pub(crate) trait AnyStages: Any {
    fn as_any(&self) -> &dyn Any;
    /// Stages that live.
    fn live(&self) -> usize;
    /// Runs at most `quota` items of the stage in `slot`; returns how many it ran.
    fn run(&self, core: &Core, slot: u32, quota: u32) -> u32;
    /// Polls the suspended invocation of the stage in `slot`.
    fn resume(&self, core: &Core, slot: u32, frame: u32);
    /// A message of a connection that is bound to a stage: handles it in place if it may. False if
    /// there is no such stage.
    fn packet(&self, core: &Core, key: StageKey, from: RouterId, message: Message<'_>) -> bool;
    fn bind(&self, core: &Core, key: StageKey, id: RouterId) -> bool;
    /// True if the stage had the connection paused: whoever takes it has to resume reading.
    fn unbind(&self, key: StageKey, id: RouterId) -> bool;
    /// Has a connection whose peer finished sending closed in the stage's order; false if nothing
    /// of the stage is before that.
    fn read_closed(&self, core: &Core, key: StageKey, id: RouterId) -> bool;
    fn disconnected(&self, core: &Core, key: StageKey, id: RouterId, reason: CloseReason);
    /// A timer of a stage is due; `next` is its number in the shard's table if it goes on.
    fn timer_is_due(
        &self,
        core: &Core,
        key: StageKey,
        id: TimerId,
        next: Option<TimerKey>,
        tick: Option<Tick>,
    );
    /// Has the stage end after what is in its backlog.
    fn stop(&self, core: &Core, key: StageKey) -> bool;
    /// Cancels what the stage does and has it end.
    fn destroy(&self, core: &Core, key: StageKey);
    fn stop_all(&self, core: &Core);
    /// Ends all stages where they are, without any handler.
    fn end_all(&self, core: &Core);
    /// Makes a stage by the factory and enlists it.
    fn make(&self, core: &Core, id: u64) -> Result<StageKey, CreateError>;
    /// Makes a stage that panicked anew.
    fn restart(&self, core: &Core, key: StageKey);
    /// Passivates stages that were idle for long; looks at slots from `from` on, returns where to
    /// go on.
    fn passivate(&self, core: &Core, from: u32) -> u32;
    /// What the stage waits for: its frame, while it is suspended.
    fn suspended(&self, key: StageKey) -> Option<u32>;
    /// True if the item of that sequence number is waiting in the backlog or being handled.
    fn holds(&self, key: StageKey, sequence: u32) -> bool;
    fn id_of(&self, key: StageKey) -> Option<u64>;
}

/// See the module's page.
pub(crate) struct TypeShard<S: Stage> {
    pub(crate) info: Arc<TypeInfo>,
    pub(crate) arena: Arena<S>,
    pub(crate) pool: FramePool<S>,
    pub(crate) backlogs: Backlogs<Item<S>>,
    factory: Option<Factory<S>>,
}

/// Makes a stage for an id.
pub(crate) type Factory<S> = Arc<dyn Fn(u64) -> S + Send + Sync>;

impl<S: Stage> TypeShard<S> {
    pub(crate) fn new(info: Arc<TypeInfo>, factory: Option<Factory<S>>) -> Self {
        let pool = FramePool::new();
        admit_all(&pool);
        Self {
            info,
            arena: Arena::new(),
            pool,
            backlogs: Backlogs::new(),
            factory,
        }
    }

    pub(crate) fn key(&self, core: &Core, at: At<'_, S>) -> StageKey {
        let generation = at.head().generation.get();
        StageKey::new(core.shard, self.info.number, at.slot, generation)
    }

    fn find(&self, key: StageKey) -> Option<At<'_, S>> {
        self.arena.find(key.slot(), key.generation())
    }

    /// Takes a new stage in; `on_create` is the first that it will run.
    pub(crate) fn insert(&self, core: &Core, state: S) -> Result<StageKey, CreateError> {
        let limit = self.info.options.stages_max;
        if core.shutting_down.get() {
            return Err(CreateError::Stopped);
        }
        if self.arena.live() as usize >= limit {
            return Err(CreateError::TooMany(limit));
        }
        let at = self
            .arena
            .insert(state)
            .map_err(|_| CreateError::TooMany(Arena::<S>::SLOTS_MAX as usize))?;
        at.head().active_ms.set(core.now_ms());
        self.queue(core, at, Item::Create);
        Ok(self.key(core, at))
    }

    /// Puts a message into the backlog.
    #[inline]
    pub(crate) fn tell(
        &self,
        core: &Core,
        key: StageKey,
        message: S::Msg,
    ) -> Result<(), TellError<S::Msg>> {
        match self.room(core, key) {
            Ok(at) => {
                self.queue(core, at, Item::Message(message));
                Ok(())
            }
            Err(false) => Err(TellError::Gone(message)),
            Err(true) => Err(TellError::Full(message)),
        }
    }

    /// Puts a request into the backlog, unless that closes a cycle.
    pub(crate) fn call(&self, core: &Core, key: StageKey, message: S::Msg, call: Box<Call>) {
        match self.room(core, key) {
            Ok(at) => {
                call.reply.place(at.head().enqueued().wrapping_add(1));
                if let Some(names) = core.find_cycle(key, &call) {
                    core.counters.cycles.add(1);
                    call.refuse_cycle(names);
                    return;
                }
                core.probe(key, &call);
                self.queue(core, at, Item::Call(message, call));
            }
            Err(full) => call.refuse(full),
        }
    }

    /// The stage, if it lives and has room; else whether it is full.
    #[inline]
    fn room(&self, core: &Core, key: StageKey) -> Result<At<'_, S>, bool> {
        let Some(at) = self.find(key) else {
            core.counters.gone.add(1);
            return Err(false);
        };
        if at.head().len.get() >= self.info.options.backlog {
            at.head().crowded.set(true);
            core.counters.full.add(1);
            return Err(true);
        }
        Ok(at)
    }

    /// Appends to the backlog, whether it is full or not.
    #[inline]
    pub(crate) fn queue(&self, core: &Core, at: At<'_, S>, item: Item<S>) {
        self.backlogs.push(at.head(), item);
        self.make_ready(core, at);
    }

    #[inline]
    fn make_ready(&self, core: &Core, at: At<'_, S>) {
        if at.phase() == Phase::Idle && !at.head().queued.replace(true) {
            core.ready(self.info.number, at.slot);
        }
    }

    /// Begins an invocation. The stage is idle.
    #[inline]
    fn begin<A, F>(
        &self,
        core: &Core,
        at: At<'_, S>,
        method: Method,
        call: Option<Box<Call>>,
        handler: impl FnOnce(&'static mut S, &'static mut Cx<'static, S>, A) -> F,
        argument: A,
    ) -> Poll<()>
    where
        F: Future<Output = ()> + 'static,
    {
        let number = self.info.number;
        let invocation = core.next_invocation();
        core.watch(number, method, at.slot);
        let key = self.key(core, at);
        let owner = Owner::Stage {
            stage_type: number,
            slot: at.slot,
        };
        let context = |frame| Cx::new(core.ptr(), key, frame, invocation, call);
        at.begin(core, &self.pool, owner, context, handler, argument)
    }

    fn start(&self, core: &Core, at: At<'_, S>, item: Item<S>) -> Poll<()> {
        match item {
            Item::Message(message) => self.begin(
                core,
                at,
                Method::Message,
                None,
                |stage, cx, message| S::on_message(stage, cx, message),
                message,
            ),
            Item::Packet(from, body) => self.start_packet(core, at, from, body),
            Item::Call(message, call) => self.begin(
                core,
                at,
                Method::Message,
                Some(call),
                |stage, cx, message| S::on_message(stage, cx, message),
                message,
            ),
            Item::Create => self.begin(
                core,
                at,
                Method::Create,
                None,
                |stage, cx, ()| S::on_create(stage, cx),
                (),
            ),
            Item::Timer(timer) => self.begin(
                core,
                at,
                Method::Timer,
                None,
                |stage, cx, timer| S::on_timer(stage, cx, timer),
                timer,
            ),
            Item::Tick(tick) => self.begin(
                core,
                at,
                Method::Tick,
                None,
                |stage, cx, tick| S::on_tick(stage, cx, tick),
                tick,
            ),
            Item::Disconnect(id, reason) => self.begin(
                core,
                at,
                Method::Disconnect,
                None,
                |stage, cx, (id, reason): (_, Box<CloseReason>)| {
                    S::on_disconnect(stage, cx, id, *reason)
                },
                (id, reason),
            ),
            Item::Enter(enter) => self.begin(
                core,
                at,
                Method::Enter,
                None,
                |stage, cx, enter: Enter<S>| {
                    enter(stage, cx);
                    std::future::ready(())
                },
                enter,
            ),
            Item::ReadClosed(id) => {
                core.engine.with(|engine| engine.close(id));
                Poll::Ready(())
            }
            Item::Stop => {
                at.head().ending.set(Ending::Wanted);
                Poll::Ready(())
            }
            Item::Void => Poll::Ready(()),
        }
    }

    #[inline]
    fn start_packet(&self, core: &Core, at: At<'_, S>, from: RouterId, body: Body) -> Poll<()> {
        self.begin(
            core,
            at,
            Method::Packet,
            None,
            |stage, cx, (from, body)| S::on_packet(stage, cx, from, body),
            (from, body),
        )
    }

    /// Runs items until the stage is busy, at rest, gone, or has used its quota.
    fn run_items(&self, core: &Core, at: At<'_, S>, mut quota: u32, done: &mut u32) {
        let (head, mut began) = (at.head(), None);
        while at.phase() == Phase::Idle {
            if head.ending.get() == Ending::Wanted {
                head.ending.set(Ending::Destroying);
                let ended = self.begin(
                    core,
                    at,
                    Method::Destroy,
                    None,
                    |stage, cx, ()| S::on_destroy(stage, cx),
                    (),
                );
                if ended.is_ready() {
                    self.end(core, at);
                }
                return;
            }
            if *done >= quota {
                return;
            }
            let Some(item) = self.backlogs.pop(head) else {
                return;
            };
            *done += 1;
            if *done % CLOCK_POLLS == 0 {
                let now = core.clock();
                let began = *began.get_or_insert(now);
                if now.since(began) >= SLICE_TIME {
                    quota = *done; // this one is its last
                }
            }
            head.started.set(head.started.get().wrapping_add(1));
            let _ = self.start(core, at, item);
        }
    }

    /// After anything was run: what is due then.
    #[inline]
    fn settle(&self, core: &Core, at: At<'_, S>) {
        let head = at.head();
        if at.phase() == Phase::Idle && (head.len.get() > 0 || head.ending.get() == Ending::Wanted)
        {
            self.make_ready(core, at);
        }
        if head.crowded.get() && head.len.get() <= self.info.options.backlog / 2 {
            self.uncrowd(core, at);
        }
    }

    /// There is room again: connections are read again, who waited is woken.
    #[cold]
    fn uncrowd(&self, core: &Core, at: At<'_, S>) {
        let head = at.head();
        head.crowded.set(false);
        let (paused, waiting) = head.extras(|extras| {
            let paused = std::mem::take(&mut extras.paused);
            (paused, std::mem::take(&mut extras.waiting))
        });
        core.engine.with(|engine| {
            for id in paused {
                engine.resume_reading(id);
            }
        });
        for waker in waiting {
            waker.wake();
        }
    }

    /// Ends an idle or broken stage: nothing of it is left, its name is `Gone`.
    pub(crate) fn end(&self, core: &Core, at: At<'_, S>) {
        let head = at.head();
        if let Some(id) = head.id.take() {
            core.delist(self.info.number, id);
        }
        self.let_go(core, at);
        let mut dropped = 0;
        while let Some(item) = self.backlogs.pop(head) {
            let message = !matches!(
                item,
                Item::Create | Item::Stop | Item::ReadClosed(_) | Item::Void
            );
            dropped += u64::from(message);
            // A message's drop is user code.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(item)));
        }
        core.counters.dropped.add(dropped);
        core.counters.ended.add(1);
        let _ = catch_unwind(AssertUnwindSafe(|| self.arena.remove(at)));
    }

    /// Cancels its timers and tasks.
    fn cancel_all(&self, core: &Core, at: At<'_, S>) {
        let (timers, tasks) = at.head().extras(|extras| {
            let timers = std::mem::take(&mut extras.timers);
            (timers, std::mem::take(&mut extras.tasks))
        });
        for (_, timer) in timers {
            core.cancel_timer(timer);
        }
        for task in tasks {
            core.tasks.cancel(core, task);
        }
    }

    /// The state is gone, the stage is not: what the state had set in motion must not reach the
    /// next one, which has never heard of it.
    fn forget(&self, core: &Core, at: At<'_, S>) {
        self.cancel_all(core, at);
        let replaced = self.backlogs.replace(at.head(), |item| {
            matches!(item, Item::Timer(_) | Item::Tick(_) | Item::Enter(_)).then_some(Item::Void)
        });
        for item in replaced {
            let _ = catch_unwind(AssertUnwindSafe(|| drop(item)));
        }
    }

    /// Closes its connections, cancels its timers and tasks, wakes who waits for room.
    fn let_go(&self, core: &Core, at: At<'_, S>) {
        self.cancel_all(core, at);
        let Some(extras) = at.head().extras.take() else {
            return;
        };
        core.engine.with(|engine| {
            for &id in &extras.connections {
                engine.set_tag(id, 0);
                engine.close(id);
            }
        });
        for waker in extras.waiting {
            waker.wake();
        }
    }

    /// The stage of `at` panicked.
    #[cold]
    fn panicked(&self, core: &Core, at: At<'_, S>, payload: &(dyn Any + Send)) {
        let destroying = at.head().ending.get() == Ending::Destroying;
        at.clear(core, &self.pool);
        if at.phase() != Phase::Idle {
            return; // it was gone already: a drop panicked
        }
        core.counters.panics.add(1);
        let name = self.info.name;
        let (id, message) = (at.head().id.get(), panic_message(payload));
        let restart = match at.head().id.get() {
            Some(_) if !destroying && self.factory.is_some() => {
                self.info
                    .options
                    .on_panic
                    .delay(at.head().with_extras(|extras| {
                        extras.restarts += 1;
                        extras.restarts
                    }))
            }
            _ => None,
        };
        tracing::error!(stage = name, ?id, %message, ?restart, "a stage panicked");
        let Some(delay) = restart else {
            return self.end(core, at);
        };
        at.break_down();
        self.forget(core, at);
        let key = self.key(core, at);
        let due = crate::timers::Due::Run(Box::new(move |core: &Core| {
            core.stages(key.stage_type()).restart(core, key);
        }));
        core.set_timer(core.now() + delay, due);
    }

    /// Runs `call`, which runs the stage, and does what follows.
    #[inline]
    fn guarded(&self, core: &Core, at: At<'_, S>, call: impl FnOnce()) {
        let result = catch_unwind(AssertUnwindSafe(call));
        core.watch_nothing();
        if let Err(payload) = result {
            self.panicked(core, at, &*payload);
        }
        self.settle(core, at);
    }
}

/// What a panic said.
pub(crate) fn panic_message(payload: &(dyn Any + Send)) -> String {
    let text = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".to_owned())
}

/// Tells the pool of every future that a stage can have.
fn admit_all<S: Stage>(pool: &FramePool<S>) {
    type Of<S, A> = (&'static mut S, &'static mut Cx<'static, S>, A);
    pool.admit(|(stage, cx, ()): Of<S, ()>| S::on_create(stage, cx));
    pool.admit(|(stage, cx, message): Of<S, S::Msg>| S::on_message(stage, cx, message));
    pool.admit(
        |(stage, cx, from, body): (&'static mut S, &'static mut Cx<'static, S>, _, _)| {
            S::on_packet(stage, cx, from, body)
        },
    );
    pool.admit(|(stage, cx, timer): Of<S, TimerId>| S::on_timer(stage, cx, timer));
    pool.admit(|(stage, cx, tick): Of<S, Tick>| S::on_tick(stage, cx, tick));
    pool.admit(
        |(stage, cx, (id, reason)): Of<S, (RouterId, CloseReason)>| {
            S::on_disconnect(stage, cx, id, reason)
        },
    );
    pool.admit(|(stage, cx, ()): Of<S, ()>| S::on_destroy(stage, cx));
    pool.admit(|(): ()| std::future::ready(()));
}

impl<S: Stage> AnyStages for TypeShard<S> {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn live(&self) -> usize {
        self.arena.live() as usize
    }

    fn run(&self, core: &Core, slot: u32, quota: u32) -> u32 {
        let Some(at) = self.arena.at(slot) else {
            return 0;
        };
        at.head().queued.set(false);
        if at.phase() != Phase::Idle {
            return 0;
        }
        at.head().active_ms.set(core.now_ms());
        // What comes meanwhile, perhaps from itself, waits for its next turn.
        let quota = quota.min(at.head().len.get());
        let mut done = 0;
        self.guarded(core, at, || self.run_items(core, at, quota, &mut done));
        core.counters.messages.add(u64::from(done));
        done
    }

    fn resume(&self, core: &Core, slot: u32, frame: u32) {
        let Some(at) = self.arena.at(slot) else {
            return;
        };
        if at.phase() != Phase::Suspended || at.frame() != Some(frame) {
            return;
        }
        core.counters.resumed.add(1);
        at.head().active_ms.set(core.now_ms());
        core.watch(self.info.number, Method::Resumed, slot);
        self.guarded(core, at, || {
            let polled = at.resume(core, &self.pool);
            if polled.is_ready() && at.head().ending.get() == Ending::Destroying {
                self.end(core, at);
            }
        });
    }

    #[inline]
    fn packet(&self, core: &Core, key: StageKey, from: RouterId, message: Message<'_>) -> bool {
        let Some(at) = self.find(key) else {
            return false;
        };
        let head = at.head();
        if at.phase() == Phase::Idle
            && head.len.get() == 0
            && head.ending.get() == Ending::No
            && core.take_in_place()
        {
            head.started.set(head.started.get().wrapping_add(1));
            head.active_ms.set(core.now_ms());
            core.counters.messages.add(1);
            core.counters.in_place.add(1);
            self.guarded(core, at, || {
                let _ = self.start_packet(core, at, from, message.lease());
            });
            return true;
        }
        self.queue(core, at, Item::Packet(from, message.lease()));
        if head.len.get() >= self.info.options.backlog {
            self.pause(core, at, from);
        }
        true
    }

    fn bind(&self, core: &Core, key: StageKey, id: RouterId) -> bool {
        let Some(at) = self.find(key) else {
            return false;
        };
        let bound = core.engine.with(|engine| engine.set_tag(id, key.to_tag()));
        if bound != Some(true) {
            return false;
        }
        at.head().with_extras(|extras| {
            if !extras.connections.contains(&id) {
                extras.connections.push(id);
            }
        });
        true
    }

    fn unbind(&self, key: StageKey, id: RouterId) -> bool {
        self.find(key).is_some_and(|at| {
            at.head().extras(|extras| {
                extras.connections.retain(|&bound| bound != id);
                let paused = extras.paused.len();
                extras.paused.retain(|&paused| paused != id);
                extras.paused.len() < paused
            })
        })
    }

    fn read_closed(&self, core: &Core, key: StageKey, id: RouterId) -> bool {
        let Some(at) = self.find(key) else {
            return false;
        };
        let is_first = at.phase() == Phase::Idle && at.head().len.get() == 0;
        if !is_first {
            self.queue(core, at, Item::ReadClosed(id));
        }
        !is_first
    }

    fn disconnected(&self, core: &Core, key: StageKey, id: RouterId, reason: CloseReason) {
        self.unbind(key, id);
        if let Some(at) = self.find(key) {
            self.queue(core, at, Item::Disconnect(id, Box::new(reason)));
        }
    }

    fn timer_is_due(
        &self,
        core: &Core,
        key: StageKey,
        id: TimerId,
        next: Option<TimerKey>,
        tick: Option<Tick>,
    ) {
        let Some(at) = self.find(key) else {
            if let Some(next) = next {
                core.cancel_timer(next);
            }
            return;
        };
        at.head().extras(|extras| match next {
            Some(next) => {
                let timer = extras.timers.iter_mut().find(|timer| timer.0 == id);
                if let Some(timer) = timer {
                    timer.1 = next;
                }
            }
            None => extras.timers.retain(|timer| timer.0 != id),
        });
        let item = tick.map_or(Item::Timer(id), Item::Tick);
        self.queue(core, at, item);
    }

    fn stop(&self, core: &Core, key: StageKey) -> bool {
        let Some(at) = self.find(key) else {
            return false;
        };
        self.queue(core, at, Item::Stop);
        true
    }

    fn destroy(&self, core: &Core, key: StageKey) {
        let Some(at) = self.find(key) else {
            return;
        };
        if at.head().ending.get() == Ending::Destroying {
            return;
        }
        at.clear(core, &self.pool);
        if at.phase() == Phase::Broken {
            return self.end(core, at);
        }
        at.head().ending.set(Ending::Wanted);
        self.settle(core, at);
    }

    fn stop_all(&self, core: &Core) {
        for slot in 0..self.arena.slots() {
            let Some(at) = self.arena.at(slot) else {
                continue;
            };
            match at.phase() {
                Phase::Free => {}
                Phase::Broken => self.end(core, at),
                _ => self.queue(core, at, Item::Stop),
            }
        }
    }

    fn end_all(&self, core: &Core) {
        for slot in 0..self.arena.slots() {
            if let Some(at) = self.arena.at(slot)
                && at.phase() != Phase::Free
            {
                at.clear(core, &self.pool);
                self.end(core, at);
            }
        }
    }

    fn make(&self, core: &Core, id: u64) -> Result<StageKey, CreateError> {
        let Some(factory) = &self.factory else {
            return Err(CreateError::NoFactory(self.info.name));
        };
        let state =
            catch_unwind(AssertUnwindSafe(|| factory(id))).map_err(|_| CreateError::Panicked)?;
        let key = self.insert(core, state)?;
        if let Some(at) = self.find(key) {
            at.head().id.set(Some(id));
        }
        core.enlist(self.info.number, id, key);
        Ok(key)
    }

    fn restart(&self, core: &Core, key: StageKey) {
        let Some(at) = self.find(key) else {
            return;
        };
        if at.phase() != Phase::Broken {
            return;
        }
        let (Some(factory), Some(id)) = (&self.factory, at.head().id.get()) else {
            return self.end(core, at);
        };
        match catch_unwind(AssertUnwindSafe(|| factory(id))) {
            Ok(state) => {
                self.arena.mend(at, state);
                core.counters.restarts.add(1);
                self.guarded(core, at, || {
                    let _ = self.start(core, at, Item::Create);
                });
            }
            Err(_) => self.end(core, at),
        }
    }

    fn passivate(&self, core: &Core, from: u32) -> u32 {
        const SLOTS: u32 = 1024;
        let Some(after) = self.info.options.passivate_after else {
            return 0;
        };
        let (now, to) = (core.now_ms(), (from + SLOTS).min(self.arena.slots()));
        let after = u32::try_from(after.as_millis()).unwrap_or(u32::MAX / 2);
        for slot in from..to {
            let Some(at) = self.arena.at(slot) else {
                break;
            };
            let head = at.head();
            let resting = at.phase() == Phase::Idle
                && head.len.get() == 0
                && head.ending.get() == Ending::No
                && head
                    .extras
                    .borrow()
                    .as_ref()
                    .is_none_or(|extras| extras.is_empty());
            if resting && now.wrapping_sub(head.active_ms.get()) >= after {
                let id = head.id.take();
                if let Some(id) = id {
                    core.delist(self.info.number, id);
                }
                self.let_go(core, at);
                core.counters.passivated.add(1);
                let state = self.arena.take(at);
                let _ = catch_unwind(AssertUnwindSafe(|| state.on_passivate(id)));
            }
        }
        if to == self.arena.slots() { 0 } else { to }
    }

    fn suspended(&self, key: StageKey) -> Option<u32> {
        let at = self.find(key)?;
        matches!(at.phase(), Phase::Suspended | Phase::Running)
            .then(|| at.frame())
            .flatten()
    }

    fn holds(&self, key: StageKey, sequence: u32) -> bool {
        self.find(key).is_some_and(|at| {
            let head = at.head();
            let ahead = sequence.wrapping_sub(head.started.get());
            let current = ahead == 0 && at.phase() != Phase::Idle;
            current || ahead > 0 && ahead <= head.len.get()
        })
    }

    fn id_of(&self, key: StageKey) -> Option<u64> {
        self.find(key)?.head().id.get()
    }
}

impl<S: Stage> TypeShard<S> {
    #[cold]
    fn pause(&self, core: &Core, at: At<'_, S>, from: RouterId) {
        at.head().crowded.set(true);
        if core.engine.with(|engine| engine.pause_reading(from)) == Some(true) {
            core.counters.paused.add(1);
            at.head().with_extras(|extras| extras.paused.push(from));
        }
    }
}

//! All stages of one type on one shard: their cells, frames and backlogs, and what happens to them.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::sync::Arc;

use proscenium_engine::{Body, CloseReason, Message, Messages, RouterId};
use slab::Slab;

use crate::backlog::Backlogs;
use crate::chain::Call;
use crate::core::{Budget, Core};
use crate::detach::TaskId;
use crate::error::{CreateError, RequestError, TellError};
use crate::head::{Ending, NONE};
use crate::invocation::{Item, Turn, admit_all};
use crate::options::TypeInfo;
use crate::request::Reply;
use crate::slot::{Arena, At, FramePool, Phase};
use crate::stage::Stage;
use crate::stage_ref::StageKey;
use crate::timers::TimerId;
use crate::watch::Method;

/// So many ends of connections may wait for a stage even if its backlog is shorter, before it gets
/// no more connections.
const ENDS_MIN: u32 = 1024;

/// The stages of a type on a shard, whatever the type.
pub(crate) trait AnyStages: Any {
    fn as_any(&self) -> &dyn Any;
    /// Stages that live.
    fn live(&self) -> usize;
    /// Things that have arrived and were not looked at.
    fn arrived(&self) -> u32;
    /// Handles what has arrived, in that order, as long as it may.
    fn run_arrived(&self, core: &Core, budget: &mut Budget<'_>);
    /// Puts what has arrived into the backlogs. True if anything is still to be looked at; else
    /// what arrives next is announced to the core.
    fn leave_arrived(&self, core: &Core, to_backlogs: bool) -> bool;
    /// Runs at most `quota` items of the backlog of the stage in `slot`; returns how many it ran.
    fn run(&self, core: &Core, slot: u32, quota: u32) -> u32;
    /// The stage that was entered last panicked in its turn.
    fn panicked_in(&self, core: &Core, payload: Box<dyn Any + Send>);
    /// Polls the suspended invocation of the stage in `slot`.
    fn resume(&self, core: &Core, slot: u32, frame: u32);
    /// A message of a connection that is bound to a stage: handles it in place if it may. False if
    /// there is no such stage.
    fn packet(&self, core: &Core, key: StageKey, from: RouterId, message: Message<'_>) -> bool;
    /// Has the stage fetched from memory.
    fn prefetch(&self, key: StageKey);
    /// What one read of a connection brought that is bound to a stage: the same for each message.
    /// True if the connection was bound anew meanwhile, so that the rest is for another stage.
    fn packets(
        &self,
        core: &Core,
        key: StageKey,
        from: RouterId,
        messages: &mut Messages<'_>,
    ) -> bool;
    fn bind(&self, core: &Core, key: StageKey, id: RouterId) -> bool;
    /// True if the stage had the connection paused: whoever takes it has to resume reading.
    fn unbind(&self, key: StageKey, id: RouterId) -> bool;
    /// True if the stage has the connection paused.
    fn is_stalled(&self, key: StageKey, id: RouterId) -> bool;
    /// Has a connection whose peer finished sending closed in the stage's order; false if nothing
    /// of the stage is before that.
    fn read_closed(&self, core: &Core, key: StageKey, id: RouterId) -> bool;
    fn disconnected(&self, core: &Core, key: StageKey, id: RouterId, reason: CloseReason);
    /// A timer of a stage is due.
    fn timer_is_due(&self, core: &Core, key: StageKey, id: TimerId);
    /// A detached future of a stage panicked: its closure will not enter.
    fn task_is_over(&self, key: StageKey, task: TaskId);
    /// The stage is to end: from now on nobody finds it by its id.
    fn announce_end(&self, key: StageKey);
    /// True if the stage is about to end, or gone.
    fn is_ending(&self, key: StageKey) -> bool;
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
    /// The frame of what the stage is doing, if it is doing anything.
    fn frame_of(&self, key: StageKey) -> Option<u32>;
    /// True if the item of that sequence number is waiting in the backlog or being handled.
    fn holds(&self, key: StageKey, sequence: u32) -> bool;
    fn id_of(&self, key: StageKey) -> Option<u64>;
}

/// See the module's page.
pub(crate) struct TypeShard<S: Stage> {
    pub(crate) info: Arc<TypeInfo>,
    pub(crate) arena: Arena<S>,
    pub(crate) pool: FramePool<S>,
    pub(crate) backlogs: Backlogs<S::Msg, Item<S>>,
    /// Packets that wait: larger than most messages, so they lie apart.
    pub(crate) packets: RefCell<Slab<(RouterId, Body)>>,
    pub(crate) factory: Option<Factory<S>>,
    /// Messages that may wait for one stage: that of `info`, at hand.
    backlog: u32,
    /// That of `info`, at hand.
    pub(crate) number: u8,
    /// The core knows that something has arrived.
    announced: Cell<bool>,
    /// The slot of the stage that was entered last.
    pub(crate) entered: Cell<u32>,
}

/// Makes a stage for an id.
pub(crate) type Factory<S> = Arc<dyn Fn(u64) -> S + Send + Sync>;

impl<S: Stage> TypeShard<S> {
    pub(crate) fn new(info: Arc<TypeInfo>, factory: Option<Factory<S>>) -> Self {
        let pool = FramePool::new();
        admit_all(&pool);
        Self {
            backlog: info.options.backlog,
            number: info.number,
            info,
            arena: Arena::new(),
            pool,
            backlogs: Backlogs::new(),
            packets: RefCell::default(),
            factory,
            announced: Cell::new(false),
            entered: Cell::new(NONE),
        }
    }

    pub(crate) fn key(&self, core: &Core, at: At<'_, S>) -> StageKey {
        let generation = at.head().generation.get();
        StageKey::new(core.shard, self.info.number, at.slot(), generation)
    }

    pub(crate) fn find(&self, key: StageKey) -> Option<At<'_, S>> {
        self.arena.find(key.slot(), key.generation())
    }

    /// A message arrives.
    #[inline]
    pub(crate) fn tell(
        &self,
        core: &Core,
        key: StageKey,
        message: S::Msg,
    ) -> Result<(), TellError<S::Msg>> {
        if let Some(at) = self.arena.find_open(key.slot(), key.generation())
            && at.head().len.get() < self.backlog
        {
            self.arena.arrive(at, message, || core.stamp());
            self.announce(core);
            return Ok(());
        }
        self.tell_closely(core, key, message)
    }

    /// The same, looking more closely whether there is room.
    #[cold]
    #[inline(never)]
    fn tell_closely(
        &self,
        core: &Core,
        key: StageKey,
        message: S::Msg,
    ) -> Result<(), TellError<S::Msg>> {
        match self.room(core, key) {
            Ok(at) => {
                self.arena.arrive(at, message, || core.stamp());
                self.announce(core);
                Ok(())
            }
            Err(false) => Err(TellError::Gone(message)),
            Err(true) => Err(TellError::Full(message)),
        }
    }

    /// Something has arrived.
    #[inline]
    fn announce(&self, core: &Core) {
        if !self.announced.replace(true) {
            core.announce(self.number);
        }
    }

    /// A request arrives, unless it closes a cycle.
    pub(crate) fn call(&self, core: &Core, key: StageKey, message: S::Msg, call: Arc<Call>) {
        match self.room(core, key) {
            Ok(at) => {
                call.reply.place(at.head().enqueued().wrapping_add(1));
                if let Some(names) = core.find_cycle(key, &call) {
                    if call.reply.refuse(RequestError::Cycle(names)) {
                        core.counters.cycles.add(1);
                    }
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
        // What a stage that is about to end has in its backlog is dropped.
        let found = self.find(key);
        let Some(at) = found.filter(|at| at.head().ending.get() == Ending::No) else {
            core.counters.gone.add(1);
            return Err(false);
        };
        if at.head().waiting() >= self.backlog {
            at.head().crowded.set(true);
            core.counters.full.add(1);
            return Err(true);
        }
        Ok(at)
    }

    /// Anything but a message arrives, whether there is room or not.
    pub(crate) fn queue(&self, core: &Core, at: At<'_, S>, item: Item<S>) {
        let head = at.head();
        head.unlimited
            .set(head.unlimited.get() + u32::from(!item.is_limited()));
        head.ends.set(head.ends.get() + u32::from(item.is_end()));
        self.arena.arrive_other(at, item, || core.stamp());
        self.announce(core);
    }

    /// The stage, if it is at rest and nothing waits for it.
    #[inline]
    fn find_for_packets(&self, key: StageKey) -> Option<At<'_, S>> {
        let at = self.find(key)?;
        (at.phase() == Phase::Idle && at.head().len.get() == 0).then_some(at)
    }

    /// Handles the first of `messages` by itself, so that it is measured; returns the stage if it
    /// may handle others.
    #[cold]
    #[inline(never)]
    fn packet_apart(
        &self,
        core: &Core,
        key: StageKey,
        from: RouterId,
        messages: &mut Messages<'_>,
    ) -> Option<At<'_, S>> {
        if let Some(message) = messages.next()
            && !core.is_taken(from, message)
            && !self.packet(core, key, from, message)
        {
            core.unbound(from, message);
        }
        self.find_for_packets(key)
    }

    /// Has `waiter` told when there is room in the backlog: at once, or once when half of it is
    /// free. Dropped if the stage is gone, now or then.
    pub(crate) fn tell_room(&self, key: StageKey, waiter: Reply<()>) {
        let found = self.find(key);
        let Some(at) = found.filter(|at| at.head().ending.get() == Ending::No) else {
            return;
        };
        if at.head().waiting() < self.backlog {
            let _ = waiter.send(()); // who waited may have given up
            return;
        }
        at.head().crowded.set(true);
        at.head().with_extras(|extras| {
            if extras.waiting.len() == extras.waiting.capacity() {
                extras.waiting.retain(Reply::is_wanted);
            }
            extras.waiting.push(waiter);
        });
    }
}

impl<S: Stage> AnyStages for TypeShard<S> {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn live(&self) -> usize {
        self.arena.live() as usize
    }

    fn arrived(&self) -> u32 {
        self.arena.arrived()
    }

    fn run_arrived(&self, core: &Core, budget: &mut Budget<'_>) {
        self.handle_arrived(core, budget);
    }

    fn leave_arrived(&self, core: &Core, to_backlogs: bool) -> bool {
        while to_backlogs && self.set_aside(core) {}
        self.arena.shrink();
        let left = self.arena.arrived() > 0;
        self.announced.set(left);
        left
    }

    fn run(&self, core: &Core, slot: u32, quota: u32) -> u32 {
        let Some(at) = self.arena.at(slot) else {
            return 0;
        };
        at.head().queued.set(false);
        if at.phase() != Phase::Idle {
            return 0;
        }
        self.enter(core, core.now_coarse(), at);
        // What comes meanwhile, perhaps from itself, waits for its next turn.
        let mut turn = Turn::new(quota.min(at.head().listed.get()));
        self.run_items(core, at, &mut turn);
        self.settle(core, at);
        core.counters.messages.add(u64::from(turn.done));
        turn.done
    }

    fn panicked_in(&self, core: &Core, payload: Box<dyn Any + Send>) {
        if let Some(at) = self.arena.at(self.entered.get()) {
            self.panicked(core, at, payload);
            self.settle(core, at);
        }
    }

    fn resume(&self, core: &Core, slot: u32, frame: u32) {
        let Some(at) = self.arena.at(slot) else {
            return;
        };
        if at.phase() != Phase::Suspended || at.frame() != Some(frame) {
            return;
        }
        core.counters.resumed.add(1);
        at.head().active.set(core.now_coarse());
        core.watch(self.info.number, Method::Resumed, slot, at.head().id.get());
        self.guarded(core, at, || {
            let sampled = core.sample_poll();
            let polled = at.resume(core, &self.pool);
            if let Some(began) = sampled {
                core.polled_since(began);
            }
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
            head.active.set(core.now_coarse());
            core.counters.messages.add(1);
            core.counters.in_place.add(1);
            self.guarded(core, at, || {
                let _ = self.start_packet(core, at, from, || message.lease());
            });
            return true;
        }
        let packet = (from, message.lease());
        let packet = self.packets.borrow_mut().insert(packet) as u32;
        self.queue(core, at, Item::Packet(packet));
        if head.waiting() >= self.backlog {
            self.pause(core, at, from);
        }
        true
    }

    fn prefetch(&self, key: StageKey) {
        self.arena.prefetch(key.slot());
    }

    fn packets(
        &self,
        core: &Core,
        key: StageKey,
        from: RouterId,
        messages: &mut Messages<'_>,
    ) -> bool {
        core.rebound.set(false);
        let mut at = self.find_for_packets(key);
        if at.is_some() && core.sample_is_due() {
            at = self.packet_apart(core, key, from, messages);
        }
        if let Some(at) = at {
            let mut handled = 0;
            self.guarded(core, at, || {
                self.packets_in_place(core, at, from, messages, &mut handled);
            });
            core.counters.messages.add(handled);
            core.counters.in_place.add(handled);
        }
        while !core.rebound.get() {
            let Some(message) = messages.next() else {
                return false;
            };
            if !core.is_taken(from, message) && !self.packet(core, key, from, message) {
                core.unbound(from, message);
            }
        }
        true
    }

    fn bind(&self, core: &Core, key: StageKey, id: RouterId) -> bool {
        core.rebound.set(true);
        // Ends of connections need no room: who leaves many of them behind gets no more connections
        // until it has looked at them. Nothing else counts here: `on_create` waits in every stage
        // that is made for its connection, and there are no more timers than the stage has set.
        let most = self.backlog.max(ENDS_MIN);
        let found = self.find(key);
        let Some(at) = found.filter(|at| at.head().ends.get() < most) else {
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

    fn is_stalled(&self, key: StageKey, id: RouterId) -> bool {
        self.find(key)
            .is_some_and(|at| at.head().extras(|extras| extras.paused.contains(&id)))
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

    fn timer_is_due(&self, core: &Core, key: StageKey, id: TimerId) {
        if let Some(at) = self.find(key) {
            at.head().extras(|extras| {
                if let Some(timer) = extras.timer(id) {
                    extras.timers[timer].armed = None;
                }
            });
            self.queue(core, at, Item::Timer(id));
        }
    }

    fn task_is_over(&self, key: StageKey, task: TaskId) {
        if let Some(at) = self.find(key) {
            self.task_over(at, task);
        }
    }

    fn announce_end(&self, key: StageKey) {
        if let Some(at) = self.find(key) {
            at.head().stopping.set(true);
        }
    }

    fn is_ending(&self, key: StageKey) -> bool {
        self.find(key).is_none_or(|at| at.head().is_ending())
    }

    fn stop(&self, core: &Core, key: StageKey) -> bool {
        let Some(at) = self.find(key) else {
            return false;
        };
        at.head().stopping.set(true);
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
        self.clear(core, at);
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
                _ => {
                    at.head().stopping.set(true);
                    self.queue(core, at, Item::Stop);
                }
            }
        }
    }

    fn end_all(&self, core: &Core) {
        for slot in 0..self.arena.slots() {
            if let Some(at) = self.arena.at(slot)
                && at.phase() != Phase::Free
            {
                self.clear(core, at);
                self.end(core, at);
            }
        }
        while self.set_aside(core) {} // dropped: nobody lives
    }

    fn make(&self, core: &Core, id: u64) -> Result<StageKey, CreateError> {
        self.make_by_factory(core, id)
    }

    fn restart(&self, core: &Core, key: StageKey) {
        if let Some(at) = self.find(key) {
            self.make_anew(core, at);
        }
    }

    fn passivate(&self, core: &Core, from: u32) -> u32 {
        self.passivate_from(core, from)
    }

    fn frame_of(&self, key: StageKey) -> Option<u32> {
        self.find(key)?.frame()
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

//! Invocations: what waits for a stage, and running it.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Poll;

use proscenium_engine::{Body, CloseReason, Message, Messages, RouterId, Time};

use crate::chain::Call;
use crate::core::{Budget, CLOCK_POLLS, Core, SLICE_TIME};
use crate::cx::Cx;
use crate::detach::TaskId;
use crate::frames::Owner;
use crate::head::Ending;
use crate::local::Local;
use crate::samples::Stamp;
use crate::slot::{At, FramePool, Phase};
use crate::stage::Stage;
use crate::timers::{Tick, TimerId};
use crate::type_shard::TypeShard;
use crate::watch::Method;

/// What waits for a stage, besides messages.
pub(crate) enum Item<S: Stage> {
    Create,
    Call(S::Msg, Arc<Call>),
    /// Its number in `TypeShard::packets`.
    Packet(u32),
    /// A timer, an interval or a tick.
    Timer(TimerId),
    Disconnect(RouterId, Box<CloseReason>),
    Enter(TaskId, Enter<S>),
    /// A connection's peer has finished sending: closed when what it sent before is handled.
    ReadClosed(RouterId),
    Stop,
}

impl<S: Stage> Item<S> {
    /// It counts towards the backlog.
    pub(crate) fn is_limited(&self) -> bool {
        matches!(self, Self::Call(..) | Self::Packet(_))
    }

    /// It says that a connection has ended.
    pub(crate) fn is_end(&self) -> bool {
        matches!(self, Self::Disconnect(..))
    }
}

/// The end of a detached task: enters the stage in its order.
pub(crate) type Enter<S> = Box<dyn FnOnce(&mut S, &mut Cx<'_, S>)>;

/// What is taken out of a ring before the next look at the clock.
struct Portion {
    /// The end of what had arrived; further only while nobody else waits.
    had: u32,
    /// No further than here.
    last: u32,
    /// So many went to backlogs, to be handled later.
    set_aside: Cell<u32>,
}

/// The turn of one stage: at most all that waited for it when it began, and not for long.
pub(crate) struct Turn {
    quota: u32,
    pub(crate) done: u32,
    began: Option<Time>,
}

impl Turn {
    #[inline]
    pub(crate) fn new(quota: u32) -> Self {
        Self {
            quota,
            done: 0,
            began: None,
        }
    }

    /// Looks at the clock every `CLOCK_POLLS` messages.
    #[inline]
    fn is_over(&mut self, core: &Core) -> bool {
        if self.done >= self.quota {
            return true;
        }
        let look = self.done.is_multiple_of(CLOCK_POLLS) && self.done > 0;
        look && self.is_late(core)
    }

    #[cold]
    fn is_late(&mut self, core: &Core) -> bool {
        let now = core.clock();
        let began = *self.began.get_or_insert(now);
        if now.since(began) >= SLICE_TIME {
            self.quota = self.done;
        }
        self.done >= self.quota
    }
}

impl<S: Stage> TypeShard<S> {
    #[inline]
    pub(crate) fn make_ready(&self, core: &Core, at: At<'_, S>) {
        if at.phase() == Phase::Idle {
            self.line_up(core, at);
        }
    }

    /// It has a turn, in which nothing happens if it is busy then.
    pub(crate) fn line_up(&self, core: &Core, at: At<'_, S>) {
        if !at.head().queued.replace(true) {
            core.ready(self.number, at.slot());
        }
    }

    /// Begins an invocation. The stage is idle.
    #[inline(always)]
    fn begin<A, F>(
        &self,
        core: &Core,
        at: At<'_, S>,
        method: Method,
        call: Option<Arc<Call>>,
        handler: impl FnOnce(&'static mut S, &'static mut Cx<'static, S>, A) -> F,
        argument: A,
    ) -> Poll<()>
    where
        F: Future<Output = ()> + 'static,
    {
        let number = self.number;
        if method != Method::Message {
            // Of messages it is said once for all of a run.
            core.watch(number, method, at.slot(), at.head().id.get());
        }
        let generation = at.head().generation.get();
        let owner = Owner::Stage {
            stage_type: number,
            slot: at.slot(),
        };
        let ptr = core.ptr();
        let slot = at.slot();
        let context = move |frame| Cx::new(ptr, (number, slot, generation), frame, call);
        let sampled = core.sample_poll();
        let polled = at.begin(core, &self.pool, owner, context, handler, argument);
        if let Some(began) = sampled {
            core.polled_since(began);
        }
        polled
    }

    /// Everything but messages, as far as speed matters.
    #[inline(never)]
    pub(crate) fn start(&self, core: &Core, at: At<'_, S>, item: Item<S>) -> Poll<()> {
        match item {
            Item::Packet(packet) => {
                let packet = self.packets.borrow_mut().try_remove(packet as usize);
                packet.map_or(Poll::Ready(()), |(from, body)| {
                    self.start_packet(core, at, from, || body)
                })
            }
            Item::Call(message, call) if call.reply.is_refused() => {
                core.contained("the drop of a message", || drop(message));
                Poll::Ready(())
            }
            Item::Call(message, call) => self.begin(
                core,
                at,
                Method::Message,
                Some(call),
                |stage, cx, message| S::on_message(stage, cx, message),
                message,
            ),
            Item::Create => {
                at.head().created.set(true);
                self.begin(
                    core,
                    at,
                    Method::Create,
                    None,
                    |stage, cx, ()| S::on_create(stage, cx),
                    (),
                )
            }
            Item::Timer(timer) => self.start_timer(core, at, timer),
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
            Item::Enter(task, enter) => self.start_enter(core, at, task, enter),
            Item::ReadClosed(id) => {
                core.engine.with(|engine| engine.close(id));
                Poll::Ready(())
            }
            Item::Stop => {
                at.head().ending.set(Ending::Wanted);
                Poll::Ready(())
            }
        }
    }

    /// Runs packets as they come, as long as the stage may handle them in place, and counts them.
    /// The stage is at rest and nothing waits for it.
    #[inline]
    pub(crate) fn packets_in_place(
        &self,
        core: &Core,
        at: At<'_, S>,
        from: RouterId,
        messages: &mut Messages<'_>,
        handled: &mut u64,
    ) {
        let head = at.head();
        head.active.set(core.now_coarse());
        core.watch(self.number, Method::Packet, at.slot(), head.id.get());
        // One number for all of them: as soon as anything waits, they end.
        head.started.set(head.started.get().wrapping_add(1));
        let mut granted = 0;
        let has_front = core.interest.is_some();
        let next = || {
            loop {
                let in_place =
                    head.len.get() == 0 && head.ending.get() == Ending::No && !core.rebound.get();
                if in_place && granted == 0 {
                    granted = core.grant_in_place();
                }
                if !in_place || granted == 0 {
                    return None;
                }
                let message = messages.next()?;
                granted -= 1;
                if has_front && core.is_taken(from, message) {
                    continue;
                }
                *handled += 1;
                return Some(message);
            }
        };
        // Leased where the future takes it, not moved there.
        let handler =
            |stage, cx, message: Message<'_>| S::on_packet(stage, cx, from, message.lease());
        let _ = at.begin_run(core, &self.pool, self.number, next, handler);
        core.give_back_in_place(granted);
    }

    /// A stage is entered for messages.
    #[inline]
    pub(crate) fn enter(&self, core: &Core, now: u32, at: At<'_, S>) {
        self.entered.set(at.slot());
        at.head().active.set(now);
        core.watch(self.number, Method::Message, at.slot(), at.head().id.get());
    }

    /// Handles what has arrived: in place what is for a stage at rest, while the rest goes to the
    /// backlogs. What comes meanwhile waits for the next time, if anybody else waits.
    pub(crate) fn handle_arrived(&self, core: &Core, budget: &mut Budget<'_>) {
        let had = self.arena.taken().wrapping_add(self.arena.arrived());
        loop {
            core.look_for_others();
            let begun = self.arena.taken();
            let portion = Portion {
                had,
                last: begun.wrapping_add(budget.until_clock()),
                set_aside: Cell::new(0),
            };
            self.handle_some(core, &portion);
            let taken = self.arena.taken().wrapping_sub(begun);
            // What was set aside counts when it is handled.
            budget.spend(taken - portion.set_aside.get());
            budget.pass(portion.set_aside.get());
            if taken == 0 || budget.is_spent() || self.arena.arrived() == 0 {
                return;
            }
        }
    }

    fn handle_some(&self, core: &Core, portion: &Portion) {
        let now = core.now_coarse();
        loop {
            let polled = self.messages_arrived(core, now, portion);
            if polled.is_ready() && !self.other_arrived(core, now, portion) {
                return;
            }
        }
    }

    /// True if one more may be taken out of the ring, if there is one.
    #[inline(always)]
    fn takes_one(&self, core: &Core, portion: &Portion) -> bool {
        let taken = self.arena.taken();
        let had = || portion.had.wrapping_sub(taken).cast_signed() > 0;
        taken != portion.last && (had() || !core.others_wait())
    }

    /// Puts the first that has arrived aside; false if there is none.
    #[cold]
    fn postpone(&self, core: &Core, portion: &Portion) -> bool {
        portion.set_aside.set(portion.set_aside.get() + 1);
        self.set_aside(core)
    }

    /// Handles messages, until something else has arrived before them or one of them has to wait.
    #[inline(always)]
    fn messages_arrived(&self, core: &Core, now: u32, portion: &Portion) -> Poll<()> {
        let next = || {
            while self.takes_one(core, portion) {
                let (at, true) = self.arena.first_arrival()? else {
                    return None;
                };
                if !self.is_at_rest(at) {
                    self.postpone(core, portion);
                    continue;
                }
                let (message, queued) = self.arena.take_message()?;
                self.begins(core, at, queued);
                return Some((at, message));
            }
            None
        };
        let enter = |at| self.enter(core, now, at);
        let handler = |stage, cx, message| S::on_message(stage, cx, message);
        At::begin_each(core, &self.pool, self.number, next, enter, handler)
    }

    /// Handles one of what has arrived that is no message; false if there is none.
    #[inline(never)]
    fn other_arrived(&self, core: &Core, now: u32, portion: &Portion) -> bool {
        let Some((at, false)) = self.arena.first_arrival() else {
            return false;
        };
        if !self.takes_one(core, portion) {
            return false;
        }
        if !self.is_at_rest(at) {
            return self.postpone(core, portion);
        }
        let Some((item, queued)) = self.arena.take_other() else {
            return false;
        };
        // Before `len` is less, of which it is a part.
        at.head().uncount(item.is_limited(), item.is_end());
        self.begins(core, at, queued);
        self.enter(core, now, at);
        let _ = self.start(core, at, item);
        self.settle(core, at);
        true
    }

    /// It may handle in place what comes next.
    #[inline]
    fn is_at_rest(&self, at: At<'_, S>) -> bool {
        let head = at.head();
        at.phase() == Phase::Idle && head.listed.get() == 0 && head.ending.get() == Ending::No
    }

    /// What a stage at rest was given is handled.
    #[inline(always)]
    fn begins(&self, core: &Core, at: At<'_, S>, queued: Stamp) {
        let head = at.head();
        head.len.set(head.len.get() - 1);
        head.started.set(head.started.get().wrapping_add(1));
        core.counters.messages.add(1);
        core.waited(queued);
        if head.crowded.get() {
            self.thins_out(core, at);
        }
    }

    #[cold]
    #[inline(never)]
    fn thins_out(&self, core: &Core, at: At<'_, S>) {
        self.settle(core, at);
    }

    /// Puts the first that has arrived into the backlog of its stage, or drops it if that has
    /// ended. False if there is none.
    #[inline(never)]
    pub(crate) fn set_aside(&self, core: &Core) -> bool {
        let Some((at, _)) = self.arena.first_arrival() else {
            return false;
        };
        let gone = at.phase() == Phase::Free;
        if gone {
            self.arena.arrived_late(at);
        }
        if let Some((message, queued)) = self.arena.take_message() {
            if gone {
                core.counters.dropped.add(1);
                core.contained("the drop of a message", || drop(message));
            } else {
                self.backlogs.push(at.head(), message, queued);
            }
        } else if let Some((item, queued)) = self.arena.take_other() {
            if gone {
                self.drop_item(core, item);
            } else {
                self.backlogs.push_other(at.head(), item, queued);
            }
        }
        if !gone {
            self.make_ready(core, at);
        }
        true
    }

    /// Runs messages, until the stage is busy, something else is next, or the turn is over.
    #[inline(always)]
    fn run_messages(&self, core: &Core, at: At<'_, S>, turn: &mut Turn) {
        let head = at.head();
        let next = || {
            let may = at.phase() == Phase::Idle && head.ending.get() != Ending::Wanted;
            if !may || turn.is_over(core) {
                return None;
            }
            let (message, queued) = self.backlogs.pop_message(head)?;
            turn.done += 1;
            head.started.set(head.started.get().wrapping_add(1));
            core.waited(queued);
            Some((at, message))
        };
        let handler = |stage, cx, message| S::on_message(stage, cx, message);
        let _ = At::begin_each(core, &self.pool, self.number, next, |_| {}, handler);
    }

    /// Nothing happens if the timer was cancelled, or set before a restart.
    fn start_timer(&self, core: &Core, at: At<'_, S>, timer: TimerId) -> Poll<()> {
        let key = self.key(core, at);
        let Some(fired) = core.timer_begins(key, at.head(), timer) else {
            return Poll::Ready(());
        };
        match fired.tick {
            None => self.begin(
                core,
                at,
                Method::Timer,
                None,
                |stage, cx, timer| S::on_timer(stage, cx, timer),
                timer,
            ),
            Some(tick) => self.begin(
                core,
                at,
                Method::Tick,
                None,
                |stage, cx, tick| S::on_tick(stage, cx, tick),
                tick,
            ),
        }
    }

    /// Nothing happens if the future was detached before a restart.
    fn start_enter(&self, core: &Core, at: At<'_, S>, task: TaskId, enter: Enter<S>) -> Poll<()> {
        if !self.task_over(at, task) {
            core.contained("the drop of a detached future's closure", || drop(enter));
            return Poll::Ready(());
        }
        self.begin(
            core,
            at,
            Method::Enter,
            None,
            |stage, cx, enter: Enter<S>| {
                enter(stage, cx);
                std::future::ready(())
            },
            enter,
        )
    }

    /// A detached future is over; false if its stage does not know it any more.
    pub(crate) fn task_over(&self, at: At<'_, S>, task: TaskId) -> bool {
        at.head()
            .extras(|extras| {
                let place = task.of_stage as usize;
                let known = extras.tasks.get(place) == Some(&task);
                known.then(|| extras.tasks.remove(place))
            })
            .is_some()
    }

    #[inline(always)]
    pub(crate) fn start_packet(
        &self,
        core: &Core,
        at: At<'_, S>,
        from: RouterId,
        body: impl FnOnce() -> Body,
    ) -> Poll<()> {
        self.begin(
            core,
            at,
            Method::Packet,
            None,
            // Made where the future takes it, not moved there.
            |stage, cx, (from, body)| S::on_packet(stage, cx, from, body()),
            (from, body),
        )
    }

    /// Runs items until the stage is busy, at rest, gone, or its turn is over.
    pub(crate) fn run_items(&self, core: &Core, at: At<'_, S>, turn: &mut Turn) {
        let head = at.head();
        loop {
            self.run_messages(core, at, turn);
            if at.phase() != Phase::Idle {
                return;
            }
            if head.ending.get() == Ending::Wanted {
                return self.begin_end(core, at);
            }
            if turn.is_over(core) {
                return;
            }
            let Some((item, queued)) = self.backlogs.pop_other(head) else {
                return;
            };
            turn.done += 1;
            head.started.set(head.started.get().wrapping_add(1));
            head.uncount(item.is_limited(), item.is_end());
            core.waited(queued);
            let polled = self.start(core, at, item);
            core.watch(self.number, Method::Message, at.slot(), head.id.get());
            if polled.is_pending() {
                return;
            }
        }
    }

    /// A stage that was destroyed before it was created just goes.
    fn begin_end(&self, core: &Core, at: At<'_, S>) {
        if !at.head().created.get() {
            return self.end(core, at);
        }
        at.head().ending.set(Ending::Destroying);
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
    }

    /// After anything was run: what is due then.
    #[inline]
    pub(crate) fn settle(&self, core: &Core, at: At<'_, S>) {
        let head = at.head();
        let has_more = head.listed.get() > 0 || head.ending.get() == Ending::Wanted;
        if at.phase() == Phase::Idle && has_more {
            self.make_ready(core, at);
        }
        if head.crowded.get() && head.waiting() <= self.info.options.backlog / 2 {
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
        for waiter in waiting {
            // Who waited may have given up; its waker is anybody's code.
            let _ = core.contained("a waker", || waiter.send(()));
        }
    }

    /// The connection that brought the last packet is not read until there is room.
    #[cold]
    pub(crate) fn pause(&self, core: &Core, at: At<'_, S>, from: RouterId) {
        at.head().crowded.set(true);
        if core.engine.with(|engine| engine.pause_reading(from)) == Some(true) {
            core.counters.paused.add(1);
            at.head().with_extras(|extras| extras.paused.push(from));
            if let Some(front) = &core.front {
                core.contained("the front", || {
                    front.on_stalled(&Local::new(core.ptr()), from);
                });
            }
        }
    }

    /// Runs `call`, which runs the stage, and does what follows.
    #[inline]
    pub(crate) fn guarded(&self, core: &Core, at: At<'_, S>, call: impl FnOnce()) {
        let result = catch_unwind(AssertUnwindSafe(call));
        core.watch_nothing();
        if let Err(payload) = result {
            self.panicked(core, at, payload);
        }
        self.settle(core, at);
    }
}

/// Tells the pool of every future that a stage can have.
pub(crate) fn admit_all<S: Stage>(pool: &FramePool<S>) {
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

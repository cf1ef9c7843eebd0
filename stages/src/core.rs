//! The scheduler of one shard: what is ready, what was woken, and how much of it a turn runs.
//!
//! ```text
//! run:  what was woken before this call ─► what is to be destroyed ─► by turns, until messages or
//!       time are spent: what has arrived, in order · ready stages, at most `BATCH` messages of
//!       the backlog of each at a time
//! ```
//!
//! Everything is `Cell` and `RefCell`, only shared references to a core exist, and no borrow is
//! held while user code runs (`slot`, rule 4).

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use proscenium_engine::{Run, Time};

use crate::by_id::Awaited;
use crate::chain::Waits;
use crate::detach::Tasks;
use crate::frames::{Frames, Owner};
use crate::front::{Front, Interest};
use crate::lifecycle::coarse;
use crate::outbox::Outbox;
use crate::samples::{Samples, SharedSamples};
use crate::slot::{CorePtr, EngineSlot, WakeKey};
use crate::stage_ref::StageKey;
use crate::stats::{Counters, SharedCounters};
use crate::system::{ShardShared, System};
use crate::timers::Timers;
use crate::type_shard::AnyStages;
use crate::watch::Watched;

/// Messages that one stage handles at most before the next one has its turn: all that wait for it
/// when its turn comes, as long as they take little time (`SLICE_TIME`). A share of it only, and a
/// stage that is told as much as that per turn would never catch up.
pub(crate) const BATCH: u32 = 4096;
/// Time that one stage has before the next one has its turn; looked at every `CLOCK_POLLS`
/// messages.
pub(crate) const SLICE_TIME: Duration = Duration::from_micros(100);
/// Messages handled in one run, before the shard looks at its sockets again.
const RUN_MESSAGES: u32 = 4096;
/// Time of one run.
const RUN_TIME: Duration = Duration::from_micros(500);
/// Polls between two looks at the clock.
pub(crate) const CLOCK_POLLS: u32 = 32;

/// See the module's page.
pub(crate) struct Core {
    pub(crate) system: Arc<System>,
    /// That of `system`, at hand.
    pub(crate) system_number: u32,
    shared: Arc<ShardShared>,
    pub(crate) shard: usize,
    pub(crate) engine: EngineSlot,
    pub(crate) frames: Frames,
    pub(crate) timers: Timers,
    pub(crate) tasks: Tasks,
    pub(crate) waits: Waits,
    pub(crate) outbox: Outbox,
    pub(crate) counters: Counters,
    pub(crate) samples: Samples,
    pub(crate) front: Option<Box<dyn Front>>,
    /// That of `front`, at hand; nothing if there is none.
    pub(crate) interest: Option<Interest>,
    types: Vec<Box<dyn AnyStages>>,
    /// Types for whose stages something has arrived.
    arrived: RefCell<VecDeque<u8>>,
    /// Another type than that whose turn it is waits for its own, or a stage's backlog.
    others: Cell<bool>,
    /// The last run ended with them: the next one begins with the round.
    arrivals_last: Cell<bool>,
    /// Stages that became ready since the round began, by type and slot.
    ready: RefCell<Vec<(u8, u32)>>,
    /// The round under way: stages in the order in which they became ready, and how many of them
    /// had their turn.
    round: RefCell<Vec<(u8, u32)>>,
    round_at: Cell<usize>,
    doomed: RefCell<Vec<StageKey>>,
    /// Stages made by their factories, by type and id. The ids may be chosen by strangers.
    ids: RefCell<HashMap<(u8, u64), StageKey>>,
    pub(crate) awaited: RefCell<Awaited>,
    /// Messages that may still be handled in place before the next run.
    in_place: Cell<u32>,
    /// A connection was bound or unbound since the flag was put down.
    pub(crate) rebound: Cell<bool>,
    requests: Cell<u64>,
    pub(crate) shutting_down: Cell<bool>,
    /// Where this core is, for what it makes.
    ptr: Cell<Option<CorePtr>>,
}

impl Core {
    pub(crate) fn new(system: Arc<System>, shard: usize) -> Self {
        let types = system.types.iter().map(|info| info.on_shard()).collect();
        let front = system.front.as_ref().map(|make| make(shard));
        Self {
            system_number: system.number,
            shared: system.shard_begins(shard),
            system,
            shard,
            engine: EngineSlot::new(),
            frames: Frames::default(),
            timers: Timers::default(),
            tasks: Tasks::default(),
            waits: Waits::default(),
            outbox: Outbox::default(),
            counters: Counters::default(),
            samples: Samples::default(),
            interest: front.as_ref().map(|front| front.interest()),
            front,
            types,
            arrived: RefCell::default(),
            others: Cell::new(false),
            arrivals_last: Cell::new(false),
            ready: RefCell::default(),
            round: RefCell::default(),
            round_at: Cell::new(0),
            doomed: RefCell::default(),
            ids: RefCell::default(),
            awaited: RefCell::default(),
            in_place: Cell::new(RUN_MESSAGES),
            rebound: Cell::new(false),
            requests: Cell::new(0),
            shutting_down: Cell::new(false),
            ptr: Cell::new(None),
        }
    }

    pub(crate) fn set_ptr(&self, ptr: CorePtr) {
        self.ptr.set(Some(ptr));
    }

    #[inline]
    pub(crate) fn ptr(&self) -> CorePtr {
        self.ptr.get().expect("set before the first call")
    }

    /// What other threads read of this shard.
    #[inline]
    fn shared(&self) -> &ShardShared {
        &self.shared
    }

    pub(crate) fn shared_counters(&self) -> &SharedCounters {
        &self.shared().counters
    }

    pub(crate) fn shared_samples(&self) -> &SharedSamples {
        &self.shared().samples
    }

    #[inline]
    pub(crate) fn watched(&self) -> &Watched {
        &self.shared().watched
    }

    /// The time as stages note when they were active.
    #[inline]
    pub(crate) fn now_coarse(&self) -> u32 {
        coarse(self.now())
    }

    /// The time as of this slice of events; zero outside of a turn.
    #[inline]
    pub(crate) fn now(&self) -> Time {
        self.engine.now()
    }

    /// Reads the clock.
    pub(crate) fn clock(&self) -> Time {
        self.engine
            .with(|engine| engine.clock())
            .unwrap_or_default()
    }

    #[inline]
    pub(crate) fn stages(&self, stage_type: u8) -> &dyn AnyStages {
        &*self.types[usize::from(stage_type)]
    }

    /// The stages of the type that the tag of a connection names, if it names one of this shard.
    #[inline]
    pub(crate) fn stages_named(&self, tag: u64) -> Option<&dyn AnyStages> {
        let key = StageKey::from_tag(tag);
        if tag == 0 || key.shard() != self.shard {
            return None;
        }
        self.types
            .get(usize::from(key.stage_type()))
            .map(|stages| &**stages)
    }

    /// Notes that something has arrived for stages of that type.
    #[inline(never)]
    pub(crate) fn announce(&self, stage_type: u8) {
        self.arrived.borrow_mut().push_back(stage_type);
        self.others.set(true);
    }

    /// While a type has its turn: whether another one or a stage's backlog waits for its own.
    #[inline]
    pub(crate) fn others_wait(&self) -> bool {
        self.others.get()
    }

    /// Has [`others_wait`](Self::others_wait) say how it is now. From then on it notices what
    /// arrives for other types and which stages become ready.
    pub(crate) fn look_for_others(&self) {
        self.others
            .set(self.arrived.borrow().len() > 1 || self.has_turns());
    }

    /// Notes that a stage has something in its backlog to do.
    #[inline]
    pub(crate) fn ready(&self, stage_type: u8, slot: u32) {
        self.ready.borrow_mut().push((stage_type, slot));
        self.others.set(true);
    }

    /// Has the stage end as soon as no handler runs, whatever it is doing.
    pub(crate) fn doom(&self, key: StageKey) {
        self.stages(key.stage_type()).announce_end(key);
        self.doomed.borrow_mut().push(key);
    }

    /// True if one more message may be handled in place.
    #[inline]
    pub(crate) fn take_in_place(&self) -> bool {
        let granted = self.grant_in_place();
        self.give_back_in_place(granted.saturating_sub(1));
        granted > 0
    }

    /// So many messages may be handled in place before the next look at the clock. What is not
    /// needed of them is [given back](Self::give_back_in_place).
    #[inline]
    pub(crate) fn grant_in_place(&self) -> u32 {
        let left = self.in_place.get();
        if left == 0 || left.is_multiple_of(CLOCK_POLLS) && !self.is_slice_young() {
            return 0;
        }
        let granted = (left - 1) % CLOCK_POLLS + 1;
        self.in_place.set(left - granted);
        granted
    }

    #[inline]
    pub(crate) fn give_back_in_place(&self, granted: u32) {
        self.in_place.set(self.in_place.get() + granted);
    }

    /// False if this slice of events has taken as long as a run may: what was woken and what is due
    /// does not wait for more of it.
    #[inline(never)]
    fn is_slice_young(&self) -> bool {
        let young = self.clock().since(self.now()) < RUN_TIME;
        if !young {
            self.in_place.set(0);
        }
        young
    }

    /// A number for a request that no other request of the system has.
    pub(crate) fn next_request(&self) -> u64 {
        let next = self.requests.get() + 1;
        self.requests.set(next);
        (self.shard as u64) << 56 | next
    }

    /// A number for a new frame, and the name of its first use.
    pub(crate) fn number_frame(&self) -> (u32, WakeKey) {
        let index = self.frames.number();
        (index, self.wake_key(index, self.frames.generation(index)))
    }

    /// The use of a frame is over; returns the name of the next one.
    pub(crate) fn retire_frame(&self, index: u32) -> WakeKey {
        let generation = self.frames.end(index);
        self.wake_key(index, generation)
    }

    /// The name of a frame's present use, for wakers.
    pub(crate) fn wake_key(&self, frame: u32, generation: u32) -> WakeKey {
        WakeKey::new(self.system.number, self.shard, frame, generation)
    }

    /// Takes a wake from this thread, if it is for this shard.
    pub(crate) fn wakes_here(&self, key: WakeKey) -> bool {
        let here = key.shard() == self.shard && key.system() == self.system.registered();
        if here {
            self.frames.wake(key.frame(), key.generation());
        }
        here
    }

    pub(crate) fn find(&self, stage_type: u8, id: u64) -> Option<StageKey> {
        self.ids.borrow().get(&(stage_type, id)).copied()
    }

    pub(crate) fn enlist(&self, stage_type: u8, id: u64, key: StageKey) {
        self.ids.borrow_mut().insert((stage_type, id), key);
    }

    pub(crate) fn delist(&self, stage_type: u8, id: u64) {
        self.ids.borrow_mut().remove(&(stage_type, id));
    }

    /// Runs what is runnable within the budgets. The engine is entered.
    pub(crate) fn run(&self) -> Run {
        self.in_place.set(RUN_MESSAGES);
        let woken = self.frames.woken();
        if woken == 0 && !self.is_ready() && self.doomed.borrow().is_empty() {
            self.counters.publish(self); // what was handled in place, or refused
            return Run::Idle;
        }
        let mut budget = Budget::new(self);
        self.resume(woken, &mut budget);
        for key in std::mem::take(&mut *self.doomed.borrow_mut()) {
            self.stages(key.stage_type()).destroy(self, key);
        }
        self.run_stages(&mut budget);
        self.counters.publish(self);
        if self.frames.woken() > 0 || self.is_ready() || !self.doomed.borrow().is_empty() {
            Run::Ready
        } else {
            Run::Idle
        }
    }

    fn is_ready(&self) -> bool {
        !self.arrived.borrow().is_empty() || self.has_turns()
    }

    /// Some stage has something in its backlog to do.
    fn has_turns(&self) -> bool {
        self.round_at.get() < self.round.borrow().len() || !self.ready.borrow().is_empty()
    }

    /// Has stages handle what has arrived and what is in their backlogs, by turns: one at least,
    /// however long the continuations took, and what was woken meanwhile does not wait for a second
    /// one of the same.
    fn run_stages(&self, budget: &mut Budget<'_>) {
        let mut arrivals = !self.arrivals_last.get();
        let mut is_first = true;
        loop {
            let ran = if arrivals {
                self.run_arrived(budget)
            } else {
                self.run_round(budget)
            };
            self.arrivals_last.set(arrivals);
            let over = budget.is_spent() && ran || !self.is_ready();
            if over || !is_first && self.frames.woken() > 0 {
                break;
            }
            is_first = is_first && !ran;
            arrivals = !arrivals;
        }
        self.watch_nothing();
        let types = self.arrived.borrow().len();
        if types > 0 && (budget.late || self.all_arrived() > RUN_MESSAGES as usize) {
            // More has come than a run handles: from here on each stage has its share.
            for _ in 0..types {
                self.leave_first_arrived(true);
            }
        }
    }

    /// Handles what has arrived, of each type some; false if there was nothing.
    fn run_arrived(&self, budget: &mut Budget<'_>) -> bool {
        let types = self.arrived.borrow().len();
        for _ in 0..types {
            let first = self.arrived.borrow().front().copied();
            let Some(stages) = first.map(|first| self.stages(first)) else {
                break;
            };
            // Around all of it: a panic ends it, and the next run goes on.
            let run = catch_unwind(AssertUnwindSafe(|| stages.run_arrived(self, budget)));
            if let Err(payload) = run {
                stages.panicked_in(self, payload);
                budget.spend(CLOCK_POLLS); // a panic is dear
            }
            self.leave_first_arrived(false);
            if budget.is_spent() {
                break;
            }
        }
        types > 0
    }

    /// The first type of which something had arrived comes last, if there is still something.
    fn leave_first_arrived(&self, to_backlogs: bool) {
        let first = self.arrived.borrow_mut().pop_front();
        if let Some(first) = first
            && self.stages(first).leave_arrived(self, to_backlogs)
        {
            self.arrived.borrow_mut().push_back(first);
        }
    }

    /// Gives ready stages their turns, one each, at most to the end of the round; false if there
    /// was none.
    fn run_round(&self, budget: &mut Budget<'_>) -> bool {
        let mut round = std::mem::take(&mut *self.round.borrow_mut());
        let mut at = self.round_at.replace(0);
        if at == round.len() {
            at = 0;
            round.clear();
            std::mem::swap(&mut round, &mut *self.ready.borrow_mut());
        }
        let began = at;
        loop {
            // Around the round, not each stage: a panic ends it, and the next one goes on.
            let turns = catch_unwind(AssertUnwindSafe(|| {
                while let Some(&(stage_type, slot)) = round.get(at) {
                    at += 1;
                    let done = self.stages(stage_type).run(self, slot, BATCH);
                    budget.spend(done.max(1));
                    if budget.is_spent() {
                        return;
                    }
                }
            }));
            let Err(payload) = turns else {
                break;
            };
            self.stages(round[at - 1].0).panicked_in(self, payload);
            budget.spend(CLOCK_POLLS); // a panic is dear
            if budget.is_spent() {
                break;
            }
        }
        let ran = at > began;
        *self.round.borrow_mut() = round;
        self.round_at.set(at);
        ran
    }

    /// Goes on with what was woken, at most `count` of it.
    fn resume(&self, count: usize, budget: &mut Budget<'_>) {
        for _ in 0..count {
            if budget.is_spent() {
                break;
            }
            let Some((frame, owner)) = self.frames.next() else {
                break;
            };
            match owner {
                Owner::Stage { stage_type, slot } => {
                    self.stages(stage_type).resume(self, slot, frame);
                }
                Owner::Task(task) => self.tasks.poll(self, task, frame),
            }
            budget.spend(1);
        }
    }

    /// Stages that have not finished: during a shutdown all that live, else those that are busy.
    pub(crate) fn pending_work(&self) -> usize {
        if self.shutting_down.get() {
            return self.live();
        }
        let left = self.round.borrow().len() - self.round_at.get();
        left + self.ready.borrow().len() + self.all_arrived() + self.frames.woken()
    }

    /// What has arrived for stages of all types and was not looked at.
    fn all_arrived(&self) -> usize {
        let each = self.types.iter().map(|stages| stages.arrived() as usize);
        each.sum()
    }

    pub(crate) fn live(&self) -> usize {
        self.types.iter().map(|stages| stages.live()).sum()
    }

    /// Has every stage end, each after what is in its backlog.
    pub(crate) fn begin_shutdown(&self) {
        self.shutting_down.set(true);
        for stages in &self.types {
            stages.stop_all(self);
        }
    }

    /// Ends all stages where they are. Nothing is entered; only `CoreBox::drop` calls this.
    pub(crate) fn end_stages(&self) {
        self.shutting_down.set(true);
        self.tasks.clear(self);
        for stages in &self.types {
            stages.end_all(self);
        }
        self.timers.clear();
    }
}

/// What one run may do.
pub(crate) struct Budget<'a> {
    core: &'a Core,
    messages: u32,
    until_clock: u32,
    deadline: Time,
    late: bool,
}

impl<'a> Budget<'a> {
    fn new(core: &'a Core) -> Self {
        Self {
            core,
            messages: RUN_MESSAGES,
            until_clock: CLOCK_POLLS,
            deadline: core.clock() + RUN_TIME,
            late: false,
        }
    }

    /// Messages before the next look at the clock.
    #[inline]
    pub(crate) fn until_clock(&self) -> u32 {
        self.until_clock
    }

    #[inline]
    pub(crate) fn spend(&mut self, messages: u32) {
        self.messages = self.messages.saturating_sub(messages);
        self.pass(messages);
    }

    /// So many were looked at: that takes time, but is none of the messages of the run.
    #[inline]
    pub(crate) fn pass(&mut self, messages: u32) {
        self.until_clock = self.until_clock.saturating_sub(messages);
        if self.until_clock == 0 {
            self.until_clock = CLOCK_POLLS;
            self.late = self.core.clock() >= self.deadline;
        }
    }

    #[inline]
    pub(crate) fn is_spent(&self) -> bool {
        self.messages == 0 || self.late
    }
}

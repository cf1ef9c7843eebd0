//! Stage cells at stable addresses, and running what is in them.

use std::cell::{Cell, UnsafeCell};
use std::mem::{MaybeUninit, forget};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{self, NonNull};
use std::task::{Context, Poll};

use proscenium_engine::prefetch;

use super::arrivals::Arrivals;
use super::frame::{FramePool, FramePtr};
use super::waker::waker;
use crate::core::Core;
use crate::cx::Cx;
use crate::frames::Owner;
use crate::head::{Ending, Head};
use crate::invocation::Item;
use crate::panics::discard;
use crate::samples::Stamp;
use crate::stage::Stage;

/// Cells per chunk of an arena.
const CHUNK: u32 = 32;
/// Ends the list of free cells.
const NONE: u32 = u32::MAX;
/// A cell whose generation reaches this is not used again, so that no name ever names two stages.
const GENERATION_MAX: u32 = (1 << 24) - 1;

/// What a cell holds, and what its stage is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// No stage.
    Free,
    /// A stage at rest.
    Idle,
    /// An invocation begins or ends: no future exists, the frame is taken.
    Starting,
    /// The future is being polled.
    Running,
    /// The future waits to be woken.
    Suspended,
    /// The stage panicked and waits for its restart; its state is gone.
    Broken,
}

#[repr(C)]
struct StageCell<S: 'static> {
    head: Head,
    phase: Cell<Phase>,
    /// Its number in the arena.
    slot: u32,
    frame: Cell<Option<FramePtr<S>>>,
    state: UnsafeCell<MaybeUninit<S>>,
}

impl<S> StageCell<S> {
    fn state(&self) -> *mut S {
        UnsafeCell::raw_get(&raw const self.state).cast()
    }
}

/// The stages of one type on one shard, and what has arrived for them.
pub(crate) struct Arena<S: Stage> {
    /// Each points to `CHUNK` cells.
    chunks: UnsafeCell<Vec<NonNull<StageCell<S>>>>,
    cells: Cell<u32>,
    /// A list through `Head::link`.
    free: Cell<u32>,
    live: Cell<u32>,
    /// Its targets are cells of `chunks`.
    arrivals: Arrivals<StageCell<S>, S::Msg, Item<S>>,
}

/// A cell that exists.
pub(crate) struct At<'a, S: 'static> {
    cell: &'a StageCell<S>,
}

impl<S> Clone for At<'_, S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S> Copy for At<'_, S> {}

impl<S: Stage> Arena<S> {
    pub(crate) const SLOTS_MAX: u32 = 1 << 24;

    pub(crate) fn new() -> Self {
        Self {
            chunks: UnsafeCell::default(),
            cells: Cell::new(0),
            free: Cell::new(NONE),
            live: Cell::new(0),
            arrivals: Arrivals::new(),
        }
    }

    /// Stages that live here.
    pub(crate) fn live(&self) -> u32 {
        self.live.get()
    }

    /// Cells that were ever made: all slots are below.
    pub(crate) fn slots(&self) -> u32 {
        self.cells.get()
    }

    /// Puts a stage into a free cell, idle; gives it back if there is no room for more.
    pub(crate) fn insert(&self, state: S) -> Result<At<'_, S>, S> {
        if self.free.get() == NONE && !self.grow() {
            return Err(state);
        }
        let at = self.cell(self.free.get());
        debug_assert_eq!(at.phase(), Phase::Free);
        self.free.set(at.head().link.get());
        self.live.set(self.live.get() + 1);
        at.head().reset();
        // SAFETY: a free cell holds no state.
        unsafe { at.cell.state().write(state) };
        at.cell.phase.set(Phase::Idle);
        Ok(at)
    }

    fn grow(&self) -> bool {
        let first = self.cells.get();
        if first + CHUNK > Self::SLOTS_MAX {
            return false;
        }
        let chunk: Box<[StageCell<S>]> = (first..first + CHUNK)
            .map(|slot| StageCell {
                head: Head::new(if slot + 1 == first + CHUNK {
                    NONE
                } else {
                    slot + 1
                }),
                phase: Cell::new(Phase::Free),
                slot,
                frame: Cell::new(None),
                state: UnsafeCell::new(MaybeUninit::uninit()),
            })
            .collect();
        let chunk = NonNull::from(Box::leak(chunk)).cast();
        // SAFETY: references to the list are made here, in `cell` and in `drop` only, and none
        // lives beyond one line.
        unsafe { &mut *self.chunks.get() }.push(chunk);
        self.cells.set(first + CHUNK);
        self.free.set(first);
        true
    }

    #[inline]
    fn cell(&self, slot: u32) -> At<'_, S> {
        // SAFETY: as in `grow`.
        let chunk = unsafe { &*self.chunks.get() }[(slot / CHUNK) as usize];
        // SAFETY: rule 1: chunks have `CHUNK` cells and are freed by `drop` only; only shared
        // references to cells are ever made.
        let cell = unsafe { chunk.add((slot % CHUNK) as usize).as_ref() };
        At { cell }
    }

    /// Has a cell fetched from memory.
    #[inline]
    pub(crate) fn prefetch(&self, slot: u32) {
        if let Some(at) = self.at(slot) {
            prefetch(at.cell);
        }
    }

    /// The cell of that number, if it was ever made.
    #[inline]
    pub(crate) fn at(&self, slot: u32) -> Option<At<'_, S>> {
        (slot < self.cells.get()).then(|| self.cell(slot))
    }

    /// The stage of that name, if it lives.
    #[inline]
    pub(crate) fn find(&self, slot: u32, generation: u32) -> Option<At<'_, S>> {
        // SAFETY: as in `grow`.
        let chunk = *unsafe { &*self.chunks.get() }.get((slot / CHUNK) as usize)?;
        // SAFETY: as in `cell`.
        let cell = unsafe { chunk.add((slot % CHUNK) as usize).as_ref() };
        let at = At { cell };
        (at.head().generation.get() == generation && at.phase() != Phase::Free).then_some(at)
    }

    /// The stage of that name, if it lives and is not about to end.
    #[inline(always)]
    pub(crate) fn find_open(&self, slot: u32, generation: u32) -> Option<At<'_, S>> {
        // A free cell has a generation that nobody has been told yet.
        // SAFETY: as in `grow`.
        let chunk = *unsafe { &*self.chunks.get() }.get((slot / CHUNK) as usize)?;
        // SAFETY: as in `cell`.
        let cell = unsafe { chunk.add((slot % CHUNK) as usize).as_ref() };
        let head = &cell.head;
        let open = head.generation.get() == generation && head.ending.get() == Ending::No;
        open.then_some(At { cell })
    }

    /// Ends an idle or broken stage: drops its state and frees its cell.
    pub(crate) fn remove(&self, at: At<'_, S>) {
        let state = at.phase() == Phase::Idle;
        self.free_cell(at);
        if state {
            // SAFETY: it was idle, so the state exists and nobody refers to it. It moves out before
            // its drop, which is user code, could fill the cell anew.
            drop(unsafe { at.cell.state().read() });
        }
    }

    /// Ends an idle stage and returns its state.
    pub(crate) fn take(&self, at: At<'_, S>) -> S {
        assert_eq!(at.phase(), Phase::Idle, "only an idle stage is taken");
        self.free_cell(at);
        // SAFETY: it was idle: the state exists, nobody refers to it, and the cell forgets it.
        unsafe { at.cell.state().read() }
    }

    fn free_cell(&self, at: At<'_, S>) {
        debug_assert!(matches!(at.phase(), Phase::Idle | Phase::Broken));
        let head = at.head();
        at.cell.phase.set(Phase::Free);
        self.live.set(self.live.get() - 1);
        head.generation.set(head.generation.get() + 1);
        self.offer(at);
    }

    /// Puts a free cell on the list of those that are used again, unless something has yet to
    /// arrive there.
    fn offer(&self, at: At<'_, S>) {
        let head = at.head();
        if head.len.get() == 0 && head.generation.get() < GENERATION_MAX {
            head.link.set(self.free.get());
            self.free.set(at.slot());
        }
    }

    /// Things that have arrived.
    #[inline]
    pub(crate) fn arrived(&self) -> u32 {
        self.arrivals.len()
    }

    /// A message arrives for a stage of this arena.
    #[inline(always)]
    pub(crate) fn arrive(&self, at: At<'_, S>, message: S::Msg, stamp: impl FnOnce() -> Stamp) {
        at.head().len.set(at.head().len.get() + 1);
        self.arrivals.push(NonNull::from(at.cell), message, stamp);
    }

    /// Anything else does.
    pub(crate) fn arrive_other(&self, at: At<'_, S>, item: Item<S>, stamp: impl FnOnce() -> Stamp) {
        at.head().len.set(at.head().len.get() + 1);
        self.arrivals
            .push_other(NonNull::from(at.cell), item, stamp);
    }

    /// Counts what has arrived and was taken; wraps.
    #[inline]
    pub(crate) fn taken(&self) -> u32 {
        self.arrivals.passed()
    }

    /// For whom the first is that has arrived, and whether it is a message.
    #[inline(always)]
    pub(crate) fn first_arrival(&self) -> Option<(At<'_, S>, bool)> {
        let (cell, is_message) = self.arrivals.peek()?;
        // SAFETY: as in `cell`: only cells of this arena are put in.
        let cell = unsafe { cell.as_ref() };
        Some((At { cell }, is_message))
    }

    /// Takes the first that has arrived, if it is a message.
    #[inline(always)]
    pub(crate) fn take_message(&self) -> Option<(S::Msg, Stamp)> {
        self.arrivals.pop_message()
    }

    /// Takes the first that has arrived, if it is anything else.
    pub(crate) fn take_other(&self) -> Option<(Item<S>, Stamp)> {
        self.arrivals.pop_other()
    }

    /// What was taken came for a stage that has ended.
    pub(crate) fn arrived_late(&self, at: At<'_, S>) {
        debug_assert_eq!(at.phase(), Phase::Free);
        at.head().len.set(at.head().len.get() - 1);
        self.offer(at);
    }

    /// Gives memory back after a burst.
    #[inline]
    pub(crate) fn shrink(&self) {
        self.arrivals.shrink();
    }

    /// Gives a broken stage a new state.
    pub(crate) fn mend(&self, at: At<'_, S>, state: S) {
        assert_eq!(at.phase(), Phase::Broken, "only a broken stage is mended");
        // SAFETY: a broken stage has no state.
        unsafe { at.cell.state().write(state) };
        at.cell.phase.set(Phase::Idle);
    }
}

impl<'a, S> At<'a, S> {
    #[inline]
    pub(crate) fn head(self) -> &'a Head {
        &self.cell.head
    }

    /// Its number in its arena.
    #[inline]
    pub(crate) fn slot(self) -> u32 {
        self.cell.slot
    }

    #[inline]
    pub(crate) fn phase(self) -> Phase {
        self.cell.phase.get()
    }

    /// The frame of the invocation under way.
    #[inline]
    pub(crate) fn frame(self) -> Option<u32> {
        self.cell.frame.get().map(FramePtr::index)
    }

    /// Begins an invocation of an idle stage and polls it once.
    ///
    /// `context` is given the number of the frame and makes the `Cx`. A panic of user code passes
    /// through; [`clear`](Self::clear) is due then.
    #[inline(always)]
    pub(crate) fn begin<A, F>(
        self,
        core: &Core,
        pool: &FramePool<S>,
        owner: Owner,
        context: impl FnOnce(u32) -> Cx<'static, S>,
        call: impl FnOnce(&'static mut S, &'static mut Cx<'static, S>, A) -> F,
        argument: A,
    ) -> Poll<()>
    where
        F: Future<Output = ()> + 'static,
    {
        let cell = self.cell;
        assert!(cell.phase.get() == Phase::Idle, "one invocation at a time");
        cell.phase.set(Phase::Starting);
        let frame = pool.take(|| core.number_frame());
        let waker = waker(frame.key());
        // SAFETY: the frame is ours and empty; the state exists, since the stage was idle, and
        // nobody refers to it (rules 2, 3). `'static` cannot be observed: `call` is generic over
        // the lifetimes where `Stage` is implemented, and state and `Cx` outlive the future,
        // which is dropped before both (`finish`, `clear`).
        unsafe {
            frame.cx().write(context(frame.index()));
            frame.prepare::<F>();
            cell.frame.set(Some(frame));
            frame.put(call(&mut *cell.state(), &mut *frame.cx(), argument));
            cell.phase.set(Phase::Running);
            let polled = frame.poll_known::<F>(&mut Context::from_waker(&waker));
            if polled.is_ready() {
                cell.phase.set(Phase::Starting);
                frame.end_known::<F>();
                self.give_back(core, pool, frame);
            } else {
                cell.phase.set(Phase::Suspended);
                core.frames.suspend(frame.index(), owner);
            }
            polled
        }
    }

    /// Runs invocations of an idle stage one after the other, in one frame and with one `Cx`, as
    /// long as `next` has an argument for another one and each is ready at its first poll. Pending:
    /// the last one is not. A panic of user code passes through; [`clear`](Self::clear) is due
    /// then.
    ///
    /// `next` does not touch the state, and finds the stage busy. What it runs of others' code (a
    /// [`Front`](crate::Front)) has no way to the state: that goes by frames only. Poll times are
    /// not sampled here.
    #[inline(always)]
    pub(crate) fn begin_run<A, F>(
        self,
        core: &Core,
        pool: &FramePool<S>,
        stage_type: u8,
        mut next: impl FnMut() -> Option<A>,
        call: impl Fn(&'static mut S, &'static mut Cx<'static, S>, A) -> F,
    ) -> Poll<()>
    where
        F: Future<Output = ()> + 'static,
    {
        let cell = self.cell;
        assert!(cell.phase.get() == Phase::Idle, "one invocation at a time");
        let frame = pool.take(|| core.number_frame());
        let waker = waker(frame.key());
        let mut task = Context::from_waker(&waker);
        // SAFETY: as in `begin`, for each of the futures: one is dropped before the next one is
        // made, and between the two nobody but this loop refers to the state or to the `Cx`. The
        // phase says all the time that a future exists; where none does, `without` takes that back
        // if anything unwinds. Only `clear` tells the difference, and nothing that runs here gets
        // there.
        unsafe {
            let name = (stage_type, cell.slot, cell.head.generation.get());
            let cx = Cx::new(core.ptr(), name, frame.index(), None);
            frame.cx().write(cx);
            frame.prepare::<F>();
            cell.phase.set(Phase::Running);
            cell.frame.set(Some(frame));
            let mut without = NoFuture(&cell.phase);
            // `next` is called in one place, so that it becomes a part of the loop.
            while let Some(argument) = next() {
                frame.put(call(&mut *cell.state(), &mut *frame.cx(), argument));
                forget(without);
                if frame.poll_known::<F>(&mut task).is_pending() {
                    cell.phase.set(Phase::Suspended);
                    let slot = cell.slot;
                    core.frames
                        .suspend(frame.index(), Owner::Stage { stage_type, slot });
                    return Poll::Pending;
                }
                without = NoFuture(&cell.phase);
                frame.end_known::<F>();
                if (*frame.cx()).take_asked() {
                    core.waits.forget(&core.frames, frame.index());
                }
            }
            forget(without);
            self.give_back(core, pool, frame);
        }
        Poll::Ready(())
    }

    /// Runs invocations one after the other, each of the idle stage that `next` names, in one frame
    /// and with one `Cx`, as long as there is one and each is ready at its first poll. Pending: the
    /// last one is not. `enter` is told of each stage before its first. A panic of user code passes
    /// through; [`clear`](Self::clear) of the stage entered last is due then.
    ///
    /// `next` does not touch the states. What it runs of others' code (drops of messages) has no
    /// way to them: that goes by frames only.
    #[inline(always)]
    pub(crate) fn begin_each<A, F>(
        core: &Core,
        pool: &FramePool<S>,
        stage_type: u8,
        mut next: impl FnMut() -> Option<(Self, A)>,
        mut enter: impl FnMut(Self),
        call: impl Fn(&'static mut S, &'static mut Cx<'static, S>, A) -> F,
    ) -> Poll<()>
    where
        F: Future<Output = ()> + 'static,
    {
        let frame = pool.take(|| core.number_frame());
        let waker = waker(frame.key());
        let mut task = Context::from_waker(&waker);
        let mut sampled = None;
        let mut entered = ptr::null();
        // SAFETY: as in `begin`, for each of the futures: one is dropped before the next one is
        // made, and between the two nobody but this loop refers to a state or to the `Cx`. The
        // frame is a cell's from `Starting` on, so that it is found after a panic.
        unsafe {
            let cx = Cx::new(core.ptr(), (stage_type, 0, 0), frame.index(), None);
            frame.cx().write(cx);
            frame.prepare::<F>();
            // `next` is called in one place, so that it becomes a part of the loop.
            while let Some((at, argument)) = next() {
                let cell = at.cell;
                assert!(cell.phase.get() == Phase::Idle, "one invocation at a time");
                if !ptr::eq(entered, cell) {
                    entered = cell;
                    (*frame.cx()).pass_to(cell.slot, cell.head.generation.get());
                    enter(at);
                    sampled = core.sample_poll();
                }
                cell.phase.set(Phase::Starting);
                cell.frame.set(Some(frame));
                frame.put(call(&mut *cell.state(), &mut *frame.cx(), argument));
                cell.phase.set(Phase::Running);
                let polled = frame.poll_known::<F>(&mut task);
                if let Some(began) = sampled.take() {
                    core.polled_since(began);
                }
                if polled.is_pending() {
                    cell.phase.set(Phase::Suspended);
                    let slot = cell.slot;
                    core.frames
                        .suspend(frame.index(), Owner::Stage { stage_type, slot });
                    return Poll::Pending;
                }
                cell.phase.set(Phase::Starting);
                frame.end_known::<F>();
                if (*frame.cx()).take_asked() {
                    core.waits.forget(&core.frames, frame.index());
                }
                cell.frame.set(None);
                cell.phase.set(Phase::Idle);
            }
            frame.cx().drop_in_place();
            if let Some(index) = pool.give(frame) {
                core.frames.forget(index);
            }
        }
        Poll::Ready(())
    }

    /// Polls the future of a suspended stage. A panic of user code passes through;
    /// [`clear`](Self::clear) is due then.
    pub(crate) fn resume(self, core: &Core, pool: &FramePool<S>) -> Poll<()> {
        let cell = self.cell;
        let Some(frame) = cell.frame.get() else {
            return Poll::Ready(());
        };
        assert_eq!(cell.phase.get(), Phase::Suspended, "nothing to resume");
        cell.phase.set(Phase::Running);
        // SAFETY: suspended, so the frame holds a future to which nobody refers.
        unsafe {
            let waker = waker(frame.key());
            let polled = frame.poll(&mut Context::from_waker(&waker));
            if polled.is_ready() {
                cell.phase.set(Phase::Starting);
                frame.end();
                self.retire(core, frame);
                self.give_back(core, pool, frame);
            } else {
                cell.phase.set(Phase::Suspended);
            }
            polled
        }
    }

    /// The name under which the frame may be woken is out of date from here on. A use that was
    /// ready at its first poll saves itself that: a waker of it wakes the next use for nothing.
    fn retire(self, core: &Core, frame: FramePtr<S>) {
        frame.rename(core.retire_frame(frame.index()));
    }

    /// Drops the `Cx` and returns the frame; the stage is idle.
    ///
    /// # Safety
    /// `frame` is this cell's, and the future in it has been dropped.
    #[inline(always)]
    unsafe fn give_back(self, core: &Core, pool: &FramePool<S>, frame: FramePtr<S>) {
        self.cell.frame.set(None);
        self.cell.phase.set(Phase::Idle);
        // SAFETY: the `Cx` exists, and the future that referred to it does not.
        if unsafe { &*frame.cx() }.take_asked() {
            core.waits.forget(&core.frames, frame.index());
        }
        // SAFETY: by the contract; the `Cx` has existed since `begin`, its drop runs no user code.
        unsafe {
            frame.cx().drop_in_place();
            if let Some(index) = pool.give(frame) {
                core.frames.forget(index);
            }
        }
    }

    /// Ends the invocation under way, if any: drops its future, wherever it stands, and leaves the
    /// stage idle. False if the drop of the future panicked.
    pub(crate) fn clear(self, core: &Core, pool: &FramePool<S>) -> bool {
        let cell = self.cell;
        let exists = matches!(cell.phase.get(), Phase::Running | Phase::Suspended);
        let Some(frame) = cell.frame.get() else {
            if cell.phase.get() == Phase::Starting {
                cell.phase.set(Phase::Idle);
            }
            return true;
        };
        cell.phase.set(Phase::Starting);
        // SAFETY: the phase said that the future exists; it is gone from here on.
        let dropped = !exists || quietly(|| unsafe { frame.end() });
        self.retire(core, frame);
        // SAFETY: the future is gone: it was never made, or its drop has begun.
        unsafe { self.give_back(core, pool, frame) };
        dropped
    }

    /// Takes the state of an idle stage away and drops it; the stage is broken. False if that drop
    /// panicked.
    pub(crate) fn break_down(self) -> bool {
        assert_eq!(self.phase(), Phase::Idle, "only what rests breaks down");
        self.cell.phase.set(Phase::Broken);
        // SAFETY: idle: the state exists and nobody refers to it; it counts as gone already.
        quietly(|| unsafe { self.cell.state().drop_in_place() })
    }
}

/// Says, if it is dropped, that a busy stage has no future.
struct NoFuture<'a>(&'a Cell<Phase>);

impl Drop for NoFuture<'_> {
    fn drop(&mut self) {
        self.0.set(Phase::Starting);
    }
}

/// Runs a drop; false if it panicked, of which the panic hook has told.
fn quietly(drop: impl FnOnce()) -> bool {
    catch_unwind(AssertUnwindSafe(drop))
        .map_err(discard)
        .is_ok()
}

impl<S: Stage> Drop for Arena<S> {
    fn drop(&mut self) {
        for slot in 0..self.cells.get() {
            let at = self.cell(slot);
            debug_assert!(at.cell.frame.get().is_none(), "invocations end before");
            if at.phase() == Phase::Idle {
                at.break_down();
            }
        }
        for chunk in self.chunks.get_mut().drain(..) {
            let cells = NonNull::slice_from_raw_parts(chunk, CHUNK as usize);
            // SAFETY: leaked by `grow` as a box of that many cells; states were dropped above.
            drop(unsafe { Box::from_raw(cells.as_ptr()) });
        }
    }
}

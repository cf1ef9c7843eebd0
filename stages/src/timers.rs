//! Everything that is due at a time: sleeps, deadlines, timers and ticks of stages.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use proscenium_engine::{Time, TimerKey as EngineKey};
use slab::Slab;

use crate::core::Core;
use crate::local::Local;
use crate::stage_ref::StageKey;

/// Names a timer of one stage; counts up from 1, so that no two timers of a stage share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TimerId(pub(crate) u64);

/// One tick of [`Cx::start_tick`](crate::Cx::start_tick).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tick {
    /// Counts the ticks since the start, from 1, those left out included.
    pub number: u64,
    /// How many ticks before this one were left out, because the stage was too far behind.
    pub missed: u64,
    /// When the tick was due.
    pub due: Time,
}

/// What happens when a timer is due.
pub(crate) enum Due {
    Wake(Waker),
    /// A timer or tick of a stage.
    Stage(StageTimer),
    /// Something of the scheduler's own.
    Run(Box<dyn FnOnce(&Core)>),
}

/// A timer of a stage.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StageTimer {
    pub(crate) stage: StageKey,
    pub(crate) id: TimerId,
    /// Fires again after this time; zero: it does not.
    pub(crate) every: Duration,
    /// How many times it still fires.
    pub(crate) left: u64,
    pub(crate) at: Time,
    /// `Some`: a tick, and the number of the next one.
    pub(crate) tick: Option<u64>,
}

/// Names an entry of the shard's table: its version and its number.
pub(crate) type TimerKey = u64;

struct Entry {
    due: Due,
    version: u32,
    engine: EngineKey,
}

/// The shard's table of what is due.
#[derive(Default)]
pub(crate) struct Timers {
    entries: RefCell<Slab<Entry>>,
    version: Cell<u32>,
}

impl Core {
    /// Has `due` happen at `at`. Outside of a turn nothing is set: the shard is ending.
    pub(crate) fn set_timer(&self, at: Time, due: Due) -> TimerKey {
        let version = self.timers.version.get().wrapping_add(1);
        self.timers.version.set(version);
        let mut entries = self.timers.entries.borrow_mut();
        let entry = entries.vacant_entry();
        let token = u64::from(version) << 32 | entry.key() as u64;
        let set = self.engine.with(|engine| engine.set_timer_at(at, token));
        if let Some(engine) = set {
            entry.insert(Entry {
                due,
                version,
                engine,
            });
        }
        token
    }

    /// Does nothing if it has happened or was cancelled.
    pub(crate) fn cancel_timer(&self, key: TimerKey) {
        if let Some(entry) = self.timers.take(key) {
            self.engine.with(|engine| engine.cancel_timer(entry.engine));
        }
    }

    pub(crate) fn fire(&self, token: u64) {
        match self.timers.take(token).map(|entry| entry.due) {
            Some(Due::Wake(waker)) => waker.wake(),
            Some(Due::Stage(timer)) => self.fire_stage(timer),
            Some(Due::Run(run)) => run(self),
            None => {}
        }
    }

    fn fire_stage(&self, mut timer: StageTimer) {
        let key = timer.stage;
        let stages = self.stages(key.stage_type());
        let old = timer.id;
        timer.left = timer.left.saturating_sub(1);
        if !timer.every.is_zero() && timer.left > 0 {
            let now = self.now();
            let behind = now.since(timer.at);
            let missed;
            if let Some(number) = timer.tick {
                // More than `CATCH_UP` ticks behind: the rest is left out.
                let periods = (behind.as_nanos() / timer.every.as_nanos()) as u64;
                missed = periods.saturating_sub(CATCH_UP);
                timer.tick = Some(number + missed + 1);
            } else {
                // An interval that is behind does not catch up.
                missed = (behind.as_nanos() / timer.every.as_nanos()) as u64;
            }
            let due = timer.at;
            let step = u32::try_from(missed + 1).unwrap_or(u32::MAX);
            timer.at = timer.at + timer.every.saturating_mul(step);
            let number = self.set_timer(timer.at, Due::Stage(timer));
            stages.timer_is_due(self, key, old, Some(number), tick_of(&timer, missed, due));
        } else {
            stages.timer_is_due(self, key, old, None, tick_of(&timer, 0, timer.at));
        }
    }
}

fn tick_of(timer: &StageTimer, missed: u64, due: Time) -> Option<Tick> {
    let number = timer.tick?;
    Some(Tick {
        number: number - 1,
        missed,
        due: due + timer.every.saturating_mul(missed as u32),
    })
}

/// Ticks that a stage which is late is given one after the other.
const CATCH_UP: u64 = 5;

impl Timers {
    fn take(&self, key: TimerKey) -> Option<Entry> {
        let mut entries = self.entries.borrow_mut();
        let index = key as u32 as usize;
        let fits = entries
            .get(index)
            .is_some_and(|entry| u64::from(entry.version) == key >> 32);
        fits.then(|| entries.remove(index))
    }

    /// The future that waits was polled by another task.
    pub(crate) fn wake_instead(&self, key: TimerKey, by: &Waker) {
        let mut entries = self.entries.borrow_mut();
        if let Some(entry) = entries.get_mut(key as u32 as usize)
            && u64::from(entry.version) == key >> 32
            && let Due::Wake(waker) = &mut entry.due
            && !waker.will_wake(by)
        {
            waker.clone_from(by);
        }
    }

    pub(crate) fn clear(&self) {
        let all = std::mem::take(&mut *self.entries.borrow_mut());
        drop(all); // wakers and closures: not under the borrow
    }
}

/// Waits for some time; see [`Cx::sleep`](crate::Cx::sleep).
#[must_use = "a sleep sleeps while it is awaited"]
pub struct Sleep<'a> {
    local: Local<'a>,
    until: Until,
}

enum Until {
    For(Duration),
    At(Time, TimerKey),
    Over,
}

impl<'a> Sleep<'a> {
    pub(crate) fn new(local: Local<'a>, time: Duration) -> Self {
        Self {
            local,
            until: Until::For(time),
        }
    }
}

impl Future for Sleep<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let core = this.local.core();
        match this.until {
            Until::For(time) => {
                let at = core.clock() + time;
                let timer = core.set_timer(at, Due::Wake(cx.waker().clone()));
                this.until = Until::At(at, timer);
                Poll::Pending
            }
            Until::At(at, timer) if core.now() < at => {
                core.timers.wake_instead(timer, cx.waker());
                Poll::Pending
            }
            Until::At(_, timer) => {
                core.cancel_timer(timer);
                this.until = Until::Over;
                Poll::Ready(())
            }
            Until::Over => Poll::Ready(()),
        }
    }
}

impl Drop for Sleep<'_> {
    fn drop(&mut self) {
        if let Until::At(_, timer) = self.until {
            self.local.core().cancel_timer(timer);
        }
    }
}

impl std::fmt::Debug for Sleep<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sleep(..)")
    }
}

//! Everything that is due at a time: sleeps, deadlines, timers and ticks of stages.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use proscenium_engine::{Time, TimerKey as EngineKey};
use slab::Slab;

use crate::core::Core;
use crate::head::Head;
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
    /// A timer, interval or tick of a stage.
    Stage(StageKey, TimerId),
    /// Something of the scheduler's own.
    Run(Box<dyn FnOnce(&Core)>),
}

/// A timer, an interval or a tick of a stage, as the stage keeps it until it is over.
///
/// It is armed while it waits to be due. From then on until its handler begins it waits in the
/// backlog, and is not armed: so there is never more than one call of it waiting, however long the
/// stage is busy, and what was cancelled or belonged to the state before a panic is known as such
/// when its turn comes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StageTimer {
    pub(crate) id: TimerId,
    /// In the shard's table.
    pub(crate) armed: Option<TimerKey>,
    /// When it is or was due.
    pub(crate) at: Time,
    /// Due again after this time; zero: it is not.
    pub(crate) every: Duration,
    /// How many calls are left.
    pub(crate) left: u64,
    /// `Some`: a tick, and the number of the last one.
    pub(crate) tick: Option<u64>,
}

/// A timer whose handler is to be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fired {
    pub(crate) tick: Option<Tick>,
    /// Calls left out before this one.
    missed: u64,
}

impl StageTimer {
    /// Its handler begins at `now`. Moves on to the next time; `left` says if there is one.
    fn begin(&mut self, now: Time) -> Fired {
        self.left = self.left.saturating_sub(1);
        let every = self.every.as_nanos() as u64;
        if every == 0 {
            self.left = 0;
            return Fired {
                tick: None,
                missed: 0,
            };
        }
        let due = |periods: u64| {
            let behind = periods.saturating_mul(every);
            Time::from_nanos(self.at.as_nanos().saturating_add(behind))
        };
        // Whole periods since it was due.
        let behind = now.since(self.at).as_nanos() as u64 / every;
        let Some(last) = self.tick else {
            self.at = due(behind.saturating_add(1));
            return Fired {
                tick: None,
                missed: behind,
            };
        };
        let missed = behind.saturating_sub(CATCH_UP - 1);
        let tick = Tick {
            number: last + missed + 1,
            missed,
            due: due(missed),
        };
        self.tick = Some(tick.number);
        self.at = due(missed + 1);
        Fired {
            tick: Some(tick),
            missed,
        }
    }
}

/// Ticks that a stage which is late is given one after the other.
const CATCH_UP: u64 = 5;

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
        // Their highest bit is set: whoever wraps this handler has the other tokens for itself.
        let version = self.timers.version.get().wrapping_add(1) | 1 << 31;
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
            Some(Due::Stage(stage, timer)) => {
                let stages = self.stages(stage.stage_type());
                stages.timer_is_due(self, stage, timer);
            }
            Some(Due::Run(run)) => run(self),
            None => {}
        }
    }

    /// The handler of a timer begins, if it is still wanted; it is armed for its next time.
    pub(crate) fn timer_begins(&self, stage: StageKey, head: &Head, id: TimerId) -> Option<Fired> {
        head.extras(|extras| {
            let index = extras.timer(id)?;
            let timer = &mut extras.timers[index];
            let fired = timer.begin(self.now());
            if timer.left > 0 {
                timer.armed = Some(self.set_timer(timer.at, Due::Stage(stage, id)));
            } else {
                extras.timers.remove(index);
            }
            self.counters.ticks_missed.add(fired.missed);
            Some(fired)
        })
    }
}

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
        let mut before = None; // dropped without the borrow: it may be anybody's
        if let Some(entry) = self.entries.borrow_mut().get_mut(key as u32 as usize)
            && u64::from(entry.version) == key >> 32
            && let Due::Wake(waker) = &mut entry.due
            && !waker.will_wake(by)
        {
            before = Some(std::mem::replace(waker, by.clone()));
        }
        drop(before);
    }

    pub(crate) fn clear(&self) {
        let all = std::mem::take(&mut *self.entries.borrow_mut());
        drop(all); // wakers and closures: not under the borrow
    }
}

/// Waits for some time; see [`Local::sleep`](crate::Local::sleep).
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

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn at(ms: u64) -> Time {
        Time::from_nanos(ms * MS)
    }

    fn every_10_ms(tick: Option<u64>) -> StageTimer {
        StageTimer {
            id: TimerId(1),
            armed: None,
            at: at(10),
            every: Duration::from_millis(10),
            left: u64::MAX,
            tick,
        }
    }

    #[test]
    fn an_interval_goes_on_at_whole_periods() {
        let mut timer = every_10_ms(None);
        assert_eq!(timer.begin(at(10)).missed, 0);
        assert_eq!(timer.at, at(20));
        assert_eq!(timer.begin(at(29)).missed, 0);
        assert_eq!(timer.at, at(30));
        assert_eq!(timer.begin(at(75)).missed, 4);
        assert_eq!(timer.at, at(80));
        assert_eq!(timer.begin(Time::MAX).tick, None);
    }

    #[test]
    fn ticks_catch_up_by_five_and_tell_what_they_left_out() {
        let mut timer = every_10_ms(Some(0));
        let mut begin = |ms| {
            let tick = timer.begin(at(ms)).tick.expect("a tick");
            (tick.number, tick.missed, tick.due, timer.at)
        };
        assert_eq!(begin(11), (1, 0, at(10), at(20)));
        // Due at 20 to 60: these five are made up for.
        assert_eq!(begin(65), (2, 0, at(20), at(30)));
        assert_eq!(begin(65), (3, 0, at(30), at(40)));
        // Due at 40 to 140: the last five are 100 to 140.
        assert_eq!(begin(149), (10, 6, at(100), at(110)));
        let mut numbers = Vec::new();
        while timer.at <= at(149) {
            numbers.push(timer.begin(at(149)).tick.expect("a tick").number);
        }
        assert_eq!(numbers, [11, 12, 13, 14]);
        assert_eq!(timer.at, at(150));
    }

    #[test]
    fn a_counted_one_ends() {
        let mut timer = every_10_ms(None);
        timer.left = 2;
        timer.begin(at(10));
        assert_eq!(timer.left, 1);
        timer.begin(at(500));
        assert_eq!(timer.left, 0);
    }
}

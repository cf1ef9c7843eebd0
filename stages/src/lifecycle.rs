//! How stages come to be and end: made, restarted after a panic, passivated, destroyed.

use std::any::Any;
use std::time::Duration;

use proscenium_engine::Time;

use crate::core::Core;
use crate::error::CreateError;
use crate::head::{Ending, Extras};
use crate::invocation::Item;
use crate::options::OnPanic;
use crate::panics::{discard, panic_message};
use crate::slot::{Arena, At, Phase};
use crate::stage::Stage;
use crate::stage_ref::StageKey;
use crate::timers::Due;
use crate::type_shard::{Factory, TypeShard};
use crate::watch::Method;

impl<S: Stage> TypeShard<S> {
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
        at.head().active.set(core.now_coarse());
        self.queue(core, at, Item::Create);
        Ok(self.key(core, at))
    }

    /// Has the factory make a state; `None` if it panicked.
    fn manufacture(&self, core: &Core, factory: &Factory<S>, id: u64) -> Option<S> {
        core.watch(self.info.number, Method::Factory, 0, Some(id));
        let state = core.contained(self.info.name, || factory(id));
        core.watch_nothing();
        state
    }

    /// Makes a stage by the factory and enlists it.
    pub(crate) fn make_by_factory(&self, core: &Core, id: u64) -> Result<StageKey, CreateError> {
        let Some(factory) = &self.factory else {
            return Err(CreateError::NoFactory(self.info.name));
        };
        let state = self
            .manufacture(core, factory, id)
            .ok_or(CreateError::Panicked)?;
        let key = self.insert(core, state)?;
        if let Some(at) = self.find(key) {
            at.head().id.set(Some(id));
        }
        core.enlist(self.info.number, id, key);
        Ok(key)
    }

    /// Ends an idle or broken stage: nothing of it is left, its name is `Gone`.
    pub(crate) fn end(&self, core: &Core, at: At<'_, S>) {
        let head = at.head();
        let id = head.id.take();
        if let Some(id) = id {
            core.delist(self.info.number, id);
        }
        self.let_go(core, at);
        let (mut messages, mut others) = (Vec::new(), Vec::new());
        head.unlimited.set(0);
        head.ends.set(0);
        while head.listed.get() > 0 {
            messages.extend(self.backlogs.pop_message(head).map(|(message, _)| message));
            others.extend(self.backlogs.pop_other(head).map(|(item, _)| item));
        }
        // From here on nobody finds it: what is dropped may tell it something, in vain.
        core.contained("the drop of a stage's state", || self.arena.remove(at));
        core.counters.dropped.add(messages.len() as u64);
        for message in messages {
            core.contained("the drop of a message", || drop(message));
        }
        for item in others {
            self.drop_item(core, item);
        }
        core.counters.ended.add(1);
        if let Some(id) = id {
            core.is_free(self.info.number, id);
        }
    }

    /// Drops what waited for a stage that has ended.
    pub(crate) fn drop_item(&self, core: &Core, item: Item<S>) {
        let own = matches!(item, Item::Create | Item::ReadClosed(_) | Item::Stop);
        core.counters.dropped.add(u64::from(!own));
        if let Item::Packet(packet) = item {
            self.packets.borrow_mut().try_remove(packet as usize);
        }
        core.contained("the drop of a message", || drop(item));
    }

    /// Closes its connections, cancels its timers and tasks, tells who waits for room.
    fn let_go(&self, core: &Core, at: At<'_, S>) {
        let Some(mut extras) = at.head().extras.take() else {
            return;
        };
        core.engine.with(|engine| {
            for &id in &extras.connections {
                engine.set_tag(id, 0);
                engine.close(id);
            }
        });
        core.cancel_all(&mut extras);
    }

    /// The stage of `at` panicked: it ends, or its state does and its factory makes another one.
    #[cold]
    pub(crate) fn panicked(&self, core: &Core, at: At<'_, S>, payload: Box<dyn Any + Send>) {
        core.counters.panics.add(1);
        let message = panic_message(&*payload);
        discard(payload);
        self.clear(core, at);
        if at.phase() != Phase::Idle {
            debug_assert!(false, "nothing of a stage runs when it is gone");
            return;
        }
        let (stage, id) = (self.info.name, at.head().id.get());
        let restart = self.restart_delay(core, at);
        tracing::error!(stage, ?id, %message, ?restart, "a stage panicked");
        let Some(delay) = restart else {
            return self.end(core, at);
        };
        let before = at.head().extras(|extras| Some(extras.leave_to_next()));
        if let Some(mut before) = before {
            core.cancel_all(&mut before);
        }
        if !at.break_down() {
            core.counters.panics.add(1);
        }
        self.restart_after(core, self.key(core, at), delay);
    }

    /// How long it takes until a stage that panicked is made anew; `None`: it is not.
    fn restart_delay(&self, core: &Core, at: At<'_, S>) -> Option<Duration> {
        let OnPanic::Restart { first, max } = self.info.options.on_panic else {
            return None;
        };
        let ending = at.head().ending.get() != Ending::No || core.shutting_down.get();
        if ending || at.head().id.get().is_none() || self.factory.is_none() {
            return None;
        }
        let now = core.now();
        let restarts = at.head().with_extras(|extras| {
            if now.since(extras.restarted) >= max {
                extras.restarts = 0;
            }
            extras.restarts = extras.restarts.saturating_add(1);
            extras.restarts
        });
        Some(backed_off(first, max, restarts))
    }

    fn restart_after(&self, core: &Core, key: StageKey, delay: Duration) {
        let due = Due::Run(Box::new(move |core: &Core| {
            core.stages(key.stage_type()).restart(core, key);
        }));
        core.set_timer(core.now() + delay, due);
    }

    /// Makes a stage that panicked anew. A factory that panics is called again later.
    pub(crate) fn make_anew(&self, core: &Core, at: At<'_, S>) {
        if at.phase() != Phase::Broken {
            return;
        }
        let (Some(factory), Some(id)) = (&self.factory, at.head().id.get()) else {
            return self.end(core, at);
        };
        let made = self.manufacture(core, factory, id);
        let now = core.now();
        at.head().with_extras(|extras| extras.restarted = now);
        let Some(state) = made else {
            return match self.restart_delay(core, at) {
                Some(delay) => self.restart_after(core, self.key(core, at), delay),
                None => self.end(core, at),
            };
        };
        self.arena.mend(at, state);
        core.counters.restarts.add(1);
        self.guarded(core, at, || {
            let _ = self.start(core, at, Item::Create);
        });
    }

    /// Drops what the stage is doing, and leaves it idle.
    pub(crate) fn clear(&self, core: &Core, at: At<'_, S>) {
        if !at.clear(core, &self.pool) {
            core.counters.panics.add(1);
        }
    }

    /// Passivates stages that were idle for long; looks at slots from `from` on, returns where to
    /// go on.
    pub(crate) fn passivate_from(&self, core: &Core, from: u32) -> u32 {
        const SLOTS: u32 = 1024;
        let Some(after) = self.info.options.passivate_after else {
            return 0;
        };
        let after = u64::try_from(after.as_nanos()).unwrap_or(u64::MAX);
        let after = coarse(Time::from_nanos(after));
        let (now, to) = (core.now_coarse(), (from + SLOTS).min(self.arena.slots()));
        for slot in from..to {
            let Some(at) = self.arena.at(slot) else {
                break;
            };
            let head = at.head();
            let resting = at.phase() == Phase::Idle
                && head.len.get() == 0
                && head.ending.get() == Ending::No
                && head.extras(|extras| Some(extras.is_empty())) != Some(false);
            if resting && now.wrapping_sub(head.active.get()) > after {
                let id = head.id.take();
                if let Some(id) = id {
                    core.delist(self.info.number, id);
                }
                self.let_go(core, at);
                core.counters.passivated.add(1);
                core.watch(self.info.number, Method::Passivate, slot, id);
                let state = self.arena.take(at);
                core.contained("on_passivate", || state.on_passivate(id));
                core.watch_nothing();
            }
        }
        if to == self.arena.slots() { 0 } else { to }
    }
}

/// The delay before restart number `n` (from 1).
fn backed_off(first: Duration, max: Duration, n: u32) -> Duration {
    let factor = 1_u32.checked_shl(n - 1).unwrap_or(u32::MAX);
    first.saturating_mul(factor).min(max)
}

/// Time as stages note when they were active: in units of 2^20 ns, a little more than 1 ms. Wraps
/// after 52 days.
pub(crate) fn coarse(time: Time) -> u32 {
    (time.as_nanos() >> 20) as u32
}

impl Core {
    /// Cancels timers and tasks of a stage, and lets who waits for room know.
    fn cancel_all(&self, extras: &mut Extras) {
        for timer in extras.timers.drain(..) {
            if let Some(armed) = timer.armed {
                self.cancel_timer(armed);
            }
        }
        for (_, task) in std::mem::take(&mut extras.tasks) {
            self.tasks.cancel(self, task);
        }
        extras.waiting.clear(); // each is answered `NoReply`
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restarts_back_off() {
        let (first, max) = (Duration::from_millis(100), Duration::from_secs(1));
        let delays = [1, 2, 3, 4, 5, 40, u32::MAX].map(|n| backed_off(first, max, n).as_millis());
        assert_eq!(delays, [100, 200, 400, 800, 1000, 1000, 1000]);
    }
}

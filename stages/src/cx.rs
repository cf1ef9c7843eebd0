//! [`Cx`]: a stage's own view of itself and its shard.

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use proscenium_engine::RouterId;

use crate::chain::Call;
use crate::core::Core;
use crate::error::{DetachError, RequestError};
use crate::head::{Ending, Extras};
use crate::invocation::{Enter, Item};
use crate::local::Local;
use crate::request::{Reply, Request};
use crate::slot::{CorePtr, downcast_stages};
use crate::stage::Stage;
use crate::stage_ref::{StageKey, StageRef};
use crate::timers::{Due, StageTimer, TimerId};
use crate::type_shard::TypeShard;

/// What a handler of a stage is given: everything of [`Local`], and what only a stage can do.
///
/// It lives as long as the invocation, across awaits. It cannot be kept.
pub struct Cx<'a, S> {
    local: Local<'a>,
    stage_type: u8,
    slot: u32,
    generation: u32,
    frame: u32,
    /// It has made requests.
    asked: Cell<bool>,
    /// The request that is being handled, with those that wait for it.
    call: Option<Arc<Call>>,
    stage: PhantomData<fn(S)>,
}

impl<'a, S> Cx<'a, S> {
    #[inline]
    pub(crate) fn new(
        core: CorePtr,
        (stage_type, slot, generation): (u8, u32, u32),
        frame: u32,
        call: Option<Arc<Call>>,
    ) -> Self {
        Self {
            local: Local::new(core),
            stage_type,
            slot,
            generation,
            frame,
            asked: Cell::new(false),
            call,
            stage: PhantomData,
        }
    }

    /// It has made requests since this was called last.
    #[inline]
    pub(crate) fn take_asked(&self) -> bool {
        self.asked.get() && self.asked.replace(false)
    }

    /// It is another stage's of the same type from here on.
    #[inline]
    pub(crate) fn pass_to(&mut self, slot: u32, generation: u32) {
        self.slot = slot;
        self.generation = generation;
    }
}

impl<'a, S> Deref for Cx<'a, S> {
    type Target = Local<'a>;

    #[inline]
    fn deref(&self) -> &Local<'a> {
        &self.local
    }
}

impl<'a, S: Stage> Cx<'a, S> {
    #[inline]
    fn key(&self) -> StageKey {
        let shard = self.core().shard;
        StageKey::new(shard, self.stage_type, self.slot, self.generation)
    }

    /// The address of this stage.
    pub fn me(&self) -> StageRef<S> {
        StageRef::new(self.core().system.number, self.key())
    }

    /// The id under which the stage was wanted; `None` if it was [spawned](Local::spawn).
    pub fn id(&self) -> Option<u64> {
        self.core().stages(self.stage_type).id_of(self.key())
    }

    fn stages(&self) -> &TypeShard<S> {
        downcast_stages(self.core().stages(self.stage_type))
    }

    fn extras<R: Default>(&self, call: impl FnOnce(&mut Extras) -> R) -> R {
        let at = self.stages().arena.find(self.slot, self.generation);
        at.map_or_else(R::default, |at| at.head().with_extras(call))
    }

    /// Asks a stage something, and waits for its answer as long as the system's default, or
    /// [`within`](Request::within) another time. `message` puts the reply token into a message:
    /// mostly it is just the variant, `cx.request(stage, Msg::Get)`. The request is sent at once.
    ///
    /// The answer comes when that stage's handler [sends](Reply::send) it. A request that could
    /// never be answered, because that stage waits for this one, directly or over others, is
    /// refused with [`RequestError::Cycle`]. A stage waits for a request from its sending until the
    /// answer, the deadline, or the drop of the [`Request`]; a handler that holds one without
    /// awaiting it waits, too.
    ///
    /// What cannot be seen this way ends with the deadline: a reply token that was handed on, and a
    /// [detached](Self::detach) future, which begins a new chain, as [`tell`](Local::tell) does.
    pub fn request<T: Stage, R: Send + 'static>(
        &self,
        to: StageRef<T>,
        message: impl FnOnce(Reply<R>) -> T::Msg,
    ) -> Request<'a, R> {
        let core = self.core();
        self.asked.set(true);
        let (reply, asked) = Reply::pair();
        let message = message(reply);
        let (request, cell) = (core.next_request(), asked.erased());
        let outer = self.call.as_ref();
        let call = Call::new(self.key(), self.id(), request, Arc::clone(&cell), outer);
        let wait = core
            .waits
            .add(&core.frames, self.frame, request, to.key, cell);
        match call {
            Ok(call) => core.call(to, message, call),
            Err(error) => asked.refuse(error),
        }
        let deadline = core.system.request_deadline;
        Request::new(**self, asked, deadline, Some((self.frame, wait)))
    }

    /// Ends this stage after this handler: [`Stage::on_destroy`] is next, what is in the backlog
    /// is dropped. From now on the stage takes no more messages, those who tell it are told `Gone`,
    /// and it is not found by its id; but as long as this handler and `on_destroy` go on it lives,
    /// and there is no other one of that id.
    pub fn stop_self(&self) {
        let at = self.stages().arena.find(self.slot, self.generation);
        if let Some(at) = at
            && at.head().ending.get() == Ending::No
        {
            at.head().ending.set(Ending::Wanted);
            self.stages().line_up(self.core(), at); // for when this handler is done
        }
    }

    /// Calls [`Stage::on_timer`] once, after `delay`. Never before, and at most a fraction of a
    /// millisecond after, plus what the stage and the shard are busy with.
    pub fn set_timer(&self, delay: Duration) -> TimerId {
        self.add_timer(delay, Duration::ZERO, 1, false)
    }

    /// Calls [`Stage::on_timer`] every `period`, `count` times (`None`: until it is cancelled). A
    /// stage that is behind by whole periods is called once for all of them: at most one call of
    /// an interval waits in the backlog, and what was left out is counted
    /// ([`StageStats::ticks_missed`](crate::StageStats)).
    ///
    /// # Panics
    /// If `period` is zero.
    pub fn set_interval(&self, period: Duration, count: Option<u64>) -> TimerId {
        assert!(!period.is_zero(), "an interval takes time");
        self.add_timer(period, period, count.unwrap_or(u64::MAX), false)
    }

    /// Calls [`Stage::on_tick`] every `period`, at fixed points of time, for simulations and game
    /// loops. A stage that is behind is given at most five ticks one after the other; those before
    /// them are left out, told as [`Tick::missed`](crate::Tick::missed) and counted
    /// ([`StageStats::ticks_missed`](crate::StageStats)).
    ///
    /// # Panics
    /// If `period` is not within 1 to 1,000 ms.
    pub fn start_tick(&self, period: Duration) -> TimerId {
        let bounds = Duration::from_millis(1)..=Duration::from_secs(1);
        assert!(
            bounds.contains(&period),
            "a tick lasts 1 to 1,000 ms, not {period:?}"
        );
        self.add_timer(period, period, u64::MAX, true)
    }

    fn add_timer(&self, delay: Duration, every: Duration, left: u64, tick: bool) -> TimerId {
        let core = self.core();
        let at = core.clock() + delay;
        self.extras(|extras| {
            extras.last_timer += 1;
            let id = TimerId(extras.last_timer);
            if left > 0 {
                extras.timers.push(StageTimer {
                    id,
                    armed: Some(core.set_timer(at, Due::Stage(self.key(), id))),
                    at,
                    every,
                    left,
                    tick: tick.then_some(0),
                });
            }
            Some(id)
        })
        .unwrap_or(TimerId(0)) // only for a stage that is gone, whose `Cx` nobody has
    }

    /// Cancels a timer, an interval or a tick of this stage: it is not called any more, even if it
    /// was due already. False if it is over.
    pub fn cancel_timer(&self, timer: TimerId) -> bool {
        let cancelled = self.extras(|extras| {
            let index = extras.timer(timer)?;
            Some(extras.timers.remove(index))
        });
        if let Some(armed) = cancelled.and_then(|timer| timer.armed) {
            self.core().cancel_timer(armed);
        }
        cancelled.is_some()
    }

    /// The connections that are [bound](Local::bind) to this stage. For a state that was made anew
    /// after a panic, those of the state before.
    pub fn connections(&self) -> Vec<RouterId> {
        self.extras(|extras| extras.connections.clone())
    }

    /// Runs `future` beside the stage, which is not busy with it and handles other messages; when
    /// it is done, `then` enters the stage in its order, like a message. The future is dropped if
    /// the stage ends before.
    ///
    /// A panic of the future is counted and logged, and `then` does not come. A panic of `then` is
    /// one of a handler.
    ///
    /// # Errors
    /// With as many as the stage may have under way
    /// ([`StageType::tasks_max`](crate::StageType::tasks_max)); `future` and `then` are dropped.
    pub fn detach<F>(
        &self,
        future: F,
        then: impl FnOnce(&mut S, &mut Cx<'_, S>, F::Output) + 'static,
    ) -> Result<(), DetachError>
    where
        F: Future + 'static,
    {
        let core = self.core();
        let (key, local) = (self.key(), Local::<'static>::new(core.ptr()));
        let limit = core.system.types[usize::from(key.stage_type())]
            .options
            .tasks_max;
        let place = self.extras(|extras| {
            let has_room = extras.tasks.len() < limit;
            has_room.then(|| extras.tasks.vacant_key() as u32)
        });
        let place = place.ok_or(DetachError::TooMany(limit))?;
        let task = core.tasks.spawn(core, key, place, |task| {
            Box::pin(async move {
                let output = future.await;
                let enter: Enter<S> = Box::new(move |stage, cx| then(stage, cx, output));
                let core = local.core();
                let stages: &TypeShard<S> = downcast_stages(core.stages(key.stage_type()));
                if let Some(at) = stages.find(key) {
                    stages.queue(core, at, Item::Enter(task, enter));
                }
            })
        });
        self.extras(|extras| extras.tasks.insert(task));
        Ok(())
    }

    /// [`detach`](Self::detach) for what needs the shard: `work` is given what a detached future
    /// may do there, for example [sleep](Local::sleep), or [ask](Local::ask) with a deadline.
    ///
    /// # Errors
    /// As [`detach`](Self::detach).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use proscenium_stages::{Cx, Reply, Stage, StageRef};
    /// # struct Bank;
    /// # impl Stage for Bank {
    /// #     type Msg = Reply<u64>;
    /// #     async fn on_message(&mut self, _: &mut Cx<'_, Self>, _: Reply<u64>) {}
    /// # }
    /// # struct Shop { bank: StageRef<Bank>, balance: Option<u64> }
    /// # impl Stage for Shop {
    /// #     type Msg = ();
    /// async fn on_message(&mut self, cx: &mut Cx<'_, Self>, _message: ()) {
    ///     let bank = self.bank;
    ///     let asked = cx.detach_with(
    ///         async move |local| {
    ///             local.ask(bank, |reply| reply).within(Duration::from_secs(1)).await
    ///         },
    ///         |shop, _cx, answer| shop.balance = answer.ok(),
    ///     );
    ///     if asked.is_err() {
    ///         self.balance = None; // too much is under way
    ///     }
    /// }
    /// # }
    /// ```
    pub fn detach_with<W, T>(
        &self,
        work: W,
        then: impl FnOnce(&mut S, &mut Cx<'_, S>, T) + 'static,
    ) -> Result<(), DetachError>
    where
        W: AsyncFnOnce(Local<'_>) -> T + 'static,
        T: 'static,
    {
        let local = Local::<'static>::new(self.core().ptr());
        self.detach(async move { work(local).await }, then)
    }
}

impl Core {
    /// Delivers a request, wherever its stage lives.
    fn call<S: Stage>(&self, to: StageRef<S>, message: S::Msg, call: Arc<Call>) {
        if to.system != self.system.number {
            // Another system: it knows nothing of our chains.
            if let Err(error) = crate::registry::tell(to, message) {
                call.reply.refuse((&error).into());
            }
            return;
        }
        let key = to.key;
        let deliver = move |core: &Core, message, call| {
            let stages: &TypeShard<S> = downcast_stages(core.stages(key.stage_type()));
            stages.call(core, key, message, call);
        };
        if key.shard() == self.shard {
            return deliver(self, message, call);
        }
        let reply = Arc::clone(&call.reply);
        let post = crate::post::StagePost::run(move |core| deliver(core, message, call));
        if let Err(error) = self.system.post(key.shard(), post) {
            let full = matches!(error, proscenium_engine::PostError::Full(_));
            reply.refuse(if full {
                RequestError::Full
            } else {
                RequestError::Gone
            });
        }
    }
}

impl<S> fmt::Debug for Cx<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cx")
            .field("slot", &self.slot)
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

//! [`StageCx`]: what a handler of a stage can do.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use bytes::Bytes;
use proscenium_engine::{RouterId, Time};
use proscenium_framing::packet::ErrorCode;
use proscenium_stages::{Cx, DetachError, Local, Offload, Sleep, TimerId};

use crate::call::{Call, LateReply};
use crate::error::DeliverError;
use crate::packet::Payload;
use crate::room::{House, Room};
use crate::seats::{ActorId, Leave, Member};
use crate::stage::PlayStage;
use crate::wire::{self, Head};

/// What a handler of a stage is given: its link to clients, actors, other stages, time and threads.
/// It lives as long as the handler, across awaits.
pub struct StageCx<'a, S: PlayStage> {
    cx: &'a Cx<'a, Room<S>>,
    house: &'a House<S>,
    call: Call<'a>,
}

/// # Answering and sending
impl<'a, S: PlayStage> StageCx<'a, S> {
    #[inline]
    pub(crate) fn new(cx: &'a Cx<'a, Room<S>>, house: &'a House<S>, call: Call<'a>) -> Self {
        Self { cx, house, call }
    }

    #[inline]
    pub(crate) fn call(&self) -> &Call<'a> {
        &self.call
    }

    #[inline]
    pub(crate) fn local(&self) -> &'a Local<'a> {
        self.cx
    }

    /// Answers the request that is being handled, with error code 0. The answer goes to the
    /// connection from which the request came, and leaves at the end of this slice of events. If
    /// the message is no request, nothing is sent: nobody waits for it.
    ///
    /// # Errors
    /// `AnsweredAlready` if the request was answered or put off; else as [`DeliverError`] says.
    /// After `TooLong` and `MessageId` another answer is possible.
    #[inline]
    pub fn reply(&self, msg_id: &str, payload: impl Payload) -> Result<(), DeliverError> {
        DeliverError::check_id(msg_id)?;
        self.call.answer(ErrorCode::SUCCESS, msg_id, &payload)
    }

    /// Answers the request that is being handled with an error code, the request's message id and
    /// no payload. To return a [`Failure`](crate::Failure) does the same, and counts.
    ///
    /// # Errors
    /// Those of [`reply`](Self::reply).
    pub fn reply_error(&self, code: impl Into<ErrorCode>) -> Result<(), DeliverError> {
        self.call.answer(code.into(), "", &())
    }

    /// Answers with an error code and a message.
    ///
    /// # Errors
    /// Those of [`reply`](Self::reply).
    pub fn reply_error_with(
        &self,
        code: impl Into<ErrorCode>,
        msg_id: &str,
        payload: impl Payload,
    ) -> Result<(), DeliverError> {
        DeliverError::check_id(msg_id)?;
        self.call.answer(code.into(), msg_id, &payload)
    }

    /// Puts the answer off, to a later handler; `None` if there is nothing to answer.
    pub fn defer_reply(&self) -> Option<LateReply> {
        self.call.defer()
    }

    /// Gives an answer that was [put off](Self::defer_reply).
    ///
    /// # Errors
    /// [`DeliverError`]; whatever it is, the request is answered now, if only with error 15.
    pub fn reply_late(
        &self,
        late: LateReply,
        msg_id: &str,
        payload: impl Payload,
    ) -> Result<(), DeliverError> {
        late.answer(self.cx, ErrorCode::SUCCESS, msg_id, &payload)
    }

    /// Answers a request that was [put off](Self::defer_reply) with an error code.
    ///
    /// # Errors
    /// Those of [`reply_late`](Self::reply_late).
    pub fn reply_late_error(
        &self,
        late: LateReply,
        code: impl Into<ErrorCode>,
    ) -> Result<(), DeliverError> {
        late.answer(self.cx, code.into(), "", &())
    }

    /// Sends an actor's client a message.
    ///
    /// # Errors
    /// `Disconnected` if the actor has no connection now, or has left; else as [`DeliverError`]
    /// says.
    #[inline]
    pub fn send(
        &self,
        to: ActorId,
        msg_id: &str,
        payload: impl Payload,
    ) -> Result<(), DeliverError> {
        let session = self.house.seats.session(to);
        let session = session.ok_or(DeliverError::Disconnected)?;
        let head = Head::push(msg_id, self.house.id);
        wire::send(self.cx, (session.id, session.lz4), head, &payload)
    }

    /// Sends the clients of all actors a message, which is encoded once, and returns how many did
    /// not take it: for want of room, as the overflow policy of their listener says. Actors without
    /// a connection are left out.
    ///
    /// # Errors
    /// `MessageId`, `TooLong`: then nobody is sent it.
    pub fn broadcast(&self, msg_id: &str, payload: impl Payload) -> Result<usize, DeliverError> {
        let (plain, packed) = self.house.seats.sessions(|_| true);
        self.deliver(msg_id, &payload, plain, packed)
    }

    /// [`broadcast`](Self::broadcast) to all but one.
    ///
    /// # Errors
    /// `MessageId`, `TooLong`: then nobody is sent it.
    pub fn broadcast_except(
        &self,
        but: ActorId,
        msg_id: &str,
        payload: impl Payload,
    ) -> Result<usize, DeliverError> {
        let (plain, packed) = self.house.seats.sessions(|id| id != but);
        self.deliver(msg_id, &payload, plain, packed)
    }

    /// [`broadcast`](Self::broadcast) to those of whom `choose` says so.
    ///
    /// # Errors
    /// `MessageId`, `TooLong`: then nobody is sent it.
    pub fn broadcast_if(
        &self,
        msg_id: &str,
        payload: impl Payload,
        mut choose: impl FnMut(ActorId) -> bool,
    ) -> Result<usize, DeliverError> {
        let (mut plain, mut packed) = (Vec::new(), Vec::new());
        // Collected before: `choose` may look at the actors.
        let mut all = Vec::with_capacity(self.house.seats.len());
        self.house
            .seats
            .each_session(|id, session| all.push((id, session.id, session.lz4)));
        for (id, session, lz4) in all {
            if choose(id) {
                let list = if lz4 { &mut packed } else { &mut plain };
                list.push(session);
            }
        }
        self.deliver(msg_id, &payload, plain, packed)
    }

    /// [`broadcast`](Self::broadcast) to some.
    ///
    /// # Errors
    /// `MessageId`, `TooLong`: then nobody is sent it.
    pub fn broadcast_to(
        &self,
        to: impl IntoIterator<Item = ActorId>,
        msg_id: &str,
        payload: impl Payload,
    ) -> Result<usize, DeliverError> {
        let (mut plain, mut packed) = (Vec::new(), Vec::new());
        for session in to.into_iter().filter_map(|id| self.house.seats.session(id)) {
            let list = if session.lz4 { &mut packed } else { &mut plain };
            list.push(session.id);
        }
        self.deliver(msg_id, &payload, plain, packed)
    }

    /// To those who take compressed payloads, and to the others; to nobody if there is an error.
    fn deliver(
        &self,
        msg_id: &str,
        payload: &impl Payload,
        plain: Vec<RouterId>,
        packed: Vec<RouterId>,
    ) -> Result<usize, DeliverError> {
        DeliverError::check_id(msg_id)?;
        let head = Head::push(msg_id, self.house.id);
        let limit = self.house.shared.config.packet_max;
        let encoded = |lz4, to: &[RouterId]| {
            if to.is_empty() {
                return Ok(Bytes::new());
            }
            let body = wire::encode(self.cx, lz4, head, payload)?;
            match body.len() {
                length if length > limit => Err(DeliverError::TooLong { length, limit }),
                _ => Ok(body),
            }
        };
        let bodies = (encoded(false, &plain)?, encoded(true, &packed)?);
        Ok(self.cx.broadcast(plain, &bodies.0) + self.cx.broadcast(packed, &bodies.1))
    }
}

/// # The stage and its actors
impl<'a, S: PlayStage> StageCx<'a, S> {
    /// The stage's id.
    pub fn stage_id(&self) -> i64 {
        self.house.id
    }

    /// The name of the stage's type.
    pub fn stage_type(&self) -> &'static str {
        self.house.kind.name()
    }

    /// How many actors the stage has, those without a connection included.
    pub fn actor_count(&self) -> usize {
        self.house.seats.len()
    }

    /// Its actors.
    pub fn actors(&self) -> Vec<ActorId> {
        self.house.seats.ids()
    }

    /// One of its actors, to be read and changed; `None` if it has left, or if somebody has it
    /// already, as the handler has that of its message.
    pub fn actor(&self, id: ActorId) -> Option<Member<'a, S::Actor>> {
        self.house.seats.member(id)
    }

    /// The actor of an account.
    pub fn find(&self, account_id: &str) -> Option<ActorId> {
        self.house.seats.find(account_id)
    }

    /// True if the actor has a connection now.
    pub fn is_connected(&self, id: ActorId) -> bool {
        self.house.seats.session(id).is_some()
    }

    /// Has an actor leave, after this handler: `on_leave`, then its `on_destroy`. Its connection
    /// stays, and may authenticate for another stage. False if there is no such actor.
    pub fn leave(&self, id: ActorId) -> bool {
        self.house.seats.leave(id, Leave::Left)
    }

    /// Has an actor leave, after this handler, and closes its connection.
    pub fn kick(&self, id: ActorId) -> bool {
        self.house.seats.leave(id, Leave::Kicked)
    }

    /// Closes the stage after this handler: requests that wait are answered error 3, `on_destroy`
    /// is next, the connections of its actors are closed.
    pub fn close_stage(&self) {
        self.house.close();
    }
}

/// # Time and threads
impl<'a, S: PlayStage> StageCx<'a, S> {
    /// The time as of the beginning of this slice of events. Costs nothing.
    pub fn now(&self) -> Time {
        self.cx.now()
    }

    /// A number from the shard's generator: seeded, so that simulations replay. Not for secrets.
    pub fn random(&self) -> u64 {
        self.cx.random()
    }

    /// The shard on which the stage lives.
    pub fn shard(&self) -> usize {
        self.cx.shard()
    }

    /// Calls [`PlayStage::on_timer`] once, after `delay`.
    pub fn set_timer(&self, delay: Duration) -> TimerId {
        self.cx.set_timer(delay)
    }

    /// Calls [`PlayStage::on_timer`] every `period`, `count` times (`None`: until it is cancelled).
    ///
    /// # Panics
    /// If `period` is zero.
    pub fn set_interval(&self, period: Duration, count: Option<u64>) -> TimerId {
        self.cx.set_interval(period, count)
    }

    /// Calls [`PlayStage::on_tick`] every `period`, at fixed points of time: the game loop.
    ///
    /// # Panics
    /// If `period` is not within 1 to 1,000 ms.
    pub fn start_tick(&self, period: Duration) -> TimerId {
        self.cx.start_tick(period)
    }

    /// Cancels a timer, an interval or a tick. False if it is over.
    pub fn cancel_timer(&self, timer: TimerId) -> bool {
        !self.house.is_ours(timer) && self.cx.cancel_timer(timer)
    }

    /// Waits for some time; the stage is busy meanwhile.
    pub fn sleep(&self, time: Duration) -> Sleep<'a> {
        self.cx.sleep(time)
    }

    /// Runs `work`, which may block, on a thread for that, and brings its result back, or an error
    /// if it panicked or there was no room. The stage is busy while that is awaited; with
    /// [`detach`](Self::detach) it is not.
    pub fn offload_io<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Offload<T> {
        self.cx.offload_io(work)
    }

    /// Runs `work` on a thread for computing, as [`offload_io`](Self::offload_io) does.
    pub fn offload_compute<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Offload<T> {
        self.cx.offload_compute(work)
    }

    /// Runs `future` beside the stage, which handles other messages meanwhile; when it is done,
    /// `then` enters the stage in its order. It is dropped if the stage ends before.
    ///
    /// # Errors
    /// With as many as the stage may have under way (1,024); `future` and `then` are dropped.
    pub fn detach<F>(
        &self,
        future: F,
        then: impl FnOnce(&mut S, &mut StageCx<'_, S>, F::Output) + 'static,
    ) -> Result<(), DetachError>
    where
        F: Future + 'static,
    {
        self.cx.detach(future, |room, cx, output| {
            let Room { stage, house } = room;
            let mut stage_cx = house.context(cx);
            let done = catch_unwind(AssertUnwindSafe(|| then(stage, &mut stage_cx, output)));
            house.survive(cx, done);
            house.settle_later(cx);
        })
    }
}

impl<S: PlayStage> fmt::Debug for StageCx<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StageCx")
            .field("stage_id", &self.house.id)
            .field("stage_type", &self.house.kind.name())
            .finish_non_exhaustive()
    }
}

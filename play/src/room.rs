//! [`Room`]: a stage of a game as the stage system knows it.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;

use proscenium_engine::{Body, CloseReason, RouterId};
use proscenium_framing::packet::{ClientPacket, ErrorCode, PacketError};
use proscenium_stages::{Cx, Stage, Tick, TimerId};
use rustc_hash::FxHashMap;

use crate::actor::ActorCx;
use crate::call::Call;
use crate::context::StageCx;
use crate::directory::{AnyRoom, Create, RoomMsg};
use crate::gate::Gate;
use crate::handle::Created;
use crate::join::destroy;
use crate::kind::{RoomSeat, StageKind};
use crate::mesh::Served;
use crate::packet::{Content, Packet};
use crate::seats::{ActorId, Leave, Member, Seats, Session};
use crate::shared::{Leftover, Shared};
use crate::stage::PlayStage;
use crate::wire::{self, Head};

/// Awaits a future, and catches its panic: `Result<Output, Box<dyn Any + Send>>`.
macro_rules! caught {
    ($future:expr) => {{
        let mut future = std::pin::pin!($future);
        std::future::poll_fn(|task| {
            let poll = std::panic::AssertUnwindSafe(|| future.as_mut().poll(task));
            match std::panic::catch_unwind(poll) {
                Ok(polled) => polled.map(Ok),
                Err(panic) => std::task::Poll::Ready(Err(panic)),
            }
        })
        .await
    }};
}
pub(crate) use caught;

type Caught<T> = Result<T, Box<dyn Any + Send>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Nobody has created it yet.
    New,
    Open,
    /// Its creation was refused.
    Failed,
    /// Who opened it got nowhere, and what came next wants a stage of another type: nothing of it
    /// ran, it is out of the directory, and what is in its backlog begins anew there.
    Ousted,
    /// It will end after what is in its backlog, which is refused.
    Closing,
}

/// What a timer of ours is for.
#[derive(Clone, Copy)]
enum Purpose {
    /// An actor without a connection leaves.
    Keep(ActorId),
    /// A stage without actors closes.
    Empty,
    /// What a closure of [`StageCx::detach`] asked for.
    Settle,
}

/// See the module's page.
pub(crate) struct Room<S: PlayStage> {
    pub(crate) stage: S,
    pub(crate) house: House<S>,
}

/// All of a room but the stage itself.
pub(crate) struct House<S: PlayStage> {
    pub(crate) id: i64,
    /// In the directory of its shard.
    number: u64,
    pub(crate) shared: Arc<Shared>,
    pub(crate) kind: Arc<StageKind<S>>,
    pub(crate) seats: Seats<S::Actor>,
    phase: Cell<Phase>,
    /// It is to close when the handler is over.
    close: Cell<bool>,
    timers: RefCell<FxHashMap<TimerId, Purpose>>,
    /// A client brought it into being, not the program.
    pub(crate) by_client: Cell<bool>,
    /// Runs while there is no actor.
    empty: Cell<Option<TimerId>>,
    /// The session that is about to join.
    pub(crate) joining: Cell<Option<RouterId>>,
}

impl<S: PlayStage> Room<S> {
    pub(crate) fn new(stage: S, kind: Arc<StageKind<S>>, seat: RoomSeat) -> Self {
        Self {
            stage,
            house: House {
                id: seat.id,
                number: seat.number,
                shared: seat.shared,
                kind,
                seats: Seats::new(),
                phase: Cell::new(Phase::New),
                close: Cell::new(false),
                timers: RefCell::default(),
                by_client: Cell::new(false),
                empty: Cell::new(None),
                joining: Cell::new(None),
            },
        }
    }

    /// The stage is created: by whoever wants it first.
    pub(crate) async fn create(
        &mut self,
        cx: &Cx<'_, Self>,
        (packet, trail): (Packet<'_>, &[u8]),
    ) -> Result<Option<Content>, ErrorCode> {
        let Self { stage, house } = self;
        let call = Call::awaited(**cx, &house.shared, house.id, trail);
        let mut stage_cx = StageCx::new(cx, house, call);
        let verdict = caught!(stage.on_create(&mut stage_cx, packet));
        let content = match house.survive(cx, verdict) {
            Some(Ok(verdict)) if verdict.is_accepted() => verdict.content,
            refused => {
                if let Some(Err(failure)) = refused {
                    house.shared.count(cx, |counts| &counts.failures);
                    tracing::debug!(stage_id = house.id, %failure, "on_create failed");
                }
                house.shared.count(cx, |counts| &counts.stages_refused);
                house.fail(cx);
                return Err(ErrorCode::STAGE_CREATION_FAILED);
            }
        };
        house.phase.set(Phase::Open);
        house.shared.count(cx, |counts| &counts.stages_created);
        house.watch_empty(cx);
        let done = caught!(stage.on_post_create(&mut stage_cx));
        house.survive(cx, done);
        Ok(content)
    }

    async fn wanted(&mut self, cx: &Cx<'_, Self>, create: Box<Create>) {
        self.house.handled(cx);
        let is_same = self.house.is_kind(Some(create.kind));
        let answer = match self.house.phase() {
            Phase::New if !is_same => {
                return self.house.oust(cx, RoomMsg::Create(create));
            }
            Phase::New => {
                let created = self
                    .create(cx, (create.content.packet(), &create.trail))
                    .await;
                created.map(|content| Created {
                    is_new: true,
                    content,
                })
            }
            Phase::Open if !is_same && !create.anew => Err(ErrorCode::INVALID_STAGE_TYPE),
            Phase::Open if create.anew => Err(ErrorCode::STAGE_ALREADY_EXISTS),
            Phase::Open => Ok(Created {
                is_new: false,
                content: None,
            }),
            Phase::Failed => Err(ErrorCode::STAGE_CREATION_FAILED),
            Phase::Closing | Phase::Ousted => {
                return self.house.tell_again(cx, RoomMsg::Create(create));
            }
        };
        create.reply.send(cx, answer);
        self.settle(cx).await;
    }

    async fn serve(&mut self, cx: &Cx<'_, Self>, served: Box<Served>) {
        let Self { stage, house } = self;
        if house.phase() != Phase::Open {
            return served.refuse(cx, ErrorCode::STAGE_NOT_FOUND);
        }
        let Served { body, asker } = *served;
        let packet = body.packet(asker.is_somebody());
        let call = Call::server(**cx, &house.shared, house.id, &body, asker);
        {
            let mut stage_cx = StageCx::new(cx, house, call);
            let result = caught!(stage.on_dispatch_server(&mut stage_cx, packet));
            house.finish(cx, &stage_cx, result);
        }
        self.settle(cx).await;
    }

    /// The connection of an actor has ended.
    async fn disconnected(&mut self, cx: &Cx<'_, Self>, session: RouterId) {
        let Self { stage, house } = self;
        let Some(id) = house.seats.disconnect(session) else {
            return; // it has left, or has another connection
        };
        house.shared.count(cx, |counts| &counts.disconnects);
        if let Some(mut member) = house.seats.member(id) {
            let mut stage_cx = house.context(cx);
            let done = caught!(stage.on_connection_changed(&mut stage_cx, &mut member, false));
            house.survive(cx, done);
        }
        let keep = house.kind.options().keep_disconnected;
        if keep.is_zero() {
            house.seats.leave(id, Leave::Disconnected);
        } else {
            let timer = house.set(cx, keep, Purpose::Keep(id));
            house.seats.keep(id, timer);
        }
    }

    async fn timer(&mut self, cx: &Cx<'_, Self>, timer: TimerId) {
        let Self { stage, house } = self;
        let purpose = house.timers.borrow_mut().remove(&timer);
        match purpose {
            None if house.phase() == Phase::Open => {
                let mut stage_cx = house.context(cx);
                let done = caught!(stage.on_timer(&mut stage_cx, timer));
                house.survive(cx, done);
            }
            Some(Purpose::Keep(id)) => {
                house.seats.leave(id, Leave::Disconnected);
            }
            Some(Purpose::Empty) => {
                house.empty.set(None);
                // Those who want it are under way.
                if house.seats.len() == 0 && house.wanted(cx) == 0 {
                    house.close.set(true);
                } else {
                    house.watch_empty(cx);
                }
            }
            Some(Purpose::Settle) | None => {}
        }
    }
}

impl<S: PlayStage> Stage for Room<S> {
    type Msg = RoomMsg;

    async fn on_message(&mut self, cx: &mut Cx<'_, Self>, message: RoomMsg) {
        match message {
            RoomMsg::Join(ticket) => {
                self.join(cx, ticket).await;
                self.house.joining.set(None);
                self.settle(cx).await;
            }
            RoomMsg::Create(create) => self.wanted(cx, create).await,
            RoomMsg::Serve(served) => self.serve(cx, served).await,
        }
    }

    // No `async fn`: what that takes is moved within its future before anything else, in pieces
    // that the CPU cannot forward from the stores just before.
    #[expect(clippy::manual_async_fn, reason = "its arguments stay where they are")]
    fn on_packet(
        &mut self,
        cx: &mut Cx<'_, Self>,
        from: RouterId,
        body: Body,
    ) -> impl Future<Output = ()> {
        async move {
            let packet = match ClientPacket::decode(&body) {
                Ok(packet) => packet,
                Err(error) => return self.house.bad_packet(cx, from, &error),
            };
            {
                let Self { stage, house } = &mut *self;
                let Some((mut member, lz4)) = house.speaker(from, &packet) else {
                    return house.odd(cx, from, &packet);
                };
                let call = Call::client(**cx, &house.shared, house.id, (from, lz4), &packet);
                let mut stage_cx = StageCx::new(cx, house, call);
                let packet = Packet::of(&packet);
                if house.kind.options().survive_panics {
                    let result = caught!(stage.on_dispatch(&mut stage_cx, &mut member, packet));
                    house.finish(cx, &stage_cx, result);
                } else {
                    // The stage system catches the panic. Catching it here would cost each message
                    // a call; the drop of `stage_cx` answers.
                    let panics = Panics(&house.shared, cx.shard());
                    let result = stage.on_dispatch(&mut stage_cx, &mut member, packet).await;
                    std::mem::forget(panics);
                    stage_cx.call().finish(result);
                }
            }
            if self.house.is_unsettled() {
                self.settle(cx).await;
            }
        }
    }

    async fn on_timer(&mut self, cx: &mut Cx<'_, Self>, timer: TimerId) {
        self.timer(cx, timer).await;
        self.settle(cx).await;
    }

    async fn on_tick(&mut self, cx: &mut Cx<'_, Self>, tick: Tick) {
        let Self { stage, house } = self;
        if house.phase() != Phase::Open {
            return;
        }
        {
            let mut stage_cx = house.context(cx);
            let done = caught!(stage.on_tick(&mut stage_cx, tick));
            house.survive(cx, done);
        }
        self.settle(cx).await;
    }

    async fn on_disconnect(&mut self, cx: &mut Cx<'_, Self>, id: RouterId, _: CloseReason) {
        self.disconnected(cx, id).await;
        self.settle(cx).await;
    }

    async fn on_destroy(&mut self, cx: &mut Cx<'_, Self>) {
        let Self { stage, house } = self;
        if matches!(house.phase(), Phase::Open | Phase::Closing) {
            let mut stage_cx = house.context(cx);
            if caught!(stage.on_destroy(&mut stage_cx)).is_err() {
                tracing::error!(stage_id = house.id, "a stage's on_destroy panicked");
            }
            for id in house.seats.ids() {
                let Some(removed) = house.seats.remove(id) else {
                    continue;
                };
                let counts = house.shared.counts(cx.shard());
                counts.actors.take(1);
                counts.leaves.add(1);
                if let Some(actor) = removed.actor {
                    let account = removed.account.to_string();
                    let mut actor_cx = ActorCx::new(**cx, house.id, account, None);
                    destroy(actor, &mut actor_cx).await;
                }
            }
        }
        house.phase.set(Phase::Failed);
        Gate::with(cx, |gate| gate.directory.gone(cx, house.id, house.number));
    }
}

/// Counts a panic that goes by.
struct Panics<'a>(&'a Shared, usize);

impl Drop for Panics<'_> {
    #[cold]
    fn drop(&mut self) {
        // If not, the handler was cancelled.
        if std::thread::panicking() {
            self.0.counts(self.1).panics.add(1);
        }
    }
}

impl<S: PlayStage> Drop for House<S> {
    /// If it panicked, nobody has taken it out of the directory.
    fn drop(&mut self) {
        if self.phase() != Phase::Failed {
            let shard = self.shared.place(self.id);
            let ended = Leftover::Ended {
                id: self.id,
                number: self.number,
                actors: self.seats.len() as u64,
            };
            self.shared.leave(shard, ended);
        }
    }
}

impl<S: PlayStage> House<S> {
    #[inline]
    pub(crate) fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// What a handler is given that answers nobody.
    #[inline]
    pub(crate) fn context<'a>(&'a self, cx: &'a Cx<'a, Room<S>>) -> StageCx<'a, S> {
        let call = Call::nobody(**cx, &self.shared, self.id);
        StageCx::new(cx, self, call)
    }

    /// The actor to which a packet is a message, and if its client takes compressed payloads.
    #[inline]
    fn speaker(
        &self,
        from: RouterId,
        packet: &ClientPacket<'_>,
    ) -> Option<(Member<'_, S::Actor>, bool)> {
        let ordinary = packet.stage_id == self.id
            && self.phase() == Phase::Open
            && !packet.msg_id.starts_with('@')
            && packet.msg_id != self.shared.config.authentication_id;
        ordinary.then(|| self.seats.speaker(from)).flatten()
    }

    #[cold]
    fn bad_packet(&self, cx: &Cx<'_, Room<S>>, from: RouterId, error: &PacketError) {
        tracing::debug!(%error, "a connection sent no packet");
        self.shared.count(cx, |counts| &counts.closed_bad_packet);
        cx.close(from);
    }

    /// A packet that is no message to the actor: of the system, for another stage, or of a
    /// connection that is not that of an actor.
    #[cold]
    fn odd(&self, cx: &Cx<'_, Room<S>>, from: RouterId, packet: &ClientPacket<'_>) {
        let known = self.seats.knows(from);
        let code = if !known {
            self.shared.count(cx, |counts| &counts.strays);
            ErrorCode::NOT_AUTHENTICATED
        } else if self.phase() != Phase::Open {
            ErrorCode::STAGE_NOT_FOUND
        } else if packet.msg_id == self.shared.config.authentication_id {
            ErrorCode::ALREADY_AUTHENTICATED
        } else if packet.stage_id != self.id {
            self.shared.count(cx, |counts| &counts.misdirected);
            ErrorCode::STAGE_NOT_FOUND
        } else if packet.msg_id.starts_with('@') {
            ErrorCode::INVALID_MESSAGE
        } else {
            ErrorCode::ACTOR_NOT_FOUND // a handler has kept it
        };
        Gate::answer(cx, from, packet, code);
        if !known && cx.connections().contains(&from) {
            Gate::with(cx, |gate| gate.readmit(cx, from));
        }
    }

    /// The stage's address.
    pub(crate) fn me(&self, cx: &Cx<'_, Room<S>>) -> Arc<dyn AnyRoom> {
        Arc::new(cx.me())
    }

    /// A handler is over; its panic is passed on, unless the stage survives it.
    #[inline]
    pub(crate) fn survive<T>(&self, cx: &Cx<'_, Room<S>>, result: Caught<T>) -> Option<T> {
        match result {
            Ok(result) => Some(result),
            Err(panic) => {
                self.panicked(cx, panic);
                None
            }
        }
    }

    #[cold]
    fn panicked(&self, cx: &Cx<'_, Room<S>>, panic: Box<dyn Any + Send>) {
        self.shared.count(cx, |counts| &counts.panics);
        if !self.kind.options().survive_panics {
            resume_unwind(panic);
        }
        let text = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied());
        tracing::error!(
            stage = self.kind.name(),
            stage_id = self.id,
            message = text.unwrap_or("(no text)"),
            "a handler panicked, its stage goes on"
        );
    }

    /// The same for one that may have to answer somebody.
    #[inline]
    fn finish(
        &self,
        cx: &Cx<'_, Room<S>>,
        stage_cx: &StageCx<'_, S>,
        result: Caught<crate::Result>,
    ) {
        match result {
            Ok(result) => stage_cx.call().finish(result),
            Err(panic) => {
                stage_cx.call().broken();
                self.panicked(cx, panic);
            }
        }
    }

    #[inline]
    fn is_unsettled(&self) -> bool {
        self.seats.has_leaving() || self.close.get()
    }

    /// A message that wanted the stage to exist is being handled.
    pub(crate) fn handled(&self, cx: &Cx<'_, Room<S>>) {
        Gate::with(cx, |gate| gate.directory.handled(self.id, self.number));
    }

    /// How many of them are under way.
    pub(crate) fn wanted(&self, cx: &Cx<'_, Room<S>>) -> u32 {
        Gate::with(cx, |gate| gate.directory.wanted(self.id, self.number))
    }

    /// True if a type, by its number, is that of this stage.
    pub(crate) fn is_kind(&self, number: Option<usize>) -> bool {
        let kind = number.and_then(|number| self.shared.kinds.get(number));
        kind.is_some_and(|kind| kind.name() == self.kind.name())
    }

    /// This stage was opened for somebody who got nowhere, and `message` wants one of another type:
    /// it makes way, and what is behind that begins anew, too.
    pub(crate) fn oust(&self, cx: &Cx<'_, Room<S>>, message: RoomMsg) {
        self.phase.set(Phase::Ousted);
        self.out(cx);
        self.tell_again(cx, message);
    }

    /// Out of the directory at once, so that nobody finds it; it ends after what is in its backlog.
    fn out(&self, cx: &Cx<'_, Room<S>>) {
        Gate::with(cx, |gate| gate.directory.gone(cx, self.id, self.number));
        cx.stop(cx.me());
    }

    /// Begins anew with a message, when this stage is gone.
    pub(crate) fn tell_again(&self, cx: &Cx<'_, Room<S>>, message: RoomMsg) {
        Gate::with(cx, |gate| {
            let kind = message.kind();
            gate.directory.tell(cx, self.id, kind, message);
        });
    }

    /// The stage is none.
    pub(crate) fn fail(&self, cx: &Cx<'_, Room<S>>) {
        self.phase.set(Phase::Failed);
        self.out(cx);
    }

    /// The stage closes when the handler is over.
    pub(crate) fn close(&self) {
        self.close.set(true);
    }

    pub(crate) fn close_if_wanted(&self, cx: &Cx<'_, Room<S>>) {
        if self.close.replace(false) && self.phase() == Phase::Open {
            self.phase.set(Phase::Closing);
            Gate::with(cx, |gate| gate.directory.close(cx, self.id));
        }
    }

    fn set(&self, cx: &Cx<'_, Room<S>>, delay: Duration, purpose: Purpose) -> TimerId {
        let timer = cx.set_timer(delay);
        self.timers.borrow_mut().insert(timer, purpose);
        timer
    }

    /// Cancels a timer of ours.
    pub(crate) fn cancel(&self, cx: &Cx<'_, Room<S>>, timer: TimerId) {
        cx.cancel_timer(timer);
        self.timers.borrow_mut().remove(&timer);
    }

    /// True if a timer is not one of the application's.
    pub(crate) fn is_ours(&self, timer: TimerId) -> bool {
        self.timers.borrow().contains_key(&timer)
    }

    /// Does what a closure asked for that cannot wait for it.
    pub(crate) fn settle_later(&self, cx: &Cx<'_, Room<S>>) {
        if self.is_unsettled() {
            self.set(cx, Duration::ZERO, Purpose::Settle);
        }
    }

    /// Sets or cancels the timer that runs while there is no actor.
    pub(crate) fn watch_empty(&self, cx: &Cx<'_, Room<S>>) {
        let Some(after) = self.kind.options().empty.closes_after(self.by_client.get()) else {
            return;
        };
        match (self.seats.len() == 0, self.empty.get()) {
            (true, None) => {
                let timer = self.set(cx, after, Purpose::Empty);
                self.empty.set(Some(timer));
            }
            (false, Some(timer)) => {
                self.empty.set(None);
                self.cancel(cx, timer);
            }
            _ => {}
        }
    }

    /// Says why to a connection that is about to be closed because its account came with another
    /// one: the authentication's message id, error 7, as a push. If there is no room for that, it
    /// is closed without.
    pub(crate) fn tell_replaced(&self, cx: &Cx<'_, Room<S>>, session: RouterId) {
        let head = Head {
            msg_id: &self.shared.config.authentication_id,
            seq: 0,
            stage_id: self.id,
            error: ErrorCode::ALREADY_AUTHENTICATED,
        };
        let _ = wire::send(cx, (session, false), head, &());
    }

    /// The connection of an actor that has left.
    pub(crate) fn release(&self, cx: &Cx<'_, Room<S>>, session: Session, why: Leave) {
        if self.joining.get() == Some(session.id) {
            return; // it is refused
        }
        if why == Leave::Kicked {
            self.shared.count(cx, |counts| &counts.closed_kicked);
            cx.unbind(session.id);
            cx.close(session.id);
        } else if cx.connections().contains(&session.id) {
            Gate::with(cx, |gate| gate.readmit(cx, session.id));
        } else {
            cx.close(session.id); // on its way here, where nobody would know it
        }
    }
}

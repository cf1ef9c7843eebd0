//! [`StageKind`]: a stage type of a Play server, as it is registered.

use std::any::TypeId;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use proscenium_stages::{CreateError, Local, StageType, StagesBuilder};

use crate::directory::AnyRoom;
use crate::room::Room;
use crate::stage::PlayStage;

/// A stage type as [`PlayServerBuilder::stage`](crate::PlayServerBuilder::stage) takes it: its
/// name, how its stages and their actors are made, and their limits.
///
/// ```
/// # use proscenium_play::{Actor, ActorCx, Member, Packet, PlayStage, Result, StageCx, Verdict};
/// # struct Room(i64);
/// # #[derive(Default)]
/// # struct Player;
/// # impl Actor for Player {
/// #     async fn on_authenticate(
/// #         &mut self,
/// #         cx: &mut ActorCx<'_>,
/// #         packet: Packet<'_>,
/// #     ) -> Result<Verdict> {
/// #         Ok(Verdict::accept())
/// #     }
/// # }
/// # impl PlayStage for Room {
/// #     type Actor = Player;
/// #     async fn on_dispatch(
/// #         &mut self,
/// #         cx: &mut StageCx<'_, Self>,
/// #         actor: &mut Member<'_, Player>,
/// #         packet: Packet<'_>,
/// #     ) -> Result {
/// #         Ok(())
/// #     }
/// # }
/// use std::time::Duration;
/// use proscenium_play::StageKind;
///
/// let rooms = StageKind::new("room", |id| Room(id), Player::default)
///     .actors_max(100)
///     .keep_disconnected(Duration::from_secs(60))
///     .close_when_empty(Duration::from_secs(10));
/// ```
#[must_use]
pub struct StageKind<S: PlayStage> {
    name: &'static str,
    make: Arc<dyn Fn(i64) -> S + Send + Sync>,
    make_actor: Arc<dyn Fn() -> S::Actor + Send + Sync>,
    options: KindOptions,
    backlog: u32,
    stages_max: usize,
}

#[derive(Clone, Debug)]
pub(crate) struct KindOptions {
    pub(crate) actors_max: usize,
    pub(crate) keep_disconnected: Duration,
    pub(crate) empty: WhenEmpty,
    pub(crate) survive_panics: bool,
}

/// How long a stage stays without actors that a client brought into being.
const CLIENTS_STAGE_STAYS: Duration = Duration::from_secs(60);

/// What becomes of a stage without actors.
#[derive(Clone, Copy, Debug)]
pub(crate) enum WhenEmpty {
    /// It stays if the program made it.
    Default,
    Close(Duration),
    Stay,
}

impl WhenEmpty {
    /// When it closes, if it does.
    pub(crate) fn closes_after(self, by_client: bool) -> Option<Duration> {
        match self {
            Self::Default => by_client.then_some(CLIENTS_STAGE_STAYS),
            Self::Close(after) => Some(after),
            Self::Stay => None,
        }
    }
}

impl<S: PlayStage> StageKind<S> {
    /// A type with the defaults. `make` makes a stage for its id, `make_actor` an actor for a
    /// connection that wants to authenticate, both on the shard where the stage lives.
    ///
    /// Both run before anybody is authenticated: `make` for a stage of the default type that a
    /// stranger asks for, whose `on_create` runs only once somebody is let in, `make_actor` for
    /// every try. So they should cost little, and do nothing that is seen elsewhere: that is for
    /// [`on_create`](PlayStage::on_create) and
    /// [`on_post_authenticate`](crate::Actor::on_post_authenticate).
    pub fn new(
        name: &'static str,
        make: impl Fn(i64) -> S + Send + Sync + 'static,
        make_actor: impl Fn() -> S::Actor + Send + Sync + 'static,
    ) -> Self {
        Self {
            name,
            make: Arc::new(make),
            make_actor: Arc::new(make_actor),
            options: KindOptions {
                actors_max: 10_000,
                keep_disconnected: Duration::from_secs(30),
                empty: WhenEmpty::Default,
                survive_panics: false,
            },
            backlog: 1024,
            stages_max: 1 << 20,
        }
    }

    /// Sets how many actors one stage may have; one more is refused with error 17. Default 10,000.
    pub fn actors_max(mut self, actors: usize) -> Self {
        self.options.actors_max = actors;
        self
    }

    /// Sets for how long an actor stays without a connection before it leaves; zero: it leaves at
    /// once. Default 30 s.
    pub fn keep_disconnected(mut self, time: Duration) -> Self {
        self.options.keep_disconnected = time;
        self
    }

    /// Has a stage close that has had no actor for so long, counted from when the last one left
    /// (or the creation). Default: 60 s for a stage that a client brought into being, by
    /// authenticating for one that was not there (see
    /// [`default_stage`](crate::PlayServerBuilder::default_stage)), so that nobody fills a server
    /// with them; one that the program created stays until it is closed.
    pub fn close_when_empty(mut self, after: Duration) -> Self {
        self.options.empty = WhenEmpty::Close(after);
        self
    }

    /// Has stages without actors stay until they are closed, whoever created them. Nothing but
    /// [`stages_max`](Self::stages_max) then bounds how many of them clients leave behind.
    pub fn keep_when_empty(mut self) -> Self {
        self.options.empty = WhenEmpty::Stay;
        self
    }

    /// Has a stage live on after a handler of it panicked: whoever asked is answered error 15, and
    /// the state is whatever the handler left behind. Default: the stage ends, and its connections
    /// are closed.
    pub fn survive_panics(mut self) -> Self {
        self.options.survive_panics = true;
        self
    }

    /// Sets how many messages may wait for one stage; default 1,024. Beyond, the connections that
    /// feed it are not read until half of it is free, and others are refused. Of several kinds of
    /// one Rust type, the first one's holds.
    pub fn backlog(mut self, messages: u32) -> Self {
        self.backlog = messages;
        self
    }

    /// Sets how many stages of the type may live on one shard; default 1,048,576. Of several kinds
    /// of one Rust type, the first one's holds for all.
    pub fn stages_max(mut self, stages: usize) -> Self {
        self.stages_max = stages;
        self
    }

    pub(crate) fn into_parts(self) -> (Arc<dyn AnyKind>, Registration) {
        let (name, backlog, stages_max) = (self.name, self.backlog, self.stages_max);
        let register = move |stages: StagesBuilder| {
            let of = StageType::<Room<S>>::new(name);
            stages.register(of.backlog(backlog).stages_max(stages_max))
        };
        let registration = Registration {
            of: TypeId::of::<S>(),
            register: Box::new(register),
        };
        (Arc::new(Kind(Arc::new(self))), registration)
    }

    pub(crate) fn options(&self) -> &KindOptions {
        &self.options
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    pub(crate) fn make_actor(&self) -> S::Actor {
        (self.make_actor)()
    }
}

impl<S: PlayStage> fmt::Debug for StageKind<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StageKind")
            .field("name", &self.name)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// How the Rust type of a kind becomes known to the stage system.
pub(crate) struct Registration {
    pub(crate) of: TypeId,
    pub(crate) register: Box<dyn FnOnce(StagesBuilder) -> StagesBuilder>,
}

/// A stage type, whatever the Rust type.
pub(crate) trait AnyKind: Send + Sync {
    fn name(&self) -> &'static str;
    /// Puts a stage on this shard, which is not created yet.
    fn open(&self, local: &Local<'_>, seat: RoomSeat) -> Result<Arc<dyn AnyRoom>, CreateError>;
}

/// The place of a stage in the directory of its shard.
pub(crate) struct RoomSeat {
    pub(crate) id: i64,
    pub(crate) number: u64,
    pub(crate) shared: Arc<crate::shared::Shared>,
}

struct Kind<S: PlayStage>(Arc<StageKind<S>>);

impl<S: PlayStage> AnyKind for Kind<S> {
    fn name(&self) -> &'static str {
        self.0.name
    }

    fn open(&self, local: &Local<'_>, seat: RoomSeat) -> Result<Arc<dyn AnyRoom>, CreateError> {
        let id = seat.id;
        let stage = catch_unwind(AssertUnwindSafe(|| (self.0.make)(id)));
        let stage = stage.map_err(|_| CreateError::Panicked)?;
        let room = local.spawn(Room::new(stage, Arc::clone(&self.0), seat))?;
        Ok(Arc::new(room))
    }
}

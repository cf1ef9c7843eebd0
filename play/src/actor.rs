//! [`Actor`]: what stands for one account in a stage.

use std::future::ready;
use std::net::SocketAddr;
use std::time::Duration;

use proscenium_engine::Time;
use proscenium_stages::{Local, Offload, Sleep};

use crate::error::Result;
use crate::packet::Packet;
use crate::verdict::Verdict;

/// What stands for one account in a stage: made for a connection that wants to authenticate, and
/// if that goes well, it stays with the stage until it [leaves](crate::StageCx::leave) or the stage
/// ends. Its connection may come and go meanwhile.
///
/// Its handlers run in the order of its stage, which is busy meanwhile.
///
/// ```
/// use proscenium_play::{Actor, ActorCx, Packet, Result, Verdict};
///
/// #[derive(Default)]
/// struct Player {
///     name: String,
/// }
///
/// impl Actor for Player {
///     async fn on_authenticate(
///         &mut self,
///         cx: &mut ActorCx<'_>,
///         packet: Packet<'_>,
///     ) -> Result<Verdict> {
///         let name = std::str::from_utf8(packet.payload())?.to_owned();
///         cx.set_account_id(&name);
///         self.name = name;
///         Ok(Verdict::accept())
///     }
/// }
/// ```
pub trait Actor: Sized + 'static {
    /// The first that it runs.
    fn on_create(&mut self, cx: &mut ActorCx<'_>) -> impl Future<Output = ()> {
        let _ = cx;
        ready(())
    }

    /// Decides who wants to come in, by the first message of the connection, and says which account
    /// that is by [`ActorCx::set_account_id`]. A refusal answers error 5 with its message; the
    /// client may try again, with another actor.
    fn on_authenticate(
        &mut self,
        cx: &mut ActorCx<'_>,
        packet: Packet<'_>,
    ) -> impl Future<Output = Result<Verdict>>;

    /// It is authenticated and has an account, but is in no stage yet: the place to load what
    /// belongs to the account.
    fn on_post_authenticate(&mut self, cx: &mut ActorCx<'_>) -> impl Future<Output = ()> {
        let _ = cx;
        ready(())
    }

    /// The last that it runs: it has left the stage, the stage has ended, or it never got in. Also
    /// that which only brought a new connection to the actor that its account has already.
    fn on_destroy(&mut self, cx: &mut ActorCx<'_>) -> impl Future<Output = ()> {
        let _ = cx;
        ready(())
    }
}

/// Nobody: for stages without clients, which only other stages, servers and the program talk to.
/// Whoever wants to authenticate is refused.
impl Actor for () {
    async fn on_authenticate(&mut self, _: &mut ActorCx<'_>, _: Packet<'_>) -> Result<Verdict> {
        Ok(Verdict::refuse())
    }
}

/// What an actor's own handlers are given: its link to the server.
#[derive(Debug)]
pub struct ActorCx<'a> {
    local: Local<'a>,
    stage_id: i64,
    account: String,
    address: Option<SocketAddr>,
}

impl<'a> ActorCx<'a> {
    pub(crate) fn new(
        local: Local<'a>,
        stage_id: i64,
        account: String,
        address: Option<SocketAddr>,
    ) -> Self {
        Self {
            local,
            stage_id,
            account,
            address,
        }
    }

    /// Says which account the actor stands for: any text that is not empty. One account has at
    /// most one actor in a stage. Of no effect after
    /// [`on_authenticate`](Actor::on_authenticate).
    pub fn set_account_id(&mut self, account: impl Into<String>) {
        self.account = account.into();
    }

    pub(crate) fn local(&self) -> &Local<'a> {
        &self.local
    }

    /// The account, empty until it is set.
    pub fn account_id(&self) -> &str {
        &self.account
    }

    /// The stage that it wants to join or is in.
    pub fn stage_id(&self) -> i64 {
        self.stage_id
    }

    /// Where its connection came from; `None` for Unix sockets and if it has none.
    pub fn peer_address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// The time as of the beginning of this slice of events. Costs nothing.
    pub fn now(&self) -> Time {
        self.local.now()
    }

    /// Waits for some time; the stage is busy meanwhile.
    pub fn sleep(&self, time: Duration) -> Sleep<'a> {
        self.local.sleep(time)
    }

    /// Runs `work`, which may block, on a thread for that, and brings its result back. The stage
    /// is busy until it is awaited.
    pub fn offload_io<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Offload<T> {
        self.local.offload_io(work)
    }

    /// Runs `work` on a thread for computing, and brings its result back.
    pub fn offload_compute<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Offload<T> {
        self.local.offload_compute(work)
    }
}

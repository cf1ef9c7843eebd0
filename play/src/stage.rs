//! [`PlayStage`]: what a game developer implements.

use std::future::ready;

use proscenium_stages::{Tick, TimerId};

use crate::actor::Actor;
use crate::context::StageCx;
use crate::error::{Failure, Result};
use crate::packet::Packet;
use crate::seats::{Leave, Member};
use crate::verdict::Verdict;

/// A stage of a game: a room, a match, a zone, a lobby. It owns its state, has actors, and one
/// thing happens to it at a time: while one of its handlers awaits, everything else that comes for
/// it waits in order. See [`Stage`](proscenium_stages::Stage) for what that means; this is one,
/// with clients.
///
/// Implementors write `async fn`, and leave out what they do not need:
///
/// ```
/// # use proscenium_play::{Actor, ActorCx, Verdict};
/// # #[derive(Default)]
/// # struct Player;
/// # impl Actor for Player {
/// #     async fn on_authenticate(
/// #         &mut self,
/// #         cx: &mut ActorCx<'_>,
/// #         packet: Packet<'_>,
/// #     ) -> Result<Verdict> {
/// #         cx.set_account_id(std::str::from_utf8(packet.payload())?);
/// #         Ok(Verdict::accept())
/// #     }
/// # }
/// use proscenium_play::{Failure, Member, Packet, PlayStage, Result, StageCx};
///
/// #[derive(Default)]
/// struct Room {
///     said: u64,
/// }
///
/// impl PlayStage for Room {
///     type Actor = Player;
///
///     async fn on_dispatch(
///         &mut self,
///         cx: &mut StageCx<'_, Self>,
///         actor: &mut Member<'_, Player>,
///         packet: Packet<'_>,
///     ) -> Result {
///         match packet.msg_id() {
///             "Say" => {
///                 self.said += 1;
///                 cx.broadcast_except(actor.id(), "Said", packet.payload())?;
///                 cx.reply("SayReply", self.said.to_le_bytes())?;
///             }
///             _ => return Err(Failure::code(1000)),
///         }
///         Ok(())
///     }
/// }
/// ```
///
/// A handler that returns an error, or panics, on a request answers it with an error code; see
/// [`Failure`](crate::Failure). So does one that returns without having answered
/// ([`StageCx::reply`]) or put it off ([`StageCx::defer_reply`]): every request gets exactly one
/// answer. A panic ends the stage, unless
/// [`StageKind::survive_panics`](crate::StageKind::survive_panics) says otherwise.
pub trait PlayStage: Sized + 'static {
    /// Its actors; `()` for a stage without clients.
    type Actor: Actor;

    /// The first that it runs, with the packet that whoever created it gave; for a stage of the
    /// default type, made because somebody authenticated for it, with an empty one. A refusal, or
    /// an error, ends it: nothing else is run, and nothing is left of it.
    fn on_create(
        &mut self,
        cx: &mut StageCx<'_, Self>,
        packet: Packet<'_>,
    ) -> impl Future<Output = Result<Verdict>> {
        let _ = (cx, packet);
        ready(Ok(Verdict::accept()))
    }

    /// It was created: timers and ticks begin here.
    fn on_post_create(&mut self, cx: &mut StageCx<'_, Self>) -> impl Future<Output = ()> {
        let _ = cx;
        ready(())
    }

    /// An authenticated actor wants to join. A refusal answers error 17 with its message, and the
    /// connection is not authenticated any more.
    fn on_join(
        &mut self,
        cx: &mut StageCx<'_, Self>,
        actor: &mut Member<'_, Self::Actor>,
    ) -> impl Future<Output = Result<Verdict>> {
        let _ = (cx, actor);
        ready(Ok(Verdict::accept()))
    }

    /// The actor has joined; the answer to its authentication is sent after this.
    fn on_post_join(
        &mut self,
        cx: &mut StageCx<'_, Self>,
        actor: &mut Member<'_, Self::Actor>,
    ) -> impl Future<Output = ()> {
        let _ = (cx, actor);
        ready(())
    }

    /// The actor has lost its connection, or has one again (also a new one in place of one that
    /// seemed to live). Without one it is kept for
    /// [`StageKind::keep_disconnected`](crate::StageKind::keep_disconnected), and leaves then.
    fn on_connection_changed(
        &mut self,
        cx: &mut StageCx<'_, Self>,
        actor: &mut Member<'_, Self::Actor>,
        connected: bool,
    ) -> impl Future<Output = ()> {
        let _ = (cx, actor, connected);
        ready(())
    }

    /// The actor has left, for the reason given; its [`Actor::on_destroy`] is next.
    fn on_leave(
        &mut self,
        cx: &mut StageCx<'_, Self>,
        actor: &mut Member<'_, Self::Actor>,
        why: Leave,
    ) -> impl Future<Output = ()> {
        let _ = (cx, actor, why);
        ready(())
    }

    /// A message of an actor's client. By default there is no handler (error 12).
    fn on_dispatch(
        &mut self,
        cx: &mut StageCx<'_, Self>,
        actor: &mut Member<'_, Self::Actor>,
        packet: Packet<'_>,
    ) -> impl Future<Output = Result> {
        let _ = (cx, actor, packet);
        ready(Err(no_handler()))
    }

    /// A message of another stage, of the program, or of another server:
    /// [`StageCx::send_to_stage`], [`StageCx::request_to_stage`] and those of
    /// [`PlayHandle`](crate::PlayHandle). By default there is no handler (error 12).
    fn on_dispatch_server(
        &mut self,
        cx: &mut StageCx<'_, Self>,
        packet: Packet<'_>,
    ) -> impl Future<Output = Result> {
        let _ = (cx, packet);
        ready(Err(no_handler()))
    }

    /// A timer of [`StageCx::set_timer`] or [`StageCx::set_interval`] is due.
    fn on_timer(&mut self, cx: &mut StageCx<'_, Self>, timer: TimerId) -> impl Future<Output = ()> {
        let _ = (cx, timer);
        ready(())
    }

    /// A tick of [`StageCx::start_tick`]: the game loop.
    fn on_tick(&mut self, cx: &mut StageCx<'_, Self>, tick: Tick) -> impl Future<Output = ()> {
        let _ = (cx, tick);
        ready(())
    }

    /// The last that it runs, with its actors still there: it was closed or destroyed, or the
    /// server shuts down. Not after a panic. Its actors' [`Actor::on_destroy`] follow, then their
    /// connections are closed.
    fn on_destroy(&mut self, cx: &mut StageCx<'_, Self>) -> impl Future<Output = ()> {
        let _ = cx;
        ready(())
    }
}

fn no_handler() -> Failure {
    Failure::code(crate::ErrorCode::HANDLER_NOT_FOUND)
}

//! The echo as a Play server: clients authenticate and join a stage, which answers them.

use std::time::Duration;

use proscenium_engine::{Limits, Listener};
use proscenium_play::{
    Actor, ActorCx, Failure, Member, Packet, PlayListener, PlayServer, PlayStage, Result, StageCx,
    StageKind, Verdict,
};

use super::{on_threads, serve};
use crate::cli::{EchoArgs, FramingName};

/// The name of the stage type.
const KIND: &str = "echo";
/// How long clients may take from connecting to authenticating: load tools connect all first.
const AUTHENTICATION_DEADLINE: Duration = Duration::from_secs(120);
/// A Play server does not go without an idle timeout; this one is as good as none.
const IDLE_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
/// How long a stage stays that nobody is in.
const EMPTY: Duration = Duration::from_secs(1);

/// Answers with what was sent.
struct Room;

/// Anybody, by the name in the payload of the authentication.
struct Guest;

impl Actor for Guest {
    async fn on_authenticate(
        &mut self,
        cx: &mut ActorCx<'_>,
        packet: Packet<'_>,
    ) -> Result<Verdict> {
        cx.set_account_id(std::str::from_utf8(packet.payload())?);
        Ok(Verdict::accept())
    }
}

impl PlayStage for Room {
    type Actor = Guest;

    async fn on_dispatch(
        &mut self,
        cx: &mut StageCx<'_, Self>,
        actor: &mut Member<'_, Guest>,
        packet: Packet<'_>,
    ) -> Result {
        // What a client does not take is its own loss: the overflow policy has acted and counted.
        match packet.msg_id() {
            "Echo" if packet.is_request() => cx.reply("EchoReply", packet.payload())?,
            "Echo" => drop(cx.send(actor.id(), "Echo", packet.payload())),
            "Broadcast" => drop(cx.broadcast("Broadcast", packet.payload())?),
            "Each" => {
                for id in cx.actors() {
                    let _ = cx.send(id, "Each", packet.payload());
                }
            }
            _ => return Err(Failure::code(proscenium_play::ErrorCode::HANDLER_NOT_FOUND)),
        }
        Ok(())
    }
}

/// Serves until the process is asked to end.
pub(super) fn run(
    args: &EchoArgs,
    listeners: Vec<Listener>,
    limits: Limits,
) -> std::result::Result<(), String> {
    let idle = if args.idle_timeout.is_zero() {
        IDLE_TIMEOUT
    } else {
        args.idle_timeout
    };
    let kind = StageKind::new(KIND, |_| Room, || Guest)
        .actors_max(args.limit_connections)
        .stages_max(usize::MAX) // the connections are what is limited
        .keep_disconnected(Duration::ZERO)
        .close_when_empty(EMPTY);
    let mut builder = PlayServer::builder()
        .stage(kind)
        .default_stage(KIND)
        .shards(usize::from(args.shards))
        .limits(|_| limits)
        .idle_timeout(idle)
        .authentication_deadline(AUTHENTICATION_DEADLINE)
        .with_engine(|engine| on_threads(args, engine));
    for listener in listeners {
        let listener = PlayListener::new(listener);
        builder = builder.listen(match args.framing {
            Some(FramingName::Be32) => listener.big_endian_length(),
            _ => listener,
        });
    }
    let server = builder
        .start()
        .map_err(|error| format!("cannot serve at {}: {error}", args.listen))?;
    let (handle, play) = (server.engine().handle(), server.handle());
    let addresses = server.local_addrs().to_vec();
    let stages = move || play.stage_stats();
    serve(args, &handle, &addresses, stages, || server.join())
}

//! The server: a stage type and an actor type around the [`World`].

use std::collections::BTreeMap;
use std::io;
use std::thread;
use std::time::Duration;

use proscenium::DrainReport;
use proscenium::play::{
    Actor, ActorCx, ActorId, ErrorCode, Failure, Leave, Member, Packet, PlayListener, PlayServer,
    PlayStage, Result, StageCx, StageKind, Tick, Verdict,
};
use signal_hook::iterator::Signals;

use crate::messages::{self, PlayerId, Steer};
use crate::world::{PLAYERS_MAX, World};

/// 20 ticks per second.
const TICK: Duration = Duration::from_millis(50);
/// How long the end may take.
const DRAIN: Duration = Duration::from_secs(5);

/// Starts the server.
///
/// # Errors
/// Addresses that cannot be bound.
pub(crate) fn start(
    listeners: Vec<PlayListener>,
    shards: usize,
    keep: Duration,
) -> io::Result<PlayServer> {
    let arenas = StageKind::new("arena", Arena::new, Player::default)
        .actors_max(PLAYERS_MAX.into())
        .keep_disconnected(keep)
        .close_when_empty(Duration::from_secs(60));
    let mut server = PlayServer::builder()
        .stage(arenas)
        .default_stage("arena") // made when somebody wants to play in it
        .shards(shards)
        .messages_per_second(100)
        // A client that does not read misses views; nothing piles up for it.
        .limits(|limits| {
            limits
                .frame_max(32 << 10)
                .send_high(32 << 10)
                .send_low(8 << 10)
        })
        .limits(|limits| limits.send_queue_max(64 << 10));
    for listener in listeners {
        server = server.listen(listener);
    }
    server.start()
}

/// Runs until a signal comes; then every arena tells its players, and the connections are flushed
/// and closed.
pub(crate) fn run_until(mut signals: Signals, server: PlayServer) -> DrainReport {
    let handle = server.handle();
    thread::spawn(move || {
        signals.forever().next();
        handle.shutdown(DRAIN);
    });
    server.join()
}

/// What stands for one account in an arena; what it is in the game, the [`World`] keeps.
#[derive(Default)]
struct Player {
    id: PlayerId,
}

impl Actor for Player {
    /// The name is all that this game asks for: who knows it, plays on with it. A real one would
    /// be given a token, and ask its accounts service whose that is.
    async fn on_authenticate(
        &mut self,
        cx: &mut ActorCx<'_>,
        packet: Packet<'_>,
    ) -> Result<Verdict> {
        let name = std::str::from_utf8(packet.payload())?;
        if !is_name(name) {
            let why = "a name has 1 to 16 ASCII letters, digits, - or _";
            return Ok(Verdict::refuse().with(packet.msg_id().to_owned(), why));
        }
        cx.set_account_id(name);
        Ok(Verdict::accept())
    }
}

fn is_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    (1..=16).contains(&text.len()) && text.bytes().all(allowed)
}

/// The stage: a world and who plays in it. One thing happens to it at a time, so nothing is locked.
struct Arena {
    world: World,
    actors: BTreeMap<PlayerId, ActorId>,
}

impl Arena {
    fn new(stage_id: i64) -> Self {
        Self {
            world: World::new(stage_id.cast_unsigned()),
            actors: BTreeMap::new(),
        }
    }

    fn welcome(&self, cx: &StageCx<'_, Self>, actor: &Member<'_, Player>, resumed: bool) {
        if let Some(welcome) = self.world.welcome(actor.id, resumed) {
            // Should the connection be gone again, on_connection_changed says so.
            let _ = cx.send(actor.id(), messages::WELCOME, welcome.encode());
        }
    }
}

impl PlayStage for Arena {
    type Actor = Player;

    async fn on_post_create(&mut self, cx: &mut StageCx<'_, Self>) {
        cx.start_tick(TICK);
    }

    async fn on_join(
        &mut self,
        _: &mut StageCx<'_, Self>,
        actor: &mut Member<'_, Player>,
    ) -> Result<Verdict> {
        let Some(id) = self.world.enter(actor.account_id()) else {
            return Ok(Verdict::refuse());
        };
        actor.id = id;
        self.actors.insert(id, actor.id());
        Ok(Verdict::accept())
    }

    async fn on_post_join(&mut self, cx: &mut StageCx<'_, Self>, actor: &mut Member<'_, Player>) {
        self.welcome(cx, actor, false);
    }

    async fn on_connection_changed(
        &mut self,
        cx: &mut StageCx<'_, Self>,
        actor: &mut Member<'_, Player>,
        connected: bool,
    ) {
        self.world.set_away(actor.id, !connected);
        if connected {
            self.welcome(cx, actor, true);
        }
    }

    async fn on_leave(
        &mut self,
        _: &mut StageCx<'_, Self>,
        actor: &mut Member<'_, Player>,
        _: Leave,
    ) {
        self.world.leave(actor.id);
        self.actors.remove(&actor.id);
    }

    async fn on_dispatch(
        &mut self,
        cx: &mut StageCx<'_, Self>,
        actor: &mut Member<'_, Player>,
        packet: Packet<'_>,
    ) -> Result {
        match packet.msg_id() {
            messages::STEER => {
                let steer = Steer::decode(packet.payload());
                let steer = steer.ok_or_else(|| Failure::code(messages::BAD_PAYLOAD))?;
                self.world.steer(actor.id, steer);
            }
            messages::STANDINGS => {
                let standings = self.world.standings(actor.id);
                cx.reply(messages::STANDINGS, standings.encode())?;
            }
            _ => return Err(Failure::code(ErrorCode::HANDLER_NOT_FOUND)),
        }
        Ok(())
    }

    async fn on_tick(&mut self, cx: &mut StageCx<'_, Self>, _: Tick) {
        self.world.step();
        for (players, view) in self.world.take_views() {
            let watchers = players.iter().filter_map(|id| self.actors.get(id).copied());
            // Encoded once for all of them. Who has no room misses this one; the next one has all.
            let _ = cx.broadcast_to(watchers, messages::VIEW, view.encode());
        }
    }

    /// The place to save a game.
    async fn on_destroy(&mut self, cx: &mut StageCx<'_, Self>) {
        let _ = cx.broadcast(messages::CLOSING, "the arena closes");
        let best = self.world.standings(0).best;
        let best: Vec<_> = best.iter().map(|(n, name)| format!("{name} {n}")).collect();
        println!("arena {} closes: {}", cx.stage_id(), best.join(", "));
    }
}

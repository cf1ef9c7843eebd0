//! A Play server: matches, and the players in them.

use std::collections::BTreeMap;
use std::error::Error;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use proscenium::nodelink::directory::FileDirectory;
use proscenium::nodelink::{Nid, Node, NodeOptions};
use proscenium::play::{
    Actor, ActorCx, ActorId, ErrorCode, Failure, Leave, Member, Packet, PlayServer, PlayStage,
    Proto, Result, StageCx, StageKind, To, Verdict,
};
use proscenium::{Address, Listener, Time};

use crate::messages::{self, API, Board, Join, PLAY, Player, Seat, Travel};

/// So many players may be on their way into a match,
const EXPECTED_MAX: usize = 100;
/// each for so long: then its ticket is good for nothing.
const TICKET_LIFE: Duration = Duration::from_secs(60);
/// The code for a match that expects too many.
const CROWDED: ErrorCode = ErrorCode(1000);
/// The code for a server that has just begun.
const NOT_YET: ErrorCode = ErrorCode(1001);

/// Where clients reach this server: known once it listens.
type Here = Arc<OnceLock<String>>;

/// Starts the server; it finds the others in the directory.
pub(crate) fn start(
    nid: &str,
    directory: FileDirectory,
) -> std::result::Result<PlayServer, Box<dyn Error>> {
    let any: SocketAddr = ([127, 0, 0, 1], 0).into();
    let here = Here::default();
    let there = Arc::clone(&here);
    let matches = StageKind::new(
        "match",
        move |id| Match {
            id,
            here: Arc::clone(&there),
            expected: Expected::default(),
            players: BTreeMap::new(),
        },
        Guest::default,
    );
    let server = PlayServer::builder()
        .stage(matches.keep_when_empty())
        .authentication(messages::JOIN)
        .listen(Listener::at(any))
        .node(Node::builder(NodeOptions::new(Nid::new(nid)?)).bind(any))
        .directory(directory, Duration::from_secs(15))
        .service(PLAY)
        .start()?;
    if let Address::Tcp(address) = &server.local_addrs()[0] {
        let _ = here.set(address.to_string()); // nobody else does
    }
    Ok(server)
}

/// What stands for one account in a match; its points are the match's affair.
#[derive(Default)]
struct Guest {
    name: String,
    ticket: u64,
}

impl Actor for Guest {
    async fn on_authenticate(
        &mut self,
        cx: &mut ActorCx<'_>,
        packet: Packet<'_>,
    ) -> Result<Verdict> {
        let Join { name, ticket } = packet.decode()?;
        // Whoever comes with the account of a player who is there takes that player over: so the
        // ticket is a part of it.
        cx.set_account_id(format!("{name}/{ticket}"));
        (self.name, self.ticket) = (name, ticket);
        Ok(Verdict::accept())
    }
}

/// One match: a stage.
struct Match {
    id: i64,
    here: Here,
    expected: Expected,
    players: BTreeMap<ActorId, Player>,
}

/// Who is on the way, by ticket, and until when that is good.
#[derive(Default)]
struct Expected(BTreeMap<u64, (Player, Time)>);

impl Expected {
    /// The ticket of one more, if there is room.
    fn add(&mut self, player: Player, now: Time) -> Option<u64> {
        self.0.retain(|_, (_, until)| *until > now);
        if self.0.len() >= EXPECTED_MAX {
            return None;
        }
        let ticket = messages::ticket();
        self.0.insert(ticket, (player, now + TICKET_LIFE));
        Some(ticket)
    }

    /// Whose ticket that is. It is good once.
    fn take(&mut self, ticket: u64, now: Time) -> Option<Player> {
        let (player, until) = self.0.remove(&ticket)?;
        (until > now).then_some(player)
    }
}

impl PlayStage for Match {
    type Actor = Guest;

    async fn on_join(
        &mut self,
        cx: &mut StageCx<'_, Self>,
        guest: &mut Member<'_, Guest>,
    ) -> Result<Verdict> {
        match self.expected.take(guest.ticket, cx.now()) {
            Some(player) if player.name == guest.name => {
                self.players.insert(guest.id(), player);
                Ok(Verdict::accept())
            }
            _ => Ok(Verdict::refuse()), // error 17
        }
    }

    async fn on_post_join(&mut self, cx: &mut StageCx<'_, Self>, guest: &mut Member<'_, Guest>) {
        if let Some(player) = self.players.get(&guest.id()) {
            let _ = cx.broadcast_except(guest.id(), messages::JOINED, Proto(player));
        }
    }

    async fn on_leave(
        &mut self,
        cx: &mut StageCx<'_, Self>,
        guest: &mut Member<'_, Guest>,
        _why: Leave,
    ) {
        if let Some(player) = self.players.remove(&guest.id()) {
            let _ = cx.broadcast_except(guest.id(), messages::LEFT, Proto(&player));
        }
    }

    /// What a player's client says.
    async fn on_dispatch(
        &mut self,
        cx: &mut StageCx<'_, Self>,
        guest: &mut Member<'_, Guest>,
        packet: Packet<'_>,
    ) -> Result {
        let player = self.players.get_mut(&guest.id());
        let player = player.ok_or(ErrorCode::ACTOR_NOT_FOUND)?;
        match packet.msg_id() {
            messages::SCORE => {
                player.points += 1;
                cx.broadcast_except(guest.id(), messages::SCORE, Proto(player))?;
                cx.reply(messages::SCORE, Proto(player))?;
            }
            messages::TRAVEL => {
                // Which server has that match, an API server knows; the match there is asked to
                // expect the player. Meanwhile this match does nothing else.
                let travel: Travel = packet.decode()?;
                let api = To::service(API);
                let place = cx
                    .request_to_api(api, messages::FIND, Proto(&travel))
                    .await?;
                let place: messages::Place = place.decode()?;
                let there = (place.server.as_str(), travel.match_id);
                let seat = cx
                    .request_to_stage(there, messages::EXPECT, Proto(player))
                    .await?;
                cx.reply("Seat", seat.payload)?;
                cx.leave(guest.id());
            }
            _ => Err(ErrorCode::HANDLER_NOT_FOUND)?,
        }
        Ok(())
    }

    /// What other servers say: API servers, and matches that players leave for this one.
    async fn on_dispatch_server(
        &mut self,
        cx: &mut StageCx<'_, Self>,
        packet: Packet<'_>,
    ) -> Result {
        match packet.msg_id() {
            messages::EXPECT => {
                // Others may ask before this server knows where it listens for clients.
                let address = self.here.get().cloned();
                let address = address.ok_or_else(|| Failure::code(NOT_YET))?;
                let ticket = self.expected.add(packet.decode()?, cx.now());
                let ticket = ticket.ok_or_else(|| Failure::code(CROWDED))?;
                let seat = Seat {
                    address,
                    match_id: self.id,
                    ticket,
                };
                cx.reply("Seat", Proto(&seat))?;
            }
            messages::DESCRIBE => {
                let players = self.players.values().cloned().collect();
                cx.reply("Board", Proto(&Board { players }))?;
            }
            _ => Err(ErrorCode::HANDLER_NOT_FOUND)?,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ann() -> Player {
        let (name, points) = ("ann".to_owned(), 1);
        Player { name, points }
    }

    #[test]
    fn a_ticket_is_good_once_and_not_for_ever() {
        let mut expected = Expected::default();
        let now = Time::ZERO;
        let ticket = expected.add(ann(), now).unwrap();
        assert_eq!(expected.take(ticket, now), Some(ann()));
        assert_eq!(expected.take(ticket, now), None);
        let late = expected.add(ann(), now).unwrap();
        assert_eq!(expected.take(late, now + TICKET_LIFE), None);
    }

    #[test]
    fn who_does_not_come_makes_room_for_others() {
        let mut expected = Expected::default();
        let now = Time::ZERO;
        for _ in 0..EXPECTED_MAX {
            expected.add(ann(), now).unwrap();
        }
        assert_eq!(expected.add(ann(), now), None);
        assert!(expected.add(ann(), now + TICKET_LIFE).is_some());
        assert_eq!(expected.0.len(), 1);
    }
}

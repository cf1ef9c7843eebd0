//! The protocol of a Play server's clients: packets, of which the first one authenticates.

use proscenium_framing::packet::{ClientPacket, HEARTBEAT, ID_MAX, ServerPacket};

use super::args::{PlayArgs, PlayMode};
use super::protocol::{Incoming, Protocol};

/// Packets of clients whose stages are dealt out in turn.
#[derive(Clone, Debug)]
pub(super) struct Packets {
    mode: PlayMode,
    authentication: String,
    first_stage: i64,
    stages: u64,
    /// Connections of client threads before this one.
    before: u64,
    prefix: Vec<u8>,
}

/// One client.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Player {
    stage: i64,
    /// Number of the last request, and of the last one that was answered.
    asked: u16,
    answered: u16,
    joined: bool,
}

/// Number and stage, which differ from packet to packet.
const NUMBERS: usize = 2 + 8;

impl PlayMode {
    /// The id of its messages.
    pub(super) const fn id(self) -> &'static str {
        match self {
            Self::Request | Self::Send => "Echo",
            Self::Broadcast => "Broadcast",
            Self::Each => "Each",
        }
    }

    /// True if everybody in the stage gets what one client sends.
    pub(super) const fn is_to_all(self) -> bool {
        matches!(self, Self::Broadcast | Self::Each)
    }
}

/// The number after this one: 0 is that of what is no request.
const fn next(number: u16) -> u16 {
    if number == u16::MAX { 1 } else { number + 1 }
}

impl Packets {
    /// Of a thread before which there are `before` clients of other threads.
    ///
    /// # Errors
    /// For a message id that no packet can have.
    pub(super) fn new(args: &PlayArgs, before: usize) -> Result<Self, String> {
        let longest = ID_MAX;
        if !(1..=longest).contains(&args.authentication.len()) {
            return Err(format!("--authentication: expected 1 to {longest} bytes"));
        }
        let empty = ClientPacket {
            msg_id: args.mode.id(),
            seq: 0,
            stage_id: 0,
            payload: &[],
        };
        Ok(Self {
            mode: args.mode,
            authentication: args.authentication.clone(),
            first_stage: args.first_stage,
            stages: u64::from(args.stages.unwrap_or(args.load.ccu)),
            before: before as u64,
            prefix: encoded(&empty)?,
        })
    }
}

fn encoded(packet: &ClientPacket<'_>) -> Result<Vec<u8>, String> {
    let mut bytes = vec![0; packet.encoded_len()];
    match packet.encode(&mut bytes) {
        Ok(_) => Ok(bytes),
        Err(error) => Err(format!("cannot make a packet: {error}")),
    }
}

impl Protocol for Packets {
    type State = Player;

    #[inline]
    fn prefix(&self) -> &[u8] {
        &self.prefix
    }

    fn answer_prefix_max(&self) -> usize {
        ServerPacket::FIXED + ID_MAX
    }

    #[inline]
    fn address(&self, player: &mut Player, prefix: &mut [u8]) {
        let Some((_, numbers)) = prefix.split_last_chunk_mut::<NUMBERS>() else {
            return;
        };
        let mut number = 0;
        if self.mode == PlayMode::Request {
            player.asked = next(player.asked);
            number = player.asked;
        }
        numbers[..2].copy_from_slice(&number.to_le_bytes());
        numbers[2..].copy_from_slice(&player.stage.to_le_bytes());
    }

    fn hello(&self, at: usize, player: &mut Player) -> Option<Vec<u8>> {
        let number = self.before + at as u64;
        let stage = self.first_stage.wrapping_add_unsigned(number % self.stages);
        (player.stage, player.asked) = (stage, 1);
        let account = format!("client-{number}");
        let packet = ClientPacket {
            msg_id: &self.authentication,
            seq: player.asked,
            stage_id: player.stage,
            payload: account.as_bytes(),
        };
        encoded(&packet).ok()
    }

    #[inline]
    fn read<'a>(&self, player: &mut Player, message: &'a [u8]) -> Incoming<'a> {
        let packet = match ServerPacket::decode(message) {
            Ok(packet) => packet,
            Err(error) => return Incoming::Wrong(format!("packet ({error})")),
        };
        let numbered = packet.seq != 0;
        if !player.joined {
            if !numbered {
                return Incoming::Other; // a message of the stage while the client joins
            }
            player.answered = packet.seq;
            player.joined = packet.error.is_success();
            return Incoming::Hello(if player.joined {
                Ok(())
            } else {
                Err(format!("error_{}", packet.error.0))
            });
        }
        if packet.msg_id == HEARTBEAT {
            return Incoming::Other;
        }
        if !packet.error.is_success() {
            return Incoming::Wrong(format!("error_{}", packet.error.0));
        }
        if packet.original_size != 0 {
            return Incoming::Wrong("compressed".to_owned());
        }
        if numbered {
            player.answered = next(player.answered);
            if packet.seq != player.answered {
                return Incoming::Wrong("out_of_order".to_owned());
            }
        }
        if packet.stage_id != player.stage {
            return Incoming::Wrong("other_stage".to_owned());
        }
        Incoming::Answer(packet.payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command, LoadKind};
    use clap::Parser;
    use proscenium_framing::packet::ErrorCode;

    fn packets(more: &[&str]) -> Packets {
        let line = ["proscenium", "load", "play", "--target", "127.0.0.1:1"];
        let line = line.iter().chain(&["--scenario", "s2"]).chain(more);
        let Command::Load(load) = Cli::parse_from(line).command else {
            unreachable!("the arguments say load")
        };
        let LoadKind::Play(args) = load.kind else {
            unreachable!("the arguments say play")
        };
        Packets::new(&args, 0).unwrap()
    }

    fn answer(packet: &ServerPacket<'_>) -> Vec<u8> {
        let mut bytes = vec![0; packet.encoded_len()];
        packet.encode(&mut bytes).unwrap();
        bytes
    }

    /// A client that was let in.
    fn joined(packets: &Packets, at: usize) -> Player {
        let mut player = Player::default();
        let hello = packets.hello(at, &mut player).unwrap();
        let hello = ClientPacket::decode(&hello).unwrap();
        assert_eq!(hello.msg_id, "AuthenticateRequest");
        let reply = ServerPacket::reply("Any", hello.seq, hello.stage_id, b"");
        let reply = answer(&reply);
        let read = packets.read(&mut player, &reply);
        assert_eq!(read, Incoming::Hello(Ok(())));
        player
    }

    #[test]
    fn requests_are_numbered_and_answers_have_to_come_in_that_order() {
        let packets = packets(&[]);
        let mut player = joined(&packets, 7);
        let mut prefix = packets.prefix().to_vec();
        for expected in 2..=3 {
            packets.address(&mut player, &mut prefix);
            let sent = ClientPacket::decode(&prefix).unwrap();
            assert_eq!(
                (sent.msg_id, sent.seq, sent.stage_id),
                ("Echo", expected, 8)
            );
        }
        let reply = |seq, stage| answer(&ServerPacket::reply("EchoReply", seq, stage, b"body"));
        let mut read = |bytes: &[u8]| match packets.read(&mut player, bytes) {
            Incoming::Answer(body) => format!("{body:?}"),
            other => format!("{other:?}"),
        };
        assert_eq!(read(&reply(2, 8)), format!("{:?}", b"body"));
        assert_eq!(read(&reply(9, 8)), "Wrong(\"out_of_order\")");
        assert_eq!(read(&reply(4, 9)), "Wrong(\"other_stage\")");
        let failure = ServerPacket::failure("Echo", 5, 8, ErrorCode::SYSTEM_ERROR);
        assert_eq!(read(&answer(&failure)), "Wrong(\"error_14\")");
        assert!(read(b"x").starts_with("Wrong(\"packet"), "{}", read(b"x"));
        let heartbeat = ServerPacket::reply(HEARTBEAT, 0, 8, b"");
        assert_eq!(read(&answer(&heartbeat)), "Other");
    }

    #[test]
    fn numbers_skip_zero_when_they_wrap() {
        let packets = packets(&[]);
        let mut player = joined(&packets, 0);
        (player.asked, player.answered) = (u16::MAX, u16::MAX);
        let mut prefix = packets.prefix().to_vec();
        packets.address(&mut player, &mut prefix);
        assert_eq!(ClientPacket::decode(&prefix).unwrap().seq, 1);
        let reply = answer(&ServerPacket::reply("EchoReply", 1, 1, b""));
        assert_eq!(packets.read(&mut player, &reply), Incoming::Answer(b""));
    }

    #[test]
    fn sends_have_no_number_and_stages_are_dealt_out_in_turn() {
        let packets = packets(&["--mode", "send", "--stages", "3", "--first-stage", "100"]);
        let mut prefix = packets.prefix().to_vec();
        for (at, stage) in [(0, 100), (2, 102), (3, 100), (7, 101)] {
            let mut player = joined(&packets, at);
            packets.address(&mut player, &mut prefix);
            let sent = ClientPacket::decode(&prefix).unwrap();
            assert_eq!((sent.seq, sent.stage_id), (0, stage));
        }
    }

    #[test]
    fn who_is_refused_has_the_reason() {
        let packets = packets(&[]);
        let mut player = Player::default();
        packets.hello(0, &mut player).unwrap();
        let refusal = ServerPacket::failure("No", 1, 1, ErrorCode::AUTHENTICATION_FAILED);
        let refusal = answer(&refusal);
        let read = packets.read(&mut player, &refusal);
        assert_eq!(read, Incoming::Hello(Err("error_5".to_owned())));
    }
}

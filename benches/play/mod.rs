//! A Play server whose stages answer every request with its payload.

use proscenium::Framing;
use proscenium::bench_support::ReplayShard;
use proscenium::framing::LengthPrefix;
use proscenium::framing::packet::{ClientPacket, ServerPacket};
use proscenium::play::{
    Actor, ActorCx, Member, Packet, PlayServer, PlayShard, PlayStage, Result, StageCx, StageKind,
    Verdict,
};

/// Every connection sends the same: each is an account of its own by its number.
struct Player;

impl Actor for Player {
    async fn on_authenticate(&mut self, cx: &mut ActorCx<'_>, _: Packet<'_>) -> Result<Verdict> {
        static ACCOUNTS: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let number = ACCOUNTS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        cx.set_account_id(number.to_string());
        Ok(Verdict::accept())
    }
}

struct Room;

impl PlayStage for Room {
    type Actor = Player;

    async fn on_dispatch(
        &mut self,
        cx: &mut StageCx<'_, Self>,
        _: &mut Member<'_, Player>,
        packet: Packet<'_>,
    ) -> Result {
        match packet.msg_id() {
            "Broadcast" => drop(cx.broadcast("News", packet.payload())?),
            "Each" => {
                for id in cx.actors() {
                    cx.send(id, "News", packet.payload())?;
                }
            }
            "Quiet" => {}
            _ => cx.reply("Echo", packet.payload())?,
        }
        Ok(())
    }
}

/// The handler of a shard whose connections all join one stage.
pub(crate) fn play() -> PlayShard {
    let parts = PlayServer::builder()
        .stage(StageKind::new("room", |_| Room, || Player))
        .default_stage("room")
        .into_parts()
        .expect("the options fit together");
    parts.shards.shard(0)
}

/// An authentication that nobody asks about (again and again: only the first one counts), and
/// requests with bodies of `size` bytes.
pub(crate) fn packets(size: usize, count: usize) -> Vec<u8> {
    let payload = vec![7; size - ClientPacket::FIXED - "Echo".len()];
    let mut bytes = Vec::new();
    append(&mut bytes, AUTHENTICATE, 0, &[]);
    for number in 1..count {
        append(&mut bytes, "Echo", number as u16, &payload);
    }
    bytes
}

/// Requests without an authentication before them.
pub(crate) fn requests(size: usize, count: usize) -> Vec<u8> {
    let payload = vec![7; size - ClientPacket::FIXED - "Echo".len()];
    let mut bytes = Vec::new();
    for number in 1..=count {
        append(&mut bytes, "Echo", number as u16, &payload);
    }
    bytes
}

/// An authentication, and what fills it up to `length` bytes.
pub(crate) fn entry(length: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    append(&mut bytes, AUTHENTICATE, 0, &[]);
    let payload = vec![0; length - bytes.len() - 4 - ClientPacket::FIXED - "Quiet".len()];
    append(&mut bytes, "Quiet", 0, &payload);
    bytes
}

/// Changes the stage to which packets go.
pub(crate) fn direct(packets: &mut [u8], stage_id: i64) {
    let mut rest = packets;
    while let Some((length, packet)) = rest.split_first_chunk_mut() {
        let length = u32::from_le_bytes(*length) as usize;
        let at = 1 + usize::from(packet[0]) + 2;
        packet[at..at + 8].copy_from_slice(&stage_id.to_le_bytes());
        rest = &mut packet[length..];
    }
}

const AUTHENTICATE: &str = "AuthenticateRequest";

fn append(bytes: &mut Vec<u8>, msg_id: &str, seq: u16, payload: &[u8]) {
    let packet = ClientPacket {
        msg_id,
        seq,
        stage_id: 1,
        payload,
    };
    let mut body = vec![0; packet.encoded_len()];
    packet.encode(&mut body).expect("room for it");
    let encoded = LengthPrefix::le32().encode(&body, bytes);
    encoded.expect("a body within the default limit");
}

/// A room full of players, to all of whom one of them has 256 bytes sent, some times per turn.
pub(crate) struct Crowd {
    shard: ReplayShard<PlayShard>,
    writes: u64,
    written: u64,
    times: u64,
}

impl Crowd {
    pub(crate) const PLAYERS: u64 = 1000;
    const PAYLOAD: usize = 256;
    /// What a client gets for each.
    const FRAME: u64 = (4 + ServerPacket::FIXED + "News".len() + Self::PAYLOAD) as u64;
    /// Turns in which all speak, and say nothing but who they are.
    const ENTRY: usize = 4;

    pub(crate) fn new(msg_id: &str, times: usize) -> Self {
        // What is read at once is one frame; the first ones are as long as the others.
        let length = |msg_id: &str| 4 + ClientPacket::FIXED + msg_id.len();
        let read = (length(msg_id) + Self::PAYLOAD) * times;
        let mut bytes = Vec::new();
        for msg_id in [AUTHENTICATE, "Quiet", "Quiet", "Quiet"] {
            append(&mut bytes, msg_id, 0, &vec![0; read - length(msg_id)]);
        }
        for _ in 0..64 * times {
            append(&mut bytes, msg_id, 0, &[7; Self::PAYLOAD]);
        }
        let players = Self::PLAYERS as usize;
        let mut shard = ReplayShard::new(play(), Framing::Le32, players, &bytes, read);
        for _ in 0..Self::ENTRY {
            shard.turn();
        }
        shard.hush(1);
        Self {
            writes: shard.writes(),
            written: shard.written(),
            shard,
            times: times as u64,
        }
    }

    pub(crate) fn turn(&mut self) {
        self.shard.turn();
    }

    /// Everybody got everything, in one write.
    pub(crate) fn check(&mut self) {
        let before = (self.writes, self.written);
        (self.writes, self.written) = (self.shard.writes(), self.shard.written());
        assert_eq!(self.writes - before.0, Self::PLAYERS);
        let bytes = Self::PLAYERS * self.times * Self::FRAME;
        assert_eq!(self.written - before.1, bytes);
    }
}

//! A Play server whose stages answer every request with its payload.

use proscenium::framing::LengthPrefix;
use proscenium::framing::packet::ClientPacket;
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
        cx.reply("Echo", packet.payload())?;
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
    for number in 0..count {
        let (msg_id, seq, payload) = if number == 0 {
            ("AuthenticateRequest", 0, &[][..])
        } else {
            ("Echo", number as u16, &payload[..])
        };
        let packet = ClientPacket {
            msg_id,
            seq,
            stage_id: 1,
            payload,
        };
        let mut body = vec![0; packet.encoded_len()];
        packet.encode(&mut body).expect("room for it");
        let encoded = LengthPrefix::le32().encode(&body, &mut bytes);
        encoded.expect("a body within the default limit");
    }
    bytes
}

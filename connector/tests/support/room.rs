//! A real Play server with a room that does what the tests ask for.
#![allow(dead_code, reason = "every test binary uses a part of it")]

use std::net::SocketAddr;

use proscenium_connector::Transport;
use proscenium_engine::{Address, Identity, Listener, TlsServer, WebSocketServer};
use proscenium_play::{
    Actor, ActorCx, Failure, LateReply, Member, Packet, PlayListener, PlayServer,
    PlayServerBuilder, PlayStage, Result, StageCx, StageKind, Verdict,
};

use crate::layers;
use crate::support::PATIENCE;

/// Lets everybody in whose credentials are not `wrong`, as the account that they say.
#[derive(Default)]
struct Player;

impl Actor for Player {
    async fn on_authenticate(
        &mut self,
        cx: &mut ActorCx<'_>,
        packet: Packet<'_>,
    ) -> Result<Verdict> {
        if packet.payload() == b"wrong" {
            return Ok(Verdict::refuse().with("Answer", "who?"));
        }
        cx.set_account_id(std::str::from_utf8(packet.payload())?);
        Ok(Verdict::accept().with("Answer", "welcome"))
    }
}

/// Answers `Echo`, refuses `Refuse`, pushes on `PushMe`, says to all on `Say`, throws out on
/// `Kick`, and keeps `Never` waiting.
#[derive(Default)]
struct Room {
    waiting: Vec<LateReply>,
}

impl PlayStage for Room {
    type Actor = Player;

    async fn on_dispatch(
        &mut self,
        cx: &mut StageCx<'_, Self>,
        actor: &mut Member<'_, Player>,
        packet: Packet<'_>,
    ) -> Result {
        match packet.msg_id() {
            "Echo" => cx.reply("Echo", packet.payload())?,
            "Refuse" => return Err(Failure::code(1234).with("Answer", "no")),
            "PushMe" => cx.send(actor.id(), "News", "pushed")?,
            "Say" => drop(cx.broadcast("Said", packet.payload())?),
            "Kick" => drop(cx.kick(actor.id())),
            "Never" => self.waiting.extend(cx.defer_reply()),
            _ => {}
        }
        Ok(())
    }
}

/// The server, listening on every transport; see [`address`]. After those listeners, which
/// compress, come as many that do not.
pub(crate) fn start(identity: &layers::Identity) -> PlayServer {
    let (certificate, key) = (&identity.certificate_pem, &identity.key_pem);
    let identity = Identity::from_pem(certificate.as_bytes(), key.as_bytes());
    let tls = TlsServer::builder(identity.expect("a certificate and its key")).build();
    let tls = tls.expect("TLS");
    let web_socket = WebSocketServer::new();
    let listener = |transport| {
        let listener = Listener::tcp("127.0.0.1:0").expect("an address");
        PlayListener::new(match transport {
            Transport::Tls => listener.tls(&tls),
            Transport::Ws => listener.web_socket(&web_socket),
            Transport::Wss => listener.tls(&tls).web_socket(&web_socket),
            _ => listener,
        })
    };
    let mut server = builder();
    for transport in layers::TRANSPORTS {
        server = server.listen(listener(transport).compress());
    }
    for transport in layers::TRANSPORTS {
        server = server.listen(listener(transport));
    }
    server.start().expect("a server")
}

/// Where the server listens, for the transport of that number in `TRANSPORTS`.
pub(crate) fn address(server: &PlayServer, transport: usize) -> SocketAddr {
    match &server.local_addrs()[transport] {
        Address::Tcp(address) => *address,
        other => panic!("{other:?}"),
    }
}

/// Patient: nobody is forgotten or given up, however long a machine has other things to do.
fn builder() -> PlayServerBuilder {
    let rooms = StageKind::new("room", |_id| Room::default(), Player::default);
    let rooms = rooms.keep_disconnected(PATIENCE * 60);
    PlayServer::builder()
        .stage(rooms)
        .default_stage("room")
        .authentication_deadline(PATIENCE)
        .request_deadline(PATIENCE)
        .limits(|limits| limits.handshake_timeout(PATIENCE))
}

/// A server with one listener for TCP.
pub(crate) fn start_plain(address: &str) -> std::io::Result<PlayServer> {
    builder().listen(PlayListener::tcp(address)?).start()
}

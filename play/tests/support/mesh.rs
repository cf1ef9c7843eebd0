//! Play servers that are nodes of a mesh, and a stage that does what messages of servers say.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use bytes::Bytes;
use proscenium_nodelink::{
    Endpoint, Nid, Node, NodeContext, NodeHandle, NodeHandler, NodeMessage, NodeOptions, Reply,
    RequestOptions, RouteHeader,
};
use proscenium_play::{
    Actor, ActorCx, Content, DeliverError, ErrorCode, Failure, LateReply, Member, Packet,
    PlayServer, PlayServerBuilder, PlayStage, Result, StageCx, StageKind, To, Verdict,
};

use super::{PATIENCE, eventually};

/// What the stages of a test share.
#[derive(Clone, Default)]
pub struct Board {
    pub told: Arc<AtomicUsize>,
    pub flag: Arc<AtomicUsize>,
    pub created: Arc<AtomicUsize>,
    pub destroyed: Arc<AtomicUsize>,
}

impl Board {
    pub fn told(&self) -> usize {
        self.told.load(Ordering::SeqCst)
    }
}

pub struct Post {
    id: i64,
    board: Board,
    late: Vec<LateReply>,
}

#[derive(Default)]
pub struct Guest;

impl Actor for Guest {
    async fn on_authenticate(
        &mut self,
        cx: &mut ActorCx<'_>,
        packet: Packet<'_>,
    ) -> Result<Verdict> {
        let account = cx
            .request_to_api("api-1", "Account", packet.payload())
            .await?;
        cx.set_account_id(std::str::from_utf8(&account.payload)?);
        Ok(Verdict::accept())
    }
}

/// `NID STAGE ID REST`; a NID `-` is this server without its name, `#N` a service.
fn parse(text: &str) -> (&str, i64, &str, &str) {
    let mut words = text.splitn(4, ' ');
    let mut next = || words.next().unwrap_or_default();
    let nid = next();
    let stage = next().parse().unwrap_or_default();
    (nid, stage, next(), next())
}

fn server(name: &str) -> To<'_> {
    match name.strip_prefix('#') {
        Some(service) => To::service(service.parse().unwrap()),
        None => To::from(name),
    }
}

impl PlayStage for Post {
    type Actor = Guest;

    async fn on_create(
        &mut self,
        cx: &mut StageCx<'_, Self>,
        packet: Packet<'_>,
    ) -> Result<Verdict> {
        if self.id < 0 {
            return Ok(Verdict::refuse());
        }
        if packet.msg_id() == "Ask" {
            let text = std::str::from_utf8(packet.payload())?;
            let answer = ask(cx, text).await;
            let code = answer.err().unwrap_or(ErrorCode::SUCCESS);
            return Ok(Verdict::accept().with("Asked", code.0.to_string()));
        }
        self.board.created.fetch_add(1, Ordering::SeqCst);
        Ok(Verdict::accept().with("Made", packet.payload()))
    }

    async fn on_dispatch(
        &mut self,
        cx: &mut StageCx<'_, Self>,
        actor: &mut Member<'_, Guest>,
        _: Packet<'_>,
    ) -> Result {
        cx.reply("Name", actor.account_id())?;
        Ok(())
    }

    async fn on_dispatch_server(
        &mut self,
        cx: &mut StageCx<'_, Self>,
        packet: Packet<'_>,
    ) -> Result {
        let text = std::str::from_utf8(packet.payload()).unwrap_or_default();
        match packet.msg_id() {
            "Echo" => cx.reply("EchoReply", packet.payload())?,
            "Who" => cx.reply("WhoReply", format!("{} on {}", self.id, cx.shard()))?,
            "Address" => {
                let address = packet.payload().as_ptr() as usize;
                cx.reply("AddressReply", address.to_string())?;
            }
            "Note" => drop(self.board.told.fetch_add(1, Ordering::SeqCst)),
            "Fail" => return Err(Failure::code(1234)),
            "Oops" => drop("seven".parse::<u32>()?),
            "Silent" => {}
            "Huge" => {
                let code = match cx.reply("Huge", vec![0; 64 << 20]) {
                    Err(error) => error.code(),
                    Ok(()) => ErrorCode::SUCCESS,
                };
                cx.reply("Small", code.0.to_string())?;
            }
            "Panic" => std::panic::resume_unwind(Box::new("planned")),
            "Defer" => {
                self.board.told.fetch_add(1, Ordering::SeqCst);
                self.late.extend(cx.defer_reply());
            }
            "Release" => {
                for late in self.late.drain(..) {
                    cx.reply_late(late, "LateReply", "at last")?;
                }
            }
            "Tell" => {
                let (nid, stage, id, rest) = parse(text);
                cx.send_to_stage((server(nid), stage), id, rest)?;
                cx.reply("TellReply", ())?;
            }
            "Ask" => {
                let content = ask(cx, text).await?;
                cx.reply(&content.msg_id, &content.payload)?;
            }
            "AskApi" => {
                let (nid, _, id, rest) = parse(text);
                let content = cx.request_to_api(server(nid), id, rest).await?;
                cx.reply(&content.msg_id, &content.payload)?;
            }
            "TellApi" => {
                let (nid, _, id, rest) = parse(text);
                cx.send_to_api(server(nid), id, rest)?;
                cx.reply("TellReply", ())?;
            }
            "Own" => {
                let bytes = Bytes::from(vec![7; 100]);
                let address = (bytes.as_ptr() as usize).to_string();
                let there = cx
                    .request_to_stage(("play-1", 2), "Address", &bytes)
                    .await?;
                let here = cx.request_to_stage(2, "Address", &bytes).await?;
                assert_eq!(there, here);
                assert_eq!(there.payload, address, "not even copied");
                cx.reply("OwnReply", ())?;
            }
            // As many as there is room for.
            "Flood" => {
                let mut sent = 0;
                let refused = loop {
                    match cx.send_to_api("api-1", "News", "x") {
                        Ok(()) => sent += 1,
                        Err(error) => break error,
                    }
                };
                assert_eq!(refused, DeliverError::Full);
                cx.reply("Flooded", format!("{sent}"))?;
            }
            "Detach" => {
                let (nid, stage, id, rest) = parse(text);
                let (link, late) = (cx.link(), cx.defer_reply());
                let nid = nid.to_owned();
                let (id, rest) = (id.to_owned(), rest.to_owned());
                let asked = async move { link.request_to_stage((&*nid, stage), &id, rest).await };
                cx.detach(asked, |_, cx, answer| {
                    let (Some(late), Ok(content)) = (late, answer) else {
                        return;
                    };
                    let _ = cx.reply_late(late, &content.msg_id, &content.payload);
                })?;
            }
            // Gives up at once, but goes on being asked for.
            "GiveUp" => {
                let (nid, stage, id, rest) = parse(text);
                let asked = cx.request_to_stage((nid, stage), id, rest);
                let answer = asked.within(Duration::from_millis(1)).await;
                assert_eq!(answer, Err(ErrorCode::REQUEST_TIMEOUT));
                self.board.flag.store(1, Ordering::SeqCst);
                cx.reply("GaveUp", ())?;
            }
            "AskWhenFlagged" => {
                while self.board.flag.load(Ordering::SeqCst) == 0 {
                    cx.sleep(Duration::from_millis(1)).await;
                }
                let answer = ask(cx, text).await;
                self.board
                    .flag
                    .store(2 + usize::from(answer.is_err()), Ordering::SeqCst);
            }
            "Block" => {
                self.board.told.fetch_add(1, Ordering::SeqCst);
                while self.board.flag.load(Ordering::SeqCst) == 0 {
                    cx.sleep(Duration::from_millis(1)).await;
                }
                cx.reply("Unblocked", ())?;
            }
            _ => return Err(Failure::code(ErrorCode::HANDLER_NOT_FOUND)),
        }
        Ok(())
    }

    async fn on_destroy(&mut self, _: &mut StageCx<'_, Self>) {
        self.board.destroyed.fetch_add(1, Ordering::SeqCst);
    }
}

async fn ask(cx: &StageCx<'_, Post>, text: &str) -> std::result::Result<Content, ErrorCode> {
    match parse(text) {
        ("-", stage, id, rest) => cx.request_to_stage(stage, id, rest).await,
        (nid, stage, id, rest) => cx.request_to_stage((server(nid), stage), id, rest).await,
    }
}

pub fn any() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// Patient: nothing ends by itself, however long a machine has other things to do.
pub fn options(nid: &str) -> NodeOptions {
    NodeOptions::new(Nid::new(nid).unwrap())
        .handshake_deadline(PATIENCE)
        .dead_after(PATIENCE)
        .request_deadline(PATIENCE)
}

pub fn posts(board: &Board) -> StageKind<Post> {
    let board = board.clone();
    let make = move |id| Post {
        id,
        board: board.clone(),
        late: Vec::new(),
    };
    StageKind::new("post", make, Guest::default)
}

/// A server that is a node of that name and connects to the others.
pub fn server_at(
    nid: &str,
    others: &[&PlayServer],
    change: impl FnOnce(PlayServerBuilder) -> PlayServerBuilder,
) -> (PlayServer, Board) {
    let board = Board::default();
    let mut node = Node::builder(options(nid)).bind(any());
    for other in others {
        node = node.connect(Endpoint::new(other.node_addrs()[0].clone()));
    }
    let builder = PlayServer::builder().stage(posts(&board)).node(node);
    let builder = builder.authentication_deadline(PATIENCE);
    let builder = builder.request_deadline(PATIENCE);
    (change(builder).start().unwrap(), board)
}

/// Creates stages.
pub fn create(server: &PlayServer, ids: impl IntoIterator<Item = i64>) {
    for id in ids {
        let created = server.handle().create_stage("post", id, Content::default());
        assert!(created.wait(PATIENCE).unwrap().is_new);
    }
}

pub fn node_of(server: &PlayServer) -> NodeHandle {
    server.handle().node().unwrap().clone()
}

#[track_caller]
pub fn linked(node: &NodeHandle, to: &str) {
    assert!(node.wait_routable(to, PATIENCE), "no link to {to}");
}

/// Servers `play-1` to `play-N`, each linked to all others; server N has the stages N0 to N9.
pub fn mesh_of(count: usize, shards: usize) -> Vec<(PlayServer, Board)> {
    let mut servers: Vec<(PlayServer, Board)> = Vec::new();
    for number in 1..=count {
        let others: Vec<&PlayServer> = servers.iter().map(|(server, _)| server).collect();
        let made = server_at(&format!("play-{number}"), &others, |builder| {
            builder.shards(shards)
        });
        create(&made.0, (0..10).map(|id| number as i64 * 10 + id));
        servers.push(made);
    }
    for (server, _) in &servers {
        for number in 1..=count {
            let nid = format!("play-{number}");
            if node_of(server).nid().as_str() != nid {
                linked(&node_of(server), &nid);
                // Also for the shards other than the node's.
                for shard in 0..shards {
                    all_know(server, shard, &nid, number as i64 * 10);
                }
            }
        }
    }
    servers
}

fn all_know(server: &PlayServer, shard: usize, nid: &str, stage: i64) {
    let own = node_of(server).nid().as_str()["play-".len()..]
        .parse::<i64>()
        .unwrap()
        * 10;
    let asks = (own..own + 10).find(|id| {
        let who = ask_stage(server, *id, "Who", "").unwrap();
        who.1.ends_with(&format!("on {shard}"))
    });
    let Some(asks) = asks else { return };
    let text = format!("{nid} {stage} Echo x");
    eventually("a shard that knows the other server", || {
        ask_stage(server, asks, "Ask", &text).ok()
    });
}

/// Asks a stage from this thread.
pub fn ask_stage(
    server: &PlayServer,
    stage: i64,
    msg_id: &str,
    text: &str,
) -> std::result::Result<(String, String), u16> {
    let asked = server
        .handle()
        .request_stage(stage, msg_id, text.to_owned());
    match asked.wait(PATIENCE) {
        Ok(content) => {
            let text = String::from_utf8(content.payload.to_vec()).unwrap();
            Ok((content.msg_id.into_owned(), text))
        }
        Err(code) => Err(code.0),
    }
}

pub fn answer(id: &str, text: &str) -> std::result::Result<(String, String), u16> {
    Ok((id.to_owned(), text.to_owned()))
}

/// A node that is no Play server: `Echo` is answered, `Fail` too, `Account` names its payload,
/// `Never` is not answered. It tells what it was sent.
pub struct Api {
    seen: Sender<(String, i64, Vec<u8>)>,
}

impl NodeHandler<()> for Api {
    fn on_message(&mut self, cx: &mut NodeContext<'_, '_, ()>, message: NodeMessage<'_>) {
        let header = &message.header;
        let seen = (
            header.msg_id.to_owned(),
            header.stage_id,
            message.payload.to_vec(),
        );
        let _ = self.seen.send(seen);
        let Some(reply_to) = message.reply_to else {
            return;
        };
        let error_code = match header.msg_id {
            "Never" => return,
            "Fail" => 4321,
            "Vast" => 100_000,
            _ => 0,
        };
        let msg_id = format!("{}Reply", header.msg_id);
        let reply = RouteHeader {
            msg_id: &msg_id,
            error_code,
            ..RouteHeader::default()
        };
        let _ = cx.reply(reply_to, &reply, message.payload);
    }
}

/// Starts one and links it to a server.
pub fn api(nid: &str, server: &PlayServer) -> (Node, Receiver<(String, i64, Vec<u8>)>) {
    let (seen, told) = channel();
    let endpoint = Endpoint::new(server.node_addrs()[0].clone());
    let node = Node::builder(options(nid)).bind(any()).connect(endpoint);
    let node = node.start(Api { seen }).unwrap();
    linked(&node_of(server), nid);
    linked(&node.handle(), node_of(server).nid());
    (node, told)
}

/// Asks a stage from a node.
pub fn ask_from(node: &NodeHandle, to: &str, header: RouteHeader<'_>, payload: Vec<u8>) -> Reply {
    let options = RequestOptions::within(PATIENCE);
    node.request(to, &header, payload, options).wait().unwrap()
}

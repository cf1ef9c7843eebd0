//! Rooms in which people talk: a stage for each connection that is in no room, a stage for each
//! room.
//!
//! `cargo run --release --example room --features stages [ADDRESS]`
//!
//! A message is a line of text (UTF-8, no line end) behind its length as `u32` big-endian.
//!
//! | a client says | it hears | the others in the room hear |
//! |---|---|---|
//! | `join ROOM NAME` | `joined ROOM: NAME, NAME, …` | `* NAME joined` |
//! | `say TEXT` | `NAME: TEXT` | `NAME: TEXT` |
//! | `leave` | `left ROOM` | `* NAME left` |
//! | nothing more: it disconnects | | `* NAME left` |
//! | anything else | `error WHY` | |
//!
//! After `join` and `leave` a client waits for the answer before it says more: its connection is
//! being handed over. ROOM has 1 to 8 bytes, NAME 1 to 32; neither has blanks.

#![allow(clippy::print_stdout, reason = "its output is its purpose")]

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::Display;
use std::thread;
use std::time::Duration;

use proscenium::stages::{Cx, Local, Reply, Stage, StagePost, StageType, Stages, StagesBuilder};
use proscenium::{Body, CloseReason, Engine, Listener, RouterId};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// What a client says.
enum Line<'a> {
    Join { room: &'a str, name: &'a str },
    Say(&'a str),
    Leave,
}

impl<'a> Line<'a> {
    fn parse(body: &'a [u8]) -> Result<Self, &'static str> {
        let text = std::str::from_utf8(body).map_err(|_| "expected UTF-8")?;
        match text.split_once(' ').unwrap_or((text, "")) {
            ("join", names) => match names.split_once(' ') {
                Some((room, name)) if is_name(room, 8) && is_name(name, 32) => {
                    Ok(Self::Join { room, name })
                }
                _ => Err("expected `join ROOM NAME`, at most 8 and 32 bytes, without blanks"),
            },
            ("say", text) => Ok(Self::Say(text)),
            ("leave", "") => Ok(Self::Leave),
            _ => Err("expected join, say or leave"),
        }
    }
}

fn is_name(text: &str, max: usize) -> bool {
    (1..=max).contains(&text.len()) && !text.contains(char::is_whitespace)
}

/// The stage id of a room: the bytes of its name.
pub(crate) fn room_id(name: &str) -> u64 {
    let bytes = name.bytes().take(8);
    bytes.fold(0, |id, byte| id << 8 | u64::from(byte))
}

fn room_name(id: u64) -> String {
    let bytes = id.to_be_bytes();
    let name: Vec<u8> = bytes.into_iter().skip_while(|&byte| byte == 0).collect();
    String::from_utf8_lossy(&name).into_owned()
}

/// Sends a line. `Full` or `Gone` are the peer's loss: the overflow policy has acted.
fn answer(local: &Local<'_>, to: RouterId, line: impl Display) {
    let _ = local.send(to, line.to_string().as_bytes());
}

/// A connection that is in no room. It hands its connection over to a room, and ends.
#[derive(Default)]
struct Session {
    /// Its connection was handed over; what came before that is still to be handled.
    over: bool,
}

impl Session {
    async fn join(
        &mut self,
        cx: &mut Cx<'_, Self>,
        who: RouterId,
        (room, name): (&str, String),
    ) -> Result<(), String> {
        let found = cx.get_or_create::<Room>(room_id(room)).await;
        let stage = found.map_err(|error| error.to_string())?;
        let joined = cx.request(stage, |reply| Join { who, name, reply });
        let names = joined.await.map_err(|error| error.to_string())??;
        // Should the connection have ended meanwhile, the room is told of that at once.
        cx.bind(who, stage);
        self.over = true;
        answer(cx, who, format_args!("joined {room}: {names}"));
        cx.stop(cx.me());
        Ok(())
    }
}

impl Stage for Session {
    type Msg = Infallible; // nobody tells it anything

    async fn on_message(&mut self, _: &mut Cx<'_, Self>, message: Infallible) {
        match message {}
    }

    async fn on_packet(&mut self, cx: &mut Cx<'_, Self>, from: RouterId, body: Body) {
        let done = match Line::parse(&body) {
            _ if self.over => Err("wait for `joined` before you say more".to_owned()),
            Ok(Line::Join { room, name }) => self.join(cx, from, (room, name.to_owned())).await,
            Ok(Line::Say(_) | Line::Leave) => Err("you are in no room".to_owned()),
            Err(why) => Err(why.to_owned()),
        };
        if let Err(why) = done {
            answer(cx, from, format_args!("error {why}"));
        }
    }

    async fn on_disconnect(&mut self, cx: &mut Cx<'_, Self>, _: RouterId, _: CloseReason) {
        cx.stop_self();
    }
}

/// Asks a room to let a connection in; it answers with the names of all who are there.
pub(crate) struct Join {
    who: RouterId,
    name: String,
    reply: Reply<Result<String, String>>,
}

/// A room and who is in it; their connections live on its shard.
#[derive(Default)]
pub(crate) struct Room {
    members: BTreeMap<RouterId, String>,
}

impl Room {
    fn tell_all(&self, cx: &Cx<'_, Self>, line: String) {
        // One allocation for all of them.
        cx.broadcast(self.members.keys().copied(), &line.into());
    }

    fn join(&mut self, cx: &Cx<'_, Self>, who: RouterId, name: String) -> Result<String, String> {
        if self.members.values().any(|taken| *taken == name) {
            return Err(format!("the name {name} is taken"));
        }
        self.tell_all(cx, format!("* {name} joined"));
        self.members.insert(who, name);
        let names: Vec<&str> = self.members.values().map(String::as_str).collect();
        Ok(names.join(", "))
    }

    fn leave(&mut self, cx: &Cx<'_, Self>, who: RouterId) {
        if let Some(name) = self.members.remove(&who) {
            self.tell_all(cx, format!("* {name} left"));
        }
    }
}

impl Stage for Room {
    type Msg = Join;

    async fn on_message(&mut self, cx: &mut Cx<'_, Self>, Join { who, name, reply }: Join) {
        if let Err(Ok(_)) = reply.send(self.join(cx, who, name)) {
            self.leave(cx, who); // the session has given up
        }
    }

    async fn on_packet(&mut self, cx: &mut Cx<'_, Self>, from: RouterId, body: Body) {
        let Some(name) = self.members.get(&from) else {
            return answer(cx, from, "error wait for `left` before you say more");
        };
        match Line::parse(&body) {
            Ok(Line::Say(text)) => self.tell_all(cx, format!("{name}: {text}")),
            Ok(Line::Leave) => {
                self.leave(cx, from);
                let room = room_name(cx.id().unwrap_or(0));
                answer(cx, from, format_args!("left {room}"));
                let _ = cx.spawn_bound(from, Session::default());
            }
            Ok(Line::Join { .. }) => answer(cx, from, "error you are in a room already"),
            Err(why) => answer(cx, from, format_args!("error {why}")),
        }
    }

    async fn on_disconnect(&mut self, cx: &mut Cx<'_, Self>, id: RouterId, _: CloseReason) {
        self.leave(cx, id);
    }
}

/// The stage types, and what happens to a new connection.
pub(crate) fn stages() -> StagesBuilder {
    // An empty room leaves memory after a minute; one with connections stays.
    let rooms = StageType::<Room>::new("room")
        .factory(|_id| Room::default())
        .passivate_after(Duration::from_secs(60));
    Stages::builder()
        .register(StageType::<Session>::new("session"))
        .register(rooms)
        .on_connect(|local, id, _peer| drop(local.spawn_bound(id, Session::default())))
}

/// Starts the server on two shards.
pub(crate) fn serve(address: &str) -> std::io::Result<Engine<StagePost>> {
    let engine = Engine::builder().shards(2);
    stages()
        .build()
        .start(engine.listen(Listener::parse(address)?))
}

/// How long the end may take.
const DRAIN: Duration = Duration::from_secs(5);

fn main() -> std::io::Result<()> {
    // Before anybody knows of the server and asks it to end.
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let address = std::env::args().nth(1);
    let engine = serve(address.as_deref().unwrap_or("127.0.0.1:7000"))?;
    println!("listening on {}", engine.local_addrs()[0]);
    let handle = engine.handle();
    thread::spawn(move || {
        signals.forever().next();
        handle.shutdown(DRAIN);
    });
    println!("{}", engine.join());
    Ok(())
}

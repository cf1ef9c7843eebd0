//! The demonstration: three servers, four players, and what they do.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proscenium_connector::{Connector, Event, RequestError};
use prost::Message;
use serde_json::Value;

use crate::messages::{self, Join, Player, Seat, Travel};
use crate::processes::{Process, http, json, wait_until_ok};

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

/// A folder for the directory's file; it goes with this.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Starts the servers, plays, ends them.
pub(crate) fn run() -> Result {
    let folder = Folder(std::env::temp_dir().join(format!("match-{}", std::process::id())));
    fs::create_dir_all(&folder.0)?;
    let (api, at, play) = start_servers(&folder.0)?;

    // Two matches. The API server puts them onto the Play servers in turns.
    for _ in 0..2 {
        let made = json(&at, "POST", "/matches")?;
        println!("match {} is on {}", made["match"], text(&made, "server"));
    }
    let mut ann = Client::join("ann", &seat(&json(&at, "POST", "/matches/1/players/ann")?)?)?;
    let bob = Client::join("bob", &seat(&json(&at, "POST", "/matches/1/players/bob")?)?)?;
    let cid = Client::join("cid", &seat(&json(&at, "POST", "/matches/2/players/cid")?)?)?;
    ann.hear(messages::JOINED, "bob")?;

    // Who has no ticket does not come in.
    let stranger = Seat {
        ticket: 7,
        ..bob.seat.clone()
    };
    let refused = Client::join("eve", &stranger).err().ok_or("eve came in")?;
    println!("eve has no ticket: {refused}");

    ann.score()?;
    let player = ann.score()?;
    bob.hear(messages::SCORE, "ann")?;
    println!("ann has {} points in match 1", player.points);

    // The match asks the API server where match 2 is, and match 2 to expect ann: on another server.
    let seat = ann.travel(2)?;
    bob.hear(messages::LEFT, "ann")?;
    println!("ann leaves {} for {}", ann.seat.address, seat.address);
    check(
        ann.seat.address != seat.address,
        "the matches are on two servers",
    )?;
    ann = Client::join("ann", &seat)?;
    cid.hear(messages::JOINED, "ann")?;
    let player = ann.score()?;
    println!("ann has {} points in match 2", player.points);
    check(player.points == 3, "ann has taken her points along")?;

    for (path, players) in [
        ("/matches/1", serde_json::json!({ "bob": 0 })),
        ("/matches/2", serde_json::json!({ "ann": 3, "cid": 0 })),
    ] {
        let board = json(&at, "GET", path)?;
        println!("{path}: {board}");
        check(board["players"] == players, "the board is right")?;
    }
    let (status, body) = http(&at, "GET", "/matches/3")?;
    println!("/matches/3: {status} {body}");
    check(status == 404, "there is no third match")?;

    drop((ann, bob, cid));
    println!("api-1: {}", api.end()?);
    for (name, server) in play {
        println!("{name}: {}", server.end()?);
    }
    println!("done");
    Ok(())
}

type Servers = (Process, String, Vec<(&'static str, Process)>);

/// Starts an API server and two Play servers, tells them of each other, and waits until all are
/// linked. Also where HTTP is served.
fn start_servers(folder: &Path) -> Result<Servers> {
    let file = folder.join("servers");
    let api = Process::start("api", "api-1", &file)?;
    let mut play = Vec::new();
    for name in ["play-1", "play-2"] {
        play.push((name, Process::start("play", name, &file)?));
    }
    // Each says where it listens. The file is replaced, so that nobody reads half of it.
    let mut servers = String::new();
    for server in std::iter::once(&api).chain(play.iter().map(|(_, server)| server)) {
        let line = server.wait_for("server ")?;
        println!("started {line}");
        servers.extend([line.as_str(), "\n"]);
    }
    fs::write(folder.join("new"), servers)?;
    fs::rename(folder.join("new"), &file)?;

    let at = api.wait_for("http ")?;
    wait_until_ok(&at, "/ready")?;
    for (_, server) in &play {
        server.wait_for("reaches ")?; // API servers,
        server.wait_for("reaches ")?; // and Play servers other than itself
    }
    println!("all are linked; HTTP at {at}");
    Ok((api, at, play))
}

fn check(holds: bool, what: &str) -> Result {
    holds
        .then_some(())
        .ok_or_else(|| format!("not so: {what}").into())
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// A seat, as HTTP tells it.
fn seat(value: &Value) -> Result<Seat> {
    Ok(Seat {
        address: text(value, "address").to_owned(),
        match_id: value["match"].as_i64().ok_or("no match")?,
        ticket: text(value, "ticket").parse()?,
    })
}

/// A player's client.
struct Client {
    connector: Connector,
    seat: Seat,
}

impl Client {
    fn join(name: &str, seat: &Seat) -> Result<Self> {
        let (host, port) = seat.address.rsplit_once(':').ok_or("no address")?;
        let connector = Connector::builder(host, port.parse()?).build()?;
        connector.connect().wait()?;
        let join = Join {
            name: name.to_owned(),
            ticket: seat.ticket,
        };
        let join = join.encode_to_vec();
        connector
            .authenticate(seat.match_id, messages::JOIN, &join)
            .wait()?;
        println!("{name} is in match {}", seat.match_id);
        let seat = seat.clone();
        Ok(Self { connector, seat })
    }

    fn ask<M: Message + Default>(&self, msg_id: &str, payload: &[u8]) -> Result<M> {
        let asked = self.connector.request(self.seat.match_id, msg_id, payload);
        let answer = asked
            .wait()
            .map_err(|error: RequestError| error.to_string())?;
        Ok(M::decode(&answer.payload[..])?)
    }

    fn score(&self) -> Result<Player> {
        self.ask(messages::SCORE, &[])
    }

    fn travel(&self, match_id: i64) -> Result<Seat> {
        self.ask(messages::TRAVEL, &Travel { match_id }.encode_to_vec())
    }

    /// Waits for a push about that player.
    fn hear(&self, msg_id: &str, name: &str) -> Result {
        while let Some(event) = self.connector.wait_event(Duration::from_secs(60)) {
            if let Event::Received(packet) = event
                && packet.msg_id == msg_id
                && Player::decode(&packet.payload[..])?.name == name
            {
                return Ok(());
            }
        }
        Err(format!("nobody heard `{msg_id}` of {name}").into())
    }
}

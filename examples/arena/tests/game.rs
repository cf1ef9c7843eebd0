//! The whole game: the server's process, bots over every transport, a connection that is cut.

#[allow(dead_code, reason = "a test says less than a server")]
#[path = "../src/messages.rs"]
mod messages;
mod support;

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use proscenium_connector::{Connector, Event, Packet, Reconnect};
use serde_json::Value;

use messages::{Heading, Position, Standings, Steer, View, Welcome};
use support::{PATIENCE, Program, Proxy};

/// Starts a server and reads where it listens.
fn serve(urls: &[&str], more: &[String]) -> (Program, Vec<String>) {
    let mut args = vec!["serve".to_owned()];
    for url in urls {
        args.extend(["--listen".to_owned(), (*url).to_owned()]);
    }
    args.extend_from_slice(more);
    let mut server = Program::start(&args);
    let listening = |line: &str| line.strip_prefix("listening on ").map(str::to_owned);
    let urls = urls.iter().map(|_| server.wait_for("address", listening));
    let urls = urls.collect();
    (server, urls)
}

/// A certificate for 127.0.0.1 and its key, as files.
struct Certificate {
    folder: PathBuf,
}

impl Certificate {
    fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]);
        let made = made.expect("a certificate");
        let name = format!("arena-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).expect("a folder");
        let this = Self { folder };
        fs::write(this.path("cert.pem"), made.cert.pem()).expect("a file");
        fs::write(this.path("key.pem"), made.signing_key.serialize_pem()).expect("a file");
        this
    }

    fn path(&self, name: &str) -> String {
        self.folder.join(name).to_string_lossy().into_owned()
    }
}

impl Drop for Certificate {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

#[test]
fn bots_play_over_every_transport_until_the_server_ends() {
    let certificate = Certificate::new();
    let option = |name: &str, file: &str| [name.to_owned(), certificate.path(file)];
    let schemes = ["tcp", "ws", "tls", "wss"];
    let listen = schemes.map(|scheme| format!("{scheme}://127.0.0.1:0"));
    let listen: Vec<&str> = listen.iter().map(String::as_str).collect();
    let tls = [option("--cert", "cert.pem"), option("--key", "key.pem")].concat();
    let (server, urls) = serve(&listen, &tls);

    let start = |url: &String, scheme: &str| {
        assert!(url.starts_with(&format!("{scheme}://")), "{url}");
        let trust = certificate.path("cert.pem");
        let options = ["--connect", url, "--trust", &trust, "--name", scheme];
        Program::start(&[&["play", "--bots", "5", "--json"][..], &options].concat())
    };
    let mut bots: Vec<Program> = urls.iter().zip(schemes).map(|(u, s)| start(u, s)).collect();
    let plays = |line: &str| {
        let line: Value = serde_json::from_str(line).expect("every line is JSON");
        let some = |pointer: &str| line.pointer(pointer).and_then(Value::as_f64) > Some(0.0);
        (line["joined"].as_u64() == Some(5))
            .then_some(())
            .filter(|()| some("/coins") && some("/views"))
            .filter(|()| some("/steer_ms/p50") && some("/request_ms/p50"))
    };
    for program in &mut bots {
        program.wait_for("line of bots that play", plays);
    }

    // Those of one transport end by themselves, the others with the server.
    bots[0].terminate();
    let (status, said) = bots.remove(0).end();
    assert!(status.success(), "{said:#?}");
    let last = said.last().expect("they say how it went");
    let last: Value = serde_json::from_str(last).expect("JSON");
    for (name, count) in [("playing", 5), ("disconnects", 0), ("garbled", 0)] {
        assert_eq!(last[name], count, "{name} in {last}");
    }

    server.terminate();
    for program in bots {
        let (status, said) = program.end();
        assert!(status.success(), "{said:#?}");
        let last: Value = serde_json::from_str(said.last().expect("a line")).expect("JSON");
        assert_eq!((&last["gone"], &last["refused"]), (&5.into(), &0.into()));
    }
    let (status, said) = server.end();
    assert!(status.success(), "{said:#?}");
    let closes = said.iter().any(|line| line.starts_with("arena 1 closes: "));
    assert!(closes, "on_destroy was not run: {said:#?}");
}

#[test]
fn bots_that_are_not_let_in_say_why() {
    let (_server, urls) = serve(&["tcp://127.0.0.1:0"], &[]);
    let name = "this-name-is-too-long";
    let args = ["play", "--bots", "2", "--connect", &urls[0], "--name", name];
    let (status, _) = Program::start(&args).end();
    assert_eq!(status.code(), Some(1));
    let (status, _) = Program::start(&["play", "--connect", "http://127.0.0.1:1"]).end();
    assert_eq!(status.code(), Some(2));
}

/// One player.
struct Player {
    connector: Connector,
    welcome: Option<Welcome>,
    view: View,
}

impl Player {
    fn join(port: u16) -> Self {
        let connector = Connector::builder("127.0.0.1", port)
            .reconnect(Reconnect {
                first: Duration::from_millis(10),
                max: Duration::from_millis(100),
                attempts: 0,
            })
            .build()
            .expect("a connector");
        connector.connect().wait().expect("connected");
        let joined = connector.authenticate(1, messages::AUTHENTICATE, b"ann");
        joined.wait().expect("let in");
        Self {
            connector,
            welcome: None,
            view: View::default(),
        }
    }

    /// Takes events until one makes `found` happy.
    #[track_caller]
    fn until<R>(&mut self, what: &str, found: impl Fn(&Self, &Event) -> Option<R>) -> R {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            let Some(event) = self.connector.wait_event(Duration::from_millis(100)) else {
                continue;
            };
            if let Event::Received(Packet {
                msg_id, payload, ..
            }) = &event
            {
                match msg_id.as_str() {
                    messages::WELCOME => self.welcome = Welcome::decode(payload),
                    messages::VIEW => self.view = View::decode(payload).expect("a view"),
                    _ => {}
                }
            }
            if let Some(answer) = found(self, &event) {
                return answer;
            }
        }
        panic!("never happened: {what}");
    }

    fn steer(&self, heading: Heading, input: u8) {
        let steer = Steer { heading, input }.encode();
        self.connector
            .send(1, messages::STEER, &steer)
            .expect("sent");
    }

    /// Where it was last seen, and its last input.
    fn seen(&self) -> Option<(Position, u8)> {
        let id = self.welcome?.id;
        let seen = self.view.players.iter().find(|one| one.id == id)?;
        Some((seen.at, seen.input))
    }

    fn score(&self) -> u32 {
        let answer = self.connector.request(1, messages::STANDINGS, &[]);
        let answer = answer.wait().expect("the standings");
        Standings::decode(&answer.payload).expect("standings").own
    }
}

#[test]
fn who_loses_the_connection_goes_on_where_it_was() {
    // Kept for longer than any machine is slow.
    let keep = ["--keep".to_owned(), "3600".to_owned()];
    let (server, urls) = serve(&["tcp://127.0.0.1:0"], &keep);
    let address = urls[0].trim_start_matches("tcp://").parse::<SocketAddr>();
    let proxy = Proxy::to(address.expect("an address"));

    let mut ann = Player::join(proxy.port);
    let welcome = ann.until("a welcome", |ann, _| ann.welcome);
    assert!(!welcome.resumed);
    let heading = if welcome.at.x < 64 {
        Heading::East
    } else {
        Heading::West
    };
    ann.steer(heading, 1);
    ann.until("a step", |ann, _| {
        ann.seen().filter(|seen| seen.0 != welcome.at)
    });
    ann.steer(Heading::Still, 2);
    let stopped = |ann: &Player, _: &Event| ann.seen().filter(|seen| seen.1 == 2);
    let (at, _) = ann.until("the stop", stopped);
    let score = ann.score();

    ann.welcome = None;
    proxy.cut();
    ann.until("the loss", |_, event| match event {
        Event::Disconnected { reconnecting, .. } => reconnecting.then_some(()),
        _ => None,
    });
    // The welcome is sent first, so it has come when the answer to the authentication has.
    let back = ann.until("the way back", |ann, event| match event {
        Event::Reauthenticated(_) => Some(ann.welcome),
        _ => None,
    });
    let expected = Welcome {
        at,
        score,
        resumed: true,
        ..welcome
    };
    assert_eq!(back, Some(expected));
    assert_eq!(ann.score(), score);

    server.terminate();
    ann.until("the goodbye", |_, event| match event {
        Event::Received(packet) => (packet.msg_id == messages::CLOSING).then_some(()),
        _ => None,
    });
    ann.connector.close();
    let (status, said) = server.end();
    assert!(status.success(), "{said:#?}");
}

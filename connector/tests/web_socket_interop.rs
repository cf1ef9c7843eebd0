//! WebSocket with the programs of others: the npm package `ws` on Node, and Python's `websockets`.
//! As clients of a Play server and of an echo, as servers of a connector and of the engine's.
//!
//! They need those packages, see `tests/support/foreign.rs` of the workspace.
#![cfg(all(feature = "tls", feature = "ws"))]

#[path = "../../tests/support/foreign.rs"]
mod foreign;
#[path = "support/layers.rs"]
mod layers;
#[path = "support/room.rs"]
mod room;
mod support;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Sender, channel};

use layers::TRANSPORTS;
use proscenium_connector::{Connector, DisconnectReason, Event, Transport};
use proscenium_engine::{
    Address, Context, Engine, Framing, Handler, Listener, Message, Peer, RouterId, WebSocketClient,
    WebSocketServer,
};
use support::{AUTH, PATIENCE, next_news};

/// The programs that play the peer, each as a command; without one it says so.
fn peers() -> Vec<Vec<String>> {
    let script = |name: &str| format!("{}/tests/support/{name}", env!("CARGO_MANIFEST_DIR"));
    let mut peers = Vec::new();
    let has_ws = ["node", "-e", "require('ws')"];
    if foreign::program("ws", &has_ws) {
        peers.push(vec!["node".to_owned(), script("ws_peer.cjs")]);
    }
    if let Some(python) = foreign::python("websockets", "websockets") {
        peers.push(vec![python, script("ws_peer.py")]);
    }
    peers
}

fn command(peer: &[String], arguments: &[&str]) -> Command {
    let mut command = Command::new(&peer[0]);
    command.args(&peer[1..]).args(arguments);
    // All is on this machine.
    command.env("NO_PROXY", "*").env("no_proxy", "*");
    command
}

/// Runs a client to its end, which has to be a good one.
#[track_caller]
fn run(peer: &[String], arguments: &[&str]) {
    let output = command(peer, arguments).output().expect("it runs");
    let told = String::from_utf8_lossy(&output.stdout);
    let wrong = String::from_utf8_lossy(&output.stderr);
    let good = output.status.success() && told.trim_end() == "ok";
    assert!(
        good,
        "{peer:?} {arguments:?}: {}\n{told}{wrong}",
        output.status
    );
}

/// A server of theirs; it ends with this.
struct Served {
    child: Child,
    port: u16,
}

impl Served {
    fn start(peer: &[String]) -> Self {
        let mut command = command(peer, &["server"]);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.expect("it runs");
        let output = child.stdout.take().expect("a pipe");
        let line = BufReader::new(output).lines().next();
        let line = line.expect("a line").expect("a line");
        let port = line
            .strip_prefix("port ")
            .and_then(|port| port.parse().ok());
        let port = port.unwrap_or_else(|| panic!("{line}"));
        Self { child, port }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended
        let _ = self.child.wait();
    }
}

#[test]
fn their_clients_play() {
    let peers = peers();
    let identity = layers::Identity::new();
    let server = room::start(&identity);
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let authority = folder.join("web_socket_interop.pem");
    fs::write(&authority, &identity.authority_pem).expect("a writable folder");
    for peer in &peers {
        for (number, transport) in TRANSPORTS.into_iter().enumerate() {
            let scheme = match transport {
                Transport::Ws => "ws",
                Transport::Wss => "wss",
                _ => continue,
            };
            // This one does not compress: that is a matter of the listener of Play servers.
            let address = room::address(&server, number + PLAIN);
            let url = format!("{scheme}://{address}/ws");
            let mut arguments = vec!["client", &url];
            if transport == Transport::Wss {
                arguments.push(authority.to_str().expect("UTF-8"));
            }
            run(peer, &arguments);
        }
    }
    // The second time each comes back to its actor.
    let stats = server.handle().stats();
    let expected = peers.len() as u64;
    assert_eq!((stats.joins, stats.reconnects), (expected, expected));
    server.shutdown(PATIENCE);
}

/// Listeners that do not compress come behind those that do.
const PLAIN: usize = TRANSPORTS.len();

#[test]
fn a_connector_plays_on_their_servers() {
    for peer in peers() {
        let served = Served::start(&peer);
        let connector = Connector::builder("127.0.0.1", served.port)
            .transport(Transport::Ws)
            .connect_timeout(PATIENCE)
            .request_timeout(PATIENCE)
            .send_queue_bytes_max(64 << 20)
            .build()
            .expect("a connector");
        connector.connect().wait().expect("connected");
        let answer = connector.authenticate(1, AUTH, b"me").wait();
        assert_eq!(answer.expect("authenticated").payload, b"welcome");
        let longest = (2 << 20) - 1 - "Echo".len() - 2 - 8 - 2 - 4;
        for length in [0, 1, 109, 110, 65_519, 65_520, 1 << 20, longest] {
            let payload: Vec<u8> = (0..length).map(|n| (n * 31 + n / 251) as u8).collect();
            for id in ["Echo", "Bits"] {
                let answer = connector.request(1, id, &payload).wait();
                let answer = answer.unwrap_or_else(|error| {
                    let news = next_news(&connector);
                    panic!("{peer:?}: {id}, {length} bytes: {error}, {news:?}")
                });
                assert!(answer.payload == payload, "{peer:?}: {id}, {length} bytes");
            }
        }
        // Its ping is answered; what it heard it says in a push.
        connector.send(1, "Ping", b"alive?").expect("sent");
        let pong = loop {
            match next_news(&connector) {
                // Also those that came between the pieces.
                Event::Received(pong) if pong.payload == b"between" => {}
                Event::Received(pong) => break pong,
                event => panic!("{event:?}"),
            }
        };
        assert_eq!((&*pong.msg_id, &pong.payload[..]), ("Pong", &b"alive?"[..]));
        connector.send(1, "Close", b"").expect("sent");
        let event = next_news(&connector);
        let Event::Disconnected { reason, .. } = event else {
            panic!("{event:?}");
        };
        assert!(matches!(reason, DisconnectReason::PeerClosed), "{reason}");
    }
}

/// Sends back what comes, as it came; tells of the connections that it makes, and of what comes
/// there.
struct Echo {
    tell: Option<Sender<String>>,
}

impl Handler for Echo {
    type Post = ();

    fn on_connect(&mut self, cx: &mut Context<'_, ()>, id: RouterId, _: &Peer) {
        if self.tell.is_some() {
            cx.send(id, &[7; 70_000]).expect("room");
            cx.send_text(id, "舞台").expect("room");
        }
    }

    fn on_message(&mut self, cx: &mut Context<'_, ()>, from: RouterId, message: Message<'_>) {
        let Some(tell) = &self.tell else {
            return cx.forward(from, &message).expect("room");
        };
        let what = match message.is_text() {
            true => format!("text {}", String::from_utf8_lossy(&message)),
            false => format!("binary {} {}", message.len(), message[0]),
        };
        tell.send(what).expect("the test waits");
    }
}

#[test]
fn their_clients_and_the_engines_echo_understand_each_other() {
    let listener = Listener::tcp("127.0.0.1:0").expect("an address");
    let listener = listener.framing(Framing::Raw);
    let listener = listener.web_socket(&WebSocketServer::new());
    let server = Engine::builder().listen(listener);
    let server = server.start(|_| Echo { tell: None }).expect("a server");
    let Address::Tcp(address) = &server.local_addrs()[0] else {
        panic!("{:?}", server.local_addrs());
    };
    for peer in peers() {
        run(&peer, &["raw", &format!("ws://{address}/ws")]);
    }
    server.shutdown(PATIENCE);
}

#[test]
fn the_engine_and_their_servers_understand_each_other() {
    for peer in peers() {
        let served = Served::start(&peer);
        let (tell, told) = channel();
        let engine = Engine::builder().start(move |_| Echo {
            tell: Some(tell.clone()),
        });
        let engine = engine.expect("an engine");
        let web_socket = WebSocketClient::new("127.0.0.1", "/echo").expect("a path");
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], served.port));
        let connector = proscenium_engine::Connector::to(address).framing(Framing::Raw);
        let connector = connector.web_socket(&web_socket);
        engine.handle().connect(0, connector).expect("begun");
        for expected in ["binary 70000 7", "text 舞台"] {
            assert_eq!(told.recv_timeout(PATIENCE).expect("an echo"), expected);
        }
        engine.shutdown(PATIENCE);
    }
}

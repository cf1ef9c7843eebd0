//! curl at the door of WebSocket: who does not upgrade, or not as it has to be, gets an answer of
//! HTTP that says why, and who does is switched over.
#![cfg(all(feature = "tls", feature = "ws"))]

#[path = "../../tests/support/foreign.rs"]
mod foreign;
#[path = "support/layers.rs"]
mod layers;
mod support;

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use proscenium_engine::{
    Address, Context, Engine, Framing, Handler, Identity, Listener, Message, Peer, RouterId,
    TlsServer, WebSocketServer,
};
use support::PATIENCE;

/// Greets whoever gets in, and ends.
struct Greeter;

impl Handler for Greeter {
    type Post = ();

    fn on_connect(&mut self, cx: &mut Context<'_, ()>, id: RouterId, _: &Peer) {
        cx.send_text(id, "hello").expect("room");
        cx.close(id);
    }

    fn on_message(&mut self, _: &mut Context<'_, ()>, _: RouterId, _: Message<'_>) {}
}

/// Listens for WebSocket on TCP, and on TLS.
fn server(identity: &layers::Identity) -> (Engine<()>, [SocketAddr; 2]) {
    let (certificate, key) = (&identity.certificate_pem, &identity.key_pem);
    let identity = Identity::from_pem(certificate.as_bytes(), key.as_bytes());
    let tls = TlsServer::builder(identity.expect("a certificate and its key")).build();
    let listener = || {
        let listener = Listener::tcp("127.0.0.1:0").expect("an address");
        listener.framing(Framing::Raw)
    };
    let web_socket = WebSocketServer::new();
    let engine = Engine::builder()
        .listen(listener().web_socket(&web_socket))
        .listen(listener().tls(&tls.expect("TLS")).web_socket(&web_socket));
    let engine = engine.start(|_| Greeter).expect("a server");
    let addresses = engine.local_addrs().iter().map(|address| match address {
        Address::Tcp(address) => *address,
        other => panic!("{other:?}"),
    });
    let addresses: Vec<_> = addresses.collect();
    (engine, [addresses[0], addresses[1]])
}

/// What an upgrade says, in the example of RFC 6455 §1.3.
const UPGRADE: [&str; 4] = [
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
];

struct Curl<'a> {
    authority: &'a str,
}

impl Curl<'_> {
    fn run(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let limit = PATIENCE.as_secs().to_string();
        let output = Command::new("curl")
            .args(["--silent", "--include", "--http1.1", "--noproxy", "*"])
            .args(["--max-time", &limit, "--cacert", self.authority])
            .args(arguments)
            .output()
            .expect("curl");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), text)
    }

    /// The status of the answer, which has to be a whole one, and its headers in lower case.
    #[track_caller]
    fn refused(&self, url: &str, method: &str, headers: &[&str]) -> (u16, String) {
        let mut arguments = vec!["--request", method, url];
        for header in headers {
            arguments.extend(["--header", *header]);
        }
        let (code, text) = self.run(&arguments);
        assert_eq!(code, Some(0), "{method} {url} {headers:?}: {text}");
        let status = text
            .strip_prefix("HTTP/1.1 ")
            .and_then(|rest| rest.get(..3));
        let status = status.and_then(|status| status.parse().ok());
        (
            status.unwrap_or_else(|| panic!("{text}")),
            text.to_lowercase(),
        )
    }
}

#[test]
fn whoever_cannot_be_upgraded_is_told_why() {
    if !foreign::program("curl", &["curl", "--version"]) {
        return;
    }
    let identity = layers::Identity::new();
    let (server, [plain, encrypted]) = server(&identity);
    let authority = authority_file("refused", &identity);
    let curl = Curl {
        authority: &authority,
    };
    let resolve = format!("play.test:{}:127.0.0.1", encrypted.port());
    let secure = format!("https://play.test:{}", encrypted.port());
    let (code, text) = curl.run(&["--resolve", &resolve, &format!("{secure}/ws")]);
    assert!(
        code == Some(0) && text.starts_with("HTTP/1.1 426 "),
        "{text}"
    );

    let ws = format!("http://{plain}/ws");
    let without = |left_out: &str| -> Vec<&str> {
        let rest = UPGRADE
            .iter()
            .filter(|header| !header.starts_with(left_out));
        rest.copied().collect()
    };
    let with = |other: &'static str| {
        let (name, _) = other.split_once(':').expect("a header");
        [without(name), vec![other]].concat()
    };
    for (method, path, headers, status) in [
        ("GET", "/ws", vec![], 426),
        ("GET", "/ws", without("Upgrade"), 426),
        ("GET", "/ws", without("Connection"), 426),
        ("GET", "/ws", without("Sec-WebSocket-Version"), 426),
        ("GET", "/ws", with("Sec-WebSocket-Version: 12"), 426),
        ("GET", "/ws", without("Sec-WebSocket-Key"), 400),
        ("GET", "/ws", with("Sec-WebSocket-Key: c2hvcnQ="), 400),
        ("GET", "/other", UPGRADE.to_vec(), 404),
        ("POST", "/ws", UPGRADE.to_vec(), 405),
        ("DELETE", "/", vec![], 405),
    ] {
        let url = format!("http://{plain}{path}");
        let (told, answer) = curl.refused(&url, method, &headers);
        assert_eq!(told, status, "{method} {path} {headers:?}\n{answer}");
        // It is whole, and the connection is over: nothing is left to be guessed.
        let closes = |line: &str| line.starts_with("connection: ") && line.ends_with("close");
        assert!(answer.lines().any(closes), "{answer}");
        assert!(answer.contains("\r\ncontent-length: "), "{answer}");
        if status == 426 {
            // RFC 6455 §4.2.2, RFC 9110 §15.5.22
            assert!(answer.contains("\r\nsec-websocket-version: 13"), "{answer}");
            assert!(answer.contains("\r\nupgrade: websocket"), "{answer}");
        }
        if status == 405 {
            assert!(answer.contains("\r\nallow: get"), "{answer}"); // RFC 9110 §15.5.6
        }
    }
    let long = format!("X-Long: {}", "x".repeat(16 << 10));
    let (status, _) = curl.refused(&ws, "GET", &[&long]);
    assert_eq!(status, 431);
    let stats = server.handle().stats().total();
    assert_eq!(stats.accepted, 12);
    server.shutdown(PATIENCE);
}

#[test]
fn an_upgrade_switches_protocols() {
    if !foreign::program("curl", &["curl", "--version"]) {
        return;
    }
    let identity = layers::Identity::new();
    let (server, [plain, _]) = server(&identity);
    let authority = authority_file("upgraded", &identity);
    let curl = Curl {
        authority: &authority,
    };
    let url = format!("http://{plain}/ws?room=1");
    let mut arguments = vec!["--output", "-", &url];
    for header in UPGRADE {
        arguments.extend(["--header", header]);
    }
    let (_, text) = curl.run(&arguments);
    assert!(text.starts_with("HTTP/1.1 101 "), "{text}");
    // The answer to the key in the RFC's example.
    let accept = "sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=".to_lowercase();
    assert!(text.to_lowercase().contains(&accept), "{text}");
    server.shutdown(PATIENCE);
}

#[test]
fn curl_speaks_web_socket_where_it_is_built_so() {
    let version = Command::new("curl").arg("--version").output();
    let version = version.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let protocols = version.unwrap_or_default();
    let speaks = protocols
        .split_whitespace()
        .any(|protocol| protocol == "ws");
    let there = speaks
        .then_some(())
        .ok_or("a curl without ws://".to_owned());
    if foreign::require("curl-ws", there).is_none() {
        return;
    }
    let identity = layers::Identity::new();
    let (server, [plain, _]) = server(&identity);
    let authority = authority_file("spoken", &identity);
    let curl = Curl {
        authority: &authority,
    };
    let (_, text) = curl.run(&["--no-buffer", &format!("ws://{plain}/ws")]);
    assert!(text.contains("hello"), "{text}");
    server.shutdown(PATIENCE);
}

/// A file of one test alone, with the authority's certificate.
fn authority_file(test: &str, identity: &layers::Identity) -> String {
    let name = format!("web_socket_curl_{test}.pem");
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::write(&path, &identity.authority_pem).expect("a writable folder");
    path.to_str().expect("UTF-8").to_owned()
}

//! The `openssl` program as the other side, where there is one (see `support/foreign.rs`).

#[path = "support/foreign.rs"]
mod foreign;
mod support;
#[path = "support/tls.rs"]
mod tls;

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;

use proscenium::{
    ClientCertificates, Connector, Framing, HandshakeKind, RouterId, TlsInfo, TlsServerBuilder,
    TlsVersion,
};
use support::{Behaviour, PATIENCE, Server, engine, frame, loopback, patient, read_frame};
use tls::{Authority, NAME, Pems};

/// Whether there is an `openssl` to talk to.
#[track_caller]
fn has_openssl() -> bool {
    foreign::program("openssl", &["openssl", "version"])
}

/// A file in a folder of this test alone.
fn file(test: &str, name: &str, text: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("tls_interop_{test}"));
    fs::create_dir_all(&folder).unwrap();
    let path = folder.join(name);
    fs::write(&path, text).unwrap();
    path
}

/// A running `openssl`; ended with the test, whatever happens.
struct Openssl {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<Output>,
}

/// What a process writes, read by a thread so that waiting for it has an end.
struct Output {
    chunks: mpsc::Receiver<Vec<u8>>,
    rest: Vec<u8>,
}

impl Output {
    fn new(from: Vec<Box<dyn Read + Send>>) -> Self {
        let (send, chunks) = mpsc::channel();
        for mut from in from {
            let send = send.clone();
            std::thread::spawn(move || {
                let mut chunk = vec![0; 65_536];
                while let Ok(length @ 1..) = from.read(&mut chunk)
                    && send.send(chunk[..length].to_vec()).is_ok()
                {}
            });
        }
        let rest = Vec::new();
        Self { chunks, rest }
    }
}

impl Read for Output {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.rest.is_empty() {
            match self.chunks.recv_timeout(PATIENCE) {
                Ok(chunk) => self.rest = chunk,
                Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(0),
                Err(mpsc::RecvTimeoutError::Timeout) => return Err(io::ErrorKind::TimedOut.into()),
            }
        }
        let length = into.len().min(self.rest.len());
        into[..length].copy_from_slice(&self.rest[..length]);
        self.rest.drain(..length);
        Ok(length)
    }
}

impl Openssl {
    /// What it says of itself (on standard error) comes among what it receives, unless it is
    /// `-quiet`.
    fn new(arguments: &[&str]) -> Self {
        let mut child = Command::new("openssl")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut from: Vec<Box<dyn Read + Send>> = vec![Box::new(child.stdout.take().unwrap())];
        if !arguments.contains(&"-quiet") {
            from.push(Box::new(child.stderr.take().unwrap()));
        }
        Self {
            input: child.stdin.take(),
            output: BufReader::new(Output::new(from)),
            child,
        }
    }

    /// One that connects, expects [`NAME`] and trusts the authority.
    fn client(server: &Server, files: &Files, more: &[&str]) -> Self {
        let address = server.address().to_string();
        #[rustfmt::skip]
        let first = [
            "s_client", "-connect", &address, "-servername", NAME, "-CAfile", &files.authority,
        ];
        Self::new(&[&first[..], more].concat())
    }

    fn write(&mut self, bytes: &[u8]) {
        let input = self.input.as_mut().unwrap();
        input.write_all(bytes).unwrap();
        input.flush().unwrap();
    }

    /// Lines of its output, up to the first that `fits`.
    #[track_caller]
    fn until(&mut self, what: &str, fits: impl Fn(&str) -> bool) -> String {
        let mut seen = String::new();
        loop {
            let mut line = Vec::new();
            let length = self.output.read_until(b'\n', &mut line);
            let length = length.unwrap_or_else(|error| panic!("{what}: {error}\n{seen}"));
            let line = String::from_utf8_lossy(&line).into_owned();
            seen.push_str(&line);
            assert!(length > 0, "{what} never came:\n{seen}");
            if fits(line.trim_end()) {
                return line;
            }
        }
    }
}

impl Drop for Openssl {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended
        let _ = self.child.wait();
    }
}

/// Echoes bytes as they come.
fn raw_echo(tls: TlsServerBuilder) -> Server {
    let tls = tls.build().unwrap();
    let listener = loopback().framing(Framing::Raw).tls(&tls);
    Server::with(patient(), listener, Behaviour::echo())
}

fn info(server: &Server, id: RouterId) -> TlsInfo {
    server
        .on(0, move |cx| cx.tls(id).cloned())
        .expect("it speaks TLS")
}

struct Files {
    authority: String,
    certificate: String,
    key: String,
}

fn files(test: &str, authority: &Authority, pems: &Pems) -> Files {
    let path = |name: &str, text: &str| file(test, name, text).to_str().unwrap().to_owned();
    Files {
        authority: path("ca.pem", &authority.pem()),
        certificate: path("own.pem", &pems.certificate),
        key: path("own.key", &pems.key),
    }
}

#[test]
fn s_client_sends_and_gets_long_messages() {
    if !has_openssl() {
        return;
    }
    let authority = Authority::new();
    for version in ["-tls1_3", "-tls1_2"] {
        let test = format!("long{version}");
        let own = authority.issue("player");
        let files = files(&test, &authority, &own);
        let server = authority.server().tls12(true).alpn(["game/1"]);
        let server =
            server.client_certificates(ClientCertificates::Required(authority.pem().into_bytes()));
        let tls = server.build().unwrap();
        let server = Server::with(patient(), loopback().tls(&tls), Behaviour::echo());
        let mut client = Openssl::client(
            &server,
            &files,
            &[
                "-cert",
                &files.certificate,
                "-key",
                &files.key,
                "-verify_return_error",
                "-alpn",
                "game/1",
                "-quiet",
                version,
            ],
        );
        for length in [5, 64 << 10, 1 << 20, 2 << 20] {
            let body: Vec<u8> = (0..length).map(|i| (i * 31 + i / 253) as u8).collect();
            // Written by another thread, because it echoes what it has not all read yet.
            let sent = frame(&body);
            let mut input = client.input.take().unwrap();
            let writing = std::thread::spawn(move || {
                input.write_all(&sent).unwrap();
                input.flush().unwrap();
                input
            });
            assert!(read_frame(&mut client.output) == body, "{length} bytes");
            client.input = Some(writing.join().unwrap());
        }
        let id = server.nth(0);
        let info = info(&server, id);
        let expected = if version == "-tls1_3" {
            TlsVersion::Tls13
        } else {
            TlsVersion::Tls12
        };
        assert_eq!(info.version, expected);
        assert_eq!(info.server_name.as_deref(), Some(NAME));
        assert_eq!(info.alpn.as_deref(), Some(&b"game/1"[..]));
        assert_eq!(info.peer_certificate(), Some(&own.der()[..]));
        // We end: openssl sees a proper end and ends as well.
        server.on(0, move |cx| cx.close(id));
        let mut rest = Vec::new();
        client.output.read_to_end(&mut rest).unwrap();
        assert!(rest.is_empty());
        server.log.until_closed(id);
        server.shutdown();
    }
}

#[test]
fn s_client_changes_keys_and_comes_back_with_a_ticket() {
    if !has_openssl() {
        return;
    }
    let authority = Authority::new();
    let files = files("keys", &authority, &authority.issue("player"));
    let server = raw_echo(authority.server());
    let session = file("keys", "session", "").to_str().unwrap().to_owned();
    let mut client = Openssl::client(&server, &files, &["-sess_out", &session]);
    client.write(b"one\n");
    client.until("an echo", |line| line == "one");
    // A line "K" asks for a key update in both directions, "k" in one.
    for (command, text) in [("K", "two"), ("k", "three"), ("K", "four")] {
        client.write(format!("{command}\n").as_bytes());
        client.until("the update", |line| line.contains("KEYUPDATE"));
        client.write(format!("{text}\n").as_bytes());
        client.until("an echo", |line| line == text);
    }
    client.write(b"Q\n");
    assert_eq!(server.log.until_closed(server.nth(0)).0, "peer_closed");
    drop(client);
    let mut client = Openssl::client(&server, &files, &["-sess_in", &session]);
    client.until("its report", |line| line.starts_with("Reused, TLSv1.3"));
    client.write(b"back\n");
    client.until("an echo", |line| line == "back");
    let second = server.nth(1);
    assert_eq!(info(&server, second).kind, HandshakeKind::Resumed);
    server.shutdown();
}

#[test]
fn s_client_may_not_renegotiate() {
    if !has_openssl() {
        return;
    }
    let authority = Authority::new();
    let files = files("renegotiate", &authority, &authority.issue("player"));
    let server = raw_echo(authority.server().tls12(true));
    let mut client = Openssl::client(&server, &files, &["-tls1_2"]);
    client.write(b"one\n");
    client.until("an echo", |line| line == "one");
    client.write(b"R\n");
    let id = server.nth(0);
    let (reason, text) = server.log.until_closed(id);
    assert!(
        ["tls", "peer_closed", "tls_truncated"].contains(&reason),
        "it is refused, or gives up when told no: {reason}, {text}"
    );
    server.shutdown();
}

#[test]
fn an_engine_talks_to_s_server() {
    if !has_openssl() {
        return;
    }
    let authority = Authority::new();
    for version in ["-tls1_3", "-tls1_2"] {
        let test = format!("server{version}");
        let files = files(&test, &authority, &authority.issue(NAME));
        let mut server = Openssl::new(&[
            "s_server",
            "-accept",
            "127.0.0.1:0",
            "-cert",
            &files.certificate,
            "-key",
            &files.key,
            "-CAfile",
            &files.authority,
            "-Verify",
            "2",
            "-alpn",
            "game/1",
            "-rev",
            version,
        ]);
        let accept = server.until("its address", |line| line.starts_with("ACCEPT "));
        let address = accept.trim()["ACCEPT ".len()..].to_owned();
        let (echo, received) = mpsc::channel();
        let behaviour = Behaviour::on_message(move |_, _, message| {
            let _ = echo.send(message.to_vec()); // the test may be over
        });
        let client = Server::start(engine(), behaviour);
        let own = authority.issue("player");
        let tls = authority
            .client()
            .tls12(true)
            .alpn(["game/1"])
            .identity(own.identity());
        let connector = Connector::parse(&address).unwrap().framing(Framing::Raw);
        let connector = connector.tls(&tls.build().unwrap());
        client.on(0, move |cx| cx.connect(&connector));
        let id = client.nth(0);
        let info = info(&client, id);
        assert_eq!(info.alpn.as_deref(), Some(&b"game/1"[..]));
        assert_eq!(info.version == TlsVersion::Tls13, version == "-tls1_3");
        // It answers each line backwards.
        let line: Vec<u8> = (0..5000).map(|i| b'a' + (i % 26) as u8).collect();
        let mut sent = line.clone();
        sent.push(b'\n');
        client.on(0, move |cx| cx.send(id, &sent)).unwrap();
        let mut back = Vec::new();
        while back.len() < line.len() + 1 {
            back.extend(received.recv_timeout(PATIENCE).expect("an answer"));
        }
        let mut expected: Vec<u8> = line.iter().rev().copied().collect();
        expected.push(b'\n');
        assert!(back == expected, "{} bytes", back.len());
        client.shutdown();
    }
}

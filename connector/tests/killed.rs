//! A server process that is killed, and comes again: its clients come back by themselves.
#![cfg(all(unix, feature = "tls", feature = "ws"))]

#[path = "support/layers.rs"]
mod layers;
#[path = "support/room.rs"]
mod room;
mod support;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use proscenium_connector::{Connector, Event, Reconnect, RequestError};
use support::{AUTH, PATIENCE, next_event, next_news};

/// The port of a server, when this test binary is run as one; 0 takes a free one.
const PORT: &str = "PROSCENIUM_TEST_PORT";

/// A Play server in a process of its own, with one room.
struct Process {
    child: Child,
    port: u16,
}

impl Process {
    /// On a port that may still be that of connections which are about to end.
    fn start(port: u16) -> Self {
        let begin = Instant::now();
        loop {
            let mut child = Command::new(std::env::current_exe().expect("this test"))
                .args(["--exact", "serves_until_its_input_ends"])
                .env(PORT, port.to_string())
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .expect("a process");
            let output = child.stdout.take().expect("a pipe");
            let lines = BufReader::new(output).lines();
            let mut lines = lines.map_while(std::result::Result::ok);
            // Among what the test harness says.
            let port = lines.find_map(|line| line.strip_prefix("port ")?.parse().ok());
            match port {
                Some(port) => return Self { child, port },
                None => drop(child.wait()),
            }
            assert!(begin.elapsed() < PATIENCE, "no server on port {port:?}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// As `kill -9` does it.
    fn kill(mut self) -> u16 {
        self.child.kill().expect("killed");
        self.child.wait().expect("dead");
        self.port
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may be dead
        let _ = self.child.wait();
    }
}

/// The server, if this is its process.
#[test]
fn serves_until_its_input_ends() {
    let Ok(port) = std::env::var(PORT) else {
        return; // a test, and nobody's server
    };
    let address = format!("127.0.0.1:{port}");
    let server = room::start_plain(&address).expect("a server");
    let port = room::address(&server, 0).port();
    // Not `println!`, which the harness keeps to itself.
    writeln!(std::io::stdout(), "\nport {port}").expect("somebody reads");
    let _ = std::io::stdin().read(&mut [0]);
}

#[test]
fn who_loses_a_killed_server_authenticates_with_the_next_one() {
    let mut server = Process::start(0);
    let connector = Connector::builder("127.0.0.1", server.port)
        .connect_timeout(PATIENCE)
        .request_timeout(PATIENCE)
        .reconnect(Reconnect {
            first: Duration::from_millis(1),
            max: Duration::from_millis(50),
            attempts: 0,
        })
        .build()
        .expect("a connector");
    connector.connect().wait().expect("connected");
    let answer = connector.authenticate(1, AUTH, b"ann").wait();
    assert_eq!(answer.expect("authenticated").payload, b"welcome");
    for _ in 0..3 {
        let answer = connector.request(1, "Echo", b"here").wait();
        assert_eq!(answer.expect("an answer").payload, b"here");
        let never = connector.request(1, "Never", b"");
        let port = server.kill();
        assert_eq!(
            never.wait().expect_err("killed"),
            RequestError::Disconnected
        );
        let event = next_news(&connector);
        let lost = matches!(
            event,
            Event::Disconnected {
                reconnecting: true,
                ..
            }
        );
        assert!(lost, "{event:?}");
        assert!(!connector.is_authenticated());
        // While nobody is there it tries again and again.
        let event = next_event(&connector);
        let tried = matches!(
            event,
            Event::ConnectFailed {
                reconnecting: true,
                ..
            }
        );
        assert!(tried, "{event:?}");

        server = Process::start(port);
        loop {
            match next_event(&connector) {
                Event::ConnectFailed {
                    reconnecting: true, ..
                }
                | Event::Connected => {}
                Event::Reauthenticated(answer) => break assert_eq!(answer.payload, b"welcome"),
                event => panic!("{event:?}"),
            }
        }
    }
    let answer = connector.request(1, "Echo", b"again").wait();
    assert_eq!(answer.expect("an answer").payload, b"again");
}

//! A Play server and libzmq: a ROUTER of pyzmq asks its stages, and is asked by them.
//!
//! It needs a Python with pyzmq, see `tests/support/foreign.rs` of the workspace.

#[path = "../../tests/support/foreign.rs"]
mod foreign;
mod support;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use support::mesh::{answer, ask_stage, create, linked, node_of, server_at};
use support::{PATIENCE, eventually, tcp};

/// A process that runs the peer of nodelink's tests; it ends with this.
struct ZmqPeer {
    child: Child,
    lines: Receiver<String>,
}

impl ZmqPeer {
    fn start(python: &str, arguments: &[&str]) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../nodelink/tests/zmq_peer.py");
        let mut child = Command::new(python)
            .arg(script)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = child.stdout.take().unwrap();
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    fn ask(&mut self, line: &str) {
        let input = self.child.stdin.as_mut().unwrap();
        writeln!(input, "{line}").unwrap();
    }

    #[track_caller]
    fn line(&self) -> String {
        let line = self.lines.recv_timeout(PATIENCE);
        line.expect("a line of the peer")
    }
}

impl Drop for ZmqPeer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_router_of_libzmq_asks_stages_and_is_asked() {
    let Some(python) = foreign::python("pyzmq", "zmq") else {
        return;
    };
    for shards in [1, 3] {
        let (server, _) = server_at("play-1", &[], |builder| builder.shards(shards));
        // The peer names no stage: that is stage 0.
        create(&server, 0..5);
        let port = format!("connect={}", tcp(&server.node_addrs()[0]).port());
        let mut peer = ZmqPeer::start(&python, &["legacy-1", &port]);
        linked(&node_of(&server), "legacy-1");
        for (seq, length) in [(1, 0), (65_535, 300), (7, 1_000_000)] {
            peer.ask(&format!("request play-1 {seq} {length}"));
            assert_eq!(
                peer.line(),
                format!("reply play-1 {seq} EchoReply 0 {length}")
            );
        }
        for stage in 0..5 {
            let asked = || ask_stage(&server, stage, "AskApi", "legacy-1 0 Echo hello").ok();
            let echoed = eventually("a shard that knows the peer", asked);
            assert_eq!(Ok(echoed), answer("Echo", "hello"));
            assert!(peer.line().starts_with("request play-1 "));
            let failed = ask_stage(&server, stage, "AskApi", "legacy-1 0 Fail x");
            assert_eq!(failed, Err(1234));
            assert!(peer.line().contains(" Fail 0 1"));
        }
        let told = ask_stage(&server, 1, "TellApi", "legacy-1 0 News today");
        assert_eq!(told, answer("TellReply", ""));
        assert_eq!(peer.line(), "message play-1 0 News 0 5");
        // No stage, and then no peer.
        assert!(server.handle().destroy_stage(0).wait(PATIENCE).unwrap());
        peer.ask("request play-1 9 1");
        assert_eq!(peer.line(), "reply play-1 9 Echo 3 0");
        drop(peer);
        eventually("no route", || {
            let asked = ask_stage(&server, 1, "AskApi", "legacy-1 0 Echo x");
            (asked == Err(2)).then_some(())
        });
    }
}

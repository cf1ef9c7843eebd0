//! A pyzmq program and an API server: it asks, and is asked.

#[path = "../../tests/support/foreign.rs"]
mod foreign;
#[path = "support/scripted.rs"]
mod scripted;

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;

use proscenium_engine::Address;
use proscenium_play::api::ApiCx;
use proscenium_play::{Content, ErrorCode, Failure, Result};
use scripted::{PATIENCE, api, wait_routable};

async fn echo(cx: ApiCx, request: Content) -> Result<Content> {
    assert_eq!(cx.from().as_str(), "zmq-1");
    Ok(Content::new("Echoed", request.payload))
}

#[test]
fn a_zmq_program_asks_handlers_and_answers_requests() {
    let Some(python) = foreign::python("pyzmq", "zmq") else {
        return;
    };
    let server = api("api-1")
        .handle("Echo", echo)
        .handle("Send", |cx, content| async move {
            // The other way round: the handler asks who sent it something.
            let sent = content.payload.len();
            let echoed = cx
                .request_to_api(cx.from(), "Echo", &content.payload)
                .await?;
            match echoed.payload == content.payload {
                true => Ok(cx.send_to_api(cx.from(), "Done", vec![7; sent])?),
                false => Err(Failure::new("another payload came back")),
            }
        });
    let server = server.start().unwrap();
    let Address::Tcp(at) = server.local_addrs()[0].clone() else {
        panic!("not TCP");
    };
    // It answers `Echo` with what it is sent, and `Fail` with error 1234.
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../nodelink/tests/zmq_peer.py");
    let mut peer = Command::new(python)
        .args([script, "zmq-1", &format!("connect={}", at.port())])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = peer.stdin.take().unwrap();
    let output = BufReader::new(peer.stdout.take().unwrap());
    let (said, lines) = channel();
    std::thread::spawn(move || {
        output
            .lines()
            .map_while(|line| line.ok())
            .try_for_each(|line| said.send(line))
    });
    let line = || lines.recv_timeout(PATIENCE).expect("a line of the peer");
    let sender = server.sender();
    wait_routable(sender.node(), "zmq-1");

    for length in [0, 300, 2_000_000] {
        writeln!(input, "request api-1 77 {length}").unwrap();
        assert_eq!(line(), format!("reply api-1 77 Echoed 0 {length}"));
    }
    writeln!(input, "send api-1 hello").unwrap();
    assert!(line().starts_with("request api-1 "));
    assert_eq!(line(), "message api-1 0 Done 0 5");
    let failed = sender.request_to_api("zmq-1", "Fail", ()).wait();
    assert_eq!(failed, Err(ErrorCode(1234)));
    drop(input); // it ends
    assert!(peer.wait().unwrap().success());
}

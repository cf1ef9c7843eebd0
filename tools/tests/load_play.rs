//! The load on a Play server: clients get in, are answered, and what goes wrong is told.

mod common;

use std::io::{Read, Write};
use std::process::Command;

use common::{Echo, LARGE, Loaded, assert_explained, proscenium, read_frame, server};
use proscenium_framing::packet::{ClientPacket, ErrorCode, ServerPacket};

/// Runs `proscenium load play` against the target; small and short unless `args` say more.
#[track_caller]
fn play(target: &str, scenario: &str, args: &[&str]) -> Loaded {
    let mut command: Command = proscenium();
    command.args(["load", "play", "--target", target, "--scenario", scenario]);
    common::finish(command, args)
}

#[track_caller]
fn assert_all_in(run: &Loaded) {
    run.assert_pass();
    assert_eq!(run.number("join_success"), run.number("ccu"), "{run}");
    assert!(run.number("join_seconds") > 0.0, "{run}");
}

#[test]
fn one_client_gets_in_asks_and_is_answered() {
    let echo = Echo::start(&["--mode", "play"]);
    let run = play(&echo.address, "s0", &[]);
    assert_all_in(&run);
    assert_eq!(
        (run.number("sent"), run.number("recv")),
        (1.0, 1.0),
        "{run}"
    );
}

#[test]
fn all_get_in_and_nothing_is_asked() {
    let echo = Echo::start(&["--mode", "play"]);
    let run = play(&echo.address, "s1", &["--connect-concurrency", "7"]);
    assert_all_in(&run);
    assert_eq!(run.number("sent"), 0.0, "{run}");
    assert!(run.summary.contains("joined      50 of 50"), "{run}");
    let summary = echo.terminate();
    assert!(summary.contains("50 accepted"), "{summary}");
}

#[test]
fn requests_and_sends_come_back_whole_on_every_transport() {
    for (echo, client, transport) in [
        (&[][..], &[][..], "tcp"),
        (&["--tls"], &["--tls"], "tls"),
        (&["--ws"], &["--ws"], "ws"),
        (&["--ws", "--tls"], &["--ws", "--tls"], "wss"),
        (&["--framing", "be32"], &["--length", "be32"], "tcp"),
    ] {
        let server = Echo::start(&[&["--mode", "play"], echo].concat());
        for mode in ["request", "send"] {
            let more = ["--mode", mode, "--verify", "full"];
            let run = play(&server.address, "s2", &[client, &more].concat());
            assert_all_in(&run);
            assert_eq!(run.record["transport"], transport, "{run}");
            assert!(run.number("throughput") > 0.0, "{run}");
        }
    }
}

#[test]
fn an_offered_rate_threads_and_shards_go_together() {
    let echo = Echo::start(&["--mode", "play", "--shards", "2"]);
    let more = [
        "--rate",
        "2000",
        "--burst",
        "1",
        "--threads",
        "2",
        "--stages",
        "5",
    ];
    assert_all_in(&play(&echo.address, "s2", &more));
}

#[test]
fn what_one_says_reaches_all_in_the_stage() {
    let echo = Echo::start(&["--mode", "play"]);
    for mode in ["broadcast", "each"] {
        for stages in ["1", "7"] {
            let more = [
                "--mode", mode, "--stages", stages, "--size", "256", "--verify", "full",
            ];
            let run = play(&echo.address, "s2", &more);
            assert_all_in(&run);
            assert!(run.number("recv") >= 50.0, "{run}");
            let rate = [&more[..], &["--rate", "20000", "--burst", "2"]].concat();
            assert_all_in(&play(&echo.address, "s2", &rate));
        }
    }
}

#[test]
fn a_large_packet_comes_back_whole() {
    let echo = Echo::start(&["--mode", "play"]);
    assert_all_in(&play(&echo.address, "s2", &LARGE));
}

/// A server that answers every packet by this.
fn answering(answer: impl Fn(&ClientPacket<'_>) -> Vec<u8> + Send + Clone + 'static) -> String {
    server(move |mut stream| {
        loop {
            let body = read_frame(&mut stream)?;
            let packet = ClientPacket::decode(&body).map_err(std::io::Error::other)?;
            let answer = answer(&packet);
            stream.write_all(&(answer.len() as u32).to_be_bytes())?;
            stream.write_all(&answer)?;
        }
    })
}

fn encoded(packet: &ServerPacket<'_>) -> Vec<u8> {
    let mut bytes = vec![0; packet.encoded_len()];
    packet.encode(&mut bytes).expect("it has an id and room");
    bytes
}

/// `error` in the record has this many.
#[track_caller]
fn assert_error(run: &Loaded, name: &str) {
    run.assert_fail();
    let count = run.record["errors"][name].as_u64();
    assert!(count.is_some_and(|count| count > 0), "{name}: {run}");
}

#[test]
fn who_is_kept_out_fails_the_run_by_its_code() {
    let target = answering(|packet| {
        let code = ErrorCode::AUTHENTICATION_FAILED;
        encoded(&ServerPacket::failure(
            "No",
            packet.seq,
            packet.stage_id,
            code,
        ))
    });
    let run = play(&target, "s1", &["--ccu", "3", "--length", "be32"]);
    assert_error(&run, "error_5");
    assert_eq!(run.number("join_success"), 0.0, "{run}");
    let told = run.record["failures"].to_string();
    assert!(told.contains("3 clients were not let in"), "{told}");
}

#[test]
fn wrong_answers_fail_the_run_by_what_is_wrong_with_them() {
    for (name, wrong) in [
        ("error_12", (0, 0, ErrorCode::HANDLER_NOT_FOUND)),
        ("out_of_order", (1, 0, ErrorCode::SUCCESS)),
        ("other_stage", (0, 1, ErrorCode::SUCCESS)),
    ] {
        let (seq, stage, error) = wrong;
        let target = answering(move |packet| {
            let reply = ServerPacket::reply("R", packet.seq, packet.stage_id, packet.payload);
            if packet.msg_id != "Echo" {
                return encoded(&reply);
            }
            encoded(&ServerPacket {
                seq: reply.seq + seq,
                stage_id: reply.stage_id + stage,
                error,
                ..reply
            })
        });
        let run = play(&target, "s2", &["--ccu", "2", "--length", "be32"]);
        assert_error(&run, name);
        assert!(run.number("corrupt") > 0.0, "{run}");
    }
}

#[test]
fn options_that_do_not_go_together_are_explained() {
    for (args, expected) in [
        (&["--mode", "broadcast", "--threads", "2"][..], "--threads"),
        (&["--authentication", ""], "--authentication"),
    ] {
        let base = [
            "load",
            "play",
            "--target",
            "127.0.0.1:1",
            "--scenario",
            "s2",
        ];
        assert_explained(&[&base[..], args].concat(), expected);
    }
    let raw = ["echo", "--mode", "play", "--framing", "raw"];
    assert_explained(&raw, "packets with a length");
}

#[test]
fn stages_of_a_play_server_are_in_its_metrics() {
    let mut echo = Echo::start(&[
        "--mode",
        "play",
        "--shards",
        "2",
        "--metrics",
        "127.0.0.1:0",
    ]);
    let line = echo.error_line();
    let url = line.trim_end().strip_prefix("metrics at http://").unwrap();
    let address = url.strip_suffix("/metrics").unwrap();
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    for shard in 0..2 {
        let row = format!("proscenium_stages_live{{shard=\"{shard}\"}} 0");
        assert!(text.lines().any(|line| line == row), "no {row} in\n{text}");
    }
    echo.terminate();
}

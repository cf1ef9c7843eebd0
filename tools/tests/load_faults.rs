//! The load generator against servers that misbehave: each fault is seen and fails the run.

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use common::signal::send_signal;
use common::{assert_explained, load, proscenium, read_frame, server, write_frame};

/// Echoes frames after changing them.
fn changed(change: fn(&mut Vec<u8>)) -> String {
    server(move |mut stream: TcpStream| {
        loop {
            let mut body = read_frame(&mut stream)?;
            change(&mut body);
            write_frame(&mut stream, &body)?;
        }
    })
}

#[test]
fn changed_bytes_are_corrupt() {
    type Change = fn(&mut Vec<u8>);
    let changes: [(Change, &str, &str); 5] = [
        (|body| body[500] ^= 1, "full", "corrupt_pattern"),
        (|body| body[1023] ^= 1, "sample", "corrupt_pattern"),
        (|body| body[0] = 9, "sample", "corrupt_phase"),
        (|body| body[8] = 0xff, "sample", "corrupt_stamp"),
        (|body| body.truncate(1000), "sample", "corrupt_length"),
    ];
    for (change, verify, name) in changes {
        let run = load(&changed(change), "s2", &["--verify", verify, "--ccu", "5"]);
        run.assert_fail();
        assert!(run.number("corrupt") > 0.0, "{name}: {run}");
        assert_eq!(run.number("corrupt"), run.number("recv"), "{name}: {run}");
        assert!(
            run.record["errors"][name].as_u64().unwrap() > 0,
            "{name}: {run}"
        );
    }
    let run = load(&changed(|body| body[9] ^= 1), "s0", &[]);
    run.assert_fail();
    assert_eq!(run.number("corrupt"), 1.0, "{run}");
}

#[test]
fn an_honest_server_of_the_same_make_passes() {
    let address = changed(|_| ());
    load(&address, "s0", &[]).assert_pass();
    load(&address, "s2", &["--ccu", "5", "--verify", "full"]).assert_pass();
}

#[test]
fn silence_is_a_drain_timeout() {
    let silent = server(|mut stream| {
        while stream.read(&mut [0; 4096])? > 0 {}
        Ok(())
    });
    for scenario in ["s0", "s2"] {
        let run = load(&silent, scenario, &["--ccu", "5", "--drain", "300ms"]);
        run.assert_fail();
        let connections = if scenario == "s0" { 1.0 } else { 5.0 };
        assert_eq!(run.number("drain_timeout"), connections, "{run}");
        assert_eq!(
            (run.number("recv"), run.number("incomplete_ratio")),
            (0.0, 1.0),
            "{run}"
        );
        assert!(run.number("sent") > 0.0, "{run}");
    }
}

#[test]
fn answers_nobody_asked_for_are_gating_violations() {
    let eager = server(|mut stream| {
        write_frame(&mut stream, b"hello")?;
        loop {
            let body = read_frame(&mut stream)?;
            write_frame(&mut stream, &body)?;
        }
    });
    let run = load(&eager, "s2", &["--ccu", "5"]);
    run.assert_fail();
    // A greeting is either seen before anything was asked: a violation; or it is taken for the
    // first answer, and is not what was sent.
    let seen = run.number("gating_violation") + run.number("corrupt");
    assert!(seen >= 5.0, "{run}");
}

#[test]
fn doubled_answers_are_gating_violations() {
    let double = server(|mut stream| {
        loop {
            let body = read_frame(&mut stream)?;
            let mut frame = (body.len() as u32).to_be_bytes().to_vec();
            frame.extend_from_slice(&body);
            // In one write, so that the client cannot be done before the second one is there.
            stream.write_all(&frame.repeat(2))?;
        }
    });
    let run = load(&double, "s0", &[]);
    run.assert_fail();
    assert_eq!(run.number("gating_violation"), 1.0, "{run}");
}

#[test]
fn a_refused_connection_is_a_connect_failure() {
    // Bound, so that nobody gets the port, not even a client for its own end; and not listening.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    socket.bind(&any.into()).unwrap();
    let target = socket
        .local_addr()
        .unwrap()
        .as_socket()
        .unwrap()
        .to_string();
    for scenario in ["s0", "s1", "s2"] {
        let run = load(&target, scenario, &["--ccu", "20"]);
        run.assert_fail();
        let connections = if scenario == "s0" { 1.0 } else { 20.0 };
        assert_eq!(run.number("connect_fail"), connections, "{run}");
        assert_eq!(run.number("connect_success"), 0.0, "{run}");
        let refused = format!("ECONNREFUSED:{connections}");
        assert_eq!(run.record["errors_by_errno"], refused.as_str(), "{run}");
    }
}

#[test]
fn lost_connections_fail_the_run_and_are_not_awaited() {
    let served = Arc::new(AtomicU64::new(0));
    let leaving = server(move |mut stream| {
        // Every second connection ends after its first answer.
        let leaves = served.fetch_add(1, Ordering::Relaxed).is_multiple_of(2);
        loop {
            let body = read_frame(&mut stream)?;
            write_frame(&mut stream, &body)?;
            if leaves {
                return Ok(());
            }
        }
    });
    let run = load(&leaving, "s2", &["--ccu", "10", "--drain", "60s"]);
    run.assert_fail();
    assert_eq!(run.number("lost"), 5.0, "{run}");
    assert_eq!(run.number("drain_timeout"), 0.0, "{run}");
    assert!(run.number("recv") > 0.0, "{run}");
}

#[test]
fn a_run_without_connections_ends_early() {
    let leaving = server(|mut stream| {
        for _ in 0..100 {
            let body = read_frame(&mut stream)?;
            write_frame(&mut stream, &body)?;
        }
        Ok(())
    });
    let args = [
        "--ccu",
        "5",
        "--warmup",
        "10m",
        "--measure",
        "10m",
        "--drain",
        "10m",
    ];
    let run = load(&leaving, "s2", &args);
    run.assert_fail();
    assert_eq!(run.number("lost"), 5.0, "{run}");
}

#[test]
fn a_run_that_is_interrupted_still_reports() {
    let (asked, first) = std::sync::mpsc::channel();
    let address = server(move |mut stream| {
        loop {
            let body = read_frame(&mut stream)?;
            write_frame(&mut stream, &body)?;
            // Nobody listens after the first.
            let _ = asked.send(());
        }
    });
    let child = proscenium()
        .args([
            "load",
            "stream",
            "--target",
            &address,
            "--scenario",
            "s2",
            "--ccu",
            "3",
        ])
        .args(["--measure", "10m", "--json", "-"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    first.recv().unwrap();
    send_signal(child.id(), "INT");
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let record: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        record["failures"][0], "1 signal broke the run off",
        "{record}"
    );
    assert!(record["recv"].as_u64().unwrap() > 0, "{record}");
}

#[test]
fn garbage_closes_the_connection_and_fails_the_run() {
    let garbage = server(|mut stream| {
        read_frame(&mut stream)?;
        stream.write_all(&[0xff; 64])?;
        while stream.read(&mut [0; 4096])? > 0 {}
        Ok(())
    });
    let run = load(&garbage, "s2", &["--ccu", "3"]);
    run.assert_fail();
    assert_eq!(run.record["errors"]["bad_frame"], 3, "{run}");
}

#[test]
fn faults_of_the_tool_itself_exit_with_1_and_say_what_to_do() {
    let base = ["load", "stream", "--scenario", "s0"];
    for (args, expected) in [
        (&["--target", "nonsense"][..], "HOST:PORT"),
        (
            &["--target", "127.0.0.1:1", "--server-pid", "4194305"],
            "running process",
        ),
        (
            &["--target", "127.0.0.1:1", "--rate", "1", "--burst", "31"],
            "fit into the window",
        ),
        (
            &["--target", "127.0.0.1:1", "--json", "/nowhere/at/all.json"],
            "all.json",
        ),
        (&["--target", "127.0.0.1:1", "--warmup", "3"], "500ms"),
        (&[], "--target"),
    ] {
        assert_explained(&[&base[..], args].concat(), expected);
    }
}

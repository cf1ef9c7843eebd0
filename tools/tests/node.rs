//! `load node` and `echo --mode node`: real processes.

mod common;

use common::{Echo, proscenium};
use serde_json::Value;

/// Runs `load node` briefly; the exit code and the record.
fn load(target: &str, args: &[&str]) -> (i32, Value) {
    let mut command = proscenium();
    command.args(["load", "node", "--target", target, "--json", "-"]);
    command.args(["--warmup", "50ms", "--measure", "200ms", "--drain", "60s"]);
    let output = command.args(args).output().expect("the command starts");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let record = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("no record: {error}\n{said}"));
    (output.status.code().expect("it was not killed"), record)
}

#[test]
fn requests_of_all_sizes_and_windows_are_answered() {
    let echo = Echo::start(&["--mode", "node"]);
    for (size, window) in [("64", "1"), ("1KiB", "100"), ("64KiB", "10"), ("0", "3")] {
        let args = ["--size", size, "--window", window];
        let (code, record) = load(&echo.address, &args);
        assert_eq!(
            (code, &record["failures"]),
            (0, &Value::Array(vec![])),
            "{record}"
        );
        assert_eq!(record["sent"], record["received"], "{record}");
        assert!(record["sent"].as_u64() >= Some(1), "{record}");
    }
    assert!(echo.terminate().contains("drain"));
}

#[test]
fn messages_are_counted_by_the_receiver() {
    let echo = Echo::start(&["--mode", "node"]);
    let (code, record) = load(&echo.address, &["--mode", "send", "--hwm", "1000"]);
    assert_eq!(
        (code, &record["failures"]),
        (0, &Value::Array(vec![])),
        "{record}"
    );
    assert!(record["sent"].as_u64() > Some(0), "{record}");
    // On a busy machine nothing may have arrived between the two marks.
    assert!(record["throughput"].as_f64() >= Some(0.0), "{record}");
}

#[test]
fn what_cannot_be_is_explained() {
    let refused = |args: &[&str], expected: &str| {
        let output = proscenium()
            .args(args)
            .output()
            .expect("the command starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
        assert!(said.contains(expected), "{args:?}: {said}");
    };
    let load = ["load", "node", "--target", "127.0.0.1:1"];
    refused(
        &[&load[..], &["--connect-timeout", "50ms"]].concat(),
        "no node could be reached",
    );
    refused(&[&load[..], &["--size", "24"]].concat(), "marks");
    refused(&[&load[..], &["--size", "1GiB"]].concat(), "at most");
    refused(&["echo", "--mode", "node", "--shards", "2"], "one shard");
    refused(&["echo", "--mode", "node", "--ws"], "--ws");
    refused(&["compare", "--profile", "node", "--ccu", "5"], "--ccu");
}

#[test]
fn the_profile_of_nodes_compares_what_is_there() {
    let out = std::env::temp_dir().join(format!("proscenium-node-{}", std::process::id()));
    let output = proscenium()
        .args([
            "compare",
            "--profile",
            "node",
            "--runs",
            "1",
            "--pin",
            "off",
        ])
        .args([
            "--shapes",
            "request-64",
            "--warmup",
            "50ms",
            "--measure",
            "100ms",
        ])
        .args(["--peers-dir", "/nonexistent", "--out"])
        .arg(&out)
        .output()
        .expect("the command starts");
    let (text, said) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{said}");
    for part in [
        "| request-64 |",
        "| libzmq | peer-node-zmq not found",
        "| not measured |",
    ] {
        assert!(text.contains(part), "{part} is missing in\n{text}\n{said}");
    }
    let json = std::fs::read_to_string(out.join("results.json")).expect("it was written");
    std::fs::remove_dir_all(&out).expect("the folder goes");
    let json: Value = serde_json::from_str(&json).expect("it is JSON");
    assert!(
        json["rows"][0]["throughput"]["median"].as_f64() >= Some(0.0),
        "{json}"
    );
}

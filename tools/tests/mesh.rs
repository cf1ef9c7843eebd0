//! `load mesh` and `echo --mode mesh`: real processes.

mod common;

use common::{Echo, proscenium};
use serde_json::Value;

/// Runs `load mesh` briefly; the exit code and the record.
fn load(target: &str, args: &[&str]) -> (i32, Value) {
    let mut command = proscenium();
    command.args(["load", "mesh", "--target", target, "--json", "-"]);
    command.args(["--warmup", "50ms", "--measure", "300ms", "--drain", "60s"]);
    let output = command.args(args).output().expect("the command starts");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let record = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("no record: {error}\n{said}"));
    (output.status.code().expect("it was not killed"), record)
}

/// A pass: everything was answered once.
fn passes((code, record): (i32, Value)) -> Value {
    let none = Value::Array(vec![]);
    assert_eq!((code, &record["failures"]), (0, &none), "{record}");
    assert_eq!(record["sent"], record["received"], "{record}");
    assert!(record["sent"].as_u64() >= Some(1), "{record}");
    record
}

#[test]
fn stages_of_two_servers_ask_and_answer() {
    let echo = Echo::start(&["--mode", "mesh", "--shards", "2"]);
    // More callers than stages, as many, one; payloads with a number and without.
    for (window, stages, size) in [("20", "3", "64"), ("5", "5", "7"), ("1", "1", "64KiB")] {
        let args = ["--window", window, "--stages", stages, "--size", size];
        let record = passes(load(&echo.address, &args));
        assert_eq!(record["stages"].as_u64(), stages.parse().ok());
    }
    assert!(echo.terminate().contains("drain"));
}

#[test]
fn what_is_due_is_sent_whenever_that_is_possible() {
    let echo = Echo::start(&["--mode", "mesh"]);
    let args = ["--window", "10", "--rate", "200"];
    let record = passes(load(&echo.address, &args));
    // Due within 350 ms at 200 per second, whatever the machine was busy with.
    assert_eq!(record["sent"].as_u64(), Some(70), "{record}");
    assert_eq!(record["unsent"].as_u64(), Some(0), "{record}");
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
    let load = ["load", "mesh", "--target", "127.0.0.1:1"];
    let brief = ["--connect-timeout", "50ms"];
    refused(&[&load[..], &brief].concat(), "no server could be reached");
    refused(&[&load[..], &["--size", "1GiB"]].concat(), "at most");
    refused(&[&load[..], &["--rate", "0"]].concat(), "per second");
    refused(&["echo", "--mode", "mesh", "--ws"], "--ws");
    refused(
        &["echo", "--mode", "mesh", "--interface", "socket"],
        "stages",
    );
    refused(&["compare", "--profile", "mesh", "--ccu", "5"], "mesh");
}

#[test]
fn the_profile_of_stages_compares_them_with_the_link() {
    let out = std::env::temp_dir().join(format!("proscenium-mesh-{}", std::process::id()));
    let output = proscenium()
        .args([
            "compare",
            "--profile",
            "mesh",
            "--runs",
            "1",
            "--pin",
            "off",
        ])
        .args(["--shapes", "window-1000", "--warmup", "50ms"])
        .args(["--measure", "300ms", "--out"])
        .arg(&out)
        .output()
        .expect("the command starts");
    let (text, said) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{said}");
    for part in ["| link alone |", "window-1000: requests/s | ≥ 600,000 |"] {
        assert!(text.contains(part), "{part} is missing in\n{text}\n{said}");
    }
    let json = std::fs::read_to_string(out.join("results.json")).expect("it was written");
    std::fs::remove_dir_all(&out).expect("the folder goes");
    let json: Value = serde_json::from_str(&json).expect("it is JSON");
    for row in 0..3 {
        let throughput = &json["rows"][row]["throughput"]["median"];
        assert!(throughput.is_number(), "{json}");
    }
}

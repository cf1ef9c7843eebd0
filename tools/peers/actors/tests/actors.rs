//! The program as it is used: every peer on every workload, in small.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

/// The peers, and what each does not offer.
const PEERS: [(&str, &[&str]); 6] = [
    ("tokio-unbounded", &[]),
    ("tokio-bounded", &[]),
    ("actix", &["work-stealing"]),
    ("ractor", &[]),
    ("kameo-unbounded", &[]),
    ("kameo-bounded", &[]),
];

fn actors(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_actors"));
    command.args(args).output().expect("the program starts")
}

/// What is printed, after a run that ended well.
#[track_caller]
fn printed(args: &[&str]) -> String {
    let output = actors(args);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {errors}");
    String::from_utf8(output.stdout).expect("text")
}

/// The record of a run of each peer that offers the workload.
#[track_caller]
fn records(workload: &str, size: &[&str], check: impl Fn(&str, &Value)) {
    for (peer, lacks) in PEERS {
        let mut args = vec!["run", "--peer", peer, "--workload", workload, "--json", "-"];
        args.extend(["--deadline", "120"]);
        args.extend(size);
        if lacks.contains(&workload) {
            let output = actors(&args);
            assert!(!output.status.success());
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(errors.contains("does not offer"), "{errors}");
            continue;
        }
        let record: Value = serde_json::from_str(&printed(&args)).expect("a record");
        assert_eq!(
            (&record["peer"], &record["workload"]),
            (&peer.into(), &workload.into())
        );
        assert!(
            record["result"].as_f64().expect("a number") > 0.0,
            "{record}"
        );
        check(peer, &record);
    }
}

#[test]
fn ping_pong() {
    records("ping-pong", &["--messages", "20001"], |_, record| {
        assert_eq!(record["messages"], 20_002, "whole round trips");
        assert!(record["apart"].is_null(), "one thread");
    });
}

#[test]
fn fan_in() {
    let size = ["--messages", "20001", "--in-flight", "300"];
    records("fan-in", &size, |_, record| {
        assert_eq!(record["messages"], 20_002)
    });
}

#[test]
fn fan_in_with_more_in_flight_than_a_mailbox_holds() {
    let size = ["--messages", "20000", "--in-flight", "5000"];
    records("fan-in", &size, |_, record| {
        assert_eq!(record["messages"], 20_000)
    });
}

#[test]
fn fan_in_one_by_one() {
    let size = ["--messages", "200", "--in-flight", "1"];
    records("fan-in", &size, |_, record| {
        assert_eq!(record["messages"], 200)
    });
}

#[test]
fn round_robin() {
    records(
        "round-robin",
        &["--messages", "20000", "--actors", "300"],
        |_, record| {
            assert_eq!(
                (&record["messages"], &record["actors"]),
                (&20_000.into(), &300.into())
            );
        },
    );
}

#[test]
fn idle_memory() {
    records("idle-memory", &["--actors", "3000"], |peer, record| {
        assert_eq!(record["messages"], 3000, "each has handled one");
        // The state alone is 48 bytes, and no library needs a page for each of its allocations.
        let bytes = record["result"].as_f64().expect("a number");
        assert!((48.0..65_536.0).contains(&bytes), "{peer}: {bytes}");
    });
}

#[test]
fn two_threads() {
    records("two-threads", &["--messages", "2000"], |peer, record| {
        assert_eq!(record["messages"], 2000);
        assert_eq!(record["apart"], 1.0, "{peer}: always on different threads");
    });
}

#[test]
fn work_stealing() {
    records("work-stealing", &["--messages", "20000"], |_, record| {
        assert_eq!(record["messages"], 20_000);
        assert!(record["apart"].is_number());
    });
}

#[test]
fn a_run_by_time_measures_something() {
    let line = printed(&[
        "run",
        "--peer",
        "actix",
        "--workload",
        "fan-in",
        "--seconds",
        "0.01",
    ]);
    assert!(line.contains("tells/s"), "{line}");
}

#[test]
fn a_run_that_does_not_end_fails() {
    let mut args = vec!["run", "--peer", "ractor", "--workload", "ping-pong"];
    args.extend(["--seconds", "3600", "--deadline", "0.05"]);
    let output = actors(&args);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no end after 0.05 s"));
}

#[test]
fn the_list_names_all() {
    let list = printed(&["list"]);
    for (peer, lacks) in PEERS {
        assert!(list.contains(&format!("  {peer} ")), "{list}");
        for workload in lacks {
            assert!(list.contains(&format!("  {peer} {workload}\n")), "{list}");
        }
    }
}

#[test]
fn a_comparison_prints_a_table_and_writes_its_results() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("compared/here");
    let out = folder.to_str().expect("text");
    let mut args = vec![
        "compare",
        "--runs",
        "2",
        "--peers",
        "tokio-unbounded,actix",
        "--out",
        out,
    ];
    args.extend([
        "--workloads",
        "ping-pong,work-stealing",
        "--messages",
        "2000",
    ]);
    let table = printed(&args);
    let rows = table.lines().filter(|line| line.contains("round trips/s"));
    assert_eq!(rows.count(), 3, "actix has no work-stealing: {table}");
    assert!(
        table.contains("| 1.00 (1.00–1.00) |"),
        "one is the best: {table}"
    );

    let rows = std::fs::read_to_string(folder.join("results.csv")).expect("written");
    assert_eq!(rows.lines().count(), 1 + 2 * 3, "{rows}");
    let report = std::fs::read_to_string(folder.join("results.json")).expect("written");
    let report: Value = serde_json::from_str(&report).expect("JSON");
    assert_eq!(report["runs"].as_array().map(Vec::len), Some(6));
    assert_eq!(report["rows"][0]["result"]["count"], 2);
}

#[test]
fn a_comparison_that_cannot_be_written_fails_and_is_printed() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("failed");
    let out = folder.to_str().expect("text");
    std::fs::write(&folder, "a file, no folder").expect("written");
    let mut args = vec!["compare", "--runs", "1", "--peers", "actix", "--out", out];
    args.extend(["--workloads", "fan-in", "--messages", "1000"]);
    let output = actors(&args);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains("actix"));
}

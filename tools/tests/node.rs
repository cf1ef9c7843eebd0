//! `load node` and `echo --mode node`: real processes.

mod common;

use common::{Echo, Folder, assert_explained, compare, load_nodes};

#[test]
fn requests_of_all_sizes_and_windows_are_answered() {
    let echo = Echo::start(&["--mode", "node"]);
    for (size, window) in [("64", "1"), ("1KiB", "100"), ("64KiB", "10"), ("0", "3")] {
        let args = ["--size", size, "--window", window];
        load_nodes("node", &echo.address, &args);
    }
    assert!(echo.terminate().contains("drain"));
}

#[test]
fn messages_are_counted_by_the_receiver() {
    let echo = Echo::start(&["--mode", "node"]);
    // Another time as well: what counts is what has come since the load began.
    for _ in 0..2 {
        load_nodes("node", &echo.address, &["--mode", "send", "--hwm", "1000"]);
    }
}

#[test]
fn what_cannot_be_is_explained() {
    let load = ["load", "node", "--target", "127.0.0.1:1"];
    assert_explained(
        &[&load[..], &["--connect-timeout", "50ms"]].concat(),
        "no node could be reached",
    );
    assert_explained(&[&load[..], &["--size", "24"]].concat(), "marks");
    assert_explained(&[&load[..], &["--size", "1GiB"]].concat(), "at most");
    assert_explained(&["echo", "--mode", "node", "--shards", "2"], "one shard");
    assert_explained(&["echo", "--mode", "node", "--ws"], "--ws");
    assert_explained(&["compare", "--profile", "node", "--ccu", "5"], "--ccu");
}

#[test]
fn the_profile_of_nodes_compares_what_is_there() {
    let (empty, out) = (Folder::new("no-zmq"), Folder::new("node"));
    let peers = empty.0.to_str().expect("a name in text");
    let args = ["--profile", "node", "--runs", "1", "--pin", "off"];
    let shape = ["--shapes", "request-64", "--peers-dir", peers];
    let times = ["--warmup", "50ms", "--measure", "100ms"];
    let (printed, told, json) = compare(&[&args[..], &shape, &times].concat(), &out);
    for part in [
        "| request-64 |",
        "| libzmq | peer-node-zmq not found",
        "| not measured |",
    ] {
        assert!(
            printed.contains(part),
            "{part} is missing in\n{printed}\n{told}"
        );
    }
    // Ours and its twin; the others say what is missing.
    let rows = json["rows"].as_array().expect("rows");
    let (measured, missing): (Vec<_>, Vec<_>) = rows
        .iter()
        .partition(|row| row["throughput"]["median"].is_number());
    assert_eq!((measured.len(), missing.len()), (2, 4), "{json}");
    for row in missing {
        let why = row["failure"].as_str().expect("a reason");
        assert!(why.contains("peer-node-zmq not found"), "{why}");
    }
}

//! `load mesh` and `echo --mode mesh`: real processes.

mod common;

use common::{Echo, Folder, assert_explained, compare, load_nodes};

#[test]
fn stages_of_two_servers_ask_and_answer() {
    let echo = Echo::start(&["--mode", "mesh", "--shards", "2"]);
    // More callers than stages, as many, one; payloads with a number and without.
    for (window, stages, size) in [("20", "3", "64"), ("5", "5", "7"), ("1", "1", "64KiB")] {
        let args = ["--window", window, "--stages", stages, "--size", size];
        let record = load_nodes("mesh", &echo.address, &args);
        assert_eq!(record["stages"].as_u64(), stages.parse().ok());
    }
    assert!(echo.terminate().contains("drain"));
}

#[test]
fn what_is_due_is_sent_whenever_that_is_possible() {
    let echo = Echo::start(&["--mode", "mesh"]);
    let args = ["--window", "10", "--rate", "200"];
    let record = load_nodes("mesh", &echo.address, &args);
    // Due within 250 ms at 200 per second, whatever the machine was busy with.
    assert_eq!(record["sent"].as_u64(), Some(50), "{record}");
    assert_eq!(record["unsent"].as_u64(), Some(0), "{record}");
}

#[test]
fn what_cannot_be_is_explained() {
    let load = ["load", "mesh", "--target", "127.0.0.1:1"];
    assert_explained(
        &[&load[..], &["--connect-timeout", "50ms"]].concat(),
        "no server could be reached",
    );
    assert_explained(&[&load[..], &["--size", "1GiB"]].concat(), "at most");
    assert_explained(&[&load[..], &["--rate", "0"]].concat(), "per second");
    assert_explained(&["echo", "--mode", "mesh", "--ws"], "--ws");
    assert_explained(
        &["echo", "--mode", "mesh", "--interface", "socket"],
        "stages",
    );
    assert_explained(&["compare", "--profile", "mesh", "--ccu", "5"], "mesh");
}

#[test]
fn the_profile_of_stages_compares_them_with_the_link() {
    let out = Folder::new("mesh");
    let args = ["--profile", "mesh", "--runs", "1", "--pin", "off"];
    let times = ["--warmup", "50ms", "--measure", "300ms"];
    let shape = ["--shapes", "window-1000"];
    let (printed, told, json) = compare(&[&args[..], &shape, &times].concat(), &out);
    for part in ["| link alone |", "window-1000: requests/s | ≥ 600,000 |"] {
        assert!(
            printed.contains(part),
            "{part} is missing in\n{printed}\n{told}"
        );
    }
    // Stages, their twin, and the link.
    let rows = json["rows"].as_array().expect("rows");
    assert_eq!(rows.len(), 3, "{json}");
    for row in rows {
        assert!(row["throughput"]["median"].is_number(), "{json}");
    }
}

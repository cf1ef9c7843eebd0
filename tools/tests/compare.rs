//! The comparison runner against real processes: what works is measured, what is missing is said.

mod common;

use std::fs;

use common::{Folder, assert_explained, compare};
use serde_json::Value;

#[test]
fn a_small_comparison_measures_skips_and_writes_its_files() {
    let (empty, out) = (Folder::new("no-peers"), Folder::new("results"));
    let peers = empty.0.to_str().expect("a name in text");
    let what = "--ccu 20 --size 64 --inflight 4 --rate 2000 --warmup 100ms --measure 200ms \
                --stacks proscenium,raw --runs 2 --peers-dir";
    let mut what: Vec<_> = what.split(' ').collect();
    what.push(peers);
    let (printed, told, json) = compare(&what, &out);
    assert!(
        printed.contains("skipped: peer-raw-epoll not found"),
        "{printed}"
    );
    assert!(told.contains("CPU quota"), "{told}");
    assert!(told.contains("left"), "{told}");

    let runs = json["runs"].as_array().expect("runs");
    let of =
        |stack: &str| -> Vec<&Value> { runs.iter().filter(|run| run["stack"] == stack).collect() };
    // s0, s1, s2, two at an offered rate, and s2 under a quota, skipped where the system has none.
    let ours = of("proscenium");
    let shapes = json["summaries"].as_array().expect("shapes");
    assert_eq!(shapes.len(), 6, "{told}");
    let shapes = shapes.iter().filter(|one| one["skipped"].is_null()).count();
    assert!(shapes >= 5, "{told}");
    assert_eq!(of("all").len(), 6 - shapes, "{told}");
    assert_eq!(ours.len(), 2 * shapes, "{told}");
    for run in &ours {
        assert_eq!(run["status"], "pass", "{run}");
        let record = &run["record"];
        assert!(
            record["server_rss_peak_bytes"].as_u64().unwrap() > 0,
            "{run}"
        );
        if record["scenario_id"] == "s2" {
            assert!(record["throughput"].as_f64().unwrap() > 0.0, "{run}");
            assert!(
                record["server_cpu_ns_per_msg"].as_f64().unwrap() > 0.0,
                "{run}"
            );
        }
    }
    // Missing once is missing for the shape.
    assert_eq!(of("raw").len(), shapes, "{told}");
    assert!(of("raw").iter().all(|run| run["status"] == "skipped"));

    let rows = out.text("results.csv");
    assert!(rows.starts_with("scenario_id,transport,ccu,"), "{rows}");
    assert!(rows.lines().count() > runs.len(), "{rows}");
    let page = out.text("report.html");
    assert!(page.contains("<svg") && page.contains("</html>"));
}

#[test]
fn the_profiles_of_layers_and_play_run_their_own_stacks() {
    for (profile, stack, transport, shapes) in [
        ("tls", "proscenium-tls", "tls", &["tls", "handshakes"][..]),
        ("ws", "proscenium-ws", "ws", &["ws-64x1", "ws-1024x30"]),
        (
            "play",
            "proscenium-play",
            "tcp",
            &["play", "play-open-loop"],
        ),
        ("play", "play-broadcast", "tcp", &["broadcast"]),
    ] {
        let out = Folder::new(stack);
        let shapes_named = shapes.join(",");
        let what = [
            "--profile",
            profile,
            "--stacks",
            stack,
            "--shapes",
            &shapes_named,
        ];
        let size = ["--runs", "1", "--ccu", "20", "--rate", "20000"];
        let times = ["--warmup", "100ms", "--measure", "200ms"];
        let (printed, _, json) = compare(&[&what[..], &size, &times].concat(), &out);
        let runs = json["runs"].as_array().expect("runs");
        let passed = runs.iter().filter(|run| run["status"] == "pass").count();
        // Each shape has the stack and its twin.
        assert_eq!(
            (runs.len(), passed),
            (2 * shapes.len(), 2 * shapes.len()),
            "{printed}"
        );
        assert_eq!(runs[0]["record"]["transport"], transport, "{printed}");
        assert!(!out.0.join("key.pem").exists(), "the key is left behind");
    }
}

#[test]
fn a_server_that_does_not_start_fails_its_row_only() {
    use std::os::unix::fs::PermissionsExt;
    let (peers, out) = (Folder::new("broken-peer"), Folder::new("broken-results"));
    let broken = peers.file("peer-tokio", "#!/bin/sh\necho out of order >&2\nexit 7\n");
    fs::set_permissions(&broken, fs::Permissions::from_mode(0o755)).expect("it is ours");
    let folder = peers.0.to_str().expect("a name in text");
    let what = "--stacks tokio,proscenium --shapes s2 --runs 3 --ccu 5 --quota 0 \
                --warmup 50ms --measure 100ms --peers-dir";
    let mut what: Vec<_> = what.split(' ').collect();
    what.push(folder);
    let (printed, _, json) = compare(&what, &out);
    let row = printed
        .lines()
        .find(|line| line.trim_start().starts_with("tokio"));
    let row = row.unwrap_or_else(|| panic!("{printed}"));
    assert!(
        row.contains("failed:") && row.contains("out of order"),
        "{row}"
    );
    let lines = json["summaries"][0]["lines"].as_array().expect("lines");
    let passed: Vec<u64> = lines
        .iter()
        .map(|line| line["passed"].as_u64().unwrap())
        .collect();
    assert_eq!(passed, [0, 3]);
}

#[test]
fn a_plan_without_shapes_and_unknown_stacks_are_errors() {
    for (args, expected) in [
        (
            &["--quota", "0", "--shapes", "s2-quota"][..],
            "nothing to run",
        ),
        (&["--stacks", "nginx"], "tokio-codec"),
        (&["--shapes", "s7"], "s2-quota"),
    ] {
        assert_explained(&[&["compare"], args].concat(), expected);
    }
}

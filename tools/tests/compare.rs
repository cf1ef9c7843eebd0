//! The comparison runner against real processes: what works is measured, what is missing is said.

mod common;

use std::fs;
use std::path::PathBuf;
use std::process::Output;

use common::{nothing_measured, proscenium};
use serde_json::Value;

/// A folder for one test, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = format!("proscenium-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(folder);
        fs::create_dir_all(&path).expect("the temporary folder is writable");
        Self(path)
    }

    fn text(&self, file: &str) -> String {
        fs::read_to_string(self.0.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs a comparison into that folder; once more where a machine that had other things to do
/// measured nothing in one of its windows.
#[track_caller]
fn compare(args: &[&str], peers: Option<&Folder>, out: &Folder) -> (Output, Value) {
    for _ in 0..20 {
        let mut command = proscenium();
        command.arg("compare").args(args).arg("--out").arg(&out.0);
        if let Some(peers) = peers {
            command.arg("--peers-dir").arg(&peers.0);
        }
        let output = command.output().expect("the command starts");
        let printed = String::from_utf8_lossy(&output.stdout);
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{printed}\n{told}");
        let json: Value = serde_json::from_str(&out.text("results.json")).expect("JSON");
        let mut runs = json["runs"].as_array().expect("runs").iter();
        if !runs.any(|run| nothing_measured(&run["record"])) {
            return (output, json);
        }
    }
    panic!("nothing was measured, 20 times");
}

#[test]
fn a_small_comparison_measures_skips_and_writes_its_files() {
    let (empty, out) = (Folder::new("no-peers"), Folder::new("results"));
    #[rustfmt::skip]
    let args = [
        "--stacks", "proscenium,raw", "--runs", "2", "--ccu", "20", "--size", "64",
        "--inflight", "4", "--rate", "2000", "--warmup", "100ms", "--measure", "200ms",
    ];
    let (output, json) = compare(&args, Some(&empty), &out);
    let printed = String::from_utf8_lossy(&output.stdout);
    let told = String::from_utf8_lossy(&output.stderr);
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
        let shape = shapes.join(",");
        #[rustfmt::skip]
        let args = [
            "--profile", profile, "--stacks", stack, "--shapes", &shape, "--runs", "1",
            "--ccu", "20", "--warmup", "100ms", "--measure", "200ms", "--rate", "20000",
        ];
        let (output, json) = compare(&args, None, &out);
        let printed = String::from_utf8_lossy(&output.stdout);
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
    let broken = peers.0.join("peer-tokio");
    fs::write(&broken, "#!/bin/sh\necho out of order >&2\nexit 7\n").expect("it is written");
    fs::set_permissions(&broken, fs::Permissions::from_mode(0o755)).expect("it is ours");
    #[rustfmt::skip]
    let args = [
        "--stacks", "tokio,proscenium", "--shapes", "s2", "--runs", "3", "--ccu", "5",
        "--warmup", "50ms", "--measure", "100ms", "--quota", "0",
    ];
    let (output, json) = compare(&args, Some(&peers), &out);
    let printed = String::from_utf8_lossy(&output.stdout);
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
        let output = proscenium()
            .arg("compare")
            .args(args)
            .output()
            .expect("it starts");
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert!(told.contains(expected), "{args:?}: {told}");
    }
}

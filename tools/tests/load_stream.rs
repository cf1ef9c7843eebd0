//! The load generator against the echo server: clean runs pass.

mod common;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use common::{Echo, Loaded, load, proscenium, read_frame, server, write_frame};

/// A path for one test, removed at the end.
struct TestPath(PathBuf);

impl TestPath {
    fn new(name: &str) -> Self {
        let file = format!("proscenium-{}-{name}", std::process::id());
        let this = Self(std::env::temp_dir().join(file));
        // Of a process of that number that was killed.
        let _ = fs::remove_file(&this.0);
        this
    }

    fn text(&self) -> &str {
        self.0
            .to_str()
            .expect("the temporary folder's name is text")
    }
}

impl Drop for TestPath {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn s0_is_one_connection_and_one_answer() {
    let echo = Echo::start(&[]);
    let run = load(&echo.address, "s0", &[]);
    run.assert_pass();
    for name in ["ccu", "inflight", "connect_success", "sent", "recv"] {
        assert_eq!(run.number(name), 1.0, "{name}: {run}");
    }
    assert!(run.number("p50") > 0.0, "{run}");
}

#[test]
fn s1_only_connects() {
    let echo = Echo::start(&[]);
    let run = load(&echo.address, "s1", &["--connect-concurrency", "7"]);
    run.assert_pass();
    assert_eq!(
        (run.number("connect_success"), run.number("sent")),
        (50.0, 0.0),
        "{run}"
    );
    let summary = echo.terminate();
    assert!(summary.contains("50 accepted"), "{summary}");
}

#[test]
fn s2_keeps_every_window_full_and_loses_nothing() {
    let echo = Echo::start(&[]);
    let pid = echo.pid().to_string();
    let run = load(
        &echo.address,
        "s2",
        &["--verify", "full", "--server-pid", &pid],
    );
    run.assert_pass();
    assert_eq!(run.number("sent"), run.number("recv"));
    assert!(run.number("sent") >= 50.0 * 8.0, "{run}");
    assert!(
        run.number("throughput") > 0.0 && run.number("server_cpu_ns_per_msg") > 0.0,
        "{run}"
    );
    assert!(run.number("server_rss_peak_bytes") > 0.0, "{run}");
    let latencies = ["p50", "p95", "p99", "p99_9", "max"].map(|name| run.number(name));
    assert!(latencies[0] > 0.0 && latencies.is_sorted(), "{latencies:?}");
    let summary = echo.terminate();
    assert!(summary.contains("messages"), "{summary}");
}

#[test]
fn s2_passes_in_every_shape() {
    for (server, client) in [
        (
            &["--shards", "2"][..],
            &["--threads", "2", "--ccu", "51"][..],
        ),
        (
            &["--shards", "2", "--balance", "roundrobin"],
            &["--inflight", "1"],
        ),
        (&["--framing", "le32"], &["--framing", "le32"]),
        (&["--framing", "raw"], &["--size", "0", "--inflight", "100"]),
        // 16 MiB under way: a slow machine has to get an answer into the window.
        (
            &[],
            &[
                "--size",
                "256KiB",
                "--inflight",
                "16",
                "--ccu",
                "4",
                "--measure",
                "2s",
            ],
        ),
        (&["--overflow", "pause"], &["--threads", "8", "--ccu", "3"]),
    ] {
        let echo = Echo::start(server);
        let run = load(
            &echo.address,
            "s2",
            &[client, &["--verify", "full"]].concat(),
        );
        run.assert_pass();
        assert!(run.number("recv") > 0.0, "{server:?} {client:?}: {run}");
    }
}

#[test]
fn s2_passes_over_a_unix_socket() {
    let path = TestPath::new("echo.sock");
    let listen = format!("unix:{}", path.text());
    let echo = Echo::start(&["--listen", &listen]);
    assert_eq!(echo.address, listen);
    let run = load(&echo.address, "s2", &[]);
    run.assert_pass();
    assert_eq!(run.record["transport"], "unix");
}

#[test]
fn a_fixed_rate_is_not_exceeded() {
    let echo = Echo::start(&[]);
    for burst in ["1", "8"] {
        let run = load(&echo.address, "s2", &["--rate", "5000", "--burst", burst]);
        run.assert_pass();
        let phases = ["warmup_seconds", "measure_seconds", "drain_seconds"];
        let seconds: f64 = phases.iter().map(|name| run.number(name)).sum();
        let most = 5000.0 * seconds + 8.0;
        assert!(
            run.number("sent") <= most,
            "{} sent, at most {most}",
            run.number("sent")
        );
        assert!(run.number("recv") > 0.0, "{run}");
    }
}

/// The first byte of what is sent in the phase that is measured.
const MEASURE: u8 = 2;

/// One connection with one message in flight, offered 1,000 msg/s for 100 ms and a second, of a
/// server that stops for `stall` at the fifth message of that second. Also which one of all
/// messages that was.
fn paced_with_a_stall(stall: Duration) -> (Loaded, u64) {
    let stalled_at = Arc::new(AtomicU64::new(0));
    let stalls = Arc::clone(&stalled_at);
    let target = server(move |mut stream| {
        let mut measured = 0;
        for number in 1.. {
            let body = read_frame(&mut stream)?;
            measured += u32::from(body[0] == MEASURE);
            if measured == 5 && stalls.load(Ordering::SeqCst) == 0 {
                stalls.store(number, Ordering::SeqCst);
                thread::sleep(stall);
            }
            write_frame(&mut stream, &body)?;
        }
        Ok(())
    });
    let pace = ["--rate", "1000", "--ccu", "1", "--inflight", "1"];
    let run = load(&target, "s2", &[&pace[..], &["--measure", "1s"]].concat());
    (run, stalled_at.load(Ordering::SeqCst))
}

/// The same, with the stall inside of the window, and that about as long as it should be. On a busy
/// machine the client may be behind already when the window begins, and the message at which the
/// server stalls one that was due before it, whose latency does not count; or it is late when the
/// window should end: then it is run again.
fn paced_in_time(stall: Duration) -> (Loaded, u64) {
    let in_time =
        |(run, _): &(Loaded, u64)| run.number("max") > 0.0 && run.number("measure_seconds") < 2.0;
    let mut tries = (0..20).map(|_| paced_with_a_stall(stall));
    tries.find(in_time).expect("the client is in time once")
}

#[test]
fn at_a_fixed_rate_a_stall_is_in_the_latency_of_all_that_were_due_meanwhile() {
    let (run, _) = paced_in_time(Duration::from_millis(400));
    run.assert_pass();
    // 400 of 1,000 messages were due while the server stood still. Of those only one was in
    // flight: a loop that waits for answers would have seen one slow message.
    assert!(run.number("p95") >= 250e3, "{run}");
    assert!(run.summary.contains("p99 "), "{run}");
}

#[test]
fn what_could_not_be_sent_at_a_fixed_rate_is_shown() {
    let (run, stalled_at) = paced_in_time(Duration::from_secs(3));
    run.assert_pass();
    // That one waits for its answer beyond the end of the window, and nothing else is sent.
    assert_eq!(run.number("sent"), stalled_at as f64, "{run}");
    assert!(run.number("rate_unsent") >= 500.0, "{run}");
    assert!(run.summary.contains("due and not sent"), "{run}");
    // It was due inside the window: its latency counts, however late it came.
    assert!(run.number("max") >= 2e6, "{run}");
}

#[test]
fn results_are_appended_as_rows_and_written_as_a_document() {
    let echo = Echo::start(&[]);
    let (csv, json) = (TestPath::new("rows.csv"), TestPath::new("run.json"));
    for stack in ["one", "two"] {
        let output = proscenium()
            .args([
                "load",
                "stream",
                "--target",
                &echo.address,
                "--scenario",
                "s0",
            ])
            .args(["--stack", stack, "--csv", csv.text(), "--json", json.text()])
            .output()
            .unwrap();
        assert!(output.status.success());
        assert!(String::from_utf8_lossy(&output.stdout).contains("PASS"));
    }
    let rows = fs::read_to_string(&csv.0).unwrap();
    let lines: Vec<&str> = rows.lines().collect();
    assert_eq!(lines.len(), 3, "{rows}");
    let common = "scenario_id,transport,ccu,inflight,size,connect_success,connect_fail,\
                  connect_timeout,sent,recv,incomplete_ratio,throughput,p50,p95,p99,\
                  errors_by_errno,pass_fail,";
    assert!(lines[0].starts_with(common), "{rows}");
    assert!(
        lines[1].starts_with("s0,tcp,1,1,1024,1,0,0,1,1,0.0,"),
        "{rows}"
    );
    assert!(
        lines[1].contains(",PASS,one,") && lines[2].contains(",PASS,two,"),
        "{rows}"
    );
    let record = fs::read_to_string(&json.0).unwrap();
    let record: serde_json::Value = serde_json::from_str(&record).unwrap();
    assert_eq!(record["stack"], "two");
    let command = &record["command"];
    assert_eq!(
        (&command[0], &command[1]),
        (&"proscenium".into(), &"load".into()),
        "{record}"
    );
    assert!(record["machine"]["cpus"].as_u64().unwrap() >= 1);
}

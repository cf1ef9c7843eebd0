//! The echo server as a process: start, metrics, end.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::signal::send_signal;
use common::{Echo, Folder, assert_explained, load, proscenium, read_frame, write_frame};
use serde_json::Value;

/// The answer to one scrape.
struct Metrics {
    text: String,
}

impl Metrics {
    fn scrape(address: &str) -> Self {
        let mut stream = TcpStream::connect(address).unwrap();
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        let (head, text) = response.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert!(text.ends_with("# EOF\n"), "{text}");
        Self {
            text: text.to_owned(),
        }
    }

    /// The sum of the rows that begin with `prefix`; there has to be one.
    #[track_caller]
    fn sum(&self, prefix: &str) -> f64 {
        let rows = self.text.lines().filter(|line| line.starts_with(prefix));
        let values: Vec<f64> = rows
            .map(|row| row.rsplit(' ').next().unwrap().parse().unwrap())
            .collect();
        assert!(!values.is_empty(), "no {prefix} in\n{}", self.text);
        values.iter().sum()
    }
}

/// Ends a server that has served one message of 14 bytes, and whose peer leaves when told, so that
/// nothing is cut; what it printed.
fn terminate_while_connected(echo: Echo) -> String {
    let mut stream = TcpStream::connect(&echo.address).unwrap();
    write_frame(&mut stream, b"before the end").unwrap();
    assert_eq!(read_frame(&mut stream).unwrap(), b"before the end");
    let peer = thread::spawn(move || {
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).map(|_| rest)
    });
    let summary = echo.terminate();
    assert_eq!(peer.join().unwrap().unwrap(), b"");
    summary
}

#[test]
fn sigterm_drains_and_prints_a_summary() {
    let echo = Echo::start(&["--shards", "2"]);
    let summary = terminate_while_connected(echo);
    for part in [
        "messages     1 in (18 B), 1 out (18 B)",
        "1 accepted",
        "shutdown 1",
        "drain",
    ] {
        assert!(summary.contains(part), "{part} is missing in\n{summary}");
    }
}

#[test]
fn metrics_are_served_while_it_runs() {
    // A server for each try: its numbers are to be those of one load.
    let (_echo, address, run) = loop {
        let mut echo = Echo::start(&["--metrics", "127.0.0.1:0", "--shards", "2"]);
        let line = echo.error_line();
        let url = line.trim_end().strip_prefix("metrics at http://").unwrap();
        let address = url.strip_suffix("/metrics").unwrap().to_owned();
        let run = load(&echo.address, "s2", &["--ccu", "3"]);
        run.assert_pass();
        if run.tries == 1 {
            break (echo, address, run);
        }
    };
    let address = &address;

    // The server sees the client's connections end a little later than the client does.
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut metrics = Metrics::scrape(address);
    while metrics.sum("proscenium_connections{") > 0.0 && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(10));
        metrics = Metrics::scrape(address);
    }
    assert_eq!(
        metrics.sum("proscenium_connections{"),
        0.0,
        "{}",
        metrics.text
    );
    assert_eq!(
        metrics.sum("proscenium_accepted_total{"),
        3.0,
        "{}",
        metrics.text
    );
    assert_eq!(
        metrics.sum("proscenium_closes_total{"),
        3.0,
        "{}",
        metrics.text
    );
    let messages = run.number("recv");
    assert_eq!(
        metrics.sum("proscenium_messages_in_total{"),
        messages,
        "{}",
        metrics.text
    );
    assert_eq!(
        metrics.sum("proscenium_messages_out_total{"),
        messages,
        "{}",
        metrics.text
    );
    assert!(
        metrics.sum("proscenium_turn_time_seconds_count{") > 0.0,
        "{}",
        metrics.text
    );
}

#[test]
fn both_interfaces_serve_and_drain() {
    for (interface, shards) in [("callback", "1"), ("socket", "1"), ("socket", "2")] {
        let echo = Echo::start(&["--interface", interface, "--shards", shards]);
        let run = load(&echo.address, "s2", &["--verify", "full"]);
        run.assert_pass();
        let summary = echo.terminate();
        let accepted = format!("{} accepted", 50 * run.tries);
        assert!(
            summary.contains(&accepted),
            "{interface} {shards}: {summary}"
        );
    }
}

#[test]
fn stages_serve_every_connection_and_end_with_it() {
    for options in [
        &["--shards", "1"][..],
        &["--shards", "2", "--answer", "send"],
        &["--shards", "2", "--balance", "roundrobin"],
    ] {
        let echo = Echo::start(&[options, &["--mode", "stage"]].concat());
        let run = load(&echo.address, "s2", &["--verify", "full"]);
        run.assert_pass();
        assert!(run.number("recv") >= 50.0 * 8.0, "{options:?}: {run}");
        let summary = echo.terminate();
        let connections = 50 * run.tries;
        for part in [
            format!("{connections} accepted"),
            format!("{connections} ended, 0 live"),
            "0 panics".to_owned(),
        ] {
            assert!(summary.contains(&part), "{options:?}: {part}: {summary}");
        }
    }
}

#[test]
fn stages_are_in_the_metrics_one_for_each_connection() {
    let mut echo = Echo::start(&["--mode", "stage", "--metrics", "127.0.0.1:0"]);
    let line = echo.error_line();
    let url = line.trim_end().strip_prefix("metrics at http://").unwrap();
    let address = url.strip_suffix("/metrics").unwrap();
    let mut streams: Vec<TcpStream> = (0..3)
        .map(|_| TcpStream::connect(&echo.address).unwrap())
        .collect();
    // The second message of each finds its stage at rest: it is handled in place.
    for _ in 0..2 {
        for stream in &mut streams {
            write_frame(stream, b"to a stage").unwrap();
            assert_eq!(read_frame(stream).unwrap(), b"to a stage");
        }
    }
    // The answers may have been seen before the shard publishes.
    let settled = |live: f64, ended: f64| {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let metrics = Metrics::scrape(address);
            let [now_live, now_ended, in_place] = ["live", "ended_total", "in_place_total"]
                .map(|name| metrics.sum(&format!("proscenium_stages_{name}{{")));
            if (now_live, now_ended) == (live, ended) && in_place >= 3.0 {
                return metrics;
            }
            assert!(Instant::now() < deadline, "{}", metrics.text);
            thread::sleep(Duration::from_millis(10));
        }
    };
    let metrics = settled(3.0, 0.0);
    assert_eq!(metrics.sum("proscenium_connections{"), 3.0);
    drop(streams);
    settled(0.0, 3.0);
}

#[test]
fn sigterm_drains_stages_and_their_connections() {
    let echo = Echo::start(&["--mode", "stage", "--shards", "2"]);
    let summary = terminate_while_connected(echo);
    for part in [
        "1 in (18 B), 1 out (18 B)",
        "1 ended, 0 live",
        "0 cut",
        "lost: 0 bytes, 0 pieces",
    ] {
        assert!(summary.contains(part), "{part} is missing in\n{summary}");
    }
}

#[test]
fn stages_need_the_callback_interface() {
    let socket = ["echo", "--mode", "stage", "--interface", "socket"];
    assert_explained(&socket, "--interface callback");
}

#[test]
fn the_summary_is_a_document_too() {
    let folder = Folder::new("echo-json");
    let file = folder.file("summary.json", "");
    let path = file.to_str().expect("a name in text");
    for (mode, interface, stages) in [
        ("callback", "callback", None),
        ("callback", "socket", None),
        ("stage", "callback", Some(1)),
    ] {
        let args = ["--mode", mode, "--interface", interface, "--json", path];
        let summary = terminate_while_connected(Echo::start(&args));
        assert!(summary.contains("1 accepted"), "{summary}");
        let json: Value = serde_json::from_str(&folder.text("summary.json")).expect("JSON");
        for (name, value) in [("messages_in", 1), ("bytes_out", 18), ("accepted", 1)] {
            assert_eq!(json[name].as_u64(), Some(value), "{name}: {json}");
        }
        let closes = json["closes"].as_object().expect("reasons");
        assert_eq!(
            closes.values().filter_map(Value::as_u64).sum::<u64>(),
            1,
            "{json}"
        );
        assert_eq!(json["stages"]["ended"].as_u64(), stages, "{json}");
        assert_eq!(json["drain"]["bytes_lost"], 0, "{json}");
    }
}

/// With the document on standard output, nothing else is there.
#[test]
fn the_document_has_standard_output_to_itself() {
    let mut command = proscenium();
    command.args(["echo", "--listen", "127.0.0.1:0", "--json", "-"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut errors = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    errors.read_line(&mut line).unwrap();
    assert!(line.starts_with("listening on 127.0.0.1:"), "{line}");
    send_signal(child.id(), "TERM");
    let mut text = String::new();
    child
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut text)
        .unwrap();
    assert!(child.wait().unwrap().success());
    let json: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert_eq!(json["accepted"], 0, "{json}");
}

#[test]
fn inherited_sockets_are_used_in_place_of_listen() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let binary = proscenium().get_program().to_owned();
    let mut command = Command::new("sh");
    // Descriptor 3, and the id of the process that `exec` keeps, as a supervisor passes them.
    let script = "exec 3<&0; export LISTEN_FDS=1 LISTEN_PID=$$; exec \"$0\" echo";
    command
        .args(["-c", script])
        .arg(binary)
        .stdin(Stdio::from(OwnedFd::from(listener)));
    let echo = Echo::spawn(command);
    assert_eq!(echo.address, address);
    load(&echo.address, "s0", &[]).assert_pass();
}

#[test]
fn a_message_over_the_limit_closes_its_connection() {
    let echo = Echo::start(&["--frame-max", "1KiB"]);
    let mut stream = TcpStream::connect(&echo.address).unwrap();
    write_frame(&mut stream, &[7; 1024]).unwrap();
    assert_eq!(read_frame(&mut stream).unwrap(), [7; 1024]);
    stream.write_all(&1025u32.to_be_bytes()).unwrap();
    // The connection ends, with an end of stream or a reset.
    let rest = stream.read(&mut [0; 16]);
    assert!(matches!(rest, Ok(0) | Err(_)), "{rest:?}");
    let summary = echo.terminate();
    assert!(summary.contains("bad_frame 1"), "{summary}");
}

#[test]
fn an_address_in_use_is_an_error_that_names_it() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    assert_explained(&["echo", "--listen", &address], &address);
}

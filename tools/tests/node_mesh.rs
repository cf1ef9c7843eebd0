//! `proscenium node`: nodes from files, and the shell's way to them. Real processes.

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Output, Stdio};

use common::{Echo, Folder, proscenium};
use serde_json::Value;

fn run(config: &Path) -> Echo {
    let mut command = proscenium();
    command
        .args(["node", "run", "--print", "--config"])
        .arg(config);
    Echo::spawn(command)
}

/// `proscenium node ARGS`, patient.
fn node(args: &[&str]) -> Output {
    let mut command = proscenium();
    command.arg("node").args(args);
    if !args.contains(&"--timeout") && args[0] != "run" {
        command.args(["--timeout", "60s"]);
    }
    command.output().expect("the command starts")
}

#[track_caller]
fn code_and_texts(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let code = output.status.code().expect("it was not killed");
    (code, text(&output.stdout), text(&output.stderr))
}

#[test]
fn a_node_runs_as_its_file_says_and_answers_the_shell() {
    let folder = Folder::new("shell");
    let config = folder.file("a.toml", "nid = \"a\"\nbind = [\"127.0.0.1:0\"]\n");
    let a = run(&config);

    let asked = node(&[
        "request",
        "a",
        "Echo",
        "--payload",
        "hello",
        "--at",
        &a.address,
    ]);
    let (code, out, said) = code_and_texts(&asked);
    assert_eq!((code, out.as_str()), (0, "hello"), "{said}");
    assert!(
        said.contains("reply `Echo`, error code 0, 5 bytes"),
        "{said}"
    );

    let unknown = node(&["request", "a", "Dance", "--at", &a.address]);
    let (code, _, said) = code_and_texts(&unknown);
    assert!(
        code == 2 && said.contains("error code 12"),
        "{code}: {said}"
    );

    let args = [
        "ping",
        "a",
        "--count",
        "3",
        "--interval",
        "1ms",
        "--at",
        &a.address,
    ];
    let (code, out, said) = code_and_texts(&node(&args));
    assert_eq!(code, 0, "{said}");
    assert!(
        out.contains("number 3") && out.contains("3 sent, 3 answered, 0 lost"),
        "{out}"
    );
    assert!(out.contains("median"), "{out}");
    let (code, out, said) = code_and_texts(&node(&[&args[..], &["--json"]].concat()));
    assert_eq!(code, 0, "{said}");
    let json: Value = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"));
    assert_eq!(
        (&json["sent"], &json["lost"]),
        (&3.into(), &0.into()),
        "{out}"
    );
    assert_eq!(json["times_us"].as_array().map(Vec::len), Some(3), "{out}");

    let bytes = folder.file("news.bin", "\0\u{1}news");
    let bytes = bytes.to_str().expect("a path of text");
    let args = [
        "send",
        "a",
        "Announce",
        "--payload-file",
        bytes,
        "--as",
        "herald",
    ];
    let sent = node(&[&args[..], &["--at", &a.address]].concat());
    assert_eq!(code_and_texts(&sent).0, 0, "{sent:?}");

    // The message was written before the sender ended, and the end waits for what was received.
    let summary = a.terminate();
    assert!(
        summary.contains("Announce from herald, 6 bytes"),
        "{summary}"
    );
    // All of them, whoever has gone since: requests and pings, and the news.
    assert!(summary.contains("messages     9 taken"), "{summary}");
    assert!(summary.contains("drain"), "{summary}");
}

#[test]
fn status_shows_the_peers_of_all_nodes_of_a_directory() {
    let folder = Folder::new("status");
    let mesh = folder.0.join("mesh.txt");
    let text = "nid = \"a\"\nbind = [\"127.0.0.1:0\"]\n[directory]\nsource = \"mesh.txt\"\n";
    let a = run(&folder.file("a.toml", text));
    let b = run(&folder.file("b.toml", &text.replace("\"a\"", "\"b\"")));
    let lines = format!("a {} 7 1\nb {} 7 1\n", a.address, b.address);
    fs::write(&mesh, lines).expect("it can be written");
    let mesh = mesh.to_str().expect("a path of text");

    // The file is read every second; both dial each other then.
    let linked = |status: &Value, of: usize, other: &str| {
        let peers = status[of]["peers"].as_array().expect("peers");
        let peer = peers.iter().find(|peer| peer["nid"] == other);
        peer.is_some_and(|peer| peer["dialled"] == true && peer["proscenium"] == true)
    };
    let begin = std::time::Instant::now();
    loop {
        let asked = node(&[
            "status",
            "--directory",
            mesh,
            "--interval",
            "10ms",
            "--json",
        ]);
        let (code, out, said) = code_and_texts(&asked);
        assert_eq!(code, 0, "{said}");
        let status: Value = serde_json::from_str(&out).expect("it is JSON");
        assert_eq!(
            (&status[0]["nid"], &status[1]["nid"]),
            (&"a".into(), &"b".into())
        );
        if linked(&status, 0, "b") && linked(&status, 1, "a") {
            let shell = status[0]["peers"].as_array().expect("peers");
            let shell = shell.iter().find(|peer| {
                peer["nid"]
                    .as_str()
                    .is_some_and(|nid| nid.starts_with("shell-"))
            });
            let rate = shell.expect("who asks is a peer")["in_per_second"].as_f64();
            assert!(rate > Some(0.0), "{status}");
            break;
        }
        assert!(begin.elapsed().as_secs() < 60, "{out}");
    }
    let asked = node(&["status", "b", "--directory", mesh, "--interval", "0"]);
    let (code, out, said) = code_and_texts(&asked);
    assert!(code == 0 && out.contains("timeouts"), "{out}{said}");
    assert!(out.starts_with("b: ") && out.contains("\n  a "), "{out}");

    let (code, _, said) = code_and_texts(&node(&["ping", "c", "--directory", mesh]));
    assert!(
        code == 1 && said.contains("which has: a, b"),
        "{code}: {said}"
    );
    a.terminate();
    b.terminate();
}

#[test]
fn who_does_not_answer_is_exit_code_2_and_says_what_happened() {
    // Bound and not listening: refused.
    let socket = bound();
    let address = socket.local_addr().expect("its address");
    let address = address.as_socket().expect("of TCP").to_string();
    let at = ["--at", address.as_str()];
    for args in [
        &["ping", "a"][..],
        &["send", "a", "X"],
        &["request", "a", "X"],
        &["status"],
    ] {
        let said = unreached(&[args, &at].concat(), "nobody listens there");
        assert!(said.contains("could not be reached"), "{said}");
        assert!(said.contains(&address), "{said}");
        assert!(said.contains("connect_failed"), "{said}");
    }
    // Somebody else is there.
    let folder = Folder::new("other");
    let a = run(&folder.file("a.toml", "nid = \"a\"\nbind = [\"127.0.0.1:0\"]\n"));
    let said = unreached(&["ping", "b", "--at", &a.address], "another name is there");
    assert!(said.contains("b could not be reached"), "{said}");
    // Something else is there.
    let echo = Echo::start(&[]);
    unreached(&["ping", "b", "--at", &echo.address], "is no node");
}

/// What `proscenium node ARGS` says of a node that it does not reach: `why`, once it has had the
/// time to find that out.
#[track_caller]
fn unreached(args: &[&str], why: &str) -> String {
    let mut said = String::new();
    for timeout in ["200ms", "2s", "20s"] {
        let code;
        (code, _, said) = code_and_texts(&node(&[args, &["--timeout", timeout]].concat()));
        assert_eq!(code, 2, "{args:?}: {said}");
        if said.contains(why) {
            return said;
        }
    }
    panic!("{args:?}: not {why}, but {said}");
}

#[test]
fn what_is_wrong_in_a_file_or_on_the_command_line_is_named() {
    let folder = Folder::new("wrong");
    let refused = |args: &[&str], expected: &[&str]| {
        let (code, _, said) = code_and_texts(&node(args));
        assert_eq!(code, 1, "{args:?}: {said}");
        for part in expected {
            assert!(said.contains(part), "{args:?}: {part}: {said}");
        }
    };
    let file = folder.file("x.toml", "nid = \"a\"\nbind = [\"0.0.0.0:0\"]\n");
    let path = file.to_str().expect("a path of text");
    refused(&["run", "--config", path], &["allow-list", "0.0.0.0"]);
    folder.file(
        "x.toml",
        "nid = \"a\"\nbind = [\"127.0.0.1:0\"]\n\n[limits]\npeer = 3\n",
    );
    refused(
        &["run", "--config", path],
        &["x.toml", "line 5", "`peer`", "`peers`"],
    );
    refused(
        &["run", "--config", "/nonexistent.toml"],
        &["/nonexistent.toml"],
    );
    refused(&["run"], &["--config"]);
    refused(&["ping", "a"], &["--at", "--directory"]);
    refused(&["ping", "a", "--at", "nowhere"], &["nowhere"]);
    refused(
        &["ping", "a", "--at", "127.0.0.1:1", "--directory", "f"],
        &["--directory"],
    );
    refused(
        &["status", "--directory", "/nonexistent"],
        &["/nonexistent"],
    );
    refused(&["status", "a", "b", "--at", "127.0.0.1:1"], &["one node"]);
    refused(
        &["ping", "a", "--directory", "f", "--mesh", "m"],
        &["Redis"],
    );

    let (code, example, _) = code_and_texts(&node(&["run", "--example-config"]));
    assert_eq!(code, 0);
    let file = folder.file("example.toml", &example.replace("7100", "0"));
    let runs = run(&file);
    assert!(runs.address.starts_with("127.0.0.1:"), "{}", runs.address);
    runs.terminate();
}

/// A port where nobody listens, and nobody else can.
fn bound() -> socket2::Socket {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
    let socket = socket.expect("a socket");
    let any: std::net::SocketAddr = "127.0.0.1:0".parse().expect("an address");
    socket.bind(&any.into()).expect("a free port");
    socket
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Fails if it has ended, which it should not have.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// As `proscenium node run 2>&1 | head -1` has it.
#[test]
fn a_node_of_whose_errors_nobody_reads_goes_on() {
    let folder = Folder::new("deaf");
    let config = folder.file("a.toml", "nid = \"a\"\nbind = [\"127.0.0.1:0\"]\n");
    let (nobody, errors) = std::io::pipe().expect("a pipe");
    drop(nobody);
    let mut command = proscenium();
    command.args(["node", "run", "--config"]).arg(&config);
    command.stdout(Stdio::piped()).stderr(errors);
    let mut a = Running(command.spawn().expect("it starts"));
    let mut line = String::new();
    let out = a.0.stdout.take().expect("its output is piped");
    BufReader::new(out).read_line(&mut line).expect("a line");
    let address = line.trim_end().strip_prefix("listening on ");
    let address = address.expect("it listens");
    for _ in 0..2 {
        let ping = node(&["ping", "a", "--at", address, "--count", "1"]);
        let (code, text, said) = code_and_texts(&ping);
        assert_eq!(code, 0, "{text}{said}");
    }
}

#[test]
fn passwords_of_redis_are_not_shown() {
    // Bound and not listening: refused, and nobody else's.
    let socket = bound();
    let address = socket.local_addr().expect("its address");
    let address = address.as_socket().expect("of TCP");
    let directory = format!("redis://:hidden@{address}");
    let (code, text, said) = code_and_texts(&node(&["status", "--directory", &directory]));
    assert_eq!(code, 1, "{text}{said}");
    assert!(
        said.contains(&address.to_string()) && !said.contains("hidden"),
        "{said}"
    );
}

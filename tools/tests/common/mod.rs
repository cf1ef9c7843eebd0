//! Running the real command, and servers that misbehave in known ways.
#![allow(dead_code, reason = "every test binary uses a part of it")]

#[path = "../../../tests/support/signal.rs"]
pub(crate) mod signal;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};
use std::thread;

use serde_json::Value;
use signal::send_signal;

/// The command under test.
pub(crate) fn proscenium() -> Command {
    Command::new(env!("CARGO_BIN_EXE_proscenium"))
}

/// An echo server under way; killed if a test fails before it ends.
pub(crate) struct Echo {
    child: Child,
    stdout: BufReader<ChildStdout>,
    stderr: BufReader<ChildStderr>,
    /// Where it listens.
    pub(crate) address: String,
}

impl Echo {
    /// Starts `proscenium echo` on a free port and waits until it listens.
    pub(crate) fn start(args: &[&str]) -> Self {
        let mut command = proscenium();
        command.arg("echo");
        if !args.contains(&"--listen") {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        command.args(args);
        Self::spawn(command)
    }

    /// Starts this command and waits until it listens.
    pub(crate) fn spawn(mut command: Command) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the command starts");
        let stdout = BufReader::new(child.stdout.take().expect("its output is piped"));
        let stderr = BufReader::new(child.stderr.take().expect("its errors are piped"));
        let mut echo = Self {
            child,
            stdout,
            stderr,
            address: String::new(),
        };
        let mut line = String::new();
        echo.stdout
            .read_line(&mut line)
            .expect("its output is text");
        let address = line.trim_end().strip_prefix("listening on ");
        match address {
            Some(address) => echo.address = address.to_owned(),
            None => panic!(
                "instead of the address: {line:?}, {}",
                echo.rest_of_errors()
            ),
        }
        echo
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line on its standard error.
    pub(crate) fn error_line(&mut self) -> String {
        let mut line = String::new();
        self.stderr
            .read_line(&mut line)
            .expect("its errors are text");
        line
    }

    fn rest_of_errors(&mut self) -> String {
        let _ = self.child.kill();
        let mut text = String::new();
        let _ = self.stderr.read_to_string(&mut text);
        text
    }

    /// Sends SIGTERM, waits for the end, and returns what it printed.
    pub(crate) fn terminate(mut self) -> String {
        send_signal(self.pid(), "TERM");
        let mut summary = String::new();
        self.stdout
            .read_to_string(&mut summary)
            .expect("its output is text");
        let status = self.child.wait().expect("it ends");
        assert!(status.success(), "it ended with {status}: {summary}");
        summary
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        // Both fail if it has ended, as it should have.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Arguments of a load of few long messages, each looked at.
#[rustfmt::skip]
pub(crate) const LARGE: [&str; 8] = [
    "--size", "1MiB", "--inflight", "2", "--ccu", "3", "--verify", "full",
];

/// What a load run came to.
pub(crate) struct Loaded {
    pub(crate) code: i32,
    /// The JSON record.
    pub(crate) record: Value,
    /// The summary for people.
    pub(crate) summary: String,
    /// How often the load was run, until something could be measured.
    pub(crate) tries: u32,
}

impl Loaded {
    /// A number of the record.
    #[track_caller]
    pub(crate) fn number(&self, name: &str) -> f64 {
        self.record[name]
            .as_f64()
            .unwrap_or_else(|| panic!("{name} in {}", self.record))
    }

    #[track_caller]
    pub(crate) fn assert_pass(&self) {
        assert_eq!(
            (self.code, self.record["pass_fail"].as_str()),
            (0, Some("PASS")),
            "{self}"
        );
        for name in [
            "drain_timeout",
            "gating_violation",
            "corrupt",
            "lost",
            "incomplete_ratio",
        ] {
            assert_eq!(self.number(name), 0.0, "{name}: {self}");
        }
    }

    #[track_caller]
    pub(crate) fn assert_fail(&self) {
        assert_eq!(
            (self.code, self.record["pass_fail"].as_str()),
            (2, Some("FAIL")),
            "{self}"
        );
        assert!(
            !self.record["failures"].as_array().unwrap().is_empty(),
            "{self}"
        );
    }
}

impl std::fmt::Display for Loaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "exit code {}\n{}", self.code, self.summary)
    }
}

/// Runs `proscenium load stream` against the target; small and short unless `args` say more.
#[track_caller]
pub(crate) fn load(target: &str, scenario: &str, args: &[&str]) -> Loaded {
    let mut command = proscenium();
    command.args(["load", "stream", "--target", target, "--scenario", scenario]);
    finish(command, args)
}

/// Runs a load command that lacks its load; small and short unless `args` say more, and patient: a
/// busy machine may keep connections and answers waiting. Where nothing could be measured, it is
/// run again.
#[track_caller]
pub(crate) fn finish(mut command: Command, args: &[&str]) -> Loaded {
    command.args(["--json", "-"]);
    for (name, value) in [
        ("--ccu", "50"),
        ("--warmup", "100ms"),
        ("--measure", "300ms"),
        ("--inflight", "8"),
        ("--connect-timeout", "60s"),
        ("--drain", "60s"),
    ] {
        if !args.contains(&name) {
            command.args([name, value]);
        }
    }
    command.args(args);
    let mut tries = 0;
    loop {
        tries += 1;
        let output = command.output().expect("the command starts");
        let summary = String::from_utf8_lossy(&output.stderr).into_owned();
        let record: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("no record: {error}\n{summary}"));
        if !nothing_measured(&record) || tries == 20 {
            return Loaded {
                code: output.status.code().expect("it was not killed"),
                record,
                summary,
                tries,
            };
        }
    }
}

/// True for a run with which nothing was wrong but that the machine had other things to do while
/// it was measured.
pub(crate) fn nothing_measured(record: &Value) -> bool {
    let failures = record["failures"].as_array();
    failures.is_some_and(|all| *all == ["no answer came inside the measuring window"])
}

/// Runs `load node` or `load mesh` briefly, and has to pass: what was sent has arrived; the record.
#[track_caller]
pub(crate) fn load_nodes(kind: &str, target: &str, args: &[&str]) -> Value {
    let output = proscenium()
        .args(["load", kind, "--target", target, "--json", "-"])
        .args(["--warmup", "50ms", "--measure", "200ms", "--drain", "60s"])
        .args(args)
        .output()
        .expect("the command starts");
    let said = String::from_utf8_lossy(&output.stderr);
    let record: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("no record: {error}\n{said}"));
    assert_eq!(output.status.code(), Some(0), "{said}\n{record}");
    assert_eq!(record["failures"], Value::Array(vec![]), "{record}");
    assert_eq!(record["sent"], record["received"], "{record}");
    assert!(record["sent"].as_u64() >= Some(1), "{record}");
    record
}

/// The command cannot do its work, and says why.
#[track_caller]
pub(crate) fn assert_explained(args: &[&str], expected: &str) {
    let output = proscenium()
        .args(args)
        .output()
        .expect("the command starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
    assert!(said.contains(expected), "{args:?}: {said}");
}

/// A folder of its own for a test, removed at the end.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Self {
        let folder = format!("proscenium-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(folder);
        fs::create_dir_all(&path).expect("the temporary folder is writable");
        Self(path)
    }

    /// What is in a file.
    #[track_caller]
    pub(crate) fn text(&self, file: &str) -> String {
        fs::read_to_string(self.0.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
    }

    /// Writes a file; its path.
    pub(crate) fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).expect("the folder is writable");
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs `compare`, which has to do its work; what it printed, what it told, `results.json`. Once
/// more where a machine that had other things to do measured nothing in one of its windows.
#[track_caller]
pub(crate) fn compare(args: &[&str], out: &Folder) -> (String, String, Value) {
    for _ in 0..20 {
        let output = proscenium()
            .arg("compare")
            .args(args)
            .arg("--out")
            .arg(&out.0)
            .output()
            .expect("the command starts");
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{printed}\n{told}");
        let json: Value = serde_json::from_str(&out.text("results.json")).expect("JSON");
        let mut runs = json["runs"].as_array().into_iter().flatten();
        if !runs.any(|run| nothing_measured(&run["record"])) {
            return (printed, told, json);
        }
    }
    panic!("nothing was measured, 20 times");
}

/// A server whose connections are each served by `serve`, on threads, until the process ends.
pub(crate) fn server(
    serve: impl Fn(TcpStream) -> std::io::Result<()> + Send + Clone + 'static,
) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("its address");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = serve.clone();
            // The client's end of the connection is the end of the service.
            thread::spawn(move || drop(serve(stream)));
        }
    });
    address.to_string()
}

/// Reads one frame: length and body.
pub(crate) fn read_frame(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut body = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut body)?;
    Ok(body)
}

/// Writes one frame.
pub(crate) fn write_frame(stream: &mut TcpStream, body: &[u8]) -> std::io::Result<()> {
    let mut frame = (body.len() as u32).to_be_bytes().to_vec();
    frame.extend_from_slice(body);
    stream.write_all(&frame)
}

//! The servers as processes of this program, and HTTP to one of them.

use std::error::Error;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// How long anything may take before it counts as failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server; it is killed when this is dropped.
pub(crate) struct Process {
    name: String,
    child: Child,
    lines: Receiver<String>,
}

impl Process {
    /// Runs this program again, as a server.
    pub(crate) fn start(kind: &str, nid: &str, directory: &Path) -> Result<Self, Box<dyn Error>> {
        let mut child = Command::new(std::env::current_exe()?)
            .args([kind, "--nid", nid, "--directory"])
            .arg(directory)
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child.stdout.take().ok_or("it is piped")?;
        let (said, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let _ = said.send(line); // the demonstration may be over
            }
        });
        let name = nid.to_owned();
        Ok(Self { name, child, lines })
    }

    /// Waits for a line that begins so, and gives the rest of it.
    pub(crate) fn wait_for(&self, beginning: &str) -> Result<String, Box<dyn Error>> {
        let until = Instant::now() + PATIENCE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left);
            let line = line.map_err(|_| format!("{} does not say `{beginning}`", self.name))?;
            if let Some(rest) = line.strip_prefix(beginning) {
                return Ok(rest.to_owned());
            }
        }
    }

    /// Asks it to end, and waits until it has, with the last line that it said.
    pub(crate) fn end(mut self) -> Result<String, Box<dyn Error>> {
        let pid = i32::try_from(self.child.id())?;
        let pid = Pid::from_raw(pid).ok_or("a process has a number")?;
        kill_process(pid, Signal::TERM)?;
        let (until, mut last) = (Instant::now() + PATIENCE, String::new());
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => last = line,
                Err(RecvTimeoutError::Disconnected) => break, // its output ends with it
                Err(RecvTimeoutError::Timeout) => Err(format!("{} does not end", self.name))?,
            }
        }
        let status = self.child.wait()?;
        if !status.success() {
            Err(format!("{} ended with {status}: {last}", self.name))?;
        }
        Ok(last)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended
        let _ = self.child.wait();
    }
}

/// One request: the status and the body of its answer.
pub(crate) fn http(at: &str, method: &str, path: &str) -> Result<(u16, String), Box<dyn Error>> {
    let mut stream = TcpStream::connect(at)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let head = format!("{method} {path} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("no answer of HTTP")?;
    let status = head.split(' ').nth(1).ok_or("no status")?;
    Ok((status.parse()?, body.to_owned()))
}

/// One that has to go well, with JSON in its answer.
pub(crate) fn json(at: &str, method: &str, path: &str) -> Result<Value, Box<dyn Error>> {
    match http(at, method, path)? {
        (200, body) => Ok(serde_json::from_str(&body)?),
        (status, body) => Err(format!("{method} {path}: {status} {body}"))?,
    }
}

/// Asks until that is answered 200.
pub(crate) fn wait_until_ok(at: &str, path: &str) -> Result<(), Box<dyn Error>> {
    let until = Instant::now() + PATIENCE;
    loop {
        match http(at, "GET", path)? {
            (200, _) => return Ok(()),
            (status, body) if Instant::now() > until => {
                Err(format!("{path}: {status} {body}"))?;
            }
            _ => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

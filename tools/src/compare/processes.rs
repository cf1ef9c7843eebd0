//! Servers and clients as processes of their own: started on their CPUs, ended in any case.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::quota::Group;

/// How long a server may take until it listens.
const READY_DEADLINE: Duration = Duration::from_secs(15);
/// How long a process may take to end after SIGTERM; then it is killed.
const END_DEADLINE: Duration = Duration::from_secs(10);
/// How often to look whether a process has ended.
const LOOK: Duration = Duration::from_millis(10);
/// Lines of a process's errors that are kept to explain a failure.
const LINES_KEPT: usize = 20;

const READY: &str = "listening on ";

/// The CPUs this process may use, in order.
///
/// # Errors
/// When the system does not tell.
pub(crate) fn allowed_cpus() -> io::Result<Vec<usize>> {
    let set = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU)
        .filter(|&cpu| set.is_set(cpu))
        .collect())
}

/// A command and the CPUs it may use; empty: all.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<String>,
    pub(crate) cpus: Vec<usize>,
}

impl Launch {
    /// The command as one would type it.
    pub(crate) fn shell(&self) -> String {
        let mut line = String::new();
        if !self.cpus.is_empty() {
            let cpus: Vec<String> = self.cpus.iter().map(usize::to_string).collect();
            let _ = write!(line, "taskset -c {} ", cpus.join(","));
        }
        let file = self.program.file_name().unwrap_or(self.program.as_os_str());
        line.push_str(&file.to_string_lossy());
        for arg in &self.args {
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_.,:/=+%@".contains(c);
            if !arg.is_empty() && arg.chars().all(plain) {
                let _ = write!(line, " {arg}");
            } else {
                let _ = write!(line, " '{}'", arg.replace('\'', r"'\''"));
            }
        }
        line
    }

    /// Starts it with its output piped, out of reach of a terminal's Ctrl-C: who started it ends
    /// it.
    fn spawn(&self) -> io::Result<Child> {
        let mut command = Command::new(&self.program);
        command
            .args(&self.args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        if self.cpus.is_empty() {
            return command.spawn();
        }
        // A new process has the CPUs of the thread that starts it.
        let mut set = CpuSet::new();
        for &cpu in &self.cpus {
            set.set(cpu);
        }
        thread::scope(|scope| {
            let starter = scope.spawn(|| {
                sched_setaffinity(None, &set)?;
                command.spawn()
            });
            starter
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("starting it panicked")))
        })
    }
}

/// A process that is ended when this goes out of scope.
struct Running(Child);

impl Running {
    /// Asks it to end, then kills it if it does not.
    fn end(&mut self) -> io::Result<ExitStatus> {
        if let Some(status) = self.0.try_wait()? {
            return Ok(status);
        }
        kill_process(Pid::from_child(&self.0), Signal::TERM)?;
        if let Some(status) = self.wait_until(Instant::now() + END_DEADLINE, None)? {
            return Ok(status);
        }
        self.0.kill()?;
        self.0.wait()
    }

    /// Waits for its end; none if the time is over or somebody interrupts.
    fn wait_until(
        &mut self,
        deadline: Instant,
        interrupted: Option<&AtomicBool>,
    ) -> io::Result<Option<ExitStatus>> {
        loop {
            if let Some(status) = self.0.try_wait()? {
                return Ok(Some(status));
            }
            let stop = interrupted.is_some_and(|flag| flag.load(Ordering::Relaxed));
            if stop || Instant::now() >= deadline {
                return Ok(None);
            }
            thread::sleep(LOOK);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail if it has ended, as it should have.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The last lines that a process wrote; read all the time, so that it never waits for a reader.
struct LastLines {
    lines: Arc<Mutex<VecDeque<String>>>,
    reader: Option<JoinHandle<()>>,
}

impl LastLines {
    fn of(stream: impl Read + Send + 'static) -> Self {
        let lines = Arc::new(Mutex::new(VecDeque::new()));
        let kept = Arc::clone(&lines);
        let read = move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                let mut kept = kept.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                kept.push_back(line);
                if kept.len() > LINES_KEPT {
                    kept.pop_front();
                }
            }
        };
        Self {
            lines,
            reader: Some(thread::spawn(read)),
        }
    }

    /// What there is once the process has ended.
    fn join(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            // A reader that panicked leaves what it has read.
            let _ = reader.join();
        }
        let lines = self
            .lines
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let lines: Vec<&str> = lines.iter().map(|line| line.trim()).collect();
        lines.join(" | ")
    }
}

/// A server under way.
pub(crate) struct Server {
    process: Running,
    errors: LastLines,
    /// Where it listens.
    pub(crate) address: String,
}

impl Server {
    /// Starts a server and waits until it listens.
    ///
    /// # Errors
    /// When it does not: says what it wrote.
    pub(crate) fn start(launch: &Launch, group: Option<&Group>) -> Result<Self, String> {
        let mut child = launch
            .spawn()
            .map_err(|error| format!("cannot start {}: {error}", launch.program.display()))?;
        let pid = child.id();
        let stdout = child.stdout.take().expect("its output is piped");
        let stderr = child.stderr.take().expect("its errors are piped");
        let mut server = Self {
            process: Running(child),
            errors: LastLines::of(stderr),
            address: String::new(),
        };
        if let Some(group) = group {
            group
                .add(pid)
                .map_err(|error| format!("cannot put the server under its quota: {error}"))?;
        }
        let (say, heard) = mpsc::channel();
        thread::spawn(move || {
            // The first line is what we wait for; the rest is read so that it can be written.
            let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
            let _ = say.send(lines.next());
            lines.for_each(drop);
        });
        match heard.recv_timeout(READY_DEADLINE) {
            Ok(Some(line)) => match line.strip_prefix(READY) {
                Some(address) => server.address = address.trim().to_owned(),
                None => return Err(format!("its first line is `{line}`, not `{READY}ADDR`")),
            },
            Ok(None) => {
                let status = server.process.end().map_err(|error| error.to_string())?;
                let errors = server.errors.join();
                return Err(format!(
                    "the server ended before it listened: {status}: {errors}"
                ));
            }
            Err(_) => {
                return Err(format!(
                    "the server did not listen within {} s",
                    READY_DEADLINE.as_secs()
                ));
            }
        }
        Ok(server)
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.process.0.id()
    }

    /// Ends it.
    ///
    /// # Errors
    /// When it had ended before, or did not end as asked: says what it wrote.
    pub(crate) fn stop(mut self) -> Result<(), String> {
        let before = self
            .process
            .0
            .try_wait()
            .map_err(|error| error.to_string())?;
        let status = self.process.end().map_err(|error| error.to_string())?;
        match before {
            Some(status) => Err(format!(
                "the server ended during the run: {status}: {}",
                self.errors.join()
            )),
            None if status.success() => Ok(()),
            None => Err(format!(
                "the server did not end properly on SIGTERM: {status}: {}",
                self.errors.join()
            )),
        }
    }
}

/// Runs a client to its end and returns what it wrote on standard output.
///
/// # Errors
/// When it cannot be started, does not end in time, is interrupted, or wrote nothing: says why.
pub(crate) fn client(
    launch: &Launch,
    time_max: Duration,
    interrupted: &AtomicBool,
) -> Result<String, String> {
    let mut child = launch
        .spawn()
        .map_err(|error| format!("cannot start the client: {error}"))?;
    let mut stdout = child.stdout.take().expect("its output is piped");
    let mut errors = LastLines::of(child.stderr.take().expect("its errors are piped"));
    let mut process = Running(child);
    let reader = thread::spawn(move || {
        let mut text = String::new();
        stdout.read_to_string(&mut text).map(|_| text)
    });
    let ended = process
        .wait_until(Instant::now() + time_max, Some(interrupted))
        .map_err(|error| error.to_string())?;
    let Some(status) = ended else {
        process.end().map_err(|error| error.to_string())?;
        return Err(if interrupted.load(Ordering::Relaxed) {
            "interrupted".to_owned()
        } else {
            format!("the client did not end within {} s", time_max.as_secs())
        });
    };
    let text = reader
        .join()
        .map_err(|_| "reading the client's output panicked".to_owned())?
        .map_err(|error| format!("the client's output: {error}"))?;
    if text.trim().is_empty() {
        return Err(format!("the client: {status}: {}", errors.join()));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, cpus: &[usize]) -> Launch {
        Launch {
            program: "sh".into(),
            args: vec!["-c".into(), script.into()],
            cpus: cpus.to_vec(),
        }
    }

    fn never() -> AtomicBool {
        AtomicBool::new(false)
    }

    #[test]
    fn a_launch_is_shown_as_one_would_type_it() {
        let launch = Launch {
            program: "t/release/peer".into(),
            args: ["--listen", "127.0.0.1:0", "it's"]
                .map(str::to_owned)
                .into(),
            cpus: vec![0, 2],
        };
        let expected = r"taskset -c 0,2 peer --listen 127.0.0.1:0 'it'\''s'";
        assert_eq!(launch.shell(), expected);
    }

    #[test]
    fn a_server_is_ready_when_it_says_so_and_ends_when_asked() {
        let script = "trap 'exit 0' TERM; echo listening on 127.0.0.1:9; \
                      while :; do sleep 0.01; done";
        let server = Server::start(&sh(script, &[]), None).unwrap();
        assert_eq!(server.address, "127.0.0.1:9");
        assert_eq!(server.stop(), Ok(()));
    }

    #[test]
    fn what_a_failing_server_wrote_is_the_reason() {
        let start = |script: &str| Server::start(&sh(script, &[]), None).err().unwrap();
        let error = start("echo no such flag >&2; exit 3");
        assert!(
            error.contains("no such flag") && error.contains('3'),
            "{error}"
        );
        let error = start("echo hello; sleep 60");
        assert!(error.contains("hello"), "{error}");
        let missing = Launch {
            program: "/nonexistent/peer".into(),
            args: Vec::new(),
            cpus: Vec::new(),
        };
        let error = Server::start(&missing, None).err().unwrap();
        assert!(error.contains("/nonexistent/peer"), "{error}");
    }

    #[test]
    fn a_server_that_ended_by_itself_did_not_stop_properly() {
        let server = Server::start(&sh("echo listening on x; exec >&-; exit 1", &[]), None);
        let mut server = server.unwrap();
        server.process.0.wait().unwrap();
        let error = server.stop().unwrap_err();
        assert!(error.contains("during the run"), "{error}");
    }

    #[test]
    fn a_client_runs_on_its_cpu() {
        let cpu = *allowed_cpus().unwrap().last().unwrap();
        let script = "grep Cpus_allowed_list /proc/self/status";
        let text = client(&sh(script, &[cpu]), READY_DEADLINE, &never()).unwrap();
        let list = text.split_whitespace().last().unwrap();
        assert_eq!(list, cpu.to_string());
    }

    #[test]
    fn a_client_that_hangs_or_fails_is_explained_and_gone() {
        let soon = Duration::from_millis(20);
        let error = client(&sh("exec sleep 60", &[]), soon, &never()).unwrap_err();
        assert!(error.contains("did not end"), "{error}");
        let flag = AtomicBool::new(true);
        let error = client(&sh("exec sleep 60", &[]), READY_DEADLINE, &flag).unwrap_err();
        assert_eq!(error, "interrupted");
        let error = client(&sh("echo bad >&2; exit 1", &[]), READY_DEADLINE, &never()).unwrap_err();
        assert!(error.contains("bad"), "{error}");
    }
}

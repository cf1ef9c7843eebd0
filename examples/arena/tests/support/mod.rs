//! Programs under test, and a proxy whose connections can be cut.

use std::io::{self, BufRead, BufReader};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long anything may take before a test fails. No test passes or fails by being fast.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The `arena` command, running; it is killed when this is dropped.
pub(crate) struct Program {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Program {
    pub(crate) fn start<S: AsRef<str>>(args: &[S]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_arena"))
            .args(args.iter().map(AsRef::as_ref))
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let stdout = child.stdout.take().expect("it is piped");
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = sender.send(line); // the test may be over
            }
        });
        Self {
            child,
            lines,
            seen: Vec::new(),
        }
    }

    /// Waits for a line that `found` makes something of.
    #[track_caller]
    pub(crate) fn wait_for<R>(&mut self, what: &str, found: impl Fn(&str) -> Option<R>) -> R {
        let until = Instant::now() + PATIENCE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                panic!("no {what} in {:#?}", self.seen);
            };
            let answer = found(&line);
            self.seen.push(line);
            if let Some(answer) = answer {
                return answer;
            }
        }
    }

    /// Asks it to end.
    pub(crate) fn terminate(&self) {
        let pid = i32::try_from(self.child.id()).expect("ids fit");
        let pid = Pid::from_raw(pid).expect("not 0");
        kill_process(pid, Signal::TERM).expect("it runs");
    }

    /// Waits for its end: how it ended, and all that it said.
    #[track_caller]
    pub(crate) fn end(mut self) -> (ExitStatus, Vec<String>) {
        let until = Instant::now() + PATIENCE;
        // Its output ends with it.
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => self.seen.push(line),
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => panic!("it goes on: {:#?}", self.seen),
            }
        }
        let status = self.child.wait().expect("it is our child");
        (status, std::mem::take(&mut self.seen))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Passes connections on to a server until they are cut.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    sockets: Arc<Mutex<Vec<TcpStream>>>,
}

impl Proxy {
    pub(crate) fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let sockets = Arc::default();
        let known: Arc<Mutex<Vec<TcpStream>>> = Arc::clone(&sockets);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let server = TcpStream::connect(server).expect("the server listens");
                let two = |one: &TcpStream| one.try_clone().expect("a descriptor");
                known
                    .lock()
                    .expect("nobody panics with it")
                    .extend([two(&client), two(&server)]);
                let (to_client, to_server) = (two(&client), two(&server));
                thread::spawn(move || pass(client, to_server));
                thread::spawn(move || pass(server, to_client));
            }
        });
        Self { port, sockets }
    }

    /// Ends every connection that there is, for both ends.
    pub(crate) fn cut(&self) {
        for socket in self
            .sockets
            .lock()
            .expect("nobody panics with it")
            .drain(..)
        {
            let _ = socket.shutdown(Shutdown::Both); // it may have ended
        }
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream) {
    let _ = io::copy(&mut from, &mut to);
    // Whichever end went, the other one hears of it.
    let _ = to.shutdown(Shutdown::Both);
}

//! A Redis of a test's own.

use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::foreign;
use crate::support::signal::send_signal;
use crate::support::wait_until;

/// A `redis-server` on a Unix socket in a folder of its own. Both end with this.
pub(crate) struct Redis {
    folder: PathBuf,
    arguments: Vec<String>,
    child: Option<Child>,
}

impl Redis {
    /// `None` where there is no Redis.
    pub(crate) fn start(arguments: &[&str]) -> Option<Self> {
        let mut redis = Self::new(arguments)?;
        redis.run();
        Some(redis)
    }

    /// Also on a port of loopback, which `arguments` are made for.
    pub(crate) fn on_port(arguments: impl Fn(&str) -> Vec<String>) -> Option<(Self, String)> {
        // The port is free when it is looked for; who comes in between costs a further attempt.
        for _ in 0..20 {
            let found = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = found.local_addr().unwrap().port().to_string();
            drop(found);
            let arguments = arguments(&port);
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let mut redis = Self::new(&arguments)?;
            if redis.listens() {
                return Some((redis, port));
            }
        }
        panic!("no port was free");
    }

    fn new(arguments: &[&str]) -> Option<Self> {
        if !foreign::program("redis-server", &["redis-server", "--version"]) {
            return None;
        }
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("proscenium-redis-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        // Of a process of that number that was killed.
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir(&folder).unwrap();
        Some(Self {
            folder,
            arguments: arguments.iter().map(|&one| one.to_owned()).collect(),
            child: None,
        })
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("socket")
    }

    /// Runs it, with nothing in it.
    pub(crate) fn run(&mut self) {
        assert!(self.listens(), "Redis has ended");
    }

    /// Runs it. False if it ends instead.
    fn listens(&mut self) -> bool {
        let socket = self.socket();
        let mut command = Command::new("redis-server");
        command.args(["--port", "0", "--save", "", "--appendonly", "no"]);
        command.arg("--unixsocket").arg(&socket);
        command.arg("--dir").arg(&self.folder);
        // The last of two settings counts.
        command.args(&self.arguments).stdout(Stdio::null());
        let child = self.child.insert(command.spawn().unwrap());
        let mut ended = false;
        wait_until("Redis listens", || {
            ended = child.try_wait().unwrap().is_some();
            ended || UnixStream::connect(&socket).is_ok()
        });
        !ended
    }

    pub(crate) fn url(&self) -> String {
        self.url_with("")
    }

    /// With what goes behind the `?`.
    pub(crate) fn url_with(&self, query: &str) -> String {
        format!("redis+unix://{}?{query}", self.socket().display())
    }

    /// Sends it a signal, by its name.
    pub(crate) fn signal(&self, signal: &str) {
        send_signal(self.child.as_ref().unwrap().id(), signal);
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// A client, for what no directory would do.
    pub(crate) fn client(&self) -> redis::Connection {
        let client = redis::Client::open(self.url()).unwrap();
        client.get_connection().unwrap()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

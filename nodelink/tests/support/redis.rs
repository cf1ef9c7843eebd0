//! A Redis of a test's own.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::foreign;
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
        if !foreign::program("redis-server", &["redis-server", "--version"]) {
            return None;
        }
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("proscenium-redis-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir(&folder).unwrap();
        let arguments = arguments.iter().map(|&one| one.to_owned()).collect();
        let mut redis = Self {
            folder,
            arguments,
            child: None,
        };
        redis.run();
        Some(redis)
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("socket")
    }

    /// Runs it, with nothing in it.
    pub(crate) fn run(&mut self) {
        let mut command = Command::new("redis-server");
        command.args(["--port", "0", "--save", "", "--appendonly", "no"]);
        command.arg("--unixsocket").arg(self.socket());
        command.arg("--dir").arg(&self.folder);
        command.args(&self.arguments).stdout(Stdio::null());
        self.child = Some(command.spawn().unwrap());
        let child = self.child.as_mut().unwrap();
        let socket = self.folder.join("socket");
        wait_until("Redis listens", || {
            let ended = child.try_wait().unwrap();
            assert_eq!(ended, None, "Redis has ended");
            UnixStream::connect(&socket).is_ok()
        });
    }

    pub(crate) fn url(&self) -> String {
        self.url_with("")
    }

    /// With what goes behind the `?`.
    pub(crate) fn url_with(&self, query: &str) -> String {
        format!("redis+unix://{}?{query}", self.socket().display())
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.child.as_ref().unwrap().id().to_string();
        let killed = Command::new("kill").args([signal, &pid]).status();
        assert!(killed.unwrap().success());
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

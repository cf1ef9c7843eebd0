//! [`FileDirectory`]: the servers stand in a file that somebody else keeps.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use super::worker::Worker;
use super::{Directory, OnServers, ServerInfo, Watch};
use crate::Nid;

/// A longer file is refused.
const LENGTH_MAX: u64 = 16 << 20;

/// A file with one server in each line, as [`ServerInfo`] is written; empty lines and those that
/// begin with `#` are skipped.
///
/// ```text
/// # name  address          type  service  state     weight
/// play-1  10.0.0.1:7000    play  1
/// play-2  10.0.0.2:7000    play  1        disabled
/// api-1   10.0.0.3:7000    api   2        running   200
/// ```
///
/// It is read again every second (or as told), by a thread of each watch; writers replace it by
/// renaming a new one. A file that is missing or broken is logged, and changes nothing: nobody is
/// thrown out by a half-written line. Announcing is left to whoever writes the file.
#[derive(Clone, Debug)]
pub struct FileDirectory {
    path: PathBuf,
    every: Duration,
}

impl FileDirectory {
    /// The file at `path`, read every second.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            every: Duration::from_secs(1),
        }
    }

    /// Sets how often it is read.
    #[must_use]
    pub fn every(mut self, every: Duration) -> Self {
        self.every = every;
        self
    }

    /// Reads it now.
    ///
    /// # Errors
    /// When it cannot be read; `InvalidData` with the number of the line that is broken, or of a
    /// name that stands there twice.
    pub fn read(&self) -> io::Result<Vec<ServerInfo>> {
        read(&self.path)
    }
}

fn read(path: &Path) -> io::Result<Vec<ServerInfo>> {
    let invalid = |text: String| {
        let text = format!("{}: {text}", path.display());
        io::Error::new(io::ErrorKind::InvalidData, text)
    };
    if std::fs::metadata(path)?.len() > LENGTH_MAX {
        return Err(invalid(format!("more than {LENGTH_MAX} bytes")));
    }
    let text = std::fs::read_to_string(path)?;
    let mut servers: Vec<ServerInfo> = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let server: ServerInfo = line
            .parse()
            .map_err(|error| invalid(format!("line {}: {error}", at + 1)))?;
        if servers.iter().any(|known| known.nid == server.nid) {
            let (nid, line) = (&server.nid, at + 1);
            return Err(invalid(format!("line {line}: {nid} is there twice")));
        }
        servers.push(server);
    }
    servers.sort_by(|a, b| a.nid.cmp(&b.nid));
    Ok(servers)
}

impl Directory for FileDirectory {
    fn announce(&self, _server: &ServerInfo, _ttl: Duration) -> io::Result<()> {
        Ok(())
    }

    fn withdraw(&self, _nid: &Nid) -> io::Result<()> {
        Ok(())
    }

    fn watch(&self, changed: OnServers) -> io::Result<Box<dyn Watch>> {
        let Self { path, every } = self.clone();
        let body = move |told_to_end: Receiver<()>| {
            let mut told: Option<Vec<ServerInfo>> = None;
            let mut complained = String::new();
            loop {
                match read(&path) {
                    Ok(servers) => {
                        complained.clear();
                        if told.as_ref() != Some(&servers) {
                            changed(&servers);
                            told = Some(servers);
                        }
                    }
                    Err(error) => {
                        // Once for each reason, not once a second.
                        let reason = error.to_string();
                        if reason != complained {
                            tracing::warn!(%error, "the directory's file is not used");
                            complained = reason;
                        }
                    }
                }
                if told_to_end.recv_timeout(every) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
            }
        };
        Ok(Box::new(Worker::start("directory", body)?))
    }
}

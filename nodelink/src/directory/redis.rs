//! [`RedisDirectory`]: the servers stand in Redis, where each announces itself.
//!
//! What is kept there, for a mesh named `M`:
//!
//! | key | type | content |
//! |---|---|---|
//! | `proscenium:{M}:server:NID` | string, with TTL | a server as [`ServerInfo`] is written, or `left` |
//! | `proscenium:{M}:servers` | sorted set, all scores 0 | the NIDs, so that nobody searches for keys |
//! | `proscenium:{M}:changes` | channel | the NID of a server that has changed |
//!
//! Only the clock of Redis decides when an entry expires. Each operation is one script, so it is
//! done wholly or not at all, and costs one round trip.

mod keeper;
mod known;
mod store;
mod watcher;

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use proscenium_engine::Backoff;
use redis::{ConnectionInfo, IntoConnectionInfo, ProtocolVersion};

use super::{Directory, OnServers, ServerInfo, Watch};
use crate::Nid;
use keeper::Keeper;
use store::readable;

/// The servers of a mesh in Redis (6.0 or newer) or Valkey.
///
/// Announcements are refreshed by a thread of the directory, each after a third of its TTL, until
/// they are withdrawn or the last clone of the directory is dropped; a process that ends without a
/// word is forgotten when the TTL is over. A watch has a thread of its own, which is told of
/// changes at once and reads everything again every few seconds.
///
/// When Redis is out of reach, watchers stay with the servers they know, and both threads connect
/// again, after a growing, jittered delay. What was announced is then announced anew, and a server
/// that is missing is given up only after the [`grace`](Self::grace): so nobody is forgotten
/// because Redis was restarted without its data.
///
/// Who can write to that Redis decides whom the nodes of the mesh link to. Entries that are broken
/// are skipped, logged and counted.
///
/// The URL is `redis://[USER][:PASSWORD@]HOST[:PORT][/DATABASE]`,
/// `redis+unix:///PATH[?db=DATABASE&user=USER&pass=PASSWORD]`, or with the feature `redis-tls`
/// `rediss://…`, whose certificate the system's authorities have to vouch for. It names a primary:
/// Redis Cluster and Sentinel are not asked for one.
///
/// ```no_run
/// use std::time::Duration;
/// use proscenium_nodelink::directory::RedisDirectory;
///
/// let directory = RedisDirectory::new("redis://:secret@10.0.0.9")?
///     .mesh("production")?
///     .timeout(Duration::from_secs(1));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone)]
pub struct RedisDirectory {
    config: Config,
    keeper: Arc<Mutex<Option<Keeper>>>,
    counters: Arc<Counters>,
}

/// What the threads of a directory need to know.
#[derive(Clone)]
struct Config {
    target: ConnectionInfo,
    mesh: String,
    timeout: Duration,
    every: Duration,
    grace: Duration,
    servers_max: usize,
    backoff: Backoff,
}

#[derive(Debug, Default)]
struct Counters {
    reads: AtomicU64,
    writes: AtomicU64,
    failures: AtomicU64,
    connects: AtomicU64,
    servers: AtomicU64,
    broken: AtomicU64,
    left_out: AtomicU64,
}

/// What a [`RedisDirectory`] and its clones have done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RedisStats {
    /// How often all servers were read.
    pub reads: u64,
    /// Announcements, their refreshings, and withdrawals that were made.
    pub writes: u64,
    /// Connections and operations that failed.
    pub failures: u64,
    /// Connections that were made. Growth means that Redis, or the way there, is not well.
    pub connects: u64,
    /// Servers that the last read found.
    pub servers: u64,
    /// Entries that the last read skipped because they are broken.
    pub broken: u64,
    /// Servers that the last read left out because there are more than
    /// [`servers_max`](RedisDirectory::servers_max).
    pub left_out: u64,
}

impl RedisDirectory {
    /// The Redis at `url`, the mesh `default`. Nothing is connected yet.
    ///
    /// # Errors
    /// `InvalidInput` when the URL is none, or one of TLS without the feature `redis-tls`.
    pub fn new(url: &str) -> io::Result<Self> {
        let invalid = |error: redis::RedisError| {
            // Without the URL, which may hold a password.
            let text = format!("the URL of Redis: {error}; expected redis://HOST[:PORT]");
            io::Error::new(io::ErrorKind::InvalidInput, text)
        };
        let target = url.into_connection_info().map_err(invalid)?;
        #[cfg(feature = "redis-tls")]
        if matches!(target.addr(), redis::ConnectionAddr::TcpTls { .. }) {
            // The client needs one and would panic without. An application that has chosen stays
            // with its choice.
            let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        }
        let settings = target.redis_settings().clone();
        // One protocol for all servers, and no round trips for the names of libraries.
        let settings = settings.set_protocol(ProtocolVersion::RESP2);
        let target = target.set_redis_settings(settings.set_skip_set_lib_name());
        Ok(Self {
            config: Config {
                target,
                mesh: "default".to_owned(),
                timeout: Duration::from_secs(2),
                every: Duration::from_secs(5),
                grace: Duration::from_secs(15),
                servers_max: 4096,
                backoff: Backoff {
                    first: Duration::from_millis(100),
                    max: Duration::from_secs(5),
                },
            },
            keeper: Arc::default(),
            counters: Arc::default(),
        })
    }

    /// Sets the name of the mesh: several can use one Redis and see nothing of each other. Default
    /// `default`.
    ///
    /// # Errors
    /// `InvalidInput` unless it is 1 to 64 letters, digits, `-`, `_` and `.`.
    pub fn mesh(mut self, mesh: &str) -> io::Result<Self> {
        let is_fine = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if mesh.is_empty() || mesh.len() > 64 || !mesh.chars().all(is_fine) {
            let text = format!("{mesh:?}: a mesh is named by 1 to 64 of a-z, A-Z, 0-9, - _ and .");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        mesh.clone_into(&mut self.config.mesh);
        Ok(self)
    }

    /// Sets how long connecting, and each operation, may take; the resolver's time is not in it.
    /// Default 2 s.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.config.timeout = timeout.max(Duration::from_millis(1));
        self
    }

    /// Sets how often a watch reads everything again. Changes are told at once; this finds what
    /// nobody tells: servers whose TTL is over. Default 5 s.
    #[must_use]
    pub fn every(mut self, every: Duration) -> Self {
        self.config.every = every;
        self
    }

    /// Sets how long a watch keeps a server that is missing although nobody has withdrawn it:
    /// longer than servers need to announce themselves again after Redis has lost its data, that
    /// is a third of their TTL and the greatest back-off. Default 15 s.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.config.grace = grace;
        self
    }

    /// Sets how many servers a watch takes, by the order of their names; further ones are left
    /// out, logged and counted. Default 4,096.
    #[must_use]
    pub fn servers_max(mut self, servers_max: usize) -> Self {
        self.config.servers_max = servers_max;
        self
    }

    /// Sets the delays between attempts to connect. Default 100 ms to 5 s.
    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.config.backoff = backoff;
        self
    }

    /// What this directory and its clones have done.
    pub fn stats(&self) -> RedisStats {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.counters;
        RedisStats {
            reads: of(&counters.reads),
            writes: of(&counters.writes),
            failures: of(&counters.failures),
            connects: of(&counters.connects),
            servers: of(&counters.servers),
            broken: of(&counters.broken),
            left_out: of(&counters.left_out),
        }
    }

    /// Has the thread that keeps announcements do something, and waits for it.
    fn ask<T>(&self, ask: impl FnOnce(&Keeper) -> io::Result<T>) -> io::Result<T> {
        let mut keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner);
        let keeper = match &mut *keeper {
            Some(keeper) => keeper,
            none => none.insert(Keeper::start(
                self.config.clone(),
                Arc::clone(&self.counters),
            )?),
        };
        ask(keeper)
    }
}

impl fmt::Debug for RedisDirectory {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisDirectory")
            .field("address", &format_args!("{}", self.config.target.addr()))
            .field("mesh", &self.config.mesh)
            .finish_non_exhaustive()
    }
}

impl Directory for RedisDirectory {
    /// # Errors
    /// `InvalidInput` when the server cannot be written: a NID with blanks, a TTL below 3 ms.
    /// Otherwise those of the trait, with what could be done about them. The first announcement of
    /// a name that fails is not made later; a change of one that stands is.
    fn announce(&self, server: &ServerInfo, ttl: Duration) -> io::Result<()> {
        let invalid = |text: String| io::Error::new(io::ErrorKind::InvalidInput, text);
        let nid = &server.nid;
        if nid.contains(char::is_whitespace) {
            return Err(invalid(format!(
                "{nid:?}: a directory keeps no NID with blanks"
            )));
        }
        let read = readable(&server.to_string());
        read.map_err(|error| invalid(format!("the announcement {error}")))?;
        if ttl < Duration::from_millis(3) {
            let text = format!("a TTL of {ttl:?} is too short to be refreshed");
            return Err(invalid(text));
        }
        self.ask(|keeper| keeper.announce(server, ttl))
    }

    /// # Errors
    /// Those of the trait, with what could be done about them. The announcement is not refreshed
    /// any more in any case.
    fn withdraw(&self, nid: &Nid) -> io::Result<()> {
        self.ask(|keeper| keeper.withdraw(nid))
    }

    /// # Errors
    /// When Redis cannot be reached or does not let us in, with what could be done about it.
    fn watch(&self, changed: OnServers) -> io::Result<Box<dyn Watch>> {
        watcher::watch(self.config.clone(), Arc::clone(&self.counters), changed)
    }
}

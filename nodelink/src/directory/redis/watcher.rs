//! The thread of a watch: told of changes by Redis, and reading everything when there was one, when
//! it has connected, and every few seconds.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::keeper::random;
use super::known::Known;
use super::store::{Found, Store, explain};
use super::{Config, Counters};
use crate::directory::worker::Worker;
use crate::directory::{OnServers, Watch};

/// So long, at most, the thread listens before it looks whether it is to end.
const SLICE: Duration = Duration::from_millis(100);
/// Two reads are so far apart at least, however many changes are told.
const READS_APART: Duration = Duration::from_millis(20);
/// So many broken entries are named in the log.
const NAMED_MAX: usize = 10;

/// Begins a watch.
///
/// # Errors
/// When the first read fails: what is wrong from the beginning is better told than logged.
pub(super) fn watch(
    config: Config,
    counters: Arc<Counters>,
    changed: OnServers,
) -> io::Result<Box<dyn Watch>> {
    let mut watching = Watching {
        known: Known::new(config.grace),
        config,
        counters,
        changed,
        complained: String::new(),
        broken: Vec::new(),
        attempts: 0,
    };
    let first = watching.connect()?;
    let body = |told: Receiver<()>| watching.run(first, &told);
    Ok(Box::new(Worker::start("directory-watch", body)?))
}

struct Watching {
    config: Config,
    counters: Arc<Counters>,
    known: Known,
    changed: OnServers,
    complained: String,
    /// What was last said to be broken.
    broken: Vec<(String, String)>,
    attempts: u32,
}

/// One connection to listen on, one to read by.
struct Connections {
    listening: Store,
    reading: Store,
}

impl Watching {
    fn run(mut self, first: Connections, told: &Receiver<()>) {
        let mut connections = Some(first);
        loop {
            let worked = match connections.take() {
                Some(connections) => self.follow(connections, told),
                None => self.connect().and_then(|both| self.follow(both, told)),
            };
            let Err(error) = worked else {
                return; // it is to end
            };
            self.counters.failures.fetch_add(1, Ordering::Relaxed);
            let reason = error.to_string();
            if reason != self.complained {
                tracing::warn!(%error, "the servers known so far are used");
                self.complained = reason;
            }
            let delay = self.config.backoff.delay(self.attempts, random());
            self.attempts = self.attempts.saturating_add(1);
            if told.recv_timeout(delay) != Err(RecvTimeoutError::Timeout) {
                return;
            }
        }
    }

    /// Connects, begins to listen, and sees that reading works.
    fn connect(&mut self) -> io::Result<Connections> {
        let mut listening = Store::connect(&self.config)?;
        let mut reading = Store::connect(&self.config)?;
        let explain = |error| explain(&self.config, &error);
        // Not by `PubSub::subscribe`, which takes a refusal for a success.
        redis::cmd("SUBSCRIBE")
            .arg(Store::channel(&self.config))
            .exec(&mut listening.connection)
            .map_err(explain)?;
        reading.read(1).map_err(explain)?;
        self.counters.connects.fetch_add(2, Ordering::Relaxed);
        Ok(Connections { listening, reading })
    }

    /// Follows changes until it is to end (then `Ok`) or something fails.
    fn follow(&mut self, connections: Connections, told: &Receiver<()>) -> io::Result<()> {
        let Connections {
            mut listening,
            mut reading,
        } = connections;
        let config = self.config.clone();
        let explain = |error| explain(&config, &error);
        // It has been listening since before the first read: no change is between the two.
        let mut changes = listening.connection.as_pubsub();
        loop {
            self.read(&mut reading)?;
            let last = Instant::now();
            self.complained.clear();
            self.attempts = 0;
            let mut until = last + config.every;
            if let Some(end) = self.known.next_end() {
                until = until.min(end);
            }
            let mut heard = false;
            loop {
                if told.recv_timeout(Duration::ZERO) != Err(RecvTimeoutError::Timeout) {
                    return Ok(());
                }
                let wait = until.saturating_duration_since(Instant::now());
                if wait.is_zero() {
                    break;
                }
                let wait = wait.clamp(Duration::from_millis(1), SLICE);
                changes.set_read_timeout(Some(wait)).map_err(explain)?;
                match changes.get_message() {
                    // It may be one of many; what they all tell is read once.
                    Ok(_) if heard => {}
                    Ok(_) => {
                        heard = true;
                        until = until.min(last + READS_APART);
                    }
                    Err(error) if error.is_timeout() => {}
                    Err(error) => return Err(explain(error)),
                }
            }
        }
    }

    /// Reads all servers, and tells them if they have changed.
    fn read(&mut self, reading: &mut Store) -> io::Result<()> {
        let found = reading.read(self.config.servers_max);
        let found = found.map_err(|error| explain(&self.config, &error))?;
        let counters = &self.counters;
        counters.reads.fetch_add(1, Ordering::Relaxed);
        let servers = found.entries.len() as u64;
        counters.servers.store(servers, Ordering::Relaxed);
        let broken = found.broken.len() as u64;
        counters.broken.store(broken, Ordering::Relaxed);
        let before = counters.left_out.swap(found.left_out, Ordering::Relaxed);
        if found.left_out > 0 && before == 0 {
            let most = self.config.servers_max;
            tracing::warn!(
                left_out = found.left_out,
                most,
                "the directory has too many servers"
            );
        }
        self.complain(&found);
        if let Some(servers) = self.known.update(&found, Instant::now()) {
            (self.changed)(&servers);
        }
        Ok(())
    }

    /// Names broken entries, once for each set of them.
    fn complain(&mut self, found: &Found) {
        if found.broken == self.broken {
            return;
        }
        for (name, reason) in found.broken.iter().take(NAMED_MAX) {
            tracing::warn!(name, reason, "an entry of the directory is skipped");
        }
        self.broken.clone_from(&found.broken);
    }
}

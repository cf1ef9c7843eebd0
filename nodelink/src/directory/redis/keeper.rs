//! [`Keeper`]: the thread that announces servers and keeps their entries from expiring.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use super::store::{Store, explain};
use super::{Config, Counters};
use crate::Nid;
use crate::directory::ServerInfo;
use crate::directory::worker::Worker;

/// Any number.
pub(super) fn random() -> u64 {
    RandomState::new().hash_one(0)
}

enum Wish {
    Announce {
        nid: Nid,
        entry: String,
        ttl: Duration,
        done: Sender<io::Result<()>>,
    },
    Withdraw {
        nid: Nid,
        done: Sender<io::Result<()>>,
    },
}

/// The thread's owner.
pub(super) struct Keeper(Worker<Wish>);

impl Keeper {
    pub(super) fn start(config: Config, counters: Arc<Counters>) -> io::Result<Self> {
        let body = |wishes: Receiver<Wish>| {
            let mut keeping = Keeping {
                config,
                counters,
                store: None,
                kept: BTreeMap::new(),
                attempts: 0,
                complained: String::new(),
            };
            keeping.run(&wishes);
        };
        Worker::start("directory-redis", body).map(Self)
    }

    pub(super) fn announce(&self, server: &ServerInfo, ttl: Duration) -> io::Result<()> {
        let (nid, entry) = (server.nid.clone(), server.to_string());
        self.ask(|done| Wish::Announce {
            nid,
            entry,
            ttl,
            done,
        })
    }

    pub(super) fn withdraw(&self, nid: &Nid) -> io::Result<()> {
        let nid = nid.clone();
        self.ask(|done| Wish::Withdraw { nid, done })
    }

    fn ask(&self, wish: impl FnOnce(Sender<io::Result<()>>) -> Wish) -> io::Result<()> {
        let (done, answer) = channel();
        let ended = || io::Error::other("the directory's thread has ended");
        if !self.0.tell(wish(done)) {
            return Err(ended());
        }
        // Each operation has its timeouts, so an answer comes.
        answer.recv().unwrap_or_else(|_| Err(ended()))
    }
}

/// What is announced.
struct Kept {
    entry: String,
    ttl: Duration,
    /// When it is announced again.
    due: Instant,
    /// What stands in Redis, as far as we know.
    written: Option<String>,
}

/// What the thread has.
struct Keeping {
    config: Config,
    counters: Arc<Counters>,
    store: Option<Store>,
    kept: BTreeMap<Nid, Kept>,
    /// Failures since something last worked.
    attempts: u32,
    complained: String,
}

impl Keeping {
    fn run(&mut self, wishes: &Receiver<Wish>) {
        loop {
            let next = self.kept.values().map(|kept| kept.due).min();
            let wish = match next {
                None => wishes.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(due) => wishes.recv_timeout(due.saturating_duration_since(Instant::now())),
            };
            match wish {
                Ok(wish) => self.grant(wish),
                Err(RecvTimeoutError::Timeout) => self.refresh(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn grant(&mut self, wish: Wish) {
        // Who asked may have given up; what it asked for is done all the same.
        match wish {
            Wish::Announce {
                nid,
                entry,
                ttl,
                done,
            } => {
                let _ = done.send(self.announce(nid, entry, ttl));
            }
            Wish::Withdraw { nid, done } => {
                let _ = done.send(self.withdraw(&nid));
            }
        }
    }

    fn announce(&mut self, nid: Nid, entry: String, ttl: Duration) -> io::Result<()> {
        let written = self.write(|store| store.announce(&nid, &entry, ttl));
        let due = match &written {
            Ok(()) => Instant::now() + refreshed_after(ttl),
            Err(_) => Instant::now() + self.delay(),
        };
        match self.kept.get_mut(&nid) {
            Some(kept) => {
                if written.is_ok() {
                    kept.written = Some(entry.clone());
                }
                (kept.entry, kept.ttl, kept.due) = (entry, ttl, due);
            }
            None if written.is_ok() => {
                let written = Some(entry.clone());
                let kept = Kept {
                    entry,
                    ttl,
                    due,
                    written,
                };
                self.kept.insert(nid, kept);
            }
            None => {}
        }
        written
    }

    fn withdraw(&mut self, nid: &Nid) -> io::Result<()> {
        let Some(kept) = self.kept.remove(nid) else {
            return Ok(());
        };
        let Some(entry) = kept.written else {
            return Ok(());
        };
        self.write(|store| store.withdraw(nid, &entry))
    }

    /// Announces again what is due. After a failure everything is due: Redis may have lost it.
    fn refresh(&mut self) {
        let now = Instant::now();
        let due: Vec<Nid> = self
            .kept
            .iter()
            .filter(|(_, kept)| kept.due <= now || self.attempts > 0)
            .map(|(nid, _)| nid.clone())
            .collect();
        for nid in due {
            let Some(kept) = self.kept.get(&nid) else {
                continue;
            };
            let (entry, ttl) = (kept.entry.clone(), kept.ttl);
            if let Err(error) = self.announce(nid, entry, ttl) {
                self.complain(&error);
                let later = Instant::now() + self.delay();
                for kept in self.kept.values_mut() {
                    kept.due = kept.due.max(later);
                }
                return;
            }
        }
        self.complained.clear();
    }

    /// Does one thing in Redis, connecting if need be. A connection that fails is given up; if it
    /// was an old one, which may have died long ago, a new one is tried at once.
    fn write(
        &mut self,
        mut what: impl FnMut(&mut Store) -> Result<(), redis::RedisError>,
    ) -> io::Result<()> {
        let was_connected = self.store.is_some();
        let first = self.write_once(&mut what);
        let dropped = self.store.is_none();
        let written = match first {
            Err(_) if was_connected && dropped => self.write_once(&mut what),
            other => other,
        };
        match &written {
            Ok(()) => self.attempts = 0,
            Err(_) => self.attempts = self.attempts.saturating_add(1),
        }
        written
    }

    fn write_once(
        &mut self,
        what: &mut impl FnMut(&mut Store) -> Result<(), redis::RedisError>,
    ) -> io::Result<()> {
        let store = match &mut self.store {
            Some(store) => store,
            none => match Store::connect(&self.config) {
                Ok(store) => {
                    self.counters.connects.fetch_add(1, Ordering::Relaxed);
                    none.insert(store)
                }
                Err(error) => {
                    self.counters.failures.fetch_add(1, Ordering::Relaxed);
                    return Err(error);
                }
            },
        };
        match what(store) {
            Ok(()) => {
                self.counters.writes.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            Err(error) => {
                self.counters.failures.fetch_add(1, Ordering::Relaxed);
                self.store = None;
                Err(explain(&self.config, &error))
            }
        }
    }

    /// Until the next attempt.
    fn delay(&self) -> Duration {
        let attempt = self.attempts.saturating_sub(1);
        self.config.backoff.delay(attempt, random())
    }

    /// Says once for each reason, not at every attempt, what does not work.
    fn complain(&mut self, error: &io::Error) {
        let reason = error.to_string();
        if reason != self.complained {
            tracing::warn!(%error, "announcements are not refreshed");
            self.complained = reason;
        }
    }
}

/// A third of the TTL, so that two may fail; up to a fifth of that sooner, so that servers which
/// started together do not all come at once.
fn refreshed_after(ttl: Duration) -> Duration {
    let third = ttl / 3;
    let sooner = u32::try_from(random() % 1024).unwrap_or(0);
    third - third * sooner / (5 * 1024)
}

//! Waiting until a server can be reached.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::handle::NodeHandle;

/// Counts what changes who can be reached or chosen, and wakes who waits for it. Changes are rare:
/// links that come and go, news of the directory.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    count: AtomicU64,
    /// Taken by who looks whether it has to wait, so that no change comes between the two.
    looking: Mutex<()>,
    changed: Condvar,
}

impl Changes {
    pub(crate) fn add(&self) {
        self.count.fetch_add(1, Ordering::Release);
        let looking = self.looking.lock().unwrap_or_else(PoisonError::into_inner);
        drop(looking);
        self.changed.notify_all();
    }

    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    /// Blocks until `holds` answers something, looking after each change; `None` if that takes
    /// longer than `timeout`.
    fn wait<T>(&self, timeout: Duration, mut holds: impl FnMut() -> Option<T>) -> Option<T> {
        let until = deadline_in(timeout);
        let mut looking = self.looking.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(held) = holds() {
                return Some(held);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            let waited = self.changed.wait_timeout(looking, left);
            looking = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// In `timeout` from now; a time out of reach if that is longer than the clock can say.
pub(crate) fn deadline_in(timeout: Duration) -> Instant {
    const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
    Instant::now() + timeout.min(CENTURY)
}

/// # Waiting
impl NodeHandle {
    /// Waits until messages can be sent to a node ([`is_routable`](Self::is_routable)). False if
    /// that is not so within `timeout`, or the node has ended. Blocks; not for threads of shards.
    ///
    /// A link is enough for that, whoever made it: to choose among the servers of a service, a node
    /// has to know them from the directory as well
    /// ([`wait_candidates`](Self::wait_candidates)).
    pub fn wait_routable(&self, to: &str, timeout: Duration) -> bool {
        self.wait(timeout, || self.is_routable(to))
    }

    /// Waits until at least so many servers of a service can be chosen
    /// ([`candidates`](Self::candidates), so this node is not counted). False if that is not so
    /// within `timeout`, or the node has ended. Blocks; not for threads of shards.
    pub fn wait_candidates(&self, service: u16, count: usize, timeout: Duration) -> bool {
        self.wait(timeout, || self.candidates(service).len() >= count)
    }

    fn wait(&self, timeout: Duration, holds: impl Fn() -> bool) -> bool {
        let held = self.shared().changes.wait(timeout, || {
            let stopped = self.is_stopped();
            (stopped || holds()).then_some(!stopped)
        });
        held.unwrap_or(false)
    }
}

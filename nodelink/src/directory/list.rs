//! [`StaticDirectory`]: the servers are known from the beginning, or told by the program.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use super::{Directory, OnServers, ServerInfo, Watch};
use crate::Nid;

/// A list in memory. Clones share it, which makes it the directory of tests and of programs that
/// run several nodes; announcements in it last until they are taken back.
#[derive(Clone, Default)]
pub struct StaticDirectory {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    servers: BTreeMap<Nid, ServerInfo>,
    watches: BTreeMap<u64, OnServers>,
    next: u64,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the list and tells it.
    fn change(&self, change: impl FnOnce(&mut BTreeMap<Nid, ServerInfo>)) {
        let mut state = self.lock();
        let before = state.servers.clone();
        change(&mut state.servers);
        if state.servers != before {
            // Under the lock, so that nobody is told an older list after a newer one.
            let servers: Vec<_> = state.servers.values().cloned().collect();
            for changed in state.watches.values() {
                changed(&servers);
            }
        }
    }
}

impl StaticDirectory {
    /// Of these servers.
    pub fn new(servers: impl IntoIterator<Item = ServerInfo>) -> Self {
        let list = Self::default();
        list.set(servers);
        list
    }

    /// These servers instead of those before.
    pub fn set(&self, servers: impl IntoIterator<Item = ServerInfo>) {
        let servers = servers.into_iter();
        let servers = servers.map(|server| (server.nid.clone(), server)).collect();
        self.shared.change(|list| *list = servers);
    }

    /// The servers now, in the order of their names.
    pub fn servers(&self) -> Vec<ServerInfo> {
        self.shared.lock().servers.values().cloned().collect()
    }
}

impl fmt::Debug for StaticDirectory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.servers()).finish()
    }
}

struct Watching {
    shared: Weak<Shared>,
    number: u64,
}

impl Watch for Watching {}

impl Drop for Watching {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.upgrade() {
            shared.lock().watches.remove(&self.number);
        }
    }
}

impl Directory for StaticDirectory {
    fn announce(&self, server: &ServerInfo, _ttl: Duration) -> io::Result<()> {
        self.shared.change(|servers| {
            servers.insert(server.nid.clone(), server.clone());
        });
        Ok(())
    }

    fn withdraw(&self, nid: &Nid) -> io::Result<()> {
        self.shared.change(|servers| {
            servers.remove(nid);
        });
        Ok(())
    }

    fn watch(&self, changed: OnServers) -> io::Result<Box<dyn Watch>> {
        let mut state = self.shared.lock();
        let number = state.next;
        state.next += 1;
        let servers: Vec<_> = state.servers.values().cloned().collect();
        changed(&servers);
        state.watches.insert(number, changed);
        let shared = Arc::downgrade(&self.shared);
        Ok(Box::new(Watching { shared, number }))
    }
}

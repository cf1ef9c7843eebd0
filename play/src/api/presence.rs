//! [`Presence`]: the server's entry in the directory, kept alive by a thread.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use proscenium_nodelink::directory::{Directory, ServerInfo, ServerState};

/// How long after a failure it is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// What was asked of the thread, and what it has done.
struct State {
    wanted: ServerState,
    announced: Option<ServerState>,
    /// Attempts since the start.
    tries: u64,
    ended: bool,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// The server's entry in a directory: announced again before it is forgotten there. Its thread is
/// the only one that touches the directory, which may block.
pub(crate) struct Presence {
    shared: Arc<Shared>,
}

impl Presence {
    /// Announces `server` as running, now and three times per `ttl`.
    pub(crate) fn start(
        directory: Arc<dyn Directory>,
        server: ServerInfo,
        ttl: Duration,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                wanted: ServerState::Running,
                announced: None,
                tries: 0,
                ended: false,
            }),
            changed: Condvar::new(),
        });
        let ours = Arc::clone(&shared);
        let name = format!("presence {}", server.nid);
        let run = move || ours.run(&*directory, &server, ttl);
        // Not joined: a directory that hangs must not keep the server from ending.
        drop(std::thread::Builder::new().name(name).spawn(run)?);
        Ok(Self { shared })
    }

    /// True while the directory has the server as running.
    pub(crate) fn is_running(&self) -> bool {
        self.shared.state.lock().announced == Some(ServerState::Running)
    }

    /// Announces the server as disabled, and waits for that, at most until `until`. False if it
    /// could not be done.
    pub(crate) fn disable(&self, until: Instant) -> bool {
        let mut state = self.shared.state.lock();
        state.wanted = ServerState::Disabled;
        let before = state.tries;
        self.shared.changed.notify_all();
        // One that was under way when this began may have announced the former state.
        while state.announced != Some(ServerState::Disabled) && state.tries < before + 2 {
            if self
                .shared
                .changed
                .wait_until(&mut state, until)
                .timed_out()
            {
                break;
            }
        }
        state.announced == Some(ServerState::Disabled)
    }

    /// Takes the entry back, and waits for that, at most until `until`.
    pub(crate) fn withdraw(self, until: Instant) {
        let mut state = self.shared.state.lock();
        state.ended = true;
        self.shared.changed.notify_all();
        while state.announced.is_some() {
            if self
                .shared
                .changed
                .wait_until(&mut state, until)
                .timed_out()
            {
                return;
            }
        }
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.shared.state.lock().ended = true;
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn run(&self, directory: &dyn Directory, server: &ServerInfo, ttl: Duration) {
        let mut next = Instant::now();
        loop {
            let mut state = self.state.lock();
            while !state.ended && state.announced == Some(state.wanted) && Instant::now() < next {
                self.changed.wait_until(&mut state, next);
            }
            if state.ended {
                break;
            }
            let wanted = state.wanted;
            drop(state);
            let announced = directory.announce(&server.clone().state(wanted), ttl);
            if let Err(error) = &announced {
                tracing::warn!(nid = %server.nid, %error, "the server is not announced");
            }
            let mut state = self.state.lock();
            state.tries += 1;
            next = Instant::now();
            match announced {
                Ok(()) => {
                    state.announced = Some(wanted);
                    next += ttl / 3;
                }
                Err(_) => {
                    state.announced = None;
                    let again = next + AGAIN;
                    next = again;
                    self.changed.notify_all();
                    while !state.ended && Instant::now() < again {
                        self.changed.wait_until(&mut state, again);
                    }
                }
            }
            self.changed.notify_all();
        }
        if let Err(error) = directory.withdraw(&server.nid) {
            tracing::warn!(nid = %server.nid, %error, "the server is not withdrawn");
        }
        self.state.lock().announced = None;
        self.changed.notify_all();
    }
}

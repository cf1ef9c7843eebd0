//! The one thread that does the I/O of all connectors: started with the first, ended with the
//! last.

use std::collections::BTreeSet;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use mio::{Events, Poll, Registry, Token, Waker};
use slab::Slab;

use crate::connector::dispatch_on_io_thread;
use crate::lock;
use crate::pending::{mark_io_thread, on_io_thread};
use crate::random::Random;
use crate::session::{Next, Session};
use crate::shared::Shared;

/// What wakes the thread. Sessions have two tokens each, from 0.
const WAKE: Token = Token(usize::MAX);

/// Readiness taken from the system at once.
const EVENTS: usize = 1024;

/// The longest wait of the thread; the system counts milliseconds in 31 bits.
const WAIT_MAX: Duration = Duration::from_secs(60 * 60);

/// Bytes read from a socket at once.
const CHUNK: usize = 64 * 1024;

/// What others hold of the thread.
pub(crate) struct Io {
    waker: Waker,
    /// Connectors to look at: each at most once.
    dirty: Mutex<Vec<Arc<Shared>>>,
    stopping: AtomicBool,
}

impl Io {
    pub(crate) fn notify(&self, shared: Arc<Shared>) {
        let mut dirty = lock(&self.dirty);
        dirty.push(shared);
        let first = dirty.len() == 1;
        drop(dirty);
        if first {
            self.wake();
        }
    }

    fn wake(&self) {
        // An eventfd that is open can be written; if it could not, timers still wake the thread.
        let _ = self.waker.wake();
    }
}

/// The thread that runs, and by how many connectors it is used.
struct Running {
    io: Arc<Io>,
    thread: JoinHandle<()>,
    users: usize,
}

static RUNNING: Mutex<Option<Running>> = Mutex::new(None);

/// The thread for one more connector, started if there is none.
pub(crate) fn acquire() -> io::Result<Arc<Io>> {
    let mut running = lock(&RUNNING);
    if let Some(running) = &mut *running {
        running.users += 1;
        return Ok(running.io.clone());
    }
    let poll = Poll::new()?;
    let io = Arc::new(Io {
        waker: Waker::new(poll.registry(), WAKE)?,
        dirty: Mutex::new(Vec::new()),
        stopping: AtomicBool::new(false),
    });
    let mut reactor = Reactor {
        io: io.clone(),
        poll,
        sessions: Slab::new(),
        timers: BTreeSet::new(),
        again: Vec::new(),
        scratch: vec![0; CHUNK],
        random: Random::default(),
    };
    let thread = thread::Builder::new()
        .name("proscenium-connector".to_owned())
        .spawn(move || reactor.run())?;
    *running = Some(Running {
        io: io.clone(),
        thread,
        users: 1,
    });
    Ok(io)
}

/// One connector less. With the last one the thread ends, and this waits for it unless it is
/// called there.
pub(crate) fn release(io: &Arc<Io>) {
    let mut slot = lock(&RUNNING);
    let Some(running) = &mut *slot else { return };
    debug_assert!(Arc::ptr_eq(&running.io, io), "a second thread");
    running.users -= 1;
    if running.users > 0 {
        return;
    }
    let Some(Running { io, thread, .. }) = slot.take() else {
        return;
    };
    // Free for whoever builds a connector meanwhile, foreign code on that thread (wakers) included.
    drop(slot);
    io.stopping.store(true, Ordering::Release);
    io.wake();
    if !on_io_thread() {
        // A panic there has been told by the panic hook.
        let _ = thread.join();
    }
}

struct Reactor {
    io: Arc<Io>,
    poll: Poll,
    sessions: Slab<Entry>,
    timers: BTreeSet<(Instant, usize)>,
    /// Sessions that have more to do than one turn.
    again: Vec<usize>,
    scratch: Vec<u8>,
    random: Random,
}

struct Entry {
    session: Session,
    timer: Option<Instant>,
}

/// What a session may use while it is driven.
pub(crate) struct Turn<'a> {
    pub(crate) now: Instant,
    pub(crate) registry: &'a Registry,
    pub(crate) scratch: &'a mut [u8],
    pub(crate) random: &'a mut Random,
    /// Where the session is kept: its tokens are twice that, and one more.
    pub(crate) slot: usize,
}

impl Reactor {
    fn run(&mut self) {
        mark_io_thread();
        let mut events = Events::with_capacity(EVENTS);
        let mut due = Vec::new();
        while !(self.io.stopping.load(Ordering::Acquire) && self.sessions.is_empty()) {
            let timeout = match (self.again.is_empty(), self.timers.first()) {
                (false, _) => Some(Duration::ZERO),
                (true, Some(&(at, _))) => {
                    Some(WAIT_MAX.min(at.saturating_duration_since(Instant::now())))
                }
                (true, None) => None,
            };
            if let Err(error) = self.poll.poll(&mut events, timeout)
                && error.kind() != io::ErrorKind::Interrupted
            {
                // epoll_wait fails only for a bad descriptor, ours; there is nothing to go on with.
                unreachable!("waiting for sockets: {error}");
            }
            due.append(&mut self.again);
            for event in &events {
                let Token(token) = event.token();
                let slot = token / 2;
                if event.token() != WAKE
                    && let Some(entry) = self.sessions.get_mut(slot)
                {
                    let readable =
                        event.is_readable() || event.is_read_closed() || event.is_error();
                    let writable = event.is_writable() || event.is_error();
                    entry.session.ready(token % 2 == 1, readable, writable);
                    due.push(slot);
                }
            }
            let dirty = std::mem::take(&mut *lock(&self.io.dirty));
            for shared in dirty {
                due.push(self.slot_of(&shared));
            }
            let now = Instant::now();
            while let Some(&(at, slot)) = self.timers.first()
                && at <= now
            {
                self.timers.pop_first();
                if let Some(entry) = self.sessions.get_mut(slot) {
                    entry.timer = None;
                    due.push(slot);
                }
            }
            due.sort_unstable();
            due.dedup();
            for slot in due.drain(..) {
                self.drive(slot, now);
            }
        }
        // Those that closed before they ever had a session; each of them holds the list.
        lock(&self.io.dirty).clear();
    }

    fn slot_of(&mut self, shared: &Arc<Shared>) -> usize {
        let mut inner = shared.inner();
        *inner.slot.get_or_insert_with(|| {
            self.sessions.insert(Entry {
                session: Session::new(shared.clone()),
                timer: None,
            })
        })
    }

    fn drive(&mut self, slot: usize, now: Instant) {
        let Some(entry) = self.sessions.get_mut(slot) else {
            return;
        };
        let mut turn = Turn {
            now,
            registry: self.poll.registry(),
            scratch: &mut self.scratch,
            random: &mut self.random,
            slot,
        };
        let driven = catch_unwind(AssertUnwindSafe(|| entry.session.drive(&mut turn)));
        let next = driven.unwrap_or_else(|_| {
            // The panic hook has told of it. The thread is not this connector's alone.
            entry.session.abandon();
            Next::Again
        });
        let shared = entry.session.shared().clone();
        if let Some(before) = entry.timer.take() {
            self.timers.remove(&(before, slot));
        }
        match next {
            Next::At(at) => {
                entry.timer = at;
                self.timers.extend(at.map(|at| (at, slot)));
            }
            Next::Again => self.again.push(slot),
            Next::Gone => {
                self.sessions.remove(slot);
            }
        }
        dispatch_on_io_thread(&shared);
    }
}

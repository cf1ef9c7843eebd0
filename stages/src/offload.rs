//! Offloading: work that blocks or computes for long, on threads for that.

use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::core::Core;
use crate::error::OffloadError;
use crate::panics::{discard, panic_message};
use crate::request::{Asked, Reply};
use crate::timers::Due;

type Job = Box<dyn FnOnce() + Send>;

/// Where offloaded work runs.
pub(crate) enum Executor {
    Threads {
        compute: Pool,
        io: Pool,
    },
    /// On the shard itself, at a seeded time later: for the simulation.
    Inline,
}

/// The result of offloaded work, when it is there. Always resolves.
#[must_use = "the work runs anyway, but its result has to be awaited"]
pub struct Offload<T> {
    asked: Asked<Result<T, OffloadError>>,
}

impl<T> Future for Offload<T> {
    type Output = Result<T, OffloadError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let asked = Pin::new(&mut self.get_mut().asked);
        asked
            .poll(cx)
            .map(|answer| answer.unwrap_or(Err(OffloadError::Stopped)))
    }
}

impl<T> fmt::Debug for Offload<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Offload(..)")
    }
}

impl Core {
    pub(crate) fn offload<T: Send + 'static>(
        &self,
        compute: bool,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Offload<T> {
        let (reply, asked) = Reply::pair();
        let job: Job = Box::new(move || {
            let result = catch_unwind(AssertUnwindSafe(work));
            let result = result.map_err(|payload| {
                let message = panic_message(&*payload);
                discard(payload);
                OffloadError::Panicked(message)
            });
            let _ = reply.send(result); // its stage may be gone
        });
        let pool = match &self.system.executor {
            Executor::Threads { compute: pool, .. } if compute => pool,
            Executor::Threads { io, .. } => io,
            Executor::Inline => {
                let random = self.engine.with(|engine| engine.random()).unwrap_or(0);
                let later = Duration::from_micros(random % 5_000);
                self.set_timer(self.now() + later, Due::Run(Box::new(|_| job())));
                return Offload { asked };
            }
        };
        if !pool.push(job) {
            let (reply, full) = Reply::pair();
            let _ = reply.send(Err(OffloadError::Full));
            return Offload { asked: full };
        }
        Offload { asked }
    }
}

/// Threads that are made when there is work and end when there was none for some time.
pub(crate) struct Pool {
    shared: Arc<PoolShared>,
}

struct PoolShared {
    name: &'static str,
    threads_max: usize,
    waiting_max: usize,
    /// A thread without work ends after this time.
    idle_max: Duration,
    work: Mutex<Work>,
    changed: Condvar,
}

#[derive(Default)]
struct Work {
    jobs: VecDeque<Job>,
    /// Jobs being done.
    running: usize,
    threads: usize,
    idle: usize,
    ended: bool,
}

/// For how long a thread waits for work.
const IDLE_MAX: Duration = Duration::from_secs(10);

impl Pool {
    pub(crate) fn new(name: &'static str, threads_max: usize, waiting_max: usize) -> Self {
        Self::with_idle(name, threads_max, waiting_max, IDLE_MAX)
    }

    fn with_idle(
        name: &'static str,
        threads_max: usize,
        waiting_max: usize,
        idle_max: Duration,
    ) -> Self {
        Self {
            shared: Arc::new(PoolShared {
                name,
                threads_max: threads_max.max(1),
                waiting_max,
                idle_max,
                work: Mutex::default(),
                changed: Condvar::new(),
            }),
        }
    }

    /// False if as much waits as may wait; then the job is dropped.
    fn push(&self, job: Job) -> bool {
        let shared = &self.shared;
        let mut work = shared.work.lock();
        if work.jobs.len() + work.running >= shared.threads_max.saturating_add(shared.waiting_max) {
            return false;
        }
        work.jobs.push_back(job);
        if work.idle >= work.jobs.len() {
            shared.changed.notify_one();
            return true;
        }
        if work.threads < shared.threads_max {
            work.threads += 1;
            let name = format!("{}-{}", shared.name, work.threads);
            let of = Arc::clone(shared);
            let spawned = std::thread::Builder::new()
                .name(name)
                .spawn(move || of.work());
            if let Err(error) = spawned {
                work.threads -= 1;
                tracing::error!(%error, pool = shared.name, "no thread for offloaded work");
                if work.threads == 0 {
                    let job = work.jobs.pop_back();
                    drop(work);
                    drop(job); // answers `Stopped`
                }
            }
        }
        true
    }
}

impl PoolShared {
    fn work(&self) {
        let mut work = self.work.lock();
        loop {
            if let Some(job) = work.jobs.pop_front() {
                work.running += 1;
                drop(work);
                // The work's own panic is its result; what may panic here is the drop of a result
                // that nobody wants.
                if let Err(payload) = catch_unwind(AssertUnwindSafe(job)) {
                    let message = panic_message(&*payload);
                    discard(payload);
                    tracing::error!(pool = self.name, %message, "the drop of a result panicked");
                }
                work = self.work.lock();
                work.running -= 1;
                continue;
            }
            if work.ended {
                break;
            }
            work.idle += 1;
            let timeout = self.changed.wait_for(&mut work, self.idle_max);
            work.idle -= 1;
            if timeout.timed_out() && work.jobs.is_empty() {
                break;
            }
        }
        work.threads -= 1;
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let mut work = self.shared.work.lock();
        work.ended = true;
        let jobs = std::mem::take(&mut work.jobs);
        drop(work);
        self.shared.changed.notify_all();
        drop(jobs); // each answers `Stopped`
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn threads(pool: &Pool) -> usize {
        pool.shared.work.lock().threads
    }

    #[test]
    fn threads_end_when_idle_and_come_again() {
        let pool = Pool::with_idle("idle", 4, 100, Duration::from_millis(5));
        for _ in 0..3 {
            let (tell, told) = mpsc::channel();
            for n in 0..20 {
                let tell = tell.clone();
                assert!(pool.push(Box::new(move || tell.send(n).expect("it is awaited"))));
                assert!((1..=4).contains(&threads(&pool)));
            }
            let mut done: Vec<u32> = (0..20)
                .map(|_| told.recv_timeout(PATIENCE).expect("done"))
                .collect();
            done.sort_unstable();
            assert_eq!(done, (0..20).collect::<Vec<_>>());
            while threads(&pool) > 0 {
                std::thread::yield_now();
            }
        }
    }

    #[test]
    fn the_end_of_a_pool_drops_what_waits_and_ends_its_threads() {
        let pool = Pool::new("ending", 1, 100);
        let (begin, begun) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();
        assert!(pool.push(Box::new(move || {
            begin.send(()).expect("it is awaited");
            let _ = released.recv_timeout(PATIENCE);
        })));
        begun.recv_timeout(PATIENCE).expect("it runs");
        let (reply, asked) = Reply::pair();
        assert!(pool.push(Box::new(move || drop(reply.send(Ok(1))))));
        let mut offload = std::pin::pin!(Offload { asked });
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert_eq!(offload.as_mut().poll(&mut cx), Poll::Pending);
        let shared = Arc::downgrade(&pool.shared);
        drop(pool);
        let stopped = Poll::Ready(Err(OffloadError::Stopped));
        assert_eq!(offload.as_mut().poll(&mut cx), stopped);
        drop(release);
        while shared.strong_count() > 0 {
            std::thread::yield_now();
        }
    }
}

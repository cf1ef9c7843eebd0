//! [`Executor`]: the threads on which handlers run.
//!
//! | phase of a task | who may touch its future | a wake |
//! |---|---|---|
//! | idle | nobody | queues it |
//! | queued | the thread that takes it from the queue | does nothing |
//! | running | the thread that polls it | notes that it is to be polled again |
//! | woken | the same | does nothing |
//!
//! A task is in the queue at most once, so the queue is no longer than there are tasks; their
//! number is bounded by who spawns them.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use parking_lot::{Condvar, Mutex};

/// What runs: it never panics, its drop included.
pub(crate) type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Idle,
    Queued,
    Running,
    Woken,
}

struct Task {
    phase: Mutex<Phase>,
    work: Mutex<Option<Work>>,
    queue: Arc<Queue>,
}

#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    ready: VecDeque<Arc<Task>>,
    stopped: bool,
}

impl Queue {
    fn push(&self, task: Arc<Task>) {
        let mut state = self.state.lock();
        if !state.stopped {
            state.ready.push_back(task);
            drop(state);
            self.changed.notify_one();
        }
    }

    /// Waits for the next task; `None` when there will be none.
    fn next(&self) -> Option<Arc<Task>> {
        let mut state = self.state.lock();
        loop {
            if state.stopped {
                return None;
            }
            if let Some(task) = state.ready.pop_front() {
                return Some(task);
            }
            self.changed.wait(&mut state);
        }
    }
}

impl Task {
    fn run(self: Arc<Self>) {
        *self.phase.lock() = Phase::Running;
        let waker = Waker::from(Arc::clone(&self));
        let mut work = self.work.lock();
        let Some(future) = work.as_mut() else { return };
        if let Poll::Ready(()) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            *work = None;
            return; // running for ever: no wake queues it again
        }
        drop(work);
        let mut phase = self.phase.lock();
        if *phase == Phase::Running {
            *phase = Phase::Idle;
            return;
        }
        *phase = Phase::Queued;
        drop(phase);
        self.queue.push(Arc::clone(&self));
    }
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        let mut phase = self.phase.lock();
        match *phase {
            Phase::Idle => *phase = Phase::Queued,
            Phase::Running => {
                *phase = Phase::Woken;
                return;
            }
            Phase::Queued | Phase::Woken => return,
        }
        drop(phase);
        self.queue.push(Arc::clone(&self));
    }
}

/// Threads that run futures. Dropping it ends them when they are done with what they poll just
/// then; what waits in the queue is dropped.
pub(crate) struct Executor {
    queue: Arc<Queue>,
}

impl Executor {
    /// With `threads` threads, `NAME-0`, `NAME-1` and so on; at least one.
    pub(crate) fn start(name: &str, threads: usize) -> io::Result<Self> {
        let executor = Self {
            queue: Arc::default(),
        };
        for number in 0..threads.max(1) {
            let queue = Arc::clone(&executor.queue);
            let run = move || {
                while let Some(task) = queue.next() {
                    task.run();
                }
            };
            let thread = std::thread::Builder::new().name(format!("{name}-{number}"));
            // Not joined: a handler that blocks for ever must not keep the server from ending.
            drop(thread.spawn(run)?);
        }
        Ok(executor)
    }

    pub(crate) fn spawn(&self, work: Work) {
        let task = Arc::new(Task {
            phase: Mutex::new(Phase::Queued),
            work: Mutex::new(Some(work)),
            queue: Arc::clone(&self.queue),
        });
        self.queue.push(task);
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        let mut state = self.queue.state.lock();
        state.stopped = true;
        let dropped = std::mem::take(&mut state.ready);
        drop(state);
        self.queue.changed.notify_all();
        drop(dropped); // not under the lock: futures may wake others
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::channel;
    use std::time::Duration;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// Pending `left` times; wakes itself `wakes` times at each poll.
    struct Yields {
        left: usize,
        wakes: usize,
        polls: Arc<AtomicUsize>,
        done: std::sync::mpsc::Sender<()>,
    }

    impl Future for Yields {
        type Output = ();

        fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
            self.polls.fetch_add(1, Ordering::SeqCst);
            if self.left == 0 {
                let _ = self.done.send(());
                return Poll::Ready(());
            }
            self.left -= 1;
            for _ in 0..self.wakes {
                cx.waker().wake_by_ref();
            }
            Poll::Pending
        }
    }

    #[test]
    fn wakes_during_a_poll_lead_to_exactly_one_more() {
        let executor = Executor::start("test", 4).unwrap();
        let (done, finished) = channel();
        let polls = Arc::new(AtomicUsize::new(0));
        for _ in 0..100 {
            executor.spawn(Box::pin(Yields {
                left: 50,
                wakes: 3,
                polls: Arc::clone(&polls),
                done: done.clone(),
            }));
        }
        for _ in 0..100 {
            finished.recv_timeout(PATIENCE).unwrap();
        }
        assert_eq!(polls.load(Ordering::SeqCst), 100 * 51);
    }

    #[test]
    fn wakes_of_other_threads_are_not_lost() {
        let executor = Executor::start("test", 2).unwrap();
        let (done, finished) = channel();
        for number in 0..200_u64 {
            let (reply, asked) = proscenium_stages::Reply::pair();
            let done = done.clone();
            executor.spawn(Box::pin(async move {
                let answer = asked.await.unwrap();
                let _ = done.send(answer);
            }));
            std::thread::spawn(move || reply.send(number));
        }
        let mut sum = 0;
        for _ in 0..200 {
            sum += finished.recv_timeout(PATIENCE).unwrap();
        }
        assert_eq!(sum, 199 * 200 / 2);
    }

    #[test]
    fn what_waits_is_dropped_with_the_executor() {
        let executor = Executor::start("test", 1).unwrap();
        let (blocker, blocked) = channel::<()>();
        let (begun, begins) = channel();
        executor.spawn(Box::pin(async move {
            begun.send(()).unwrap();
            let _ = blocked.recv();
        }));
        begins.recv_timeout(PATIENCE).unwrap();
        let (held, dropped) = channel::<()>();
        executor.spawn(Box::pin(async move {
            std::future::pending::<()>().await;
            drop(held);
        }));
        drop(executor);
        assert!(dropped.recv_timeout(PATIENCE).is_err());
        drop(blocker);
    }
}

//! A result that is there later: a future for any executor, or none.

use std::cell::Cell;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::lock;

/// A number of the calling thread's own. Unlike that of std it costs threads that are not Rust's
/// no allocation.
pub(crate) fn this_thread() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    thread_local! {
        static NUMBER: u64 = NEXT.fetch_add(1, Ordering::Relaxed);
    }
    NUMBER.with(|number| *number)
}

thread_local! {
    /// True on the thread that would have to produce what somebody waits for.
    static ON_IO_THREAD: Cell<bool> = const { Cell::new(false) };
}

pub(crate) fn mark_io_thread() {
    ON_IO_THREAD.set(true);
}

pub(crate) fn on_io_thread() -> bool {
    ON_IO_THREAD.get()
}

/// A result that is there later. It is a future for any executor; [`wait`](Self::wait) needs none.
/// Dropping it gives up the result, not the work.
#[must_use = "the result comes by it; drop it where it does not matter"]
#[derive(Debug)]
pub struct Pending<T>(Arc<Slot<T>>);

/// The other end of a [`Pending`].
#[derive(Debug)]
pub(crate) struct Completer<T>(Arc<Slot<T>>);

#[derive(Debug)]
struct Slot<T> {
    state: Mutex<State<T>>,
    done: Condvar,
}

#[derive(Debug)]
enum State<T> {
    Waiting(Option<Waker>),
    Done(T),
    Taken,
}

pub(crate) fn pending<T>() -> (Completer<T>, Pending<T>) {
    let slot = Arc::new(Slot {
        state: Mutex::new(State::Waiting(None)),
        done: Condvar::new(),
    });
    (Completer(slot.clone()), Pending(slot))
}

impl<T> Completer<T> {
    /// Never call it with a lock held that a waker could want.
    pub(crate) fn complete(self, value: T) {
        let before = std::mem::replace(&mut *lock(&self.0.state), State::Done(value));
        self.0.done.notify_all();
        if let State::Waiting(Some(waker)) = before {
            // Foreign code, and what else is to be told now does not concern it. The panic hook
            // has told of a panic.
            let _ = catch_unwind(AssertUnwindSafe(|| waker.wake()));
        }
    }
}

impl<T> State<T> {
    fn take(&mut self) -> Option<T> {
        if !matches!(self, Self::Done(_)) {
            return None;
        }
        match std::mem::replace(self, Self::Taken) {
            Self::Done(value) => Some(value),
            _ => None,
        }
    }
}

impl<T> Pending<T> {
    pub(crate) fn ready(value: T) -> Self {
        let (completer, pending) = pending();
        completer.complete(value);
        pending
    }

    /// Waits for the result. It comes within the connector's time-outs.
    ///
    /// # Panics
    /// In a callback that runs on the I/O thread ([`Delivery::IoThread`](crate::Delivery)), which
    /// would wait for itself.
    pub fn wait(self) -> T {
        assert!(
            !on_io_thread(),
            "a callback on the I/O thread waits for the I/O thread"
        );
        let mut state = lock(&self.0.state);
        loop {
            if let Some(value) = state.take() {
                return value;
            }
            let waited = self.0.done.wait(state);
            state = waited.unwrap_or_else(std::sync::PoisonError::into_inner);
        }
    }

    /// Waits at most so long; `None` if the result is not there by then, or has been taken.
    pub fn wait_timeout(&mut self, timeout: Duration) -> Option<T> {
        let begin = Instant::now();
        let mut state = lock(&self.0.state);
        loop {
            if let Some(value) = state.take() {
                return Some(value);
            }
            let left = timeout.checked_sub(begin.elapsed())?;
            if matches!(*state, State::Taken) {
                return None;
            }
            let waited = self.0.done.wait_timeout(state, left);
            state = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
    }

    /// The result, if it is there and has not been taken.
    pub fn try_take(&mut self) -> Option<T> {
        lock(&self.0.state).take()
    }
}

impl<T> Future for Pending<T> {
    type Output = T;

    /// # Panics
    /// When polled again after the result was taken.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let mut state = lock(&self.0.state);
        if let Some(value) = state.take() {
            return Poll::Ready(value);
        }
        match &mut *state {
            State::Waiting(Some(waker)) => waker.clone_from(cx.waker()),
            State::Waiting(none) => *none = Some(cx.waker().clone()),
            State::Done(_) | State::Taken => panic!("polled after its result was taken"),
        }
        Poll::Pending
    }
}

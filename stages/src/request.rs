//! Requests: [`Reply`] tokens, and the futures that wait for them.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use proscenium_engine::Time;

use crate::error::RequestError;
use crate::local::Local;
use crate::timers::{Due, TimerKey};

enum State<T> {
    /// No answer yet; who is to be woken by it.
    Waiting(Option<Waker>),
    Answered(Result<T, RequestError>),
    /// The answer was taken, or nobody wants it any more.
    Over,
}

/// Where an answer arrives: reserved when the request is sent, so that answering never needs room.
pub(crate) struct ReplyCell<T> {
    state: Mutex<State<T>>,
    /// The sequence number of the request in the backlog of its stage.
    place: AtomicU32,
    refused: AtomicBool,
}

/// A reply cell, whatever its type.
pub(crate) trait AnyReply: Send + Sync {
    /// Answers with an error; false if there is an answer or nobody wants one.
    fn refuse(&self, error: RequestError) -> bool;
    /// No answer yet, and somebody wants one.
    fn is_waiting(&self) -> bool;
    /// True if it was answered by `refuse`: the request is not to be handled.
    fn is_refused(&self) -> bool;
    /// Notes which number the request has in the backlog of its stage.
    fn place(&self, sequence: u32);
    /// That number.
    fn placed(&self) -> u32;
}

impl<T> ReplyCell<T> {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State::Waiting(None)),
            place: AtomicU32::new(0),
            refused: AtomicBool::new(false),
        })
    }

    /// Gives the answer back if nobody wants it.
    fn answer(&self, answer: Result<T, RequestError>) -> Result<(), Result<T, RequestError>> {
        self.answer_noting(answer, || ())
    }

    /// Calls `note` before anybody can know of the answer.
    fn answer_noting(
        &self,
        answer: Result<T, RequestError>,
        note: impl FnOnce(),
    ) -> Result<(), Result<T, RequestError>> {
        let mut state = self.state.lock();
        let State::Waiting(waker) = &mut *state else {
            return Err(answer);
        };
        note();
        let waker = waker.take();
        *state = State::Answered(answer);
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<Result<T, RequestError>> {
        let before; // dropped without the lock: it may be anybody's
        let mut state = self.state.lock();
        match &mut *state {
            State::Waiting(waker) => {
                before = match waker {
                    Some(waker) if waker.will_wake(cx.waker()) => None,
                    waker => waker.replace(cx.waker().clone()),
                };
                drop(state);
                drop(before);
                Poll::Pending
            }
            State::Answered(_) => match std::mem::replace(&mut *state, State::Over) {
                State::Answered(answer) => Poll::Ready(answer),
                _ => unreachable!("just seen"),
            },
            State::Over => Poll::Ready(Err(RequestError::NoReply)),
        }
    }

    fn give_up(&self) {
        let before = std::mem::replace(&mut *self.state.lock(), State::Over);
        drop(before); // an answer's drop is user code: not under the lock
    }
}

impl<T: Send> AnyReply for ReplyCell<T> {
    fn refuse(&self, error: RequestError) -> bool {
        let note = || self.refused.store(true, Ordering::Relaxed);
        self.answer_noting(Err(error), note).is_ok()
    }

    fn is_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }

    fn is_waiting(&self) -> bool {
        matches!(*self.state.lock(), State::Waiting(_))
    }

    fn place(&self, sequence: u32) {
        self.place.store(sequence, Ordering::Relaxed);
    }

    fn placed(&self) -> u32 {
        self.place.load(Ordering::Relaxed)
    }
}

/// The right to answer one request, from any thread, now or later. Dropping it answers
/// [`NoReply`](RequestError::NoReply).
#[must_use = "dropping it answers `NoReply`"]
pub struct Reply<T> {
    cell: Option<Arc<ReplyCell<T>>>,
}

impl<T> Reply<T> {
    /// A token, and where its answer arrives.
    pub fn pair() -> (Self, Asked<T>) {
        let cell = ReplyCell::new();
        let asked = Asked {
            cell: Arc::clone(&cell),
        };
        (Self { cell: Some(cell) }, asked)
    }

    /// Answers.
    ///
    /// # Errors
    /// Gives the answer back if nobody waits for it any more.
    pub fn send(mut self, answer: T) -> Result<(), T> {
        let Some(cell) = self.cell.take() else {
            return Err(answer);
        };
        match cell.answer(Ok(answer)) {
            Err(Ok(answer)) => Err(answer),
            _ => Ok(()),
        }
    }

    /// False if who asked has given up: the work may be spared.
    pub fn is_wanted(&self) -> bool {
        self.cell
            .as_ref()
            .is_some_and(|cell| matches!(*cell.state.lock(), State::Waiting(_)))
    }
}

impl<T> Drop for Reply<T> {
    fn drop(&mut self) {
        if let Some(cell) = self.cell.take() {
            let _ = cell.answer(Err(RequestError::NoReply));
        }
    }
}

impl<T> fmt::Debug for Reply<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reply(..)")
    }
}

/// An answer that is to come. A future for any executor; dropping it gives the request up.
#[must_use = "dropping it gives the request up"]
pub struct Asked<T> {
    cell: Arc<ReplyCell<T>>,
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

impl<T: Send + 'static> Asked<T> {
    /// The cell, whatever its type.
    pub(crate) fn erased(&self) -> Arc<dyn AnyReply> {
        Arc::clone(&self.cell) as Arc<dyn AnyReply>
    }
}

impl<T> Asked<T> {
    /// One that has its answer.
    pub(crate) fn answered(answer: T) -> Self {
        let (reply, asked) = Reply::pair();
        let _ = reply.send(answer); // `asked` wants it
        asked
    }

    pub(crate) fn refuse(&self, error: RequestError) {
        let _ = self.cell.answer(Err(error));
    }

    /// Blocks this thread until the answer comes, at most for `timeout`. Not for shard threads,
    /// which must never wait.
    ///
    /// # Errors
    /// `Deadline` if no answer came in time, else as [`RequestError`] says.
    pub fn wait(self, timeout: Duration) -> Result<T, RequestError> {
        let began = Instant::now();
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        let mut cx = Context::from_waker(&waker);
        loop {
            if let Poll::Ready(answer) = self.cell.poll(&mut cx) {
                return answer;
            }
            let left = timeout.saturating_sub(began.elapsed());
            if left.is_zero() {
                return Err(RequestError::Deadline(timeout));
            }
            std::thread::park_timeout(left);
        }
    }
}

impl<T> Future for Asked<T> {
    type Output = Result<T, RequestError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.cell.poll(cx)
    }
}

impl<T> Drop for Asked<T> {
    fn drop(&mut self) {
        self.cell.give_up();
    }
}

impl<T> fmt::Debug for Asked<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Asked(..)")
    }
}

/// A request with a deadline. Dropping it gives the request up.
#[must_use = "a request is sent at once, but its answer has to be awaited"]
pub struct Request<'a, T> {
    local: Local<'a>,
    asked: Asked<T>,
    deadline: Duration,
    timer: Option<(TimerKey, Time)>,
    /// Frame and number in the shard's table of waits, if it is noted there.
    wait: Option<(u32, u32)>,
}

impl<'a, T> Request<'a, T> {
    pub(crate) fn new(
        local: Local<'a>,
        asked: Asked<T>,
        deadline: Duration,
        wait: Option<(u32, u32)>,
    ) -> Self {
        Self {
            local,
            asked,
            deadline,
            timer: None,
            wait,
        }
    }

    /// Sets how long to wait; the default is
    /// [`StagesBuilder::request_deadline`](crate::StagesBuilder::request_deadline).
    pub fn within(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }
}

impl<T> Future for Request<'_, T> {
    type Output = Result<T, RequestError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        if let Poll::Ready(answer) = this.asked.cell.poll(cx) {
            return Poll::Ready(answer);
        }
        let core = this.local.core();
        match this.timer {
            Some((_, at)) if core.now() >= at => {
                this.asked.cell.give_up();
                return Poll::Ready(Err(RequestError::Deadline(this.deadline)));
            }
            Some((timer, _)) => core.timers.wake_instead(timer, cx.waker()),
            None => {
                let at = core.clock() + this.deadline;
                let due = Due::Wake(cx.waker().clone());
                this.timer = Some((core.set_timer(at, due), at));
            }
        }
        Poll::Pending
    }
}

impl<T> Drop for Request<'_, T> {
    fn drop(&mut self) {
        let core = self.local.core();
        if let Some((frame, wait)) = self.wait {
            core.waits.remove(&core.frames, frame, wait);
        }
        if let Some((timer, _)) = self.timer.take() {
            core.cancel_timer(timer);
        }
    }
}

impl<T> fmt::Debug for Request<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

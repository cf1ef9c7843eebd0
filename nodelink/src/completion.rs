//! What becomes of a reply: [`Completion`], and [`Request`], the future of one.

use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use proscenium_framing::route::RouteHeader;

use crate::error::RequestError;

/// A reply as it arrives, borrowed.
#[derive(Clone, Copy, Debug)]
pub struct ReplyRef<'a> {
    /// Its header; `error_code` says how the request went.
    pub header: RouteHeader<'a>,
    /// Its payload.
    pub payload: &'a [u8],
}

impl ReplyRef<'_> {
    /// The same with memory of its own.
    pub fn to_reply(&self) -> Reply {
        Reply {
            error_code: self.header.error_code,
            msg_id: self.header.msg_id.to_owned(),
            stage_id: self.header.stage_id,
            payload: Bytes::copy_from_slice(self.payload),
        }
    }
}

/// A reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// How the request went; 0 = success. As the other node sent it.
    pub error_code: u32,
    /// What the reply is.
    pub msg_id: String,
    /// The stage that it comes from; 0 = none.
    pub stage_id: i64,
    /// Its payload.
    pub payload: Bytes,
}

/// A callback for a reply.
pub(crate) type Callback = Box<dyn FnOnce(Result<ReplyRef<'_>, RequestError>) + Send>;

/// What becomes of the reply to a request. It is used exactly once, whatever happens.
pub(crate) enum Completion {
    /// `NodeHandler::on_reply` is told.
    Token(u64),
    /// It is called, on the shard.
    Call(Callback),
    /// Somebody awaits it.
    Slot(Filler<Result<Reply, RequestError>>),
}

impl fmt::Debug for Completion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Token(_) => "Token",
            Self::Call(_) => "Call",
            Self::Slot(_) => "Slot",
        })
    }
}

impl Completion {
    /// Without a handler: for the end of a node that has none any more.
    pub(crate) fn fail(self, error: RequestError) {
        match self {
            Self::Token(_) => {}
            Self::Call(call) => call_back(call, Err(error)),
            Self::Slot(slot) => slot.fill(Err(error)),
        }
    }
}

/// Calls user code, whose panic must not cost the shard all its links.
pub(crate) fn call_back(call: Callback, reply: Result<ReplyRef<'_>, RequestError>) {
    let Err(payload) = catch_unwind(AssertUnwindSafe(|| call(reply))) else {
        return;
    };
    tracing::error!("a callback of a request panicked");
    // The payload may panic, too, when it is dropped.
    if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        std::mem::forget(second);
    }
}

/// A value that comes from another thread.
struct Slot<T> {
    state: Mutex<State<T>>,
    filled: Condvar,
}

struct State<T> {
    value: Option<T>,
    waker: Option<Waker>,
    /// Nobody will fill it any more.
    abandoned: bool,
}

impl<T> Slot<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // No code that can panic runs under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn finish(&self, value: Option<T>) {
        let mut state = self.lock();
        state.abandoned = value.is_none();
        state.value = value;
        let waker = state.waker.take();
        drop(state);
        self.filled.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// The end of a [`slot`] that gives the value.
pub(crate) struct Filler<T>(Option<Arc<Slot<T>>>);

impl<T> Filler<T> {
    pub(crate) fn fill(mut self, value: T) {
        if let Some(slot) = self.0.take() {
            slot.finish(Some(value));
        }
    }
}

impl<T> Drop for Filler<T> {
    fn drop(&mut self) {
        if let Some(slot) = self.0.take() {
            slot.finish(None);
        }
    }
}

/// The end of a [`slot`] that waits for the value; `None` if the other end was dropped.
pub(crate) struct Awaited<T>(Arc<Slot<T>>);

/// A pair through which one value goes.
pub(crate) fn slot<T>() -> (Filler<T>, Awaited<T>) {
    let slot = Arc::new(Slot {
        state: Mutex::new(State {
            value: None,
            waker: None,
            abandoned: false,
        }),
        filled: Condvar::new(),
    });
    (Filler(Some(Arc::clone(&slot))), Awaited(slot))
}

impl<T> Awaited<T> {
    pub(crate) fn poll(&self, cx: &Context<'_>) -> Poll<Option<T>> {
        let mut state = self.0.lock();
        if let Some(value) = state.value.take() {
            return Poll::Ready(Some(value));
        }
        if state.abandoned {
            return Poll::Ready(None);
        }
        match &mut state.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// Blocks. `None` also when `timeout` is over.
    pub(crate) fn wait(&self, timeout: Duration) -> Option<T> {
        let until = Instant::now().checked_add(timeout);
        let mut state = self.0.lock();
        loop {
            if let Some(value) = state.value.take() {
                return Some(value);
            }
            if state.abandoned {
                return None;
            }
            let left = until.map_or(timeout, |until| {
                until.saturating_duration_since(Instant::now())
            });
            if left.is_zero() {
                return None;
            }
            let waited = self.0.filled.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// The future of a reply, for any executor. It is ready at the request's deadline at the latest.
/// Dropping it gives the reply up, not the request.
#[must_use = "a request's reply is in its future"]
pub struct Request {
    state: RequestState,
}

enum RequestState {
    Sent(Awaited<Result<Reply, RequestError>>),
    Refused(RequestError),
}

impl Request {
    pub(crate) fn sent(awaited: Awaited<Result<Reply, RequestError>>) -> Self {
        Self {
            state: RequestState::Sent(awaited),
        }
    }

    pub(crate) fn refused(error: RequestError) -> Self {
        Self {
            state: RequestState::Refused(error),
        }
    }

    /// Blocks the thread until the reply is there. Not for threads of shards.
    ///
    /// # Errors
    /// A [`RequestError`].
    pub fn wait(self) -> Result<Reply, RequestError> {
        match self.state {
            // The request's own deadline ends the waiting; a node that is gone has dropped it.
            RequestState::Sent(awaited) => {
                let reply = awaited.wait(Duration::MAX);
                reply.unwrap_or(Err(RequestError::Stopped))
            }
            RequestState::Refused(error) => Err(error),
        }
    }
}

impl Future for Request {
    type Output = Result<Reply, RequestError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &self.state {
            RequestState::Sent(awaited) => awaited
                .poll(cx)
                .map(|reply| reply.unwrap_or(Err(RequestError::Stopped))),
            RequestState::Refused(error) => Poll::Ready(Err(*error)),
        }
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").finish_non_exhaustive()
    }
}

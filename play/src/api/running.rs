//! [`Running`]: the handlers that are under way, and [`Handling`], one of them.

use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use proscenium_engine::ShardWaker;
use proscenium_framing::packet::ErrorCode;
use proscenium_nodelink::{NodeContext, ReplyTo, RouteHeader};
use slab::Slab;

use super::stats::Counts;
use crate::error::{DeliverError, Failure, Result};
use crate::packet::Content;
use crate::shared::MapErrors;

/// What a handler makes of a message.
pub(crate) type Answering = Pin<Box<dyn Future<Output = Result<Content>> + Send>>;

/// The bounds of what is under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) running: usize,
    pub(crate) bytes: usize,
    pub(crate) deadline: Duration,
    /// The longest answer, in bytes.
    pub(crate) reply: usize,
}

/// The handlers of a server that are under way.
pub(crate) struct Running {
    bounds: Bounds,
    service_id: u16,
    map_errors: Option<Box<MapErrors>>,
    pub(crate) counts: Counts,
    ending: AtomicBool,
    table: Mutex<Table>,
    /// Answers on their way to the shard of the links. They keep their place in the table until
    /// they are there, so there is always room for one, and never more than handlers.
    answers: Mutex<Vec<Answer>>,
    /// Wakes that shard.
    waker: OnceLock<ShardWaker>,
    ended: Condvar,
}

#[derive(Default)]
struct Table {
    fates: Slab<Arc<Fate>>,
    bytes: usize,
}

/// The answer of a request, and its place in the table.
struct Answer {
    reply_to: ReplyTo,
    code: ErrorCode,
    msg_id: Cow<'static, str>,
    payload: Bytes,
    place: Place,
}

/// Of a handler in the table, and how long its payload was.
#[derive(Clone, Copy)]
struct Place {
    key: usize,
    bytes: usize,
}

/// What may come between a handler and its end.
struct Fate {
    until: Instant,
    state: Mutex<(Option<ErrorCode>, Option<Waker>)>,
}

impl Fate {
    /// Has the handler end with `code` the next time it is polled, which is soon.
    fn abort(&self, code: ErrorCode) {
        let mut state = self.state.lock();
        state.0.get_or_insert(code);
        let waker = state.1.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Running {
    pub(crate) fn new(bounds: Bounds, service_id: u16, map_errors: Option<Box<MapErrors>>) -> Self {
        Self {
            bounds,
            service_id,
            map_errors,
            counts: Counts::default(),
            ending: AtomicBool::new(false),
            table: Mutex::default(),
            answers: Mutex::default(),
            waker: OnceLock::new(),
            ended: Condvar::new(),
        }
    }

    /// Takes a message in, or says with which code it is refused.
    pub(crate) fn begin(
        self: &Arc<Self>,
        msg_id: Cow<'static, str>,
        reply_to: Option<ReplyTo>,
        bytes: usize,
    ) -> std::result::Result<Call, (ErrorCode, Option<ReplyTo>)> {
        let fate = Arc::new(Fate {
            until: Instant::now() + self.bounds.deadline,
            state: Mutex::default(),
        });
        let mut table = self.table.lock();
        // Under the lock: who waits for the end has seen all that came before.
        if self.ending.load(Ordering::Relaxed) {
            self.counts.refused_ending.add(1);
            return Err((ErrorCode::SERVER_NOT_FOUND, reply_to));
        }
        // One message is taken by a server that has no other, whatever its length.
        let has_room = table.fates.is_empty()
            || (table.fates.len() < self.bounds.running
                && table.bytes + bytes <= self.bounds.bytes);
        if !has_room {
            self.counts.refused_full.add(1);
            return Err((ErrorCode::SYSTEM_ERROR, reply_to));
        }
        table.bytes += bytes;
        let key = table.fates.insert(Arc::clone(&fate));
        drop(table);
        self.counts.handled.add(1);
        self.counts.running.add(1);
        self.counts.running_bytes.add(bytes as u64);
        Ok(Call {
            running: Arc::clone(self),
            fate,
            place: Some(Place { key, bytes }),
            msg_id,
            reply_to,
            over: false,
        })
    }

    /// The shard of the links runs; `waker` has it call [`deliver`](Self::deliver).
    pub(crate) fn start(&self, waker: ShardWaker) {
        waker.wake(); // answers may have come before
        let _ = self.waker.set(waker);
        if let Some(waker) = self.waker.get() {
            waker.wake();
        }
    }

    /// Sends the answers that are there.
    pub(crate) fn deliver(&self, cx: &mut NodeContext<'_, '_, ()>) {
        let answers = std::mem::take(&mut *self.answers.lock());
        let mut places = Vec::with_capacity(answers.len());
        for answer in answers {
            let header = RouteHeader {
                service_id: self.service_id.into(),
                msg_id: &answer.msg_id,
                error_code: answer.code.0.into(),
                ..RouteHeader::default()
            };
            let sent = cx.reply_shared(answer.reply_to, &header, &answer.payload);
            if let Err(error) = sent {
                self.counts.replies_lost.add(1);
                tracing::warn!(msg_id = %answer.msg_id, %error, "an answer is lost");
            }
            places.push(answer.place);
        }
        self.leave(&places);
    }

    /// Gives places in the table back.
    fn leave(&self, places: &[Place]) {
        let bytes: usize = places.iter().map(|place| place.bytes).sum();
        self.counts.running.take(places.len() as u64);
        self.counts.running_bytes.take(bytes as u64);
        let mut table = self.table.lock();
        for place in places {
            table.fates.try_remove(place.key);
        }
        table.bytes -= bytes;
        drop(table);
        self.ended.notify_all();
    }

    /// Ends handlers whose deadline is over.
    pub(crate) fn expire(&self, now: Instant) {
        let late: Vec<_> = {
            let table = self.table.lock();
            let fates = table.fates.iter().map(|(_, fate)| fate);
            fates.filter(|fate| fate.until <= now).cloned().collect()
        };
        for fate in late {
            fate.abort(ErrorCode::REQUEST_TIMEOUT);
        }
    }

    /// How often to look for them: an eighth late is early enough.
    pub(crate) fn period(&self) -> Duration {
        (self.bounds.deadline / 8).max(Duration::from_millis(5))
    }

    /// Further messages are refused with code 2: another server may take them.
    pub(crate) fn refuse(&self) {
        let _table = self.table.lock();
        self.ending.store(true, Ordering::Relaxed);
    }

    /// Waits until no handler and no answer is under way, then true; false if `until` comes first.
    pub(crate) fn wait(&self, until: Instant) -> bool {
        let mut table = self.table.lock();
        while !table.fates.is_empty() {
            if self.ended.wait_until(&mut table, until).timed_out() {
                return table.fates.is_empty();
            }
        }
        true
    }

    /// Ends all handlers, and says how many there were.
    pub(crate) fn abort(&self) -> usize {
        let all: Vec<_> = {
            let table = self.table.lock();
            table.fates.iter().map(|(_, fate)| fate.clone()).collect()
        };
        for fate in &all {
            fate.abort(ErrorCode::SYSTEM_ERROR);
        }
        all.len()
    }

    fn code_of(&self, failure: &Failure) -> ErrorCode {
        let mapped = || {
            let map = self.map_errors.as_ref()?;
            map(failure.source()?)
        };
        let code = failure.code.or_else(mapped);
        code.unwrap_or(ErrorCode::UNCHECKED_CONTENTS_ERROR)
    }
}

/// A message that is being handled. Its request is answered exactly once, by dropping it at the
/// latest.
pub(crate) struct Call {
    running: Arc<Running>,
    fate: Arc<Fate>,
    /// `None`: the answer has it.
    place: Option<Place>,
    msg_id: Cow<'static, str>,
    reply_to: Option<ReplyTo>,
    over: bool,
}

impl Call {
    fn answer(&mut self, code: ErrorCode, content: &Content) {
        self.over = true;
        let Some(reply_to) = self.reply_to.take() else {
            return;
        };
        let (length, limit) = (content.payload.len(), self.running.bounds.reply);
        let msg_id = &self.msg_id;
        let own_id = !content.msg_id.is_empty();
        let id_fits = !own_id || DeliverError::check_id(&content.msg_id).is_ok();
        let (code, payload) = if length <= limit && id_fits {
            (code, content.payload.clone())
        } else {
            tracing::error!(%msg_id, length, limit, id_fits, "an answer is too long");
            (ErrorCode::SYSTEM_ERROR, Bytes::new())
        };
        let Some(place) = self.place.take() else {
            return; // not so: it goes with the only answer
        };
        let answer = Answer {
            reply_to,
            code,
            msg_id: if own_id && id_fits {
                &content.msg_id
            } else {
                msg_id
            }
            .clone(),
            payload,
            place,
        };
        self.running.answers.lock().push(answer);
        if let Some(waker) = self.running.waker.get() {
            waker.wake();
        }
    }

    fn failed(&mut self, failure: &Failure) {
        self.running.counts.failures.add(1);
        let code = self.running.code_of(failure);
        let msg_id = &self.msg_id;
        if code == ErrorCode::UNCHECKED_CONTENTS_ERROR {
            tracing::warn!(%msg_id, %failure, "a handler failed");
        } else {
            tracing::debug!(%msg_id, %code, %failure, "a handler failed");
        }
        let none = Content::default();
        self.answer(code, failure.content.as_ref().unwrap_or(&none));
    }

    fn panicked(&mut self) {
        self.running.counts.panics.add(1);
        tracing::error!(msg_id = %self.msg_id, "a handler panicked");
        self.answer(ErrorCode::UNCHECKED_CONTENTS_ERROR, &Content::default());
    }

    fn aborted(&mut self, code: ErrorCode) {
        let counts = &self.running.counts;
        let (count, why) = match code {
            ErrorCode::REQUEST_TIMEOUT => (&counts.timed_out, "its deadline is over"),
            _ => (&counts.abandoned, "the server ends"),
        };
        count.add(1);
        tracing::warn!(msg_id = %self.msg_id, why, "a handler is ended");
        self.answer(code, &Content::default());
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if !self.over {
            self.aborted(ErrorCode::SYSTEM_ERROR); // dropped by its executor
        }
        // The waker keeps the task, which keeps this.
        drop(self.fate.state.lock().1.take());
        if let Some(place) = self.place {
            self.running.leave(&[place]);
        }
    }
}

/// A handler under way: a future that never panics, and answers.
pub(crate) struct Handling {
    /// Before the call: what it holds goes first.
    work: Option<Answering>,
    call: Option<Call>,
}

impl Handling {
    /// `begin` is the handler: it is called by the first poll.
    pub(crate) fn new(begin: impl FnOnce() -> Answering + Send + 'static, call: Call) -> Self {
        Self {
            work: Some(Box::pin(async move { begin().await })),
            call: Some(call),
        }
    }

    /// Drops what the handler has, which is user code.
    fn discard(&mut self) {
        let work = self.work.take();
        let dropped = catch_unwind(AssertUnwindSafe(|| drop(work)));
        if let Err(payload) = dropped {
            tracing::error!("the drop of a handler's future panicked");
            forget_panic(payload);
        }
    }
}

/// A panic's payload may panic when it is dropped.
pub(crate) fn forget_panic(payload: Box<dyn std::any::Any + Send>) {
    if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        std::mem::forget(second);
    }
}

impl Future for Handling {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let (Some(work), Some(call)) = (&mut this.work, &mut this.call) else {
            return Poll::Ready(());
        };
        let mut state = call.fate.state.lock();
        let aborted = state.0;
        let before = state.1.replace(cx.waker().clone());
        drop(state);
        drop(before);
        if let Some(code) = aborted {
            call.aborted(code);
        } else {
            // Errors of the application are user code, too, when they are shown and dropped.
            let polled = catch_unwind(AssertUnwindSafe(|| match work.as_mut().poll(cx) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Ok(content)) => {
                    call.answer(ErrorCode::SUCCESS, &content);
                    Poll::Ready(())
                }
                Poll::Ready(Err(failure)) => {
                    call.failed(&failure);
                    Poll::Ready(())
                }
            }));
            match polled {
                Ok(Poll::Pending) => return Poll::Pending,
                Ok(Poll::Ready(())) => {}
                Err(payload) => {
                    call.panicked();
                    forget_panic(payload);
                }
            }
        }
        this.discard();
        this.call = None;
        Poll::Ready(())
    }
}

impl Drop for Handling {
    fn drop(&mut self) {
        self.discard();
    }
}

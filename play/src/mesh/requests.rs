//! [`Requests`]: what the stages of a shard have asked and wait for; [`Request`]: the future of
//! one.
//!
//! The number of a request names its shard (8 bits), a counter that begins anywhere (32 bits) and
//! its place in the table (24 bits). It is the token under which the node link knows the request,
//! and what stands for it in call chains: a number of an earlier run of the server, or of a request
//! that was given up, names nothing any more.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::marker::PhantomData;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use proscenium_engine::Time;
use proscenium_engine::timer::{TimerKey, TimerWheel};
use proscenium_framing::packet::ErrorCode;
use proscenium_stages::{Asked, Local};
use slab::Slab;

use super::Mesh;
use crate::call::StageReply;
use crate::gate::Gate;
use crate::packet::Content;

/// What a request is answered with, or the code that says why not.
pub(crate) type Answer = Result<Content, ErrorCode>;

/// Requests of one shard that may be unanswered.
const REQUESTS_MAX: usize = 1 << 20;
const PLACE_BITS: u32 = 24;

struct Entry {
    number: u64,
    /// Who asks.
    stage: i64,
    /// That one is busy until the answer comes.
    blocks: bool,
    deadline: Duration,
    /// Only for requests within this server: those to others end by the node link's timers.
    timer: Option<TimerKey>,
    waker: Option<Waker>,
    answer: Option<Answer>,
}

/// See the module's page.
pub(crate) struct Requests {
    shard: u64,
    entries: RefCell<Slab<Entry>>,
    last: Cell<u32>,
    /// Made since the last slice, within this server. Most are answered before they need a timer.
    fresh: RefCell<Vec<u64>>,
    deadlines: RefCell<TimerWheel<u64>>,
    /// When the shard's timers look at these, the first one last.
    armed: RefCell<Vec<Time>>,
}

impl Requests {
    pub(crate) fn new(shard: usize) -> Self {
        Self {
            shard: shard as u64,
            entries: RefCell::default(),
            last: Cell::new(0),
            fresh: RefCell::default(),
            deadlines: RefCell::new(TimerWheel::new(0)),
            armed: RefCell::default(),
        }
    }

    /// Where the numbers begin.
    pub(crate) fn seed(&self, random: u64) {
        self.last.set(random as u32);
    }

    /// The shard that made a number.
    pub(crate) const fn shard_of(number: u64) -> usize {
        (number >> 56) as usize
    }

    /// Takes a request in; `None` if there are too many. `here`: within this server.
    pub(crate) fn begin(
        &self,
        stage: i64,
        blocks: bool,
        here: bool,
        deadline: Duration,
    ) -> Option<u64> {
        let mut entries = self.entries.borrow_mut();
        if entries.len() >= REQUESTS_MAX {
            return None;
        }
        let count = self.last.get().wrapping_add(1);
        self.last.set(count);
        let entry = entries.vacant_entry();
        let number = self.shard << 56 | u64::from(count) << PLACE_BITS | entry.key() as u64;
        entry.insert(Entry {
            number,
            stage,
            blocks,
            deadline,
            timer: None,
            waker: None,
            answer: None,
        });
        if here {
            self.fresh.borrow_mut().push(number);
        }
        Some(number)
    }

    fn with<R>(&self, number: u64, call: impl FnOnce(&mut Entry) -> R) -> Option<R> {
        let place = (number & ((1 << PLACE_BITS) - 1)) as usize;
        let mut entries = self.entries.borrow_mut();
        let entry = entries.get_mut(place)?;
        (entry.number == number).then(|| call(entry))
    }

    /// It turned out to be for this server.
    pub(crate) fn is_here(&self, number: u64) {
        self.fresh.borrow_mut().push(number);
    }

    pub(crate) fn set_deadline(&self, number: u64, deadline: Duration) {
        self.with(number, |entry| entry.deadline = deadline);
    }

    pub(crate) fn deadline(&self, number: u64) -> Option<Duration> {
        self.with(number, |entry| entry.deadline)
    }

    /// True if that stage can do nothing before that request is answered.
    pub(crate) fn blocks(&self, stage: i64, number: u64) -> bool {
        let blocks = self.with(number, |entry| {
            entry.stage == stage && entry.blocks && entry.answer.is_none()
        });
        blocks.unwrap_or(false)
    }

    /// The answer has come; nothing happens if nobody waits for it any more.
    pub(crate) fn complete(&self, number: u64, answer: Answer) {
        let waker = self.with(number, |entry| {
            entry.answer = Some(answer);
            entry.waker.take()
        });
        if let Some(Some(waker)) = waker {
            waker.wake();
        }
    }

    fn poll(&self, number: u64, task: &Context<'_>) -> Poll<Answer> {
        let polled = self.with(number, |entry| match entry.answer.take() {
            Some(answer) => Poll::Ready(answer),
            None => {
                match &mut entry.waker {
                    Some(waker) => waker.clone_from(task.waker()),
                    none => *none = Some(task.waker().clone()),
                }
                Poll::Pending
            }
        });
        // Not there: its answer was taken before.
        polled.unwrap_or(Poll::Ready(Err(ErrorCode::SYSTEM_ERROR)))
    }

    /// Nobody waits for it any more.
    fn end(&self, number: u64) {
        let place = (number & ((1 << PLACE_BITS) - 1)) as usize;
        if self.with(number, |_| ()).is_none() {
            return;
        }
        let entry = self.entries.borrow_mut().try_remove(place);
        if let Some(timer) = entry.and_then(|entry| entry.timer) {
            self.deadlines.borrow_mut().cancel(timer);
        }
    }

    /// Requests that were made since the last slice and have no answer yet get their timers.
    pub(crate) fn arm(&self, local: &Local<'_>) {
        if self.fresh.borrow().is_empty() {
            return;
        }
        let now = local.now();
        let mut fresh = self.fresh.borrow_mut();
        for number in fresh.drain(..) {
            self.with(number, |entry| {
                let at = (now + entry.deadline).as_nanos();
                entry.timer = Some(self.deadlines.borrow_mut().insert(at, number));
            });
        }
        drop(fresh);
        self.look_again(local);
    }

    fn look_again(&self, local: &Local<'_>) {
        let Some(next) = self.deadlines.borrow().next_deadline() else {
            return;
        };
        let next = Time::from_nanos(next);
        if self.armed.borrow().last().is_none_or(|armed| next < *armed) {
            self.armed.borrow_mut().push(next);
            local.after(next.since(local.now()), |local| {
                Gate::with(local, |gate| gate.mesh.requests.expire(local));
            });
        }
    }

    fn expire(&self, local: &Local<'_>) {
        let now = local.now();
        self.armed.borrow_mut().retain(|armed| *armed > now);
        loop {
            let due = self.deadlines.borrow_mut().pop_due(now.as_nanos());
            let Some(number) = due else { break };
            self.with(number, |entry| entry.timer = None);
            self.complete(number, Err(ErrorCode::REQUEST_TIMEOUT));
        }
        self.look_again(local);
    }
}

/// A request that was sent, and its answer that is to come: await it. What was asked is answered
/// or fails within the deadline, exactly once; dropping this gives the answer up.
#[must_use = "a request is sent at once, but its answer has to be awaited"]
pub struct Request<'a> {
    state: State,
    /// A handler's must not outlive it: a stage that does not wait is in no chain.
    life: PhantomData<&'a ()>,
}

enum State {
    Refused(ErrorCode),
    Sent {
        mesh: Rc<Mesh>,
        number: u64,
        /// Of a stage of this server.
        asked: Option<Asked<StageReply>>,
    },
}

impl Request<'_> {
    pub(crate) fn refused(code: ErrorCode) -> Self {
        Self {
            state: State::Refused(code),
            life: PhantomData,
        }
    }

    pub(crate) fn sent(mesh: Rc<Mesh>, number: u64, asked: Option<Asked<StageReply>>) -> Self {
        Self {
            state: State::Sent {
                mesh,
                number,
                asked,
            },
            life: PhantomData,
        }
    }

    /// Sets how long to wait, counted from the end of this slice of events; to be called before
    /// anything is awaited. The default is that of
    /// [`PlayServerBuilder::request_deadline`](crate::PlayServerBuilder::request_deadline).
    pub fn within(self, deadline: Duration) -> Self {
        if let State::Sent { mesh, number, .. } = &self.state {
            mesh.requests.set_deadline(*number, deadline);
        }
        self
    }
}

impl Future for Request<'_> {
    type Output = Result<Content, ErrorCode>;

    fn poll(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.get_mut().state {
            State::Refused(code) => Poll::Ready(Err(*code)),
            State::Sent {
                mesh,
                number,
                asked,
            } => {
                if let Some(asked) = asked
                    && let Poll::Ready(answer) = Pin::new(asked).poll(task)
                {
                    return Poll::Ready(StageReply::content_of(answer));
                }
                mesh.requests.poll(*number, task)
            }
        }
    }
}

impl Drop for Request<'_> {
    fn drop(&mut self) {
        if let State::Sent { mesh, number, .. } = &self.state {
            mesh.requests.end(*number);
        }
    }
}

impl fmt::Debug for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Request(..)")
    }
}

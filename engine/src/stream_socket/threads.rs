//! The shards on threads of their own, and what crosses from them to the receiver.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::thread::Thread;
use std::time::Duration;

use bytes::Bytes;

use super::{Event, FailedConnect};
use crate::body::{Body, Message};
use crate::context::Context;
use crate::engine::{Engine, EngineBuilder};
use crate::error::{CloseReason, ConnectError, SendError};
use crate::handle::Handle;
use crate::handler::{ConnectId, Handler, Peer, Run};
use crate::mailbox::{Consumer, Mailbox, PushError, ShardWaker, Wake};
use crate::options::{Address, Connector};
use crate::router_id::RouterId;
use crate::shard::DrainReport;

/// How long a close waits for room in a mailbox before it looks whether the engine still runs.
const CLOSE_PATIENCE: Duration = Duration::from_millis(100);

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(&self) {
        self.0.unpark();
    }
}

/// What crosses from the shards' threads; an [`Event`] whose body is its own.
enum Crossing {
    Connected(Peer),
    Message(Bytes),
    Drained,
    /// The peer finished sending: to be closed once everything before has been received, so that
    /// it can still be answered.
    Finished,
    Disconnected(CloseReason),
    ConnectFailed(FailedConnect),
}

pub(super) struct Threads {
    engine: Engine<()>,
    handle: Handle<()>,
    receiver: Consumer<(RouterId, Crossing)>,
    /// Some shard found the queue full and waits to be woken.
    starved: Arc<AtomicBool>,
    wakers: Vec<ShardWaker>,
    next_shard: usize,
}

impl Threads {
    /// Starts the shards, with a queue of `receive_max` events to the calling thread.
    pub(super) fn start(engine: EngineBuilder, receive_max: usize) -> io::Result<Self> {
        let wake = Box::new(Unpark(std::thread::current()));
        let (queue, receiver) = Mailbox::new(receive_max, wake);
        let starved = Arc::new(AtomicBool::new(false));
        let engine = {
            let (queue, starved) = (Arc::clone(&queue), Arc::clone(&starved));
            engine.start(move |_| Remote {
                queue: Arc::clone(&queue),
                starved: Arc::clone(&starved),
                late: VecDeque::new(),
                paused: Vec::new(),
            })?
        };
        let handle = engine.handle();
        let wakers = (0..handle.shards())
            .filter_map(|shard| handle.waker(shard, 0))
            .collect();
        Ok(Self {
            engine,
            handle,
            receiver,
            starved,
            wakers,
            next_shard: 0,
        })
    }

    pub(super) fn local_addrs(&self) -> &[Address] {
        self.engine.local_addrs()
    }

    pub(super) fn handle(&self) -> &Handle<()> {
        &self.handle
    }

    /// Connects on one shard after the other.
    pub(super) fn connect(&mut self, connector: &Connector) -> Result<ConnectId, SendError> {
        let shard = self.next_shard % self.handle.shards();
        self.next_shard = shard + 1;
        self.handle.connect(shard, connector.clone())
    }

    pub(super) fn shutdown(self, deadline: Duration) -> DrainReport {
        let Self {
            engine, receiver, ..
        } = self;
        drop(receiver);
        engine.shutdown(deadline)
    }

    pub(super) fn receive(&mut self, wait: Duration) -> io::Result<Option<(RouterId, Event)>> {
        if let Some(event) = self.next_event() {
            return Ok(Some(event));
        }
        if wait.is_zero() {
            return Ok(None);
        }
        if self.engine.is_finished() {
            // What the shards pushed last is there by now.
            let last = self.next_event();
            return match last {
                Some(event) => Ok(Some(event)),
                None => Err(io::Error::from(io::ErrorKind::BrokenPipe)),
            };
        }
        // Pairs with the fence in `Remote::push`: either we see the flag, or the shard sees that
        // the queue is empty.
        fence(Ordering::SeqCst);
        self.feed_starved();
        if self.receiver.prepare_sleep() {
            // Bounded, to notice an engine that was shut down by a handle.
            std::thread::park_timeout(wait.min(Duration::from_millis(100)));
            self.receiver.awake();
        }
        Ok(self.next_event())
    }

    fn next_event(&mut self) -> Option<(RouterId, Event)> {
        loop {
            let (id, crossing) = self.pop()?;
            let event = match crossing {
                Crossing::Connected(peer) => Event::Connected(peer),
                Crossing::Message(body) => Event::Message(Body::from(body)),
                Crossing::Drained => Event::Drained,
                Crossing::Disconnected(reason) => Event::Disconnected(reason),
                Crossing::ConnectFailed(failed) => Event::ConnectFailed(failed),
                Crossing::Finished => {
                    self.close(id);
                    continue;
                }
            };
            return Some((id, event));
        }
    }

    /// Behind everything sent so far. Shards never wait for us, so the room comes.
    pub(super) fn close(&self, id: RouterId) {
        while let Err(SendError::Full) = self.handle.close_timeout(id, CLOSE_PATIENCE) {
            if self.engine.is_finished() {
                return;
            }
        }
    }

    fn pop(&mut self) -> Option<(RouterId, Crossing)> {
        let popped = self.receiver.pop();
        self.feed_starved();
        popped
    }

    /// Wakes the shards that found the queue full, once it is half empty.
    fn feed_starved(&self) {
        let mailbox = self.receiver.mailbox();
        if self.starved.load(Ordering::Relaxed)
            && mailbox.len() <= mailbox.capacity() / 2
            && self.starved.swap(false, Ordering::AcqRel)
        {
            for waker in &self.wakers {
                waker.wake();
            }
        }
    }
}

/// The handler of a shard on its own thread.
struct Remote {
    queue: Arc<Mailbox<(RouterId, Crossing)>>,
    starved: Arc<AtomicBool>,
    /// Events that found the queue full, in order. Bounded: their connections are paused, and of
    /// attempts to connect that failed only the last ones are kept.
    late: VecDeque<(RouterId, Crossing)>,
    paused: Vec<RouterId>,
}

impl Remote {
    fn push(&mut self, cx: &mut Context<'_, ()>, id: RouterId, crossing: Crossing) {
        if self.late.is_empty() {
            match self.queue.try_push((id, crossing)) {
                Err(PushError::Full(item)) => self.late.push_back(item),
                _ => return,
            }
        } else {
            self.late.push_back((id, crossing));
        }
        if cx.pause_reading(id) {
            self.paused.push(id);
        }
        self.starved.store(true, Ordering::Release);
        // Pairs with the fence in `Threads::receive`: the receiver may have emptied the queue
        // before it could see the flag.
        fence(Ordering::SeqCst);
        if self.queue.is_empty() {
            self.catch_up(cx);
        }
    }

    fn catch_up(&mut self, cx: &mut Context<'_, ()>) {
        while let Some(item) = self.late.pop_front() {
            if let Err(PushError::Full(item)) = self.queue.try_push(item) {
                self.late.push_front(item);
                self.starved.store(true, Ordering::Release);
                return;
            }
        }
        for id in self.paused.drain(..) {
            cx.resume_reading(id);
        }
    }
}

impl Handler for Remote {
    type Post = ();

    fn on_connect(&mut self, cx: &mut Context<'_, ()>, id: RouterId, peer: &Peer) {
        self.push(cx, id, Crossing::Connected(*peer));
    }

    fn on_message(&mut self, cx: &mut Context<'_, ()>, from: RouterId, message: Message<'_>) {
        self.push(
            cx,
            from,
            Crossing::Message(Bytes::copy_from_slice(&message)),
        );
    }

    fn on_drained(&mut self, cx: &mut Context<'_, ()>, id: RouterId) {
        self.push(cx, id, Crossing::Drained);
    }

    fn on_read_closed(&mut self, cx: &mut Context<'_, ()>, id: RouterId) {
        self.push(cx, id, Crossing::Finished);
    }

    fn on_disconnect(&mut self, cx: &mut Context<'_, ()>, id: RouterId, reason: &CloseReason) {
        self.push(cx, id, Crossing::Disconnected(reason.duplicate()));
    }

    fn on_connect_failed(
        &mut self,
        cx: &mut Context<'_, ()>,
        connect: ConnectId,
        error: &ConnectError,
        retry: Option<Duration>,
    ) {
        if retry.is_some() && !self.late.is_empty() {
            return; // it fails again, or is made
        }
        let failed = FailedConnect {
            connect,
            error: error.duplicate(),
            retry,
        };
        self.push(cx, RouterId::NONE, Crossing::ConnectFailed(failed));
    }

    fn on_wake(&mut self, cx: &mut Context<'_, ()>, _: u64) {
        self.catch_up(cx);
    }

    /// A shard that waits for the receiver looks again each turn, should a wake have crossed with
    /// its own look.
    fn run(&mut self, cx: &mut Context<'_, ()>) -> Run {
        if !self.late.is_empty() && self.queue.len() <= self.queue.capacity() / 2 {
            self.catch_up(cx);
        }
        Run::Idle
    }
}

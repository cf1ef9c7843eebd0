//! [`Handle`]: what other threads hold of an engine.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::error::{PostError, SendError};
use crate::handler::ConnectId;
use crate::limits::Limits;
use crate::mailbox::{Mailbox, PushError, ShardWaker};
use crate::options::Connector;
use crate::router_id::RouterId;
use crate::shard::envelope::Envelope;
use crate::stats::{EngineStats, SharedStats};

/// What all shards and handles of an engine share.
pub(crate) struct Shared<P> {
    pub(crate) mailboxes: Vec<Arc<Mailbox<Envelope<P>>>>,
    pub(crate) stats: Vec<SharedStats>,
    pub(crate) limits: Limits,
    /// Shards that have begun to shut down, so that no connection leaves them any more.
    pub(crate) ending: AtomicUsize,
    /// The next number of a connector.
    pub(crate) connects: AtomicU32,
    /// For each shard, how many connections live there or are about to come.
    pub(crate) places: Vec<AtomicUsize>,
}

impl<P> Shared<P> {
    pub(crate) fn new(mailboxes: Vec<Arc<Mailbox<Envelope<P>>>>, limits: Limits) -> Self {
        Self {
            stats: mailboxes.iter().map(|_| SharedStats::default()).collect(),
            places: mailboxes.iter().map(|_| AtomicUsize::new(0)).collect(),
            mailboxes,
            limits,
            ending: AtomicUsize::new(0),
            connects: AtomicU32::new(0),
        }
    }

    /// Takes a place for a connection on `shard`; false if there is none.
    pub(crate) fn take_place(&self, shard: usize) -> bool {
        let places = &self.places[shard];
        let taken = places.fetch_add(1, Ordering::Relaxed) < self.limits.connections_max;
        if !taken {
            places.fetch_sub(1, Ordering::Relaxed);
        }
        taken
    }

    pub(crate) fn free_place(&self, shard: usize) {
        let before = self.places[shard].fetch_sub(1, Ordering::Relaxed);
        debug_assert!(before > 0, "a place of shard {shard} was freed twice");
    }

    pub(crate) fn send(&self, to: RouterId, body: Bytes, text: bool) -> Result<(), SendError> {
        let mailbox = self.mailboxes.get(to.shard()).ok_or(SendError::Gone)?;
        mailbox
            .try_push(Envelope::Send { to, body, text })
            .map_err(|error| refused(&error))
    }

    pub(crate) fn post(&self, shard: usize, posted: P) -> Result<(), PostError<P>> {
        let Some(mailbox) = self.mailboxes.get(shard) else {
            return Err(PostError::Stopped(posted));
        };
        mailbox.try_push(Envelope::Post(posted)).map_err(post_error)
    }

    /// A name for a connector that no other one of this engine has.
    pub(crate) fn name_connect(&self) -> ConnectId {
        ConnectId(self.connects.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) fn close(&self, id: RouterId) -> Result<(), SendError> {
        let mailbox = self.mailboxes.get(id.shard()).ok_or(SendError::Gone)?;
        mailbox
            .try_push(Envelope::Close(id))
            .map_err(|error| refused(&error))
    }

    /// A shard begins to shut down. The last one has the others look whether they may stop.
    pub(crate) fn begin_ending(&self) {
        if self.ending.fetch_add(1, Ordering::AcqRel) + 1 == self.mailboxes.len() {
            self.shutdown(Duration::ZERO);
        }
    }

    /// True if no connection is on its way to another shard that has not been put into that
    /// shard's mailbox.
    pub(crate) fn all_ending(&self) -> bool {
        self.ending.load(Ordering::Acquire) >= self.mailboxes.len()
    }

    pub(crate) fn shutdown(&self, deadline: Duration) {
        for mailbox in &self.mailboxes {
            mailbox.push_control(Envelope::Shutdown(deadline));
        }
    }
}

/// In `timeout` from now; a time out of reach if that is longer than the clock can say.
fn deadline_in(timeout: Duration) -> Instant {
    const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
    Instant::now() + timeout.min(CENTURY)
}

fn refused<T>(error: &PushError<T>) -> SendError {
    match error {
        PushError::Full(_) => SendError::Full,
        PushError::Closed(_) => SendError::Gone,
    }
}

fn post_error<P>(error: PushError<Envelope<P>>) -> PostError<P> {
    let full = matches!(error, PushError::Full(_));
    match error.into_inner() {
        Envelope::Post(posted) if full => PostError::Full(posted),
        Envelope::Post(posted) => PostError::Stopped(posted),
        _ => unreachable!("the mailbox gives back what it was given"),
    }
}

/// A handle to a running engine: cloneable, usable from any thread. It does not keep the engine
/// running.
///
/// Everything goes through the mailbox of the shard concerned: messages from one thread to one
/// connection or shard arrive in order.
pub struct Handle<P> {
    shared: Arc<Shared<P>>,
}

impl<P> Clone for Handle<P> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<P> std::fmt::Debug for Handle<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle")
            .field("shards", &self.shards())
            .finish_non_exhaustive()
    }
}

impl<P> Handle<P> {
    pub(crate) fn new(shared: &Arc<Shared<P>>) -> Self {
        Self {
            shared: Arc::clone(shared),
        }
    }

    /// See [`Shared::begin_ending`].
    pub(crate) fn begin_ending(&self) {
        self.shared.begin_ending();
    }

    /// How many shards the engine has.
    pub fn shards(&self) -> usize {
        self.shared.mailboxes.len()
    }

    /// Sends one message to a connection.
    ///
    /// # Errors
    /// `Full` if the mailbox of the connection's shard is full, `Gone` if that shard has stopped,
    /// `TooLong`. That the connection itself is gone or its queue full is found later, and counted
    /// (`sends_gone`, `refused_full`).
    pub fn send(&self, to: RouterId, body: impl Into<Bytes>) -> Result<(), SendError> {
        let body = self.checked(body.into())?;
        self.shared.send(to, body, false)
    }

    /// Sends one text message to a WebSocket without framing; everything else is sent the bytes
    /// of the text, as by [`send`](Self::send).
    ///
    /// # Errors
    /// Those of [`send`](Self::send).
    #[cfg(feature = "ws")]
    pub fn send_text(&self, to: RouterId, text: impl Into<String>) -> Result<(), SendError> {
        let body = self.checked(Bytes::from(text.into()))?;
        self.shared.send(to, body, true)
    }

    /// Sends one message to a connection, and waits for room in the mailbox up to `timeout`. Not
    /// for shard threads, which must never wait.
    ///
    /// # Errors
    /// Those of [`send`](Self::send).
    pub fn send_timeout(
        &self,
        to: RouterId,
        body: impl Into<Bytes>,
        timeout: Duration,
    ) -> Result<(), SendError> {
        let body = self.checked(body.into())?;
        let mailbox = self
            .shared
            .mailboxes
            .get(to.shard())
            .ok_or(SendError::Gone)?;
        let (text, deadline) = (false, deadline_in(timeout));
        let pushed = mailbox.push_deadline(Envelope::Send { to, body, text }, deadline);
        pushed.map_err(|error| refused(&error))
    }

    fn checked(&self, body: Bytes) -> Result<Bytes, SendError> {
        let limit = self.shared.limits.frame_max;
        if body.len() > limit {
            return Err(SendError::TooLong {
                length: body.len(),
                limit,
            });
        }
        Ok(body)
    }

    /// Posts to the handler of a shard.
    ///
    /// # Errors
    /// `Full` or `Stopped`; both give the message back.
    pub fn post(&self, shard: usize, posted: P) -> Result<(), PostError<P>> {
        self.shared.post(shard, posted)
    }

    /// Posts to the handler of a shard, and waits for room in its mailbox up to `timeout`. Not for
    /// shard threads, which must never wait.
    ///
    /// # Errors
    /// `Full` or `Stopped`; both give the message back.
    pub fn post_timeout(
        &self,
        shard: usize,
        posted: P,
        timeout: Duration,
    ) -> Result<(), PostError<P>> {
        let Some(mailbox) = self.shared.mailboxes.get(shard) else {
            return Err(PostError::Stopped(posted));
        };
        let deadline = deadline_in(timeout);
        mailbox
            .push_deadline(Envelope::Post(posted), deadline)
            .map_err(post_error)
    }

    /// Closes a connection gracefully.
    ///
    /// # Errors
    /// `Full` if the mailbox of its shard is full, `Gone` if that shard has stopped.
    pub fn close(&self, id: RouterId) -> Result<(), SendError> {
        self.shared.close(id)
    }

    /// Closes a connection gracefully, and waits for room in the mailbox up to `timeout`. Not for
    /// shard threads, which must never wait.
    ///
    /// # Errors
    /// Those of [`close`](Self::close).
    pub fn close_timeout(&self, id: RouterId, timeout: Duration) -> Result<(), SendError> {
        let mailbox = self
            .shared
            .mailboxes
            .get(id.shard())
            .ok_or(SendError::Gone)?;
        let deadline = deadline_in(timeout);
        let pushed = mailbox.push_deadline(Envelope::Close(id), deadline);
        pushed.map_err(|error| refused(&error))
    }

    /// Makes an outgoing connection on `shard`; its handler is told how it went, with the name
    /// that this returns.
    ///
    /// # Errors
    /// `Full` or `Gone`, as for [`send`](Self::send).
    pub fn connect(&self, shard: usize, connector: Connector) -> Result<ConnectId, SendError> {
        let mailbox = self.shared.mailboxes.get(shard).ok_or(SendError::Gone)?;
        let id = self.shared.name_connect();
        let pushed = mailbox.try_push(Envelope::Connect(id, Box::new(connector)));
        pushed.map_err(|error| refused(&error)).map(|()| id)
    }

    /// A waker for [`on_wake`](crate::Handler::on_wake) on `shard`; `None` if there is no such
    /// shard.
    pub fn waker(&self, shard: usize, token: u64) -> Option<ShardWaker> {
        self.shared
            .mailboxes
            .get(shard)
            .map(|mailbox| mailbox.waker(token))
    }

    /// The statistics as of each shard's last turn. A shard that sleeps has nothing newer.
    pub fn stats(&self) -> EngineStats {
        let shards = self.shared.stats.iter().zip(&self.shared.mailboxes);
        let read = shards.map(|(stats, mailbox)| {
            let mut stats = stats.read();
            stats.mailbox_len = mailbox.len() as u64;
            stats.wakes = mailbox.wakes();
            stats
        });
        EngineStats {
            shards: read.collect(),
        }
    }

    /// Begins to shut the engine down: no further connections, handlers finish, queues are
    /// flushed, connections closed, all within `deadline`. Does not wait; see
    /// [`Engine::join`](crate::Engine::join).
    pub fn shutdown(&self, deadline: Duration) {
        self.shared.shutdown(deadline);
    }
}

//! [`NodeHandle`]: what other threads hold of a node.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use crossbeam_queue::ArrayQueue;
use proscenium_engine::ShardWaker;
use proscenium_framing::route::RouteHeader;

use crate::commands::Command;
use crate::completion::{Completion, Filler, ReplyRef, Request, slot};
use crate::dial::Endpoint;
use crate::error::{NotReplied, RequestError, SendError};
use crate::message::{ReplyTo, encode_rest};
use crate::outbox::Outbox;
use crate::servers::Servers;
use crate::stats::NodeStats;
use crate::wait::Changes;
use crate::{Nid, NodeOptions};

/// How a request is treated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestOptions {
    /// When it fails without a reply; `None`: as the node's options say (30 s).
    pub deadline: Option<Duration>,
}

impl RequestOptions {
    /// With that deadline.
    pub fn within(deadline: Duration) -> Self {
        Self {
            deadline: Some(deadline),
        }
    }
}

/// What other threads see of a peer, so that they are told `Unroutable` and `Full` at once.
#[derive(Debug, Default)]
pub(crate) struct Gauge {
    up: AtomicBool,
    /// It has said that it leaves.
    leaving: AtomicBool,
    /// What waits for its links.
    queued_messages: AtomicUsize,
    queued_bytes: AtomicUsize,
    /// What handles have asked for and the shard has not begun.
    asked_messages: AtomicUsize,
    asked_bytes: AtomicUsize,
    pending: AtomicUsize,
}

// All orderings are relaxed: the numbers decide about bounds, nothing is published by them. The
// shard judges once more.
impl Gauge {
    pub(crate) fn set_up(&self, up: bool) {
        self.up.store(up, Ordering::Relaxed);
    }

    pub(crate) fn set_leaving(&self, leaving: bool) {
        self.leaving.store(leaving, Ordering::Relaxed);
    }

    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    pub(crate) fn set_pending(&self, pending: usize) {
        self.pending.store(pending, Ordering::Relaxed);
    }

    pub(crate) fn set_queued(&self, outbox: &Outbox) {
        self.queued_messages
            .store(outbox.messages(), Ordering::Relaxed);
        self.queued_bytes.store(outbox.bytes(), Ordering::Relaxed);
    }

    pub(crate) fn clear_queued(&self) {
        self.queued_messages.store(0, Ordering::Relaxed);
        self.queued_bytes.store(0, Ordering::Relaxed);
    }

    /// The shard begins what a handle asked for.
    pub(crate) fn begun(&self, bytes: usize) {
        self.asked_messages.fetch_sub(1, Ordering::Relaxed);
        self.asked_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn ask(&self, bytes: usize, options: &NodeOptions) -> Result<(), SendError> {
        if !self.up.load(Ordering::Relaxed) {
            return Err(SendError::Unroutable);
        }
        let asked = self.asked_messages.fetch_add(1, Ordering::Relaxed);
        let messages = asked + self.queued_messages.load(Ordering::Relaxed);
        let asked = self.asked_bytes.fetch_add(bytes, Ordering::Relaxed);
        let waiting = asked + self.queued_bytes.load(Ordering::Relaxed);
        let has_room = waiting == 0
            || (messages < options.queue_messages_max
                && waiting + bytes <= options.queue_bytes_max);
        if !has_room {
            self.begun(bytes);
            return Err(SendError::Full);
        }
        Ok(())
    }
}

/// What other shards of a node's engine have of a peer: enough to make room for messages to it
/// before they are handed to the shard of the node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct PeerGauge {
    gauge: Arc<Gauge>,
    options: Arc<NodeOptions>,
}

impl PeerGauge {
    pub(crate) fn new(gauge: &Arc<Gauge>, options: &Arc<NodeOptions>) -> Self {
        Self {
            gauge: Arc::clone(gauge),
            options: Arc::clone(options),
        }
    }

    /// Makes room for a message of so many bytes of payload, which [`NodeContext::send_encoded`]
    /// or [`NodeContext::request_encoded`] is to be given.
    ///
    /// [`NodeContext::send_encoded`]: crate::NodeContext::send_encoded
    /// [`NodeContext::request_encoded`]: crate::NodeContext::request_encoded
    ///
    /// # Errors
    /// `Unroutable`, `Full`.
    pub fn reserve(&self, bytes: usize) -> Result<(), SendError> {
        self.gauge.ask(bytes, &self.options)
    }

    /// Requests to the peer that are not answered.
    pub fn pending(&self) -> usize {
        self.gauge.pending.load(Ordering::Relaxed)
    }
}

/// What a node shares with its handles.
pub(crate) struct Shared {
    pub(crate) options: Arc<NodeOptions>,
    pub(crate) queue: ArrayQueue<Command>,
    waker: OnceLock<ShardWaker>,
    gauges: RwLock<HashMap<Nid, Arc<Gauge>>>,
    pub(crate) servers: Servers,
    /// What changes the answers of `is_routable` and `candidates`.
    pub(crate) changes: Changes,
    stopped: AtomicBool,
}

impl Shared {
    pub(crate) fn new(options: Arc<NodeOptions>) -> Self {
        Self {
            queue: ArrayQueue::new(options.commands_max.max(1)),
            options,
            waker: OnceLock::new(),
            gauges: RwLock::default(),
            servers: Servers::default(),
            changes: Changes::default(),
            stopped: AtomicBool::new(false),
        }
    }

    pub(crate) fn start(&self, waker: ShardWaker) {
        // What was asked for before is waiting.
        waker.wake();
        let _ = self.waker.set(waker);
        self.wake();
    }

    /// Who can be reached or chosen has changed.
    pub(crate) fn changed(&self) {
        self.changes.add();
    }

    pub(crate) fn wake(&self) {
        if let Some(waker) = self.waker.get() {
            waker.wake();
        }
    }

    pub(crate) fn add(&self, nid: &Nid, gauge: &Arc<Gauge>) {
        let mut gauges = self.gauges.write().unwrap_or_else(PoisonError::into_inner);
        gauges.insert(nid.clone(), Arc::clone(gauge));
    }

    pub(crate) fn remove(&self, nid: &Nid) {
        let mut gauges = self.gauges.write().unwrap_or_else(PoisonError::into_inner);
        gauges.remove(nid);
    }

    fn gauge(&self, nid: &str) -> Option<Arc<Gauge>> {
        let gauges = self.gauges.read().unwrap_or_else(PoisonError::into_inner);
        gauges.get(nid).cloned()
    }

    /// How many requests a peer has not answered, if it can be reached and takes new work.
    pub(crate) fn reachable(&self, nid: &str) -> Option<usize> {
        let gauge = self.gauge(nid)?;
        let up = gauge.up.load(Ordering::Relaxed) && !gauge.is_leaving();
        up.then(|| gauge.pending.load(Ordering::Relaxed))
    }

    /// The node is gone: what was asked for fails, and what will be.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        self.changed();
        self.fail_all();
    }

    fn fail_all(&self) {
        while let Some(command) = self.queue.pop() {
            command.fail(SendError::Stopped);
        }
    }

    #[expect(
        clippy::result_large_err,
        reason = "the command is given back as it came"
    )]
    fn push(&self, command: Command) -> Result<(), (SendError, Command)> {
        if self.stopped.load(Ordering::SeqCst) {
            return Err((SendError::Stopped, command));
        }
        self.queue
            .push(command)
            .map_err(|command| (SendError::Full, command))?;
        if self.stopped.load(Ordering::SeqCst) {
            // It stopped meanwhile and may not have seen this one.
            self.fail_all();
        }
        self.wake();
        Ok(())
    }
}

/// A handle to a node: cloneable, usable from any thread. It does not keep the node running.
///
/// Messages from one thread to one node arrive in order. Of the headers that are given here,
/// `msg_seq`, `from`, `is_reply` and `payload_size` are filled in, whatever they are.
#[derive(Clone)]
pub struct NodeHandle {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for NodeHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeHandle")
            .field("nid", &self.shared.options.nid)
            .finish_non_exhaustive()
    }
}

impl NodeHandle {
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        Self {
            shared: Arc::clone(shared),
        }
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// The node's name.
    pub fn nid(&self) -> &Nid {
        &self.shared.options.nid
    }

    /// Whether messages can be sent to a node now.
    pub fn is_routable(&self, to: &str) -> bool {
        let gauge = self.shared.gauge(to);
        gauge.is_some_and(|gauge| gauge.up.load(Ordering::Relaxed))
    }

    /// Requests to a node that are not answered; 0 if it is not known.
    pub fn pending(&self, to: &str) -> usize {
        let gauge = self.shared.gauge(to);
        gauge.map_or(0, |gauge| gauge.pending.load(Ordering::Relaxed))
    }

    /// Sends a message that wants no answer.
    ///
    /// # Errors
    /// A [`SendError`]. If the peer is lost between this call and the shard's turn, the message is
    /// as lost as if it had been under way, and counted (`unroutable`).
    pub fn send(
        &self,
        to: &str,
        header: &RouteHeader<'_>,
        payload: impl Into<Bytes>,
    ) -> Result<(), SendError> {
        let payload = payload.into();
        let (gauge, head) = self.ask(to, header, &payload)?;
        let command = Command::Send {
            to: Nid::new(to).map_err(|_| SendError::Unroutable)?,
            gauge,
            head,
            payload,
        };
        self.shared.push(command).map_err(|(error, command)| {
            command.fail(error);
            error
        })
    }

    /// Sends a request. The future is ready within the deadline, whatever happens.
    pub fn request(
        &self,
        to: &str,
        header: &RouteHeader<'_>,
        payload: impl Into<Bytes>,
        options: RequestOptions,
    ) -> Request {
        let (filler, awaited) = slot();
        match self.request_to(
            to,
            header,
            payload.into(),
            options,
            Completion::Slot(filler),
        ) {
            Ok(()) => Request::sent(awaited),
            Err((error, _)) => Request::refused(error.into()),
        }
    }

    /// Sends a request and calls `call` with what became of it, on the node's shard.
    ///
    /// # Errors
    /// A [`SendError`]; then `call` is not called.
    pub fn request_with(
        &self,
        to: &str,
        header: &RouteHeader<'_>,
        payload: impl Into<Bytes>,
        options: RequestOptions,
        call: impl FnOnce(Result<ReplyRef<'_>, RequestError>) + Send + 'static,
    ) -> Result<(), SendError> {
        let completion = Completion::Call(Box::new(call));
        let sent = self.request_to(to, header, payload.into(), options, completion);
        sent.map_err(|(error, _)| error)
    }

    fn request_to(
        &self,
        to: &str,
        header: &RouteHeader<'_>,
        payload: Bytes,
        options: RequestOptions,
        completion: Completion,
    ) -> Result<(), (SendError, Completion)> {
        let (gauge, head) = match self.ask(to, header, &payload) {
            Ok(asked) => asked,
            Err(error) => return Err((error, completion)),
        };
        let Ok(to) = Nid::new(to) else {
            return Err((SendError::Unroutable, completion));
        };
        let command = Command::Request {
            to,
            gauge,
            head,
            payload,
            deadline: options.deadline,
            completion,
        };
        self.shared
            .push(command)
            .map_err(|(error, command)| match command {
                Command::Request {
                    gauge,
                    payload,
                    completion,
                    ..
                } => {
                    gauge.begun(payload.len());
                    (error, completion)
                }
                _ => unreachable!("the queue gives back what it was given"),
            })
    }

    /// Answers a request. `error_code` of the header says how it went.
    ///
    /// # Errors
    /// `Full` (of what handles have asked for), `TooLong`, `Stopped`; the request can be answered
    /// again with the [`ReplyTo`] that is given back. That the link of the request is gone is found
    /// later, and counted (`replies_refused`); if its queue is full, who asked is told so
    /// ([`reply_bytes_max`](NodeOptions::reply_bytes_max)).
    pub fn reply(
        &self,
        to: ReplyTo,
        header: &RouteHeader<'_>,
        payload: impl Into<Bytes>,
    ) -> Result<(), NotReplied> {
        let payload = payload.into();
        let head = match self.encode_checked(header, &payload, true) {
            Ok(head) => head,
            Err(error) => return Err(NotReplied { error, to }),
        };
        let command = Command::Reply { to, head, payload };
        self.shared
            .push(command)
            .map_err(|(error, command)| match command {
                Command::Reply { to, .. } => NotReplied { error, to },
                _ => unreachable!("the queue gives back what it was given"),
            })
    }

    /// Connects to another node, and again whenever the link is lost.
    ///
    /// # Errors
    /// `Full`, `Stopped`.
    pub fn connect(&self, endpoint: Endpoint) -> Result<(), SendError> {
        let command = Command::Connect(endpoint);
        self.shared.push(command).map_err(|(error, _)| error)
    }

    /// Ends the links to endpoints at that address, and does not connect there again.
    ///
    /// # Errors
    /// `Full`, `Stopped`.
    pub fn disconnect(&self, endpoint: Endpoint) -> Result<(), SendError> {
        let command = Command::Disconnect(endpoint);
        self.shared.push(command).map_err(|(error, _)| error)
    }

    /// The node is no more: it was shut down, or its shard has ended otherwise. Every call is
    /// refused with `Stopped` from now on.
    pub fn is_stopped(&self) -> bool {
        self.shared.stopped.load(Ordering::SeqCst)
    }

    /// The statistics, as of the shard's next turn; blocks until then, at most for `timeout`. Not
    /// for threads of shards.
    pub fn stats(&self, timeout: Duration) -> Option<NodeStats> {
        let (filler, awaited): (Filler<NodeStats>, _) = slot();
        self.shared.push(Command::Stats(filler)).ok()?;
        awaited.wait(timeout)
    }

    /// A number that changes with the answers of [`candidates`](Self::candidates), all but the
    /// number of pending requests in them: for whoever keeps them.
    pub fn changes(&self) -> u64 {
        self.shared.changes.count()
    }

    /// Appends the header of a message whose payload has `payload` bytes to `out`, for
    /// [`Encoded`](crate::Encoded).
    pub fn encode_header(
        &self,
        header: &RouteHeader<'_>,
        payload: usize,
        is_reply: bool,
        out: &mut Vec<u8>,
    ) {
        let header = RouteHeader {
            msg_seq: 0,
            from: self.nid(),
            is_reply,
            payload_size: u32::try_from(payload).unwrap_or(u32::MAX),
            ..*header
        };
        let at = out.len();
        out.resize(at + header.encoded_len(), 0);
        let written = header.encode(&mut out[at..]);
        debug_assert_eq!(written, Some(out.len() - at));
    }

    /// Has the shard leave. False if there is none any more.
    pub(crate) fn push_leave(&self, leave: Command) -> bool {
        // A full queue is busy, not gone; it is asked again.
        !matches!(self.shared.push(leave), Err((SendError::Stopped, _)))
    }

    fn ask(
        &self,
        to: &str,
        header: &RouteHeader<'_>,
        payload: &Bytes,
    ) -> Result<(Arc<Gauge>, Vec<u8>), SendError> {
        let head = self.encode_checked(header, payload, false)?;
        let gauge = self.shared.gauge(to).ok_or(SendError::Unroutable)?;
        gauge.ask(payload.len(), &self.shared.options)?;
        Ok((gauge, head))
    }

    fn encode_checked(
        &self,
        header: &RouteHeader<'_>,
        payload: &Bytes,
        is_reply: bool,
    ) -> Result<Vec<u8>, SendError> {
        let head = encode_rest(RouteHeader {
            from: self.nid(),
            is_reply,
            payload_size: u32::try_from(payload.len()).unwrap_or(u32::MAX),
            ..*header
        });
        let zmtp = &self.shared.options.zmtp;
        let limit = zmtp.frame_max.min(zmtp.message_max);
        let length = payload.len().max(head.len()); // each is a frame
        if length > limit {
            return Err(SendError::TooLong { length, limit });
        }
        Ok(head)
    }
}

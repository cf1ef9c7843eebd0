//! What the I/O thread and the threads that use a connector share: one mutex, never held while
//! foreign code (callbacks, wakers) runs.
//!
//! | field | written by |
//! |---|---|
//! | `phase` | both; a call of the user's that changes it also leaves a `command` |
//! | `command`, `last_words`, `outbound` | users; the I/O thread takes them |
//! | `in_flight` | the I/O thread |
//! | `requests` | users add; the I/O thread answers; `disconnect` and `close` fail them |
//! | `events`, `answers` | the I/O thread adds; who dispatches takes |
//! | `dispatcher`, `handler`, `closed` | who dispatches |
//!
//! While a `command` waits, whatever the I/O thread still reports about the connection is about
//! one that the user has left, and is dropped.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use proscenium_framing::packet::lz4::unpickle;
use proscenium_framing::packet::{self, ClientPacket, ErrorCode, ServerPacket};

use crate::config::{Config, DURATION_MAX};
use crate::connector::Handler;
use crate::io_thread::Io;
use crate::pending::Completer;
use crate::{
    Answer, ConnectError, DisconnectReason, Event, Packet, ProtocolError, RequestError, SendError,
    lock,
};

pub(crate) type Callback = Box<dyn FnOnce(Answer) + Send>;

pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) io: Arc<Io>,
    inner: Mutex<Inner>,
    /// Something was added to a queue, or a dispatcher is done.
    changed: Condvar,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// No connection and none wanted.
    Idle,
    /// The first attempt.
    Connecting,
    /// Lost; waits for the next attempt, or is at it.
    Reconnecting,
    /// Connected, not authenticated.
    Connected,
    Authenticated,
    /// For ever.
    Closed,
}

/// What a user wants of the I/O thread; the last one counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Connect,
    Disconnect,
    Close,
}

pub(crate) struct Inner {
    pub(crate) phase: Phase,
    pub(crate) command: Option<Command>,
    /// In the I/O thread's list of connectors to look at.
    dirty: bool,
    /// Packets with their lengths, to be sent.
    outbound: Vec<u8>,
    /// What the I/O thread took of it and has not sent yet.
    in_flight: usize,
    /// What was `outbound` when the user left that connection.
    last_words: Vec<u8>,
    requests: HashMap<u16, Request>,
    deadlines: BTreeSet<(Instant, u16)>,
    last_seq: u16,
    /// What is to be dispatched, in order. With a handler, answers to callbacks are among it.
    pub(crate) events: VecDeque<Item>,
    /// Of `events` and `answers`.
    pub(crate) event_bytes: usize,
    /// Without a handler: what `main_thread_action` and `next_event` run.
    pub(crate) answers: VecDeque<(Callback, Answer)>,
    /// The queues are full and the I/O thread has stopped reading.
    paused: bool,
    /// What the server took, for reconnecting.
    credentials: Option<Credentials>,
    pub(crate) connecting: Option<Completer<Result<(), ConnectError>>>,
    /// The thread that runs callbacks.
    pub(crate) dispatcher: Option<u64>,
    /// The thread that closes the connector, and whether no callback runs any more.
    pub(crate) closer: Option<u64>,
    pub(crate) closed: bool,
    pub(crate) handler: Option<Handler>,
    pub(crate) has_handler: bool,
    pub(crate) unknown_answers: u64,
    /// Where the I/O thread keeps the session.
    pub(crate) slot: Option<usize>,
}

pub(crate) enum Item {
    Event(Event),
    Answer(Callback, Answer),
}

impl Item {
    /// What it counts as in the bound of the queue, in bytes.
    fn size(&self) -> usize {
        match self {
            Self::Event(event) => event.size(),
            Self::Answer(_, answer) => size_of_answer(answer),
        }
    }
}

fn size_of_answer(answer: &Answer) -> usize {
    let payload = match answer {
        Ok(packet) | Err(RequestError::Refused(packet)) => packet.size(),
        Err(_) => 0,
    };
    size_of::<Item>() + payload
}

pub(crate) enum Completion {
    Future(Completer<Answer>),
    Callback(Callback),
    /// The connector's own request after reconnecting.
    Reauthentication,
}

struct Request {
    completion: Completion,
    deadline: Instant,
    authenticates: Option<Credentials>,
}

#[derive(Clone)]
struct Credentials {
    stage_id: i64,
    msg_id: String,
    payload: Vec<u8>,
}

/// What is to be sent.
#[derive(Clone, Copy)]
pub(crate) struct Outgoing<'a> {
    pub(crate) stage_id: i64,
    pub(crate) msg_id: &'a str,
    pub(crate) payload: &'a [u8],
}

impl Outgoing<'_> {
    /// Bytes of the packet, without its length prefix.
    fn len(&self) -> usize {
        ClientPacket::FIXED + self.msg_id.len() + self.payload.len()
    }

    fn check(&self, config: &Config) -> Result<(), SendError> {
        let len = self.msg_id.len();
        if !(packet::ID_MIN..=packet::ID_MAX).contains(&len) {
            return Err(SendError::IdLength { len });
        }
        let (len, limit) = (self.len(), config.codec.limit());
        if len > limit {
            return Err(SendError::TooLong { len, limit });
        }
        Ok(())
    }
}

/// Results for futures, to be told once the mutex is free.
#[must_use]
#[derive(Default)]
pub(crate) struct Results(Vec<(Completer<Answer>, Answer)>);

impl Results {
    pub(crate) fn tell(self) {
        for (completer, answer) in self.0 {
            completer.complete(answer);
        }
    }
}

impl Shared {
    pub(crate) fn new(config: Config, io: Arc<Io>, handler: Option<Handler>) -> Self {
        let inner = Inner {
            phase: Phase::Idle,
            command: None,
            dirty: false,
            outbound: Vec::new(),
            in_flight: 0,
            last_words: Vec::new(),
            requests: HashMap::new(),
            deadlines: BTreeSet::new(),
            last_seq: 0,
            events: VecDeque::new(),
            event_bytes: 0,
            answers: VecDeque::new(),
            paused: false,
            credentials: None,
            connecting: None,
            dispatcher: None,
            closer: None,
            closed: false,
            has_handler: handler.is_some(),
            handler,
            unknown_answers: 0,
            slot: None,
        };
        Self {
            config,
            io,
            inner: Mutex::new(inner),
            changed: Condvar::new(),
        }
    }

    pub(crate) fn inner(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }

    pub(crate) fn phase(&self) -> Phase {
        self.inner().phase
    }

    pub(crate) fn notify_all(&self) {
        self.changed.notify_all();
    }

    /// Waits for `notify_all`, or the end of the time.
    pub(crate) fn wait<'a>(
        &self,
        inner: MutexGuard<'a, Inner>,
        until: Option<Instant>,
    ) -> MutexGuard<'a, Inner> {
        let Some(until) = until else {
            let waited = self.changed.wait(inner);
            return waited.unwrap_or_else(PoisonError::into_inner);
        };
        let left = until.saturating_duration_since(Instant::now());
        let waited = self.changed.wait_timeout(inner, left);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Has the I/O thread look at this connector.
    pub(crate) fn touch(self: &Arc<Self>, inner: &mut Inner) {
        if !inner.dirty {
            inner.dirty = true;
            self.io.notify(self.clone());
        }
    }

    /// Encodes a packet into the send queue. With a `completion` it is a request; where it cannot
    /// be sent, that comes back.
    pub(crate) fn enqueue(
        self: &Arc<Self>,
        outgoing: Outgoing<'_>,
        authenticates: bool,
        completion: Option<(Completion, Duration)>,
    ) -> Result<(), (SendError, Option<Completion>)> {
        let (completion, timeout) = completion.unzip();
        // What can never be sent is told whatever the connection is.
        if let Err(error) = outgoing.check(&self.config) {
            return Err((error, completion));
        }
        let inner = &mut *self.inner();
        let allowed = match inner.phase {
            Phase::Authenticated => Ok(()),
            Phase::Connected if authenticates => Ok(()),
            Phase::Connected => Err(SendError::Unauthenticated),
            _ => Err(SendError::Disconnected),
        };
        let allowed = allowed.and_then(|()| inner.check_room(outgoing, &self.config));
        let allowed = allowed.and_then(|()| match completion {
            Some(_) => inner.next_seq(self.config.requests_max),
            None => Ok(0),
        });
        let seq = match allowed {
            Ok(seq) => seq,
            Err(error) => return Err((error, completion)),
        };
        inner.push(seq, outgoing, &self.config);
        if let Some(completion) = completion {
            let timeout = timeout.unwrap_or(self.config.request_timeout);
            let deadline = Instant::now() + timeout.min(DURATION_MAX);
            let authenticates = authenticates.then(|| Credentials {
                stage_id: outgoing.stage_id,
                msg_id: outgoing.msg_id.to_owned(),
                payload: outgoing.payload.to_vec(),
            });
            inner.deadlines.insert((deadline, seq));
            let request = Request {
                completion,
                deadline,
                authenticates,
            };
            inner.requests.insert(seq, request);
        }
        self.touch(inner);
        Ok(())
    }

    /// Ends the connection as the user sees it; the socket is the I/O thread's to end.
    pub(crate) fn leave(self: &Arc<Self>, inner: &mut Inner, command: Command) -> Results {
        let results = inner.fail_requests();
        inner.phase = match command {
            Command::Close => Phase::Closed,
            _ => Phase::Idle,
        };
        inner.command = Some(command);
        let outbound = std::mem::take(&mut inner.outbound);
        inner.last_words.extend(outbound);
        inner.credentials = None;
        self.touch(inner);
        self.notify_all();
        results
    }

    // What follows is called by the I/O thread.

    /// What the user wants, and what is to be sent on the connection that this leaves.
    pub(crate) fn take_command(&self) -> Option<(Command, Vec<u8>)> {
        let mut inner = self.inner();
        inner.dirty = false;
        let command = inner.command.take()?;
        Some((command, std::mem::take(&mut inner.last_words)))
    }

    /// Swaps what is to be sent into the empty `packets`.
    pub(crate) fn take_outbound(&self, packets: &mut Vec<u8>) {
        let mut inner = self.inner();
        std::mem::swap(&mut inner.outbound, packets);
        inner.in_flight = packets.len();
    }

    pub(crate) fn set_in_flight(&self, bytes: usize) {
        self.inner().in_flight = bytes;
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.inner().paused
    }

    /// When the first request runs out of time.
    pub(crate) fn first_deadline(&self) -> Option<Instant> {
        let inner = self.inner();
        inner.deadlines.first().map(|&(deadline, _)| deadline)
    }

    /// There is a connection. After reconnecting its first packet is the authentication.
    pub(crate) fn opened(self: &Arc<Self>) {
        let mut inner = self.inner();
        if inner.is_left() {
            return;
        }
        inner.phase = Phase::Connected;
        inner.in_flight = 0;
        inner.push_event(Event::Connected);
        let connecting = inner.connecting.take();
        let credentials = inner.credentials.clone();
        self.notify_all();
        drop(inner);
        if let Some(connecting) = connecting {
            connecting.complete(Ok(()));
        }
        if let Some(credentials) = credentials {
            let outgoing = Outgoing {
                stage_id: credentials.stage_id,
                msg_id: &credentials.msg_id,
                payload: &credentials.payload,
            };
            // Only the user can have come in between, and has then authenticated or left.
            let completion = (Completion::Reauthentication, self.config.request_timeout);
            let _ = self.enqueue(outgoing, true, Some(completion));
        }
    }

    /// An attempt to connect failed.
    pub(crate) fn connect_failed(&self, error: ConnectError, reconnecting: bool) {
        let mut inner = self.inner();
        if inner.is_left() {
            return;
        }
        if !reconnecting {
            inner.phase = Phase::Idle;
            inner.credentials = None;
        }
        let connecting = inner.connecting.take();
        let told = error.clone();
        inner.push_event(Event::ConnectFailed {
            error,
            reconnecting,
        });
        self.notify_all();
        drop(inner);
        if let Some(connecting) = connecting {
            connecting.complete(Err(told));
        }
    }

    /// The connection is gone.
    pub(crate) fn lost(&self, reason: DisconnectReason, reconnecting: bool) {
        let mut inner = self.inner();
        if inner.is_left() {
            return;
        }
        let results = inner.fail_requests();
        inner.outbound = Vec::new();
        inner.in_flight = 0;
        inner.phase = match reconnecting {
            true => Phase::Reconnecting,
            false => Phase::Idle,
        };
        if !reconnecting {
            inner.credentials = None;
        }
        inner.push_event(Event::Disconnected {
            reason,
            reconnecting,
        });
        self.notify_all();
        drop(inner);
        results.tell();
    }

    /// Something on the I/O thread panicked. The connection is gone, or the attempt to have one.
    pub(crate) fn broke(&self) {
        let panicked = || io::Error::other("the connector panicked");
        match self.phase() {
            Phase::Connected | Phase::Authenticated => {
                self.lost(DisconnectReason::Io(panicked()), false);
            }
            Phase::Connecting | Phase::Reconnecting => {
                self.connect_failed(ConnectError::Io(Arc::new(panicked())), false);
            }
            Phase::Idle | Phase::Closed => {}
        }
    }

    /// A packet came. An error costs the connection.
    pub(crate) fn received(&self, packet: ServerPacket<'_>) -> Result<(), DisconnectReason> {
        if packet.seq == 0 && packet.msg_id == packet::HEARTBEAT {
            return Ok(());
        }
        let payload = match packet.original_size {
            0 => packet.payload.to_vec(),
            size => unpickle(packet.payload, size, self.config.inflated_max)
                .map_err(ProtocolError::Payload)?,
        };
        let owned = Packet {
            msg_id: packet.msg_id.to_owned(),
            stage_id: packet.stage_id,
            error: packet.error,
            payload,
        };
        let mut inner = self.inner();
        if inner.is_left() {
            return Ok(());
        }
        let results = match packet.seq {
            0 if inner.is_replaced(&owned) => return Err(DisconnectReason::Replaced),
            0 => {
                inner.push_event(Event::Received(owned));
                Results::default()
            }
            seq => inner.answered(seq, owned)?,
        };
        inner.paused = inner.is_full(&self.config);
        self.notify_all();
        drop(inner);
        results.tell();
        Ok(())
    }

    /// Fails the requests whose time is over.
    pub(crate) fn expire(&self, now: Instant) -> Result<(), DisconnectReason> {
        let mut results = Results::default();
        let mut inner = self.inner();
        let mut reauthentication_failed = false;
        while let Some(&(deadline, seq)) = inner.deadlines.first()
            && deadline <= now
        {
            if let Some(request) = inner.remove_request(seq) {
                reauthentication_failed |=
                    matches!(request.completion, Completion::Reauthentication);
                inner.finish(request.completion, Err(RequestError::Timeout), &mut results);
                self.notify_all();
            }
        }
        drop(inner);
        results.tell();
        match reauthentication_failed {
            true => Err(DisconnectReason::Silent),
            false => Ok(()),
        }
    }

    /// Appends a heartbeat; the server answers with the same.
    pub(crate) fn push_heartbeat(&self) {
        let mut inner = self.inner();
        if inner.phase == Phase::Authenticated {
            let heartbeat = Outgoing {
                stage_id: 0,
                msg_id: packet::HEARTBEAT,
                payload: &[],
            };
            inner.push(0, heartbeat, &self.config);
        }
    }
}

impl Inner {
    /// True if the user has left what the I/O thread still knows as the connection.
    fn is_left(&self) -> bool {
        self.command.is_some() || self.phase == Phase::Closed
    }

    /// True for the push by which a server says that the account has another connection now.
    fn is_replaced(&self, push: &Packet) -> bool {
        let credentials = self.credentials.as_ref();
        push.error == ErrorCode::ALREADY_AUTHENTICATED
            && credentials.is_some_and(|credentials| credentials.msg_id == push.msg_id)
    }

    fn check_room(&self, outgoing: Outgoing<'_>, config: &Config) -> Result<(), SendError> {
        let queued = self.outbound.len() + self.in_flight;
        // One packet always goes, so that a small bound does not forbid a large packet.
        if queued > 0 && queued + outgoing.len() > config.send_queue_bytes_max {
            return Err(SendError::Full);
        }
        Ok(())
    }

    /// The next number of a request: 1 to 65535, none that waits for its answer.
    fn next_seq(&mut self, requests_max: usize) -> Result<u16, SendError> {
        if self.requests.len() >= requests_max {
            return Err(SendError::Full);
        }
        loop {
            self.last_seq = self.last_seq.checked_add(1).unwrap_or(1);
            if !self.requests.contains_key(&self.last_seq) {
                return Ok(self.last_seq);
            }
        }
    }

    /// Appends a packet whose bounds were checked.
    fn push(&mut self, seq: u16, outgoing: Outgoing<'_>, config: &Config) {
        let packet = ClientPacket {
            msg_id: outgoing.msg_id,
            seq,
            stage_id: outgoing.stage_id,
            payload: outgoing.payload,
        };
        let len = packet.encoded_len();
        let start = self.outbound.len();
        let header = config.codec.header(len);
        debug_assert!(header.is_ok(), "checked before");
        if let Ok(header) = header {
            self.outbound.extend_from_slice(&header);
            let body = self.outbound.len();
            self.outbound.resize(body + len, 0);
            if packet.encode(&mut self.outbound[body..]).is_err() {
                debug_assert!(false, "checked before");
                self.outbound.truncate(start);
            }
        }
    }

    pub(crate) fn push_event(&mut self, event: Event) {
        self.event_bytes += event.size();
        self.events.push_back(Item::Event(event));
    }

    /// Events and answers that wait.
    fn waiting(&self) -> usize {
        self.events.len() + self.answers.len()
    }

    fn is_full(&self, config: &Config) -> bool {
        self.waiting() >= config.event_queue_max || self.event_bytes >= config.event_queue_bytes_max
    }

    /// Takes the first event or answer; true with it if the I/O thread is to read again.
    pub(crate) fn pop_item(&mut self, config: &Config) -> Option<(Item, bool)> {
        let item = self.events.pop_front()?;
        let resume = self.took(item.size(), config);
        Some((item, resume))
    }

    /// Takes the first of the answers that are a queue of their own; true as with `pop_item`.
    pub(crate) fn pop_answer(&mut self, config: &Config) -> Option<(Item, bool)> {
        let (callback, answer) = self.answers.pop_front()?;
        let item = Item::Answer(callback, answer);
        let resume = self.took(item.size(), config);
        Some((item, resume))
    }

    fn took(&mut self, bytes: usize, config: &Config) -> bool {
        self.event_bytes -= bytes;
        let low = self.waiting() <= config.event_queue_max / 2
            && self.event_bytes <= config.event_queue_bytes_max / 2;
        let resume = self.paused && low;
        self.paused &= !resume;
        resume
    }

    fn remove_request(&mut self, seq: u16) -> Option<Request> {
        let request = self.requests.remove(&seq)?;
        self.deadlines.remove(&(request.deadline, seq));
        Some(request)
    }

    fn answered(&mut self, seq: u16, packet: Packet) -> Result<Results, DisconnectReason> {
        let mut results = Results::default();
        let Some(request) = self.remove_request(seq) else {
            self.unknown_answers += 1; // it ran out of time before
            return Ok(results);
        };
        let code = packet.error;
        if let Some(credentials) = request.authenticates
            && code.is_success()
        {
            self.phase = Phase::Authenticated;
            self.credentials = Some(credentials);
        }
        if let Completion::Reauthentication = request.completion {
            if !code.is_success() {
                return Err(DisconnectReason::AuthenticationRefused(code));
            }
            self.push_event(Event::Reauthenticated(packet));
            return Ok(results);
        }
        let answer = match code.is_success() {
            true => Ok(packet),
            false => Err(RequestError::Refused(packet)),
        };
        self.finish(request.completion, answer, &mut results);
        Ok(results)
    }

    fn finish(&mut self, completion: Completion, answer: Answer, results: &mut Results) {
        if let Completion::Callback(_) = completion {
            self.event_bytes += size_of_answer(&answer);
        }
        match completion {
            Completion::Future(completer) => results.0.push((completer, answer)),
            Completion::Callback(callback) if self.has_handler => {
                self.events.push_back(Item::Answer(callback, answer));
            }
            Completion::Callback(callback) => self.answers.push_back((callback, answer)),
            Completion::Reauthentication => {}
        }
    }

    fn fail_requests(&mut self) -> Results {
        let mut results = Results::default();
        self.deadlines.clear();
        let mut requests: Vec<_> = self.requests.drain().collect();
        // In the order of sending, as far as the numbers tell.
        requests.sort_unstable_by_key(|(seq, _)| *seq);
        for (_, request) in requests {
            self.finish(
                request.completion,
                Err(RequestError::Disconnected),
                &mut results,
            );
        }
        results
    }
}

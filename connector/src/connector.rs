//! The handle, and running callbacks.

use std::fmt;
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use crate::config::{Builder, Delivery};
use crate::io_thread::{self, Io};
use crate::pending::{Pending, on_io_thread, pending, this_thread};
use crate::shared::{Callback, Command, Completion, Inner, Item, Outgoing, Phase, Shared};
use crate::{Answer, BuildError, ConnectError, DisconnectReason, Event, RequestError, SendError};

/// What is called for every event.
pub(crate) type Handler = Box<dyn FnMut(Event) + Send>;

/// A connection to a Play server, or the wish for one. All methods can be called from any thread;
/// share it with an `Arc`. Dropping it is [`close`](Self::close).
///
/// `stage_id` is the stage that a message is for, `msg_id` says what it is: 1 to 128 bytes.
pub struct Connector {
    shared: Arc<Shared>,
}

impl Connector {
    /// The options of a connector to `host` (a name or an address) and `port`.
    pub fn builder(host: &str, port: u16) -> Builder {
        Builder::new(host, port)
    }

    pub(crate) fn start(builder: Builder) -> Result<Self, BuildError> {
        #[cfg(feature = "tls")]
        let builder = crate::tls::prepare(builder)?;
        #[cfg(feature = "ws")]
        let builder = {
            let mut builder = builder;
            if builder.config.transport.is_web_socket() {
                builder.config.opening = Some(crate::web_socket::opening(&builder.config)?);
            }
            builder
        };
        let io = io_thread::acquire().map_err(BuildError::Io)?;
        let shared = Shared::new(builder.config, io, builder.on_event);
        let shared = Arc::new(shared);
        Ok(Self { shared })
    }

    /// Begins to connect; the result tells how it went, and so do the events
    /// [`Connected`](Event::Connected) and [`ConnectFailed`](Event::ConnectFailed).
    ///
    /// # Errors
    /// By the result: [`ConnectError`].
    pub fn connect(&self) -> Pending<Result<(), ConnectError>> {
        let mut inner = self.shared.inner();
        match inner.phase {
            Phase::Idle => {}
            Phase::Closed => return Pending::ready(Err(ConnectError::Cancelled)),
            _ => return Pending::ready(Err(ConnectError::AlreadyConnected)),
        }
        let (completer, pending) = pending();
        inner.phase = Phase::Connecting;
        inner.command = Some(Command::Connect);
        inner.connecting = Some(completer);
        self.shared.touch(&mut inner);
        pending
    }

    /// Authenticates: a request that is allowed before, and has to come before, any other message.
    /// Once the server took it, the connection is authenticated. A refusal keeps the connection,
    /// to try again as often as the server allows.
    ///
    /// # Errors
    /// By the result: [`RequestError`].
    pub fn authenticate(&self, stage_id: i64, msg_id: &str, payload: &[u8]) -> Pending<Answer> {
        self.future(stage_id, msg_id, payload, true, self.request_timeout())
    }

    /// Like [`authenticate`](Self::authenticate), with a callback; see
    /// [`request_with`](Self::request_with).
    ///
    /// # Errors
    /// [`SendError`]; the callback is then never called.
    pub fn authenticate_with(
        &self,
        stage_id: i64,
        msg_id: &str,
        payload: &[u8],
        callback: impl FnOnce(Answer) + Send + 'static,
    ) -> Result<(), SendError> {
        let timeout = self.request_timeout();
        self.callback(stage_id, msg_id, payload, true, timeout, Box::new(callback))
    }

    /// Sends a message without an answer. `Ok` says that it is in the queue.
    ///
    /// # Errors
    /// [`SendError`].
    pub fn send(&self, stage_id: i64, msg_id: &str, payload: &[u8]) -> Result<(), SendError> {
        let outgoing = Outgoing {
            stage_id,
            msg_id,
            payload,
        };
        let sent = self.shared.enqueue(outgoing, false, None);
        sent.map_err(|(error, _)| error)
    }

    /// Sends a message and gives its answer, which comes without anybody's dispatching.
    ///
    /// # Errors
    /// By the result: [`RequestError`].
    pub fn request(&self, stage_id: i64, msg_id: &str, payload: &[u8]) -> Pending<Answer> {
        self.future(stage_id, msg_id, payload, false, self.request_timeout())
    }

    /// [`request`](Self::request) with a time-out of its own, instead of that of all
    /// ([`Builder::request_timeout`]). Zero: it has failed before an answer can come.
    ///
    /// # Errors
    /// By the result: [`RequestError`].
    pub fn request_within(
        &self,
        timeout: Duration,
        stage_id: i64,
        msg_id: &str,
        payload: &[u8],
    ) -> Pending<Answer> {
        self.future(stage_id, msg_id, payload, false, timeout)
    }

    /// Sends a message and calls back with its answer, where and when events are told. If this
    /// returns `Ok`, the callback is called exactly once; at the latest in [`close`](Self::close).
    ///
    /// # Errors
    /// [`SendError`]; the callback is then never called.
    pub fn request_with(
        &self,
        stage_id: i64,
        msg_id: &str,
        payload: &[u8],
        callback: impl FnOnce(Answer) + Send + 'static,
    ) -> Result<(), SendError> {
        let timeout = self.request_timeout();
        self.callback(
            stage_id,
            msg_id,
            payload,
            false,
            timeout,
            Box::new(callback),
        )
    }

    /// [`request_with`](Self::request_with) with a time-out of its own, as
    /// [`request_within`](Self::request_within) has one.
    ///
    /// # Errors
    /// [`SendError`]; the callback is then never called.
    pub fn request_within_with(
        &self,
        timeout: Duration,
        stage_id: i64,
        msg_id: &str,
        payload: &[u8],
        callback: impl FnOnce(Answer) + Send + 'static,
    ) -> Result<(), SendError> {
        self.callback(
            stage_id,
            msg_id,
            payload,
            false,
            timeout,
            Box::new(callback),
        )
    }

    fn request_timeout(&self) -> Duration {
        self.shared.config.request_timeout
    }

    fn future(
        &self,
        stage_id: i64,
        msg_id: &str,
        payload: &[u8],
        authenticates: bool,
        timeout: Duration,
    ) -> Pending<Answer> {
        let outgoing = Outgoing {
            stage_id,
            msg_id,
            payload,
        };
        let (completer, pending) = pending();
        let completion = Some((Completion::Future(completer), timeout));
        match self.shared.enqueue(outgoing, authenticates, completion) {
            Ok(()) => pending,
            Err((error, _)) => Pending::ready(Err(RequestError::NotSent(error))),
        }
    }

    fn callback(
        &self,
        stage_id: i64,
        msg_id: &str,
        payload: &[u8],
        authenticates: bool,
        timeout: Duration,
        callback: Callback,
    ) -> Result<(), SendError> {
        let outgoing = Outgoing {
            stage_id,
            msg_id,
            payload,
        };
        let completion = Some((Completion::Callback(callback), timeout));
        let sent = self.shared.enqueue(outgoing, authenticates, completion);
        sent.map_err(|(error, _)| error)
    }

    /// True between [`Event::Connected`] and [`Event::Disconnected`], as the I/O thread sees it.
    pub fn is_connected(&self) -> bool {
        matches!(self.shared.phase(), Phase::Connected | Phase::Authenticated)
    }

    /// True while connected and authenticated.
    pub fn is_authenticated(&self) -> bool {
        self.shared.phase() == Phase::Authenticated
    }

    /// True on the thread where callbacks of [`Delivery::IoThread`] run, which must not wait for a
    /// [`Pending`].
    pub fn is_on_io_thread() -> bool {
        on_io_thread()
    }

    /// Answers that came to no waiting request: their requests had run out of time.
    pub fn unknown_answers(&self) -> u64 {
        self.shared.inner().unknown_answers
    }

    /// Runs the callbacks that are due, here and now, and tells how many: those of events, if
    /// there is a handler, and those of answers. What becomes due meanwhile waits for the next
    /// call. It never waits for the server. Within a callback it does nothing.
    pub fn main_thread_action(&self) -> usize {
        if self.shared.config.delivery == Delivery::IoThread {
            return 0;
        }
        dispatch(&self.shared)
    }

    /// The next event, for connectors without a handler; callbacks of answers that are due run
    /// first.
    pub fn next_event(&self) -> Option<Event> {
        self.main_thread_action();
        self.pop_event(&mut self.shared.inner())
    }

    /// Like [`next_event`](Self::next_event), but waits for one, at most so long.
    pub fn wait_event(&self, timeout: Duration) -> Option<Event> {
        let until = Instant::now().checked_add(timeout); // or for ever
        loop {
            self.main_thread_action();
            let mut inner = self.shared.inner();
            let event = self.pop_event(&mut inner);
            let over = inner.phase == Phase::Closed || until.is_some_and(|at| Instant::now() >= at);
            if event.is_some() || over {
                return event;
            }
            if inner.answers.is_empty() {
                drop(self.shared.wait(inner, until));
            }
        }
    }

    fn pop_event(&self, inner: &mut Inner) -> Option<Event> {
        if inner.has_handler {
            return None;
        }
        let (item, resume) = inner.pop_item(&self.shared.config)?;
        if resume {
            self.shared.touch(inner);
        }
        match item {
            Item::Event(event) => Some(event),
            Item::Answer(..) => None, // only with a handler
        }
    }

    /// Ends the connection, or the attempt to have one, and any reconnecting. Requests without an
    /// answer fail at once. What was sent before still goes out, for at most half a second. The
    /// connector can [`connect`](Self::connect) again.
    pub fn disconnect(&self) {
        let mut inner = self.shared.inner();
        let was_connected = match inner.phase {
            Phase::Idle | Phase::Closed => return,
            Phase::Connected | Phase::Authenticated => true,
            Phase::Connecting | Phase::Reconnecting => false,
        };
        let results = self.shared.leave(&mut inner, Command::Disconnect);
        if was_connected {
            inner.push_event(Event::Disconnected {
                reason: DisconnectReason::Requested,
                reconnecting: false,
            });
        }
        let connecting = inner.connecting.take();
        drop(inner);
        results.tell();
        if let Some(connecting) = connecting {
            connecting.complete(Err(ConnectError::Cancelled));
        }
    }

    /// Ends the connector: like [`disconnect`](Self::disconnect), and for ever. Callbacks of
    /// requests that were not called yet are called here, with 60201 unless their answer had
    /// come; events that were not told yet are dropped. When this returns no callback runs and
    /// none will, unless it was called within one, which then is the last. It waits for a callback
    /// that runs on another thread.
    pub fn close(&self) {
        close(&self.shared);
    }
}

impl Drop for Connector {
    /// [`close`](Connector::close). The last connector ends the I/O thread and waits for that,
    /// which takes half a second if what was sent does not go out.
    fn drop(&mut self) {
        self.close();
        io_thread::release(&self.shared.io);
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let config = &self.shared.config;
        f.debug_struct("Connector")
            .field("host", &config.host)
            .field("port", &config.port)
            .field("transport", &config.transport)
            .field("phase", &self.shared.phase())
            .finish_non_exhaustive()
    }
}

fn close(shared: &Arc<Shared>) {
    let mut inner = shared.inner();
    let me = this_thread();
    if inner.phase == Phase::Closed {
        // Somebody else is at it, or was.
        while !inner.closed && inner.dispatcher != Some(me) {
            inner = shared.wait(inner, None);
        }
        return;
    }
    let results = shared.leave(&mut inner, Command::Close);
    inner.closer = Some(me);
    let connecting = inner.connecting.take();
    while inner.dispatcher.is_some_and(|other| other != me) {
        inner = shared.wait(inner, None);
    }
    // Within a callback it is its turn.
    let turn = inner.dispatcher.is_none().then(|| Turn {
        shared,
        handler: None,
    });
    inner.dispatcher = Some(me);
    let handler = inner.handler.take();
    let events = std::mem::take(&mut inner.events);
    inner.event_bytes = 0;
    let answers = std::mem::take(&mut inner.answers);
    drop(inner);
    drop(handler);
    results.tell();
    if let Some(connecting) = connecting {
        connecting.complete(Err(ConnectError::Cancelled));
    }
    for item in events {
        if let Item::Answer(callback, answer) = item {
            callback(answer);
        }
    }
    for (callback, answer) in answers {
        callback(answer);
    }
    drop(turn);
}

/// Runs what is due. One thread at a time: others wait until it is done.
fn dispatch(shared: &Arc<Shared>) -> usize {
    let me = this_thread();
    let mut inner = shared.inner();
    loop {
        if inner.phase == Phase::Closed || inner.dispatcher == Some(me) {
            return 0;
        }
        if inner.dispatcher.is_none() {
            break;
        }
        inner = shared.wait(inner, None);
    }
    let due = match inner.has_handler {
        true => inner.events.len(),
        false => inner.answers.len(),
    };
    if due == 0 {
        return 0;
    }
    inner.dispatcher = Some(me);
    let mut turn = Turn {
        shared,
        handler: inner.handler.take(),
    };
    drop(inner);
    let mut ran = 0;
    while ran < due {
        let mut inner = shared.inner();
        if inner.phase == Phase::Closed {
            break;
        }
        let Some(item) = next_item(shared, &mut inner) else {
            break;
        };
        drop(inner);
        ran += 1;
        match (item, &mut turn.handler) {
            (Item::Answer(callback, answer), _) => callback(answer),
            (Item::Event(event), Some(handler)) => handler(event),
            (Item::Event(_), None) => {}
        }
    }
    ran
}

fn next_item(shared: &Arc<Shared>, inner: &mut MutexGuard<'_, Inner>) -> Option<Item> {
    let (item, resume) = match inner.has_handler {
        true => inner.pop_item(&shared.config)?,
        false => inner.pop_answer(&shared.config)?,
    };
    if resume {
        shared.touch(inner);
    }
    Some(item)
}

/// While callbacks run; ends with them, also when one panics.
struct Turn<'a> {
    shared: &'a Shared,
    handler: Option<Handler>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut inner = self.shared.inner();
        inner.dispatcher = None;
        inner.closed |= inner.closer == Some(this_thread());
        if inner.phase != Phase::Closed {
            inner.handler = self.handler.take();
        }
        drop(inner);
        self.shared.notify_all();
    }
}

/// Runs what is due on the I/O thread, for connectors that want that.
pub(crate) fn dispatch_on_io_thread(shared: &Arc<Shared>) {
    if shared.config.delivery != Delivery::IoThread {
        return;
    }
    if !shared.inner().has_handler {
        // Nobody takes events; answers to callbacks are a queue of their own then.
        let mut inner = shared.inner();
        while let Some((_, resume)) = inner.pop_item(&shared.config) {
            if resume {
                shared.touch(&mut inner);
            }
        }
    }
    let run = || while dispatch(shared) > 0 {};
    if std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err() {
        // Who has closed it may wait for this thread.
        let end = || match shared.phase() {
            Phase::Closed => {}
            _ => close(shared),
        };
        // Callbacks of requests run there; whatever panics, the thread is not this connector's.
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(end));
    }
}

// Shared across threads by its users.
const _: fn() = || {
    fn shareable<T: Send + Sync>() {}
    shareable::<Connector>();
    shareable::<Arc<Io>>();
};

#[cfg(test)]
mod tests {
    use super::*;

    /// Found by valgrind: a connector that waited for the thread to look at it, when the thread
    /// ended, held it and was held by it.
    #[test]
    fn the_last_connector_leaves_nothing() {
        for round in 0..300 {
            let connector = Connector::builder("127.0.0.1", 1).build();
            let connector = connector.expect("a connector");
            let (shared, io) = (
                Arc::downgrade(&connector.shared),
                Arc::downgrade(&connector.shared.io),
            );
            if round % 2 == 0 {
                drop(connector.connect());
            }
            drop(connector);
            assert_eq!(
                (shared.strong_count(), io.strong_count()),
                (0, 0),
                "{round}"
            );
        }
    }
}

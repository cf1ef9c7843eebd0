//! Outgoing connections: attempts, deadlines, back-off.

use std::time::Duration;

use super::Shard;
use super::core::{Core, Op, Timer};
use super::envelope::Lost;
use crate::connection::{Connection, NONE, State};
use crate::context::Context;
use crate::driver::Driver;
use crate::error::{CloseReason, ConnectError};
use crate::handler::{ConnectId, Handler, Origin, Peer};
use crate::options::{Address, Connector};
use crate::timer::TimerKey;

/// An attempt that fails at once is reported after so long.
const REFUSAL_DELAY: Duration = Duration::from_millis(1);

/// A connector and what has become of it so far.
#[derive(Debug)]
pub(crate) struct Outgoing {
    connector: Connector,
    /// Attempts made since the last connection that brought a message.
    attempt: u32,
    /// The slot of the attempt under way or of the connection made.
    slot: u32,
    timer: Option<TimerKey>,
    /// The attempt failed at once; told by timer, so that a handler that answers a failure by a new
    /// attempt does not go round and round in one turn.
    refused: Option<ConnectError>,
}

impl<P> Core<P> {
    /// Notes a connector; the attempt begins when the handler's call is over.
    pub(crate) fn connect(&mut self, ConnectId(connect): ConnectId, connector: Connector) {
        let outgoing = Outgoing {
            connector,
            attempt: 0,
            slot: NONE,
            timer: None,
            refused: None,
        };
        self.outgoing.insert(connect, outgoing);
        self.ops.push(Op::Connect { connect });
    }

    /// The attempt under way is over: its deadline does not hold any more.
    fn end_attempt(&mut self, connect: u32) {
        if let Some(outgoing) = self.outgoing.get_mut(&connect)
            && let Some(timer) = outgoing.timer.take()
        {
            self.timers.cancel(timer);
        }
    }

    /// No further attempts; one under way is given up. A connection already made stays.
    pub(crate) fn cancel_connect(&mut self, id: ConnectId) {
        let Some(outgoing) = self.outgoing.remove(&id.0) else {
            return;
        };
        if let Some(timer) = outgoing.timer {
            self.timers.cancel(timer);
        }
        let attempt = self.connections.get(outgoing.slot);
        if attempt.is_some_and(Connection::is_attempt) {
            self.kill(outgoing.slot, CloseReason::Local);
        }
    }
}

impl<D: Driver, H: Handler> Shard<D, H> {
    /// Makes the next attempt of a connector.
    pub(super) fn attempt(&mut self, connect: u32) {
        let Some(outgoing) = self.core.outgoing.get_mut(&connect) else {
            return;
        };
        outgoing.timer = None;
        if let Some(error) = outgoing.refused.take() {
            return self.connect_failed(connect, error);
        }
        outgoing.attempt = outgoing.attempt.saturating_add(1);
        let attempt = outgoing.attempt;
        let connector = outgoing.connector.clone();
        if self.core.shutting_down {
            return self.refuse(connect, ConnectError::Shutdown);
        }
        if !self.core.take_place() {
            let limit = self.core.limits.connections_max;
            return self.refuse(connect, ConnectError::ConnectionLimit { limit });
        }
        let address = match &connector.address {
            Address::Tcp(address) => Some(*address),
            Address::Unix(_) => None,
        };
        let peer = Peer {
            address,
            origin: Origin::Outgoing(ConnectId(connect)),
        };
        let options = &connector.options;
        let slot = self.core.connections.insert(|id| {
            let mut connection = Connection::new(id, options.wire(), options.overflow, peer);
            connection.state = State::Connecting;
            connection
        });
        if let Err(error) = self
            .driver
            .connect(slot, &connector.address, &options.socket)
        {
            self.core.remove(slot, None);
            return self.refuse(connect, ConnectError::Io(error));
        }
        let deadline = Timer::ConnectDeadline { connect, attempt };
        let timer = self.core.set_timer_in(connector.deadline, deadline);
        if let Some(outgoing) = self.core.outgoing.get_mut(&connect) {
            outgoing.slot = slot;
            outgoing.timer = Some(timer);
        }
    }

    /// The driver's answer to an attempt.
    pub(super) fn connected(&mut self, slot: u32, result: std::io::Result<()>) {
        let Some(connection) = self.core.connections.get_mut(slot) else {
            return;
        };
        let Origin::Outgoing(ConnectId(connect)) = connection.peer.origin else {
            return;
        };
        if connection.state != State::Connecting {
            return;
        }
        if let Err(error) = result {
            self.core.end_attempt(connect);
            self.driver.close(slot);
            self.core.remove(slot, None);
            return self.connect_failed(connect, ConnectError::Io(error));
        }
        let outgoing = self.core.outgoing.get(&connect);
        let (limits, random) = (&self.core.limits, &mut self.core.random);
        let layers = outgoing.and_then(|o| o.connector.options.make_layers(limits, random));
        if let Some(layers) = layers {
            return self.begin_handshake(slot, layers); // the deadline holds for that too
        }
        self.made(slot, connect);
    }

    /// An outgoing connection is open, with all its layers.
    pub(super) fn made(&mut self, slot: u32, connect: u32) {
        self.core.end_attempt(connect);
        if let Some(connection) = self.core.connections.get_mut(slot) {
            connection.state = State::Open;
        }
        self.core.stats.connected += 1;
        self.opened(slot);
    }

    /// An attempt ended before its connection was open, for `reason`: tells the handler, unless it
    /// was given up.
    pub(super) fn attempt_broke(&mut self, slot: u32, connect: u32, reason: CloseReason) {
        let outgoing = self.core.outgoing.get(&connect);
        if outgoing.is_none_or(|outgoing| outgoing.slot != slot) {
            return;
        }
        let error = match reason {
            CloseReason::Broken(error) => ConnectError::Io(error),
            CloseReason::HandshakeFailed(error) => ConnectError::Handshake(error),
            CloseReason::Shutdown => ConnectError::Shutdown,
            CloseReason::HandshakeTimeout => ConnectError::TimedOut,
            other => ConnectError::Io(std::io::Error::other(other.to_string())),
        };
        self.core.end_attempt(connect);
        self.connect_failed(connect, error);
    }

    pub(super) fn connect_deadline(&mut self, connect: u32, attempt: u32) {
        let Some(outgoing) = self.core.outgoing.get_mut(&connect) else {
            return;
        };
        if outgoing.attempt != attempt {
            return;
        }
        outgoing.timer = None;
        let slot = outgoing.slot;
        match self.core.connections.get(slot).map(|c| c.state) {
            Some(State::Connecting) => {
                self.driver.close(slot);
                self.core.remove(slot, None);
                self.connect_failed(connect, ConnectError::TimedOut);
            }
            // The rest when it is buried.
            Some(State::Handshaking) => self.core.kill(slot, CloseReason::HandshakeTimeout),
            _ => {}
        }
    }

    /// The attempt failed at once.
    fn refuse(&mut self, connect: u32, error: ConnectError) {
        let timer = self
            .core
            .set_timer_in(REFUSAL_DELAY, Timer::Reconnect { connect });
        if let Some(outgoing) = self.core.outgoing.get_mut(&connect) {
            outgoing.refused = Some(error);
            outgoing.timer = Some(timer);
        }
    }

    fn connect_failed(&mut self, connect: u32, error: ConnectError) {
        self.core.stats.connect_failed += 1;
        let retry = self.schedule_retry(connect);
        let cx = &mut Context::new(&mut self.core);
        self.handler
            .on_connect_failed(cx, ConnectId(connect), &error, retry);
    }

    /// Sets the timer of the next attempt, or forgets the connector.
    fn schedule_retry(&mut self, connect: u32) -> Option<Duration> {
        let random = self.core.random.next();
        let outgoing = self.core.outgoing.get_mut(&connect)?;
        outgoing.slot = NONE;
        let backoff = outgoing
            .connector
            .reconnect
            .filter(|_| !self.core.shutting_down);
        let Some(backoff) = backoff else {
            self.core.outgoing.remove(&connect);
            return None;
        };
        let delay = backoff.delay(outgoing.attempt.saturating_sub(1), random);
        let timer = self.core.set_timer_in(delay, Timer::Reconnect { connect });
        if let Some(outgoing) = self.core.outgoing.get_mut(&connect) {
            outgoing.timer = Some(timer);
        }
        Some(delay)
    }

    /// An outgoing connection ended: again, unless this side wanted it.
    pub(super) fn outgoing_ended(&mut self, lost: Lost) {
        if lost.wanted {
            self.core.outgoing.remove(&lost.connect);
            return;
        }
        if let Some(outgoing) = self.core.outgoing.get_mut(&lost.connect)
            && lost.spoke
        {
            outgoing.attempt = 0;
        }
        self.schedule_retry(lost.connect);
    }

    /// Shutdown: no further attempts.
    pub(super) fn cancel_all_connects(&mut self) {
        let mut all: Vec<u32> = self.core.outgoing.keys().copied().collect();
        all.sort_unstable();
        for connect in all {
            // Attempts and pauses between them have a timer; a connection that was made has none.
            let outgoing = self.core.outgoing.get(&connect);
            let made = outgoing.is_some_and(|outgoing| outgoing.timer.is_none());
            if !made {
                self.core.cancel_connect(ConnectId(connect));
                self.core.stats.connect_failed += 1;
                let cx = &mut Context::new(&mut self.core);
                let error = ConnectError::Shutdown;
                self.handler
                    .on_connect_failed(cx, ConnectId(connect), &error, None);
            }
        }
    }
}

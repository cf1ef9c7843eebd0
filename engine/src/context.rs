//! [`Context`]: what a handler can do while it is called.

use std::time::Duration;

use bytes::Bytes;
#[cfg(feature = "ws")]
use proscenium_framing::websocket::CloseCode;

use crate::body::{Body, Message};
use crate::connection::{Pause, State};
use crate::error::{CloseReason, PostError, SendError};
use crate::handle::Handle;
use crate::handler::{ConnectId, Peer};
use crate::mailbox::ShardWaker;
use crate::options::Connector;
use crate::router_id::RouterId;
use crate::shard::core::{Core, Timer};
use crate::time::Time;
use crate::timer::TimerKey;

/// The shard as its handler sees it, for the time of one call.
///
/// Sends are queued and written at the end of the slice (at most 32 connections' worth of
/// events); everything else that touches a socket happens as soon as the handler returns.
pub struct Context<'a, P> {
    core: &'a mut Core<P>,
}

impl<'a, P> Context<'a, P> {
    #[inline]
    pub(crate) fn new(core: &'a mut Core<P>) -> Self {
        Self { core }
    }

    /// The time as of the beginning of this slice of events. Costs nothing.
    #[inline]
    pub fn now(&self) -> Time {
        self.core.now
    }

    /// Reads the clock (about 20 ns).
    pub fn clock(&self) -> Time {
        (self.core.clock)()
    }

    /// The number of this shard, from 0.
    pub fn shard(&self) -> usize {
        self.core.shard
    }

    /// How many shards the engine has.
    pub fn shards(&self) -> usize {
        self.core.shared.mailboxes.len()
    }

    /// Connections that live on this shard now, those being made or closed included.
    pub fn connections(&self) -> usize {
        self.core.connections.len()
    }

    /// Queues a copy of `body` as one message to `to`. A connection of another shard is reached
    /// through that shard's mailbox.
    ///
    /// # Errors
    /// `Gone`, `Full`, `TooLong`: see [`SendError`].
    #[inline]
    pub fn send(&mut self, to: RouterId, body: &[u8]) -> Result<(), SendError> {
        self.core.send(to, body)
    }

    /// Sends a received message on as it is: to where it came from (an echo), or to others. It is
    /// not copied as long as it follows what was forwarded to `to` before (or nothing waits there),
    /// the framing is the same, receive chunks last, and it is not so short (256 B) that copying is
    /// cheaper; otherwise as with [`send`](Self::send).
    ///
    /// # Errors
    /// Those of [`send`](Self::send).
    #[inline]
    pub fn forward(&mut self, to: RouterId, message: &Message<'_>) -> Result<(), SendError> {
        self.core.forward(to, message.spot(), message.is_text())
    }

    /// Sends a kept message on: as with [`forward`](Self::forward) if it is leased, which its
    /// lease outlives until it is written; as with [`send_shared`](Self::send_shared) if it owns
    /// its bytes. To a WebSocket without framing it goes as it came, as text or binary.
    ///
    /// # Errors
    /// Those of [`send`](Self::send).
    #[inline]
    pub fn forward_body(&mut self, to: RouterId, body: &Body) -> Result<(), SendError> {
        match body.spot() {
            Ok(spot) => self.core.forward(to, spot, body.is_text()),
            Err(bytes) => self.core.send_shared(to, bytes, body.is_text()),
        }
    }

    /// Leaves the last `bytes` of the message that `from`, a connection without framing, is being
    /// read of: the beginning of a long message of an embedder's own framing. They are told again
    /// with the next that arrive, which are received behind them: so what is long is put together
    /// without being copied. It is worth looking at when there are `needs` of it; that is no more
    /// than a hint where to put it.
    ///
    /// False, and nothing is left, if they could not stay: the connection has layers, `needs` is
    /// more than a chunk has ([`Limits::receive_chunk`](crate::Limits)) or not more than `bytes`,
    /// or this is not the call in which they are told.
    pub fn leave(&mut self, from: RouterId, bytes: usize, needs: usize) -> bool {
        self.core.leave(from, bytes, needs)
    }

    /// Whether [`forward_behind`](Self::forward_behind) would take `bytes` in all.
    pub fn forwards_behind(&self, to: RouterId, bytes: usize) -> bool {
        self.core.forwards_behind(to, bytes)
    }

    /// Sends `head` and behind it a received message, or a part of one, if that can be done
    /// without copying them: for long messages in framings of an embedder's own. Says whether it
    /// did; if not, nothing was sent. It does where the connection has no framing and no layers,
    /// nothing but such messages waits to be sent there, and receive chunks last. What the socket
    /// does not take is copied.
    pub fn forward_behind(
        &mut self,
        to: RouterId,
        head: Vec<u8>,
        message: Option<&Message<'_>>,
    ) -> bool {
        self.core.forward_behind(to, head, message)
    }

    /// Lets `encode` write the body, of at most `max` bytes, straight into the send buffer, and
    /// returns the length that `encode` returned. The room may hold old bytes. When the
    /// connection lives on another shard, the body is encoded into memory of its own.
    ///
    /// # Errors
    /// Those of [`send`](Self::send), judged by `max`; then `encode` is not called.
    ///
    /// # Panics
    /// If `encode` returns more than `max`.
    #[inline]
    pub fn send_with(
        &mut self,
        to: RouterId,
        max: usize,
        encode: impl FnOnce(&mut [u8]) -> usize,
    ) -> Result<usize, SendError> {
        self.core.send_with(to, max, encode)
    }

    /// Queues a shared body: for fan-out. Bodies of 4 KiB and more are not copied but counted by
    /// reference; shorter ones are cheaper to copy.
    ///
    /// # Errors
    /// Those of [`send`](Self::send).
    pub fn send_shared(&mut self, to: RouterId, body: &Bytes) -> Result<(), SendError> {
        self.core.send_shared(to, body, false)
    }

    /// [`send_shared`](Self::send_shared) to each of `to`, and returns how many did not take it.
    /// Where nothing waits to be sent the body is not copied, however short it is.
    pub fn broadcast(&mut self, to: impl IntoIterator<Item = RouterId>, body: &Bytes) -> usize {
        self.core.broadcast(to, body)
    }

    /// Queues `text` as one text message to a WebSocket without framing; to everything else it is
    /// sent as its bytes are by [`send`](Self::send).
    ///
    /// # Errors
    /// Those of [`send`](Self::send).
    #[cfg(feature = "ws")]
    pub fn send_text(&mut self, to: RouterId, text: &str) -> Result<(), SendError> {
        self.core.send_text(to, text.as_bytes())
    }

    /// Closes a WebSocket of this shard gracefully, as [`close`](Self::close) does, with `code`
    /// and `reason` (at most 123 bytes of it) in the close frame. A code that may not be sent
    /// (RFC 6455 §7.4.1) becomes 1000. Any other connection is closed without them.
    #[cfg(feature = "ws")]
    pub fn close_web_socket(&mut self, id: RouterId, code: CloseCode, reason: &str) {
        self.core.set_farewell(id, code, reason);
        self.close(id);
    }

    /// What the opening handshake of a connection of this shard agreed on; `None` if it is no
    /// WebSocket, is gone or lives elsewhere.
    #[cfg(feature = "ws")]
    pub fn web_socket(&self, id: RouterId) -> Option<&crate::WebSocketInfo> {
        let connection = self.core.connections.here(id)?;
        let ws = connection.layers.as_ref()?.web_socket.as_ref()?;
        ws.up.then_some(&ws.info)
    }

    /// Closes a connection gracefully: what is queued is written, then our side is finished, then
    /// the peer has [`Limits::linger`](crate::Limits) to finish its own. Its id is `Gone` for
    /// sends from now on, and what still arrives is discarded. Closing what is gone does nothing.
    pub fn close(&mut self, id: RouterId) {
        if let Some(slot) = self.core.connections.find(id) {
            let read_closed = self
                .core
                .connections
                .get(slot)
                .is_some_and(|c| c.read_closed);
            let reason = if read_closed {
                CloseReason::PeerClosed
            } else {
                CloseReason::Local
            };
            self.core.close(slot, reason);
        } else {
            self.core.close_elsewhere(id);
        }
    }

    /// Ends a connection of this shard at once; what is queued for it is lost.
    pub fn abort(&mut self, id: RouterId) {
        if let Some(slot) = self.core.connections.find(id) {
            self.core.kill(slot, CloseReason::Local);
        }
    }

    /// Stops reading from a connection of this shard: no message of it comes until
    /// [`resume_reading`](Self::resume_reading), not even one that was already received. False if
    /// it is gone, lives elsewhere or was paused already.
    pub fn pause_reading(&mut self, id: RouterId) -> bool {
        let slot = self.core.open_mut(id).map(|(slot, _)| slot);
        slot.is_some_and(|slot| self.core.set_pause(slot, Pause::HANDLER, true))
    }

    /// Goes on reading after [`pause_reading`](Self::pause_reading).
    pub fn resume_reading(&mut self, id: RouterId) -> bool {
        let slot = self.core.open_mut(id).map(|(slot, _)| slot);
        slot.is_some_and(|slot| self.core.set_pause(slot, Pause::HANDLER, false))
    }

    /// Takes a connection of this shard out of the [idle timeout](crate::Limits::idle_timeout), as
    /// long as it stays here: for whoever finds out by a protocol of its own that a peer is dead.
    /// False if it is gone or lives elsewhere.
    pub fn disable_idle_timeout(&mut self, id: RouterId) -> bool {
        let Some((_, connection)) = self.core.open_mut(id) else {
            return false;
        };
        if let Some(timer) = connection.timer.take() {
            self.core.timers.cancel(timer);
        }
        true
    }

    /// Bytes that are queued for a connection of this shard and not yet written; `None` if it is
    /// gone or lives elsewhere. For conflating: send the newest state when this is small.
    pub fn queued_bytes(&self, id: RouterId) -> Option<usize> {
        let slot = self.core.connections.find(id)?;
        let connection = self.core.connections.get(slot)?;
        (connection.state == State::Open).then(|| connection.writable())
    }

    /// Who is at the other end of a connection of this shard.
    pub fn peer(&self, id: RouterId) -> Option<Peer> {
        let slot = self.core.connections.find(id)?;
        self.core
            .connections
            .get(slot)
            .map(|connection| connection.peer)
    }

    /// What the TLS handshake of a connection of this shard agreed on; `None` if it speaks no TLS,
    /// is gone or lives elsewhere.
    #[cfg(feature = "tls")]
    pub fn tls(&self, id: RouterId) -> Option<&crate::TlsInfo> {
        let connection = self.core.connections.here(id)?;
        connection.layers.as_ref()?.tls.as_ref()?.info()
    }

    /// Keeps a word with a connection of this shard, for the embedder alone: an index or a key of
    /// what it knows of the connection. It begins as 0 and moves along when the connection does.
    /// False if it is gone or lives elsewhere.
    pub fn set_tag(&mut self, id: RouterId, tag: u64) -> bool {
        match self.core.connections.find_mut(id) {
            Some((_, connection)) if connection.state != State::Dead => {
                connection.tag = tag;
                true
            }
            _ => false,
        }
    }

    /// What [`set_tag`](Self::set_tag) kept with a connection of this shard; 0 if nothing, or if
    /// it is gone or lives elsewhere. In [`on_disconnect`](crate::Handler::on_disconnect) and
    /// [`on_departed`](crate::Handler::on_departed) the tag of the connection in question can
    /// still be read.
    #[inline]
    pub fn tag(&self, id: RouterId) -> u64 {
        match self.core.connections.here(id) {
            Some(connection) => connection.tag,
            None => match self.core.leaving {
                Some((leaving, tag)) if leaving == id => tag,
                _ => 0,
            },
        }
    }

    /// The shard where a connection lives, as far as this shard knows: this one, or where it moved
    /// to if it was born here. Of one that was born elsewhere and is not here, only the shard of
    /// its birth is known, which passes on what it is sent. `None`: it was born here and is gone,
    /// or no shard of this engine can have made that id.
    pub fn home(&self, id: RouterId) -> Option<usize> {
        let here = self.core.shard;
        if self.core.connections.here(id).is_some() {
            return Some(here);
        }
        if id.shard() == here {
            return self.core.connections.moved_to(id);
        }
        (id.shard() < self.shards()).then_some(id.shard())
    }

    /// Calls [`on_timer`](crate::Handler::on_timer) with `token` after `delay`: never before,
    /// and at most about 0.3 ms after, plus what the shard is busy with.
    pub fn set_timer(&mut self, delay: Duration, token: u64) -> TimerKey {
        let now = self.clock();
        self.set_timer_at(now + delay, token)
    }

    /// Calls [`on_timer`](crate::Handler::on_timer) with `token` at `at`.
    pub fn set_timer_at(&mut self, at: Time, token: u64) -> TimerKey {
        self.core.set_timer(at, Timer::Handler { token })
    }

    /// Cancels a timer; false if it has fired or was cancelled.
    pub fn cancel_timer(&mut self, timer: TimerKey) -> bool {
        self.core.timers.cancel(timer).is_some()
    }

    /// Posts to the handler of a shard, this one included (then it comes after this call).
    ///
    /// # Errors
    /// `Full` if the mailbox is full, `Stopped` if there is no such shard (any more); both give
    /// the message back.
    pub fn post(&mut self, shard: usize, posted: P) -> Result<(), PostError<P>> {
        self.core.shared.post(shard, posted)
    }

    /// Makes an outgoing connection on this shard.
    /// [`on_connect`](crate::Handler::on_connect) or
    /// [`on_connect_failed`](crate::Handler::on_connect_failed) follows.
    pub fn connect(&mut self, connector: &Connector) -> ConnectId {
        let id = self.core.shared.name_connect();
        self.core.connect(id, connector.clone());
        id
    }

    /// Gives an attempt to connect up, and any further ones. A connection already made stays, but
    /// is not made again.
    pub fn cancel_connect(&mut self, connect: ConnectId) {
        self.core.cancel_connect(connect);
    }

    /// Moves a connection of this shard to another one, with what it has received and not yet
    /// dispatched and what is not yet sent. It keeps its id, and the order of messages in both
    /// directions holds. The handler there is told by
    /// [`on_adopted`](crate::Handler::on_adopted). Of several calls the last one counts; moving to
    /// where it is takes back a move that has not begun.
    ///
    /// # Errors
    /// `Gone` if it does not live here (any more), it is being closed, there is no such shard, or
    /// the engine shuts down. `Full` if `to` has as many connections as it may
    /// ([`Limits::connections_max`](crate::Limits)), those on their way there included; the same
    /// holds for the birth shard of a connection that goes by there.
    pub fn rehome(&mut self, id: RouterId, to: usize) -> Result<(), SendError> {
        self.core.begin_move(id, to)
    }

    /// A number from the shard's generator: seeded, so that simulations replay. Not for secrets.
    pub fn random(&mut self) -> u64 {
        self.core.random.next()
    }

    /// A waker that any thread may use to have [`on_wake`](crate::Handler::on_wake) called with
    /// `token` on this shard. Waking needs no capacity and is never refused.
    pub fn waker(&self, token: u64) -> ShardWaker {
        self.core.shared.mailboxes[self.core.shard].waker(token)
    }

    /// A handle to the whole engine, for other threads.
    pub fn handle(&self) -> Handle<P> {
        Handle::new(&self.core.shared)
    }

    /// Shuts the whole engine down, within `deadline`.
    pub fn shutdown(&mut self, deadline: Duration) {
        self.core.shared.shutdown(deadline);
    }
}

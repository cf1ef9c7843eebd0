//! What a shard owns besides its driver and its handler: everything a [`Context`] reaches.
//!
//! The core never calls the driver or the handler. What needs them (closing, reading on and off,
//! connecting, moving) is noted in `ops` and done by the shard as soon as the handler's call is
//! over; sends go straight into the send queues and are flushed at the end of the slice.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proscenium_framing::{ByteOrder, LengthPrefix};
use rustc_hash::FxHashMap;

use super::envelope::Envelope;
use super::left::Rest;
use super::outgoing::Outgoing;
use crate::accept_rate::AcceptRate;
use crate::body::Chunk;
use crate::connection::{Connection, Connections, NONE, Pause, State};
use crate::error::{CloseReason, SendError};
use crate::handle::Shared;
use crate::limits::{Limits, Overflow};
use crate::options::Framing;
use crate::pool::Pool;
use crate::random::Random;
use crate::router_id::RouterId;
use crate::send_queue::BufferPool;
use crate::stats::ShardStats;
use crate::time::Time;
use crate::timer::{TimerKey, TimerWheel};
use crate::wire::{HEADER, Wire};

/// Free buffers that a shard keeps, in bytes, of each kind.
const FREE_BYTES_MAX: usize = 8 << 20;

/// What a shard's timer wheel holds.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Timer {
    /// `Context::set_timer`.
    Handler { token: u64 },
    /// Idle timeout or linger time of a connection.
    Connection(RouterId),
    /// Deadline of an attempt to connect.
    ConnectDeadline { connect: u32, attempt: u32 },
    /// The next attempt to connect.
    Reconnect { connect: u32 },
    /// Accepting goes on after a failure.
    ResumeAccept { listener: u32 },
    /// A fence found its mailbox full: again.
    Fences,
}

/// What the shard does when the handler's call is over.
#[derive(Debug)]
pub(crate) enum Op {
    /// The reasons for pausing changed: dispatch what was held back, tell the driver.
    Reading(RouterId),
    /// A graceful close began: flush, FIN, linger.
    Close(RouterId),
    /// The connection in this slot is `Dead`: free it, tell the handler.
    Bury(u32),
    Connect {
        connect: u32,
    },
    /// The connection has somewhere to move to.
    Rehome(RouterId),
}

/// See the module's page.
pub(crate) struct Core<P> {
    pub(crate) shard: usize,
    pub(crate) shared: Arc<Shared<P>>,
    pub(crate) limits: Limits,
    pub(crate) clock: Box<dyn Fn() -> Time>,
    /// The clock as of the beginning of the slice.
    pub(crate) now: Time,
    /// What had arrived at this time has been dispatched.
    pub(crate) swept: Time,
    pub(crate) be32: LengthPrefix,
    pub(crate) le32: LengthPrefix,
    pub(crate) connections: Connections,
    pub(crate) buffers: BufferPool,
    pub(crate) tails: Pool<Rc<Chunk>>,
    #[cfg(feature = "tls")]
    pub(crate) tls: crate::layer::tls::ShardTls,
    #[cfg(feature = "ws")]
    pub(crate) web_socket: crate::layer::web_socket::ShardWebSocket,
    /// Ends of the list of connections with a tail.
    pub(crate) oldest: u32,
    pub(crate) newest: u32,
    /// Connections to flush at the end of the slice.
    pub(crate) dirty: Vec<u32>,
    /// Bytes received in this slice.
    pub(crate) slice_received: usize,
    /// Bytes ever queued for connections, and of these, those that are not any more. Both wrap
    /// around; see [`send_bytes`](Self::send_bytes).
    pub(crate) queued: usize,
    pub(crate) unqueued: usize,
    /// A queue that holds no more than this is below its high watermark, and none of its bodies
    /// is over the frame limit: the smaller of the two.
    pub(crate) send_within: usize,
    /// What the handler leaves of the message that it is being told of.
    pub(crate) rest: Rest,
    pub(crate) timers: TimerWheel<Timer>,
    pub(crate) ops: Vec<Op>,
    /// The slot whose messages are being dispatched, and whether to stop doing so.
    pub(crate) current: u32,
    pub(crate) stop_dispatch: Rc<Cell<bool>>,
    /// While the handler is told that a connection ended or departed: its id and its tag.
    pub(crate) leaving: Option<(RouterId, u64)>,
    pub(crate) outgoing: FxHashMap<u32, Outgoing>,
    pub(crate) random: Random,
    pub(crate) accept_rate: AcceptRate,
    pub(crate) stats: ShardStats,
    pub(crate) shutting_down: bool,
    /// Connections that did not end in good order since the shutdown began.
    pub(crate) cut: u64,
}

impl<P> Core<P> {
    pub(crate) fn new(
        shard: usize,
        shared: Arc<Shared<P>>,
        clock: Box<dyn Fn() -> Time>,
        seed: u64,
    ) -> Self {
        let limits = shared.limits.clone();
        let now = clock();
        Self {
            shard,
            clock,
            now,
            swept: now,
            be32: LengthPrefix::new(ByteOrder::Big, limits.frame_max),
            le32: LengthPrefix::new(ByteOrder::Little, limits.frame_max),
            connections: Connections::new(shard as u8, shared.mailboxes.len()),
            buffers: BufferPool::new(FREE_BYTES_MAX),
            tails: Pool::new(FREE_BYTES_MAX),
            #[cfg(feature = "tls")]
            tls: crate::layer::tls::ShardTls::new(FREE_BYTES_MAX),
            #[cfg(feature = "ws")]
            web_socket: crate::layer::web_socket::ShardWebSocket::new(FREE_BYTES_MAX),
            oldest: NONE,
            newest: NONE,
            dirty: Vec::new(),
            slice_received: 0,
            queued: 0,
            unqueued: 0,
            send_within: limits.send_high.min(limits.frame_max),
            rest: Rest::default(),
            timers: TimerWheel::new(now.as_nanos()),
            ops: Vec::new(),
            current: NONE,
            stop_dispatch: Rc::default(),
            leaving: None,
            outgoing: FxHashMap::default(),
            random: Random::new(seed ^ (shard as u64) << 32),
            accept_rate: AcceptRate::new(limits.accepts_per_second, limits.accept_burst),
            stats: ShardStats::default(),
            shutting_down: false,
            cut: 0,
            shared,
            limits,
        }
    }

    pub(crate) fn codec(&self, framing: Framing) -> Option<LengthPrefix> {
        match framing {
            Framing::Be32 => Some(self.be32),
            Framing::Le32 => Some(self.le32),
            Framing::Raw => None,
        }
    }

    pub(crate) fn set_timer(&mut self, at: Time, timer: Timer) -> TimerKey {
        self.timers.insert(at.as_nanos(), timer)
    }

    pub(crate) fn set_timer_in(&mut self, delay: Duration, timer: Timer) -> TimerKey {
        self.set_timer(self.now + delay, timer)
    }

    /// Queues a copy of `body`: the hot path of every send.
    #[inline]
    pub(crate) fn send(&mut self, to: RouterId, body: &[u8]) -> Result<(), SendError> {
        if let Some((slot, connection)) = self.connections.find_mut(to) {
            let queued = connection.push_within(body, self.send_within);
            if queued > 0 {
                if connection.becomes_dirty() {
                    self.add_dirty(slot);
                }
                self.book(queued);
                return Ok(());
            }
        }
        self.send_first(to, body)
    }

    /// Out of the hot path: once per connection and slice.
    #[cold]
    #[inline(never)]
    pub(super) fn add_dirty(&mut self, slot: u32) {
        self.dirty.push(slot);
    }

    /// A send that needs memory, a decision, or another shard.
    #[inline(never)]
    fn send_first(&mut self, to: RouterId, body: &[u8]) -> Result<(), SendError> {
        let need = HEADER + body.len();
        let send_memory = self.send_memory();
        let Some((slot, connection)) = self.connections.find_mut(to) else {
            self.admit_elsewhere(to, body.len())?;
            return self.send_elsewhere(to, Bytes::copy_from_slice(body), false);
        };
        if !connection.takes(need, body.len(), send_memory, &self.limits) {
            return self.send_slowly(slot, body);
        }
        let queued = connection.push(body, &mut self.buffers);
        if connection.becomes_dirty() {
            self.dirty.push(slot);
        }
        self.book(queued);
        Ok(())
    }

    /// The rest of [`send`](Self::send): over a watermark, not open, or just moved here.
    #[cold]
    fn send_slowly(&mut self, slot: u32, body: &[u8]) -> Result<(), SendError> {
        self.admit_slowly(slot, HEADER + body.len(), body.len())?;
        if let Some(connection) = self.connections.get_mut(slot) {
            let queued = connection.push(body, &mut self.buffers);
            self.book(queued);
            self.mark_dirty(slot);
        }
        Ok(())
    }

    /// Lets `encode` write a body of at most `max` bytes straight into the send buffer.
    #[inline]
    pub(crate) fn send_with(
        &mut self,
        to: RouterId,
        max: usize,
        encode: impl FnOnce(&mut [u8]) -> usize,
    ) -> Result<usize, SendError> {
        let mut encode = encode;
        if let Some((slot, connection)) = self.connections.find_mut(to) {
            match connection.push_with_within(max, encode, self.send_within) {
                Ok(length) => {
                    if connection.becomes_dirty() {
                        self.add_dirty(slot);
                    }
                    self.book(HEADER + length);
                    return Ok(length);
                }
                Err(back) => encode = back,
            }
        }
        self.send_first_with(to, max, encode)
    }

    /// [`send_with`](Self::send_with) where there is no room in the connection's open buffer.
    fn send_first_with(
        &mut self,
        to: RouterId,
        max: usize,
        encode: impl FnOnce(&mut [u8]) -> usize,
    ) -> Result<usize, SendError> {
        let send_memory = self.send_memory();
        let Some((slot, connection)) = self.connections.find_mut(to) else {
            self.admit_elsewhere(to, max)?;
            let mut body = vec![0; max];
            let length = encode(&mut body);
            body.truncate(length);
            let sent = self.send_elsewhere(to, Bytes::from(body), false);
            return sent.map(|()| length);
        };
        let need = HEADER + max;
        let takes = connection.takes(need, max, send_memory, &self.limits);
        if !takes {
            self.admit_slowly(slot, need, max)?;
        }
        let Some(connection) = self.connections.get_mut(slot) else {
            return Err(SendError::Gone);
        };
        let (length, queued) = connection.push_with(max, encode, &mut self.buffers);
        self.book(queued);
        self.mark_dirty(slot);
        Ok(length)
    }

    /// Queues a shared body; long ones are not copied.
    /// `text`: as a text message, if it goes to a WebSocket.
    pub(crate) fn send_shared(
        &mut self,
        to: RouterId,
        body: &Bytes,
        text: bool,
    ) -> Result<(), SendError> {
        let Some(slot) = self.admit(to, HEADER + body.len(), body.len())? else {
            return self.send_elsewhere(to, body.clone(), text);
        };
        self.push_shared(slot, body, text, false);
        Ok(())
    }

    /// `passed_on`: it came through the shard that the connection left, so it goes before what is
    /// held.
    pub(crate) fn push_shared(&mut self, slot: u32, body: &Bytes, text: bool, passed_on: bool) {
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        let wire = connection.wire;
        let _ = text; // of WebSockets only
        let length = body.len() as u32;
        let (header, header_len) = match wire {
            Wire::Be32 => (length.to_be_bytes(), HEADER),
            Wire::Le32 => (length.to_le_bytes(), HEADER),
            Wire::Raw => ([0; HEADER], 0),
            #[cfg(feature = "ws")]
            Wire::WebSocket(ws) => {
                return self.push_shared_message(slot, ws, text, body, passed_on);
            }
        };
        let queue = match &mut connection.held {
            Some(held) if !passed_on => &mut **held,
            _ => &mut connection.out,
        };
        queue.push_shared(&header[..header_len], body, &mut self.buffers);
        self.book(header_len + body.len());
        self.mark_dirty(slot);
    }

    /// Whether `need` more bytes may be queued for a connection of this shard. `Ok(None)`: it is
    /// not here.
    fn admit(&mut self, to: RouterId, need: usize, body: usize) -> Result<Option<u32>, SendError> {
        let send_memory = self.send_memory();
        let Some((slot, connection)) = self.connections.find_mut(to) else {
            return self.admit_elsewhere(to, body).map(|()| None);
        };
        if !connection.takes(need, body, send_memory, &self.limits) {
            self.admit_slowly(slot, need, body)?;
        }
        Ok(Some(slot))
    }

    /// What is known here of a connection that is not here, before a body is copied for it.
    #[cold]
    pub(super) fn admit_elsewhere(&mut self, to: RouterId, body: usize) -> Result<(), SendError> {
        if to.shard() == self.shard && self.connections.moved_to(to).is_none() {
            self.stats.sends_gone += 1;
            return Err(SendError::Gone);
        }
        if body > self.limits.frame_max {
            let (length, limit) = (body, self.limits.frame_max);
            return Err(SendError::TooLong { length, limit });
        }
        Ok(())
    }

    #[cold]
    pub(super) fn admit_slowly(
        &mut self,
        slot: u32,
        need: usize,
        body: usize,
    ) -> Result<(), SendError> {
        let Some(connection) = self.connections.get_mut(slot) else {
            return Err(SendError::Gone);
        };
        if connection.state != State::Open || connection.ending.is_some() {
            self.stats.sends_gone += 1;
            return Err(SendError::Gone);
        }
        if body > self.limits.frame_max {
            return Err(SendError::TooLong {
                length: body,
                limit: self.limits.frame_max,
            });
        }
        self.make_room(slot, need)
    }

    /// Whether the bounds of the send queues leave room for `need` more bytes; if not, what the
    /// limits say happens.
    pub(crate) fn make_room(&mut self, slot: u32, need: usize) -> Result<(), SendError> {
        let Some(connection) = self.connections.get_mut(slot) else {
            return Err(SendError::Gone);
        };
        let queued = connection.unsent();
        if queued + need > self.limits.send_high {
            // A long message to a peer that keeps up is neither dropped nor its end: nobody could
            // ever send it. Below low water there is room up to the hard bound.
            let is_behind = queued > self.limits.send_low;
            match connection.overflow {
                Overflow::Close | Overflow::DropNewest if !is_behind => {}
                Overflow::Close => {
                    let limit = self.limits.send_high;
                    self.kill(slot, CloseReason::SlowConsumer { queued, limit });
                    return Err(SendError::Gone);
                }
                Overflow::DropNewest => {
                    connection.tell_drained = true;
                    self.stats.dropped += 1;
                    return Err(SendError::Full);
                }
                Overflow::PauseReading => {
                    connection.tell_drained = true;
                    if !connection.pause.has(Pause::OVERFLOW) {
                        self.stats.pauses += 1;
                        self.set_pause(slot, Pause::OVERFLOW, true);
                    }
                }
            }
            if queued + need > self.limits.send_queue_max {
                if let Some(connection) = self.connections.get_mut(slot) {
                    connection.tell_drained = true;
                }
                self.stats.refused_full += 1;
                return Err(SendError::Full);
            }
        }
        if self.send_memory() + need > self.limits.send_bytes_max {
            self.relieve_send_pressure();
            let connection = self.connections.get_mut(slot);
            let Some(connection) = connection.filter(|c| c.state == State::Open) else {
                return Err(SendError::Gone); // it was the one that had the most
            };
            connection.tell_drained = true;
            self.stats.refused_full += 1;
            self.mark_dirty(slot); // nothing of it may be queued that would lead to a flush
            return Err(SendError::Full);
        }
        Ok(())
    }

    /// What unsent bytes take: leased buffers at their full size, or the bytes themselves where
    /// shared bodies are most of them.
    #[inline]
    pub(crate) fn send_memory(&self) -> usize {
        self.send_bytes().max(self.buffers.leased_bytes())
    }

    /// Unsent bytes of all connections.
    #[inline]
    pub(crate) fn send_bytes(&self) -> usize {
        self.queued.wrapping_sub(self.unqueued)
    }

    /// Books a message of `bytes` that was queued.
    #[inline]
    pub(super) fn book(&mut self, bytes: usize) {
        self.queued = self.queued.wrapping_add(bytes);
        self.stats.messages_out += 1;
    }

    pub(crate) fn mark_dirty(&mut self, slot: u32) {
        if let Some(connection) = self.connections.get_mut(slot)
            && connection.becomes_dirty()
        {
            self.dirty.push(slot);
        }
    }

    /// The connection does not live here: to the shard where it was born, which knows more.
    #[cold]
    pub(super) fn send_elsewhere(
        &mut self,
        to: RouterId,
        body: Bytes,
        text: bool,
    ) -> Result<(), SendError> {
        match self.connections.moved_to(to) {
            Some(there) => self.pass_on(to, there, body, text),
            None => self.shared.send(to, body, text),
        }
    }

    /// A graceful close of a connection that does not live here.
    pub(crate) fn close_elsewhere(&mut self, id: RouterId) {
        if let Some(there) = self.connections.moved_to(id) {
            self.shared.mailboxes[there].push_control(Envelope::ForwardClose(id));
        } else if id.shard() != self.shard && self.shared.close(id) == Err(SendError::Full) {
            // Rather too early than never.
            self.shared.mailboxes[id.shard()].push_control(Envelope::ForwardClose(id));
        }
    }

    /// Passes a send on to the shard where a connection born here lives now.
    pub(crate) fn pass_on(
        &mut self,
        to: RouterId,
        there: usize,
        body: Bytes,
        text: bool,
    ) -> Result<(), SendError> {
        if self.connections.has_overflowed(to) {
            self.stats.refused_full += 1;
            return Err(SendError::Full);
        }
        let mailbox = &self.shared.mailboxes[there];
        self.stats.forwarded += 1;
        if mailbox.control_len() > 4 * self.limits.mailbox_max {
            // What is lost here would be a hole in the stream: better no stream than that.
            self.stats.refused_full += 1;
            if self.connections.overflow_moved(to) {
                self.shared.mailboxes[there].push_control(Envelope::ForwardOverflow(to));
            }
            return Err(SendError::Full);
        }
        mailbox.push_control(Envelope::Forward { to, body, text });
        Ok(())
    }

    /// Sets or clears a reason for pausing; the shard follows when the handler's call is over.
    pub(crate) fn set_pause(&mut self, slot: u32, reason: Pause, on: bool) -> bool {
        let Some(connection) = self.connections.get_mut(slot) else {
            return false;
        };
        if connection.pause.has(reason) == on {
            return false;
        }
        connection.pause.set(reason, on);
        let id = connection.id;
        if on && slot == self.current {
            self.stop_dispatch.set(true);
        }
        self.ops.push(Op::Reading(id));
        true
    }

    /// Takes a place and a slot for a new connection of this shard; false if there is none.
    pub(crate) fn take_place(&self) -> bool {
        self.connections.has_slot() && self.shared.take_place(self.shard)
    }

    /// Takes a connection out of the table, and frees its place.
    pub(crate) fn remove(&mut self, slot: u32, moves_to: Option<u8>) -> Option<Connection> {
        let removed = self.connections.remove(slot, moves_to)?;
        self.shared.free_place(self.shard);
        Some(removed)
    }

    /// Begins a graceful close; `reason` is what the handler is told at its end.
    pub(crate) fn close(&mut self, slot: u32, reason: CloseReason) {
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        match connection.state {
            State::Connecting | State::Handshaking => return self.kill(slot, reason),
            State::Open => {}
            State::Closing | State::Lingering | State::Dead => return,
        }
        if connection.ending.is_none() {
            connection.ending = Some(reason);
        }
        let is_held = connection.held.is_some();
        if !is_held {
            connection.state = State::Closing;
        } // else once what is under way has arrived (`rehome.rs`)
        let id = connection.id;
        let is_layered = connection.layers.is_some();
        self.release_tail(slot);
        if is_layered {
            self.discard_input(slot);
        }
        if slot == self.current {
            self.stop_dispatch.set(true);
        }
        if !is_held {
            self.ops.push(Op::Close(id));
        }
    }

    /// Ends a connection at once. Its memory is free from now on, its slot when the handler's
    /// call is over.
    pub(crate) fn kill(&mut self, slot: u32, reason: CloseReason) {
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        if connection.state == State::Dead {
            return;
        }
        connection.state = State::Dead;
        let broke = matches!(reason, CloseReason::Broken(_));
        if !connection
            .ending
            .as_ref()
            .is_some_and(CloseReason::is_fault)
        {
            connection.ending = Some(reason);
        }
        let held = connection
            .held
            .take()
            .map_or(0, |mut held| held.clear(&mut self.buffers));
        let relayed = connection.relay.take().map_or(0, |relay| relay.len());
        let queued = relayed + connection.out.clear(&mut self.buffers) + held;
        let announced = connection.announced;
        self.unqueued = self.unqueued.wrapping_add(queued);
        let lost = queued + self.clear_layers(slot, announced);
        if let Some(connection) = self.connections.get_mut(slot) {
            connection.truncated = lost > 0;
        }
        self.stats.bytes_lost += lost as u64;
        self.cut += u64::from(self.shutting_down && (broke || lost > 0));
        self.release_tail(slot);
        if slot == self.current {
            self.stop_dispatch.set(true);
        }
        self.ops.push(Op::Bury(slot));
    }

    /// Memory leased for what was received and is not dispatched yet.
    pub(crate) fn reassembly_bytes(&self) -> usize {
        let leased = self.tails.leased_bytes();
        #[cfg(feature = "tls")]
        let leased = leased + self.tls.received.leased_bytes();
        #[cfg(feature = "ws")]
        let leased = leased + self.web_socket.received.leased_bytes();
        leased
    }

    /// The shard's memory for unsent bytes ran out: ends the connection that has the most.
    #[cold]
    pub(crate) fn relieve_send_pressure(&mut self) {
        let most = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.state != State::Dead)
            .max_by_key(|(_, connection)| connection.send_memory());
        if let Some((slot, _)) = most {
            self.kill(slot, CloseReason::SendPressure);
        }
    }

    pub(crate) fn open_mut(&mut self, id: RouterId) -> Option<(u32, &mut Connection)> {
        let slot = self.connections.find(id)?;
        let connection = self.connections.get_mut(slot)?;
        (connection.state == State::Open).then_some((slot, connection))
    }
}

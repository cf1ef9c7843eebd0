//! Connections with layers: their handshakes, what they receive, how they end.
//!
//! ```text
//! accepted, made ─► Handshaking ─► all layers up: on_connect ─► Open
//!                        └─ deadline, error, FIN ─► counted; an attempt of ours: on_connect_failed
//! ```
//!
//! What concerns a layer alone is beside: `tls.rs`.

use std::ops::Range;
use std::rc::Rc;
use std::sync::atomic::Ordering;

use super::Shard;
use super::core::{Core, Op, Timer};
use crate::body::{Lease, Message};
use crate::connection::{Connection, NONE, State};
use crate::context::Context;
use crate::driver::Driver;
use crate::error::CloseReason;
use crate::handler::{ConnectId, Handler, Origin, Peer};
use crate::layer::Layers;
use crate::layer::error::HandshakeError;
use crate::router_id::RouterId;

impl<D: Driver, H: Handler> Shard<D, H> {
    /// A connection was accepted or made, and its layers begin.
    pub(super) fn begin_handshake(&mut self, slot: u32, layers: Box<Layers>) {
        let core = &mut self.core;
        let due = core.now + core.limits.handshake_timeout;
        let Some(connection) = core.connections.get_mut(slot) else {
            return;
        };
        connection.state = State::Handshaking;
        connection.layers = Some(layers);
        let id = connection.id;
        if let Origin::Accepted { .. } = connection.peer.origin {
            let timer = core.timers.insert(due.as_nanos(), Timer::Connection(id));
            connection.timer = Some(timer);
        }
        #[cfg(feature = "tls")]
        self.start_tls(slot);
        #[cfg(feature = "ws")]
        self.start_web_socket(slot);
    }

    /// A layer made its handshake. If it was the last one, the connection is open, and the handler
    /// is told.
    #[cfg_attr(
        not(any(feature = "tls", feature = "ws")),
        allow(dead_code, reason = "no layer, no handshake")
    )]
    pub(super) fn layer_is_up(&mut self, slot: u32) {
        #[cfg(feature = "ws")]
        self.start_web_socket(slot);
        let core = &mut self.core;
        let Some(connection) = core.connections.get_mut(slot) else {
            return;
        };
        let are_up = connection.layers.as_ref().is_some_and(|l| l.are_up());
        if connection.state != State::Handshaking || !are_up {
            return;
        }
        core.stats.handshakes += 1;
        if let Some(timer) = connection.timer.take() {
            core.timers.cancel(timer);
        }
        match connection.peer.origin {
            Origin::Outgoing(ConnectId(connect)) => self.made(slot, connect),
            Origin::Accepted { .. } => {
                connection.state = State::Open;
                self.opened(slot);
            }
        }
    }

    /// A layer's handshake failed. What it has to say about it is still written.
    #[cfg_attr(
        not(any(feature = "tls", feature = "ws")),
        allow(dead_code, reason = "no layer, no handshake")
    )]
    pub(super) fn handshake_failed(&mut self, slot: u32, error: HandshakeError) {
        let core = &mut self.core;
        let Some(connection) = core.connections.get_mut(slot) else {
            return;
        };
        if connection.state != State::Handshaking {
            return;
        }
        connection.state = State::Closing;
        // As in `Core::close`.
        let (id, peer) = (connection.id, connection.peer);
        connection.ending = Some(CloseReason::HandshakeFailed(error.clone()));
        core.ops.push(Op::Close(id));
        core.discard_input(slot);
        if let Origin::Outgoing(ConnectId(connect)) = peer.origin {
            self.attempt_broke(slot, connect, CloseReason::HandshakeFailed(error));
        }
    }

    /// A connection ended of which the handler was never told.
    pub(super) fn bury_unannounced(&mut self, slot: u32, peer: &Peer, reason: CloseReason) {
        match peer.origin {
            Origin::Accepted { .. } => {
                self.core.shared.stats[self.core.shard].count_close(&reason);
                tracing::debug!(%reason, "an accepted connection ended before it was open");
            }
            Origin::Outgoing(ConnectId(connect)) => self.attempt_broke(slot, connect, reason),
        }
    }

    /// `len` bytes of `slot`, which has layers, are at the front of the chunk.
    pub(super) fn received_layered(&mut self, slot: u32, len: usize) {
        let core = &mut self.core;
        let Some(connection) = core.connections.get_mut(slot) else {
            return;
        };
        let listens = matches!(connection.state, State::Handshaking | State::Open);
        if !listens || connection.ending.is_some() {
            return; // closing: what still comes is discarded
        }
        let id = connection.id;
        core.current = slot;
        core.stop_dispatch.set(false);
        let messages = core.stats.messages_in;
        let watched = &core.shared.stats[core.shard].dispatching;
        watched.store(id.to_u64(), Ordering::Relaxed);
        self.through_layers(slot, id, len);
        self.core.current = NONE;
        if self.core.stats.messages_in != messages
            && let Some(connection) = self.core.connections.get_mut(slot)
        {
            connection.spoke = true;
        }
        self.tell_layered_end(slot);
    }

    /// From the socket upwards.
    fn through_layers(&mut self, slot: u32, id: RouterId, len: usize) {
        #[cfg(feature = "tls")]
        if let Some(connection) = self.core.connections.get(slot)
            && let Some(layers) = &connection.layers
            && layers.tls.is_some()
        {
            return self.received_records(slot, id, len);
        }
        self.received_plain(slot, id, 0..len);
    }

    /// What is in `range` of the chunk is plaintext of `slot`, behind what it has kept.
    pub(super) fn received_plain(&mut self, slot: u32, id: RouterId, range: Range<usize>) {
        let Some(connection) = self.core.connections.get(slot) else {
            return;
        };
        #[cfg(feature = "ws")]
        if connection.has_web_socket() {
            return self.received_web_socket(slot, id, range);
        }
        if connection.state == State::Open && connection.ending.is_none() {
            self.received_framed(slot, id, range);
        }
    }

    /// The same, when there is nothing but frames any more.
    pub(super) fn received_framed(&mut self, slot: u32, id: RouterId, range: Range<usize>) {
        let Some(connection) = self.core.connections.get(slot) else {
            return;
        };
        let (framing, has_tail) = (connection.wire.framing(), connection.tail.is_some());
        let (at, end) = (range.start, range.end);
        match self.core.codec(framing) {
            Some(codec) => {
                let at = if has_tail {
                    self.complete_tail(slot, id, codec, (at, end))
                } else {
                    at
                };
                self.dispatch_chunk(slot, id, codec, at, end);
            }
            None => {
                self.dispatch_raw_tail(slot, id);
                if range.is_empty() {
                } else if self.core.stop_dispatch.get() {
                    self.core.keep(slot, &self.chunk.bytes()[range]);
                } else {
                    self.core.stats.messages_in += 1;
                    let message = Message::new(&self.chunk, range, self.lease);
                    let cx = &mut Context::new(&mut self.core);
                    self.handler.on_message(cx, id, message);
                }
            }
        }
    }

    /// Hands what a connection without framing has kept to the handler.
    pub(super) fn dispatch_raw_tail(&mut self, slot: u32, id: RouterId) {
        let core = &mut self.core;
        let Some(tail) = core.connections.get(slot).and_then(|c| c.tail.as_ref()) else {
            return;
        };
        if core.stop_dispatch.get() {
            return;
        }
        let (chunk, range) = (Rc::clone(&tail.chunk), tail.start..tail.end);
        core.stats.messages_in += 1;
        let message = Message::new(&chunk, range, Lease::Tail);
        self.handler
            .on_message(&mut Context::new(core), id, message);
        drop(chunk);
        self.core.release_tail(slot);
    }

    /// The peer's side of the socket's stream ended.
    pub(super) fn stream_closed(&mut self, slot: u32) {
        let Some(connection) = self.core.connections.get(slot) else {
            return;
        };
        let Some(layers) = &connection.layers else {
            return self.read_closed(slot);
        };
        match connection.state {
            State::Handshaking => self.handshake_failed(slot, HandshakeError::PeerClosed),
            State::Open if layers.is_truncated() => {
                self.core.close(slot, CloseReason::TlsTruncated);
            }
            _ => self.read_closed(slot),
        }
    }

    /// Tells the handler of the end that a layer has seen, once all before it was dispatched.
    pub(super) fn tell_layered_end(&mut self, slot: u32) {
        let Some(connection) = self.core.connections.get_mut(slot) else {
            return;
        };
        if connection.state != State::Open
            || connection.ending.is_some()
            || connection.pause.is_any()
        {
            return;
        }
        if connection.layers.as_mut().is_some_and(|l| l.take_end()) {
            self.read_closed(slot);
        }
    }
}

impl<P> Core<P> {
    /// Ends the handshakes that are under way.
    pub(super) fn end_handshakes(&mut self) {
        let under_way = |&(_, c): &(u32, &Connection)| c.state == State::Handshaking;
        let all: Vec<u32> = self
            .connections
            .iter()
            .filter(under_way)
            .map(|(slot, _)| slot)
            .collect();
        for slot in all {
            self.kill(slot, CloseReason::Shutdown);
        }
    }

    /// Gives the memory of a connection's layers back; returns how many bytes of what the handler
    /// sent are lost in them.
    pub(super) fn clear_layers(&mut self, slot: u32, announced: bool) -> usize {
        let mut lost = 0;
        #[cfg(feature = "tls")]
        if let Some(connection) = self.connections.get_mut(slot)
            && let Some(tls) = connection.layers.as_mut().and_then(|l| l.tls.as_mut())
        {
            let unsent = tls.output.clear(&mut self.buffers);
            lost = if announced { unsent } else { 0 };
        }
        self.discard_input(slot);
        let _ = (announced, &mut lost);
        lost
    }

    /// Forgets what layers hold of what was received.
    pub(super) fn discard_input(&mut self, slot: u32) {
        #[cfg(feature = "ws")]
        self.discard_frames(slot);
        #[cfg(feature = "tls")]
        self.discard_records(slot);
        let _ = slot;
    }

    /// Forgets the records that are held, not what was decrypted.
    #[cfg(feature = "tls")]
    pub(super) fn discard_records(&mut self, slot: u32) {
        if let Some(connection) = self.connections.get_mut(slot)
            && let Some(tls) = connection.layers.as_mut().and_then(|l| l.tls.as_mut())
            && tls.input.memory() > 0
        {
            tls.input.clear(&mut self.tls.received);
            if !connection.holds_received() {
                self.unlink(slot);
            }
        }
    }

    /// The memory of its layers goes to another shard with a connection.
    pub(super) fn export_layers(&mut self, connection: &Connection) {
        #[cfg(feature = "tls")]
        if let Some(tls) = connection.layers.as_ref().and_then(|l| l.tls.as_ref()) {
            self.buffers.export(tls.output.memory());
            self.tls.received.export(tls.input.memory());
        }
        #[cfg(feature = "ws")]
        if let Some(ws) = connection
            .layers
            .as_ref()
            .and_then(|l| l.web_socket.as_ref())
        {
            self.web_socket.received.export(ws.input.memory());
        }
        let _ = connection;
    }

    /// The memory of its layers came with a connection.
    pub(super) fn import_layers(&mut self, slot: u32) {
        let Some(connection) = self.connections.get(slot) else {
            return;
        };
        #[cfg(feature = "tls")]
        if let Some(tls) = connection.layers.as_ref().and_then(|l| l.tls.as_ref()) {
            self.buffers.import(tls.output.memory());
            self.tls.received.import(tls.input.memory());
        }
        #[cfg(feature = "ws")]
        if let Some(ws) = connection
            .layers
            .as_ref()
            .and_then(|l| l.web_socket.as_ref())
        {
            self.web_socket.received.import(ws.input.memory());
        }
        if connection.holds_received() {
            self.link_newest(slot);
            self.relieve_reassembly_pressure();
        }
    }

    /// Whether handshakes wait for the next turn.
    pub(super) fn handshakes_wait(&self) -> bool {
        #[cfg(feature = "tls")]
        return !self.tls.waiting.is_empty();
        #[cfg(not(feature = "tls"))]
        false
    }
}

#[cfg(not(feature = "tls"))]
impl<D: Driver, H: Handler> Shard<D, H> {
    pub(super) fn begin_handshakes(&mut self) {}
}

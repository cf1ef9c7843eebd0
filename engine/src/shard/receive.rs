//! From received bytes to `on_message`.
//!
//! Frames are dispatched straight out of the receive chunk. A connection keeps only what is left:
//! its incomplete last frame, and whole frames that came while it was paused. The rest of an
//! incomplete frame is copied behind its beginning as it arrives, never more than its header
//! announces and never into more memory than the bytes that arrived need.

use std::rc::Rc;
use std::sync::atomic::Ordering;

use proscenium_framing::{Decoded, FrameError, LengthPrefix};

use super::Shard;
use super::core::Core;
use super::left::Rest;
use crate::body::{Chunk, Lease, Message};
use crate::connection::{NONE, State, Tail};
use crate::context::Context;
use crate::driver::Driver;
use crate::error::CloseReason;
use crate::handler::Handler;
use crate::messages::Messages;
use crate::router_id::RouterId;

/// Where dispatching came to.
struct Dispatched {
    /// End of the last frame dispatched, as an index into the chunk.
    at: usize,
    bad: Option<FrameError>,
}

/// Hands the frames in `start..end` of `chunk` to the handler.
#[inline]
fn dispatch<H: Handler>(
    handler: &mut H,
    core: &mut Core<H::Post>,
    id: RouterId,
    codec: LengthPrefix,
    chunk: &Rc<Chunk>,
    (start, end): (usize, usize),
    lease: Lease,
) -> Dispatched {
    let stop = Rc::clone(&core.stop_dispatch);
    let mut messages = Messages::new(codec, chunk, start..end, lease, &stop);
    handler.on_messages(&mut Context::new(core), id, &mut messages);
    for message in &mut messages {
        // The handler does not have to take them all at once.
        handler.on_message(&mut Context::new(core), id, message);
    }
    core.stats.messages_in += messages.taken();
    let at = end - messages.left();
    Dispatched {
        at,
        bad: messages.bad(),
    }
}

impl<D: Driver, H: Handler> Shard<D, H> {
    /// `len` bytes of `slot` were received.
    pub(super) fn received(&mut self, slot: u32, len: usize) {
        let range = self.place_received(slot, len);
        let core = &mut self.core;
        let Some(connection) = core.connections.get_mut(slot) else {
            return;
        };
        core.stats.bytes_in += len as u64;
        core.stats.reads += 1;
        core.slice_received += len;
        let messages = core.stats.messages_in;
        connection.last_read = core.now;
        if connection.layers.is_some() {
            return self.received_layered(slot, len);
        }
        if connection.state != State::Open || connection.ending.is_some() {
            return; // closing: what still comes is discarded
        }
        let (id, framing) = (connection.id, connection.wire.framing());
        let has_tail = connection.tail.is_some();
        core.current = slot;
        core.stop_dispatch.set(false);
        let watched = &core.shared.stats[core.shard].dispatching;
        watched.store(id.to_u64(), Ordering::Relaxed);
        match core.codec(framing) {
            // What was left there had to make room.
            None if has_tail => {
                core.keep(slot, &self.chunk.bytes()[range]);
                self.dispatch_raw_tail(slot, id);
            }
            None => {
                core.stats.messages_in += 1;
                core.rest = Rest::Allowed;
                let message = Message::new(&self.chunk, range.clone(), self.lease);
                self.handler
                    .on_message(&mut Context::new(core), id, message);
                self.note_left(slot, id, &range);
            }
            Some(codec) => {
                let at = if has_tail {
                    self.complete_tail(slot, id, codec, (0, len))
                } else {
                    0
                };
                self.dispatch_chunk(slot, id, codec, at, len);
            }
        }
        self.core.current = NONE;
        if self.core.stats.messages_in != messages
            && let Some(connection) = self.core.connections.get_mut(slot)
        {
            connection.spoke = true;
        }
    }

    /// Dispatches the chunk from `at` and keeps what is left.
    pub(super) fn dispatch_chunk(
        &mut self,
        slot: u32,
        id: RouterId,
        codec: LengthPrefix,
        at: usize,
        len: usize,
    ) {
        let core = &mut self.core;
        if at == len {
            return;
        }
        let range = (at, len);
        let lease = self.lease;
        let done = dispatch(
            &mut self.handler,
            core,
            id,
            codec,
            &self.chunk,
            range,
            lease,
        );
        if let Some(error) = done.bad {
            core.close(slot, CloseReason::BadFrame(error));
        } else if done.at < len {
            core.keep(slot, &self.chunk.bytes()[done.at..len]);
        }
    }

    /// Appends to the incomplete frame of `slot` what completes it of the chunk's bytes from `at`
    /// to `len`, and dispatches it. Returns where in the chunk the rest begins.
    pub(super) fn complete_tail(
        &mut self,
        slot: u32,
        id: RouterId,
        codec: LengthPrefix,
        (mut at, len): (usize, usize),
    ) -> usize {
        loop {
            let core = &mut self.core;
            let Some(tail) = core.connections.get(slot).and_then(|c| c.tail.as_ref()) else {
                return at;
            };
            let bytes = &tail.chunk.bytes()[tail.start..tail.end];
            match codec.decode(bytes) {
                Decoded::Frame { .. } => {
                    // What was kept may be more than this frame: all of it goes first.
                    self.dispatch_tail(slot, id, codec);
                    if self.core.stop_dispatch.get() {
                        return at;
                    }
                }
                Decoded::Incomplete { needs } => {
                    let missing = needs.unwrap_or(LengthPrefix::HEADER) - bytes.len();
                    let take = missing.min(len - at);
                    if take == 0 {
                        return at;
                    }
                    core.keep(slot, &self.chunk.bytes()[at..at + take]);
                    at += take;
                }
                Decoded::Invalid(error) => {
                    core.close(slot, CloseReason::BadFrame(error));
                    return len;
                }
            }
        }
    }

    /// Dispatches the whole frames that a connection has kept.
    pub(super) fn dispatch_tail(&mut self, slot: u32, id: RouterId, codec: LengthPrefix) {
        let core = &mut self.core;
        let Some(tail) = core.connections.get(slot).and_then(|c| c.tail.as_ref()) else {
            return;
        };
        let chunk = Rc::clone(&tail.chunk);
        let range = (tail.start, tail.end);
        let done = dispatch(
            &mut self.handler,
            core,
            id,
            codec,
            &chunk,
            range,
            Lease::Tail,
        );
        drop(chunk);
        if let Some(error) = done.bad {
            core.close(slot, CloseReason::BadFrame(error));
            return;
        }
        let tail = core.connections.get_mut(slot).and_then(|c| c.tail.as_mut());
        if let Some(tail) = tail {
            tail.start = done.at;
            if tail.len() == 0 {
                core.release_tail(slot);
            }
        }
    }

    /// The reasons for pausing changed: dispatches what was held back, and tells the driver.
    pub(super) fn follow_pause(&mut self, id: RouterId) {
        let core = &mut self.core;
        let now = core.now;
        let Some((slot, connection)) = core.open_mut(id) else {
            return;
        };
        if !connection.pause.is_any() {
            if !connection.reading {
                connection.last_read = now;
            }
            // Also if it was paused and resumed in one call, before the driver heard of it.
            let (framing, is_layered) = (connection.wire.framing(), connection.layers.is_some());
            #[cfg(feature = "ws")]
            let is_web_socket = connection.has_web_socket();
            #[cfg(not(feature = "ws"))]
            let is_web_socket = false;
            if is_web_socket {
                core.current = slot;
                core.stop_dispatch.set(false);
                self.received_plain(slot, id, 0..0);
                self.core.current = NONE;
            } else if connection.tail.is_some() {
                core.current = slot;
                core.stop_dispatch.set(false);
                match core.codec(framing) {
                    Some(codec) => self.dispatch_tail(slot, id, codec),
                    None => self.dispatch_raw_tail(slot, id),
                }
                self.core.current = NONE;
            }
            if is_layered {
                self.tell_layered_end(slot);
            }
        }
        let Some((slot, connection)) = self.core.open_mut(id) else {
            return;
        };
        let reading = !connection.pause.is_any();
        if connection.reading != reading {
            connection.reading = reading;
            self.driver.set_reading(slot, reading);
        }
    }
}

impl<P> Core<P> {
    /// Keeps `bytes` of a connection for later, behind what it has kept so far.
    pub(super) fn keep(&mut self, slot: u32, bytes: &[u8]) {
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        let listens = matches!(connection.state, State::Open | State::Handshaking);
        if !listens || connection.ending.is_some() {
            return;
        }
        let was_linked = connection.holds_received();
        let Some(tail) = &mut connection.tail else {
            let mut chunk = self.tails.lease(bytes.len());
            if let Some(memory) = Rc::get_mut(&mut chunk) {
                memory.bytes_mut()[..bytes.len()].copy_from_slice(bytes);
            }
            connection.tail = Some(Tail {
                chunk,
                start: 0,
                end: bytes.len(),
            });
            if !was_linked {
                self.link_newest(slot);
            }
            self.relieve_reassembly_pressure();
            return;
        };
        let fits = tail.end + bytes.len() <= tail.chunk.len();
        if fits && let Some(memory) = Rc::get_mut(&mut tail.chunk) {
            memory.bytes_mut()[tail.end..tail.end + bytes.len()].copy_from_slice(bytes);
            tail.end += bytes.len();
            return;
        }
        let kept = tail.len();
        let mut chunk = self.tails.lease(kept + bytes.len());
        if let Some(memory) = Rc::get_mut(&mut chunk) {
            let memory = memory.bytes_mut();
            memory[..kept].copy_from_slice(&tail.chunk.bytes()[tail.start..tail.end]);
            memory[kept..kept + bytes.len()].copy_from_slice(bytes);
        }
        let old = std::mem::replace(&mut tail.chunk, chunk);
        (tail.start, tail.end) = (0, kept + bytes.len());
        self.tails.release(old);
        self.relieve_reassembly_pressure();
    }

    /// Keeps the bytes of a connection that moves in.
    pub(super) fn keep_moved(&mut self, slot: u32, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.keep(slot, bytes);
        }
    }

    pub(crate) fn release_tail(&mut self, slot: u32) {
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        if let Some(tail) = connection.tail.take() {
            let is_linked = connection.holds_received();
            self.tails.release(tail.chunk);
            if !is_linked {
                self.unlink(slot);
            }
        }
    }

    /// Ends the connections with the oldest incomplete frames until the rest fits. Those that *we*
    /// paused are spared as long as there are others.
    pub(super) fn relieve_reassembly_pressure(&mut self) {
        while self.reassembly_bytes() > self.limits.reassembly_bytes_max {
            let mut victim = self.oldest;
            while let Some(connection) = self.connections.get(victim)
                && connection.pause.is_any()
            {
                victim = connection.newer;
            }
            if victim == NONE {
                victim = self.oldest; // all of them are paused
            }
            if victim == NONE {
                return;
            }
            self.kill(victim, CloseReason::ReassemblyPressure);
        }
    }

    pub(super) fn link_newest(&mut self, slot: u32) {
        let previous = std::mem::replace(&mut self.newest, slot);
        if let Some(connection) = self.connections.get_mut(slot) {
            (connection.older, connection.newer) = (previous, NONE);
        }
        match self.connections.get_mut(previous) {
            Some(connection) => connection.newer = slot,
            None => self.oldest = slot,
        }
    }

    pub(super) fn unlink(&mut self, slot: u32) {
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        let older = std::mem::replace(&mut connection.older, NONE);
        let newer = std::mem::replace(&mut connection.newer, NONE);
        match self.connections.get_mut(older) {
            Some(connection) => connection.newer = newer,
            None => self.oldest = newer,
        }
        match self.connections.get_mut(newer) {
            Some(connection) => connection.older = older,
            None => self.newest = older,
        }
    }
}

//! Moving bytes through TLS: received records, encrypted flushes, handshakes in turn.
//!
//! ```text
//! handshake:  bytes are held until a record is whole ─► a step, if this turn has one left
//!                                                    └► else reading off, into the queue
//! open:       the record that was incomplete ─► its plaintext to the connection's tail
//!             whole records of the chunk ─► decrypted in place, their plaintext pushed together
//!             the rest is held
//! ```

use std::io::IoSlice;
use std::ops::Range;
use std::rc::Rc;

use super::Shard;
use super::core::Core;
use crate::connection::{Connection, NONE, State};
use crate::driver::{Driver, Submitted};
use crate::error::CloseReason;
use crate::handler::Handler;
use crate::layer::error::{HandshakeError, TlsError};
use crate::layer::tls::{Event, TlsLayer, missing};
use crate::router_id::RouterId;

impl Connection {
    fn tls(&mut self) -> Option<&mut TlsLayer> {
        self.layers.as_mut()?.tls.as_mut()
    }
}

impl<D: Driver, H: Handler> Shard<D, H> {
    /// A client speaks first; a server makes its session when there is something to answer.
    pub(super) fn start_tls(&mut self, slot: u32) {
        let core = &mut self.core;
        let connection = core.connections.get_mut(slot);
        let Some(tls) = connection.and_then(Connection::tls) else {
            return;
        };
        if tls.is_client() {
            let read = tls.read(&mut [], &mut core.tls, &mut core.buffers);
            if let Err(error) = read.event {
                return self.handshake_failed(slot, HandshakeError::Tls(error));
            }
            self.core.mark_dirty(slot);
        }
    }

    /// `len` bytes of `slot`, which speaks TLS, are at the front of the chunk.
    pub(super) fn received_records(&mut self, slot: u32, id: RouterId, len: usize) {
        let mut at = 0;
        while at < len {
            let Some((state, held)) = self.core.held(slot) else {
                return;
            };
            let take = match (state, held) {
                (State::Handshaking, _) => len,
                (_, None) => return self.received_whole(slot, id, at..len),
                (_, Some(0)) => len - at, // a message in several records: all goes there
                (_, Some(missing)) => missing.min(len - at),
            };
            self.core.hold(slot, &self.chunk.bytes()[at..at + take]);
            at += take;
            if state == State::Handshaking {
                self.handshake_turn(slot, id);
            } else if let Some((_, Some(0))) = self.core.held(slot) {
                self.read_held(slot, id);
            }
        }
        self.received_held(slot, id);
    }

    /// What was held is read: passes its plaintext on. If that ends with the peer's stream, it may
    /// still have made the handshakes of the layers above, or say why there are none.
    fn received_held(&mut self, slot: u32, id: RouterId) {
        self.received_plain(slot, id, 0..0);
        let connection = self.core.connections.get_mut(slot);
        if connection.is_some_and(|c| c.tls().is_some_and(|tls| tls.has_ended())) {
            // Does nothing to one that is open.
            self.handshake_failed(slot, HandshakeError::PeerClosed);
        }
    }

    /// Decrypts the records in `range` of the chunk in place, and passes them on; keeps the rest.
    fn received_whole(&mut self, slot: u32, id: RouterId, range: Range<usize>) {
        let core = &mut self.core;
        let connection = core.connections.get_mut(slot);
        let Some(tls) = connection.and_then(Connection::tls) else {
            return;
        };
        let Some(chunk) = Rc::get_mut(&mut self.chunk) else {
            unreachable!("nothing of this chunk was dispatched yet");
        };
        let chunk = chunk.bytes_mut();
        let (mut at, mut plain) = (range.start, None::<Range<usize>>);
        let mut failed = None;
        while at < range.end && missing(&chunk[at..range.end]) == 0 {
            let read = tls.read(&mut chunk[at..range.end], &mut core.tls, &mut core.buffers);
            let start = at;
            at += read.used;
            match read.event {
                Ok(Event::Plain(found)) => {
                    let found = start + found.start..start + found.end;
                    plain = Some(match plain {
                        None => found,
                        Some(before) => {
                            let end = before.end + found.len();
                            chunk.copy_within(found, before.end);
                            before.start..end
                        }
                    });
                }
                Ok(Event::Nothing) => break,
                Ok(Event::Closed) => {
                    at = range.end; // nothing of it counts any more
                }
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        let replies = !tls.output.is_empty();
        if replies {
            core.mark_dirty(slot);
        }
        if failed.is_none() {
            core.hold(slot, &self.chunk.bytes()[at..range.end]);
        }
        self.received_plain(slot, id, plain.unwrap_or(0..0));
        if let Some(error) = failed {
            self.core.tls_failed(slot, error);
        }
    }

    /// Reads what is held: records that came in pieces, and all of a handshake. Their plaintext
    /// goes to the connection's tail.
    fn read_held(&mut self, slot: u32, id: RouterId) {
        loop {
            let core = &mut self.core;
            let connection = core.connections.get_mut(slot);
            let Some(tls) = connection.and_then(Connection::tls) else {
                return;
            };
            let read = tls.read_held(&mut core.tls, &mut core.buffers);
            let mut plain = std::mem::take(&mut core.tls.plain);
            plain.clear();
            if let Ok(Event::Plain(range)) = &read.event {
                plain.extend_from_slice(&tls.input.bytes()[range.clone()]);
            }
            let replies = !tls.output.is_empty();
            core.release_held(slot, read.used);
            if replies {
                core.mark_dirty(slot);
            }
            self.layer_is_up(slot); // also if what follows the handshake is bad
            self.core.keep_plain(slot, &plain);
            self.core.tls.plain = plain;
            match read.event {
                Ok(Event::Plain(_)) => {}
                Ok(Event::Nothing) => return,
                Ok(Event::Closed) => {
                    return self.core.discard_records(slot); // nothing counts behind the end
                }
                Err(error) => {
                    let state = self.core.connections.get(slot).map(|c| c.state);
                    if state == Some(State::Handshaking) {
                        return self.handshake_failed(slot, HandshakeError::Tls(error));
                    }
                    self.received_plain(slot, id, 0..0);
                    return self.core.tls_failed(slot, error);
                }
            }
        }
    }

    /// A record of a handshake may be whole: works on it if this turn has a step left.
    fn handshake_turn(&mut self, slot: u32, id: RouterId) {
        if !matches!(self.core.held(slot), Some((_, Some(0)))) {
            return;
        }
        let core = &mut self.core;
        if core.tls.steps_left > 0 && core.tls.waiting.is_empty() {
            return self.handshake_step(slot, id);
        }
        core.stats.handshakes_deferred += 1;
        core.tls.waiting.push_back(id);
        if let Some(connection) = core.connections.get_mut(slot) {
            connection.reading = false;
            self.driver.set_reading(slot, false);
        }
    }

    fn handshake_step(&mut self, slot: u32, id: RouterId) {
        let core = &mut self.core;
        core.tls.steps_left = core.tls.steps_left.saturating_sub(1);
        core.stats.handshake_steps += 1;
        self.read_held(slot, id);
    }

    /// A turn begins: the handshakes that have waited go first.
    pub(super) fn begin_handshakes(&mut self) {
        self.core.tls.steps_left = self.core.limits.handshakes_per_turn;
        while self.core.tls.steps_left > 0
            && let Some(id) = self.core.tls.waiting.pop_front()
        {
            let Some((slot, connection)) = self.core.connections.find_mut(id) else {
                continue; // gave up meanwhile
            };
            if connection.state != State::Handshaking {
                continue;
            }
            connection.reading = true;
            self.driver.set_reading(slot, true);
            self.core.current = slot;
            self.core.stop_dispatch.set(false);
            self.handshake_step(slot, id);
            self.received_held(slot, id);
            self.core.current = NONE;
            self.tell_layered_end(slot);
            self.run_ops();
        }
    }

    /// Writes what is encrypted, and encrypts more, until nothing is left or the socket is full.
    pub(super) fn flush_encrypted(&mut self, slot: u32) {
        loop {
            if !self.write_output(slot) {
                break;
            }
            if !self.core.encrypt(slot) {
                break;
            }
        }
        let core = &mut self.core;
        let Some(connection) = core.connections.get_mut(slot) else {
            return;
        };
        if connection.blocked {
            // Who does not read must not keep a receive chunk from being used again.
            connection.queue_relay(0, &mut core.buffers);
        }
        let (queued, state) = (connection.writable(), connection.state);
        let encoded = connection.tls().map_or(0, |tls| tls.output.len());
        if connection.tell_drained && queued <= core.limits.send_low {
            self.drained(slot);
        }
        if queued + encoded == 0 && state == State::Closing {
            self.finish_close(slot);
        }
    }

    /// Writes what is encrypted; true if that is all gone.
    fn write_output(&mut self, slot: u32) -> bool {
        let core = &mut self.core;
        let Some(connection) = core.connections.get_mut(slot) else {
            return false;
        };
        let Some(tls) = connection.tls() else {
            return false;
        };
        if tls.output.is_empty() {
            return true;
        }
        let offered = tls.output.len();
        match self.driver.send(slot, &[IoSlice::new(tls.output.bytes())]) {
            Submitted::Taken(taken) => {
                tls.output.consume(taken, &mut core.buffers);
                core.stats.writes += 1;
                core.stats.bytes_out += taken as u64;
                connection.blocked = taken < offered;
                taken == offered
            }
            Submitted::Pending => {
                connection.blocked = true;
                false
            }
            Submitted::Failed(error) => {
                core.kill(slot, CloseReason::Broken(error));
                false
            }
        }
    }
}

impl<P> Core<P> {
    /// The state of a TLS connection, and if it holds bytes, how many are missing to a record.
    fn held(&mut self, slot: u32) -> Option<(State, Option<usize>)> {
        let connection = self.connections.get_mut(slot)?;
        let state = connection.state;
        if !matches!(state, State::Handshaking | State::Open) || connection.ending.is_some() {
            return None;
        }
        let tls = connection.tls()?;
        if tls.has_ended() {
            return None; // nothing counts behind the end
        }
        let input = &tls.input;
        let missing = (!input.is_empty()).then(|| missing(input.bytes()));
        Some((state, missing))
    }

    /// Holds `bytes` behind what is held already.
    fn hold(&mut self, slot: u32, bytes: &[u8]) {
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        if bytes.is_empty() {
            return;
        }
        let was_linked = connection.holds_received();
        let Some(tls) = connection.tls() else {
            return;
        };
        tls.input.append(bytes, &mut self.tls.received);
        if !was_linked {
            self.link_newest(slot);
        }
        self.relieve_reassembly_pressure();
    }

    /// The first `bytes` of what is held are done with.
    fn release_held(&mut self, slot: u32, bytes: usize) {
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        let Some(tls) = connection.tls() else { return };
        let held = tls.input.memory() > 0;
        tls.input.consume(bytes, &mut self.tls.received);
        if held && !connection.holds_received() {
            self.unlink(slot);
        }
    }

    /// Keeps plaintext in the connection's tail, or for the layer above.
    fn keep_plain(&mut self, slot: u32, plain: &[u8]) {
        if plain.is_empty() {
            return;
        }
        #[cfg(feature = "ws")]
        if self
            .connections
            .get(slot)
            .is_some_and(Connection::has_web_socket)
        {
            return self.hold_frames(slot, plain);
        }
        self.keep(slot, plain);
    }

    /// Encrypts what is to be sent, up to one output; false if there is nothing.
    fn encrypt(&mut self, slot: u32) -> bool {
        let Some(connection) = self.connections.get_mut(slot) else {
            return false;
        };
        let is_closing = connection.state == State::Closing;
        let Connection {
            layers, relay, out, ..
        } = connection;
        let Some(tls) = layers.as_mut().and_then(|layers| layers.tls.as_mut()) else {
            return false;
        };
        if !tls.is_up() {
            return false;
        }
        let mut failed = None;
        loop {
            let (waiting, more) = match relay {
                Some(relay) => (relay.bytes(), out.bytes()),
                None if out.fill() => {
                    let front = out.front();
                    (front, out.bytes() - front.len())
                }
                None => break,
            };
            let taken = match tls.write(waiting, more, &mut self.buffers) {
                Ok(0) => break,
                Ok(taken) => taken,
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            };
            self.unqueued = self.unqueued.wrapping_add(taken);
            match relay {
                Some(sent) => {
                    if sent.advance(taken) {
                        *relay = None;
                    }
                }
                None => out.consume(taken, &mut self.buffers),
            }
        }
        if is_closing && relay.is_none() && out.bytes() == 0 {
            tls.say_end(&mut self.tls, &mut self.buffers);
        }
        let some = !tls.output.is_empty();
        if let Some(error) = failed {
            self.tls_failed(slot, error);
        }
        some
    }

    /// The session cannot go on: its alert is written, what was queued is lost.
    fn tls_failed(&mut self, slot: u32, error: TlsError) {
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        if connection.state == State::Dead {
            return;
        }
        let relayed = connection.relay.take().map_or(0, |r| r.len());
        let lost = relayed + connection.out.clear(&mut self.buffers);
        self.unqueued = self.unqueued.wrapping_add(lost);
        self.stats.bytes_lost += lost as u64;
        self.mark_dirty(slot);
        self.close(slot, CloseReason::Tls(error));
    }
}

//! From the send queues to the sockets.

use std::io::IoSlice;

use super::Shard;
use crate::connection::{Pause, State};
use crate::context::Context;
use crate::driver::{Driver, Submitted};
use crate::error::CloseReason;
use crate::handler::Handler;
use crate::send_queue::PARTS_MAX;

impl<D: Driver, H: Handler> Shard<D, H> {
    /// Writes what was queued in this slice, one write per connection. What handlers queue while
    /// they are told that there is room waits for the next slice: a peer that takes everything at
    /// once must not keep the others waiting. True if the handler was told something (drained,
    /// broken), so that it may have more to run.
    pub(super) fn flush_dirty(&mut self) -> bool {
        self.told = false;
        let count = self.core.dirty.len();
        for at in 0..count {
            let slot = self.core.dirty[at];
            self.flush(slot);
        }
        self.core.dirty.drain(..count);
        let told = self.told || !self.core.ops.is_empty();
        self.run_ops();
        told
    }

    /// Writes until the queue is empty or the socket full: one write in flight, re-entered.
    pub(super) fn flush(&mut self, slot: u32) {
        let core = &mut self.core;
        let Some(connection) = core.connections.get_mut(slot) else {
            return;
        };
        connection.dirty = false;
        if connection.blocked || !connection.state.writes() {
            return;
        }
        #[cfg(feature = "tls")]
        if let Some(layers) = &connection.layers
            && layers.tls.is_some()
        {
            return self.flush_encrypted(slot);
        }
        if connection.relay.is_some() && !self.flush_relay(slot) {
            return;
        }
        let core = &mut self.core;
        let Some(connection) = core.connections.get_mut(slot) else {
            return;
        };
        while connection.out.fill() {
            let submitted = match connection.out.single() {
                Some(one) => (self.driver.send(slot, &[IoSlice::new(one)]), one.len()),
                None => {
                    let mut parts = [IoSlice::new(&[]); PARTS_MAX];
                    let count = connection.out.parts(&mut parts);
                    let offered = parts[..count].iter().map(|part| part.len()).sum();
                    (self.driver.send(slot, &parts[..count]), offered)
                }
            };
            match submitted {
                (Submitted::Taken(taken), offered) => {
                    core.stats.writes += 1;
                    core.stats.bytes_out += taken as u64;
                    core.unqueued = core.unqueued.wrapping_add(taken);
                    connection.out.consume(taken, &mut core.buffers);
                    if taken < offered {
                        connection.blocked = true;
                        break;
                    }
                }
                (Submitted::Pending, _) => {
                    connection.blocked = true;
                    break;
                }
                (Submitted::Failed(error), _) => {
                    core.kill(slot, CloseReason::Broken(error));
                    return;
                }
            }
        }
        let (queued, state) = (connection.writable(), connection.state);
        if connection.tell_drained && queued <= core.limits.send_low {
            self.drained(slot);
        }
        if queued == 0 && state == State::Closing {
            self.finish_close(slot);
        }
    }

    /// Writes what is relayed, straight from where it stands, and with it the next of the queue if
    /// that is in one piece. What the socket does not take of the former is copied to the front of
    /// the queue; false then, or if the connection broke.
    fn flush_relay(&mut self, slot: u32) -> bool {
        let core = &mut self.core;
        let Some(connection) = core.connections.get_mut(slot) else {
            return false;
        };
        let behind = if connection.out.fill() {
            connection.out.single().unwrap_or_default()
        } else {
            &[]
        };
        let Some(relay) = &connection.relay else {
            return true;
        };
        let offered = relay.len();
        let submitted = match (relay.single(), behind) {
            (Some(one), []) => self.driver.send(slot, &[IoSlice::new(one)]),
            (Some(one), _) => {
                let parts = [IoSlice::new(one), IoSlice::new(behind)];
                self.driver.send(slot, &parts)
            }
            (None, _) => {
                let mut parts = [IoSlice::new(&[]); PARTS_MAX];
                let count = relay.parts(&mut parts);
                parts[count] = IoSlice::new(behind); // empty or not
                self.driver.send(slot, &parts[..=count])
            }
        };
        let taken = match submitted {
            Submitted::Taken(taken) => taken,
            Submitted::Pending => 0,
            Submitted::Failed(error) => {
                core.kill(slot, CloseReason::Broken(error));
                return false;
            }
        };
        core.stats.writes += u64::from(taken > 0);
        core.stats.bytes_out += taken as u64;
        core.unqueued = core.unqueued.wrapping_add(taken);
        if taken >= offered {
            let (more, behind) = (taken - offered, behind.len());
            connection.relay = None;
            if more > 0 {
                connection.out.consume(more, &mut core.buffers);
            }
            connection.blocked = more < behind;
            return !connection.blocked;
        }
        connection.out.unfill();
        connection.queue_relay(taken, &mut core.buffers);
        connection.blocked = true;
        false
    }

    /// Tells once that the queue is below low water, and goes on reading.
    pub(super) fn drained(&mut self, slot: u32) {
        let core = &mut self.core;
        let Some(connection) = core.connections.get_mut(slot) else {
            return;
        };
        connection.tell_drained = false;
        let id = connection.id;
        let is_open = connection.state == State::Open;
        core.set_pause(slot, Pause::OVERFLOW, false);
        if is_open {
            self.told = true;
            self.handler.on_drained(&mut Context::new(core), id);
        }
    }

    /// A pending write can go on.
    pub(super) fn sent(&mut self, slot: u32, len: usize) {
        let core = &mut self.core;
        let Some(connection) = core.connections.get_mut(slot) else {
            return;
        };
        connection.blocked = false;
        if len > 0 {
            core.stats.bytes_out += len as u64;
            if !connection.consume_encoded(len, &mut core.buffers) {
                core.unqueued = core.unqueued.wrapping_add(len);
                connection.out.consume(len, &mut core.buffers);
            }
        }
        self.flush(slot);
    }
}

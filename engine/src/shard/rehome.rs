//! Moving a connection to another shard: with its id, its bytes, and the order of both directions.
//!
//! ```text
//! old shard                                   new shard
//!   stop reading, take out of the table
//!   control lane: Adopt ───────────────────►  in the table, reading off, own sends are held
//!   bounded lane: ReadFence ───────────────►  all that the old shard posted before has been
//!                                             handled: reading on
//!   SendFence ◄─────────────── bounded lane   all that the new shard sent by way of the old one
//!   control lane: SendsArrived ────────────►  has been passed on: held sends follow
//! ```
//!
//! The birth shard keeps a forwarding entry and passes on what is still sent to it. A connection
//! that moves a second time goes home first, so that the birth shard always knows where it is.
//! Fences that find a mailbox full are retried; nothing else waits for them.

use std::time::Duration;

use super::Shard;
use super::core::{Op, Timer};
use super::envelope::{Envelope, Moved};
use super::shutdown::Phase;
use crate::connection::{Pause, State};
use crate::context::Context;
use crate::driver::Driver;
use crate::error::{CloseReason, SendError};
use crate::handler::Handler;
use crate::router_id::RouterId;

/// A fence whose mailbox was full is tried again so soon.
const FENCE_RETRY: Duration = Duration::from_millis(1);

/// Which of the two fences.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fence {
    Reads,
    Sends,
}

/// The shard by way of which a connection moves, if any: that of its birth.
fn goes_by(here: usize, id: RouterId, to: usize) -> Option<usize> {
    let home = id.shard();
    (home != here && home != to).then_some(home)
}

impl<D: Driver, H: Handler> Shard<D, H> {
    /// Moves a connection to where it is to move, by way of its birth shard if it is a guest here.
    pub(super) fn rehome(&mut self, id: RouterId) {
        let here = self.core.shard;
        let Some((slot, connection)) = self.core.open_mut(id) else {
            return;
        };
        let Some(to) = connection.moves_on.map(usize::from) else {
            return;
        };
        if connection.ending.is_some() {
            return;
        }
        let settled = connection.held.is_none() && !connection.pause.has(Pause::FENCE);
        // A shard may have reached the end of its time before this one heard of the shutdown.
        let mailboxes = &self.core.shared.mailboxes;
        let ending = self.core.shutting_down
            || mailboxes[to].is_closed()
            || mailboxes[id.shard()].is_closed();
        if ending {
            return self.core.stay(id); // there may be nobody any more to take it in
        }
        if !settled {
            self.core.set_pause(slot, Pause::MOVING, true);
            return;
        }
        match goes_by(here, id, to) {
            None => self.depart(id, to, None),
            Some(home) => self.depart(id, home, Some(to)),
        }
    }

    fn depart(&mut self, id: RouterId, to: usize, then: Option<usize>) {
        self.keep_left();
        let core = &mut self.core;
        // What was left may have been too much to keep: then the connection has ended.
        let Some((slot, _)) = core.open_mut(id) else {
            return;
        };
        let Some(socket) = self.driver.detach(slot) else {
            return core.kill(slot, CloseReason::Local);
        };
        let tail = core
            .connections
            .get(slot)
            .and_then(|connection| connection.tail.as_ref());
        let unread = tail.map_or(Vec::new(), |tail| {
            tail.chunk.bytes()[tail.start..tail.end].to_vec()
        });
        core.release_tail(slot);
        if core
            .connections
            .get(slot)
            .is_some_and(|c| c.holds_received())
        {
            core.unlink(slot); // its layers hold some as well
        }
        let Some(mut connection) = core.remove(slot, Some(to as u8)) else {
            return;
        };
        if let Some(timer) = connection.timer.take() {
            core.timers.cancel(timer);
        }
        connection.queue_relay(0, &mut core.buffers);
        core.buffers.export(connection.out.leased());
        core.export_layers(&connection);
        core.unqueued = core.unqueued.wrapping_add(connection.out.bytes());
        core.stats.departed += 1;
        core.leaving = Some((id, connection.tag));
        let moved = Moved {
            id,
            from: core.shard,
            then,
            socket,
            unread,
            unsent: std::mem::take(&mut connection.out),
            layers: connection.layers.take(),
            wire: connection.wire,
            overflow: connection.overflow,
            peer: connection.peer,
            spoke: connection.spoke,
            paused_by_handler: connection.pause.has(Pause::HANDLER),
            paused_by_overflow: connection.pause.has(Pause::OVERFLOW),
            tell_drained: connection.tell_drained,
            read_closed: connection.read_closed,
            tag: connection.tag,
        };
        core.shared.mailboxes[to].push_control(Envelope::Adopt(Box::new(moved)));
        // Before the fence: what the handler posts to `to` now is there before the next message.
        self.handler
            .on_departed(&mut Context::new(&mut self.core), id, to);
        self.core.leaving = None;
        self.fence(to, id, Fence::Reads);
    }

    /// A connection moves in.
    pub(super) fn adopt(&mut self, moved: Moved) {
        let (id, from, then) = (moved.id, moved.from, moved.then);
        let (mut connection, socket, unread) = moved.into_connection();
        let core = &mut self.core;
        connection.held = Some(Box::default());
        connection.pause.set(Pause::FENCE, true);
        connection.pause.set(Pause::MOVING, then.is_some());
        connection.reading = false;
        connection.announced = true;
        connection.moves_on = then.map(|shard| shard as u8);
        let peer = connection.peer;
        core.buffers.import(connection.out.leased());
        core.queued = core.queued.wrapping_add(connection.out.bytes());
        core.stats.adopted += 1;
        let slot = core.connections.adopt(connection);
        core.import_layers(slot);
        while core.send_memory() > core.limits.send_bytes_max {
            core.relieve_send_pressure();
        }
        // The socket has its options already.
        if let Err(error) = self.driver.register(slot, socket, None) {
            core.kill(slot, CloseReason::Broken(error));
        } else {
            self.driver.set_reading(slot, false);
            core.keep_moved(slot, &unread);
            core.mark_dirty(slot);
            self.arm_idle(slot, id);
        }
        self.fence(from, id, Fence::Sends);
        self.handler
            .on_adopted(&mut Context::new(&mut self.core), id, &peer);
        self.report.connections += u64::from(self.phase != Phase::Running);
        if matches!(self.phase, Phase::Flushing { .. }) {
            self.core.close_now(id, CloseReason::Shutdown);
        }
    }

    fn arm_idle(&mut self, slot: u32, id: RouterId) {
        let core = &mut self.core;
        let idle = core.limits.idle_timeout;
        let Some(connection) = core.connections.get_mut(slot) else {
            return;
        };
        connection.last_read = core.now;
        if !idle.is_zero() {
            let due = connection.idle_due(core.now, core.now, idle).as_nanos();
            connection.timer = Some(core.timers.insert(due, Timer::Connection(id)));
        }
    }

    /// Sends a fence, now or as soon as there is room.
    fn fence(&mut self, to: usize, id: RouterId, fence: Fence) {
        let from = self.core.shard;
        let envelope = match fence {
            Fence::Reads => Envelope::ReadFence(id),
            Fence::Sends => Envelope::SendFence { id, from },
        };
        if let Err(error) = self.core.shared.mailboxes[to].try_push(envelope)
            && matches!(error, crate::mailbox::PushError::Full(_))
        {
            if self.fences.is_empty() {
                self.core.set_timer_in(FENCE_RETRY, Timer::Fences);
            }
            self.fences.push((to, id, fence));
        }
    }

    pub(super) fn retry_fences(&mut self) {
        for (to, id, fence) in std::mem::take(&mut self.fences) {
            self.fence(to, id, fence);
        }
    }

    /// What the old shard posted before the move has been handled here.
    pub(super) fn reads_go_on(&mut self, id: RouterId) {
        if let Some(slot) = self.core.connections.find(id) {
            self.core.set_pause(slot, Pause::FENCE, false);
            self.settle(id);
        }
    }

    /// What this shard sent by way of the old one has been passed on: what was held follows.
    pub(super) fn sends_arrived(&mut self, id: RouterId) {
        let core = &mut self.core;
        let Some(slot) = core.connections.find(id) else {
            return;
        };
        let Some(connection) = core.connections.get_mut(slot) else {
            return;
        };
        if let Some(held) = connection.held.take() {
            connection.out.append(*held, &mut core.buffers);
            core.mark_dirty(slot);
        }
        self.settle(id);
    }

    /// Both fences are through: does what had to wait for them.
    fn settle(&mut self, id: RouterId) {
        let core = &mut self.core;
        let Some((slot, connection)) = core.open_mut(id) else {
            return;
        };
        if connection.held.is_some() {
            return;
        }
        if let Some(reason) = connection.ending.take() {
            core.close(slot, reason);
            return;
        }
        if connection.moves_on.is_some() {
            self.rehome(id);
        }
    }
}

impl<P> super::core::Core<P> {
    /// Has a connection move when the handler's call is over, if there is a place where it goes
    /// (and where it was born, if it goes by there). It may have been on its way elsewhere.
    pub(crate) fn begin_move(&mut self, id: RouterId, to: usize) -> Result<(), SendError> {
        let (here, current) = (self.shard, self.current);
        if to >= self.shared.mailboxes.len() || self.shutting_down {
            return Err(SendError::Gone);
        }
        let Some((slot, connection)) = self.open_mut(id) else {
            return Err(SendError::Gone);
        };
        if connection.ending.is_some() {
            return Err(SendError::Gone);
        }
        if to == here {
            self.stay(id);
            return Ok(());
        }
        if connection.moves_on == Some(to as u8) {
            return Ok(());
        }
        if !self.shared.take_place(to) {
            return Err(SendError::Full);
        }
        let goes_by = goes_by(here, id, to);
        if goes_by.is_some_and(|home| !self.shared.take_place(home)) {
            self.shared.free_place(to);
            return Err(SendError::Full);
        }
        let before = self.connections.get_mut(slot);
        let before = before.and_then(|connection| connection.moves_on.replace(to as u8));
        if let Some(before) = before {
            self.give_up_move(id, usize::from(before));
        }
        if slot == current {
            self.stop_dispatch.set(true);
        }
        self.ops.push(Op::Rehome(id));
        Ok(())
    }

    /// Frees the places of a move that is not made.
    pub(super) fn give_up_move(&self, id: RouterId, to: usize) {
        self.shared.free_place(to);
        if let Some(home) = goes_by(self.shard, id, to) {
            self.shared.free_place(home);
        }
    }

    /// It does not move after all.
    fn stay(&mut self, id: RouterId) {
        let Some((slot, connection)) = self.open_mut(id) else {
            return;
        };
        let Some(to) = connection.moves_on.take() else {
            return;
        };
        self.give_up_move(id, usize::from(to));
        self.set_pause(slot, Pause::MOVING, false);
        // Messages that were left for the next shard are dispatched here.
        self.ops.push(Op::Reading(id));
    }

    /// Closes a connection of this shard gracefully, even while it waits for a fence.
    fn close_now(&mut self, id: RouterId, reason: CloseReason) {
        let Some(slot) = self.connections.find(id) else {
            return;
        };
        if let Some(connection) = self.connections.get_mut(slot)
            && connection.state == State::Open
            && let Some(held) = connection.held.take()
        {
            connection.out.append(*held, &mut self.buffers);
        }
        self.close(slot, reason);
    }

    /// Closes every connection of this shard gracefully.
    pub(super) fn close_all(&mut self) {
        let all: Vec<RouterId> = self.connections.iter().map(|(_, c)| c.id).collect();
        for id in all {
            self.close_now(id, CloseReason::Shutdown);
        }
    }
}

//! One connection as its shard sees it, and the table of them.
//!
//! | state | reads | `send` | leaves it by |
//! |---|---|---|---|
//! | `Connecting` | – | `Gone` | `Connected`, connect deadline |
//! | `Handshaking` | by its layers | `Gone` | all layers are up: `on_connect`; a deadline, an error |
//! | `Open` | dispatched | queued | `close`, `abort`, an error, `rehome` |
//! | `Closing` | discarded | `Gone` | queue written: FIN, then `Lingering` |
//! | `Lingering` | discarded | `Gone` | the peer's FIN, linger time |
//! | `Dead` | – | `Gone` | the end of the handler's call: slot freed |

use std::rc::Rc;
use std::time::Duration;

use slab::Slab;

use crate::body::Chunk;
use crate::error::CloseReason;
use crate::handler::Peer;
use crate::layer::Layers;
use crate::limits::{Limits, Overflow};
use crate::prefetch::prefetch;
use crate::relay::Relay;
use crate::router_id::RouterId;
use crate::send_queue::{BufferPool, SendQueue};
use crate::time::Time;
use crate::timer::TimerKey;
use crate::wire::{HEADER, Wire};

/// "No slot" in the links between connections.
pub(crate) const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Connecting,
    Handshaking,
    Open,
    Closing,
    Lingering,
    Dead,
}

impl State {
    /// Whether bytes are written in this state: those of layers, or the send queue.
    pub(crate) fn writes(self) -> bool {
        matches!(self, Self::Handshaking | Self::Open | Self::Closing)
    }
}

/// Why reading is off; any of them suffices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pause(u8);

impl Pause {
    /// `Context::pause_reading`.
    pub(crate) const HANDLER: Self = Self(1);
    /// The send queue is over its high watermark.
    pub(crate) const OVERFLOW: Self = Self(2);
    /// Moved here; what the old shard posted about it has not arrived yet.
    pub(crate) const FENCE: Self = Self(4);
    /// About to move on: what is still to be dispatched is for the next shard.
    pub(crate) const MOVING: Self = Self(8);

    pub(crate) fn is_any(self) -> bool {
        self.0 != 0
    }

    pub(crate) fn has(self, one: Self) -> bool {
        self.0 & one.0 != 0
    }

    pub(crate) fn set(&mut self, one: Self, on: bool) {
        self.0 = if on { self.0 | one.0 } else { self.0 & !one.0 };
    }
}

/// Bytes received and not yet dispatched: `start..end` of a leased chunk.
pub(crate) struct Tail {
    pub(crate) chunk: Rc<Chunk>,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

impl Tail {
    pub(crate) fn len(&self) -> usize {
        self.end - self.start
    }
}

pub(crate) struct Connection {
    pub(crate) id: RouterId,
    pub(crate) state: State,
    pub(crate) wire: Wire,
    pub(crate) overflow: Overflow,
    pub(crate) pause: Pause,
    /// Whether the driver reads; follows `pause` at the end of the handler's call.
    pub(crate) reading: bool,
    /// In the shard's list of connections to flush.
    pub(crate) dirty: bool,
    /// A write is pending; the next one after the driver's `Sent`.
    pub(crate) blocked: bool,
    /// Somebody was told `Full`, or reading was paused: tell once when below low water.
    pub(crate) tell_drained: bool,
    pub(crate) read_closed: bool,
    /// It ended with unsent bytes: the peer has to see a reset, not an end.
    pub(crate) truncated: bool,
    /// This side began its graceful close.
    pub(crate) wanted: bool,
    /// The handler was told of it, so it has to be told of its end.
    pub(crate) announced: bool,
    /// The first message arrived (resets the reconnect back-off).
    pub(crate) spoke: bool,
    pub(crate) relay: Option<Relay>,
    pub(crate) out: SendQueue,
    pub(crate) tail: Option<Tail>,
    /// Links of the list of connections with a tail, oldest first.
    pub(crate) older: u32,
    pub(crate) newer: u32,
    pub(crate) last_read: Time,
    pub(crate) timer: Option<TimerKey>,
    pub(crate) peer: Peer,
    /// What lies between the socket and the framing; `None` for most connections.
    pub(crate) layers: Option<Box<Layers>>,
    /// What `on_disconnect` is told at the end of a graceful close.
    pub(crate) ending: Option<CloseReason>,
    /// Sends of this shard that wait until those which are still under way have arrived.
    pub(crate) held: Option<Box<SendQueue>>,
    /// It is to move to this shard, where it has a place (and one where it was born, if it goes
    /// by there): when the handler's call is over, or once the last move is settled.
    pub(crate) moves_on: Option<u8>,
    /// `Context::set_tag`.
    pub(crate) tag: u64,
}

impl Connection {
    pub(crate) fn new(id: RouterId, wire: Wire, overflow: Overflow, peer: Peer) -> Self {
        Self {
            id,
            state: State::Open,
            wire,
            overflow,
            pause: Pause::default(),
            reading: true,
            dirty: false,
            blocked: false,
            tell_drained: false,
            read_closed: false,
            truncated: false,
            wanted: false,
            announced: false,
            spoke: false,
            relay: None,
            out: SendQueue::default(),
            tail: None,
            older: NONE,
            newer: NONE,
            last_read: Time::ZERO,
            timer: None,
            peer,
            layers: None,
            ending: None,
            held: None,
            moves_on: None,
            tag: 0,
        }
    }
}

impl Connection {
    /// Whether something queued puts it on the shard's list of connections to flush: not if it is
    /// there, or waits for the driver.
    #[inline]
    pub(crate) fn becomes_dirty(&mut self) -> bool {
        if self.dirty || self.blocked {
            return false;
        }
        self.dirty = true;
        true
    }

    /// Whether `need` more bytes, for a body of `body` bytes, may be queued without a further
    /// look: it is open, in order, and below every bound.
    #[inline]
    pub(crate) fn takes(
        &self,
        need: usize,
        body: usize,
        send_memory: usize,
        limits: &Limits,
    ) -> bool {
        self.state == State::Open
            && self.held.is_none()
            && self.writable() + need <= limits.send_high
            && send_memory + need <= limits.send_bytes_max
            && body <= limits.frame_max
    }

    /// Where sends of this shard go: behind those that are still under way, if any.
    #[inline]
    pub(crate) fn queue(&mut self) -> &mut SendQueue {
        match &mut self.held {
            None => &mut self.out,
            Some(held) => held,
        }
    }

    /// Queues a copy of `body` if that needs no memory, no decision and at most `most` bytes in
    /// the queue; returns the bytes queued, 0 if it did not.
    #[inline]
    pub(crate) fn push_within(&mut self, body: &[u8], most: usize) -> usize {
        if self.state != State::Open || self.held.is_some() {
            return 0;
        }
        let most = self.most_behind_relay(most);
        let length = body.len() as u32;
        let header = match self.wire {
            Wire::Be32 => length.to_be_bytes(),
            Wire::Le32 => length.to_le_bytes(),
            Wire::Raw => return 0,
            #[cfg(feature = "ws")]
            Wire::WebSocket(ws) => return self.push_message_within(ws, body, most),
        };
        if self.out.push_within(header, body, most) {
            HEADER + body.len()
        } else {
            0
        }
    }

    /// [`push_within`](Self::push_within) for a body of at most `max` bytes that `encode` writes;
    /// returns its length, or gives `encode` back.
    #[inline]
    pub(crate) fn push_with_within<E: FnOnce(&mut [u8]) -> usize>(
        &mut self,
        max: usize,
        encode: E,
        most: usize,
    ) -> Result<usize, E> {
        if self.state != State::Open || self.held.is_some() {
            return Err(encode);
        }
        let most = self.most_behind_relay(most);
        let is_big = match self.wire {
            Wire::Be32 => true,
            Wire::Le32 => false,
            _ => return Err(encode),
        };
        let header = |length: u32| {
            if is_big {
                length.to_be_bytes()
            } else {
                length.to_le_bytes()
            }
        };
        self.out.push_with_within(max, header, encode, most)
    }

    /// Queues a copy of `body` in the connection's framing; returns the bytes queued.
    #[inline]
    pub(crate) fn push(&mut self, body: &[u8], buffers: &mut BufferPool) -> usize {
        let length = body.len() as u32;
        let wire = self.wire;
        let queue = self.queue();
        match wire {
            Wire::Be32 => queue.push(&length.to_be_bytes(), body, buffers),
            Wire::Le32 => queue.push(&length.to_le_bytes(), body, buffers),
            Wire::Raw => queue.push(&[], body, buffers),
            #[cfg(feature = "ws")]
            Wire::WebSocket(ws) => self.push_message(ws, false, body, buffers),
        }
    }

    /// Lets `encode` write a body of at most `max` bytes in place; returns its length and the
    /// bytes queued.
    #[inline]
    pub(crate) fn push_with(
        &mut self,
        max: usize,
        encode: impl FnOnce(&mut [u8]) -> usize,
        buffers: &mut BufferPool,
    ) -> (usize, usize) {
        let wire = self.wire;
        let queue = self.queue();
        match wire {
            Wire::Be32 => queue.push_with(max, buffers, encode, u32::to_be_bytes),
            Wire::Le32 => queue.push_with(max, buffers, encode, u32::to_le_bytes),
            Wire::Raw => queue.push_with(max, buffers, encode, |_| []),
            #[cfg(feature = "ws")]
            Wire::WebSocket(ws) => self.push_message_with(ws, max, encode, buffers),
        }
    }

    /// Memory of what waits to be sent, what is held back included.
    pub(crate) fn send_memory(&self) -> usize {
        let held = self.held.as_ref().map_or(0, |held| held.memory());
        let layers = self
            .layers
            .as_ref()
            .map_or(0, |layers| layers.send_memory());
        self.relayed() + self.out.memory() + held + layers
    }

    /// Whether it is an attempt to connect, not yet a connection.
    pub(crate) fn is_attempt(&self) -> bool {
        matches!(self.state, State::Connecting | State::Handshaking)
    }

    /// When it is to be looked at whether a connection is idle from which nothing has come since
    /// `since`; no later than that if it is to be asked by a ping before.
    pub(crate) fn idle_due(&self, since: Time, now: Time, idle: Duration) -> Time {
        #[cfg(feature = "ws")]
        if let Some(ws) = self.layers.as_ref().and_then(|l| l.web_socket.as_ref())
            && let Some(silence) = ws.end.common().ping_after
        {
            let from = if ws.pinged { now } else { since };
            return (from + silence).min(since + idle);
        }
        let _ = now;
        since + idle
    }

    /// Whether memory of the shard's bound for incomplete frames is leased for it.
    pub(crate) fn holds_received(&self) -> bool {
        self.tail.is_some() || self.layers.as_ref().is_some_and(|l| l.holds_received())
    }

    /// Bytes that wait to be sent, those that are held back included.
    pub(crate) fn unsent(&self) -> usize {
        self.writable() + self.held.as_ref().map_or(0, |held| held.bytes())
    }

    /// Unsent bytes that wait for nothing but the socket.
    pub(crate) fn writable(&self) -> usize {
        self.relayed() + self.out.bytes()
    }

    /// Forgets `bytes` that a completion says were written, if they are a layer's encoded ones;
    /// says whether they are.
    pub(crate) fn consume_encoded(&mut self, bytes: usize, buffers: &mut BufferPool) -> bool {
        #[cfg(feature = "tls")]
        if let Some(tls) = self.layers.as_mut().and_then(|layers| layers.tls.as_mut()) {
            tls.output.consume(bytes, buffers);
            return true;
        }
        let _ = (bytes, buffers);
        false
    }
}

/// What a slot of the table holds. Inline, because it is looked up for every message.
#[expect(clippy::large_enum_variant, reason = "nearly all slots are `Here`")]
pub(crate) enum Slot {
    Here(Connection),
    /// Born here, lives on another shard now; messages for it are passed on.
    Moved {
        id: RouterId,
        to: u8,
        /// Too many sends were passed on: no more are.
        overflowed: bool,
    },
}

/// The connections of a shard. Look-up by [`RouterId`] is an index and a compare.
pub(crate) struct Connections {
    shard: u8,
    slots: Slab<Slot>,
    generation: u32,
    here: usize,
    /// For each birth shard: local slots of its connections that live here, by birth slot.
    adopted: Vec<Vec<u32>>,
}

impl Connections {
    pub(crate) fn new(shard: u8, shards: usize) -> Self {
        let adopted = (0..shards).map(|_| Vec::new()).collect();
        Self {
            shard,
            slots: Slab::new(),
            generation: 0,
            here: 0,
            adopted,
        }
    }

    /// Connections that live here.
    pub(crate) fn len(&self) -> usize {
        self.here
    }

    /// Whether a new connection can have a name: its slot's number has to fit into it.
    pub(crate) fn has_slot(&self) -> bool {
        self.slots.vacant_key() < RouterId::SLOTS_MAX
    }

    /// Connections that were born here and live elsewhere.
    pub(crate) fn away(&self) -> usize {
        self.slots.len() - self.here
    }

    /// Inserts a new connection that `make` builds from its id.
    pub(crate) fn insert(&mut self, make: impl FnOnce(RouterId) -> Connection) -> u32 {
        let entry = self.slots.vacant_entry();
        let slot = u32::try_from(entry.key()).expect("slots are limited by RouterId::SLOTS_MAX");
        // Never 0, so that no id is `RouterId::NONE`.
        self.generation = self.generation.wrapping_add(1).max(1);
        entry.insert(Slot::Here(make(RouterId::new(
            self.shard,
            slot,
            self.generation,
        ))));
        self.here += 1;
        slot
    }

    /// Takes in a connection of another shard (or one of ours that comes home).
    pub(crate) fn adopt(&mut self, connection: Connection) -> u32 {
        self.here += 1;
        let id = connection.id;
        if id.shard() == usize::from(self.shard) {
            let slot = id.slot();
            debug_assert!(matches!(
                self.slots.get(slot as usize),
                Some(Slot::Moved { .. })
            ));
            self.slots[slot as usize] = Slot::Here(connection);
            return slot;
        }
        let slot = self.slots.insert(Slot::Here(connection)) as u32;
        let table = &mut self.adopted[id.shard()];
        let birth = id.slot() as usize;
        if table.len() <= birth {
            table.resize(birth + 1, NONE);
        }
        table[birth] = slot;
        slot
    }

    /// The slot of a connection that lives here.
    #[inline]
    pub(crate) fn find(&self, id: RouterId) -> Option<u32> {
        let slot = match id.slot_on(self.shard) {
            Some(slot) => slot,
            None => self.guest(id)?,
        };
        match self.slots.get(slot as usize) {
            Some(Slot::Here(connection)) if connection.id == id => Some(slot),
            _ => None,
        }
    }

    /// The local slot of a connection of another shard, if it ever lived here.
    fn guest(&self, id: RouterId) -> Option<u32> {
        let slot = *self.adopted.get(id.shard())?.get(id.slot() as usize)?;
        Some(slot)
    }

    /// The connection of this id, if it lives here and has not ended.
    #[inline]
    pub(crate) fn here(&self, id: RouterId) -> Option<&Connection> {
        let slot = self.find(id)?;
        self.get(slot)
            .filter(|connection| connection.state != State::Dead)
    }

    /// Where a connection that was born here lives now, if that is elsewhere.
    pub(crate) fn moved_to(&self, id: RouterId) -> Option<usize> {
        if id.shard() != usize::from(self.shard) {
            return None;
        }
        match self.slots.get(id.slot() as usize) {
            Some(Slot::Moved { id: moved, to, .. }) if *moved == id => Some(usize::from(*to)),
            _ => None,
        }
    }

    /// The connection of this id, if it lives here, with its slot: the look-up of every send.
    #[inline]
    pub(crate) fn find_mut(&mut self, id: RouterId) -> Option<(u32, &mut Connection)> {
        let slot = match id.slot_on(self.shard) {
            Some(slot) => slot,
            None => self.guest(id)?,
        };
        match self.slots.get_mut(slot as usize) {
            Some(Slot::Here(connection)) if connection.id == id => Some((slot, connection)),
            _ => None,
        }
    }

    /// Has the connection in `slot` fetched from memory.
    #[inline]
    pub(crate) fn prefetch(&self, slot: u32) {
        if let Some(slot) = self.slots.get(slot as usize) {
            prefetch(slot);
        }
    }

    #[inline]
    pub(crate) fn get(&self, slot: u32) -> Option<&Connection> {
        match self.slots.get(slot as usize) {
            Some(Slot::Here(connection)) => Some(connection),
            _ => None,
        }
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, slot: u32) -> Option<&mut Connection> {
        match self.slots.get_mut(slot as usize) {
            Some(Slot::Here(connection)) => Some(connection),
            _ => None,
        }
    }

    /// Takes a connection out. Its slot becomes free, or a forwarding entry if it was born here
    /// and `moves_to` another shard.
    pub(crate) fn remove(&mut self, slot: u32, moves_to: Option<u8>) -> Option<Connection> {
        self.get(slot)?;
        self.here -= 1;
        let id = self.get(slot)?.id;
        let born_here = id.shard() == usize::from(self.shard);
        let taken = match moves_to {
            Some(to) if born_here => std::mem::replace(
                &mut self.slots[slot as usize],
                Slot::Moved {
                    id,
                    to,
                    overflowed: false,
                },
            ),
            _ => self.slots.remove(slot as usize),
        };
        if !born_here && let Some(entry) = self.adopted[id.shard()].get_mut(id.slot() as usize) {
            *entry = NONE;
        }
        match taken {
            Slot::Here(connection) => Some(connection),
            Slot::Moved { .. } => None,
        }
    }

    /// Notes that no more sends are passed on to a moved connection; false if that was known.
    pub(crate) fn overflow_moved(&mut self, id: RouterId) -> bool {
        match self.slots.get_mut(id.slot() as usize) {
            Some(Slot::Moved { overflowed, .. }) => !std::mem::replace(overflowed, true),
            _ => false,
        }
    }

    /// Whether sends are no longer passed on to a moved connection.
    pub(crate) fn has_overflowed(&self, id: RouterId) -> bool {
        let slot = self.slots.get(id.slot() as usize);
        matches!(
            slot,
            Some(Slot::Moved {
                overflowed: true,
                ..
            })
        )
    }

    /// The connection that moved away has ended: frees its birth slot.
    pub(crate) fn forget_moved(&mut self, id: RouterId) {
        if self.moved_to(id).is_some() {
            self.slots.remove(id.slot() as usize);
        }
    }

    /// The connections that live here, by slot.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Connection)> {
        self.slots.iter().filter_map(|(slot, entry)| match entry {
            Slot::Here(connection) => Some((slot as u32, connection)),
            Slot::Moved { .. } => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handler::Origin;

    fn connection(id: RouterId) -> Connection {
        let peer = Peer {
            address: None,
            origin: Origin::Accepted { listener: 0 },
        };
        Connection::new(id, Wire::Be32, Overflow::default(), peer)
    }

    #[test]
    fn a_stale_id_finds_nothing_after_its_slot_is_used_again() {
        let mut table = Connections::new(3, 4);
        let slot = table.insert(connection);
        let old = table.get(slot).unwrap().id;
        assert_eq!(table.find(old), Some(slot));
        assert!(table.remove(slot, None).is_some());
        assert_eq!(table.find(old), None);
        let again = table.insert(connection);
        let new = table.get(again).unwrap().id;
        assert_eq!((again, new.slot()), (slot, old.slot()));
        assert_ne!(new, old);
        assert_eq!((table.find(old), table.find(new)), (None, Some(slot)));
        assert_eq!(table.find(RouterId::from_u64(u64::MAX)), None);
    }

    #[test]
    fn a_moved_connection_keeps_its_id_on_both_shards_and_can_come_home() {
        let (mut home, mut away) = (Connections::new(0, 2), Connections::new(1, 2));
        let slot = home.insert(connection);
        let id = home.get(slot).unwrap().id;
        let moved = home.remove(slot, Some(1)).unwrap();
        assert_eq!(
            (home.find(id), home.moved_to(id), home.len()),
            (None, Some(1), 0)
        );
        let there = away.adopt(moved);
        assert_eq!((away.find(id), away.len()), (Some(there), 1));
        let back = away.remove(there, Some(0)).unwrap();
        assert_eq!(away.find(id), None);
        assert_eq!(home.adopt(back), slot);
        assert_eq!((home.find(id), home.moved_to(id)), (Some(slot), None));
        let moved = home.remove(slot, Some(1)).unwrap();
        drop(moved);
        home.forget_moved(id);
        assert_eq!(home.moved_to(id), None);
        let next = home.insert(connection);
        assert_eq!(next, slot);
    }
}

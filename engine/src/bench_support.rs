//! What the workspace's benches need of the engine's inside (feature `bench`). Not an interface:
//! it may change with any version.
//!
//! The send queue, the table of connections and the shard on a driver of its own are
//! `pub(crate)`, and cannot be measured through the public face without the rest around them.
//! Everything here only forwards to those pieces: [`Queue`] and [`Table`] own one and pass the
//! calls on; [`ReplayShard`] is the production shard over a driver that costs next to nothing, and
//! [`turn`] gives one shard of a [`SimEngine`] its turn without the runner of the simulation
//! around it, so that nothing else is measured.

mod replay;

use std::io::IoSlice;
use std::time::Duration;

use bytes::Bytes;

pub use self::replay::ReplayShard;
use crate::connection::{Connection, Connections};
use crate::handler::{Handler, Origin, Peer};
use crate::limits::Overflow;
use crate::router_id::RouterId;
use crate::send_queue::{BufferPool, PARTS_MAX, SendQueue};
use crate::sim::SimEngine;
use crate::wire::Wire;

/// One turn of one shard, without waiting. The virtual clock moves by what the turn costs
/// ([`Costs`](crate::sim::Costs)).
///
/// # Panics
/// If there is no such shard.
pub fn turn<H: Handler>(engine: &SimEngine<H>, shard: usize) {
    let turned = engine.shards[shard].borrow_mut().turn(Duration::ZERO);
    turned.expect("the simulated driver does not fail");
}

/// The send queue of one connection, with the pool it leases from.
#[derive(Default)]
pub struct Queue {
    queue: SendQueue,
    pool: Pool,
}

struct Pool(BufferPool);

impl Default for Pool {
    fn default() -> Self {
        Self(BufferPool::new(8 << 20))
    }
}

impl Queue {
    /// Queues a copy of `body` behind its length.
    #[inline]
    pub fn push(&mut self, body: &[u8]) {
        let header = (body.len() as u32).to_be_bytes();
        self.queue.push(&header, body, &mut self.pool.0);
    }

    /// Lets `encode` write the body in place, behind room for its length.
    #[inline]
    pub fn push_with(&mut self, max: usize, encode: impl FnOnce(&mut [u8]) -> usize) {
        let header = u32::to_be_bytes;
        self.queue.push_with(max, &mut self.pool.0, encode, header);
    }

    /// Queues a shared body behind its length.
    #[inline]
    pub fn push_shared(&mut self, body: &Bytes) {
        let header = (body.len() as u32).to_be_bytes();
        self.queue.push_shared(&header, body, &mut self.pool.0);
    }

    /// Writes everything to nowhere, at most `most` bytes at once, as a flush does it; says how
    /// many bytes there were.
    pub fn drain(&mut self, most: usize) -> usize {
        let mut all = 0;
        while self.queue.fill() {
            let offered = match self.queue.single() {
                Some(one) => std::hint::black_box(one).len(),
                None => {
                    let mut parts = [IoSlice::new(&[]); PARTS_MAX];
                    let count = self.queue.parts(&mut parts);
                    std::hint::black_box(&parts[..count]);
                    parts[..count].iter().map(|part| part.len()).sum()
                }
            };
            let taken = offered.min(most);
            self.queue.consume(taken, &mut self.pool.0);
            all += taken;
        }
        all
    }
}

/// The table of a shard's connections.
pub struct Table {
    connections: Connections,
}

impl Table {
    /// A table of `count` connections, and their ids.
    pub fn new(count: usize) -> (Self, Vec<RouterId>) {
        let connections = Connections::new(0, 1);
        let mut table = Self { connections };
        let ids = (0..count).map(|_| table.insert()).collect();
        (table, ids)
    }

    /// Adds a connection.
    ///
    /// # Panics
    /// Never: what was just inserted is there.
    pub fn insert(&mut self) -> RouterId {
        let peer = Peer {
            address: None,
            origin: Origin::Accepted { listener: 0 },
        };
        let make = |id| Connection::new(id, Wire::Be32, Overflow::default(), peer);
        let slot = self.connections.insert(make);
        self.connections.get(slot).expect("just inserted").id
    }

    /// Removes a connection; false if it is not there.
    pub fn remove(&mut self, id: RouterId) -> bool {
        let slot = self.connections.find(id);
        slot.is_some_and(|slot| self.connections.remove(slot, None).is_some())
    }

    /// Looks a connection up as a send does, down to a field of it: its queued bytes.
    #[inline]
    pub fn queued_bytes(&self, id: RouterId) -> Option<usize> {
        let slot = self.connections.find(id)?;
        Some(self.connections.get(slot)?.out.bytes())
    }
}

//! Raw ends of simulated connections for tests, driven by the test and not by a shard.

use std::fmt;
use std::io::{self, IoSlice};
use std::time::Duration;

use super::connect::ListenerKey;
use super::link::{EndKey, Handshake, Link, Owner};
use super::net::SimNet;
use crate::options::Address;

/// An end of a simulated connection that the test drives: a client of a listening shard, or what a
/// shard connected to. Nothing in it waits; time passes in [`SimWorld`](super::SimWorld). Dropping
/// it closes it as `close(2)` would: what was written is still delivered.
pub struct SimPeer {
    net: SimNet,
    end: EndKey,
}

/// A simulated listening socket that the test drives. Dropping it closes it; connections that it
/// did not accept are reset.
pub struct SimListener {
    net: SimNet,
    key: ListenerKey,
    address: Address,
}

impl SimPeer {
    pub(super) fn new(net: SimNet, end: EndKey) -> Self {
        Self { net, end }
    }

    fn look<T>(&self, look: impl FnOnce(&Link) -> T) -> Option<T> {
        let mut network = self.net.shared.borrow_mut();
        network.settle();
        network.link(self.end).map(look)
    }

    /// True once the connection is made, and also after it broke.
    pub fn is_connected(&self) -> bool {
        self.look(|link| self.end.side == 1 || link.handshake == Handshake::Done)
            .unwrap_or(false)
    }

    /// Why the connection was not made, or what broke it; `None` while all is well.
    pub fn error(&self) -> Option<io::ErrorKind> {
        self.look(|link| match link.handshake {
            Handshake::Failed(kind) => Some(kind),
            _ => link.ends[self.end.side].broken,
        })
        .flatten()
    }

    /// Writes as much as the send buffer has room for, and says how much that was: 0 also before
    /// the connection is made, after it broke and after [`finish`](Self::finish).
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        let finished = self.look(|link| link.pipes[self.end.side].finished);
        if finished != Some(false) || !self.is_connected() {
            return 0;
        }
        let mut network = self.net.shared.borrow_mut();
        network
            .take(self.end, &[IoSlice::new(bytes)], usize::MAX)
            .unwrap_or(0)
    }

    /// Appends everything that has arrived to `into`, and says how much that was.
    pub fn read(&mut self, into: &mut Vec<u8>) -> usize {
        self.read_at_most(usize::MAX, into)
    }

    /// Appends at most `bytes` of what has arrived to `into`, and says how much that was. What is
    /// not read fills the receive buffer, and then the sender's.
    pub fn read_at_most(&mut self, bytes: usize, into: &mut Vec<u8>) -> usize {
        let length = self.unread().min(bytes);
        let start = into.len();
        into.resize(start + length, 0);
        self.net
            .shared
            .borrow_mut()
            .read(self.end, &mut into[start..])
    }

    /// Bytes that have arrived and were not read.
    pub fn unread(&self) -> usize {
        self.look(|link| link.incoming(self.end.side).unread())
            .unwrap_or(0)
    }

    /// Bytes that were written and have not arrived at the other end.
    pub fn unsent(&self) -> usize {
        self.look(|link| link.pipes[self.end.side].unsent())
            .unwrap_or(0)
    }

    /// True once the other end has finished and everything it sent was read.
    pub fn is_read_closed(&self) -> bool {
        self.look(|link| {
            let incoming = link.incoming(self.end.side);
            incoming.fin_arrived && incoming.unread() == 0
        })
        .unwrap_or(false)
    }

    /// Ends what this end sends (FIN), after what was written. Reading goes on.
    pub fn finish(&mut self) {
        let mut network = self.net.shared.borrow_mut();
        network.settle();
        network.finish_end(self.end);
    }

    /// Closes the connection with a RST.
    pub fn reset(self) {
        let mut network = self.net.shared.borrow_mut();
        network.settle();
        network.reset_end(self.end);
    }

    /// Lets the network lose touch with this end for a while: nothing arrives at either end until
    /// `time` has passed, then everything does.
    pub fn stall(&mut self, time: Duration) {
        let mut network = self.net.shared.borrow_mut();
        network.settle();
        let until = network.clock.now() + time;
        network.stall(self.end, until);
    }

    /// Lets the network reset the connection now: both ends learn it, what is under way is lost.
    pub fn cut(&mut self) {
        let mut network = self.net.shared.borrow_mut();
        network.settle();
        network.break_link(self.end);
    }

    /// The address of this end.
    pub fn local_addr(&self) -> Option<Address> {
        self.look(|link| link.ends[self.end.side].address.clone())
    }

    /// The address of the other end.
    pub fn peer_addr(&self) -> Option<Address> {
        self.look(|link| link.ends[1 - self.end.side].address.clone())
    }
}

impl Drop for SimPeer {
    fn drop(&mut self) {
        // Borrowed only while a failed assertion unwinds: then nobody looks any more.
        if let Ok(mut network) = self.net.shared.try_borrow_mut() {
            network.close_end(self.end);
        }
    }
}

impl fmt::Debug for SimPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimPeer")
            .field("connection", &self.end.birth)
            .field("end", &self.end.side)
            .finish_non_exhaustive()
    }
}

impl SimListener {
    pub(super) fn new(net: SimNet, key: ListenerKey, address: Address) -> Self {
        Self { net, key, address }
    }

    /// The address it listens at, with the real port.
    pub fn local_addr(&self) -> &Address {
        &self.address
    }

    /// Takes the oldest connection that waits, if there is one.
    pub fn accept(&mut self) -> Option<SimPeer> {
        let mut network = self.net.shared.borrow_mut();
        network.settle();
        let end = network.accept(self.key, Owner::Peer)?;
        drop(network);
        Some(SimPeer::new(self.net.clone(), end))
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        if let Ok(mut network) = self.net.shared.try_borrow_mut() {
            network.close_listener(self.key);
        }
    }
}

impl fmt::Debug for SimListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimListener")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

//! [`SimDriver`]: the [`Driver`] of a shard in the simulation.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::link::{EndKey, Link, Owner};
use super::net::{Held, Network, SimNet};
use super::table::{ListenSlot, Slot, Table, put};
use super::trace::SimEventKind;
use crate::driver::{Completion, Driver, RawSocket, Submitted};
use crate::mailbox::Wake;
use crate::options::{Address, SocketOptions};
use crate::time::Time;

/// The driver of one shard, in a [`SimNet`] that it shares with the others. It never sleeps:
/// [`SimWorld`](super::SimWorld) does that by moving the clock. Dropping it closes everything it
/// has.
pub(crate) struct SimDriver {
    net: SimNet,
    index: usize,
}

struct SimWake(Arc<AtomicBool>);

impl Wake for SimWake {
    fn wake(&self) {
        self.0.store(true, Ordering::Release);
    }
}

impl SimNet {
    /// A driver for one more shard.
    pub(crate) fn driver(&self) -> SimDriver {
        let mut network = self.shared.borrow_mut();
        network.tables.push(Table::default());
        SimDriver {
            net: self.clone(),
            index: network.tables.len() - 1,
        }
    }
}

impl SimDriver {
    fn with<T>(&self, act: impl FnOnce(&mut Network, usize) -> T) -> T {
        act(&mut self.net.shared.borrow_mut(), self.index)
    }
}

impl Network {
    /// The slot of a connection that the shard must know to be open.
    fn open_slot(&mut self, driver: usize, conn: u32, what: &str) -> &mut Slot {
        if self.tables[driver].slot(conn).is_none() {
            self.demand(
                false,
                &format!("{what} of connection {conn}, which is closed"),
            );
        }
        self.tables[driver].slot(conn).expect("demanded above")
    }

    fn demand_free(&mut self, driver: usize, conn: u32) {
        let free = self.tables[driver].slot(conn).is_none();
        self.demand(free, &format!("connection slot {conn} is taken"));
    }

    fn start_connect(
        &mut self,
        driver: usize,
        conn: u32,
        to: &Address,
        options: &SocketOptions,
    ) -> io::Result<()> {
        self.demand_free(driver, conn);
        let refused = self.random.chance(self.faults.refuse);
        if refused && self.random.chance(0.25) {
            return Err(io::ErrorKind::NetworkUnreachable.into());
        }
        let from = self.source_for(to);
        let end = self.begin_connect(Owner::Slot { driver, conn }, from, to.clone());
        apply(&mut self.links[end.index], end, options);
        if refused {
            self.refuse(end);
        } else if self.random.chance(self.faults.unanswered) {
            self.ignore(end);
        } else {
            self.send_syn(end);
        }
        put(
            &mut self.tables[driver].slots,
            conn,
            Slot::new(end, end.birth, true),
        );
        Ok(())
    }

    fn take_in(&mut self, driver: usize, conn: u32, end: EndKey, options: &SocketOptions) {
        self.demand_free(driver, conn);
        let birth = self.next_birth();
        let link = self.link(end);
        let owner = link.map(|link| link.ends[end.side].owner);
        self.demand(
            owner == Some(Owner::Nobody),
            "a socket is registered that somebody has",
        );
        let link = &mut self.links[end.index];
        link.ends[end.side].owner = Owner::Slot { driver, conn };
        apply(link, end, options);
        let mut slot = Slot::new(end, birth, false);
        slot.finished = link.pipes[end.side].finished;
        put(&mut self.tables[driver].slots, conn, slot);
        self.tables[driver].mark(conn); // it may have something to read already
        self.pump(end.other()); // its window may have grown
    }

    fn submit(&mut self, driver: usize, conn: u32, parts: &[IoSlice<'_>]) -> Submitted {
        let slot = self.open_slot(driver, conn, "send");
        let (end, blocked) = (slot.end, slot.blocked);
        let (connecting, finished) = (slot.connecting, slot.finished);
        self.demand(!connecting, "a send before the connection is made");
        self.demand(!blocked, "a send although a `Sent` is still to come");
        self.demand(!finished, "a send after `finish`");
        self.clock.charge(self.costs.send_ns);
        let offered: usize = parts.iter().map(|part| part.len()).sum();
        let room = self.link(end).map_or(0, |link| link.pipes[end.side].room());
        let most = if offered == 0 || self.random.chance(self.faults.pending_send) {
            0
        } else if self.random.chance(self.faults.partial_send) {
            self.random.between(1, offered.min(room).max(1) as u64) as usize
        } else {
            offered
        };
        let taken = match self.take(end, parts, most) {
            Ok(taken) => taken,
            Err(kind) => {
                self.open_slot(driver, conn, "send").failure_told = true;
                self.note(end, SimEventKind::Failed, 0);
                return Submitted::Failed(kind.into());
            }
        };
        if taken == offered {
            return Submitted::Taken(taken);
        }
        self.open_slot(driver, conn, "send").blocked = true;
        if self
            .link(end)
            .is_some_and(|link| link.pipes[end.side].room() > 0)
        {
            self.tables[driver].mark(conn); // it only pretended to be full
        }
        if taken > 0 {
            return Submitted::Taken(taken);
        }
        self.note(end, SimEventKind::Pending, 0);
        Submitted::Pending
    }

    fn remove_all(&mut self, driver: usize) {
        let slots = std::mem::take(&mut self.tables[driver].slots);
        slots
            .into_iter()
            .flatten()
            .for_each(|slot| self.close_end(slot.end));
        let listeners = std::mem::take(&mut self.tables[driver].listeners);
        listeners
            .into_iter()
            .flatten()
            .for_each(|slot| self.close_listener(slot.key));
    }
}

/// A reading of the clock, at its cost.
fn read_clock(net: &SimNet) -> Time {
    let mut network = net.shared.borrow_mut();
    let cost = network.costs.clock_ns;
    network.clock.charge(cost);
    network.clock.now()
}

/// Applies the options that mean something here: the buffers.
fn apply(link: &mut Link, end: EndKey, options: &SocketOptions) {
    if let Some(bytes) = options.receive_buffer {
        link.incoming_mut(end.side).receive_capacity = bytes.max(1);
    }
    if let Some(bytes) = options.send_buffer {
        link.pipes[end.side].send_capacity = bytes.max(1);
    }
}

impl Driver for SimDriver {
    fn now(&self) -> Time {
        read_clock(&self.net)
    }

    fn clock(&self) -> Box<dyn Fn() -> Time> {
        // The network and not the driver, whose drop closes everything.
        let net = self.net.clone();
        Box::new(move || read_clock(&net))
    }

    fn waker(&self) -> io::Result<Box<dyn Wake>> {
        self.with(|network, index| {
            let wake: Box<dyn Wake> = Box::new(SimWake(Arc::clone(&network.tables[index].woken)));
            Ok(wake)
        })
    }

    fn has_ready(&self) -> bool {
        self.with(|network, index| network.tables[index].has_ready())
    }

    fn wait(&mut self, _until: Time) -> io::Result<()> {
        self.with(|network, index| {
            network.clock.charge(network.costs.turn_ns.max(1));
            network.settle();
            network.begin_round(index);
        });
        Ok(())
    }

    fn next(&mut self, chunk: &mut [u8]) -> Option<Completion> {
        assert!(!chunk.is_empty(), "a receive chunk has room");
        self.with(|network, index| network.poll(index, chunk))
    }

    fn listen(&mut self, listener: u32, socket: RawSocket) -> io::Result<()> {
        let Held::Listener(key) = held(socket)? else {
            return Err(wrong_socket("a bound socket", "a connection"));
        };
        self.with(|network, index| {
            let free = network.tables[index].listener(listener).is_none();
            network.demand(free, &format!("listener slot {listener} is taken"));
            network.start_listening(
                key,
                Owner::Slot {
                    driver: index,
                    conn: listener,
                },
            );
            put(
                &mut network.tables[index].listeners,
                listener,
                ListenSlot::new(key),
            );
        });
        Ok(())
    }

    fn unlisten(&mut self, listener: u32) {
        self.with(|network, index| {
            let slot = network.tables[index].listeners.get_mut(listener as usize);
            if let Some(slot) = slot.and_then(Option::take) {
                network.close_listener(slot.key);
            }
        });
    }

    fn resume_accept(&mut self, listener: u32) {
        self.with(|network, index| {
            let table = &mut network.tables[index];
            if let Some(slot) = table.listener(listener) {
                slot.paused = false;
                table.mark_listener(listener);
            }
        });
    }

    fn connect(&mut self, conn: u32, to: &Address, options: &SocketOptions) -> io::Result<()> {
        self.with(|network, index| network.start_connect(index, conn, to, options))
    }

    fn register(
        &mut self,
        conn: u32,
        socket: RawSocket,
        options: Option<&SocketOptions>,
    ) -> io::Result<()> {
        let Held::End(end) = held(socket)? else {
            return Err(wrong_socket("a connection", "a listening socket"));
        };
        let kept = SocketOptions::default();
        let options = options.unwrap_or(&kept);
        self.with(|network, index| network.take_in(index, conn, end, options));
        Ok(())
    }

    fn detach(&mut self, conn: u32) -> Option<RawSocket> {
        self.with(|network, index| {
            let slot = network.tables[index].slots.get_mut(conn as usize)?;
            let end = slot.take_if(|slot| !slot.connecting)?.end;
            let link = network.link_mut(end)?;
            link.ends[end.side].owner = Owner::Nobody;
            let address = link.ends[end.side].address.clone();
            Some(RawSocket::Sim(network.wrap(Held::End(end), address)))
        })
    }

    fn set_reading(&mut self, conn: u32, on: bool) {
        self.with(|network, index| {
            network.open_slot(index, conn, "set_reading").reading = on;
            if on {
                network.tables[index].mark(conn);
            }
        });
    }

    fn send(&mut self, conn: u32, parts: &[IoSlice<'_>]) -> Submitted {
        self.with(|network, index| network.submit(index, conn, parts))
    }

    fn finish(&mut self, conn: u32) {
        self.with(|network, index| {
            let slot = network.open_slot(index, conn, "finish");
            let (end, connecting) = (slot.end, slot.connecting);
            slot.finished = true;
            network.demand(!connecting, "`finish` before the connection is made");
            network.finish_end(end);
        });
    }

    fn close(&mut self, conn: u32) {
        self.with(|network, index| {
            let slot = network.tables[index].slots.get_mut(conn as usize);
            if let Some(slot) = slot.and_then(Option::take) {
                network.close_end(slot.end);
            }
        });
    }

    fn reset(&mut self, conn: u32) {
        self.with(|network, index| {
            let slot = network.tables[index].slots.get_mut(conn as usize);
            if let Some(slot) = slot.and_then(Option::take) {
                network.reset_end(slot.end);
            }
        });
    }
}

impl Drop for SimDriver {
    fn drop(&mut self) {
        // Borrowed only while a failed assertion unwinds.
        if let Ok(mut network) = self.net.shared.try_borrow_mut() {
            network.remove_all(self.index);
        }
    }
}

fn held(socket: RawSocket) -> io::Result<Held> {
    match socket {
        RawSocket::Sim(socket) => Ok(socket.into_held()),
        RawSocket::Fd(_) => Err(wrong_socket("a simulated socket", "a descriptor")),
    }
}

fn wrong_socket(expected: &str, came: &str) -> io::Error {
    let text = format!("expected {expected}, got {came}");
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

//! What a driver knows of its connections and listeners, and how readiness becomes completions:
//! the edge-triggered emulation that the `Driver` trait describes.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::connect::ListenerKey;
use super::link::{EndKey, Handshake, Link, Owner};
use super::net::{Held, Network};
use super::trace::SimEventKind;
use crate::driver::{Completion, RawSocket};
use crate::options::Address;

/// How many connections a listener accepts per round.
const ACCEPTS_PER_ROUND: u32 = 32;

/// The table of one driver.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) slots: Vec<Option<Slot>>,
    pub(super) listeners: Vec<Option<ListenSlot>>,
    /// What is left of this round.
    pub(super) round: VecDeque<Token>,
    /// What became ready since the round began: the next one.
    pub(super) ready: Vec<Token>,
    /// The number of the round.
    pub(super) number: u64,
    /// Set by the driver's waker.
    pub(super) woken: Arc<AtomicBool>,
}

/// A slot that may have something to report. At most one token per slot exists; `birth` tells a
/// token of a slot's former user from one of its present user.
#[derive(Clone, Copy, Debug)]
pub(super) enum Token {
    Conn { conn: u32, birth: u64 },
    Listener { listener: u32, birth: u64 },
}

/// A connection of a driver.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) end: EndKey,
    pub(super) birth: u64,
    /// `Connected` is still to be reported.
    pub(super) connecting: bool,
    pub(super) reading: bool,
    /// A `Sent` is owed.
    pub(super) blocked: bool,
    pub(super) finished: bool,
    pub(super) failure_told: bool,
    read_closed_told: bool,
    queued: bool,
    /// The round in which it last read, because it reads once per round.
    read_round: u64,
}

impl Slot {
    pub(super) fn new(end: EndKey, birth: u64, connecting: bool) -> Self {
        Self {
            end,
            birth,
            connecting,
            reading: true,
            blocked: false,
            finished: false,
            failure_told: false,
            read_closed_told: false,
            queued: false,
            read_round: 0,
        }
    }
}

/// A listener of a driver.
#[derive(Debug)]
pub(super) struct ListenSlot {
    pub(super) key: ListenerKey,
    /// Accepting failed, and was not resumed.
    pub(super) paused: bool,
    pub(super) queued: bool,
    /// The round in which it last accepted, and how many.
    accepted: (u64, u32),
}

impl ListenSlot {
    pub(super) fn new(key: ListenerKey) -> Self {
        Self {
            key,
            paused: false,
            queued: false,
            accepted: (0, 0),
        }
    }
}

/// What a slot could report now.
#[derive(Clone, Copy, Debug, Default)]
struct Reports {
    read: bool,
    read_closed: bool,
    failed: bool,
    sent: bool,
    /// There is more to read, but it has read in this round.
    read_later: bool,
}

impl Table {
    pub(super) fn slot(&mut self, conn: u32) -> Option<&mut Slot> {
        self.slots.get_mut(conn as usize)?.as_mut()
    }

    pub(super) fn listener(&mut self, listener: u32) -> Option<&mut ListenSlot> {
        self.listeners.get_mut(listener as usize)?.as_mut()
    }

    /// Puts a connection into the next round, unless it is in line already.
    pub(super) fn mark(&mut self, conn: u32) {
        let Some(slot) = self.slot(conn) else { return };
        if !std::mem::replace(&mut slot.queued, true) {
            let birth = slot.birth;
            self.ready.push(Token::Conn { conn, birth });
        }
    }

    /// The same for a listener.
    pub(super) fn mark_listener(&mut self, listener: u32) {
        let Some(slot) = self.listener(listener) else {
            return;
        };
        if !std::mem::replace(&mut slot.queued, true) {
            let birth = slot.key.birth;
            self.ready.push(Token::Listener { listener, birth });
        }
    }

    pub(super) fn has_ready(&self) -> bool {
        !self.round.is_empty() || !self.ready.is_empty() || self.woken.load(Ordering::Acquire)
    }
}

/// Puts `value` at `index`, which must be free.
pub(super) fn put<T>(slots: &mut Vec<Option<T>>, index: u32, value: T) {
    let index = index as usize;
    if index >= slots.len() {
        slots.resize_with(index + 1, || None);
    }
    slots[index] = Some(value);
}

impl Network {
    /// Tells the user of an end that something happened to it.
    pub(super) fn notify(&mut self, end: EndKey) {
        let Some(link) = self.link(end) else { return };
        if let Owner::Slot { driver, conn } = link.ends[end.side].owner {
            self.tables[driver].mark(conn);
        }
    }

    pub(super) fn notify_listener(&mut self, key: ListenerKey) {
        if let Some(Owner::Slot { driver, conn }) = self.listener(key).owner {
            self.tables[driver].mark_listener(conn);
        }
    }

    /// Begins a round of a driver.
    pub(super) fn begin_round(&mut self, driver: usize) {
        let table = &mut self.tables[driver];
        table.woken.store(false, Ordering::Release);
        table.number += 1;
        let mut ready = std::mem::take(&mut table.ready);
        if self.faults.shuffle {
            self.random.shuffle(&mut ready);
        }
        let mut round = VecDeque::from(ready);
        round.append(&mut table.round);
        table.round = round;
    }

    /// The next completion of a driver's round.
    pub(super) fn poll(&mut self, driver: usize, chunk: &mut [u8]) -> Option<Completion> {
        loop {
            let completion = match self.tables[driver].round.pop_front()? {
                Token::Conn { conn, birth } => self.poll_conn(driver, conn, birth, chunk),
                Token::Listener { listener, birth } => self.poll_listener(driver, listener, birth),
            };
            if completion.is_some() {
                self.clock.charge(self.costs.completion_ns);
                return completion;
            }
        }
    }

    fn poll_conn(
        &mut self,
        driver: usize,
        conn: u32,
        birth: u64,
        chunk: &mut [u8],
    ) -> Option<Completion> {
        let slot = self.tables[driver]
            .slot(conn)
            .filter(|slot| slot.birth == birth)?;
        slot.queued = false;
        let end = slot.end;
        let completion = if slot.connecting {
            self.poll_connecting(driver, conn, end)
        } else {
            self.poll_connected(driver, conn, end, chunk)
        };
        self.requeue(driver, conn);
        completion
    }

    fn poll_connecting(&mut self, driver: usize, conn: u32, end: EndKey) -> Option<Completion> {
        let result = match self.handshake(end) {
            Handshake::Waiting => return None,
            Handshake::Done => {
                self.tables[driver].slot(conn)?.connecting = false;
                Ok(())
            }
            Handshake::Failed(kind) => {
                self.tables[driver].slots[conn as usize] = None;
                self.close_end(end);
                Err(kind.into())
            }
        };
        Some(Completion::Connected { conn, result })
    }

    fn poll_connected(
        &mut self,
        driver: usize,
        conn: u32,
        end: EndKey,
        chunk: &mut [u8],
    ) -> Option<Completion> {
        let mut can = self.reports(driver, conn);
        if can.read && can.sent && self.faults.shuffle && self.random.chance(0.5) {
            can.read = false;
        }
        let number = self.tables[driver].number;
        let slot = self.tables[driver].slot(conn)?;
        if can.read {
            slot.read_round = number;
            let most = if self.random.chance(self.faults.short_read) {
                self.random.between(1, chunk.len() as u64) as usize
            } else {
                chunk.len()
            };
            let len = self.read(end, &mut chunk[..most]);
            Some(Completion::Received { conn, len })
        } else if can.read_closed {
            slot.read_closed_told = true;
            self.note(end, SimEventKind::ReadClosed, 0);
            Some(Completion::ReadClosed { conn })
        } else if can.failed {
            slot.failure_told = true;
            self.note(end, SimEventKind::Failed, 0);
            let kind = self.link(end)?.ends[end.side].broken?;
            Some(Completion::Failed {
                conn,
                error: kind.into(),
            })
        } else if can.sent {
            slot.blocked = false;
            self.note(end, SimEventKind::Writable, 0);
            Some(Completion::Sent { conn, len: 0 })
        } else {
            None
        }
    }

    /// What a slot could report in this round, and whether it has to read on in the next one.
    fn reports(&self, driver: usize, conn: u32) -> Reports {
        let table = &self.tables[driver];
        let slot = table.slots.get(conn as usize).and_then(Option::as_ref);
        let Some(slot) = slot.filter(|slot| !slot.connecting && !slot.failure_told) else {
            return Reports::default();
        };
        let end = slot.end;
        let owned = |link: &&Link| link.ends[end.side].owner == Owner::Slot { driver, conn };
        let Some(link) = self.link(end).filter(owned) else {
            self.demand(
                false,
                "a slot reports on a connection that it does not have",
            );
            return Reports::default();
        };
        let incoming = link.incoming(end.side);
        let unread = incoming.unread() > 0;
        let broken = link.ends[end.side].broken.is_some();
        let read_closed = incoming.fin_arrived && !unread && !slot.read_closed_told;
        let to_read = slot.reading && (unread || read_closed);
        let first = slot.read_round != table.number;
        Reports {
            read: to_read && first && unread,
            read_closed: to_read && first && read_closed,
            // Behind what can still be read; but if nothing can, a pause of reading does not
            // hold it back: like `EPOLLERR`, which cannot be switched off.
            failed: broken && !unread && !to_read,
            // A reset makes a socket writable: the write then says what broke it. So a blocked
            // writer learns of it even while its reading is paused.
            sent: slot.blocked && (broken || link.pipes[end.side].room() > 0),
            read_later: to_read && !first,
        }
    }

    /// Puts a slot that could report more back in line.
    fn requeue(&mut self, driver: usize, conn: u32) {
        let can = self.reports(driver, conn);
        let table = &mut self.tables[driver];
        if can.read || can.read_closed || can.failed || can.sent {
            let Some(slot) = table.slot(conn) else { return };
            if !std::mem::replace(&mut slot.queued, true) {
                let birth = slot.birth;
                table.round.push_back(Token::Conn { conn, birth });
            }
        } else if can.read_later {
            table.mark(conn);
        }
    }

    fn poll_listener(&mut self, driver: usize, listener: u32, birth: u64) -> Option<Completion> {
        let table = &mut self.tables[driver];
        let number = table.number;
        let slot = table
            .listener(listener)
            .filter(|slot| slot.key.birth == birth)?;
        slot.queued = false;
        let key = slot.key;
        if slot.paused || self.listener(key).queue.is_empty() {
            return None;
        }
        if self.out_of_descriptors(key) {
            self.tables[driver].listener(listener)?.paused = true;
            let shed = self.shed(key);
            let error = io::Error::from_raw_os_error(libc::EMFILE);
            return Some(Completion::AcceptFailed {
                listener,
                error,
                shed,
            });
        }
        let end = self.accept(key, Owner::Nobody)?;
        let more = !self.listener(key).queue.is_empty();
        let table = &mut self.tables[driver];
        let slot = table.listener(listener)?;
        let count = if slot.accepted.0 == number {
            slot.accepted.1 + 1
        } else {
            1
        };
        slot.accepted = (number, count);
        if more && count < ACCEPTS_PER_ROUND {
            slot.queued = true;
            table.round.push_back(Token::Listener { listener, birth });
        } else if more {
            table.mark_listener(listener);
        }
        let ends = &self.link(end)?.ends;
        let address = ends[end.side].address.clone();
        let peer = match ends[1 - end.side].address {
            Address::Tcp(peer) => Some(peer),
            Address::Unix(_) => None,
        };
        let socket = RawSocket::Sim(self.wrap(Held::End(end), address));
        Some(Completion::Accepted {
            listener,
            socket,
            peer,
        })
    }

    fn out_of_descriptors(&mut self, key: ListenerKey) -> bool {
        let now = self.clock.now();
        if self.random.chance(self.faults.accept_failure) {
            let time = self
                .random
                .duration(Duration::ZERO, self.faults.accept_failure_max);
            let socket = &mut self.listeners[key.index];
            socket.failing_until = socket.failing_until.max(now + time);
            return true;
        }
        self.listeners[key.index].failing_until > now
    }

    /// Takes and closes one waiting connection with the spare descriptor, if that is free.
    fn shed(&mut self, key: ListenerKey) -> bool {
        let shed = self.random.chance(0.5);
        let end = self.listeners[key.index]
            .queue
            .front()
            .copied()
            .unwrap_or(EndKey {
                index: usize::MAX,
                birth: 0,
                side: 1,
            });
        self.note(end, SimEventKind::AcceptFailed, usize::from(shed));
        if shed && self.listeners[key.index].queue.pop_front().is_some() {
            self.close_end(end);
        }
        shed
    }
}

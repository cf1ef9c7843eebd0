//! How bytes, FINs and RSTs travel.

use std::io::{self, IoSlice};
use std::time::Duration;

use super::link::{EndKey, Owner, Parcel};
use super::net::{Event, Network};
use super::random::nanos;
use super::trace::SimEventKind;
use crate::time::Time;

impl Network {
    /// Puts as much of what this end wants to send on its way as the other end's window allows.
    pub(super) fn pump(&mut self, end: EndKey) {
        loop {
            let now = self.clock.now();
            let Some(link) = self
                .links
                .get_mut(end.index)
                .filter(|link| link.birth == end.birth)
            else {
                return;
            };
            let open = link.ends[1 - end.side].open;
            let pipe = &mut link.pipes[end.side];
            let sendable = pipe.sendable(open);
            if sendable > 0 {
                let longest = link.segment_max.map_or(sendable, |longest| {
                    self.random.between(1, longest as u64) as usize // a segment is not empty
                });
                pipe.post_bytes(sendable.min(longest));
            } else if !pipe.post_fin() {
                return;
            }
            let stall = self.random.chance(self.faults.stall);
            if stall {
                let time = self.random.duration(Duration::ZERO, self.faults.stall_max);
                pipe.stalled_until = pipe.stalled_until.max(now + time);
            }
            self.dispatch(end);
        }
    }

    /// Schedules the arrival of the parcel that was posted last: after everything before it.
    fn dispatch(&mut self, end: EndKey) {
        let jitter = self.faults.jitter_max;
        let jitter = if jitter.is_zero() {
            0
        } else {
            self.random.between(0, nanos(jitter))
        };
        let now = self.clock.now();
        let Some(link) = self.link_mut(end) else {
            return;
        };
        let travel = Duration::from_nanos(link.latency_ns.saturating_add(jitter));
        let pipe = &mut link.pipes[end.side];
        let at = (now + travel)
            .max(pipe.last_arrival)
            .max(pipe.stalled_until);
        pipe.last_arrival = at;
        self.clock.schedule(at, Event::Arrive(end));
    }

    /// Something that `from` sent arrives. The event does not say what: it is always the next
    /// parcel in line, so that a late event (after a stall) cannot change the order.
    pub(super) fn on_arrive(&mut self, from: EndKey) {
        let now = self.clock.now();
        let Some(link) = self.link_mut(from) else {
            return;
        };
        let pipe = &mut link.pipes[from.side];
        if pipe.stalled_until > now {
            let at = pipe.stalled_until;
            return self.clock.schedule(at, Event::Arrive(from));
        }
        let parcel = pipe.deliver();
        let open = link.ends[1 - from.side].open;
        let to = from.other();
        match parcel {
            None => {} // it was lost with a reset
            Some(Parcel::Bytes(length)) => {
                self.note(to, SimEventKind::Arrived, length);
                self.notify(from); // it has room again
                if open {
                    self.notify(to);
                } else {
                    self.post_reset(to); // there is nobody to read it
                }
                self.count_towards_reset(from, length);
            }
            Some(Parcel::Fin) => {
                self.note(to, SimEventKind::FinArrived, 0);
                self.notify(to);
            }
            Some(Parcel::Reset) => {
                self.note(to, SimEventKind::ResetArrived, 0);
                self.break_end(to);
            }
        }
    }

    fn count_towards_reset(&mut self, end: EndKey, length: usize) {
        let Some(link) = self.link_mut(end) else {
            return;
        };
        let Some(left) = link.reset_after else { return };
        link.reset_after = left.checked_sub(length as u64).filter(|left| *left > 0);
        if link.reset_after.is_none() {
            self.break_link(end);
        }
    }

    /// Takes bytes from the user of an end; says how many.
    ///
    /// # Errors
    /// What broke the connection.
    pub(super) fn take(
        &mut self,
        end: EndKey,
        parts: &[IoSlice<'_>],
        most: usize,
    ) -> Result<usize, io::ErrorKind> {
        let Some(link) = self.link_mut(end) else {
            return Err(io::ErrorKind::NotConnected);
        };
        if let Some(kind) = link.ends[end.side].broken {
            return Err(kind);
        }
        let taken = link.pipes[end.side].take(parts, most);
        if taken > 0 {
            self.note(end, SimEventKind::Taken, taken);
            self.pump(end);
        }
        Ok(taken)
    }

    /// Gives bytes that arrived to the user of an end; says how many.
    pub(super) fn read(&mut self, end: EndKey, into: &mut [u8]) -> usize {
        let Some(link) = self.link_mut(end) else {
            return 0;
        };
        let length = link.incoming_mut(end.side).read(into);
        if length > 0 {
            self.note(end, SimEventKind::Read, length);
            self.pump(end.other()); // its window is open again
        }
        length
    }

    /// Ends what this end sends, after what was taken. Nothing the second time.
    pub(super) fn finish_end(&mut self, end: EndKey) {
        let Some(link) = self.link_mut(end) else {
            return;
        };
        let broken = link.ends[end.side].broken.is_some();
        let pipe = &mut link.pipes[end.side];
        if broken || pipe.finished {
            return;
        }
        pipe.finished = true;
        self.note(end, SimEventKind::Finished, 0);
        self.pump(end);
    }

    /// What `close(2)` does: what was taken is still delivered, then a FIN; but if something was
    /// not read, or more arrives, the peer gets a RST.
    pub(super) fn close_end(&mut self, end: EndKey) {
        let Some(link) = self.release(end) else {
            return;
        };
        let unread = self.links[link].incoming(end.side).unread() > 0;
        if unread {
            self.post_reset(end)
        } else {
            self.finish_end(end)
        }
    }

    /// Closes an end with a RST.
    pub(super) fn reset_end(&mut self, end: EndKey) {
        if self.release(end).is_some() {
            self.post_reset(end);
        }
    }

    /// Takes an end from its user. Forgets the connection when nobody is left to use it;
    /// otherwise says where it is.
    fn release(&mut self, end: EndKey) -> Option<usize> {
        let link = self.link_mut(end)?;
        if !link.ends[end.side].open {
            return None;
        }
        link.ends[end.side].open = false;
        link.ends[end.side].owner = Owner::Nobody;
        let forget = !link.ends[1 - end.side].open;
        self.note(end, SimEventKind::Closed, 0);
        if forget {
            self.links.remove(end.index);
            return None;
        }
        // The window no longer counts: what is waiting goes to nobody, and is answered by a RST.
        self.pump(end.other());
        Some(end.index)
    }

    fn post_reset(&mut self, end: EndKey) {
        let discard = self.random.chance(self.faults.reset_discards);
        let Some(link) = self.link_mut(end) else {
            return;
        };
        if link.pipes[end.side].post_reset(discard) {
            self.dispatch(end);
        }
    }

    /// The network resets a connection: both ends learn it now, what is under way is lost.
    pub(super) fn break_link(&mut self, end: EndKey) {
        if self.link(end).is_none() {
            return;
        }
        self.note(end, SimEventKind::NetworkReset, 0);
        self.break_end(end);
        self.break_end(end.other());
        if let Some(link) = self.link_mut(end) {
            link.pipes.iter_mut().for_each(super::link::Pipe::break_off);
        }
    }

    /// An end learns that its connection is broken.
    fn break_end(&mut self, end: EndKey) {
        let discard = self.random.chance(self.faults.reset_discards);
        let Some(link) = self.link_mut(end) else {
            return;
        };
        if !link.ends[end.side].open || link.ends[end.side].broken.is_some() {
            return;
        }
        link.ends[end.side].broken = Some(io::ErrorKind::ConnectionReset);
        link.pipes[end.side].break_off();
        // A stream that has ended in order stays readable: nobody could tell what is missing.
        let incoming = link.incoming_mut(end.side);
        if discard && !incoming.fin_arrived {
            incoming.discard_unread();
        }
        self.notify(end);
    }

    /// Lets both directions of a connection deliver nothing until `until`.
    pub(super) fn stall(&mut self, end: EndKey, until: Time) {
        let time = until.since(self.clock.now());
        let Some(link) = self.link_mut(end) else {
            return;
        };
        for pipe in &mut link.pipes {
            pipe.stalled_until = pipe.stalled_until.max(until);
        }
        self.note(end, SimEventKind::Stalled, nanos(time) as usize);
    }
}

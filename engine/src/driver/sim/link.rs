//! The data of one simulated connection: two ends and a pipe in each direction. What happens to
//! it, and when, is decided in `transport`.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use crate::options::Address;
use crate::time::Time;

/// Names an end of a connection. A key that outlives its connection finds nothing, because
/// `birth` is never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EndKey {
    pub(super) index: usize,
    pub(super) birth: u64,
    /// 0: the end that connected, 1: the end that accepted.
    pub(super) side: usize,
}

impl EndKey {
    pub(super) fn other(self) -> Self {
        Self {
            side: 1 - self.side,
            ..self
        }
    }
}

/// Who uses an end, and so is told what happens to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// Nobody yet (in a listener's queue, or on its way between shards), or nobody any more.
    Nobody,
    /// A test, which looks by itself.
    Peer,
    /// A connection slot of a driver.
    Slot { driver: usize, conn: u32 },
}

/// How far the connecting end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Handshake {
    Waiting,
    Done,
    Failed(io::ErrorKind),
}

#[derive(Debug)]
pub(super) struct End {
    pub(super) address: Address,
    pub(super) owner: Owner,
    /// True from the time it exists until its owner closes it.
    pub(super) open: bool,
    /// Why it is broken: reads bring what had arrived, then this; sends bring this.
    pub(super) broken: Option<io::ErrorKind>,
}

#[derive(Debug)]
pub(super) struct Link {
    pub(super) birth: u64,
    pub(super) ends: [End; 2],
    /// `pipes[side]` carries what the end `side` sends.
    pub(super) pipes: [Pipe; 2],
    pub(super) handshake: Handshake,
    /// One way, in nanoseconds.
    pub(super) latency_ns: u64,
    /// The longest segment, if segments are cut at random.
    pub(super) segment_max: Option<usize>,
    /// The network resets the connection when so many more bytes have arrived.
    pub(super) reset_after: Option<u64>,
    /// Until when an attempt that finds the listener's queue full is repeated.
    pub(super) connect_until: Time,
}

/// One thing on its way. Everything of one direction goes through one queue, so that neither a
/// FIN nor a RST overtakes bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parcel {
    Bytes(usize),
    Fin,
    Reset,
}

/// One direction of a connection: the sender's buffer, what is under way, and the receiver's
/// buffer. Bytes stay in `sending` (and use up its capacity) until they have arrived, as TCP
/// keeps what is not acknowledged.
#[derive(Debug)]
pub(super) struct Pipe {
    sending: VecDeque<u8>,
    parcels: VecDeque<Parcel>,
    /// How many bytes of `sending` are in parcels.
    under_way: usize,
    arrived: VecDeque<u8>,
    pub(super) send_capacity: usize,
    pub(super) receive_capacity: usize,
    /// The sender wants to send no more; a FIN follows the last byte.
    pub(super) finished: bool,
    fin_posted: bool,
    pub(super) fin_arrived: bool,
    /// A RST was posted, or the direction broke: nothing more is sent.
    dead: bool,
    pub(super) last_arrival: Time,
    pub(super) stalled_until: Time,
}

impl Pipe {
    pub(super) fn new(send_capacity: usize, receive_capacity: usize) -> Self {
        Self {
            sending: VecDeque::new(),
            parcels: VecDeque::new(),
            under_way: 0,
            arrived: VecDeque::new(),
            send_capacity: send_capacity.max(1),
            receive_capacity: receive_capacity.max(1),
            finished: false,
            fin_posted: false,
            fin_arrived: false,
            dead: false,
            last_arrival: Time::ZERO,
            stalled_until: Time::ZERO,
        }
    }

    /// How many bytes the send buffer can take.
    pub(super) fn room(&self) -> usize {
        self.send_capacity.saturating_sub(self.sending.len())
    }

    /// Bytes taken from the sender that have not arrived.
    pub(super) fn unsent(&self) -> usize {
        self.sending.len()
    }

    /// Bytes that arrived and were not read.
    pub(super) fn unread(&self) -> usize {
        self.arrived.len()
    }

    /// Takes up to `most` bytes of `parts`, in order, as far as there is room.
    pub(super) fn take(&mut self, parts: &[IoSlice<'_>], most: usize) -> usize {
        let most = most.min(self.room());
        let mut left = most;
        for part in parts {
            let length = part.len().min(left);
            self.sending.extend(&part[..length]);
            left -= length;
        }
        most - left
    }

    /// How many bytes the next segment may have. `open`: the receiver is, and has a window.
    pub(super) fn sendable(&self, open: bool) -> usize {
        if self.dead {
            return 0;
        }
        let waiting = self.sending.len() - self.under_way;
        if !open {
            return waiting;
        }
        waiting.min(
            self.receive_capacity
                .saturating_sub(self.arrived.len() + self.under_way),
        )
    }

    /// Posts a segment of `length` bytes.
    pub(super) fn post_bytes(&mut self, length: usize) {
        self.under_way += length;
        assert!(self.under_way <= self.sending.len());
        self.parcels.push_back(Parcel::Bytes(length));
    }

    /// Posts the FIN if its time has come; true if it did.
    pub(super) fn post_fin(&mut self) -> bool {
        let all_posted = self.under_way == self.sending.len();
        let due = self.finished && !self.fin_posted && !self.dead && all_posted;
        if due {
            self.fin_posted = true;
            self.parcels.push_back(Parcel::Fin);
        }
        due
    }

    /// Posts a RST behind what is under way, or in its place if that is to be lost. What is not
    /// under way yet is lost in any case. False, and nothing, if that has happened before.
    pub(super) fn post_reset(&mut self, discard: bool) -> bool {
        if self.dead {
            return false;
        }
        if discard {
            self.break_off();
        }
        self.sending.truncate(self.under_way);
        self.dead = true;
        self.parcels.push_back(Parcel::Reset);
        true
    }

    /// Loses everything that has not arrived and sends no more.
    pub(super) fn break_off(&mut self) {
        self.sending.clear();
        self.parcels.clear();
        self.under_way = 0;
        self.dead = true;
    }

    /// Lets the next parcel arrive; bytes go into the receiver's buffer.
    pub(super) fn deliver(&mut self) -> Option<Parcel> {
        let parcel = self.parcels.pop_front()?;
        match parcel {
            Parcel::Bytes(length) => {
                self.under_way -= length;
                // Whole slices: byte by byte, this is most of the time of a simulation.
                let (front, back) = self.sending.as_slices();
                let split = front.len().min(length);
                self.arrived.extend(&front[..split]);
                self.arrived.extend(&back[..length - split]);
                self.sending.drain(..length);
            }
            Parcel::Fin => self.fin_arrived = true,
            Parcel::Reset => {}
        }
        Some(parcel)
    }

    /// Reads what arrived into `into`, as much as fits.
    pub(super) fn read(&mut self, into: &mut [u8]) -> usize {
        let length = into.len().min(self.arrived.len());
        let (front, back) = self.arrived.as_slices();
        let split = front.len().min(length);
        into[..split].copy_from_slice(&front[..split]);
        into[split..length].copy_from_slice(&back[..length - split]);
        self.arrived.drain(..length);
        length
    }

    /// Loses what arrived and was not read.
    pub(super) fn discard_unread(&mut self) {
        self.arrived.clear();
    }
}

impl Link {
    /// What arrives, or has arrived, at the end `side`.
    pub(super) fn incoming(&self, side: usize) -> &Pipe {
        &self.pipes[1 - side]
    }

    pub(super) fn incoming_mut(&mut self, side: usize) -> &mut Pipe {
        &mut self.pipes[1 - side]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_keep_their_room_until_they_arrive_and_the_window_until_they_are_read() {
        let mut pipe = Pipe::new(4, 3);
        let parts = [IoSlice::new(b"ab"), IoSlice::new(b"cdef")];
        assert_eq!(pipe.take(&parts, usize::MAX), 4);
        assert_eq!((pipe.room(), pipe.sendable(true)), (0, 3));
        pipe.post_bytes(2);
        assert_eq!(
            pipe.sendable(true),
            1,
            "the window counts what is under way"
        );
        assert_eq!(pipe.deliver(), Some(Parcel::Bytes(2)));
        assert_eq!((pipe.room(), pipe.unread()), (2, 2));
        pipe.finished = true;
        assert!(!pipe.post_fin(), "two bytes are still to be posted");
        let mut into = [0; 8];
        assert_eq!(pipe.read(&mut into), 2);
        assert_eq!(&into[..2], b"ab");
        pipe.post_bytes(2);
        assert!(pipe.post_fin() && !pipe.post_fin());
        assert_eq!(pipe.deliver(), Some(Parcel::Bytes(2)));
        assert_eq!(pipe.deliver(), Some(Parcel::Fin));
        assert_eq!(pipe.deliver(), None);
    }

    #[test]
    fn a_reset_loses_what_is_not_under_way_or_everything() {
        for (discard, expected) in [(false, Some(Parcel::Bytes(1))), (true, Some(Parcel::Reset))] {
            let mut pipe = Pipe::new(4, 4);
            pipe.take(&[IoSlice::new(b"abc")], usize::MAX);
            pipe.post_bytes(1);
            assert!(pipe.post_reset(discard) && !pipe.post_reset(discard));
            assert_eq!(pipe.sendable(true), 0);
            assert_eq!(pipe.deliver(), expected);
        }
    }
}

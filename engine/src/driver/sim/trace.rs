//! The running hash over everything that happens, and the record of the last of it.

use std::collections::VecDeque;
use std::fmt;

use super::random::mix;
use crate::time::Time;

/// What happened in the simulated network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SimEventKind {
    /// A connection attempt began.
    Connect,
    /// The attempt was refused.
    Refused,
    /// The attempt was given up: nobody answered.
    TimedOut,
    /// The attempt reached a listener's queue.
    Queued,
    /// The connecting end learned that the connection is made.
    Established,
    /// The connection was accepted.
    Accepted,
    /// Accepting failed for want of descriptors.
    AcceptFailed,
    /// The end's send buffer took bytes.
    Taken,
    /// A send took nothing.
    Pending,
    /// Bytes arrived at the end's receive buffer.
    Arrived,
    /// The end read bytes.
    Read,
    /// The end was told that it can send again.
    Writable,
    /// The peer's FIN arrived at the end.
    FinArrived,
    /// The end learned that the other one has finished.
    ReadClosed,
    /// The peer's RST arrived at the end.
    ResetArrived,
    /// The network broke the connection.
    NetworkReset,
    /// A direction, or both, stalls.
    Stalled,
    /// The end learned that the connection is broken.
    Failed,
    /// The end finished sending.
    Finished,
    /// The end was closed.
    Closed,
    /// A shard turned; `connection` is the shard's number.
    Turn,
}

/// One event of the trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SimEvent {
    /// When, in virtual time.
    pub at: Time,
    /// The connection, by order of birth.
    pub connection: u64,
    /// The end it happened to: 0 the one that connected, 1 the one that accepted.
    pub end: u8,
    /// What happened.
    pub kind: SimEventKind,
    /// Bytes concerned; nanoseconds for [`SimEventKind::Stalled`].
    pub length: u64,
}

impl fmt::Display for SimEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.at.as_nanos() / 1000;
        let rest = self.at.as_nanos() % 1000;
        write!(f, "{micros:>10}.{rest:03} µs  ")?;
        if self.kind == SimEventKind::Turn {
            return write!(f, "shard {} turns", self.connection);
        }
        write!(
            f,
            "connection {} end {}: {:?}",
            self.connection, self.end, self.kind
        )?;
        if self.length > 0 {
            write!(f, " {}", self.length)
        } else {
            Ok(())
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Trace {
    hash: u64,
    kept: VecDeque<SimEvent>,
    keep: usize,
}

impl Trace {
    pub(super) fn add(&mut self, event: SimEvent) {
        let what = u64::from(event.end) << 8 | event.kind as u64;
        for word in [event.at.as_nanos(), event.connection, what, event.length] {
            self.hash = mix(self.hash.rotate_left(5) ^ word).wrapping_add(1);
        }
        if self.keep > 0 {
            if self.kept.len() == self.keep {
                self.kept.pop_front();
            }
            self.kept.push_back(event);
        }
    }

    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    pub(super) fn keep_last(&mut self, events: usize) {
        self.keep = events;
        while self.kept.len() > events {
            self.kept.pop_front();
        }
    }

    pub(super) fn kept(&self) -> Vec<SimEvent> {
        self.kept.iter().copied().collect()
    }
}

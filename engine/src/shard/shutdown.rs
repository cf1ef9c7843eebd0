//! Ending: a phase, not an event.
//!
//! | phase | what happens | leaves it when |
//! |---|---|---|
//! | `Running` | everything | `Shutdown` comes |
//! | `Finishing` | nothing is accepted or connected; handlers finish; messages are still handled | no pending work (or half of the time) and silence (or a quarter of it) |
//! | `Flushing` | every connection is closed gracefully | no connection is left here and none on its way here, or the deadline |
//! | `Stopped` | nothing | – |

use std::fmt;
use std::io;
use std::time::Duration;

use super::Shard;
use super::envelope::Envelope;
use crate::context::Context;
use crate::driver::Driver;
use crate::error::CloseReason;
use crate::handler::Handler;
use crate::time::Time;

/// What is still coming in is handled during the first 1/4 of the time: peers and threads that
/// never fall silent leave the rest to the flushing of queues.
const NOISE_SHARE: u32 = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Running,
    Finishing { began: Time, deadline: Time },
    Flushing { began: Time, deadline: Time },
    Stopped,
}

impl Phase {
    /// When the phase ends at the latest.
    pub(super) fn deadline(self) -> Time {
        match self {
            Self::Running | Self::Stopped => Time::MAX,
            Self::Finishing { began, deadline } => half_way(began, deadline),
            Self::Flushing { deadline, .. } => deadline,
        }
    }
}

fn half_way(began: Time, deadline: Time) -> Time {
    Time::from_nanos(began.as_nanos() / 2 + deadline.as_nanos() / 2)
}

/// What a shutdown did, and what was lost.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DrainReport {
    /// Connections that lived when the shutdown began.
    pub connections: u64,
    /// Of these: everything queued for them was written.
    pub flushed: u64,
    /// The others: cut off with unsent bytes at the deadline (or the linger time), or broken
    /// meanwhile.
    pub cut: u64,
    /// Bytes that were queued for connections and not written.
    pub bytes_lost: u64,
    /// Work that handlers had not finished at the deadline.
    pub work_lost: u64,
    /// Messages in mailboxes that nobody handled.
    pub mailbox_lost: u64,
    /// How long the shutdown took (the longest of all shards).
    pub elapsed: Duration,
    /// Shards that ended because their driver failed (epoll itself, not a connection). All their
    /// connections are among the cut ones.
    pub shards_failed: u64,
}

impl DrainReport {
    /// True if nothing was lost and no shard failed.
    pub fn is_clean(&self) -> bool {
        let lost = [self.cut, self.bytes_lost, self.work_lost, self.mailbox_lost];
        lost == [0; 4] && self.shards_failed == 0
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.connections += other.connections;
        self.flushed += other.flushed;
        self.cut += other.cut;
        self.bytes_lost += other.bytes_lost;
        self.work_lost += other.work_lost;
        self.mailbox_lost += other.mailbox_lost;
        self.elapsed = self.elapsed.max(other.elapsed);
        self.shards_failed += other.shards_failed;
    }
}

impl fmt::Display for DrainReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} connections: {} flushed and closed, {} cut; lost: {} bytes, {} pieces of work, \
             {} mailbox messages; took {:.3} s",
            self.connections,
            self.flushed,
            self.cut,
            self.bytes_lost,
            self.work_lost,
            self.mailbox_lost,
            self.elapsed.as_secs_f64()
        )?;
        if self.shards_failed > 0 {
            write!(f, "; {} shards failed", self.shards_failed)?;
        }
        Ok(())
    }
}

impl<D: Driver, H: Handler> Shard<D, H> {
    pub(super) fn begin_shutdown(&mut self, within: Duration) {
        if self.phase != Phase::Running {
            return;
        }
        let began = self.core.now;
        self.phase = Phase::Finishing {
            began,
            deadline: began + within,
        };
        self.core.shutting_down = true;
        for listener in 0..self.listening.len() {
            self.driver.unlisten(listener as u32);
        }
        self.cancel_all_connects();
        self.core.end_handshakes();
        self.run_ops();
        self.core.shared.begin_ending();
        self.report.connections = self.core.connections.len() as u64;
        self.lost_before = self.core.stats.bytes_lost;
        self.handler.on_shutdown(&mut Context::new(&mut self.core));
        self.run_ops();
    }

    /// Goes on with the shutdown, at the end of each turn.
    pub(super) fn step_shutdown(&mut self) {
        if let Phase::Finishing { began, deadline } = self.phase {
            let work = self.handler.pending_work();
            let now = self.core.now;
            let noise = !self.mailbox.is_empty() || self.driver.has_ready();
            let patient = now < began + deadline.since(began) / NOISE_SHARE;
            if now < half_way(began, deadline) && (work > 0 || noise && patient) {
                return;
            }
            self.report.work_lost = work as u64;
            self.phase = Phase::Flushing { began, deadline };
            self.core.close_all();
            self.run_ops();
            self.flush_dirty();
        }
        if let Phase::Flushing { began, deadline } = self.phase {
            let some_are_left = self.core.connections.len() > 0 || !self.core.shared.all_ending();
            if (some_are_left || self.mailbox.has_control()) && self.core.now < deadline {
                return;
            }
            self.stop(began);
        }
    }

    /// Ends what is left at the deadline.
    fn cut_off(&mut self) {
        let left: Vec<u32> = self.core.connections.iter().map(|(slot, _)| slot).collect();
        for slot in left {
            self.core.kill(slot, CloseReason::Shutdown);
        }
        self.run_ops();
    }

    fn stop(&mut self, began: Time) {
        self.mailbox.mailbox().close();
        while let Some(envelope) = self.mailbox.pop_control().or_else(|| self.mailbox.pop()) {
            match envelope {
                // Too late, but its end has to be told.
                Envelope::Adopt(moved) => self.adopt(*moved),
                envelope => self.report.mailbox_lost += u64::from(envelope.is_work()),
            }
        }
        self.cut_off();
        self.phase = Phase::Stopped;
        self.report.elapsed = self.driver.now().since(began);
        self.report.bytes_lost = self.core.stats.bytes_lost - self.lost_before;
        self.report.cut = self.core.cut;
        self.report.flushed = self.report.connections.saturating_sub(self.report.cut);
    }

    /// The driver failed: the shard ends here and now, and its handler is told of every
    /// connection.
    pub(crate) fn fail(&mut self, error: io::Error) -> DrainReport {
        let reason = CloseReason::Broken(error);
        let running = self.phase == Phase::Running;
        let began = self.core.now;
        if running {
            self.core.shutting_down = true;
            self.report.connections = self.core.connections.len() as u64;
            self.lost_before = self.core.stats.bytes_lost;
            self.core.shared.begin_ending();
            self.cancel_all_connects();
        }
        self.report.work_lost = self.handler.pending_work() as u64;
        let left: Vec<u32> = self.core.connections.iter().map(|(slot, _)| slot).collect();
        for slot in left {
            self.core.kill(slot, reason.duplicate());
        }
        self.run_ops();
        self.stop(began);
        self.report.shards_failed = 1;
        self.report.clone()
    }

    /// The report, once the shard has stopped.
    pub(crate) fn stopped(&self) -> Option<&DrainReport> {
        (self.phase == Phase::Stopped).then_some(&self.report)
    }
}

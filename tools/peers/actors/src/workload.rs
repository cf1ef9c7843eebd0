//! What the actors are made to do, how long, and how it is checked that they did it.
//!
//! Who touches what:
//!
//! | state | written by | read by |
//! |---|---|---|
//! | [`Tally`] | its actor | nobody, until the actor reports it |
//! | `Ledger::processed` | the actors, all on one thread | the producer |
//! | `Ledger::reports` | an actor that ends, once | [`Ledger::verify`], at the end |
//! | `Court::until` | the driver, while the ball rests | both players |
//! | `Court::sides` | each player its own | the other player, now and then |

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::process;

/// A workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Workload {
    /// Two actors on one thread tell each other in turn
    PingPong,
    /// A producer tells one actor, both on one thread
    FanIn,
    /// A producer tells many actors in turn, all on one thread
    RoundRobin,
    /// What an actor costs that waits for its next message
    IdleMemory,
    /// Ping-pong between two threads, each actor on a scheduler of its own
    TwoThreads,
    /// Ping-pong on a work-stealing scheduler with two threads
    WorkStealing,
}

impl Workload {
    /// What its result counts.
    pub(crate) fn unit(self) -> &'static str {
        match self {
            Self::PingPong | Self::TwoThreads | Self::WorkStealing => "round trips/s",
            Self::FanIn | Self::RoundRobin => "tells/s",
            Self::IdleMemory => "bytes per actor",
        }
    }

    /// True if less is better.
    pub(crate) fn is_cost(self) -> bool {
        self == Self::IdleMemory
    }

    /// Actors, unless the command line says otherwise.
    pub(crate) fn actors(self) -> u32 {
        match self {
            Self::PingPong | Self::TwoThreads | Self::WorkStealing => 2,
            Self::FanIn => 1,
            Self::RoundRobin => 10_000,
            Self::IdleMemory => 100_000,
        }
    }

    /// True if [`Job::actors`] may differ from [`Workload::actors`].
    pub(crate) fn takes_actors(self) -> bool {
        matches!(self, Self::RoundRobin | Self::IdleMemory)
    }
}

/// When a phase of a run is over.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Amount {
    Messages(u64),
    For(Duration),
}

/// One run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Job {
    pub(crate) workload: Workload,
    pub(crate) actors: u32,
    /// Most messages told and not yet handled, in fan-in and round-robin.
    pub(crate) in_flight: u64,
    pub(crate) warm_up: Amount,
    pub(crate) measured: Amount,
}

impl Job {
    /// The warm-up, then what is measured.
    pub(crate) fn phases(&self) -> [Amount; 2] {
        [self.warm_up, self.measured]
    }
}

/// What a run found.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Outcome {
    /// Messages handled in the measured part.
    pub(crate) messages: u64,
    pub(crate) elapsed: Duration,
    /// Bytes of memory that the actors took, where that is measured.
    pub(crate) bytes: Option<u64>,
    /// Share of the time that the measuring thread was on a CPU, where all happens on it: well
    /// below 1, the machine was busy with something else.
    pub(crate) on_cpu: Option<f64>,
    /// Share of the messages for which the two players were on different threads, where they
    /// may be; sampled.
    pub(crate) apart: Option<f64>,
}

/// Counts a phase down in batches.
#[derive(Debug)]
pub(crate) struct Pace {
    amount: Amount,
    begin: Instant,
    cpu: Option<Duration>,
    sent: u64,
    batch: u64,
}

impl Pace {
    /// Begins a phase now, in batches of at most `batch` messages.
    pub(crate) fn begin(amount: Amount, batch: u64) -> Self {
        Self {
            amount,
            cpu: process::thread_cpu(),
            begin: Instant::now(),
            sent: 0,
            batch,
        }
    }

    /// How many messages to send now; none when the phase is over. The clock is read once a batch.
    pub(crate) fn next_batch(&mut self) -> Option<u64> {
        let batch = match self.amount {
            Amount::Messages(all) => (all - self.sent).min(self.batch),
            // One batch at least, so that every run measures something.
            Amount::For(time) if self.sent == 0 || self.begin.elapsed() < time => self.batch,
            Amount::For(_) => 0,
        };
        self.sent += batch;
        (batch > 0).then_some(batch)
    }

    /// What the phase took. To be called when all it sent has been handled.
    pub(crate) fn end(self) -> Outcome {
        let elapsed = self.begin.elapsed();
        let on_cpu = || {
            let cpu = process::thread_cpu()?.checked_sub(self.cpu?)?;
            // The kernel's account lags by up to a tick.
            (elapsed >= Duration::from_millis(100)).then(|| cpu.div_duration_f64(elapsed).min(1.0))
        };
        Outcome {
            messages: self.sent,
            elapsed,
            on_cpu: on_cpu(),
            ..Outcome::default()
        }
    }
}

/// What one actor has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    count: u64,
    sum: u64,
    last: u64,
    /// Messages that were not above the one before: every sender counts up from 1.
    disordered: u64,
}

impl Tally {
    #[inline]
    fn take(&mut self, message: u64) {
        self.count += 1;
        self.sum = self.sum.wrapping_add(message);
        self.disordered += u64::from(message <= self.last);
        self.last = message;
    }

    /// What an actor has seen to whom the `count` numbers from `first` on, `step` apart, were told.
    fn expected(first: u64, step: u64, count: u64) -> Self {
        let steps = u128::from(count) * u128::from(count.saturating_sub(1)) / 2;
        let sum = u128::from(count) * u128::from(first) + u128::from(step) * steps;
        Self {
            count,
            sum: sum as u64, // modulo 2^64, as `take` adds
            last: if count == 0 {
                0
            } else {
                first + step * (count - 1)
            },
            disordered: 0,
        }
    }
}

/// Where the actors of a run report what they have seen.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    processed: AtomicU64,
    reports: Mutex<Vec<(u32, Tally)>>,
}

impl Ledger {
    /// Messages handled so far by all [`Counter`]s.
    #[inline]
    pub(crate) fn processed(&self) -> u64 {
        self.processed.load(Ordering::Acquire)
    }

    /// How many actors have ended.
    pub(crate) fn reported(&self) -> usize {
        self.lock().len()
    }

    fn report(&self, index: u32, tally: Tally) {
        self.lock().push((index, tally));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(u32, Tally)>> {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Compares what each of `actors` actors has seen with what it was told, when the numbers from
    /// 1 to `sent` went to them in turn.
    ///
    /// # Errors
    /// The first actor for which they differ, or one that has not reported or did so twice.
    pub(crate) fn verify(&self, actors: u32, sent: u64) -> Result<(), String> {
        let mut reports = self.lock();
        reports.sort_by_key(|&(index, _)| index);
        if reports.len() != actors as usize {
            return Err(format!("{} of {actors} actors reported", reports.len()));
        }
        for (expected, &(index, seen)) in (0..actors).zip(reports.iter()) {
            if index != expected {
                return Err(format!("actor {expected} did not report, or another twice"));
            }
            let step = u64::from(actors);
            let told = (sent + step - 1 - u64::from(index)) / step;
            let told = Tally::expected(u64::from(index) + 1, step, told);
            if seen != told {
                return Err(format!("actor {index} was told {told:?} but saw {seen:?}"));
            }
        }
        Ok(())
    }
}

/// The state of an actor that counts what it is told. It reports when it is dropped.
#[derive(Debug)]
pub(crate) struct Counter {
    index: u32,
    tally: Tally,
    ledger: Arc<Ledger>,
}

impl Counter {
    /// The state of actor `index`, counted from 0.
    pub(crate) fn new(index: u32, ledger: &Arc<Ledger>) -> Self {
        Self {
            index,
            tally: Tally::default(),
            ledger: Arc::clone(ledger),
        }
    }

    /// Handles a message.
    #[inline]
    pub(crate) fn take(&mut self, message: u64) {
        self.tally.take(message);
        // A load and a store, no locked instruction: all counters of a run share one thread.
        let processed = &self.ledger.processed;
        processed.store(processed.load(Ordering::Relaxed) + 1, Ordering::Release);
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        self.ledger.report(self.index, self.tally);
    }
}

/// Tells a player to pass it on and leave.
pub(crate) const LEAVE: u64 = u64::MAX;

/// A player says on which thread it is once in so many messages.
const LOOK_EVERY: u64 = 64;

/// Where two players are.
#[derive(Debug, Default)]
pub(crate) struct Court {
    until: AtomicU64,
    over: Notify,
    sides: [Side; 2],
    ledger: Ledger,
}

/// A player's own cache line.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Side {
    thread: AtomicU64,
    looks: AtomicU64,
    apart: AtomicU64,
}

/// What a player does with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Play {
    /// Tells the other player this.
    Return(u64),
    /// Nothing: the rally is over, the driver knows.
    Rest,
    /// Passes [`LEAVE`] on and ends.
    Leave,
}

/// The state of an actor that plays ping-pong. It reports when it is dropped.
#[derive(Debug)]
pub(crate) struct Player {
    side: usize,
    tally: Tally,
    /// The threads are of interest.
    watched: bool,
    court: Arc<Court>,
}

impl Player {
    /// Side 0, which gets the odd numbers, and side 1.
    pub(crate) fn pair(court: &Arc<Court>, watched: bool) -> [Self; 2] {
        [0, 1].map(|side| Self {
            side,
            tally: Tally::default(),
            watched,
            court: Arc::clone(court),
        })
    }

    /// Handles a message.
    #[inline]
    pub(crate) fn receive(&mut self, message: u64) -> Play {
        if message == LEAVE {
            return Play::Leave;
        }
        self.tally.take(message);
        if self.watched && self.tally.count.is_multiple_of(LOOK_EVERY) {
            self.court.look(self.side);
        }
        if message < self.court.until.load(Ordering::Relaxed) {
            return Play::Return(message + 1);
        }
        self.court.over.notify_one();
        Play::Rest
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        self.court.ledger.report(self.side as u32, self.tally);
    }
}

thread_local! {
    /// A number of this thread, from 1.
    static THREAD: u64 = {
        static THREADS: AtomicU64 = AtomicU64::new(0);
        THREADS.fetch_add(1, Ordering::Relaxed) + 1
    };
}

impl Court {
    /// Lets the rally that the next message begins end with the number `until`, which must be
    /// even, so that player 1 ends it. To be called while the ball rests.
    pub(crate) fn play_until(&self, until: u64) {
        debug_assert!(until.is_multiple_of(2));
        self.until.store(until, Ordering::Relaxed); // published by the message that follows
    }

    /// Waits for the end of the rally.
    pub(crate) async fn over(&self) {
        self.over.notified().await;
    }

    #[cold]
    fn look(&self, side: usize) {
        let here = THREAD.with(|thread| *thread);
        let (mine, other) = (&self.sides[side], &self.sides[1 - side]);
        mine.thread.store(here, Ordering::Relaxed);
        let there = other.thread.load(Ordering::Relaxed);
        mine.looks
            .fetch_add(u64::from(there != 0), Ordering::Relaxed);
        mine.apart
            .fetch_add(u64::from(there != 0 && there != here), Ordering::Relaxed);
    }

    /// The share of looks at which the other was on another thread, if there were any.
    pub(crate) fn apart(&self) -> Option<f64> {
        let sum = |of: fn(&Side) -> &AtomicU64| -> u64 {
            let sides = self.sides.iter();
            sides.map(|side| of(side).load(Ordering::Relaxed)).sum()
        };
        let (looks, apart) = (sum(|side| &side.looks), sum(|side| &side.apart));
        (looks > 0).then(|| apart as f64 / looks as f64)
    }

    /// How many players have left.
    pub(crate) fn left(&self) -> usize {
        self.ledger.reported()
    }

    /// Compares what both have seen with what was played: the numbers from 1 to `played`.
    ///
    /// # Errors
    /// As [`Ledger::verify`].
    pub(crate) fn verify(&self, played: u64) -> Result<(), String> {
        self.ledger.verify(2, played)
    }
}

#[cfg(test)]
mod tests;

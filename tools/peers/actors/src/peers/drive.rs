//! The workloads, for whatever runs on tokio: written once, compiled for each library with its
//! own way to tell, so that what differs is the library.
//!
//! Schedulers are built without I/O and timers, which no workload needs: a turn of the loop then
//! costs no system call.

use std::io;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::oneshot;
use tokio::task::yield_now;

use crate::process;
use crate::workload::{Counter, Court, Job, LEAVE, Ledger, Outcome, Pace, Player, Workload};

/// Most messages of one rally: after them the clock is read. Even, as [`Court`] wants it.
const RALLY: u64 = 8192;

/// Most messages told between two looks at how many are in flight, and at the clock.
const BATCH: u64 = 256;

/// Messages that one bounded mailbox holds: as many as fan-in has in flight by default.
pub(super) const MAILBOX: usize = 1024;

/// Actors started before they get to run, so that the run queue stays short.
const STARTED_TOGETHER: u32 = 256;

/// What an actor is written for, where there is a choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Load {
    /// Many messages wait when it gets to run.
    Flood,
    /// One message waits, or few.
    Trickle,
}

/// A library of actors.
pub(super) trait Actors {
    /// Tells a [`Counter`], and keeps it alive.
    type CounterRef;
    /// Tells a [`Player`].
    type PlayerRef;
    /// Where an actor may be started.
    type Place;

    /// Starts an actor on the scheduler that runs this.
    async fn counter(state: Counter, load: Load) -> Result<Self::CounterRef, String>;

    /// Tells it a message, waiting for room if its mailbox has a bound.
    async fn tell(counter: &Self::CounterRef, message: u64) -> Result<(), String>;

    /// Starts two actors that know each other; a reference to the first.
    async fn pair(states: [Player; 2], on: [&Self::Place; 2]) -> Result<Self::PlayerRef, String>;

    /// Tells it a message.
    async fn serve(player: &Self::PlayerRef, message: u64) -> Result<(), String>;

    /// Ends an actor. Most end when nobody can tell them anything any more.
    fn end(counter: Self::CounterRef) {
        drop(counter);
    }
}

/// What is said when an actor cannot be told anything.
pub(super) fn gone<E>(_: E) -> String {
    "an actor ended early".to_owned()
}

/// A scheduler for one thread.
pub(super) fn one_thread() -> io::Result<Runtime> {
    Builder::new_current_thread().build()
}

/// Runs a job on tokio's schedulers.
pub(super) fn on_tokio<A: Actors<Place = Handle>>(job: &Job) -> Result<Outcome, String> {
    let error = |error: io::Error| error.to_string();
    match job.workload {
        Workload::TwoThreads => {
            let elsewhere = [Elsewhere::start()?, Elsewhere::start()?];
            let on = [&elsewhere[0].handle, &elsewhere[1].handle];
            one_thread().map_err(error)?.block_on(rally::<A>(job, on))
        }
        Workload::WorkStealing => {
            let mut builder = Builder::new_multi_thread();
            let runtime = builder.worker_threads(2).build().map_err(error)?;
            runtime.block_on(rally::<A>(job, [runtime.handle(); 2]))
        }
        _ => {
            let runtime = one_thread().map_err(error)?;
            runtime.block_on(one_threaded::<A>(job, runtime.handle()))
        }
    }
}

/// Runs a job that needs one thread only: this.
pub(super) async fn one_threaded<A: Actors>(job: &Job, here: &A::Place) -> Result<Outcome, String> {
    match job.workload {
        Workload::PingPong => rally::<A>(job, [here, here]).await,
        Workload::FanIn | Workload::RoundRobin => tell_all::<A>(job).await,
        Workload::IdleMemory => idle::<A>(job).await,
        Workload::TwoThreads | Workload::WorkStealing => Err("needs two threads".to_owned()),
    }
}

/// Ping-pong: long rallies, between which the clock is read.
pub(super) async fn rally<A: Actors>(job: &Job, on: [&A::Place; 2]) -> Result<Outcome, String> {
    let court = Arc::new(Court::default());
    let watched = job.workload != Workload::PingPong;
    let first = A::pair(Player::pair(&court, watched), on).await?;
    let (mut played, mut outcome) = (0, Outcome::default());
    for amount in job.phases() {
        let mut pace = Pace::begin(amount, RALLY);
        while let Some(messages) = pace.next_batch() {
            court.play_until(played + messages);
            A::serve(&first, played + 1).await?;
            court.over().await;
            played += messages;
        }
        outcome = pace.end();
    }
    if watched {
        outcome.apart = court.apart();
        outcome.on_cpu = None; // this thread only waited
    }
    A::serve(&first, LEAVE).await?;
    while court.left() < 2 {
        yield_now().await;
    }
    court.verify(played)?;
    Ok(outcome)
}

/// The actors of a job and the one producer that tells them in turn.
struct Producer<A: Actors> {
    counters: Vec<A::CounterRef>,
    ledger: Arc<Ledger>,
    sent: u64,
    in_flight: u64,
}

impl<A: Actors> Producer<A> {
    fn new(job: &Job) -> Self {
        Self {
            counters: Vec::with_capacity(job.actors as usize),
            ledger: Arc::new(Ledger::default()),
            sent: 0,
            in_flight: job.in_flight,
        }
    }

    async fn start(&mut self, actors: u32, load: Load) -> Result<(), String> {
        for index in 0..actors {
            let state = Counter::new(index, &self.ledger);
            self.counters.push(A::counter(state, load).await?);
            if index % STARTED_TOGETHER == 0 {
                yield_now().await;
            }
        }
        yield_now().await;
        Ok(())
    }

    /// Tells until the pace is over, and waits until all is handled.
    async fn keep(&mut self, mut pace: Pace) -> Result<Outcome, String> {
        let actors = self.counters.len();
        let mut next = (self.sent % actors as u64) as usize;
        while let Some(messages) = pace.next_batch() {
            while self.sent + messages > self.ledger.processed() + self.in_flight {
                yield_now().await;
            }
            for message in self.sent + 1..=self.sent + messages {
                A::tell(&self.counters[next], message).await?;
                next = if next + 1 == actors { 0 } else { next + 1 };
            }
            self.sent += messages;
        }
        while self.ledger.processed() < self.sent {
            yield_now().await;
        }
        Ok(pace.end())
    }

    /// Ends the actors and compares what they saw with what they were told.
    async fn finish(mut self) -> Result<(), String> {
        let actors = self.counters.len();
        self.counters.drain(..).for_each(A::end);
        while self.ledger.reported() < actors {
            yield_now().await;
        }
        self.ledger.verify(actors as u32, self.sent)
    }

    fn batch(&self) -> u64 {
        BATCH.min(self.in_flight)
    }
}

/// Fan-in, with one actor, and round-robin.
async fn tell_all<A: Actors>(job: &Job) -> Result<Outcome, String> {
    let mut producer = Producer::<A>::new(job);
    let load = match job.workload {
        Workload::FanIn => Load::Flood,
        _ => Load::Trickle,
    };
    producer.start(job.actors, load).await?;
    let mut outcome = Outcome::default();
    for amount in job.phases() {
        let pace = Pace::begin(amount, producer.batch());
        outcome = producer.keep(pace).await?;
    }
    producer.finish().await?;
    Ok(outcome)
}

/// What memory grows by when actors are started and each has handled one message.
async fn idle<A: Actors>(job: &Job) -> Result<Outcome, String> {
    // What the first actor of all needs is not a cost of each.
    let mut warm = Producer::<A>::new(&Job { actors: 1, ..*job });
    warm.start(1, Load::Trickle).await?;
    warm.keep(Pace::begin(job.warm_up, 1)).await?;
    warm.finish().await?;

    let mut producer = Producer::<A>::new(job);
    let before = process::resident_bytes()?;
    producer.start(job.actors, Load::Trickle).await?;
    let pace = Pace::begin(job.measured, producer.batch());
    let mut outcome = producer.keep(pace).await?;
    let after = process::resident_bytes()?;
    outcome.bytes = Some(after.saturating_sub(before));
    producer.finish().await?;
    Ok(outcome)
}

/// A thread with a scheduler of its own. It ends when this is dropped.
struct Elsewhere {
    handle: Handle,
    _end: oneshot::Sender<()>,
}

impl Elsewhere {
    fn start() -> Result<Self, String> {
        let (end, ended) = oneshot::channel::<()>();
        let (tell, told) = mpsc::channel();
        let body = move || {
            let runtime = match one_thread() {
                Ok(runtime) => runtime,
                Err(error) => return drop(tell.send(Err(error.to_string()))),
            };
            if tell.send(Ok(runtime.handle().clone())).is_ok() {
                let _ = runtime.block_on(ended); // an error is the sender's end, which is meant
            }
        };
        let spawned = thread::Builder::new()
            .name("elsewhere".to_owned())
            .spawn(body);
        spawned.map_err(|error| error.to_string())?;
        let handle = told.recv().map_err(|error| error.to_string())??;
        Ok(Self { handle, _end: end })
    }
}

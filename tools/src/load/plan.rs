//! The plan of a run: orders to the client threads at the right times, and what they report.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use proscenium_engine::Handle;

use super::Scenario;
use super::args::LoadOptions;
use super::client::{ConnectTally, JoinTally, Order, Outcome, Progress, Report};
use super::progress::ProgressLine;
use super::window::{Phase, Tally};
use crate::errno::ErrorCounts;
use crate::process::{Process, ThreadTime};

/// How often the plan looks at the clock, the signals and the progress line.
const LOOK: Duration = Duration::from_millis(50);

/// After the last awaited answer: how long to listen for answers that nobody asked for.
const SETTLE: Duration = Duration::from_millis(50);

/// How long all clients together may take to be let in.
const JOIN_DEADLINE: Duration = Duration::from_secs(60);

/// How long the client threads may take to hand over their results.
const FINISH_DEADLINE: Duration = Duration::from_secs(30);

/// A client thread that uses this share of its core is the limit of the measurement.
pub(crate) const CLIENT_BOUND: f64 = 0.95;

/// What a whole run measured.
#[derive(Debug)]
pub(super) struct Measured {
    /// Connections asked for.
    pub(super) connections: u64,
    pub(super) threads: usize,
    pub(super) tally: Tally,
    pub(super) connect: ConnectTally,
    /// Who was let in, where clients have to be.
    pub(super) join: Option<JoinTally>,
    pub(super) latency: Histogram<u64>,
    /// Answers per second inside the measuring window.
    pub(super) throughput: f64,
    /// Connections that still waited when the drain's time was over.
    pub(super) waiting: u64,
    pub(super) overdue: u64,
    pub(super) errors: ErrorCounts,
    pub(super) connect_time: Duration,
    pub(super) join_time: Duration,
    pub(super) warmup_time: Duration,
    pub(super) measure_time: Duration,
    pub(super) drain_time: Duration,
    /// The server's CPU time between two samples at the ends of the window, and the answers
    /// between them.
    pub(super) server: Option<(Duration, u64)>,
    pub(super) server_rss_peak_bytes: Option<u64>,
    /// The server's CPU time while the connections were made, their handshakes included.
    pub(super) server_connecting: Option<Duration>,
    /// Share of its cores that the client used inside the window, over all threads.
    pub(super) client_cpu_share: f64,
    /// The same of the busiest thread.
    pub(super) client_thread_share: f64,
    /// True if the user broke the run off.
    pub(super) interrupted: bool,
}

impl Measured {
    pub(super) fn is_client_bound(&self) -> bool {
        self.client_thread_share >= CLIENT_BOUND
    }

    pub(super) fn server_cpu_ns_per_message(&self) -> Option<f64> {
        let (cpu, answers) = self.server?;
        (answers > 0).then(|| cpu.as_nanos() as f64 / answers as f64)
    }

    pub(super) fn server_cpu_us_per_connect(&self) -> Option<f64> {
        let cpu = self.server_connecting?;
        (self.connect.made > 0).then(|| cpu.as_secs_f64() * 1e6 / self.connect.made as f64)
    }

    pub(super) fn server_cpu_share(&self) -> Option<f64> {
        let (cpu, _) = self.server?;
        let window = self.measure_time.as_secs_f64();
        (window > 0.0).then(|| cpu.as_secs_f64() / window)
    }
}

/// CPU times and answers at one end of the measuring window.
struct Sample {
    at: Instant,
    server: Option<Duration>,
    client: Vec<ThreadTime>,
    received: u64,
}

/// Times of the phases.
#[derive(Clone, Copy, Debug, Default)]
struct Times {
    connect: Duration,
    join: Duration,
    warmup: Duration,
    measure: Duration,
    drain: Duration,
}

/// A run under way.
pub(super) struct Plan<'a> {
    args: &'a LoadOptions,
    /// Clients have to be let in.
    joins: bool,
    handle: Handle<Order>,
    reports: Receiver<Report>,
    progress: &'a [Arc<Progress>],
    server: Option<Process>,
    interrupted: &'a AtomicBool,
    line: ProgressLine,
}

impl<'a> Plan<'a> {
    pub(super) fn new(
        args: &'a LoadOptions,
        joins: bool,
        handle: &Handle<Order>,
        reports: Receiver<Report>,
        progress: &'a [Arc<Progress>],
        server: Option<Process>,
        interrupted: &'a AtomicBool,
    ) -> Self {
        let handle = handle.clone();
        let line = ProgressLine::on_terminal();
        Self {
            args,
            joins,
            handle,
            reports,
            progress,
            server,
            interrupted,
            line,
        }
    }

    /// Goes through the phases.
    ///
    /// # Errors
    /// When the client itself failed.
    pub(super) fn run(mut self) -> Result<Measured, String> {
        let mut times = Times::default();
        let idle = self.server_time();
        let begin = Instant::now();
        self.order(|| Order::Connect)?;
        self.await_all(None, "connecting", |report| {
            matches!(report, Report::Connected)
        })?;
        times.connect = begin.elapsed();
        let connected = self.server_time();
        if self.joins && self.alive() > 0 {
            let begin = Instant::now();
            self.order(|| Order::Join)?;
            self.await_all(Some(JOIN_DEADLINE), "joining", |report| {
                matches!(report, Report::Joined)
            })?;
            times.join = begin.elapsed();
        }

        let samples = if self.args.scenario != Scenario::S1 && self.alive() > 0 {
            Some(self.exchange(&mut times)?)
        } else {
            None
        };

        let server_rss = self.server.and_then(|server| server.rss_peak_bytes().ok());
        self.order(|| Order::Finish)?;
        let outcomes = self.outcomes()?;
        self.line.clear();
        let interrupted = self.interrupted.load(Ordering::Relaxed);
        let mut measured = merge(outcomes, times);
        measured.join = measured.join.filter(|_| self.joins);
        if let Some((from, to)) = samples {
            compare(&mut measured, &from, &to);
        }
        measured.connections = u64::from(self.args.connections());
        measured.server_rss_peak_bytes = server_rss;
        measured.server_connecting = connected
            .zip(idle)
            .map(|(to, from)| to.saturating_sub(from));
        measured.interrupted = interrupted;
        Ok(measured)
    }

    /// Warm-up, measure and drain.
    fn exchange(&mut self, times: &mut Times) -> Result<(Sample, Sample), String> {
        let one_message = self.args.scenario == Scenario::S0;
        if !one_message {
            let begin = Instant::now();
            self.order(|| Order::Enter(Phase::Warmup))?;
            self.pass(self.args.warmup, "warm-up")?;
            times.warmup = begin.elapsed();
        }
        let begin = Instant::now();
        self.order(|| Order::Enter(Phase::Measure))?;
        let from = self.sample();
        let mut drained = 0;
        if one_message {
            // The window of s0 is the time until its one answer.
            let deadline = Some(self.args.drain);
            drained = self.await_all(deadline, "measure", |r| matches!(r, Report::Drained))?;
        } else {
            self.pass(self.args.measure, "measure")?;
        }
        let to = self.sample();
        times.measure = begin.elapsed();

        let begin = Instant::now();
        self.order(|| Order::Enter(Phase::Drain))?;
        if drained == 0 && !one_message {
            let deadline = Some(self.args.drain);
            self.await_all(deadline, "drain", |r| matches!(r, Report::Drained))?;
        }
        times.drain = begin.elapsed();
        self.pass(SETTLE, "settle")?;
        Ok((from, to))
    }

    /// Tells every client thread.
    fn order(&self, order: impl Fn() -> Order) -> Result<(), String> {
        for shard in 0..self.progress.len() {
            self.handle
                .post(shard, order())
                .map_err(|error| format!("client thread {shard} does not answer: {error}"))?;
        }
        Ok(())
    }

    /// Lets time pass; returns early when interrupted or when no connection is left.
    fn pass(&mut self, time: Duration, phase: &str) -> Result<(), String> {
        self.wait(Some(time), phase, |_| false).map(|_| ())
    }

    /// Waits until every client thread has sent a report of this kind; returns how many did.
    fn await_all(
        &mut self,
        deadline: Option<Duration>,
        phase: &str,
        kind: impl Fn(&Report) -> bool,
    ) -> Result<usize, String> {
        self.wait(deadline, phase, kind)
    }

    fn wait(
        &mut self,
        time: Option<Duration>,
        phase: &str,
        kind: impl Fn(&Report) -> bool,
    ) -> Result<usize, String> {
        let begin = Instant::now();
        let mut came = 0;
        while came < self.progress.len() {
            let left = time.map_or(LOOK, |time| time.saturating_sub(begin.elapsed()));
            if left.is_zero() || self.interrupted.load(Ordering::Relaxed) {
                break;
            }
            // While connections are being made none is a loss; later, without any, nothing comes.
            if time.is_some() && self.alive() == 0 {
                break;
            }
            match self.reports.recv_timeout(left.min(LOOK)) {
                Ok(report) if kind(&report) => came += 1,
                Ok(_) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(ended()),
            }
            self.line
                .show(phase, begin.elapsed(), time, self.progress, self.args.ccu);
        }
        Ok(came)
    }

    fn outcomes(&self) -> Result<Vec<Outcome>, String> {
        let deadline = Instant::now() + FINISH_DEADLINE;
        let mut outcomes = Vec::new();
        while outcomes.len() < self.progress.len() {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.reports.recv_timeout(left) {
                Ok(Report::Finished(outcome)) => outcomes.push(*outcome),
                Ok(_) => {}
                Err(_) => return Err(ended()),
            }
        }
        Ok(outcomes)
    }

    fn alive(&self) -> u64 {
        self.progress
            .iter()
            .map(|one| one.alive.load(Ordering::Relaxed))
            .sum()
    }

    fn server_time(&self) -> Option<Duration> {
        self.server.and_then(|server| server.cpu_time().ok())
    }

    fn sample(&self) -> Sample {
        Sample {
            at: Instant::now(),
            server: self.server_time(),
            client: Process::this().thread_times().unwrap_or_default(),
            received: self
                .progress
                .iter()
                .map(|one| one.received.load(Ordering::Relaxed))
                .sum(),
        }
    }
}

fn ended() -> String {
    "a client thread ended or does not answer; this is a fault of the tool".to_owned()
}

/// Adds up what the client threads measured.
fn merge(outcomes: Vec<Outcome>, times: Times) -> Measured {
    let threads = outcomes.len();
    let mut tally = Tally::default();
    let mut connect = ConnectTally::default();
    let mut join = JoinTally::default();
    let mut latency: Option<Histogram<u64>> = None;
    let mut errors = ErrorCounts::new();
    let (mut throughput, mut waiting, mut overdue) = (0.0, 0, 0);
    for outcome in outcomes {
        tally += outcome.tally;
        connect.made += outcome.connect.made;
        connect.failed += outcome.connect.failed;
        connect.timed_out += outcome.connect.timed_out;
        join.joined += outcome.join.joined;
        join.failed += outcome.join.failed;
        if !outcome.measured.is_zero() {
            let answers = outcome.tally.received_in_window as f64;
            throughput += answers / outcome.measured.as_secs_f64();
        }
        waiting += outcome.waiting;
        overdue += outcome.overdue;
        for (name, count) in outcome.errors {
            *errors.entry(name).or_default() += count;
        }
        match &mut latency {
            None => latency = Some(outcome.latency),
            Some(all) => all.add(&outcome.latency).expect("all have the same bounds"),
        }
    }
    Measured {
        connections: 0,
        threads,
        tally,
        connect,
        join: Some(join),
        latency: latency.unwrap_or_else(|| super::latency::Latency::new().finish()),
        throughput,
        waiting,
        overdue,
        errors,
        connect_time: times.connect,
        join_time: times.join,
        warmup_time: times.warmup,
        measure_time: times.measure,
        drain_time: times.drain,
        server: None,
        server_rss_peak_bytes: None,
        server_connecting: None,
        client_cpu_share: 0.0,
        client_thread_share: 0.0,
        interrupted: false,
    }
}

/// Fills in what lies between two samples.
fn compare(measured: &mut Measured, from: &Sample, to: &Sample) {
    let window = to.at.saturating_duration_since(from.at).as_secs_f64();
    if window > 0.0 {
        let shares: Vec<f64> = to
            .client
            .iter()
            .map(|thread| {
                let earlier = from.client.iter().find(|earlier| earlier.tid == thread.tid);
                let before = earlier.map_or(Duration::ZERO, |earlier| earlier.cpu);
                thread.cpu.saturating_sub(before).as_secs_f64() / window
            })
            .collect();
        measured.client_cpu_share = shares.iter().sum::<f64>() / measured.threads.max(1) as f64;
        measured.client_thread_share = shares.iter().copied().fold(0.0, f64::max);
    }
    if let (Some(before), Some(after)) = (from.server, to.server) {
        let answers = to.received.saturating_sub(from.received);
        measured.server = Some((after.saturating_sub(before), answers));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(answers: u64, seconds: u64) -> Outcome {
        let mut latency = super::super::latency::Latency::new();
        latency.begin_batch(5_000);
        latency.add(1_000);
        Outcome {
            tally: Tally {
                sent: answers,
                received: answers,
                received_in_window: answers,
                ..Tally::default()
            },
            latency: latency.finish(),
            connect: ConnectTally {
                made: 2,
                failed: 1,
                timed_out: 0,
            },
            join: JoinTally {
                joined: 1,
                failed: 1,
            },
            measured: Duration::from_secs(seconds),
            waiting: 1,
            overdue: 3,
            errors: [("ECONNREFUSED".to_owned(), 1)].into(),
        }
    }

    #[test]
    fn threads_add_up_each_over_its_own_window() {
        let all = merge(
            vec![outcome(1000, 1), outcome(1000, 2), outcome(0, 0)],
            Times::default(),
        );
        assert_eq!(all.throughput, 1500.0);
        assert_eq!(
            (all.tally.sent, all.connect.made, all.connect.failed),
            (2000, 6, 3)
        );
        let join = all.join.unwrap();
        assert_eq!((join.joined, join.failed), (3, 3));
        assert_eq!((all.waiting, all.overdue, all.latency.len()), (3, 9, 3));
        assert_eq!(all.errors["ECONNREFUSED"], 3);
    }

    #[test]
    fn cpu_shares_are_those_between_the_samples() {
        let at = Instant::now();
        let thread = |tid, millis| ThreadTime {
            tid,
            cpu: Duration::from_millis(millis),
        };
        let from = Sample {
            at,
            server: Some(Duration::from_millis(100)),
            client: vec![thread(1, 500), thread(2, 0)],
            received: 1_000,
        };
        let to = Sample {
            at: at + Duration::from_secs(1),
            server: Some(Duration::from_millis(600)),
            client: vec![thread(1, 510), thread(2, 960)],
            received: 1_001_000,
        };
        let mut measured = merge(vec![outcome(1, 1)], Times::default());
        measured.measure_time = Duration::from_secs(1);
        compare(&mut measured, &from, &to);
        assert!(
            (measured.client_cpu_share - 0.97).abs() < 1e-9,
            "{}",
            measured.client_cpu_share
        );
        assert!(measured.is_client_bound());
        assert_eq!(measured.server_cpu_ns_per_message(), Some(500.0));
        assert_eq!(measured.server_cpu_share(), Some(0.5));
    }

    #[test]
    fn without_answers_there_is_no_cost_per_message() {
        let mut measured = merge(vec![outcome(1, 1)], Times::default());
        assert_eq!(measured.server_cpu_ns_per_message(), None);
        assert_eq!(measured.server_cpu_us_per_connect(), None);
        measured.server_connecting = Some(Duration::from_millis(3));
        assert_eq!(measured.server_cpu_us_per_connect(), Some(1500.0));
        measured.server = Some((Duration::from_secs(1), 0));
        assert_eq!(measured.server_cpu_ns_per_message(), None);
    }
}

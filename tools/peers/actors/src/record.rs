//! The result of a run, for people and for programs.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::cli;
use crate::peers::Peer;
use crate::workload::{Job, Outcome, Workload};

/// The result of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) peer: Peer,
    pub(crate) version: String,
    pub(crate) workload: Workload,
    pub(crate) actors: u32,
    pub(crate) in_flight: u64,
    /// Messages handled in the measured part, all of them verified.
    pub(crate) messages: u64,
    /// What the measured part took.
    pub(crate) seconds: f64,
    /// In the workload's unit.
    pub(crate) result: f64,
    pub(crate) unit: String,
    /// Share of the time that the measuring thread was on a CPU, where all happens on it.
    pub(crate) on_cpu: Option<f64>,
    /// Share of the messages for which the two players were on different threads, where they may
    /// be.
    pub(crate) apart: Option<f64>,
}

impl Record {
    /// The record of a job.
    pub(crate) fn new(peer: Peer, job: &Job, outcome: &Outcome) -> Self {
        let seconds = outcome.elapsed.as_secs_f64();
        let rate = outcome.messages as f64 / seconds;
        let result = match job.workload {
            Workload::PingPong | Workload::TwoThreads | Workload::WorkStealing => rate / 2.0,
            Workload::FanIn | Workload::RoundRobin => rate,
            Workload::IdleMemory => outcome.bytes.unwrap_or(0) as f64 / f64::from(job.actors),
        };
        Self {
            peer,
            version: peer.version().to_owned(),
            workload: job.workload,
            actors: job.actors,
            in_flight: job.in_flight,
            messages: outcome.messages,
            seconds,
            result,
            unit: job.workload.unit().to_owned(),
            on_cpu: outcome.on_cpu,
            apart: outcome.apart,
        }
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (peer, workload) = (cli::name(self.peer), cli::name(self.workload));
        let (result, unit) = (short(self.result), &self.unit);
        write!(f, "{workload:<14} {peer:<16} {result:>8} {unit}")?;
        let (actors, messages, seconds) = (self.actors, self.messages, self.seconds);
        write!(f, "  ({messages} messages, {actors} actors, {seconds:.2} s")?;
        if let Some(on_cpu) = self.on_cpu {
            write!(f, ", on a CPU {:.0} %", on_cpu * 100.0)?;
        }
        if let Some(apart) = self.apart {
            write!(f, ", on different threads {:.0} %", apart * 100.0)?;
        }
        write!(f, ")")
    }
}

/// A number with four digits or so, as people write it: 24.7 M, 861, 17.3 k.
pub(crate) fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 1e6 => format!("{:.2} M", value / 1e6),
        size if size >= 1e4 => format!("{:.1} k", value / 1e3),
        _ => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::Amount;
    use std::time::Duration;

    fn record(workload: Workload, outcome: Outcome) -> Record {
        let job = Job {
            workload,
            actors: 4,
            in_flight: 8,
            warm_up: Amount::Messages(1),
            measured: Amount::Messages(outcome.messages),
        };
        Record::new(Peer::Actix, &job, &outcome)
    }

    #[test]
    fn results_are_in_the_unit_of_the_workload() {
        let outcome = Outcome {
            messages: 1_000_000,
            elapsed: Duration::from_millis(500),
            bytes: Some(4096),
            ..Outcome::default()
        };
        let result = |workload| record(workload, outcome).result;
        assert_eq!(result(Workload::FanIn), 2e6);
        assert_eq!(result(Workload::PingPong), 1e6);
        assert_eq!(result(Workload::IdleMemory), 1024.0);
    }

    #[test]
    fn a_line_says_what_was_done() {
        let outcome = Outcome {
            messages: 3_000_000,
            elapsed: Duration::from_secs(2),
            on_cpu: Some(0.5),
            apart: Some(0.25),
            ..Outcome::default()
        };
        let line = record(Workload::TwoThreads, outcome).to_string();
        for part in [
            "two-threads",
            "actix",
            "750.0 k round trips/s",
            "3000000",
            "25 %",
        ] {
            assert!(line.contains(part), "{line}");
        }
    }

    #[test]
    fn numbers_are_short() {
        let shortened = [24_712_000.0, 17_310.0, 861.4, 0.0].map(short);
        assert_eq!(shortened, ["24.71 M", "17.3 k", "861", "0"]);
    }
}

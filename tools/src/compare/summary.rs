//! What the runs of a shape come to: for each contender medians, ranges and ratios.

use serde::Serialize;

use super::plan::{Metric, Shape};
use super::runs::{Run, Status};
use super::stacks::Contender;
use super::statistics::{InRound, Spread, paired_ratio};
use crate::record::StreamRow;

impl Metric {
    /// This number of a run.
    pub(crate) fn of(self, row: &StreamRow) -> Option<f64> {
        match self {
            Self::Throughput => Some(row.throughput),
            Self::CpuPerMessage => row.server_cpu_ns_per_msg,
            Self::Latency => Some(row.p50),
            Self::TailLatency => Some(row.p99),
            Self::ConnectTime => Some(row.connect_seconds),
            Self::CpuPerConnect => row.server_cpu_us_per_connect,
        }
    }
}

/// One contender in one shape. Numbers are of the runs that passed.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Line {
    pub(crate) stack: String,
    pub(crate) runs: usize,
    pub(crate) passed: usize,
    /// Why it was skipped.
    pub(crate) skipped: Option<String>,
    /// Why runs failed, each reason once.
    pub(crate) failures: Vec<String>,
    /// The number that the shape is about.
    pub(crate) metric: Option<Spread>,
    /// That number, relative to those of others in the same round.
    pub(crate) ratios: Vec<Ratio>,
    pub(crate) throughput: Option<Spread>,
    pub(crate) cpu_ns_per_msg: Option<Spread>,
    pub(crate) rss_peak_bytes: Option<Spread>,
    /// Medians of the runs' percentiles, in µs: p50, p95, p99, p99.9, and the greatest of all.
    pub(crate) latency: Option<[f64; 5]>,
    pub(crate) client_cpu_share: Option<Spread>,
    /// Runs in which the client was the limit.
    pub(crate) client_bound: usize,
    pub(crate) server_throttled_share: Option<Spread>,
    /// Runs that did not get the offered rate answered: their CPU time is of another load.
    pub(crate) rate_missed: usize,
    /// Messages that were due by the offered rate and could not be sent.
    pub(crate) rate_unsent: Option<Spread>,
}

/// A number relative to that of another stack.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Ratio {
    pub(crate) to: &'static str,
    pub(crate) ratio: Option<Spread>,
}

/// How far throughput may be from the offered rate, as a share.
const RATE_TOLERANCE: f64 = 0.03;

/// A shape and its contenders.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Summary {
    #[serde(skip)]
    pub(crate) shape: Shape,
    pub(crate) id: String,
    pub(crate) title: String,
    pub(crate) metric: Metric,
    /// Why none of it was run.
    pub(crate) skipped: Option<String>,
    pub(crate) lines: Vec<Line>,
}

impl Summary {
    /// Adds the runs of `shape` up.
    pub(crate) fn of(shape: &Shape, runs: &[Run]) -> Self {
        let metric = shape.metric();
        let line = |who: &Contender| Line::of(who, shape, runs);
        Self {
            shape: shape.clone(),
            id: shape.id.clone(),
            title: shape.to_string(),
            metric,
            skipped: shape.skip.clone(),
            lines: match shape.skip {
                Some(_) => Vec::new(),
                None => shape.contenders.iter().map(line).collect(),
            },
        }
    }

    /// The line of this stack.
    pub(crate) fn line(&self, stack: &str) -> Option<&Line> {
        self.lines.iter().find(|line| line.stack == stack)
    }
}

/// A number of each passed run of one contender, with its round.
pub(crate) fn series(
    runs: &[Run],
    shape: &str,
    stack: &str,
    number: impl Fn(&StreamRow) -> Option<f64>,
) -> Vec<InRound> {
    runs.iter()
        .filter(|run| run.shape == shape && run.stack == stack)
        .filter_map(|run| Some((run.round, number(run.passed()?)?)))
        .collect()
}

impl Line {
    fn of(who: &Contender, shape: &Shape, runs: &[Run]) -> Self {
        let (metric, against) = (shape.metric(), shape.against);
        let shape = shape.id.as_str();
        let stack = who.to_string();
        let own: Vec<&Run> = runs
            .iter()
            .filter(|run| run.shape == shape && run.stack == stack)
            .collect();
        let rows: Vec<&StreamRow> = own.iter().filter_map(|run| run.passed()).collect();
        let of = |number: fn(&StreamRow) -> Option<f64>| {
            Spread::of(rows.iter().filter_map(|row| number(row)))
        };
        let values = |stack: &str| series(runs, shape, stack, |row| metric.of(row));
        let ratio = |&to: &&'static str| {
            let ratio = paired_ratio(&values(&stack), &values(to));
            Ratio { to, ratio }
        };
        let mut failures: Vec<String> = own
            .iter()
            .filter(|run| run.status == Status::Failed)
            .filter_map(|run| run.reason.clone())
            .collect();
        failures.sort();
        failures.dedup();
        let skipped = own.iter().find(|run| run.status == Status::Skipped);
        Self {
            runs: own.len(),
            passed: rows.len(),
            skipped: skipped.and_then(|run| run.reason.clone()),
            failures,
            metric: Spread::of(values(&stack).iter().map(|&(_, value)| value)),
            ratios: against.iter().map(ratio).collect(),
            throughput: of(|row| (row.throughput > 0.0).then_some(row.throughput)),
            cpu_ns_per_msg: of(|row| row.server_cpu_ns_per_msg),
            rss_peak_bytes: of(|row| row.server_rss_peak_bytes.map(|bytes| bytes as f64)),
            latency: latency(&rows),
            client_cpu_share: of(|row| Some(row.client_cpu_share)),
            client_bound: rows.iter().filter(|row| row.client_bound).count(),
            server_throttled_share: Spread::of(
                own.iter().filter_map(|run| run.server_throttled_share),
            ),
            rate_missed: rows.iter().filter(|row| misses_rate(row)).count(),
            rate_unsent: of(|row| row.rate.map(|_| row.rate_unsent as f64)),
            stack,
        }
    }
}

impl Line {
    /// Its number relative to that of `stack`.
    pub(crate) fn to(&self, stack: &str) -> Option<Spread> {
        self.ratios.iter().find(|one| one.to == stack)?.ratio
    }
}

fn misses_rate(row: &StreamRow) -> bool {
    row.rate
        .is_some_and(|rate| (row.throughput / rate - 1.0).abs() > RATE_TOLERANCE)
}

fn latency(rows: &[&StreamRow]) -> Option<[f64; 5]> {
    let median = |number: fn(&StreamRow) -> f64| {
        Spread::of(rows.iter().map(|row| number(row))).map(|spread| spread.median)
    };
    let greatest = Spread::of(rows.iter().map(|row| row.max))?.max;
    Some([
        median(|row| row.p50)?,
        median(|row| row.p95)?,
        median(|row| row.p99)?,
        median(|row| row.p99_9)?,
        greatest,
    ])
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::stacks::{ASIO, PROSCENIUM, RAW, by_name};
    use super::*;
    use crate::load::Scenario;
    use crate::record::StreamRecord;
    use std::time::Duration;

    /// A shape at s2's numbers with these contenders.
    pub(crate) fn shape(id: &str, rate: Option<f64>, names: &[&str]) -> Shape {
        let stack = |name: &&str| Contender {
            stack: by_name(name).unwrap(),
            twin: false,
        };
        Shape {
            id: id.to_owned(),
            scenario: Scenario::S2,
            ccu: 10_000,
            size: 1024,
            inflight: 30,
            quota: None,
            rate,
            one_by_one: false,
            connect_cost: false,
            against: &[RAW, ASIO],
            runs: 1,
            beside: (&[], 0),
            warmup: Duration::ZERO,
            measure: Duration::ZERO,
            contenders: names.iter().map(stack).collect(),
            skip: None,
            sweep: false,
        }
    }

    /// A run with this throughput and CPU time per message; none: it failed.
    pub(crate) fn run(shape: &str, stack: &str, round: usize, rate: Option<(f64, f64)>) -> Run {
        let record = rate.map(|(throughput, cpu)| StreamRecord {
            row: StreamRow {
                scenario_id: "s2".into(),
                stack: stack.to_owned(),
                pass_fail: "PASS".into(),
                throughput,
                server_cpu_ns_per_msg: Some(cpu),
                server_rss_peak_bytes: Some(3 << 20),
                p50: 10.0 * (round + 1) as f64,
                max: 100.0 * (round + 1) as f64,
                ..StreamRow::default()
            },
            ..StreamRecord::default()
        });
        Run {
            shape: shape.to_owned(),
            stack: stack.to_owned(),
            round,
            scenario: "s2",
            ccu: 10_000,
            inflight: 30,
            size: 1024,
            status: if record.is_some() {
                Status::Pass
            } else {
                Status::Failed
            },
            reason: record.is_none().then(|| "2 <connections> lost".to_owned()),
            quota_percent: None,
            server_shards: 1,
            server_throttled_share: None,
            server_command: "taskset -c 0 server".into(),
            client_command: "taskset -c 1 client".into(),
            record,
        }
    }

    #[test]
    fn medians_are_of_passed_runs_and_ratios_of_rounds() {
        let shape = shape("s2", None, &[PROSCENIUM, ASIO, RAW]);
        let runs = [
            run("s2", PROSCENIUM, 0, Some((90.0, 5.0))),
            run("s2", RAW, 0, Some((100.0, 4.0))),
            run("s2", RAW, 1, Some((50.0, 4.0))),
            run("s2", PROSCENIUM, 1, Some((50.0, 5.0))),
            run("s2", PROSCENIUM, 2, None),
            run("s2", ASIO, 0, None),
            run("other", PROSCENIUM, 0, Some((1.0, 1.0))),
        ];
        let summary = Summary::of(&shape, &runs);
        let ours = summary.line(PROSCENIUM).unwrap();
        assert_eq!((ours.runs, ours.passed), (3, 2));
        assert_eq!(ours.failures, ["2 <connections> lost"]);
        let metric = ours.metric.unwrap();
        assert_eq!((metric.median, metric.min, metric.max), (70.0, 50.0, 90.0));
        let ratio = ours.to(RAW).unwrap();
        assert_eq!((ratio.median, ratio.min, ratio.max), (0.95, 0.9, 1.0));
        assert_eq!(ours.to(ASIO), None);
        assert_eq!(ours.latency.unwrap(), [15.0, 0.0, 0.0, 0.0, 200.0]);
        assert_eq!(summary.line(ASIO).unwrap().metric, None);
    }

    #[test]
    fn a_run_that_misses_its_rate_is_counted() {
        let row = |rate, throughput| StreamRow {
            rate,
            throughput,
            ..StreamRow::default()
        };
        assert!(!misses_rate(&row(Some(1e6), 0.99e6)));
        assert!(misses_rate(&row(Some(1e6), 0.9e6)) && misses_rate(&row(Some(1e6), 1.1e6)));
        assert!(!misses_rate(&row(None, 5.0)));
    }

    #[test]
    fn at_an_offered_rate_cpu_time_is_compared() {
        let shape = shape("cpu", Some(1e6), &[PROSCENIUM, RAW]);
        let runs = [
            run("cpu", PROSCENIUM, 0, Some((1e6, 440.0))),
            run("cpu", RAW, 0, Some((1e6, 400.0))),
        ];
        let summary = Summary::of(&shape, &runs);
        let ours = summary.line(PROSCENIUM).unwrap();
        assert_eq!(ours.metric.unwrap().median, 440.0);
        assert!((ours.to(RAW).unwrap().median - 1.1).abs() < 1e-9);
    }
}

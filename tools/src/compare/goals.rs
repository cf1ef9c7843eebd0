//! The project's goals, each judged by the shape that measures it; the list is in [`table`].

mod table;

use std::fmt;

use serde::Serialize;

use super::args::Profile;
use super::plan::Metric;
use super::runs::Run;
use super::statistics::{Spread, paired_ratio};
use super::summary::{Summary, series};
use crate::record::StreamRow;

/// What is compared with a bound.
#[derive(Clone, Copy, Debug)]
enum Measure {
    /// A number of a stack relative to that of another, paired by rounds.
    Ratio(&'static str, &'static str),
    /// Peak memory of a stack in MB; the greatest of all runs counts.
    Memory(&'static str),
    /// Peak memory of a stack relative to that of another, paired by rounds.
    MemoryRatio(&'static str, &'static str),
    /// The share of runs that passed.
    Passed(&'static str),
    /// The 99th percentile of a stack's latency in ms; nothing if it did not hold the rate.
    Tail(&'static str),
}

#[derive(Clone, Copy, Debug)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

/// A goal, and the shape that measures it.
struct Goal {
    what: &'static str,
    /// The first of these that was run; at other loads than these a goal says nothing.
    shapes: &'static [&'static str],
    load: (u32, usize, u32),
    rate: Option<f64>,
    measure: Measure,
    bound: Bound,
    /// Not the goal, but good enough with an explanation.
    acceptable: Option<f64>,
}

/// How a goal was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    Met,
    Acceptable,
    Missed,
    NotMeasured,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Met => "met",
            Self::Acceptable => "acceptable",
            Self::Missed => "missed",
            Self::NotMeasured => "not measured",
        })
    }
}

/// A goal and what was measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Judged {
    pub(crate) goal: &'static str,
    /// `≥ 1.40`.
    pub(crate) bound: String,
    /// The shape that measured it.
    pub(crate) shape: Option<String>,
    pub(crate) measured: Option<Spread>,
    pub(crate) verdict: Verdict,
}

/// Judges every goal of a profile by these results.
pub(crate) fn judge(profile: Profile, summaries: &[Summary], runs: &[Run]) -> Vec<Judged> {
    table::goals(profile)
        .iter()
        .map(|goal| goal.judge(summaries, runs))
        .collect()
}

impl Goal {
    fn judge(&self, summaries: &[Summary], runs: &[Run]) -> Judged {
        let found = self.shapes.iter().find_map(|id| {
            let at_its_load = |one: &&Summary| one.id == *id && self.is_load_of(one);
            summaries.iter().find(at_its_load)
        });
        let measured = found.and_then(|summary| self.measure.of(summary, runs));
        let verdict = measured.map_or(Verdict::NotMeasured, |spread| self.verdict(spread));
        let (sign, bound) = match self.bound {
            Bound::AtLeast(bound) => ("≥", bound),
            Bound::AtMost(bound) => ("≤", bound),
        };
        Judged {
            goal: self.what,
            bound: format!("{sign} {bound:.2}"),
            shape: found.map(|summary| summary.id.clone()),
            measured,
            verdict,
        }
    }

    fn is_load_of(&self, summary: &Summary) -> bool {
        let shape = &summary.shape;
        let only_connects = matches!(summary.metric, Metric::ConnectTime | Metric::CpuPerConnect);
        shape.ccu == self.load.0
            && (only_connects || (shape.size, shape.inflight) == (self.load.1, self.load.2))
            && shape.rate == self.rate
    }

    fn verdict(&self, spread: Spread) -> Verdict {
        let value = match self.measure {
            Measure::Memory(_) => spread.max,
            _ => spread.median,
        };
        let holds = |bound: f64| match self.bound {
            Bound::AtLeast(_) => value >= bound,
            Bound::AtMost(_) => value <= bound,
        };
        let (Bound::AtLeast(bound) | Bound::AtMost(bound)) = self.bound;
        if holds(bound) {
            Verdict::Met
        } else if self.acceptable.is_some_and(holds) {
            Verdict::Acceptable
        } else {
            Verdict::Missed
        }
    }
}

impl Measure {
    fn of(self, summary: &Summary, runs: &[Run]) -> Option<Spread> {
        match self {
            Self::Ratio(stack, base) => {
                let values = |stack| series(runs, &summary.id, stack, |row| summary.metric.of(row));
                paired_ratio(&values(stack), &values(base))
            }
            Self::MemoryRatio(stack, base) => {
                let peak = |row: &StreamRow| Some(row.server_rss_peak_bytes? as f64);
                let values = |stack| series(runs, &summary.id, stack, peak);
                paired_ratio(&values(stack), &values(base))
            }
            Self::Memory(stack) => {
                let peak = summary.line(stack)?.rss_peak_bytes?;
                Spread::of([peak.min, peak.median, peak.max].map(|bytes| bytes / 1e6))
            }
            Self::Tail(stack) => {
                let line = summary.line(stack)?;
                let tail = line.metric.filter(|_| line.rate_missed == 0)?;
                Spread::of([tail.min, tail.median, tail.max].map(|micros| micros / 1e3))
            }
            Self::Passed(stack) => {
                let line = summary.line(stack)?;
                (line.runs > 0 && line.skipped.is_none())
                    .then(|| Spread::of([line.passed as f64 / line.runs as f64]))?
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::stacks::{PROSCENIUM, RAW, STAGE};
    use super::super::summary::tests::{run, shape};
    use super::*;

    /// One round of s2 and of CPU per message, ours and raw.
    fn judged(ours: f64, cpu: f64) -> Vec<Judged> {
        let runs = [
            run("s2", PROSCENIUM, 0, Some((ours, 400.0))),
            run("s2", RAW, 0, Some((100.0, 400.0))),
            run("cpu-1m", PROSCENIUM, 0, Some((1e6, cpu))),
            run("cpu-1m", RAW, 0, Some((1e6, 400.0))),
        ];
        let stacks = [PROSCENIUM, RAW];
        let summaries = [
            Summary::of(&shape("s2", None, &stacks), &runs),
            Summary::of(&shape("cpu-1m", Some(1e6), &stacks), &runs),
        ];
        judge(Profile::Full, &summaries, &runs)
    }

    fn verdict(judged: &[Judged], goal: &str) -> Verdict {
        judged.iter().find(|one| one.goal == goal).unwrap().verdict
    }

    #[test]
    fn a_goal_is_met_acceptable_missed_or_not_measured() {
        for (ours, expected) in [
            (101.0, Verdict::Met),
            (96.0, Verdict::Acceptable),
            (94.0, Verdict::Missed),
        ] {
            let judged = judged(ours, 400.0);
            assert_eq!(verdict(&judged, "s2: throughput, × raw"), expected);
            assert_eq!(
                verdict(&judged, "s2: throughput, × asio"),
                Verdict::NotMeasured
            );
            assert_eq!(verdict(&judged, "s2: share of runs passed"), Verdict::Met);
            assert_eq!(verdict(&judged, "s2: peak memory, MB"), Verdict::Met);
        }
    }

    #[test]
    fn less_is_better_for_cpu_time() {
        let goal = "1 M/s offered: CPU per message, × raw";
        assert_eq!(verdict(&judged(100.0, 410.0), goal), Verdict::Met);
        assert_eq!(verdict(&judged(100.0, 440.0), goal), Verdict::Missed);
    }

    /// One round of the open loop through stages, with this p99 in ms and this rate answered.
    fn tail(p99: f64, throughput: f64) -> Verdict {
        let mut shape = shape("open-loop", Some(1e5), &[STAGE]);
        shape.one_by_one = true;
        let mut run = run("open-loop", STAGE, 0, Some((throughput, 1.0)));
        let row = &mut run.record.as_mut().unwrap().row;
        (row.p99, row.rate) = (p99 * 1e3, Some(1e5));
        let runs = [run];
        let judged = judge(Profile::Full, &[Summary::of(&shape, &runs)], &runs);
        verdict(&judged, "0.1 M/s offered: p99 through stages, ms")
    }

    #[test]
    fn a_tail_is_judged_only_at_its_rate() {
        assert_eq!(tail(4.9, 1e5), Verdict::Met);
        assert_eq!(tail(5.1, 1e5), Verdict::Missed);
        assert_eq!(tail(1.0, 0.9e5), Verdict::NotMeasured);
    }

    #[test]
    fn a_failed_run_misses_and_another_load_says_nothing() {
        let mut small = shape("s2", None, &[PROSCENIUM, RAW]);
        let runs = [
            run("s2", PROSCENIUM, 0, Some((100.0, 1.0))),
            run("s2", PROSCENIUM, 1, None),
        ];
        let all = judge(Profile::Full, &[Summary::of(&small, &runs)], &runs);
        assert_eq!(verdict(&all, "s2: share of runs passed"), Verdict::Missed);
        small.ccu = 20;
        let all = judge(Profile::Full, &[Summary::of(&small, &runs)], &runs);
        assert!(all.iter().all(|one| one.verdict == Verdict::NotMeasured));
    }

    #[test]
    fn memory_is_compared_within_a_round() {
        let shape = shape("s2", None, &[PROSCENIUM, RAW]);
        let of = |stack, round, bytes| {
            let mut run = run("s2", stack, round, Some((1.0, 1.0)));
            run.record.as_mut().unwrap().row.server_rss_peak_bytes = Some(bytes);
            run
        };
        let runs = [of(PROSCENIUM, 0, 10), of(RAW, 0, 40), of(RAW, 1, 1)];
        let summary = Summary::of(&shape, &runs);
        let ratio = Measure::MemoryRatio(PROSCENIUM, RAW).of(&summary, &runs);
        assert_eq!(ratio.unwrap().median, 0.25);
    }

    #[test]
    fn every_goal_has_a_shape_in_its_profile() {
        use crate::cli::{Cli, Command};
        use clap::{Parser, ValueEnum};
        for &profile in Profile::value_variants() {
            if matches!(profile, Profile::Default | Profile::Node | Profile::Mesh) {
                continue; // not what goals are judged by in earnest; has its own
            }
            let line = ["proscenium", "compare", "--profile", profile.name()];
            let Command::Compare(args) = Cli::parse_from(line).command else {
                unreachable!("the arguments say compare")
            };
            let shapes = super::super::plan::shapes(&args, Ok(())).unwrap();
            for goal in table::goals(profile) {
                let found = shapes.iter().find(|shape| goal.shapes[0] == shape.id);
                let shape = found.unwrap_or_else(|| panic!("{}", goal.what));
                assert!(goal.is_load_of(&Summary::of(shape, &[])), "{}", goal.what);
                let stacks = match goal.measure {
                    Measure::Ratio(stack, base) | Measure::MemoryRatio(stack, base) => {
                        vec![stack, base]
                    }
                    Measure::Memory(stack) | Measure::Passed(stack) | Measure::Tail(stack) => {
                        vec![stack]
                    }
                };
                for stack in stacks {
                    // Seven alternating runs of whoever a goal speaks of.
                    let last = shape.turn(6);
                    let takes_part = last.iter().any(|one| one.to_string() == stack);
                    assert!(takes_part, "{}: {stack}", goal.what);
                }
            }
        }
    }
}

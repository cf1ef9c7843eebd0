//! What the runs add up to: rows, goals, a JSON file and tables in Markdown.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;

use serde::Serialize;

use super::NodeRun;
use super::suites::{Bound, Shape, Suite};
use crate::compare::report::Note;
use crate::compare::statistics::{InRound, Spread, paired_ratio};
use crate::load::node::NodeRecord;
use crate::machine::Machine;
use crate::units::{grouped, micros};
use crate::utc;

/// The files of a report.
pub(super) const FILES: [&str; 2] = ["results.json", "results.md"];

/// Everything that was measured, and where.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    #[serde(skip)]
    pub(super) suite: &'static Suite,
    pub(super) time_unix: u64,
    pub(super) command: Vec<String>,
    pub(super) machine: Machine,
    pub(super) notes: Vec<Note>,
    pub(super) rows: Vec<Row>,
    pub(super) goals: Vec<Goal>,
    pub(super) runs: Vec<NodeRun>,
}

/// A pair at a shape. Ratios are to the suite's base, taken within rounds.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    shape: &'static str,
    pair: &'static str,
    throughput: Option<Spread>,
    throughput_ratio: Option<Spread>,
    p50: Option<Spread>,
    p50_ratio: Option<Spread>,
    p99: Option<Spread>,
    p99_ratio: Option<Spread>,
    sender_cpu: Option<f64>,
    receiver_cpu: Option<f64>,
    /// Why a run was none.
    failure: Option<String>,
}

/// A goal and what was measured.
#[derive(Debug, Serialize)]
pub(super) struct Goal {
    what: String,
    bound: String,
    measured: Option<Spread>,
    #[serde(skip)]
    shown: fn(Spread) -> String,
    met: Option<bool>,
}

/// One run in a few words.
pub(super) fn brief(record: &NodeRecord) -> String {
    let rate = grouped(record.throughput.round() as u64);
    if record.mode == "request" && (record.window == 1 || record.rate.is_some()) {
        return format!("p50 {}, p99 {}", micros(record.p50), micros(record.p99));
    }
    format!(
        "{rate}/s, sender {:.0} %, receiver {:.0} %",
        record.client_cpu_share * 100.0,
        record.server_cpu_share * 100.0
    )
}

impl Report {
    /// Rows and goals, from the runs so far.
    pub(super) fn add_up(&mut self, shapes: &[Shape]) {
        self.rows.clear();
        self.goals.clear();
        for shape in shapes {
            if !self.runs.iter().any(|run| run.shape == shape.id) {
                continue;
            }
            for pair in self.suite.pairs.iter().filter(|pair| pair.can(shape)) {
                self.rows
                    .push(row(&self.runs, shape, pair.name, self.suite));
            }
            self.goals.extend(goals(&self.runs, shape, self.suite));
        }
    }

    pub(super) fn write(&self, folder: &Path) -> io::Result<()> {
        let mut json = serde_json::to_string_pretty(self).map_err(io::Error::other)?;
        json.push('\n');
        for (file, text) in FILES.iter().zip([json, self.text()]) {
            fs::write(folder.join(file), text)?;
        }
        Ok(())
    }

    /// Tables in Markdown.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        let mut of = "";
        for row in &self.rows {
            if row.shape != of {
                of = row.shape;
                let base = self.suite.base;
                let (what, more, rule) = if Shape::is_latency(of) {
                    ("p50", format!(" p99 | × {base} |"), "---|---|")
                } else {
                    ("per second", " sender, receiver CPU |".to_owned(), "---|")
                };
                let _ = write!(
                    text,
                    "\n| {of} | {what} (range) | × {base} (range) |{more}\n|---|---|---|{rule}\n"
                );
            }
            row.line(&mut text);
        }
        text.push_str("\n| goal | bound | measured (range) | |\n|---|---|---|---|\n");
        for goal in &self.goals {
            let measured = goal.measured.map_or("–".to_owned(), goal.shown);
            let verdict = match goal.met {
                Some(true) => "met",
                Some(false) => "missed",
                None => "not measured",
            };
            let (what, bound) = (&goal.what, &goal.bound);
            let _ = writeln!(text, "| {what} | {bound} | {measured} | {verdict} |");
        }
        let machine = &self.machine;
        let _ = writeln!(
            text,
            "\nMeasured {} on {}, {} CPUs, {}, {}.",
            utc::readable(self.time_unix),
            machine.cpu,
            machine.cpus,
            machine.kernel,
            machine.system
        );
        for note in &self.notes {
            let _ = writeln!(text, "{}: {}.", note.name, note.text);
        }
        let _ = writeln!(text, "Command: {}", self.command.join(" "));
        text
    }
}

impl Row {
    fn line(&self, text: &mut String) {
        let none = || "–".to_owned();
        let share =
            |share: Option<f64>| share.map_or_else(none, |share| format!("{:.0} %", share * 100.0));
        let cells = if self.throughput.is_none() {
            vec![self.failure.clone().unwrap_or_else(none)]
        } else if Shape::is_latency(self.shape) {
            vec![
                self.p50.map_or_else(none, time),
                self.p50_ratio.map_or_else(none, ratio),
                self.p99.map_or_else(none, time),
                self.p99_ratio.map_or_else(none, ratio),
            ]
        } else {
            vec![
                self.throughput.map_or_else(none, rate),
                self.throughput_ratio.map_or_else(none, ratio),
                format!("{}, {}", share(self.sender_cpu), share(self.receiver_cpu)),
            ]
        };
        let _ = writeln!(text, "| {} | {} |", self.pair, cells.join(" | "));
    }
}

fn rate(spread: Spread) -> String {
    let number = |value: f64| grouped(value.round() as u64);
    let (low, high) = (number(spread.min), number(spread.max));
    format!("{} ({low}–{high})", number(spread.median))
}

fn time(spread: Spread) -> String {
    let (low, high) = (micros(spread.min), micros(spread.max));
    format!("{} ({low}–{high})", micros(spread.median))
}

fn ratio(spread: Spread) -> String {
    let Spread {
        median, min, max, ..
    } = spread;
    format!("{median:.2} ({min:.2}–{max:.2})")
}

/// The results of a pair, by rounds.
fn results(
    runs: &[NodeRun],
    shape: &str,
    pair: &str,
    value: fn(&NodeRecord) -> f64,
) -> Vec<InRound> {
    let of = runs.iter();
    of.filter(|run| run.shape == shape && run.pair == pair)
        .filter_map(|run| Some((run.round, value(run.passed()?))))
        .collect()
}

/// The spread of a value, and of its ratio to that of the base.
fn both(
    runs: &[NodeRun],
    shape: &str,
    (pair, base): (&str, &str),
    value: fn(&NodeRecord) -> f64,
) -> (Option<Spread>, Option<Spread>) {
    let own = results(runs, shape, pair, value);
    let base = results(runs, shape, base, value);
    let spread = Spread::of(own.iter().map(|&(_, value)| value));
    (spread, paired_ratio(&own, &base))
}

fn row(runs: &[NodeRun], shape: &Shape, pair: &'static str, suite: &Suite) -> Row {
    let both = |value| both(runs, shape.id, (pair, suite.base), value);
    let (throughput, throughput_ratio) = both(|run| run.throughput);
    let (p50, p50_ratio) = both(|run| run.p50);
    let (p99, p99_ratio) = both(|run| run.p99);
    let median = |spread: Option<Spread>| spread.map(|spread| spread.median);
    let own = runs
        .iter()
        .filter(|run| run.shape == shape.id && run.pair == pair);
    Row {
        shape: shape.id,
        pair,
        throughput,
        throughput_ratio,
        p50,
        p50_ratio,
        p99,
        p99_ratio,
        sender_cpu: median(both(|run| run.client_cpu_share).0),
        receiver_cpu: median(both(|run| run.server_cpu_share).0),
        failure: own.filter_map(|run| run.reason.clone()).next(),
    }
}

fn goals(runs: &[NodeRun], shape: &Shape, suite: &Suite) -> Vec<Goal> {
    if suite.beside.contains(&shape.id) {
        return Vec::new();
    }
    let of = |value| both(runs, shape.id, (suite.ours, suite.base), value);
    let (id, base) = (shape.id, suite.base);
    let rate_of = |run: &NodeRecord| run.throughput;
    match (suite.bound, Shape::is_latency(shape.id)) {
        (Bound::Relative { latency_max, .. }, true) => {
            let goal = |what, value| {
                let measured = of(value).1;
                let bound = format!("≤ {latency_max:.2}");
                let met = measured.map(|ratio| ratio.median <= latency_max);
                Goal::new(
                    format!("{id}: {what}, × {base}"),
                    bound,
                    (measured, met),
                    ratio,
                )
            };
            vec![goal("p50", |run| run.p50), goal("p99", |run| run.p99)]
        }
        (Bound::Relative { rate_min, .. }, false) => {
            let measured = of(rate_of).1;
            let bound = format!("≥ {rate_min:.2}");
            let met = measured.map(|ratio| ratio.median >= rate_min);
            vec![Goal::new(
                format!("{id}: rate, × {base}"),
                bound,
                (measured, met),
                ratio,
            )]
        }
        (Bound::Absolute { p99_max, .. }, true) => {
            let measured = of(|run| run.p99).0;
            let bound = format!("< {}", micros(p99_max));
            let met = measured.map(|p99| p99.median < p99_max);
            vec![Goal::new(
                format!("{id}: p99"),
                bound,
                (measured, met),
                time,
            )]
        }
        (Bound::Absolute { rate_min, .. }, false) => {
            let measured = of(rate_of).0;
            let bound = format!("≥ {}", grouped(rate_min as u64));
            let met = measured.map(|rate| rate.median >= rate_min);
            vec![Goal::new(
                format!("{id}: requests/s"),
                bound,
                (measured, met),
                rate,
            )]
        }
    }
}

impl Goal {
    fn new(
        what: String,
        bound: String,
        (measured, met): (Option<Spread>, Option<bool>),
        shown: fn(Spread) -> String,
    ) -> Self {
        Self {
            what,
            bound,
            measured,
            shown,
            met,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::suites;
    use super::*;
    use crate::compare::args::Profile;

    const OURS: &str = "proscenium";
    const ZMQ: &str = "libzmq";

    fn run(shape: &'static str, pair: &'static str, round: usize, value: f64) -> NodeRun {
        let record = NodeRecord {
            throughput: value,
            p50: value,
            p99: value,
            ..NodeRecord::default()
        };
        NodeRun {
            shape,
            pair,
            round,
            reason: None,
            server_command: String::new(),
            client_command: String::new(),
            record: Some(record),
        }
    }

    fn report(runs: Vec<NodeRun>) -> Report {
        report_of(Profile::Node, runs)
    }

    fn report_of(profile: Profile, runs: Vec<NodeRun>) -> Report {
        let suite = suites::of(profile);
        let mut report = Report {
            suite,
            time_unix: 0,
            command: vec!["proscenium".into()],
            machine: Machine::default(),
            notes: Vec::new(),
            rows: Vec::new(),
            goals: Vec::new(),
            runs,
        };
        report.add_up(suite.shapes);
        report
    }

    #[test]
    fn ratios_are_to_libzmq_within_rounds_and_goals_are_judged_by_them() {
        let report = report(vec![
            run("send-64", OURS, 0, 3.0),
            run("send-64", ZMQ, 0, 2.0),
            run("send-64", OURS, 1, 30.0),
            run("send-64", ZMQ, 1, 20.0),
            run("single-64", OURS, 0, 90.0),
            run("single-64", ZMQ, 0, 100.0),
        ]);
        assert_eq!(report.rows.len(), 2 * report.suite.pairs.len());
        let met: Vec<_> = report.goals.iter().map(|goal| goal.met).collect();
        assert_eq!(met, [Some(true), Some(false), Some(false)]);
        let text = report.text();
        for part in ["1.50 (1.50–1.50)", "| met |", "90 µs (90 µs–90 µs) | 0.90"] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }

    #[test]
    fn goals_of_stages_are_numbers_of_their_own() {
        let report = report_of(
            Profile::Mesh,
            vec![
                run("window-1000", "stages", 0, 650_000.0),
                run("window-1000", "link alone", 0, 1_300_000.0),
                run("single", "stages", 0, 50.0),
                run("open-50000", "stages", 0, 2_500.0),
            ],
        );
        let met: Vec<_> = report.goals.iter().map(|goal| goal.met).collect();
        assert_eq!(met, [Some(true), Some(false)]);
        let text = report.text();
        for part in [
            "| × link alone (range) |",
            "650,000 (650,000–650,000) | 0.50",
            "| window-1000: requests/s | ≥ 600,000 | 650,000 (",
            "| open-50000: p99 | < 2.00 ms | 2.50 ms (2.50 ms–2.50 ms) | missed |",
        ] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }

    #[test]
    fn a_run_that_is_no_pass_does_not_count_and_says_why() {
        let mut failed = run("send-64", ZMQ, 0, 1.0);
        failed.reason = Some("not here".into());
        let report = report(vec![run("send-64", OURS, 0, 1.0), failed]);
        assert_eq!(report.goals[0].met, None);
        assert!(report.text().contains("| libzmq | not here |"));
    }
}

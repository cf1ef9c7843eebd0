//! The tables of a report, the same for terminal and page.

use std::fmt::Write as _;

use super::super::goals::Judged;
use super::super::goals::Verdict;
use super::super::plan::Metric;
use super::super::runs::ALL;
use super::super::stacks::RAW;
use super::super::statistics::Spread;
use super::super::summary::{Line, Summary};
use super::{Report, rate, show};
use crate::units::{bytes, grouped, micros};

/// How a row is to be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    /// The engine's own.
    Own,
    Bad,
    Dim,
}

pub(super) struct Row {
    pub(super) cells: Vec<String>,
    pub(super) tone: Tone,
}

/// A titled table. The first column and the last are text, the others numbers.
pub(super) struct Table {
    pub(super) title: String,
    pub(super) header: Vec<String>,
    pub(super) rows: Vec<Row>,
    /// What is to be said about it; may be empty.
    pub(super) note: String,
}

/// The title of the table of goals.
pub(super) const GOALS: &str = "Goals";

impl Line {
    /// What stands where there is no number.
    pub(crate) const NOTHING: &'static str = "–";

    /// How its runs ended, with reasons.
    fn result(&self) -> String {
        if let Some(reason) = &self.skipped {
            return format!("skipped: {reason}");
        }
        let reasons = self.failures.join("; ");
        let of = |runs| {
            if self.runs == 1 {
                String::new()
            } else {
                format!(" {runs}/{}", self.runs)
            }
        };
        match self.passed {
            0 if self.runs == 0 => "not run".to_owned(),
            0 => format!("failed: {reasons}"),
            passed if passed == self.runs => {
                let mut text = format!("PASS{}", of(passed));
                for (count, what) in [
                    (self.rate_missed, "rate not held"),
                    (self.client_bound, "client-bound"),
                ] {
                    if count > 0 {
                        let _ = write!(text, ", {what}{}", of(count));
                    }
                }
                text
            }
            passed => format!("FAIL {}/{}: {reasons}", self.runs - passed, self.runs),
        }
    }

    fn tone(&self) -> Tone {
        if self.skipped.is_some() || self.runs == 0 {
            Tone::Dim
        } else if self.passed < self.runs {
            Tone::Bad
        } else if self.stack.starts_with("proscenium") {
            Tone::Own
        } else {
            Tone::Plain
        }
    }
}

/// Every table of the report: the goals last, so that they are what one sees in a terminal.
pub(super) fn all(report: &Report) -> Vec<Table> {
    let single = report.summaries.iter().filter(|one| !one.shape.sweep);
    let mut tables: Vec<Table> = single.map(of_shape).collect();
    tables.extend(of_sweep(&report.summaries));
    tables.extend(of_goals(&report.goals));
    tables
}

fn or_nothing<T>(value: Option<T>, show: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| Line::NOTHING.to_owned(), show)
}

fn ratio(spread: Option<Spread>) -> String {
    or_nothing(spread, |spread| format!("{:.3}", spread.median))
}

/// The unit stands in the header.
fn bare(metric: Metric, value: f64) -> String {
    match metric {
        Metric::Throughput => rate(value),
        Metric::CpuPerMessage => format!("{value:.0}"),
        Metric::Latency | Metric::TailLatency | Metric::ConnectTime | Metric::CpuPerConnect => {
            show(metric, value)
        }
    }
}

/// The range, if there was more than one run.
fn range(metric: Metric, spread: Spread) -> String {
    if spread.count < 2 {
        return Line::NOTHING.to_owned();
    }
    format!("{}–{}", bare(metric, spread.min), bare(metric, spread.max))
}

/// The table of one shape.
pub(super) fn of_shape(summary: &Summary) -> Table {
    let title = format!("{} · {}", summary.id, summary.title);
    if let Some(reason) = &summary.skipped {
        return Table {
            title,
            header: ["stack", "result"].map(str::to_owned).into(),
            rows: vec![Row {
                cells: vec![ALL.to_owned(), format!("skipped: {reason}")],
                tone: Tone::Dim,
            }],
            note: String::new(),
        };
    }
    let metric = summary.metric;
    let (about, more): (_, &[Column]) = match metric {
        Metric::Throughput => ("msg/s", &[CPU]),
        Metric::CpuPerMessage => ("CPU ns/msg", &[RATE]),
        Metric::TailLatency => ("p99", &[RATE, UNSENT, CPU]),
        Metric::Latency => ("round trip", &[]),
        Metric::ConnectTime => ("connect", &[]),
        Metric::CpuPerConnect => ("CPU/connection", &[]),
    };
    let loaded = !more.is_empty();
    let mut header = ["stack", about, "range"].map(str::to_owned).to_vec();
    let against = summary.shape.against;
    header.extend(against.iter().map(|name| format!("× {name}")));
    header.extend(more.iter().map(|(name, _)| (*name).to_owned()));
    header.push("peak RSS".to_owned());
    if loaded {
        header.extend(["p50", "p95", "p99", "p99.9", "max", "client CPU"].map(str::to_owned));
    }
    header.push("result".to_owned());
    let row = |line: &Line| {
        let mut cells = vec![
            line.stack.clone(),
            or_nothing(line.metric, |spread| bare(metric, spread.median)),
            or_nothing(line.metric, |spread| range(metric, spread)),
        ];
        cells.extend(against.iter().map(|name| ratio(line.to(name))));
        cells.extend(more.iter().map(|(_, cell)| cell(line)));
        cells.push(or_nothing(line.rss_peak_bytes, |peak| {
            bytes(peak.median as u64)
        }));
        if loaded {
            match line.latency {
                Some(latency) => cells.extend(latency.map(micros)),
                None => cells.extend([Line::NOTHING; 5].map(str::to_owned)),
            }
            cells.push(or_nothing(line.client_cpu_share, |share| {
                format!("{:.0} %", share.median * 100.0)
            }));
        }
        cells.push(line.result());
        Row {
            cells,
            tone: line.tone(),
        }
    };
    Table {
        title,
        header,
        rows: summary.lines.iter().map(row).collect(),
        note: String::new(),
    }
    .without_empty_columns()
}

/// A column besides the metric's: its header, and what stands in it.
type Column = (&'static str, fn(&Line) -> String);

const CPU: Column = ("CPU ns/msg", |line| {
    or_nothing(line.cpu_ns_per_msg, |ns| format!("{:.0}", ns.median))
});

const RATE: Column = ("msg/s", |line| {
    or_nothing(line.throughput, |spread| rate(spread.median))
});

/// The worst run counts.
const UNSENT: Column = ("not sent", |line| {
    or_nothing(line.rate_unsent, |spread| grouped(spread.max as u64))
});

/// All points of a sweep in one table: a row for each point, a column for each stack.
fn of_sweep(summaries: &[Summary]) -> Option<Table> {
    let points: Vec<&Summary> = summaries.iter().filter(|one| one.shape.sweep).collect();
    let first = points.first()?;
    let quota = first.shape.quota.map_or_else(
        || "unthrottled".to_owned(),
        |percent| format!("server limited to {percent} % of a CPU"),
    );
    let mut header = vec!["connections × size × in flight".to_owned()];
    let contenders = &first.shape.contenders;
    header.extend(contenders.iter().map(ToString::to_string));
    header.push("result".to_owned());
    let row = |point: &&Summary| {
        let shape = &point.shape;
        let mut cells = vec![format!(
            "{} × {} × {}",
            grouped(shape.ccu.into()),
            bytes(shape.size as u64).replace(".0 ", " "),
            grouped(shape.inflight.into())
        )];
        if let Some(reason) = &point.skipped {
            cells.extend(contenders.iter().map(|_| Line::NOTHING.to_owned()));
            cells.push(format!("skipped: {reason}"));
            return Row {
                cells,
                tone: Tone::Dim,
            };
        }
        let mut bad = Vec::new();
        for line in &point.lines {
            let value = or_nothing(line.metric, |spread| rate(spread.median));
            let ratio = line.to(RAW).map(|ratio| format!(" ({:.2})", ratio.median));
            cells.push(value + &ratio.unwrap_or_default());
            if line.passed < line.runs && line.skipped.is_none() {
                bad.push(format!("{} {}", line.stack, line.result()));
            }
        }
        let tone = if bad.is_empty() {
            Tone::Plain
        } else {
            Tone::Bad
        };
        cells.push(if bad.is_empty() {
            "PASS".to_owned()
        } else {
            bad.join("; ")
        });
        Row { cells, tone }
    };
    Some(Table {
        title: format!("sweep · msg/s (× raw), {quota}"),
        header,
        rows: points.iter().map(row).collect(),
        note: String::new(),
    })
}

/// The goals, if any was measured; those that were not are named below the table.
fn of_goals(goals: &[Judged]) -> Option<Table> {
    let (not_measured, measured): (Vec<&Judged>, Vec<&Judged>) = goals
        .iter()
        .partition(|goal| goal.verdict == Verdict::NotMeasured);
    if measured.is_empty() {
        return None;
    }
    let row = |goal: &&Judged| Row {
        cells: vec![
            goal.goal.to_owned(),
            goal.bound.clone(),
            or_nothing(goal.measured, |spread| format!("{:.3}", spread.median)),
            or_nothing(goal.measured, |spread| {
                format!("{:.3}–{:.3}", spread.min, spread.max)
            }),
            goal.shape.clone().unwrap_or_default(),
            goal.verdict.to_string(),
        ],
        tone: match goal.verdict {
            Verdict::Met | Verdict::Acceptable => Tone::Plain,
            Verdict::Missed => Tone::Bad,
            Verdict::NotMeasured => Tone::Dim,
        },
    };
    let header = ["goal", "bound", "median", "range", "shape", "verdict"];
    let names: Vec<&str> = not_measured.iter().map(|goal| goal.goal).collect();
    Some(Table {
        title: GOALS.to_owned(),
        header: header.map(str::to_owned).into(),
        rows: measured.iter().map(row).collect(),
        note: if names.is_empty() {
            String::new()
        } else {
            format!("Not measured here: {}.", names.join("; "))
        },
    })
}

impl Table {
    /// Leaves out columns of numbers in which no row has one.
    fn without_empty_columns(mut self) -> Self {
        for column in (1..self.header.len() - 1).rev() {
            let is_empty = |row: &Row| row.cells[column] == Line::NOTHING;
            if self.rows.iter().all(is_empty) {
                self.header.remove(column);
                for row in &mut self.rows {
                    row.cells.remove(column);
                }
            }
        }
        self
    }

    /// The table in columns of equal width.
    pub(super) fn text(&self) -> String {
        let last = self.header.len() - 1;
        let width = |column: usize| {
            let cells = self.rows.iter().map(|row| &row.cells[column]);
            let widths = cells
                .chain([&self.header[column]])
                .map(|cell| cell.chars().count());
            widths.max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..=last).map(width).collect();
        let mut text = format!("{}\n", self.title);
        for cells in [&self.header]
            .into_iter()
            .chain(self.rows.iter().map(|row| &row.cells))
        {
            let mut line = String::from(" ");
            for (column, (cell, width)) in cells.iter().zip(&widths).enumerate() {
                let _ = match column {
                    0 => write!(line, " {cell:<width$}"),
                    _ if column == last => write!(line, "  {cell}"),
                    _ => write!(line, "  {cell:>width$}"),
                };
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        if !self.note.is_empty() {
            let _ = writeln!(text, "  {}", self.note);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::report;
    use super::*;

    #[test]
    fn columns_line_up_whatever_their_letters() {
        let table = Table {
            title: "t".into(),
            header: ["a", "n", "r"].map(str::to_owned).into(),
            rows: vec![Row {
                cells: ["µµµ", "1,000", "PASS"].map(str::to_owned).into(),
                tone: Tone::Plain,
            }],
            note: String::new(),
        };
        assert_eq!(table.text(), "t\n  a        n  r\n  µµµ  1,000  PASS\n");
    }

    #[test]
    fn every_row_has_every_column_and_its_tone() {
        for table in all(&report()) {
            for row in &table.rows {
                assert_eq!(row.cells.len(), table.header.len(), "{}", table.title);
            }
        }
        let shape = of_shape(&report().summaries[0]);
        let tones: Vec<Tone> = shape.rows.iter().map(|row| row.tone).collect();
        assert_eq!(tones, [Tone::Own, Tone::Bad, Tone::Plain]);
    }

    #[test]
    fn columns_without_a_number_are_left_out() {
        let mut report = report();
        let header = |report: &Report| of_shape(&report.summaries[0]).header.join("|");
        assert!(!header(&report).contains("× asio"), "asio failed");
        report.summaries[0].lines[0].ratios[1].ratio = Spread::of([2.0]);
        assert!(header(&report).contains("× asio"));
    }

    #[test]
    fn goals_that_were_not_measured_are_named_below_the_others() {
        let table = of_goals(&report().goals).unwrap();
        assert!(table.rows.iter().all(|row| row.tone != Tone::Dim));
        assert!(
            table.note.contains("10,000 idle connections"),
            "{}",
            table.note
        );
        assert!(
            !table.note.contains("s2: throughput, × raw"),
            "{}",
            table.note
        );
    }

    #[test]
    fn an_open_loop_shows_its_tail_and_what_was_not_sent() {
        let mut report = report();
        let summary = &mut report.summaries[0];
        summary.metric = Metric::TailLatency;
        summary.lines[0].metric = Spread::of([1_400.0, 1_500.0, 1_700.0]);
        summary.lines[0].rate_unsent = Spread::of([0.0, 12_345.0]);
        let table = of_shape(summary);
        assert_eq!(table.header[1], "p99");
        assert_eq!(table.rows[0].cells[1], "1.50 ms");
        let column = table.header.iter().position(|name| name == "not sent");
        assert_eq!(table.rows[0].cells[column.unwrap()], "12,345");
        assert!(
            table
                .rows
                .iter()
                .all(|row| row.cells.len() == table.header.len())
        );
    }

    #[test]
    fn a_client_that_was_the_limit_is_marked() {
        let mut report = report();
        let line = &mut report.summaries[0].lines[0];
        line.client_bound = 1;
        line.client_cpu_share = Spread::of([0.97]);
        let text = of_shape(&report.summaries[0]).text();
        assert!(text.contains("97 %  PASS 2/2, client-bound 1/2"), "{text}");
    }

    #[test]
    fn what_is_skipped_is_a_row_that_says_why() {
        let mut report = report();
        let mut shape = report.summaries[0].shape.clone();
        shape.skip = Some("too much".to_owned());
        let alone = of_shape(&Summary::of(&shape, &[])).text();
        assert!(alone.contains("all    skipped: too much"), "{alone}");
        shape.sweep = true;
        report.summaries[0].shape.sweep = true;
        report.summaries.insert(0, Summary::of(&shape, &[]));
        let table = &all(&report)[0];
        let last: Vec<&String> = table
            .rows
            .iter()
            .filter_map(|row| row.cells.last())
            .collect();
        assert_eq!(table.rows.len(), 2);
        assert_eq!(last[0], "skipped: too much");
        assert_eq!(table.rows[0].cells.len(), table.rows[1].cells.len());
        assert_eq!(table.header.len(), table.rows[1].cells.len());
    }

    #[test]
    fn a_sweep_is_one_table_with_a_row_for_each_point() {
        let mut report = report();
        report.summaries[0].shape.sweep = true;
        let mut other = report.summaries[0].clone();
        other.shape.inflight = 1000;
        report.summaries.push(other);
        let tables = all(&report);
        assert!(tables[0].title.starts_with("sweep"));
        assert_eq!(tables[0].rows.len(), 2);
        assert_eq!(tables[0].rows[1].cells[0], "10,000 × 1 KiB × 1,000");
        assert!(tables[0].rows[0].cells[1].contains("1.575 M (0.98)"));
    }
}

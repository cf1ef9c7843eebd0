//! The results: tables for the terminal, a CSV and a JSON file for programs, a page for people.

mod chart;
mod csv;
mod html;
mod tables;

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;

use serde::Serialize;

use super::goals::Judged;
use super::plan::Metric;
use super::runs::Run;
use super::summary::Summary;
use crate::machine::Machine;
use crate::units::{bytes, grouped};
use crate::utc;

/// The files of a report.
pub(crate) const FILES: [&str; 3] = ["results.csv", "results.json", "report.html"];

/// Everything that was measured, and where.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) time_unix: u64,
    pub(crate) command: Vec<String>,
    pub(crate) profile: String,
    pub(crate) machine: Machine,
    /// How it was measured, and what was not possible.
    pub(crate) notes: Vec<Note>,
    pub(crate) summaries: Vec<Summary>,
    pub(crate) goals: Vec<Judged>,
    pub(crate) runs: Vec<Run>,
}

/// A named remark.
#[derive(Debug, Serialize)]
pub(crate) struct Note {
    pub(crate) name: String,
    pub(crate) text: String,
}

impl Note {
    pub(crate) fn new(name: &str, text: impl Into<String>) -> Self {
        Self {
            name: name.to_owned(),
            text: text.into(),
        }
    }
}

impl Report {
    /// Writes the files, over those that are there.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub(crate) fn write(&self, folder: &Path) -> io::Result<()> {
        let mut json = serde_json::to_string_pretty(self).map_err(io::Error::other)?;
        json.push('\n');
        let contents = [self::csv::document(&self.runs)?, json, html::page(self)];
        for (file, content) in FILES.iter().zip(contents) {
            fs::write(folder.join(file), content)?;
        }
        Ok(())
    }

    /// The tables for a terminal.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        for table in tables::all(self) {
            text.push('\n');
            text.push_str(&table.text());
        }
        text.push('\n');
        for (name, value) in self.about() {
            let _ = writeln!(text, "{name:<9}  {value}");
        }
        text
    }

    /// When, how and on what it was measured.
    fn about(&self) -> Vec<(&str, String)> {
        let machine = &self.machine;
        let cached = if machine.cache.is_empty() {
            String::new()
        } else {
            format!("last-level cache {}, ", cache(&machine.cache))
        };
        let gib = machine.memory_bytes as f64 / f64::from(1 << 30);
        let described = format!(
            "{}, {} CPUs, {cached}{gib:.0} GiB of memory, {}, {}, {}",
            machine.cpu, machine.cpus, machine.architecture, machine.kernel, machine.system
        );
        let measured = format!(
            "{} by proscenium {}",
            utc::readable(self.time_unix),
            env!("CARGO_PKG_VERSION")
        );
        let mut about = vec![("Measured", measured), ("Machine", described)];
        let notes = self.notes.iter();
        about.extend(notes.map(|note| (note.name.as_str(), note.text.clone())));
        about.push(("Command", self.command_line()));
        about
    }

    fn command_line(&self) -> String {
        self.command.join(" ")
    }
}

/// The kernel's `32768K` as `32 MiB`; anything else as it is.
fn cache(text: &str) -> String {
    let kib = text
        .strip_suffix('K')
        .and_then(|kib| kib.parse::<u64>().ok());
    kib.map_or_else(
        || text.to_owned(),
        |kib| bytes(kib << 10).replace(".0 ", " "),
    )
}

/// A value of a metric with its unit.
pub(crate) fn show(metric: Metric, value: f64) -> String {
    match metric {
        Metric::Throughput => format!("{} msg/s", rate(value)),
        Metric::CpuPerMessage => format!("{value:.0} ns/msg"),
        Metric::Latency | Metric::TailLatency => crate::units::micros(value),
        Metric::ConnectTime => crate::units::micros(value * 1e6),
        Metric::CpuPerConnect => crate::units::micros(value),
    }
}

/// `1.606 M`, `152.3 k`, `940`.
fn rate(per_second: f64) -> String {
    if per_second >= 1e6 {
        format!("{:.3} M", per_second / 1e6)
    } else if per_second >= 1e4 {
        format!("{:.1} k", per_second / 1e3)
    } else {
        grouped(per_second.round() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::super::args::Profile;
    use super::super::goals;
    use super::super::stacks::{ASIO, PROSCENIUM, RAW};
    use super::super::summary::tests::{run, shape};
    use super::*;

    /// Two rounds of two stacks; one that is missing, one that failed.
    pub(super) fn report() -> Report {
        let runs = vec![
            run("s2", PROSCENIUM, 0, Some((1_500_000.0, 410.0))),
            run("s2", RAW, 0, Some((1_600_000.0, 400.0))),
            run("s2", RAW, 1, Some((1_610_000.0, 400.0))),
            run("s2", PROSCENIUM, 1, Some((1_650_000.0, 405.0))),
            run("s2", ASIO, 0, None),
        ];
        let summaries = vec![Summary::of(
            &shape("s2", None, &[PROSCENIUM, ASIO, RAW]),
            &runs,
        )];
        let goals = goals::judge(Profile::Default, &summaries, &runs);
        Report {
            time_unix: 1_000_000_000,
            command: ["proscenium", "compare"].map(str::to_owned).into(),
            profile: "default".into(),
            machine: Machine {
                cpu: "Acme <9>".into(),
                ..Machine::default()
            },
            notes: vec![Note::new("CPU quota", "none & nothing")],
            summaries,
            goals,
            runs,
        }
    }

    #[test]
    fn the_text_has_medians_ratios_failures_and_goals() {
        let text = report().text();
        for part in [
            "s2 · 10,000 connections",
            "1.575 M",
            "1.500 M–1.650 M",
            "0.981",
            "failed: 2 <connections> lost",
            "s2: throughput, × raw",
            "acceptable",
            "2001-09-09 01:46:40 UTC",
            "proscenium compare",
        ] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }

    #[test]
    fn the_files_are_written_and_the_json_has_every_run() {
        let folder = std::env::temp_dir().join(format!("proscenium-report-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        report().write(&folder).unwrap();
        let json = fs::read_to_string(folder.join("results.json")).unwrap();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        let all = FILES.iter().all(|file| folder.join(file).is_file());
        fs::remove_dir_all(&folder).unwrap();
        assert!(all);
        assert_eq!(json["runs"].as_array().unwrap().len(), 5);
        assert_eq!(json["runs"][0]["record"]["throughput"], 1_500_000.0);
        assert_eq!(json["summaries"][0]["lines"][0]["stack"], "proscenium");
    }

    #[test]
    fn the_kernels_cache_size_is_made_readable() {
        assert_eq!(
            (cache("32768K"), cache("512K")),
            ("32 MiB".into(), "512 KiB".into())
        );
        assert_eq!(cache("?"), "?");
    }

    #[test]
    fn rates_have_three_or_four_digits() {
        assert_eq!(rate(1_606_400.0), "1.606 M");
        assert_eq!(rate(152_340.0), "152.3 k");
        assert_eq!(rate(9_401.2), "9,401");
    }
}

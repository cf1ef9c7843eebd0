//! What comes of a run: one JSON document, which programs of other libraries write too.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::machine::Machine;
use crate::units::{bytes, grouped, micros};

/// A run. Latencies are in µs, and those of single requests only at a window of 1: otherwise they
/// contain the waiting for the others of the window.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct NodeRecord {
    /// `request` or `send`.
    pub(crate) mode: String,
    /// Bytes of the payload.
    pub(crate) size: u64,
    /// Most requests that were unanswered.
    pub(crate) window: u64,
    /// `load mesh`: stages that were asked, requests offered per second, and those that were due
    /// and not sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) stages: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) rate: Option<f64>,
    #[serde(default)]
    pub(crate) unsent: u64,
    /// Messages that the queue took.
    pub(crate) hwm: u64,
    /// Messages sent in the whole run, without marks.
    pub(crate) sent: u64,
    /// `request`: answers received in the whole run; `send`: messages that have arrived, by the
    /// receiver's count (0 where the program of another library does not tell).
    pub(crate) received: u64,
    /// `request`: answers per second inside the measuring window; `send`: messages per second as
    /// they arrived at the receiver between the two marks.
    pub(crate) throughput: f64,
    /// Length of that window as it was, in seconds.
    pub(crate) seconds: f64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p99_9: f64,
    pub(crate) max: f64,
    /// Share of one CPU that each side used inside the window.
    pub(crate) client_cpu_share: f64,
    pub(crate) server_cpu_share: f64,
    /// Name of the pair.
    pub(crate) stack: String,
    /// Why the run is not a pass, one sentence each; empty for a pass.
    pub(crate) failures: Vec<String>,
    /// The command line.
    #[serde(default)]
    pub(crate) command: Vec<String>,
    /// Where it ran.
    #[serde(default)]
    pub(crate) machine: Machine,
}

impl fmt::Display for NodeRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.failures.is_empty() {
            "PASS"
        } else {
            "FAIL"
        };
        let size = bytes(self.size);
        match self.mode.as_str() {
            "send" => write!(f, "{verdict}  messages of {size}")?,
            _ => write!(f, "{verdict}  requests of {size}, window {}", self.window)?,
        }
        if let Some(stages) = self.stages {
            write!(f, ", to {} stages", grouped(stages))?;
        }
        if let Some(rate) = self.rate {
            write!(f, ", {} per second offered", grouped(rate.round() as u64))?;
        }
        writeln!(f)?;
        for failure in &self.failures {
            writeln!(f, "  {failure}")?;
        }
        writeln!(
            f,
            "throughput   {} per second for {:.2} s",
            grouped(self.throughput.round() as u64),
            self.seconds
        )?;
        if self.mode != "send" {
            writeln!(
                f,
                "latency      p50 {}, p99 {}, p99.9 {}, max {}",
                micros(self.p50),
                micros(self.p99),
                micros(self.p99_9),
                micros(self.max)
            )?;
        }
        writeln!(
            f,
            "CPU          sender {:.0} %, receiver {:.0} % of one",
            self.client_cpu_share * 100.0,
            self.server_cpu_share * 100.0
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_of_another_library_prints_is_read() {
        let text = r#"{"mode": "send", "size": 64, "window": 1000, "hwm": 100000, "sent": 135,
            "received": 0, "throughput": 900896.751, "seconds": 1.080665, "p50": 0.000,
            "p99": 0.000, "p99_9": 0.000, "max": 0.000, "client_cpu_share": 0.3131,
            "server_cpu_share": 0.3434, "stack": "libzmq", "failures": ["a mark"]}"#;
        let record: NodeRecord = serde_json::from_str(text).unwrap();
        assert_eq!(
            (record.size, record.sent, &*record.stack),
            (64, 135, "libzmq")
        );
        let shown = record.to_string();
        assert!(
            shown.starts_with("FAIL") && shown.contains("900,897"),
            "{shown}"
        );
    }
}

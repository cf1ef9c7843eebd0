//! The progress line: one line on standard error, written over itself, on a terminal only.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::client::Progress;
use crate::units::grouped;

/// How often the line changes.
const EVERY: Duration = Duration::from_millis(250);

/// A line that is written over itself, or nothing.
pub(super) struct ProgressLine {
    enabled: bool,
    shown: Option<(Instant, u64)>,
}

impl ProgressLine {
    /// A line if standard error is a terminal, otherwise nothing.
    pub(super) fn on_terminal() -> Self {
        Self {
            enabled: io::stderr().is_terminal(),
            shown: None,
        }
    }

    /// Shows how far the phase is, unless it was shown just now.
    pub(super) fn show(
        &mut self,
        phase: &str,
        elapsed: Duration,
        whole: Option<Duration>,
        threads: &[Arc<Progress>],
        connections: u32,
    ) {
        let now = Instant::now();
        if !self.enabled || self.shown.is_some_and(|(last, _)| now < last + EVERY) {
            return;
        }
        let sum = |number: fn(&Progress) -> u64| -> u64 {
            threads.iter().map(|thread| number(thread)).sum()
        };
        let made = sum(|thread| thread.made.load(Ordering::Relaxed));
        let received = sum(|thread| thread.received.load(Ordering::Relaxed));
        let rate = self.shown.map_or(0.0, |(last, before)| {
            received.saturating_sub(before) as f64 / (now - last).as_secs_f64()
        });
        self.shown = Some((now, received));
        let text = line(phase, elapsed, whole, (made, u64::from(connections)), rate);
        // A progress line that cannot be written is not worth an error.
        let _ = write!(io::stderr(), "\r\x1b[K{text}");
    }

    /// Removes the line.
    pub(super) fn clear(&mut self) {
        if self.shown.take().is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

fn line(
    phase: &str,
    elapsed: Duration,
    whole: Option<Duration>,
    (made, connections): (u64, u64),
    rate: f64,
) -> String {
    let elapsed = elapsed.as_secs_f64();
    let time = match whole {
        Some(whole) => format!("{elapsed:.1} of {:.1} s", whole.as_secs_f64()),
        None => format!("{elapsed:.1} s"),
    };
    let (made, connections) = (grouped(made), grouped(connections));
    format!(
        "{phase} {time}  {made} of {connections} connections  {} msg/s",
        grouped(rate as u64)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_how_far_the_phase_is() {
        let (elapsed, whole) = (Duration::from_millis(1500), Duration::from_secs(10));
        assert_eq!(
            line(
                "measure",
                elapsed,
                Some(whole),
                (10_000, 10_000),
                2_310_000.4
            ),
            "measure 1.5 of 10.0 s  10,000 of 10,000 connections  2,310,000 msg/s"
        );
        assert_eq!(
            line("connecting", elapsed, None, (3, 10), 0.0),
            "connecting 1.5 s  3 of 10 connections  0 msg/s"
        );
    }

    #[test]
    fn off_a_terminal_nothing_is_shown() {
        let mut line = ProgressLine {
            enabled: false,
            shown: None,
        };
        line.show("measure", Duration::ZERO, None, &[], 1);
        assert!(line.shown.is_none());
    }
}

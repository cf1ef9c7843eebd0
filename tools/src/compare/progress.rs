//! How far the comparison is: a line for each run, on a terminal also what is running now.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use super::plan::Shape;
use super::report::show;
use super::runs::{Run, Status};
use super::summary::Line;
use crate::{machine, utc};

/// Counts runs and guesses how long the rest takes.
pub(crate) struct Progress {
    terminal: bool,
    begin: Instant,
    done: usize,
    whole: usize,
    /// Expected time of the runs done, and of all.
    expected_done: Duration,
    expected: Duration,
}

impl Progress {
    pub(crate) fn new(shapes: &[Shape]) -> Self {
        Self {
            terminal: io::stderr().is_terminal(),
            begin: Instant::now(),
            done: 0,
            whole: shapes.iter().map(Shape::run_count).sum(),
            expected_done: Duration::ZERO,
            expected: shapes
                .iter()
                .map(|shape| shape.run_time() * shape.run_count() as u32)
                .sum(),
        }
    }

    /// How many runs there are, how long they take and when they will be done.
    pub(crate) fn announce(&self) {
        let end = machine::unix_seconds() + self.expected.as_secs();
        eprintln!(
            "{} runs, about {}: until {}",
            self.whole,
            minutes(self.expected),
            utc::readable(end)
        );
    }

    /// A shape is left out.
    pub(crate) fn skips(&self, shape: &Shape, reason: &str) {
        let clear = if self.terminal { "\r\x1b[K" } else { "" };
        eprintln!("{clear}{} {}: skipped: {reason}", self.count(), shape.id);
    }

    /// A run begins.
    pub(crate) fn starts(&self, shape: &Shape, stack: &str) {
        if self.terminal {
            // A progress line that cannot be written is not worth an error.
            let _ = write!(
                io::stderr(),
                "\r\x1b[K{} {} · {stack} …",
                self.count(),
                shape.id
            );
        }
    }

    /// A run ended.
    pub(crate) fn ended(&mut self, shape: &Shape, run: &Run) {
        self.passed_over(shape);
        let clear = if self.terminal { "\r\x1b[K" } else { "" };
        let (count, stack) = (self.count(), &run.stack);
        let left = minutes(self.left());
        eprintln!(
            "{clear}{count} {} · {stack}: {} · {left} left",
            shape.id,
            outcome(shape, run)
        );
    }

    /// A run is left out.
    pub(crate) fn passed_over(&mut self, shape: &Shape) {
        self.done += 1;
        self.expected_done += shape.run_time();
    }

    fn count(&self) -> String {
        let width = self.whole.to_string().len();
        format!("[{:>width$}/{}]", self.done, self.whole)
    }

    /// What is left if the rest is as much slower or faster than expected as it was so far.
    fn left(&self) -> Duration {
        let expected_left = self.expected.saturating_sub(self.expected_done);
        let pace = self.begin.elapsed().as_secs_f64() / self.expected_done.as_secs_f64().max(1e-3);
        expected_left.mul_f64(pace)
    }
}

fn outcome(shape: &Shape, run: &Run) -> String {
    let reason = run.reason.as_deref().unwrap_or_default();
    match (run.status, &run.record) {
        (Status::Pass, Some(record)) => {
            let metric = shape.metric();
            let value = metric.of(&record.row);
            let value = value.map_or_else(|| Line::NOTHING.to_owned(), |v| show(metric, v));
            format!("{value} PASS")
        }
        (Status::Skipped, _) => format!("skipped: {reason}"),
        (_, Some(_)) => format!("FAIL: {reason}"),
        (_, None) => format!("failed: {reason}"),
    }
}

/// `3 min 05 s`.
fn minutes(time: Duration) -> String {
    let seconds = time.as_secs_f64().round() as u64;
    if seconds < 60 {
        format!("{seconds} s")
    } else {
        format!("{} min {:02} s", seconds / 60, seconds % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::super::stacks::{PROSCENIUM, RAW};
    use super::super::summary::tests::{run, shape};
    use super::*;

    #[test]
    fn runs_are_counted_and_the_rest_is_guessed() {
        let mut shape = shape("s2", None, &[PROSCENIUM, RAW]);
        shape.runs = 3;
        let mut progress = Progress::new(std::slice::from_ref(&shape));
        assert_eq!((progress.count().as_str(), progress.whole), ("[0/6]", 6));
        for _ in 0..6 {
            progress.passed_over(&shape);
        }
        assert_eq!(progress.count(), "[6/6]");
        assert_eq!(progress.left(), Duration::ZERO);
        assert_eq!(minutes(Duration::from_secs(185)), "3 min 05 s");
        assert_eq!(minutes(Duration::from_millis(400)), "0 s");
    }

    #[test]
    fn a_run_is_told_by_its_number_or_its_reason() {
        let shape = shape("s2", None, &[PROSCENIUM]);
        let passed = run("s2", PROSCENIUM, 0, Some((1_234_567.0, 1.0)));
        assert_eq!(outcome(&shape, &passed), "1.235 M msg/s PASS");
        let failed = run("s2", PROSCENIUM, 0, None);
        assert_eq!(outcome(&shape, &failed), "failed: 2 <connections> lost");
    }
}

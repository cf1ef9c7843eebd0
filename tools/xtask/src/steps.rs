//! Running the parts of a test run, and counting what they say.

use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

/// How often a part that is under way says so.
const REMINDER: Duration = Duration::from_secs(60);

/// How many checks passed, failed, and were not made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl Count {
    /// The last line of a run.
    pub(crate) fn line(self) -> String {
        let mut line = format!("{} passed, {} failed", self.passed, self.failed);
        if self.skipped > 0 {
            line += &format!(", {} skipped", self.skipped);
        }
        line
    }

    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }

    /// What a line of output counts: cargo's `test result: …`, the `ok` and `FAIL` lines of the
    /// peers' check.
    fn of_line(line: &str) -> Self {
        let mut count = Self::default();
        if let Some(result) = line.trim().strip_prefix("test result: ") {
            for part in result.split([';', '.']) {
                let mut words = part.split_whitespace();
                let number = words.next().and_then(|word| word.parse::<u64>().ok());
                match (number, words.next()) {
                    (Some(number), Some("passed")) => count.passed = number,
                    (Some(number), Some("failed")) => count.failed = number,
                    (Some(number), Some("ignored")) => count.skipped = number,
                    _ => {}
                }
            }
        } else if line.starts_with("  ok    ") {
            count.passed = 1;
        } else if line.starts_with("  FAIL  ") {
            count.failed = 1;
        }
        count
    }

    /// What a step counts that printed these lines and ended so. One that counts nothing by itself
    /// is one check; one that fails has failed even if its lines do not say so.
    fn of_step(lines: Self, success: bool) -> Self {
        let mut count = lines;
        if success && count == Self::default() {
            count.passed = 1;
        }
        if !success && count.failed == 0 {
            count.failed = 1;
        }
        count
    }
}

/// A test run under way.
#[derive(Debug)]
pub(crate) struct Steps {
    pub(crate) count: Count,
    begin: Instant,
    /// Parts begun, and parts that there will be.
    begun: usize,
    whole: usize,
    /// What failed or was skipped, by name.
    remarks: Vec<String>,
}

impl Steps {
    /// A run of so many parts.
    pub(crate) fn new(whole: usize) -> Self {
        Self {
            count: Count::default(),
            begin: Instant::now(),
            begun: 0,
            whole,
            remarks: Vec::new(),
        }
    }

    /// The next part begins.
    pub(crate) fn part(&mut self, name: &str) {
        self.begun += 1;
        println!(
            "\n== [{}/{}] {name}, after {}",
            self.begun,
            self.whole,
            minutes(self.begin.elapsed())
        );
    }

    /// Runs a part, showing its output.
    pub(crate) fn run(&mut self, name: &str, command: &mut Command) {
        let begin = Instant::now();
        self.part(name);
        let (shown, status) = match reminding(name, || show(command)) {
            Ok(result) => result,
            Err(error) => {
                let program = Path::new(command.get_program()).display();
                println!("{program}: {error}");
                self.count.failed += 1;
                self.remarks
                    .push(format!("failed: {name}: {program}: {error}"));
                return;
            }
        };
        let count = Count::of_step(shown.count, status.success());
        self.count.add(count);
        let ignored = shown.ignored.iter();
        self.remarks
            .extend(ignored.map(|test| format!("skipped: {name}: {test}")));
        println!(
            "== {name}: {} in {}",
            count.line(),
            minutes(begin.elapsed())
        );
        if count.failed > 0 {
            self.remarks.push(format!("failed: {name}: {status}"));
        }
    }

    /// A part that cannot be run here.
    pub(crate) fn skip(&mut self, name: &str, reason: &str) {
        self.part(name);
        self.without(name, reason);
    }

    /// Something of a part that cannot be run here.
    pub(crate) fn without(&mut self, name: &str, reason: &str) {
        println!("skipped: {name}: {reason}");
        self.count.skipped += 1;
        self.remarks.push(format!("skipped: {name}: {reason}"));
    }

    /// Prints what there is to say, the count last.
    ///
    /// # Errors
    /// When something failed.
    pub(crate) fn finish(&self) -> Result<(), String> {
        println!();
        for remark in &self.remarks {
            println!("{remark}");
        }
        println!("all parts in {}", minutes(self.begin.elapsed()));
        println!("{}", self.count.line());
        // Whoever reads only the end sees the count, whatever is written to standard error.
        let _ = io::stdout().flush();
        if self.count.failed > 0 {
            return Err("tests failed".to_owned());
        }
        Ok(())
    }
}

/// Works, and says every minute that it still does: some parts print nothing for long.
fn reminding<R>(name: &str, work: impl FnOnce() -> R) -> R {
    let begin = Instant::now();
    let (done, wait) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            while wait.recv_timeout(REMINDER) == Err(RecvTimeoutError::Timeout) {
                eprintln!("== {name}: under way for {}", minutes(begin.elapsed()));
            }
        });
        let result = work();
        drop(done);
        result
    })
}

/// `3 min 05 s`.
pub(crate) fn minutes(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds => format!("{} min {:02} s", seconds / 60, seconds % 60),
    }
}

/// What the lines of a command said.
#[derive(Debug, Default)]
struct Shown {
    count: Count,
    /// Tests that were not run, or not to their end, each with its reason.
    ignored: Vec<String>,
}

/// A test that cargo says it did not run: `test NAME ... ignored, REASON`. Code in documents that
/// is marked so is not whole, and no test.
fn ignored(line: &str) -> Option<String> {
    let (test, reason) = line
        .trim()
        .strip_prefix("test ")?
        .split_once(" ... ignored")?;
    if test.contains(" - ") {
        return None;
    }
    let reason = reason.strip_prefix(", ").unwrap_or("no reason is given");
    Some(format!("{test}: {reason}"))
}

/// A test that cargo says has passed, but says itself that it lacked something, on the standard
/// error (`tests/support/foreign.rs`): `skipped: TEST: PROGRAM: REASON`.
fn skipped(line: &str) -> Option<String> {
    let test = line.trim().strip_prefix("skipped: ")?;
    Some(test.to_owned())
}

/// Calls `each` with every line, as it comes.
fn lines(output: impl Read, mut each: impl FnMut(&str)) -> io::Result<()> {
    let mut reader = BufReader::new(output);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line)? > 0 {
        each(&String::from_utf8_lossy(&line));
        line.clear();
    }
    Ok(())
}

/// Runs a command, showing its output line by line and counting.
fn show(command: &mut Command) -> io::Result<(Shown, ExitStatus)> {
    if io::stderr().is_terminal() {
        // Cargo does not see that somebody is looking.
        command.env("CARGO_TERM_COLOR", "always");
    }
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let (mut shown, mut lacking) = (Shown::default(), Vec::new());
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    thread::scope(|scope| {
        let errors = scope.spawn(|| {
            stderr.map_or(Ok(()), |stderr| {
                lines(stderr, |line| {
                    eprint!("{line}");
                    lacking.extend(skipped(line));
                })
            })
        });
        let read = stdout.map_or(Ok(()), |stdout| {
            lines(stdout, |line| {
                print!("{line}");
                shown.count.add(Count::of_line(line));
                shown.ignored.extend(ignored(line));
            })
        });
        let errors = errors.join().unwrap_or(Ok(()));
        read.and(errors)
    })?;
    let lacking_count = lacking.len() as u64;
    shown.count.passed = shown.count.passed.saturating_sub(lacking_count);
    shown.count.skipped += lacking_count;
    shown.ignored.extend(lacking);
    Ok((shown, child.wait()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(passed: u64, failed: u64, skipped: u64) -> Count {
        Count {
            passed,
            failed,
            skipped,
        }
    }

    #[test]
    fn result_lines_are_counted() {
        for (line, expected) in [
            (
                "test result: ok. 51 passed; 0 failed; 2 ignored; 0 measured; 55 filtered out; \
                 finished in 0.08s\n",
                count(51, 0, 2),
            ),
            (
                "test result: FAILED. 3 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out",
                count(3, 1, 0),
            ),
            ("  ok    half close\n", count(1, 0, 0)),
            ("  FAIL  half close: 3 bytes\n", count(0, 1, 0)),
            ("test a ... ok", count(0, 0, 0)),
            ("test result: ", count(0, 0, 0)),
        ] {
            assert_eq!(Count::of_line(line), expected, "{line}");
        }
    }

    #[test]
    fn times_are_readable() {
        assert_eq!(minutes(Duration::from_millis(59_900)), "59 s");
        assert_eq!(minutes(Duration::from_secs(185)), "3 min 05 s");
    }

    #[test]
    fn a_step_without_results_counts_once_and_failure_always_shows() {
        assert_eq!(Count::of_step(count(0, 0, 0), true), count(1, 0, 0));
        assert_eq!(Count::of_step(count(0, 0, 0), false), count(0, 1, 0));
        assert_eq!(Count::of_step(count(9, 0, 0), false), count(9, 1, 0));
        assert_eq!(Count::of_step(count(9, 2, 0), false), count(9, 2, 0));
        assert_eq!(Count::of_step(count(9, 0, 1), true), count(9, 0, 1));
    }

    #[test]
    fn steps_add_up_and_failures_fail_the_run() {
        let mut steps = Steps::new(5);
        steps.run("good", &mut Command::new("true"));
        assert_eq!(steps.finish(), Ok(()));
        steps.skip("absent", "not here");
        assert_eq!(steps.count.line(), "1 passed, 0 failed, 1 skipped");
        let mut printing = Command::new("sh");
        printing.args([
            "-c",
            "echo 'test long ... ignored, takes an hour'
             echo 'test README.md - (line 5) ... ignored'
             echo 'test odd ... ignored'
             echo 'skipped: talks: curl-ws: a curl without it' >&2
             echo 'test result: ok. 5 passed; 0 failed; 3 ignored'",
        ]);
        steps.run("counted", &mut printing);
        steps.run("missing", &mut Command::new("no-such-program-as-this"));
        steps.run("bad", &mut Command::new("false"));
        assert_eq!(steps.count, count(5, 2, 5));
        assert_eq!(steps.begun, steps.whole);
        let skipped = steps
            .remarks
            .iter()
            .filter(|remark| remark.starts_with("skipped"));
        let skipped: Vec<&str> = skipped.map(String::as_str).collect();
        assert_eq!(
            skipped,
            [
                "skipped: absent: not here",
                "skipped: counted: long: takes an hour",
                "skipped: counted: odd: no reason is given",
                "skipped: counted: talks: curl-ws: a curl without it",
            ]
        );
        assert!(steps.finish().is_err());
    }
}

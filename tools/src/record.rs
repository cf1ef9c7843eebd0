//! What comes of a run: the summary for people, the JSON document for programs; of a stream run
//! also a CSV row.

use std::fmt::Display;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::errno::ErrorCounts;
use crate::machine::Machine;

/// Prints the summary, and writes the document where `--json` asks for it: to a file, or to
/// standard output if the path is `-`. That stays a document for other programs: the summary goes
/// to standard error then.
///
/// # Errors
/// When the document cannot be written: names the option.
pub(crate) fn publish(
    summary: &impl Display,
    document: &impl Serialize,
    json: Option<&Path>,
) -> Result<(), String> {
    // Whoever waited for the summary may be gone.
    let _ = if is_output(json) {
        write!(io::stderr(), "{summary}")
    } else {
        write!(io::stdout(), "{summary}")
    };
    let Some(path) = json else { return Ok(()) };
    let written = serde_json::to_string_pretty(document)
        .map_err(io::Error::other)
        .map(|text| text + "\n")
        .and_then(|text| match is_output(json) {
            true => io::stdout().lock().write_all(text.as_bytes()),
            false => fs::write(path, text),
        });
    written.map_err(|error| format!("--json {}: {error}", path.display()))
}

/// True if the document is what goes to standard output.
pub(crate) fn is_output(json: Option<&Path>) -> bool {
    json == Some(Path::new("-"))
}

/// The command line of this process; its program without its folder: results are for other
/// machines.
pub(crate) fn command() -> Vec<String> {
    without_folder(std::env::args().collect())
}

/// A command line that names its program only.
pub(crate) fn without_folder(mut command: Vec<String>) -> Vec<String> {
    if let Some(program) = command.first_mut()
        && let Some(name) = Path::new(program.as_str()).file_name()
    {
        *program = name.to_string_lossy().into_owned();
    }
    command
}

/// A run as a row. The columns up to `pass_fail` are those of the existing harness for other
/// stacks, in its order, so that results line up; ours follow.
///
/// Latencies are in microseconds; `throughput` is in answers per second inside the measuring
/// window; `sent` and `recv` count the whole run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct StreamRow {
    /// `s0`, `s1` or `s2`.
    pub(crate) scenario_id: String,
    /// `tcp`, `unix`, `tls`, `ws` or `wss`.
    pub(crate) transport: String,
    /// Connections asked for.
    pub(crate) ccu: u64,
    /// Most messages outstanding per connection.
    pub(crate) inflight: u64,
    /// Body length in bytes.
    pub(crate) size: u64,
    /// Connections made.
    pub(crate) connect_success: u64,
    /// Connections refused or broken while being made.
    pub(crate) connect_fail: u64,
    /// Connections not made in time.
    pub(crate) connect_timeout: u64,
    /// Messages sent.
    pub(crate) sent: u64,
    /// Answers received.
    pub(crate) recv: u64,
    /// Share of the messages that were never answered.
    pub(crate) incomplete_ratio: f64,
    /// Answers per second inside the measuring window.
    pub(crate) throughput: f64,
    /// Median latency in µs.
    pub(crate) p50: f64,
    /// 95th percentile in µs.
    pub(crate) p95: f64,
    /// 99th percentile in µs.
    pub(crate) p99: f64,
    /// `ECONNREFUSED:5;ECONNRESET:1`.
    pub(crate) errors_by_errno: String,
    /// `PASS` or `FAIL`.
    pub(crate) pass_fail: String,
    /// Name of the server.
    pub(crate) stack: String,
    /// 99.9th percentile in µs.
    pub(crate) p99_9: f64,
    /// Greatest latency in µs.
    pub(crate) max: f64,
    /// Time to make the connections, in seconds.
    pub(crate) connect_seconds: f64,
    /// Clients that were authenticated and joined their stage; empty where there is no such thing.
    pub(crate) join_success: Option<u64>,
    /// Time to let all of them in, in seconds.
    pub(crate) join_seconds: Option<f64>,
    /// Length of the warm-up, in seconds.
    pub(crate) warmup_seconds: f64,
    /// Length of the measuring window, in seconds.
    pub(crate) measure_seconds: f64,
    /// Time until the last answer, in seconds.
    pub(crate) drain_seconds: f64,
    /// CPU time of the server per answer inside the measuring window, in ns.
    pub(crate) server_cpu_ns_per_msg: Option<f64>,
    /// Share of one core that the server used inside the measuring window.
    pub(crate) server_cpu_share: Option<f64>,
    /// Peak resident memory of the server since it started, in bytes.
    pub(crate) server_rss_peak_bytes: Option<u64>,
    /// CPU time of the server for each connection that was made, its handshakes included, in µs.
    pub(crate) server_cpu_us_per_connect: Option<f64>,
    /// Share of its cores that the client used inside the measuring window.
    pub(crate) client_cpu_share: f64,
    /// True if a client thread used 95 % of its core or more: the client was the limit.
    pub(crate) client_bound: bool,
    /// Answers nobody asked for, and window overruns.
    pub(crate) gating_violation: u64,
    /// Connections that still waited for answers when the drain's time was over.
    pub(crate) drain_timeout: u64,
    /// Answers that differed from what was sent.
    pub(crate) corrupt: u64,
    /// Connections lost during the run.
    pub(crate) lost: u64,
    /// Client threads.
    pub(crate) client_threads: u64,
    /// Offered rate in messages per second; empty: closed loop.
    pub(crate) rate: Option<f64>,
    /// Messages due by the offered rate that could not be sent by the end of the window.
    pub(crate) rate_unsent: u64,
    /// When the run ended, in seconds since 1970.
    pub(crate) time_unix: u64,
}

/// The CSV columns whose names and order other tools rely on.
#[cfg(test)]
const COMMON_COLUMNS: &str = "scenario_id,transport,ccu,inflight,size,connect_success,\
    connect_fail,connect_timeout,sent,recv,incomplete_ratio,throughput,p50,p95,p99,\
    errors_by_errno,pass_fail";

/// Everything about a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct StreamRecord {
    /// The numbers.
    #[serde(flatten)]
    pub(crate) row: StreamRow,
    /// Why the run is not a pass, one sentence each; empty for a pass.
    pub(crate) failures: Vec<String>,
    /// How often each error happened.
    pub(crate) errors: ErrorCounts,
    /// The command line.
    pub(crate) command: Vec<String>,
    /// Where the client ran.
    pub(crate) machine: Machine,
}

impl StreamRecord {
    /// True if the run is a pass.
    pub(crate) fn passed(&self) -> bool {
        self.failures.is_empty()
    }
}

impl StreamRow {
    /// Appends the row to a CSV file; a new or empty file gets a header first.
    ///
    /// # Errors
    /// When the file cannot be read or written, or has other columns.
    pub(crate) fn append_csv(&self, path: &Path) -> io::Result<()> {
        let existing = match fs::read_to_string(path) {
            Ok(text) => text.lines().next().unwrap_or("").to_owned(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error),
        };
        let new = self.csv(existing.is_empty())?;
        if !existing.is_empty() {
            let with_header = self.csv(true)?;
            let header = with_header.lines().next().unwrap_or("");
            if existing != header {
                return Err(io::Error::other(format!(
                    "the file has other columns than this version writes; use a new file\n  \
                     expected: {header}\n  found:    {existing}"
                )));
            }
        }
        let mut file = OpenOptions::new().create(true).append(true).open(path)?;
        file.write_all(new.as_bytes())
    }

    /// The row as CSV text, with or without a header line.
    fn csv(&self, header: bool) -> io::Result<String> {
        let mut writer = csv::WriterBuilder::new()
            .has_headers(header)
            .from_writer(Vec::new());
        writer.serialize(self).map_err(io::Error::other)?;
        let bytes = writer.into_inner().map_err(io::Error::other)?;
        String::from_utf8(bytes).map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> StreamRow {
        StreamRow {
            scenario_id: "s2".into(),
            transport: "tcp".into(),
            ccu: 10,
            errors_by_errno: "A:1;B:2".into(),
            pass_fail: "PASS".into(),
            stack: "a, \"b\"".into(),
            throughput: 1234.5,
            ..StreamRow::default()
        }
    }

    /// A file of its own for a test, removed at the end.
    struct TestFile(std::path::PathBuf);

    impl TestFile {
        fn new(name: &str) -> Self {
            let file = format!("proscenium-{}-{name}", std::process::id());
            let this = Self(std::env::temp_dir().join(file));
            // Of a process of that number that was killed.
            let _ = fs::remove_file(&this.0);
            this
        }
    }

    impl Drop for TestFile {
        fn drop(&mut self) {
            let _ = fs::remove_file(&self.0);
        }
    }

    #[test]
    fn the_header_begins_with_the_common_columns() {
        let text = row().csv(true).unwrap();
        let header = text.lines().next().unwrap();
        assert!(
            header.starts_with(&format!("{COMMON_COLUMNS},stack,")),
            "{header}"
        );
        assert_eq!(text.lines().count(), 2);
    }

    #[test]
    fn rows_are_appended_under_one_header_and_read_back() {
        let file = TestFile::new("append.csv");
        row().append_csv(&file.0).unwrap();
        row().append_csv(&file.0).unwrap();
        let mut reader = csv::Reader::from_path(&file.0).unwrap();
        let rows: Vec<StreamRow> = reader.deserialize().map(Result::unwrap).collect();
        assert_eq!(rows, [row(), row()]);
    }

    #[test]
    fn a_file_with_other_columns_is_refused_untouched() {
        let file = TestFile::new("other.csv");
        fs::write(&file.0, "a,b\n1,2\n").unwrap();
        let error = row().append_csv(&file.0).unwrap_err().to_string();
        assert!(
            error.contains("expected: scenario_id") && error.contains("a,b"),
            "{error}"
        );
        assert_eq!(fs::read_to_string(&file.0).unwrap(), "a,b\n1,2\n");
    }

    #[test]
    fn the_json_document_reads_back() {
        let file = TestFile::new("record.json");
        let record = StreamRecord {
            row: row(),
            failures: vec!["x".into()],
            machine: Machine::describe(),
            ..StreamRecord::default()
        };
        publish(&"", &record, Some(&file.0)).unwrap();
        let text = fs::read_to_string(&file.0).unwrap();
        assert_eq!(serde_json::from_str::<StreamRecord>(&text).unwrap(), record);
        assert!(text.contains("\"throughput\": 1234.5"), "{text}");
        let nowhere = file.0.join("nowhere.json");
        let error = publish(&"", &record, Some(&nowhere)).unwrap_err();
        assert!(
            error.contains("--json") && error.contains("nowhere"),
            "{error}"
        );
    }

    #[test]
    fn command_lines_name_the_program_without_its_folder() {
        let line = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(without_folder(line("/a/b/c d /e")), ["c", "d", "/e"]);
        assert_eq!(without_folder(Vec::new()), Vec::<String>::new());
    }
}

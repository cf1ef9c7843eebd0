//! What `/proc` says about a process: CPU time and peak memory.

use std::fs;
use std::io;
use std::time::Duration;

/// Clock ticks per second of `/proc/PID/stat`. Linux has fixed `USER_HZ` at 100 for every
/// architecture that Rust supports (`proc_pid_stat(5)`, `sysconf(_SC_CLK_TCK)`).
const TICKS_PER_SECOND: u64 = 100;

/// A process, by its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pid: u32,
}

/// CPU time of one thread so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ThreadTime {
    /// The thread's id.
    pub(crate) tid: u32,
    /// Time on a CPU, user and system.
    pub(crate) cpu: Duration,
}

impl Process {
    /// This process.
    pub(crate) fn this() -> Self {
        Self {
            pid: std::process::id(),
        }
    }

    /// The process with this id.
    ///
    /// # Errors
    /// When there is none, or `/proc` does not tell.
    pub(crate) fn with_id(pid: u32) -> io::Result<Self> {
        let process = Self { pid };
        process.cpu_time().map_err(|error| {
            io::Error::new(
                error.kind(),
                format!(
                    "cannot read the CPU time of process {pid}: {error}; \
                     expected the id of a running process on this machine"
                ),
            )
        })?;
        Ok(process)
    }

    /// CPU time of all its threads so far. From the scheduler's accounting in nanoseconds where
    /// the kernel offers it (then without threads that have ended), otherwise in ticks of 10 ms.
    ///
    /// # Errors
    /// When the process is gone or `/proc` cannot be read.
    pub(crate) fn cpu_time(self) -> io::Result<Duration> {
        match self.thread_times() {
            Ok(threads) if !threads.is_empty() => Ok(threads.iter().map(|thread| thread.cpu).sum()),
            _ => self.cpu_time_in_ticks(),
        }
    }

    /// CPU time of each living thread, from `/proc/PID/task/TID/schedstat`.
    ///
    /// # Errors
    /// When the process is gone or `/proc` cannot be read.
    pub(crate) fn thread_times(self) -> io::Result<Vec<ThreadTime>> {
        let mut threads = Vec::new();
        for entry in fs::read_dir(format!("/proc/{}/task", self.pid))? {
            let entry = entry?;
            let Ok(tid) = entry.file_name().to_string_lossy().parse() else {
                continue;
            };
            // A thread may end between the listing and the reading.
            let Ok(text) = fs::read_to_string(entry.path().join("schedstat")) else {
                continue;
            };
            if let Some(nanos) = parse_schedstat(&text) {
                threads.push(ThreadTime {
                    tid,
                    cpu: Duration::from_nanos(nanos),
                });
            }
        }
        Ok(threads)
    }

    fn cpu_time_in_ticks(self) -> io::Result<Duration> {
        let text = fs::read_to_string(format!("/proc/{}/stat", self.pid))?;
        let ticks = parse_stat_ticks(&text).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("unexpected stat line: {text}"),
            )
        })?;
        Ok(Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND))
    }

    /// Peak resident memory in bytes (`VmHWM`).
    ///
    /// # Errors
    /// When the process is gone or `/proc` does not tell.
    pub(crate) fn rss_peak_bytes(self) -> io::Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        parse_status_bytes(&text, "VmHWM:").ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                "no VmHWM line in the status file",
            )
        })
    }
}

/// The first number of `schedstat`: nanoseconds on a CPU.
fn parse_schedstat(text: &str) -> Option<u64> {
    text.split_ascii_whitespace().next()?.parse().ok()
}

/// User plus system ticks: fields 14 and 15. The second field, the command in parentheses, may
/// itself contain spaces and parentheses.
fn parse_stat_ticks(text: &str) -> Option<u64> {
    let (_, after_command) = text.rsplit_once(')')?;
    let mut fields = after_command.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// A `Name:  123 kB` line of a status file, in bytes.
fn parse_status_bytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Raises the soft limit of open files to at least `wanted`, as far as the hard limit goes.
///
/// # Errors
/// When the hard limit is below `wanted`; the text says what to do.
pub(crate) fn allow_open_files(wanted: u64) -> io::Result<()> {
    let allowed = rlimit::increase_nofile_limit(wanted)?;
    if allowed < wanted {
        return Err(io::Error::other(format!(
            "{wanted} open files are needed, the system allows {allowed}: \
             raise the hard limit (ulimit -Hn {wanted}) or use fewer connections"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files_parse() {
        assert_eq!(parse_schedstat("123456 78 9\n"), Some(123_456));
        assert_eq!(parse_schedstat(""), None);
        let stat = "42 (a (b) c) S 1 2 3 4 5 6 7 8 9 10 70 30 0 0 20 0 1";
        assert_eq!(parse_stat_ticks(stat), Some(100));
        assert_eq!(parse_stat_ticks("42 (short) S 1"), None);
        let status = "Name:\tx\nVmHWM:\t    2868 kB\nVmRSS:\t 1 kB\n";
        assert_eq!(parse_status_bytes(status, "VmHWM:"), Some(2_868 * 1024));
        assert_eq!(parse_status_bytes(status, "VmPeak:"), None);
    }

    #[test]
    fn this_process_has_threads_and_memory() {
        let this = Process::with_id(std::process::id()).unwrap();
        assert!(!this.thread_times().unwrap().is_empty());
        assert!(this.rss_peak_bytes().unwrap() > 0);
        let before = this.cpu_time_in_ticks().unwrap();
        assert!(this.cpu_time_in_ticks().unwrap() >= before);
    }

    #[test]
    fn a_missing_process_is_explained() {
        let error = Process::with_id(u32::MAX).unwrap_err().to_string();
        assert!(error.contains("running process"), "{error}");
    }
}

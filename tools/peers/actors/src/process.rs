//! What the kernel says of this process and of this thread.

use std::fs;
use std::time::Duration;

/// Resident bytes. `status`, which is there if nothing else is, counts in steps that may be
/// megabytes on machines with many processors.
///
/// # Errors
/// When the kernel does not say.
pub(crate) fn resident_bytes() -> Result<u64, String> {
    let exact = fs::read_to_string("/proc/self/smaps_rollup").ok();
    if let Some(bytes) = exact.and_then(|text| parse_kib(&text, "Rss:")) {
        return Ok(bytes);
    }
    let path = "/proc/self/status";
    let status = fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    parse_kib(&status, "VmRSS:").ok_or_else(|| format!("{path}: no VmRSS"))
}

/// The line that begins so, in bytes (`proc_pid_smaps(5)`, `proc_pid_status(5)`).
fn parse_kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    Some(kib * 1024)
}

/// How long this thread has been on a CPU, where the kernel keeps account of it.
pub(crate) fn thread_cpu() -> Option<Duration> {
    parse_schedstat(&fs::read_to_string("/proc/thread-self/schedstat").ok()?)
}

/// The first number is nanoseconds on a CPU (the kernel's `sched-stats.rst`).
fn parse_schedstat(schedstat: &str) -> Option<Duration> {
    let nanos = schedstat.split_ascii_whitespace().next()?.parse().ok()?;
    Some(Duration::from_nanos(nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_are_read() {
        let status = "Name:\tx\nVmRSS:\t    2048 kB\nThreads:\t1\n";
        assert_eq!(parse_kib(status, "VmRSS:"), Some(2 << 20));
        let rollup = "5593c000-7ffe0000 ---p 00000000 00:00 0  [rollup]\nRss:    24 kB\n";
        assert_eq!(parse_kib(rollup, "Rss:"), Some(24 << 10));
        assert_eq!(parse_kib("Name:\tx\n", "VmRSS:"), None);
        assert_eq!(parse_kib("VmRSS:\tmany kB\n", "VmRSS:"), None);
        assert_eq!(
            parse_schedstat("2000000 7 9\n"),
            Some(Duration::from_millis(2))
        );
        assert_eq!(parse_schedstat(""), None);
    }

    #[test]
    fn memory_that_is_touched_is_counted() {
        let before = resident_bytes().unwrap();
        let block = vec![1_u8; 64 << 20];
        assert!(resident_bytes().unwrap() >= before + (32 << 20));
        assert_eq!(block[block.len() - 1], 1);
    }
}

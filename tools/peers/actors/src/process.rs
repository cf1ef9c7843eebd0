//! What the kernel says of this process and of this thread.

use std::fs;
use std::time::Duration;

/// Resident bytes, as the kernel counts them.
///
/// # Errors
/// When the kernel does not say.
pub(crate) fn resident_bytes() -> Result<u64, String> {
    let path = "/proc/self/status";
    let status = fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    parse_resident(&status).ok_or_else(|| format!("{path}: no VmRSS"))
}

/// The `VmRSS:` line of `proc_pid_status(5)`, in bytes.
fn parse_resident(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
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
        assert_eq!(
            parse_resident("Name:\tx\nVmRSS:\t    2048 kB\nThreads:\t1\n"),
            Some(2 << 20)
        );
        assert_eq!(parse_resident("Name:\tx\n"), None);
        assert_eq!(parse_resident("VmRSS:\tmany kB\n"), None);
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

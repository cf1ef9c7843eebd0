//! How much memory this process has.

use std::fs;

/// Resident bytes, as the kernel counts them.
///
/// # Errors
/// When the kernel does not say.
pub(crate) fn resident() -> Result<u64, String> {
    let path = "/proc/self/status";
    let status = fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    parse(&status).ok_or_else(|| format!("{path}: no VmRSS"))
}

/// The `VmRSS:` line of `proc_pid_status(5)`, in bytes.
fn parse(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_read() {
        assert_eq!(
            parse("Name:\tx\nVmRSS:\t    2048 kB\nThreads:\t1\n"),
            Some(2 << 20)
        );
        assert_eq!(parse("Name:\tx\n"), None);
        assert_eq!(parse("VmRSS:\tmany kB\n"), None);
    }

    #[test]
    fn memory_that_is_touched_is_counted() {
        let before = resident().unwrap();
        let block = vec![1_u8; 64 << 20];
        assert!(resident().unwrap() >= before + (32 << 20));
        assert_eq!(block[block.len() - 1], 1);
    }
}

//! A description of the machine, so that a result says where it comes from.

use std::fs;
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// What a reader needs to know about the machine to judge a result. Fields the system does not
/// tell are empty or zero.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Machine {
    /// The processor's own name.
    pub(crate) cpu: String,
    /// Logical CPUs that this process may use.
    pub(crate) cpus: usize,
    /// Size of the last-level cache as the kernel prints it.
    pub(crate) cache: String,
    /// Memory in bytes.
    pub(crate) memory_bytes: u64,
    /// Kernel name and version.
    pub(crate) kernel: String,
    /// The distribution's own name.
    pub(crate) system: String,
    /// `rustc`'s idea of the architecture.
    pub(crate) architecture: String,
}

impl Machine {
    /// Describes the machine this runs on.
    pub(crate) fn describe() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let kernel = read("/proc/sys/kernel/osrelease");
        Self {
            cpu: cpu_name(&read("/proc/cpuinfo")),
            cpus: thread::available_parallelism().map_or(0, usize::from),
            cache: (0..=4)
                .rev()
                .map(|level| {
                    read(&format!(
                        "/sys/devices/system/cpu/cpu0/cache/index{level}/size"
                    ))
                })
                .find(|size| !size.is_empty())
                .map(|size| size.trim().to_owned())
                .unwrap_or_default(),
            memory_bytes: memory_bytes(&read("/proc/meminfo")),
            kernel: format!("{} {}", std::env::consts::OS, kernel.trim())
                .trim()
                .to_owned(),
            system: system_name(&read("/etc/os-release")),
            architecture: std::env::consts::ARCH.to_owned(),
        }
    }
}

fn cpu_name(cpuinfo: &str) -> String {
    let name = cpuinfo.lines().find(|line| line.starts_with("model name"));
    name.and_then(|line| line.split_once(':'))
        .map_or("", |(_, name)| name)
        .trim()
        .to_owned()
}

fn memory_bytes(meminfo: &str) -> u64 {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|rest| rest.trim().strip_suffix("kB"));
    kib.and_then(|kib| kib.trim().parse::<u64>().ok())
        .unwrap_or(0)
        * 1024
}

fn system_name(os_release: &str) -> String {
    let name = os_release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.unwrap_or("").trim_matches('"').to_owned()
}

/// Seconds since 1970, for the record's time.
pub(crate) fn unix_seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_files_parse() {
        assert_eq!(
            cpu_name("processor\t: 0\nmodel name\t: Acme 9\nflags: x"),
            "Acme 9"
        );
        assert_eq!(cpu_name(""), "");
        assert_eq!(memory_bytes("MemTotal:    2048 kB\nMemFree: 1 kB"), 2 << 20);
        assert_eq!(memory_bytes("nothing"), 0);
        assert_eq!(
            system_name("ID=x\nPRETTY_NAME=\"Debian 13\"\n"),
            "Debian 13"
        );
    }

    #[test]
    fn this_machine_has_a_processor() {
        assert!(Machine::describe().cpus >= 1);
    }
}

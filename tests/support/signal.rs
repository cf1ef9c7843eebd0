//! Signals to the processes of a test, for all packages that start some.

#![allow(
    unreachable_pub,
    reason = "test binaries have it as a module of theirs"
)]

use std::process::Command;

/// Sends a process of ours a signal, by its name. By the shell, which knows how: `kill` is a
/// package of its own.
#[track_caller]
pub fn send_signal(pid: u32, signal: &str) {
    let kill = format!("kill -{signal} {pid}");
    let status = Command::new("sh").args(["-c", &kill]).status();
    assert!(status.expect("sh starts").success(), "{kill}");
}

//! What the machine has, and getting what it lacks.

use std::env;
use std::fs;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// True if a program of this name is in `PATH`.
pub(crate) fn has(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// True if this command ends well; what it prints is not shown.
pub(crate) fn succeeds(program: &str, args: &[&str]) -> bool {
    let status = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}

/// What a command prints, if it ends well.
pub(crate) fn output(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    let output = output.ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok()
}

/// Installs Debian packages, if this is Debian and we are root.
///
/// # Errors
/// Otherwise, or when it does not work: names the packages.
pub(crate) fn install(packages: &[&str]) -> Result<(), String> {
    let names = packages.join(" ");
    if !has("apt-get") || !is_root() {
        return Err(format!(
            "missing; as root on Debian: apt-get install {names}"
        ));
    }
    eprintln!("installing {names}");
    // Once is enough, and a list that cannot be renewed may still do.
    static UPDATED: OnceLock<bool> = OnceLock::new();
    UPDATED.get_or_init(|| apt(&["update"]));
    let mut args = vec!["install", "-y", "--no-install-recommends"];
    args.extend(packages);
    if apt(&args) {
        Ok(())
    } else {
        Err(format!("apt-get install {names} failed"))
    }
}

fn apt(args: &[&str]) -> bool {
    let status = Command::new("apt-get")
        .arg("-qq")
        .args(args)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}

fn is_root() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    effective_user(&status) == Some(0)
}

/// The second number of the `Uid:` line (`proc_pid_status(5)`).
fn effective_user(status: &str) -> Option<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// The name of an installed toolchain that begins so, such as `nightly` or `1.88`.
pub(crate) fn toolchain(begins: &str) -> Option<String> {
    let list = output("rustup", &["toolchain", "list"])?;
    find_toolchain(&list, begins)
}

fn find_toolchain(list: &str, begins: &str) -> Option<String> {
    list.lines()
        .filter_map(|line| line.split_whitespace().next())
        .find(|name| {
            let rest = name.strip_prefix(begins);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', '.']))
        })
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_in_the_path_only() {
        assert!(has("sh"));
        assert!(!has("no-such-program-as-this"));
        assert!(succeeds("true", &[]) && !succeeds("false", &[]));
        assert_eq!(output("echo", &["a"]).as_deref(), Some("a\n"));
    }

    #[test]
    fn the_effective_user_is_read() {
        assert_eq!(effective_user("Name:\tx\nUid:\t1000\t0\t0\t0\n"), Some(0));
        assert_eq!(effective_user("Name:\tx\n"), None);
    }

    #[test]
    fn toolchains_are_found_by_how_they_begin() {
        let list = "stable-x86_64 (active, default)\nnightly-x86_64\n1.88.0-x86_64\n1.8-x\n";
        let found = |begins| find_toolchain(list, begins);
        assert_eq!(found("nightly").as_deref(), Some("nightly-x86_64"));
        assert_eq!(found("1.88").as_deref(), Some("1.88.0-x86_64"));
        assert_eq!(found("1.8").as_deref(), Some("1.8-x"));
        assert_eq!(found("beta"), None);
    }
}

//! Programs of others that tests talk to: `openssl`, a Python with pyzmq and the like.
//!
//! `cargo xtask test` finds or installs them and names those that it has in `PROSCENIUM_FOREIGN`,
//! with commas between them. A test whose program is named there fails if that does not work. In
//! any other run a test without its program passes, and says `skipped: …` on the standard error
//! of the process, which the test harness does not keep to itself.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "every test binary uses a part of it"
)]

use std::io::Write;
use std::process::{Command, Stdio};

/// True if `command`, such as `openssl version`, ends well; else the test is to be over.
#[track_caller]
pub fn program(name: &str, command: &[&str]) -> bool {
    let found = match ends_well(command) {
        true => Ok(()),
        false => Err(format!("`{}` does not work", command.join(" "))),
    };
    require(name, found).is_some()
}

/// A Python that has this module; `None`: the test is to be over. `PROSCENIUM_PYTHON` names one.
#[track_caller]
pub fn python(name: &str, module: &str) -> Option<String> {
    let named = std::env::var("PROSCENIUM_PYTHON").ok();
    let candidates = match &named {
        Some(named) => vec![named.as_str()],
        None => vec!["python3", "/usr/bin/python3"],
    };
    let import = format!("import {module}");
    let has = |python: &&str| ends_well(&[python, "-c", &import]);
    let found = candidates.into_iter().find(has).map(str::to_owned);
    require(name, found.ok_or(format!("no Python with {module}")))
}

/// What was found of the program `name`; `None`, after saying why, if the test is to be over.
///
/// # Panics
/// When it was not found, and `PROSCENIUM_FOREIGN` says that it is there.
#[track_caller]
pub fn require<T>(name: &str, found: Result<T, String>) -> Option<T> {
    let there = std::env::var("PROSCENIUM_FOREIGN").unwrap_or_default();
    match found {
        Ok(found) => Some(found),
        Err(reason) => {
            assert!(!is_named(&there, name), "{name} should be here: {reason}");
            let thread = std::thread::current();
            let test = thread.name().unwrap_or("a test");
            // Not `eprintln!`, which the harness shows for tests that fail.
            let _ = writeln!(std::io::stderr(), "skipped: {test}: {name}: {reason}");
            None
        }
    }
}

fn is_named(list: &str, name: &str) -> bool {
    list.split(',').any(|one| one.trim() == name)
}

fn ends_well(command: &[&str]) -> bool {
    let (program, arguments) = command.split_first().expect("a command");
    let status = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}

//! Tests that need programs of others: without one they say so, and fail where it has to be.

use std::process::Command;

#[path = "support/foreign.rs"]
mod foreign;

/// Names what [`needs_a_program`] needs, when it is run by the others.
const PROGRAM: &str = "PROSCENIUM_TEST_NEEDS";

#[test]
fn needs_a_program() {
    let program = std::env::var(PROGRAM).unwrap_or("sh".to_owned());
    let there = foreign::program("needed", &[&program, "-c", "exit 0"]);
    assert_eq!(there, program == "sh");
}

/// Runs that test as `cargo test` does: whether it passed, and all that is shown of it.
fn run_without(program: &str, foreign: &str) -> (bool, String) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "needs_a_program"])
        .env(PROGRAM, program)
        .env("PROSCENIUM_FOREIGN", foreign)
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    (output.status.success(), text)
}

#[test]
fn a_test_without_its_program_says_so_although_it_passes() {
    for program in ["no-such-program-as-this", "false"] {
        let (passed, text) = run_without(program, "openssl, needed-elsewhere");
        assert!(passed, "{text}");
        let said = format!("skipped: needs_a_program: needed: `{program} ");
        assert!(text.contains(&said), "{text}");
    }
}

#[test]
fn a_test_without_the_program_it_was_promised_fails() {
    for program in ["no-such-program-as-this", "false"] {
        let (passed, text) = run_without(program, "openssl, needed");
        assert!(!passed, "{text}");
        assert!(text.contains("needed should be here"), "{text}");
    }
}

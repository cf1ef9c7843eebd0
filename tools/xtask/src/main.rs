//! Project automation: `cargo xtask bench` and `cargo xtask test`.
#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "its output is its purpose"
)]

mod autobahn;
mod bench;
mod foreign;
mod peers;
mod steps;
mod system;
mod test;
mod tree;

use std::process::ExitCode;

const USAGE: &str = "\
cargo xtask bench [--full] [OPTIONS OF proscenium compare, which names them by --help]
    Builds everything, compares Proscenium with its peers, prints the table and writes
    results.csv, results.json and report.html into target/bench/TIME. Under four minutes after the
    build; --full is the published comparison and takes about half an hour.

cargo xtask test [--all] [--seeds N]
    Runs the tests of the project. --all adds the long ones and those that need further programs;
    N is how many seeds of each simulation it tries then.

As root on Debian both install the packages they lack; otherwise they name what is missing, carry
on without, and show it as `skipped: …`.";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let is_help = |arg: &String| matches!(arg.as_str(), "--help" | "-h");
    if args.iter().any(is_help) {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let done = match args
        .split_first()
        .map(|(command, rest)| (command.as_str(), rest))
    {
        Some(("bench", rest)) => bench::run(rest),
        Some(("test", rest)) => test::run(rest),
        Some(("help", _)) => {
            println!("{USAGE}");
            Ok(())
        }
        _ => Err(format!("expected `bench` or `test`\n\n{USAGE}")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("error: {reason}");
            ExitCode::FAILURE
        }
    }
}

//! `actors`: actor libraries on the same workloads, one run or a comparison of many.
#![forbid(unsafe_code)]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command's output is its purpose"
)]

mod cli;
mod compare;
mod peers;
mod process;
mod record;
mod workload;

// What the `proscenium` command has, which is a program and no library to depend on.
#[path = "../../../src/machine.rs"]
mod machine;
#[path = "../../../src/compare/statistics.rs"]
mod statistics;

use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::{Parser, ValueEnum};

use cli::{Cli, Command, RunArgs};
use peers::Peer;
use record::Record;
use workload::Workload;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match &cli.command {
        Command::Run(args) => run(args),
        Command::List => {
            list();
            Ok(())
        }
        Command::Compare(args) => compare::run(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &RunArgs) -> Result<(), String> {
    let job = args.job()?;
    end_after(args.deadline);
    let outcome = args.peer.run(&job)?;
    let record = Record::new(args.peer, &job, &outcome);
    let Some(path) = &args.json else {
        println!("{record}");
        return Ok(());
    };
    let text = serde_json::to_string_pretty(&record).map_err(|error| error.to_string())?;
    if path.as_os_str() == "-" {
        println!("{text}");
        return Ok(());
    }
    std::fs::write(path, text + "\n").map_err(|error| format!("{}: {error}", path.display()))?;
    println!("{record}");
    Ok(())
}

/// Ends the process if it is still there then: a message that is lost is waited for in vain.
fn end_after(deadline: Duration) {
    thread::spawn(move || {
        thread::sleep(deadline);
        let seconds = deadline.as_secs_f64();
        eprintln!(
            "error: no end after {seconds} s: a message was lost, or --deadline is too short"
        );
        std::process::exit(1);
    });
}

fn list() {
    println!("peers:");
    for peer in Peer::value_variants() {
        let (package, version) = (peer.package(), peer.version());
        println!(
            "  {:<16} {package} {version}: {}",
            cli::name(*peer),
            cli::help(*peer)
        );
    }
    println!("workloads:");
    for workload in Workload::value_variants() {
        println!("  {:<16} {}", cli::name(*workload), cli::help(*workload));
    }
    println!("not offered:");
    for peer in Peer::value_variants() {
        for workload in Workload::value_variants() {
            if !peer.offers(*workload) {
                println!("  {} {}", cli::name(*peer), cli::name(*workload));
            }
        }
    }
}

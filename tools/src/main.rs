//! The `proscenium` command.
#![forbid(unsafe_code)]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command's output is its purpose"
)]

mod cli;
mod compare;
mod echo;
mod errno;
mod layers;
mod load;
mod machine;
mod metrics;
mod node;
mod process;
mod record;
mod signals;
mod units;
mod utc;

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use cli::{Cli, Command, LoadKind};

/// The run did what was asked and the result is not a pass.
const EXIT_FAIL: u8 = 2;
/// The command itself could not do its work: usage, files, sockets.
const EXIT_ERROR: u8 = 1;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Not an error: the help or version that was asked for.
            let asked = matches!(
                error.kind(),
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
            );
            let _ = error.print();
            return if asked {
                ExitCode::SUCCESS
            } else {
                EXIT_ERROR.into()
            };
        }
    };
    let result = match &cli.command {
        Command::Echo(args) => echo::run(args).map(|()| true),
        Command::Load(load) => match &load.kind {
            LoadKind::Stream(args) => load::stream(args),
            LoadKind::Play(args) => load::play(args),
            LoadKind::Node(args) => load::node::run(args),
            LoadKind::Mesh(args) => load::mesh::run(args),
        },
        Command::Node(args) => node::run(args),
        Command::Compare(args) => compare::run(args).map(|()| true),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => EXIT_FAIL.into(),
        Err(error) => {
            eprintln!("error: {error}");
            EXIT_ERROR.into()
        }
    }
}

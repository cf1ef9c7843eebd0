//! Several servers, one game. See the README beside it; read `messages.rs`, `play.rs` (a Play
//! server and its matches), `api.rs` (the API server), `demo.rs` (the players), in this order.

#![forbid(unsafe_code)]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "its output is its purpose"
)]

mod api;
mod demo;
mod messages;
mod play;
mod processes;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use proscenium::nodelink::NodeHandle;
use proscenium::nodelink::directory::{FileDirectory, ServerInfo, ServerType};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// How long the end of a server may take.
const DRAIN: Duration = Duration::from_secs(20);

/// A match on several servers.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Start an API server and two Play servers, and play a match on them (the default)
    Demo,
    /// Run a Play server, until SIGTERM or Ctrl-C
    Play(Server),
    /// Run an API server, until SIGTERM or Ctrl-C
    Api(Server),
}

#[derive(Args)]
struct Server {
    /// Its name in the mesh
    #[arg(long)]
    nid: String,
    /// The file with all servers: NID ADDRESS TYPE SERVICE in each line
    #[arg(long, value_name = "FILE")]
    directory: PathBuf,
}

fn main() -> ExitCode {
    let done = match Cli::parse().command.unwrap_or(Command::Demo) {
        Command::Demo => demo::run(),
        Command::Play(server) => run_play(&server),
        Command::Api(server) => run_api(&server),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("match: {error}");
            ExitCode::FAILURE
        }
    }
}

fn directory(server: &Server) -> FileDirectory {
    FileDirectory::new(&server.directory).every(Duration::from_millis(100))
}

fn run_play(options: &Server) -> Result<(), Box<dyn Error>> {
    // Before anybody knows of the server and asks it to end.
    let signals = Signals::new([SIGTERM, SIGINT])?;
    let server = play::start(&options.nid, directory(options))?;
    let handle = server.handle();
    let node = handle.node().ok_or("it is a node")?;
    let (at, kind) = (server.node_addrs()[0].clone(), ServerType::Play);
    let info = ServerInfo::new(node.nid().clone(), at, kind, messages::PLAY);
    println!("server {info}");
    run_until_signal(node, signals);
    let report = server.shutdown(DRAIN);
    println!("{report}");
    report
        .is_clean()
        .then_some(())
        .ok_or_else(|| "something was lost".into())
}

fn run_api(options: &Server) -> Result<(), Box<dyn Error>> {
    let signals = Signals::new([SIGTERM, SIGINT])?;
    let server = api::start(&options.nid, directory(options))?;
    let (at, kind) = (server.local_addrs()[0].clone(), ServerType::Api);
    let info = ServerInfo::new(server.node().nid().clone(), at, kind, messages::API);
    println!("server {info}");
    let http = server.http_addrs().ok_or("it serves HTTP")?;
    println!("http {}", http.routes);
    run_until_signal(&server.node().handle(), signals);
    let report = server.shutdown(DRAIN);
    println!("{}", report.links);
    report
        .is_clean()
        .then_some(())
        .ok_or_else(|| "something was lost".into())
}

/// Says when other servers of a service can be chosen, until a signal comes.
fn run_until_signal(node: &NodeHandle, mut signals: Signals) {
    for (service, name) in [
        (messages::PLAY, "Play servers"),
        (messages::API, "API servers"),
    ] {
        let node = node.clone();
        thread::spawn(move || {
            if node.wait_candidates(service, 1, Duration::MAX) {
                println!("reaches {name}");
            }
        });
    }
    signals.forever().next();
}

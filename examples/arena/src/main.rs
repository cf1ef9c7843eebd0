//! A complete small game server with its client and bots. See the README beside it; read
//! `world.rs` (the rules), `messages.rs`, `server.rs`, `client.rs`, `bot.rs`, in this order.

#![forbid(unsafe_code)]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "its output is its purpose"
)]

mod bot;
mod client;
mod endpoint;
mod messages;
mod report;
mod server;
mod world;

use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use endpoint::Endpoint;

/// Collect coins on a grid, together with everybody else.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the server, until SIGTERM or Ctrl-C
    Serve(Serve),
    /// Play in this terminal, or have bots play
    Play(Play),
}

#[derive(Args)]
struct Serve {
    /// Where to listen: tcp://, ws://, tls:// or wss://ADDRESS:PORT; port 0 takes a free one.
    /// May be given several times
    #[arg(long, value_name = "URL", default_value = "tcp://127.0.0.1:7000")]
    listen: Vec<Endpoint>,
    /// Certificate chain (PEM) for tls:// and wss://
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// Private key (PEM) for tls:// and wss://
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// Threads; each arena lives on one of them
    #[arg(long, default_value_t = 1)]
    shards: usize,
    /// For how many seconds a player is kept whose client has lost the connection
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    keep: u64,
}

#[derive(Args)]
struct Play {
    /// The server: tcp://, ws://, tls:// or wss://HOST:PORT
    #[arg(long, value_name = "URL", default_value = "tcp://127.0.0.1:7000")]
    connect: Endpoint,
    /// A certificate (PEM) to trust besides the public authorities
    #[arg(long, value_name = "FILE")]
    trust: Option<PathBuf>,
    /// The player's name, 1 to 16 ASCII letters, digits, - or _; bots append a number. Who comes
    /// with the name of somebody else takes that player over [default: one of its own]
    #[arg(long)]
    name: Option<String>,
    /// Which arena to play in; the server opens it with the first player
    #[arg(long, default_value_t = 1)]
    arena: i64,
    /// Have so many bots play instead
    #[arg(long, value_name = "COUNT")]
    bots: Option<usize>,
    /// How long bots play, from when all have come in; until SIGTERM or Ctrl-C if not given
    #[arg(long, requires = "bots")]
    seconds: Option<u64>,
    /// Have bots report as JSON, one object per line, the last one for all the time
    #[arg(long, requires = "bots")]
    json: bool,
}

/// How clients and bots reach the server, and which arena there.
struct Target {
    endpoint: Endpoint,
    trust_pem: Option<String>,
    arena: i64,
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Serve(serve) => run_server(serve),
        Command::Play(play) => run_player(play),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("arena: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run_server(serve: Serve) -> Result<(), Box<dyn Error>> {
    // Before anybody knows of the server and asks it to end.
    let signals = Signals::new([SIGTERM, SIGINT])?;
    let certificate = serve.cert.zip(serve.key);
    let mut listeners = Vec::new();
    for endpoint in &serve.listen {
        listeners.push(endpoint.listener(certificate.as_ref())?);
    }
    let keep = Duration::from_secs(serve.keep);
    let server = server::start(listeners, serve.shards, keep)?;
    for (endpoint, address) in serve.listen.iter().zip(server.local_addrs()) {
        println!("listening on {}://{address}", endpoint.scheme);
    }
    println!("{}", server::run_until(signals, server));
    Ok(())
}

fn run_player(play: Play) -> Result<(), Box<dyn Error>> {
    let read = |path: &PathBuf| {
        let text = fs::read_to_string(path);
        text.map_err(|error| format!("{}: {error}", path.display()))
    };
    let target = Target {
        endpoint: play.connect,
        trust_pem: play.trust.as_ref().map(read).transpose()?,
        arena: play.arena,
    };
    let process = std::process::id();
    match play.bots {
        Some(count) => {
            let name = play.name.unwrap_or_else(|| format!("b{process}-"));
            let length = play.seconds.map(Duration::from_secs);
            bot::play(&target, &name, count, length, play.json)
        }
        None => {
            let name = play.name.unwrap_or_else(|| format!("player-{process}"));
            client::play(&target, &name)
        }
    }
}

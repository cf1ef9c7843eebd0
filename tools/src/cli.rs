//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use proscenium_engine::{Balance, Framing, Overflow, RouterId};

use crate::compare::CompareArgs;
use crate::layers::ServerLayers;
use crate::load::mesh::MeshArgs;
use crate::load::node::NodeArgs as NodeLoadArgs;
use crate::load::{PlayArgs, StreamArgs};
use crate::node::NodeArgs;
use crate::units::{parse_bytes, parse_duration};

/// Servers and load for stream benchmarks, on the Proscenium networking engine.
#[derive(Debug, Parser)]
#[command(name = "proscenium", version, after_help = EXAMPLES, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXAMPLES: &str = "\
Examples:
  proscenium echo --listen 127.0.0.1:7000
  proscenium load stream --target 127.0.0.1:7000 --scenario s2 --ccu 1000
  proscenium compare

Durations are written 3s, 500ms, 2m; sizes 1024, 64KiB, 2MiB; addresses HOST:PORT or unix:/PATH.
Exit codes: 0 done (for load: PASS), 1 the command could not do its work, 2 load: FAIL, node: no
answer, or an error.";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run an echo server: every message is sent back to where it came from
    Echo(EchoArgs),
    /// Put load on a server and measure it
    Load(LoadArgs),
    /// Run a node of a mesh, or talk to one from the shell
    Node(Box<NodeArgs>),
    /// Compare servers: this engine's and its peers', in turns, under the same load
    Compare(Box<CompareArgs>),
}

#[derive(Debug, Args)]
pub(crate) struct LoadArgs {
    #[command(subcommand)]
    pub(crate) kind: LoadKind,
}

#[derive(Debug, Subcommand)]
pub(crate) enum LoadKind {
    /// Stream scenarios: messages to an echo server
    Stream(StreamArgs),
    /// The same through a Play server: clients authenticate and join first
    Play(PlayArgs),
    /// Messages and requests from one node to another
    Node(NodeLoadArgs),
    /// Requests from stages of one Play server to stages of another
    Mesh(MeshArgs),
}

/// How bytes become messages, as the command line names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FramingName {
    /// u32 big-endian length, then the body
    Be32,
    /// u32 little-endian length, then the body
    Le32,
    /// No framing: bytes are echoed as they come
    Raw,
}

impl From<FramingName> for Framing {
    fn from(name: FramingName) -> Self {
        match name {
            FramingName::Be32 => Self::Be32,
            FramingName::Le32 => Self::Le32,
            FramingName::Raw => Self::Raw,
        }
    }
}

/// What happens to a peer that does not read its answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OverflowName {
    /// Read no more from it until it has read
    Pause,
    /// Drop further answers, counted
    Drop,
    /// Close its connection, counted
    Close,
}

impl From<OverflowName> for Overflow {
    fn from(name: OverflowName) -> Self {
        match name {
            OverflowName::Pause => Self::PauseReading,
            OverflowName::Drop => Self::DropNewest,
            OverflowName::Close => Self::Close,
        }
    }
}

/// How connections are spread over shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum BalanceName {
    /// A listening socket for each shard; the kernel spreads
    Reuseport,
    /// Shard 0 accepts and deals out in turn: exactly even
    Roundrobin,
}

impl From<BalanceName> for Balance {
    fn from(name: BalanceName) -> Self {
        match name {
            BalanceName::Reuseport => Self::ReusePort,
            BalanceName::Roundrobin => Self::RoundRobin,
        }
    }
}

/// Which of the engine's interfaces the echo is written on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Interface {
    /// A handler that the engine calls: the fast way
    Callback,
    /// A socket from which the program pulls events
    Socket,
}

/// What answers on the callback interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// The handler itself: one for all connections of a shard
    Callback,
    /// A stage for each connection, bound to it, which ends with it
    Stage,
    /// A Play server, which lets everybody in, under the name in the authentication's payload
    Play,
    /// A node of a mesh, whose NID is `echo`
    Node,
    /// A Play server of a mesh, whose NID is `echo`, and whose stages answer those of other servers
    Mesh,
}

/// How the echo answers on the callback interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Answer {
    /// The received message is sent on as it is, without copying it
    Forward,
    /// The answer is sent like any other message: copied into the send buffer
    Send,
}

pub(crate) const SHARDS_MAX: i64 = RouterId::SHARDS_MAX as i64;

const ECHO_EXAMPLES: &str = "\
Examples:
  proscenium echo
  proscenium echo --listen 127.0.0.1:0                         a free port, printed when ready
  proscenium echo --listen unix:/run/echo.sock --framing raw
  proscenium echo --mode stage                                 a stage for each connection
  proscenium echo --mode play                                  for `proscenium load play`
  proscenium echo --mode node                                  for `proscenium load node`
  proscenium echo --mode mesh --shards 2                       for `proscenium load mesh`
  proscenium echo --tls --cert chain.pem --key key.pem --ws    wss://
  proscenium echo --listen 0.0.0.0:7000 --shards 4 --pin 0,1,2,3 --metrics 127.0.0.1:9100

Prints `listening on ADDR` on standard output when connections are accepted. SIGTERM or Ctrl-C ends
it: no new connections, what is queued is written, then a summary is printed; a second one ends it
at once. Sockets passed by a service supervisor (LISTEN_FDS) are used in place of --listen.";

/// Options of `proscenium echo`.
#[derive(Debug, Args)]
#[command(after_help = ECHO_EXAMPLES)]
pub(crate) struct EchoArgs {
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7000")]
    pub(crate) listen: String,
    /// Threads, each with its own event loop and connections
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u16).range(1..=SHARDS_MAX))]
    pub(crate) shards: u16,
    /// How bytes become messages; default be32, with --ws raw (a message of the WebSocket is one),
    /// with --mode play le32
    #[arg(long, value_enum)]
    pub(crate) framing: Option<FramingName>,
    #[command(flatten)]
    pub(crate) layers: ServerLayers,
    /// Serve statistics at http://ADDR/metrics as Prometheus text
    #[arg(long, value_name = "ADDR")]
    pub(crate) metrics: Option<String>,
    /// Pin the shards to these CPUs, in order
    #[arg(long, value_name = "CPU,CPU", value_delimiter = ',')]
    pub(crate) pin: Vec<usize>,
    /// What happens to a peer that does not read its answers
    #[arg(long, value_enum, default_value_t = OverflowName::Pause)]
    pub(crate) overflow: OverflowName,
    /// Most connections of one shard; more are closed at once, counted
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    pub(crate) limit_connections: usize,
    /// Longest message; a longer one closes its connection
    #[arg(long, value_name = "BYTES", default_value = "2MiB", value_parser = parse_bytes)]
    pub(crate) frame_max: usize,
    /// Close connections from which nothing came for so long; 0 never does
    #[arg(long, value_name = "DUR", default_value = "0", value_parser = parse_duration)]
    pub(crate) idle_timeout: Duration,
    /// How connections are spread over the shards
    #[arg(long, value_enum, default_value_t = BalanceName::Reuseport)]
    pub(crate) balance: BalanceName,
    /// How long a shutdown may take
    #[arg(long, value_name = "DUR", default_value = "5s", value_parser = parse_duration)]
    pub(crate) drain: Duration,
    /// Which of the engine's interfaces serves
    #[arg(long, value_enum, default_value_t = Interface::Callback)]
    pub(crate) interface: Interface,
    /// What answers, on the callback interface
    #[arg(long, value_enum, default_value_t = Mode::Callback)]
    pub(crate) mode: Mode,
    /// How a message is answered, on the callback interface
    #[arg(long, value_enum, default_value_t = Answer::Forward)]
    pub(crate) answer: Answer,
    /// Write the summary at the end to this file as JSON; `-` is standard output, and what is for
    /// people goes to standard error
    #[arg(long, value_name = "F")]
    pub(crate) json: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_help_ends_with_examples() {
        let mut command = Cli::command();
        command.build();
        let echo = command.find_subcommand("echo").unwrap().clone();
        let load = command.find_subcommand("load").unwrap();
        let stream = load.find_subcommand("stream").unwrap().clone();
        let play = load.find_subcommand("play").unwrap().clone();
        let node = load.find_subcommand("node").unwrap().clone();
        let mesh = load.find_subcommand("mesh").unwrap().clone();
        let shell = command.find_subcommand("node").unwrap().clone();
        let parts = shell.get_subcommands().cloned();
        let parts: Vec<_> = parts.filter(|part| part.get_name() != "help").collect();
        let compare = command.find_subcommand("compare").unwrap().clone();
        let all = [
            command.clone(),
            echo,
            stream,
            play,
            node,
            mesh,
            shell,
            compare,
        ];
        for mut command in all.into_iter().chain(parts) {
            let help = command.render_long_help().to_string();
            assert!(help.contains("Examples:"), "{help}");
        }
    }
}

//! `proscenium node`: a node of a mesh from a file, and a shell's way to talk to nodes.

mod config;
mod run;
mod shell;
mod status;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use crate::units::parse_duration;

/// What a running node answers, besides `Echo`: with nothing.
const PING: &str = "Ping";
/// With its statistics, as JSON.
const STATUS: &str = "NodeStatus";

const EXAMPLES: &str = "\
Examples:
  proscenium node run --example-config > node.toml
  proscenium node run --config node.toml
  proscenium node ping play-1 --at 127.0.0.1:7100 --count 5
  proscenium node request play-1 Echo --payload hello --at 127.0.0.1:7100
  proscenium node send play-1 Announce --payload-file news.bin --directory mesh.txt
  proscenium node status --directory redis://127.0.0.1:6379 --json

`ping`, `send`, `request` and `status` join the mesh for a moment, as a node of their own. Links are
direct: they need the address of the node that they name, from --at or from a directory, which is
a file or redis://HOST:PORT.
Exit codes: 0 done, 1 the command could not do its work, 2 no answer, or one with an error code.";

/// Options of `proscenium node`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct NodeArgs {
    #[command(subcommand)]
    kind: NodeKind,
}

#[derive(Debug, Subcommand)]
enum NodeKind {
    /// Run a node as a file says, until SIGTERM
    Run(RunArgs),
    /// Ask a node for a sign of life, and time it
    Ping(PingArgs),
    /// Send a node a message that wants no answer
    Send(SendArgs),
    /// Send a node a request, and print the reply's payload
    Request(SendArgs),
    /// Show peers, queues and rates of nodes that `node run` runs
    Status(StatusArgs),
}

/// Options of `proscenium node run`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  proscenium node run --example-config > node.toml
  proscenium node run --config node.toml --print

Prints `listening on ADDR` on standard output when it accepts links. It answers `Echo` with its
payload, `Ping`, and what `node status` asks; other requests with error code 12. SIGTERM or Ctrl-C
drains it; a second one ends it at once.")]
struct RunArgs {
    /// What the node is (TOML)
    #[arg(long, value_name = "F", required_unless_present = "example_config")]
    config: Option<PathBuf>,
    /// Print a file with all keys and what they mean, and end
    #[arg(long)]
    example_config: bool,
    /// Print a line for each message that wants no answer
    #[arg(long)]
    print: bool,
    /// Serve statistics of the engine at http://ADDR/metrics as Prometheus text
    #[arg(long, value_name = "ADDR")]
    metrics: Option<String>,
}

/// Where nodes are found, and how long to wait for them.
#[derive(Debug, Args)]
struct Reach {
    /// Where the node listens
    #[arg(long, value_name = "ADDR", conflicts_with = "directory")]
    at: Option<String>,
    /// Where nodes are looked up: a file, or redis://HOST:PORT
    #[arg(long, value_name = "F|URL")]
    directory: Option<String>,
    /// Name of the mesh in Redis
    #[arg(long, value_name = "NAME", requires = "directory")]
    mesh: Option<String>,
    /// How long to wait for the link, and then for each answer
    #[arg(long, value_name = "DUR", default_value = "5s", value_parser = parse_duration)]
    timeout: Duration,
    /// The name to join under; default one that nobody has
    #[arg(long = "as", value_name = "NID")]
    own: Option<String>,
}

/// Options of `proscenium node ping`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  proscenium node ping play-1 --at 127.0.0.1:7100
  proscenium node ping play-1 --directory mesh.txt --count 100 --interval 10ms

Any reply is a sign of life, whatever it says. The time is that of a request from this process.")]
struct PingArgs {
    /// The node
    nid: String,
    #[command(flatten)]
    reach: Reach,
    /// How often
    #[arg(long, value_name = "N", default_value_t = 4,
          value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    /// From one to the next
    #[arg(long, value_name = "DUR", default_value = "1s", value_parser = parse_duration)]
    interval: Duration,
    /// Print JSON instead of lines: what was sent and lost, and the times in µs
    #[arg(long)]
    json: bool,
}

/// Options of `proscenium node send` and `request`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  proscenium node request play-1 Echo --payload hello --at 127.0.0.1:7100
  proscenium node send play-1 Announce --payload-file - --at 127.0.0.1:7100 < news.bin

`request` prints the reply's payload as it is; what it is goes to standard error. `send` ends when
the message has been written to the link: nobody confirms more.")]
struct SendArgs {
    /// The node
    nid: String,
    /// What the message is
    msg_id: String,
    #[command(flatten)]
    reach: Reach,
    /// The payload as text
    #[arg(long, value_name = "TEXT", conflicts_with = "payload_file")]
    payload: Option<String>,
    /// The payload from a file; `-` is standard input
    #[arg(long, value_name = "F")]
    payload_file: Option<PathBuf>,
    /// The stage that it is for
    #[arg(
        long,
        value_name = "ID",
        default_value_t = 0,
        allow_negative_numbers = true
    )]
    stage: i64,
    /// The account that it is about
    #[arg(
        long,
        value_name = "ID",
        default_value_t = 0,
        allow_negative_numbers = true
    )]
    account: i64,
    /// The service that it is for
    #[arg(long, value_name = "N", default_value_t = 0)]
    service: u16,
}

/// Options of `proscenium node status`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  proscenium node status --at 127.0.0.1:7100
  proscenium node status play-1 play-2 --directory mesh.txt --interval 0
  proscenium node status --directory mesh.txt --json")]
struct StatusArgs {
    /// The nodes; default all of the directory, or whoever is at --at
    nids: Vec<String>,
    #[command(flatten)]
    reach: Reach,
    /// Rates are those of so long; 0: no rates
    #[arg(long, value_name = "DUR", default_value = "1s", value_parser = parse_duration)]
    interval: Duration,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// Runs one of them. False if somebody did not answer, or with an error.
///
/// # Errors
/// When the command could not do its work: says why.
pub(crate) fn run(args: &NodeArgs) -> Result<bool, String> {
    match &args.kind {
        NodeKind::Run(args) => run::run(args).map(|()| true),
        NodeKind::Ping(args) => shell::ping(args),
        NodeKind::Send(args) => shell::send(args),
        NodeKind::Request(args) => shell::request(args),
        NodeKind::Status(args) => status::run(args),
    }
}

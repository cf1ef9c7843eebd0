//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use proscenium_engine::{Balance, Framing, Overflow, RouterId};

use crate::compare::CompareArgs;
use crate::layers::{ClientLayers, ServerLayers};
use crate::load::{Scenario, Verify};
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
Exit codes: 0 done (for load: PASS), 1 the command could not do its work, 2 load: FAIL.";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run an echo server: every message is sent back to where it came from
    Echo(EchoArgs),
    /// Put load on a server and measure it
    Load(LoadArgs),
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
    /// Stream scenarios: framed messages to an echo server over TCP or Unix sockets
    Stream(StreamArgs),
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

/// The framings a load client can count messages in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum MessageFraming {
    /// u32 big-endian length, then the body
    Be32,
    /// u32 little-endian length, then the body
    Le32,
}

impl From<MessageFraming> for Framing {
    fn from(name: MessageFraming) -> Self {
        match name {
            MessageFraming::Be32 => Self::Be32,
            MessageFraming::Le32 => Self::Le32,
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
}

/// How the echo answers on the callback interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Answer {
    /// The received message is sent on as it is, without copying it
    Forward,
    /// The answer is sent like any other message: copied into the send buffer
    Send,
}

const SHARDS_MAX: i64 = RouterId::SHARDS_MAX as i64;

const ECHO_EXAMPLES: &str = "\
Examples:
  proscenium echo
  proscenium echo --listen 127.0.0.1:0                         a free port, printed when ready
  proscenium echo --listen unix:/run/echo.sock --framing raw
  proscenium echo --mode stage                                 a stage for each connection
  proscenium echo --tls --cert chain.pem --key key.pem
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
    /// How bytes become messages
    #[arg(long, value_enum, default_value_t = FramingName::Be32)]
    pub(crate) framing: FramingName,
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
}

const STREAM_EXAMPLES: &str = "\
Scenarios:
  s0  one connection, one message, one answer
  s1  connect only: every one of --ccu connections must be made
  s2  connect all, warm up, measure, drain; at most --inflight messages outstanding per connection

PASS means: every connection made and none lost, answers came, every message was answered after the
drain, no answer without a question, no window overrun, every checked byte as it was sent.

Examples:
  proscenium load stream --target 127.0.0.1:7000 --scenario s0
  proscenium load stream --target 127.0.0.1:7000 --scenario s2 --ccu 1000 --size 64 --inflight 1
  proscenium load stream --target 127.0.0.1:7000 --scenario s2 --rate 1e6 --server-pid 4242
  proscenium load stream --target unix:/run/echo.sock --scenario s2 --csv results.csv --json -
  proscenium load stream --target 127.0.0.1:7000 --tls --scenario s1 --server-pid 4242";

/// Options of `proscenium load stream`.
#[derive(Debug, Args)]
#[command(after_help = STREAM_EXAMPLES)]
pub(crate) struct StreamArgs {
    /// The echo server
    #[arg(long, value_name = "ADDR")]
    pub(crate) target: String,
    /// What to run (see below)
    #[arg(long, value_enum)]
    pub(crate) scenario: Scenario,
    /// Connections (s0 uses one)
    #[arg(long, value_name = "N", default_value_t = 10_000,
          value_parser = clap::value_parser!(u32).range(1..=8_000_000))]
    pub(crate) ccu: u32,
    /// Length of a message, header of 9 bytes included
    #[arg(long, value_name = "BYTES", default_value = "1024", value_parser = parse_bytes)]
    pub(crate) size: usize,
    /// Most messages outstanding on one connection
    #[arg(long, value_name = "N", default_value_t = 30,
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) inflight: u32,
    /// Load before measuring
    #[arg(long, value_name = "DUR", default_value = "3s", value_parser = parse_duration)]
    pub(crate) warmup: Duration,
    /// Length of the measuring window
    #[arg(long, value_name = "DUR", default_value = "10s", value_parser = parse_duration)]
    pub(crate) measure: Duration,
    /// How long to wait for outstanding answers at the end
    #[arg(long, value_name = "DUR", default_value = "10s", value_parser = parse_duration)]
    pub(crate) drain: Duration,
    /// Client threads; connections are split between them
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u16).range(1..=SHARDS_MAX))]
    pub(crate) threads: u16,
    /// Connections being made at the same time
    #[arg(long, value_name = "N", default_value_t = 256,
          value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) connect_concurrency: u32,
    /// How long a connection may take to be made
    #[arg(long, value_name = "DUR", default_value = "10s", value_parser = parse_duration)]
    pub(crate) connect_timeout: Duration,
    /// Offer a fixed rate, in messages per second over all connections, instead of replacing each
    /// answered message; latency counts from the intended send time
    #[arg(long, value_name = "R", value_parser = parse_rate)]
    pub(crate) rate: Option<f64>,
    /// With --rate: messages sent together on one connection; default --inflight
    #[arg(long, value_name = "N", requires = "rate",
          value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) burst: Option<u32>,
    /// How messages are framed
    #[arg(long, value_enum, default_value_t = MessageFraming::Be32)]
    pub(crate) framing: MessageFraming,
    #[command(flatten)]
    pub(crate) layers: ClientLayers,
    /// Measure CPU time and peak memory of this process, the server
    #[arg(long, value_name = "PID")]
    pub(crate) server_pid: Option<u32>,
    /// Compare every byte of `full` (every message), `sample` (every 64th) or every N-th; length,
    /// header and last bytes are always checked
    #[arg(long, value_name = "full|sample|N", default_value = "sample",
          value_parser = Verify::parse)]
    pub(crate) verify: Verify,
    /// Name of the server in the results
    #[arg(long, value_name = "LABEL", default_value = "proscenium")]
    pub(crate) stack: String,
    /// Pin the client threads to these CPUs, in order
    #[arg(long, value_name = "CPU,CPU", value_delimiter = ',')]
    pub(crate) pin: Vec<usize>,
    /// Write the whole result to this file; `-` is standard output
    #[arg(long, value_name = "F")]
    pub(crate) json: Option<PathBuf>,
    /// Append a row to this file; a new file gets a header
    #[arg(long, value_name = "F")]
    pub(crate) csv: Option<PathBuf>,
}

fn parse_rate(text: &str) -> Result<f64, String> {
    match text.replace('_', "").parse::<f64>() {
        Ok(rate) if rate > 0.0 && rate <= 1e9 => Ok(rate),
        _ => Err(format!(
            "`{text}`: expected messages per second above 0, up to 1e9, such as 1000 or 1e6"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn stream(args: &[&str]) -> Result<StreamArgs, clap::Error> {
        let base = ["proscenium", "load", "stream", "--target", "127.0.0.1:1"];
        let cli = Cli::try_parse_from(base.iter().chain(args))?;
        match cli.command {
            Command::Load(LoadArgs {
                kind: LoadKind::Stream(args),
            }) => Ok(args),
            other => panic!("parsed as {other:?}"),
        }
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_defaults_are_those_of_the_scenarios() {
        let args = stream(&["--scenario", "s2"]).unwrap();
        assert_eq!((args.ccu, args.size, args.inflight), (10_000, 1024, 30));
        let seconds = [args.warmup, args.measure, args.drain, args.connect_timeout];
        assert_eq!(seconds.map(|duration| duration.as_secs()), [3, 10, 10, 10]);
        assert_eq!((args.threads, args.connect_concurrency), (1, 256));
        assert_eq!((args.rate, args.verify), (None, Verify::SAMPLE));
    }

    #[test]
    fn durations_sizes_rates_and_lists_parse() {
        let args = stream(&[
            "--scenario",
            "s2",
            "--size",
            "64KiB",
            "--warmup",
            "500ms",
            "--rate",
            "1e6",
            "--burst",
            "8",
            "--pin",
            "0,1",
            "--verify",
            "full",
        ])
        .unwrap();
        assert_eq!(
            (args.size, args.warmup),
            (65_536, Duration::from_millis(500))
        );
        assert_eq!((args.rate, args.burst), (Some(1e6), Some(8)));
        assert_eq!((args.pin, args.verify), (vec![0, 1], Verify::FULL));
    }

    #[test]
    fn wrong_values_say_what_was_expected() {
        for (args, expected) in [
            (&["--scenario", "s9"][..], "s0, s1, s2"),
            (&["--scenario", "s2", "--warmup", "3"], "500ms"),
            (&["--scenario", "s2", "--size", "big"], "64KiB"),
            (&["--scenario", "s2", "--rate", "0"], "messages per second"),
            (
                &["--scenario", "s2", "--rate", "NaN"],
                "messages per second",
            ),
            (&["--scenario", "s2", "--inflight", "0"], "1..=1000000"),
            (&["--scenario", "s2", "--burst", "2"], "--rate"),
            (&["--scenario", "s2", "--verify", "0"], "full"),
            (&[], "--scenario"),
        ] {
            let error = stream(args).unwrap_err().to_string();
            assert!(error.contains(expected), "{args:?}: {error}");
        }
    }

    #[test]
    fn every_help_ends_with_examples() {
        let mut command = Cli::command();
        command.build();
        let echo = command.find_subcommand("echo").unwrap().clone();
        let load = command.find_subcommand("load").unwrap();
        let stream = load.find_subcommand("stream").unwrap().clone();
        let compare = command.find_subcommand("compare").unwrap().clone();
        for mut command in [command.clone(), echo, stream, compare] {
            let help = command.render_long_help().to_string();
            assert!(help.contains("Examples:"), "{help}");
        }
    }
}

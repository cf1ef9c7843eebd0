//! The command line of `proscenium load`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use proscenium_engine::Framing;

use super::{Scenario, Verify};
use crate::cli::{FramingName, SHARDS_MAX};
use crate::layers::ClientLayers;
use crate::units::{parse_bytes, parse_duration};

/// Byte orders of the length of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LengthOrder {
    /// Big-endian
    Be32,
    /// Little-endian
    Le32,
}

impl From<LengthOrder> for Framing {
    fn from(name: LengthOrder) -> Self {
        match name {
            LengthOrder::Be32 => Self::Be32,
            LengthOrder::Le32 => Self::Le32,
        }
    }
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
  proscenium load stream --target 127.0.0.1:7000 --tls --scenario s1 --server-pid 4242
  proscenium load stream --target 127.0.0.1:7000 --ws --scenario s2 --ccu 1000";

/// Options of `proscenium load stream`.
#[derive(Debug, Args)]
#[command(after_help = STREAM_EXAMPLES)]
pub(crate) struct StreamArgs {
    #[command(flatten)]
    pub(crate) load: LoadOptions,
    /// How messages are framed; default be32, with --ws raw
    #[arg(long, value_enum)]
    pub(crate) framing: Option<FramingName>,
}

impl StreamArgs {
    /// How messages are framed: over what they travel decides, unless it is said.
    ///
    /// # Errors
    /// For bytes without any bounds between messages.
    pub(super) fn framing(&self) -> Result<Framing, String> {
        match (self.framing, self.load.layers.ws) {
            (None, false) => Ok(Framing::Be32),
            (None, true) => Ok(Framing::Raw),
            (Some(FramingName::Raw), false) => {
                Err("--framing raw: only with --ws are there messages without a length".to_owned())
            }
            (Some(name), _) => Ok(name.into()),
        }
    }
}

const PLAY_EXAMPLES: &str = "\
Scenarios:
  s0  one client joins, one message, one answer
  s1  connect, authenticate and join only: every one of --ccu clients must get in
  s2  all get in, warm up, measure, drain; at most --inflight messages outstanding per client

What the server has to do: accept the authentication, with the account as its payload; create the
stages; answer `Echo` with its payload, be it a request (a reply) or a send (a message); pass
`Broadcast` on to all in the stage, once encoded, and `Each` likewise, but to one after the other.
`proscenium echo --mode play` does.

Examples:
  proscenium echo --mode play &
  proscenium load play --target 127.0.0.1:7000 --scenario s2
  proscenium load play --target 127.0.0.1:7000 --scenario s2 --rate 1e5 --burst 1
  proscenium load play --target 127.0.0.1:7000 --scenario s2 --mode broadcast --ccu 1000 \\
      --stages 1 --size 256 --rate 1e5 --server-pid 4242";

/// Options of `proscenium load play`.
#[derive(Debug, Args)]
#[command(after_help = PLAY_EXAMPLES)]
pub(crate) struct PlayArgs {
    #[command(flatten)]
    pub(crate) load: LoadOptions,
    /// What clients do
    #[arg(long, value_enum, default_value_t = PlayMode::Request)]
    pub(crate) mode: PlayMode,
    /// Stages, over which clients are spread in turn; default: one for each client
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) stages: Option<u32>,
    /// Id of the first stage; the others follow
    #[arg(long, value_name = "ID", default_value_t = 1)]
    pub(crate) first_stage: i64,
    /// Message id that authenticates
    #[arg(long, value_name = "ID", default_value = "AuthenticateRequest")]
    pub(crate) authentication: String,
    /// Byte order of the length of packets
    #[arg(long, value_enum, default_value_t = LengthOrder::Le32)]
    pub(crate) length: LengthOrder,
}

/// What the clients of a Play server do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PlayMode {
    /// Requests, which are answered
    Request,
    /// Sends, each of which the server answers with a message of its own
    Send,
    /// The first client of each stage sends; all in the stage get it, encoded once
    Broadcast,
    /// The same, but sent to one after the other
    Each,
}

/// What every load has.
#[derive(Debug, Args)]
pub(crate) struct LoadOptions {
    /// The server
    #[arg(long, value_name = "ADDR")]
    pub(crate) target: String,
    /// What to run (see below)
    #[arg(long, value_enum)]
    pub(crate) scenario: Scenario,
    /// Connections (s0 uses one)
    #[arg(long, value_name = "N", default_value_t = 10_000,
          value_parser = clap::value_parser!(u32).range(1..=8_000_000))]
    pub(crate) ccu: u32,
    /// Length of a message, or of the payload of a packet; at least 9: phase, time, then a pattern
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
    /// With --rate: messages sent together on one connection; default --inflight. What is sent to
    /// all in a stage is at this rate in deliveries
    #[arg(long, value_name = "N", requires = "rate",
          value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) burst: Option<u32>,
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
    #[command(flatten)]
    pub(crate) layers: ClientLayers,
}

impl LoadOptions {
    /// Connections that the scenario has.
    pub(super) fn connections(&self) -> u32 {
        match self.scenario {
            Scenario::S0 => 1,
            Scenario::S1 | Scenario::S2 => self.ccu,
        }
    }
}

pub(super) fn parse_rate(text: &str) -> Result<f64, String> {
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
    use crate::cli::{Cli, Command, LoadArgs, LoadKind};
    use clap::Parser;

    fn stream(args: &[&str]) -> Result<LoadOptions, clap::Error> {
        let base = ["proscenium", "load", "stream", "--target", "127.0.0.1:1"];
        let cli = Cli::try_parse_from(base.iter().chain(args))?;
        match cli.command {
            Command::Load(LoadArgs {
                kind: LoadKind::Stream(args),
            }) => Ok(args.load),
            other => panic!("parsed as {other:?}"),
        }
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
}

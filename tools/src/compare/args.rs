//! The command line of `proscenium compare`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::stacks;
use crate::load::Scenario;
use crate::units::{parse_bytes, parse_duration};

const EXAMPLES: &str = "\
Each server runs as its own process on its own CPU, the client (`proscenium load stream`) on
another; where the system permits, the server also runs under a CPU quota, so that it and not the
client is the limit. The stacks take turns. One of them runs twice, its twin named `(A/A)`: what
these two differ by is the noise of the machine.

Examples:
  proscenium compare
  proscenium compare --profile full --out results
  proscenium compare --stacks proscenium,raw --shapes s2-quota --runs 7 --measure 10s
  proscenium compare --profile full --shapes client
  proscenium compare --tls                                    as --profile tls
  proscenium compare --profile node --runs 1 --measure 300ms
  proscenium compare --profile mesh
  proscenium compare --ccu 100 --size 64 --inflight 1000 --scenarios s2 --rate 0
  proscenium compare --sweep --stacks proscenium,asio,raw

Exit code 0: the comparison took place and its files are written, whatever its results are.";

/// Which set of shapes to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Profile {
    /// s0, s1 and s2, in under four minutes
    Default,
    /// Every shape that has a goal, seven runs of whoever it speaks of, in under half an hour
    Full,
    /// TLS 1.3: throughput, memory, and what a full handshake costs; in some minutes
    Tls,
    /// WebSocket: 64 B and 1 KiB, one and thirty in flight; in some twenty minutes
    Ws,
    /// A Play server: what authentication, join and actors cost beside bare stages, its latency
    /// and its broadcasts; in some ten minutes
    Play,
    /// Node links and libzmq: messages, requests and latency, in pairs; in under eight minutes
    Node,
    /// Stages of Play servers that ask each other, beside the link alone; in under two minutes
    Mesh,
}

impl Profile {
    /// Its name on the command line.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Full => "full",
            Self::Tls => "tls",
            Self::Ws => "ws",
            Self::Play => "play",
            Self::Node => "node",
            Self::Mesh => "mesh",
        }
    }
}

/// Whether server and client are bound to CPUs of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Pin {
    /// Where there are two CPUs or more
    Auto,
    /// Always; an error with one CPU
    On,
    /// Never
    Off,
}

/// Options of `proscenium compare`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct CompareArgs {
    /// Which shapes to run; the options below change each of them
    #[arg(long, value_enum, default_value_t = Profile::Default)]
    profile: Profile,
    /// As --profile tls
    #[arg(long, conflicts_with = "profile")]
    tls: bool,
    /// As --profile ws
    #[arg(long, conflicts_with_all = ["profile", "tls"])]
    ws: bool,
    /// Run a sweep over sizes, messages in flight and connections instead of a profile
    #[arg(long, conflicts_with_all = ["profile", "tls", "ws"])]
    pub(crate) sweep: bool,
    /// Servers to compare; default proscenium,asio,tokio,tokio-codec,raw, or those of the profile
    #[arg(long, value_name = "NAME,NAME", value_delimiter = ',',
          value_parser = stacks::by_name)]
    pub(crate) stacks: Vec<&'static stacks::Stack>,
    /// Compare the engine's other ways too: proscenium-socket and proscenium-2shards
    #[arg(long)]
    pub(crate) interface: bool,
    /// Only the shapes of these scenarios
    #[arg(long, value_enum, value_name = "S,S", value_delimiter = ',')]
    pub(crate) scenarios: Vec<Scenario>,
    /// Only these shapes, by name, such as s2-quota; docs/guide/tools.md lists them
    #[arg(long, value_name = "NAME,NAME", value_delimiter = ',')]
    pub(crate) shapes: Vec<String>,
    /// Runs of each stack in each shape
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) runs: Option<u16>,
    /// Threads of each server
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u16).range(1..=255))]
    pub(crate) shards: u16,
    /// CPU quota of the server in percent of one CPU; 0 leaves the shapes under a quota out
    #[arg(long, value_name = "PCT", default_value_t = 50, value_parser = parse_quota)]
    pub(crate) quota: u32,
    /// Bind the server to CPU 0 and the client to CPU 1
    #[arg(long, value_enum, default_value_t = Pin::Auto, num_args = 0..=1,
          default_missing_value = "on")]
    pub(crate) pin: Pin,
    /// Connections
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=8_000_000))]
    pub(crate) ccu: Option<u32>,
    /// Length of a message
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub(crate) size: Option<usize>,
    /// Most messages outstanding on one connection
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) inflight: Option<u32>,
    /// Load before measuring
    #[arg(long, value_name = "DUR", value_parser = parse_duration)]
    pub(crate) warmup: Option<Duration>,
    /// Length of the measuring window
    #[arg(long, value_name = "DUR", value_parser = parse_duration)]
    pub(crate) measure: Option<Duration>,
    /// How long to wait for outstanding answers at the end of a run
    #[arg(long, value_name = "DUR", value_parser = parse_duration, default_value = "10s")]
    pub(crate) drain: Duration,
    /// Offered rate of the shapes that measure CPU per message, in messages per second; 0 leaves
    /// these shapes out
    #[arg(long, value_name = "R", value_parser = parse_rate)]
    pub(crate) rate: Option<f64>,
    /// Where the peers are, besides the folders beside this program's; may be repeated
    #[arg(long, value_name = "DIR")]
    pub(crate) peers_dir: Vec<PathBuf>,
    /// Where results.csv, results.json and report.html go; {time} becomes the time in UTC
    #[arg(long, value_name = "DIR", default_value = "compare-{time}")]
    pub(crate) out: String,
}

impl CompareArgs {
    /// The set of shapes to run.
    pub(crate) fn profile(&self) -> Profile {
        match (self.tls, self.ws) {
            (true, _) => Profile::Tls,
            (_, true) => Profile::Ws,
            _ => self.profile,
        }
    }
}

/// 0 or 10 % and more: the kernel's shortest quota is 1 ms, our period 10 ms.
fn parse_quota(text: &str) -> Result<u32, String> {
    match text.trim_end_matches('%').parse() {
        Ok(percent @ (0 | 10..=100_000)) => Ok(percent),
        _ => Err(format!(
            "`{text}`: expected 0 (none) or percent of one CPU from 10, such as 50"
        )),
    }
}

fn parse_rate(text: &str) -> Result<f64, String> {
    match text.replace('_', "").parse::<f64>() {
        Ok(rate) if (0.0..=1e9).contains(&rate) => Ok(rate),
        _ => Err(format!(
            "`{text}`: expected messages per second up to 1e9, such as 1e6, or 0 for none"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn profile(args: &[&str]) -> Result<Profile, clap::Error> {
        let cli = Cli::try_parse_from(["proscenium", "compare"].iter().chain(args))?;
        match cli.command {
            Command::Compare(args) => Ok(args.profile()),
            other => panic!("parsed as {other:?}"),
        }
    }

    #[test]
    fn layers_are_profiles() {
        assert_eq!(profile(&[]).unwrap(), Profile::Default);
        assert_eq!(profile(&["--profile", "mesh"]).unwrap(), Profile::Mesh);
        assert_eq!(profile(&["--tls"]).unwrap(), Profile::Tls);
        assert_eq!(profile(&["--ws"]).unwrap(), Profile::Ws);
        for both in [
            &["--tls", "--ws"][..],
            &["--tls", "--sweep"],
            &["--ws", "--profile", "ws"],
        ] {
            let error = profile(both).unwrap_err().to_string();
            assert!(error.contains("cannot be used with"), "{error}");
        }
    }

    #[test]
    fn quotas_and_rates_have_bounds() {
        assert_eq!(parse_quota("0"), Ok(0));
        assert_eq!(parse_quota("50%"), Ok(50));
        assert!(parse_quota("5").unwrap_err().contains("from 10"));
        assert!(parse_quota("half").unwrap_err().contains("such as 50"));
        assert_eq!(parse_rate("1_000_000"), Ok(1e6));
        assert_eq!(parse_rate("0"), Ok(0.0));
        assert!(parse_rate("-1").is_err() && parse_rate("NaN").is_err());
    }
}

//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::peers::Peer;
use crate::workload::{Amount, Job, Workload};

/// Actor libraries on the same workloads, on one thread unless the workload says otherwise.
#[derive(Debug, Parser)]
#[command(name = "actors", version, after_help = EXAMPLES, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXAMPLES: &str = "\
Examples:
  actors list
  actors run --peer actix --workload ping-pong
  actors run --peer tokio-unbounded --workload fan-in --messages 100000000
  actors compare --runs 7 --out target/actors

Every message is counted and summed by who receives it; a run in which one is missing, doubled,
altered or out of order fails. Exit codes: 0 done, 1 not.";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run one workload on one peer
    Run(RunArgs),
    /// List peers and workloads
    List,
    /// Compare peers: each run in a process of its own, peers in turns
    Compare(CompareArgs),
}

/// Options of `actors run`.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// What plays the actors
    #[arg(long, value_enum)]
    pub(crate) peer: Peer,
    /// What they are made to do
    #[arg(long, value_enum)]
    pub(crate) workload: Workload,
    #[command(flatten)]
    pub(crate) size: Size,
    /// Fail if the run has not ended by then
    #[arg(long, value_name = "S", default_value = "300", value_parser = parse_seconds)]
    pub(crate) deadline: Duration,
    /// Write the result to this file; `-` is standard output
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

/// How much is done; shared by a run and a comparison.
#[derive(Clone, Debug, Args)]
pub(crate) struct Size {
    /// Measure so many messages (two are a round trip), after a tenth of that to warm up
    #[arg(long, value_name = "N", conflicts_with = "seconds",
          value_parser = clap::value_parser!(u64).range(1..=1 << 48))]
    pub(crate) messages: Option<u64>,
    /// Measure so long, after a quarter of that to warm up
    #[arg(long, value_name = "S", default_value = "2", value_parser = parse_seconds)]
    pub(crate) seconds: Duration,
    /// Actors in round-robin (10000 unless said) and idle-memory (100000)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(crate) actors: Option<u32>,
    /// Most messages told and not yet handled
    #[arg(long, value_name = "N", default_value_t = 1024,
          value_parser = clap::value_parser!(u64).range(1..=1 << 32))]
    pub(crate) in_flight: u64,
}

impl RunArgs {
    /// What is asked for.
    ///
    /// # Errors
    /// When peer and workload or workload and number of actors do not go together.
    pub(crate) fn job(&self) -> Result<Job, String> {
        let (peer, workload) = (self.peer, self.workload);
        if !peer.offers(workload) {
            return Err(format!("{} does not offer {}", name(peer), name(workload)));
        }
        if self.size.actors.is_some() && !workload.takes_actors() {
            return Err(format!("{} takes no --actors", name(workload)));
        }
        Ok(self.size.job(workload))
    }
}

impl Size {
    /// A job of this size; what does not concern the workload is ignored.
    pub(crate) fn job(&self, workload: Workload) -> Job {
        let asked = self.actors.filter(|_| workload.takes_actors());
        let actors = asked.unwrap_or(workload.actors());
        let (warm_up, measured) = match (workload, self.messages) {
            // Each actor handles one message, so that it is known to live.
            (Workload::IdleMemory, _) => (Amount::Messages(1), Amount::Messages(actors.into())),
            (_, Some(messages)) => {
                // Rallies end where the second player is.
                let even = messages.next_multiple_of(2);
                let warm_up = (messages / 10).next_multiple_of(2);
                (Amount::Messages(warm_up), Amount::Messages(even))
            }
            (_, None) => (Amount::For(self.seconds / 4), Amount::For(self.seconds)),
        };
        Job {
            workload,
            actors,
            in_flight: self.in_flight,
            warm_up,
            measured,
        }
    }
}

/// Options of `actors compare`.
#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// Rounds; each runs every peer once on every workload
    #[arg(long, value_name = "N", default_value_t = 7,
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) runs: u32,
    /// Peers; all unless said
    #[arg(long, value_enum, value_name = "PEER,PEER", value_delimiter = ',')]
    pub(crate) peers: Vec<Peer>,
    /// Workloads; all unless said
    #[arg(
        long,
        value_enum,
        value_name = "WORKLOAD,WORKLOAD",
        value_delimiter = ','
    )]
    pub(crate) workloads: Vec<Workload>,
    /// Write results.csv and results.json into this folder
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) size: Size,
}

/// How a peer or workload is called on the command line.
pub(crate) fn name(value: impl ValueEnum) -> String {
    let possible = value.to_possible_value();
    possible.map_or_else(String::new, |value| value.get_name().to_owned())
}

/// What the command line says about it.
pub(crate) fn help(value: impl ValueEnum) -> String {
    let possible = value.to_possible_value();
    let help = possible.and_then(|value| value.get_help().map(ToString::to_string));
    help.unwrap_or_default()
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds = text
        .parse::<f64>()
        .ok()
        .filter(|s| *s > 0.0 && *s <= 86_400.0);
    let seconds = seconds.ok_or_else(|| format!("`{text}`: expected seconds, such as 2 or 0.5"))?;
    Ok(Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn job(args: &[&str]) -> Result<Job, String> {
        let base = ["actors", "run", "--peer", "actix", "--workload"];
        let cli = Cli::try_parse_from(base.iter().chain(args)).map_err(|e| e.to_string())?;
        match cli.command {
            Command::Run(args) => args.job(),
            other => panic!("parsed as {other:?}"),
        }
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes_follow_the_workload() {
        let ping = job(&["ping-pong", "--messages", "1001"]).unwrap();
        let phases = [Amount::Messages(100), Amount::Messages(1002)];
        assert_eq!((ping.phases(), ping.actors), (phases, 2));

        let timed = job(&["fan-in", "--seconds", "0.4", "--in-flight", "7"]).unwrap();
        let phases = [100, 400].map(|ms| Amount::For(Duration::from_millis(ms)));
        assert_eq!(
            (timed.phases(), timed.actors, timed.in_flight),
            (phases, 1, 7)
        );

        assert_eq!(job(&["round-robin"]).unwrap().actors, 10_000);
        let idle = job(&["idle-memory", "--actors", "9"]).unwrap();
        assert_eq!((idle.actors, idle.measured), (9, Amount::Messages(9)));
    }

    #[test]
    fn wrong_values_say_what_was_expected() {
        for (args, expected) in [
            (&["work-stealing"][..], "actix does not offer work-stealing"),
            (&["fan-in", "--actors", "2"], "fan-in takes no --actors"),
            (&["fan-in", "--seconds", "0"], "0.5"),
            (&["fan-in", "--seconds", "NaN"], "0.5"),
            (&["fan-in", "--messages", "0"], "1.."),
            (
                &["fan-in", "--messages", "1", "--seconds", "1"],
                "cannot be used with",
            ),
            (&["fan-out"], "fan-in"),
        ] {
            let error = job(args).unwrap_err();
            assert!(error.contains(expected), "{args:?}: {error}");
        }
    }
}

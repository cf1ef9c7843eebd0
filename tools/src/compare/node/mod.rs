//! `proscenium compare --profile node`: node links against those of libzmq; `--profile mesh`:
//! stages of Play servers against the links that they use.
//!
//! One side puts the load on, the other answers; each is a process on a CPU of its own. For nodes
//! either of them is ours or libzmq's, so that there are four pairs, one of which runs twice. They
//! take turns within each round. What is compared, and by what goals, is a [`Suite`].

mod report;
mod suites;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::Serialize;

use super::args::CompareArgs;
use super::processes::{self, Launch, Server};
use super::report::Note;
use super::{folder, pinning, stacks};
use crate::load::node::NodeRecord;
use crate::machine::{self, Machine};
use crate::{record, signals};
use report::Report;
use suites::{Pair, Shape, Side, Suite};

const PEER: &str = "peer-node-zmq";
const INSTALL: &str = "make -C tools/peers node-zmq; Debian packages: make gcc libzmq3-dev";

/// What a client may take beyond its phases.
const CLIENT_SPARE: Duration = Duration::from_secs(60);
/// Rounds of the pairs that goals speak of, and of the others.
const RUNS: usize = 7;
const RUNS_BESIDE: usize = 3;
const WARMUP: Duration = Duration::from_millis(300);
const MEASURE: Duration = Duration::from_millis(1000);
/// What a run takes besides: two processes start and end.
const AROUND: Duration = Duration::from_millis(300);

/// One run of one pair.
#[derive(Clone, Debug, Serialize)]
pub(super) struct NodeRun {
    pub(super) shape: &'static str,
    pub(super) pair: &'static str,
    pub(super) round: usize,
    /// Why there is no result, or why it is not a pass.
    pub(super) reason: Option<String>,
    server_command: String,
    client_command: String,
    pub(super) record: Option<NodeRecord>,
}

impl NodeRun {
    /// The numbers, if it is a pass.
    pub(super) fn passed(&self) -> Option<&NodeRecord> {
        self.record.as_ref().filter(|_| self.reason.is_none())
    }
}

/// What all runs have in common.
struct Runner {
    suite: &'static Suite,
    own: PathBuf,
    zmq: Result<PathBuf, String>,
    server_cpus: Vec<usize>,
    client_cpus: Vec<usize>,
    warmup: Duration,
    measure: Duration,
    drain: Duration,
    interrupted: Arc<AtomicBool>,
}

/// Runs the comparison, prints its tables and writes its files.
///
/// # Errors
/// When it cannot take place or was interrupted: says why and what there is.
pub(super) fn run(args: &CompareArgs) -> Result<(), String> {
    let suite = suites::of(args.profile());
    let shapes = chosen(args, suite)?;
    let own = std::env::current_exe()
        .map_err(|error| format!("cannot find this program's own file: {error}"))?;
    let mut notes = Vec::new();
    let (mut server_cpus, client_cpus) = pinning(args, &mut notes)?;
    server_cpus.truncate(1);
    let time = machine::unix_seconds();
    let out = folder(args, time)?;
    let interrupted = signals::asked_to_end()?;
    let zmq = stacks::find(PEER, INSTALL, &stacks::peer_folders(&args.peers_dir, &own));
    let speaks_of_zmq = suite.pairs.iter().any(Pair::has_zmq);
    if let (true, Err(reason)) = (speaks_of_zmq, &zmq) {
        notes.push(Note::new("libzmq", format!("skipped: {reason}")));
    }
    let runner = Runner {
        suite,
        own,
        zmq,
        server_cpus,
        client_cpus,
        warmup: args.warmup.unwrap_or(WARMUP),
        measure: args.measure.unwrap_or(MEASURE),
        drain: args.drain,
        interrupted,
    };
    let rounds = args.runs.map_or((RUNS, RUNS_BESIDE), |runs| {
        (usize::from(runs), usize::from(runs))
    });
    announce(&runner, &shapes, rounds);
    let mut report = Report {
        suite,
        time_unix: time,
        command: record::command(),
        machine: Machine::describe(),
        notes,
        rows: Vec::new(),
        goals: Vec::new(),
        runs: Vec::new(),
    };
    for shape in &shapes {
        alternate(&runner, shape, rounds, &mut report.runs);
        report.add_up(&shapes);
        report
            .write(&out)
            .map_err(|error| format!("cannot write results to {}: {error}", out.display()))?;
        if runner.interrupted.load(Ordering::Relaxed) {
            return Err("interrupted: the results are what was measured until then".to_owned());
        }
    }
    print!("{}", report.text());
    for file in report::FILES {
        println!("{}", out.join(file).display());
    }
    Ok(())
}

/// The shapes that the command line leaves.
fn chosen(args: &CompareArgs, suite: &Suite) -> Result<Vec<Shape>, String> {
    let other = [
        ("--stacks", !args.stacks.is_empty()),
        ("--interface", args.interface),
        ("--scenarios", !args.scenarios.is_empty()),
        ("--ccu", args.ccu.is_some()),
        ("--size", args.size.is_some()),
        ("--inflight", args.inflight.is_some()),
        ("--rate", args.rate.is_some()),
    ];
    if let Some((name, _)) = other.iter().find(|(_, given)| *given) {
        return Err(format!(
            "{name} is not for --profile {}, whose shapes are fixed: --shapes chooses among them",
            args.profile().name()
        ));
    }
    let wanted =
        |shape: &Shape| args.shapes.is_empty() || args.shapes.iter().any(|name| name == shape.id);
    let shapes: Vec<Shape> = suite.shapes.iter().copied().filter(wanted).collect();
    if shapes.is_empty() {
        let names: Vec<&str> = suite.shapes.iter().map(|shape| shape.id).collect();
        return Err(format!("nothing to run: there are {}", names.join(", ")));
    }
    Ok(shapes)
}

/// The pairs of a round, another one first in each.
fn turn(
    (suite, shape): (&'static Suite, &Shape),
    round: usize,
    (all, beside): (usize, usize),
) -> Vec<&'static Pair> {
    let takes_part =
        |pair: &&Pair| round < if pair.in_all { all } else { beside } && pair.can(shape);
    let mut pairs: Vec<&Pair> = suite.pairs.iter().filter(takes_part).collect();
    let first = round % pairs.len().max(1);
    pairs.rotate_left(first);
    pairs
}

fn announce(runner: &Runner, shapes: &[Shape], rounds: (usize, usize)) {
    let of = |shape| {
        let each = (0..rounds.0).map(move |round| turn((runner.suite, shape), round, rounds));
        each.map(|pairs| pairs.len()).sum::<usize>()
    };
    let runs: usize = shapes.iter().map(of).sum();
    let time = (runner.warmup + runner.measure + AROUND) * runs as u32;
    eprintln!(
        "{runs} runs, about {} min {:02} s",
        time.as_secs() / 60,
        time.as_secs() % 60
    );
}

/// Lets the pairs take turns.
fn alternate(runner: &Runner, shape: &Shape, rounds: (usize, usize), runs: &mut Vec<NodeRun>) {
    for round in 0..rounds.0 {
        for pair in turn((runner.suite, shape), round, rounds) {
            if runner.interrupted.load(Ordering::Relaxed) {
                return;
            }
            let run = runner.run(shape, pair, round);
            let said = match (&run.reason, &run.record) {
                (Some(reason), _) => reason.clone(),
                (None, Some(record)) => report::brief(record),
                (None, None) => String::new(),
            };
            eprintln!("{:>2} {:<14} {:<22} {said}", round + 1, shape.id, pair.name);
            runs.push(run);
        }
    }
}

impl Runner {
    fn run(&self, shape: &Shape, pair: &'static Pair, round: usize) -> NodeRun {
        let mut run = NodeRun {
            shape: shape.id,
            pair: pair.name,
            round,
            reason: None,
            server_command: String::new(),
            client_command: String::new(),
            record: None,
        };
        match self.measure(shape, pair, &mut run) {
            Ok(mut record) => {
                record.command.clear(); // the run has it
                record.machine = Machine::default();
                if !record.failures.is_empty() {
                    run.reason = Some(record.failures.join("; "));
                }
                run.record = Some(record);
            }
            Err(reason) => run.reason = Some(reason),
        }
        run
    }

    fn program(&self, side: Side) -> Result<PathBuf, String> {
        match side {
            Side::Ours | Side::Stages => Ok(self.own.clone()),
            Side::Zmq | Side::Bare => self.zmq.clone(),
        }
    }

    fn measure(&self, shape: &Shape, pair: &Pair, run: &mut NodeRun) -> Result<NodeRecord, String> {
        let server = Launch {
            program: self.program(pair.server)?,
            args: server_arguments(shape, pair.server),
            cpus: self.server_cpus.clone(),
        };
        run.server_command = server.shell();
        let program = self.program(pair.client)?;
        let server = Server::start(&server, None)?;
        let client = Launch {
            program,
            args: self.client_arguments(shape, pair, &server.address),
            cpus: self.client_cpus.clone(),
        };
        run.client_command = client.shell();
        let time_max = self.warmup + self.measure + self.drain + CLIENT_SPARE;
        let text = processes::client(&client, time_max, &self.interrupted);
        // A server that died explains what the client saw, not the other way round.
        server.stop()?;
        serde_json::from_str(&text?)
            .map_err(|error| format!("the client's result is not understood: {error}"))
    }

    fn client_arguments(&self, shape: &Shape, pair: &Pair, address: &str) -> Vec<String> {
        let is_ours = matches!(pair.client, Side::Ours | Side::Stages);
        let mut args: Vec<String> = Vec::new();
        match pair.client {
            Side::Ours => args.extend(["load", "node", "--json", "-"].map(str::to_owned)),
            Side::Stages => args.extend(["load", "mesh", "--json", "-"].map(str::to_owned)),
            Side::Zmq | Side::Bare => {}
        }
        let time = |time: Duration| {
            let unit = if is_ours { "s" } else { "" };
            format!("{}{unit}", time.as_secs_f64())
        };
        let options = [
            ("--target", address.to_owned()),
            ("--size", shape.size.to_string()),
            ("--window", shape.window.to_string()),
            ("--warmup", time(self.warmup)),
            ("--measure", time(self.measure)),
            ("--drain", time(self.drain)),
            ("--stack", pair.name.to_owned()),
        ];
        for (name, value) in options {
            args.extend([name.to_owned(), value]);
        }
        let only_between_nodes = [
            ("--mode", shape.mode.name().to_owned()),
            ("--hwm", shape.hwm.to_string()),
        ];
        if pair.client != Side::Stages {
            for (name, value) in only_between_nodes {
                args.extend([name.to_owned(), value]);
            }
        } else if let Some(rate) = shape.rate {
            args.extend(["--rate".to_owned(), rate.to_string()]);
        }
        if pair.client == Side::Bare {
            args.push("--bare".to_owned());
        }
        args
    }
}

fn server_arguments(shape: &Shape, side: Side) -> Vec<String> {
    let mut args = Vec::new();
    match side {
        Side::Ours => args.extend(["echo", "--mode", "node"].map(str::to_owned)),
        Side::Stages => args.extend(["echo", "--mode", "mesh"].map(str::to_owned)),
        Side::Zmq | Side::Bare => {}
    }
    args.extend(["--listen", "127.0.0.1:0"].map(str::to_owned));
    if matches!(side, Side::Zmq | Side::Bare) {
        args.extend(["--hwm".to_owned(), shape.hwm.to_string()]);
    }
    if side == Side::Bare {
        args.extend(["--bare", "--mode", shape.mode.name()].map(str::to_owned));
    }
    args
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use crate::compare::args::Profile;
    use clap::Parser;

    fn args(more: &[&str]) -> CompareArgs {
        let base = ["proscenium", "compare", "--profile", "node"];
        match Cli::parse_from(base.iter().chain(more)).command {
            Command::Compare(args) => *args,
            other => panic!("parsed as {other:?}"),
        }
    }

    #[test]
    fn each_round_begins_with_another_pair_and_the_goals_pairs_are_in_all() {
        let suite = suites::of(Profile::Node);
        let names = |round| {
            let pairs = turn((suite, &suite.shapes[0]), round, (RUNS, RUNS_BESIDE));
            pairs.iter().map(|pair| pair.name).collect::<Vec<_>>()
        };
        assert_eq!(names(0).len(), suite.pairs.len());
        assert_eq!(names(1)[0], "proscenium (A/A)");
        assert_eq!(names(6).len(), 3);
        assert!((0..RUNS).all(|round| names(round).contains(&suite.base)));
    }

    #[test]
    fn the_whole_ends_within_eight_minutes() {
        let rounds = (RUNS, RUNS_BESIDE);
        for suite in [Profile::Node, Profile::Mesh].map(suites::of) {
            let of = |shape| {
                let each = (0..RUNS).map(move |round| turn((suite, shape), round, rounds));
                each.map(|pairs| pairs.len()).sum::<usize>()
            };
            let runs: usize = suite.shapes.iter().map(of).sum();
            let time = (WARMUP + MEASURE + AROUND) * runs as u32;
            assert!(time < Duration::from_secs(8 * 60), "{time:?}");
        }
    }

    #[test]
    fn links_alone_are_not_offered_a_rate() {
        let suite = suites::of(Profile::Mesh);
        let of = |id| {
            let shape = suite.shapes.iter().find(|shape| shape.id == id).unwrap();
            turn((suite, shape), 0, (RUNS, RUNS_BESIDE)).len()
        };
        assert_eq!((of("window-1000"), of("open-50000")), (3, 2));
    }

    #[test]
    fn shapes_are_chosen_by_name_and_what_means_nothing_here_is_refused() {
        let suite = suites::of(Profile::Node);
        assert_eq!(chosen(&args(&[]), suite).unwrap().len(), suite.shapes.len());
        let one = chosen(&args(&["--shapes", "send-64"]), suite).unwrap();
        assert_eq!((one.len(), one[0].size), (1, 64));
        let error = chosen(&args(&["--shapes", "s2"]), suite).unwrap_err();
        assert!(error.contains("request-1024"), "{error}");
        let error = chosen(&args(&["--ccu", "5"]), suite).unwrap_err();
        assert!(error.contains("--ccu"), "{error}");
    }
}

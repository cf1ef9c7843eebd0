//! `proscenium compare --profile node`: node links against those of libzmq.
//!
//! One side puts the load on, the other answers; each is a process on a CPU of its own, and either
//! of them is ours or libzmq's, so that there are four pairs, one of which runs twice. They take
//! turns within each round.

mod report;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::Serialize;

use super::args::CompareArgs;
use super::processes::{self, Launch, Server};
use super::report::Note;
use super::{pinning, stacks, without_folder};
use crate::load::node::{NodeMode, NodeRecord};
use crate::machine::{self, Machine};
use crate::{signals, utc};
use report::Report;

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

/// What is sent, and how.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) id: &'static str,
    pub(super) mode: NodeMode,
    pub(super) size: usize,
    pub(super) window: u32,
    /// Messages that either side's queues take. Of 64 KiB a hundred thousand would be 6 GiB.
    pub(super) hwm: u32,
}

const fn shape(id: &'static str, mode: NodeMode, size: usize, window: u32, hwm: u32) -> Shape {
    Shape {
        id,
        mode,
        size,
        window,
        hwm,
    }
}

const SHAPES: [Shape; 9] = [
    shape("send-64", NodeMode::Send, 64, 1, 100_000),
    shape("send-1024", NodeMode::Send, 1024, 1, 100_000),
    shape("send-65536", NodeMode::Send, 65_536, 1, 1000),
    shape("request-64", NodeMode::Request, 64, 1000, 100_000),
    shape("request-1024", NodeMode::Request, 1024, 1000, 100_000),
    shape("request-65536", NodeMode::Request, 65_536, 1000, 1000),
    shape("single-64", NodeMode::Request, 64, 1, 100_000),
    shape("single-1024", NodeMode::Request, 1024, 1, 100_000),
    shape("single-65536", NodeMode::Request, 65_536, 1, 1000),
];

/// Whose program one side is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Ours,
    Zmq,
    /// libzmq without route headers: the payload is the message.
    Bare,
}

/// Who sends to whom.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) name: &'static str,
    client: Side,
    server: Side,
    /// A goal speaks of it: it runs in all rounds.
    in_all: bool,
}

/// What the others are related to.
pub(super) const ZMQ: &str = "libzmq";
pub(super) const OURS: &str = "proscenium";

pub(super) const PAIRS: [Pair; 6] = [
    pair(OURS, Side::Ours, Side::Ours, true),
    pair("proscenium (A/A)", Side::Ours, Side::Ours, true),
    pair(ZMQ, Side::Zmq, Side::Zmq, true),
    pair("proscenium to libzmq", Side::Ours, Side::Zmq, false),
    pair("libzmq to proscenium", Side::Zmq, Side::Ours, false),
    pair("libzmq without header", Side::Bare, Side::Bare, false),
];

const fn pair(name: &'static str, client: Side, server: Side, in_all: bool) -> Pair {
    Pair {
        name,
        client,
        server,
        in_all,
    }
}

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
    let shapes = chosen(args)?;
    let own = std::env::current_exe()
        .map_err(|error| format!("cannot find this program's own file: {error}"))?;
    let mut notes = Vec::new();
    let (mut server_cpus, client_cpus) = pinning(args, &mut notes)?;
    server_cpus.truncate(1);
    let time = machine::unix_seconds();
    let out = PathBuf::from(args.out.replace("{time}", &utc::file_name(time)));
    fs::create_dir_all(&out).map_err(|error| format!("--out {}: {error}", out.display()))?;
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&interrupted);
    signals::on_termination(move || flag.store(true, Ordering::Relaxed))
        .map_err(|error| format!("cannot watch for signals: {error}"))?;
    let zmq = stacks::find(PEER, INSTALL, &stacks::peer_folders(&args.peers_dir, &own));
    if let Err(reason) = &zmq {
        notes.push(Note::new("libzmq", format!("skipped: {reason}")));
    }
    let runner = Runner {
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
        time_unix: time,
        command: without_folder(std::env::args().collect()),
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
fn chosen(args: &CompareArgs) -> Result<Vec<Shape>, String> {
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
            "{name} is not for --profile node, whose shapes are fixed: --shapes chooses among them"
        ));
    }
    let wanted =
        |shape: &Shape| args.shapes.is_empty() || args.shapes.iter().any(|name| name == shape.id);
    let shapes: Vec<Shape> = SHAPES.into_iter().filter(wanted).collect();
    if shapes.is_empty() {
        let names: Vec<&str> = SHAPES.iter().map(|shape| shape.id).collect();
        return Err(format!("nothing to run: there are {}", names.join(", ")));
    }
    Ok(shapes)
}

/// The pairs of a round, another one first in each.
fn turn(round: usize, (all, beside): (usize, usize)) -> Vec<&'static Pair> {
    let takes_part = |pair: &&Pair| round < if pair.in_all { all } else { beside };
    let mut pairs: Vec<&Pair> = PAIRS.iter().filter(takes_part).collect();
    let first = round % pairs.len().max(1);
    pairs.rotate_left(first);
    pairs
}

fn announce(runner: &Runner, shapes: &[Shape], rounds: (usize, usize)) {
    let runs: usize = (0..rounds.0).map(|round| turn(round, rounds).len()).sum();
    let runs = runs * shapes.len();
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
        for pair in turn(round, rounds) {
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
            Side::Ours => Ok(self.own.clone()),
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
        let is_ours = pair.client == Side::Ours;
        let mut args: Vec<String> = Vec::new();
        if is_ours {
            args.extend(["load", "node", "--json", "-"].map(str::to_owned));
        }
        let time = |time: Duration| {
            let unit = if is_ours { "s" } else { "" };
            format!("{}{unit}", time.as_secs_f64())
        };
        let options = [
            ("--target", address.to_owned()),
            ("--mode", shape.mode.name().to_owned()),
            ("--size", shape.size.to_string()),
            ("--window", shape.window.to_string()),
            ("--hwm", shape.hwm.to_string()),
            ("--warmup", time(self.warmup)),
            ("--measure", time(self.measure)),
            ("--drain", time(self.drain)),
            ("--stack", pair.name.to_owned()),
        ];
        for (name, value) in options {
            args.extend([name.to_owned(), value]);
        }
        if pair.client == Side::Bare {
            args.push("--bare".to_owned());
        }
        args
    }
}

fn server_arguments(shape: &Shape, side: Side) -> Vec<String> {
    let mut args = Vec::new();
    if side == Side::Ours {
        args.extend(["echo", "--mode", "node"].map(str::to_owned));
    }
    args.extend(["--listen", "127.0.0.1:0"].map(str::to_owned));
    if side != Side::Ours {
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
        let names = |round| {
            let pairs = turn(round, (RUNS, RUNS_BESIDE));
            pairs.iter().map(|pair| pair.name).collect::<Vec<_>>()
        };
        assert_eq!(names(0).len(), PAIRS.len());
        assert_eq!(names(1)[0], "proscenium (A/A)");
        assert_eq!(names(6).len(), 3);
        assert!((0..RUNS).all(|round| names(round).contains(&ZMQ)));
    }

    #[test]
    fn the_whole_ends_within_eight_minutes() {
        let rounds = (RUNS, RUNS_BESIDE);
        let runs: usize = (0..RUNS).map(|round| turn(round, rounds).len()).sum();
        let time = (WARMUP + MEASURE + AROUND) * (runs * SHAPES.len()) as u32;
        assert!(time < Duration::from_secs(8 * 60), "{time:?}");
    }

    #[test]
    fn shapes_are_chosen_by_name_and_what_means_nothing_here_is_refused() {
        assert_eq!(chosen(&args(&[])).unwrap().len(), SHAPES.len());
        let one = chosen(&args(&["--shapes", "send-64"])).unwrap();
        assert_eq!((one.len(), one[0].size), (1, 64));
        let error = chosen(&args(&["--shapes", "s2"])).unwrap_err();
        assert!(error.contains("request-1024"), "{error}");
        let error = chosen(&args(&["--ccu", "5"])).unwrap_err();
        assert!(error.contains("--ccu"), "{error}");
    }
}

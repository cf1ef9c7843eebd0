//! Many runs, each in a process of its own, peers in turns: what disturbs the machine disturbs
//! all of them.

use std::env;
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use clap::ValueEnum;
use serde::Serialize;

use crate::cli::{self, CompareArgs, Size};
use crate::machine::{self, Machine};
use crate::peers::Peer;
use crate::record::{Record, short};
use crate::statistics::{InRound, Spread, paired_ratio};
use crate::workload::Workload;

/// A run and the round it belongs to.
#[derive(Clone, Debug, Serialize)]
struct Run {
    round: usize,
    #[serde(flatten)]
    record: Record,
}

/// All runs of a peer on a workload.
#[derive(Clone, Debug, Serialize)]
struct Row {
    workload: Workload,
    peer: Peer,
    version: &'static str,
    unit: &'static str,
    result: Spread,
    /// Ratio of the results to those of the best foreign peer, round by round.
    to_best_foreign: Option<Spread>,
    /// Median share of the time on a CPU.
    on_cpu: Option<f64>,
    /// Median share of the messages between different threads.
    apart: Option<f64>,
}

/// Everything there is to say about a comparison.
#[derive(Debug, Serialize)]
struct Report<'a> {
    machine: Machine,
    unix_seconds: u64,
    command: Vec<String>,
    rows: &'a [Row],
    runs: &'a [Run],
}

/// Runs the comparison and prints it.
///
/// # Errors
/// When a run failed, or a file could not be written. The runs before it are reported then too.
pub(crate) fn run(args: &CompareArgs) -> Result<(), String> {
    let peers = chosen(&args.peers);
    let workloads = chosen(&args.workloads);
    let (mut runs, mut failed) = (Vec::new(), Vec::new());
    for round in 0..args.runs as usize {
        for &workload in &workloads {
            for peer in in_turn(&peers, round).filter(|peer| peer.offers(workload)) {
                match child(peer, workload, &args.size) {
                    Ok(record) => {
                        eprintln!("{:>3}/{} {record}", round + 1, args.runs);
                        runs.push(Run { round, record });
                    }
                    Err(error) => {
                        let (peer, workload) = (cli::name(peer), cli::name(workload));
                        eprintln!("{:>3}/{} {workload} {peer}: {error}", round + 1, args.runs);
                        failed.push(format!("{workload} {peer}: {error}"));
                    }
                }
            }
        }
    }
    let rows = summarise(&runs, &peers, &workloads);
    print!("{}", table(&rows));
    if let Some(folder) = &args.out {
        write(folder, &rows, &runs).map_err(|error| format!("{}: {error}", folder.display()))?;
    }
    match failed.first() {
        None => Ok(()),
        Some(first) => Err(format!("{} runs failed, the first: {first}", failed.len())),
    }
}

/// What was asked for, each once, or all.
fn chosen<T: ValueEnum + PartialEq>(asked: &[T]) -> Vec<T> {
    let asked = if asked.is_empty() {
        T::value_variants()
    } else {
        asked
    };
    let mut chosen = Vec::new();
    for value in asked {
        if !chosen.contains(value) {
            chosen.push(value.clone());
        }
    }
    chosen
}

/// The peers: another one first in every second round, and backwards in between, so that nobody
/// always follows the same one.
fn in_turn(peers: &[Peer], round: usize) -> impl Iterator<Item = Peer> {
    let mut order = peers.to_vec();
    order.rotate_left(round / 2 % peers.len());
    if round % 2 == 1 {
        order.reverse();
    }
    order.into_iter()
}

/// One run in a process of its own: this program.
fn child(peer: Peer, workload: Workload, size: &Size) -> Result<Record, String> {
    let program = env::current_exe().map_err(|error| error.to_string())?;
    let output = Command::new(program)
        .args(arguments(peer, workload, size))
        .stdin(Stdio::null())
        .output()
        .map_err(|error| error.to_string())?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(if said.is_empty() {
            output.status.to_string()
        } else {
            said
        });
    }
    serde_json::from_slice(&output.stdout).map_err(|error| format!("its result: {error}"))
}

fn arguments(peer: Peer, workload: Workload, size: &Size) -> Vec<String> {
    let (peer, workload_name) = (cli::name(peer), cli::name(workload));
    let mut arguments = [
        "run",
        "--peer",
        &peer,
        "--workload",
        &workload_name,
        "--json",
        "-",
    ]
    .map(str::to_owned)
    .to_vec();
    let mut push = |flag: &str, value: String| arguments.extend([flag.to_owned(), value]);
    match size.messages {
        Some(messages) => push("--messages", messages.to_string()),
        None => push("--seconds", size.seconds.as_secs_f64().to_string()),
    }
    push("--in-flight", size.in_flight.to_string());
    if let Some(actors) = size.actors.filter(|_| workload.takes_actors()) {
        push("--actors", actors.to_string());
    }
    arguments
}

fn summarise(runs: &[Run], peers: &[Peer], workloads: &[Workload]) -> Vec<Row> {
    let results = |workload: Workload, peer: Peer| -> Vec<InRound> {
        let of = |run: &&Run| run.record.workload == workload && run.record.peer == peer;
        runs.iter()
            .filter(of)
            .map(|run| (run.round, run.record.result))
            .collect()
    };
    let spread = |results: &[InRound]| Spread::of(results.iter().map(|&(_, result)| result));
    let mut rows = Vec::new();
    for &workload in workloads {
        let foreign = peers.iter().copied().filter(|peer| peer.is_foreign());
        let medians = foreign.filter_map(|peer| {
            let results = results(workload, peer);
            Some((spread(&results)?.median, results))
        });
        let sign = if workload.is_cost() { -1.0 } else { 1.0 };
        let best = medians.max_by(|(a, _), (b, _)| (a * sign).total_cmp(&(b * sign)));
        for &peer in peers {
            let results = results(workload, peer);
            let Some(result) = spread(&results) else {
                continue;
            };
            let median = |share: fn(&Record) -> Option<f64>| {
                let of = |run: &&Run| run.record.workload == workload && run.record.peer == peer;
                let shares = runs.iter().filter(of).filter_map(|run| share(&run.record));
                Spread::of(shares).map(|spread| spread.median)
            };
            rows.push(Row {
                workload,
                peer,
                version: peer.version(),
                unit: workload.unit(),
                result,
                to_best_foreign: best
                    .as_ref()
                    .and_then(|(_, best)| paired_ratio(&results, best)),
                on_cpu: median(|record| record.on_cpu),
                apart: median(|record| record.apart),
            });
        }
    }
    rows
}

/// The rows as a Markdown table.
fn table(rows: &[Row]) -> String {
    let mut table = String::from(
        "\n| workload | peer | median (range) | × best foreign (range) | on a CPU \
         | on different threads |\n\
         |---|---|---|---|---|---|\n",
    );
    for row in rows {
        let Spread {
            median, min, max, ..
        } = row.result;
        let ratio = row.to_best_foreign.map_or_else(String::new, |ratio| {
            format!("{:.2} ({:.2}–{:.2})", ratio.median, ratio.min, ratio.max)
        });
        let percent = |share: Option<f64>| {
            share.map_or_else(String::new, |share| format!("{:.0} %", share * 100.0))
        };
        let (on_cpu, apart) = (percent(row.on_cpu), percent(row.apart));
        // Writing to a string does not fail.
        let _ = writeln!(
            table,
            "| {}, {} | {} {} | {} ({}–{}) | {ratio} | {on_cpu} | {apart} |",
            cli::name(row.workload),
            row.unit,
            cli::name(row.peer),
            row.version,
            short(median),
            short(min),
            short(max),
        );
    }
    table
}

fn write(folder: &Path, rows: &[Row], runs: &[Run]) -> Result<(), String> {
    let error = |error: &dyn std::fmt::Display| error.to_string();
    fs::create_dir_all(folder).map_err(|e| error(&e))?;
    let report = Report {
        machine: Machine::describe(),
        unix_seconds: machine::unix_seconds(),
        command: env::args().skip(1).collect(),
        rows,
        runs,
    };
    let text = serde_json::to_string_pretty(&report).map_err(|e| error(&e))?;
    fs::write(folder.join("results.json"), text + "\n").map_err(|e| error(&e))?;

    let mut csv = csv::Writer::from_path(folder.join("results.csv")).map_err(|e| error(&e))?;
    let header = "round,workload,peer,version,unit,result,messages,seconds,actors,in_flight,\
                  on_cpu,apart";
    csv.write_record(header.split(',')).map_err(|e| error(&e))?;
    let share = |share: Option<f64>| share.map_or_else(String::new, |share| share.to_string());
    for Run { round, record } in runs {
        let row = [
            round.to_string(),
            cli::name(record.workload),
            cli::name(record.peer),
            record.version.clone(),
            record.unit.clone(),
            record.result.to_string(),
            record.messages.to_string(),
            record.seconds.to_string(),
            record.actors.to_string(),
            record.in_flight.to_string(),
            share(record.on_cpu),
            share(record.apart),
        ];
        csv.write_record(row).map_err(|e| error(&e))?;
    }
    csv.flush().map_err(|e| error(&e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(round: usize, workload: Workload, peer: Peer, result: f64) -> Run {
        let record = Record {
            peer,
            version: String::new(),
            workload,
            actors: 1,
            in_flight: 1,
            messages: 1,
            seconds: 1.0,
            result,
            unit: String::new(),
            on_cpu: None,
            apart: None,
        };
        Run { round, record }
    }

    #[test]
    fn every_peer_is_first_and_last_in_some_round() {
        let peers = Peer::value_variants();
        let rounds = 2 * peers.len();
        for &peer in peers {
            assert!((0..rounds).any(|round| in_turn(peers, round).next() == Some(peer)));
            assert!((0..rounds).any(|round| in_turn(peers, round).last() == Some(peer)));
        }
        assert!((0..rounds).all(|round| in_turn(peers, round).count() == peers.len()));
    }

    #[test]
    fn ratios_are_to_the_best_whichever_way_better_is() {
        let (a, b) = (Peer::Actix, Peer::Ractor);
        let (rate, cost) = (Workload::FanIn, Workload::IdleMemory);
        let runs = [
            run(0, rate, a, 10.0),
            run(0, rate, b, 5.0),
            run(1, rate, a, 20.0),
            run(1, rate, b, 10.0),
            run(0, cost, a, 800.0),
            run(0, cost, b, 200.0),
        ];
        let rows = summarise(&runs, &[a, b], &[rate, cost]);
        let ratios: Vec<_> = rows
            .iter()
            .map(|row| row.to_best_foreign.unwrap().median)
            .collect();
        assert_eq!(ratios, [1.0, 0.5, 4.0, 1.0]);
        let table = table(&rows);
        assert!(table.contains("15 (10–20) | 1.00 (1.00–1.00)"), "{table}");
    }

    #[test]
    fn what_was_not_run_has_no_row() {
        let runs = [run(0, Workload::FanIn, Peer::Actix, 1.0)];
        let rows = summarise(&runs, Peer::value_variants(), Workload::value_variants());
        assert_eq!(rows.len(), 1);
    }

    #[test]
    fn a_choice_holds_each_once_and_none_is_all() {
        assert_eq!(chosen(&[Peer::Ractor, Peer::Actix, Peer::Ractor]).len(), 2);
        assert_eq!(chosen::<Peer>(&[]), Peer::value_variants());
    }
}

//! `proscenium compare`: servers against each other, under the same load by the same client.
//!
//! [`stacks`] says which servers there are, [`profiles`] how often and how long, [`plan`] what is
//! run in which order, [`runs`] runs one server and one client ([`processes`]), under a CPU quota
//! where there is one ([`quota`]). [`summary`] and [`goals`] add the runs up, [`report`] writes
//! them down.

mod args;
mod goals;
mod node;
mod plan;
mod processes;
mod profiles;
mod progress;
mod quota;
mod report;
mod runs;
mod stacks;
mod statistics;
mod summary;

use std::fs;
use std::path::{Path, PathBuf};

pub(crate) use args::CompareArgs;

use crate::layers::OwnCertificate;
use crate::machine::{self, Machine};
use crate::{record, signals, utc};
use args::Pin;
use plan::Shape;
use progress::Progress;
use quota::Quota;
use report::{Note, Report};
use runs::{Run, Runner, Status};
use stacks::{CertificateFiles, Contender};
use summary::Summary;

/// A contender that gave no result so often in a shape is not tried there again.
const FRUITLESS_MAX: usize = 2;

/// Runs the comparison, prints its tables and writes its files.
///
/// # Errors
/// When it cannot take place or was interrupted: says why and what there is.
pub(crate) fn run(args: &CompareArgs) -> Result<(), String> {
    if matches!(args.profile(), args::Profile::Node | args::Profile::Mesh) {
        return node::run(args);
    }
    let own = std::env::current_exe()
        .map_err(|error| format!("cannot find this program's own file: {error}"))?;
    let mut notes = Vec::new();
    let quota = find_quota(args, &mut notes);
    let works = quota.as_ref().map(|_| ()).map_err(String::as_str);
    let shapes = plan::shapes(args, works)?;
    let (server_cpus, client_cpus) = pinning(args, &mut notes)?;
    let time = machine::unix_seconds();
    let out = folder(args, time)?;

    let interrupted = signals::asked_to_end()?;

    let runner = Runner {
        folders: stacks::peer_folders(&args.peers_dir, &own),
        own,
        server_cpus,
        client_cpus,
        quota: quota.ok(),
        certificate: CertificateFiles {
            certificate: out.join("certificate.pem"),
            key: out.join("key.pem"),
        },
        shards: args.shards,
        drain: args.drain,
        interrupted,
    };
    let mut report = Report {
        time_unix: time,
        command: record::command(),
        profile: if args.sweep {
            "sweep"
        } else {
            args.profile().name()
        }
        .to_owned(),
        machine: Machine::describe(),
        notes,
        summaries: Vec::new(),
        goals: Vec::new(),
        runs: Vec::new(),
    };
    let certificate = Certificate::write(&runner.certificate, &shapes)?;
    let whole = go(args, &runner, &shapes, &mut report, &out);
    drop(certificate);
    print!("{}", report.text());
    for file in report::FILES {
        println!("{}", out.join(file).display());
    }
    whole
}

/// The folder of the results, which is there now.
fn folder(args: &CompareArgs, time: u64) -> Result<PathBuf, String> {
    let out = PathBuf::from(args.out.replace("{time}", &utc::file_name(time)));
    fs::create_dir_all(&out).map_err(|error| format!("--out {}: {error}", out.display()))?;
    Ok(out)
}

/// The certificate in its files, where somebody needs one; gone at the end.
struct Certificate(CertificateFiles);

impl Certificate {
    fn write(files: &CertificateFiles, shapes: &[Shape]) -> Result<Option<Self>, String> {
        let mut all = shapes.iter().flat_map(|shape| &shape.contenders);
        if !all.any(|who| who.stack.has_certificate()) {
            return Ok(None);
        }
        let made = OwnCertificate::make()?;
        let written = Self(files.clone());
        for (file, text) in [
            (&files.certificate, made.certificate),
            (&files.key, made.key),
        ] {
            fs::write(file, text)
                .map_err(|error| format!("cannot write {}: {error}", file.display()))?;
        }
        Ok(Some(written))
    }
}

impl Drop for Certificate {
    fn drop(&mut self) {
        for file in [&self.0.certificate, &self.0.key] {
            // Left behind it would be of no use to anybody.
            let _ = fs::remove_file(file);
        }
    }
}

/// Goes through the shapes; what is measured is written after each.
fn go(
    args: &CompareArgs,
    runner: &Runner,
    shapes: &[Shape],
    report: &mut Report,
    out: &Path,
) -> Result<(), String> {
    for note in &report.notes {
        eprintln!("{}: {}", note.name, note.text);
    }
    let mut progress = Progress::new(shapes);
    progress.announce();
    for shape in shapes {
        match &shape.skip {
            Some(reason) => {
                progress.skips(shape, reason);
                report.runs.push(Run::skipped(shape, reason));
            }
            None => alternate(runner, shape, &mut report.runs, &mut progress),
        }
        report.summaries.push(Summary::of(shape, &report.runs));
        report.goals = goals::judge(args.profile(), &report.summaries, &report.runs);
        report
            .write(out)
            .map_err(|error| format!("cannot write results to {}: {error}", out.display()))?;
        if runner.is_interrupted() {
            return Err("interrupted: the results are what was measured until then".to_owned());
        }
    }
    Ok(())
}

/// Lets the contenders of a shape take turns.
fn alternate(runner: &Runner, shape: &Shape, runs: &mut Vec<Run>, progress: &mut Progress) {
    for round in 0..shape.runs {
        for who in shape.turn(round) {
            if runner.is_interrupted() {
                return;
            }
            if is_hopeless(runs, shape, who) {
                progress.passed_over(shape);
                continue;
            }
            progress.starts(shape, &who.to_string());
            let run = runner.run(shape, who, round);
            if runner.is_interrupted() {
                return;
            }
            progress.ended(shape, &run);
            runs.push(run);
        }
    }
}

/// True if a contender was skipped in this shape or gave no result again and again.
fn is_hopeless(runs: &[Run], shape: &Shape, who: Contender) -> bool {
    let name = who.to_string();
    let own = || {
        runs.iter()
            .filter(|run| run.shape == shape.id && run.stack == name)
    };
    own().any(|run| run.status == Status::Skipped)
        || own().filter(|run| run.record.is_none()).count() >= FRUITLESS_MAX
}

/// The place to make quotas in, or why there is none.
fn find_quota(args: &CompareArgs, notes: &mut Vec<Note>) -> Result<Quota, String> {
    if args.quota == 0 {
        let reason = "not asked for; every shape is unthrottled";
        notes.push(Note::new("CPU quota", reason));
        return Err(reason.to_owned());
    }
    let quota = Quota::find();
    let percent = args.quota;
    let text = match &quota {
        Ok(quota) => {
            let how = quota.describe(percent);
            format!("limited servers have {percent} % of a CPU ({how})")
        }
        Err(_) => "not possible on this system, its shapes are skipped".to_owned(),
    };
    notes.push(Note::new("CPU quota", text));
    quota
}

/// The CPUs of the servers and of the client: the client has the second one for itself, a server
/// of one shard the first.
fn pinning(args: &CompareArgs, notes: &mut Vec<Note>) -> Result<(Vec<usize>, Vec<usize>), String> {
    let cpus = processes::allowed_cpus().unwrap_or_default();
    if args.pin == Pin::Off {
        notes.push(Note::new("CPUs", "server and client are not bound to any"));
        return Ok((Vec::new(), Vec::new()));
    }
    let &[first, second, ..] = cpus.as_slice() else {
        if args.pin == Pin::On {
            return Err(format!(
                "--pin: this process may use {} CPU, server and client need one each",
                cpus.len()
            ));
        }
        let text = "server and client share the only one; ratios mean little";
        notes.push(Note::new("CPUs", text));
        return Ok((Vec::new(), Vec::new()));
    };
    let servers: Vec<usize> = std::iter::once(first)
        .chain(cpus[2..].iter().copied())
        .collect();
    let list: Vec<String> = servers.iter().map(usize::to_string).collect();
    let text = format!(
        "the client on CPU {second}, servers on {}, one for each shard as far as there are",
        list.join(", ")
    );
    notes.push(Note::new("CPUs", text));
    Ok((servers, vec![second]))
}

#[cfg(test)]
mod tests {
    use super::runs::Status;
    use super::stacks::{PROSCENIUM, RAW};
    use super::summary::tests::{run, shape};
    use super::*;

    #[test]
    fn a_contender_is_given_up_when_it_is_missing_or_never_gives_a_result() {
        let shape = shape("s2", None, &[PROSCENIUM, RAW]);
        let who = shape.contenders[0];
        let mut runs = vec![
            run("s2", PROSCENIUM, 0, None),
            run("other", PROSCENIUM, 0, None),
            run("s2", RAW, 0, None),
            run("s2", PROSCENIUM, 1, Some((1.0, 1.0))),
        ];
        assert!(!is_hopeless(&runs, &shape, who));
        runs.push(run("s2", PROSCENIUM, 2, None));
        assert!(is_hopeless(&runs, &shape, who));
        let mut skipped = run("s2", PROSCENIUM, 0, None);
        skipped.status = Status::Skipped;
        assert!(is_hopeless(&[skipped], &shape, who));
    }
}

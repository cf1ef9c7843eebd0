//! One run: a server, a client, and what came of it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::Serialize;

use super::plan::Shape;
use super::processes::{self, Launch, Server};
use super::quota::Quota;
use super::stacks::{CertificateFiles, Client, Contender};
use crate::load::{CLIENT_BOUND, Scenario};
use crate::machine;
use crate::record::{StreamRecord, StreamRow};

/// What a client may take beyond its phases: connecting under a quota, ending.
const CLIENT_SPARE: Duration = Duration::from_secs(90);

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Status {
    /// There is a result, and it is a pass.
    Pass,
    /// There is none, or it is not a pass.
    Failed,
    /// The server is not here.
    Skipped,
}

/// One run of one contender.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Run {
    pub(crate) shape: String,
    pub(crate) stack: String,
    /// From 0; the runs of one round belong together.
    pub(crate) round: usize,
    /// `s0`, `s1` or `s2`, connections, messages in flight, and bytes: as asked for.
    pub(crate) scenario: &'static str,
    pub(crate) ccu: u32,
    pub(crate) inflight: u32,
    pub(crate) size: usize,
    pub(crate) status: Status,
    /// Why it is not a pass.
    pub(crate) reason: Option<String>,
    pub(crate) quota_percent: Option<u32>,
    pub(crate) server_shards: u16,
    /// Share of the quota's periods in which the server used it up.
    pub(crate) server_throttled_share: Option<f64>,
    pub(crate) server_command: String,
    pub(crate) client_command: String,
    pub(crate) record: Option<StreamRecord>,
}

/// What stands for all contenders of a shape that is skipped.
pub(crate) const ALL: &str = "all";

impl Run {
    /// A run that has not ended well yet.
    fn of(shape: &Shape, stack: &str, round: usize) -> Self {
        Self {
            shape: shape.id.clone(),
            stack: stack.to_owned(),
            round,
            scenario: shape.scenario.name(),
            ccu: shape.ccu,
            inflight: shape.inflight,
            size: shape.size,
            status: Status::Failed,
            reason: None,
            quota_percent: shape.quota,
            server_shards: 1,
            server_throttled_share: None,
            server_command: String::new(),
            client_command: String::new(),
            record: None,
        }
    }

    /// What stands for the runs of a shape that is skipped.
    pub(crate) fn skipped(shape: &Shape, reason: &str) -> Self {
        Self {
            status: Status::Skipped,
            reason: Some(reason.to_owned()),
            ..Self::of(shape, ALL, 0)
        }
    }

    /// The numbers, if it is a pass.
    pub(crate) fn passed(&self) -> Option<&StreamRow> {
        let record = self.record.as_ref()?;
        (self.status == Status::Pass).then_some(&record.row)
    }
}

/// What all runs have in common.
pub(crate) struct Runner {
    /// This program, which is the client and some of the servers.
    pub(crate) own: PathBuf,
    /// Where the other servers are looked for.
    pub(crate) folders: Vec<PathBuf>,
    /// CPUs of the servers and of the client; empty: all.
    pub(crate) server_cpus: Vec<usize>,
    pub(crate) client_cpus: Vec<usize>,
    pub(crate) quota: Option<Quota>,
    /// What servers over TLS show.
    pub(crate) certificate: CertificateFiles,
    /// Threads of a server.
    pub(crate) shards: u16,
    pub(crate) drain: Duration,
    pub(crate) interrupted: Arc<AtomicBool>,
}

impl Runner {
    /// Runs one contender once. Whatever goes wrong is its result.
    pub(crate) fn run(&self, shape: &Shape, who: Contender, round: usize) -> Run {
        let mut run = Run::of(shape, &who.to_string(), round);
        run.server_shards = who.stack.shards(self.shards);
        let server = who.stack.program(&self.own, &self.folders);
        let client = who.stack.client_program(&self.own, &self.folders);
        match server.and_then(|server| Ok((server, client?))) {
            Err(reason) => {
                run.status = Status::Skipped;
                run.reason = Some(reason);
            }
            Ok(programs) => {
                let measured = self.measure(shape, who, programs, &mut run);
                run.settle(measured);
            }
        }
        run
    }

    fn measure(
        &self,
        shape: &Shape,
        who: Contender,
        (server, client): (PathBuf, PathBuf),
        run: &mut Run,
    ) -> Result<StreamRecord, String> {
        let shards = usize::from(run.server_shards);
        let cpus: Vec<usize> = self.server_cpus.iter().copied().take(shards).collect();
        let launch = Launch {
            program: server,
            args: who.stack.arguments(self.shards, &cpus, &self.certificate),
            cpus,
        };
        run.server_command = launch.shell();
        // Before the server, so that it is removed after it.
        let group = match (shape.quota, &self.quota) {
            (Some(percent), Some(quota)) => {
                let group = quota.group(percent);
                Some(group.map_err(|error| format!("cannot make a quota: {error}"))?)
            }
            _ => None,
        };
        let server = Server::start(&launch, group.as_ref())?;
        let client = Launch {
            program: client,
            args: match who.stack.client {
                Client::Load(more) => self.load_arguments("stream", shape, who, more, &server),
                Client::Play(more) => self.load_arguments("play", shape, who, more, &server),
                Client::Bare => bare_arguments(shape, &server),
            },
            cpus: self.client_cpus.clone(),
        };
        run.client_command = client.shell();
        let time_max = shape.warmup + shape.measure + self.drain + CLIENT_SPARE;
        let text = processes::client(&client, time_max, &self.interrupted);
        run.server_throttled_share = group.as_ref().and_then(|group| group.throttled_share());
        let stopped = server.stop();
        // A server that died explains what the client saw, not the other way round.
        stopped?;
        let text = text?;
        match who.stack.client {
            Client::Load(_) | Client::Play(_) => {
                serde_json::from_str(&text).map_err(|error| error.to_string())
            }
            Client::Bare => bare_record(&text, shape, who),
        }
        .map_err(|error| format!("the client's result is not understood: {error}"))
    }

    fn load_arguments(
        &self,
        kind: &str,
        shape: &Shape,
        who: Contender,
        more: &[&str],
        server: &Server,
    ) -> Vec<String> {
        let millis = |time: Duration| format!("{}ms", time.as_millis());
        let mut args: Vec<String> = ["load", kind, "--target", &server.address]
            .map(str::to_owned)
            .into();
        args.extend(more.iter().map(|arg| (*arg).to_owned()));
        let mut add = |name: &str, value: String| args.extend([name.to_owned(), value]);
        add("--scenario", shape.scenario.name().to_owned());
        add("--stack", who.to_string());
        add("--size", shape.size.to_string());
        if shape.scenario != Scenario::S0 {
            add("--ccu", shape.ccu.to_string());
        }
        if shape.scenario == Scenario::S2 {
            add("--inflight", shape.inflight.to_string());
            add("--warmup", millis(shape.warmup));
            add("--measure", millis(shape.measure));
        }
        add("--drain", millis(self.drain));
        if let Some(rate) = shape.rate {
            add("--rate", rate.to_string());
            if shape.one_by_one {
                add("--burst", "1".to_owned());
            }
        }
        add("--server-pid", server.pid().to_string());
        add("--json", "-".to_owned());
        args
    }

    /// True once somebody wants the whole thing to end.
    pub(crate) fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }
}

fn bare_arguments(shape: &Shape, server: &Server) -> Vec<String> {
    let options = [
        ("--target", server.address.clone()),
        ("--ccu", shape.ccu.to_string()),
        ("--size", shape.size.to_string()),
        ("--inflight", shape.inflight.to_string()),
        ("--warmup", shape.warmup.as_secs_f64().to_string()),
        ("--measure", shape.measure.as_secs_f64().to_string()),
    ];
    let options = options.into_iter();
    options
        .flat_map(|(name, value)| [name.to_owned(), value])
        .collect()
}

/// The record of a bare client's run from its lines `NAME NUMBER`. What it does not measure is not
/// a number; that it ran to its end is all that passing means.
fn bare_record(text: &str, shape: &Shape, who: Contender) -> Result<StreamRecord, String> {
    let number = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok())
            .ok_or_else(|| format!("no line `{name}NUMBER`"))
    };
    let (throughput, frames) = (number("throughput ")?, number("frames ")? as u64);
    let share = number("cpu_share ")?;
    let none = f64::NAN;
    let row = StreamRow {
        scenario_id: shape.scenario.name().to_owned(),
        transport: "tcp".to_owned(),
        ccu: shape.ccu.into(),
        inflight: shape.inflight.into(),
        size: shape.size as u64,
        connect_success: shape.ccu.into(),
        sent: frames,
        recv: frames,
        throughput,
        p50: none,
        p95: none,
        p99: none,
        p99_9: none,
        max: none,
        pass_fail: "PASS".to_owned(),
        stack: who.to_string(),
        connect_seconds: none,
        warmup_seconds: shape.warmup.as_secs_f64(),
        measure_seconds: shape.measure.as_secs_f64(),
        drain_seconds: none,
        client_cpu_share: share,
        client_bound: share >= CLIENT_BOUND,
        client_threads: 1,
        time_unix: machine::unix_seconds(),
        ..StreamRow::default()
    };
    Ok(StreamRecord {
        row,
        ..StreamRecord::default()
    })
}

impl Run {
    /// Takes over what was measured.
    fn settle(&mut self, measured: Result<StreamRecord, String>) {
        match measured {
            Err(reason) => self.reason = Some(reason),
            Ok(mut record) => {
                record.command = crate::record::without_folder(record.command);
                if record.passed() {
                    self.status = Status::Pass;
                } else {
                    self.reason = Some(record.failures.join("; "));
                }
                self.record = Some(record);
            }
        }
    }
}

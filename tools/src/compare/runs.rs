//! One run: a server, a client, and what came of it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::Serialize;

use super::plan::Shape;
use super::processes::{self, Launch, Server};
use super::quota::Quota;
use super::stacks::Contender;
use crate::load::Scenario;
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

impl Run {
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
    /// Threads of a server.
    pub(crate) shards: u16,
    pub(crate) drain: Duration,
    pub(crate) interrupted: Arc<AtomicBool>,
}

impl Runner {
    /// Runs one contender once. Whatever goes wrong is its result.
    pub(crate) fn run(&self, shape: &Shape, who: Contender, round: usize) -> Run {
        let mut run = Run {
            shape: shape.id.clone(),
            stack: who.to_string(),
            round,
            status: Status::Failed,
            reason: None,
            quota_percent: shape.quota,
            server_shards: who.stack.shards(self.shards),
            server_throttled_share: None,
            server_command: String::new(),
            client_command: String::new(),
            record: None,
        };
        match who.stack.program(&self.own, &self.folders) {
            Err(reason) => {
                run.status = Status::Skipped;
                run.reason = Some(reason);
            }
            Ok(program) => {
                let measured = self.measure(shape, who, program, &mut run);
                run.settle(measured);
            }
        }
        run
    }

    fn measure(
        &self,
        shape: &Shape,
        who: Contender,
        program: PathBuf,
        run: &mut Run,
    ) -> Result<StreamRecord, String> {
        let shards = usize::from(run.server_shards);
        let cpus: Vec<usize> = self.server_cpus.iter().copied().take(shards).collect();
        let launch = Launch {
            program,
            args: who.stack.arguments(self.shards, &cpus),
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
        let client = self.client(shape, who, &server);
        run.client_command = client.shell();
        let time_max = shape.warmup + shape.measure + self.drain + CLIENT_SPARE;
        let text = processes::client(&client, time_max, &self.interrupted);
        run.server_throttled_share = group.as_ref().and_then(|group| group.throttled_share());
        let stopped = server.stop();
        // A server that died explains what the client saw, not the other way round.
        stopped?;
        serde_json::from_str(&text?)
            .map_err(|error| format!("the client's result is not understood: {error}"))
    }

    fn client(&self, shape: &Shape, who: Contender, server: &Server) -> Launch {
        let millis = |time: Duration| format!("{}ms", time.as_millis());
        let mut args: Vec<String> = ["load", "stream", "--target", &server.address]
            .map(str::to_owned)
            .into();
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
        Launch {
            program: self.own.clone(),
            args,
            cpus: self.client_cpus.clone(),
        }
    }

    /// True once somebody wants the whole thing to end.
    pub(crate) fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }
}

impl Run {
    /// Takes over what was measured.
    fn settle(&mut self, measured: Result<StreamRecord, String>) {
        match measured {
            Err(reason) => self.reason = Some(reason),
            Ok(mut record) => {
                record.command = super::without_folder(record.command);
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

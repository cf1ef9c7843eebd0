//! `proscenium load`: puts load on a server and measures it.
//!
//! The connections live in the engine's shards ([`client`]), which know the rules ([`window`]) but
//! not the plan. The plan is here: connect, warm up, measure, drain, judge.

mod args;
mod body;
mod client;
mod fan;
mod latency;
pub(crate) mod mesh;
pub(crate) mod node;
mod packets;
mod plan;
mod progress;
mod protocol;
mod schedule;
mod verdict;
mod window;

use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clap::ValueEnum;
use proscenium_engine::{Address, Connector, Engine, Framing, Limits};

pub(crate) use args::{PlayArgs, StreamArgs};
pub(crate) use body::Verify;

use crate::errno;
use crate::machine::{self, Machine};
use crate::process::{self, Process};
use crate::record::{self, StreamRecord, StreamRow};
use crate::signals;
use args::LoadOptions;
use client::{Client, Settings};
use latency::Percentiles;
use packets::Packets;
pub(crate) use plan::CLIENT_BOUND;
use plan::{Measured, Plan};
use protocol::{Bodies, Protocol};

/// Bytes of a frame's header.
const FRAME_HEADER: usize = 4;

/// How long the engine may take to close the connections at the end.
const CLOSE_DEADLINE: Duration = Duration::from_secs(5);

/// What a run consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scenario {
    /// One connection, one message, one answer
    S0,
    /// Connect only
    S1,
    /// Connect, warm up, measure, drain
    S2,
}

impl Scenario {
    /// Its name in results.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::S0 => "s0",
            Self::S1 => "s1",
            Self::S2 => "s2",
        }
    }
}

/// Runs a stream scenario, prints and writes the result. True if it is a pass.
///
/// # Errors
/// When the run cannot take place or its result cannot be written: says why and what to do.
pub(crate) fn stream(args: &StreamArgs) -> Result<bool, String> {
    let of_thread = |_| Ok(Bodies);
    drive(&args.load, args.framing()?, None, of_thread)
}

/// Runs a scenario with clients of a Play server; as [`stream`].
///
/// # Errors
/// Those of [`stream`], and options that do not go together.
pub(crate) fn play(args: &PlayArgs) -> Result<bool, String> {
    let load = &args.load;
    let stages = args.stages.unwrap_or(load.ccu).min(load.ccu) as usize;
    let to_all = args.mode.is_to_all();
    if to_all && load.threads > 1 {
        return Err("--threads: who speaks to all in a stage knows those of one thread".to_owned());
    }
    let of_thread = |before| Packets::new(args, before);
    let stages = to_all.then_some(stages);
    drive(load, args.length.into(), stages, of_thread)
}

/// Runs the scenario with clients that speak the protocol that `of_thread` makes, from the number
/// of connections of the threads before. `stages`: how many, in each of which one speaks to all.
fn drive<P: Protocol>(
    args: &LoadOptions,
    framing: Framing,
    stages: Option<usize>,
    of_thread: impl Fn(usize) -> Result<P, String>,
) -> Result<bool, String> {
    let target = Address::parse(&args.target).map_err(|error| format!("--target {error}"))?;
    let server = args.server_pid.map(Process::with_id).transpose();
    let server = server.map_err(|error| format!("--server-pid: {error}"))?;
    if args.burst.is_some_and(|burst| burst > args.inflight) {
        return Err(format!(
            "--burst {} is more than --inflight {}: a burst has to fit into the window",
            args.burst.unwrap_or(0),
            args.inflight
        ));
    }
    let connections = args.connections();
    let threads = u32::from(args.threads).min(connections) as usize;
    process::allow_open_files(u64::from(connections) + 64).map_err(|error| error.to_string())?;
    if let Some(warning) = args.layers.warning() {
        eprintln!("{warning}");
    }
    let interrupted = signals::asked_to_end()?;

    let connector = Connector::to(target.clone())
        .deadline(args.connect_timeout)
        .framing(framing);
    let connector = args.layers.on(connector, &args.target)?;
    let settings = split(args, &connector, threads, stages);
    let mut before = 0;
    let mut clients = Vec::new();
    let (reports, receiver) = std::sync::mpsc::channel();
    let mut progress: Vec<Arc<client::Progress>> = Vec::new();
    for settings in &settings {
        let protocol = of_thread(before)?;
        before += settings.connections;
        progress.push(Arc::default());
        let shown = Arc::clone(progress.last().expect("just pushed"));
        clients.push((protocol, settings.clone(), reports.clone(), shown));
    }
    let joins = clients[0].0.hello(0, &mut P::State::default()).is_some();
    let around = clients[0]
        .0
        .prefix()
        .len()
        .max(clients[0].0.answer_prefix_max());
    let limits = limits(args, around, &settings);
    let engine = start(args, threads, limits, clients)?;
    let plan = Plan::new(
        args,
        joins,
        &engine.handle(),
        receiver,
        &progress,
        server,
        &interrupted,
    );
    let measured = plan.run();
    engine.shutdown(CLOSE_DEADLINE);
    let measured = measured?;

    let record = record_of(args, &target, &measured);
    record::publish(&verdict::Summary(&record), &record, args.json.as_deref())?;
    if let Some(path) = &args.csv {
        let appended = record.row.append_csv(path);
        appended.map_err(|error| format!("--csv {}: {error}", path.display()))?;
    }
    Ok(record.passed())
}

/// What the handler of one client thread is made of.
type Parts<P> = (P, Settings, Sender<client::Report>, Arc<client::Progress>);

/// Starts the client threads.
fn start<P: Protocol>(
    args: &LoadOptions,
    threads: usize,
    limits: Limits,
    clients: Vec<Parts<P>>,
) -> Result<Engine<client::Order>, String> {
    let mut builder = Engine::builder()
        .shards(threads)
        .name("load")
        .limits(limits);
    if !args.pin.is_empty() {
        builder = builder.pin_cpus(&args.pin);
    }
    // Each shard's thread takes its own.
    let clients: Vec<_> = clients
        .into_iter()
        .map(|one| Mutex::new(Some(one)))
        .collect();
    builder
        .start(move |shard| {
            let taken = clients[shard].lock().map(|mut one| one.take());
            let (protocol, settings, reports, progress) =
                taken.ok().flatten().expect("a shard is made once");
            Client::new(protocol, settings, reports, progress)
        })
        .map_err(|error| format!("cannot start the client: {error}"))
}

/// What each thread has to do: an even share.
fn split(
    args: &LoadOptions,
    connector: &Connector,
    threads: usize,
    stages: Option<usize>,
) -> Vec<Settings> {
    let connections = args.connections() as usize;
    let share =
        |whole: usize, thread: usize| whole / threads + usize::from(thread < whole % threads);
    let together = args.burst.unwrap_or(args.inflight);
    // What is said to all is as many deliveries at once as there are clients in a stage.
    let crowd = stages.map_or(1, |stages| (connections / stages.max(1)).max(1));
    let burst = together.saturating_mul(u32::try_from(crowd).unwrap_or(u32::MAX));
    let one = |thread| {
        let connections = share(connections, thread);
        let part = connections as f64 / f64::from(args.ccu);
        Settings {
            connector: connector.clone(),
            connections,
            connect_at_once: share(args.connect_concurrency as usize, thread).max(1),
            size: args.size.max(body::HEADER),
            inflight: args.inflight,
            budget: if args.scenario == Scenario::S0 {
                1
            } else {
                u64::MAX
            },
            rate: args
                .rate
                .filter(|_| args.scenario == Scenario::S2)
                .map(|rate| (rate * part, burst)),
            verify: args.verify,
            stages,
            speeches: together,
        }
    };
    (0..threads).map(one).collect()
}

/// Limits under which the client itself never holds anything back: were it to stop reading while
/// its own messages wait, and the server likewise, both would wait for ever. What is outstanding
/// is bounded by the windows already. A message has at most `around` bytes beside its body.
fn limits(args: &LoadOptions, around: usize, settings: &[Settings]) -> Limits {
    let frame = args.size.max(body::HEADER) + around + FRAME_HEADER;
    let window = frame.saturating_mul(args.inflight as usize);
    let connections = settings
        .iter()
        .map(|one| one.connections)
        .max()
        .unwrap_or(1);
    let default = Limits::default();
    let send_high = window.saturating_mul(2).max(default.send_high);
    let frame_max = default.frame_max.max(frame);
    Limits::default()
        .connections_max(connections)
        .frame_max(frame_max)
        .send_high(send_high)
        .send_queue_max(send_high.max(default.send_queue_max).max(2 * frame_max))
        .send_bytes_max(
            window
                .saturating_mul(connections + 1)
                .max(default.send_bytes_max),
        )
        .reassembly_bytes_max(
            // Memory is leased in classes of powers of two: up to twice the frame.
            (2 * frame)
                .saturating_mul(connections + 1)
                .max(default.reassembly_bytes_max),
        )
}

/// Rounds to so many decimals, so that files stay readable.
fn rounded(value: f64, decimals: i32) -> f64 {
    let factor = 10f64.powi(decimals);
    (value * factor).round() / factor
}

/// Puts the measured numbers into the record and judges them.
fn record_of(args: &LoadOptions, target: &Address, measured: &Measured) -> StreamRecord {
    let failures = verdict::failures(args.scenario, measured);
    let Measured { tally, connect, .. } = measured;
    let latency = Percentiles::of(&measured.latency);
    let micros = |value| rounded(value, 3);
    let seconds = |duration: Duration| rounded(duration.as_secs_f64(), 6);
    let incomplete = tally.sent.saturating_sub(tally.received) as f64 / tally.sent.max(1) as f64;
    let row = StreamRow {
        scenario_id: args.scenario.name().to_owned(),
        transport: args.layers.transport(target).to_owned(),
        ccu: measured.connections,
        inflight: if args.scenario == Scenario::S0 {
            1
        } else {
            u64::from(args.inflight)
        },
        size: args.size.max(body::HEADER) as u64,
        connect_success: connect.made,
        connect_fail: connect.failed,
        connect_timeout: connect.timed_out,
        sent: tally.sent,
        recv: tally.received,
        incomplete_ratio: rounded(incomplete, 9),
        throughput: rounded(measured.throughput, 1),
        p50: micros(latency.p50),
        p95: micros(latency.p95),
        p99: micros(latency.p99),
        errors_by_errno: errno::joined(&measured.errors),
        pass_fail: if failures.is_empty() { "PASS" } else { "FAIL" }.to_owned(),
        stack: args.stack.clone(),
        p99_9: micros(latency.p99_9),
        max: micros(latency.max),
        connect_seconds: seconds(measured.connect_time),
        join_success: measured.join.map(|join| join.joined),
        join_seconds: measured.join.map(|_| seconds(measured.join_time)),
        warmup_seconds: seconds(measured.warmup_time),
        measure_seconds: seconds(measured.measure_time),
        drain_seconds: seconds(measured.drain_time),
        server_cpu_ns_per_msg: measured
            .server_cpu_ns_per_message()
            .map(|ns| rounded(ns, 1)),
        server_cpu_share: measured.server_cpu_share().map(|share| rounded(share, 4)),
        server_rss_peak_bytes: measured.server_rss_peak_bytes,
        server_cpu_us_per_connect: measured
            .server_cpu_us_per_connect()
            .map(|us| rounded(us, 3)),
        client_cpu_share: rounded(measured.client_cpu_share, 4),
        client_bound: measured.is_client_bound(),
        gating_violation: tally.gating_violations,
        drain_timeout: measured.waiting,
        corrupt: tally.corrupt,
        lost: tally.lost_connections,
        client_threads: measured.threads as u64,
        rate: args.rate,
        rate_unsent: measured.overdue,
        time_unix: machine::unix_seconds(),
    };
    StreamRecord {
        row,
        failures,
        errors: measured.errors.clone(),
        command: record::command(),
        machine: Machine::describe(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command, LoadKind};
    use clap::Parser;

    fn args(more: &[&str]) -> LoadOptions {
        let base = [
            "proscenium",
            "load",
            "stream",
            "--target",
            "127.0.0.1:1",
            "--scenario",
            "s2",
        ];
        match Cli::parse_from(base.iter().chain(more)).command {
            Command::Load(load) => match load.kind {
                LoadKind::Stream(args) => args.load,
                LoadKind::Play(_) | LoadKind::Node(_) | LoadKind::Mesh(_) => {
                    unreachable!("the arguments say stream")
                }
            },
            Command::Echo(_) | Command::Node(_) | Command::Compare(_) => {
                unreachable!("the arguments say load")
            }
        }
    }

    #[test]
    fn connections_and_rate_are_split_without_remainder() {
        let args = args(&["--ccu", "10", "--rate", "1000", "--threads", "3"]);
        let connector = Connector::parse("127.0.0.1:1").unwrap();
        let split = split(&args, &connector, 3, None);
        let connections: Vec<usize> = split.iter().map(|one| one.connections).collect();
        assert_eq!(connections, [4, 3, 3]);
        let rate: f64 = split.iter().map(|one| one.rate.unwrap().0).sum();
        assert!((rate - 1000.0).abs() < 1e-6, "{rate}");
        let at_once: usize = split.iter().map(|one| one.connect_at_once).sum();
        assert_eq!(at_once, 256);
    }

    #[test]
    fn the_limits_fit_every_shape_and_hold_every_window() {
        for (ccu, size, inflight) in [
            ("1", "9", "1"),
            ("10000", "1024", "30"),
            ("100", "4MiB", "1000"),
            ("1", "64KiB", "1"),
        ] {
            let args = args(&["--ccu", ccu, "--size", size, "--inflight", inflight]);
            let connector = Connector::parse("127.0.0.1:1").unwrap();
            let split = split(&args, &connector, 1, None);
            let limits = limits(&args, 0, &split);
            assert_eq!(limits.validate(), Ok(()), "{ccu} {size} {inflight}");
            let window = (args.size + FRAME_HEADER) * args.inflight as usize;
            assert!(limits.send_high > window, "{ccu} {size} {inflight}");
        }
    }
}

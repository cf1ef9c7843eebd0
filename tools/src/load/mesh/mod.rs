//! `proscenium load mesh`: stages of one Play server ask those of another, and it is measured.
//!
//! [`caller`] are the stages that ask; the plan is here. The other side is
//! `proscenium echo --mode mesh`.

mod caller;

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use clap::Args;
use proscenium_engine::Address;
use proscenium_nodelink::{Endpoint, Nid, Node, NodeOptions};
use proscenium_play::{Content, PlayHandle, PlayServer, StageKind};

pub(crate) use caller::KIND;

use super::args::parse_rate;
use super::latency::Percentiles;
use super::node::{CLOSE_DEADLINE, Mark, NodeRecord, RunOptions, SERVER_NID, SPARE};
use crate::process::Process;
use crate::units::parse_bytes;
use caller::{Caller, Plan, Tally};

const EXAMPLES: &str = "\
Each of --window stages of this process's Play server sends a request to a stage of the other one,
awaits its answer and sends the next: so many are unanswered at the same time. With --rate requests
are due at fixed times, spread evenly over the stages, and latency counts from the time when a
request was due; a stage that still waits then sends late, and what was never sent is shown.

PASS means: every request was answered once, with what was sent, no link was lost, and with --rate
nothing that was due is left.

Examples:
  proscenium echo --mode mesh &
  proscenium load mesh --target 127.0.0.1:7000 --window 1000 --stages 100 --size 64
  proscenium load mesh --target 127.0.0.1:7000 --rate 50000 --json -";

/// Options of `proscenium load mesh`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct MeshArgs {
    /// Where the other server listens for nodes
    #[arg(long, value_name = "ADDR")]
    target: String,
    /// Stages that ask, one request at a time each
    #[arg(long, value_name = "N", default_value_t = 1000,
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    window: u32,
    /// Stages that are asked; default as many as ask. They are created, and stay
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    stages: Option<u32>,
    /// Length of the payload; from 8 on each has a number
    #[arg(long, value_name = "BYTES", default_value = "64", value_parser = parse_bytes)]
    size: usize,
    /// Open loop: offer so many requests per second in all
    #[arg(long, value_name = "R", value_parser = parse_rate)]
    rate: Option<f64>,
    #[command(flatten)]
    run: RunOptions,
}

/// The stage of this server that asks for marks.
const MARKER: i64 = -1;

/// Runs the load, prints and writes the result. True if it is a pass.
///
/// # Errors
/// When the run cannot take place or its result cannot be written: says why and what to do.
pub(crate) fn run(args: &MeshArgs) -> Result<bool, String> {
    let (server, tally) = start(args)?;
    let measured = measure(args, &server.handle(), &tally);
    server.shutdown(CLOSE_DEADLINE);
    args.run.publish(measured?)
}

/// The server whose stages ask.
fn start(args: &MeshArgs) -> Result<(PlayServer, Arc<Tally>), String> {
    let target = Address::parse(&args.target).map_err(|error| format!("--target {error}"))?;
    let nid = Nid::new("load").map_err(|error| error.to_string())?;
    let options = NodeOptions::new(nid).handshake_deadline(args.run.connect_timeout);
    let limit = options.zmtp.frame_max;
    if args.size > limit {
        let size = args.size;
        return Err(format!("--size {size}: a frame has at most {limit} bytes"));
    }
    let tally = Arc::new(Tally::new(Plan {
        callers: args.window,
        stages: args.stages.unwrap_or(args.window),
        size: args.size,
        rate: args.rate,
        from: args.run.warmup,
        to: args.run.warmup + args.run.measure,
        drain: args.run.drain,
    }));
    let of_callers = Arc::clone(&tally);
    let make = move |id| Caller::new(id, Arc::clone(&of_callers));
    let server = PlayServer::builder()
        .stage(StageKind::new(KIND, make, || ()).keep_when_empty())
        .request_deadline(args.run.request_deadline())
        .node(Node::builder(options).connect(Endpoint::new(target)))
        .with_engine(|engine| args.run.pinned(engine))
        .start()
        .map_err(|error| format!("cannot start the server: {error}"))?;
    Ok((server, tally))
}

/// Connects, has the stages ask, looks at both sides at the ends of the window, judges.
fn measure(args: &MeshArgs, play: &PlayHandle, tally: &Tally) -> Result<NodeRecord, String> {
    let node = play.node().ok_or("the server is no node")?;
    let (target, within) = (&args.target, args.run.connect_timeout);
    if !node.wait_routable(SERVER_NID, within) {
        return Err(format!(
            "no server could be reached at {target} within {within:?}: it has to be that of \
             `proscenium echo --mode mesh`"
        ));
    }
    let mark = || {
        let asked = play.request_stage(MARKER, "Mark", ()).wait(SPARE);
        let answer = asked.map_err(|code| format!("the other server gave no mark: error {code}"));
        Mark::read(&answer?.payload).ok_or("the other server's mark is not understood".to_owned())
    };
    let ids: Vec<i64> = (0..args.window.into()).collect();
    let create = |id: i64| play.create_stage(KIND, id, Content::default());
    let created: Vec<_> = ids.iter().copied().chain([MARKER]).map(create).collect();
    for created in created {
        let made = created.wait(SPARE);
        made.map_err(|code| format!("a stage could not be created: error {code}"))?;
    }
    let first = mark()?;
    tally.begin();
    let go = |id: &i64| play.request_stage(*id, "Go", ());
    let running: Vec<_> = ids.iter().map(go).collect();
    let look = |at: Duration| -> Result<_, String> {
        thread::sleep(at.saturating_sub(tally.elapsed()));
        let cpu = Process::this().cpu_time().unwrap_or_default();
        Ok((tally.elapsed(), cpu, mark()?))
    };
    let (from, to) = (tally.plan().from, tally.plan().to);
    let (ours, theirs) = (look(from)?, look(to)?);
    let end = to + args.run.drain;
    let mut unfinished = 0;
    for caller in running {
        let left = (end + SPARE).saturating_sub(tally.elapsed());
        unfinished += u64::from(caller.wait(left).is_err());
    }
    let served = mark()?.count.saturating_sub(first.count);
    let late = node.stats(SPARE).and_then(|stats| {
        let peer = stats.peer(SERVER_NID)?;
        Some(peer.counters.late_replies)
    });
    let mut record = judge(tally, served, late);
    if unfinished > 0 {
        let what = format!("{unfinished} stages did not come to their end");
        record.failures.push(what);
    }
    let span = theirs.0.saturating_sub(ours.0).as_secs_f64().max(1e-9);
    record.client_cpu_share = theirs.1.saturating_sub(ours.1).as_secs_f64() / span;
    record.server_cpu_share = theirs.2.cpu_share_since(ours.2);
    Ok(record)
}

/// What came of it. `served`: requests by the other side's count; `late`: answers to none of ours.
fn judge(tally: &Tally, served: u64, late: Option<u64>) -> NodeRecord {
    let plan = tally.plan();
    let totals = tally.totals();
    let mut failures = Vec::new();
    for (code, count) in &totals.errors {
        failures.push(format!("{count} requests were answered with error {code}"));
    }
    if totals.wrong > 0 {
        failures.push(format!("{} wrong answers", totals.wrong));
    }
    let answered = totals.received + totals.errors.values().sum::<u64>();
    if answered < totals.sent {
        let unanswered = totals.sent - answered;
        failures.push(format!("{unanswered} requests were not answered"));
    }
    if served != totals.sent {
        let sent = totals.sent;
        failures.push(format!("{sent} requests were sent and {served} served"));
    }
    match late {
        Some(0) => {}
        Some(late) => failures.push(format!("{late} answers that nobody waited for")),
        None => failures.push("the link was lost".to_owned()),
    }
    if totals.received == 0 {
        failures.push("nothing was answered".to_owned());
    }
    if totals.unsent > 0 {
        failures.push(format!("{} requests were due and not sent", totals.unsent));
    }
    let seconds = (plan.to - plan.from).as_secs_f64();
    let latency = Percentiles::of(&totals.latency.finish());
    NodeRecord {
        mode: "request".to_owned(),
        size: plan.size as u64,
        window: plan.callers.into(),
        stages: Some(plan.stages.into()),
        rate: plan.rate,
        unsent: totals.unsent,
        sent: totals.sent,
        received: totals.received,
        throughput: totals.in_window as f64 / seconds,
        seconds,
        p50: latency.p50,
        p99: latency.p99,
        p99_9: latency.p99_9,
        max: latency.max,
        failures,
        ..NodeRecord::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(rate: Option<f64>) -> Tally {
        Tally::new(Plan {
            callers: 2,
            stages: 2,
            size: 64,
            rate,
            from: Duration::from_secs(1),
            to: Duration::from_secs(3),
            drain: Duration::from_secs(1),
        })
    }

    #[test]
    fn what_was_answered_once_is_a_pass() {
        let tally = tally(None);
        for at in [1_500_000_000, 3_500_000_000] {
            tally.sent();
            tally.answered(Ok(true), at - 1_000_000, at);
        }
        let record = judge(&tally, 2, Some(0));
        assert_eq!(record.failures, [""; 0]);
        assert_eq!((record.sent, record.received), (2, 2));
        assert_eq!((record.throughput, record.seconds), (0.5, 2.0));
        assert!((record.p50 - 1000.0).abs() < 2.0, "{record:?}");
    }

    #[test]
    fn every_kind_of_failure_is_named() {
        let tally = tally(None);
        for answer in [Ok(false), Err(14), Err(14), Ok(true)] {
            tally.sent();
            tally.answered(answer, 1, 2);
        }
        tally.sent();
        tally.left_unsent(3);
        let failures = judge(&tally, 6, Some(1)).failures;
        assert_eq!(
            failures,
            [
                "2 requests were answered with error 14",
                "1 wrong answers",
                "1 requests were not answered",
                "5 requests were sent and 6 served",
                "1 answers that nobody waited for",
                "3 requests were due and not sent",
            ]
        );
        let failures = judge(&tally, 0, None).failures;
        assert_eq!(failures, ["the link was lost", "nothing was answered"]);
    }

    #[test]
    fn with_a_rate_the_window_is_that_of_the_times_when_requests_were_due() {
        let tally = tally(Some(10.0));
        for (due, now) in [(999_999_999, 2_000_000_000), (2_999_999_999, 9_000_000_000)] {
            tally.sent();
            tally.answered(Ok(true), due, now);
        }
        let record = judge(&tally, 2, Some(0));
        assert_eq!(record.throughput, 0.5);
        assert!(record.p50 > 5.9e6, "{record:?}");
    }
}

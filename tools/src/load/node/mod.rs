//! `proscenium load node`: one node puts load on another and measures it.
//!
//! [`client`] is the node with its plan, [`record`] what comes of it. The other side is
//! `proscenium echo --mode node`, or a program of another library that does the same.

mod client;
mod record;

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use clap::{Args, ValueEnum};
use proscenium_engine::{Address, EngineBuilder};
use proscenium_nodelink::{Endpoint, Nid, Node, NodeOptions};

pub(super) use client::Mark;
pub(crate) use client::{ECHO, MARK, MARK_BYTES, SERVER_NID};
pub(crate) use record::NodeRecord;

use crate::machine::Machine;
use crate::units::{parse_bytes, parse_duration};
use client::{Client, Plan};

const EXAMPLES: &str = "\
Modes:
  request  at most --window requests are unanswered; with 1, latency is that of single requests
  send     messages without an answer, as fast as the queue (--hwm) takes them; the rate is that at
           which they arrive, by the receiver's own count and clock

What the other node has to do, whose NID is `echo`: answer requests `Echo` with their payload, and
`Mark` with three little-endian u64: messages so far, its clock and its CPU time in nanoseconds.
`proscenium echo --mode node` does, and tools/peers/node-zmq on libzmq.

PASS means: every request was answered with what was sent, every message arrived, and no link was
lost.

Examples:
  proscenium echo --mode node &
  proscenium load node --target 127.0.0.1:7000 --window 1 --size 64
  proscenium load node --target 127.0.0.1:7000 --mode send --size 1KiB --json -";

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum NodeMode {
    /// Requests, which are answered
    Request,
    /// Messages without an answer
    Send,
}

impl NodeMode {
    /// Its name on the command line and in results.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Send => "send",
        }
    }
}

/// Options of `proscenium load node`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct NodeArgs {
    /// Where the other node listens
    #[arg(long, value_name = "ADDR")]
    pub(crate) target: String,
    /// What is sent (see below)
    #[arg(long, value_enum, default_value_t = NodeMode::Request)]
    pub(crate) mode: NodeMode,
    /// Length of the payload; not 24, which are the answers to marks
    #[arg(long, value_name = "BYTES", default_value = "64", value_parser = parse_bytes)]
    pub(crate) size: usize,
    /// Most requests that are unanswered
    #[arg(long, value_name = "N", default_value_t = 1000,
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) window: u32,
    /// Messages that may wait in the queue to the other node
    #[arg(long, value_name = "N", default_value_t = 100_000,
          value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) hwm: u32,
    #[command(flatten)]
    pub(crate) run: RunOptions,
}

/// What every load from one node to another has.
#[derive(Debug, Args)]
pub(crate) struct RunOptions {
    /// Load before measuring
    #[arg(long, value_name = "DUR", default_value = "1s", value_parser = parse_duration)]
    pub(super) warmup: Duration,
    /// Length of the measuring window
    #[arg(long, value_name = "DUR", default_value = "3s", value_parser = parse_duration)]
    pub(super) measure: Duration,
    /// How long to wait for outstanding answers at the end
    #[arg(long, value_name = "DUR", default_value = "10s", value_parser = parse_duration)]
    pub(super) drain: Duration,
    /// How long the other node may take until it can be reached
    #[arg(long, value_name = "DUR", default_value = "10s", value_parser = parse_duration)]
    pub(super) connect_timeout: Duration,
    /// Name of the pair in the results
    #[arg(long, value_name = "LABEL", default_value = "proscenium")]
    stack: String,
    /// Pin the client to this CPU
    #[arg(long, value_name = "CPU")]
    pin: Option<usize>,
    /// Write the whole result to this file; `-` is standard output
    #[arg(long, value_name = "F")]
    json: Option<PathBuf>,
}

impl RunOptions {
    /// Until when a request may be unanswered without that being the request's own fault.
    pub(super) fn request_deadline(&self) -> Duration {
        self.warmup + self.measure + self.drain + SPARE
    }

    /// The engine of the client, on its CPU.
    pub(super) fn pinned(&self, engine: EngineBuilder) -> EngineBuilder {
        match self.pin {
            Some(cpu) => engine.pin_cpus(&[cpu]),
            None => engine,
        }
    }

    /// Prints and writes the result. True if it is a pass.
    ///
    /// # Errors
    /// When it cannot be written: names the option.
    pub(super) fn publish(&self, mut record: NodeRecord) -> Result<bool, String> {
        record.stack.clone_from(&self.stack);
        record.command = crate::record::command();
        record.machine = Machine::describe();
        crate::record::publish(&record, &record, self.json.as_deref())?;
        Ok(record.failures.is_empty())
    }
}

/// How long the engine may take to end.
pub(super) const CLOSE_DEADLINE: Duration = Duration::from_secs(5);
/// What a run may take beyond its phases before something is wrong with this program.
pub(super) const SPARE: Duration = Duration::from_secs(30);

/// Runs the load, prints and writes the result. True if it is a pass.
///
/// # Errors
/// When the run cannot take place or its result cannot be written: says why and what to do.
pub(crate) fn run(args: &NodeArgs) -> Result<bool, String> {
    let target = Address::parse(&args.target).map_err(|error| format!("--target {error}"))?;
    if args.size == MARK_BYTES {
        return Err(format!(
            "--size {MARK_BYTES}: such payloads are the answers to marks; take any other"
        ));
    }
    let options = options(args)?;
    let limit = options.zmtp.frame_max;
    if args.size > limit {
        let size = args.size;
        return Err(format!("--size {size}: a frame has at most {limit} bytes"));
    }
    let whole = args.run.connect_timeout + args.run.request_deadline();
    let (builder, link) = Node::builder(options)
        .connect(Endpoint::new(target))
        .prepare()
        .map_err(|error| error.to_string())?;
    let (report, result) = mpsc::channel();
    let client = Mutex::new(Some(Client::new(link, Plan::of(args), report)));
    let engine = args
        .run
        .pinned(builder)
        .start(move |_| {
            let taken = client.lock().ok().and_then(|mut client| client.take());
            taken.expect("an engine of one shard makes one handler")
        })
        .map_err(|error| format!("cannot start the node: {error}"))?;
    let measured = result.recv_timeout(whole);
    engine.shutdown(CLOSE_DEADLINE);
    let measured = measured.map_err(|error| match error {
        RecvTimeoutError::Timeout => "the load did not end in time".to_owned(),
        RecvTimeoutError::Disconnected => "the load ended without a result".to_owned(),
    })?;
    args.run.publish(measured?)
}

/// The node's options: messages are what its queue is bounded by, as with the libraries that it is
/// compared with.
fn options(args: &NodeArgs) -> Result<NodeOptions, String> {
    let nid = Nid::new("load").map_err(|error| error.to_string())?;
    let window = args.window as usize;
    let hwm = args.hwm as usize;
    let bytes = hwm.max(window).saturating_mul(args.size + 128);
    Ok(NodeOptions::new(nid)
        .queue_messages_max(hwm.max(window))
        .queue_bytes_max(bytes)
        .requests_max(window + 2)
        .request_deadline(args.run.request_deadline())
        .handshake_deadline(args.run.connect_timeout))
}

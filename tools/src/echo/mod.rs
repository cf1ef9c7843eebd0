//! `proscenium echo`: sends every message back to where it came from.

mod callback;
mod mesh;
mod node;
mod play;
mod socket;
mod stage;
mod summary;

use std::io::{self, Write};
use std::time::Instant;

use proscenium_engine::{Address, DrainReport, Engine, EngineBuilder, Handle, Limits, Listener};
use proscenium_stages::StageStats;

use crate::cli::{EchoArgs, FramingName, Interface, Mode};
use crate::{metrics, process, record, signals};
use summary::Summary;

/// Descriptors beside the connections: standard streams, event loops, listeners, metrics.
const OTHER_FILES: u64 = 64;

/// Runs the server until it is asked to end.
///
/// # Errors
/// When it cannot be started: says what was asked for and what the system answered.
pub(crate) fn run(args: &EchoArgs) -> Result<(), String> {
    if (args.interface, args.mode) == (Interface::Callback, Mode::Mesh) {
        return mesh::run(args);
    }
    let wanted = (args.limit_connections as u64).saturating_mul(u64::from(args.shards));
    // As many as the system allows: running out of them later is the engine's to handle.
    let _ = process::allow_open_files(wanted.saturating_add(OTHER_FILES));
    let listeners = listeners(args)?;
    let limits = limits(args);
    limits.validate()?;
    match (args.interface, args.mode) {
        (Interface::Callback, Mode::Callback) => callback::run(args, listeners, limits),
        (Interface::Callback, Mode::Stage) => stage::run(args, listeners, limits),
        (Interface::Socket, Mode::Callback) => socket::run(args, listeners, limits),
        (Interface::Callback, Mode::Play) => play::run(args, listeners, limits),
        (Interface::Callback, Mode::Node) => node::run(args, listeners, limits),
        (_, Mode::Mesh) | (Interface::Socket, Mode::Stage | Mode::Play | Mode::Node) => Err(
            "--mode: stages and nodes run on --interface callback, not on a socket one pulls from"
                .to_owned(),
        ),
    }
}

/// The engine that the options ask for, on threads of its own.
fn engine(args: &EchoArgs, listeners: Vec<Listener>, limits: Limits) -> EngineBuilder {
    let builder = Engine::builder()
        .shards(usize::from(args.shards))
        .limits(limits);
    listeners
        .into_iter()
        .fold(on_threads(args, builder), EngineBuilder::listen)
}

/// Names the engine's threads, and pins them where the options say so.
fn on_threads(args: &EchoArgs, builder: EngineBuilder) -> EngineBuilder {
    let builder = builder.name("echo");
    if args.pin.is_empty() {
        builder
    } else {
        builder.pin_cpus(&args.pin)
    }
}

/// Serves until the process is asked to end, and says what was done. `stages` tells what those of
/// each shard have done, `join` waits for the engine's end.
fn serve<P: Send + 'static>(
    args: &EchoArgs,
    engine: &Handle<P>,
    addresses: &[Address],
    stages: impl Fn() -> Vec<StageStats> + Clone + Send + Sync + 'static,
    join: impl FnOnce() -> DrainReport,
) -> Result<(), String> {
    let begin = Instant::now();
    let (ending, deadline) = (engine.clone(), args.drain);
    signals::on_termination(move || ending.shutdown(deadline))?;
    announce(args, engine, addresses, stages.clone())?;
    let drain = join();
    let summary = Summary::new(&engine.stats(), &stages(), &drain, begin.elapsed());
    record::publish(&summary, &summary, args.json.as_deref())
}

/// The sockets that a supervisor passed, or a new one at `--listen`.
fn listeners(args: &EchoArgs) -> Result<Vec<Listener>, String> {
    let mut sockets = Listener::from_environment()
        .map_err(|error| format!("{error}; expected listening TCP or Unix stream sockets"))?;
    if sockets.is_empty() {
        let listener = Listener::parse(&args.listen);
        sockets.push(listener.map_err(|error| format!("--listen {error}"))?);
    }
    let default = if args.layers.ws {
        FramingName::Raw
    } else {
        FramingName::Be32
    };
    let framing = args.framing.unwrap_or(default);
    if args.mode == Mode::Play && args.framing == Some(FramingName::Raw) {
        return Err("--framing raw: --mode play has packets with a length".to_owned());
    }
    let configured = sockets.into_iter().map(|listener| {
        listener
            .framing(framing.into())
            .overflow(args.overflow.into())
            .balance(args.balance.into())
    });
    args.layers.on(configured.collect())
}

fn limits(args: &EchoArgs) -> Limits {
    let default = Limits::default();
    let frame = args.frame_max.saturating_add(4);
    Limits::default()
        .connections_max(args.limit_connections)
        .frame_max(args.frame_max)
        .idle_timeout(args.idle_timeout)
        // A long frame has to fit into the queue it waits in, and to be put together somewhere.
        .send_queue_max(frame.saturating_mul(2).max(default.send_queue_max))
        .reassembly_bytes_max(frame.saturating_mul(2).max(default.reassembly_bytes_max))
}

/// Says where the server listens: the one line that others wait for. Before, where its statistics
/// are, if they are to be served.
fn announce<P: Send + 'static>(
    args: &EchoArgs,
    engine: &Handle<P>,
    addresses: &[Address],
    stages: impl Fn() -> Vec<StageStats> + Send + Sync + 'static,
) -> Result<(), String> {
    if let Some(address) = &args.metrics {
        let engine = engine.clone();
        metrics::announce(address, move || engine.stats(), stages)?;
    }
    let addresses: Vec<String> = addresses.iter().map(Address::to_string).collect();
    let line = format!("listening on {}\n", addresses.join(", "));
    let written = if record::is_output(args.json.as_deref()) {
        io::stderr().write_all(line.as_bytes())
    } else {
        io::stdout().write_all(line.as_bytes())
    };
    written.map_err(|error| format!("cannot say where it listens: {error}"))
}

//! `proscenium echo`: sends every message back to where it came from.

mod callback;
mod mesh;
mod node;
mod play;
mod socket;
mod stage;

use std::fmt;
use std::io::{self, Write};
use std::time::Duration;

use proscenium_engine::{
    Address, CloseReason, DrainReport, Engine, EngineBuilder, EngineStats, Handle, Limits, Listener,
};
use proscenium_stages::StageStats;

use crate::cli::{EchoArgs, FramingName, Interface, Mode};
use crate::process;
use crate::signals;
use crate::units::{bytes, grouped};

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
    let mut builder = Engine::builder()
        .shards(usize::from(args.shards))
        .name("echo")
        .limits(limits);
    for listener in listeners {
        builder = builder.listen(listener);
    }
    if !args.pin.is_empty() {
        builder = builder.pin_cpus(&args.pin);
    }
    builder
}

/// Has a termination signal drain the engine.
fn drain_on_termination<P: Send + 'static>(
    handle: Handle<P>,
    deadline: Duration,
) -> Result<(), String> {
    signals::on_termination(move || handle.shutdown(deadline))
        .map_err(|error| format!("cannot watch for signals: {error}"))
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

/// Says where the server listens: the one line that others wait for.
fn announce(addresses: &[Address]) -> Result<(), String> {
    let addresses: Vec<String> = addresses.iter().map(Address::to_string).collect();
    let mut out = io::stdout().lock();
    writeln!(out, "listening on {}", addresses.join(", "))
        .and_then(|()| out.flush())
        .map_err(|error| format!("cannot write to standard output: {error}"))
}

/// Prints the summary. Whoever waited for it may be gone.
fn print(summary: &Summary<'_>) {
    let _ = write!(io::stdout(), "{summary}");
}

/// What the server did, printed at its end.
struct Summary<'a> {
    stats: &'a EngineStats,
    drain: &'a DrainReport,
    /// What the stages did, where they served.
    stages: Option<StageStats>,
    ran: Duration,
}

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = self.stats.total();
        writeln!(
            f,
            "messages     {} in ({}), {} out ({})",
            grouped(total.messages_in),
            bytes(total.bytes_in),
            grouped(total.messages_out),
            bytes(total.bytes_out)
        )?;
        writeln!(f, "connections  {} accepted", grouped(total.accepted))?;
        let closes: Vec<String> = CloseReason::NAMES
            .iter()
            .zip(total.closes)
            .filter(|(_, count)| *count > 0)
            .map(|(name, count)| format!("{name} {}", grouped(count)))
            .collect();
        let closes = if closes.is_empty() {
            "none".to_owned()
        } else {
            closes.join(", ")
        };
        writeln!(f, "closed       {closes}")?;
        if let Some(stages) = &self.stages {
            writeln!(
                f,
                "stages       {} ended, {} live; {} handlers run, {} of them in place; \
                 {} panics",
                grouped(stages.ended),
                grouped(stages.live),
                grouped(stages.messages),
                grouped(stages.in_place),
                grouped(stages.panics)
            )?;
        }
        writeln!(f, "drain        {}", self.drain)?;
        writeln!(
            f,
            "ran          {:.1} s on {} shards",
            self.ran.as_secs_f64(),
            self.stats.shards.len()
        )
    }
}

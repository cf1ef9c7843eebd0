//! The echo on the pull interface: the program asks for events.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use proscenium_engine::{Event, Limits, Listener, StreamSocket};

use super::{Summary, announce};
use crate::cli::EchoArgs;
use crate::{record, signals};

/// How often an idle server looks whether it was asked to end.
const LOOK: Duration = Duration::from_millis(50);

/// Serves until the process is asked to end.
pub(super) fn run(args: &EchoArgs, listeners: Vec<Listener>, limits: Limits) -> Result<(), String> {
    if args.shards == 1 && !args.pin.is_empty() {
        return Err(
            "--interface socket with one shard runs on the main thread, which --pin does not \
             move: start it with `taskset -c CPU`"
                .to_owned(),
        );
    }
    let shards = usize::from(args.shards);
    let mut builder = StreamSocket::builder().shards(shards).limits(limits);
    for listener in listeners {
        builder = builder.listen(listener);
    }
    if !args.pin.is_empty() {
        builder = builder.pin_cpus(&args.pin);
    }
    let begin = Instant::now();
    let mut socket = builder
        .open()
        .map_err(|error| format!("cannot serve at {}: {error}", args.listen))?;
    let handle = socket.handle();

    let asked = signals::asked_to_end()?;
    announce(args, &handle, socket.local_addrs(), Vec::new)?;

    let ended = |error: io::Error| format!("the socket broke: {error}");
    echo(&mut socket, &asked).map_err(ended)?;
    let drain = socket.shutdown(args.drain).map_err(ended)?;
    let summary = Summary::new(&handle.stats(), &[], &drain, begin.elapsed());
    record::publish(&summary, &summary, args.json.as_deref())
}

/// Sends every message back until `asked` to end.
fn echo(socket: &mut StreamSocket, asked: &AtomicBool) -> io::Result<()> {
    while !asked.load(Ordering::Relaxed) {
        // A timeout reads the clock: only when there is nothing to do.
        let next = match socket.try_recv()? {
            None => socket.recv_timeout(LOOK)?,
            event => event,
        };
        if let Some((from, Event::Message(body))) = next {
            // `Full` or `Gone` are the peer's loss: the overflow policy has acted and counted.
            let _ = socket.send(from, &body);
        }
    }
    Ok(())
}

//! The echo as a handler that the engine calls.

use std::time::Instant;

use proscenium_engine::{Context, Engine, Handler, Limits, Listener, Message, RouterId};

use super::{Summary, announce, print};
use crate::cli::{Answer, EchoArgs};
use crate::{metrics, signals};

/// Sends every message back.
struct Echo {
    answer: Answer,
}

impl Handler for Echo {
    type Post = ();

    #[inline]
    fn on_message(&mut self, cx: &mut Context<'_, ()>, from: RouterId, message: Message<'_>) {
        // `Full` or `Gone` are the peer's loss: the overflow policy has acted and counted.
        let _ = match self.answer {
            Answer::Forward => cx.forward(from, &message),
            Answer::Send => cx.send(from, &message),
        };
    }
}

/// Serves until the process is asked to end.
pub(super) fn run(args: &EchoArgs, listeners: Vec<Listener>, limits: Limits) -> Result<(), String> {
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
    let (begin, answer) = (Instant::now(), args.answer);
    let engine = builder
        .start(move |_| Echo { answer })
        .map_err(|error| format!("cannot serve at {}: {error}", args.listen))?;
    let handle = engine.handle();

    let (ending, deadline) = (handle.clone(), args.drain);
    signals::on_termination(move || ending.shutdown(deadline))
        .map_err(|error| format!("cannot watch for signals: {error}"))?;
    if let Some(address) = &args.metrics {
        let scraped = handle.clone();
        metrics::announce(address, move || scraped.stats())?;
    }
    announce(engine.local_addrs())?;

    let drain = engine.join();
    print(&Summary {
        stats: &handle.stats(),
        drain: &drain,
        ran: begin.elapsed(),
    });
    Ok(())
}

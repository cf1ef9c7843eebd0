//! The echo as a handler that the engine calls.

use std::time::Instant;

use proscenium_engine::{Context, Handler, Limits, Listener, Message, RouterId};

use super::{Summary, announce, drain_on_termination, engine, print};
use crate::cli::{Answer, EchoArgs};
use crate::metrics;

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
    let (begin, answer) = (Instant::now(), args.answer);
    let engine = engine(args, listeners, limits)
        .start(move |_| Echo { answer })
        .map_err(|error| format!("cannot serve at {}: {error}", args.listen))?;
    let handle = engine.handle();
    drain_on_termination(handle.clone(), args.drain)?;
    if let Some(address) = &args.metrics {
        let scraped = handle.clone();
        metrics::announce(address, move || scraped.stats(), Vec::new)?;
    }
    announce(engine.local_addrs())?;

    let drain = engine.join();
    print(&Summary {
        stats: &handle.stats(),
        drain: &drain,
        stages: None,
        ran: begin.elapsed(),
    });
    Ok(())
}

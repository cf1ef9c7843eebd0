//! The echo as a handler that the engine calls.

use proscenium_engine::{Context, Handler, Limits, Listener, Message, RouterId};

use super::{engine, serve};
use crate::cli::{Answer, EchoArgs};

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
    let answer = args.answer;
    let engine = engine(args, listeners, limits)
        .start(move |_| Echo { answer })
        .map_err(|error| format!("cannot serve at {}: {error}", args.listen))?;
    let (handle, addresses) = (engine.handle(), engine.local_addrs().to_vec());
    serve(args, &handle, &addresses, Vec::new, || engine.join())
}

//! The echo as a stage for each connection.

use proscenium_engine::{Body, CloseReason, Limits, Listener, RouterId};
use proscenium_stages::{Cx, Stage, StageType, Stages};

use super::{engine, serve};
use crate::cli::{Answer, EchoArgs};

/// Sends every message of its connection back, and ends with it.
struct Echo {
    answer: Answer,
}

impl Stage for Echo {
    type Msg = ();

    async fn on_message(&mut self, _: &mut Cx<'_, Self>, (): ()) {}

    async fn on_packet(&mut self, cx: &mut Cx<'_, Self>, from: RouterId, body: Body) {
        // `Full` or `Gone` are the peer's loss: the overflow policy has acted and counted.
        let _ = match self.answer {
            Answer::Forward => cx.forward(from, &body),
            Answer::Send => cx.send(from, &body),
        };
    }

    async fn on_disconnect(&mut self, cx: &mut Cx<'_, Self>, _: RouterId, _: CloseReason) {
        cx.stop_self();
    }
}

/// Serves until the process is asked to end.
pub(super) fn run(args: &EchoArgs, listeners: Vec<Listener>, limits: Limits) -> Result<(), String> {
    let answer = args.answer;
    let echo = StageType::<Echo>::new("echo");
    let stages = Stages::builder()
        .register(echo.stages_max(usize::MAX)) // the connections are what is limited
        .on_connect(move |local, id, _| {
            // Refused only while the engine ends, which closes the connection.
            let _ = local.spawn_bound(id, Echo { answer });
        })
        .build();
    let engine = stages
        .start(engine(args, listeners, limits))
        .map_err(|error| format!("cannot serve at {}: {error}", args.listen))?;
    let (handle, addresses) = (engine.handle(), engine.local_addrs().to_vec());
    let stages = move || stages.stats();
    serve(args, &handle, &addresses, stages, || engine.join())
}

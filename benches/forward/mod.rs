//! Echoes that do not copy: as a handler of the engine, and as a stage for each connection.

use proscenium::stages::{Cx, Stage, StageShard, StageType, Stages};
use proscenium::{Body, Context, Handler, Message, RouterId};

/// Sends every message back without copying it.
pub(crate) struct Forward;

impl Handler for Forward {
    type Post = ();

    #[inline]
    fn on_message(&mut self, cx: &mut Context<'_, ()>, from: RouterId, message: Message<'_>) {
        cx.forward(from, &message).expect("the queue has room");
    }
}

/// A stage that sends every message of its connection back without copying it.
struct ForwardStage;

impl Stage for ForwardStage {
    type Msg = ();

    async fn on_message(&mut self, _: &mut Cx<'_, Self>, (): ()) {}

    async fn on_packet(&mut self, cx: &mut Cx<'_, Self>, from: RouterId, body: Body) {
        cx.forward(from, &body).expect("the queue has room");
    }
}

/// A stage for each connection.
pub(crate) fn stages() -> StageShard {
    let stages = Stages::builder()
        .register(StageType::<ForwardStage>::new("echo"))
        .on_connect(|local, id, _| {
            let bound = local.spawn_bound(id, ForwardStage);
            bound.expect("there is room for the stage");
        })
        .build();
    stages.shards()(0)
}

//! The smallest stateful service: each connection has a stage that counts its messages.
//!
//! `cargo run --release --example counter --features stages [ADDRESS]`

#![allow(clippy::print_stdout, reason = "its output is its purpose")]

use proscenium::stages::{Cx, Stage, StagePost, StageType, Stages};
use proscenium::{Body, CloseReason, Engine, Listener, RouterId};

struct Counter(u64);

impl Stage for Counter {
    type Msg = ();

    async fn on_message(&mut self, _: &mut Cx<'_, Self>, (): ()) {}

    async fn on_packet(&mut self, cx: &mut Cx<'_, Self>, from: RouterId, _: Body) {
        self.0 += 1; // one thing at a time: no lock
        let _ = cx.send(from, self.0.to_string().as_bytes());
    }

    async fn on_disconnect(&mut self, cx: &mut Cx<'_, Self>, _: RouterId, _: CloseReason) {
        cx.stop_self();
    }
}

pub(crate) fn serve(address: &str) -> std::io::Result<Engine<StagePost>> {
    let stages = Stages::builder().register(StageType::<Counter>::new("counter"));
    let stages = stages.on_connect(|local, id, _peer| drop(local.spawn_bound(id, Counter(0))));
    let engine = Engine::builder().listen(Listener::parse(address)?);
    stages.build().start(engine)
}

fn main() -> std::io::Result<()> {
    let engine = serve(&std::env::args().nth(1).unwrap_or("127.0.0.1:7000".into()))?;
    println!("listening on {}", engine.local_addrs()[0]);
    println!("{}", engine.join());
    Ok(())
}

//! The smallest stateful service: each connection has a stage that counts its messages.
//!
//! `cargo run --release --example counter --features stages [ADDRESS]`

#![allow(clippy::print_stdout, reason = "its output is its purpose")]

use std::thread;
use std::time::Duration;

use proscenium::stages::{Cx, Stage, StagePost, StageType, Stages};
use proscenium::{Body, CloseReason, Engine, Listener, RouterId};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

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

/// How long the end may take.
const DRAIN: Duration = Duration::from_secs(5);

fn main() -> std::io::Result<()> {
    // Before anybody knows of the server and asks it to end.
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let address = std::env::args().nth(1);
    let engine = serve(address.as_deref().unwrap_or("127.0.0.1:7000"))?;
    println!("listening on {}", engine.local_addrs()[0]);
    let handle = engine.handle();
    thread::spawn(move || {
        signals.forever().next();
        handle.shutdown(DRAIN);
    });
    println!("{}", engine.join());
    Ok(())
}

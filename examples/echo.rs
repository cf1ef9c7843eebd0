//! The smallest server: every message goes back to where it came from.
//!
//! `cargo run --release --example echo`

#![allow(clippy::print_stdout, reason = "its output is its purpose")]

use proscenium::{Context, Engine, Handler, Listener, Message, RouterId};

struct Echo;

impl Handler for Echo {
    type Post = ();

    fn on_message(&mut self, cx: &mut Context<'_, ()>, from: RouterId, message: Message<'_>) {
        // `Full` or `Gone` are the peer's loss: the listener's overflow policy has acted.
        let _ = cx.send(from, &message);
    }
}

fn main() -> std::io::Result<()> {
    let listener = Listener::tcp("127.0.0.1:7000")?;
    let engine = Engine::builder().listen(listener).start(|_shard| Echo)?;
    println!("listening on {}", engine.local_addrs()[0]);
    println!("{}", engine.join()); // until `Handle::shutdown`; then what the drain did
    Ok(())
}

//! Engines of one simulated network can have generators of their own.
#![cfg(feature = "sim")]

use proscenium_engine::sim::{Faults, SimNet, SimWorld};
use proscenium_engine::{Context, Engine, Handler, Message, RouterId};

struct Idle;

impl Handler for Idle {
    type Post = ();

    fn on_message(&mut self, _: &mut Context<'_, ()>, _: RouterId, _: Message<'_>) {}
}

#[test]
fn a_seed_of_its_own_gives_an_engine_numbers_of_its_own() {
    let net = SimNet::new(7, Faults::none());
    let mut world = SimWorld::new(&net, Vec::new());
    let mut first = |seed: Option<u64>| {
        let builder = match seed {
            Some(seed) => Engine::builder().seed(seed),
            None => Engine::builder(),
        };
        let engine = builder.simulate(&mut world, |_| Idle).unwrap();
        engine.with(0, |_, cx| cx.random())
    };
    let of_the_network = first(None);
    assert_eq!(first(None), of_the_network);
    assert_eq!(first(Some(7)), of_the_network);
    assert_ne!(first(Some(8)), of_the_network);
}

//! Two systems in one process: what belongs to one does nothing in the other.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use proscenium_engine::Engine;
use proscenium_stages::{Cx, Reply, Stage, StageType, Stages, TellError};
use support::{PATIENCE, eventually};

struct Words(Arc<AtomicU64>);

impl Stage for Words {
    type Msg = String;

    async fn on_message(&mut self, _: &mut Cx<'_, Self>, message: String) {
        self.0.fetch_add(message.len() as u64, Ordering::Relaxed);
    }
}

struct Numbers(u64);

enum Number {
    Add(u64),
    Sum(Reply<u64>),
}

impl Stage for Numbers {
    type Msg = Number;

    async fn on_message(&mut self, _: &mut Cx<'_, Self>, message: Number) {
        match message {
            Number::Add(number) => self.0 += number,
            Number::Sum(reply) => drop(reply.send(self.0)),
        }
    }
}

#[test]
fn a_system_attached_to_the_engine_of_another_reaches_nobody_there() {
    let heard = Arc::new(AtomicU64::new(0));
    let words = Stages::builder()
        .register(StageType::<Words>::new("words"))
        .build();
    let numbers = Stages::builder()
        .register(StageType::<Numbers>::new("numbers"))
        .build();
    let engine = numbers.start(Engine::builder()).unwrap();
    let number = numbers.spawn_on(0, || Numbers(0)).wait(PATIENCE).unwrap();

    // The stage of a system that has run, whose names look like those of the other one.
    words.attach(&engine.handle());
    let mut shard = Engine::builder().host(words.shards()(0)).unwrap();
    let heard_too = Arc::clone(&heard);
    let mut creating = words.spawn_on(0, move || Words(heard_too));
    for _ in 0..100 {
        shard.turn(Duration::ZERO).unwrap();
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        let _ = std::pin::Pin::new(&mut creating).poll(&mut cx);
    }
    assert!(
        creating.wait(PATIENCE).is_err(),
        "it went to the wrong engine"
    );

    number.tell(Number::Add(7)).unwrap();
    assert_eq!(number.ask(Number::Sum).wait(PATIENCE), Ok(7));
    assert_eq!(heard.load(Ordering::Relaxed), 0);
    eventually("it is counted there", || {
        (numbers.total().gone >= 1).then_some(())
    });
    assert!(engine.shutdown(PATIENCE).is_clean());
    assert!(matches!(
        number.tell(Number::Add(1)),
        Err(TellError::Gone(_))
    ));
}

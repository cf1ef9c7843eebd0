//! Cycles of requests between real threads: nobody is left waiting for a deadline.

use std::time::Duration;

use proscenium_engine::Engine;
use proscenium_stages::{Cx, Reply, RequestError, Stage, StageRef, StageType, Stages};

/// Far more than a machine under load needs, and far less than the test may take.
const DEADLINE: Duration = Duration::from_secs(60);

struct Trader;

enum Msg {
    Trade(StageRef<Trader>, Reply<Result<(), RequestError>>),
    Offer(Reply<()>),
}

impl Stage for Trader {
    type Msg = Msg;

    async fn on_message(&mut self, cx: &mut Cx<'_, Self>, message: Msg) {
        match message {
            Msg::Trade(with, reply) => {
                let _ = reply.send(cx.request(with, Msg::Offer).await);
            }
            Msg::Offer(reply) => {
                let _ = reply.send(());
            }
        }
    }
}

#[test]
fn of_traders_that_ask_each_other_at_most_one_is_refused_and_all_go_on() {
    const SHARDS: usize = 3;
    let stages = Stages::builder()
        .register(StageType::<Trader>::new("trader"))
        .request_deadline(DEADLINE)
        .build();
    let engine = stages.start(Engine::builder().shards(SHARDS)).unwrap();
    let mut refused = 0;
    for ring in [2, 3] {
        let traders: Vec<_> = (0..ring)
            .map(|n| {
                let trader = stages.spawn_on(n % SHARDS, || Trader);
                trader.wait(DEADLINE).unwrap()
            })
            .collect();
        for round in 0..2_000 {
            // Begins with another one each time.
            let asked: Vec<_> = (round..round + ring)
                .map(|n| {
                    let (from, to) = (traders[n % ring], traders[(n + 1) % ring]);
                    from.ask(|reply| Msg::Trade(to, reply))
                })
                .collect();
            let answers: Vec<_> = asked
                .into_iter()
                .map(|asked| asked.wait(2 * DEADLINE).expect("every trade ends"))
                .collect();
            let cycles = answers
                .iter()
                .filter(|answer| matches!(answer, Err(RequestError::Cycle(_))));
            let cycles = cycles.count();
            refused += cycles as u64;
            let answered = answers.iter().filter(|answer| answer.is_ok()).count();
            // None, if one was done before another one began.
            assert!(cycles <= 1 && cycles + answered == ring, "{answers:?}");
        }
    }
    assert!(engine.shutdown(DEADLINE).is_clean());
    assert_eq!(stages.total().cycles, refused);
}

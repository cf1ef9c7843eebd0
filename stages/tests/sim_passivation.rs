//! Stages that were idle leave memory, and are made again when somebody wants them.
#![cfg(feature = "sim")]

#[path = "support/scripted.rs"]
mod scripted;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proscenium_engine::sim::{Faults, SimNet};
use proscenium_stages::{Cx, Reply, Stage, StageType, Stages, TellError};
use scripted::{Log, MS, Node, SECOND, Sim, nodes, script};

const IDLE: Duration = Duration::from_secs(10);

fn passivating() -> Sim {
    Sim::with(SimNet::new(1, Faults::none()), 2, |nodes| {
        nodes.passivate_after(IDLE)
    })
}

#[test]
fn only_what_was_idle_for_long_leaves_memory() {
    let mut sim = passivating();
    let (idle, lively) = (sim.node(1), sim.node(101));
    sim.run(MS);
    sim.log.take();
    for _ in 0..9 {
        lively.tell(script(|_, _| Box::pin(async {}))).unwrap();
        sim.run(SECOND);
    }
    assert_eq!(sim.log.take(), [""; 0]);
    for _ in 0..9 {
        lively.tell(script(|_, _| Box::pin(async {}))).unwrap();
        sim.run(SECOND);
    }
    // Idle for ten seconds, and found within a quarter of that: without `on_destroy`.
    assert_eq!(sim.log.take(), ["1: passivate Some(1)", "1: drop"]);
    let total = sim.stages.total();
    assert_eq!((total.passivated, total.live, total.ended), (1, 1, 0));

    // Its old address is gone; by its id it is made again.
    idle.tell(script(|_, _| Box::pin(async {}))).unwrap();
    sim.run(MS);
    assert_eq!(sim.stages.total().gone, 1);
    let found = sim.does(lively, |_, cx| Box::pin(cx.get::<Node>(1)));
    assert_eq!(found, Some(Ok(None)));
    let again = sim.node(1);
    assert_ne!(again, idle);
    sim.run(MS);
    assert_eq!(sim.log.take(), ["1: create"]);
}

#[test]
fn what_somebody_counts_on_stays() {
    let log = Log::default();
    let builder = Stages::builder()
        .register(nodes(&log).passivate_after(IDLE))
        .on_connect(|local, id, _| {
            let mut node = std::pin::pin!(local.get_or_create::<Node>(5));
            let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
            if let std::task::Poll::Ready(Ok(node)) = node.as_mut().poll(&mut cx) {
                local.bind(id, node);
            }
        });
    let mut sim = Sim::build(SimNet::new(1, Faults::none()), 1, log, builder, |e| e);
    let [timer, task, busy] = [1, 2, 3].map(|id| sim.node(id));
    sim.node(5);
    let mut peer = sim.net.connect(sim.engine.local_addrs()[0].clone());
    let set = sim.does(timer, |_, cx| {
        let timer = cx.set_timer(Duration::from_secs(60));
        Box::pin(async move { timer })
    });
    task.tell(script(|_, cx| {
        cx.detach(std::future::pending::<()>(), |_, _, ()| ())
            .unwrap();
        Box::pin(async {})
    }))
    .unwrap();
    busy.tell(script(|_, cx| {
        Box::pin(async move { cx.sleep(Duration::from_secs(60)).await })
    }))
    .unwrap();
    sim.run(Duration::from_secs(50));
    assert_eq!(sim.stages.total().passivated, 0);
    assert_eq!(sim.stages.total().live, 4);

    // Each of them goes when nothing holds it any more.
    peer.finish();
    let cancelled = sim.does(timer, move |_, cx| {
        let cancelled = cx.cancel_timer(set.expect("set"));
        Box::pin(async move { cancelled })
    });
    assert_eq!(cancelled, Some(true));
    sim.run(Duration::from_secs(30));
    assert_eq!(sim.stages.total().passivated, 3);
    assert_eq!(sim.stages.total().live, 1, "the detached future");
}

/// Keeps its count in a store while it is not in memory.
struct Counter {
    count: u64,
    store: Arc<Mutex<HashMap<u64, u64>>>,
}

impl Stage for Counter {
    type Msg = Reply<u64>;

    async fn on_message(&mut self, _cx: &mut Cx<'_, Self>, reply: Reply<u64>) {
        self.count += 1;
        let _ = reply.send(self.count);
    }

    fn on_passivate(self, id: Option<u64>) {
        if let Some(id) = id {
            self.store.lock().unwrap().insert(id, self.count);
        }
    }
}

#[test]
fn state_survives_by_way_of_on_passivate_and_the_factory() {
    let store = Arc::new(Mutex::new(HashMap::new()));
    let from = Arc::clone(&store);
    let counters = StageType::new("counter")
        .factory(move |id| Counter {
            count: from.lock().unwrap().remove(&id).unwrap_or(0),
            store: Arc::clone(&from),
        })
        .passivate_after(IDLE);
    let log = Log::default();
    let builder = Stages::builder().register(nodes(&log)).register(counters);
    let mut sim = Sim::build(SimNet::new(1, Faults::none()), 2, log, builder, |e| e);
    // More than are looked at at a time.
    const COUNTERS: u64 = 3_000;
    for round in 1..=3 {
        for id in 0..COUNTERS {
            let counter = sim.stages.get_or_create::<Counter>(id);
            let counter = sim.wait(counter).unwrap();
            if id % 100 == 0 {
                let asked = counter.ask(|reply| reply);
                assert_eq!(sim.wait(asked), Ok(round));
            }
        }
        sim.run(2 * IDLE);
        assert_eq!(sim.stages.total().live, 0);
        assert_eq!(sim.stages.total().passivated, round * COUNTERS);
        assert_eq!(store.lock().unwrap().len() as u64, COUNTERS);
    }
}

#[test]
fn what_is_told_by_id_finds_its_stage_in_memory_or_not() {
    let mut sim = passivating();
    let note = |text: &'static str| {
        script(move |node: &mut Node, _| {
            node.log.add(format!("{}: {text}", node.id));
            Box::pin(async {})
        })
    };
    for id in [1, 101] {
        sim.stages
            .tell_id::<Node>(id, note("from a thread"))
            .unwrap();
    }
    sim.run(MS);
    sim.log.take();
    for round in 1..=2 {
        let teller = sim.node(2);
        let told = sim.does(teller, move |_, cx| {
            let told = [1, 101, 1, 101].map(|id| cx.tell_id::<Node>(id, note("told")).is_ok());
            Box::pin(async move { told })
        });
        assert_eq!(told, Some([true; 4]));
        sim.run(MS);
        assert_eq!(sim.log.count("1: told"), 2 * round);
        assert_eq!(sim.log.count("101: told"), 2 * round);
        assert_eq!(
            sim.log.count("1: create"),
            round - 1,
            "made again if it was gone"
        );
        sim.run(2 * IDLE);
        assert_eq!(sim.stages.total().live, 0);
    }
    let stopped = Stages::builder().build();
    let told = stopped.tell_id::<Node>(1, note("nowhere"));
    assert!(matches!(told, Err(TellError::Gone(_))));
}

//! Of an id there is one stage at a time: what is about to end is found no more by its id, and who
//! wants the next one waits for its end.
#![cfg(feature = "sim")]

#[path = "support/scripted.rs"]
mod scripted;

use std::time::Duration;

use proscenium_engine::sim::{Faults, SimNet};
use proscenium_stages::{CreateError, Reply, StageRef, Stages, TellError};
use scripted::{Log, MS, Node, SECOND, Sim, answer, nodes, script};

/// Longer than any of these stages takes to end, but for those that never do.
const DEADLINE: Duration = Duration::from_secs(5);

fn sim() -> Sim {
    let log = Log::default();
    let builder = Stages::builder()
        .register(nodes(&log))
        .request_deadline(DEADLINE);
    Sim::build(SimNet::new(1, Faults::none()), 2, log, builder, |e| e)
}

/// Has a stage be busy until the token is answered or dropped.
fn keep_busy(sim: &mut Sim, stage: StageRef<Node>) -> Reply<()> {
    let (release, released) = Reply::pair();
    let busy = script(|_, _| {
        Box::pin(async {
            let _ = released.await;
        })
    });
    stage.tell(busy).unwrap();
    sim.run(MS);
    release
}

fn nothing() -> scripted::Script {
    script(|_, _| Box::pin(async {}))
}

#[test]
fn who_wants_a_stage_that_ends_gets_the_next_one_when_it_has_ended() {
    // From a thread outside, from a stage of its shard, and from one of the other shard.
    for by_itself in [false, true] {
        let mut sim = sim();
        let (old, near, far) = (sim.node(1), sim.node(2), sim.node(101));
        sim.run(MS);
        let release = keep_busy(&mut sim, old);
        if by_itself {
            drop(release);
            sim.run(MS);
            let (release, released) = Reply::<()>::pair();
            old.tell(script(move |_, cx| {
                cx.stop_self();
                Box::pin(async {
                    let _ = released.await;
                })
            }))
            .unwrap();
            sim.run(MS);
            check_successors(sim, old, [near, far], release);
        } else {
            let _ = sim.stages.stop(old);
            sim.run(MS);
            check_successors(sim, old, [near, far], release);
        }
    }
}

fn check_successors(
    mut sim: Sim,
    old: StageRef<Node>,
    askers: [StageRef<Node>; 2],
    end: Reply<()>,
) {
    sim.log.take();
    // It is found no more.
    for asker in askers {
        let found = sim.does(asker, |_, cx| Box::pin(cx.get::<Node>(1)));
        assert_eq!(found, Some(Ok(None)));
    }
    let found = sim.stages.get::<Node>(1);
    assert_eq!(sim.wait(found), Ok(None));
    // Told by its id from its shard: the sender knows; from elsewhere: it is counted.
    let told = sim.does(askers[0], |_, cx| {
        let told = cx.tell_id::<Node>(1, nothing());
        Box::pin(async move { matches!(told, Err(TellError::Gone(_))) })
    });
    assert_eq!(told, Some(true));
    let gone = sim.stages.total().gone;
    sim.stages.tell_id::<Node>(1, nothing()).unwrap();
    sim.run(MS);
    assert_eq!(sim.stages.total().gone, gone + 1);

    let wanted = askers.map(|asker| {
        asker.ask(|reply| {
            script(move |_, cx| {
                let made = cx.get_or_create::<Node>(1);
                Box::pin(async move {
                    let _ = reply.send(made.await);
                })
            })
        })
    });
    let outside = sim.stages.get_or_create::<Node>(1);
    sim.run(SECOND);
    assert_eq!(sim.log.take(), [""; 0], "nothing is made while it ends");
    drop(end);
    let new = sim.wait(outside).unwrap();
    assert_ne!(new, old);
    for wanted in wanted {
        assert_eq!(sim.wait(wanted), Ok(Ok(new)), "the same for all");
    }
    assert_eq!(sim.log.take(), ["1: destroy", "1: drop", "1: create"]);
    let answered = new.ask(|reply| answer(reply, 7));
    assert_eq!(sim.wait(answered), Ok(7));
    let told = sim.does(askers[0], |_, cx| {
        let told = cx.tell_id::<Node>(1, nothing());
        Box::pin(async move { told.is_ok() })
    });
    assert_eq!(told, Some(true));
}

#[test]
fn a_stage_that_stops_itself_at_once_ends_and_drops_what_has_arrived() {
    let mut sim = sim();
    let old = sim.node(1);
    sim.run(MS);
    let before = sim.stages.total();
    let stop = script(|_, cx| {
        cx.stop_self();
        Box::pin(async {})
    });
    old.tell(stop).unwrap();
    for _ in 0..3 {
        old.tell(nothing()).unwrap();
    }
    sim.run(MS);
    let total = sim.stages.total();
    assert_eq!(total.ended, before.ended + 1);
    assert_eq!(total.dropped, before.dropped + 3);
    let found = sim.stages.get::<Node>(1);
    assert_eq!(sim.wait(found), Ok(None));
}

#[test]
fn a_stage_that_is_destroyed_gives_its_id_to_the_next() {
    let mut sim = sim();
    let old = sim.node(1);
    let _release = keep_busy(&mut sim, old);
    let _ = sim.stages.destroy(old);
    let next = sim.node(1);
    assert_ne!(next, old);
    let log = sim.log.take();
    assert_eq!(log, ["1: create", "1: destroy", "1: drop", "1: create"]);
}

#[test]
fn a_stage_that_does_not_end_is_waited_for_until_the_deadline() {
    let mut sim = sim();
    let old = sim.node(1);
    let release = keep_busy(&mut sim, old);
    let _ = sim.stages.stop(old);
    let late = sim.stages.get_or_create::<Node>(1);
    let began = sim.net.now();
    assert_eq!(sim.wait(late), Err(CreateError::Ending));
    assert!(sim.net.now().since(began) >= DEADLINE);
    // One that asks itself for its successor does not hang either.
    let other = sim.node(2);
    let asked = sim.does(other, |_, cx| {
        cx.stop_self();
        Box::pin(cx.get_or_create::<Node>(2))
    });
    assert_eq!(asked, Some(Err(CreateError::Ending)));
    // Who gave up does not keep those who come later from it.
    let in_time = sim.stages.get_or_create::<Node>(1);
    sim.run(MS);
    drop(release);
    assert_ne!(sim.wait(in_time).unwrap(), old);
}

#[test]
fn a_shutdown_ends_the_waiting() {
    let mut sim = sim();
    let old = sim.node(1);
    let _release = keep_busy(&mut sim, old);
    let _ = sim.stages.stop(old);
    let waiting = sim.stages.get_or_create::<Node>(1);
    sim.run(MS);
    sim.engine.handle().shutdown(SECOND);
    sim.run(2 * SECOND);
    drop(sim);
    assert_eq!(waiting.wait(Duration::ZERO), Err(CreateError::Stopped));
}

//! Who was told `Full` is told once when there is room.
#![cfg(feature = "sim")]

#[path = "support/scripted.rs"]
mod scripted;

use proscenium_engine::Limits;
use proscenium_engine::sim::{Faults, SimNet};
use proscenium_stages::{Cx, Stage, StageRef, StageType, Stages, TellError};
use scripted::{Log, MS, Node, SECOND, Script, Sim, either, nodes, script};

const BACKLOG: u32 = 8;

fn small() -> Sim {
    Sim::with(SimNet::new(1, Faults::none()), 2, |nodes| {
        nodes.backlog(BACKLOG)
    })
}

fn slow() -> Script {
    script(|_, cx| Box::pin(async move { cx.sleep(10 * MS).await }))
}

/// Fills the backlog of `slow`, which needs 10 ms for each message, from inside its shard.
fn fill(sim: &mut Sim, target: StageRef<Node>) {
    let filler = sim.node(if target.shard() == 0 { 90 } else { 190 });
    let refused = sim.does(filler, move |_, cx| {
        Box::pin(async move {
            cx.tell(target, slow()).unwrap();
            cx.sleep(MS).await; // it is busy with that
            for _ in 0..BACKLOG {
                cx.tell(target, slow()).unwrap();
            }
            matches!(cx.tell(target, slow()), Err(TellError::Full(_)))
        })
    });
    assert_eq!(refused, Some(true));
}

#[test]
fn whoever_waits_is_told_once_half_is_free() {
    for (asker, target) in [(2, 1), (2, 101), (102, 1)] {
        let mut sim = small();
        let (asker, target) = (sim.node(asker), sim.node(target));
        let at_once = sim.does(asker, move |_, cx| {
            Box::pin(async move {
                let began = cx.now();
                (cx.room(target).await, cx.now().since(began) < 5 * MS)
            })
        });
        assert_eq!(at_once, Some((true, true)));
        fill(&mut sim, target);
        for waiter in [asker, sim.node(3), sim.node(103)] {
            waiter
                .tell(script(move |node, cx| {
                    Box::pin(async move {
                        assert!(cx.room(target).await);
                        node.log.add("room");
                        // Room is not reserved, but there is enough for these.
                        cx.tell(target, slow()).unwrap();
                    })
                }))
                .unwrap();
        }
        // Of the eight that wait four have to begin, the first one at about 10.
        sim.run(35 * MS);
        assert_eq!(sim.log.count("room"), 0);
        sim.run(10 * MS);
        assert_eq!(sim.log.count("room"), 3);
        sim.run(SECOND);
        assert_eq!(sim.log.count("room"), 3);
    }
}

#[test]
fn a_stage_that_is_gone_or_ends_has_no_room() {
    for target in [1, 101] {
        let mut sim = small();
        let (asker, target) = (sim.node(2), sim.node(target));
        fill(&mut sim, target);
        asker
            .tell(script(move |node, cx| {
                Box::pin(async move {
                    let room = cx.room(target).await;
                    let again = cx.room(target).await;
                    node.log.add(format!("{room} {again}"));
                })
            }))
            .unwrap();
        sim.run(5 * MS);
        let _ = sim.stages.destroy(target);
        sim.run(5 * MS);
        assert_eq!(sim.log.count("false false"), 1);
    }
}

#[test]
fn who_gave_up_waiting_leaves_nothing_behind() {
    let mut sim = small();
    let (asker, target) = (sim.node(2), sim.node(1));
    fill(&mut sim, target);
    let given_up = sim.does(asker, move |_, cx| {
        Box::pin(async move {
            for _ in 0..10 {
                let first = either(cx.room(target), cx.sleep(MS / 2)).await;
                assert!(first.is_err());
            }
            cx.room(target).await
        })
    });
    assert_eq!(given_up, Some(true));
}

#[test]
fn a_mailbox_that_is_full_is_asked_again() {
    let log = Log::default();
    let builder = Stages::builder().register(nodes(&log));
    let limits = Limits::default().mailbox_max(4);
    let net = SimNet::new(1, Faults::none());
    let mut sim = Sim::build(net, 2, log, builder, |e| e.limits(limits));
    let (asker, target) = (sim.node(1), sim.node(101));
    let room = sim.does(asker, move |_, cx| {
        Box::pin(async move {
            let nothing = || script(|_, _| Box::pin(async {}));
            let full = (0..100).any(|_| cx.tell(target, nothing()).is_err());
            (
                full,
                cx.room(target).await,
                cx.tell(target, nothing()).is_ok(),
            )
        })
    });
    assert_eq!(room, Some((true, true, true)));
}

#[test]
fn what_must_arrive_waits_for_room_in_a_mailbox_and_keeps_its_order() {
    let log = Log::default();
    let builder = Stages::builder().register(nodes(&log));
    let limits = Limits::default().mailbox_max(4);
    let net = SimNet::new(1, Faults::none());
    let mut sim = Sim::build(net, 2, log.clone(), builder, |e| e.limits(limits));
    let asker = sim.node(1);
    let targets: Vec<_> = (101..=120).map(|id| sim.node(id)).collect();
    log.take();
    asker
        .tell(script(move |_, cx| {
            Box::pin(async move {
                let nothing = || script(|_, _| Box::pin(async {}));
                assert!((0..100).any(|_| cx.tell(targets[0], nothing()).is_err()));
                let (some, others) = targets.split_at(12);
                for &target in some {
                    cx.stop(target);
                }
                // There is room again, but what waited first goes first.
                cx.sleep(MS / 2).await;
                assert!(cx.tell(targets[0], nothing()).is_ok());
                for &target in others {
                    cx.stop(target);
                }
            })
        }))
        .unwrap();
    let mut most = 0;
    for _ in 0..100 {
        sim.run(MS / 10);
        most = most.max(sim.stages.total().posts_waiting);
    }
    assert_eq!(most, 20, "all that was not taken at once");
    assert_eq!(sim.stages.total().posts_waiting, 0);
    let ends: Vec<_> = log.take();
    let ends = ends.iter().filter(|line| line.ends_with("destroy"));
    let expected: Vec<_> = (101..=120).map(|id| format!("{id}: destroy")).collect();
    assert_eq!(
        ends.collect::<Vec<_>>(),
        expected.iter().collect::<Vec<_>>()
    );
}

/// Comes to be slowly.
struct Late;

impl Stage for Late {
    type Msg = ();

    async fn on_create(&mut self, cx: &mut Cx<'_, Self>) {
        cx.sleep(10 * MS).await;
    }

    async fn on_message(&mut self, _cx: &mut Cx<'_, Self>, (): ()) {}
}

#[test]
fn what_needs_no_room_makes_none_when_it_is_handled() {
    let log = Log::default();
    let late = StageType::<Late>::new("late").backlog(1);
    let builder = Stages::builder().register(nodes(&log)).register(late);
    let mut sim = Sim::build(SimNet::new(1, Faults::none()), 1, log, builder, |e| e);
    let asker = sim.node(1);
    let told = sim.does(asker, |_, cx| {
        Box::pin(async move {
            let late = cx.spawn(Late).unwrap();
            // Behind `on_create`, for which there is always room.
            cx.tell(late, ()).unwrap();
            assert!(matches!(cx.tell(late, ()), Err(TellError::Full(()))));
            assert!(cx.room(late).await);
            cx.tell(late, ()).is_ok()
        })
    });
    assert_eq!(told, Some(true));
}

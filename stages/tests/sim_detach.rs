//! Detached futures: beside the stage, and their closures in its order.
#![cfg(feature = "sim")]

#[path = "support/scripted.rs"]
mod scripted;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use proscenium_engine::sim::{Faults, SimNet};
use proscenium_stages::{DetachError, OnPanic, Reply, StageRef};
use scripted::{MS, Node, SECOND, Sim, answer, script};

fn one_node() -> (Sim, StageRef<Node>) {
    let mut sim = Sim::new(2);
    let node = sim.node(1);
    sim.run(MS);
    sim.log.take();
    (sim, node)
}

/// Has `node` detach an offload that takes some time, and log its end as `name`.
fn detach(node: StageRef<Node>, name: &'static str) {
    node.tell(script(move |_, cx| {
        let work = cx.offload_io(move || name);
        cx.detach(work, |node, _, name| {
            node.log.add(format!("{} is back", name.unwrap()));
        })
        .unwrap();
        Box::pin(async {})
    }))
    .unwrap();
}

#[test]
fn the_stage_is_not_busy_and_the_closure_waits_its_turn() {
    let (mut sim, node) = one_node();
    detach(node, "a");
    let at_once = sim.does(node, |node, _| {
        node.log.add("not busy");
        Box::pin(async {})
    });
    assert_eq!(at_once, Some(()));
    assert_eq!(sim.log.take(), ["not busy"]);
    node.tell(script(|node, cx| {
        Box::pin(async move {
            cx.sleep(SECOND).await;
            node.log.add("slept");
        })
    }))
    .unwrap();
    sim.run(2 * SECOND);
    assert_eq!(sim.log.take(), ["slept", "a is back"]);
}

#[test]
fn many_at_once_come_back_each_once() {
    let (mut sim, node) = one_node();
    for name in ["a", "b", "c", "d", "e"] {
        detach(node, name);
        detach(node, name);
    }
    sim.run(SECOND);
    for name in ["a", "b", "c", "d", "e"] {
        assert_eq!(sim.log.count(&format!("{name} is back")), 2);
    }
    assert_eq!(sim.log.take().len(), 10);
}

/// Counts its drops.
struct Dropped(Arc<AtomicU32>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn they_end_with_their_stage() {
    let (mut sim, node) = one_node();
    let drops = Arc::new(AtomicU32::new(0));
    for never in [true, false] {
        let (in_future, in_closure) = (Dropped(Arc::clone(&drops)), Dropped(Arc::clone(&drops)));
        node.tell(script(move |_, cx| {
            let future = async move {
                if never {
                    std::future::pending::<()>().await;
                }
                drop(in_future);
            };
            cx.detach(future, move |node, _, ()| {
                node.log.add("back");
                drop(in_closure);
            })
            .unwrap();
            Box::pin(async {})
        }))
        .unwrap();
    }
    // The second one is done while the stage is busy: its closure waits in the backlog.
    node.tell(script(|_, cx| {
        Box::pin(async move { cx.sleep(SECOND).await })
    }))
    .unwrap();
    sim.run(100 * MS);
    assert_eq!(drops.load(Ordering::Relaxed), 1);
    let _ = sim.stages.destroy(node);
    sim.run(SECOND);
    assert_eq!(sim.log.take(), ["1: destroy", "1: drop"]);
    assert_eq!(drops.load(Ordering::Relaxed), 4);
    assert_eq!(sim.stages.total().panics, 0);
}

fn panic_now() {
    panic!("in a detached future");
}

#[test]
fn a_panic_of_the_future_costs_the_future() {
    let (mut sim, node) = one_node();
    for late in [false, true] {
        node.tell(script(move |_, cx| {
            let work = cx.offload_io(|| ());
            let future = async move {
                if late {
                    work.await.unwrap();
                }
                panic_now();
            };
            cx.detach(future, |node, _, ()| node.log.add("back"))
                .unwrap();
            Box::pin(async {})
        }))
        .unwrap();
    }
    sim.run(SECOND);
    assert_eq!(sim.stages.total().panics, 2);
    assert_eq!(sim.log.take(), [""; 0]);
    // Their places are used again, by others that are not cancelled with this stage.
    let other = sim.node(2);
    detach(other, "x");
    detach(other, "y");
    sim.run(MS / 100);
    let _ = sim.stages.destroy(node);
    sim.run(SECOND);
    assert_eq!(sim.log.count("x is back") + sim.log.count("y is back"), 2);
}

#[test]
fn a_panic_of_the_closure_costs_the_stage() {
    let (mut sim, node) = one_node();
    node.tell(script(|_, cx| {
        cx.detach(async {}, |_, _, ()| panic!("in a detached closure"))
            .unwrap();
        Box::pin(async {})
    }))
    .unwrap();
    sim.run(SECOND);
    assert_eq!(sim.log.take(), ["1: drop"]);
    assert_eq!(sim.stages.total().panics, 1);
}

#[test]
fn a_request_can_be_detached() {
    let (mut sim, node) = one_node();
    let far = sim.node(101);
    sim.log.take();
    node.tell(script(move |_, cx| {
        let slow = far.ask(|reply: Reply<u64>| {
            script(move |node, cx| {
                Box::pin(async move {
                    cx.sleep(10 * MS).await;
                    let _ = reply.send(node.id);
                })
            })
        });
        cx.detach(slow, |node, _, answer| node.log.add(format!("{answer:?}")))
            .unwrap();
        let gone = far.ask(|reply: Reply<u64>| {
            script(move |_, _| {
                drop(reply);
                Box::pin(async {})
            })
        });
        cx.detach(gone, |node, _, answer| node.log.add(format!("{answer:?}")))
            .unwrap();
        Box::pin(async {})
    }))
    .unwrap();
    let alive = sim.does(node, |_, cx| {
        let me = cx.me();
        Box::pin(async move { cx.request(me, |reply| answer(reply, 1)).await.is_err() })
    });
    assert_eq!(alive, Some(true), "it handles other messages meanwhile");
    sim.run(SECOND);
    assert_eq!(sim.log.take(), ["Ok(101)", "Err(NoReply)"]);
}

#[test]
fn offloads_replay_by_seed_and_differ_between_seeds() {
    let order = |seed| {
        let mut sim = Sim::with(SimNet::new(seed, Faults::none()), 1, |nodes| nodes);
        let node = sim.node(1);
        for name in ["a", "b", "c", "d", "e", "f", "g"] {
            detach(node, name);
        }
        sim.run(SECOND);
        sim.log.take()
    };
    let orders: Vec<_> = (0..5).map(order).collect();
    assert_eq!(orders, (0..5).map(order).collect::<Vec<_>>());
    assert!(orders.iter().any(|other| *other != orders[0]));
}

#[test]
fn an_offload_that_panics_says_so_and_one_of_a_stage_that_ended_is_dropped() {
    let (mut sim, node) = one_node();
    let answer = sim.does(node, |_, cx| {
        let failing = cx.offload_compute(|| -> u32 { panic!("in offloaded {}", "work") });
        Box::pin(async move { failing.await.unwrap_err().to_string() })
    });
    let expected = "the offloaded work panicked: in offloaded work";
    assert_eq!(answer.as_deref(), Some(expected));

    let drops = Arc::new(AtomicU32::new(0));
    let result = Dropped(Arc::clone(&drops));
    node.tell(script(move |_, cx| {
        Box::pin(async move {
            let result = cx.offload_io(move || result).await;
            drop(result);
            unreachable!("destroyed while it waits");
        })
    }))
    .unwrap();
    sim.run(MS / 100);
    let _ = sim.stages.destroy(node);
    sim.run(SECOND);
    assert_eq!(drops.load(Ordering::Relaxed), 1);
    assert_eq!(sim.stages.total().panics, 0);
}

#[test]
fn what_is_given_the_shard_may_sleep_ask_and_wait_for_room() {
    let (mut sim, node) = one_node();
    let far = sim.node(101);
    sim.log.take();
    node.tell(script(move |_, cx| {
        let never = |reply: Reply<u64>| {
            script(move |_, cx| {
                Box::pin(async move {
                    cx.sleep(20 * SECOND).await;
                    drop(reply);
                })
            })
        };
        cx.detach_with(
            async move |local| {
                local.sleep(10 * MS).await;
                let room = local.room(far).await;
                let asked = local.ask(far, never).within(SECOND).await;
                (room, asked)
            },
            |node, _, (room, asked)| node.log.add(format!("{room} {asked:?}")),
        )
        .unwrap();
        Box::pin(async {})
    }))
    .unwrap();
    sim.run(SECOND);
    assert_eq!(sim.log.take(), [""; 0]);
    sim.run(20 * MS);
    assert_eq!(sim.log.take(), ["true Err(Deadline(1s))"]);

    // Cut off in the middle, it leaves nothing behind.
    node.tell(script(|_, cx| {
        cx.detach_with(async |local| local.sleep(SECOND).await, |_, _, ()| ())
            .unwrap();
        Box::pin(async {})
    }))
    .unwrap();
    sim.run(MS);
    let _ = sim.stages.destroy(node);
    sim.run(MS);
    let timers: Vec<_> = sim
        .engine
        .handle()
        .stats()
        .shards
        .iter()
        .map(|s| s.timers)
        .collect();
    assert_eq!(timers, [0, 1], "that of the far node's own sleep");
}

#[test]
fn a_stage_has_so_many_detached_futures_and_each_end_makes_room() {
    let mut sim = Sim::with(SimNet::new(1, Faults::none()), 1, |nodes| {
        nodes.tasks_max(3).on_panic(OnPanic::Restart {
            first: MS,
            max: SECOND,
        })
    });
    let node = sim.node(1);
    let detach_all = move |sim: &mut Sim, times: &'static [u64]| {
        let results = sim.does(node, move |_, cx| {
            let detached = times.iter().map(|&time| {
                cx.detach_with(
                    async move |local| local.sleep(time as u32 * MS).await,
                    move |node, _, ()| node.log.add(format!("{time} ms")),
                )
            });
            let results: Vec<_> = detached.collect();
            Box::pin(async { results })
        });
        results.expect("it is not destroyed")
    };
    let too_many = Err(DetachError::TooMany(3));
    sim.log.take();
    let results = detach_all(&mut sim, &[30, 10, 20, 5]);
    assert_eq!(results, [Ok(()), Ok(()), Ok(()), too_many.clone()]);
    sim.run(15 * MS);
    assert_eq!(sim.log.take(), ["10 ms"]);
    // One in the middle is over.
    let results = detach_all(&mut sim, &[100, 7]);
    assert_eq!(results, [Ok(()), too_many.clone()]);
    sim.run(50 * MS);
    assert_eq!(sim.log.take(), ["20 ms", "30 ms"]);
    let results = detach_all(&mut sim, &[200, 210, 7]);
    assert_eq!(results, [Ok(()), Ok(()), too_many]);
    // What a state that panicked had detached is not counted for the next one.
    node.tell(script(|_, _| panic!("with three under way")))
        .unwrap();
    sim.run(10 * MS);
    sim.log.take();
    assert_eq!(detach_all(&mut sim, &[2, 1, 3]), [Ok(()), Ok(()), Ok(())]);
    sim.run(SECOND);
    assert_eq!(sim.log.take(), ["1 ms", "2 ms", "3 ms"]);
}

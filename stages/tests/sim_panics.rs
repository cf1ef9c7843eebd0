//! Panics: what they cost, and what they do not.
#![cfg(feature = "sim")]

#[path = "support/scripted.rs"]
mod scripted;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use proscenium_engine::sim::{Faults, SimNet};
use proscenium_stages::{
    CreateError, Cx, OnPanic, Reply, RequestError, Stage, StageRef, StageType, Stages, TellError,
    TimerId,
};
use scripted::{Log, MS, Node, SECOND, Sim, answer, nodes, script};

const FIRST: Duration = Duration::from_millis(100);
const MAX: Duration = Duration::from_secs(1);

fn restarting() -> Sim {
    let policy = OnPanic::Restart {
        first: FIRST,
        max: MAX,
    };
    Sim::with(SimNet::new(1, Faults::none()), 2, |nodes| {
        nodes.on_panic(policy).backlog(8)
    })
}

fn panicking() -> scripted::Script {
    script(|_, _| Box::pin(async { panic!("told to") }))
}

/// Panics when it is dropped, unless that happens during a panic.
struct Grenade;

impl Drop for Grenade {
    fn drop(&mut self) {
        assert!(std::thread::panicking(), "dropped");
    }
}

/// Panics where it is told to.
struct Fuse {
    at: &'static str,
    log: Log,
}

impl Fuse {
    fn reached(&self, place: &str) {
        self.log.add(place);
        assert!(self.at != place, "at {place}");
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.reached("drop");
        }
    }
}

enum FuseMsg {
    Nothing,
    Explode(&'static str),
    Held(#[allow(dead_code, reason = "for its drop")] Grenade),
    Sleep,
}

impl Stage for Fuse {
    type Msg = FuseMsg;

    async fn on_create(&mut self, cx: &mut Cx<'_, Self>) {
        self.reached("on_create");
        cx.set_timer(10 * MS);
    }

    fn on_message(&mut self, cx: &mut Cx<'_, Self>, message: FuseMsg) -> impl Future<Output = ()> {
        // Not an `async fn`: this part runs before there is a future.
        assert!(!matches!(message, FuseMsg::Explode("at once")), "at once");
        async move {
            match message {
                FuseMsg::Nothing | FuseMsg::Held(_) => {}
                FuseMsg::Explode("a local") => drop(Grenade),
                FuseMsg::Explode("a local of a future that is done") => {
                    let _local = Grenade;
                    cx.sleep(MS).await;
                }
                FuseMsg::Explode(_) => {
                    cx.sleep(MS).await;
                    panic!("after an await");
                }
                FuseMsg::Sleep => {
                    let _local = Grenade;
                    cx.sleep(Duration::from_secs(60)).await;
                    std::mem::forget(_local);
                }
            }
        }
    }

    async fn on_timer(&mut self, _cx: &mut Cx<'_, Self>, _timer: TimerId) {
        self.reached("on_timer");
    }

    async fn on_destroy(&mut self, _cx: &mut Cx<'_, Self>) {
        self.reached("on_destroy");
    }

    fn on_passivate(self, _id: Option<u64>) {
        self.reached("on_passivate");
    }
}

fn fused() -> Sim {
    let log = Log::default();
    let fuses = StageType::<Fuse>::new("fuse").passivate_after(SECOND);
    let builder = Stages::builder().register(nodes(&log)).register(fuses);
    Sim::build(SimNet::new(1, Faults::none()), 1, log, builder, |engine| {
        engine
    })
}

fn fuse(sim: &mut Sim, at: &'static str) -> StageRef<Fuse> {
    let log = sim.log.clone();
    let made = sim.stages.spawn_on(0, move || Fuse { at, log });
    sim.wait(made).expect("made")
}

/// The shard goes on: another stage of it answers.
fn still_works(sim: &mut Sim) {
    let node = sim.node(50);
    assert!(sim.does(node, |_, _| Box::pin(async {})).is_some());
}

#[test]
fn wherever_a_stage_panics_it_alone_is_gone() {
    for at in ["on_create", "on_timer"] {
        let mut sim = fused();
        let fuse = fuse(&mut sim, at);
        sim.run(20 * MS);
        assert_eq!(sim.log.take().last().map(String::as_str), Some("drop"));
        assert!(fuse_is_gone(&mut sim, fuse));
        assert_eq!(sim.stages.total().panics, 1, "{at}");
        still_works(&mut sim);
    }
    for explode in [
        "at once",
        "a local",
        "a local of a future that is done",
        "after an await",
    ] {
        let mut sim = fused();
        let fuse = fuse(&mut sim, "nowhere");
        fuse.tell(FuseMsg::Explode(explode)).unwrap();
        fuse.tell(FuseMsg::Nothing).unwrap();
        sim.run(5 * MS);
        assert_eq!(sim.log.take(), ["on_create", "drop"], "{explode}");
        assert!(fuse_is_gone(&mut sim, fuse));
        let total = sim.stages.total();
        assert_eq!((total.panics, total.ended, total.dropped), (1, 1, 1));
        still_works(&mut sim);
    }
}

/// What tells it comes to nothing: counted, since it was told from elsewhere.
fn fuse_is_gone(sim: &mut Sim, fuse: StageRef<Fuse>) -> bool {
    let before = sim.stages.total().gone;
    fuse.tell(FuseMsg::Nothing).unwrap();
    sim.run(MS);
    sim.stages.total().gone == before + 1
}

#[test]
fn a_panic_at_the_end_costs_nothing_else() {
    for (at, panics) in [("on_destroy", 1), ("drop", 1)] {
        let mut sim = fused();
        let fuse = fuse(&mut sim, at);
        sim.run(20 * MS);
        sim.log.take();
        // While it sleeps, and with grenades in its backlog.
        fuse.tell(FuseMsg::Sleep).unwrap();
        for _ in 0..3 {
            fuse.tell(FuseMsg::Held(Grenade)).unwrap();
        }
        fuse.tell(FuseMsg::Nothing).unwrap();
        sim.run(MS);
        let _ = sim.stages.destroy(fuse);
        sim.run(MS);
        assert_eq!(sim.log.take(), ["on_destroy", "drop"], "{at}");
        let total = sim.stages.total();
        // The grenade of the handler that was cancelled, and those of three messages.
        assert_eq!((total.panics, total.dropped), (panics + 4, 4), "{at}");
        assert!(fuse_is_gone(&mut sim, fuse));
        still_works(&mut sim);
    }
}

#[test]
fn a_panic_in_on_passivate_is_contained() {
    let mut sim = fused();
    let fuse = fuse(&mut sim, "on_passivate");
    sim.run(3 * SECOND);
    assert_eq!(
        sim.log.take().last().map(String::as_str),
        Some("on_passivate")
    );
    let total = sim.stages.total();
    assert_eq!((total.panics, total.passivated, total.live), (1, 1, 0));
    assert!(fuse_is_gone(&mut sim, fuse));
    still_works(&mut sim);
}

#[test]
fn a_message_whose_drop_panics_is_contained_wherever_it_is_dropped() {
    let mut sim = fused();
    let fuse = fuse(&mut sim, "nowhere");
    fuse.tell(FuseMsg::Held(Grenade)).unwrap(); // dropped by the handler: costs the stage
    sim.run(MS);
    assert_eq!(sim.stages.total().panics, 1);
    fuse.tell(FuseMsg::Held(Grenade)).unwrap(); // dropped on the way to a stage that is gone
    sim.run(MS);
    assert_eq!(sim.stages.total().panics, 2);
    still_works(&mut sim);
}

#[test]
fn a_message_whose_drop_panics_and_that_no_shard_came_to_take_is_contained() {
    let mut sim = fused();
    let fuse = fuse(&mut sim, "nowhere");
    let after = Arc::new(());
    // On their way when the shard ends.
    for _ in 0..3 {
        fuse.tell(FuseMsg::Held(Grenade)).unwrap();
        let held = Arc::clone(&after);
        sim.stages.run_on(0, move |_| drop(held)).unwrap();
    }
    drop(sim);
    assert_eq!(Arc::strong_count(&after), 1, "all of them were dropped");
}

#[test]
fn a_factory_that_panics_is_told_and_counted() {
    let log = Log::default();
    let calls = Arc::new(AtomicU32::new(0));
    let called = Arc::clone(&calls);
    let (inner, broken) = (log.clone(), Arc::new(AtomicBool::new(true)));
    let is_broken = Arc::clone(&broken);
    let policy = OnPanic::Restart {
        first: FIRST,
        max: MAX,
    };
    let nodes = StageType::new("node")
        .factory(move |id| {
            called.fetch_add(1, Ordering::Relaxed);
            assert!(!is_broken.load(Ordering::Relaxed), "the factory is broken");
            Node::new(id, &inner)
        })
        .on_panic(policy);
    let builder = Stages::builder().register(nodes);
    let mut sim = Sim::build(SimNet::new(1, Faults::none()), 1, log, builder, |e| e);
    let made = sim.stages.get_or_create::<Node>(1);
    assert_eq!(sim.wait(made), Err(CreateError::Panicked));
    let total = sim.stages.total();
    assert_eq!((total.panics, total.live), (1, 0));

    // In a restart it is called again, with the same back-off.
    broken.store(false, Ordering::Relaxed);
    let node = sim.node(1);
    broken.store(true, Ordering::Relaxed);
    calls.store(0, Ordering::Relaxed);
    node.tell(panicking()).unwrap();
    for (after, expected) in [(90, 0), (20, 1), (180, 1), (20, 2), (380, 2), (20, 3)] {
        sim.run(after * MS);
        assert_eq!(calls.load(Ordering::Relaxed), expected);
    }
    broken.store(false, Ordering::Relaxed);
    sim.run(SECOND);
    assert!(sim.does(node, |_, _| Box::pin(async {})).is_some());
    assert_eq!(sim.stages.total().restarts, 1);
}

#[test]
fn destroy_is_the_default_and_says_no_reply_and_gone() {
    let mut sim = Sim::new(2);
    let (node, far) = (sim.node(1), sim.node(101));
    for asker in [sim.node(2), far] {
        let node = sim.node(1);
        let asked = sim.does(asker, move |_, cx| {
            Box::pin(async move {
                // The second waits in the backlog when the first panics.
                let first = cx.request(node, |reply: Reply<u64>| {
                    script(move |_, _| {
                        Box::pin(async move {
                            let _kept = reply;
                            panic!("with a reply in hand");
                        })
                    })
                });
                let second = cx.request(node, |reply| answer(reply, 7_u64));
                let answers = (first.await, second.await);
                (
                    answers,
                    cx.request(node, |reply| answer(reply, 7_u64)).await,
                )
            })
        });
        let (no_reply, gone) = (RequestError::NoReply, RequestError::Gone);
        assert_eq!(
            asked,
            Some(((Err(no_reply.clone()), Err(no_reply)), Err(gone)))
        );
    }
    let told = sim.does(far, move |_, cx| {
        let told = cx.tell(node, panicking());
        Box::pin(async move { told.is_ok() })
    });
    assert_eq!(told, Some(true), "found gone only there, and counted");
    let near = sim.node(2);
    let told = sim.does(near, move |_, cx| {
        let told = cx.tell(node, panicking());
        Box::pin(async move { matches!(told, Err(TellError::Gone(_))) })
    });
    assert_eq!(told, Some(true));
    assert_ne!(sim.node(1), node, "another stage of that id");
}

#[test]
fn a_restart_keeps_the_address_and_the_backlog() {
    let mut sim = restarting();
    let node = sim.node(1);
    sim.run(MS);
    sim.log.take();
    node.tell(panicking()).unwrap();
    for n in 0..3 {
        node.tell(script(move |node, _| {
            node.log.add(format!("message {n}"));
            Box::pin(async {})
        }))
        .unwrap();
    }
    let waiting = node.ask(|reply| answer(reply, 7_u64));
    sim.run(FIRST - 2 * MS);
    assert_eq!(sim.log.take(), ["1: drop"]);
    assert_eq!(sim.node(1), node, "it is not made twice");
    sim.run(4 * MS);
    let kept = ["1: create", "message 0", "message 1", "message 2"];
    assert_eq!(sim.log.take(), kept);
    assert_eq!(sim.wait(waiting), Ok(7));
    assert_eq!(sim.stages.total().restarts, 1);
}

#[test]
fn a_backlog_that_fills_while_a_stage_is_broken_says_full() {
    let mut sim = restarting();
    let (node, teller) = (sim.node(1), sim.node(2));
    node.tell(panicking()).unwrap();
    sim.run(MS);
    let told = sim.does(teller, move |_, cx| {
        let nothing = || script(|_, _| Box::pin(async {}));
        let told: Vec<bool> = (0..10).map(|_| cx.tell(node, nothing()).is_ok()).collect();
        Box::pin(async move { told })
    });
    assert_eq!(told, Some([[true; 8].as_slice(), &[false; 2]].concat()));
    sim.run(SECOND);
    assert!(sim.does(node, |_, _| Box::pin(async {})).is_some());
}

#[test]
fn the_back_off_doubles_and_a_quiet_time_resets_it() {
    let mut sim = restarting();
    let node = sim.node(1);
    let restart_takes = |sim: &mut Sim| {
        let restarts = sim.stages.total().restarts;
        node.tell(panicking()).unwrap();
        let began = sim.net.now();
        while sim.stages.total().restarts == restarts {
            sim.run(MS);
        }
        (sim.net.now().since(began).as_millis() / 10) * 10
    };
    let mut takes = |pause: Duration| {
        sim.run(pause);
        restart_takes(&mut sim)
    };
    let delays = [(); 6].map(|()| takes(MS));
    assert_eq!(delays, [100, 200, 400, 800, 1000, 1000]);
    assert_eq!(takes(MAX - 10 * MS), 1000, "not quiet for long enough");
    assert_eq!(takes(MAX), 100);
    assert_eq!(takes(MS), 200);
}

#[test]
fn what_the_old_state_had_begun_does_not_reach_the_new_one() {
    let mut sim = restarting();
    let node = sim.node(1);
    let old = sim
        .does(node, |_, cx| {
            let timers = [
                cx.set_timer(50 * MS),
                cx.set_interval(30 * MS, None),
                cx.start_tick(30 * MS),
            ];
            let work = cx.offload_io(|| ());
            cx.detach(work, |node, _, _| node.log.add("detached"))
                .unwrap();
            cx.detach(async {}, |node, _, ()| node.log.add("detached"))
                .unwrap();
            Box::pin(async move { timers })
        })
        .expect("set");
    // Everything is due and waits in the backlog when it panics.
    node.tell(script(|_, cx| {
        Box::pin(async move {
            cx.sleep(200 * MS).await;
            panic!("told to");
        })
    }))
    .unwrap();
    sim.run(150 * MS);
    sim.log.take();
    sim.run(SECOND);
    assert_eq!(sim.log.take(), ["1: drop", "1: create"]);
    let new = sim
        .does(node, move |_, cx| {
            let cancelled = old.map(|timer| cx.cancel_timer(timer));
            let new = cx.set_timer(MS);
            Box::pin(async move { (cancelled, new) })
        })
        .expect("answered");
    assert_eq!(new.0, [false; 3]);
    assert!(!old.contains(&new.1), "ids do not come again");
    sim.run(SECOND);
    assert_eq!(sim.log.take(), [format!("1: {:?}", new.1)]);
}

#[test]
fn a_stage_without_a_factory_and_one_that_is_ending_are_not_restarted() {
    let mut sim = restarting();
    let log = sim.log.clone();
    let spawned = sim.stages.spawn_on(0, move || Node::new(9, &log));
    let spawned = sim.wait(spawned).expect("made");
    spawned.tell(panicking()).unwrap();
    sim.run(5 * SECOND);
    assert_eq!(sim.log.take(), ["9: create", "9: drop"]);

    let node = sim.node(1);
    node.tell(script(|_, cx| {
        cx.stop_self();
        Box::pin(async { panic!("at the end") })
    }))
    .unwrap();
    sim.run(5 * SECOND);
    assert_eq!(sim.log.take(), ["1: create", "1: drop"]);
    assert_eq!(sim.stages.total().live, 0);
}

#[test]
fn a_broken_stage_does_not_hold_up_a_shutdown() {
    let mut sim = restarting();
    let node = sim.node(1);
    node.tell(panicking()).unwrap();
    sim.run(MS);
    let late = sim.node(2);
    late.tell(script(|_, cx| {
        Box::pin(async move {
            cx.sleep(20 * MS).await;
            panic!("during the shutdown");
        })
    }))
    .unwrap();
    sim.run(MS);
    sim.engine.handle().shutdown(SECOND);
    sim.run(90 * MS);
    let report = sim.engine.stopped().expect("it did not wait for restarts");
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(sim.stages.total().restarts, 0);
}

#[test]
fn connections_close_with_a_destroyed_stage_and_stay_with_a_restarted_one() {
    for restart in [false, true] {
        let log = Log::default();
        let mut nodes = nodes(&log);
        if restart {
            nodes = nodes.on_panic(OnPanic::Restart {
                first: FIRST,
                max: MAX,
            });
        }
        let builder = Stages::builder()
            .register(nodes)
            .on_connect(|local, id, _| {
                // The node was made before.
                let mut node = std::pin::pin!(local.get_or_create::<Node>(1));
                let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
                if let std::task::Poll::Ready(Ok(node)) = node.as_mut().poll(&mut cx) {
                    local.bind(id, node);
                }
            });
        let mut sim = Sim::build(SimNet::new(1, Faults::none()), 1, log, builder, |e| e);
        let node = sim.node(1);
        let mut peer = sim.net.connect(sim.engine.local_addrs()[0].clone());
        sim.run(100 * MS);
        let bound = sim.does(node, |_, cx| {
            let bound = cx.connections();
            Box::pin(async move { bound })
        });
        assert_eq!(bound.map(|bound| bound.len()), Some(1));
        sim.log.take();
        peer.write(b"\0\0\0\x05panic");
        peer.write(b"\0\0\0\x05after");
        sim.run(SECOND);
        assert_eq!(peer.is_read_closed(), !restart);
        if restart {
            assert_eq!(sim.log.take(), ["1: drop", "1: create", "1: packet after"]);
            let bound = sim.does(node, |_, cx| {
                let bound = cx.connections();
                Box::pin(async move { bound })
            });
            assert_eq!(bound.map(|bound| bound.len()), Some(1));
        } else {
            assert_eq!(sim.log.take(), ["1: drop"]);
        }
    }
}

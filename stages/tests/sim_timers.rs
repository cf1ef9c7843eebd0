//! Timers, intervals, ticks and sleeps, in virtual time.
#![cfg(feature = "sim")]

#[path = "support/scripted.rs"]
mod scripted;

use std::pin::pin;
use std::time::Duration;

use proscenium_engine::Time;
use proscenium_stages::{StageRef, TimerId};
use scripted::{MS, Node, SECOND, Sim, both, either, script};

/// How late a timer may be: the wheel's resolution, and what turns cost.
const LATE: Duration = MS;

fn one_node() -> (Sim, StageRef<Node>) {
    let mut sim = Sim::new(1);
    let node = sim.node(1);
    sim.run(MS);
    sim.log.take();
    (sim, node)
}

/// Has the node set a timer.
fn set(
    sim: &mut Sim,
    node: StageRef<Node>,
    set: impl FnOnce(&proscenium_stages::Cx<'_, Node>) -> TimerId + Send + 'static,
) -> TimerId {
    sim.does(node, move |_, cx| {
        let timer = set(cx);
        Box::pin(async move { timer })
    })
    .expect("set")
}

fn cancel(sim: &mut Sim, node: StageRef<Node>, timer: TimerId) -> bool {
    sim.does(node, move |_, cx| {
        let cancelled = cx.cancel_timer(timer);
        Box::pin(async move { cancelled })
    })
    .expect("answered")
}

/// Keeps the node busy, from the next turn on.
fn busy(node: StageRef<Node>, time: Duration) {
    node.tell(script(move |_, cx| {
        Box::pin(async move { cx.sleep(time).await })
    }))
    .unwrap();
}

#[test]
fn a_timer_fires_once_and_in_time() {
    let (mut sim, node) = one_node();
    let timer = set(&mut sim, node, |cx| cx.set_timer(50 * MS));
    sim.run(40 * MS);
    assert_eq!(sim.log.take(), [""; 0]);
    sim.run(10 * MS + LATE);
    assert_eq!(sim.log.take(), [format!("1: {timer:?}")]);
    sim.run(SECOND);
    assert_eq!(sim.log.take(), [""; 0]);
    assert!(!cancel(&mut sim, node, timer), "it is over");
}

#[test]
fn no_two_timers_share_an_id_and_those_of_others_are_not_cancelled() {
    let (mut sim, node) = one_node();
    let other = sim.node(2);
    let ids = sim
        .does(node, |_, cx| {
            let ids = [
                cx.set_timer(SECOND),
                cx.set_interval(SECOND, None),
                cx.start_tick(SECOND),
                cx.set_timer(MS),
            ];
            Box::pin(async move { ids })
        })
        .expect("set");
    sim.run(10 * MS);
    // The last one is over: its id does not come again.
    let later = set(&mut sim, node, |cx| cx.set_timer(SECOND));
    assert!(ids.iter().all(|id| *id != later));
    let mut distinct = ids.to_vec();
    distinct.dedup();
    assert_eq!(distinct.len(), 4);

    set(&mut sim, other, |cx| cx.set_timer(SECOND));
    assert!(!cancel(&mut sim, other, later), "another stage's id");
    sim.log.take();
    sim.run(2 * SECOND);
    assert_eq!(sim.log.count(&format!("1: {later:?}")), 1);
}

#[test]
fn an_interval_fires_as_often_as_it_is_to() {
    let (mut sim, node) = one_node();
    let three = set(&mut sim, node, |cx| cx.set_interval(10 * MS, Some(3)));
    sim.run(SECOND);
    assert_eq!(
        sim.log.take(),
        [
            format!("1: {three:?}"),
            format!("1: {three:?}"),
            format!("1: {three:?}")
        ]
    );
    assert!(!cancel(&mut sim, node, three));

    let none = set(&mut sim, node, |cx| cx.set_interval(10 * MS, Some(0)));
    sim.run(SECOND);
    assert_eq!(sim.log.take(), [""; 0]);
    assert!(!cancel(&mut sim, node, none));

    let endless = set(&mut sim, node, |cx| cx.set_interval(10 * MS, None));
    sim.run(SECOND + LATE);
    // The node answered within its first period.
    assert_eq!(sim.log.take().len(), 100);
    assert!(cancel(&mut sim, node, endless));
    assert!(!cancel(&mut sim, node, endless));
    sim.run(SECOND);
    assert_eq!(sim.log.take(), [""; 0]);
    assert_eq!(sim.stages.total().ticks_missed, 0);
}

#[test]
fn of_an_interval_at_most_one_call_waits() {
    let (mut sim, node) = one_node();
    let timer = set(&mut sim, node, |cx| cx.set_interval(10 * MS, Some(5)));
    busy(node, 95 * MS);
    sim.run(90 * MS);
    assert_eq!(sim.log.take(), [""; 0], "busy");
    // Free at 95: one call for the nine that were due, the next at 100, and so on.
    sim.run(8 * MS);
    assert_eq!(sim.log.take(), [format!("1: {timer:?}")]);
    assert_eq!(sim.stages.total().ticks_missed, 8);
    sim.run(SECOND);
    assert_eq!(sim.log.take().len(), 4, "calls count, not periods");
    assert_eq!(sim.stages.total().ticks_missed, 8);
}

#[test]
fn a_handler_slower_than_its_interval_leaves_out_what_it_cannot_do() {
    let (mut sim, node) = one_node();
    set(&mut sim, node, |cx| cx.set_interval(10 * MS, None));
    node.tell(script(|node, _| Box::pin(async { node.takes = 25 * MS })))
        .unwrap();
    sim.run(10 * SECOND);
    let calls = sim.log.take().len();
    assert!((390..=400).contains(&calls), "{calls} calls of 25 ms");
    let missed = sim.stages.total().ticks_missed as usize;
    assert!((995..=1000).contains(&(calls + missed)), "{missed} missed");
    node.tell(script(|node, _| Box::pin(async { node.takes = MS })))
        .unwrap();
    sim.run(50 * MS);
    sim.log.take();
    sim.run(SECOND);
    assert_eq!(sim.log.take().len(), 100, "no debts are left");
}

#[test]
fn what_was_cancelled_does_not_come_even_if_it_was_due() {
    let (mut sim, node) = one_node();
    let cancelled = sim.does(node, |_, cx| {
        Box::pin(async move {
            let timers = [
                cx.set_timer(10 * MS),
                cx.set_interval(10 * MS, None),
                cx.start_tick(10 * MS),
            ];
            cx.sleep(50 * MS).await; // they wait in the backlog
            timers.map(|timer| cx.cancel_timer(timer))
        })
    });
    assert_eq!(cancelled, Some([true; 3]));
    sim.run(SECOND);
    assert_eq!(sim.log.take(), [""; 0]);
}

#[test]
fn ticks_come_at_fixed_points_of_time() {
    let (mut sim, node) = one_node();
    sim.align(SECOND);
    set(&mut sim, node, |cx| cx.start_tick(20 * MS));
    node.tell(script(|node, _| Box::pin(async { node.takes = 13 * MS })))
        .unwrap();
    sim.run(SECOND);
    let log = sim.log.take();
    assert!((49..=50).contains(&log.len()), "{log:?}");
    let start = sim.net.now().as_nanos() / 1_000_000_000 - 1;
    for (n, line) in log.iter().enumerate() {
        let due = start * 1000 + 20 * (n as u64 + 1);
        // Set in a turn a little after the second.
        let exactly = format!("1: tick {} missed 0 due {due}", n + 1);
        let later = format!("1: tick {} missed 0 due {}", n + 1, due + 1);
        assert!(*line == exactly || *line == later, "{line}, not {exactly}");
    }
    assert_eq!(sim.stages.total().ticks_missed, 0);
}

#[test]
fn ticks_catch_up_by_five_and_tell_and_count_what_was_left_out() {
    let (mut sim, node) = one_node();
    set(&mut sim, node, |cx| cx.start_tick(10 * MS));
    busy(node, 45 * MS);
    sim.run(49 * MS);
    let numbers = |log: Vec<String>| -> Vec<String> {
        let of = |line: &String| line[..line.find(" due").unwrap()].to_owned();
        log.iter().map(of).collect()
    };
    assert_eq!(
        numbers(sim.log.take()),
        [
            "1: tick 1 missed 0",
            "1: tick 2 missed 0",
            "1: tick 3 missed 0",
            "1: tick 4 missed 0"
        ],
        "four were due"
    );
    assert_eq!(sim.stages.total().ticks_missed, 0);
    busy(node, 125 * MS); // until about 174: 5 to 17 are due
    sim.run(126 * MS);
    assert_eq!(
        numbers(sim.log.take()),
        [
            "1: tick 13 missed 8",
            "1: tick 14 missed 0",
            "1: tick 15 missed 0",
            "1: tick 16 missed 0",
            "1: tick 17 missed 0"
        ]
    );
    assert_eq!(sim.stages.total().ticks_missed, 8);
    sim.run(10 * MS);
    assert_eq!(numbers(sim.log.take()), ["1: tick 18 missed 0"]);
}

#[test]
fn a_tick_lasts_one_to_a_thousand_milliseconds() {
    let (mut sim, _) = one_node();
    for (id, period, fits) in [
        (2, MS, true),
        (3, SECOND, true),
        (4, MS - Duration::from_nanos(1), false),
        (5, SECOND + Duration::from_nanos(1), false),
    ] {
        let node = sim.node(id);
        let set = sim.does(node, move |_, cx| {
            cx.start_tick(period);
            Box::pin(async {})
        });
        assert_eq!(set.is_some(), fits, "{period:?}");
    }
    assert_eq!(sim.stages.total().panics, 2);
}

#[test]
fn a_stage_that_ends_leaves_no_timer() {
    let (mut sim, node) = one_node();
    sim.does(node, |_, cx| {
        cx.set_timer(SECOND);
        cx.set_interval(SECOND, None);
        cx.start_tick(SECOND);
        Box::pin(async {})
    });
    let _ = sim.stages.destroy(node);
    sim.run(MS);
    let stats = sim.engine.handle().stats();
    assert_eq!(stats.total().timers, 0);
    sim.run(2 * SECOND);
    assert_eq!(sim.log.take(), ["1: destroy", "1: drop"]);
}

#[test]
fn sleeps_end_in_time_alone_raced_and_together() {
    let (mut sim, node) = one_node();
    let done = sim.does(node, |_, cx| {
        Box::pin(async move {
            let since = |began: Time| cx.now().since(began);
            let soon = |time: Duration, wanted: Duration| {
                assert!(
                    time >= wanted && time < wanted + 2 * LATE,
                    "{time:?}, not {wanted:?}"
                );
            };
            let began = cx.now();
            cx.sleep(Duration::ZERO).await;
            soon(since(began), Duration::ZERO);
            let began = cx.now();
            cx.sleep(30 * MS).await;
            soon(since(began), 30 * MS);
            let began = cx.now();
            let first = either(cx.sleep(20 * MS), cx.sleep(10 * MS)).await;
            assert!(first.is_err());
            soon(since(began), 10 * MS);
            both(cx.sleep(20 * MS), cx.sleep(10 * MS)).await;
            soon(since(began), 30 * MS);
        })
    });
    assert_eq!(done, Some(()));
    sim.run(MS);
    let stats = sim.engine.handle().stats();
    assert_eq!(stats.total().timers, 0, "what was dropped is cancelled");
}

#[test]
fn a_sleep_that_another_task_polls_wakes_that_one() {
    use std::future::Future as _;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::task::{Context, Poll, Wake, Waker};

    #[derive(Default)]
    struct Counting(AtomicU32);
    impl Wake for Counting {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    let (mut sim, node) = one_node();
    let woken = sim.does(node, |_, cx| {
        Box::pin(async move {
            let (first, second) = (Arc::new(Counting::default()), Arc::new(Counting::default()));
            let mut sleep = pin!(cx.sleep(10 * MS));
            // Polled by one task, then by another one, as when a combinator moves it.
            for task in [&first, &second] {
                let waker = Waker::from(Arc::clone(task));
                let mut task = Context::from_waker(&waker);
                assert_eq!(sleep.as_mut().poll(&mut task), Poll::Pending);
            }
            cx.sleep(20 * MS).await;
            sleep.await;
            (
                first.0.load(Ordering::Relaxed),
                second.0.load(Ordering::Relaxed),
            )
        })
    });
    assert_eq!(woken, Some((0, 1)));
}

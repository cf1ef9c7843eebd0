//! Offloaded work on real threads.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Barrier, mpsc};
use std::time::Duration;

use proscenium_engine::Engine;
use proscenium_stages::{Cx, OffloadError, Reply, Stage, StageType, Stages};

const PATIENCE: Duration = Duration::from_secs(30);

type Work = Box<dyn FnOnce() -> u64 + Send>;

enum Msg {
    /// Offloads all of this at once and answers with the results in order.
    Compute(Vec<Work>, Reply<Vec<Result<u64, OffloadError>>>),
    Io(Vec<Work>, Reply<Vec<Result<u64, OffloadError>>>),
    /// `Io` that says when all of it is with the pool, or refused.
    ToldIo(
        Vec<Work>,
        mpsc::Sender<()>,
        Reply<Vec<Result<u64, OffloadError>>>,
    ),
    Ping(Reply<()>),
}

struct Worker;

impl Stage for Worker {
    type Msg = Msg;

    async fn on_message(&mut self, cx: &mut Cx<'_, Self>, message: Msg) {
        let (offloads, reply): (Vec<_>, _) = match message {
            Msg::Compute(work, reply) => {
                let offloads = work.into_iter().map(|work| cx.offload_compute(work));
                (offloads.collect(), reply)
            }
            Msg::Io(work, reply) => (
                work.into_iter().map(|work| cx.offload_io(work)).collect(),
                reply,
            ),
            Msg::ToldIo(work, submitted, reply) => {
                let offloads = work.into_iter().map(|work| cx.offload_io(work)).collect();
                let _ = submitted.send(());
                (offloads, reply)
            }
            Msg::Ping(reply) => {
                let _ = reply.send(());
                return;
            }
        };
        let mut results = Vec::new();
        for offload in offloads {
            results.push(offload.await);
        }
        let _ = reply.send(results);
    }
}

fn workers(waiting: usize) -> Stages {
    Stages::builder()
        .register(StageType::new("worker").factory(|_| Worker))
        .compute_threads(2)
        .io_threads(3)
        .offloads_max(waiting)
        .build()
}

fn work(work: impl FnOnce() -> u64 + Send + 'static) -> Work {
    Box::new(work)
}

#[test]
fn a_thousand_at_once_all_come_back_in_the_order_in_which_they_are_awaited() {
    let stages = workers(4096);
    let engine = stages.start(Engine::builder().shards(2)).unwrap();
    let asked: Vec<_> = (0..4)
        .map(|id| {
            let worker = stages.get_or_create::<Worker>(id).wait(PATIENCE).unwrap();
            let all = (0..250).map(|n| work(move || id * 1000 + n)).collect();
            worker.ask(|reply| {
                if id % 2 == 0 {
                    Msg::Io(all, reply)
                } else {
                    Msg::Compute(all, reply)
                }
            })
        })
        .collect();
    for (id, asked) in (0..).zip(asked) {
        let results = asked.wait(PATIENCE).unwrap();
        let expected: Vec<_> = (0..250).map(|n| Ok(id * 1000 + n)).collect();
        assert_eq!(results, expected);
    }
    assert!(engine.shutdown(PATIENCE).is_clean());
}

#[test]
fn both_pools_are_bounded_and_a_full_one_does_not_block_the_other() {
    for waiting in [0, 5] {
        let stages = workers(waiting);
        let engine = stages.start(Engine::builder().shards(2)).unwrap();
        let worker = stages.spawn_on(0, || Worker).wait(PATIENCE).unwrap();
        let other = stages.spawn_on(1, || Worker).wait(PATIENCE).unwrap();
        // Three threads that wait for us, and as many more as may wait for one of them.
        let barrier = Arc::new(Barrier::new(4));
        let mut all = Vec::new();
        for n in 0..3 {
            let barrier = Arc::clone(&barrier);
            all.push(work(move || {
                barrier.wait();
                n
            }));
        }
        all.extend((3..12).map(|n| work(move || n)));
        let (submit, submitted) = mpsc::channel();
        let asked = worker.ask(|reply| Msg::ToldIo(all, submit, reply));
        let pinged = other.ask(Msg::Ping);
        pinged.wait(PATIENCE).unwrap();
        let computed = other.ask(|reply| Msg::Compute(vec![work(|| 7)], reply));
        assert_eq!(computed.wait(PATIENCE), Ok(vec![Ok(7)]));
        // Before that the three may not end: room for others would depend on who is faster.
        submitted.recv_timeout(PATIENCE).unwrap();
        barrier.wait();
        let results = asked.wait(PATIENCE).unwrap();
        let taken = 3 + waiting as u64;
        let expected: Vec<_> = (0..12)
            .map(|n| {
                if n < taken {
                    Ok(n)
                } else {
                    Err(OffloadError::Full)
                }
            })
            .collect();
        assert_eq!(results, expected);
        assert!(engine.shutdown(PATIENCE).is_clean());
    }
}

#[test]
fn panics_are_results_and_cost_no_thread() {
    struct Grenade;
    impl Drop for Grenade {
        fn drop(&mut self) {
            panic!("the payload of a panic that panics itself");
        }
    }

    let stages = workers(100);
    let engine = stages.start(Engine::builder()).unwrap();
    let worker = stages.spawn_on(0, || Worker).wait(PATIENCE).unwrap();
    let mut all: Vec<Work> = (0..20)
        .map(|n| work(move || panic!("number {n}")))
        .collect();
    all.extend((0..4).map(|_| work(|| std::panic::panic_any(Grenade))));
    let results = worker
        .ask(|reply| Msg::Io(all, reply))
        .wait(PATIENCE)
        .unwrap();
    for (n, result) in results.iter().enumerate() {
        let message = if n < 20 {
            format!("number {n}")
        } else {
            "a panic without a message".to_owned()
        };
        assert_eq!(*result, Err(OffloadError::Panicked(message)));
    }
    let all = (0..20).map(|n| work(move || n)).collect();
    let results = worker
        .ask(|reply| Msg::Io(all, reply))
        .wait(PATIENCE)
        .unwrap();
    assert!(results.iter().all(Result::is_ok));
    assert_eq!(stages.total().panics, 0, "no stage panicked");
    assert!(engine.shutdown(PATIENCE).is_clean());
}

#[test]
fn what_a_stage_that_is_gone_had_offloaded_is_done_and_dropped() {
    struct Waits;
    impl Stage for Waits {
        type Msg = (Arc<Barrier>, Arc<AtomicU32>);

        async fn on_message(&mut self, cx: &mut Cx<'_, Self>, (barrier, drops): Self::Msg) {
            struct Dropped(Arc<AtomicU32>);
            impl Drop for Dropped {
                fn drop(&mut self) {
                    self.0.fetch_add(1, Ordering::SeqCst);
                    panic!("in the drop of a result that nobody wants");
                }
            }
            let result = cx.offload_io(move || {
                barrier.wait();
                barrier.wait();
                Dropped(drops)
            });
            let _never = result.await;
        }
    }

    let stages = Stages::builder()
        .register(StageType::<Waits>::new("waits"))
        .io_threads(1)
        .build();
    let engine = stages.start(Engine::builder()).unwrap();
    let drops = Arc::new(AtomicU32::new(0));
    for round in 1..=3 {
        let stage = stages.spawn_on(0, || Waits).wait(PATIENCE).unwrap();
        let barrier = Arc::new(Barrier::new(2));
        stage
            .tell((Arc::clone(&barrier), Arc::clone(&drops)))
            .unwrap();
        barrier.wait();
        let _ = stages.destroy(stage);
        while stages.total().ended < round {
            std::thread::yield_now();
        }
        barrier.wait();
        while drops.load(Ordering::SeqCst) < round as u32 {
            std::thread::yield_now();
        }
    }
    assert!(engine.shutdown(PATIENCE).is_clean());
}

#[test]
fn threads_do_not_hold_the_system() {
    let (tell, told) = mpsc::channel();
    let barrier = Arc::new(Barrier::new(2));
    struct Marked(mpsc::Sender<()>);
    impl Drop for Marked {
        fn drop(&mut self) {
            let _ = self.0.send(());
        }
    }
    let marked = Marked(tell);
    let stages = Stages::builder()
        .register(StageType::new("worker").factory(|_| Worker))
        .on_connect(move |_, _, _| {
            let _held_by_the_system = &marked;
        })
        .build();
    let engine = stages.start(Engine::builder()).unwrap();
    let worker = stages.spawn_on(0, || Worker).wait(PATIENCE).unwrap();
    let waits = Arc::clone(&barrier);
    let asked = worker.ask(|reply| {
        let works = work(move || {
            waits.wait();
            waits.wait();
            1
        });
        Msg::Io(vec![works], reply)
    });
    barrier.wait();
    // The work does not end before the shutdown's deadline.
    assert!(!engine.shutdown(Duration::from_millis(50)).is_clean());
    assert!(asked.wait(PATIENCE).is_err());
    drop(stages);
    told.recv_timeout(PATIENCE)
        .expect("the system ends while a thread of its pool still works");
    barrier.wait();
}

//! Wakes and answers that come late, twice, from elsewhere, or when nobody is there any more.

mod support;

use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::time::Duration;

use proscenium_engine::Engine;
use proscenium_stages::{Cx, Reply, RequestError, Stage, StageRef, StageType, Stages};
use support::{PATIENCE, eventually};

/// Where sleepers leave their wakers, and how often they were polled.
#[derive(Clone, Default)]
struct Bed(Arc<Mutex<(Vec<Waker>, u64)>>);

impl Bed {
    fn wakers(&self) -> Vec<Waker> {
        self.0.lock().unwrap().0.clone()
    }

    fn polls(&self) -> u64 {
        self.0.lock().unwrap().1
    }

    fn until_waiting(&self, wakers: usize) -> Vec<Waker> {
        eventually("a stage waits", || {
            let waiting = self.wakers();
            (waiting.len() >= wakers).then_some(waiting)
        })
    }
}

struct Sleeper {
    bed: Bed,
    up: bool,
}

enum Msg {
    /// Waits for so many wakes.
    Wait(u32),
    Ping(Reply<u64>),
    Owe(Reply<u64>, Owed),
    /// Asks, and ends while it waits for the answer.
    Ask(StageRef<Sleeper>, Owed),
}

/// Reply tokens that somebody keeps.
type Owed = Arc<Mutex<Vec<Reply<u64>>>>;

impl Stage for Sleeper {
    type Msg = Msg;

    async fn on_message(&mut self, cx: &mut Cx<'_, Self>, message: Msg) {
        match message {
            Msg::Wait(wakes) => {
                let mut left = wakes + 1;
                let bed = self.bed.clone();
                poll_fn(|task| {
                    let mut bed = bed.0.lock().unwrap();
                    bed.0.push(task.waker().clone());
                    bed.1 += 1;
                    left -= 1;
                    if left == 0 {
                        Poll::Ready(())
                    } else {
                        Poll::Pending
                    }
                })
                .await;
                self.up = true;
            }
            Msg::Ping(reply) => drop(reply.send(u64::from(self.up))),
            Msg::Owe(reply, owed) => owed.lock().unwrap().push(reply),
            Msg::Ask(to, owed) => {
                let answer = cx.request(to, |reply| Msg::Owe(reply, owed)).await;
                panic!("{answer:?} came");
            }
        }
    }
}

fn start(shards: usize) -> (Engine<proscenium_stages::StagePost>, Stages, Bed) {
    let bed = Bed::default();
    let of = bed.clone();
    let sleepers = StageType::new("sleeper").factory(move |_| Sleeper {
        bed: of.clone(),
        up: false,
    });
    let stages = Stages::builder()
        .register(sleepers.placement(|id, shards| id as usize % shards))
        .build();
    let engine = stages.start(Engine::builder().shards(shards)).unwrap();
    (engine, stages, bed)
}

fn wake_twice(wakers: &[Waker]) {
    for waker in wakers {
        waker.wake_by_ref();
        let clone = waker.clone();
        clone.wake();
    }
}

#[test]
fn a_stage_is_woken_by_other_threads_as_often_as_it_waits() {
    let (engine, stages, bed) = start(2);
    for id in 0..4 {
        let sleeper = stages.get_or_create::<Sleeper>(id).wait(PATIENCE).unwrap();
        sleeper.tell(Msg::Wait(100)).unwrap();
        let up = sleeper.ask(Msg::Ping);
        let waiting = std::thread::spawn({
            let bed = bed.clone();
            move || {
                while bed.polls() < (id + 1) * 101 {
                    if let Some(waker) = bed.wakers().last() {
                        waker.wake_by_ref();
                    }
                    std::thread::yield_now();
                }
            }
        });
        assert_eq!(up.wait(PATIENCE), Ok(1));
        waiting.join().unwrap();
    }
    assert!(engine.shutdown(PATIENCE).is_clean());
}

#[test]
fn wakes_of_what_is_over_or_gone_wake_nobody_wrongly() {
    let (engine, stages, bed) = start(1);
    let [first, second] = [0, 1].map(|id| {
        let made = stages.get_or_create::<Sleeper>(id);
        made.wait(PATIENCE).unwrap()
    });
    first.tell(Msg::Wait(1)).unwrap();
    let wakers = bed.until_waiting(1);
    let _ = stages.destroy(first);
    let answer = first.ask(Msg::Ping).wait(PATIENCE);
    assert!(
        matches!(answer, Err(RequestError::Gone | RequestError::NoReply)),
        "{answer:?}"
    );
    wake_twice(&wakers);
    // The frame goes to the next: a late wake polls it for nothing at most.
    second.tell(Msg::Wait(1_000_000)).unwrap();
    bed.until_waiting(2);
    for _ in 0..100 {
        wake_twice(&wakers);
    }
    let third = stages.get_or_create::<Sleeper>(2).wait(PATIENCE).unwrap();
    assert_eq!(third.ask(Msg::Ping).wait(PATIENCE), Ok(0));
    assert!(bed.polls() < 1000, "it still waits");
    let _ = stages.destroy(second);
    assert!(engine.shutdown(PATIENCE).is_clean());
}

#[test]
fn wakes_after_the_engine_are_harmless_and_so_are_messages() {
    let (engine, stages, bed) = start(2);
    let sleepers: Vec<_> = (0..2)
        .map(|id| stages.get_or_create::<Sleeper>(id).wait(PATIENCE).unwrap())
        .collect();
    for sleeper in &sleepers {
        sleeper.tell(Msg::Wait(5)).unwrap();
    }
    let wakers = bed.until_waiting(2);
    let report = engine.shutdown(Duration::from_millis(50));
    assert_eq!(report.work_lost, 2, "{report}");
    wake_twice(&wakers);
    for sleeper in &sleepers {
        let error = sleeper.tell(Msg::Wait(1)).unwrap_err();
        assert!(!error.is_full());
        assert_eq!(
            sleeper.ask(Msg::Ping).wait(PATIENCE),
            Err(RequestError::Gone)
        );
    }
    drop(stages);
    wake_twice(&wakers);
    // Another system may have the number of the first: these are not its wakes.
    let (engine, stages, bed) = start(2);
    let other = stages.get_or_create::<Sleeper>(0).wait(PATIENCE).unwrap();
    other.tell(Msg::Wait(1_000_000)).unwrap();
    bed.until_waiting(1);
    wake_twice(&wakers);
    for sleeper in &sleepers {
        assert!(!sleeper.tell(Msg::Wait(1)).unwrap_err().is_full());
    }
    std::thread::spawn(move || wake_twice(&wakers))
        .join()
        .unwrap();
    let third = stages.get_or_create::<Sleeper>(2).wait(PATIENCE).unwrap();
    assert_eq!(third.ask(Msg::Ping).wait(PATIENCE), Ok(0));
    assert!(bed.polls() < 1000);
    let _ = stages.destroy(other);
    assert!(engine.shutdown(PATIENCE).is_clean());
}

#[test]
fn an_answer_for_an_asker_that_is_gone_comes_back() {
    for to in [0, 1] {
        let (engine, stages, _) = start(2);
        let asker = stages.get_or_create::<Sleeper>(2).wait(PATIENCE).unwrap();
        let asked = stages.get_or_create::<Sleeper>(to).wait(PATIENCE).unwrap();
        let owed = Owed::default();
        asker.tell(Msg::Ask(asked, Arc::clone(&owed))).unwrap();
        let reply = eventually("the request arrives", || owed.lock().unwrap().pop());
        assert!(reply.is_wanted());
        let _ = stages.destroy(asker);
        eventually("it has given up", || (!reply.is_wanted()).then_some(()));
        assert_eq!(reply.send(5), Err(5));
        // Nobody answers: the token outlives engine and stages.
        let asker = stages.get_or_create::<Sleeper>(4).wait(PATIENCE).unwrap();
        asker.tell(Msg::Ask(asked, Arc::clone(&owed))).unwrap();
        let reply = eventually("the request arrives", || owed.lock().unwrap().pop());
        engine.shutdown(Duration::from_millis(50));
        drop(stages);
        assert!(!reply.is_wanted());
        assert_eq!(reply.send(6), Err(6));
    }
}

#[test]
fn a_token_that_is_dropped_anywhere_is_an_answer() {
    let (engine, stages, _) = start(2);
    let asked = stages.get_or_create::<Sleeper>(0).wait(PATIENCE).unwrap();
    let owed = Owed::default();
    let answer = asked.ask(|reply| Msg::Owe(reply, Arc::clone(&owed)));
    let reply = eventually("the request arrives", || owed.lock().unwrap().pop());
    std::thread::spawn(move || drop(reply)).join().unwrap();
    assert_eq!(answer.wait(PATIENCE), Err(RequestError::NoReply));
    // In the backlog of a stage that ends.
    asked.tell(Msg::Wait(5)).unwrap();
    let answer = asked.ask(Msg::Ping);
    let _ = stages.destroy(asked);
    assert_eq!(answer.wait(PATIENCE), Err(RequestError::NoReply));
    assert!(engine.shutdown(PATIENCE).is_clean());
}

//! One thing at a time, in each sender's order, on real threads: two shards, threads that tell and
//! wake from outside, everything that ends and panics meanwhile.

#[path = "../../tests/support/dice.rs"]
mod dice;
mod support;
#[path = "support/witness.rs"]
mod witness;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dice::Dice;
use proscenium_engine::Engine;
use proscenium_stages::{
    CreateError, Cx, OnPanic, Reply, RequestError, Stage, StageRef, StageType, Stages,
};
use support::{PATIENCE, eventually, run_all};
use witness::{Habits, Journal, Ref, Witness};

const IDS: u64 = 12;
const THREADS: u64 = 3;

fn messages() -> u64 {
    if run_all() { 50_000 } else { 2_000 }
}

/// Tells and asks as sender `from`.
fn teller(stages: &Stages, journal: &Arc<Journal>, from: u64) {
    let mut dice = Dice::new(from);
    for number in 0..messages() {
        if dice.one_in(10) {
            // It may have ended: made anew.
            let made = stages.get_or_create::<Witness>(dice.below(IDS));
            match made.wait(PATIENCE) {
                Ok(made) => journal.meet(made),
                Err(error) => assert_eq!(error, CreateError::Ending),
            }
        }
        if let Some(to) = journal.anybody(&mut dice) {
            journal.tell_from(from, to, dice.next(), 3);
        }
        if number.is_multiple_of(64) {
            std::thread::yield_now();
        }
    }
}

/// Says that it is over when it goes, also by a failure: threads of a scope are waited for.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn witnesses_see_nothing_wrong(on_panic: OnPanic, habits: Habits) {
    let journal = Arc::new(Journal::default());
    let witnesses = StageType::new("witness")
        .factory({
            let journal = Arc::clone(&journal);
            move |_| Witness::new(&journal, habits)
        })
        .backlog(1 << 20)
        .on_panic(on_panic);
    let stages = Stages::builder()
        .register(witnesses)
        .compute_threads(2)
        .io_threads(2)
        .offloads_max(1 << 20)
        .build();
    let engine = stages.start(Engine::builder().shards(2)).unwrap();
    for id in 0..IDS {
        stages.get_or_create::<Witness>(id).wait(PATIENCE).unwrap();
    }
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let running = Over(&over);
        let ringer = scope.spawn(|| {
            let mut dice = Dice::new(77);
            while !over.load(Ordering::SeqCst) {
                journal.ring(&mut dice);
                std::thread::yield_now();
            }
        });
        let tellers: Vec<_> = (0..THREADS)
            .map(|from| {
                scope.spawn({
                    let (stages, journal) = (&stages, &journal);
                    move || teller(stages, journal, from)
                })
            })
            .collect();
        for teller in tellers {
            teller.join().unwrap();
        }
        eventually("all messages handled", || {
            journal.ring_all();
            (journal.tickets() == 0).then_some(())
        });
        let lost = journal.lost();
        let alive: Vec<Ref> = (0..IDS)
            .filter_map(|id| stages.get::<Witness>(id).wait(PATIENCE).unwrap())
            .collect();
        journal.check_lost(&lost, &alive);
        drop(running);
        ringer.join().unwrap();
    });
    assert!(journal.begun() > messages() / 4);
    // What is on its way by timers and tasks goes on until the end.
    let handle = engine.handle();
    handle.shutdown(PATIENCE);
    over.store(false, Ordering::SeqCst);
    std::thread::scope(|scope| {
        let running = Over(&over);
        scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                journal.ring_all();
                std::thread::yield_now();
            }
        });
        let report = engine.join();
        drop(running);
        assert_eq!(report.work_lost, 0, "{report}");
    });
    journal.check();
    assert_eq!(journal.states(), 0, "a stage outlives the shutdown");
    assert_eq!(journal.tickets(), 0, "a message outlives its engine");
}

const LONGEST: Duration = Duration::from_millis(2);

#[test]
fn one_thing_at_a_time_in_each_senders_order() {
    let habits = Habits {
        panics: false,
        ends: false,
        longest: LONGEST,
    };
    witnesses_see_nothing_wrong(OnPanic::Destroy, habits);
}

#[test]
fn and_while_stages_panic_and_start_again() {
    let habits = Habits {
        panics: true,
        ends: false,
        longest: LONGEST,
    };
    let policy = OnPanic::Restart {
        first: Duration::from_micros(100),
        max: Duration::from_millis(1),
    };
    witnesses_see_nothing_wrong(policy, habits);
}

#[test]
fn and_while_stages_end_in_every_way() {
    let habits = Habits {
        panics: true,
        ends: true,
        longest: LONGEST,
    };
    witnesses_see_nothing_wrong(OnPanic::Destroy, habits);
}

/// Counts what comes from each sender.
struct Receiver {
    last: Vec<u64>,
}

enum Numbered {
    From(usize, u64),
    Get(Reply<Vec<u64>>),
}

impl Stage for Receiver {
    type Msg = Numbered;

    async fn on_message(&mut self, _: &mut Cx<'_, Self>, message: Numbered) {
        match message {
            Numbered::From(sender, number) => {
                assert_eq!(self.last[sender] + 1, number, "of sender {sender}");
                self.last[sender] = number;
            }
            Numbered::Get(reply) => drop(reply.send(self.last.clone())),
        }
    }
}

/// Tells `to` a number of messages, some by its `Cx`, some by the address; a few at a time.
struct Sender {
    number: usize,
    to: StageRef<Receiver>,
    sent: u64,
}

impl Stage for Sender {
    type Msg = ();

    async fn on_message(&mut self, cx: &mut Cx<'_, Self>, (): ()) {
        while self.sent < COUNT {
            let next = self.sent + 1;
            let message = Numbered::From(self.number, next);
            let told = if next.is_multiple_of(3) {
                self.to.tell(message)
            } else {
                cx.tell(self.to, message)
            };
            match told {
                Ok(()) => self.sent = next,
                Err(error) => {
                    assert!(error.is_full());
                    break;
                }
            }
            if next.is_multiple_of(100) {
                break;
            }
        }
        if self.sent < COUNT {
            cx.sleep(Duration::from_micros(50)).await;
            cx.tell(cx.me(), ()).unwrap();
        }
    }
}

const COUNT: u64 = 20_000;

#[test]
fn messages_of_each_sender_arrive_in_order_from_anywhere() {
    let stages = Stages::builder()
        .register(StageType::<Receiver>::new("receiver").backlog(1 << 20))
        .register(StageType::<Sender>::new("sender"))
        .build();
    let engine = stages.start(Engine::builder().shards(2)).unwrap();
    let receiver = stages.spawn_on(0, || Receiver { last: vec![0; 4] });
    let to = receiver.wait(PATIENCE).unwrap();
    for (shard, number) in [(0, 0), (1, 1)] {
        let sender = stages.spawn_on(shard, move || Sender {
            number,
            to,
            sent: 0,
        });
        sender.wait(PATIENCE).unwrap().tell(()).unwrap();
    }
    std::thread::scope(|scope| {
        for sender in 2..4 {
            scope.spawn(move || {
                for number in 1..=COUNT {
                    let mut message = Numbered::From(sender, number);
                    while let Err(error) = to.tell(message) {
                        assert!(error.is_full());
                        message = error.into_message();
                        std::thread::yield_now();
                    }
                }
            });
        }
    });
    eventually("all have arrived", || {
        match to.ask(Numbered::Get).wait(PATIENCE) {
            Ok(last) => (last == [COUNT; 4]).then_some(()),
            // Of the shard's mailbox: a sender is still at it.
            Err(error) => {
                assert_eq!(error, RequestError::Full);
                None
            }
        }
    });
    assert_eq!(stages.total().panics, 0);
    assert!(engine.shutdown(PATIENCE).is_clean());
}

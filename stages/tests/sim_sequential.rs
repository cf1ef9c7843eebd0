//! One thing at a time, in each sender's order, whatever happens: over many seeds.
#![cfg(feature = "sim")]

#[path = "../../tests/support/dice.rs"]
mod dice;
#[path = "support/sim.rs"]
mod sim;
#[path = "support/witness.rs"]
mod witness;

use std::sync::Arc;
use std::time::Duration;

use dice::Dice;
use proscenium_engine::Limits;
use proscenium_engine::sim::{Faults, SimNet};
use proscenium_stages::{Cx, OnPanic, Stage, StageType, Stages};
use sim::{HOUR, House, MILLISECOND, SECOND, for_seeds, run_seed};
use witness::{Habits, Journal, Ref, Witness};

const IDS: u64 = 6;

/// A house of witnesses, with what may go wrong drawn from the seed.
fn house(net: &SimNet, dice: &mut Dice, journal: &Arc<Journal>) -> House {
    let habits = Habits {
        panics: dice.one_in(2),
        ends: dice.one_in(2),
        longest: Duration::from_micros(1 + dice.below(50_000)),
    };
    let on_panic = if dice.one_in(2) {
        OnPanic::Destroy
    } else {
        OnPanic::Restart {
            first: MILLISECOND,
            max: 20 * MILLISECOND,
        }
    };
    let stages = Stages::builder().register(
        StageType::new("witness")
            .factory({
                let journal = Arc::clone(journal);
                move |_| Witness::new(&journal, habits)
            })
            .on_panic(on_panic),
    );
    let shards = 2 + dice.below(2) as usize;
    // Small ones are made faster, and there are many seeds.
    let limits = Limits::default().mailbox_max(1024).receive_chunk(4096);
    House::new(net, stages, |engine| engine.shards(shards).limits(limits))
}

/// The witnesses that live now.
fn living(house: &mut House) -> Vec<Ref> {
    let alive = (0..IDS).map(|id| {
        let found = house.stages.get::<Witness>(id);
        house.until(SECOND, found).expect("the engine runs")
    });
    alive.flatten().collect()
}

fn witnesses_see_nothing_wrong(net: &SimNet) {
    let mut dice = Dice::new(net.seed() ^ 0x7374_6167_6573);
    let journal = Arc::new(Journal::default());
    let mut house = house(net, &mut dice, &journal);
    for id in 0..IDS {
        let made = house.stages.get_or_create::<Witness>(id);
        house.until(SECOND, made).expect("there is room");
    }
    for _ in 0..30 {
        for _ in 0..dice.below(4) {
            match dice.below(12) {
                0 => {
                    // Not awaited: the one before may be ending, and take its time.
                    drop(house.stages.get_or_create::<Witness>(dice.below(IDS)));
                }
                1 | 2 => journal.ring(&mut dice),
                _ => {
                    let to = journal.anybody(&mut dice).expect("some were made");
                    journal.tell_from(dice.below(3), to, dice.next(), 3);
                }
            }
        }
        let longest = 1 << (10 + dice.below(15));
        house
            .world
            .run_for(Duration::from_nanos(dice.below(longest)));
    }
    // Everything that waits for somebody outside goes on, until nothing is left.
    let quiet = (0..200).any(|_| {
        journal.ring_all();
        house.world.run_for(SECOND);
        journal.tickets() == 0
    });
    assert!(quiet, "{} messages were never handled", journal.tickets());
    let lost = journal.lost();
    let alive = living(&mut house);
    journal.check_lost(&lost, &alive);
    assert!(journal.begun() > 0);

    house.engine.handle().shutdown(HOUR);
    let ended = (0..200).any(|_| {
        journal.ring_all();
        house.world.run_until_finished(10 * SECOND)
    });
    assert!(ended, "a stage never ends");
    let report = house.engine.stopped().expect("it ended");
    assert_eq!(report.work_lost, 0, "{report}");
    journal.check();
    assert_eq!(journal.states(), 0, "a stage outlives the shutdown");
    drop(house);
    assert_eq!(journal.tickets(), 0, "a message outlives its engine");
}

#[test]
fn one_thing_at_a_time_in_each_senders_order() {
    for_seeds(
        "one_thing_at_a_time_in_each_senders_order",
        1000,
        witnesses_see_nothing_wrong,
    );
}

/// In 6750 a stage that has stopped itself still waits in its handler when all else is quiet, and
/// what it was told meanwhile is dropped.
#[test]
fn one_thing_at_a_time_with_the_seeds_that_failed_once() {
    let test = "one_thing_at_a_time_in_each_senders_order";
    run_seed(test, 6750, witnesses_see_nothing_wrong);
}

/// Stops itself with its first message, and takes a second to come to the end of it.
struct Leaver;

impl Stage for Leaver {
    type Msg = ();

    async fn on_message(&mut self, cx: &mut Cx<'_, Self>, (): ()) {
        cx.stop_self();
        cx.sleep(SECOND).await;
    }
}

#[test]
fn a_stage_that_stops_itself_takes_nothing_more_and_lives_until_its_handler_is_over() {
    let net = SimNet::new(1, Faults::none());
    let leavers = StageType::new("leaver").factory(|_| Leaver);
    let stages = Stages::builder().register(leavers);
    let mut house = House::new(&net, stages, |engine| engine.shards(1));
    let made = house.stages.get_or_create::<Leaver>(1);
    let leaver = house.until(SECOND, made).unwrap();
    // Both come before it stops: the second waits, and is dropped with its backlog.
    assert!(leaver.tell(()).is_ok() && leaver.tell(()).is_ok());
    house.world.run_for(SECOND / 2);
    assert_eq!(house.stages.total().messages, 1 + 1, "`on_create`, too");
    // Its shard finds out that it takes no more.
    assert!(leaver.tell(()).is_ok());
    house.world.run_for(SECOND / 4);
    let total = house.stages.total();
    assert_eq!((total.gone, total.dropped, total.ended), (1, 0, 0));
    let found = house.stages.get::<Leaver>(1);
    assert_eq!(
        house.until(SECOND / 8, found),
        Ok(None),
        "by its id it is found no more"
    );

    house.world.run_for(SECOND);
    let total = house.stages.total();
    assert_eq!((total.gone, total.dropped, total.ended), (1, 1, 1));
    let found = house.stages.get::<Leaver>(1);
    assert_eq!(house.until(SECOND, found), Ok(None));
}

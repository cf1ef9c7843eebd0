//! One thing at a time, in each sender's order, whatever happens: over many seeds.
#![cfg(feature = "sim")]

#[path = "support/dice.rs"]
mod dice;
#[path = "support/sim.rs"]
mod sim;
#[path = "support/witness.rs"]
mod witness;

use std::sync::Arc;
use std::time::Duration;

use dice::Dice;
use proscenium_engine::sim::SimNet;
use proscenium_stages::{OnPanic, StageType, Stages};
use sim::{HOUR, House, MILLISECOND, SECOND, for_seeds};
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
    House::new(net, stages, |engine| engine.shards(shards))
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
                    let made = house.stages.get_or_create::<Witness>(dice.below(IDS));
                    house.until(SECOND, made).expect("there is room");
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
    let alive = living(&mut house);
    journal.check(&alive);
    assert!(journal.begun() > 0);

    house.engine.handle().shutdown(HOUR);
    let ended = (0..200).any(|_| {
        journal.ring_all();
        house.world.run_until_finished(10 * SECOND)
    });
    assert!(ended, "a stage never ends");
    let report = house.engine.stopped().expect("it ended");
    assert_eq!(report.work_lost, 0, "{report}");
    journal.check(&[]);
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

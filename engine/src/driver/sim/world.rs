//! [`SimWorld`]: the runner that decides which shard turns next and moves the clock.

use std::time::Duration;

use super::net::SimNet;
use super::random::SimRandom;
use crate::time::Time;

/// What the runner needs to know of a shard (or of anything else that takes turns).
pub trait SimTurn {
    /// Does what can be done now, without sleeping. Each turn moves the clock at least by
    /// [`Costs::turn_ns`](super::Costs::turn_ns), because it waits for events.
    fn turn(&mut self);

    /// When it has to turn even if nothing happens: its earliest timer.
    fn next_deadline(&self) -> Option<Time>;

    /// True if a turn would find something to do: events of the network, a wake, a mailbox that
    /// is not empty, runnable stages. The runner turns no shard that says no (before its
    /// deadline), so what is missing here shows as a simulation that stands still.
    fn has_work(&self) -> bool;

    /// True once it will never do anything again. It is not turned any more.
    fn is_finished(&self) -> bool;
}

/// All shards of a simulation on one thread: in each step either one shard turns, drawn by the
/// seed among those that have a reason to, or the clock jumps to what happens next.
pub struct SimWorld {
    net: SimNet,
    shards: Vec<Turner>,
    random: SimRandom,
    /// The shard that turned last, for taking turns when nothing is shuffled.
    last: usize,
}

struct Turner {
    shard: Box<dyn SimTurn>,
    /// The processor is somebody else's until then.
    descheduled_until: Time,
}

/// What a step did.
enum Step {
    Turned,
    Jumped,
    /// Nothing happens until the limit of the step.
    Nothing,
}

impl SimWorld {
    /// A world of the network and these shards.
    pub fn new(net: &SimNet, shards: Vec<Box<dyn SimTurn>>) -> Self {
        let random = net.fork_random();
        let mut world = Self {
            net: net.clone(),
            shards: Vec::new(),
            random,
            last: 0,
        };
        shards.into_iter().for_each(|shard| world.add(shard));
        world
    }

    /// Adds a shard.
    pub fn add(&mut self, shard: Box<dyn SimTurn>) {
        self.shards.push(Turner {
            shard,
            descheduled_until: Time::ZERO,
        });
    }

    /// The network.
    pub fn net(&self) -> &SimNet {
        &self.net
    }

    /// Does the next thing, whenever that is. False if nothing will ever happen again.
    pub fn step(&mut self) -> bool {
        !matches!(self.step_until(Time::MAX), Step::Nothing)
    }

    /// Runs until the virtual time is at least `time`. (It can be a little later, by what the
    /// last turn cost.)
    pub fn run_until(&mut self, time: Time) {
        while self.net.now() < time {
            if matches!(self.step_until(time), Step::Nothing) {
                self.jump(time);
            }
        }
    }

    /// Runs for `duration` of virtual time.
    pub fn run_for(&mut self, duration: Duration) {
        self.run_until(self.net.now() + duration);
    }

    /// Runs until nothing is under way in the network and no shard has work, for `limit` at most.
    /// Deadlines that are still to come do not count, and neither do those resets which the fault
    /// plan holds for later. True if it became quiet.
    pub fn run_until_quiet(&mut self, limit: Duration) -> bool {
        let end = self.net.now() + limit;
        self.run_while(end, |world| !world.is_quiet())
    }

    /// Runs until `condition` holds, which is looked at before each step, for `limit` at most.
    /// True if it holds.
    pub fn run_until_true(&mut self, limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
        let end = self.net.now() + limit;
        self.run_while(end, |_| !condition())
    }

    /// Runs until all shards are finished, for `limit` at most. True if they are.
    pub fn run_until_finished(&mut self, limit: Duration) -> bool {
        let end = self.net.now() + limit;
        self.run_while(end, |world| {
            !world.shards.iter().all(|turner| turner.shard.is_finished())
        })
    }

    /// Runs while `go_on` says so, until `end` at most; true if it was `go_on` that ended it.
    fn run_while(&mut self, end: Time, mut go_on: impl FnMut(&Self) -> bool) -> bool {
        loop {
            self.settle();
            if !go_on(self) {
                return true;
            }
            if self.net.now() >= end || matches!(self.step_until(end), Step::Nothing) {
                self.jump(end);
                return !go_on(self);
            }
        }
    }

    fn is_quiet(&self) -> bool {
        self.net.is_quiet()
            && !self.shards.iter().any(|turner| {
                !turner.shard.is_finished()
                    && (turner.shard.has_work() || turner.descheduled_until > self.net.now())
            })
    }

    fn step_until(&mut self, end: Time) -> Step {
        self.settle();
        if let Some(shard) = self.choose() {
            self.turn(shard);
            return Step::Turned;
        }
        match self.next_at() {
            Some(at) if at <= end => {
                self.jump(at);
                Step::Jumped
            }
            _ => Step::Nothing,
        }
    }

    /// The shard whose turn it is.
    fn choose(&mut self) -> Option<usize> {
        let (shuffle, spurious) = {
            let network = self.net.shared.borrow();
            (network.faults.shuffle, network.faults.spurious_turn)
        };
        let now = self.net.now();
        let spurious = self.random.chance(spurious);
        let runnable: Vec<usize> = (0..self.shards.len())
            .map(|offset| (self.last + 1 + offset) % self.shards.len())
            .filter(|&index| {
                let turner = &self.shards[index];
                !turner.shard.is_finished()
                    && turner.descheduled_until <= now
                    && (spurious || turner.has_reason(now))
            })
            .collect();
        let chosen = if shuffle {
            self.random.index(runnable.len())
        } else {
            0
        };
        runnable.get(chosen).copied()
    }

    fn turn(&mut self, index: usize) {
        self.last = index;
        let (deschedule, longest) = {
            let mut network = self.net.shared.borrow_mut();
            network.note_turn(index);
            (network.faults.deschedule, network.faults.deschedule_max)
        };
        let before = self.net.now();
        self.shards[index].shard.turn();
        if self.net.now() == before {
            // It did not wait for events: let time pass all the same, so that the run goes on.
            self.net.shared.borrow_mut().clock.charge(1);
        }
        if self.random.chance(deschedule) {
            let time = self.random.duration(Duration::ZERO, longest);
            self.shards[index].descheduled_until = self.net.now() + time;
        }
    }

    /// When something happens next, given that no shard can turn now.
    fn next_at(&self) -> Option<Time> {
        let event = self.net.shared.borrow().clock.next_at();
        let now = self.net.now();
        let turners = self
            .shards
            .iter()
            .filter(|turner| !turner.shard.is_finished());
        let turns = turners.filter_map(|turner| {
            let reason = if turner.shard.has_work() {
                Some(now)
            } else {
                turner.shard.next_deadline()
            };
            Some(reason?.max(turner.descheduled_until))
        });
        event.into_iter().chain(turns).min()
    }

    fn jump(&mut self, at: Time) {
        self.net.shared.borrow_mut().clock.jump(at);
        self.settle();
    }

    fn settle(&mut self) {
        self.net.shared.borrow_mut().settle();
    }
}

impl Turner {
    fn has_reason(&self, now: Time) -> bool {
        self.shard.has_work() || self.shard.next_deadline().is_some_and(|at| at <= now)
    }
}

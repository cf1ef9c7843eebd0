//! The room server on the simulation: whatever happens to its clients, nobody is left behind in a
//! room, and no stage outlives its purpose.
#![cfg(all(feature = "sim", feature = "stages"))]

#[allow(dead_code, reason = "its `main` is not run")]
#[path = "../examples/room.rs"]
mod room;
#[path = "support/sim.rs"]
mod support;

use std::time::Duration;

use proscenium::sim::{Faults, SimNet, SimPeer, SimRandom, SimWorld};
use proscenium::{Address, Balance, Engine, Limits, Listener};
use support::{ADDRESS, SECOND, for_seeds};

const ROOMS: u64 = 5;

/// A client that says things at random, also what it should not say.
struct Guest {
    peer: SimPeer,
    unsent: Vec<u8>,
    heard: Vec<u8>,
}

impl Guest {
    fn new(net: &SimNet, to: &Address) -> Self {
        Self {
            peer: net.connect(to.clone()),
            unsent: Vec::new(),
            heard: Vec::new(),
        }
    }

    fn act(&mut self, random: &mut SimRandom) {
        let line = match random.below(8) {
            0..3 => format!("join r{} n{}", random.below(ROOMS), random.below(8)),
            3..6 => "say x".to_owned(),
            6 => "leave".to_owned(),
            _ => String::new(),
        };
        if self.unsent.len() < 4096 && !line.is_empty() {
            self.unsent.extend((line.len() as u32).to_be_bytes());
            self.unsent.extend(line.as_bytes());
        }
        let written = self.peer.write(&self.unsent);
        self.unsent.drain(..written);
        self.peer.read(&mut self.heard);
    }

    /// The lines that it heard completely.
    fn lines(&self) -> Vec<String> {
        let (mut lines, mut rest) = (Vec::new(), &self.heard[..]);
        while let Some((length, behind)) = rest.split_first_chunk::<4>() {
            let Some((line, behind)) =
                behind.split_at_checked(u32::from_be_bytes(*length) as usize)
            else {
                break;
            };
            lines.push(String::from_utf8(line.to_vec()).expect("it is text"));
            rest = behind;
        }
        lines
    }
}

fn run(net: &SimNet) -> usize {
    let mut random = net.fork_random();
    let mut world = SimWorld::new(net, Vec::new());
    let stages = room::stages().simulated().build();
    let listener = Listener::tcp(ADDRESS).unwrap();
    let balance = [Balance::ReusePort, Balance::RoundRobin][random.index(2)];
    let engine = Engine::builder()
        .shards(1 + random.index(3))
        .limits(Limits::default().idle_timeout(Duration::from_secs(60)))
        .listen(listener.balance(balance))
        .simulate(&mut world, stages.shards())
        .unwrap();
    stages.attach(&engine.handle());
    let address = engine.local_addrs()[0].clone();

    let (mut guests, mut joined) = (Vec::new(), 0);
    for _ in 0..random.between(50, 400) {
        if guests.len() < 12 && random.chance(0.2) {
            guests.push(Guest::new(net, &address));
        }
        for guest in &mut guests {
            if random.chance(0.5) {
                guest.act(&mut random);
            }
        }
        if !guests.is_empty() && random.chance(0.05) {
            let guest = guests.swap_remove(random.index(guests.len()));
            joined += check(&guest);
            if random.chance(0.5) {
                guest.peer.reset();
            }
        }
        world.run_for(random.duration(Duration::ZERO, Duration::from_millis(20)));
    }
    net.set_faults(Faults::none());
    joined += guests.iter().map(check).sum::<usize>();
    drop(guests);
    // Idle connections are given up, empty rooms leave memory.
    world.run_for(Duration::from_secs(300));
    let total = stages.total();
    assert_eq!(total.live, 0, "{total:?}");
    assert_eq!(total.panics, 0, "{total:?}");
    assert_eq!(engine.handle().stats().total().connections, 0);
    engine.handle().shutdown(5 * SECOND);
    assert!(world.run_until_finished(60 * SECOND));
    joined
}

/// What anybody hears makes sense; returns how often it was let into a room.
fn check(guest: &Guest) -> usize {
    let mut inside = false;
    let mut joined = 0;
    for line in guest.lines() {
        if line.starts_with("joined r") {
            assert!(!inside, "joined twice: {:?}", guest.lines());
            (inside, joined) = (true, joined + 1);
        } else if line.starts_with("left r") {
            assert!(inside, "left twice: {:?}", guest.lines());
            inside = false;
        }
    }
    joined
}

#[test]
fn nobody_is_left_behind() {
    let joined = std::cell::Cell::new(0);
    for_seeds("nobody_is_left_behind", 100, |net| {
        joined.set(joined.get() + run(net));
    });
    assert!(joined.get() > 0, "no seed let anybody into a room");
}

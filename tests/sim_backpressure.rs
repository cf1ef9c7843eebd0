//! Peers that do not read: memory stays bounded, nobody else suffers, each policy does what it
//! says.
#![cfg(feature = "sim")]

#[path = "support/recorder.rs"]
mod recorder;
#[path = "support/sim.rs"]
mod support;

use proscenium::sim::{Faults, SimNet, SimPeer, SimRandom};
use proscenium::{Limits, Listener, Overflow, RouterId};
use recorder::{Stage, Told};
use support::{
    Client, HOUR, Pace, SECOND, body, byte_budget, check_empty, check_limits, for_seeds, frame,
    take_frames,
};

/// Steps after which a flood that has not been stopped never will be: some networks take a byte
/// at a time, and their buffers and the queue's limits want to be filled first.
const STEPS_MAX: u32 = 200_000;

/// A peer that sends without end and reads only when it is told to.
struct Flood {
    peer: SimPeer,
    /// Every message sent in full, and what is left of the one under way.
    sent: Vec<Vec<u8>>,
    under_way: Vec<u8>,
    back: Vec<u8>,
    length: usize,
}

impl Flood {
    fn new(peer: SimPeer, length: usize) -> Self {
        Self {
            peer,
            sent: Vec::new(),
            under_way: Vec::new(),
            back: Vec::new(),
            length,
        }
    }

    /// Writes as much as the socket takes; true if that was something.
    fn write(&mut self) -> bool {
        let mut any = false;
        loop {
            if self.under_way.is_empty() {
                let message = body(self.sent.len() as u64, self.length);
                self.under_way = frame(&message);
                self.sent.push(message);
            }
            let written = self.peer.write(&self.under_way);
            self.under_way.drain(..written);
            any |= written > 0;
            if !self.under_way.is_empty() {
                return any;
            }
        }
    }

    /// Finishes the message under way, without beginning another; true if some of it was taken.
    fn wind_up(&mut self) -> bool {
        let written = self.peer.write(&self.under_way);
        self.under_way.drain(..written);
        written > 0
    }
}

/// The faults of the seed, but the network breaks nothing by itself.
fn without_breaks(net: &SimNet) {
    let mut faults = net.faults();
    faults.reset = 0.0;
    faults.accept_failure = 0.0;
    net.set_faults(faults);
}

fn small_limits(net: &SimNet, random: &mut SimRandom) -> (Limits, usize) {
    let frame_max = byte_budget(net).min(2000);
    let send_low = random.between_log(16, 1000) as usize;
    let limits = Limits::default()
        .frame_max(frame_max)
        .send_low(send_low)
        .send_high(send_low + random.between_log(16, 4000) as usize)
        .receive_chunk(4096)
        .linger(100 * HOUR);
    let length = random.between(frame_max as u64 / 8 + 1, frame_max as u64) as usize;
    (limits, length)
}

fn stage(net: &SimNet, limits: &Limits, overflow: Overflow) -> Stage {
    Stage::new(net, |builder| {
        let listener = Listener::tcp(support::ADDRESS).unwrap().overflow(overflow);
        builder.limits(limits.clone()).listen(listener)
    })
}

/// Floods until nothing moves any more, for 30 virtual seconds; or for so many steps.
fn flood_until_stuck(stage: &mut Stage, flood: &mut Flood, limits: &Limits, bound: u64) -> bool {
    let mut idle = 0;
    for _ in 0..STEPS_MAX {
        idle = if flood.write() { 0 } else { idle + 1 };
        stage.world.run_for(SECOND / 2);
        check_limits(&stage.engine.handle().stats(), limits);
        let queued = stage.total().send_queue_bytes;
        assert!(
            queued <= bound,
            "{queued} bytes are queued, the bound is {bound}"
        );
        if idle == 60 {
            return true;
        }
    }
    false
}

/// A well-behaved client is served in full while somebody floods.
fn serve_another(stage: &mut Stage, net: &SimNet, random: &mut SimRandom, limits: &Limits) {
    let target = stage.engine.local_addrs()[0].clone();
    let mut client = Client::patient(net, &target, byte_budget(net) / 4, limits.frame_max);
    let (mut pace, end) = (Pace::default(), net.now() + HOUR);
    while !client.is_done() {
        assert!(
            net.now() < end,
            "one peer that does not read delays another"
        );
        let moved = client.act(random);
        let time = pace.next(random, moved);
        stage.world.run_for(time);
    }
    assert!(
        !client.broken && client.has_all(),
        "not everything came back"
    );
}

fn a_reader_that_stops(net: &SimNet) {
    let mut random = net.fork_random();
    let (limits, length) = small_limits(net, &mut random);
    without_breaks(net);
    let mut stage = stage(net, &limits, Overflow::PauseReading);
    let mut flood = Flood::new(stage.connect(), length);
    stage.world.run_for(SECOND);
    let bound = (limits.send_high + limits.frame_max + 4) as u64;
    let stuck = flood_until_stuck(&mut stage, &mut flood, &limits, bound);
    assert!(
        stuck,
        "a peer that does not read may go on sending for ever"
    );
    assert!(stage.total().pauses > 0);
    serve_another(&mut stage, net, &mut random, &limits);

    // It reads again: everything comes, in order.
    let (mut pace, end) = (Pace::default(), net.now() + 12 * HOUR);
    let mut seen = Vec::new();
    while seen.len() < flood.sent.len() {
        assert!(
            net.now() < end,
            "{} of {} came",
            seen.len(),
            flood.sent.len()
        );
        flood.wind_up();
        let moved = flood.peer.read(&mut flood.back) > 0;
        seen.extend(take_frames(&mut flood.back));
        let time = pace.next(&mut random, moved);
        stage.world.run_for(time);
    }
    assert!(seen == flood.sent, "another order");
    drop(flood);
    net.set_faults(Faults::none());
    stage.world.run_for(HOUR);
    check_empty(&stage.engine.handle().stats());
}

#[test]
fn a_reader_that_stops_is_held_back_loses_nothing_and_delays_nobody() {
    for_seeds(
        "a_reader_that_stops_is_held_back_loses_nothing_and_delays_nobody",
        300,
        a_reader_that_stops,
    );
}

fn newest_are_dropped(net: &SimNet) {
    let mut random = net.fork_random();
    let (limits, length) = small_limits(net, &mut random);
    without_breaks(net);
    let mut stage = stage(net, &limits, Overflow::DropNewest);
    let mut flood = Flood::new(stage.connect(), length);
    stage.world.run_for(SECOND);
    let bound = (limits.send_high.max(limits.send_low + limits.frame_max + 4)) as u64;
    for _ in 0..30 {
        flood.write();
        stage.world.run_for(SECOND / 2);
        assert!(stage.total().send_queue_bytes <= bound);
    }
    let (mut pace, end) = (Pace::default(), net.now() + 12 * HOUR);
    let mut seen = Vec::new();
    while seen.len() as u64 + stage.total().dropped < flood.sent.len() as u64 {
        assert!(
            net.now() < end,
            "{} of {} came, {} were dropped",
            seen.len(),
            flood.sent.len(),
            stage.total().dropped
        );
        let moved = flood.wind_up() | (flood.peer.read(&mut flood.back) > 0);
        seen.extend(take_frames(&mut flood.back));
        let time = pace.next(&mut random, moved).max(SECOND / 10);
        stage.world.run_for(time);
    }
    let mut sent = flood.sent.iter();
    for message in &seen {
        assert!(
            sent.any(|sent| sent == message),
            "not among what was sent later"
        );
    }
    let dropped = stage.total().dropped;
    assert_eq!(seen.len() as u64 + dropped, flood.sent.len() as u64);
    let drained = stage.pick(|told| matches!(told, Told::Drained(_)).then_some(()));
    assert_eq!(
        drained.is_empty(),
        dropped == 0,
        "told once when there is room again"
    );
}

#[test]
fn the_newest_messages_are_dropped_and_counted() {
    for_seeds(
        "the_newest_messages_are_dropped_and_counted",
        150,
        newest_are_dropped,
    );
}

fn slow_consumers_are_closed(net: &SimNet) {
    let mut random = net.fork_random();
    let (limits, length) = small_limits(net, &mut random);
    without_breaks(net);
    let mut stage = stage(net, &limits, Overflow::Close);
    let mut flood = Flood::new(stage.connect(), length);
    stage.world.run_for(SECOND);
    let bound = (limits.send_high.max(limits.send_low + limits.frame_max + 4)) as u64;
    let id = stage.connects()[0];
    for _ in 0..STEPS_MAX {
        flood.write();
        stage.world.run_for(SECOND / 2);
        assert!(stage.total().send_queue_bytes <= bound);
        if stage.end_of(id).is_some() {
            break;
        }
    }
    let end = stage.end_of(id).expect("it is far behind");
    assert_eq!(end.1, "slow_consumer");
    let total = stage.total();
    assert_eq!((total.send_queue_bytes, total.send_buffer_bytes), (0, 0));
    assert!(total.bytes_lost > 0);
}

#[test]
fn slow_consumers_are_closed_where_the_policy_says_so() {
    for_seeds(
        "slow_consumers_are_closed_where_the_policy_says_so",
        150,
        slow_consumers_are_closed,
    );
}

/// Answers that wait for a peer that has half-closed are still written.
#[test]
fn a_peer_that_has_finished_still_gets_what_is_queued_for_it() {
    let net = SimNet::new(1, Faults::none());
    let limits = Limits::default().linger(HOUR);
    let mut stage = stage(&net, &limits, Overflow::PauseReading);
    let (mut peer, id): (SimPeer, RouterId) = stage.connected();
    let big = body(1, 900_000);
    stage.engine.with(0, |_, cx| cx.send(id, &big).unwrap());
    peer.finish();
    let mut back = Vec::new();
    while back.len() < big.len() + 4 {
        stage.world.run_for(SECOND);
        assert!(peer.read_at_most(50_000, &mut back) > 0);
    }
    stage.world.run_for(SECOND);
    assert!(back == frame(&big) && peer.is_read_closed());
    assert_eq!(
        stage.end_of(id).map(|(_, reason)| reason),
        Some("peer_closed")
    );
}

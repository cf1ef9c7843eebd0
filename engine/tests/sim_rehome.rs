//! Connections that move between shards all the time, in the simulation with faults: every byte
//! comes back in order, or a prefix of them and then an error.
#![cfg(feature = "sim")]

use std::net::SocketAddr;
use std::time::Duration;

use proscenium_engine::sim::{SimNet, SimPeer, SimRandom, SimWorld};
use proscenium_engine::{
    Balance, CloseReason, Context, Engine, Handler, Limits, Listener, Message, Peer, RouterId,
};

const SECOND: Duration = Duration::from_secs(1);

/// Sends back what comes, and moves one connection in eight to a random shard.
#[derive(Default)]
struct Wanderer {
    here: Vec<RouterId>,
}

impl Handler for Wanderer {
    type Post = ();

    fn on_connect(&mut self, _: &mut Context<'_, ()>, id: RouterId, _: &Peer) {
        self.here.push(id);
    }

    fn on_adopted(&mut self, _: &mut Context<'_, ()>, id: RouterId, _: &Peer) {
        self.here.push(id);
    }

    fn on_message(&mut self, cx: &mut Context<'_, ()>, from: RouterId, message: Message<'_>) {
        assert!(self.here.contains(&from));
        cx.send(from, &message).expect("the queue holds it");
        if cx.random().is_multiple_of(8) {
            let to = cx.random() as usize % cx.shards();
            cx.rehome(from, to).expect("it lives here");
        }
    }

    fn on_departed(&mut self, _: &mut Context<'_, ()>, id: RouterId, _: usize) {
        self.left(id);
    }

    fn on_disconnect(&mut self, _: &mut Context<'_, ()>, id: RouterId, _: &CloseReason) {
        self.left(id);
    }
}

impl Wanderer {
    fn left(&mut self, id: RouterId) {
        let at = self.here.iter().position(|here| *here == id);
        self.here.swap_remove(at.expect("it was here"));
    }
}

struct Client {
    peer: SimPeer,
    bytes: Vec<u8>,
    written: usize,
    back: Vec<u8>,
}

impl Client {
    fn new(peer: SimPeer, random: &mut SimRandom) -> Self {
        let mut bytes = Vec::new();
        for number in 0..random.between_log(1, 60) {
            let length = random.between_log(0, 3000);
            bytes.extend((length as u32).to_be_bytes());
            bytes.extend((0..length).map(|index| (index + number * 31) as u8));
        }
        Self {
            peer,
            bytes,
            written: 0,
            back: Vec::new(),
        }
    }

    /// Writes and reads a part. True if bytes moved.
    fn go_on(&mut self, random: &mut SimRandom) -> bool {
        let end = (self.written + random.index(5000)).min(self.bytes.len());
        let written = self.peer.write(&self.bytes[self.written..end]);
        self.written += written;
        if self.written == self.bytes.len() {
            self.peer.finish();
        }
        let read = self.peer.read_at_most(random.index(5000), &mut self.back);
        written + read > 0
    }

    fn is_over(&self) -> bool {
        self.peer.is_read_closed() || (self.peer.error().is_some() && self.peer.unread() == 0)
    }

    fn check(&self, seed: u64) {
        let length = self.back.len().min(self.bytes.len());
        assert!(
            self.back == self.bytes[..length],
            "seed {seed}: other bytes came back"
        );
        let whole = length == self.bytes.len();
        let error = self.peer.error();
        assert!(
            whole || error.is_some(),
            "seed {seed}: {length} bytes and a FIN"
        );
    }
}

/// Runs a seed; the hash of its trace.
fn run(seed: u64) -> u64 {
    let net = SimNet::from_seed(seed);
    let mut world = SimWorld::new(&net, Vec::new());
    let mut random = net.fork_random();
    let balance = if random.chance(0.5) {
        Balance::ReusePort
    } else {
        Balance::RoundRobin
    };
    let address = SocketAddr::from(([127, 0, 0, 1], 7000));
    // A patient linger time: stalls and buffers of a byte make some peers very slow.
    let limits = Limits::default()
        .receive_chunk(4096)
        .mailbox_max(64)
        .linger(SECOND * 3600);
    let engine = Engine::builder()
        .shards(3)
        .limits(limits)
        .listen(Listener::at(address).balance(balance))
        .simulate(&mut world, |_| Wanderer::default())
        .unwrap();
    let mut clients: Vec<Client> = (0..8)
        .map(|_| Client::new(net.connect(address), &mut random))
        .collect();
    // Ever longer while nothing moves: stalls and buffers of a byte take minutes of virtual time.
    let mut longest = 1000;
    while !clients.iter().all(Client::is_over) {
        assert!(
            net.now().as_nanos() < 3_000_000_000_000,
            "seed {seed}: no end"
        );
        let client = random.index(clients.len());
        let moved = clients[client].go_on(&mut random);
        longest = if moved {
            1000
        } else {
            (longest + longest / 4).min(1_000_000)
        };
        world.run_for(Duration::from_micros(random.between_log(1, longest)));
    }
    clients.iter().for_each(|client| client.check(seed));
    drop(clients);
    engine.handle().shutdown(SECOND * 5);
    world.run_for(SECOND * 30);
    let report = engine.stopped().expect("the deadline has passed");
    assert!(report.elapsed < SECOND * 6, "seed {seed}: {report}");
    for shard in 0..3 {
        assert!(
            engine.handler(shard).here.is_empty(),
            "seed {seed}: shard {shard}"
        );
    }
    assert_eq!(net.connections(), 0, "seed {seed}: connections are left");
    net.trace_hash()
}

#[test]
fn every_byte_arrives_while_connections_move() {
    (0..40).for_each(|seed| {
        run(seed);
    });
}

#[test]
fn the_production_shards_replay() {
    (0..5).for_each(|seed| assert_eq!(run(seed), run(seed), "seed {seed}"));
}

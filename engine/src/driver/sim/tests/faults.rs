//! Runs with faults: what may go wrong, what may not, and that a seed replays.

use super::*;
use crate::driver::sim::{Faults, SimEventKind, SimRandom};

/// A test's client: writes its bytes, finishes, reads what comes back.
struct Client {
    peer: super::super::SimPeer,
    bytes: Vec<u8>,
    written: usize,
    back: Vec<u8>,
}

impl Client {
    fn new(peer: super::super::SimPeer, length: usize) -> Self {
        Self {
            peer,
            bytes: pattern(length),
            written: 0,
            back: Vec::new(),
        }
    }

    fn go_on(&mut self, random: &mut SimRandom) {
        let most = random.index(5000);
        let end = (self.written + most).min(self.bytes.len());
        self.written += self.peer.write(&self.bytes[self.written..end]);
        if self.written == self.bytes.len() {
            self.peer.finish();
        }
        self.peer.read_at_most(random.index(5000), &mut self.back);
    }

    fn is_over(&self) -> bool {
        self.peer.is_read_closed() || (self.peer.error().is_some() && self.peer.unread() == 0)
    }

    /// Everything came back, or a prefix and then an error.
    fn check(&self, seed: u64) {
        let prefix = &self.bytes[..self.back.len().min(self.bytes.len())];
        assert!(self.back == prefix, "seed {seed}: other bytes came back");
        let whole = self.back.len() == self.bytes.len();
        let error = self.peer.error();
        assert!(
            whole || error.is_some(),
            "seed {seed}: {} bytes and a FIN",
            self.back.len()
        );
    }
}

/// What a run of a seed came to.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    hash: u64,
    end: Time,
    whole: usize,
    broken: usize,
}

/// Two shards echo what twelve clients send and what their own connections to the test bring.
fn run(seed: u64) -> Outcome {
    let net = SimNet::from_seed(seed);
    let target = net.listen(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let (mut shards, mut seen) = (Vec::<Box<dyn SimTurn>>::new(), Vec::new());
    for _ in 0..2 {
        let (mut shard, what) = Echo::new(listening(&net));
        (0..3).for_each(|_| shard.connect(target.local_addr()));
        shards.push(Box::new(shard));
        seen.push(what);
    }
    let mut target = target;
    let mut world = SimWorld::new(&net, shards);
    let mut random = net.fork_random();
    let mut clients: Vec<Client> = (0..12)
        .map(|_| {
            Client::new(
                net.connect(address()),
                random.between_log(1, 20_000) as usize,
            )
        })
        .collect();
    for steps in 0.. {
        assert!(steps < 2_000_000, "seed {seed}: no end");
        if let Some(peer) = target.accept() {
            clients.push(Client::new(peer, random.between_log(1, 20_000) as usize));
        }
        let client = random.index(clients.len());
        clients[client].go_on(&mut random);
        if clients.iter().all(Client::is_over) {
            break;
        }
        if !world.step() {
            // Everything waits for a client: the next one may be the one.
            world.run_for(Duration::from_micros(1));
        }
    }
    clients.iter().for_each(|client| client.check(seed));
    let end = net.now();
    let broken = clients
        .iter()
        .filter(|client| client.peer.error().is_some())
        .count();
    let whole = clients.len() - broken;
    drop(clients);
    drop(target);
    // A reset takes a round trip, a stall a few seconds, an attempt without an answer 127 s.
    world.run_for(SECOND * 200);
    assert_eq!(net.connections(), 0, "seed {seed}: connections are left");
    for seen in seen {
        let seen = seen.borrow();
        assert_eq!(
            seen.connected + seen.connect_failed,
            3,
            "seed {seed}: {seen:?}"
        );
    }
    Outcome {
        hash: net.trace_hash(),
        end,
        whole,
        broken,
    }
}

#[test]
fn everything_arrives_or_a_prefix_and_a_reset() {
    let outcomes: Vec<_> = (0..150).map(run).collect();
    let whole: usize = outcomes.iter().map(|outcome| outcome.whole).sum();
    let broken: usize = outcomes.iter().map(|outcome| outcome.broken).sum();
    assert!(whole > 500 && broken > 50, "{whole} whole, {broken} broken");
}

#[test]
fn a_seed_replays_and_another_one_differs() {
    let outcomes: Vec<_> = (0..20).map(run).collect();
    for (seed, outcome) in outcomes.iter().enumerate() {
        assert_eq!(&run(seed as u64), outcome, "seed {seed}");
        let same = outcomes
            .iter()
            .filter(|other| other.hash == outcome.hash)
            .count();
        assert_eq!(same, 1, "seed {seed} is not the only one with its trace");
    }
}

#[test]
fn running_out_of_descriptors_ends() {
    let mut faults = Faults::none();
    faults.accept_failure = 1.0;
    faults.accept_failure_max = Duration::from_millis(250);
    let net = SimNet::new(3, faults);
    let (mut world, seen) = Echo::world(&net);
    let peers: Vec<_> = (0..20).map(|_| net.connect(address())).collect();
    world.run_for(SECOND);
    {
        let seen = seen.borrow();
        assert_eq!(seen.accepted, 0);
        // One failure per pause of 100 ms, not one per turn.
        assert!((5..=11).contains(&seen.accept_failed), "{seen:?}");
    }
    net.set_faults(Faults::none());
    world.run_for(SECOND);
    let shed = peers.iter().filter(|peer| peer.is_read_closed()).count();
    assert_eq!(seen.borrow().accepted + shed, 20);
    assert!(shed > 0 && shed < 20, "{shed} were shed");
}

#[test]
fn accepting_goes_on_only_when_it_is_resumed() {
    let mut faults = Faults::none();
    faults.accept_failure = 1.0;
    faults.accept_failure_max = Duration::ZERO;
    let net = SimNet::new(3, faults);
    let mut driver = listening(&net);
    let _peers: Vec<_> = (0..3).map(|_| net.connect(address())).collect();
    pass(&net, SECOND);
    let seen = round(&mut driver, &mut [0; 8]);
    let [
        Completion::AcceptFailed {
            listener: 0, error, ..
        },
    ] = &seen[..]
    else {
        panic!("{seen:?}");
    };
    assert_eq!(error.raw_os_error(), Some(libc::EMFILE));
    net.set_faults(Faults::none());
    pass(&net, SECOND);
    let _more = net.connect(address());
    pass(&net, SECOND);
    assert!(round(&mut driver, &mut [0; 8]).is_empty());
    driver.resume_accept(0);
    let seen = round(&mut driver, &mut [0; 8]);
    assert!(seen.len() >= 3, "{seen:?}");
    assert!(
        seen.iter()
            .all(|seen| matches!(seen, Completion::Accepted { listener: 0, .. }))
    );
}

#[test]
fn sends_that_pretend_to_be_full_are_followed_by_a_sent() {
    let mut faults = Faults::none();
    faults.pending_send = 1.0;
    let net = SimNet::new(1, faults);
    let mut driver = listening(&net);
    let _peer = connected(&net, &mut driver);
    for _ in 0..3 {
        assert!(matches!(send(&mut driver, 0, b"abcd"), Submitted::Pending));
        let seen = round(&mut driver, &mut [0; 8]);
        assert!(
            matches!(seen[..], [Completion::Sent { conn: 0, len: 0 }]),
            "{seen:?}"
        );
    }
    let mut faults = Faults::none();
    faults.partial_send = 1.0;
    net.set_faults(faults);
    let mut lengths = [0; 5];
    for _ in 0..200 {
        let Submitted::Taken(taken) = send(&mut driver, 0, b"abcd") else {
            panic!("no room")
        };
        lengths[taken] += 1;
        assert_eq!(
            round(&mut driver, &mut [0; 8]).len(),
            usize::from(taken < 4)
        );
    }
    assert!(
        lengths[0] == 0 && lengths[1..].iter().all(|count| *count > 20),
        "{lengths:?}"
    );
}

#[test]
fn the_last_events_are_kept_and_print() {
    let net = SimNet::new(1, Faults::none());
    net.keep_last_events(3);
    let mut driver = listening(&net);
    let mut peer = connected(&net, &mut driver);
    peer.write(b"xyz");
    pass(&net, SECOND);
    round(&mut driver, &mut [0; 8]);
    let kinds: Vec<_> = net.last_events().iter().map(|event| event.kind).collect();
    assert_eq!(
        kinds,
        [
            SimEventKind::Taken,
            SimEventKind::Arrived,
            SimEventKind::Read
        ]
    );
    let text = net.last_events()[2].to_string();
    assert!(text.ends_with("end 1: Read 3"), "{text}");
}

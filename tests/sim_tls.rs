//! TLS on the simulation: whatever the network does to the bytes, wherever connections move,
//! however many want a handshake at once.

#[path = "support/sim.rs"]
mod support;
#[path = "support/wanderer.rs"]
mod wanderer;

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

use proscenium::sim::{Costs, Faults, SimNet, SimPeer, SimRandom, SimWorld};
use proscenium::{Address, Engine, Identity, Limits, Listener, TlsServer, TlsServerBuilder};
use rcgen::{CertificateParams, KeyPair, PKCS_ED25519};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use support::{ADDRESS, Echo, HOUR, SharedLog, body, byte_budget, for_seeds, frame, random_limits};
use wanderer::Wanderer;

/// A server's certificate and a client that trusts it. With Ed25519, whose signatures are all
/// equally long, so that a seed replays as far as lengths go.
fn trust() -> (TlsServerBuilder, Arc<ClientConfig>) {
    let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let params = CertificateParams::new(vec!["stage.test".to_owned()]).unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    let identity = Identity::from_pem(pem.as_bytes(), key.serialize_pem().as_bytes()).unwrap();
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    roots.add(root).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(rustls::DEFAULT_VERSIONS)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (TlsServer::builder(identity), Arc::new(config))
}

/// One at [`ADDRESS`].
fn listener(tls: TlsServerBuilder) -> Listener {
    let tls = tls.build().unwrap();
    Listener::tcp(ADDRESS).unwrap().tls(&tls)
}

/// A client that the test drives: TLS over a raw end of a simulated connection.
struct TlsPeer {
    peer: SimPeer,
    tls: ClientConnection,
    /// Encrypted and not written.
    unwritten: Vec<u8>,
    /// It has said that it is done.
    ended: bool,
    /// The server has said so.
    peer_ended: bool,
}

impl TlsPeer {
    fn new(net: &SimNet, to: &Address, config: &Arc<ClientConfig>) -> Self {
        let name = ServerName::try_from("stage.test").unwrap();
        Self {
            peer: net.connect(to.clone()),
            tls: ClientConnection::new(Arc::clone(config), name).unwrap(),
            unwritten: Vec::new(),
            ended: false,
            peer_ended: false,
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        self.tls.writer().write_all(bytes).unwrap();
    }

    fn end(&mut self) {
        if !std::mem::replace(&mut self.ended, true) {
            self.tls.send_close_notify();
        }
    }

    /// Moves at most `most` bytes each way; appends plaintext to `into`. True if any moved.
    fn pump(&mut self, most: usize, into: &mut Vec<u8>) -> bool {
        while self.tls.wants_write() {
            self.tls.write_tls(&mut self.unwritten).unwrap();
        }
        let written = self
            .peer
            .write(&self.unwritten[..most.min(self.unwritten.len())]);
        self.unwritten.drain(..written);
        let mut read = Vec::new();
        self.peer.read_at_most(most, &mut read);
        let mut rest = &read[..];
        while !rest.is_empty() {
            self.tls.read_tls(&mut rest).unwrap();
            let state = self
                .tls
                .process_new_packets()
                .expect("the server speaks TLS");
            let length = state.plaintext_bytes_to_read();
            let at = into.len();
            into.resize(at + length, 0);
            self.tls.reader().read_exact(&mut into[at..]).unwrap();
            self.peer_ended |= state.peer_has_closed();
        }
        written + read.len() > 0
    }
}

/// Something to send and to get back.
struct Talk {
    peer: TlsPeer,
    out: Vec<u8>,
    pushed: usize,
    back: Vec<u8>,
}

impl Talk {
    fn new(
        net: &SimNet,
        to: &Address,
        config: &Arc<ClientConfig>,
        bytes: usize,
        max: usize,
    ) -> Self {
        let mut random = net.fork_random();
        let mut out = Vec::new();
        while out.len() < bytes {
            let length = random.between_log(1, max as u64) as usize;
            let length = length.min(bytes);
            out.extend(frame(&body(random.next_u64(), length)));
        }
        Self {
            peer: TlsPeer::new(net, to, config),
            out,
            pushed: 0,
            back: Vec::new(),
        }
    }

    /// True if bytes moved.
    fn act(&mut self, random: &mut SimRandom) -> bool {
        let most = random.between_log(1, 20_000) as usize;
        if self.peer.unwritten.len() < 100_000 && self.pushed < self.out.len() {
            let end = (self.pushed + most).min(self.out.len());
            self.peer.push(&self.out[self.pushed..end]);
            self.pushed = end;
        }
        let most = random.between_log(1, 65_536) as usize;
        let moved = self.peer.pump(most, &mut self.back);
        assert!(
            self.out.starts_with(&self.back),
            "what comes back is what was sent"
        );
        if self.back.len() == self.out.len() {
            self.peer.end();
        }
        moved
    }

    fn is_over(&self) -> bool {
        self.peer.peer.error().is_some() || self.peer.peer.is_read_closed()
    }
}

/// Talks until all of it is over, and checks what is left.
fn talk(
    world: &mut SimWorld,
    random: &mut SimRandom,
    mut talks: Vec<Talk>,
    faults: &Faults,
    log: &SharedLog,
    stats: impl Fn() -> proscenium::ShardStats,
) {
    for _ in 0..200_000 {
        let mut moved = false;
        for talk in &mut talks {
            moved |= talk.act(random);
        }
        // With nothing to do for us, the network is what we wait for.
        let longest = if moved { 1_000_000 } else { 100_000_000 };
        world.run_for(Duration::from_nanos(random.between_log(1000, longest)));
        if talks.iter().all(Talk::is_over) {
            break;
        }
    }
    for talk in &talks {
        assert!(
            talk.is_over(),
            "{} of {} bytes came",
            talk.back.len(),
            talk.out.len()
        );
        // Limits so narrow that the echo gave a connection up are another test's matter.
        let given_up = log.borrow().lives.values().any(|life| life.spoiled);
        if talk.peer.peer.error().is_none() && faults.accept_failure == 0.0 && !given_up {
            assert_eq!(talk.back.len(), talk.out.len(), "an end before the end");
            assert!(talk.peer.peer_ended, "our stream ended as TLS wants it");
        }
    }
    drop(talks);
    world.run_for(HOUR);
    let total = stats();
    assert_eq!((total.connections, total.send_queue_bytes), (0, 0));
    assert_eq!((total.send_buffer_bytes, total.reassembly_bytes), (0, 0));
    for reason in ["tls", "bad_frame", "handshake_failed"] {
        let broken = faults.reset > 0.0 || faults.accept_failure > 0.0;
        assert!(total.closed(reason) == 0 || broken, "{reason}");
    }
}

fn echo(net: &SimNet) {
    let (server, config) = trust();
    let mut random = net.fork_random();
    let mut world = SimWorld::new(net, Vec::new());
    // A deadline that no simulated network makes anybody miss.
    let limits = random_limits(&mut random)
        .handshake_timeout(HOUR)
        .linger(HOUR);
    let frame_max = limits.frame_max.min(100_000);
    let log = SharedLog::default();
    let engine = Engine::builder()
        .shards(random.between(1, 3) as usize)
        .limits(limits)
        .listen(listener(server))
        .simulate(&mut world, |_| Echo::new(&log))
        .unwrap();
    let target = engine.local_addrs()[0].clone();
    let budget = byte_budget(net);
    let talks = (0..random.between(1, 4))
        .map(|_| Talk::new(net, &target, &config, budget, frame_max))
        .collect();
    let handle = engine.handle();
    let faults = net.faults();
    talk(&mut world, &mut random, talks, &faults, &log, || {
        handle.stats().total()
    });
}

#[test]
fn an_echo_holds_whatever_the_network_does_to_the_records() {
    for_seeds(
        "an_echo_holds_whatever_the_network_does_to_the_records",
        150,
        echo,
    );
}

fn wander(net: &SimNet) {
    let (server, config) = trust();
    let mut random = net.fork_random();
    let mut world = SimWorld::new(net, Vec::new());
    let log = SharedLog::default();
    let limits = Limits::default().handshake_timeout(HOUR).linger(HOUR);
    let engine = Engine::builder()
        .shards(random.between(2, 4) as usize)
        .limits(limits)
        .listen(listener(server))
        .simulate(&mut world, |_| Wanderer::new(&log))
        .unwrap();
    let target = engine.local_addrs()[0].clone();
    let budget = byte_budget(net).min(50_000);
    let talks = (0..3)
        .map(|_| Talk::new(net, &target, &config, budget, 20_000))
        .collect();
    let handle = engine.handle();
    let faults = net.faults();
    talk(&mut world, &mut random, talks, &faults, &log, || {
        handle.stats().total()
    });
    let moves: u32 = log.borrow().lives.values().map(|life| life.moves).sum();
    let messages: u64 = log.borrow().lives.values().map(|life| life.messages).sum();
    assert!(moves > 0 || messages < 2, "{messages} messages and no move");
}

#[test]
fn connections_move_with_their_keys_and_half_their_records() {
    for_seeds(
        "connections_move_with_their_keys_and_half_their_records",
        150,
        wander,
    );
}

/// The number of turns and of handshakes, not the time, bounds what a flood costs the others.
#[test]
fn a_flood_of_handshakes_leaves_the_established_their_turns() {
    const CAP: usize = 2;
    const FLOOD: u64 = 200;
    let net = SimNet::new(1, Faults::none());
    let mut costs = Costs::default();
    costs.turn_ns = 50_000;
    net.set_costs(costs);
    let (server, config) = trust();
    let mut world = SimWorld::new(&net, Vec::new());
    let log = SharedLog::default();
    let engine = Engine::builder()
        .limits(Limits::default().handshakes_per_turn(CAP))
        .listen(listener(server))
        .simulate(&mut world, |_| Wanderer::new(&log))
        .unwrap();
    let target = engine.local_addrs()[0].clone();
    let handle = engine.handle();
    let stats = || handle.stats().total();
    let mut established = TlsPeer::new(&net, &target, &config);
    let ping = frame(b"ping");
    let mut back = Vec::new();
    established.push(&ping);
    for _ in 0..10_000 {
        established.pump(usize::MAX, &mut back);
        world.run_for(Duration::from_micros(10));
    }
    assert_eq!(back, ping);
    let mut flood: Vec<TlsPeer> = (0..FLOOD)
        .map(|_| TlsPeer::new(&net, &target, &config))
        .collect();
    let (mut pongs, mut asked) = (0, stats());
    let mut before = stats();
    back.clear();
    established.push(&ping);
    while stats().handshakes < 1 + FLOOD {
        established.pump(usize::MAX, &mut back);
        for peer in &mut flood {
            peer.pump(usize::MAX, &mut Vec::new());
        }
        if back == ping {
            let now = stats();
            let turns = now.turns - asked.turns;
            // There and back takes 100 µs, two turns; and each turn lets everybody speak.
            assert!(turns <= 6, "a ping took {turns} turns");
            assert!(now.handshake_steps - asked.handshake_steps <= 6 * CAP as u64);
            pongs += 1;
            back.clear();
            established.push(&ping);
            asked = now;
        }
        world.run_for(Duration::from_micros(5));
        let now = stats();
        let (turns, steps) = (
            now.turns - before.turns,
            now.handshake_steps - before.handshake_steps,
        );
        assert!(
            steps <= turns * CAP as u64,
            "{steps} steps in {turns} turns"
        );
        before = now;
    }
    let total = stats();
    assert!(
        total.handshakes_deferred > FLOOD / 2,
        "{}",
        total.handshakes_deferred
    );
    assert_eq!(
        total.handshake_steps,
        2 * (1 + FLOOD),
        "a hello and an end each"
    );
    assert!(
        pongs > FLOOD / 6,
        "{pongs} answers while {FLOOD} others shook hands"
    );
    assert_eq!(total.closed("handshake_timeout"), 0);
}

/// Those that waited go first, and in the order in which they came.
#[test]
fn handshakes_that_wait_are_made_in_order() {
    let net = SimNet::new(1, Faults::none());
    let (server, config) = trust();
    let mut world = SimWorld::new(&net, Vec::new());
    let log = SharedLog::default();
    let engine = Engine::builder()
        .limits(Limits::default().handshakes_per_turn(1))
        .listen(listener(server))
        .simulate(&mut world, |_| Wanderer::new(&log))
        .unwrap();
    let target = engine.local_addrs()[0].clone();
    let mut peers: Vec<TlsPeer> = (0..20)
        .map(|_| TlsPeer::new(&net, &target, &config))
        .collect();
    let mut answered = Vec::new();
    for _ in 0..10_000 {
        for (number, peer) in peers.iter_mut().enumerate() {
            // The first record that comes is the answer to the hello.
            if peer.peer.unread() > 0 && !answered.contains(&number) {
                answered.push(number);
            }
            peer.pump(usize::MAX, &mut Vec::new());
        }
        world.run_for(Duration::from_micros(1));
    }
    assert_eq!(engine.handle().stats().total().handshakes, 20);
    assert_eq!(answered, (0..20).collect::<Vec<_>>());
}

//! Nodes on the simulated network: partitions, half-open connections, duplicate names, both sides
//! dialling, restarts under the same name, slow peers. Whatever happens: no request hangs, no reply
//! reaches the wrong caller, and messages of one node to another never overtake each other.
//!
//! `PROSCENIUM_SEEDS` sets the number of seeds, `PROSCENIUM_SEED` replays one.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use proscenium_engine::sim::{Faults, SimEngine, SimNet, SimRandom, SimWorld};
use proscenium_engine::{Address, Backoff};
use proscenium_nodelink::{
    Endpoint, LinkEnd, Nid, Node, NodeContext, NodeHandler, NodeMessage, NodeOptions, NodeShard,
    ReplyRef, ReplyTo, RequestError, RequestOptions, RouteHeader,
};

#[path = "../../tests/support/seeds.rs"]
mod seeds;
use seeds::for_seeds;

const NODES: usize = 3;
const DEADLINE: Duration = Duration::from_secs(5);
/// Enough for a few hundred bytes, one at a time.
const PATIENCE: Duration = Duration::from_secs(600);

/// What becomes of what arrives: a request is answered at once, later or never, or is none.
const ANSWERED: u8 = 0;
const KEPT: u8 = 1;
const IGNORED: u8 = 2;
const MESSAGE: u8 = 9;

/// One run of a node. No two have the same number.
type Run = u64;

#[derive(Default)]
struct Book {
    runs: Run,
    tokens: u64,
    /// Requests without an end: token to who asked.
    outstanding: BTreeMap<u64, Run>,
    /// The last number of each run that each run has seen.
    seen: BTreeMap<(Run, Run), u64>,
    /// The newest run of each name that each run has heard.
    newest: BTreeMap<(String, Run), Run>,
    /// A second node uses somebody's name.
    has_impostor: bool,
    arrived: u64,
    answered: u64,
    failed: u64,
}

/// What a message says about itself, so that whoever gets it can judge.
struct Content {
    run: Run,
    number: u64,
    /// How a request is to be treated.
    treatment: u8,
}

impl Content {
    fn encode(&self, length: usize) -> Vec<u8> {
        let mut bytes = self.run.to_le_bytes().to_vec();
        bytes.extend_from_slice(&self.number.to_le_bytes());
        bytes.push(self.treatment);
        bytes.resize(17 + length, self.number as u8);
        bytes
    }

    fn decode(bytes: &[u8]) -> Self {
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        let number = word(8);
        assert!(
            bytes[17..].iter().all(|&byte| byte == number as u8),
            "the bytes are damaged"
        );
        Self {
            run: word(0),
            number,
            treatment: bytes[16],
        }
    }
}

struct Actor {
    run: Run,
    next: BTreeMap<usize, u64>,
    kept: Vec<(ReplyTo, Vec<u8>)>,
    book: Rc<RefCell<Book>>,
}

impl NodeHandler<()> for Actor {
    fn on_message(&mut self, cx: &mut NodeContext<'_, '_, ()>, message: NodeMessage<'_>) {
        let content = Content::decode(message.payload);
        assert_eq!(message.header.from, message.from.as_str());
        assert_eq!(message.header.payload_size as usize, message.payload.len());
        {
            let mut book = self.book.borrow_mut();
            book.arrived += 1;
            let last = book.seen.entry((content.run, self.run)).or_default();
            assert!(*last < content.number, "{} after {last}", content.number);
            *last = content.number;
            let has_impostor = book.has_impostor;
            let name = message.from.to_string();
            let newest = book.newest.entry((name, self.run)).or_default();
            assert!(
                has_impostor || *newest <= content.run,
                "run {} speaks after its successor {newest}",
                content.run
            );
            *newest = content.run.max(*newest);
        }
        let payload = message.payload.to_vec();
        match (message.reply_to, content.treatment) {
            (Some(reply_to), ANSWERED) => self.answer(cx, reply_to, &payload),
            (Some(reply_to), KEPT) => self.kept.push((reply_to, payload)),
            (Some(_), _) => {} // never answered
            (None, treatment) => assert_eq!(treatment, MESSAGE, "a request lost its number"),
        }
    }

    fn on_reply(
        &mut self,
        _cx: &mut NodeContext<'_, '_, ()>,
        token: u64,
        reply: Result<ReplyRef<'_>, RequestError>,
    ) {
        let mut book = self.book.borrow_mut();
        let asked_by = book.outstanding.remove(&token);
        assert_eq!(
            asked_by,
            Some(self.run),
            "request {token} ended twice, or elsewhere"
        );
        match reply {
            Ok(reply) => {
                assert_eq!(
                    reply.header.stage_id as u64, token,
                    "the reply of another request"
                );
                assert_eq!(Content::decode(reply.payload).run, self.run);
                book.answered += 1;
            }
            Err(RequestError::Send(error)) => panic!("{error}: was to be told at once"),
            Err(_) => book.failed += 1,
        }
    }
}

impl Actor {
    fn answer(&self, cx: &mut NodeContext<'_, '_, ()>, to: ReplyTo, payload: &[u8]) {
        let asked = Content::decode(payload);
        let header = RouteHeader {
            msg_id: "Reply",
            // The token of the request is behind the number, see `Mesh::talk`.
            stage_id: (asked.number >> 32) as i64,
            ..RouteHeader::default()
        };
        let _ = cx.reply(to, &header, payload);
    }
}

struct Instance {
    engine: SimEngine<NodeShard<Actor>>,
    run: Run,
    /// The name it goes by.
    name: usize,
}

struct Mesh {
    net: SimNet,
    world: SimWorld,
    random: SimRandom,
    book: Rc<RefCell<Book>>,
    nodes: Vec<Instance>,
    /// Who dials whom.
    dials: Vec<(usize, usize)>,
    split: bool,
    queue: usize,
    /// Of a hundred things that happen, so many are connections that stall.
    stalls: u64,
    restarts: bool,
    /// Before a lost link is dialled again, in milliseconds.
    backoff: [u64; 2],
}

fn nid(node: usize) -> Nid {
    Nid::new(&format!("node-{node}")).unwrap()
}

fn address(place: usize) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 7000 + place as u16))
}

impl Mesh {
    fn new(net: &SimNet) -> Self {
        let mut random = net.fork_random();
        let split = random.chance(0.2);
        Self::with(net, random, split)
    }

    fn with(net: &SimNet, mut random: SimRandom, split: bool) -> Self {
        let mut dials = Vec::new();
        for a in 0..NODES {
            for b in a + 1..NODES {
                match random.below(if split { 1 } else { 3 }) {
                    0 => dials.extend([(a, b), (b, a)]),
                    1 => dials.push((a, b)),
                    _ => dials.push((b, a)),
                }
            }
        }
        let mut mesh = Self {
            net: net.clone(),
            world: SimWorld::new(net, Vec::new()),
            book: Rc::default(),
            nodes: Vec::new(),
            dials,
            split,
            queue: if random.chance(0.3) { 20 } else { 100_000 },
            stalls: 3,
            restarts: true,
            backoff: [50, 1000],
            random,
        };
        for node in 0..NODES {
            let instance = mesh.start(node, node);
            mesh.nodes.push(instance);
        }
        mesh
    }

    fn start(&mut self, name: usize, place: usize) -> Instance {
        let millis = Duration::from_millis;
        let options = NodeOptions::new(nid(name))
            .split(self.split)
            .handshake_deadline(millis(2000))
            .heartbeat(millis(500))
            // Not alike: one end may have given up what the other still believes in.
            .dead_after(millis([1000, 2000, 15_000][self.random.index(3)]))
            .request_deadline(DEADLINE)
            .queue_messages_max(self.queue)
            .backoff(Backoff {
                first: millis(self.backoff[0]),
                max: millis(self.backoff[1]),
            });
        let mut builder = Node::builder(options).bind(address(place));
        for &(from, to) in &self.dials {
            if from == name {
                let to = Endpoint::of(nid(to), address(to));
                builder = builder.connect(to);
            }
        }
        let (engine, link) = builder.prepare().unwrap();
        let run = {
            let mut book = self.book.borrow_mut();
            book.runs += 1;
            book.runs
        };
        let actor = Actor {
            run,
            next: BTreeMap::new(),
            kept: Vec::new(),
            book: Rc::clone(&self.book),
        };
        let mut shard = Some(NodeShard::new(link, actor));
        let engine = engine
            // Engines of one network would draw the same numbers otherwise.
            .seed(self.random.next_u64())
            .simulate(&mut self.world, |_| shard.take().unwrap())
            .unwrap();
        Instance { engine, run, name }
    }

    /// A node ends without a word and begins again.
    fn restart(&mut self, node: usize) {
        let run = self.nodes[node].run;
        self.nodes[node].engine.handle().shutdown(Duration::ZERO);
        let engine = &self.nodes[node].engine;
        let ended = self
            .world
            .run_until_true(Duration::from_secs(60), || engine.stopped().is_some());
        assert!(ended, "a node does not end");
        // Its own requests ended with it.
        self.book
            .borrow_mut()
            .outstanding
            .retain(|_, of| *of != run);
        let name = self.nodes[node].name;
        self.nodes[node] = self.start(name, node);
    }

    /// `from` sends `to` a message or a request.
    fn talk(&mut self, from: usize, to: usize) {
        let treatment = match self.random.below(10) {
            0..=3 => MESSAGE,
            4..=6 => ANSWERED,
            7 | 8 => KEPT,
            _ => IGNORED,
        };
        let length = match self.random.below(20) {
            0 => self.random.below(200_000) as usize,
            _ => self.random.below(300) as usize,
        };
        self.say(from, to, treatment, length, DEADLINE);
    }

    fn say(&mut self, from: usize, to: usize, treatment: u8, length: usize, deadline: Duration) {
        let book = Rc::clone(&self.book);
        self.nodes[from].engine.with(0, |shard, cx| {
            let (link, actor) = shard.parts();
            let number = actor.next.entry(to).or_insert(0);
            *number += 1;
            let token = book.borrow().tokens + 1;
            let content = Content {
                run: actor.run,
                number: *number | token << 32,
                treatment,
            };
            // Order is judged by the number; the token above it only grows.
            let payload = content.encode(length);
            let header = RouteHeader {
                msg_id: "Talk",
                ..RouteHeader::default()
            };
            let name = nid(to);
            let mut node = link.with(cx);
            book.borrow_mut().tokens = token;
            if treatment == MESSAGE {
                let _ = node.send(&name, &header, &payload);
                return;
            }
            let options = RequestOptions::within(deadline);
            if node
                .request(&name, &header, &payload, options, token)
                .is_ok()
            {
                book.borrow_mut().outstanding.insert(token, actor.run);
            }
        });
    }

    fn answer_kept(&mut self, node: usize) {
        self.nodes[node].engine.with(0, |shard, cx| {
            let (link, actor) = shard.parts();
            for (to, payload) in std::mem::take(&mut actor.kept) {
                actor.answer(&mut link.with(cx), to, &payload);
            }
        });
    }

    /// One random thing happens.
    fn step(&mut self) {
        let count = self.nodes.len();
        match self.random.below(100) {
            0 if self.restarts => {
                let node = self.random.index(count);
                self.restart(node);
            }
            chance if chance <= self.stalls => {
                let at = Address::from(address(self.random.index(count)));
                let (to, from) = match self.random.below(3) {
                    0 => (true, true),
                    1 => (true, false),
                    _ => (false, true),
                };
                let most = Duration::from_secs(8);
                let time = self.random.duration(Duration::from_millis(1), most);
                self.net.stall(&at, to, from, time);
            }
            1..=60 => {
                let from = self.random.index(count);
                let to = self.random.index(NODES);
                for _ in 0..=self.random.below(5) {
                    self.talk(from, to);
                }
            }
            61..=75 => {
                let node = self.random.index(count);
                self.answer_kept(node);
            }
            _ => {
                let most = Duration::from_millis(800);
                let time = self.random.duration(Duration::from_micros(10), most);
                self.world.run_for(time);
            }
        }
    }

    /// No faults any more, and nothing new is said: every request has an end.
    fn settle(&mut self) {
        self.net.set_faults(Faults::none());
        self.world.run_for(DEADLINE + Duration::from_secs(2));
        let outstanding = self.book.borrow().outstanding.clone();
        assert!(outstanding.is_empty(), "requests hang: {outstanding:?}");
    }

    fn routable(&self, from: usize, to: usize) -> bool {
        self.nodes[from].engine.with(0, |shard, _| {
            let link = shard.link();
            let peer = link.peer(&nid(to));
            peer.is_some_and(|peer| link.is_routable(peer))
        })
    }

    /// Bytes that wait for links.
    fn waiting(&self) -> usize {
        let of = |instance: &Instance| {
            instance.engine.with(0, |shard, cx| {
                let stats = shard.parts().0.with(cx).stats();
                let peers = stats.peers.iter();
                peers.map(|peer| peer.queued_bytes).sum::<usize>()
            })
        };
        self.nodes.iter().map(of).sum()
    }

    /// Every node reaches every other one, and gets its answers.
    fn recovers(&mut self) {
        let pairs: Vec<_> = (0..NODES)
            .flat_map(|a| (0..NODES).map(move |b| (a, b)))
            .filter(|(a, b)| a != b)
            .collect();
        self.world.run_for(Duration::from_secs(40));
        // A connection that was made among faults may be slow for ever: what waits for it takes
        // its time, and leaves.
        for _ in 0..5000 {
            if self.waiting() == 0 {
                break;
            }
            self.world.run_for(Duration::from_secs(10));
        }
        assert_eq!(self.waiting(), 0, "bytes do not leave");
        for &(from, to) in &pairs {
            assert!(self.routable(from, to), "{from} does not reach {to}");
        }
        for (from, to) in pairs {
            let before = self.book.borrow().answered;
            // Short, for those slow connections.
            self.say(from, to, ANSWERED, 30, PATIENCE);
            let (book, world) = (&self.book, &mut self.world);
            world.run_until_true(PATIENCE * 2, || book.borrow().outstanding.is_empty());
            let book = self.book.borrow();
            assert!(book.outstanding.is_empty(), "{:?}", book.outstanding);
            assert_eq!(book.answered, before + 1, "{to} does not answer {from}");
        }
    }
}

#[test]
fn a_mesh_under_faults_keeps_its_promises_and_recovers() {
    let test = "a_mesh_under_faults_keeps_its_promises_and_recovers";
    for_seeds(test, 15, |net| {
        let mut mesh = Mesh::new(net);
        for _ in 0..300 {
            mesh.step();
        }
        mesh.settle();
        mesh.recovers();
        let book = mesh.book.borrow();
        assert!(book.arrived > 0 && book.answered > 0, "nothing was said");
    });
}

/// All nodes dial each other, and links stall so often that one end gives many up while the other
/// still believes in them: what these still bring must not come behind what was sent since.
#[test]
fn links_that_one_end_has_given_up_bring_nothing_late() {
    let test = "links_that_one_end_has_given_up_bring_nothing_late";
    for_seeds(test, 8, |net| {
        // Everything but stalls is well: the more of them there are.
        net.set_faults(Faults::none());
        let mut mesh = Mesh::with(net, net.fork_random(), true);
        mesh.split = false;
        mesh.stalls = 12;
        mesh.restarts = false;
        // Else the new link takes the place of the old one before that brings anything.
        mesh.backoff = [3000, 6000];
        for node in 0..NODES {
            mesh.restart(node);
        }
        for _ in 0..600 {
            mesh.step();
        }
        mesh.settle();
        mesh.recovers();
    });
}

#[test]
fn two_nodes_of_one_name_harm_nobody_else() {
    let test = "two_nodes_of_one_name_harm_nobody_else";
    for_seeds(test, 8, |net| {
        let mut mesh = Mesh::new(net);
        mesh.book.borrow_mut().has_impostor = true;
        let impostor = mesh.start(0, NODES);
        mesh.nodes.push(impostor);
        for _ in 0..200 {
            mesh.step();
        }
        mesh.settle();
        // When one of the two is gone, everything is well again.
        let impostor = mesh.nodes.pop().unwrap();
        impostor.engine.handle().shutdown(Duration::ZERO);
        mesh.recovers();
    });
}

/// A PING behind much else has not been asked yet, and who is told much is not silent therefore.
#[test]
fn a_long_message_on_a_slow_link_is_no_sign_of_death() {
    let test = "a_long_message_on_a_slow_link_is_no_sign_of_death";
    for_seeds(test, 10, |net| {
        // About 2 KB a second.
        let mut faults = Faults::none();
        faults.latency = Duration::from_millis(20)..=Duration::from_millis(20);
        faults.buffer_bytes = 85..=85;
        net.set_faults(faults);
        let mut mesh = Mesh::with(net, net.fork_random(), false);
        mesh.world.run_for(Duration::from_secs(5));
        for (from, to) in [(0, 1), (1, 2)] {
            assert!(mesh.routable(from, to), "{from} does not reach {to}");
            mesh.say(from, to, MESSAGE, 40_000, DEADLINE);
        }
        mesh.world.run_for(Duration::from_secs(60));
        assert_eq!(mesh.book.borrow().arrived, 2);
        for instance in &mesh.nodes {
            instance.engine.with(0, |shard, cx| {
                let stats = shard.parts().0.with(cx).stats();
                assert_eq!(stats.ended(LinkEnd::Dead), 0, "{stats:?}");
            });
        }
    });
}

#[test]
fn what_is_said_in_one_turn_leaves_in_one_write() {
    let net = SimNet::new(1, Faults::none());
    let mut mesh = Mesh::with(&net, net.fork_random(), false);
    mesh.world.run_for(Duration::from_secs(5));
    assert!(mesh.routable(0, 1));
    let written = |mesh: &Mesh| {
        let stats = mesh.nodes[0].engine.handle().stats().total();
        (stats.writes, stats.messages_out)
    };
    let (writes, messages) = written(&mesh);
    for _ in 0..100 {
        mesh.say(0, 1, MESSAGE, 30, DEADLINE);
    }
    mesh.world.run_for(Duration::from_secs(1));
    assert_eq!(mesh.book.borrow().arrived, 100);
    let (writes, messages) = (written(&mesh).0 - writes, written(&mesh).1 - messages);
    // Heartbeats come besides, each by itself at worst.
    let most = 1 + messages - 100;
    assert!(writes <= most, "{writes} writes of {messages} messages");
}

#[test]
fn a_quiet_mesh_stays_up_and_costs_nothing_but_heartbeats() {
    let net = SimNet::new(1, Faults::none());
    let mut mesh = Mesh::new(&net);
    mesh.world.run_for(Duration::from_secs(3600));
    for instance in &mesh.nodes {
        instance.engine.with(0, |shard, cx| {
            let stats = shard.parts().0.with(cx).stats();
            assert_eq!(stats.ended.iter().sum::<u64>(), 0, "{stats:?}");
            assert_eq!(stats.peers.len(), NODES - 1);
        });
    }
}

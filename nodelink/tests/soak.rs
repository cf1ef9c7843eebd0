//! Meshes of many nodes on real sockets, some of which are killed and restarted all the time, and
//! a million requests under way: a short form always, the long forms with `--ignored`
//! (`cargo xtask test --all`).

#![allow(clippy::print_stdout, reason = "what was measured is a result, too")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use proscenium_engine::Backoff;
use proscenium_nodelink::directory::{ServerInfo, ServerType};
use proscenium_nodelink::{
    Endpoint, Nid, Node, NodeContext, NodeHandle, NodeHandler, NodeMessage, NodeOptions, PeerStats,
    ReplyTo, RequestError, RequestOptions, SendError,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::{PATIENCE, any, header, options, wait_until};

/// What became of each request, by its number.
struct Ledger {
    /// How often the caller was told.
    told: Vec<AtomicU8>,
    /// How often a node handled it.
    handled: Vec<AtomicU8>,
    next: AtomicUsize,
    answered: AtomicU64,
    failed: AtomicU64,
    wrong: AtomicU64,
    /// The longest that anybody waited for anything, in nanoseconds.
    longest: AtomicU64,
}

impl Ledger {
    fn new(most: usize) -> Arc<Self> {
        let zeros = || (0..most).map(|_| AtomicU8::new(0)).collect();
        Arc::new(Self {
            told: zeros(),
            handled: zeros(),
            next: AtomicUsize::new(0),
            answered: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            wrong: AtomicU64::new(0),
            longest: AtomicU64::new(0),
        })
    }

    fn is_full(&self) -> bool {
        self.next.load(Ordering::Relaxed) >= self.told.len()
    }

    /// Sends a request and books what becomes of it.
    fn request(self: &Arc<Self>, from: &NodeHandle, to: &str, deadline: Duration) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (ledger, begin) = (Arc::clone(self), Instant::now());
        let payload = (number as u64).to_le_bytes();
        let told = move |reply: Result<proscenium_nodelink::ReplyRef<'_>, RequestError>| {
            ledger.told[number].fetch_add(1, Ordering::Relaxed);
            let waited = begin.elapsed().as_nanos() as u64;
            ledger.longest.fetch_max(waited, Ordering::Relaxed);
            match reply {
                Ok(reply) if reply.payload == payload => {
                    ledger.answered.fetch_add(1, Ordering::Relaxed);
                }
                Ok(_) => {
                    ledger.wrong.fetch_add(1, Ordering::Relaxed);
                }
                Err(_) => {
                    ledger.failed.fetch_add(1, Ordering::Relaxed);
                }
            }
        };
        let options = RequestOptions::within(deadline);
        let sent = from.request_with(to, &header("Book"), payload.to_vec(), options, told);
        if sent.is_err() {
            // Told at once, by the result.
            self.told[number].fetch_add(1, Ordering::Relaxed);
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn sent(&self) -> usize {
        self.next.load(Ordering::Relaxed)
    }

    fn done(&self) -> u64 {
        let all = [&self.answered, &self.failed, &self.wrong];
        all.map(|count| count.load(Ordering::Relaxed)).iter().sum()
    }

    /// Everybody was told, once, and nothing was handled twice.
    fn check(&self) {
        wait_until("every request is over", || {
            self.done() >= self.sent() as u64
        });
        let sent = self.sent();
        for number in 0..sent {
            let told = self.told[number].load(Ordering::Relaxed);
            let handled = self.handled[number].load(Ordering::Relaxed);
            assert_eq!(told, 1, "request {number} was told {told} times");
            assert!(handled <= 1, "request {number} was handled {handled} times");
        }
        assert_eq!(self.wrong.load(Ordering::Relaxed), 0, "wrong replies");
        assert_eq!(self.done(), sent as u64);
    }
}

/// Answers with what it got, and books it.
struct Booking(Arc<Ledger>);

impl NodeHandler<()> for Booking {
    fn on_message(&mut self, cx: &mut NodeContext<'_, '_, ()>, message: NodeMessage<'_>) {
        let number = message.payload.try_into().map(u64::from_le_bytes);
        let number = number.expect("a number") as usize;
        self.0.handled[number].fetch_add(1, Ordering::Relaxed);
        if let Some(reply_to) = message.reply_to {
            // Refused if who asked has been told already that its link was lost.
            let _ = cx.reply(reply_to, &header("Booked"), message.payload);
        }
    }
}

/// A mesh that knows where its nodes are.
struct Mesh {
    nodes: Vec<Node>,
    servers: BTreeMap<usize, ServerInfo>,
    /// Each pair is linked twice, as in meshes with a directory; else by its later node.
    both_ways: bool,
    ledger: Arc<Ledger>,
    random: u64,
}

fn nid(number: usize) -> String {
    format!("node-{number:03}")
}

impl Mesh {
    fn new(count: usize, both_ways: bool, ledger: &Arc<Ledger>) -> Self {
        let mut mesh = Self {
            nodes: Vec::new(),
            servers: BTreeMap::new(),
            both_ways,
            ledger: Arc::clone(ledger),
            random: 0x9e37_79b9_7f4a_7c15,
        };
        for number in 0..count {
            let node = mesh.start(number);
            mesh.nodes.push(node);
        }
        for number in 0..count {
            mesh.tell(number);
        }
        mesh
    }

    fn start(&mut self, number: usize) -> Node {
        let options: NodeOptions = options(&nid(number)).backoff(Backoff {
            first: Duration::from_millis(50),
            max: Duration::from_secs(1),
        });
        let node = Node::builder(options)
            .bind(any())
            .start(Booking(Arc::clone(&self.ledger)))
            .expect("a node starts");
        let name = Nid::new(&nid(number)).expect("a name");
        let address = node.local_addrs()[0].clone();
        let server = ServerInfo::new(name, address, ServerType::Other(9), 1);
        self.servers.insert(number, server);
        node
    }

    /// Tells a node where the others are.
    fn tell(&self, number: usize) {
        let known = self.servers.iter();
        let known = known.filter(|(other, _)| self.both_ways || **other < number);
        let servers: Vec<ServerInfo> = known.map(|(_, server)| server.clone()).collect();
        self.nodes[number].handle().set_servers(&servers);
    }

    /// Kills a node as a crash would, and starts another one of that name elsewhere.
    fn restart(&mut self, number: usize) {
        let new = self.start(number);
        let old = std::mem::replace(&mut self.nodes[number], new);
        let _ = old.shutdown(Duration::ZERO);
        for other in 0..self.nodes.len() {
            if other == number || self.both_ways || other > number {
                self.tell(other);
            }
        }
    }

    fn is_full(&self) -> bool {
        let count = self.nodes.len();
        let reaches =
            |from: usize, to: usize| from == to || self.nodes[from].handle().is_routable(&nid(to));
        (0..count).all(|from| (0..count).all(|to| reaches(from, to)))
    }

    /// Whether all links are there, and no others.
    fn is_linked(&self) -> bool {
        let others = self.nodes.len() - 1;
        let links = if self.both_ways { 2 * others } else { others };
        self.nodes.iter().all(|node| {
            let stats = node.handle().stats(PATIENCE).expect("the node answers");
            let up = |peer: &PeerStats| usize::from(peer.dialled) + usize::from(peer.accepted);
            stats.links == links && stats.peers.iter().map(up).sum::<usize>() == links
        })
    }

    fn pick(&mut self) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random % self.nodes.len() as u64) as usize
    }

    /// Requests between any two.
    fn ask(&mut self, requests: usize, deadline: Duration) {
        for _ in 0..requests {
            let (from, to) = (self.pick(), self.pick());
            if from != to && !self.ledger.is_full() {
                let handle = self.nodes[from].handle();
                self.ledger.request(&handle, &nid(to), deadline);
            }
        }
    }

    fn end(self) {
        for node in self.nodes {
            let _ = node.shutdown(Duration::ZERO);
        }
    }
}

fn files() -> usize {
    fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

/// Resident memory in bytes.
fn memory() -> u64 {
    let text = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = text
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or(0) * 4096
}

/// Raises the limit of open files as far as it goes; how many there may be.
fn allow_files(wanted: u64) -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = |current, maximum| {
        let limit = Rlimit {
            current: Some(current),
            maximum: Some(maximum),
        };
        setrlimit(Resource::Nofile, limit).is_ok()
    };
    let most = limit.maximum.unwrap_or(u64::MAX);
    if wanted > most && raised(wanted, wanted) {
        return wanted; // a privilege
    }
    raised(wanted.min(most), most);
    wanted.min(most)
}

#[test]
fn a_mesh_whose_nodes_are_killed_and_restarted_loses_no_request_and_handles_none_twice() {
    const NODES: usize = 12;
    let ledger = Ledger::new(20_000);
    let mut mesh = Mesh::new(NODES, true, &ledger);
    wait_until("a full mesh", || mesh.is_full());
    // The second link of a pair may come later than the first.
    wait_until("all links", || mesh.is_linked());
    let begin = files();
    for round in 0..8 {
        mesh.ask(1000, Duration::from_secs(20));
        mesh.restart(round % NODES);
        mesh.ask(1000, Duration::from_secs(20));
    }
    wait_until("a full mesh again", || mesh.is_full());
    ledger.check();
    assert!(ledger.answered.load(Ordering::Relaxed) > 0);
    // What ended is gone: as many files as before, once links that took over are closed.
    wait_until("as many files as before", || files() <= begin);
    mesh.end();
}

/// 100 nodes; one of them is killed and restarted each second, for a minute.
#[test]
#[ignore = "more than a minute; `cargo xtask test --all` runs it"]
fn a_hundred_nodes_one_of_which_is_killed_each_second() {
    const NODES: usize = 100;
    const SECONDS: usize = 60;
    const DEADLINE: Duration = Duration::from_secs(5);
    // Two links for each pair have four ends here, and a node has some files of its own.
    let both = (NODES * NODES * 2 + NODES * 12) as u64;
    let both_ways = allow_files(both) >= both;
    let ledger = Ledger::new(SECONDS * 4000);
    let begin = Instant::now();
    let mut mesh = Mesh::new(NODES, both_ways, &ledger);
    wait_until("a full mesh", || mesh.is_full());
    let full = begin.elapsed();
    println!("{NODES} nodes, both ways: {both_ways}, full mesh after {full:.2?}");
    wait_until("all links", || mesh.is_linked());
    let (files_before, mut memory_before) = (files(), 0);
    let begin = Instant::now();
    for second in 0..SECONDS {
        let until = begin + Duration::from_secs(second as u64 + 1);
        mesh.restart(second * 37 % NODES);
        while Instant::now() < until {
            mesh.ask(10, DEADLINE);
            thread::sleep(Duration::from_millis(5));
        }
        if second == SECONDS / 4 {
            memory_before = memory();
        }
    }
    wait_until("a full mesh again", || mesh.is_full());
    ledger.check();
    wait_until("as many files as before", || files() <= files_before);
    let memory_after = memory();
    let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
    println!(
        "{} requests: {} answered, {} failed, the longest after {:.2?}; memory {} to {} MiB",
        ledger.sent(),
        count(&ledger.answered),
        count(&ledger.failed),
        Duration::from_nanos(count(&ledger.longest)),
        memory_before >> 20,
        memory_after >> 20
    );
    // On a machine that is busy with other things a thread may have to wait for its turn.
    let late = DEADLINE + Duration::from_secs(10);
    assert!(
        Duration::from_nanos(count(&ledger.longest)) < late,
        "beyond the deadline"
    );
    // A fifth, and what the allocator keeps.
    let most = memory_before + memory_before / 5 + (64 << 20);
    assert!(
        memory_after <= most,
        "{memory_before} became {memory_after}"
    );
    mesh.end();
}

/// Keeps what it is asked until it is told to answer.
#[derive(Default)]
struct Keeper {
    kept: Vec<(ReplyTo, [u8; 8])>,
}

impl NodeHandler<()> for Keeper {
    fn on_message(&mut self, cx: &mut NodeContext<'_, '_, ()>, message: NodeMessage<'_>) {
        match message.reply_to {
            Some(reply_to) => {
                let number = message.payload.try_into().expect("a number");
                self.kept.push((reply_to, number));
            }
            None => {
                for (reply_to, number) in self.kept.drain(..) {
                    let sent = cx.reply(reply_to, &header("Kept"), &number);
                    sent.expect("there is room for the answer");
                }
            }
        }
    }
}

/// A node asks many others many things, all of which are under way at the same time.
fn all_under_way(peers: usize, each: usize) {
    let _ = allow_files((peers * 16 + 256) as u64);
    let ledger = Ledger::new(peers * each);
    let keepers: Vec<Node> = (0..peers)
        .map(|number| {
            Node::builder(options(&nid(number)))
                .bind(any())
                .start(Keeper::default())
                .expect("a node starts")
        })
        .collect();
    let mut builder = Node::builder(options("hub").requests_max(each));
    for keeper in &keepers {
        builder = builder.connect(Endpoint::new(keeper.local_addrs()[0].clone()));
    }
    let hub = builder
        .start(Booking(Arc::clone(&ledger)))
        .expect("a node starts");
    let handle = hub.handle();
    wait_until("all are up", || {
        (0..peers).all(|peer| handle.is_routable(&nid(peer)))
    });
    let (begin, before) = (Instant::now(), memory());
    let (tell, told) = channel();
    for _ in 0..each {
        for peer in 0..peers {
            send_when_there_is_room(&handle, &ledger, &nid(peer), &tell);
        }
    }
    wait_until("all are under way", || {
        let pending = (0..peers).map(|peer| handle.pending(&nid(peer)));
        pending.sum::<usize>() == peers * each
    });
    let (sent, grown) = (begin.elapsed(), memory().saturating_sub(before));
    assert_eq!(ledger.done(), 0, "nobody has answered yet");
    for peer in 0..peers {
        let room = || match handle.send(&nid(peer), &header("Answer"), Vec::new()) {
            Err(SendError::Full) => false,
            sent => sent.map(|()| true).expect("it is sent"),
        };
        wait_until("there is room", room);
    }
    drop(tell);
    drain(&told, peers * each);
    ledger.check();
    assert_eq!(
        ledger.answered.load(Ordering::Relaxed),
        (peers * each) as u64
    );
    println!(
        "{} requests under way to {peers} peers after {sent:.2?}, all answered after {:.2?}; \
         {} MiB more at both ends, {} bytes for each",
        peers * each,
        begin.elapsed(),
        grown >> 20,
        grown / (peers * each) as u64
    );
    let _ = hub.shutdown(Duration::ZERO);
    for keeper in keepers {
        let _ = keeper.shutdown(Duration::ZERO);
    }
}

/// Sends a booked request; what handles have asked for and the shard has not begun is bounded.
fn send_when_there_is_room(
    handle: &NodeHandle,
    ledger: &Arc<Ledger>,
    to: &str,
    tell: &std::sync::mpsc::Sender<()>,
) {
    let number = ledger.next.fetch_add(1, Ordering::Relaxed);
    let payload = (number as u64).to_le_bytes();
    wait_until("there is room", || {
        let (ledger, tell) = (Arc::clone(ledger), tell.clone());
        let told = move |reply: Result<proscenium_nodelink::ReplyRef<'_>, RequestError>| {
            ledger.told[number].fetch_add(1, Ordering::Relaxed);
            let count = match reply {
                Ok(reply) if reply.payload == payload => &ledger.answered,
                Ok(_) => &ledger.wrong,
                Err(_) => &ledger.failed,
            };
            count.fetch_add(1, Ordering::Relaxed);
            let _ = tell.send(());
        };
        let options = RequestOptions::within(Duration::from_secs(600));
        match handle.request_with(to, &header("Keep"), payload.to_vec(), options, told) {
            Err(SendError::Full) => false,
            sent => sent.map(|()| true).expect("it is sent"),
        }
    });
}

fn drain(told: &Receiver<()>, count: usize) {
    for done in 0..count {
        let next = told.recv_timeout(support::PATIENCE);
        assert!(next.is_ok(), "{done} of {count} were told, then nobody");
    }
}

#[test]
fn many_requests_under_way_to_many_peers_are_all_answered() {
    all_under_way(10, 1000);
}

/// 1,000,000 requests under way at the same time, over 100 peers.
#[test]
#[ignore = "a minute and a gigabyte; `cargo xtask test --all` runs it"]
fn a_million_requests_under_way_over_a_hundred_peers_are_all_answered() {
    all_under_way(100, 10_000);
}

//! Connections that move between shards at any time, while their peers, other shards and other
//! threads go on sending: nothing overtakes, nothing is lost, the id stays.
#![cfg(feature = "sim")]

#[path = "support/sim.rs"]
mod support;
#[path = "support/wanderer.rs"]
mod wanderer;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use proscenium::sim::{Faults, SimEngine, SimNet, SimPeer, SimRandom, SimWorld};
use proscenium::{
    Address, Balance, CloseReason, Context, Engine, Handler, Limits, Listener, Message, Overflow,
    Peer, RouterId, SendError,
};
use support::{
    ADDRESS, HOUR, Pace, Place, SECOND, SharedLog, body, check_empty, check_limits, for_seeds,
    frame, take_frames,
};
use wanderer::Wanderer;

/// Senders beside the shards, which go by their number.
const REPLY: u8 = 254;
const HANDLE: u8 = 255;

/// What all sides know of each connection.
#[derive(Debug, Default)]
struct Book {
    /// Numbers that a sender was told are on their way to the peer, and which have not come.
    under_way: BTreeMap<(RouterId, u8), VecDeque<u64>>,
    next: BTreeMap<(RouterId, u8), u64>,
    /// Messages of the peer that some shard has handled.
    handled: BTreeMap<RouterId, u64>,
    /// The state that travels with the connection did not find room in a mailbox.
    stateless: BTreeSet<RouterId>,
    /// Messages may be refused on their way, because limits are small.
    lossy: bool,
}

impl Book {
    /// The next message of `from` to `to`.
    fn message(&self, to: RouterId, from: u8, length: usize) -> Vec<u8> {
        let number = self.next.get(&(to, from)).copied().unwrap_or(0);
        let mut message = vec![from];
        message.extend_from_slice(&number.to_le_bytes());
        message.extend(body(number, length));
        message
    }

    fn sent(&mut self, to: RouterId, from: u8) {
        let number = self.next.entry((to, from)).or_default();
        let under_way = self.under_way.entry((to, from)).or_default();
        under_way.push_back(*number);
        *number += 1;
    }

    fn arrived(&mut self, at: RouterId, message: &[u8]) {
        let (from, number) = (message[0], number_in(&message[1..]));
        let under_way = self.under_way.entry((at, from)).or_default();
        let mut expected = under_way.pop_front();
        while self.lossy && expected.is_some_and(|expected| expected < number) {
            expected = under_way.pop_front();
        }
        assert_eq!(Some(number), expected, "from {from} to {at}");
        assert_eq!(message[9..], body(number, message.len() - 9));
    }

    fn is_settled(&self, id: RouterId) -> bool {
        let of_it = |entry: &(&(RouterId, u8), &VecDeque<u64>)| entry.0.0 == id;
        self.under_way
            .iter()
            .filter(of_it)
            .all(|(_, numbers)| numbers.is_empty())
    }
}

fn number_in(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"))
}

/// What the test and the shards ask of a shard.
#[derive(Debug)]
enum Order {
    Say {
        to: RouterId,
        length: usize,
    },
    Move {
        id: RouterId,
        to: usize,
    },
    Resume(RouterId),
    Close(RouterId),
    /// What the shard that a connection left knew of it.
    State {
        id: RouterId,
        handled: u64,
    },
}

struct Mover {
    log: SharedLog,
    book: Rc<RefCell<Book>>,
    /// Messages of each connection handled, as far as this shard was told.
    state: BTreeMap<RouterId, u64>,
}

type Cx<'a> = Context<'a, Order>;

impl Mover {
    fn say(&self, cx: &mut Cx<'_>, to: RouterId, from: u8, length: usize) {
        let message = self.book.borrow().message(to, from, length);
        match cx.send(to, &message) {
            Ok(()) => self.book.borrow_mut().sent(to, from),
            Err(SendError::Gone | SendError::Full) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

impl Handler for Mover {
    type Post = Order;

    fn on_connect(&mut self, cx: &mut Cx<'_>, id: RouterId, peer: &Peer) {
        self.log.borrow_mut().connected(cx.shard(), id, peer);
        self.state.insert(id, 0);
    }

    fn on_message(&mut self, cx: &mut Cx<'_>, from: RouterId, message: Message<'_>) {
        self.log.borrow_mut().message(cx.shard(), from);
        {
            let mut book = self.book.borrow_mut();
            let handled = book.handled.entry(from).or_default();
            assert_eq!(number_in(&message), *handled, "{from}: a message overtook");
            if !book.stateless.contains(&from) {
                let known = self.state.get(&from).copied();
                assert_eq!(
                    known,
                    Some(number_in(&message)),
                    "{from}: its state is late"
                );
            }
            *book.handled.entry(from).or_default() += 1;
        }
        *self.state.entry(from).or_default() += 1;
        let dice = cx.random();
        if dice.is_multiple_of(3) {
            self.say(cx, from, REPLY, (dice >> 8) as usize % 300);
        }
        if dice.is_multiple_of(7) {
            let to = (dice >> 16) as usize % cx.shards();
            // A reply may have been its end.
            assert!(cx.rehome(from, to).is_ok() || self.book.borrow().lossy);
        }
        if dice.is_multiple_of(13) {
            cx.pause_reading(from);
        }
    }

    fn on_posted(&mut self, cx: &mut Cx<'_>, order: Order) {
        match order {
            Order::Say { to, length } => self.say(cx, to, cx.shard() as u8, length),
            Order::Move { id, to } => {
                let here = self.log.borrow().lives[&id].place == Place::At(cx.shard());
                let moved = cx.rehome(id, to);
                assert!(
                    moved.is_err() || here,
                    "{id} is not on shard {}",
                    cx.shard()
                );
            }
            Order::Resume(id) => {
                cx.resume_reading(id);
            }
            Order::Close(id) => cx.close(id),
            Order::State { id, handled } => {
                self.state.insert(id, handled);
            }
        }
    }

    fn on_departed(&mut self, cx: &mut Cx<'_>, id: RouterId, to: usize) {
        self.log.borrow_mut().departed(cx.shard(), id, to);
        let handled = self.state.remove(&id).unwrap_or(0);
        if cx.post(to, Order::State { id, handled }).is_err() {
            self.book.borrow_mut().stateless.insert(id);
        }
    }

    fn on_adopted(&mut self, cx: &mut Cx<'_>, id: RouterId, peer: &Peer) {
        self.log.borrow_mut().adopted(cx.shard(), id, peer);
    }

    fn on_read_closed(&mut self, cx: &mut Cx<'_>, id: RouterId) {
        self.log.borrow_mut().read_closed(cx.shard(), id);
        cx.close(id);
    }

    fn on_disconnect(&mut self, cx: &mut Cx<'_>, id: RouterId, reason: &CloseReason) {
        self.log.borrow_mut().ended(cx.shard(), id, reason);
    }
}

/// A client that numbers what it sends.
struct Client {
    peer: Option<SimPeer>,
    address: Address,
    out: Vec<u8>,
    written: usize,
    /// Messages in `out`.
    messages: u64,
    /// Half-closes when everything is written.
    finishes: bool,
    arrived: Vec<u8>,
    broken: bool,
}

impl Client {
    fn new(net: &SimNet, to: &Address, messages: u64) -> Self {
        let mut random = net.fork_random();
        let peer = net.connect(to.clone());
        let mut out = Vec::new();
        for number in 0..messages {
            let mut message = number.to_le_bytes().to_vec();
            message.extend(body(number, random.between_log(1, 600) as usize));
            out.extend(frame(&message));
        }
        Self {
            address: peer.local_addr().expect("just begun"),
            peer: Some(peer),
            out,
            written: 0,
            messages,
            finishes: random.chance(0.3),
            arrived: Vec::new(),
            broken: false,
        }
    }

    fn act(&mut self, random: &mut SimRandom, id: Option<RouterId>, book: &mut Book) -> bool {
        let Some(peer) = &mut self.peer else {
            return false;
        };
        let mut moved = 0;
        if random.chance(0.5) {
            let most = random.between_log(1, 2048) as usize;
            let end = (self.written + most).min(self.out.len());
            moved += peer.write(&self.out[self.written..end]);
            self.written += moved;
        }
        if self.finishes && self.written == self.out.len() {
            peer.finish();
        }
        if random.chance(0.6) {
            moved += peer.read(&mut self.arrived);
        }
        for message in take_frames(&mut self.arrived) {
            book.arrived(id.expect("it has a connection"), &message);
        }
        self.broken |= peer.error().is_some();
        moved > 0
    }

    /// True if its connection broke, even since it acted last.
    fn is_broken(&self) -> bool {
        self.broken
            || self
                .peer
                .as_ref()
                .is_some_and(|peer| peer.error().is_some())
    }
}

struct Run {
    net: SimNet,
    world: SimWorld,
    random: SimRandom,
    limits: Limits,
    engine: SimEngine<Mover>,
    log: SharedLog,
    book: Rc<RefCell<Book>>,
    clients: Vec<Client>,
    lossy: bool,
}

impl Run {
    fn new(net: &SimNet, lossy: bool) -> Self {
        let mut random = net.fork_random();
        let mut world = SimWorld::new(net, Vec::new());
        let mailbox_max = if random.chance(0.3) {
            random.between_log(2, 64)
        } else {
            4096
        };
        let mut limits = Limits::default()
            .receive_chunk(4096)
            .frame_max(700)
            .mailbox_max(mailbox_max as usize)
            .linger(100 * HOUR);
        let mut overflow = Overflow::PauseReading;
        if lossy {
            let high = random.between_log(16, 2000) as usize;
            let most = high + random.between_log(704, 4000) as usize;
            limits = limits
                .send_low(high / 2)
                .send_high(high)
                .send_queue_max(most);
            limits = limits.send_bytes_max(random.between_log(9000, 40_000) as usize);
            let all = [overflow, Overflow::DropNewest, Overflow::Close];
            overflow = all[random.index(all.len())];
        }
        let listener = Listener::tcp(ADDRESS).unwrap().overflow(overflow);
        let (log, book) = (SharedLog::default(), Rc::new(RefCell::<Book>::default()));
        book.borrow_mut().lossy = lossy;
        let engine = Engine::builder()
            .shards(random.between(2, 4) as usize)
            .limits(limits.clone())
            .listen(listener.balance(Balance::RoundRobin))
            .simulate(&mut world, |_| Mover {
                log: Rc::clone(&log),
                book: Rc::clone(&book),
                state: BTreeMap::new(),
            })
            .unwrap();
        let target = engine.local_addrs()[0].clone();
        let narrow = *net.faults().buffer_bytes.start() < 64;
        let messages = if narrow { 4 } else { 40 };
        let count = random.between(1, 4);
        let clients = (0..count).map(|_| Client::new(net, &target, messages));
        Self {
            net: net.clone(),
            clients: clients.collect(),
            world,
            random,
            limits,
            engine,
            log,
            book,
            lossy,
        }
    }

    fn ids(&self) -> Vec<Option<RouterId>> {
        let log = self.log.borrow();
        let id = |client: &Client| log.of_peer(&client.address).map(|(id, _)| id);
        self.clients.iter().map(id).collect()
    }

    fn clients_act(&mut self) -> bool {
        let ids = self.ids();
        let (random, mut book) = (&mut self.random, self.book.borrow_mut());
        let mut moved = false;
        for (client, id) in self.clients.iter_mut().zip(ids) {
            moved |= client.act(random, id, &mut book);
        }
        moved
    }

    /// Orders from outside: sends by the handle, sends by shards, moves.
    fn give_orders(&mut self) {
        let handle = self.engine.handle();
        let shards = handle.shards();
        for id in self.ids().into_iter().flatten() {
            let random = &mut self.random;
            let place = self.log.borrow().lives[&id].place;
            if random.chance(0.3) {
                let length = random.index(300);
                let message = self.book.borrow().message(id, HANDLE, length);
                if handle.send(id, message).is_ok() {
                    self.book.borrow_mut().sent(id, HANDLE);
                }
            }
            if random.chance(0.4) {
                let (shard, length) = (random.index(shards), random.index(300));
                let _ = handle.post(shard, Order::Say { to: id, length });
            }
            let Place::At(shard) = place else { continue };
            if random.chance(0.15) {
                let to = random.index(shards);
                let _ = handle.post(shard, Order::Move { id, to });
            }
            if random.chance(0.2) {
                let _ = handle.post(shard, Order::Resume(id));
            }
        }
    }

    fn under_load(&mut self) {
        for _ in 0..150 {
            let _ = self.clients_act();
            self.give_orders();
            let most = self.random.between_log(1_000, 20_000_000);
            let time = Duration::from_nanos(self.random.between_log(100, most));
            self.world.run_for(time);
            check_limits(&self.engine.handle().stats(), &self.limits);
            self.check_queues();
        }
    }

    fn check_queues(&self) {
        let log = self.log.borrow();
        for (id, life) in &log.lives {
            let Place::At(shard) = life.place else {
                continue;
            };
            let queued = self.engine.with(shard, |_, cx| cx.queued_bytes(*id));
            assert!(queued.unwrap_or(0) <= self.limits.send_queue_max, "{id}");
        }
    }

    /// No more orders, only what is under way.
    fn settle(&mut self) {
        let (mut pace, mut idle) = (Pace::default(), 0);
        let end = self.net.now() + 12 * HOUR;
        while idle < 40 {
            assert!(
                self.net.now() < end,
                "it never settles: {:?}",
                self.log.borrow()
            );
            let moved = self.clients_act();
            let stalled = self.clients.iter().any(|client| !self.is_settled(client));
            idle = if moved || stalled { 0 } else { idle + 1 };
            for id in self.ids().into_iter().flatten() {
                // Not always the same ones, because a mailbox may have room for two only.
                if let Place::At(shard) = self.log.borrow().lives[&id].place
                    && self.random.chance(0.5)
                {
                    let _ = self.engine.handle().post(shard, Order::Resume(id));
                }
            }
            let time = pace.next(&mut self.random, moved);
            self.world.run_for(time);
        }
    }

    /// True if nothing of this client's can be under way.
    fn is_settled(&self, client: &Client) -> bool {
        let log = self.log.borrow();
        let Some((id, life)) = log.of_peer(&client.address) else {
            return client.broken || client.peer.as_ref().is_none_or(SimPeer::is_read_closed);
        };
        let book = self.book.borrow();
        let handled = book.handled.get(&id).copied().unwrap_or(0);
        let arrived = self.lossy || book.is_settled(id);
        // One that has half-closed is waited for until the end of its connection, too.
        let alive = arrived && handled == client.messages && !client.finishes;
        life.place == Place::Ended || alive
    }

    fn check_settled(&self) {
        let log = self.log.borrow();
        for client in &self.clients {
            let Some((id, life)) = log.of_peer(&client.address) else {
                continue; // shed for want of descriptors
            };
            let handled = self.book.borrow().handled.get(&id).copied().unwrap_or(0);
            let Some(reason) = life.reason else {
                assert!(!client.finishes, "{id} is finished and still there");
                continue; // alive: `settle` saw everything arrive
            };
            match reason {
                "peer_closed" => {
                    assert!(client.finishes);
                    assert_eq!(handled, client.messages, "{id} lost messages");
                }
                "broken" => assert!(client.is_broken(), "{id}"),
                "slow_consumer" | "send_pressure" => assert!(self.lossy, "{id}"),
                "forward_overflow" => assert!(self.limits.mailbox_max <= 64, "{id}"),
                _ => panic!("{id} ended by {reason}"),
            }
        }
    }

    /// Every connection ends, one way or the other.
    fn end(&mut self) {
        self.net.set_faults(Faults::none());
        let handle = self.engine.handle();
        for (index, id) in self.ids().into_iter().enumerate() {
            let shard = self.random.index(handle.shards());
            let asked = match (self.random.below(3), id) {
                (0, Some(id)) => handle.close(id).is_ok(),
                (1, Some(id)) => handle.post(shard, Order::Close(id)).is_ok(),
                _ => false,
            };
            if asked {
                self.world.run_for(SECOND);
            }
            self.clients[index].peer = None;
        }
        let gone = self.world.run_until_true(HOUR, || {
            handle.stats().total().connections == 0 && self.log.borrow().living() == 0
        });
        assert!(gone, "connections stay: {:?}", self.log.borrow());
        self.world.run_for(SECOND);
        let stats = handle.stats();
        check_empty(&stats);
        let total = stats.total();
        let log = self.log.borrow();
        let moves: u32 = log.lives.values().map(|life| life.moves).sum();
        assert_eq!(
            (total.adopted, total.departed),
            (moves.into(), moves.into())
        );
        assert_eq!(total.closes.iter().sum::<u64>(), log.lives.len() as u64);
        assert_eq!(self.net.connections(), 0);
    }
}

fn moves_under_load(net: &SimNet, lossy: bool) {
    let mut run = Run::new(net, lossy);
    run.under_load();
    run.settle();
    run.check_settled();
    run.end();
}

#[test]
fn nothing_overtakes_and_nothing_is_lost_while_connections_move() {
    for_seeds(
        "nothing_overtakes_and_nothing_is_lost_while_connections_move",
        200,
        |net| moves_under_load(net, false),
    );
}

#[test]
fn moving_connections_keep_to_small_limits() {
    for_seeds("moving_connections_keep_to_small_limits", 150, |net| {
        moves_under_load(net, true);
    });
}

/// Found by seed 7: the second move was asked for while the first was not settled, whole messages
/// waited to be dispatched on the next shard, and the peer's FIN was taken for one inside a frame.
#[test]
fn a_peer_that_has_finished_loses_nothing_while_its_connection_moves_with_every_message() {
    let net = SimNet::new(1, Faults::none());
    let mut world = SimWorld::new(&net, Vec::new());
    let log = SharedLog::default();
    let engine = Engine::builder()
        .shards(3)
        .listen(Listener::tcp(ADDRESS).unwrap())
        .simulate(&mut world, |_| Wanderer::new(&log))
        .unwrap();
    let mut peer = net.connect(engine.local_addrs()[0].clone());
    world.run_for(SECOND);
    let bytes: Vec<u8> = (0..20).flat_map(|n| frame(&body(n, 10))).collect();
    assert_eq!(peer.write(&bytes), bytes.len());
    peer.finish();
    world.run_for(10 * SECOND);
    let mut back = Vec::new();
    peer.read(&mut back);
    assert!(back == bytes, "{} of {}", back.len(), bytes.len());
    let log = log.borrow();
    let life = log.lives.values().next().expect("it connected");
    assert_eq!((life.messages, life.reason), (20, Some("peer_closed")));
    assert!(life.moves >= 20, "{}", life.moves);
}

//! The in-memory network: what it consists of and what a test may ask of it.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use parking_lot::Mutex;
use slab::Slab;

use super::clock::Clock;
use super::connect::{ListenSocket, ListenerKey};
use super::faults::{Costs, Faults};
use super::link::{EndKey, Link, Owner};
use super::peer::{SimListener, SimPeer};
use super::random::SimRandom;
use super::table::Table;
use super::trace::{SimEvent, SimEventKind, Trace};
use crate::options::Address;
use crate::time::Time;

/// A simulated network with its virtual clock. A cheap handle: clones are the same network. It
/// stays on one thread, together with all shards and peers that use it.
#[derive(Clone)]
pub struct SimNet {
    pub(super) shared: Rc<RefCell<Network>>,
}

/// An event of the virtual future.
#[derive(Debug)]
pub(super) enum Event {
    /// The attempt of this end reaches its target.
    Syn(EndKey),
    /// The answer reaches the connecting end.
    Established(EndKey),
    /// The attempt of this end fails.
    ConnectFailed(EndKey, io::ErrorKind),
    /// Something that this end sent reaches the other one.
    Arrive(EndKey),
    /// The network resets the connection of this end.
    Break(EndKey),
}

pub(super) struct Network {
    pub(super) seed: u64,
    pub(super) faults: Faults,
    pub(super) costs: Costs,
    pub(super) clock: Clock<Event>,
    pub(super) random: SimRandom,
    pub(super) trace: Trace,
    pub(super) links: Slab<Link>,
    pub(super) listeners: Slab<ListenSocket>,
    /// One per driver.
    pub(super) tables: Vec<Table>,
    pub(super) dropped: Dropped,
    births: u64,
    ports: u16,
}

/// Sockets that were dropped on their way between shards. The only thing that may be touched from
/// another thread, because sockets are sent through mailboxes.
pub(super) type Dropped = Arc<Mutex<Vec<Held>>>;

#[derive(Clone, Copy, Debug)]
pub(super) enum Held {
    End(EndKey),
    Listener(ListenerKey),
}

/// A simulated socket that no driver has: bound and not yet listening, accepted and not yet
/// registered, or detached. Dropping it resets it.
pub(crate) struct SimSocket {
    held: Option<Held>,
    address: Address,
    dropped: Dropped,
}

impl SimSocket {
    /// The address it is bound to, with the real port.
    pub(crate) fn local_addr(&self) -> &Address {
        &self.address
    }

    /// Takes the socket out of its wrapper; from now on somebody else closes it.
    pub(super) fn into_held(mut self) -> Held {
        self.held.take().expect("held until it is dropped")
    }
}

impl Drop for SimSocket {
    fn drop(&mut self) {
        if let Some(held) = self.held.take() {
            self.dropped.lock().push(held);
        }
    }
}

impl fmt::Debug for SimSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimSocket")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl SimNet {
    /// A network in which everything that is random is drawn from `seed`.
    pub fn new(seed: u64, faults: Faults) -> Self {
        let network = Network {
            seed,
            faults,
            costs: Costs::default(),
            clock: Clock::new(),
            random: SimRandom::new(seed),
            trace: Trace::default(),
            links: Slab::new(),
            listeners: Slab::new(),
            tables: Vec::new(),
            dropped: Dropped::default(),
            births: 0,
            ports: 0,
        };
        Self {
            shared: Rc::new(RefCell::new(network)),
        }
    }

    /// A network whose fault plan is drawn from the seed, too: see [`Faults::from_seed`].
    pub fn from_seed(seed: u64) -> Self {
        Self::new(seed, Faults::from_seed(seed))
    }

    /// The seed, to be printed when a test fails.
    pub fn seed(&self) -> u64 {
        self.shared.borrow().seed
    }

    /// The fault plan.
    pub fn faults(&self) -> Faults {
        self.shared.borrow().faults.clone()
    }

    /// Changes the fault plan from now on, for example to [`Faults::none`], so that a test can
    /// see that everything recovers. What was drawn for a connection when it was begun (latency,
    /// buffers, its longest segment, whether the network resets it) stays.
    pub fn set_faults(&self, faults: Faults) {
        self.shared.borrow_mut().faults = faults;
    }

    /// Changes what things cost.
    pub fn set_costs(&self, costs: Costs) {
        self.shared.borrow_mut().costs = costs;
    }

    /// The virtual time. Reading it here costs nothing.
    pub fn now(&self) -> Time {
        self.shared.borrow().clock.now()
    }

    /// A generator for the decisions of the test itself, seeded by this network's.
    pub fn fork_random(&self) -> SimRandom {
        self.shared.borrow_mut().random.fork()
    }

    /// Connects a peer that the test drives to a listener of a shard (or of a test). The faults
    /// `refuse` and `unanswered` spare it; without a listener it is refused in time.
    pub fn connect(&self, to: impl Into<Address>) -> SimPeer {
        let to = to.into();
        let from = self.shared.borrow_mut().source_for(&to);
        self.begin(from, to)
    }

    /// Like [`connect`](Self::connect), from an address of the caller's choice.
    pub fn connect_from(&self, from: SocketAddr, to: impl Into<Address>) -> SimPeer {
        self.begin(from.into(), to.into())
    }

    fn begin(&self, from: Address, to: Address) -> SimPeer {
        let mut network = self.shared.borrow_mut();
        network.settle();
        let end = network.begin_connect(Owner::Peer, from, to);
        network.send_syn(end);
        drop(network);
        SimPeer::new(self.clone(), end)
    }

    /// Listens for connections that shards make. Port 0 takes a fresh port.
    ///
    /// # Errors
    /// `AddrInUse` for a Unix path that is taken.
    pub fn listen(&self, address: impl Into<Address>) -> io::Result<SimListener> {
        let socket = self.bind(&address.into())?;
        let address = socket.local_addr().clone();
        let Held::Listener(key) = socket.into_held() else {
            unreachable!("a bound socket is a listener");
        };
        self.shared.borrow_mut().start_listening(key, Owner::Peer);
        Ok(SimListener::new(self.clone(), key, address))
    }

    /// Binds a socket for [`Driver::listen`](crate::driver::Driver::listen). Port 0 takes a fresh
    /// port; several sockets may be bound to the same TCP address and then share its connections.
    ///
    /// # Errors
    /// `AddrInUse` for a Unix path that is taken.
    pub(crate) fn bind(&self, address: &Address) -> io::Result<SimSocket> {
        let mut network = self.shared.borrow_mut();
        network.settle();
        let key = network.bind(address)?;
        let address = network.listener(key).address.clone();
        Ok(network.wrap(Held::Listener(key), address))
    }

    /// The hash of everything that has happened: equal for equal seeds, code and test, different
    /// otherwise.
    pub fn trace_hash(&self) -> u64 {
        self.shared.borrow().trace.hash()
    }

    /// Keeps the last `events` events from now on, to be printed when a seed fails. Default 0.
    pub fn keep_last_events(&self, events: usize) {
        self.shared.borrow_mut().trace.keep_last(events);
    }

    /// The events that [`keep_last_events`](Self::keep_last_events) kept, oldest first.
    pub fn last_events(&self) -> Vec<SimEvent> {
        self.shared.borrow().trace.kept()
    }

    /// True if nothing is under way: no segment, no handshake. (Resets that the fault plan holds
    /// for later and attempts that nobody answers do not count.)
    pub fn is_quiet(&self) -> bool {
        self.shared.borrow().clock.is_quiet()
    }

    /// Lets every present connection to the listener at `address` deliver nothing for a while:
    /// neither what its clients send (`to_listener`) nor what they are sent (`from_listener`), or
    /// only one of them, which makes half-open connections. Then everything arrives.
    pub fn stall(
        &self,
        address: &Address,
        to_listener: bool,
        from_listener: bool,
        time: std::time::Duration,
    ) {
        let mut network = self.shared.borrow_mut();
        network.settle();
        let until = network.clock.now() + time;
        for (_, link) in &mut network.links {
            if link.ends[1].address == *address {
                for (side, stalls) in [to_listener, from_listener].into_iter().enumerate() {
                    let pipe = &mut link.pipes[side];
                    if stalls {
                        pipe.stalled_until = pipe.stalled_until.max(until);
                    }
                }
            }
        }
    }

    /// How many connections exist, including those that one end has closed: zero at the end of a
    /// test that leaks none.
    pub fn connections(&self) -> usize {
        let mut network = self.shared.borrow_mut();
        network.settle();
        network.links.len()
    }
}

impl fmt::Debug for SimNet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.shared.try_borrow() {
            Ok(network) => f
                .debug_struct("SimNet")
                .field("seed", &network.seed)
                .field("now", &network.clock.now())
                .field("connections", &network.links.len())
                .field("faults", &network.faults)
                .finish_non_exhaustive(),
            Err(_) => f.write_str("SimNet"),
        }
    }
}

impl Network {
    /// Asserts what users of the network guarantee; the message says how to replay it.
    #[track_caller]
    pub(super) fn demand(&self, truth: bool, what: &str) {
        let (seed, now) = (self.seed, self.clock.now().as_nanos());
        assert!(truth, "simulation of seed {seed} at {now} ns: {what}");
    }

    /// Lets everything happen whose time has come.
    pub(super) fn settle(&mut self) {
        let dropped = std::mem::take(&mut *self.dropped.lock());
        for held in dropped {
            match held {
                Held::End(end) => self.reset_end(end),
                Held::Listener(key) => self.close_listener(key),
            }
        }
        while let Some(event) = self.clock.pop_due() {
            match event {
                Event::Syn(end) => self.on_syn(end),
                Event::Established(end) => self.on_established(end),
                Event::ConnectFailed(end, kind) => self.on_connect_failed(end, kind),
                Event::Arrive(from) => self.on_arrive(from),
                Event::Break(end) => self.break_link(end),
            }
        }
    }

    pub(super) fn wrap(&self, held: Held, address: Address) -> SimSocket {
        SimSocket {
            held: Some(held),
            address,
            dropped: Arc::clone(&self.dropped),
        }
    }

    /// A number that was never given before.
    pub(super) fn next_birth(&mut self) -> u64 {
        self.births += 1;
        self.births
    }

    /// Where a connection to `to` comes from: Unix sockets that connect have no name.
    pub(super) fn source_for(&mut self, to: &Address) -> Address {
        match to {
            Address::Tcp(_) => self.fresh_address().into(),
            Address::Unix(_) => Address::Unix(std::path::PathBuf::new()),
        }
    }

    /// A loopback address that no listener has; repeats after 20,000.
    pub(super) fn fresh_address(&mut self) -> SocketAddr {
        loop {
            let port = 40_000 + self.ports;
            self.ports = (self.ports + 1) % 20_000;
            let address = SocketAddr::from(([127, 0, 0, 1], port));
            let taken = |socket: &ListenSocket| match &socket.address {
                Address::Tcp(listening) => listening.port() == port,
                Address::Unix(_) => false,
            };
            if !self.listeners.iter().any(|(_, socket)| taken(socket)) {
                return address;
            }
        }
    }

    pub(super) fn note(&mut self, end: EndKey, kind: SimEventKind, length: usize) {
        let (connection, end) = (end.birth, end.side as u8);
        let at = self.clock.now();
        self.trace.add(SimEvent {
            at,
            connection,
            end,
            kind,
            length: length as u64,
        });
    }

    pub(super) fn note_turn(&mut self, shard: usize) {
        let at = self.clock.now();
        let (connection, kind) = (shard as u64, SimEventKind::Turn);
        self.trace.add(SimEvent {
            at,
            connection,
            end: 0,
            kind,
            length: 0,
        });
    }

    /// The connection of an end, unless it has been forgotten.
    pub(super) fn link(&self, end: EndKey) -> Option<&Link> {
        self.links
            .get(end.index)
            .filter(|link| link.birth == end.birth)
    }

    pub(super) fn link_mut(&mut self, end: EndKey) -> Option<&mut Link> {
        self.links
            .get_mut(end.index)
            .filter(|link| link.birth == end.birth)
    }
}

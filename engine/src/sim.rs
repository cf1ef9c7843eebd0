//! Engines on the seeded simulation (feature `sim`): the production shard, handlers and limits, on
//! virtual time and an in-memory network with faults.
//!
//! ```
//! use proscenium_engine::sim::{SimNet, SimWorld};
//! use proscenium_engine::{Context, Engine, Handler, Listener, Message, RouterId};
//! use std::time::Duration;
//!
//! struct Echo;
//! impl Handler for Echo {
//!     type Post = ();
//!     fn on_message(&mut self, cx: &mut Context<'_, ()>, from: RouterId, message: Message<'_>) {
//!         let _ = cx.send(from, &message);
//!     }
//! }
//!
//! let net = SimNet::from_seed(7); // with the faults of seed 7
//! let mut world = SimWorld::new(&net, Vec::new());
//! let engine = Engine::builder()
//!     .listen(Listener::tcp("10.0.0.1:7000")?)
//!     .simulate(&mut world, |_shard| Echo)?;
//! let mut peer = net.connect(engine.local_addrs()[0].clone());
//! world.run_for(Duration::from_secs(1));
//! peer.write(b"\0\0\0\x02hi");
//! world.run_for(Duration::from_secs(60)); // virtual: takes no time
//! # Ok::<(), std::io::Error>(())
//! ```

use std::cell::{RefCell, RefMut};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

pub use crate::driver::sim::{
    Costs, Faults, SimEvent, SimEventKind, SimListener, SimNet, SimPeer, SimRandom, SimTurn,
    SimWorld,
};

use crate::context::Context;
use crate::driver::sim::SimDriver;
use crate::driver::{Driver, RawSocket};
use crate::engine::EngineBuilder;
use crate::handle::{Handle, Shared};
use crate::handler::Handler;
use crate::mailbox::Mailbox;
use crate::options::{Address, Balance, ListenSource, Listener};
use crate::shard::{DrainReport, Listening, Shard};
use crate::time::Time;

type SimShard<H> = Rc<RefCell<Shard<SimDriver, H>>>;

/// An engine whose shards take turns in a [`SimWorld`].
pub struct SimEngine<H: Handler> {
    pub(crate) shards: Vec<SimShard<H>>,
    handle: Handle<H::Post>,
    addresses: Vec<Address>,
}

impl<H: Handler> SimEngine<H> {
    /// Where the listeners listen, in the order in which they were added, with real ports.
    pub fn local_addrs(&self) -> &[Address] {
        &self.addresses
    }

    /// A handle, as other threads would use it.
    pub fn handle(&self) -> Handle<H::Post> {
        self.handle.clone()
    }

    /// The handler of a shard, between turns.
    ///
    /// # Panics
    /// If there is no such shard, or from inside a turn.
    pub fn handler(&self, shard: usize) -> RefMut<'_, H> {
        RefMut::map(self.shards[shard].borrow_mut(), Shard::handler_mut)
    }

    /// Calls `call` with the handler of a shard and a context, between turns.
    ///
    /// # Panics
    /// If there is no such shard, or from inside a turn.
    pub fn with<R>(
        &self,
        shard: usize,
        call: impl FnOnce(&mut H, &mut Context<'_, H::Post>) -> R,
    ) -> R {
        self.shards[shard].borrow_mut().with(call)
    }

    /// The report of the shutdown, once all shards have stopped.
    pub fn stopped(&self) -> Option<DrainReport> {
        let mut report = DrainReport::default();
        for shard in &self.shards {
            report.add(shard.borrow().stopped()?);
        }
        Some(report)
    }
}

impl<H: Handler> std::fmt::Debug for SimEngine<H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimEngine")
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

/// A shard as the world sees it.
struct Turn<H: Handler>(SimShard<H>);

impl<H: Handler> SimTurn for Turn<H> {
    fn turn(&mut self) {
        let mut shard = self.0.borrow_mut();
        let turned = shard.turn(Duration::ZERO);
        turned.expect("the simulated driver does not fail");
        shard.park();
    }

    fn next_deadline(&self) -> Option<Time> {
        let at = self.0.borrow().wants_turn_at();
        (at != Time::MAX).then_some(at)
    }

    fn has_work(&self) -> bool {
        // The simulated driver counts a wake as something ready.
        self.0.borrow().wants_turn_at() == Time::ZERO
    }

    fn is_finished(&self) -> bool {
        self.0.borrow().stopped().is_some()
    }
}

impl EngineBuilder {
    /// Puts the shards of the engine into a simulated world. `make` makes the handler of each.
    /// CPU binding and thread names have no meaning here. The shards' generators begin with the
    /// seed of the network unless [`seed`](Self::seed) was called: engines of one network draw the
    /// same numbers then.
    ///
    /// # Errors
    /// Contradicting limits, addresses that are taken, inherited descriptors.
    pub fn simulate<H: Handler>(
        self,
        world: &mut SimWorld,
        mut make: impl FnMut(usize) -> H,
    ) -> io::Result<SimEngine<H>> {
        let invalid = |message: String| io::Error::new(io::ErrorKind::InvalidInput, message);
        self.limits.validate().map_err(invalid)?;
        let net = world.net().clone();
        let seed = self.seed;
        let (mut mailboxes, mut parts) = (Vec::new(), Vec::new());
        for _ in 0..self.shards {
            let driver = net.driver();
            let (mailbox, consumer) = Mailbox::new(self.limits.mailbox_max, driver.waker()?);
            mailboxes.push(mailbox);
            parts.push((driver, consumer));
        }
        let (mut addresses, mut listening) = (Vec::new(), Vec::new());
        for (number, listener) in self.listeners.into_iter().enumerate() {
            let Listener {
                source,
                balance,
                options,
                ..
            } = listener;
            let ListenSource::Bind(mut address) = source else {
                return Err(invalid(
                    "the simulation has no descriptors to inherit".to_owned(),
                ));
            };
            let share = balance == Balance::ReusePort && matches!(address, Address::Tcp(_));
            let listeners = if share { self.shards } else { 1 };
            let first = balance.first_shard(self.shards)?;
            for (driver, _) in parts.iter_mut().skip(first).take(listeners) {
                let socket = net.bind(&address)?;
                address = socket.local_addr().clone();
                driver.listen(number as u32, RawSocket::Sim(socket))?;
            }
            addresses.push(address);
            listening.push(Listening {
                options,
                deal: !share && !matches!(balance, Balance::Only(_)),
            });
        }
        let shared = Arc::new(Shared::new(mailboxes, self.limits));
        let mut shards = Vec::new();
        for (number, (driver, mailbox)) in parts.into_iter().enumerate() {
            let handler = make(number);
            let listening = listening.clone();
            let seed = seed.unwrap_or_else(|| net.seed());
            let shard = Shard::new(number, driver, handler, mailbox, &shared, listening, seed);
            let shard = Rc::new(RefCell::new(shard));
            world.add(Box::new(Turn(Rc::clone(&shard))));
            shards.push(shard);
        }
        Ok(SimEngine {
            shards,
            handle: Handle::new(&shared),
            addresses,
        })
    }
}

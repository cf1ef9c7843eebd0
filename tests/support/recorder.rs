//! A handler that writes down what it is told, for tests that then look at it.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "every test binary uses a part of it"
)]

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use proscenium::sim::{Faults, SimEngine, SimNet, SimPeer, SimWorld};
use proscenium::{
    CloseReason, ConnectError, ConnectId, Context, Engine, EngineBuilder, Handler, Limits,
    Listener, Message, Peer, RouterId, Time,
};

/// What a handler was told.
#[derive(Clone, Debug, PartialEq)]
pub enum Told {
    Connect(RouterId),
    Message(RouterId, Vec<u8>),
    Posted(u64),
    Timer(u64),
    Drained(RouterId),
    ReadClosed(RouterId),
    /// With the reason's name.
    Disconnect(RouterId, &'static str),
    /// With the error's text and the delay of the next attempt.
    ConnectFailed(ConnectId, String, Option<Duration>),
    Shutdown,
}

/// When, on which shard, what.
pub type Entry = (Time, usize, Told);

pub type Records = Rc<RefCell<Vec<Entry>>>;

/// See the module's page.
pub struct Recorder {
    pub records: Records,
    /// Sends back what it receives.
    pub echo: bool,
    /// What it says of itself during a shutdown.
    pub work: usize,
    /// Pieces of work that a timer finishes.
    pub timer_finishes: usize,
}

impl Recorder {
    pub fn new(records: &Records) -> Self {
        Self {
            records: Rc::clone(records),
            echo: true,
            work: 0,
            timer_finishes: 0,
        }
    }

    fn note(&self, cx: &Context<'_, u64>, told: Told) {
        let entry = (cx.now(), cx.shard(), told);
        self.records.borrow_mut().push(entry);
    }
}

impl Handler for Recorder {
    type Post = u64;

    fn on_connect(&mut self, cx: &mut Context<'_, u64>, id: RouterId, _: &Peer) {
        self.note(cx, Told::Connect(id));
    }

    fn on_message(&mut self, cx: &mut Context<'_, u64>, from: RouterId, message: Message<'_>) {
        self.note(cx, Told::Message(from, message.to_vec()));
        if self.echo {
            let _ = cx.send(from, &message); // a refusal is what some tests are about
        }
    }

    fn on_posted(&mut self, cx: &mut Context<'_, u64>, posted: u64) {
        self.note(cx, Told::Posted(posted));
    }

    fn on_timer(&mut self, cx: &mut Context<'_, u64>, token: u64) {
        self.note(cx, Told::Timer(token));
        self.work = self.work.saturating_sub(self.timer_finishes);
    }

    fn on_drained(&mut self, cx: &mut Context<'_, u64>, id: RouterId) {
        self.note(cx, Told::Drained(id));
    }

    fn on_read_closed(&mut self, cx: &mut Context<'_, u64>, id: RouterId) {
        self.note(cx, Told::ReadClosed(id));
        cx.close(id);
    }

    fn on_disconnect(&mut self, cx: &mut Context<'_, u64>, id: RouterId, reason: &CloseReason) {
        self.note(cx, Told::Disconnect(id, reason.name()));
    }

    fn on_connect_failed(
        &mut self,
        cx: &mut Context<'_, u64>,
        connect: ConnectId,
        error: &ConnectError,
        retry: Option<Duration>,
    ) {
        self.note(cx, Told::ConnectFailed(connect, error.to_string(), retry));
    }

    fn on_shutdown(&mut self, cx: &mut Context<'_, u64>) {
        self.note(cx, Told::Shutdown);
    }

    fn pending_work(&self) -> usize {
        self.work
    }
}

/// A network without faults.
pub fn calm() -> SimNet {
    SimNet::new(1, Faults::none())
}

/// An engine of recorders in a world of its own.
pub struct Stage {
    pub net: SimNet,
    pub world: SimWorld,
    pub engine: SimEngine<Recorder>,
    pub records: Records,
}

impl Stage {
    /// `build` adds shards, limits and listeners.
    pub fn new(net: &SimNet, build: impl FnOnce(EngineBuilder) -> EngineBuilder) -> Self {
        let mut world = SimWorld::new(net, Vec::new());
        let records = Records::default();
        let engine = build(Engine::builder())
            .simulate(&mut world, |_| Recorder::new(&records))
            .unwrap();
        Self {
            net: net.clone(),
            world,
            engine,
            records,
        }
    }

    /// One shard with these limits and a listener, in a network without faults.
    pub fn listening(limits: Limits) -> Self {
        Self::new(&calm(), |builder| {
            let listener = Listener::tcp("10.0.0.1:7000").unwrap();
            builder.limits(limits).listen(listener)
        })
    }

    /// One shard in a network where nobody answers to who connects, and an address of it.
    pub fn unanswered() -> (Self, SocketAddr) {
        let mut faults = Faults::none();
        faults.unanswered = 1.0;
        let stage = Self::new(&SimNet::new(1, faults), |builder| builder);
        (stage, SocketAddr::from(([10, 0, 0, 2], 9)))
    }

    /// A peer of the first listener.
    pub fn connect(&self) -> SimPeer {
        self.net.connect(self.engine.local_addrs()[0].clone())
    }

    /// A peer that is connected, and its id.
    pub fn connected(&mut self) -> (SimPeer, RouterId) {
        let before = self.connects().len();
        let peer = self.connect();
        self.world.run_for(Duration::from_millis(10));
        let connects = self.connects();
        assert_eq!(connects.len(), before + 1, "it was not accepted");
        (peer, connects[before])
    }

    pub fn connects(&self) -> Vec<RouterId> {
        self.pick(|told| match told {
            Told::Connect(id) => Some(*id),
            _ => None,
        })
    }

    /// What `pick` takes of the records, in order.
    pub fn pick<T>(&self, pick: impl Fn(&Told) -> Option<T>) -> Vec<T> {
        let records = self.records.borrow();
        records
            .iter()
            .filter_map(|(_, _, told)| pick(told))
            .collect()
    }

    /// When and how a connection ended.
    pub fn end_of(&self, id: RouterId) -> Option<(Time, &'static str)> {
        let records = self.records.borrow();
        let mut ends = records.iter().filter_map(|(at, _, told)| match told {
            Told::Disconnect(ended, reason) if *ended == id => Some((*at, *reason)),
            _ => None,
        });
        let end = ends.next();
        assert!(ends.next().is_none(), "{id} ended twice");
        end
    }

    pub fn messages_of(&self, id: RouterId) -> Vec<Vec<u8>> {
        self.pick(|told| match told {
            Told::Message(from, body) if *from == id => Some(body.clone()),
            _ => None,
        })
    }

    pub fn total(&self) -> proscenium::ShardStats {
        self.engine.handle().stats().total()
    }
}

//! A stage that does what its messages say, and the simulation in which it lives.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "every test binary uses a part of it"
)]

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use proscenium_engine::sim::{Faults, SimEngine, SimNet, SimWorld};
use proscenium_engine::{Body, CloseReason, Engine, EngineBuilder, Listener, RouterId};
use proscenium_stages::{
    Cx, Reply, Stage, StageRef, StageShard, StageType, Stages, StagesBuilder, Tick, TimerId,
};

pub const MS: Duration = Duration::from_millis(1);
pub const SECOND: Duration = Duration::from_secs(1);

/// Where the engines of these tests listen.
pub const ADDRESS: &str = "10.0.0.1:7000";

/// What happened, in order. Entries are `name: what`.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    pub fn add(&self, line: impl Into<String>) {
        self.0.lock().unwrap().push(line.into());
    }

    pub fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }

    pub fn count(&self, line: &str) -> usize {
        self.all().iter().filter(|found| *found == line).count()
    }
}

/// What a handler of [`Node`] does.
pub type Doing<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;
type Run = dyn for<'a, 'c> FnOnce(&'a mut Node, &'a mut Cx<'c, Node>) -> Doing<'a> + Send;

pub struct Script(Box<Run>);

impl Script {
    /// Does it within the handler of another message.
    pub fn play<'a>(self, node: &'a mut Node, cx: &'a mut Cx<'_, Node>) -> Doing<'a> {
        (self.0)(node, cx)
    }
}

/// A message that has the stage do this.
pub fn script<F>(run: F) -> Script
where
    F: for<'a, 'c> FnOnce(&'a mut Node, &'a mut Cx<'c, Node>) -> Doing<'a> + Send + 'static,
{
    Script(Box::new(run))
}

/// A message that is answered at once.
pub fn answer<T: Send + 'static>(reply: Reply<T>, with: T) -> Script {
    script(move |_, _| {
        Box::pin(async move {
            let _ = reply.send(with);
        })
    })
}

/// See the module's page. It logs all that happens to it but its messages.
pub struct Node {
    pub id: u64,
    /// How many states of this id there were before.
    pub log: Log,
    /// Packets that came, for connections.
    pub echo: bool,
    /// How long its timers and ticks take.
    pub takes: Duration,
}

impl Node {
    pub fn new(id: u64, log: &Log) -> Self {
        Self {
            id,
            log: log.clone(),
            echo: false,
            takes: Duration::ZERO,
        }
    }

    async fn take_time(&self, cx: &Cx<'_, Self>) {
        if !self.takes.is_zero() {
            cx.sleep(self.takes).await;
        }
    }
}

impl Stage for Node {
    type Msg = Script;

    async fn on_create(&mut self, _cx: &mut Cx<'_, Self>) {
        self.log.add(format!("{}: create", self.id));
    }

    async fn on_message(&mut self, cx: &mut Cx<'_, Self>, Script(run): Script) {
        run(self, cx).await;
    }

    async fn on_packet(&mut self, cx: &mut Cx<'_, Self>, from: RouterId, body: Body) {
        let text = String::from_utf8_lossy(&body).into_owned();
        assert!(text != "panic", "asked to by a packet");
        self.log.add(format!("{}: packet {text}", self.id));
        if self.echo {
            let _ = cx.forward(from, &body);
        }
    }

    async fn on_timer(&mut self, cx: &mut Cx<'_, Self>, timer: TimerId) {
        self.log.add(format!("{}: {timer:?}", self.id));
        self.take_time(cx).await;
    }

    async fn on_tick(&mut self, cx: &mut Cx<'_, Self>, tick: Tick) {
        let Tick { number, missed, .. } = tick;
        let due = tick.due.as_nanos() / 1_000_000;
        self.log.add(format!(
            "{}: tick {number} missed {missed} due {due}",
            self.id
        ));
        self.take_time(cx).await;
    }

    async fn on_disconnect(&mut self, _cx: &mut Cx<'_, Self>, _id: RouterId, reason: CloseReason) {
        self.log
            .add(format!("{}: disconnect {}", self.id, reason.name()));
    }

    async fn on_destroy(&mut self, _cx: &mut Cx<'_, Self>) {
        self.log.add(format!("{}: destroy", self.id));
    }

    fn on_passivate(self, id: Option<u64>) {
        self.log.add(format!("{}: passivate {id:?}", self.id));
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.log.add(format!("{}: drop", self.id));
    }
}

/// Ids below 100 live on shard 0, those below 200 on shard 1, and so on, as far as there are
/// shards.
pub fn by_hundreds(id: u64, shards: usize) -> usize {
    (id as usize / 100) % shards
}

/// The type of [`Node`], with a factory.
pub fn nodes(log: &Log) -> StageType<Node> {
    let log = log.clone();
    StageType::new("node")
        .factory(move |id| Node::new(id, &log))
        .placement(by_hundreds)
}

/// Stages in the engine's simulation.
pub struct Sim {
    pub net: SimNet,
    pub world: SimWorld,
    pub engine: SimEngine<StageShard>,
    pub stages: Stages,
    pub log: Log,
}

impl Sim {
    pub fn new(shards: usize) -> Self {
        Self::with(SimNet::new(1, Faults::none()), shards, |nodes| nodes)
    }

    /// A system with the type that `configure` returns.
    pub fn with(
        net: SimNet,
        shards: usize,
        configure: impl FnOnce(StageType<Node>) -> StageType<Node>,
    ) -> Self {
        let log = Log::default();
        let builder = Stages::builder().register(configure(nodes(&log)));
        Self::build(net, shards, log, builder, |engine| engine)
    }

    pub fn build(
        net: SimNet,
        shards: usize,
        log: Log,
        stages: StagesBuilder,
        engine: impl FnOnce(EngineBuilder) -> EngineBuilder,
    ) -> Self {
        let stages = stages.simulated().build();
        let mut world = SimWorld::new(&net, Vec::new());
        let builder = engine(Engine::builder().shards(shards))
            .listen(Listener::tcp(ADDRESS).expect("an address"));
        let engine = builder
            .simulate(&mut world, stages.shards())
            .expect("a simulated engine");
        stages.attach(&engine.handle());
        Self {
            net,
            world,
            engine,
            stages,
            log,
        }
    }

    pub fn run(&mut self, time: Duration) {
        self.world.run_for(time);
    }

    /// Runs the world until the future is done.
    ///
    /// # Panics
    /// If it is not within a virtual hour.
    pub fn wait<T>(&mut self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        let mut cx = Context::from_waker(Waker::noop());
        for step in 0..100_000 {
            if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
                return output;
            }
            self.world.run_for(if step < 90_000 { MS } else { SECOND });
        }
        panic!("it takes too long; log: {:?}", self.log.all());
    }

    /// The node of that id.
    pub fn node(&mut self, id: u64) -> StageRef<Node> {
        let node = self.stages.get_or_create::<Node>(id);
        self.wait(node).expect("the factory makes it")
    }

    /// Has the node do this, and waits until it is done; `None` if it was not finished.
    pub fn does<T: Send + 'static>(
        &mut self,
        node: StageRef<Node>,
        run: impl for<'a, 'c> FnOnce(
            &'a mut Node,
            &'a mut Cx<'c, Node>,
        ) -> Pin<Box<dyn Future<Output = T> + 'a>>
        + Send
        + 'static,
    ) -> Option<T> {
        let asked = node.ask(|reply| {
            script(move |node, cx| {
                let run = run(node, cx);
                Box::pin(async move {
                    let _ = reply.send(run.await);
                })
            })
        });
        self.wait(asked).ok()
    }

    /// Runs the world to a multiple of `step` since the beginning.
    pub fn align(&mut self, step: Duration) {
        let past = self.net.now().as_nanos() % step.as_nanos() as u64;
        self.run(step - Duration::from_nanos(past));
    }
}

/// The first of two that is done; the other one is dropped.
pub async fn either<A, B>(a: impl Future<Output = A>, b: impl Future<Output = B>) -> Result<A, B> {
    let (mut a, mut b) = (pin!(a), pin!(b));
    std::future::poll_fn(|cx| {
        if let Poll::Ready(a) = a.as_mut().poll(cx) {
            return Poll::Ready(Ok(a));
        }
        b.as_mut().poll(cx).map(Err)
    })
    .await
}

/// Both.
pub async fn both<A, B>(a: impl Future<Output = A>, b: impl Future<Output = B>) -> (A, B) {
    let (mut a, mut b) = (pin!(a), pin!(b));
    let (mut first, mut second) = (None, None);
    std::future::poll_fn(|cx| {
        if first.is_none()
            && let Poll::Ready(done) = a.as_mut().poll(cx)
        {
            first = Some(done);
        }
        if second.is_none()
            && let Poll::Ready(done) = b.as_mut().poll(cx)
        {
            second = Some(done);
        }
        match (first.take(), second.take()) {
            (Some(a), Some(b)) => Poll::Ready((a, b)),
            (a, b) => {
                (first, second) = (a, b);
                Poll::Pending
            }
        }
    })
    .await
}

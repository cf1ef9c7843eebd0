//! Three Play servers of one mesh on a network with faults: stages ask stages, over as many servers
//! as chance will have it, while links stall and break. Every request ends, with its own answer or
//! an error, and afterwards everybody reaches everybody.

#[path = "support/sim.rs"]
mod sim;
mod support;

use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use proscenium_engine::sim::{Faults, SimEngine, SimNet, SimRandom, SimWorld};
use proscenium_engine::{Address, Backoff};
use proscenium_nodelink::{Endpoint, Nid, Node, NodeOptions};
use proscenium_play::{
    Content, ErrorCode, Failure, Packet, PendingContent, PlayHandle, PlayParts, PlayServer,
    PlayShard, PlayStage, Result, StageCx, StageKind,
};
use sim::{SECOND, for_seeds};

const SERVERS: usize = 3;
/// Of each server.
const STAGES: i64 = 6;
const DEADLINE: Duration = Duration::from_secs(5);

/// Passes a walk on: `SERVER STAGE` for each step that is left, then `= TOKEN`.
struct Walker;

impl PlayStage for Walker {
    type Actor = ();

    async fn on_dispatch_server(
        &mut self,
        cx: &mut StageCx<'_, Self>,
        packet: Packet<'_>,
    ) -> Result {
        let text = std::str::from_utf8(packet.payload())?;
        let mut words = text.splitn(3, ' ');
        let (Some(server), Some(stage)) = (words.next(), words.next()) else {
            return Err(Failure::new("no step"));
        };
        if server == "=" {
            cx.sleep(Duration::from_micros(100)).await;
            cx.reply("Arrived", stage)?;
            return Ok(());
        }
        let rest = words.next().unwrap_or_default();
        let arrived = cx
            .request_to_stage((&*name(server.parse()?), stage.parse()?), "Walk", rest)
            .await?;
        cx.reply(&arrived.msg_id, &arrived.payload)?;
        Ok(())
    }
}

fn name(server: usize) -> String {
    format!("play-{server}")
}

fn address(server: usize) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 7000 + server as u16))
}

struct Walk {
    token: u64,
    arrived: Pin<Box<PendingContent>>,
    steps: String,
}

struct Mesh {
    net: SimNet,
    world: SimWorld,
    random: SimRandom,
    servers: Vec<(PlayHandle, SimEngine<PlayShard>)>,
    walks: Vec<Walk>,
    tokens: u64,
    arrived: u64,
    refused: u64,
}

impl Mesh {
    fn new(net: &SimNet) -> Self {
        let mut mesh = Self {
            net: net.clone(),
            world: SimWorld::new(net, Vec::new()),
            random: net.fork_random(),
            servers: Vec::new(),
            walks: Vec::new(),
            tokens: 0,
            arrived: 0,
            refused: 0,
        };
        for server in 0..SERVERS {
            let started = mesh.start(server);
            mesh.servers.push(started);
        }
        for server in 0..SERVERS {
            for id in 0..STAGES {
                let handle = &mesh.servers[server].0;
                let mut made = Box::pin(handle.create_stage("walker", id, Content::default()));
                let is_made = mesh.world.run_until_true(SECOND * 60, || {
                    let mut task = Context::from_waker(Waker::noop());
                    made.as_mut().poll(&mut task).is_ready()
                });
                assert!(is_made, "a stage is not made");
            }
        }
        mesh
    }

    fn start(&mut self, server: usize) -> (PlayHandle, SimEngine<PlayShard>) {
        let millis = Duration::from_millis;
        let options = NodeOptions::new(Nid::new(&name(server)).unwrap())
            .handshake_deadline(millis(2000))
            .heartbeat(millis(500))
            .dead_after(millis([1000, 2000, 15_000][self.random.index(3)]))
            .backoff(Backoff {
                first: millis(50),
                max: millis(1000),
            });
        let mut node = Node::builder(options).bind(address(server));
        for other in 0..SERVERS {
            if other != server && (other < server || self.random.chance(0.5)) {
                let nid = Nid::new(&name(other)).unwrap();
                node = node.connect(Endpoint::of(nid, address(other)));
            }
        }
        let shards = 1 + self.random.index(3);
        let seed = self.random.next_u64();
        let PlayParts {
            engine,
            stages,
            handle,
            shards,
        } = PlayServer::builder()
            .stage(StageKind::new("walker", |_| Walker, || ()))
            .shards(shards)
            .request_deadline(DEADLINE)
            .node(node)
            .with_engine(|engine| engine.seed(seed))
            .with_stages(proscenium_stages::StagesBuilder::simulated)
            .into_parts()
            .unwrap();
        let engine = engine.simulate(&mut self.world, shards.make()).unwrap();
        stages.attach(&engine.handle());
        (handle, engine)
    }

    /// A request to a stage of a server, and from there from stage to stage.
    fn walk(&mut self, start: (usize, i64), steps: &[(usize, i64)]) {
        self.tokens += 1;
        let token = self.tokens;
        let mut text = String::new();
        for (server, stage) in steps {
            text.push_str(&format!("{server} {stage} "));
        }
        text.push_str(&format!("= {token}"));
        let (server, stage) = start;
        let handle = &self.servers[server].0;
        let arrived = handle.request_stage(stage, "Walk", &*text);
        self.walks.push(Walk {
            token,
            arrived: Box::pin(arrived),
            steps: format!("{server} {stage} {text}"),
        });
    }

    fn look(&mut self) {
        let mut task = Context::from_waker(Waker::noop());
        let walks = std::mem::take(&mut self.walks);
        for mut walk in walks {
            match walk.arrived.as_mut().poll(&mut task) {
                Poll::Pending => self.walks.push(walk),
                Poll::Ready(Ok(content)) => {
                    let token = walk.token.to_string();
                    assert_eq!(content.payload, token, "of another one: {}", walk.steps);
                    self.arrived += 1;
                }
                Poll::Ready(Err(code)) => {
                    let known = [
                        ErrorCode::REQUEST_TIMEOUT,
                        ErrorCode::SERVER_NOT_FOUND,
                        ErrorCode::SYSTEM_ERROR,
                    ];
                    assert!(known.contains(&code), "{code}: {}", walk.steps);
                    self.refused += 1;
                }
            }
        }
    }

    fn random_stage(&mut self) -> (usize, i64) {
        let stage = self.random.below(STAGES as u64) as i64;
        (self.random.index(SERVERS), stage)
    }

    fn step(&mut self) {
        match self.random.below(100) {
            0..=2 => {
                let at = Address::from(address(self.random.index(SERVERS)));
                let (to, from) = [(true, true), (true, false), (false, true)][self.random.index(3)];
                let most = Duration::from_secs(8);
                let time = self.random.duration(Duration::from_millis(1), most);
                self.net.stall(&at, to, from, time);
            }
            3..=60 => {
                let start = self.random_stage();
                let steps: Vec<_> = (0..=self.random.below(5))
                    .map(|_| self.random_stage())
                    .collect();
                self.walk(start, &steps);
            }
            _ => {
                let most = Duration::from_millis(300);
                let time = self.random.duration(Duration::from_micros(10), most);
                self.world.run_for(time);
                self.look();
            }
        }
    }

    /// Nothing new is asked: everything ends, each within its deadline, one behind the other.
    fn settle(&mut self) {
        self.net.set_faults(Faults::none());
        for _ in 0..200 {
            // Who is asked by one that has given up goes on with it.
            if self.walks.is_empty() && self.is_quiet() {
                break;
            }
            self.world.run_for(DEADLINE);
            self.look();
        }
        let left: Vec<_> = self.walks.iter().map(|walk| &walk.steps).collect();
        assert!(left.is_empty(), "they hang: {left:?}");
        assert!(self.is_quiet(), "requests between servers hang");
    }

    /// Every request to another server has ended.
    fn is_quiet(&self) -> bool {
        self.servers.iter().all(|(handle, _)| {
            let stats = handle.stats();
            stats.node_requests == stats.node_replies + stats.node_failures
        })
    }

    /// Asks one thing, and whether it arrived. It ends, one way or the other.
    fn arrives(&mut self, start: (usize, i64), steps: &[(usize, i64)]) -> bool {
        let before = self.arrived;
        self.walk(start, steps);
        let walk = self.walks[0].steps.clone();
        let until = self.net.now() + 2 * DEADLINE;
        while !self.walks.is_empty() {
            assert!(self.net.now() < until, "no end: {walk}");
            self.world.run_for(SECOND / 10);
            self.look();
        }
        self.arrived > before
    }

    /// All reach all again. Connections of before keep what the fault plan had for them: buffers of
    /// a few bytes, which may be too slow for a walk of three steps, and a reset that is to come.
    fn recovers(&mut self, is_slow: bool) {
        self.world.run_for(Duration::from_secs(60));
        for from in 0..SERVERS {
            for to in 0..SERVERS {
                for stage in 0..STAGES {
                    let steps = [(to, stage), (from, stage), (to, (stage + 1) % STAGES)];
                    let first = self.random_stage().1;
                    let arrives = (0..5).any(|_| self.arrives((from, first), &steps));
                    // Back to the stage that asks, or from one to itself.
                    let is_cycle = first == stage || from == to;
                    let fits = if is_cycle {
                        !arrives
                    } else {
                        arrives || is_slow
                    };
                    assert!(fits, "{from} {first} {steps:?}: arrived is {arrives}");
                }
            }
        }
    }
}

#[test]
fn stages_ask_each_other_under_faults() {
    for_seeds("stages_ask_each_other_under_faults", 20, |net| {
        let is_slow = *net.faults().buffer_bytes.start() < 64;
        let mut mesh = Mesh::new(net);
        for _ in 0..300 {
            mesh.step();
        }
        mesh.settle();
        mesh.recovers(is_slow);
        assert!(mesh.arrived > 0 && mesh.refused > 0);
    });
}

#[test]
fn a_seed_replays_exactly() {
    let hash = || {
        let net = SimNet::from_seed(7);
        let mut mesh = Mesh::new(&net);
        for _ in 0..100 {
            mesh.step();
        }
        mesh.settle();
        net.trace_hash()
    };
    assert_eq!(hash(), hash());
}

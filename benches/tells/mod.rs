//! Stages that tell one another numbers, on one hosted shard, without sockets.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use proscenium::stages::{Cx, Stage, StageRef, StageShard, StageType, Stages};
use proscenium::{Engine, Shard};

/// Adds up what it is told, for all to see.
struct Tally {
    told: Arc<AtomicU64>,
}

impl Stage for Tally {
    type Msg = u64;

    async fn on_message(&mut self, _: &mut Cx<'_, Self>, n: u64) {
        let told = self.told.load(Ordering::Relaxed) + n;
        self.told.store(told, Ordering::Relaxed);
    }
}

/// Tells each number to the next tally.
struct Teller {
    tallies: Vec<StageRef<Tally>>,
}

impl Stage for Teller {
    type Msg = u64;

    async fn on_message(&mut self, _: &mut Cx<'_, Self>, count: u64) {
        let tallies = self.tallies.iter().cycle();
        for tally in tallies.take(count as usize) {
            tally.tell(1).expect("room for it");
        }
    }
}

/// Returns the ball as long as it may, and counts.
struct Player {
    other: Option<StageRef<Player>>,
    told: Arc<AtomicU64>,
}

enum Ball {
    From(StageRef<Player>),
    Play(u64),
}

impl Stage for Player {
    type Msg = Ball;

    async fn on_message(&mut self, _: &mut Cx<'_, Self>, ball: Ball) {
        match (ball, self.other) {
            (Ball::From(other), _) => self.other = Some(other),
            (Ball::Play(left), Some(other)) => {
                let told = self.told.load(Ordering::Relaxed) + 1;
                self.told.store(told, Ordering::Relaxed);
                if left > 1 {
                    other.tell(Ball::Play(left - 1)).expect("room for it");
                }
            }
            (Ball::Play(_), None) => {}
        }
    }
}

/// A shard, and what begins a round on it.
pub(crate) struct Tells {
    shard: Shard<StageShard>,
    begin: Box<dyn Fn()>,
    told: Arc<AtomicU64>,
    done: u64,
}

impl Tells {
    /// Messages of a round.
    pub(crate) const ROUND: u64 = 1000;

    /// All numbers to `tallies` stages in turn.
    pub(crate) fn to(tallies: u64) -> Self {
        let (mut shard, stages, told) = hosted();
        let tallies = (0..tallies).map(|_| {
            let told = Arc::clone(&told);
            spawn(&mut shard, &stages, move || Tally { told })
        });
        let tallies = tallies.collect();
        let teller = spawn(&mut shard, &stages, move || Teller { tallies });
        Self {
            shard,
            begin: Box::new(move || teller.tell(Self::ROUND).expect("room for one")),
            told,
            done: 0,
        }
    }

    /// To and fro between two.
    pub(crate) fn rally() -> Self {
        let (mut shard, stages, told) = hosted();
        let [a, b] = [0, 1].map(|_| {
            let told = Arc::clone(&told);
            spawn(&mut shard, &stages, move || Player { other: None, told })
        });
        a.tell(Ball::From(b)).expect("room for one");
        b.tell(Ball::From(a)).expect("room for one");
        Self {
            shard,
            begin: Box::new(move || a.tell(Ball::Play(Self::ROUND)).expect("room for one")),
            told,
            done: 0,
        }
    }

    pub(crate) fn round(&mut self) {
        (self.begin)();
        self.done += Self::ROUND;
        while self.told.load(Ordering::Relaxed) < self.done {
            turn(&mut self.shard);
        }
    }
}

fn hosted() -> (Shard<StageShard>, Stages, Arc<AtomicU64>) {
    let stages = Stages::builder()
        .register(StageType::<Tally>::new("tally"))
        .register(StageType::<Teller>::new("teller"))
        .register(StageType::<Player>::new("player"))
        .build();
    let shard = Engine::builder().host(stages.shards()(0));
    let shard = shard.expect("a shard needs nothing");
    stages.attach(&shard.handle());
    (shard, stages, Arc::default())
}

fn spawn<S: Stage>(
    shard: &mut Shard<StageShard>,
    stages: &Stages,
    make: impl FnOnce() -> S + Send + 'static,
) -> StageRef<S> {
    let mut made = std::pin::pin!(stages.spawn_on(0, make));
    loop {
        turn(shard);
        if let Poll::Ready(made) = made.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return made.expect("room for it");
        }
    }
}

fn turn(shard: &mut Shard<StageShard>) {
    shard.turn(Duration::ZERO).expect("epoll does not fail");
}

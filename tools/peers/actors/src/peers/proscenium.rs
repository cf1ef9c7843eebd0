//! Proscenium itself: each actor is a stage. What runs on one thread runs on one hosted shard,
//! producer included; of two threads each is a shard of one engine.

use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use proscenium_engine::Engine;
use proscenium_stages::{Cx, Reply, Stage, StageRef, StageType, Stages, TellError};
use tokio::task::yield_now;

use super::drive::{Actors, Load, gone, one_thread, one_threaded, rally};
use crate::workload::{Counter, Job, LEAVE, Outcome, Play, Player, Workload};

/// How long the shards may take to end.
const DEADLINE: Duration = Duration::from_secs(10);

pub(super) fn run(job: &Job) -> Result<Outcome, String> {
    let stages = Stages::builder()
        .register(StageType::<CounterStage>::new("counter"))
        .register(StageType::<PlayerStage>::new("player"))
        .register(StageType::<Driver>::new("driver"))
        .build();
    if job.workload == Workload::TwoThreads {
        two_threads(job, stages)
    } else {
        one_shard(job, &stages)
    }
}

fn one_shard(job: &Job, stages: &Stages) -> Result<Outcome, String> {
    let mut shard = Engine::builder()
        .host(stages.shards()(0))
        .map_err(|error| error.to_string())?;
    stages.attach(&shard.handle());
    let (reply, mut result) = Reply::pair();
    let task = (*job, stages.clone());
    let mut driver = stages.spawn_on(0, move || Driver(task));
    let mut cx = Context::from_waker(Waker::noop());
    let mut reply = Some(reply);
    loop {
        shard
            .turn(Duration::ZERO)
            .map_err(|error| error.to_string())?;
        if reply.is_some() {
            let Poll::Ready(made) = std::pin::pin!(&mut driver).poll(&mut cx) else {
                continue;
            };
            let driver = made.map_err(|error| error.to_string())?;
            driver
                .tell(reply.take().ok_or("told twice")?)
                .map_err(gone)?;
        }
        if let Poll::Ready(outcome) = std::pin::pin!(&mut result).poll(&mut cx) {
            return outcome.map_err(|error| error.to_string())?;
        }
    }
}

fn two_threads(job: &Job, stages: Stages) -> Result<Outcome, String> {
    let error = |error: std::io::Error| error.to_string();
    let engine = stages.start(Engine::builder().shards(2)).map_err(error)?;
    let places = [0, 1].map(|shard| Place {
        stages: stages.clone(),
        shard,
    });
    let on = [&places[0], &places[1]];
    let outcome = one_thread()
        .map_err(error)?
        .block_on(rally::<Proscenium>(job, on));
    engine.shutdown(DEADLINE);
    outcome
}

struct Proscenium;

/// A shard of a system.
struct Place {
    stages: Stages,
    shard: usize,
}

thread_local! {
    /// The system whose shard this thread drives.
    static HERE: OnceLock<Stages> = const { OnceLock::new() };
}

fn here() -> Result<Stages, String> {
    HERE.with(|here| here.get().cloned())
        .ok_or_else(|| "not on a shard".to_owned())
}

/// Runs the whole job in its handler, among the stages that it tells.
struct Driver((Job, Stages));

impl Stage for Driver {
    type Msg = Reply<Result<Outcome, String>>;

    async fn on_message(&mut self, cx: &mut Cx<'_, Self>, reply: Self::Msg) {
        let (job, stages) = &self.0;
        HERE.with(|here| {
            let _ = here.set(stages.clone()); // one job per process
        });
        let place = Place {
            stages: stages.clone(),
            shard: cx.shard(),
        };
        let _ = reply.send(one_threaded::<Proscenium>(job, &place).await);
    }
}

struct CounterStage(Counter);

impl Stage for CounterStage {
    type Msg = u64;

    async fn on_message(&mut self, _cx: &mut Cx<'_, Self>, message: u64) {
        self.0.take(message);
    }
}

struct PlayerStage {
    state: Player,
    other: Arc<OnceLock<StageRef<PlayerStage>>>,
}

impl Stage for PlayerStage {
    type Msg = u64;

    async fn on_message(&mut self, cx: &mut Cx<'_, Self>, message: u64) {
        let Some(&other) = self.other.get() else {
            return; // found by the verification
        };
        match self.state.receive(message) {
            Play::Return(answer) => {
                let _ = cx.tell(other, answer); // likewise
            }
            Play::Rest => {}
            Play::Leave => {
                let _ = cx.tell(other, LEAVE); // has left before us, if it is gone
                cx.stop_self();
            }
        }
    }
}

impl Actors for Proscenium {
    type CounterRef = StageRef<CounterStage>;
    type PlayerRef = StageRef<PlayerStage>;
    type Place = Place;

    async fn counter(state: Counter, _load: Load) -> Result<Self::CounterRef, String> {
        let made = here()?.spawn_on(0, move || CounterStage(state));
        made.await.map_err(|error| error.to_string())
    }

    async fn tell(counter: &Self::CounterRef, mut message: u64) -> Result<(), String> {
        loop {
            match counter.tell(message) {
                Err(TellError::Full(refused)) => message = refused,
                told => return told.map_err(gone),
            }
            yield_now().await;
        }
    }

    async fn pair(states: [Player; 2], on: [&Place; 2]) -> Result<Self::PlayerRef, String> {
        let knows: [Arc<OnceLock<_>>; 2] = Default::default();
        let mut made = Vec::new();
        for ((state, other), place) in states.into_iter().zip(&knows).zip(on) {
            let other = Arc::clone(other);
            let stage = place
                .stages
                .spawn_on(place.shard, move || PlayerStage { state, other });
            made.push(stage.await.map_err(|error| error.to_string())?);
        }
        for (known, other) in knows.iter().zip([made[1], made[0]]) {
            known.set(other).map_err(gone)?;
        }
        Ok(made[0])
    }

    async fn serve(player: &Self::PlayerRef, message: u64) -> Result<(), String> {
        player.tell(message).map_err(gone)
    }

    fn end(counter: Self::CounterRef) {
        if let Ok(stages) = here() {
            let _ = stages.stop(counter); // from its own shard: never refused
        }
    }
}

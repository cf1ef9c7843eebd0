//! What the simulated tests of stages share: seeds, and a world with stages in it.
#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "every test binary uses a part of it"
)]

use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use proscenium_engine::sim::{Faults, SimEngine, SimNet, SimPeer, SimWorld};
use proscenium_engine::{Engine, EngineBuilder};
use proscenium_stages::{StageShard, Stages, StagesBuilder};

#[path = "../../../tests/support/frames.rs"]
mod frames;
#[path = "../../../tests/support/seeds.rs"]
mod seeds;
pub use frames::*;
pub use seeds::*;

pub const MILLISECOND: Duration = Duration::from_millis(1);
pub const SECOND: Duration = Duration::from_secs(1);
pub const HOUR: Duration = Duration::from_secs(3600);

/// Where the engines of these tests listen.
pub const ADDRESS: &str = "10.0.0.1:7000";

/// An engine of stages in a world of its own.
pub struct House {
    pub net: SimNet,
    pub world: SimWorld,
    pub stages: Stages,
    pub engine: SimEngine<StageShard>,
}

impl House {
    /// `build` adds shards, limits and listeners.
    pub fn new(
        net: &SimNet,
        stages: StagesBuilder,
        build: impl FnOnce(EngineBuilder) -> EngineBuilder,
    ) -> Self {
        let stages = stages.simulated().build();
        let mut world = SimWorld::new(net, Vec::new());
        let engine = build(Engine::builder())
            .simulate(&mut world, stages.shards())
            .unwrap();
        stages.attach(&engine.handle());
        Self {
            net: net.clone(),
            world,
            stages,
            engine,
        }
    }

    pub fn connect(&self) -> SimPeer {
        self.net.connect(self.engine.local_addrs()[0].clone())
    }

    /// Runs the world until `future` is ready.
    #[track_caller]
    pub fn until<F: Future>(&mut self, limit: Duration, future: F) -> F::Output {
        let mut future = pin!(future);
        let mut output = None;
        self.world.run_until_true(limit, || {
            let polled = future
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()));
            if let Poll::Ready(ready) = polled {
                output = Some(ready);
            }
            output.is_some()
        });
        output.expect("it is never ready")
    }

    /// Shuts down within `deadline`; the report.
    #[track_caller]
    pub fn shut_down(&mut self, deadline: Duration) -> proscenium_engine::DrainReport {
        self.engine.handle().shutdown(deadline);
        assert!(
            self.world.run_until_finished(deadline + SECOND),
            "it does not end"
        );
        self.engine.stopped().expect("finished")
    }
}

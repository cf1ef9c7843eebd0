//! What the simulated tests of stages share: seeds, and a world with stages in it.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "every test binary uses a part of it"
)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use proscenium_engine::sim::{Faults, SimEngine, SimNet, SimPeer, SimWorld};
use proscenium_engine::{Engine, EngineBuilder};
use proscenium_stages::{StageShard, Stages, StagesBuilder};

pub const MILLISECOND: Duration = Duration::from_millis(1);
pub const SECOND: Duration = Duration::from_secs(1);
pub const HOUR: Duration = Duration::from_secs(3600);

/// Where the engines of these tests listen.
pub const ADDRESS: &str = "10.0.0.1:7000";

/// Runs `run` on a network of its own for each seed, with the faults of the seed. A seed that
/// fails is named, with how to replay it.
///
/// `PROSCENIUM_SEEDS` sets the number of seeds, `PROSCENIUM_SEED` replays one.
pub fn for_seeds(test: &str, seeds: u64, run: impl Fn(&SimNet)) {
    let number = |name: &str| {
        std::env::var(name).ok().map(|text| {
            text.parse::<u64>()
                .unwrap_or_else(|_| panic!("{name} is not a number: {text}"))
        })
    };
    let seeds = match (number("PROSCENIUM_SEED"), number("PROSCENIUM_SEEDS")) {
        (Some(one), _) => one..=one,
        (None, many) => 0..=many.unwrap_or(seeds).saturating_sub(1),
    };
    for seed in seeds {
        run_seed(test, seed, &run);
    }
}

/// Runs one seed, as [`for_seeds`] does: for seeds that failed once.
pub fn run_seed(test: &str, seed: u64, run: impl Fn(&SimNet)) {
    let net = SimNet::from_seed(seed);
    let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(&net))) else {
        return;
    };
    let text = panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    panic!(
        "seed {seed} failed: {}\nfaults: {:?}\nreplay: PROSCENIUM_SEED={seed} \
         cargo test -p proscenium-stages --features sim --test {} {test}",
        text.unwrap_or_default(),
        Faults::from_seed(seed),
        env!("CARGO_CRATE_NAME"),
    );
}

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

/// A frame as the wire has it.
pub fn frame(body: &[u8]) -> Vec<u8> {
    let mut bytes = (body.len() as u32).to_be_bytes().to_vec();
    bytes.extend_from_slice(body);
    bytes
}

/// Takes the whole frames off the front of `bytes`.
pub fn take_frames(bytes: &mut Vec<u8>) -> Vec<Vec<u8>> {
    let (mut frames, mut at) = (Vec::new(), 0);
    while let Some(header) = bytes.get(at..at + 4) {
        let length = u32::from_be_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let Some(body) = bytes.get(at + 4..at + 4 + length) else {
            break;
        };
        frames.push(body.to_vec());
        at += 4 + length;
    }
    bytes.drain(..at);
    frames
}

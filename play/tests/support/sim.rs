//! What the simulated tests of Play servers share: seeds, a world with a server in it, and clients.
#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "every test binary uses a part of it"
)]

use std::time::Duration;

use proscenium_engine::Listener;
use proscenium_engine::sim::{Faults, SimEngine, SimNet, SimPeer, SimWorld};
use proscenium_play::{PlayHandle, PlayParts, PlayServerBuilder, PlayShard};

use super::support::{Answer, packet};

#[path = "../../../tests/support/seeds.rs"]
mod seeds;
pub use seeds::*;

pub const MILLISECOND: Duration = Duration::from_millis(1);
pub const SECOND: Duration = Duration::from_secs(1);
pub const HOUR: Duration = Duration::from_secs(3600);

/// Where the servers of these tests listen.
pub const ADDRESS: &str = "10.0.0.1:7000";

/// A Play server in a world of its own.
pub struct House {
    pub net: SimNet,
    pub world: SimWorld,
    pub handle: PlayHandle,
    pub engine: SimEngine<PlayShard>,
}

impl House {
    pub fn new(net: &SimNet, server: PlayServerBuilder) -> Self {
        let PlayParts {
            engine,
            stages,
            handle,
            shards,
        } = server
            .with_stages(proscenium_stages::StagesBuilder::simulated)
            .listen(Listener::tcp(ADDRESS).unwrap())
            .into_parts()
            .unwrap();
        let mut world = SimWorld::new(net, Vec::new());
        let engine = engine.simulate(&mut world, shards.make()).unwrap();
        stages.attach(&engine.handle());
        Self {
            net: net.clone(),
            world,
            handle,
            engine,
        }
    }

    pub fn run(&mut self, time: Duration) {
        self.world.run_for(time);
    }

    pub fn connect(&self) -> SimClient {
        SimClient {
            peer: self.net.connect(self.engine.local_addrs()[0].clone()),
            input: Vec::new(),
            output: Vec::new(),
            stage: 0,
        }
    }

    /// A client whose connection is made.
    pub fn connected(&mut self) -> SimClient {
        let client = self.connect();
        let peer = &client.peer;
        let made = self.world.run_until_true(SECOND, || peer.is_connected());
        assert!(made, "it is not accepted");
        client
    }

    /// Connections that the engine has.
    pub fn connections(&self) -> u64 {
        self.engine.handle().stats().total().connections
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

/// A client, without any code of ours.
pub struct SimClient {
    pub peer: SimPeer,
    input: Vec<u8>,
    /// What the network has not taken yet.
    output: Vec<u8>,
    pub stage: i64,
}

impl SimClient {
    pub fn send(&mut self, msg_id: &str, seq: u16, payload: impl AsRef<[u8]>) {
        let bytes = packet(msg_id, seq, self.stage, payload.as_ref());
        self.output.extend(bytes);
        self.flush();
    }

    pub fn flush(&mut self) {
        let taken = self.peer.write(&self.output);
        self.output.drain(..taken);
    }

    /// What has come so far, in whole packets.
    pub fn answers(&mut self) -> Vec<Answer> {
        self.flush();
        self.peer.read(&mut self.input);
        let (mut answers, mut at) = (Vec::new(), 0);
        while let Some(header) = self.input.get(at..at + 4) {
            let length = i32::from_le_bytes(header.try_into().unwrap()) as usize;
            let Some(body) = self.input.get(at + 4..at + 4 + length) else {
                break;
            };
            answers.push(Answer::parse(body));
            at += 4 + length;
        }
        self.input.drain(..at);
        answers
    }

    /// The connection has ended.
    pub fn is_over(&mut self) -> bool {
        self.peer.read(&mut self.input);
        self.peer.is_read_closed() || self.peer.error().is_some()
    }
}

//! The production shard with an echo for a handler, on the simulated network and on a replay.

use std::time::Duration;

use proscenium::bench_support::{ReplayShard, turn};
use proscenium::sim::{Costs, Faults, SimEngine, SimNet, SimPeer, SimWorld};
use proscenium::{Context, Engine, Framing, Handler, Listener, Message, RouterId};

use crate::frames::frames;

/// Sends every message back.
pub(crate) struct Echo;

impl Handler for Echo {
    type Post = ();

    #[inline]
    fn on_message(&mut self, cx: &mut Context<'_, ()>, from: RouterId, message: Message<'_>) {
        cx.send(from, &message).expect("the queue has room");
    }
}

/// One shard and one peer on a simulated network without faults and without latency.
pub(crate) struct SimEcho {
    /// Owns the other half of the shard.
    _world: SimWorld,
    engine: SimEngine<Echo>,
    peer: SimPeer,
    frames: Vec<u8>,
    back: Vec<u8>,
}

impl SimEcho {
    /// What a socket of the simulation takes at once.
    const BUFFER: usize = 64 * 1024;

    /// As many frames of `size` bytes as the peer can send at once.
    pub(crate) const fn frames_per_turn(size: usize) -> usize {
        Self::BUFFER / (4 + size)
    }

    pub(crate) fn new(framing: Framing, size: usize) -> Self {
        let mut faults = Faults::none();
        faults.latency = Duration::ZERO..=Duration::ZERO;
        faults.buffer_bytes = Self::BUFFER..=Self::BUFFER;
        let net = SimNet::new(1, faults);
        let mut costs = Costs::default();
        costs.turn_ns = 1_000_000;
        net.set_costs(costs);
        let mut world = SimWorld::new(&net, Vec::new());
        let listener = Listener::tcp("10.0.0.1:7000").expect("an address");
        let engine = Engine::builder()
            .listen(listener.framing(framing))
            .simulate(&mut world, |_| Echo)
            .expect("the address is free");
        let peer = net.connect(engine.local_addrs()[0].clone());
        world.run_for(Duration::from_secs(1));
        assert!(peer.is_connected());
        Self {
            _world: world,
            engine,
            peer,
            frames: frames(size, Self::frames_per_turn(size)),
            back: Vec::new(),
        }
    }

    /// The peer sends the frames.
    pub(crate) fn offer(&mut self) {
        assert_eq!(self.peer.write(&self.frames), self.frames.len());
    }

    /// The turn in which the shard receives, dispatches and answers them.
    #[inline]
    pub(crate) fn turn(&mut self) {
        turn(&self.engine, 0);
    }

    /// The peer takes the echo, which must be what it sent.
    pub(crate) fn collect(&mut self) {
        self.back.clear();
        self.peer.read(&mut self.back);
        assert!(self.back == self.frames, "the echo differs");
    }
}

/// One shard on a replay: 1,000 frames under way on each connection, read 64 KiB at a time.
pub(crate) struct ReplayEcho<H: Handler = Echo> {
    shard: ReplayShard<H>,
    /// Bytes that a turn brings.
    turn: usize,
    connections: usize,
    written: u64,
}

impl<H: Handler> ReplayEcho<H> {
    const READ: usize = 64 * 1024;
    const IN_FLIGHT: usize = 1000;

    pub(crate) fn new(handler: H, framing: Framing, size: usize, connections: usize) -> Self {
        Self::of(
            handler,
            framing,
            &frames(size, Self::IN_FLIGHT),
            connections,
        )
    }

    /// With frames of one's own.
    pub(crate) fn of(handler: H, framing: Framing, recording: &[u8], connections: usize) -> Self {
        Self::reading(handler, framing, recording, connections, Self::READ)
    }

    /// Of which each connection receives `read` bytes per turn.
    pub(crate) fn reading(
        handler: H,
        framing: Framing,
        recording: &[u8],
        connections: usize,
        read: usize,
    ) -> Self {
        let shard = ReplayShard::new(handler, framing, connections, recording, read);
        let mut echo = Self {
            shard,
            turn: connections * read,
            connections,
            written: 0,
        };
        echo.written = echo.shard.written();
        echo
    }

    /// Bytes, headers included, that a turn brings and that are sent back (but for the incomplete
    /// frames at the end of the pieces, which even out).
    pub(crate) const fn bytes_per_turn(connections: usize) -> usize {
        connections * Self::READ
    }

    #[inline]
    pub(crate) fn turn(&mut self) {
        self.shard.turn();
    }

    /// See [`ReplayShard::change`].
    #[allow(dead_code, reason = "not of every bench")]
    pub(crate) fn change(&mut self, call: impl FnMut(&mut [u8], usize) + 'static) {
        self.shard.change(call);
    }

    /// At least so many bytes were sent since the last time.
    #[allow(dead_code, reason = "not of every bench")]
    pub(crate) fn check_at_least(&mut self, bytes: u64) {
        let written = self.shard.written();
        let sent = written - self.written;
        assert!(sent >= bytes, "{sent} of {bytes} bytes");
        self.written = written;
    }

    /// What came since the last time was sent back.
    pub(crate) fn check(&mut self, turns: u64, frame: usize) {
        let written = self.shard.written();
        let expected = turns * self.turn as u64;
        let slack = (self.connections * frame) as u64;
        let difference = (written - self.written).abs_diff(expected);
        assert!(
            difference <= slack,
            "{difference} bytes too many or too few"
        );
        self.written = written;
    }
}

//! [`PlayShard`]: the engine's handler of a Play server: its stages, and on shard 0 its node link.

use std::cell::Cell;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;
use proscenium_engine::{
    CloseReason, ConnectError, ConnectId, Context, Handler, Message, Messages, Peer, RouterId, Run,
};
use proscenium_nodelink::NodeLink;
use proscenium_stages::{Local, StagePost, StageShard, Stages};

use super::Mesh;
use super::inbound::Inbound;
use super::outbox::Outbox;
use crate::gate::Gate;
use crate::shared::Shared;

/// What the engine runs on a shard of a Play server; made by [`PlayShards`].
pub struct PlayShard {
    stages: StageShard,
    /// On shard 0, if the server is a node.
    node: Option<Box<NodeLink>>,
    /// That of the shard's gate, from its start on.
    mesh: Option<Rc<Mesh>>,
    shared: Arc<Shared>,
    shard: usize,
    ending: Cell<bool>,
}

/// Makes the handlers of a Play server's shards: see
/// [`PlayServerBuilder::into_parts`](crate::PlayServerBuilder::into_parts).
#[derive(Clone)]
pub struct PlayShards {
    stages: Stages,
    shared: Arc<Shared>,
    /// Taken by shard 0.
    node: Arc<Mutex<Option<Box<NodeLink>>>>,
}

impl PlayShards {
    pub(crate) fn new(stages: Stages, shared: Arc<Shared>, node: Option<NodeLink>) -> Self {
        let node = Arc::new(Mutex::new(node.map(Box::new)));
        Self {
            stages,
            shared,
            node,
        }
    }

    /// The handler of that shard. Shard 0 gets the node link, the first time.
    pub fn shard(&self, shard: usize) -> PlayShard {
        self.wrap(shard, self.stages.shards()(shard))
    }

    /// [`shard`](Self::shard), as what makes handlers is passed to the engine.
    pub fn make(&self) -> impl Fn(usize) -> PlayShard + Send + Sync + Clone + use<> {
        let shards = self.clone();
        move |shard| shards.shard(shard)
    }

    pub(crate) fn wrap(&self, shard: usize, stages: StageShard) -> PlayShard {
        let node = (shard == 0).then(|| self.node.lock().take());
        PlayShard {
            stages,
            node: node.flatten(),
            mesh: None,
            shared: Arc::clone(&self.shared),
            shard,
            ending: Cell::new(false),
        }
    }
}

impl fmt::Debug for PlayShards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PlayShards").finish_non_exhaustive()
    }
}

impl fmt::Debug for PlayShard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PlayShard")
            .field("shard", &self.shard)
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

type Engine<'a> = Context<'a, StagePost>;

/// Calls the node link with `$call` and the handler of its messages; its answer, or `false` if
/// there is none.
macro_rules! of_node {
    ($self:ident, |$node:ident, $inbound:ident| $call:expr) => {
        match (&mut $self.node, &$self.mesh) {
            (Some($node), Some(mesh)) => {
                let $inbound = &mut Inbound {
                    stages: &mut $self.stages,
                    mesh,
                };
                $call
            }
            _ => false,
        }
    };
}

impl PlayShard {
    /// True if the connection is one of the node link.
    #[inline]
    fn is_of_node(&self, id: RouterId) -> bool {
        self.node.as_ref().is_some_and(|node| node.owns(id))
    }

    /// Hands what the stages have sent to the node link; true if stages were told something.
    fn flush(&mut self, cx: &mut Engine<'_>) -> bool {
        let Some(mesh) = &self.mesh else { return false };
        let Some(node) = &mut self.node else {
            if !mesh.outbox.borrow().is_empty() {
                let outbox = mesh.close_outbox();
                self.stages.with_local(cx, |local| send_on(local, outbox));
            }
            return false;
        };
        let counts = self.shared.counts(self.shard);
        let mut told = false;
        let mut failed = Vec::new();
        loop {
            let arrived = mesh.arrived.borrow_mut().pop_front();
            let is_own = arrived.is_none();
            let mut outbox = match arrived {
                Some(outbox) => outbox,
                None if mesh.outbox.borrow().is_empty() => break,
                None => mesh.close_outbox(),
            };
            outbox.flush(node, cx, |number, code| match number {
                Some(number) => failed.push((number, code)),
                None => counts.node_lost.add(1),
            });
            if is_own {
                mesh.reuse(outbox);
            }
        }
        counts.node_failures.add(failed.len() as u64);
        let has_news = mesh.has_news();
        if !failed.is_empty() || has_news {
            told = true;
            self.stages.with_local(cx, |local| {
                for (number, code) in failed {
                    mesh.complete(number, Err(code));
                }
                mesh.post_to_others(local);
            });
        }
        told
    }
}

/// To shard 0, which has the node link. Needs no room: requests and sends have made room before,
/// and there are no more replies than requests.
fn send_on(local: &Local<'_>, outbox: Outbox) {
    local.run_on(0, move |local| {
        Gate::with(local, |gate| {
            gate.mesh.arrived.borrow_mut().push_back(outbox);
        });
    });
}

impl Handler for PlayShard {
    type Post = StagePost;

    fn on_start(&mut self, cx: &mut Engine<'_>) {
        self.stages.on_start(cx);
        let (one, two) = (cx.random(), cx.random());
        let mesh = self.stages.with_local(cx, Gate::mesh);
        mesh.seed(one, two);
        self.mesh = Some(mesh);
        if let Some(node) = &mut self.node {
            node.on_start(cx);
        }
    }

    fn on_connect(&mut self, cx: &mut Engine<'_>, id: RouterId, peer: &Peer) {
        let of_node = self.node.as_mut();
        if !of_node.is_some_and(|node| node.on_connect(cx, id, peer)) {
            self.stages.on_connect(cx, id, peer);
        }
    }

    #[inline]
    fn on_message(&mut self, cx: &mut Engine<'_>, from: RouterId, message: Message<'_>) {
        if !of_node!(self, |node, inbound| {
            node.on_message(cx, inbound, from, &message)
        }) {
            self.stages.on_message(cx, from, message);
        }
    }

    #[inline]
    fn prefetch(&self, tag: u64) {
        self.stages.prefetch(tag);
    }

    #[inline]
    fn on_messages(&mut self, cx: &mut Engine<'_>, from: RouterId, messages: &mut Messages<'_>) {
        if self.is_of_node(from) {
            for message in messages {
                self.on_message(cx, from, message);
            }
        } else {
            self.stages.on_messages(cx, from, messages);
        }
    }

    fn on_posted(&mut self, cx: &mut Engine<'_>, posted: StagePost) {
        self.stages.on_posted(cx, posted);
    }

    fn on_timer(&mut self, cx: &mut Engine<'_>, token: u64) {
        if !of_node!(self, |node, inbound| node.on_timer(cx, inbound, token)) {
            self.stages.on_timer(cx, token);
        }
    }

    fn on_wake(&mut self, cx: &mut Engine<'_>, token: u64) {
        if !of_node!(self, |node, inbound| node.on_wake(cx, inbound, token)) {
            self.stages.on_wake(cx, token);
        }
    }

    fn on_drained(&mut self, cx: &mut Engine<'_>, id: RouterId) {
        if !of_node!(self, |node, inbound| node.on_drained(cx, inbound, id)) {
            self.stages.on_drained(cx, id);
        }
    }

    fn on_read_closed(&mut self, cx: &mut Engine<'_>, id: RouterId) {
        let of_node = self.node.as_mut();
        if !of_node.is_some_and(|node| node.on_read_closed(cx, id)) {
            self.stages.on_read_closed(cx, id);
        }
    }

    fn on_disconnect(&mut self, cx: &mut Engine<'_>, id: RouterId, reason: &CloseReason) {
        if !of_node!(self, |node, inbound| {
            node.on_disconnect(cx, inbound, id, reason)
        }) {
            self.stages.on_disconnect(cx, id, reason);
        }
    }

    fn on_connect_failed(
        &mut self,
        cx: &mut Engine<'_>,
        connect: ConnectId,
        error: &ConnectError,
        retry: Option<Duration>,
    ) {
        let of_node = self.node.as_mut();
        if !of_node.is_some_and(|node| node.on_connect_failed(cx, connect, error)) {
            self.stages.on_connect_failed(cx, connect, error, retry);
        }
    }

    fn on_adopted(&mut self, cx: &mut Engine<'_>, id: RouterId, peer: &Peer) {
        self.stages.on_adopted(cx, id, peer);
    }

    fn on_departed(&mut self, cx: &mut Engine<'_>, id: RouterId, to: usize) {
        self.stages.on_departed(cx, id, to);
    }

    fn run(&mut self, cx: &mut Engine<'_>) -> Run {
        let run = self.stages.run(cx);
        if self.flush(cx) { Run::Ready } else { run }
    }

    fn on_shutdown(&mut self, cx: &mut Engine<'_>) {
        self.ending.set(true);
        if let Some(node) = &mut self.node {
            node.on_shutdown(cx);
        }
        self.stages.on_shutdown(cx);
    }

    /// The node link outlives the stages of all shards, so that their last answers still go out.
    fn pending_work(&self) -> usize {
        let waiting = self.mesh.as_ref().map_or(0, |mesh| mesh.waiting());
        let work = self.stages.pending_work() + waiting;
        if self.ending.get() {
            self.shared.set_drained(self.shard, work == 0);
        }
        match &self.node {
            Some(node) => work + node.pending_work() + self.shared.undrained(),
            None => work,
        }
    }
}

impl Drop for PlayShard {
    fn drop(&mut self) {
        self.shared.set_drained(self.shard, true);
    }
}

impl Mesh {
    fn seed(&self, one: u64, two: u64) {
        self.requests.seed(one);
        self.routes.seed(two);
    }

    /// What the stages have sent, as it goes to the node link.
    fn close_outbox(&self) -> Outbox {
        let mut outbox = self.outbox.take();
        outbox.close(&self.requests);
        outbox
    }

    /// Its memory serves again.
    fn reuse(&self, outbox: Outbox) {
        let mut own = self.outbox.borrow_mut();
        if own.is_empty() {
            *own = outbox;
        }
    }

    /// There is something for other shards.
    fn has_news(&self) -> bool {
        self.shared.shards.len() > 1
            && (self.answers.borrow().iter().any(|of| !of.is_empty())
                || self.parcels.borrow().iter().any(|of| !of.is_empty()))
    }
}

impl Shared {
    /// All that this shard had to do before the end is done, or not (yet).
    fn set_drained(&self, shard: usize, drained: bool) {
        self.shards[shard].drained.store(drained, Ordering::Release);
    }

    /// Shards other than the node's that may have something to send.
    fn undrained(&self) -> usize {
        let others = self.shards.iter().skip(1);
        others
            .filter(|shard| !shard.drained.load(Ordering::Acquire))
            .count()
    }
}

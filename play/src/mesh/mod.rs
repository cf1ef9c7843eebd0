//! The servers of the mesh, as the stages of one shard see them.
//!
//! ```text
//! stage ──► Mesh: where to? ─ here ──► the directory of the stage's shard, nothing serialized
//!                           └ there ─► Outbox ─► end of the slice ─► shard 0: NodeLink ─► peer
//! peer ──► shard 0: Inbound ──► the directory of the stage's shard ──► on_dispatch_server
//! reply ─► shard 0: Inbound ──► Requests of the shard that asked ──► the stage goes on
//! ```
//!
//! The node link lives on shard 0, in the handler [`PlayShard`]; everything here belongs to one
//! shard. What goes from one shard to another goes as one post for a whole slice.

mod inbound;
mod outbox;
mod requests;
mod routes;
mod sending;
mod served;
mod shard;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use proscenium_framing::packet::ErrorCode;
use proscenium_framing::route::{Chain, RouteHeader};
use proscenium_nodelink::{NodeHandle, NodeLink, PeerGauge};
use proscenium_stages::Local;

pub use requests::Request;
pub use sending::Link;
pub use shard::{PlayShard, PlayShards};

pub(crate) use outbox::Waiting;
pub(crate) use served::{NodeReply, Served, ServedAsker, ServedBody};

use crate::directory::RoomMsg;
use crate::error::DeliverError;
use crate::gate::Gate;
use crate::packet::Payload;
use crate::shared::Shared;
use outbox::{Outbox, What};
use requests::{Answer, Requests};
use routes::Routes;

/// Requests may be nested so deep, over all servers.
pub(crate) const DEPTH_MAX: usize = 16;

/// What a Play server has as a node.
pub(crate) struct NodePart {
    pub(crate) handle: NodeHandle,
    /// The longest payload that fits into a message.
    pub(crate) payload_max: usize,
}

impl NodePart {
    pub(crate) fn new(link: &NodeLink) -> Self {
        Self {
            payload_max: link.payload_max(),
            handle: link.handle(),
        }
    }
}

/// For a stage of another shard, of another server.
enum Parcel {
    Tell(i64, Option<usize>, RoomMsg),
    Destroy(i64, Option<NodeReply>, Box<str>),
}

/// See the module's page.
pub(crate) struct Mesh {
    shard: usize,
    shared: Arc<Shared>,
    pub(crate) requests: Requests,
    routes: Routes,
    outbox: RefCell<Outbox>,
    /// On shard 0: what the others have in their outboxes.
    arrived: RefCell<VecDeque<Outbox>>,
    /// On shard 0, by shard: answers to requests of the others.
    answers: RefCell<Vec<Vec<(u64, Answer)>>>,
    /// On shard 0, by shard: messages for stages of the others.
    parcels: RefCell<Vec<Vec<Parcel>>>,
    /// Messages of detached futures to stages of this server.
    inside: RefCell<VecDeque<(i64, Box<Served>)>>,
}

impl Mesh {
    pub(crate) fn new(shared: Arc<Shared>, shard: usize) -> Self {
        let shards = shared.shards.len();
        Self {
            shard,
            requests: Requests::new(shard),
            routes: Routes::default(),
            outbox: RefCell::default(),
            arrived: RefCell::default(),
            answers: RefCell::new((0..shards).map(|_| Vec::new()).collect()),
            parcels: RefCell::new((0..shards).map(|_| Vec::new()).collect()),
            inside: RefCell::default(),
            shared,
        }
    }

    fn node(&self) -> Option<&NodePart> {
        self.shared.node.as_ref()
    }

    /// This server's name; empty if it is no node.
    pub(crate) fn nid(&self) -> &str {
        self.node().map_or("", |node| node.handle.nid())
    }

    /// True if a request with these others waiting for it could never be answered by a stage of
    /// this shard: that stage is one of those, and can do nothing before its own is answered.
    #[inline]
    pub(crate) fn is_cycle(&self, stage_id: i64, trail: &[u8]) -> bool {
        !trail.is_empty() && self.closes_cycle(stage_id, trail)
    }

    fn closes_cycle(&self, stage_id: i64, trail: &[u8]) -> bool {
        let chain = Chain::of_fields(trail);
        let nid = self.nid();
        let is_here = |stage| self.shared.place(stage) == self.shard;
        let mut entries = chain.iter().filter(|entry| entry.nid == nid);
        let asks = |stage, request| self.requests.blocks(stage, request);
        let closes = entries.any(|entry| entry.stage == stage_id && asks(stage_id, entry.request));
        // Who asked on behalf of that stage may have given up meanwhile: then it gets its answer.
        // Of stages elsewhere only they know.
        let closes = closes
            && entries.all(|entry| !is_here(entry.stage) || asks(entry.stage, entry.request));
        if closes {
            self.shared.counts(self.shard).cycles.add(1);
            tracing::debug!(nid, stage_id, ?chain, "a request could never be answered");
        }
        closes
    }

    fn push(
        &self,
        (what, gauge): (What, Option<&PeerGauge>),
        header: &RouteHeader<'_>,
        waiting: Waiting<'_>,
        payload: &(impl Payload + ?Sized),
    ) -> Result<(), (DeliverError, What)> {
        let Some(node) = self.node() else {
            return Err((DeliverError::Unroutable, what));
        };
        let mut outbox = self.outbox.borrow_mut();
        let limit = node.payload_max;
        outbox.push(&node.handle, (what, gauge), header, waiting, payload, limit)
    }

    /// Answers a request of another server.
    pub(crate) fn answer(
        &self,
        shard: usize,
        reply: &mut NodeReply,
        (error, msg_id): (ErrorCode, &str),
        payload: &(impl Payload + ?Sized),
    ) -> Result<(), DeliverError> {
        debug_assert_eq!(shard, self.shard);
        let Some(to) = reply.take() else {
            return Err(DeliverError::AnsweredAlready);
        };
        let header = RouteHeader {
            msg_id,
            error_code: u32::from(error.0),
            stage_id: reply.stage_id,
            ..RouteHeader::default()
        };
        let what = (What::Reply(to), None);
        match self.push(what, &header, Waiting::default(), payload) {
            Ok(()) => {
                self.shared.counts(shard).node_answers.add(1);
                Ok(())
            }
            Err((error, What::Reply(to))) => {
                reply.put_back(to);
                Err(error)
            }
            Err((error, _)) => Err(error),
        }
    }

    /// Answers with nothing but a code.
    pub(crate) fn refuse(
        &self,
        shard: usize,
        reply: &mut NodeReply,
        msg_id: &str,
        code: ErrorCode,
    ) {
        // An empty payload is not too long; who asked may be gone, which is counted then.
        let _ = self.answer(shard, reply, (code, msg_id), &());
    }

    /// The answer to a request of this server has come, on shard 0.
    fn complete(&self, number: u64, answer: Answer) {
        let shard = Requests::shard_of(number);
        if shard == self.shard {
            return self.requests.complete(number, answer);
        }
        if let Some(of) = self.answers.borrow_mut().get_mut(shard) {
            of.push((number, answer));
        }
    }

    /// At the end of a slice, after the stages: what detached futures have sent within this server.
    /// True if stages were told something.
    pub(crate) fn deliver_inside(&self, local: &Local<'_>) -> bool {
        self.requests.arm(local);
        let mut any = false;
        loop {
            let next = self.inside.borrow_mut().pop_front();
            let Some((stage_id, served)) = next else {
                return any;
            };
            any = true;
            let told = tell(local, self.shared.place(stage_id), stage_id, served);
            if let Err(served) = told {
                served.refuse(local, ErrorCode::SYSTEM_ERROR);
            }
        }
    }

    /// On shard 0, at the end of a slice: what came for other shards.
    fn post_to_others(&self, local: &Local<'_>) {
        for shard in 1..self.shared.shards.len() {
            let answers = std::mem::take(&mut self.answers.borrow_mut()[shard]);
            if !answers.is_empty() {
                // Needs no room: as many are under way as that shard has asked for.
                local.run_on(shard, move |local| {
                    Gate::with(local, |gate| {
                        for (number, answer) in answers {
                            gate.mesh.requests.complete(number, answer);
                        }
                    });
                });
            }
            let parcels = std::mem::take(&mut self.parcels.borrow_mut()[shard]);
            if !parcels.is_empty() {
                self.post_parcels(local, shard, parcels);
            }
        }
    }

    fn post_parcels(&self, local: &Local<'_>, shard: usize, parcels: Vec<Parcel>) {
        // Kept at hand: if there is no room there, whoever asked is told so.
        let parcels = Arc::new(Mutex::new(parcels));
        let of_shard = Arc::clone(&parcels);
        let posted = local.try_run_on(shard, move |local| {
            for parcel in std::mem::take(&mut *of_shard.lock()) {
                parcel.open(local);
            }
        });
        if posted.is_err() {
            for parcel in std::mem::take(&mut *parcels.lock()) {
                parcel.refuse(local, ErrorCode::SYSTEM_ERROR);
            }
        }
    }

    /// Messages that wait for shard 0's node link.
    fn waiting(&self) -> usize {
        let arrived = self.arrived.borrow();
        self.outbox.borrow().len() + arrived.iter().map(Outbox::len).sum::<usize>()
    }
}

impl Parcel {
    fn open(self, local: &Local<'_>) {
        Gate::with(local, |gate| match self {
            Self::Tell(stage_id, kind, message) => {
                gate.directory.tell(local, stage_id, kind, message);
            }
            Self::Destroy(stage_id, reply, msg_id) => {
                let closed = gate.directory.close(local, stage_id);
                let code = if closed {
                    ErrorCode::SUCCESS
                } else {
                    ErrorCode::STAGE_NOT_FOUND
                };
                if let Some(mut reply) = reply {
                    gate.mesh.refuse(local.shard(), &mut reply, &msg_id, code);
                }
            }
        });
    }

    fn refuse(self, local: &Local<'_>, code: ErrorCode) {
        match self {
            Self::Tell(_, _, message) => message.refuse(local, code),
            Self::Destroy(_, Some(mut reply), msg_id) => Gate::with(local, |gate| {
                gate.mesh.refuse(local.shard(), &mut reply, &msg_id, code);
            }),
            Self::Destroy(..) => {}
        }
    }
}

/// Tells a stage of this server.
///
/// # Errors
/// The message, if there was no room in the mailbox of its shard.
fn tell(
    local: &Local<'_>,
    shard: usize,
    stage_id: i64,
    served: Box<Served>,
) -> Result<(), Box<Served>> {
    if shard == local.shard() {
        Gate::with(local, |gate| {
            let message = RoomMsg::Serve(served);
            gate.directory.tell(local, stage_id, None, message);
        });
        return Ok(());
    }
    // As above.
    let kept = Arc::new(Mutex::new(Some(served)));
    let of_shard = Arc::clone(&kept);
    let told = local.try_run_on(shard, move |local: &Local<'_>| {
        if let Some(served) = of_shard.lock().take() {
            Gate::with(local, |gate| {
                let message = RoomMsg::Serve(served);
                gate.directory.tell(local, stage_id, None, message);
            });
        }
    });
    match told {
        Ok(()) => Ok(()),
        Err(_) => kept.lock().take().map_or(Ok(()), Err),
    }
}

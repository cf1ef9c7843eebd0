//! [`Peer`]: what a node knows of another one.

use std::sync::Arc;

use crate::Nid;
use crate::handle::Gauge;
use crate::link::LinkKey;
use crate::requests::Requests;
use crate::stats::PeerCounters;

/// Names a peer of one node, as long as the node knows it; a look-up by it is cheaper than by
/// [`Nid`]. A stale one is `Unroutable`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}

/// The link that is sent on has changed. What is sent is held back until everything that was sent
/// on the old one has arrived.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fence {
    /// The old link.
    pub(crate) old: LinkKey,
    /// The context of the PING that went behind its last message.
    pub(crate) nonce: u64,
}

pub(crate) struct Peer {
    pub(crate) id: PeerId,
    pub(crate) nid: Nid,
    /// At most one link for each direction.
    pub(crate) dialled: Option<LinkKey>,
    pub(crate) accepted: Option<LinkKey>,
    /// The link that is sent on.
    pub(crate) current: Option<LinkKey>,
    pub(crate) fence: Option<Fence>,
    /// The last turn of its sending that it has begun, and the run that this belongs to.
    pub(crate) turn_in: u64,
    pub(crate) run: u64,
    pub(crate) requests: Requests,
    pub(crate) counters: PeerCounters,
    /// Whether the handler has been told that the peer can be reached.
    pub(crate) told_up: bool,
    pub(crate) gauge: Arc<Gauge>,
}

impl Peer {
    /// The link that should be sent on.
    pub(crate) fn wanted(&self, split: bool) -> Option<LinkKey> {
        self.dialled.or(self.accepted.filter(|_| !split))
    }

    /// All links, for what concerns both.
    pub(crate) fn links(&self) -> impl Iterator<Item = LinkKey> + use<> {
        self.dialled.into_iter().chain(self.accepted)
    }
}

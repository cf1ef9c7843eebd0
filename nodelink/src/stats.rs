//! [`NodeStats`]: what a node has done, and what it has of each peer.

use crate::Nid;
use crate::error::LinkEnd;

/// Numbers of one peer. Counters begin when the peer was first seen.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerStats {
    /// Its name.
    pub nid: Nid,
    /// There is a link that this node dialled.
    pub dialled: bool,
    /// There is a link that this node accepted.
    pub accepted: bool,
    /// It is a Proscenium node.
    pub proscenium: bool,
    /// What it has been sent and what it sent.
    pub counters: PeerCounters,
    /// Requests that it has not answered yet.
    pub pending: usize,
    /// Requests of its that have not been answered yet.
    pub unanswered: usize,
    /// It has said that it leaves: no policy chooses it any more.
    pub leaving: bool,
    /// Messages that wait for its links, beyond what the engine's send queues have.
    pub queued_messages: usize,
    /// Bytes that wait likewise, those in the engine's send queues included.
    pub queued_bytes: usize,
}

/// The counters of one peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerCounters {
    /// Messages queued for it, requests and replies included.
    pub messages_out: u64,
    /// Bytes of these, with their framing.
    pub bytes_out: u64,
    /// Messages received, requests and replies included.
    pub messages_in: u64,
    /// Bytes received, with their framing.
    pub bytes_in: u64,
    /// Requests sent.
    pub requests: u64,
    /// Replies received in time.
    pub replies: u64,
    /// Requests whose deadline came first.
    pub timeouts: u64,
    /// Requests that failed because their link was lost.
    pub requests_lost: u64,
    /// Replies that nobody waited for any more; dropped.
    pub late_replies: u64,
    /// Messages refused with `Full`.
    pub refused_full: u64,
    /// Replies to it that found no room, or were too long: an empty one with code 14 went in their
    /// place. Those of [`requests_refused`](Self::requests_refused) included.
    pub replies_replaced: u64,
    /// Requests of its that were not accepted, because more than half of the room for replies to
    /// it was taken.
    pub requests_refused: u64,
    /// Messages that waited for a link when it was lost.
    pub messages_lost: u64,
    /// Messages whose `payload_size` was not the payload's length.
    pub size_mismatches: u64,
    /// Links that came up.
    pub links_up: u64,
}

/// Numbers of a node, and of all its peers in the order of their names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeStats {
    /// The peers.
    pub peers: Vec<PeerStats>,
    /// Links that ended, and attempts that failed, by [`LinkEnd`].
    pub ended: [u64; LinkEnd::COUNT],
    /// Links and connections, those in handshake included.
    pub links: usize,
    /// Memory for incomplete messages of all links, in bytes, now.
    pub reassembly_bytes: usize,
    /// Messages of handles whose peer was gone when their turn came.
    pub unroutable: u64,
    /// Replies refused because the link of their request was gone.
    pub replies_refused: u64,
}

impl NodeStats {
    /// The peer of that name.
    pub fn peer(&self, nid: &str) -> Option<&PeerStats> {
        self.peers.iter().find(|peer| peer.nid.as_str() == nid)
    }

    /// How many links ended so.
    pub fn ended(&self, end: LinkEnd) -> u64 {
        self.ended[end as usize]
    }
}

//! [`Routes`]: which servers a shard can reach, and which one of a service is next.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use proscenium_nodelink::routing::Candidate;
use proscenium_nodelink::{Nid, NodeHandle, PeerGauge, PeerId};
use rustc_hash::FxHashMap;

use crate::policies::Turns;
use crate::target::{Policy, To};

/// A server that can be reached.
#[derive(Clone)]
pub(crate) struct Peer {
    pub(crate) id: PeerId,
    pub(crate) gauge: PeerGauge,
}

/// The servers of a service, as they were when something changed last.
struct Servers {
    /// Of the node's list, and of this shard's peers.
    as_of: (u64, u64),
    candidates: Vec<Candidate>,
    turns: Turns,
}

/// See the module's page. Names come from outside.
#[derive(Default)]
pub(crate) struct Routes {
    peers: RefCell<HashMap<Nid, Peer>>,
    changes: Cell<u64>,
    services: RefCell<FxHashMap<u16, Servers>>,
    random: Cell<u64>,
}

/// Where a message goes.
pub(crate) enum Place {
    Here,
    There,
    Nowhere,
}

impl Routes {
    pub(crate) fn seed(&self, random: u64) {
        self.random.set(random);
    }

    /// A server can be reached from now on, or (`None`) cannot any more.
    pub(crate) fn change(&self, nid: &Nid, peer: Option<Peer>) {
        let mut peers = self.peers.borrow_mut();
        match peer {
            Some(peer) => {
                peers.insert(nid.clone(), peer);
            }
            None => {
                peers.remove(nid);
            }
        }
        self.changes.set(self.changes.get() + 1);
    }

    /// Calls `call` with what is known of a server.
    pub(crate) fn with<R>(&self, nid: &str, call: impl FnOnce(&Peer) -> R) -> Option<R> {
        self.peers.borrow().get(nid).map(call)
    }

    /// The server that is meant: `chosen` keeps its name if it is one of a service.
    pub(crate) fn find<'a>(
        &self,
        node: &NodeHandle,
        to: To<'a>,
        chosen: &'a mut Option<Nid>,
    ) -> (&'a str, Place) {
        let nid = match to {
            To::Nid(nid) => nid,
            To::Service(id, policy) => {
                *chosen = self.choose(node, id, policy);
                match chosen {
                    Some(nid) => nid,
                    None => return ("", Place::Nowhere),
                }
            }
        };
        let place = if nid == node.nid().as_str() {
            Place::Here
        } else {
            Place::There
        };
        (nid, place)
    }

    fn choose(&self, node: &NodeHandle, service: u16, policy: Policy<'_>) -> Option<Nid> {
        let mut services = self.services.borrow_mut();
        let servers = services.entry(service).or_insert_with(|| Servers {
            as_of: (u64::MAX, u64::MAX),
            candidates: Vec::new(),
            turns: Turns::default(),
        });
        let as_of = (node.changes(), self.changes.get());
        if servers.as_of != as_of {
            servers.as_of = as_of;
            servers.candidates = self.candidates(node, service);
        }
        if policy == Policy::LeastPending {
            let peers = self.peers.borrow();
            for one in &mut servers.candidates {
                // What this server asks of itself is not counted: it is the nearest.
                let peer = peers.get(&one.nid);
                one.pending = peer.map_or(0, |peer| peer.gauge.pending());
            }
        }
        let random = self.draw();
        let chosen = servers.turns.pick(&servers.candidates, policy, random);
        chosen.map(|one| one.nid.clone())
    }

    /// Those that this shard can reach, in the order of their names, this server among them.
    fn candidates(&self, node: &NodeHandle, service: u16) -> Vec<Candidate> {
        let mut candidates = node.candidates(service);
        let peers = self.peers.borrow();
        candidates.retain(|one| peers.contains_key(&one.nid));
        candidates.extend(node.own_candidate(service));
        candidates.sort_by(|a, b| a.nid.cmp(&b.nid));
        candidates
    }

    /// SplitMix64, for choosing between equals.
    fn draw(&self) -> u64 {
        let next = self.random.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.random.set(next);
        let mixed = (next ^ next >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }
}

//! [`Policies`]: which server of a service a message of an API server goes to.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use proscenium_nodelink::{Nid, NodeHandle};

use crate::policies::Turns;
use crate::target::Policy;

/// What the policies of a server remember of each service.
#[derive(Debug, Default)]
pub(crate) struct Policies {
    turns: Mutex<HashMap<u16, Turns>>,
    drawn: AtomicU64,
}

impl Policies {
    /// A server of that service; `None` if none can be reached.
    pub(crate) fn choose(&self, node: &NodeHandle, service: u16, by: Policy<'_>) -> Option<Nid> {
        let (candidates, random) = (node.candidates(service), self.draw());
        let mut turns = self.turns.lock();
        let turns = turns.entry(service).or_default();
        let chosen = turns.pick(&candidates, by, random);
        chosen.map(|one| one.nid.clone())
    }

    /// Numbers that are spread evenly, to choose between equals: the steps of a golden ratio.
    fn draw(&self) -> u64 {
        let drawn = self
            .drawn
            .fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        drawn >> 7
    }
}

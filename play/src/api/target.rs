//! [`To`]: which server a message goes to, and [`Policies`], which choose one of a service.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use proscenium_nodelink::routing::{RoundRobin, Weighted, by_key, least_pending};
use proscenium_nodelink::{Nid, NodeHandle};

/// How one server of a service is chosen, among those that are running and can be reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Policy<'a> {
    /// One after the other.
    #[default]
    RoundRobin,
    /// By weight, evenly spread.
    Weighted,
    /// The one with the fewest requests that it has not answered to this server, for its weight.
    LeastPending,
    /// The same for the same key, whoever asks, as long as it is there.
    ByKey(&'a [u8]),
}

/// Which server a message goes to: the one of that name, or one of a service.
///
/// ```
/// use proscenium_play::api::To;
///
/// let one = To::from("api-1");
/// let any = To::service(2);
/// let mine = To::service(2).by_key(b"account 7");
/// # let _ = (one, any, mine);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum To<'a> {
    /// That server.
    Nid(&'a str),
    /// One of that service.
    Service(u16, Policy<'a>),
}

impl<'a> To<'a> {
    /// The servers of a service, one after the other.
    pub const fn service(service_id: u16) -> Self {
        Self::Service(service_id, Policy::RoundRobin)
    }

    /// The service, if it is one, with that policy.
    #[must_use]
    pub const fn by<'b>(self, policy: Policy<'b>) -> To<'b>
    where
        'a: 'b,
    {
        match self {
            Self::Nid(nid) => To::Nid(nid),
            Self::Service(id, _) => To::Service(id, policy),
        }
    }

    /// Of the service the server of that key.
    #[must_use]
    pub const fn by_key<'b>(self, key: &'b [u8]) -> To<'b>
    where
        'a: 'b,
    {
        self.by(Policy::ByKey(key))
    }
}

impl<'a> From<&'a str> for To<'a> {
    fn from(nid: &'a str) -> Self {
        Self::Nid(nid)
    }
}

impl<'a> From<&'a String> for To<'a> {
    fn from(nid: &'a String) -> Self {
        Self::Nid(nid)
    }
}

impl<'a> From<&'a Nid> for To<'a> {
    fn from(nid: &'a Nid) -> Self {
        Self::Nid(nid)
    }
}

/// What the policies of a server remember of each service.
#[derive(Debug, Default)]
pub(crate) struct Policies {
    turns: Mutex<HashMap<u16, (RoundRobin, Weighted)>>,
    drawn: AtomicU64,
}

impl Policies {
    /// A server of that service; `None` if none can be reached.
    pub(crate) fn choose(&self, node: &NodeHandle, service: u16, by: Policy<'_>) -> Option<Nid> {
        let candidates = node.candidates(service);
        let chosen = match by {
            Policy::LeastPending => least_pending(&candidates, self.draw()),
            Policy::ByKey(key) => by_key(&candidates, key),
            Policy::RoundRobin | Policy::Weighted => {
                let mut turns = self.turns.lock();
                let (round_robin, weighted) = turns.entry(service).or_default();
                match by {
                    Policy::Weighted => weighted.pick(&candidates),
                    _ => round_robin.pick(&candidates),
                }
            }
        };
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

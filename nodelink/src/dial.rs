//! [`Endpoint`]: where to connect; and what has become of it so far.

use proscenium_engine::{Address, ConnectId, TimerKey};

use crate::Nid;

/// Where another node listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its address.
    pub address: Address,
    /// Its name, if it is known: another one there is refused.
    pub nid: Option<Nid>,
}

impl Endpoint {
    /// Whoever listens there.
    pub fn new(address: impl Into<Address>) -> Self {
        Self {
            address: address.into(),
            nid: None,
        }
    }

    /// That node, there.
    pub fn of(nid: Nid, address: impl Into<Address>) -> Self {
        Self {
            address: address.into(),
            nid: Some(nid),
        }
    }
}

/// Names an endpoint that a node was told to connect to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EndpointId {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}

/// What has become of an endpoint.
#[derive(Debug)]
pub(crate) enum Attempt {
    /// The node has not started.
    Idle,
    Connecting(ConnectId),
    /// Connected: the link in that slot.
    Connected(u32),
    Waiting(TimerKey),
}

#[derive(Debug)]
pub(crate) struct Dial {
    pub(crate) id: EndpointId,
    pub(crate) endpoint: Endpoint,
    pub(crate) attempt: Attempt,
    /// Attempts since the peer last sent a message.
    pub(crate) attempts: u32,
    /// The node that answered last.
    pub(crate) answered: Option<Nid>,
}

//! [`Announcement`]: what a server's builder says of its place in a directory; [`Place`]: that
//! place.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proscenium_engine::Address;
use proscenium_nodelink::directory::{Directory, ServerInfo, ServerType, Watch};
use proscenium_nodelink::{Membership, NodeHandle};

/// A longer time for leaving is as good as for ever, and the clock might not be able to say it.
pub(crate) const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// See the module's page.
pub(crate) struct Announcement {
    server_type: ServerType,
    pub(crate) service_id: u16,
    pub(crate) weight: u32,
    pub(crate) advertise: Option<Address>,
    pub(crate) directory: Option<(Arc<dyn Directory>, Duration)>,
}

impl Announcement {
    pub(crate) fn new(server_type: ServerType, service_id: u16) -> Self {
        Self {
            server_type,
            service_id,
            weight: 100,
            advertise: None,
            directory: None,
        }
    }

    /// # Errors
    /// A TTL of zero.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        match &self.directory {
            Some((_, ttl)) if ttl.is_zero() => Err("the TTL of the directory is zero"),
            _ => Ok(()),
        }
    }

    /// Joins the directory, if there is one; a node that listens nowhere only follows it.
    ///
    /// # Errors
    /// Those of [`NodeHandle::join`].
    pub(crate) fn join(self, node: &NodeHandle, listens_at: Option<&Address>) -> io::Result<Place> {
        let mut place = Place::default();
        let Some((directory, ttl)) = self.directory else {
            return Ok(place);
        };
        let Some(address) = self.advertise.or(listens_at.cloned()) else {
            place.watch = Some(node.follow(&*directory)?);
            return Ok(place);
        };
        let nid = node.nid().clone();
        let server = ServerInfo::new(nid, address, self.server_type, self.service_id);
        let server = server.weight(self.weight);
        place.membership = Some(node.join(directory, server, ttl)?);
        Ok(place)
    }
}

/// A server's place in a directory, until it is dropped.
#[derive(Default)]
pub(crate) struct Place {
    membership: Option<Membership>,
    watch: Option<Box<dyn Watch>>,
}

impl Place {
    /// Leaves in good order, at most until then. What is left is logged; who ends the links reports
    /// what was lost.
    pub(crate) fn leave(&mut self, until: Instant) {
        if let Some(membership) = self.membership.take() {
            let _ = membership.leave(until.saturating_duration_since(Instant::now()));
        }
        self.watch = None;
    }
}

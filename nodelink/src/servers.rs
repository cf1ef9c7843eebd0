//! The servers of a directory: a node is linked to all of them, and chooses among those of a
//! service.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use proscenium_engine::Context;

use crate::Nid;
use crate::dial::{Endpoint, EndpointId};
use crate::directory::{Directory, ServerInfo, ServerState, Watch};
use crate::handle::{NodeHandle, Shared};
use crate::node_link::NodeLink;
use crate::routing::Candidate;

/// What a node shares with its handles about the servers of the mesh.
#[derive(Default)]
pub(crate) struct Servers {
    /// The list that the shard has not seen yet.
    news: Mutex<Option<Vec<ServerInfo>>>,
    /// The running servers of each service, in the order of their names.
    services: RwLock<BTreeMap<u16, Vec<ServerInfo>>>,
}

impl Servers {
    /// A newer list takes the place of one that was not seen.
    fn put(&self, servers: &[ServerInfo]) {
        let mut services: BTreeMap<u16, Vec<ServerInfo>> = BTreeMap::new();
        for server in servers {
            if server.state == ServerState::Running {
                let of = services.entry(server.service_id).or_default();
                of.push(server.clone());
            }
        }
        for of in services.values_mut() {
            of.sort_by(|a, b| a.nid.cmp(&b.nid));
        }
        // Both under one lock, so that two lists are not mixed.
        let mut news = self.news.lock().unwrap_or_else(PoisonError::into_inner);
        let write = self.services.write();
        *write.unwrap_or_else(PoisonError::into_inner) = services;
        *news = Some(servers.to_vec());
    }

    fn take(&self) -> Option<Vec<ServerInfo>> {
        let mut news = self.news.lock().unwrap_or_else(PoisonError::into_inner);
        news.take()
    }

    fn of(&self, service: u16) -> Vec<ServerInfo> {
        let services = self.services.read().unwrap_or_else(PoisonError::into_inner);
        services.get(&service).cloned().unwrap_or_default()
    }
}

/// The servers of a service that can be reached now, this node not among them.
fn candidates(shared: &Shared, service: u16) -> Vec<Candidate> {
    let servers = shared.servers.of(service);
    let reachable = servers.into_iter().filter_map(|server| {
        let pending = shared.reachable(&server.nid)?;
        Some(
            Candidate::new(server.nid)
                .weight(server.weight)
                .pending(pending),
        )
    });
    reachable.collect()
}

impl NodeHandle {
    /// Links the node to these servers, and ends the links to servers of an earlier call that are
    /// not among them.
    pub fn set_servers(&self, servers: &[ServerInfo]) {
        self.shared().servers.put(servers);
        self.shared().changed();
        self.shared().wake();
    }

    /// Does so with all servers of a directory, now and whenever they change, until the watch is
    /// dropped.
    ///
    /// # Errors
    /// Those of [`Directory::watch`].
    pub fn follow(&self, directory: &dyn Directory) -> io::Result<Box<dyn Watch>> {
        let node = self.clone();
        directory.watch(Arc::new(move |servers| node.set_servers(servers)))
    }

    /// The servers of a service that are running and can be reached now, in the order of their
    /// names, this node not among them. See [`routing`](crate::routing) for choosing one.
    pub fn candidates(&self, service: u16) -> Vec<Candidate> {
        candidates(self.shared(), service)
    }

    /// This node, if it is a running server of that service itself.
    pub fn own_candidate(&self, service: u16) -> Option<Candidate> {
        let of = self.shared().servers.of(service);
        let own = of.into_iter().find(|server| server.nid == *self.nid())?;
        Some(Candidate::new(own.nid).weight(own.weight))
    }
}

impl NodeLink {
    /// See [`NodeHandle::candidates`].
    pub fn candidates(&self, service: u16) -> Vec<Candidate> {
        candidates(&self.shared, service)
    }

    /// Connects to servers that are new, and ends the links to those that have left. One that has
    /// moved is both.
    pub(crate) fn follow_servers<P>(&mut self, cx: &mut Context<'_, P>) {
        let Some(servers) = self.shared.servers.take() else {
            return;
        };
        let mut wanted: BTreeMap<Nid, ServerInfo> = BTreeMap::new();
        for server in servers {
            if server.nid != *self.nid() {
                wanted.insert(server.nid.clone(), server);
            }
        }
        let gone: Vec<(Nid, EndpointId)> = self
            .followed
            .iter()
            .filter(|(nid, (address, _))| {
                let still = wanted.get(*nid);
                still.is_none_or(|server| server.address != *address)
            })
            .map(|(nid, (_, id))| (nid.clone(), *id))
            .collect();
        for (nid, id) in gone {
            self.followed.remove(&nid);
            self.disconnect(cx, id);
        }
        for (nid, server) in wanted {
            if !self.followed.contains_key(&nid) {
                let address = server.address.clone();
                let id = self.connect(cx, Endpoint::of(nid.clone(), server.address));
                self.followed.insert(nid, (address, id));
            }
        }
    }
}

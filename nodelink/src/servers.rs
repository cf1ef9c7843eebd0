//! The servers of a directory: a node is linked to all of them, and chooses among those of a
//! service.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use proscenium_engine::{Address, Context};

use crate::Nid;
use crate::dial::{Endpoint, EndpointId};
use crate::directory::{Directory, ServerInfo, ServerState, Watch};
use crate::error::LinkEnd;
use crate::handle::{NodeHandle, Shared};
use crate::link::LinkKey;
use crate::node_link::NodeLink;
use crate::routing::Candidate;

/// A link to a server that has left the directory.
pub(crate) struct Parting {
    nid: Nid,
    address: Address,
    key: LinkKey,
    /// Since it has left.
    ticks: u32,
}

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
        let most = self.options.peers_max;
        if let Some(first) = wanted.keys().nth(most).cloned() {
            // They would be dialled for ever, and refused.
            let left_out = wanted.split_off(&first).len();
            tracing::warn!(nid = %self.nid(), left_out, most, "the directory has too many servers");
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
            let Some((address, _)) = self.followed.remove(&nid) else {
                continue;
            };
            match self.link_of(id) {
                Some(key) if !wanted.contains_key(&nid) => {
                    self.forget_dial(cx, id);
                    self.parting.push(Parting {
                        nid,
                        address,
                        key,
                        ticks: 0,
                    });
                }
                _ => self.disconnect(cx, id),
            }
        }
        self.part(cx);
        for (nid, server) in wanted {
            if !self.followed.contains_key(&nid) {
                let address = server.address.clone();
                let endpoint = Endpoint::of(nid.clone(), server.address);
                let id = match self.comes_back(cx, &nid, &address) {
                    Some(key) => self.adopt(key, endpoint),
                    None => self.connect(cx, endpoint),
                };
                self.followed.insert(nid, (address, id));
            }
        }
    }

    /// Closes links to servers that have left: once nothing is under way on them, so that what a
    /// leaving server has still answered is read, and at the latest when requests have ended.
    pub(crate) fn part<P>(&mut self, cx: &mut Context<'_, P>) {
        let most = self.options.ticks(self.options.request_deadline);
        let mut parting = std::mem::take(&mut self.parting);
        parting.retain_mut(|one| {
            one.ticks += 1;
            let Some(link) = self.link_at(one.key) else {
                return false;
            };
            let peer = link.peer().and_then(|peer| self.peer_at(peer));
            let is_quiet = peer.is_none_or(|peer| peer.requests.len() == 0)
                && link.unanswered == 0
                && link.outbox.is_empty();
            if is_quiet {
                // Not cut off: the other end may be saying its last words.
                self.close_told(cx, one.key, LinkEnd::Local);
            } else if one.ticks > most {
                self.close(cx, one.key, LinkEnd::Local);
            }
            !is_quiet && one.ticks <= most
        });
        self.parting = parting;
    }

    /// The link to a server that had left and is there again. If it is elsewhere now, the link is
    /// closed: the node refuses a second one that it has dialled.
    fn comes_back<P>(
        &mut self,
        cx: &mut Context<'_, P>,
        nid: &Nid,
        address: &Address,
    ) -> Option<LinkKey> {
        let at = self.parting.iter().position(|one| one.nid == *nid)?;
        let one = self.parting.swap_remove(at);
        if one.address == *address {
            return Some(one.key);
        }
        self.close(cx, one.key, LinkEnd::Local);
        None
    }
}

//! [`Membership`]: a node in a directory, from joining to leaving.
//!
//! Who leaves says so twice. The directory says it to all servers, sooner or later. A PING with the
//! context `leave` says it to each Proscenium peer by its links, at once, also when the directory
//! is out of reach: the PONG comes behind everything that the peer sent before it knew, so a node
//! whose peers have all confirmed, and which has answered all requests, is done.

use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use proscenium_engine::Context;
use proscenium_framing::zmtp::Command as ZmtpCommand;

use crate::commands::Command;
use crate::completion::slot;
use crate::directory::{Directory, ServerInfo, ServerState, Watch, is_reachable};
use crate::error::LinkEnd;
use crate::handle::NodeHandle;
use crate::link::LinkKey;
use crate::node_link::NodeLink;
use crate::peer::PeerId;
use crate::wait::deadline_in;

/// The context of the PING of a node that leaves.
const LEAVE: &[u8] = b"leave";

/// How long a leaving node rests between two looks at what is left.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A node's place in a directory: it is announced there, and linked to all others. Made by
/// [`NodeHandle::join`] or [`Node::join`](crate::Node::join).
///
/// Dropping it withdraws the announcement, without waiting for anybody: [`leave`](Self::leave) does
/// so in good order. A process that ends without either is forgotten after the TTL.
pub struct Membership {
    node: NodeHandle,
    directory: Box<dyn Directory>,
    server: ServerInfo,
    ttl: Duration,
    watch: Option<Box<dyn Watch>>,
}

/// What was left when a node has left: nothing, if all went well.
#[derive(Debug, Default)]
#[must_use = "it says what was lost"]
#[non_exhaustive]
pub struct Departure {
    /// Requests of others that had no answer yet.
    pub unanswered: usize,
    /// Requests of this node that had no reply yet.
    pub pending: usize,
    /// Bytes that waited for links.
    pub queued_bytes: usize,
    /// Links whose other end had not confirmed that it sends nothing new.
    pub unaware: usize,
    /// What the directory refused first. Others then learned that the node has left from the node
    /// itself, or when the TTL was over.
    pub directory: Option<io::Error>,
}

impl Departure {
    /// True if nothing was left behind in the mesh, whatever the directory said.
    pub fn is_clean(&self) -> bool {
        let Self {
            unanswered,
            pending,
            queued_bytes,
            unaware,
            directory: _,
        } = self;
        *unanswered == 0 && *pending == 0 && *queued_bytes == 0 && *unaware == 0
    }
}

impl fmt::Display for Departure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_clean() {
            f.write_str("left with nothing under way")?;
        } else {
            let Self {
                unanswered,
                pending,
                queued_bytes,
                unaware,
                ..
            } = self;
            write!(
                f,
                "left with {unanswered} requests unanswered, {pending} replies awaited, \
                 {queued_bytes} bytes queued, {unaware} links that did not confirm"
            )?;
        }
        if let Some(error) = &self.directory {
            write!(f, "; the directory: {error}")?;
        }
        Ok(())
    }
}

impl NodeHandle {
    /// Links the node to all servers of a directory, as [`follow`](Self::follow) does, and
    /// announces it there as `server`: to be called when it is ready for work. The directory
    /// forgets it `ttl` after this process has ended without a word; 15 s are a good choice.
    ///
    /// # Errors
    /// `InvalidInput` if `server` has another name than the node, or an address that nobody can
    /// connect to (port 0, or the address that listens on all interfaces). Otherwise those of the
    /// directory; the node has then not joined.
    pub fn join(
        &self,
        directory: impl Directory + 'static,
        server: ServerInfo,
        ttl: Duration,
    ) -> io::Result<Membership> {
        let invalid = |text: String| Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        if server.nid != *self.nid() {
            return invalid(format!(
                "{} cannot be announced by {}",
                server.nid,
                self.nid()
            ));
        }
        if !is_reachable(&server.address) {
            let (nid, address) = (&server.nid, &server.address);
            return invalid(format!(
                "{nid}: nobody can connect to {address}; announce where others reach it"
            ));
        }
        let watch = self.follow(&directory)?;
        directory.announce(&server, ttl)?;
        Ok(Membership {
            node: self.clone(),
            directory: Box::new(directory),
            server,
            ttl,
            watch: Some(watch),
        })
    }
}

impl Membership {
    /// What is announced.
    pub fn server(&self) -> &ServerInfo {
        &self.server
    }

    /// Announces another state: a disabled node finishes what it has and gets no new work.
    ///
    /// # Errors
    /// Those of [`Directory::announce`]. Directories that refresh announcements make the change
    /// as soon as they can.
    pub fn set_state(&mut self, state: ServerState) -> io::Result<()> {
        self.server.state = state;
        self.directory.announce(&self.server, self.ttl)
    }

    /// Announces another weight; 0 counts as 1.
    ///
    /// # Errors
    /// As [`set_state`](Self::set_state).
    pub fn set_weight(&mut self, weight: u32) -> io::Result<()> {
        self.server.weight = weight.max(1);
        self.directory.announce(&self.server, self.ttl)
    }

    /// Leaves in good order: the node is announced as disabled, its peers are told not to choose
    /// it, requests are answered and awaited and queues written, at most until `deadline`; then the
    /// announcement is withdrawn. The links stay: shutting the node down ends them.
    ///
    /// Blocks for that time, and for what the directory takes; not for threads of shards.
    pub fn leave(mut self, deadline: Duration) -> Departure {
        let until = deadline_in(deadline);
        let disabled = self.set_state(ServerState::Disabled);
        let mut departure = Departure::default();
        loop {
            let (filler, awaited) = slot();
            let rest = until.saturating_duration_since(Instant::now());
            if !self.node.push_leave(Command::Leave(filler)) {
                // The node has ended.
                departure = Departure::default();
                break;
            }
            if let Some(now) = awaited.wait(rest.max(LOOK_EVERY)) {
                departure = now;
                if departure.is_clean() {
                    break;
                }
            }
            if rest.is_zero() {
                break;
            }
            std::thread::sleep(LOOK_EVERY.min(rest));
        }
        departure.directory = disabled.and(self.withdraw()).err();
        tracing::info!(nid = %self.server.nid, "{departure}");
        departure
    }

    /// Once.
    fn withdraw(&mut self) -> io::Result<()> {
        match self.watch.take() {
            Some(watch) => {
                drop(watch);
                self.directory.withdraw(&self.server.nid)
            }
            None => Ok(()),
        }
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        if let Err(error) = self.withdraw() {
            tracing::warn!(%error, nid = %self.server.nid, "the announcement was not withdrawn");
        }
    }
}

impl fmt::Debug for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Membership")
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}

impl NodeLink {
    /// Tells peers that the node leaves, if they have not been told; answers what is left.
    pub(crate) fn leave<P>(&mut self, cx: &mut Context<'_, P>) -> Departure {
        if !std::mem::replace(&mut self.leaving, true) {
            let all: Vec<LinkKey> = self.links.iter().map(|(_, link)| link.key).collect();
            for key in all {
                self.tell_leaving(cx, key);
            }
        }
        let mut departure = Departure {
            pending: self.peers.iter().map(|(_, peer)| peer.requests.len()).sum(),
            ..Departure::default()
        };
        for (_, link) in self.links.iter().filter(|(_, link)| link.peer().is_some()) {
            departure.unanswered += link.unanswered;
            departure.unaware += usize::from(link.unaware);
            departure.queued_bytes += link.outbox.bytes() + cx.queued_bytes(link.id).unwrap_or(0);
        }
        departure
    }

    /// Tells the peer of a link that the node leaves, if it does, and the peer could understand it.
    pub(crate) fn tell_leaving<P>(&mut self, cx: &mut Context<'_, P>, key: LinkKey) {
        let leaving = self.leaving;
        let Some(link) = self.link_mut(key) else {
            return;
        };
        if !leaving || !link.is_wide() || !link.pings || link.peer().is_none() {
            return;
        }
        link.unaware = true;
        let mut ping = Vec::with_capacity(16);
        let context = LEAVE;
        ZmtpCommand::Ping { ttl: 0, context }.encode(&mut ping);
        if !self.transmit_command(cx, key, &ping) {
            self.close(cx, key, LinkEnd::Overflow);
        }
    }

    /// A PONG: perhaps the one by which a peer says that it knows.
    pub(crate) fn knows_of_leaving(&mut self, key: LinkKey, context: &[u8]) {
        if context == LEAVE
            && let Some(link) = self.link_mut(key)
        {
            link.unaware = false;
        }
    }

    /// A PING: true if by it the peer says that it leaves. It is answered behind what handles have
    /// asked for so far, which may have chosen that peer.
    pub(crate) fn peer_leaves(&mut self, id: PeerId, key: LinkKey, context: &[u8]) -> bool {
        let is_ours = self.link_at(key).is_some_and(|link| link.is_wide());
        if context != LEAVE || !is_ours {
            return false;
        }
        if let Some(peer) = self.peer_at(id) {
            peer.gauge.set_leaving(true);
            self.shared.changed();
        }
        // A peer that says it again before it was answered gets one answer.
        if !self.confirm.contains(&key) {
            self.confirm.push(key);
        }
        self.shared.wake();
        true
    }

    /// Answers those PINGs.
    pub(crate) fn confirm_leaving<P>(&mut self, cx: &mut Context<'_, P>) {
        for key in std::mem::take(&mut self.confirm) {
            let mut pong = Vec::with_capacity(16);
            let context = LEAVE;
            ZmtpCommand::Pong { context }.encode(&mut pong);
            if !self.transmit_command(cx, key, &pong) {
                self.close(cx, key, LinkEnd::Overflow);
            }
        }
    }
}

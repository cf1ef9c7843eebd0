//! [`Front`]: what stands before the stages of a shard.

use std::any::Any;

use proscenium_engine::{CloseReason, Message, Peer, RouterId};

use crate::local::Local;

/// The tag of a connection under [`Local::hold`]: that of a stage of a type that is never
/// registered, so that nothing takes it for one.
pub(crate) const HELD: u64 = 0xff << 48;

/// Which messages a [`Front`] is shown before their stages are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Interest {
    /// All of them.
    All,
    /// Those that have the byte `is` at the index `at`: others go straight to their stages.
    Byte {
        /// From 0; a shorter message is not shown.
        at: usize,
        /// What has to be there.
        is: u8,
    },
}

impl Interest {
    /// True if a message is to be shown.
    #[inline]
    pub(crate) fn includes(self, message: &[u8]) -> bool {
        match self {
            Self::All => true,
            Self::Byte { at, is } => message.get(at) == Some(&is),
        }
    }
}

/// What stands before the stages of a shard: it is told of every connection there, sees every
/// message before any stage does, and decides what becomes of connections that no stage has. For
/// protocols that authenticate connections, or answer some messages however busy the stage is.
///
/// One value for each shard, made by [`StagesBuilder::front`](crate::StagesBuilder::front), used
/// on the shard's thread only. Its methods take `&self` and nest: what one does by its [`Local`]
/// may call another one, so a `RefCell` must not stay borrowed over such a call. A panic in one of
/// them is counted and logged; the message concerned counts as taken.
pub trait Front: Any {
    /// A connection was accepted or made.
    fn on_connect(&self, local: &Local<'_>, id: RouterId, peer: &Peer) {
        let _ = (local, id, peer);
    }

    /// Which messages [`on_message`](Self::on_message) is to see; asked once, when the shard
    /// begins. A call for each message is a good part of what a short one costs.
    fn interest(&self) -> Interest {
        Interest::All
    }

    /// A message, before it goes to its stage or to [`on_unbound`](Self::on_unbound): whether the
    /// stage is busy does not matter, but nothing is read while the stage's backlog is full. True:
    /// it is taken, and nobody else sees it.
    fn on_message(&self, local: &Local<'_>, from: RouterId, message: Message<'_>) -> bool {
        let _ = (local, from, message);
        false
    }

    /// A message of a connection that is bound to no stage.
    fn on_unbound(&self, local: &Local<'_>, from: RouterId, message: Message<'_>);

    /// A connection is not read from now on, because the backlog of its stage is full: until half
    /// of it is free, or it is taken from the stage. While that lasts,
    /// [`Local::is_stalled`] says so.
    fn on_stalled(&self, local: &Local<'_>, id: RouterId) {
        let _ = (local, id);
    }

    /// A connection that lived here has ended, bound or not; its stage is told, too, afterwards.
    fn on_disconnect(&self, local: &Local<'_>, id: RouterId, reason: &CloseReason) {
        let _ = (local, id, reason);
    }

    /// A connection has left this shard for another one.
    fn on_departed(&self, local: &Local<'_>, id: RouterId) {
        let _ = (local, id);
    }

    /// After each slice of events and what the stages did in it. True if it has told stages
    /// something, so that the shard does not go to sleep over it.
    fn run(&self, local: &Local<'_>) -> bool {
        let _ = local;
        false
    }
}

//! [`Handler`]: what an embedder implements.

use std::net::SocketAddr;
use std::time::Duration;

use crate::body::Message;
use crate::context::Context;
use crate::error::{CloseReason, ConnectError};
use crate::messages::Messages;
use crate::router_id::RouterId;

/// Names an outgoing connection (with all its reconnects), as [`Context::connect`] returned it;
/// no other one of the engine has that name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectId(pub(crate) u32);

/// How a connection came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// Accepted by the listener of this number (in the order in which they were given).
    Accepted {
        /// The listener's number.
        listener: usize,
    },
    /// Made by [`Context::connect`] or the handle's `connect`.
    Outgoing(ConnectId),
}

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Peer {
    /// The peer's address; `None` for Unix sockets.
    pub address: Option<SocketAddr>,
    /// How the connection came to be.
    pub origin: Origin,
}

/// What [`Handler::run`] says about itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Run {
    /// Nothing is runnable: the shard may sleep until the next event.
    #[default]
    Idle,
    /// More is runnable: come back after the next slice of events, without sleeping.
    Ready,
    /// Leave the turn at the end of this slice, even if events are left: the host wants its
    /// thread back (used by [`StreamSocket`](crate::StreamSocket)).
    Leave,
}

/// What an embedder implements: one value per shard, called on the shard's thread only, never
/// concurrently, never re-entered. A handler that blocks stalls its shard.
///
/// All methods but [`on_message`](Self::on_message) have defaults.
///
/// ```
/// use proscenium_engine::{Context, Handler, Message, RouterId};
///
/// struct Echo;
///
/// impl Handler for Echo {
///     type Post = ();
///
///     fn on_message(&mut self, cx: &mut Context<'_, ()>, from: RouterId, message: Message<'_>) {
///         // `Full` or `Gone` are the peer's loss: the listener's overflow policy has acted.
///         let _ = cx.send(from, &message);
///     }
/// }
/// ```
pub trait Handler: 'static {
    /// What other threads and shards may post to this handler.
    type Post: Send + 'static;

    /// The shard is about to run its first turn.
    fn on_start(&mut self, cx: &mut Context<'_, Self::Post>) {
        let _ = cx;
    }

    /// A connection was accepted or made, and has made the handshakes of its layers (TLS), if it
    /// has any.
    fn on_connect(&mut self, cx: &mut Context<'_, Self::Post>, id: RouterId, peer: &Peer) {
        let _ = (cx, id, peer);
    }

    /// A whole message arrived (with [`Framing::Raw`](crate::Framing): what one read brought).
    fn on_message(
        &mut self,
        cx: &mut Context<'_, Self::Post>,
        from: RouterId,
        message: Message<'_>,
    );

    /// The connection with this [tag](Context::set_tag) is about to be read: the time to
    /// [`prefetch`](crate::prefetch) what its messages will need, so that it comes out of memory
    /// while the system reads. A hint: perhaps nothing comes, and not every read is announced.
    ///
    /// ```
    /// # use proscenium_engine::{Context, Handler, Message, RouterId, prefetch};
    /// /// Counts the messages of each connection, whose tag is its index.
    /// struct Counts(Vec<u64>);
    ///
    /// impl Handler for Counts {
    ///     type Post = ();
    ///
    ///     fn prefetch(&self, tag: u64) {
    ///         if let Some(count) = self.0.get(tag as usize) {
    ///             prefetch(count);
    ///         }
    ///     }
    ///
    ///     fn on_message(&mut self, cx: &mut Context<'_, ()>, from: RouterId, _: Message<'_>) {
    ///         if let Some(count) = self.0.get_mut(cx.tag(from) as usize) {
    ///             *count += 1;
    ///         }
    ///     }
    /// }
    /// ```
    #[inline]
    fn prefetch(&self, tag: u64) {
        let _ = tag;
    }

    /// One read brought messages. The default hands them to [`on_message`](Self::on_message) one
    /// by one; override it to do something once for all of them. What it does not take, it is
    /// given one by one.
    #[inline]
    fn on_messages(
        &mut self,
        cx: &mut Context<'_, Self::Post>,
        from: RouterId,
        messages: &mut Messages<'_>,
    ) {
        for message in messages {
            self.on_message(cx, from, message);
        }
    }

    /// Something was posted by [`Context::post`] or [`Handle::post`](crate::Handle::post).
    fn on_posted(&mut self, cx: &mut Context<'_, Self::Post>, posted: Self::Post) {
        let _ = (cx, posted);
    }

    /// A timer of [`Context::set_timer`] is due.
    fn on_timer(&mut self, cx: &mut Context<'_, Self::Post>, token: u64) {
        let _ = (cx, token);
    }

    /// A [`ShardWaker`](crate::ShardWaker) of this shard was woken; several wakes may have become
    /// one.
    fn on_wake(&mut self, cx: &mut Context<'_, Self::Post>, token: u64) {
        let _ = (cx, token);
    }

    /// The send queue of a connection that was paused or answered `Full` is below low water.
    fn on_drained(&mut self, cx: &mut Context<'_, Self::Post>, id: RouterId) {
        let _ = (cx, id);
    }

    /// The peer finished sending (half-close). The default closes our side too, after what is
    /// queued has been written; override it to go on sending.
    fn on_read_closed(&mut self, cx: &mut Context<'_, Self::Post>, id: RouterId) {
        cx.close(id);
    }

    /// A connection ended. Called exactly once for each connection that `on_connect` announced, on
    /// the shard where it lives then; its id is `Gone` from now on.
    fn on_disconnect(
        &mut self,
        cx: &mut Context<'_, Self::Post>,
        id: RouterId,
        reason: &CloseReason,
    ) {
        let _ = (cx, id, reason);
    }

    /// An outgoing connection was not made. `retry` says after which delay it is tried again;
    /// `None`: it is not.
    fn on_connect_failed(
        &mut self,
        cx: &mut Context<'_, Self::Post>,
        connect: ConnectId,
        error: &ConnectError,
        retry: Option<Duration>,
    ) {
        let _ = (cx, connect, error, retry);
    }

    /// A connection moved here from another shard by [`Context::rehome`], with its id. Messages
    /// follow from where the other shard left off.
    fn on_adopted(&mut self, cx: &mut Context<'_, Self::Post>, id: RouterId, peer: &Peer) {
        let _ = (cx, id, peer);
    }

    /// A connection left for another shard. Sending to its id from here still works. What is
    /// posted to `to` during this call is handled there before any further message of the
    /// connection: the place to hand over what this shard knows of it. (A connection that was not
    /// born here goes by its birth shard: that is `to` then, and is told the same.)
    fn on_departed(&mut self, cx: &mut Context<'_, Self::Post>, id: RouterId, to: usize) {
        let _ = (cx, id, to);
    }

    /// Called after each slice of events: where a scheduler runs what is runnable.
    fn run(&mut self, cx: &mut Context<'_, Self::Post>) -> Run {
        let _ = cx;
        Run::Idle
    }

    /// Shutdown began: no connection is accepted any more. Finish what is under way.
    fn on_shutdown(&mut self, cx: &mut Context<'_, Self::Post>) {
        let _ = cx;
    }

    /// During shutdown: how many pieces of work are still under way. The engine waits for zero
    /// (or the deadline) before it flushes and closes the connections.
    fn pending_work(&self) -> usize {
        0
    }
}

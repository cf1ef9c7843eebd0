//! [`Stage`]: what an embedder implements.

use std::future::ready;

use proscenium_engine::{Body, CloseReason, RouterId};

use crate::cx::Cx;
use crate::timers::{Tick, TimerId};

/// A small stateful service: one value, to which one thing happens at a time.
///
/// Its handlers are `async`: while one awaits, the stage is *busy* and what comes for it meanwhile
/// waits in order. So a handler may read its state, await, and write it, and nobody else has
/// touched it in between; no lock is needed, and none helps. Handlers run on the shard where the
/// stage lives, together with thousands of others: they must not block. Blocking work goes to
/// [`offload_io`](crate::Local::offload_io), heavy work to
/// [`offload_compute`](crate::Local::offload_compute).
///
/// Implementors write `async fn`, and leave out what they do not need:
///
/// ```
/// use proscenium_stages::{Cx, Reply, Stage};
///
/// #[derive(Default)]
/// struct Counter {
///     value: u64,
/// }
///
/// enum Msg {
///     Add(u64),
///     Get(Reply<u64>),
/// }
///
/// impl Stage for Counter {
///     type Msg = Msg;
///
///     async fn on_message(&mut self, _cx: &mut Cx<'_, Self>, message: Msg) {
///         match message {
///             Msg::Add(n) => self.value += n,
///             Msg::Get(reply) => {
///                 let _ = reply.send(self.value); // who asked may have given up
///             }
///         }
///     }
/// }
/// ```
pub trait Stage: Sized + 'static {
    /// What others tell it.
    type Msg: Send + 'static;

    /// The first thing that happens to it, before any message. Also after a restart.
    fn on_create(&mut self, cx: &mut Cx<'_, Self>) -> impl Future<Output = ()> {
        let _ = cx;
        ready(())
    }

    /// A message of another stage, a handler or a thread.
    fn on_message(&mut self, cx: &mut Cx<'_, Self>, message: Self::Msg)
    -> impl Future<Output = ()>;

    /// A message of a connection that is bound to it.
    fn on_packet(
        &mut self,
        cx: &mut Cx<'_, Self>,
        from: RouterId,
        body: Body,
    ) -> impl Future<Output = ()> {
        let _ = (cx, from, body);
        ready(())
    }

    /// A timer of [`Cx::set_timer`] or [`Cx::set_interval`] is due.
    fn on_timer(&mut self, cx: &mut Cx<'_, Self>, timer: TimerId) -> impl Future<Output = ()> {
        let _ = (cx, timer);
        ready(())
    }

    /// A tick of [`Cx::start_tick`].
    fn on_tick(&mut self, cx: &mut Cx<'_, Self>, tick: Tick) -> impl Future<Output = ()> {
        let _ = (cx, tick);
        ready(())
    }

    /// A connection that was bound to it has ended.
    fn on_disconnect(
        &mut self,
        cx: &mut Cx<'_, Self>,
        id: RouterId,
        reason: CloseReason,
    ) -> impl Future<Output = ()> {
        let _ = (cx, id, reason);
        ready(())
    }

    /// The last thing that happens to it: it was stopped or destroyed, or the engine shuts down.
    /// Not after a panic. Connections still bound to it are closed afterwards.
    fn on_destroy(&mut self, cx: &mut Cx<'_, Self>) -> impl Future<Output = ()> {
        let _ = cx;
        ready(())
    }

    /// It was idle for the time of [`StageType::passivate_after`](crate::StageType) and leaves
    /// memory: the place to keep its state for the factory, which makes it again when somebody
    /// wants it. `id` is that of [`get_or_create`](crate::Local::get_or_create), if it has one.
    fn on_passivate(self, id: Option<u64>) {
        let _ = id;
    }
}

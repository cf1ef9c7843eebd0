//! A handler whose connections never stay.
#![allow(unreachable_pub, reason = "part of a test binary")]

use std::rc::Rc;

use proscenium::{CloseReason, Context, Handler, Message, Peer, RouterId};

use crate::support::SharedLog;

/// Moves a connection on with every message, and notes what it was told.
pub struct Wanderer {
    log: SharedLog,
}

impl Wanderer {
    pub fn new(log: &SharedLog) -> Self {
        Self {
            log: Rc::clone(log),
        }
    }
}

impl Handler for Wanderer {
    type Post = ();

    fn on_connect(&mut self, cx: &mut Context<'_, ()>, id: RouterId, peer: &Peer) {
        self.log.borrow_mut().connected(cx.shard(), id, peer);
    }

    fn on_message(&mut self, cx: &mut Context<'_, ()>, from: RouterId, message: Message<'_>) {
        self.log.borrow_mut().message(cx.shard(), from);
        let next = (cx.shard() + 1) % cx.shards();
        // Refused when the engine shuts down.
        let sent = if message.len().is_multiple_of(2) {
            cx.send(from, &message)
        } else {
            cx.forward(from, &message) // may still be unsent when it moves
        };
        let _ = (sent, cx.rehome(from, next));
    }

    fn on_departed(&mut self, cx: &mut Context<'_, ()>, id: RouterId, to: usize) {
        self.log.borrow_mut().departed(cx.shard(), id, to);
    }

    fn on_adopted(&mut self, cx: &mut Context<'_, ()>, id: RouterId, peer: &Peer) {
        self.log.borrow_mut().adopted(cx.shard(), id, peer);
    }

    fn on_disconnect(&mut self, cx: &mut Context<'_, ()>, id: RouterId, reason: &CloseReason) {
        self.log.borrow_mut().ended(cx.shard(), id, reason);
    }
}

//! Wakes that need no capacity: an intrusive list of nodes that exist once per waker.
//!
//! | field | written by | read by |
//! |---|---|---|
//! | `WakeNode::pending` | a waker (sets), the consumer (clears) | both |
//! | `WakeNode::next` | who set `pending`, until the node is linked; then who took the list | likewise |
//! | `WakeList::head` | wakers (link one), consumer (takes all) | both |
//!
//! 1. Who turns `pending` from false to true owns the node's link, and puts the node on the list,
//!    with one strong count. So a node is on at most one list, at most once.
//! 2. The list is only ever taken as a whole, so linking knows no ABA problem.
//! 3. The consumer reads `next`, clears `pending`, then runs the token: a wake during the run
//!    links the node anew. Both sides change `pending` by an acquire-release exchange, also where
//!    it was set already: what a waker wrote before waking is visible to the run that follows.
//! 4. Linking is `Release`, taking is `Acquire`: the consumer sees `next`.

use super::doorbell::Doorbell;
use super::sync::{Arc, AtomicBool, AtomicPtr, Ordering};
use std::ptr;

/// The half of a mailbox that does not depend on the type of its items.
pub(super) struct Signals {
    pub(super) doorbell: Doorbell,
    pub(super) wake_list: WakeList,
}

/// Wakes one token of a shard, from any thread, without needing room anywhere.
///
/// A clone wakes the same token, and wakes of one token that come before its run are one wake.
/// Made by [`Mailbox::waker`](super::Mailbox::waker); costs one allocation there and none later.
#[derive(Clone)]
pub struct ShardWaker {
    node: Arc<WakeNode>,
}

struct WakeNode {
    signals: Arc<Signals>,
    token: u64,
    pending: AtomicBool,
    next: AtomicPtr<WakeNode>,
}

impl ShardWaker {
    pub(super) fn new(signals: Arc<Signals>, token: u64) -> Self {
        ShardWaker {
            node: Arc::new(WakeNode {
                signals,
                token,
                pending: AtomicBool::new(false),
                next: AtomicPtr::new(ptr::null_mut()),
            }),
        }
    }

    /// Has the consumer run the token once after this call, waking it if it sleeps. Free (one
    /// atomic exchange) while an earlier wake has not been run; without effect after the consumer
    /// is gone.
    pub fn wake(&self) {
        if self.node.pending.swap(true, Ordering::AcqRel) {
            return;
        }
        let signals = &self.node.signals;
        signals.wake_list.link(&self.node);
        if !signals.doorbell.announce() {
            drop(signals.wake_list.take());
        }
    }

    /// The token that the consumer is told.
    pub fn token(&self) -> u64 {
        self.node.token
    }
}

impl std::fmt::Debug for ShardWaker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShardWaker")
            .field("token", &self.node.token)
            .finish()
    }
}

// A line of its own: wakers write here, while the neighbours are mostly read.
#[repr(align(64))]
pub(super) struct WakeList {
    /// Owns one strong count of the node it points to, which owns one of the next, and so on.
    head: AtomicPtr<WakeNode>,
}

impl WakeList {
    pub(super) fn new() -> Self {
        WakeList {
            head: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// Only for who has just set the node's `pending`.
    fn link(&self, node: &Arc<WakeNode>) {
        let raw = Arc::into_raw(Arc::clone(node)).cast_mut();
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            node.next.store(head, Ordering::Relaxed);
            let linked =
                self.head
                    .compare_exchange_weak(head, raw, Ordering::Release, Ordering::Relaxed);
            match linked {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.head.load(Ordering::Relaxed).is_null()
    }

    /// Everything linked so far, oldest first.
    pub(super) fn take(&self) -> Chain {
        let mut newest_first = Chain {
            first: adopt(self.head.swap(ptr::null_mut(), Ordering::Acquire)),
        };
        let mut chain = Chain::default();
        while let Some(node) = newest_first.pop() {
            let next = chain
                .first
                .take()
                .map_or(ptr::null_mut(), |n| Arc::into_raw(n).cast_mut());
            node.next.store(next, Ordering::Relaxed);
            chain.first = Some(node);
        }
        chain
    }
}

/// Nodes taken off the list, still pending. Dropping it releases them without running them.
#[derive(Default)]
pub(super) struct Chain {
    first: Option<Arc<WakeNode>>,
}

impl Chain {
    pub(super) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// The token to run next. Its node may be woken again from here on.
    pub(super) fn next_token(&mut self) -> Option<u64> {
        let node = self.pop()?;
        node.pending.swap(false, Ordering::AcqRel);
        Some(node.token)
    }

    fn pop(&mut self) -> Option<Arc<WakeNode>> {
        let node = self.first.take()?;
        self.first = adopt(node.next.swap(ptr::null_mut(), Ordering::Relaxed));
        Some(node)
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        // One by one, because a node does not own its successor by type.
        while self.pop().is_some() {}
    }
}

/// Takes over the strong count that a link owns; null is the end of the list.
///
/// Private to this module, and only called with a pointer that was just swapped out of `head` or
/// of the `next` of a node the caller owns.
fn adopt(link: *mut WakeNode) -> Option<Arc<WakeNode>> {
    if link.is_null() {
        return None;
    }
    // SAFETY: every pointer stored in `head` or `next` comes from `Arc::into_raw` (in `link` and
    // `take`) or is such a pointer handed from `head` to `next`, and stands for one strong count.
    // The callers swap it out, leaving null, so the count is taken over once.
    Some(unsafe { Arc::from_raw(link) })
}

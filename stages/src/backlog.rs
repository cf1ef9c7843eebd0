//! Messages that wait: lists of nodes out of one pool per stage type, so that a stage at rest
//! costs nothing and the nodes in use stay in cache however many stages there are.

use std::cell::{Cell, RefCell};

use slab::Slab;

use crate::head::{Head, NONE};
use crate::samples::Stamp;

/// What waits for a stage. Messages are most of it, so they lie in the nodes, which are small: as
/// many as wait have to stay in cache.
struct Node<M> {
    /// `None` while the node is in use: something else waits.
    message: Option<M>,
    next: u32,
    queued: Stamp,
    /// Its number in `Backlogs::others`, if it is not a message.
    other: u32,
}

/// The nodes of all stages of a type on a shard.
pub(crate) struct Backlogs<M, O> {
    nodes: RefCell<Vec<Node<M>>>,
    others: RefCell<Slab<O>>,
    free: Cell<u32>,
    used: Cell<usize>,
}

impl<M, O> Backlogs<M, O> {
    pub(crate) fn new() -> Self {
        Self {
            nodes: RefCell::default(),
            others: RefCell::default(),
            free: Cell::new(NONE),
            used: Cell::new(0),
        }
    }

    /// Appends a message to the backlog of `head`, whose `len` has counted it.
    #[inline(always)] // so that the message is made where it will lie
    pub(crate) fn push(&self, head: &Head, message: M, queued: Stamp) {
        self.append(head, queued, |node| {
            // Nothing is there that would have to be dropped.
            std::mem::forget(node.message.replace(message));
        });
    }

    /// Appends anything else.
    pub(crate) fn push_other(&self, head: &Head, other: O, queued: Stamp) {
        let number = self.others.borrow_mut().insert(other) as u32;
        self.append(head, queued, |node| node.other = number);
    }

    #[inline(always)]
    fn append(&self, head: &Head, queued: Stamp, fill: impl FnOnce(&mut Node<M>)) {
        self.used.set(self.used.get() + 1);
        if self.free.get() == NONE {
            self.grow();
        }
        let mut nodes = self.nodes.borrow_mut();
        let index = self.free.get();
        let Some(free) = nodes.get_mut(index as usize) else {
            unreachable!("the list of free nodes names nodes");
        };
        self.free.set(free.next);
        fill(free);
        free.next = NONE;
        free.queued = queued;
        match nodes.get_mut(head.last.get() as usize) {
            Some(last) if head.listed.get() > 0 => last.next = index,
            _ => head.first.set(index),
        }
        head.last.set(index);
        head.listed.set(head.listed.get() + 1);
    }

    /// Makes twice as many nodes.
    #[cold]
    #[inline(never)]
    fn grow(&self) {
        let mut nodes = self.nodes.borrow_mut();
        let first = nodes.len();
        let more = first.max(16);
        for index in first..first + more {
            let last = index + 1 == first + more;
            nodes.push(Node {
                message: None,
                other: NONE,
                next: if last { NONE } else { index as u32 + 1 },
                queued: Stamp::default(),
            });
        }
        self.free.set(first as u32);
    }

    /// Takes the first item of the backlog of `head`, if it is a message.
    #[inline(always)]
    pub(crate) fn pop_message(&self, head: &Head) -> Option<(M, Stamp)> {
        self.pop(head, |node| node.message.take())
    }

    /// Takes the first item of the backlog of `head`, if it is anything else.
    pub(crate) fn pop_other(&self, head: &Head) -> Option<(O, Stamp)> {
        let (number, queued) = self.pop(head, |node| {
            let is_other = node.message.is_none();
            is_other.then_some(node.other)
        })?;
        let other = self.others.borrow_mut().try_remove(number as usize)?;
        Some((other, queued))
    }

    #[inline(always)]
    fn pop<T>(
        &self,
        head: &Head,
        take: impl FnOnce(&mut Node<M>) -> Option<T>,
    ) -> Option<(T, Stamp)> {
        if head.listed.get() == 0 {
            return None;
        }
        let mut nodes = self.nodes.borrow_mut();
        let index = head.first.get();
        let node = nodes.get_mut(index as usize)?;
        let taken = take(node)?;
        let queued = node.queued;
        head.first.set(node.next);
        node.next = self.free.replace(index);
        self.unlink(head, &mut nodes);
        Some((taken, queued))
    }

    #[inline(always)]
    fn unlink(&self, head: &Head, nodes: &mut Vec<Node<M>>) {
        let left = head.listed.get() - 1;
        head.listed.set(left);
        head.len.set(head.len.get() - 1);
        if left == 0 {
            head.last.set(NONE);
        }
        let used = self.used.get() - 1;
        self.used.set(used);
        if used == 0 && nodes.len() > KEPT {
            self.free.set(NONE); // after a burst
            drop_all(nodes);
        }
    }
}

#[cold]
fn drop_all<M>(nodes: &mut Vec<Node<M>>) {
    *nodes = Vec::new();
}

/// Nodes kept for later when nothing waits any more.
const KEPT: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backlogs_share_nodes_and_keep_their_order() {
        let backlogs = Backlogs::new();
        let (a, b) = (Head::new(0), Head::new(0));
        for n in 0..10 {
            let head = if n % 3 == 0 { &a } else { &b };
            head.len.set(head.len.get() + 1);
            if n == 6 {
                backlogs.push_other(head, "six", Stamp::default());
            } else {
                backlogs.push(head, n, Stamp::default());
            }
        }
        let all = |head: &Head| {
            let pop = || match backlogs.pop_message(head) {
                Some((n, _)) => Some(n.to_string()),
                None => backlogs
                    .pop_other(head)
                    .map(|(o, _): (&str, _)| o.to_owned()),
            };
            std::iter::from_fn(pop).collect::<Vec<String>>()
        };
        assert_eq!(all(&a), ["0", "3", "six", "9"]);
        a.len.set(1);
        backlogs.push(&a, 10, Stamp::default());
        assert_eq!(all(&b), ["1", "2", "4", "5", "7", "8"]);
        assert_eq!(all(&a), ["10"]);
        assert!(all(&a).is_empty());
        assert_eq!(backlogs.nodes.borrow().len(), 16);
        assert_eq!(backlogs.used.get(), 0);
    }
}

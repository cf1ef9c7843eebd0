//! Messages that wait: lists of nodes out of one pool per stage type, so that a stage at rest
//! costs nothing and the nodes in use stay in cache however many stages there are.

use std::cell::{Cell, RefCell};

use crate::head::{Head, NONE};
use crate::samples::Stamp;

struct Node<T> {
    item: Option<T>,
    next: u32,
    queued: Stamp,
}

/// The nodes of all stages of a type on a shard.
pub(crate) struct Backlogs<T> {
    nodes: RefCell<Vec<Node<T>>>,
    free: Cell<u32>,
    used: Cell<usize>,
}

impl<T> Backlogs<T> {
    pub(crate) fn new() -> Self {
        Self {
            nodes: RefCell::default(),
            free: Cell::new(NONE),
            used: Cell::new(0),
        }
    }

    /// Appends to the backlog of `head`.
    #[inline(always)] // so that the item is made where it will lie
    pub(crate) fn push(&self, head: &Head, item: T, queued: Stamp) {
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
        free.item = Some(item);
        free.next = NONE;
        free.queued = queued;
        match nodes.get_mut(head.last.get() as usize) {
            Some(last) if head.len.get() > 0 => last.next = index,
            _ => head.first.set(index),
        }
        head.last.set(index);
        head.len.set(head.len.get() + 1);
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
                item: None,
                next: if last { NONE } else { index as u32 + 1 },
                queued: Stamp::default(),
            });
        }
        self.free.set(first as u32);
    }

    /// Takes the first item of the backlog of `head`.
    #[inline(always)] // likewise
    pub(crate) fn pop(&self, head: &Head) -> Option<(T, Stamp)> {
        if head.len.get() == 0 {
            return None;
        }
        let mut nodes = self.nodes.borrow_mut();
        let index = head.first.get();
        let node = nodes.get_mut(index as usize)?;
        let item = node.item.take().map(|item| (item, node.queued));
        head.first.set(node.next);
        node.next = self.free.replace(index);
        head.len.set(head.len.get() - 1);
        if head.len.get() == 0 {
            head.last.set(NONE);
        }
        self.used.set(self.used.get() - 1);
        if self.used.get() == 0 && nodes.len() > KEPT {
            self.free.set(NONE); // after a burst
            drop_all(&mut nodes);
        }
        item
    }
}

#[cold]
fn drop_all<T>(nodes: &mut Vec<Node<T>>) {
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
            backlogs.push(if n % 3 == 0 { &a } else { &b }, n, Stamp::default());
        }
        let all =
            |head: &Head| std::iter::from_fn(|| Some(backlogs.pop(head)?.0)).collect::<Vec<_>>();
        assert_eq!(all(&a), [0, 3, 6, 9]);
        backlogs.push(&a, 10, Stamp::default());
        assert_eq!(all(&b), [1, 2, 4, 5, 7, 8]);
        assert_eq!(all(&a), [10]);
        assert_eq!(all(&a), []);
        assert_eq!(backlogs.nodes.borrow().len(), 16);
        assert_eq!(backlogs.used.get(), 0);
    }
}

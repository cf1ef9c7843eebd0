//! Messages that wait: lists of nodes out of one pool per stage type, so that a stage at rest
//! costs nothing and the nodes in use stay in cache however many stages there are.

use std::cell::{Cell, RefCell};

use crate::head::{Head, NONE};

struct Node<T> {
    item: Option<T>,
    next: u32,
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
    #[inline]
    pub(crate) fn push(&self, head: &Head, item: T) {
        let mut nodes = self.nodes.borrow_mut();
        self.used.set(self.used.get() + 1);
        let node = self.free.get();
        let index = if let Some(free) = nodes.get_mut(node as usize) {
            self.free.set(free.next);
            free.item = Some(item);
            free.next = NONE;
            node
        } else {
            nodes.push(Node {
                item: Some(item),
                next: NONE,
            });
            (nodes.len() - 1) as u32
        };
        match nodes.get_mut(head.last.get() as usize) {
            Some(last) if head.len.get() > 0 => last.next = index,
            _ => head.first.set(index),
        }
        head.last.set(index);
        head.len.set(head.len.get() + 1);
    }

    /// Puts what `replace` returns in the place of an item of the backlog of `head`, for each of
    /// them. Returns the items that were there, because their drop may be user code.
    pub(crate) fn replace(&self, head: &Head, mut replace: impl FnMut(&T) -> Option<T>) -> Vec<T> {
        let mut nodes = self.nodes.borrow_mut();
        let (mut replaced, mut index) = (Vec::new(), head.first.get());
        for _ in 0..head.len.get() {
            let Some(node) = nodes.get_mut(index as usize) else {
                break;
            };
            if let Some(instead) = node.item.as_ref().and_then(&mut replace) {
                replaced.extend(node.item.replace(instead));
            }
            index = node.next;
        }
        replaced
    }

    /// Takes the first item of the backlog of `head`.
    #[inline]
    pub(crate) fn pop(&self, head: &Head) -> Option<T> {
        if head.len.get() == 0 {
            return None;
        }
        let mut nodes = self.nodes.borrow_mut();
        let index = head.first.get();
        let node = nodes.get_mut(index as usize)?;
        let item = node.item.take();
        head.first.set(node.next);
        node.next = self.free.replace(index);
        head.len.set(head.len.get() - 1);
        if head.len.get() == 0 {
            head.last.set(NONE);
        }
        self.used.set(self.used.get() - 1);
        if self.used.get() == 0 && nodes.len() > KEPT {
            *nodes = Vec::new(); // after a burst
            self.free.set(NONE);
        }
        item
    }
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
            backlogs.push(if n % 3 == 0 { &a } else { &b }, n);
        }
        let all = |head: &Head| std::iter::from_fn(|| backlogs.pop(head)).collect::<Vec<_>>();
        let replaced = backlogs.replace(&a, |&n| (n == 3).then_some(30));
        assert_eq!(replaced, [3]);
        assert_eq!(all(&a), [0, 30, 6, 9]);
        backlogs.push(&a, 10);
        assert_eq!(all(&b), [1, 2, 4, 5, 7, 8]);
        assert_eq!(all(&a), [10]);
        assert_eq!(all(&a), []);
        assert_eq!(backlogs.nodes.borrow().len(), 10);
    }
}

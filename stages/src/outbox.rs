//! What must reach another shard, and waits while the mailbox there is full.
//!
//! One queue per destination, in order: as long as something waits, all that is posted in this way
//! goes behind it, and one timer tries again for all of it. It has no bound, as nobody could be
//! told `Full`: it holds binds, and ends of stages and connections. How much waits is a statistic.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::time::Duration;

use proscenium_engine::PostError;

use crate::core::Core;
use crate::post::StagePost;
use crate::timers::Due;

/// Between two tries.
const RETRY: Duration = Duration::from_millis(1);

/// See the module's page. A timer is set for each destination whose queue is not empty.
#[derive(Default)]
pub(crate) struct Outbox {
    /// By shard, as far as one was needed.
    queues: RefCell<Vec<VecDeque<StagePost>>>,
    len: Cell<usize>,
}

impl Outbox {
    /// Posts that wait, for all shards.
    pub(crate) fn len(&self) -> usize {
        self.len.get()
    }

    /// Appends to the queue of a shard, or gives the post back if that is empty.
    fn behind(&self, shard: usize, post: StagePost) -> Option<StagePost> {
        let mut queues = self.queues.borrow_mut();
        match queues.get_mut(shard).filter(|queue| !queue.is_empty()) {
            Some(queue) => {
                queue.push_back(post);
                self.len.set(self.len.get() + 1);
                None
            }
            None => Some(post),
        }
    }

    fn push_front(&self, shard: usize, post: StagePost) {
        let mut queues = self.queues.borrow_mut();
        if queues.len() <= shard {
            queues.resize_with(shard + 1, VecDeque::new);
        }
        queues[shard].push_front(post);
        self.len.set(self.len.get() + 1);
    }

    fn pop(&self, shard: usize) -> Option<StagePost> {
        let mut queues = self.queues.borrow_mut();
        let queue = queues.get_mut(shard)?;
        let post = queue.pop_front();
        self.len.set(self.len.get() - usize::from(post.is_some()));
        if queue.is_empty() {
            *queue = VecDeque::new(); // it was a rare moment
        }
        post
    }
}

impl Core {
    /// Posts to another shard what must not be lost: behind all that waits for room in its mailbox.
    pub(crate) fn post_at_last(&self, shard: usize, post: StagePost) {
        let Some(post) = self.outbox.behind(shard, post) else {
            return;
        };
        if let Err(PostError::Full(post)) = self.system.post(shard, post) {
            self.outbox.push_front(shard, post);
            self.try_again(shard);
        }
    }

    fn try_again(&self, shard: usize) {
        let flush = Due::Run(Box::new(move |core: &Self| core.flush(shard)));
        self.set_timer(self.now() + RETRY, flush);
    }

    /// Posts what waits for a shard, as far as there is room. What a shard that has stopped does
    /// not take is dropped.
    fn flush(&self, shard: usize) {
        while let Some(post) = self.outbox.pop(shard) {
            if let Err(PostError::Full(post)) = self.system.post(shard, post) {
                self.outbox.push_front(shard, post);
                return self.try_again(shard);
            }
        }
    }
}

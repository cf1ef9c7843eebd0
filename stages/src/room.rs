//! Waiting for room: who was told `Full` is told once when there is some.

use std::time::Duration;

use crate::core::Core;
use crate::error::RequestError;
use crate::local::Local;
use crate::post::StagePost;
use crate::request::{Asked, Reply};
use crate::slot::downcast_stages;
use crate::stage::Stage;
use crate::stage_ref::{StageKey, StageRef};
use crate::type_shard::TypeShard;

/// A mailbox that was full is tried again after this time: mailboxes tell nobody when they drain.
const MAILBOX_RETRY: Duration = Duration::from_millis(1);

impl Local<'_> {
    /// Waits until the backlog of a stage has room, which who was told
    /// [`Full`](crate::TellError::Full) wants to know: resolves at once if there is room, else once
    /// when half of the backlog is free. False if the stage is gone, or ends before.
    ///
    /// Room is not reserved: everybody who waits is told, and others may be faster, so `Full` may
    /// come again. For a stage of another shard the answer is older by the way between the shards;
    /// and while that shard's mailbox is full, it is asked again every millisecond.
    ///
    /// There is no deadline: a stage that never drains keeps who waits waiting. A stage that waits
    /// for room of itself waits for ever.
    pub async fn room<S: Stage>(&self, stage: StageRef<S>) -> bool {
        let core = self.core();
        if stage.system != core.system.number {
            return false;
        }
        loop {
            match core.ask_room::<S>(stage.key).await {
                Ok(()) => return true,
                Err(RequestError::Full) => self.sleep(MAILBOX_RETRY).await,
                Err(_) => return false,
            }
        }
    }
}

impl Core {
    fn ask_room<S: Stage>(&self, key: StageKey) -> Asked<()> {
        let (reply, asked) = Reply::pair();
        let tell = move |core: &Self, reply| {
            let stages: &TypeShard<S> = downcast_stages(core.stages(key.stage_type()));
            stages.tell_room(key, reply);
        };
        if key.shard() == self.shard {
            tell(self, reply);
            return asked;
        }
        let post = StagePost::run(move |core| tell(core, reply));
        if let Err(error) = self.system.post(key.shard(), post) {
            let full = matches!(error, proscenium_engine::PostError::Full(_));
            if full {
                asked.refuse(RequestError::Full);
            }
            // Dropping what came back answers `NoReply`, unless there is an answer already.
        }
        asked
    }
}

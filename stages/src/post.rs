//! [`StagePost`]: what travels to the stages of a shard from elsewhere.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use proscenium_engine::PostError;

use crate::core::Core;
use crate::error::TellError;
use crate::panics::{discard, panic_message};
use crate::slot::downcast_stages;
use crate::stage::Stage;
use crate::stage_ref::StageKey;
use crate::type_shard::TypeShard;

/// What travels to the stages of a shard from elsewhere. Made by this crate only.
pub struct StagePost {
    /// Whose shards may open it; given when it is posted.
    pub(crate) system: u32,
    /// Nothing once it was taken.
    envelope: Option<Box<dyn Envelope>>,
}

impl Drop for StagePost {
    /// Of a post that is never opened, as when its shard ends or refuses it: what its drop runs of
    /// the embedder's code must not end more than itself. Nobody is left to count a panic.
    fn drop(&mut self) {
        if let Some(envelope) = self.envelope.take()
            && let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(envelope)))
        {
            let message = panic_message(&*payload);
            discard(payload);
            tracing::error!(what = "the drop of a post", %message, "a panic was contained");
        }
    }
}

impl fmt::Debug for StagePost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StagePost(..)")
    }
}

pub(crate) trait Envelope: Any + Send {
    fn open(self: Box<Self>, core: &Core);
}

impl StagePost {
    pub(crate) fn new(envelope: impl Envelope) -> Self {
        Self {
            system: 0, // none has that number
            envelope: Some(Box::new(envelope)),
        }
    }

    pub(crate) fn run(call: impl FnOnce(&Core) + Send + 'static) -> Self {
        Self::new(RunOn(call))
    }

    /// Does nothing but count if it was posted by another system: an envelope knows the types of
    /// its own system only.
    pub(crate) fn open(mut self, core: &Core) {
        let Some(envelope) = self.envelope.take() else {
            return;
        };
        if self.system == core.system_number {
            envelope.open(core);
        } else {
            core.counters.gone.add(1);
            core.contained("the drop of a post", || drop(envelope));
        }
    }
}

struct RunOn<F>(F);

impl<F: FnOnce(&Core) + Send + 'static> Envelope for RunOn<F> {
    fn open(self: Box<Self>, core: &Core) {
        (self.0)(core);
    }
}

/// A message on its way to a stage of another shard.
pub(crate) struct Tell<S: Stage> {
    pub(crate) to: StageKey,
    pub(crate) message: Option<S::Msg>,
}

impl<S: Stage> Tell<S> {
    pub(crate) fn refused(error: PostError<StagePost>) -> TellError<S::Msg> {
        refused_tell(error, |tell: Self| tell.message)
    }
}

impl<S: Stage> Envelope for Tell<S> {
    fn open(self: Box<Self>, core: &Core) {
        let stages: &TypeShard<S> = downcast_stages(core.stages(self.to.stage_type()));
        if let Some(message) = self.message {
            let _ = stages.tell(core, self.to, message); // counted
        }
    }
}

/// A message on its way to the stage of an id, on the shard where that lives.
pub(crate) struct TellId<S: Stage> {
    pub(crate) stage_type: u8,
    pub(crate) id: u64,
    pub(crate) message: S::Msg,
}

impl<S: Stage> Envelope for TellId<S> {
    fn open(self: Box<Self>, core: &Core) {
        let _ = core.tell_wanted::<S>(self.stage_type, self.id, self.message); // counted
    }
}

/// Takes the message back out of a post that was refused.
pub(crate) fn refused_tell<E: Envelope, M>(
    error: PostError<StagePost>,
    message: impl FnOnce(E) -> Option<M>,
) -> TellError<M> {
    let full = matches!(error, PostError::Full(_));
    let envelope = error.into_inner().envelope.take();
    let envelope = envelope.and_then(|any| (any as Box<dyn Any>).downcast::<E>().ok());
    let message = envelope.and_then(|envelope| message(*envelope));
    let message = message.expect("what comes back is what was posted");
    if full {
        TellError::Full(message)
    } else {
        TellError::Gone(message)
    }
}

//! Panics of the embedder's code: caught, counted, logged, and what they cost.
//!
//! A panic in a handler costs its stage ([`OnPanic`](crate::OnPanic)). A panic in a drop (of a
//! message, of what a handler held, of a state), in a factory or in a callback costs nothing but
//! itself.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::core::Core;

/// What a panic said.
pub(crate) fn panic_message(payload: &(dyn Any + Send)) -> String {
    let text = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".to_owned())
}

/// Drops what a panic carried. It may be anything, even something whose drop panics.
pub(crate) fn discard(payload: Box<dyn Any + Send>) {
    if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        std::mem::forget(again);
    }
}

impl Core {
    /// Runs code of the embedder that belongs to no stage, or to one that is no more. `None` if it
    /// panicked, which was counted and logged as `what`.
    pub(crate) fn contained<R>(&self, what: &str, call: impl FnOnce() -> R) -> Option<R> {
        catch_unwind(AssertUnwindSafe(call))
            .map_err(|payload| {
                self.counters.panics.add(1);
                let message = panic_message(&*payload);
                discard(payload);
                tracing::error!(what, shard = self.shard, %message, "a panic was contained");
            })
            .ok()
    }
}

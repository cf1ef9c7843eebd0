//! The core of a shard, held raw, and the engine's context while the engine calls us.

use std::cell::Cell;
use std::ptr::NonNull;

use proscenium_engine::{Context, Time};

use super::waker::set_current;
use crate::core::Core;
use crate::post::StagePost;
use crate::stage::Stage;
use crate::type_shard::{AnyStages, TypeShard};

/// Owns a core. Held raw, so that moving the owner does not touch what frames point to.
pub(crate) struct CoreBox(NonNull<Core>);

impl CoreBox {
    pub(crate) fn new(core: Core) -> Self {
        Self(NonNull::from(Box::leak(Box::new(core))))
    }

    pub(crate) fn ptr(&self) -> CorePtr {
        CorePtr(self.0)
    }

    /// Enters the core for one call of the engine.
    #[inline]
    pub(crate) fn enter<R>(
        &self,
        cx: &mut Context<'_, StagePost>,
        call: impl FnOnce(&Core) -> R,
    ) -> R {
        let core = self.get();
        core.engine.enter(self.ptr(), cx, || call(core))
    }

    pub(crate) fn get(&self) -> &Core {
        // SAFETY: made from a box that `drop` takes back; only shared references are ever made.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for CoreBox {
    fn drop(&mut self) {
        let ptr = self.ptr();
        struct Restore(Option<CorePtr>);
        impl Drop for Restore {
            fn drop(&mut self) {
                set_current(self.0);
            }
        }
        let restore = Restore(set_current(Some(ptr)));
        self.get().end_stages();
        drop(restore);
        // SAFETY: leaked by `new`; rule 6: no frame, so no `Cx`, is left.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

/// Points to the core from a `Cx`, which it outlives (rule 6).
#[derive(Clone, Copy)]
pub(crate) struct CorePtr(NonNull<Core>);

impl CorePtr {
    /// # Safety
    /// The core lives as long as the reference.
    pub(super) unsafe fn as_ref<'a>(self) -> &'a Core {
        // SAFETY: by the contract; nobody ever makes a unique reference to a core.
        unsafe { self.0.as_ref() }
    }

    /// The core, for a holder that cannot outlive it: a `Cx`, or what borrows from one.
    #[inline]
    pub(crate) fn core(&self) -> &Core {
        // SAFETY: rule 6, and `Cx` keeps its pointer to itself.
        unsafe { self.0.as_ref() }
    }
}

/// The engine's context, for the time of one call of the engine.
pub(crate) struct EngineSlot {
    cx: Cell<NonNull<Context<'static, StagePost>>>,
    /// `cx` must not be used: somebody does, or the engine has not called us.
    away: Cell<bool>,
    now: Cell<Time>,
}

impl EngineSlot {
    pub(crate) const fn new() -> Self {
        Self {
            cx: Cell::new(NonNull::dangling()),
            away: Cell::new(true),
            now: Cell::new(Time::ZERO),
        }
    }

    /// The time as of the engine's last call.
    #[inline]
    pub(crate) fn now(&self) -> Time {
        self.now.get()
    }

    /// Runs `call` with `cx` at hand for [`with`](Self::with), and `core` as the current one.
    #[inline]
    fn enter<R>(
        &self,
        core: CorePtr,
        cx: &mut Context<'_, StagePost>,
        call: impl FnOnce() -> R,
    ) -> R {
        struct Leave<'a> {
            slot: &'a EngineSlot,
            cx: NonNull<Context<'static, StagePost>>,
            away: bool,
            core: Option<CorePtr>,
        }
        impl Drop for Leave<'_> {
            fn drop(&mut self) {
                self.slot.cx.set(self.cx);
                self.slot.away.set(self.away);
                set_current(self.core);
            }
        }
        self.now.set(cx.now());
        let cx = NonNull::from(cx).cast::<Context<'static, StagePost>>();
        let _leave = Leave {
            slot: self,
            cx: self.cx.replace(cx),
            away: self.away.replace(false),
            core: set_current(Some(core)),
        };
        call()
    }

    /// Calls the engine; `None` outside of a call of the engine, and inside of another `with`.
    #[inline]
    pub(crate) fn with<R>(&self, call: impl FnOnce(&mut Context<'_, StagePost>) -> R) -> Option<R> {
        struct Back<'a>(&'a EngineSlot);
        impl Drop for Back<'_> {
            fn drop(&mut self) {
                self.0.away.set(false);
            }
        }
        if self.away.replace(true) {
            return None;
        }
        let _back = Back(self);
        // SAFETY: not away, so `enter` holds the only reference while it runs and does not use it;
        // `away` makes this the only use. The shortened lifetime is that of the call.
        Some(call(unsafe { self.cx.get().as_mut() }))
    }
}

/// The stages of a type on a shard, as what they are.
///
/// The caller knows the type from a `StageRef<S>` of the same system, whose type number was given
/// to `S`.
#[inline]
pub(crate) fn downcast_stages<S: Stage>(stages: &dyn AnyStages) -> &TypeShard<S> {
    debug_assert!(
        stages.as_any().is::<TypeShard<S>>(),
        "the type number is S's"
    );
    // SAFETY: `StageRef`s are made by their system only, with the number under which it registered
    // `S`; the shard keeps its types in the same order. Callers compare the systems' numbers, and
    // `StagePost::open` opens what its own system posted only.
    unsafe { &*std::ptr::from_ref(stages).cast::<TypeShard<S>>() }
}

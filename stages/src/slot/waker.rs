//! Wakers: the name of a frame in one word. Cloning copies it, dropping does nothing.

use std::cell::Cell;
use std::mem::ManuallyDrop;
use std::ptr;
use std::task::{RawWaker, RawWakerVTable, Waker};

use super::entered::CorePtr;
use crate::core::Core;
use crate::registry;

/// Names an invocation of a stage (or a detached task): system 12 bits | shard 8 | frame 24 |
/// generation 20. A name that is out of date, or that has come around after 2^20 uses of its
/// frame, wakes nobody or wakes somebody for nothing, which every future has to bear.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct WakeKey(u64);

impl WakeKey {
    pub(crate) const FRAMES_MAX: u32 = 1 << 24;

    pub(crate) fn new(system: u32, shard: usize, frame: u32, generation: u32) -> Self {
        Self(
            u64::from(system & 0xfff) << 52
                | (shard as u64 & 0xff) << 44
                | u64::from(frame & 0xff_ffff) << 20
                | u64::from(generation & 0xf_ffff),
        )
    }

    pub(crate) fn system(self) -> usize {
        (self.0 >> 52) as usize
    }

    pub(crate) fn shard(self) -> usize {
        (self.0 >> 44) as usize & 0xff
    }

    pub(crate) fn frame(self) -> u32 {
        (self.0 >> 20) as u32 & 0xff_ffff
    }

    pub(crate) fn generation(self) -> u32 {
        self.0 as u32 & 0xf_ffff
    }
}

const VTABLE: RawWakerVTable = RawWakerVTable::new(copy, wake, wake, nothing);

fn word(key: WakeKey) -> *const () {
    ptr::without_provenance(key.0 as usize)
}

unsafe fn copy(data: *const ()) -> RawWaker {
    RawWaker::new(data, &VTABLE)
}

unsafe fn wake(data: *const ()) {
    let key = WakeKey(data.addr() as u64);
    if !with_current(|core| core.is_some_and(|core| core.wakes_here(key))) {
        registry::wake(key);
    }
}

unsafe fn nothing(_: *const ()) {}

/// The waker of that name. Dropping it would do nothing; not doing so saves a call.
#[inline]
pub(crate) fn waker(key: WakeKey) -> ManuallyDrop<Waker> {
    // SAFETY: the functions take any word, from any thread, any number of times.
    ManuallyDrop::new(unsafe { Waker::from_raw(RawWaker::new(word(key), &VTABLE)) })
}

thread_local! {
    /// The core that is entered on this thread now.
    static CURRENT: Cell<Option<CorePtr>> = const { Cell::new(None) };
}

/// Calls `call` with the core inside of whose turn this thread is, if any.
#[inline(always)]
pub(crate) fn with_current<R>(call: impl FnOnce(Option<&Core>) -> R) -> R {
    // SAFETY: `CURRENT` is set only while the core is entered on this thread, so it lives.
    call(CURRENT.get().map(|core| unsafe { core.as_ref() }))
}

/// Makes `core` the current one of this thread; returns the one before.
pub(super) fn set_current(core: Option<CorePtr>) -> Option<CorePtr> {
    CURRENT.replace(core)
}

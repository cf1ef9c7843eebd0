//! What a shard is running, for the watchdog: two relaxed stores per invocation.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::core::Core;

/// Which handler of a stage runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Method {
    Create = 1,
    Message,
    Packet,
    Timer,
    Tick,
    Disconnect,
    Enter,
    Destroy,
    Resumed,
}

impl Method {
    const NAMES: [&'static str; 10] = [
        "",
        "on_create",
        "on_message",
        "on_packet",
        "on_timer",
        "on_tick",
        "on_disconnect",
        "detach",
        "on_destroy",
        "a continuation",
    ];
}

/// Written by the shard, read by the watchdog.
#[derive(Debug, Default)]
pub(crate) struct Watched(AtomicU64);

impl Watched {
    /// Type, handler and slot of the stage that runs.
    pub(crate) fn read(&self) -> Option<(u8, &'static str, u32)> {
        let word = self.0.load(Ordering::Relaxed);
        let method = Method::NAMES.get((word >> 32) as u8 as usize)?;
        (!method.is_empty()).then_some(((word >> 40) as u8, *method, word as u32))
    }
}

impl Core {
    #[inline]
    pub(crate) fn watch(&self, stage_type: u8, method: Method, slot: u32) {
        let word = u64::from(stage_type) << 40 | (method as u64) << 32 | u64::from(slot);
        self.watched().0.store(word, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn watch_nothing(&self) {
        self.watched().0.store(0, Ordering::Relaxed);
    }
}

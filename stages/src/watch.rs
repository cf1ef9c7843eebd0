//! What a shard is running, for the watchdog: three relaxed stores per invocation.

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
    Task,
    Factory,
    Passivate,
}

impl Method {
    const NAMES: [&'static str; 13] = [
        "",
        "on_create",
        "on_message",
        "on_packet",
        "on_timer",
        "on_tick",
        "on_disconnect",
        "the closure of a detached future",
        "on_destroy",
        "a handler that goes on",
        "a detached future",
        "the factory",
        "on_passivate",
    ];
}

/// Written by the shard, read by the watchdog.
#[derive(Debug, Default)]
pub(crate) struct Watched {
    /// Slot 32 bits | handler 8 | type 8 | has an id 1; zero: nothing.
    what: AtomicU64,
    id: AtomicU64,
}

/// What a shard runs at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Watching {
    pub(crate) stage_type: u8,
    pub(crate) method: &'static str,
    pub(crate) slot: u32,
    pub(crate) id: Option<u64>,
}

impl Watched {
    /// What runs; `None` also if that changes just now, for then nothing is stuck.
    pub(crate) fn read(&self) -> Option<Watching> {
        let what = self.what.load(Ordering::Acquire);
        let id = self.id.load(Ordering::Acquire);
        let method = *Method::NAMES.get((what >> 32) as u8 as usize)?;
        let stable = self.what.load(Ordering::Acquire) == what;
        (stable && !method.is_empty()).then_some(Watching {
            stage_type: (what >> 40) as u8,
            method,
            slot: what as u32,
            id: (what >> 48 & 1 != 0).then_some(id),
        })
    }
}

impl Core {
    #[inline]
    pub(crate) fn watch(&self, stage_type: u8, method: Method, slot: u32, id: Option<u64>) {
        let named = u64::from(id.is_some()) << 48;
        let word = u64::from(stage_type) << 40 | (method as u64) << 32 | u64::from(slot);
        let watched = self.watched();
        watched.id.store(id.unwrap_or(0), Ordering::Relaxed);
        watched.what.store(word | named, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn watch_nothing(&self) {
        self.watched().what.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_handler_has_a_name() {
        let watched = Watched::default();
        assert_eq!(watched.read(), None);
        for method in 1..Method::NAMES.len() as u64 {
            watched
                .what
                .store(3 << 40 | method << 32 | 9, Ordering::Relaxed);
            let read = watched.read().expect("it has a name");
            assert_eq!((read.stage_type, read.slot, read.id), (3, 9, None));
        }
        assert_eq!(Method::NAMES.len(), Method::Passivate as usize + 1);
    }
}

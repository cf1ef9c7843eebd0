//! All systems of the process, by number: how a waker or an address, which are only numbers, finds
//! its way from another thread.

use std::sync::{Arc, Weak};

use parking_lot::RwLock;

use crate::error::TellError;
use crate::slot::{WakeKey, with_current};
use crate::stage::Stage;
use crate::stage_ref::StageRef;
use crate::system::System;

/// Systems that may exist at the same time: 12 bits of a waker's name.
const SYSTEMS_MAX: usize = 1 << 12;

struct Entry {
    /// Counts the systems that had this place: the upper 20 bits of a system's number.
    uses: u32,
    system: Weak<System>,
}

static SYSTEMS: RwLock<Vec<Entry>> = RwLock::new(Vec::new());

/// Takes a system in that `make` makes for the number it is given.
///
/// # Panics
/// With more than 4,096 systems at the same time.
pub(crate) fn register(make: impl FnOnce(u32) -> System) -> Arc<System> {
    let mut systems = SYSTEMS.write();
    let free = systems
        .iter()
        .position(|entry| entry.system.strong_count() == 0 && entry.uses < (1 << 20) - 1);
    let index = free.unwrap_or_else(|| {
        assert!(
            systems.len() < SYSTEMS_MAX,
            "at most {SYSTEMS_MAX} stage systems in one process"
        );
        systems.push(Entry {
            uses: 0,
            system: Weak::new(),
        });
        systems.len() - 1
    });
    let entry = &mut systems[index];
    entry.uses += 1;
    let system = Arc::new(make(entry.uses << 12 | index as u32));
    entry.system = Arc::downgrade(&system);
    system
}

fn at(index: usize) -> Option<Arc<System>> {
    SYSTEMS.read().get(index)?.system.upgrade()
}

/// The system of that number, if it still exists.
pub(crate) fn find(number: u32) -> Option<Arc<System>> {
    at((number & 0xfff) as usize).filter(|system| system.number == number)
}

/// A wake from a thread that is not inside the shard concerned.
#[cold]
pub(crate) fn wake(key: WakeKey) {
    if let Some(system) = at(key.system()) {
        system.wake(key);
    }
}

/// Tells a stage from wherever this thread is.
#[inline(always)]
pub(crate) fn tell<S: Stage>(to: StageRef<S>, message: S::Msg) -> Result<(), TellError<S::Msg>> {
    with_current(|core| match core {
        Some(core) if core.system_number == to.system => core.tell(to, message),
        _ => tell_from_afar(to, message),
    })
}

#[cold]
#[inline(never)]
pub(crate) fn tell_from_afar<S: Stage>(
    to: StageRef<S>,
    message: S::Msg,
) -> Result<(), TellError<S::Msg>> {
    match find(to.system) {
        Some(system) => system.tell(to, message),
        None => Err(TellError::Gone(message)),
    }
}

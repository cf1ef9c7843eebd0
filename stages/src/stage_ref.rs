//! [`StageRef`]: the address of a stage.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;

use crate::error::TellError;
use crate::registry;
use crate::request::{Asked, Reply};
use crate::stage::Stage;

/// Names a stage within its system: shard 8 bits | type 8 | slot 24 | generation 24.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct StageKey(u64);

impl StageKey {
    pub(crate) fn new(shard: usize, stage_type: u8, slot: u32, generation: u32) -> Self {
        Self(
            (shard as u64 & 0xff) << 56
                | u64::from(stage_type) << 48
                | u64::from(slot & 0xff_ffff) << 24
                | u64::from(generation & 0xff_ffff),
        )
    }

    #[inline]
    pub(crate) fn shard(self) -> usize {
        (self.0 >> 56) as usize
    }

    #[inline]
    pub(crate) fn stage_type(self) -> u8 {
        (self.0 >> 48) as u8
    }

    #[inline]
    pub(crate) fn slot(self) -> u32 {
        (self.0 >> 24) as u32 & 0xff_ffff
    }

    #[inline]
    pub(crate) fn generation(self) -> u32 {
        self.0 as u32 & 0xff_ffff
    }

    /// As the tag of a connection: never 0, because a living stage's generation is not.
    pub(crate) fn to_tag(self) -> u64 {
        self.0
    }

    pub(crate) fn from_tag(tag: u64) -> Self {
        Self(tag)
    }
}

/// `shard.type.slot.generation`, as logs show it.
impl fmt::Debug for StageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (shard, stage_type) = (self.shard(), self.stage_type());
        write!(
            f,
            "{shard}.{stage_type}.{}.{}",
            self.slot(),
            self.generation()
        )
    }
}

/// The address of a stage: a number to copy, to send and to keep, on any thread. It does not keep
/// the stage alive, and is never the address of another one.
pub struct StageRef<S> {
    pub(crate) system: u32,
    pub(crate) key: StageKey,
    stage: PhantomData<fn(S)>,
}

impl<S> StageRef<S> {
    pub(crate) fn new(system: u32, key: StageKey) -> Self {
        Self {
            system,
            key,
            stage: PhantomData,
        }
    }

    /// The shard on which the stage lives, for all its life.
    pub fn shard(self) -> usize {
        self.key.shard()
    }
}

impl<S: Stage> StageRef<S> {
    /// Tells the stage something, from any thread. Messages of one thread, and of one stage,
    /// arrive in the order in which they were told. From inside a handler
    /// [`Local::tell`](crate::Local::tell) is the same and cheaper.
    ///
    /// # Errors
    /// [`TellError`], with the message. A stage of another shard that is found gone, or whose
    /// backlog is found full, only there, does not get it, and that is counted
    /// ([`StageStats`](crate::StageStats)); who has to know makes a request.
    #[inline]
    pub fn tell(self, message: S::Msg) -> Result<(), TellError<S::Msg>> {
        registry::tell(self, message)
    }

    /// Asks the stage something, from any thread: `message` puts the reply token into a message.
    /// The answer is awaited on any executor, or [waited for](Asked::wait).
    ///
    /// A request made in a handler this way waits for ever if the answer does not come, and takes
    /// no part in the finding of cycles: handlers use [`Cx::request`](crate::Cx::request).
    pub fn ask<T: Send + 'static>(self, message: impl FnOnce(Reply<T>) -> S::Msg) -> Asked<T> {
        let (reply, asked) = Reply::pair();
        if let Err(error) = self.tell(message(reply)) {
            asked.refuse((&error).into());
        }
        asked
    }
}

impl<S> Clone for StageRef<S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S> Copy for StageRef<S> {}

impl<S> PartialEq for StageRef<S> {
    fn eq(&self, other: &Self) -> bool {
        (self.system, self.key) == (other.system, other.key)
    }
}

impl<S> Eq for StageRef<S> {}

impl<S> Hash for StageRef<S> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.system, self.key).hash(state);
    }
}

impl<S> fmt::Debug for StageRef<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StageRef({:?})", self.key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_back() {
        let key = StageKey::new(255, 254, 0xff_fffe, 0xff_fffd);
        assert_eq!(
            (key.shard(), key.stage_type(), key.slot(), key.generation()),
            (255, 254, 0xff_fffe, 0xff_fffd)
        );
        assert_eq!(StageKey::from_tag(key.to_tag()), key);
    }
}

//! [`RouterId`]: the name of a connection for its whole life.

use std::fmt;

/// Names one connection of one engine, for the connection's whole life, and is never reused while
/// anybody could still hold it.
///
/// Layout: birth shard (8 bits) | slot (24 bits) | generation (32 bits). Look-up is an index and a
/// compare; an id whose connection is gone is a clean [`SendError::Gone`](crate::SendError::Gone).
/// A connection that moves to another shard keeps its id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouterId(u64);

impl RouterId {
    /// Greatest number of shards of an engine.
    pub const SHARDS_MAX: usize = 1 << 8;
    /// Greatest number of connection slots of a shard.
    pub const SLOTS_MAX: usize = 1 << 24;

    /// Names no connection, ever.
    pub const NONE: Self = Self(0);

    pub(crate) const fn new(shard: u8, slot: u32, generation: u32) -> Self {
        debug_assert!((slot as usize) < Self::SLOTS_MAX);
        Self(((shard as u64) << 56) | ((slot as u64) << 32) | generation as u64)
    }

    /// The shard on which the connection was born.
    pub const fn shard(self) -> usize {
        (self.0 >> 56) as usize
    }

    pub(crate) const fn slot(self) -> u32 {
        (self.0 >> 32) as u32 & 0x00ff_ffff
    }

    /// The slot, if the connection was born on `shard`. One comparison tells both: with another
    /// shard's number it is over the greatest slot.
    #[inline]
    pub(crate) const fn slot_on(self, shard: u8) -> Option<u32> {
        let place = ((self.0 >> 32) as u32) ^ ((shard as u32) << 24);
        if place < Self::SLOTS_MAX as u32 {
            Some(place)
        } else {
            None
        }
    }

    pub(crate) const fn generation(self) -> u32 {
        self.0 as u32
    }

    /// The id as a number, for logs and for passing through foreign code.
    pub const fn to_u64(self) -> u64 {
        self.0
    }

    /// The id that [`to_u64`](Self::to_u64) gave. Any number is harmless: one that names no living
    /// connection is answered with `Gone`.
    pub const fn from_u64(raw: u64) -> Self {
        Self(raw)
    }
}

impl fmt::Debug for RouterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// `shard.slot.generation`, as logs show it.
impl fmt::Display for RouterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.shard(), self.slot(), self.generation())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_back() {
        let id = RouterId::new(255, 0x00ff_fffe, u32::MAX);
        assert_eq!(
            (id.shard(), id.slot(), id.generation()),
            (255, 0x00ff_fffe, u32::MAX)
        );
        assert_eq!(RouterId::from_u64(id.to_u64()), id);
        assert_eq!(RouterId::new(1, 2, 3).to_string(), "1.2.3");
        for shard in [0, 1, 254, 255] {
            let expected = (shard == 255).then_some(0x00ff_fffe);
            assert_eq!(id.slot_on(shard), expected);
            assert_eq!(RouterId::new(shard, 7, 1).slot_on(shard), Some(7));
        }
    }
}

//! Where stages and their coroutine frames live: the only unsafe code of the crate.
//!
//! The argument why this is sound is `docs/decisions/0013-coroutine-frames.md`; its rules, by
//! which the comments below refer to them:
//!
//! 1. A cell and a frame have a stable address from their making to the end of the arena (cells)
//!    or of the pool (frames). Both are held by raw pointers only.
//! 2. The phase of a cell says what exists: the state in every phase but `Free`, the future in
//!    `Running` and `Suspended` only, the frame's [`Cx`](crate::Cx) from the beginning of
//!    `Starting` until the frame is given back. Within a run of one stage it says `Running` also
//!    where there is no future: nobody is there who could tell, and a guard mends it if anything
//!    unwinds.
//! 3. While a future exists, nobody but it makes a reference to the state or to the `Cx`.
//! 4. No borrow of anything in the core is held while user code runs: constructing, polling or
//!    dropping a future, or dropping a state.
//! 5. Handlers never nest: a cell is entered from the dispatch loop or the run loop only, and
//!    neither runs inside a handler.
//! 6. Frames end before the core; the shard ends on the thread it lived on.

#![allow(unsafe_code, reason = "the only module of the crate that may")]

mod arena;
mod arrivals;
mod entered;
mod frame;
mod waker;

pub(crate) use arena::{Arena, At, Phase};
pub(crate) use entered::{CoreBox, CorePtr, EngineSlot, downcast_stages};
pub(crate) use frame::FramePool;
pub(crate) use waker::{WakeKey, waker, with_current};

#[cfg(not(target_pointer_width = "64"))]
compile_error!("a waker carries its whole name in one 64-bit word");

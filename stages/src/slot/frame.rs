//! Coroutine frames: memory for one invocation's `Cx` and future, pooled per shard and stage type.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::cell::{Cell, RefCell, UnsafeCell};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::ptr::NonNull;
use std::task::{Context, Poll};

use super::waker::WakeKey;
use crate::cx::Cx;

/// Free frames that a pool keeps; more are given back to the allocator.
const FREE_MAX: usize = 1024;

/// The beginning of a frame; the future follows at the offset its alignment asks for.
#[repr(C)]
pub(super) struct Frame<S: 'static> {
    /// Of the shard's table of frames.
    index: u32,
    /// The name of this use, for wakers.
    key: Cell<WakeKey>,
    poll: Cell<Option<PollFn<S>>>,
    end: Cell<Option<EndFn<S>>>,
    cx: UnsafeCell<MaybeUninit<Cx<'static, S>>>,
}

type PollFn<S> = unsafe fn(FramePtr<S>, &mut Context<'_>) -> Poll<()>;
type EndFn<S> = unsafe fn(FramePtr<S>);

/// A frame that its pool has handed out.
pub(super) struct FramePtr<S: 'static>(NonNull<Frame<S>>);

impl<S> Clone for FramePtr<S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S> Copy for FramePtr<S> {}

impl<S> FramePtr<S> {
    fn head(&self) -> &Frame<S> {
        // SAFETY: rule 1; the head is initialised by `FramePool::make` and never unique again.
        unsafe { self.0.as_ref() }
    }

    pub(super) fn index(self) -> u32 {
        self.head().index
    }

    #[inline]
    pub(super) fn key(self) -> WakeKey {
        self.head().key.get()
    }

    /// The next use has another name.
    pub(super) fn rename(self, key: WakeKey) {
        self.head().key.set(key);
    }

    #[inline]
    pub(super) fn cx(self) -> *mut Cx<'static, S> {
        UnsafeCell::raw_get(&raw const self.head().cx).cast()
    }

    fn future<F>(self) -> *mut F {
        let offset = future_offset::<S>(Layout::new::<F>());
        // SAFETY: the pool's layout covers every future it was told of (`FramePool::admit`).
        unsafe { self.0.as_ptr().byte_add(offset).cast() }
    }

    /// Notes how to poll and to drop futures of type `F`, for when they are met without their type:
    /// suspended, or after a panic.
    #[inline]
    pub(super) fn prepare<F: Future<Output = ()>>(self) {
        self.head().poll.set(Some(poll_as::<S, F>));
        self.head().end.set(Some(end_as::<S, F>));
    }

    /// Puts the future into the frame.
    ///
    /// # Safety
    /// There is none in it, the pool was told of `F` by `admit`, and the frame by `prepare`.
    #[inline]
    pub(super) unsafe fn put<F: Future<Output = ()>>(self, future: F) {
        // SAFETY: in bounds and aligned by the pool's layout.
        unsafe { self.future::<F>().write(future) };
    }

    /// Polls the future, whose type the caller knows.
    ///
    /// # Safety
    /// A future of type `F` is in the frame, and nobody else refers to it.
    #[inline]
    pub(super) unsafe fn poll_known<F>(self, cx: &mut Context<'_>) -> Poll<()>
    where
        F: Future<Output = ()>,
    {
        // SAFETY: it is pinned: the frame does not move, and the future is dropped in place.
        unsafe { Pin::new_unchecked(&mut *self.future::<F>()) }.poll(cx)
    }

    /// Polls the future.
    ///
    /// # Safety
    /// A future is in the frame, and nobody else refers to it.
    #[inline]
    pub(super) unsafe fn poll(self, cx: &mut Context<'_>) -> Poll<()> {
        match self.head().poll.get() {
            // SAFETY: `prepare` stored the function of the type that is in the frame.
            Some(poll) => unsafe { poll(self, cx) },
            None => Poll::Ready(()),
        }
    }

    /// Drops the future in place.
    ///
    /// # Safety
    /// A future is in the frame; it counts as gone from the beginning of the call, also if its
    /// drop panics.
    #[inline]
    pub(super) unsafe fn end_known<F>(self) {
        // SAFETY: by the contract.
        unsafe { self.future::<F>().drop_in_place() };
    }

    /// Drops the future in place, whatever its type.
    ///
    /// # Safety
    /// As for `end_known`.
    pub(super) unsafe fn end(self) {
        if let Some(end) = self.head().end.take() {
            // SAFETY: `prepare` stored the function of the type that is in the frame.
            unsafe { end(self) };
        }
    }
}

unsafe fn poll_as<S, F: Future<Output = ()>>(frame: FramePtr<S>, cx: &mut Context<'_>) -> Poll<()> {
    // SAFETY: by the contract of the caller.
    unsafe { frame.poll_known::<F>(cx) }
}

unsafe fn end_as<S, F>(frame: FramePtr<S>) {
    // SAFETY: by the contract of the caller.
    unsafe { frame.end_known::<F>() };
}

const fn future_offset<S: 'static>(future: Layout) -> usize {
    let head = size_of::<Frame<S>>();
    head.next_multiple_of(future.align())
}

/// The frames of one stage type on one shard.
pub(crate) struct FramePool<S: 'static> {
    layout: Cell<Layout>,
    /// The free frame used last: still in cache.
    warm: Cell<Option<FramePtr<S>>>,
    free: RefCell<Vec<FramePtr<S>>>,
    /// Frames handed out or free.
    made: Cell<usize>,
}

impl<S> FramePool<S> {
    pub(crate) fn new() -> Self {
        Self {
            layout: Cell::new(Layout::new::<Frame<S>>()),
            warm: Cell::new(None),
            free: RefCell::default(),
            made: Cell::new(0),
        }
    }

    /// Makes frames large enough for the futures of `call` from now on. Only before the first
    /// frame is made.
    pub(crate) fn admit<A, F>(&self, call: impl FnOnce(A) -> F) {
        drop(call);
        assert_eq!(self.made.get(), 0, "frames exist already");
        let future = Layout::new::<F>();
        let size = future_offset::<S>(future) + future.size();
        let old = self.layout.get();
        let align = old.align().max(future.align());
        let grown = Layout::from_size_align(old.size().max(size), align);
        self.layout.set(grown.expect("a future fits into memory"));
    }

    /// Hands out a frame; `number` gives a new one its index and the name of its first use.
    #[inline]
    pub(super) fn take(&self, number: impl FnOnce() -> (u32, WakeKey)) -> FramePtr<S> {
        match self.warm.take() {
            Some(frame) => frame,
            None => self.take_cold(number),
        }
    }

    #[cold]
    #[inline(never)]
    fn take_cold(&self, number: impl FnOnce() -> (u32, WakeKey)) -> FramePtr<S> {
        let free = self.free.borrow_mut().pop();
        free.unwrap_or_else(|| self.make(number()))
    }

    #[cold]
    fn make(&self, (index, key): (u32, WakeKey)) -> FramePtr<S> {
        let layout = self.layout.get();
        // SAFETY: the layout holds a `Frame`, so its size is not zero.
        let memory = NonNull::new(unsafe { alloc(layout) }.cast::<Frame<S>>());
        let frame = memory.unwrap_or_else(|| handle_alloc_error(layout));
        // SAFETY: fresh memory of a layout that begins with a `Frame`.
        unsafe {
            frame.as_ptr().write(Frame {
                index,
                key: Cell::new(key),
                poll: Cell::new(None),
                end: Cell::new(None),
                cx: UnsafeCell::new(MaybeUninit::uninit()),
            });
        }
        self.made.set(self.made.get() + 1);
        FramePtr(frame)
    }

    /// Takes a frame back; `Some(index)` if it was one too many and its index is free again.
    ///
    /// # Safety
    /// It came from this pool, neither a future nor a `Cx` is in it, and nobody uses it again.
    #[inline]
    pub(super) unsafe fn give(&self, frame: FramePtr<S>) -> Option<u32> {
        let frame = self.warm.replace(Some(frame))?;
        let mut free = self.free.borrow_mut();
        if free.len() < FREE_MAX {
            free.push(frame);
            return None;
        }
        drop(free);
        let index = frame.index();
        // SAFETY: made by `make` with this layout, which never changes after the first frame.
        unsafe { dealloc(frame.0.as_ptr().cast(), self.layout.get()) };
        self.made.set(self.made.get() - 1);
        Some(index)
    }
}

impl<S> Drop for FramePool<S> {
    fn drop(&mut self) {
        let warm = self.warm.take();
        for frame in self.free.get_mut().drain(..).chain(warm) {
            // SAFETY: as in `give`. Frames still handed out are leaked rather than freed under
            // somebody; the arena gives them all back before.
            unsafe { dealloc(frame.0.as_ptr().cast(), self.layout.get()) };
        }
    }
}

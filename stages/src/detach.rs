//! Detached tasks: futures of a stage that do not keep it busy.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use slab::Slab;

use crate::core::Core;
use crate::frames::Owner;
use crate::slot::waker;
use crate::stage_ref::StageKey;

type Future = Pin<Box<dyn std::future::Future<Output = ()>>>;

struct Task {
    /// Taken out while it is polled.
    future: Option<Future>,
    frame: u32,
    owner: StageKey,
}

/// The detached tasks of a shard.
#[derive(Default)]
pub(crate) struct Tasks {
    tasks: RefCell<Slab<Task>>,
}

impl Tasks {
    /// Takes a task in; it is polled in the next run.
    pub(crate) fn spawn(&self, core: &Core, owner: StageKey, future: Future) -> u32 {
        let frame = core.frames.number();
        let task = self.tasks.borrow_mut().insert(Task {
            future: Some(future),
            frame,
            owner,
        }) as u32;
        core.frames.suspend(frame, Owner::Task(task));
        core.frames.wake(frame, core.frames.generation(frame));
        task
    }

    pub(crate) fn poll(&self, core: &Core, task: u32, frame: u32) {
        let taken = self
            .tasks
            .borrow_mut()
            .get_mut(task as usize)
            .filter(|task| task.frame == frame)
            .and_then(|task| Some((task.future.take()?, task.owner)));
        let Some((mut future, owner)) = taken else {
            return;
        };
        let waker = waker(core.wake_key(frame, core.frames.generation(frame)));
        let mut cx = Context::from_waker(&waker);
        let polled = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(&mut cx)));
        match polled {
            Ok(Poll::Pending) => {
                if let Some(task) = self.tasks.borrow_mut().get_mut(task as usize) {
                    task.future = Some(future);
                }
            }
            Ok(Poll::Ready(())) => self.over(core, task, future),
            Err(payload) => {
                core.counters.panics.add(1);
                let message = crate::type_shard::panic_message(&*payload);
                let stage = core.system.types[usize::from(owner.stage_type())].name;
                tracing::error!(stage, %message, "a detached task panicked");
                self.over(core, task, future);
            }
        }
    }

    fn over(&self, core: &Core, task: u32, future: Future) {
        let Some(task) = self.tasks.borrow_mut().try_remove(task as usize) else {
            return drop(future);
        };
        core.frames.end(task.frame);
        core.frames.forget(task.frame);
        let _ = catch_unwind(AssertUnwindSafe(|| drop(future)));
    }

    /// Drops a task where it stands.
    pub(crate) fn cancel(&self, core: &Core, task: u32) {
        let future = self
            .tasks
            .borrow_mut()
            .get_mut(task as usize)
            .and_then(|task| task.future.take());
        if let Some(future) = future {
            self.over(core, task, future);
        }
    }

    pub(crate) fn clear(&self, core: &Core) {
        let all: Vec<u32> = self
            .tasks
            .borrow()
            .iter()
            .map(|(task, _)| task as u32)
            .collect();
        for task in all {
            self.cancel(core, task);
        }
    }
}

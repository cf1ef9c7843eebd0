//! Detached tasks: futures of a stage that do not keep it busy.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::task::{Context, Poll};

use slab::Slab;

use crate::core::Core;
use crate::frames::Owner;
use crate::slot::waker;
use crate::stage_ref::StageKey;
use crate::watch::Method;

type Future = Pin<Box<dyn std::future::Future<Output = ()>>>;

/// Names a task of a shard: its place there and among those of its stage, and a number that no
/// other one has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TaskId {
    place: u32,
    pub(crate) of_stage: u32,
    number: u64,
}

struct Task {
    /// Taken out while it is polled.
    future: Option<Future>,
    frame: u32,
    owner: StageKey,
    of_stage: u32,
    number: u64,
}

impl Task {
    fn name(&self, place: u32) -> TaskId {
        TaskId {
            place,
            of_stage: self.of_stage,
            number: self.number,
        }
    }
}

/// The detached tasks of a shard.
#[derive(Default)]
pub(crate) struct Tasks {
    tasks: RefCell<Slab<Task>>,
    last: Cell<u64>,
}

impl Tasks {
    /// Takes a task in that `make` makes for its name; it is polled in the next run. `of_stage` is
    /// its place among those of its stage.
    pub(crate) fn spawn(
        &self,
        core: &Core,
        owner: StageKey,
        of_stage: u32,
        make: impl FnOnce(TaskId) -> Future,
    ) -> TaskId {
        let number = self.last.get() + 1;
        self.last.set(number);
        let frame = core.frames.number();
        let mut tasks = self.tasks.borrow_mut();
        let entry = tasks.vacant_entry();
        let place = entry.key() as u32;
        let id = TaskId {
            place,
            of_stage,
            number,
        };
        entry.insert(Task {
            future: Some(make(id)),
            frame,
            owner,
            of_stage,
            number,
        });
        drop(tasks);
        core.frames.suspend(frame, Owner::Task(place));
        core.frames.wake(frame, core.frames.generation(frame));
        id
    }

    pub(crate) fn poll(&self, core: &Core, place: u32, frame: u32) {
        let taken = self
            .tasks
            .borrow_mut()
            .get_mut(place as usize)
            .filter(|task| task.frame == frame)
            .and_then(|task| Some((task.future.take()?, task.owner, task.name(place))));
        let Some((mut future, owner, task)) = taken else {
            return;
        };
        let waker = waker(core.wake_key(frame, core.frames.generation(frame)));
        let mut cx = Context::from_waker(&waker);
        let stages = core.stages(owner.stage_type());
        let id = stages.id_of(owner);
        core.watch(owner.stage_type(), Method::Task, owner.slot(), id);
        let polled = core.contained("a detached future", || future.as_mut().poll(&mut cx));
        core.watch_nothing();
        match polled {
            Some(Poll::Pending) => {
                if let Some(task) = self.tasks.borrow_mut().get_mut(place as usize) {
                    task.future = Some(future);
                }
            }
            Some(Poll::Ready(())) => self.over(core, place, future),
            None => {
                self.over(core, place, future);
                stages.task_is_over(owner, task);
            }
        }
    }

    fn over(&self, core: &Core, place: u32, future: Future) {
        let task = self.tasks.borrow_mut().try_remove(place as usize);
        if let Some(task) = task {
            core.frames.end(task.frame);
            core.frames.forget(task.frame);
        }
        core.contained("the drop of a detached future", || drop(future));
    }

    /// Drops a task where it stands, unless it is over.
    pub(crate) fn cancel(&self, core: &Core, id: TaskId) {
        let future = self
            .tasks
            .borrow_mut()
            .get_mut(id.place as usize)
            .filter(|task| task.number == id.number)
            .and_then(|task| task.future.take());
        if let Some(future) = future {
            self.over(core, id.place, future);
        }
    }

    pub(crate) fn clear(&self, core: &Core) {
        let all: Vec<TaskId> = self
            .tasks
            .borrow()
            .iter()
            .map(|(place, task)| task.name(place as u32))
            .collect();
        for task in all {
            self.cancel(core, task);
        }
    }
}

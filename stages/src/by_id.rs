//! Stages by their ids: found, told, made, and waited for while the one before them ends.
//!
//! Of an id there is one stage at a time. One that was told to end is found no more, but keeps its
//! id until it has ended: whoever wants one of that id waits for that, and then it is made.

use std::cell::Cell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::rc::Rc;

use crate::core::Core;
use crate::error::{CreateError, TellError};
use crate::request::{Asked, Reply};
use crate::slot::downcast_stages;
use crate::stage::Stage;
use crate::stage_ref::{StageKey, StageRef};
use crate::timers::Due;
use crate::type_shard::TypeShard;

/// How a search for a stage ended.
type Found = Result<StageKey, CreateError>;

/// Is told how a search ended, once: by the end of the stage before, or by the deadline.
type Waiting = Rc<Cell<Option<Box<dyn FnOnce(Found)>>>>;

/// Who waits for the ends of stages, by type and id. The ids may be chosen by strangers.
pub(crate) type Awaited = HashMap<(u8, u64), Vec<Waiting>>;

impl Core {
    /// The stage of that type and id, unless it is about to end. This is its shard.
    pub(crate) fn living(&self, number: u8, id: u64) -> Option<StageKey> {
        let key = self.find(number, id)?;
        (!self.stages(number).is_ending(key)).then_some(key)
    }

    /// Finds the stage of that type and id, or has it made: now, or when the one before it has
    /// ended, for which the request deadline holds. This is its shard.
    fn want(&self, number: u8, id: u64, told: impl FnOnce(Found) + 'static) {
        match self.find(number, id) {
            None => told(self.stages(number).make(self, id)),
            Some(key) if !self.stages(number).is_ending(key) => told(Ok(key)),
            Some(_) => {
                let waiting: Waiting = Rc::new(Cell::new(Some(Box::new(told))));
                let late = Rc::clone(&waiting);
                let mut awaited = self.awaited.borrow_mut();
                awaited.entry((number, id)).or_default().push(waiting);
                let due = Due::Run(Box::new(move |core: &Self| core.give_up(number, id, &late)));
                self.set_timer(self.now() + self.system.request_deadline, due);
            }
        }
    }

    fn give_up(&self, number: u8, id: u64, late: &Waiting) {
        let Some(told) = late.take() else {
            return;
        };
        if let Entry::Occupied(mut waiting) = self.awaited.borrow_mut().entry((number, id)) {
            waiting.get_mut().retain(|one| !Rc::ptr_eq(one, late));
            if waiting.get().is_empty() {
                waiting.remove();
            }
        }
        told(Err(CreateError::Ending));
    }

    /// A stage of that id has ended: whoever waits for the next one gets it.
    pub(crate) fn is_free(&self, number: u8, id: u64) {
        let waiting = self.awaited.borrow_mut().remove(&(number, id));
        for one in waiting.into_iter().flatten() {
            if let Some(told) = one.take() {
                self.want(number, id, told);
            }
        }
    }

    /// [`want`](Self::want), with the answer by `reply`.
    pub(crate) fn want_for<S: Stage>(
        &self,
        number: u8,
        id: u64,
        reply: Reply<Result<StageRef<S>, CreateError>>,
    ) {
        let system = self.system_number;
        self.want(number, id, move |found| {
            let _ = reply.send(found.map(|key| StageRef::new(system, key))); // may have given up
        });
    }

    pub(crate) fn get_or_create<S: Stage>(
        &self,
        id: u64,
    ) -> Asked<Result<StageRef<S>, CreateError>> {
        match self.system.place::<S>(id) {
            Ok((number, shard)) => {
                self.ask_shard(shard, move |core, reply| core.want_for(number, id, reply))
            }
            Err(error) => Asked::answered(Err(error)),
        }
    }

    pub(crate) fn get<S: Stage>(&self, id: u64) -> Asked<Result<Option<StageRef<S>>, CreateError>> {
        let system = self.system_number;
        match self.system.place::<S>(id) {
            Ok((number, shard)) => self.ask_shard(shard, move |core, reply| {
                let found = core.living(number, id);
                let _ = reply.send(Ok(found.map(|key| StageRef::new(system, key))));
            }),
            Err(error) => Asked::answered(Err(error)),
        }
    }

    pub(crate) fn tell_id<S: Stage>(
        &self,
        id: u64,
        message: S::Msg,
    ) -> Result<(), TellError<S::Msg>> {
        match self.system.place::<S>(id) {
            Ok((number, shard)) if shard == self.shard => {
                self.tell_wanted::<S>(number, id, message)
            }
            Ok((number, shard)) => self.system.tell_id::<S>(number, shard, id, message),
            Err(_) => Err(TellError::Gone(message)),
        }
    }

    /// Tells a stage of this shard, made if there is none; `Gone` if there is one that ends.
    pub(crate) fn tell_wanted<S: Stage>(
        &self,
        number: u8,
        id: u64,
        message: S::Msg,
    ) -> Result<(), TellError<S::Msg>> {
        let found = match self.find(number, id) {
            Some(_) => self.living(number, id),
            None => self.stages(number).make(self, id).ok(),
        };
        let Some(key) = found else {
            self.counters.gone.add(1);
            return Err(TellError::Gone(message));
        };
        let stages: &TypeShard<S> = downcast_stages(self.stages(number));
        stages.tell(self, key, message)
    }
}

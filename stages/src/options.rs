//! [`StageType`]: how the stages of one type are made and treated.

use std::any::TypeId;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::placement::{Placement, jump_hash};
use crate::stage::Stage;
use crate::type_shard::{AnyStages, Factory, TypeShard};

/// What happens to a stage that panicked. Its state is dropped in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnPanic {
    /// It ends: its name is gone, its connections are closed. The default.
    Destroy,
    /// It is made anew by its factory, under the same address: after `first`, then after twice the
    /// time of the restart before, at most `max`. A state that lived for `max` begins with `first`
    /// again. Stages that no factory made, and those that are about to end, end.
    ///
    /// What others sent to the stage stays: the backlog, and the connections that are bound to it
    /// (the new state finds them as [`Cx::connections`](crate::Cx::connections)). What the old
    /// state had begun does not: its timers, intervals and ticks, its detached futures with their
    /// closures. The request that it was handling is answered
    /// [`NoReply`](crate::RequestError::NoReply). No [`TimerId`](crate::TimerId) comes again.
    Restart {
        /// Delay before the first restart.
        first: Duration,
        /// The longest delay.
        max: Duration,
    },
}

#[derive(Clone, Debug)]
pub(crate) struct TypeOptions {
    pub(crate) backlog: u32,
    pub(crate) stages_max: usize,
    pub(crate) tasks_max: usize,
    pub(crate) on_panic: OnPanic,
    pub(crate) passivate_after: Option<Duration>,
    pub(crate) placement: Placement,
}

/// A stage type as [`StagesBuilder::register`](crate::StagesBuilder::register) takes it: its name,
/// how its stages are made, and their limits.
///
/// ```
/// use std::time::Duration;
/// use proscenium_stages::{Cx, OnPanic, Stage, StageType};
///
/// struct Room { id: u64 }
/// impl Stage for Room {
///     type Msg = ();
///     async fn on_message(&mut self, _cx: &mut Cx<'_, Self>, _message: ()) {}
/// }
///
/// let rooms = StageType::new("room")
///     .factory(|id| Room { id })
///     .backlog(256)
///     .on_panic(OnPanic::Restart {
///         first: Duration::from_millis(100),
///         max: Duration::from_secs(10),
///     })
///     .passivate_after(Duration::from_secs(600));
/// ```
#[must_use]
pub struct StageType<S: Stage> {
    name: &'static str,
    options: TypeOptions,
    factory: Option<Factory<S>>,
}

impl<S: Stage> StageType<S> {
    /// A type with the defaults, without a factory.
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            options: TypeOptions {
                backlog: 1024,
                stages_max: 1 << 20,
                tasks_max: 1024,
                on_panic: OnPanic::Destroy,
                passivate_after: None,
                placement: jump_hash,
            },
            factory: None,
        }
    }

    /// Sets how a stage is made that is wanted by its id: on the shard where it will live.
    pub fn factory(mut self, make: impl Fn(u64) -> S + Send + Sync + 'static) -> Self {
        self.factory = Some(Arc::new(make));
        self
    }

    /// Sets how many messages may wait for one stage; default 1,024. Beyond, who tells gets `Full`,
    /// and connections bound to the stage are not read until half of it is free. Timers, replies
    /// and the ends of connections are not counted.
    pub fn backlog(mut self, messages: u32) -> Self {
        self.options.backlog = messages.max(1);
        self
    }

    /// Sets how many stages of the type may live on one shard; default 1,048,576.
    pub fn stages_max(mut self, stages: usize) -> Self {
        self.options.stages_max = stages;
        self
    }

    /// Sets how many [detached](crate::Cx::detach) futures one stage may have whose closures have
    /// not entered it; default 1,024.
    pub fn tasks_max(mut self, tasks: usize) -> Self {
        self.options.tasks_max = tasks;
        self
    }

    /// Sets what happens to a stage that panics; default [`OnPanic::Destroy`].
    pub fn on_panic(mut self, policy: OnPanic) -> Self {
        self.options.on_panic = policy;
        self
    }

    /// Has stages leave memory that were idle for so long, checked every quarter of it; default:
    /// never. A stage with bound connections, timers or detached tasks stays.
    pub fn passivate_after(mut self, idle: Duration) -> Self {
        self.options.passivate_after = Some(idle);
        self
    }

    /// Sets on which shard the stage of an id lives; default [`jump_hash`].
    pub fn placement(mut self, placement: Placement) -> Self {
        self.options.placement = placement;
        self
    }

    pub(crate) fn into_info(self, number: u8) -> Arc<TypeInfo> {
        let factory = self.factory;
        Arc::new(TypeInfo {
            name: self.name,
            number,
            of: TypeId::of::<S>(),
            options: self.options,
            make: Box::new(move |info| Box::new(TypeShard::<S>::new(info, factory.clone()))),
        })
    }
}

impl<S: Stage> fmt::Debug for StageType<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StageType")
            .field("name", &self.name)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

type MakeShard = dyn Fn(Arc<TypeInfo>) -> Box<dyn AnyStages> + Send + Sync;

/// What all shards know of a stage type.
pub(crate) struct TypeInfo {
    pub(crate) name: &'static str,
    pub(crate) number: u8,
    pub(crate) of: TypeId,
    pub(crate) options: TypeOptions,
    make: Box<MakeShard>,
}

impl TypeInfo {
    pub(crate) fn on_shard(self: &Arc<Self>) -> Box<dyn AnyStages> {
        (self.make)(Arc::clone(self))
    }
}

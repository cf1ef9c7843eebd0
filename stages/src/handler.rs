//! [`StageShard`]: the engine's handler under which stages run.

use std::sync::Arc;
use std::time::Duration;

use proscenium_engine::{CloseReason, Context, Handler, Message, Messages, Peer, RouterId, Run};

use crate::core::Core;
use crate::front::{Front, HELD};
use crate::local::Local;
use crate::post::StagePost;
use crate::slot::CoreBox;
use crate::stage_ref::StageKey;
use crate::system::System;
use crate::timers::Due;

/// The stages of one shard: the [`Handler`] that [`Stages::shards`](crate::Stages::shards) makes.
pub struct StageShard {
    core: CoreBox,
}

impl StageShard {
    pub(crate) fn new(system: Arc<System>, shard: usize) -> Self {
        let core = CoreBox::new(Core::new(system, shard));
        core.get().set_ptr(core.ptr());
        Self { core }
    }
}

impl StageShard {
    /// Calls `call` with what runs on the shard: for a handler around this one, with what the
    /// engine calls that with. What it wakes and tells has its turn in the next
    /// [`run`](Handler::run). Timers of this handler have tokens whose highest bit is set, and its
    /// wakes tokens below 2³²; the others are free for that handler.
    #[inline]
    pub fn with_local<R>(
        &mut self,
        cx: &mut Context<'_, StagePost>,
        call: impl FnOnce(&Local<'_>) -> R,
    ) -> R {
        self.core.enter(cx, |core| call(&Local::new(core.ptr())))
    }
}

impl std::fmt::Debug for StageShard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StageShard")
            .field("shard", &self.core.get().shard)
            .finish_non_exhaustive()
    }
}

type Engine<'a> = Context<'a, StagePost>;

impl Handler for StageShard {
    type Post = StagePost;

    fn on_start(&mut self, cx: &mut Engine<'_>) {
        let (handle, shards) = (cx.handle(), cx.shards());
        self.core.enter(cx, |core| {
            core.system.engine_runs(handle, shards);
            for (number, info) in core.system.types.iter().enumerate() {
                if let Some(after) = info.options.passivate_after {
                    look_for_idle(core, number as u8, 0, after / 4);
                }
            }
        });
    }

    fn on_connect(&mut self, cx: &mut Engine<'_>, id: RouterId, peer: &Peer) {
        self.core.enter(cx, |core| {
            if let Some(front) = &core.front {
                core.contained("the front", || {
                    front.on_connect(&Local::new(core.ptr()), id, peer);
                });
            } else if let Some(call) = &core.system.on_connect {
                core.contained("on_connect", || call(&Local::new(core.ptr()), id, peer));
            }
        });
    }

    #[inline]
    fn on_message(&mut self, cx: &mut Engine<'_>, from: RouterId, message: Message<'_>) {
        let tag = cx.tag(from);
        self.core.enter(cx, |core| {
            if core.is_taken(from, message) {
                return;
            }
            let key = StageKey::from_tag(tag);
            let stages = core.stages_named(tag);
            if !stages.is_some_and(|stages| stages.packet(core, key, from, message)) {
                core.unbound(from, message);
            }
        });
    }

    #[inline]
    fn prefetch(&self, tag: u64) {
        if let Some(stages) = self.core.get().stages_named(tag) {
            stages.prefetch(StageKey::from_tag(tag));
        }
    }

    #[inline]
    fn on_messages(&mut self, cx: &mut Engine<'_>, from: RouterId, messages: &mut Messages<'_>) {
        let tag = cx.tag(from);
        self.core.enter(cx, |core| {
            let mut tag = tag;
            // Again when a handler has bound the connection to another stage.
            while let Some(stages) = core.stages_named(tag)
                && stages.packets(core, StageKey::from_tag(tag), from, messages)
            {
                tag = core.engine.with(|engine| engine.tag(from)).unwrap_or(0);
            }
        });
    }

    fn on_posted(&mut self, cx: &mut Engine<'_>, posted: StagePost) {
        self.core.enter(cx, |core| {
            core.contained("a post", || posted.open(core));
        });
    }

    fn on_timer(&mut self, cx: &mut Engine<'_>, token: u64) {
        self.core
            .enter(cx, |core| core.contained("a timer", || core.fire(token)));
    }

    fn on_wake(&mut self, cx: &mut Engine<'_>, token: u64) {
        let _ = cx;
        self.core.get().frames.wake_any(token as u32);
    }

    fn on_read_closed(&mut self, cx: &mut Engine<'_>, id: RouterId) {
        let tag = cx.tag(id);
        let key = StageKey::from_tag(tag);
        let later = self.core.enter(cx, |core| {
            let stages = core.stages_named(tag);
            stages.is_some_and(|stages| stages.read_closed(core, key, id))
        });
        if !later {
            cx.close(id);
        }
    }

    fn on_disconnect(&mut self, cx: &mut Engine<'_>, id: RouterId, reason: &CloseReason) {
        let tag = cx.tag(id);
        if tag == 0 && self.core.get().front.is_none() {
            return;
        }
        self.core.enter(cx, |core| {
            if let Some(front) = &core.front {
                core.contained("the front", || {
                    front.on_disconnect(&Local::new(core.ptr()), id, reason);
                });
            }
            if tag != 0 && tag != HELD {
                core.disconnected(StageKey::from_tag(tag), id, reason.duplicate());
            }
        });
    }

    fn on_adopted(&mut self, cx: &mut Engine<'_>, id: RouterId, _peer: &Peer) {
        let tag = cx.tag(id);
        if tag == 0 {
            return;
        }
        let key = StageKey::from_tag(tag);
        self.core.enter(cx, |core| {
            let bound = if key.shard() == core.shard {
                let stages = core.stages_named(tag);
                stages.is_some_and(|stages| stages.bind(core, key, id))
            } else {
                // By way of the shard where it was born, or bound anew before it had left.
                let moved = core.engine.with(|engine| engine.rehome(id, key.shard()));
                moved.is_some_and(|moved| moved.is_ok())
            };
            if !bound {
                core.counters.binds_refused.add(1);
                core.engine.with(|engine| {
                    engine.set_tag(id, 0);
                    engine.close(id);
                });
                // A stage that lives counts on hearing of the end.
                core.disconnected(key, id, CloseReason::Local);
            }
        });
    }

    fn on_departed(&mut self, cx: &mut Engine<'_>, id: RouterId, _to: usize) {
        if self.core.get().front.is_some() {
            self.core.enter(cx, |core| {
                if let Some(front) = &core.front {
                    core.contained("the front", || {
                        front.on_departed(&Local::new(core.ptr()), id);
                    });
                }
            });
        }
    }

    fn run(&mut self, cx: &mut Engine<'_>) -> Run {
        self.core.enter(cx, |core| {
            let run = core.run();
            match &core.front {
                Some(front) if core.front_ran(&**front) => Run::Ready,
                _ => run,
            }
        })
    }

    fn on_shutdown(&mut self, cx: &mut Engine<'_>) {
        self.core.enter(cx, Core::begin_shutdown);
    }

    fn pending_work(&self) -> usize {
        self.core.get().pending_work()
    }
}

/// Looks for idle stages of a type, piece by piece, and again after `pause`.
fn look_for_idle(core: &Core, stage_type: u8, from: u32, pause: Duration) {
    const NEXT_PIECE: Duration = Duration::from_millis(1);
    let wait = if from == 0 {
        pause.max(NEXT_PIECE)
    } else {
        NEXT_PIECE
    };
    let due = Due::Run(Box::new(move |core: &Core| {
        let next = core.stages(stage_type).passivate(core, from);
        if !core.shutting_down.get() {
            look_for_idle(core, stage_type, next, pause);
        }
    }));
    core.set_timer(core.now() + wait, due);
}

impl Core {
    /// A connection that was bound to a stage, or was to be, has ended.
    pub(crate) fn disconnected(&self, key: StageKey, id: RouterId, reason: CloseReason) {
        let tell = move |core: &Self| {
            if let Some(stages) = core.stages_named(key.to_tag()) {
                stages.disconnected(core, key, id, reason);
            }
        };
        if key.shard() == self.shard {
            tell(self);
        } else {
            self.post_at_last(key.shard(), StagePost::run(tell));
        }
    }

    /// True if what stands before the stages took a message.
    #[inline]
    pub(crate) fn is_taken(&self, from: RouterId, message: Message<'_>) -> bool {
        match self.interest {
            Some(interest) if interest.includes(&message) => self.front_takes(from, message),
            _ => false,
        }
    }

    #[inline(never)]
    fn front_takes(&self, from: RouterId, message: Message<'_>) -> bool {
        let Some(front) = &self.front else {
            return false;
        };
        let local = Local::new(self.ptr());
        let taken = self.contained("the front", || front.on_message(&local, from, message));
        taken.unwrap_or(true)
    }

    /// True if what stands before the stages has given them something to do.
    fn front_ran(&self, front: &dyn Front) -> bool {
        let local = Local::new(self.ptr());
        let ran = self.contained("the front", || front.run(&local));
        ran.unwrap_or(false)
    }

    /// A message of a connection that is bound to no stage.
    #[cold]
    pub(crate) fn unbound(&self, from: RouterId, message: Message<'_>) {
        self.counters.unbound.add(1);
        if let Some(front) = &self.front {
            self.contained("the front", || {
                front.on_unbound(&Local::new(self.ptr()), from, message);
            });
            return;
        }
        match &self.system.on_unbound {
            Some(call) => {
                self.contained("on_unbound", || {
                    call(&Local::new(self.ptr()), from, message);
                });
            }
            None => {
                self.engine.with(|engine| engine.close(from));
            }
        }
    }
}

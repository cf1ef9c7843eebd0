//! Who waits for whom: call chains, and finding cycles of requests.
//!
//! A request carries the requests that wait for it, its chain. Queued at a stage that is itself in
//! the chain it could never be answered, if from there on everybody still waits on that very
//! request: it is refused (an ordinary cycle). Queued behind a stage that waits for something else,
//! the waits are followed from there: on this shard at once, to other shards by a probe (two stages
//! that ask each other at the same time). A wait is followed only while the request is in the
//! backlog of the stage it was sent to, or is being handled there: a reply token that was handed on
//! may be answered by anybody.
//!
//! Whether somebody still waits is what the reply's cell says, from any thread: who gave up has
//! dropped it. That every wait is found needs no order between threads: the number that a request
//! has in a backlog is read where it was written, on the shard of that stage, and a probe arrives
//! there after the request it follows, because both were posted by the same shard.

use std::cell::RefCell;
use std::sync::Arc;

use slab::Slab;

use crate::core::Core;
use crate::error::RequestError;
use crate::frames::Frames;
use crate::head::NONE;
use crate::post::StagePost;
use crate::request::AnyReply;
use crate::stage_ref::StageKey;

/// Requests may be nested so deep.
pub(crate) const DEPTH_MAX: usize = 16;
/// Waits followed for one request, over all stages and shards: however many wait for how many
/// others, queueing a request costs no more. At each stage the youngest requests come first and
/// share what is left. For waits beyond, the deadline is the backstop.
const STEPS_MAX: usize = 32;

/// One request under way, and those that wait for it.
pub(crate) struct Call {
    /// Who asked.
    stage: StageKey,
    id: Option<u64>,
    /// Of the request; no other request of the system has it.
    number: u64,
    pub(crate) reply: Arc<dyn AnyReply>,
    /// The request that was being handled when this one was made.
    outer: Option<Arc<Self>>,
    depth: usize,
}

impl Call {
    /// A request of `stage`, nested in `outer`.
    ///
    /// # Errors
    /// With more than [`DEPTH_MAX`] nested in each other.
    pub(crate) fn new(
        stage: StageKey,
        id: Option<u64>,
        number: u64,
        reply: Arc<dyn AnyReply>,
        outer: Option<&Arc<Self>>,
    ) -> Result<Arc<Self>, RequestError> {
        let depth = 1 + outer.map_or(0, |outer| outer.depth);
        if depth > DEPTH_MAX {
            return Err(RequestError::TooDeep(DEPTH_MAX));
        }
        Ok(Arc::new(Self {
            stage,
            id,
            number,
            reply,
            outer: outer.cloned(),
            depth,
        }))
    }

    pub(crate) fn refuse(&self, full: bool) {
        self.reply.refuse(if full {
            RequestError::Full
        } else {
            RequestError::Gone
        });
    }
}

/// One request that an invocation of this shard waits for.
struct Wait {
    request: u64,
    target: StageKey,
    reply: Arc<dyn AnyReply>,
    next: u32,
}

/// The requests of all invocations of a shard: one list per frame.
#[derive(Default)]
pub(crate) struct Waits {
    waits: RefCell<Slab<Wait>>,
}

impl Waits {
    pub(crate) fn add(
        &self,
        frames: &Frames,
        frame: u32,
        request: u64,
        target: StageKey,
        reply: Arc<dyn AnyReply>,
    ) -> u32 {
        let next = frames.waits(frame);
        let wait = self.waits.borrow_mut().insert(Wait {
            request,
            target,
            reply,
            next,
        }) as u32;
        frames.set_waits(frame, wait);
        wait
    }

    pub(crate) fn remove(&self, frames: &Frames, frame: u32, wait: u32) {
        let mut waits = self.waits.borrow_mut();
        let Some(removed) = waits.try_remove(wait as usize) else {
            return;
        };
        if frames.waits(frame) == wait {
            frames.set_waits(frame, removed.next);
            return;
        }
        let mut at = frames.waits(frame);
        while let Some(entry) = waits.get_mut(at as usize) {
            if entry.next == wait {
                entry.next = removed.next;
                return;
            }
            at = entry.next;
        }
    }

    /// Whatever is left of a frame's requests when its use is over: they were leaked.
    #[cold]
    pub(crate) fn forget(&self, frames: &Frames, frame: u32) {
        while frames.waits(frame) != NONE {
            self.remove(frames, frame, frames.waits(frame));
        }
    }

    /// The requests of a frame that are still waited for, the youngest first, at most `max`.
    fn of(
        &self,
        frames: &Frames,
        frame: u32,
        max: usize,
    ) -> Vec<(u64, StageKey, Arc<dyn AnyReply>)> {
        let waits = self.waits.borrow();
        let mut found = Vec::new();
        let mut at = frames.waits(frame);
        while at != NONE && found.len() < max {
            let Some(wait) = waits.get(at as usize) else {
                break;
            };
            if wait.reply.is_waiting() {
                found.push((wait.request, wait.target, Arc::clone(&wait.reply)));
            }
            at = wait.next;
        }
        found
    }
}

/// A wait on the way from a request's stage back to who asked.
#[derive(Clone)]
struct Step {
    request: u64,
    /// Who waits.
    stage: StageKey,
    id: Option<u64>,
    reply: Arc<dyn AnyReply>,
}

/// Follows the waits of stages of several shards, looking for a way back to where it began.
struct Probe {
    /// Who made the request that began it.
    origin: StageKey,
    /// The stage to look at: that of the last request of the path.
    stage: StageKey,
    /// Everybody on the way, from who asked; no stage is in it twice.
    path: Vec<Step>,
    /// Waits that may still be followed from there.
    steps: usize,
}

impl Core {
    /// The name of a stage as errors show it.
    fn name_of(&self, stage: StageKey, id: Option<u64>) -> String {
        let name = self.system.types[usize::from(stage.stage_type())].name;
        match id {
            Some(id) => format!("{name}#{id}"),
            None => format!("{name}@{stage:?}"),
        }
    }

    /// The names of a cycle that `call` at `target`, a stage of this shard, closes by its chain:
    /// from the one that asks to itself.
    pub(crate) fn find_cycle(&self, target: StageKey, call: &Call) -> Option<Vec<String>> {
        let chain = std::iter::successors(Some(call), |link| link.outer.as_deref())
            .take_while(|link| link.reply.is_waiting());
        let depth = chain.clone().position(|link| link.stage == target)?;
        let name = |link: &Call| self.name_of(link.stage, link.id);
        let mut names: Vec<String> = chain.take(depth + 1).map(name).collect();
        names.push(name(call)); // who asked, then from the target to who asked
        names[..=depth].reverse();
        names.rotate_right(1);
        Some(names)
    }

    /// `call` was queued at `stage`: where that waits, over others, for who asked, it is a cycle
    /// too. One of its requests is refused then, and not handled by the stage that has it in its
    /// backlog.
    pub(crate) fn probe(&self, stage: StageKey, call: &Call) {
        let Some(frame) = self.stages(stage.stage_type()).frame_of(stage) else {
            return;
        };
        if self.frames.waits(frame) == NONE {
            return;
        }
        let path = [Step {
            request: call.number,
            stage: call.stage,
            id: call.id,
            reply: Arc::clone(&call.reply),
        }];
        self.spread(call.stage, stage, &path, STEPS_MAX);
    }

    /// Sends the probe on along what `stage` waits for, at most `steps` waits in all.
    fn spread(&self, origin: StageKey, stage: StageKey, path: &[Step], steps: usize) {
        let stages = self.stages(stage.stage_type());
        let Some(frame) = stages.frame_of(stage).filter(|_| path.len() <= DEPTH_MAX) else {
            return;
        };
        let id = stages.id_of(stage);
        let mut waits = self.waits.of(&self.frames, frame, steps);
        // A way back to a stage in between is a cycle without the request that began this probe:
        // that is for the probe of a request in it.
        let passed = |target| stage == target || path[1..].iter().any(|step| step.stage == target);
        waits.retain(|&(_, target, _)| !passed(target));
        self.counters.probes.add(waits.len() as u64);
        let left = steps - waits.len();
        let (each, more) = (left / waits.len().max(1), left % waits.len().max(1));
        for (at, (request, target, reply)) in waits.into_iter().enumerate() {
            let mut path = path.to_vec();
            path.push(Step {
                request,
                stage,
                id,
                reply,
            });
            let probe = Probe {
                origin,
                stage: target,
                path,
                steps: each + usize::from(at < more),
            };
            if target.shard() == self.shard {
                self.probed(probe);
            } else {
                // Without room the deadline is the backstop.
                let post = StagePost::run(move |core| core.probed(probe));
                let _ = self.system.post(target.shard(), post);
            }
        }
    }

    fn probed(&self, probe: Probe) {
        let stage = probe.stage;
        let held = probe.path.last().is_some_and(|step| {
            step.reply.is_waiting()
                && self
                    .stages(stage.stage_type())
                    .holds(stage, step.reply.placed())
        });
        if !held {
            return;
        }
        if stage != probe.origin {
            return self.spread(probe.origin, stage, &probe.path, probe.steps);
        }
        if !probe.path.iter().all(|step| step.reply.is_waiting()) {
            return;
        }
        let steps = probe.path.iter().chain(probe.path.first());
        let names = steps.map(|step| self.name_of(step.stage, step.id));
        let names = names.collect();
        // Two probes may go round the same cycle: both end the same one of its requests.
        if let Some(last) = probe.path.iter().max_by_key(|step| step.request)
            && last.reply.refuse(RequestError::Cycle(names))
        {
            self.counters.cycles.add(1);
        }
    }
}

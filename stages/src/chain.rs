//! Who waits for whom: call chains, and finding cycles of requests.
//!
//! A request carries the links of all requests that wait for it. Queued at a stage that is itself
//! one of them, and still waits on that very request, it could never be answered, and is refused
//! (an ordinary cycle). Queued behind a stage that waits for something else, the waits are followed
//! from there: on this shard at once, to other shards by a probe (two stages that ask each other at
//! the same time). A wait is followed only while the request is in the backlog of the stage it was
//! sent to, or is being handled there: a reply token that was handed on may be answered by anybody.

use std::cell::RefCell;
use std::sync::Arc;

use slab::Slab;

use crate::core::Core;
use crate::error::RequestError;
use crate::frames::Frames;
use crate::head::NONE;
use crate::request::AnyReply;
use crate::stage_ref::StageKey;
use crate::system::StagePost;

/// Requests may be nested so deep.
pub(crate) const DEPTH_MAX: usize = 16;

/// One request under way, as those that it causes carry it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    /// Who asked.
    pub(crate) stage: StageKey,
    pub(crate) id: Option<u64>,
    /// In which invocation.
    pub(crate) invocation: u64,
    pub(crate) request: u64,
}

/// What a request carries beside its message.
pub(crate) struct Call {
    /// The requests that wait for it, the outermost first; it is the last one itself.
    pub(crate) links: Arc<[Link]>,
    pub(crate) reply: Arc<dyn AnyReply>,
}

impl Call {
    pub(crate) fn refuse(&self, full: bool) {
        let error = if full {
            RequestError::Full
        } else {
            RequestError::Gone
        };
        self.reply.refuse(error);
    }

    pub(crate) fn refuse_cycle(&self, names: Vec<String>) {
        self.reply.refuse(RequestError::Cycle(names));
    }
}

/// One request that an invocation of this shard waits for.
pub(crate) struct Wait {
    pub(crate) request: u64,
    pub(crate) target: StageKey,
    pub(crate) reply: Arc<dyn AnyReply>,
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

    /// The requests of a frame that are still waited for.
    fn of(&self, frames: &Frames, frame: u32) -> Vec<(u64, StageKey, Arc<dyn AnyReply>)> {
        let waits = self.waits.borrow();
        let mut found = Vec::new();
        let mut at = frames.waits(frame);
        while at != NONE {
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
    name: String,
    reply: Arc<dyn AnyReply>,
}

/// Follows the waits of stages of several shards, looking for a way back to where it began.
pub(crate) struct Probe {
    origin: Link,
    /// The stage to look at, and the number of the request in its backlog that led here.
    stage: StageKey,
    sequence: u32,
    path: Vec<Step>,
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

    fn name_here(&self, stage: StageKey) -> String {
        self.name_of(stage, self.stages(stage.stage_type()).id_of(stage))
    }

    /// True if that invocation of a stage of this shard still waits on that very request.
    fn still_waits(&self, link: &Link) -> bool {
        let stages = self.stages(link.stage.stage_type());
        stages.suspended(link.stage).is_some_and(|frame| {
            self.frames.invocation(frame) == link.invocation
                && self
                    .waits
                    .of(&self.frames, frame)
                    .iter()
                    .any(|(request, ..)| *request == link.request)
        })
    }

    /// The names of a cycle that queueing `call` at `target`, a stage of this shard, closes on
    /// this shard.
    pub(crate) fn find_cycle(&self, target: StageKey, call: &Call) -> Option<Vec<String>> {
        let asker = call.links.last()?;
        for (number, link) in call.links.iter().enumerate() {
            if link.stage == target && self.still_waits(link) {
                let names = call.links[number..].iter().chain([link]);
                return Some(
                    names
                        .map(|link| self.name_of(link.stage, link.id))
                        .collect(),
                );
            }
        }
        if asker.stage.shard() != self.shard {
            return None; // a probe will tell
        }
        let mut path = vec![self.name_of(asker.stage, asker.id)];
        self.follow(target, asker, &mut path).then_some(path)
    }

    /// Depth first, on this shard.
    fn follow(&self, stage: StageKey, asker: &Link, path: &mut Vec<String>) -> bool {
        if path.len() > DEPTH_MAX {
            return false;
        }
        let Some(frame) = self.stages(stage.stage_type()).suspended(stage) else {
            return false;
        };
        path.push(self.name_here(stage));
        for (_, target, reply) in self.waits.of(&self.frames, frame) {
            let here = target.shard() == self.shard;
            if !here
                || !self
                    .stages(target.stage_type())
                    .holds(target, reply.placed())
            {
                continue;
            }
            if target == asker.stage {
                path.push(self.name_of(asker.stage, asker.id));
                return true;
            }
            if self.follow(target, asker, path) {
                return true;
            }
        }
        path.pop();
        false
    }

    /// `call` was queued at `stage`: where that waits, over other shards, for who asked, it is a
    /// cycle too.
    pub(crate) fn probe(&self, stage: StageKey, call: &Call) {
        let Some(&origin) = call.links.last() else {
            return;
        };
        if self.stages(stage.stage_type()).suspended(stage).is_none() {
            return;
        }
        let path = vec![Step {
            request: origin.request,
            name: self.name_of(origin.stage, origin.id),
            reply: Arc::clone(&call.reply),
        }];
        self.spread(&origin, stage, &path);
    }

    /// Sends the probe on along everything that `stage` waits for.
    fn spread(&self, origin: &Link, stage: StageKey, path: &[Step]) {
        if path.len() > DEPTH_MAX {
            return;
        }
        let Some(frame) = self.stages(stage.stage_type()).suspended(stage) else {
            return;
        };
        for (request, target, reply) in self.waits.of(&self.frames, frame) {
            let mut path = path.to_vec();
            let sequence = reply.placed();
            path.push(Step {
                request,
                name: self.name_here(stage),
                reply,
            });
            let probe = Probe {
                origin: *origin,
                stage: target,
                sequence,
                path,
            };
            if target.shard() == self.shard {
                // Cycles within the shard were found when they were closed.
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
        if !self.stages(stage.stage_type()).holds(stage, probe.sequence) {
            return;
        }
        if stage != probe.origin.stage {
            return self.spread(&probe.origin, stage, &probe.path);
        }
        if !self.still_waits(&probe.origin) {
            return;
        }
        let mut names: Vec<String> = probe.path.iter().map(|step| step.name.clone()).collect();
        names.push(names[0].clone());
        // Two probes may go round the same cycle: both end the same one of its requests.
        if let Some(last) = probe.path.iter().max_by_key(|step| step.request) {
            self.counters.cycles.add(1);
            last.reply.refuse(RequestError::Cycle(names));
        }
    }
}

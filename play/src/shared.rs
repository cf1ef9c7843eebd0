//! What all shards of a Play server have in common.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use proscenium_framing::packet::ErrorCode;
use proscenium_nodelink::ReplyTo;
use proscenium_stages::{Local, jump_hash};

use crate::announce::{LONGEST, Place};
use crate::call::LateAsker;
use crate::error::Failure;
use crate::kind::AnyKind;
use crate::mesh::NodePart;
use crate::seats::Session;
use crate::stats::{Count, Counts, PlayStats};

pub(crate) type MapErrors = dyn Fn(&(dyn Error + 'static)) -> Option<ErrorCode> + Send + Sync;

/// How the server treats its connections; the builder documents each.
pub(crate) struct Config {
    pub(crate) authentication_id: String,
    pub(crate) authentication_deadline: Duration,
    pub(crate) authentication_tries: u32,
    pub(crate) authentication_bytes_max: usize,
    /// That of the engine's limits.
    pub(crate) packet_max: usize,
    pub(crate) messages_per_second: u32,
    pub(crate) bytes_per_second: u32,
    pub(crate) debug: bool,
    pub(crate) unanswered: ErrorCode,
    pub(crate) request_deadline: Duration,
    pub(crate) map_errors: Option<Box<MapErrors>>,
    /// Those of the server, which are numbered from `first_listener` on.
    pub(crate) listeners: Vec<ListenerConfig>,
    pub(crate) first_listener: usize,
    /// For all other connections: those that the program made itself, and those of listeners that
    /// it gave to the engine.
    pub(crate) elsewhere: ListenerConfig,
}

impl Config {
    /// What connections may send is limited.
    pub(crate) fn has_rates(&self) -> bool {
        self.messages_per_second > 0 || self.bytes_per_second > 0
    }
}

/// Of one listener, by its number.
#[derive(Default)]
pub(crate) struct ListenerConfig {
    pub(crate) lz4: bool,
    /// The number of the stage type that is created when a stage is missing.
    pub(crate) default_stage: Option<usize>,
}

pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) kinds: Vec<Arc<dyn AnyKind>>,
    pub(crate) shards: Box<[OfShard]>,
    /// If the server is one of a mesh.
    pub(crate) node: Option<NodePart>,
    /// In its directory: taken by who ends the server, so that it is left before the links end.
    pub(crate) place: Mutex<Option<Place>>,
}

#[derive(Default)]
pub(crate) struct OfShard {
    counts: Counts,
    has_leftovers: AtomicBool,
    leftovers: Mutex<Vec<Leftover>>,
    /// Nothing of it has to go out any more before the end.
    pub(crate) drained: AtomicBool,
}

/// What is to be done on a shard because something was dropped there: by a handler that was
/// cancelled or panicked, or with a stage that ended. Rare; done at the end of the slice.
pub(crate) enum Leftover {
    /// A join that nobody decided.
    Join {
        session: Session,
        msg_id: Box<str>,
        seq: u16,
        stage_id: i64,
        code: ErrorCode,
    },
    /// A request whose answer was put off, and never given.
    Unanswered { asker: LateAsker, stage_id: i64 },
    /// A request of another server, likewise.
    Remote {
        to: ReplyTo,
        stage_id: i64,
        code: ErrorCode,
    },
    /// A stage that ended without its last handler.
    Ended { id: i64, number: u64, actors: u64 },
}

impl Shared {
    pub(crate) fn new(
        config: Config,
        kinds: Vec<Arc<dyn AnyKind>>,
        shards: usize,
        node: Option<NodePart>,
    ) -> Arc<Self> {
        Arc::new(Self {
            config,
            kinds,
            node,
            place: Mutex::default(),
            shards: (0..shards).map(|_| OfShard::default()).collect(),
        })
    }

    pub(crate) fn listener(&self, number: usize) -> &ListenerConfig {
        let config = &self.config;
        let number = number.checked_sub(config.first_listener);
        let listener = number.and_then(|number| config.listeners.get(number));
        listener.unwrap_or(&config.elsewhere)
    }

    /// Leaves the directory in good order, at most for that time. Blocks.
    pub(crate) fn leave_directory(&self, deadline: Duration) {
        let place = self.place.lock().take();
        if let Some(mut place) = place {
            place.leave(Instant::now() + deadline.min(LONGEST));
        }
    }

    /// The shard on which the stage of that id lives, whatever its type.
    pub(crate) fn place(&self, stage_id: i64) -> usize {
        jump_hash(stage_id as u64, self.shards.len())
    }

    pub(crate) fn kind(&self, name: &str) -> Option<usize> {
        self.kinds.iter().position(|kind| kind.name() == name)
    }

    /// What a failed handler is answered with: `fallback` if neither it nor the server's mapping
    /// says anything else.
    pub(crate) fn code_of(&self, failure: &Failure, fallback: ErrorCode) -> ErrorCode {
        let mapped = || {
            let map = self.config.map_errors.as_ref()?;
            map(failure.source()?)
        };
        failure.code.or_else(mapped).unwrap_or(fallback)
    }

    /// Counts one on this shard.
    pub(crate) fn count(&self, local: &Local<'_>, which: impl FnOnce(&Counts) -> &Count) {
        which(self.counts(local.shard())).add(1);
    }

    pub(crate) fn counts(&self, shard: usize) -> &Counts {
        &self.shards[shard].counts
    }

    pub(crate) fn stats(&self) -> PlayStats {
        let mut stats = PlayStats::default();
        for shard in &self.shards {
            shard.counts.add_to(&mut stats);
        }
        stats
    }

    /// Leaves something to be done on a shard at the end of its slice.
    pub(crate) fn leave(&self, shard: usize, leftover: Leftover) {
        let shard = &self.shards[shard];
        shard.leftovers.lock().push(leftover);
        shard.has_leftovers.store(true, Ordering::Release);
    }

    pub(crate) fn leftovers(&self, shard: usize) -> Vec<Leftover> {
        let shard = &self.shards[shard];
        if !shard.has_leftovers.load(Ordering::Acquire) {
            return Vec::new();
        }
        let mut leftovers = shard.leftovers.lock();
        shard.has_leftovers.store(false, Ordering::Release);
        std::mem::take(&mut leftovers)
    }
}

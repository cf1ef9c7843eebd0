//! What is counted, per shard, and readable from anywhere.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

use proscenium_engine::Histogram;

use crate::core::Core;
use crate::samples::SharedSamples;

/// A counter of the shard's own; published once per run.
#[derive(Debug, Default)]
pub(crate) struct Count(Cell<u64>);

impl Count {
    #[inline]
    pub(crate) fn add(&self, n: u64) {
        self.0.set(self.0.get() + n);
    }
}

macro_rules! counters {
    ($( $(#[doc = $doc:literal])+ $name:ident ),+ $(,)?) => {
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $( pub(crate) $name: Count, )+
        }

        /// What other threads read.
        #[derive(Debug, Default)]
        pub(crate) struct SharedCounters {
            live: AtomicU64,
            posts_waiting: AtomicU64,
            $( $name: AtomicU64, )+
        }

        /// What happened on a shard, or on all of them. Counters but for
        /// `live` and `posts_waiting`.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct StageStats {
            /// Stages that live now.
            pub live: u64,
            /// Ends of stages, binds and ends of connections that wait for room in the mailbox of
            /// another shard.
            pub posts_waiting: u64,
            $( $(#[doc = $doc])+ pub $name: u64, )+
            /// How long polls of handlers took: one of 64 is measured. Packets of a read that are
            /// handled in one go count as one there; so do messages in a row for a stage.
            pub poll_time: Histogram,
            /// How long messages, timers and the like waited in backlogs: one of 64 is measured.
            /// What was handled in place did not wait and is not in it.
            pub queue_time: Histogram,
        }

        impl Counters {
            /// Shows other threads how things stand.
            pub(crate) fn publish(&self, core: &Core) {
                let shared = core.shared_counters();
                shared.live.store(core.live() as u64, Ordering::Relaxed);
                let posts_waiting = core.outbox.len() as u64;
                shared.posts_waiting.store(posts_waiting, Ordering::Relaxed);
                $( shared.$name.store(self.$name.0.get(), Ordering::Relaxed); )+
            }
        }

        impl SharedCounters {
            pub(crate) fn read(&self, samples: &SharedSamples) -> StageStats {
                StageStats {
                    poll_time: samples.poll_time.read(),
                    queue_time: samples.queue_time.read(),
                    live: self.live.load(Ordering::Relaxed),
                    posts_waiting: self.posts_waiting.load(Ordering::Relaxed),
                    $( $name: self.$name.load(Ordering::Relaxed), )+
                }
            }
        }

        impl StageStats {
            /// All numbers but the histograms, each with its name and what it says: for exporters.
            /// `live` and `posts_waiting` are gauges, the others are counters.
            pub fn fields(
                &self,
            ) -> impl Iterator<Item = (&'static str, u64, &'static str)> + use<> {
                [
                    ("live", self.live, "Stages that live now."),
                    (
                        "posts_waiting",
                        self.posts_waiting,
                        "Posts that wait for room in the mailbox of another shard.",
                    ),
                    $( (stringify!($name), self.$name, concat!($($doc),+).trim_ascii()), )+
                ]
                .into_iter()
            }

            pub(crate) fn add(&mut self, other: &Self) {
                self.live += other.live;
                self.posts_waiting += other.posts_waiting;
                $( self.$name += other.$name; )+
                self.poll_time.add(&other.poll_time);
                self.queue_time.add(&other.queue_time);
            }
        }
    };
}

counters! {
    /// Messages, packets, timers and ticks whose handling began.
    messages,
    /// Of these: handled in place, straight from the connection.
    in_place,
    /// Invocations that were polled again after they had waited.
    resumed,
    /// Messages for stages that were gone.
    gone,
    /// Messages for stages whose backlog was full.
    full,
    /// Messages that waited for a stage when it ended.
    dropped,
    /// Times that a connection was not read any more because its stage's backlog was full.
    paused,
    /// Packets of connections that were bound to no stage.
    unbound,
    /// Connections closed because the stage to which they were bound could not take them: it was
    /// gone, too many ends of connections waited for it, or its shard had no place.
    binds_refused,
    /// Panics in handlers, tasks and drops.
    panics,
    /// Stages made anew after a panic.
    restarts,
    /// Stages that ended.
    ended,
    /// Stages that left memory after idle time.
    passivated,
    /// Requests refused because they closed a cycle.
    cycles,
    /// Waits followed to find cycles.
    probes,
    /// Ticks and intervals left out because the stage was behind.
    ticks_missed,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_listed_with_its_meaning() {
        let stats = StageStats {
            live: 3,
            messages: 5,
            ticks_missed: 7,
            ..StageStats::default()
        };
        let fields: Vec<_> = stats.fields().collect();
        assert_eq!(fields[0], ("live", 3, "Stages that live now."));
        let messages = (
            "messages",
            5,
            "Messages, packets, timers and ticks whose handling began.",
        );
        assert!(fields.contains(&messages), "{fields:?}");
        assert_eq!(fields.iter().map(|field| field.1).sum::<u64>(), 15);
        assert!(
            fields.iter().all(|(_, _, about)| about.ends_with('.')),
            "{fields:?}"
        );
    }
}

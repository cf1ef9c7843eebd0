//! What a Play server has done and refused, counted without read-modify-write operations by each
//! shard, readable from anywhere.

use std::sync::atomic::{AtomicU64, Ordering};

/// One number that only its shard changes.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self, n: u64) {
        self.0.store(self.read().wrapping_add(n), Ordering::Relaxed);
    }

    pub(crate) fn take(&self, n: u64) {
        self.add(n.wrapping_neg());
    }

    fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! stats {
    ($( $(#[$doc:meta])* $name:ident, )*) => {
        /// What a Play server has done, at one moment: numbers since the start, except where it
        /// says "now". What the engine and the stages count is told by their own statistics.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct PlayStats {
            $( $(#[$doc])* pub $name: u64, )*
        }

        /// The numbers of one shard.
        #[derive(Debug, Default)]
        pub(crate) struct Counts {
            $( pub(crate) $name: Count, )*
        }

        impl Counts {
            pub(crate) fn add_to(&self, stats: &mut PlayStats) {
                $( stats.$name = stats.$name.wrapping_add(self.$name.read()); )*
            }
        }

        impl PlayStats {
            /// Every number with its name, for metrics.
            pub fn fields(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [ $( (stringify!($name), self.$name), )* ].into_iter()
            }
        }
    };
}

stats! {
    /// Requests of stages and actors to other servers.
    node_requests,
    /// Of these, those that were answered, with whatever code.
    node_replies,
    /// Of these, those that failed without an answer: no link, no room, lost, or too late.
    node_failures,
    /// Messages of stages and actors to other servers that want no answer.
    node_sends,
    /// Messages and requests of other servers, those of the framework included.
    node_received,
    /// Answers to these.
    node_answers,
    /// Answers and messages that could not be sent when their turn came: the link was lost, or its
    /// queue was full. Then who asked was answered 14.
    node_lost,
    /// Requests, within this server or of other ones, that were refused because they could never
    /// be answered: a cycle, or too many nested in each other.
    cycles,
    /// Stages now, those being created or closed included.
    stages,
    /// Actors that have joined a stage, now.
    actors,
    /// Stages whose creation was accepted.
    stages_created,
    /// Stages whose creation was refused or failed.
    stages_refused,
    /// Actors that have joined a stage.
    joins,
    /// Actors that were given another connection.
    reconnects,
    /// Of these, those whose former connection seemed to live: it was closed.
    replaced,
    /// Actors that left, for whatever reason.
    leaves,
    /// Of these, those that had no connection for as long as they may.
    expired,
    /// Connections that ended while they were those of actors.
    disconnects,
    /// Authentications refused, failed, or without an account.
    authentications_refused,
    /// Joins that a stage refused, or failed at.
    joins_refused,
    /// Authentications for a stage that does not exist.
    stages_missing,
    /// Heartbeats answered.
    heartbeats,
    /// Requests that were answered with an error because their handler failed.
    failures,
    /// Handlers that panicked.
    panics,
    /// Requests that nobody had answered, and that the server answered with an error therefore.
    unanswered,
    /// Messages of connections that no longer were those of an actor of the stage.
    strays,
    /// Requests for a stage other than that of the actor.
    misdirected,
    /// Connections closed: a message before authentication.
    closed_chatter,
    /// Connections closed: bytes that are no packet.
    closed_bad_packet,
    /// Connections closed: not authenticated in time.
    closed_deadline,
    /// Connections closed: the packet that was to authenticate them was too long.
    closed_long_authentication,
    /// Connections closed: too many tries to authenticate.
    closed_tries,
    /// Connections closed: the answer to a request found no room in their send queue.
    closed_mute,
    /// Connections closed: too many messages or bytes per second.
    closed_rate,
    /// Connections closed: their account came with another one.
    closed_replaced,
    /// Connections closed: their actor was kicked.
    closed_kicked,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_add_up() {
        let shards = [Counts::default(), Counts::default()];
        shards[0].actors.add(3);
        shards[1].actors.add(2);
        shards[0].actors.take(1);
        let mut sum = PlayStats::default();
        for shard in &shards {
            shard.add_to(&mut sum);
        }
        assert_eq!(sum.actors, 4);
        assert!(sum.fields().any(|field| field == ("actors", 4)));
        assert!(sum.fields().all(|(name, n)| (name == "actors") == (n > 0)));
    }
}

//! Counters of a shard: counted without atomics, published once per turn, readable from anywhere.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::CloseReason;

/// Buckets of a [`Histogram`]: bucket `i` counts values below 2^i ns (and not below 2^(i-1)).
pub const HISTOGRAM_BUCKETS: usize = 40;

const REASONS: usize = CloseReason::NAMES.len();

macro_rules! counters {
    ($( $(#[$doc:meta])* $name:ident, )*) => {
        /// What a shard has done and holds, at one moment. Plain numbers since the start, except
        /// where it says "now".
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct ShardStats {
            $( $(#[$doc])* pub $name: u64, )*
            /// Messages that wait in the shard's mailbox now.
            pub mailbox_len: u64,
            /// Wakes of the sleeping shard by other threads.
            pub wakes: u64,
            /// Slices that took longer than the engine's stall threshold.
            pub stalls: u64,
            /// Connections ended, by reason, in the order of [`CloseReason::NAMES`].
            pub closes: [u64; REASONS],
            /// How long turns took, without the sleep.
            pub turn_time: Histogram,
        }

        /// The numbers of [`ShardStats`] as other threads read them.
        #[derive(Debug, Default)]
        pub(crate) struct SharedStats {
            $( $name: AtomicU64, )*
            closes: [AtomicU64; REASONS],
            turn_time: SharedHistogram,
            /// Slices that the watchdog found too long.
            pub(crate) stalls: AtomicU64,
            /// When the slice under way began, in nanoseconds; 0 between turns. For the watchdog.
            pub(crate) slice_began: AtomicU64,
            /// The connection whose messages were dispatched last. For the watchdog.
            pub(crate) dispatching: AtomicU64,
        }

        impl SharedStats {
            /// Called by the owning shard only, so plain stores do.
            pub(crate) fn publish(&self, stats: &ShardStats) {
                $( self.$name.store(stats.$name, Ordering::Relaxed); )*
            }

            pub(crate) fn read(&self) -> ShardStats {
                let mut stats = ShardStats {
                    turn_time: self.turn_time.read(),
                    stalls: self.stalls.load(Ordering::Relaxed),
                    ..ShardStats::default()
                };
                $( stats.$name = self.$name.load(Ordering::Relaxed); )*
                for (to, from) in stats.closes.iter_mut().zip(&self.closes) {
                    *to = from.load(Ordering::Relaxed);
                }
                stats
            }
        }

        impl ShardStats {
            /// Every plain number with its name, for metrics: the fields of this struct except
            /// `closes` and `turn_time`.
            pub fn fields(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [
                    $( (stringify!($name), self.$name), )*
                    ("mailbox_len", self.mailbox_len),
                    ("wakes", self.wakes),
                    ("stalls", self.stalls),
                ]
                .into_iter()
            }

            fn add(&mut self, other: &Self) {
                $( self.$name += other.$name; )*
                self.mailbox_len += other.mailbox_len;
                self.wakes += other.wakes;
                self.stalls += other.stalls;
                for (to, from) in self.closes.iter_mut().zip(&other.closes) {
                    *to += from;
                }
                self.turn_time.add(&other.turn_time);
            }
        }
    };
}

counters! {
    /// Connections now.
    connections,
    /// Connections accepted.
    accepted,
    /// Outgoing connections made.
    connected,
    /// Outgoing connections that failed, each attempt.
    connect_failed,
    /// Accepts that failed, mostly for want of descriptors.
    accept_failed,
    /// Connections closed at once to free the accept queue while no descriptors were left.
    accept_shed,
    /// Connections whose layers have made their handshakes.
    handshakes,
    /// Steps of TLS handshakes.
    handshake_steps,
    /// Of these, how many had to wait for another turn.
    handshakes_deferred,
    /// Connections refused by the limit of connections.
    refused_limit,
    /// Connections refused by the rate of accepts of their address.
    refused_rate,
    /// Messages received.
    messages_in,
    /// Messages queued for sending.
    messages_out,
    /// Bytes received, headers included.
    bytes_in,
    /// Bytes written to sockets, headers included.
    bytes_out,
    /// Reads that brought bytes.
    reads,
    /// Writes that took bytes.
    writes,
    /// Unsent bytes of all connections now.
    send_queue_bytes,
    /// Memory leased for send queues now, in bytes.
    send_buffer_bytes,
    /// Memory leased for incomplete and held-back frames now, in bytes.
    reassembly_bytes,
    /// Memory of receive chunks now, in bytes.
    receive_chunk_bytes,
    /// Connections whose reading was paused because of their full send queue.
    pauses,
    /// Sends refused because a bound was reached.
    refused_full,
    /// Sends dropped by [`Overflow::DropNewest`](crate::Overflow::DropNewest).
    dropped,
    /// Unsent bytes of connections that ended.
    bytes_lost,
    /// Messages for connections that were gone.
    sends_gone,
    /// Mailbox items handled.
    mailbox_items,
    /// Timers fired.
    timers_fired,
    /// Timers set now.
    timers,
    /// Connections that came from another shard.
    adopted,
    /// Connections that left for another shard.
    departed,
    /// Connections that were born here and live on other shards now. Each keeps its slot here.
    away,
    /// Messages passed on to the shard a connection had moved to.
    forwarded,
    /// Turns.
    turns,
    /// Slices: flushes, timers and a mailbox batch each.
    slices,
}

impl SharedStats {
    pub(crate) fn count_close(&self, reason: &CloseReason) {
        let count = &self.closes[reason.index()];
        count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    pub(crate) fn record_turn(&self, nanos: u64) {
        self.turn_time.record(nanos);
    }
}

impl ShardStats {
    /// How often connections ended for the reason of this name (see [`CloseReason::name`]).
    pub fn closed(&self, name: &str) -> u64 {
        let index = CloseReason::NAMES
            .iter()
            .position(|candidate| *candidate == name);
        index.map_or(0, |index| self.closes[index])
    }
}

/// A histogram of durations with buckets by powers of two.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Histogram {
    /// Bucket `i` counts values of less than 2^i ns that are in no bucket before it.
    pub buckets: [u64; HISTOGRAM_BUCKETS],
    /// Sum of all values in nanoseconds.
    pub sum_ns: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            buckets: [0; HISTOGRAM_BUCKETS],
            sum_ns: 0,
        }
    }
}

impl Histogram {
    /// Number of values.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Adds the values of another one.
    pub fn add(&mut self, other: &Self) {
        for (to, from) in self.buckets.iter_mut().zip(&other.buckets) {
            *to += from;
        }
        self.sum_ns = self.sum_ns.saturating_add(other.sum_ns);
    }
}

/// A [`Histogram`] that one thread writes and any thread reads, without a lock. Values recorded by
/// several threads at the same time may be lost.
#[derive(Debug)]
pub struct SharedHistogram {
    buckets: [AtomicU64; HISTOGRAM_BUCKETS],
    sum_ns: AtomicU64,
}

impl Default for SharedHistogram {
    fn default() -> Self {
        Self {
            buckets: [const { AtomicU64::new(0) }; HISTOGRAM_BUCKETS],
            sum_ns: AtomicU64::new(0),
        }
    }
}

impl SharedHistogram {
    /// Counts a value.
    pub fn record(&self, nanos: u64) {
        let bucket = (u64::BITS - nanos.leading_zeros()) as usize;
        let bucket = &self.buckets[bucket.min(HISTOGRAM_BUCKETS - 1)];
        bucket.store(bucket.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        let sum = self.sum_ns.load(Ordering::Relaxed).saturating_add(nanos);
        self.sum_ns.store(sum, Ordering::Relaxed);
    }

    /// The values so far.
    pub fn read(&self) -> Histogram {
        let mut histogram = Histogram::default();
        for (to, from) in histogram.buckets.iter_mut().zip(&self.buckets) {
            *to = from.load(Ordering::Relaxed);
        }
        histogram.sum_ns = self.sum_ns.load(Ordering::Relaxed);
        histogram
    }
}

/// The statistics of all shards of an engine.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct EngineStats {
    /// One for each shard, in order.
    pub shards: Vec<ShardStats>,
}

impl EngineStats {
    /// The sum over all shards.
    pub fn total(&self) -> ShardStats {
        let mut total = ShardStats::default();
        for shard in &self.shards {
            total.add(shard);
        }
        total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_published_is_read_and_summed() {
        let shared = SharedStats::default();
        let stats = ShardStats {
            messages_in: 7,
            ..ShardStats::default()
        };
        shared.publish(&stats);
        shared.count_close(&CloseReason::IdleTimeout);
        for nanos in [0, 1, 1023, 1024, u64::MAX] {
            shared.record_turn(nanos);
        }
        let read = shared.read();
        assert_eq!((read.messages_in, read.closed("idle_timeout")), (7, 1));
        assert_eq!(read.turn_time.count(), 5);
        assert_eq!(
            (read.turn_time.buckets[10], read.turn_time.buckets[11]),
            (1, 1)
        );
        let total = EngineStats {
            shards: vec![read.clone(), read],
        }
        .total();
        assert_eq!((total.messages_in, total.closed("idle_timeout")), (14, 2));
        assert!(total.fields().any(|field| field == ("messages_in", 14)));
    }
}

//! The watchdog: reports shards that are stuck in one slice, mostly in a handler that blocks.
//!
//! A shard stores when each slice began and which connection it dispatched last, relaxed; the
//! watchdog looks now and then. A stall is reported while it lasts, once, by name.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::handle::Shared;
use crate::router_id::RouterId;
use crate::stats::SharedStats;

/// The watchdog thread of an engine; ends when dropped.
pub(crate) struct Watchdog {
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    /// `None` if `threshold` is zero.
    pub(crate) fn start<P: Send + 'static>(
        shared: &Arc<Shared<P>>,
        epoch: Instant,
        threshold: Duration,
    ) -> io::Result<Option<Self>> {
        if threshold.is_zero() {
            return Ok(None);
        }
        let ended = Arc::new(AtomicBool::new(false));
        let (seen, shared) = (Arc::clone(&ended), Arc::clone(shared));
        let thread = std::thread::Builder::new()
            .name("proscenium-watchdog".to_owned())
            .spawn(move || {
                let mut reported = vec![0; shared.stats.len()];
                while !seen.load(Ordering::Acquire) {
                    let now = epoch.elapsed();
                    for (shard, (stats, reported)) in
                        shared.stats.iter().zip(&mut reported).enumerate()
                    {
                        look(shard, stats, reported, now, threshold);
                    }
                    std::thread::park_timeout(threshold / 4);
                }
            })?;
        Ok(Some(Self {
            ended,
            thread: Some(thread),
        }))
    }
}

/// Reports the slice under way if it takes too long and was not `reported` yet.
fn look(shard: usize, stats: &SharedStats, reported: &mut u64, now: Duration, threshold: Duration) {
    let began = stats.slice_began.load(Ordering::Relaxed);
    if began == 0 || began == *reported {
        return;
    }
    let taken = now.saturating_sub(Duration::from_nanos(began));
    if taken >= threshold {
        *reported = began;
        stats.stalls.fetch_add(1, Ordering::Relaxed);
        let id = RouterId::from_u64(stats.dispatching.load(Ordering::Relaxed));
        tracing::warn!(shard, ?taken, last_connection = %id, "the shard is stuck in one slice");
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It cannot panic; if it did, the panic hook has said so.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_slice_is_counted_once_and_a_short_one_not() {
        let stats = SharedStats::default();
        let mut reported = 0;
        let mut look_at = |now_ms| {
            let now = Duration::from_millis(now_ms);
            look(0, &stats, &mut reported, now, Duration::from_millis(500));
            stats.stalls.load(Ordering::Relaxed)
        };
        assert_eq!(look_at(10_000), 0, "between turns");
        stats.slice_began.store(1_000_000_000, Ordering::Relaxed);
        assert_eq!(look_at(1_400), 0);
        assert_eq!(look_at(1_500), 1);
        assert_eq!(look_at(5_000), 1, "the same slice");
        stats.slice_began.store(6_000_000_000, Ordering::Relaxed);
        assert_eq!(look_at(6_499), 1);
        assert_eq!(look_at(7_000), 2);
    }
}

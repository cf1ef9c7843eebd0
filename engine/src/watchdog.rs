//! The watchdog: reports shards that are stuck in one slice, mostly in a handler that blocks.
//!
//! A shard stores when each slice began and which connection it dispatched last, relaxed; the
//! watchdog looks now and then. A stall is reported while it lasts, once, by name.

use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::handle::Shared;
use crate::router_id::RouterId;
use crate::stats::SharedStats;

/// A shard that is stuck in one slice, as [`EngineBuilder::on_stall`](crate::EngineBuilder) tells.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stall {
    /// The shard's number.
    pub shard: usize,
    /// How long the slice has taken so far; it goes on.
    pub taken: Duration,
    /// The connection whose messages were dispatched last, in this slice or before; `None` if
    /// there was none yet. What stalls may be something else: a timer, a posted message, `run`.
    pub last_connection: Option<RouterId>,
}

/// What an embedder has called beside the log line.
#[derive(Clone)]
pub(crate) struct StallHook(Arc<dyn Fn(&Stall) + Send + Sync>);

impl StallHook {
    pub(crate) fn new(call: impl Fn(&Stall) + Send + Sync + 'static) -> Self {
        Self(Arc::new(call))
    }
}

impl fmt::Debug for StallHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StallHook")
    }
}

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
        hook: Option<StallHook>,
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
                        if let Some(stall) = look(shard, stats, reported, now, threshold) {
                            report(&stall, hook.as_ref());
                        }
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

/// The slice under way if it takes too long and was not `reported` yet.
fn look(
    shard: usize,
    stats: &SharedStats,
    reported: &mut u64,
    now: Duration,
    threshold: Duration,
) -> Option<Stall> {
    let began = stats.slice_began.load(Ordering::Relaxed);
    if began == 0 || began == *reported {
        return None;
    }
    let taken = now.saturating_sub(Duration::from_nanos(began));
    if taken < threshold {
        return None;
    }
    *reported = began;
    stats.stalls.fetch_add(1, Ordering::Relaxed);
    let last = stats.dispatching.load(Ordering::Relaxed);
    Some(Stall {
        shard,
        taken,
        last_connection: (last != 0).then(|| RouterId::from_u64(last)),
    })
}

fn report(stall: &Stall, hook: Option<&StallHook>) {
    let Stall { shard, taken, .. } = *stall;
    match stall.last_connection {
        Some(id) => {
            tracing::warn!(shard, ?taken, last_connection = %id, "the shard is stuck in one slice");
        }
        None => tracing::warn!(shard, ?taken, "the shard is stuck in one slice"),
    }
    if let Some(StallHook(call)) = hook {
        // The panic hook has said so; the watchdog goes on.
        let _ = catch_unwind(AssertUnwindSafe(|| call(stall)));
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // What could panic, the embedder's call, is caught.
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
            let stall = look(0, &stats, &mut reported, now, Duration::from_millis(500));
            assert!(stall.is_none_or(|stall| stall.taken >= Duration::from_millis(500)));
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

//! What bots measured, for people and machines.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde_json::{Value, json};

/// Numbers over some time. Those of [`begin`](Self::begin) start again with it.
#[derive(Debug)]
pub(crate) struct Report {
    /// Bots that were wanted.
    pub(crate) bots: usize,
    pub(crate) joined: u64,
    pub(crate) refused: u64,
    /// Bots in the game now.
    pub(crate) playing: usize,
    /// Bots that will not come back.
    pub(crate) gone: usize,
    /// What they have now.
    pub(crate) coins: u64,
    pub(crate) disconnects: u64,
    /// Times that a bot came back and found its player.
    pub(crate) resumed: u64,
    pub(crate) views_missed: u64,
    pub(crate) garbled: u64,
    pub(crate) unanswered: u64,
    since: Instant,
    pub(crate) views: u64,
    pub(crate) view_bytes: u64,
    /// From an input to the view that shows it: some of it is waiting for the tick.
    steer: Histogram<u64>,
    /// From a request to its answer.
    request: Histogram<u64>,
}

/// In microseconds: up to a minute, to three digits.
fn latencies() -> Histogram<u64> {
    let made = Histogram::new_with_bounds(1, 60_000_000, 3);
    made.unwrap_or_else(|_| unreachable!("the bounds are in order"))
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

impl Report {
    pub(crate) fn new(bots: usize) -> Self {
        Self {
            bots,
            joined: 0,
            refused: 0,
            playing: 0,
            gone: 0,
            coins: 0,
            disconnects: 0,
            resumed: 0,
            views_missed: 0,
            garbled: 0,
            unanswered: 0,
            since: Instant::now(),
            views: 0,
            view_bytes: 0,
            steer: latencies(),
            request: latencies(),
        }
    }

    /// Rates and latencies are those from now on.
    pub(crate) fn begin(&mut self) {
        self.since = Instant::now();
        (self.views, self.view_bytes) = (0, 0);
        self.steer.reset();
        self.request.reset();
    }

    /// An input was seen to take effect.
    pub(crate) fn steered(&mut self, took: Duration) {
        self.steer.saturating_record(micros(took));
    }

    /// A request was answered.
    pub(crate) fn answered(&mut self, took: Duration) {
        self.request.saturating_record(micros(took));
    }

    /// Prints a line; `label` is for people.
    pub(crate) fn print(&self, json: bool, label: &str) {
        if json {
            println!("{}", self.json());
        } else {
            println!("{label}{}", self.text());
        }
    }

    fn per_second(&self, count: u64) -> f64 {
        count as f64 / self.since.elapsed().as_secs_f64().max(0.001)
    }

    fn json(&self) -> Value {
        json!({
            "bots": self.bots,
            "joined": self.joined,
            "refused": self.refused,
            "playing": self.playing,
            "gone": self.gone,
            "seconds": self.since.elapsed().as_secs_f64(),
            "coins": self.coins,
            "views": self.views,
            "views_per_s": self.per_second(self.views),
            "view_bytes_per_s": self.per_second(self.view_bytes),
            "views_missed": self.views_missed,
            "garbled": self.garbled,
            "disconnects": self.disconnects,
            "resumed": self.resumed,
            "unanswered": self.unanswered,
            "steer_ms": percentiles(&self.steer),
            "request_ms": percentiles(&self.request),
        })
    }

    fn text(&self) -> String {
        let line = |name: &str, of: &Histogram<u64>| {
            let (p50, p99) = (quantile_ms(of, 0.5), quantile_ms(of, 0.99));
            format!("{name} p50 {p50:.2} ms, p99 {p99:.2} ms")
        };
        format!(
            "{} of {} playing, {} coins, {:.0} views/s, {:.0} kB/s, {}, {}; \
             lost {}, resumed {}",
            self.playing,
            self.bots,
            self.coins,
            self.per_second(self.views),
            self.per_second(self.view_bytes) / 1000.0,
            line("input to view", &self.steer),
            line("request", &self.request),
            self.disconnects,
            self.resumed,
        )
    }
}

fn quantile_ms(of: &Histogram<u64>, quantile: f64) -> f64 {
    of.value_at_quantile(quantile) as f64 / 1000.0
}

fn percentiles(of: &Histogram<u64>) -> Value {
    json!({
        "count": of.len(),
        "p50": quantile_ms(of, 0.5),
        "p95": quantile_ms(of, 0.95),
        "p99": quantile_ms(of, 0.99),
        "max": quantile_ms(of, 1.0),
    })
}

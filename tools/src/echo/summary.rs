//! What the server did: told at its end, to people and to programs.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use proscenium_engine::{CloseReason, DrainReport, EngineStats};
use proscenium_stages::StageStats;
use serde::Serialize;

use crate::record;
use crate::units::{bytes, grouped};

/// A server from its start to its end.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    messages_in: u64,
    bytes_in: u64,
    messages_out: u64,
    bytes_out: u64,
    accepted: u64,
    /// Ended connections by reason; those that never happened are left out.
    closes: BTreeMap<&'static str, u64>,
    /// Where stages served.
    stages: Option<Handled>,
    drain: Drain,
    seconds: f64,
    shards: usize,
    /// The command line.
    command: Vec<String>,
}

/// What stages did.
#[derive(Debug, Serialize)]
struct Handled {
    ended: u64,
    live: u64,
    handlers: u64,
    /// Of the handlers.
    in_place: u64,
    panics: u64,
}

/// The fields of a [`DrainReport`], and what it says in words.
#[derive(Debug, Serialize)]
struct Drain {
    connections: u64,
    flushed: u64,
    cut: u64,
    bytes_lost: u64,
    work_lost: u64,
    mailbox_lost: u64,
    seconds: f64,
    shards_failed: u64,
    #[serde(skip)]
    text: String,
}

impl Summary {
    pub(super) fn new(
        engine: &EngineStats,
        stages: &[StageStats],
        drain: &DrainReport,
        ran: Duration,
    ) -> Self {
        let total = engine.total();
        let closes = CloseReason::NAMES.into_iter().zip(total.closes);
        let sum = |of: fn(&StageStats) -> u64| stages.iter().map(of).sum();
        Self {
            messages_in: total.messages_in,
            bytes_in: total.bytes_in,
            messages_out: total.messages_out,
            bytes_out: total.bytes_out,
            accepted: total.accepted,
            closes: closes.filter(|(_, count)| *count > 0).collect(),
            stages: (!stages.is_empty()).then(|| Handled {
                ended: sum(|one| one.ended),
                live: sum(|one| one.live),
                handlers: sum(|one| one.messages),
                in_place: sum(|one| one.in_place),
                panics: sum(|one| one.panics),
            }),
            drain: Drain {
                connections: drain.connections,
                flushed: drain.flushed,
                cut: drain.cut,
                bytes_lost: drain.bytes_lost,
                work_lost: drain.work_lost,
                mailbox_lost: drain.mailbox_lost,
                seconds: drain.elapsed.as_secs_f64(),
                shards_failed: drain.shards_failed,
                text: drain.to_string(),
            },
            seconds: ran.as_secs_f64(),
            shards: engine.shards.len(),
            command: record::command(),
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "messages     {} in ({}), {} out ({})",
            grouped(self.messages_in),
            bytes(self.bytes_in),
            grouped(self.messages_out),
            bytes(self.bytes_out)
        )?;
        writeln!(f, "connections  {} accepted", grouped(self.accepted))?;
        let closes = self.closes.iter();
        let closes = closes.map(|(name, count)| format!("{name} {}", grouped(*count)));
        let closes: Vec<String> = closes.collect();
        let closes = if closes.is_empty() {
            "none".to_owned()
        } else {
            closes.join(", ")
        };
        writeln!(f, "closed       {closes}")?;
        if let Some(stages) = &self.stages {
            writeln!(
                f,
                "stages       {} ended, {} live; {} handlers run, {} of them in place; \
                 {} panics",
                grouped(stages.ended),
                grouped(stages.live),
                grouped(stages.handlers),
                grouped(stages.in_place),
                grouped(stages.panics)
            )?;
        }
        writeln!(f, "drain        {}", self.drain.text)?;
        writeln!(
            f,
            "ran          {:.1} s on {} shards",
            self.seconds, self.shards
        )
    }
}

//! What a running node says of itself, and how that is shown.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::thread;
use std::time::Duration;

use proscenium_nodelink::{LinkEnd, NodeStats, PeerStats};
use serde::{Deserialize, Serialize};

use super::shell::{Asked, Shell, targets};
use super::{STATUS, StatusArgs};
use crate::units::{bytes, grouped};

/// A node, as it is now.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct NodeStatus {
    pub(super) nid: String,
    /// Version of the program that it runs in.
    pub(super) version: String,
    /// Nanoseconds since it started.
    pub(super) clock_ns: u64,
    /// Connections, those in handshake included.
    pub(super) links: usize,
    /// Messages whose peer had gone, and replies whose request had.
    pub(super) unroutable: u64,
    pub(super) replies_refused: u64,
    /// How links and attempts to connect ended, by reason.
    pub(super) ended: BTreeMap<String, u64>,
    pub(super) peers: Vec<PeerStatus>,
}

/// One of its peers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct PeerStatus {
    pub(super) nid: String,
    pub(super) dialled: bool,
    pub(super) accepted: bool,
    pub(super) proscenium: bool,
    pub(super) leaving: bool,
    /// Requests to it without an answer, and of it.
    pub(super) pending: usize,
    pub(super) unanswered: usize,
    pub(super) queued_messages: usize,
    pub(super) queued_bytes: usize,
    pub(super) messages_in: u64,
    pub(super) messages_out: u64,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    pub(super) requests: u64,
    pub(super) replies: u64,
    pub(super) timeouts: u64,
    pub(super) requests_lost: u64,
    pub(super) late_replies: u64,
    pub(super) refused_full: u64,
    pub(super) messages_lost: u64,
    pub(super) links_up: u64,
    /// Messages per second between two looks; absent without a second one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) in_per_second: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) out_per_second: Option<f64>,
}

impl NodeStatus {
    /// Of these statistics.
    pub(super) fn new(nid: &str, clock: Duration, stats: &NodeStats) -> Self {
        let ended = LinkEnd::ALL.into_iter().filter_map(|(end, name)| {
            let count = stats.ended(end);
            (count > 0).then(|| (name.to_owned(), count))
        });
        Self {
            nid: nid.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            clock_ns: clock.as_nanos() as u64,
            links: stats.links,
            unroutable: stats.unroutable,
            replies_refused: stats.replies_refused,
            ended: ended.collect(),
            peers: stats.peers.iter().map(PeerStatus::new).collect(),
        }
    }

    /// Adds the rates since an earlier look.
    fn since(&mut self, earlier: &Self) {
        let time = Duration::from_nanos(self.clock_ns.saturating_sub(earlier.clock_ns));
        if time.is_zero() {
            return;
        }
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / time.as_secs_f64();
        for peer in &mut self.peers {
            let before = earlier.peers.iter().find(|other| other.nid == peer.nid);
            if let Some(before) = before {
                peer.in_per_second = Some(rate(peer.messages_in, before.messages_in));
                peer.out_per_second = Some(rate(peer.messages_out, before.messages_out));
            }
        }
    }

    /// As a table.
    fn text(&self) -> String {
        let mut text = String::new();
        let _ = writeln!(
            text,
            "{}: {} peers, {} links, up for {:.0} s, proscenium {}",
            self.nid.escape_debug(),
            self.peers.len(),
            self.links,
            Duration::from_nanos(self.clock_ns).as_secs_f64(),
            self.version
        );
        let names = [
            "peer",
            "links",
            "pending",
            "unanswered",
            "queued",
            "bytes",
            "in",
            "out",
            "in/s",
            "out/s",
            "timeouts",
            "lost",
            "full",
        ];
        let mut rows = vec![names.map(str::to_owned)];
        rows.extend(self.peers.iter().map(PeerStatus::cells));
        let widths: Vec<usize> = (0..names.len())
            .map(|column| rows.iter().map(|row| row[column].chars().count()).max())
            .map(Option::unwrap_or_default)
            .collect();
        for row in &rows {
            let mut line = String::from(" ");
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let _ = match column {
                    0 | 1 => write!(line, " {cell:<width$}"),
                    _ => write!(line, "  {cell:>width$}"),
                };
            }
            let _ = writeln!(text, "{}", line.trim_end());
        }
        let ended: Vec<String> = self
            .ended
            .iter()
            .map(|(name, count)| format!("{name} {}", grouped(*count)))
            .collect();
        if !ended.is_empty() {
            let _ = writeln!(text, "  ended: {}", ended.join(", "));
        }
        text
    }
}

impl PeerStatus {
    fn new(peer: &PeerStats) -> Self {
        let counters = &peer.counters;
        Self {
            nid: peer.nid.as_str().to_owned(),
            dialled: peer.dialled,
            accepted: peer.accepted,
            proscenium: peer.proscenium,
            leaving: peer.leaving,
            pending: peer.pending,
            unanswered: peer.unanswered,
            queued_messages: peer.queued_messages,
            queued_bytes: peer.queued_bytes,
            messages_in: counters.messages_in,
            messages_out: counters.messages_out,
            bytes_in: counters.bytes_in,
            bytes_out: counters.bytes_out,
            requests: counters.requests,
            replies: counters.replies,
            timeouts: counters.timeouts,
            requests_lost: counters.requests_lost,
            late_replies: counters.late_replies,
            refused_full: counters.refused_full,
            messages_lost: counters.messages_lost,
            links_up: counters.links_up,
            in_per_second: None,
            out_per_second: None,
        }
    }

    fn cells(&self) -> [String; 13] {
        let links = match (self.dialled, self.accepted) {
            (true, true) => "both",
            (true, false) => "dialled",
            (false, true) => "accepted",
            (false, false) => "none",
        };
        let foreign = if self.proscenium || links == "none" {
            ""
        } else {
            ", foreign"
        };
        let leaving = if self.leaving { ", leaving" } else { "" };
        let rate = |rate: Option<f64>| rate.map_or("–".to_owned(), |rate| format!("{rate:.0}"));
        [
            self.nid.escape_debug().to_string(),
            format!("{links}{foreign}{leaving}"),
            self.pending.to_string(),
            self.unanswered.to_string(),
            self.queued_messages.to_string(),
            bytes(self.queued_bytes as u64),
            grouped(self.messages_in),
            grouped(self.messages_out),
            rate(self.in_per_second),
            rate(self.out_per_second),
            grouped(self.timeouts),
            grouped(self.requests_lost + self.messages_lost),
            grouped(self.refused_full),
        ]
    }
}

/// Asks nodes for their status and prints it. False if one did not answer.
///
/// # Errors
/// When they are not found, or nothing can be printed.
pub(super) fn run(args: &StatusArgs) -> Result<bool, String> {
    let targets = targets(&args.reach, &args.nids)?;
    let shell = Shell::start(&args.reach, &targets)?;
    let mut asked: Vec<Result<(String, NodeStatus), String>> = Vec::new();
    for target in &targets {
        let status = shell.wait_for(target).and_then(|nid| {
            let status = ask(&shell, &nid)?;
            Ok((nid, status))
        });
        asked.push(status);
    }
    if !args.interval.is_zero() {
        thread::sleep(args.interval);
        for one in &mut asked {
            let Ok((nid, before)) = one else { continue };
            let again = ask(&shell, nid).map(|mut now| {
                now.since(before);
                (nid.clone(), now)
            });
            *one = again;
        }
    }
    shell.end();
    let mut out = io::stdout().lock();
    let mut all_well = true;
    let mut found = Vec::new();
    for one in asked {
        match one {
            Ok((_, status)) if args.json => found.push(status),
            Ok((_, status)) => out
                .write_all(status.text().as_bytes())
                .map_err(|error| format!("cannot write: {error}"))?,
            Err(reason) => {
                eprintln!("{reason}");
                all_well = false;
            }
        }
    }
    if args.json {
        let json = serde_json::to_string_pretty(&found).map_err(|error| error.to_string())?;
        writeln!(out, "{json}").map_err(|error| format!("cannot write: {error}"))?;
    }
    Ok(all_well)
}

fn ask(shell: &Shell, nid: &str) -> Result<NodeStatus, String> {
    let Asked { reply, .. } = shell.request(nid, STATUS, Vec::new())?;
    if reply.error_code != 0 {
        return Err(format!(
            "{nid} answers no `{STATUS}` (error code {}): only nodes of `proscenium node run` do",
            reply.error_code
        ));
    }
    serde_json::from_slice(&reply.payload)
        .map_err(|error| format!("{nid}: its status is not understood: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(clock_ns: u64, messages_in: u64) -> NodeStatus {
        let peer = PeerStatus {
            nid: "b".into(),
            dialled: true,
            messages_in,
            timeouts: 1234,
            ..PeerStatus::default()
        };
        NodeStatus {
            nid: "a".into(),
            clock_ns,
            peers: vec![peer],
            ended: BTreeMap::from([("dead".to_owned(), 2)]),
            ..NodeStatus::default()
        }
    }

    #[test]
    fn rates_are_those_of_the_nodes_own_clock() {
        let mut now = status(3_000_000_000, 700);
        now.since(&status(1_000_000_000, 100));
        assert_eq!(now.peers[0].in_per_second, Some(300.0));
        let mut again = status(5, 9);
        again.since(&status(5, 0));
        assert_eq!(again.peers[0].in_per_second, None);
    }

    #[test]
    fn the_table_has_a_line_for_each_peer_and_the_ends() {
        let text = status(2_000_000_000, 7).text();
        let lines: Vec<&str> = text.lines().collect();
        assert!(
            lines[0].starts_with("a: 1 peers") && lines[0].contains("2 s"),
            "{text}"
        );
        assert!(
            lines[2].contains("dialled, foreign") && lines[2].contains("1,234"),
            "{text}"
        );
        assert_eq!(lines[3], "  ended: dead 2");
    }

    #[test]
    fn the_json_reads_back() {
        let before = status(1, 2);
        let text = serde_json::to_string(&before).unwrap();
        assert_eq!(serde_json::from_str::<NodeStatus>(&text).unwrap(), before);
    }
}

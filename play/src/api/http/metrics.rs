//! `/metrics`: the numbers of a server in the text format of OpenMetrics, which Prometheus reads.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use proscenium_engine::EngineStats;
use proscenium_nodelink::{LinkEnd, NodeStats, PeerStats};

use crate::api::stats::ApiStats;
use crate::api::status::Status;

/// What the format is called.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// How long a scrape waits for the shard of the links. One that is stuck is told without its
/// numbers.
const PATIENCE: Duration = Duration::from_secs(2);

/// The numbers of handlers that say what is now.
const API_GAUGES: [&str; 2] = ["running", "running_bytes"];

/// Those of the engine.
const ENGINE_GAUGES: [&str; 8] = [
    "away",
    "connections",
    "send_buffer_bytes",
    "send_queue_bytes",
    "reassembly_bytes",
    "receive_chunk_bytes",
    "timers",
    "mailbox_len",
];

type OfPeer = fn(&PeerStats) -> u64;

/// The numbers of a peer: name, meaning, whether it is of now, and itself.
const PEERS: [(&str, &str, bool, OfPeer); 13] = [
    ("links", "Links to the peer now", true, |peer| {
        u64::from(peer.dialled) + u64::from(peer.accepted)
    }),
    (
        "pending",
        "Requests that the peer has not answered yet",
        true,
        |peer| peer.pending as u64,
    ),
    (
        "queued_messages",
        "Messages that wait for the peer's links",
        true,
        |peer| peer.queued_messages as u64,
    ),
    (
        "queued_bytes",
        "Bytes that wait for the peer's links",
        true,
        |peer| peer.queued_bytes as u64,
    ),
    (
        "messages_out",
        "Messages queued for the peer",
        false,
        |peer| peer.counters.messages_out,
    ),
    ("messages_in", "Messages of the peer", false, |peer| {
        peer.counters.messages_in
    }),
    ("requests", "Requests sent to the peer", false, |peer| {
        peer.counters.requests
    }),
    (
        "timeouts",
        "Requests that the peer did not answer in time",
        false,
        |peer| peer.counters.timeouts,
    ),
    (
        "requests_lost",
        "Requests that failed with their link",
        false,
        |peer| peer.counters.requests_lost,
    ),
    (
        "late_replies",
        "Replies that came too late",
        false,
        |peer| peer.counters.late_replies,
    ),
    (
        "refused_full",
        "Messages refused because the peer's queue was full",
        false,
        |peer| peer.counters.refused_full,
    ),
    (
        "replies_replaced",
        "Replies to the peer that code 14 was sent for, for want of room",
        false,
        |peer| peer.counters.replies_replaced,
    ),
    (
        "messages_lost",
        "Messages that waited for a link when it was lost",
        false,
        |peer| peer.counters.messages_lost,
    ),
];

/// All numbers, as text. Waits for the shard of the links: not for the thread of HTTP.
pub(super) fn text(status: &Arc<Status>) -> String {
    let mut registry = Registry::with_prefix("proscenium");
    registry.register_collector(Box::new(Snapshot {
        api: status.counts().read(),
        node: status.node.stats(PATIENCE),
        engine: status.engine.stats(),
    }));
    let mut text = String::new();
    if text::encode(&mut text, &registry).is_err() {
        text.clear(); // writing to a string does not fail
    }
    text
}

#[derive(Debug)]
struct Snapshot {
    api: ApiStats,
    node: Option<NodeStats>,
    engine: EngineStats,
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for (name, value) in self.api.fields() {
            let gauge = API_GAUGES.contains(&name);
            let help = format!("{} of the API server", words(name));
            let name = format!("api_{name}");
            encode(
                &mut encoder,
                (&name, &help),
                gauge,
                [("", String::new(), value)],
            )?;
        }
        if let Some(node) = &self.node {
            encode_node(&mut encoder, node)?;
        }
        let engine = self.engine.total();
        for (name, value) in engine.fields() {
            let gauge = ENGINE_GAUGES.contains(&name);
            let help = format!("{} of the engine", words(name));
            // As the command `proscenium` has them.
            encode(
                &mut encoder,
                (name, &help),
                gauge,
                [("shard", "0".to_owned(), value)],
            )?;
        }
        Ok(())
    }
}

fn encode_node(encoder: &mut DescriptorEncoder<'_>, node: &NodeStats) -> fmt::Result {
    for (name, help, gauge, of) in PEERS {
        let name = format!("peer_{name}");
        let rows = node
            .peers
            .iter()
            .map(|peer| ("peer", peer.nid.to_string(), of(peer)));
        encode(encoder, (&name, help), gauge, rows)?;
    }
    let ended = LinkEnd::ALL.iter().zip(node.ended);
    let rows = ended.map(|((_, name), count)| ("reason", (*name).to_owned(), count));
    encode(
        encoder,
        ("links_ended", "Links that ended, by reason"),
        false,
        rows,
    )?;
    let help = "Messages whose peer was gone when their turn came";
    let row = [("", String::new(), node.unroutable)];
    encode(encoder, ("unroutable", help), false, row)?;
    let help = "Replies refused because the link of their request was gone";
    let row = [("", String::new(), node.replies_refused)];
    encode(encoder, ("replies_refused", help), false, row)
}

/// One metric: rows of a label, its value (no label if it is empty) and the number.
fn encode(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help): (&str, &str),
    gauge: bool,
    rows: impl IntoIterator<Item = (&'static str, String, u64)>,
) -> fmt::Result {
    let kind = if gauge {
        MetricType::Gauge
    } else {
        MetricType::Counter
    };
    let mut metric = encoder.encode_descriptor(name, help, None, kind)?;
    let write = |row: &mut MetricEncoder<'_>, number: u64| match gauge {
        true => row.encode_gauge(&number),
        false => row.encode_counter::<[(&str, &str); 0], _, u64>(&number, None),
    };
    for (label, value, number) in rows {
        if label.is_empty() {
            write(&mut metric, number)?;
        } else {
            write(&mut metric.encode_family(&[(label, value)])?, number)?;
        }
    }
    Ok(())
}

/// `refused_full`: `Refused full`.
fn words(name: &str) -> String {
    let mut words = name.replace('_', " ");
    if let Some(first) = words.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    words
}

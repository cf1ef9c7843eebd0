//! The statistics of the engine and its stages as Prometheus text over HTTP.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use proscenium_engine::{CloseReason, EngineStats, Histogram, ShardStats};
use proscenium_stages::StageStats;

/// What the text format that the library writes is called.
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Longest request that is read; a scraper sends a few hundred bytes.
const REQUEST_MAX: usize = 8 * 1024;

/// How long one scraper may take in all, from being accepted until it has read its answer: there
/// is one thread for all of them, and one that sends a byte now and then must not keep it.
const PATIENCE: Duration = Duration::from_secs(2);

/// The numbers that say what is now; all others count since the start.
const GAUGES: [&str; 8] = [
    "away",
    "connections",
    "send_buffer_bytes",
    "send_queue_bytes",
    "reassembly_bytes",
    "receive_chunk_bytes",
    "timers",
    "mailbox_len",
];

/// Serves two snapshots at `address`, as [`serve`] does, and says on standard error where: of the
/// engine, and of the stages of each shard (none where no stages are).
///
/// # Errors
/// When the address cannot be listened on; the text names the option.
pub(crate) fn announce<S, T>(address: &str, engine: S, stages: T) -> Result<(), String>
where
    S: Fn() -> EngineStats + Send + Sync + 'static,
    T: Fn() -> Vec<StageStats> + Send + Sync + 'static,
{
    let address = serve(address, engine, stages)
        .map_err(|error| format!("--metrics {address}: {error}; expected HOST:PORT"))?;
    eprintln!("metrics at http://{address}/metrics");
    Ok(())
}

/// Serves snapshots at `http://ADDR/metrics`, on a thread of its own, until the process ends.
/// Returns the address with the real port.
///
/// # Errors
/// When the address cannot be listened on.
fn serve<S, T>(address: &str, engine: S, stages: T) -> io::Result<SocketAddr>
where
    S: Fn() -> EngineStats + Send + Sync + 'static,
    T: Fn() -> Vec<StageStats> + Send + Sync + 'static,
{
    let listener = TcpListener::bind(address)?;
    let local = listener.local_addr()?;
    let mut registry = Registry::with_prefix("proscenium");
    registry.register_collector(Box::new(Snapshots { engine, stages }));
    let serve = move || {
        for stream in listener.incoming() {
            // A scraper that breaks off is its own loss; the next one is served.
            match stream {
                Ok(stream) => drop(answer(stream, PATIENCE, &registry)),
                // Out of descriptors, most likely: do not spin.
                Err(_) => thread::sleep(Duration::from_millis(100)),
            }
        }
    };
    thread::Builder::new().name("metrics".into()).spawn(serve)?;
    Ok(local)
}

/// A connection that may be used until a point in time: no read or write waits beyond it.
struct UntilDeadline {
    stream: TcpStream,
    deadline: Instant,
}

impl UntilDeadline {
    /// What is left, at least a microsecond, the least that a socket waits for.
    fn left(&self) -> io::Result<Duration> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(left.max(Duration::from_micros(1)))
    }
}

impl Read for UntilDeadline {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(self.left()?))?;
        self.stream.read(buffer)
    }
}

impl Write for UntilDeadline {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(self.left()?))?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// Answers one request and closes the connection.
fn answer(stream: TcpStream, patience: Duration, registry: &Registry) -> io::Result<()> {
    let deadline = Instant::now() + patience;
    let mut stream = UntilDeadline { stream, deadline };
    let request = read_head(&mut stream)?;
    let mut words = request.split_ascii_whitespace();
    let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let path = path.split('?').next().unwrap_or("");
    let (status, content_type, body) = match (method, path) {
        ("GET" | "HEAD", "/metrics" | "/") => {
            let mut body = String::new();
            text::encode(&mut body, registry).map_err(io::Error::other)?;
            ("200 OK", CONTENT_TYPE, body)
        }
        ("GET" | "HEAD", _) => (
            "404 Not Found",
            "text/plain",
            "expected the path /metrics\n".to_owned(),
        ),
        _ => (
            "405 Method Not Allowed",
            "text/plain",
            "expected GET\n".to_owned(),
        ),
    };
    let length = body.len();
    let body = if method == "HEAD" { "" } else { &body };
    let response = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{body}"
    );
    stream.write_all(response.as_bytes())
}

/// Reads a request up to the empty line that ends its head.
fn read_head(stream: &mut impl Read) -> io::Result<String> {
    let mut head = Vec::new();
    let mut part = [0; 1024];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let n = stream.read(&mut part)?;
        if n == 0 || head.len() + n > REQUEST_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        head.extend_from_slice(&part[..n]);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

/// Takes both snapshots at each scrape.
struct Snapshots<S, T> {
    engine: S,
    stages: T,
}

impl<S, T> fmt::Debug for Snapshots<S, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Snapshots")
    }
}

impl<S, T> Collector for Snapshots<S, T>
where
    S: Fn() -> EngineStats + Send + Sync + 'static,
    T: Fn() -> Vec<StageStats> + Send + Sync + 'static,
{
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        encode_stages(&(self.stages)(), &mut encoder)?;
        let stats = (self.engine)();
        encode_numbers(&stats, &mut encoder)?;
        encode_closes(&stats, &mut encoder)?;
        encode_turn_time(&stats, &mut encoder)
    }
}

/// A metric with a row per shard.
fn encode_number(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help): (&str, &str),
    gauge: bool,
    values: impl Iterator<Item = u64>,
) -> fmt::Result {
    let kind = if gauge {
        MetricType::Gauge
    } else {
        MetricType::Counter
    };
    let mut metric = encoder.encode_descriptor(name, help, None, kind)?;
    for (shard, value) in values.enumerate() {
        let labels = [("shard", shard.to_string())];
        let mut row = metric.encode_family(&labels)?;
        if gauge {
            row.encode_gauge(&value)?;
        } else {
            row.encode_counter::<[(&str, &str); 0], _, u64>(&value, None)?;
        }
    }
    Ok(())
}

/// All plain numbers of the engine, one metric each.
fn encode_numbers(stats: &EngineStats, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let Some(first) = stats.shards.first() else {
        return Ok(());
    };
    for (index, (name, _)) in first.fields().enumerate() {
        let of = |stats: &ShardStats| stats.fields().nth(index).map(|(_, value)| value);
        let values = stats.shards.iter().filter_map(of);
        encode_number(encoder, (name, help(name)), GAUGES.contains(&name), values)?;
    }
    Ok(())
}

/// All numbers of the stages, one metric `stages_…` each.
fn encode_stages(shards: &[StageStats], encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let Some(first) = shards.first() else {
        return Ok(());
    };
    for (index, (name, _, about)) in first.fields().enumerate() {
        let of = |stats: &StageStats| stats.fields().nth(index).map(|(_, value, _)| value);
        let values = shards.iter().filter_map(of);
        // As the help texts of the engine's numbers.
        let about = about.trim_end_matches('.');
        let is_gauge = ["live", "posts_waiting"].contains(&name);
        let name = format!("stages_{name}");
        encode_number(encoder, (&name, about), is_gauge, values)?;
    }
    let help = "Length of the polls of stages' handlers, one of 64 sampled, in seconds";
    let polls = shards.iter().map(|stats| &stats.poll_time);
    encode_histogram(encoder, ("stages_poll_time_seconds", help), polls)?;
    let help = "Time in the backlogs of stages, one of 64 sampled, in seconds";
    let queues = shards.iter().map(|stats| &stats.queue_time);
    encode_histogram(encoder, ("stages_queue_time_seconds", help), queues)
}

fn encode_closes(stats: &EngineStats, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let help = "Connections ended, by reason";
    let mut metric = encoder.encode_descriptor("closes", help, None, MetricType::Counter)?;
    for (shard, stats) in stats.shards.iter().enumerate() {
        for (reason, count) in CloseReason::NAMES.iter().zip(stats.closes) {
            let labels = [
                ("shard", shard.to_string()),
                ("reason", (*reason).to_owned()),
            ];
            let mut row = metric.encode_family(&labels)?;
            row.encode_counter::<[(&str, &str); 0], _, u64>(&count, None)?;
        }
    }
    Ok(())
}

/// A histogram of durations with a row per shard.
fn encode_histogram<'a>(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help): (&str, &str),
    shards: impl Iterator<Item = &'a Histogram>,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
    for (shard, histogram) in shards.enumerate() {
        let buckets = bucket_bounds(histogram);
        let sum = histogram.sum_ns as f64 / 1e9;
        let labels = [("shard", shard.to_string())];
        let mut row = metric.encode_family(&labels)?;
        let (count, exemplars) = (histogram.count(), None);
        row.encode_histogram::<[(&str, &str); 0]>(sum, count, &buckets, exemplars)?;
    }
    Ok(())
}

fn encode_turn_time(stats: &EngineStats, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let help = "Length of the shard's turns, without the sleep, in seconds";
    let shards = stats.shards.iter().map(|stats| &stats.turn_time);
    encode_histogram(encoder, ("turn_time_seconds", help), shards)
}

/// Upper bounds in seconds and counts. The last bucket has no bound.
fn bucket_bounds(histogram: &Histogram) -> Vec<(f64, u64)> {
    let last = histogram.buckets.len() - 1;
    let bound = |i: usize| {
        if i == last {
            f64::INFINITY
        } else {
            (1u64 << i) as f64 / 1e9
        }
    };
    histogram
        .buckets
        .iter()
        .enumerate()
        .map(|(i, count)| (bound(i), *count))
        .collect()
}

/// What a number means, for the person who looks at the metrics.
fn help(name: &str) -> &'static str {
    match name {
        "connections" => "Connections now",
        "accepted" => "Connections accepted",
        "connected" => "Outgoing connections made",
        "connect_failed" => "Outgoing connection attempts that failed",
        "accept_failed" => "Accepts that failed, mostly for want of descriptors",
        "accept_shed" => "Connections closed at once while no descriptors were left",
        "handshakes" => "Connections whose layers (TLS) have made their handshakes",
        "handshake_steps" => "Steps of TLS handshakes",
        "handshakes_deferred" => "Steps of TLS handshakes that waited for another turn",
        "refused_limit" => "Connections refused by the limit of connections",
        "refused_rate" => "Connections refused by the rate of accepts of their address",
        "messages_in" => "Messages received",
        "messages_out" => "Messages queued for sending",
        "bytes_in" => "Bytes received, frame headers included",
        "bytes_out" => "Bytes written, frame headers included",
        "reads" => "Reads that brought bytes",
        "writes" => "Writes that took bytes",
        "send_buffer_bytes" => "Memory leased for send queues now",
        "send_queue_bytes" => "Unsent bytes of all connections now",
        "reassembly_bytes" => "Memory leased for incomplete frames now",
        "receive_chunk_bytes" => "Memory of receive chunks now",
        "pauses" => "Connections paused because they did not read their answers",
        "refused_full" => "Sends refused because a bound was reached",
        "dropped" => "Messages dropped by the overflow policy",
        "bytes_lost" => "Unsent bytes of connections that ended",
        "sends_gone" => "Messages for connections that were gone",
        "mailbox_items" => "Mailbox items handled",
        "timers_fired" => "Timers fired",
        "timers" => "Timers set now",
        "away" => "Connections born here that live on other shards now",
        "adopted" => "Connections that came from another shard",
        "departed" => "Connections that left for another shard",
        "forwarded" => "Messages passed on to the shard a connection had moved to",
        "turns" => "Turns of the event loop",
        "slices" => "Slices of turns: a flush, timers and a mailbox batch each",
        "mailbox_len" => "Messages that wait in the mailbox now",
        "wakes" => "Wakes of the sleeping shard by other threads",
        "stalls" => "Slices that took longer than the stall threshold",
        _ => "See the field of this name of the engine's ShardStats",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot() -> EngineStats {
        let mut stats = EngineStats::default();
        for shard in 0..2u64 {
            let mut one = ShardStats::default();
            one.connections = 3 + shard;
            one.messages_in = 1000 + shard;
            one.closes[0] = 7 + shard;
            one.turn_time.buckets[10] = 5;
            *one.turn_time.buckets.last_mut().unwrap() = 1;
            one.turn_time.sum_ns = 1_500_000_000;
            stats.shards.push(one);
        }
        stats
    }

    fn stages() -> Vec<StageStats> {
        let mut one = StageStats::default();
        (one.live, one.messages) = (11, 2_000);
        one.poll_time.buckets[10] = 5;
        one.queue_time.buckets[20] = 2;
        vec![one, StageStats::default()]
    }

    fn request(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        response
    }

    #[test]
    fn a_scrape_brings_every_number_of_every_shard() {
        let address = serve("127.0.0.1:0", snapshot, stages).unwrap();
        let response = request(address, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
        assert!(
            head.contains(&format!("Content-Length: {}", body.len())),
            "{head}"
        );
        for line in [
            "# TYPE proscenium_connections gauge",
            "proscenium_connections{shard=\"1\"} 4",
            "# TYPE proscenium_messages_in counter",
            "proscenium_messages_in_total{shard=\"0\"} 1000",
            "proscenium_messages_in_total{shard=\"1\"} 1001",
            "# HELP proscenium_stages_live Stages that live now",
            "# TYPE proscenium_stages_live gauge",
            "proscenium_stages_live{shard=\"0\"} 11",
            "# TYPE proscenium_stages_messages counter",
            "proscenium_stages_messages_total{shard=\"0\"} 2000",
            "proscenium_stages_messages_total{shard=\"1\"} 0",
            "# TYPE proscenium_stages_poll_time_seconds histogram",
            "proscenium_stages_poll_time_seconds_count{shard=\"0\"} 5",
            "proscenium_stages_queue_time_seconds_count{shard=\"0\"} 2",
            "proscenium_stages_queue_time_seconds_count{shard=\"1\"} 0",
            "proscenium_closes_total{shard=\"1\",reason=\"peer_closed\"} 8",
            "# TYPE proscenium_turn_time_seconds histogram",
            "proscenium_turn_time_seconds_count{shard=\"0\"} 6",
            "proscenium_turn_time_seconds_sum{shard=\"0\"} 1.5",
            "# EOF",
        ] {
            assert!(
                body.lines().any(|found| found == line),
                "no line {line} in\n{body}"
            );
        }
        let infinite = |line: &&str| line.contains("_turn_time_") && line.contains("+Inf");
        let infinite = body.lines().find(infinite).unwrap();
        assert!(infinite.ends_with(" 6"), "{infinite}");
        for (name, _) in ShardStats::default().fields() {
            assert!(
                body.contains(&format!("# HELP proscenium_{name} ")),
                "{name} is missing"
            );
        }
    }

    #[test]
    fn other_requests_are_answered_and_bad_ones_do_not_stop_the_service() {
        let address = serve("127.0.0.1:0", snapshot, stages).unwrap();
        assert!(request(address, "GET /else HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404"));
        assert!(request(address, "POST /metrics HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405"));
        let head = request(address, "HEAD /metrics HTTP/1.1\r\n\r\n");
        assert!(head.ends_with("\r\n\r\n"), "{head}");
        drop(TcpStream::connect(address).unwrap());
        assert!(request(address, "GET / HTTP/1.0\r\n\r\n").starts_with("HTTP/1.1 200"));
    }

    #[test]
    fn a_scraper_that_trickles_is_given_up_at_its_deadline() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut slow = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        // Each byte comes well within the deadline; only the whole request never does.
        let trickle = thread::spawn(move || {
            let mut sent = 0;
            while slow.write_all(b"x").is_ok() {
                sent += 1;
                thread::sleep(Duration::from_millis(1));
            }
            sent
        });
        let patience = Duration::from_millis(50);
        let error = answer(accepted, patience, &Registry::default()).unwrap_err();
        let kinds = [io::ErrorKind::TimedOut, io::ErrorKind::WouldBlock];
        assert!(kinds.contains(&error.kind()), "{error}");
        assert!(trickle.join().unwrap() > 0);
    }

    #[test]
    fn every_number_has_a_help_text_of_its_own_and_every_gauge_exists() {
        let names: Vec<&str> = ShardStats::default()
            .fields()
            .map(|(name, _)| name)
            .collect();
        for name in &names {
            assert_ne!(help(name), help("unknown"), "{name}");
        }
        for gauge in GAUGES {
            assert!(names.contains(&gauge), "{gauge}");
        }
    }
}

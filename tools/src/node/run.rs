//! `proscenium node run`: a node from a file.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use proscenium_engine::Address;
use proscenium_nodelink::directory::{ServerInfo, ServerType};
use proscenium_nodelink::{
    ErrorCode, Nid, Node, NodeContext, NodeHandler, NodeMessage, PeerId, RouteHeader,
};

use super::config::{Config, EXAMPLE, Source};
use super::status::NodeStatus;
use super::{PING, RunArgs, STATUS};
use crate::load::node::ECHO;
use crate::units::{bytes, grouped};
use crate::{metrics, signals};

/// How long the end may take unless the file says something else.
const DRAIN: Duration = Duration::from_secs(5);
/// After which a directory forgets a node that says nothing, likewise.
const TTL: Duration = Duration::from_secs(15);
/// How long the last look at the statistics may take.
const LOOK: Duration = Duration::from_secs(1);

/// What a node from a file answers.
struct Answers {
    begin: Instant,
    print: bool,
    /// Messages so far, whoever sent them.
    taken: Arc<AtomicU64>,
}

impl NodeHandler<()> for Answers {
    fn on_message(&mut self, cx: &mut NodeContext<'_, '_, ()>, message: NodeMessage<'_>) {
        self.taken.fetch_add(1, Ordering::Relaxed);
        let msg_id = message.header.msg_id;
        let Some(reply_to) = message.reply_to else {
            if self.print {
                let (from, length) = (message.from.escape_debug(), message.payload.len());
                let msg_id = msg_id.escape_debug();
                // Who does not read it any more does not want it.
                let _ = writeln!(io::stdout(), "{msg_id} from {from}, {length} bytes");
            }
            return;
        };
        let mut header = RouteHeader {
            msg_id,
            ..RouteHeader::default()
        };
        // Refused only if who asked has given up, or cannot take it.
        let _ = match msg_id {
            ECHO => cx.reply(reply_to, &header, message.payload),
            PING => cx.reply(reply_to, &header, &[]),
            STATUS => {
                let stats = cx.stats();
                let nid = cx.node().nid().as_str().to_owned();
                let status = NodeStatus::new(&nid, self.begin.elapsed(), &stats);
                let json = serde_json::to_vec(&status).unwrap_or_default();
                cx.reply(reply_to, &header, &json)
            }
            _ => {
                header.error_code = ErrorCode::HANDLER_NOT_FOUND.0.into();
                cx.reply(reply_to, &header, &[])
            }
        };
    }

    fn on_peer_up(&mut self, _: &mut NodeContext<'_, '_, ()>, _: PeerId, nid: &Nid) {
        tell(nid, "up");
    }

    fn on_peer_down(&mut self, _: &mut NodeContext<'_, '_, ()>, _: PeerId, nid: &Nid) {
        tell(nid, "down");
    }
}

/// Says what has become of a peer, whose name could hold anything. Nobody may be reading it any
/// more, which must not cost the shard.
fn tell(nid: &Nid, state: &str) {
    let _ = writeln!(io::stderr(), "{} is {state}", nid.escape_debug());
}

/// Runs a node until the process is asked to end.
///
/// # Errors
/// When the file is wrong, or the node cannot be started.
pub(super) fn run(args: &RunArgs) -> Result<(), String> {
    if args.example_config {
        print!("{EXAMPLE}");
        return Ok(());
    }
    let Some(path) = &args.config else {
        return Err("--config F is needed; --example-config prints one".to_owned());
    };
    let config = Config::read(path)?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let source = match &config.directory {
        Some(directory) => Some(Source::new(
            &directory.source,
            directory.mesh.as_deref(),
            folder,
        )?),
        None => None,
    };
    let (tell, end) = mpsc::channel();
    signals::on_termination(move || tell.send(()).unwrap_or_default())?;
    let mut builder = Node::builder(config.options());
    for address in &config.bind {
        builder = builder.bind(address.0.clone());
    }
    for endpoint in config.endpoints() {
        builder = builder.connect(endpoint);
    }
    let begin = Instant::now();
    let taken = Arc::new(AtomicU64::new(0));
    let answers = Answers {
        begin,
        print: args.print,
        taken: Arc::clone(&taken),
    };
    let mut node = builder
        .start(answers)
        .map_err(|error| format!("cannot run {}: {error}", config.nid.0))?;
    if let Some(address) = &args.metrics {
        let engine = node.engine().handle();
        metrics::announce(address, move || engine.stats(), Vec::new)?;
    }
    announce(&node)?;
    let watch = match &source {
        Some(source) => enter(&mut node, &config, source)?,
        None => None,
    };
    // The sender lives as long as the thread that watches for signals.
    while let Err(RecvTimeoutError::Timeout) = end.recv_timeout(LOOK) {
        if node.handle().is_stopped() {
            return Err("the node has ended by itself; what it printed before says why".to_owned());
        }
    }
    drop(watch);
    let engine = node.engine().handle();
    let drain = config.drain.as_ref().map_or(DRAIN, |drain| drain.0);
    let report = node.shutdown(drain);
    let total = engine.stats().total();
    // Whoever waited for it may be gone.
    let _ = write!(
        io::stdout(),
        "messages     {} taken\nlinks        {} accepted, {} made; {} in, {} out\n\
         drain        {report}\nran          {:.1} s\n",
        grouped(taken.load(Ordering::Relaxed)),
        grouped(total.accepted),
        grouped(total.connected),
        bytes(total.bytes_in),
        bytes(total.bytes_out),
        begin.elapsed().as_secs_f64()
    );
    Ok(())
}

/// Says where it listens: the one line that others wait for.
fn announce(node: &Node) -> Result<(), String> {
    let addresses: Vec<String> = node.local_addrs().iter().map(Address::to_string).collect();
    let line = if addresses.is_empty() {
        "listening nowhere".to_owned()
    } else {
        format!("listening on {}", addresses.join(", "))
    };
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .map_err(|error| format!("cannot write to standard output: {error}"))
}

type Watch = Box<dyn proscenium_nodelink::directory::Watch>;

/// Links the node to those of the directory, and announces it where that is more than reading.
fn enter(node: &mut Node, config: &Config, source: &Source) -> Result<Option<Watch>, String> {
    let wrong = |error: io::Error| format!("the directory: {error}");
    let (Source::Redis(redis), Some(settings)) = (source, &config.directory) else {
        let watch = node.handle().follow(source.as_directory());
        return watch.map(Some).map_err(wrong);
    };
    let address = match (&settings.address, node.local_addrs().first()) {
        (Some(address), _) => address.0.clone(),
        (None, Some(address)) => address.clone(),
        (None, None) => {
            return Err("the directory: without `bind` it needs an `address` to announce".into());
        }
    };
    let server_type = settings
        .server_type
        .as_ref()
        .map_or(ServerType::Other(0), |server_type| server_type.0);
    let mut server = ServerInfo::new(node.nid().clone(), address, server_type, settings.service);
    if let Some(weight) = settings.weight {
        server = server.weight(weight);
    }
    let ttl = settings.ttl.as_ref().map_or(TTL, |ttl| ttl.0);
    node.join((**redis).clone(), server, ttl).map_err(wrong)?;
    Ok(None)
}

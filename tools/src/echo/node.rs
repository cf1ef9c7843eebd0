//! The echo as a node of a mesh: requests are answered, messages counted.

use std::sync::Mutex;

use proscenium_engine::{Limits, Listener};
use proscenium_nodelink::{
    Nid, NodeContext, NodeHandler, NodeLink, NodeMessage, NodeOptions, NodeShard, RouteHeader,
};
use rustix::time::{ClockId, clock_gettime};

use super::{engine, serve};
use crate::cli::EchoArgs;
use crate::load::node::{ECHO, MARK, MARK_BYTES, SERVER_NID};

/// Bytes of answers that may wait for one node: a window of a thousand long ones and more.
const QUEUE_BYTES_MAX: usize = 256 << 20;

/// Answers what is asked.
struct Echo {
    /// Messages so far, marks not among them.
    count: u64,
}

/// What a mark is answered with: the count of messages, the clock, this process's CPU time.
pub(super) fn mark(count: u64) -> [u8; MARK_BYTES] {
    let nanos = |clock| {
        let time = clock_gettime(clock);
        time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
    };
    let fields = [
        count,
        nanos(ClockId::Monotonic),
        nanos(ClockId::ProcessCPUTime),
    ];
    let mut bytes = [0; MARK_BYTES];
    for (place, field) in bytes.chunks_exact_mut(8).zip(fields) {
        place.copy_from_slice(&field.to_le_bytes());
    }
    bytes
}

impl NodeHandler<()> for Echo {
    #[inline]
    fn on_message(&mut self, cx: &mut NodeContext<'_, '_, ()>, message: NodeMessage<'_>) {
        let is_mark = message.header.msg_id == MARK;
        self.count += u64::from(!is_mark);
        let Some(reply_to) = message.reply_to else {
            return;
        };
        let header = RouteHeader {
            msg_id: ECHO,
            ..RouteHeader::default()
        };
        // Refused only if who asked has gone or does not read: it is told, or counted.
        let _ = if is_mark {
            cx.reply(reply_to, &header, &mark(self.count))
        } else {
            cx.reply(reply_to, &header, message.payload)
        };
    }
}

/// Serves until the process is asked to end.
pub(super) fn run(args: &EchoArgs, listeners: Vec<Listener>, limits: Limits) -> Result<(), String> {
    if args.shards > 1 || args.framing.is_some() || args.layers.tls || args.layers.ws {
        return Err(
            "--mode node: a node has one shard, and its own protocol on bare TCP; \
             --shards, --framing, --tls and --ws are for the others"
                .to_owned(),
        );
    }
    let of_nodes = NodeLink::limits();
    let limits = limits
        .receive_chunk(of_nodes.receive_chunk)
        .receive_max(of_nodes.receive_max)
        .receive_chunks_max(of_nodes.receive_chunks_max);
    let nid = Nid::new(SERVER_NID).map_err(|error| error.to_string())?;
    let options = NodeOptions::new(nid).queue_bytes_max(QUEUE_BYTES_MAX);
    let listeners: Vec<Listener> = listeners
        .into_iter()
        .map(|listener| NodeLink::listener(&options, listener))
        .collect();
    let ours: Vec<usize> = (0..listeners.len()).collect();
    let shard = NodeShard::new(NodeLink::new(options, &ours), Echo { count: 0 });
    let shard = Mutex::new(Some(shard));
    let engine = engine(args, listeners, limits)
        .start(move |_| {
            let taken = shard.lock().ok().and_then(|mut shard| shard.take());
            taken.expect("an engine of one shard makes one handler")
        })
        .map_err(|error| format!("cannot serve at {}: {error}", args.listen))?;
    let (handle, addresses) = (engine.handle(), engine.local_addrs().to_vec());
    serve(args, &handle, &addresses, Vec::new, || engine.join())
}

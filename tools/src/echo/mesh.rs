//! The echo as a Play server of a mesh: its stages answer those of other servers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use proscenium_engine::Address;
use proscenium_nodelink::{Nid, Node, NodeOptions};
use proscenium_play::{
    ErrorCode, Failure, Packet, PlayServer, PlayStage, Result, StageCx, StageKind,
};

use super::node::mark;
use super::{on_threads, serve};
use crate::cli::EchoArgs;
use crate::load::mesh::KIND;
use crate::load::node::{ECHO, MARK, SERVER_NID};

/// A Play server does not go without these; nobody connects as a client here.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Answers with what was sent.
struct Room {
    /// Requests of all stages so far, marks not among them.
    count: Arc<AtomicU64>,
}

impl PlayStage for Room {
    type Actor = ();

    async fn on_dispatch_server(
        &mut self,
        cx: &mut StageCx<'_, Self>,
        packet: Packet<'_>,
    ) -> Result {
        match packet.msg_id() {
            ECHO => {
                self.count.fetch_add(1, Ordering::Relaxed);
                cx.reply(ECHO, packet.payload())?;
            }
            MARK => cx.reply(MARK, mark(self.count.load(Ordering::Relaxed)))?,
            _ => return Err(Failure::code(ErrorCode::HANDLER_NOT_FOUND)),
        }
        Ok(())
    }
}

/// Serves until the process is asked to end.
pub(super) fn run(args: &EchoArgs) -> std::result::Result<(), String> {
    if args.framing.is_some() || args.layers.tls || args.layers.ws {
        return Err(
            "--mode mesh: servers of a mesh have their own protocol on bare TCP; --framing, \
             --tls and --ws are for the others"
                .to_owned(),
        );
    }
    let address = Address::parse(&args.listen).map_err(|error| format!("--listen {error}"))?;
    let nid = Nid::new(SERVER_NID).map_err(|error| error.to_string())?;
    let node = Node::builder(NodeOptions::new(nid)).bind(address);
    let count = Arc::new(AtomicU64::new(0));
    let make = move |_| Room {
        count: Arc::clone(&count),
    };
    let server = PlayServer::builder()
        .stage(StageKind::new(KIND, make, || ()).keep_when_empty())
        .shards(usize::from(args.shards))
        .idle_timeout(IDLE_TIMEOUT)
        .node(node)
        .with_engine(|engine| on_threads(args, engine))
        .start()
        .map_err(|error| format!("cannot serve at {}: {error}", args.listen))?;
    let (handle, play) = (server.engine().handle(), server.handle());
    let addresses = server.node_addrs().to_vec();
    let stages = move || play.stage_stats();
    serve(args, &handle, &addresses, stages, || server.join())
}

//! [`Status`]: what is known of a server while it runs, for whoever operates it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use proscenium_engine::Handle;
use proscenium_nodelink::NodeHandle;

use super::running::Running;

/// What a server's parts share about its state.
pub(crate) struct Status {
    pub(crate) running: Arc<Running>,
    pub(crate) node: NodeHandle,
    #[cfg_attr(not(feature = "http"), allow(dead_code, reason = "for metrics"))]
    pub(crate) engine: Handle<()>,
    ending: AtomicBool,
}

impl Status {
    pub(crate) fn new(running: Arc<Running>, node: NodeHandle, engine: Handle<()>) -> Self {
        Self {
            running,
            node,
            engine,
            ending: AtomicBool::new(false),
        }
    }

    /// A shutdown has begun.
    pub(crate) fn end(&self) {
        self.ending.store(true, Ordering::Relaxed);
    }

    /// What is counted.
    #[cfg(feature = "http")]
    pub(crate) fn counts(&self) -> &super::stats::Counts {
        &self.running.counts
    }

    /// Why the server does not take work; `None`: it does.
    pub(crate) fn why_not_ready(&self) -> Option<&'static str> {
        if self.ending.load(Ordering::Relaxed) {
            return Some("the server shuts down");
        }
        // Nobody asked it to end, so nobody else would say so.
        self.node.is_stopped().then_some("its node has ended")
    }
}

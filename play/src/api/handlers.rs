//! [`Handlers`]: which function handles which message, and what other servers ask of them.

use std::borrow::Cow;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;
use proscenium_framing::packet::ErrorCode;
use proscenium_nodelink::{NodeContext, NodeHandler, NodeMessage, ReplyTo, RouteHeader};

use super::context::ApiCx;
use super::executor::Work;
use super::running::{Answering, Handling, Running};
use super::sender::ApiSender;
use crate::mesh::DEPTH_MAX;
use crate::packet::Content;

type Handle = dyn Fn(ApiCx, Content, &Arc<Running>) -> Answering + Send + Sync;
pub(crate) type Spawn = dyn Fn(Work) + Send + Sync;

/// The handlers of a server by message id. The ids are chosen by peers: the map's hash is keyed.
#[derive(Default)]
pub(crate) struct Handlers {
    by_id: HashMap<Cow<'static, str>, Arc<Handle>>,
}

impl Handlers {
    /// False if there is one for that id.
    pub(crate) fn add(
        &mut self,
        msg_id: Cow<'static, str>,
        handle: impl Fn(ApiCx, Content, &Arc<Running>) -> Answering + Send + Sync + 'static,
    ) -> bool {
        self.by_id.insert(msg_id, Arc::new(handle)).is_none()
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = &str> {
        self.by_id.keys().map(|id| &**id)
    }
}

/// What stands between the node and the handlers.
pub(crate) struct Incoming {
    pub(crate) handlers: Handlers,
    pub(crate) running: Arc<Running>,
    pub(crate) sender: ApiSender,
    pub(crate) spawn: Box<Spawn>,
}

impl NodeHandler<()> for Incoming {
    fn on_message(&mut self, cx: &mut NodeContext<'_, '_, ()>, mut message: NodeMessage<'_>) {
        let Some((id, handle)) = self.handlers.by_id.get_key_value(message.header.msg_id) else {
            self.running.counts.unknown.add(1);
            let reply_to = message.reply_to.take();
            self.refuse(cx, &message, ErrorCode::HANDLER_NOT_FOUND, reply_to);
            return;
        };
        let chain = &message.header.chain;
        if !chain.is_empty() && chain.iter().nth(DEPTH_MAX).is_some() {
            self.running.counts.refused_deep.add(1);
            let reply_to = message.reply_to.take();
            return self.refuse(cx, &message, ErrorCode::SYSTEM_ERROR, reply_to);
        }
        // What a handler holds of a message; names in a chain are as long as a peer likes.
        let names = chain.iter().map(|entry| entry.nid.len());
        let bytes = message.payload.len() + names.sum::<usize>();
        let api_cx = ApiCx::new(&self.sender, &message);
        let reply_to = message.reply_to.take();
        let call = match self.running.begin(id.clone(), reply_to, bytes) {
            Ok(call) => call,
            Err((code, reply_to)) => return self.refuse(cx, &message, code, reply_to),
        };
        let content = Content {
            msg_id: id.clone(),
            payload: Bytes::copy_from_slice(message.payload),
        };
        let (handle, running) = (Arc::clone(handle), Arc::clone(&self.running));
        let begin = move || handle(api_cx, content, &running);
        let work: Work = Box::pin(Handling::new(begin, call));
        if catch_unwind(AssertUnwindSafe(|| (self.spawn)(work))).is_err() {
            tracing::error!("the executor of handlers panicked");
        }
    }

    fn on_wake(&mut self, cx: &mut NodeContext<'_, '_, ()>, _token: u64) {
        self.running.deliver(cx);
    }
}

impl Incoming {
    fn refuse(
        &self,
        cx: &mut NodeContext<'_, '_, ()>,
        message: &NodeMessage<'_>,
        code: ErrorCode,
        reply_to: Option<ReplyTo>,
    ) {
        let Some(reply_to) = reply_to else { return };
        let header = RouteHeader {
            msg_id: message.header.msg_id,
            error_code: code.0.into(),
            ..RouteHeader::default()
        };
        if cx.reply(reply_to, &header, &[]).is_err() {
            self.running.counts.replies_lost.add(1);
        }
    }
}

//! [`Served`]: a message for a stage's `on_dispatch_server`, from this server or another one, and
//! [`NodeReply`]: the right to answer one of another server.

use std::sync::Arc;

use proscenium_framing::packet::ErrorCode;
use proscenium_framing::route::{Chain, RouteHeader};
use proscenium_nodelink::{NodeMessage, ReplyTo};
use proscenium_stages::{Local, Reply};

use super::outbox::Waiting;
use crate::call::StageReply;
use crate::gate::Gate;
use crate::packet::{Content, Packet};
use crate::shared::{Leftover, Shared};

/// See the module's page.
pub(crate) struct Served {
    pub(crate) body: ServedBody,
    pub(crate) asker: ServedAsker,
}

pub(crate) enum ServedBody {
    /// Of this server: nothing was serialized. Behind it the requests that wait for it.
    Here(Content, Box<[u8]>),
    /// Of another one: these, then message id, then payload, in one piece.
    There {
        bytes: Box<[u8]>,
        trail: usize,
        id: usize,
    },
}

pub(crate) enum ServedAsker {
    Nobody,
    Here(Reply<StageReply>),
    There(NodeReply),
}

/// The entries of a chain that came scattered over a header.
#[cold]
fn encoded(chain: Chain<'_>) -> Vec<u8> {
    let header = RouteHeader {
        chain,
        ..RouteHeader::default()
    };
    let mut bytes = vec![0; header.encoded_len()];
    let written = header.encode(&mut bytes);
    debug_assert_eq!(written, Some(bytes.len()));
    bytes
}

impl ServedBody {
    fn of(message: &NodeMessage<'_>) -> Self {
        let header = &message.header;
        let anew;
        let chain = match header.chain.encoded() {
            Some(encoded) => encoded,
            None if header.chain.is_empty() => &[],
            None => {
                anew = encoded(header.chain);
                &anew
            }
        };
        let (trail, id) = (chain.len(), header.msg_id.len());
        let mut bytes = Vec::with_capacity(trail + id + message.payload.len());
        bytes.extend_from_slice(chain);
        bytes.extend_from_slice(header.msg_id.as_bytes());
        bytes.extend_from_slice(message.payload);
        Self::There {
            bytes: bytes.into_boxed_slice(),
            trail,
            id,
        }
    }

    /// The requests that wait for it, as the fields of a header.
    pub(crate) fn trail(&self) -> &[u8] {
        match self {
            Self::Here(_, trail) => trail,
            Self::There { bytes, trail, .. } => &bytes[..*trail],
        }
    }

    pub(crate) fn msg_id(&self) -> &str {
        match self {
            Self::Here(content, _) => &content.msg_id,
            Self::There { bytes, trail, id } => {
                // Copied from a text.
                std::str::from_utf8(&bytes[*trail..trail + id]).unwrap_or_default()
            }
        }
    }

    pub(crate) fn packet(&self, is_request: bool) -> Packet<'_> {
        let payload = match self {
            Self::Here(content, _) => &content.payload[..],
            Self::There { bytes, trail, id } => &bytes[trail + id..],
        };
        if is_request {
            Packet::asking(self.msg_id(), payload)
        } else {
            Packet::new(self.msg_id(), payload)
        }
    }
}

impl ServedAsker {
    pub(crate) fn is_somebody(&self) -> bool {
        !matches!(self, Self::Nobody)
    }
}

impl Served {
    /// A message of this server.
    pub(crate) fn here(content: Content, reply: Option<Reply<StageReply>>) -> Box<Self> {
        Box::new(Self {
            body: ServedBody::Here(content, Box::default()),
            asker: reply.map_or(ServedAsker::Nobody, ServedAsker::Here),
        })
    }

    /// A request of this server, for which others wait.
    pub(crate) fn asked_here(
        content: Content,
        reply: Reply<StageReply>,
        (nid, waiting): (&str, Waiting<'_>),
    ) -> Box<Self> {
        let mut trail = Vec::with_capacity(waiting.trail.len() + 24);
        waiting.encode(nid, &mut trail);
        Box::new(Self {
            body: ServedBody::Here(content, trail.into_boxed_slice()),
            asker: ServedAsker::Here(reply),
        })
    }

    /// A message of another server.
    pub(crate) fn there(message: &NodeMessage<'_>, reply: Option<NodeReply>) -> Box<Self> {
        Box::new(Self {
            body: ServedBody::of(message),
            asker: reply.map_or(ServedAsker::Nobody, ServedAsker::There),
        })
    }

    /// Says no.
    pub(crate) fn refuse(self, local: &Local<'_>, code: ErrorCode) {
        match self.asker {
            ServedAsker::Nobody => {}
            ServedAsker::Here(reply) => {
                let content = Content::default();
                // Who asked may have given up.
                let _ = reply.send(StageReply {
                    error: code,
                    content,
                });
            }
            ServedAsker::There(mut reply) => {
                Gate::with(local, |gate| {
                    gate.mesh
                        .refuse(local.shard(), &mut reply, self.body.msg_id(), code);
                });
            }
        }
    }
}

/// The right to answer one request of another server. Dropped, it answers `fallback`.
pub(crate) struct NodeReply {
    to: Option<ReplyTo>,
    pub(crate) stage_id: i64,
    pub(crate) fallback: ErrorCode,
    shared: Arc<Shared>,
}

impl NodeReply {
    pub(crate) fn new(shared: &Arc<Shared>, to: ReplyTo, stage_id: i64) -> Self {
        Self {
            to: Some(to),
            stage_id,
            // Whatever drops it before a handler has begun is the end of the stage.
            fallback: ErrorCode::STAGE_NOT_FOUND,
            shared: Arc::clone(shared),
        }
    }

    pub(crate) fn take(&mut self) -> Option<ReplyTo> {
        self.to.take()
    }

    /// It was not sent: another answer is possible.
    pub(crate) fn put_back(&mut self, to: ReplyTo) {
        self.to = Some(to);
    }
}

impl Drop for NodeReply {
    fn drop(&mut self) {
        if let Some(to) = self.to.take() {
            let (stage_id, code) = (self.stage_id, self.fallback);
            let shard = self.shared.place(stage_id);
            self.shared
                .leave(shard, Leftover::Remote { to, stage_id, code });
        }
    }
}

//! [`Inbound`]: what other servers send to this one.

use std::rc::Rc;

use bytes::Bytes;
use proscenium_framing::packet::ErrorCode;
use proscenium_framing::route::{Chain, RouteHeader};
use proscenium_nodelink::{
    Nid, NodeContext, NodeHandler, NodeMessage, PeerId, ReplyRef, RequestError,
};
use proscenium_stages::{StagePost, StageShard};
use prost::Message;

use super::routes::Peer;
use super::{DEPTH_MAX, Mesh, NodeReply, Parcel, Served};
use crate::directory::{Create, CreateReply, RoomMsg};
use crate::error::DeliverError;
use crate::gate::Gate;
use crate::packet::Content;
use crate::system::{self, CreateStageReq, DestroyStageReq, GetOrCreateStageReq, SystemMessage};

/// The handler of the node link, for one call of the engine.
pub(super) struct Inbound<'a> {
    pub(super) stages: &'a mut StageShard,
    pub(super) mesh: &'a Rc<Mesh>,
}

type Node<'n, 'c> = NodeContext<'n, 'c, StagePost>;

impl Inbound<'_> {
    /// A message has come to the shard of its stage, or is to go there.
    fn deliver(&mut self, cx: &mut Node<'_, '_>, stage_id: i64, parcel: Parcel) {
        let shard = self.mesh.shared.place(stage_id);
        if shard == self.mesh.shard {
            self.stages
                .with_local(cx.engine(), |local| parcel.open(local));
        } else if let Some(of) = self.mesh.parcels.borrow_mut().get_mut(shard) {
            of.push(parcel);
        }
    }

    fn refuse(&self, reply: Option<NodeReply>, msg_id: &str, code: ErrorCode) {
        if let Some(mut reply) = reply {
            self.mesh.refuse(self.mesh.shard, &mut reply, msg_id, code);
        }
    }

    /// A message of the framework.
    fn system(
        &mut self,
        cx: &mut Node<'_, '_>,
        message: &NodeMessage<'_>,
        reply: Option<NodeReply>,
    ) {
        let msg_id = message.header.msg_id;
        let wanted = match msg_id {
            DestroyStageReq::ID => {
                return self.destroy(cx, message, reply);
            }
            CreateStageReq::ID => CreateStageReq::decode(message.payload).map(|wanted| {
                let content = content(wanted.payload_id, wanted.payload);
                (wanted.stage_type, content, true)
            }),
            GetOrCreateStageReq::ID => GetOrCreateStageReq::decode(message.payload).map(|wanted| {
                let content = content(wanted.create_payload_id, wanted.create_payload);
                (wanted.stage_type, content, false)
            }),
            _ => return self.refuse(reply, msg_id, ErrorCode::HANDLER_NOT_FOUND),
        };
        let Ok((stage_type, content, anew)) = wanted else {
            return self.refuse(reply, msg_id, ErrorCode::INVALID_MESSAGE);
        };
        let Some(kind) = self.mesh.shared.kind(&stage_type) else {
            return self.refuse(reply, msg_id, ErrorCode::INVALID_STAGE_TYPE);
        };
        let reply = match reply {
            Some(reply) => CreateReply::there(reply, anew),
            None => CreateReply::Nobody,
        };
        let create = RoomMsg::Create(Box::new(Create {
            kind,
            content,
            anew,
            reply,
            trail: trail_of(&message.header.chain),
        }));
        let stage_id = message.header.stage_id;
        self.deliver(cx, stage_id, Parcel::Tell(stage_id, Some(kind), create));
    }

    fn destroy(
        &mut self,
        cx: &mut Node<'_, '_>,
        message: &NodeMessage<'_>,
        reply: Option<NodeReply>,
    ) {
        let stage_id = message.header.stage_id;
        let parcel = Parcel::Destroy(stage_id, reply, message.header.msg_id.into());
        self.deliver(cx, stage_id, parcel);
    }

    /// Has all shards know whether a server can be reached.
    fn change(&mut self, cx: &mut Node<'_, '_>, nid: &Nid, peer: Option<Peer>) {
        self.mesh.routes.change(nid, peer.clone());
        let shards = self.mesh.shared.shards.len();
        self.stages.with_local(cx.engine(), |local| {
            for shard in 1..shards {
                let (nid, peer) = (nid.clone(), peer.clone());
                local.run_on(shard, move |local| {
                    Gate::with(local, |gate| gate.mesh.routes.change(&nid, peer));
                });
            }
        });
    }
}

/// The requests that wait for one, as the fields of a header.
fn trail_of(chain: &Chain<'_>) -> Box<[u8]> {
    let header = RouteHeader {
        chain: *chain,
        ..RouteHeader::default()
    };
    let mut trail = vec![0; header.encoded_len()];
    let written = header.encode(&mut trail);
    debug_assert_eq!(written, Some(trail.len()));
    trail.into_boxed_slice()
}

fn content(id: String, payload: Vec<u8>) -> Content {
    Content {
        msg_id: id.into(),
        payload: payload.into(),
    }
}

impl NodeHandler<StagePost> for Inbound<'_> {
    fn on_message(&mut self, cx: &mut Node<'_, '_>, mut message: NodeMessage<'_>) {
        let shared = &self.mesh.shared;
        shared.counts(self.mesh.shard).node_received.add(1);
        let (msg_id, stage_id) = (message.header.msg_id, message.header.stage_id);
        let reply = message.reply_to.take();
        let reply = reply.map(|to| NodeReply::new(shared, to, stage_id));
        if DeliverError::check_id(msg_id).is_err() {
            return self.refuse(reply, "", ErrorCode::INVALID_MESSAGE);
        }
        let chain = &message.header.chain;
        if !chain.is_empty() && chain.iter().nth(DEPTH_MAX).is_some() {
            return self.refuse(reply, msg_id, ErrorCode::SYSTEM_ERROR);
        }
        if message.header.is_system || system::is_system_id(msg_id) {
            return self.system(cx, &message, reply);
        }
        let served = RoomMsg::Serve(Served::there(&message, reply));
        self.deliver(cx, stage_id, Parcel::Tell(stage_id, None, served));
    }

    fn on_reply(
        &mut self,
        cx: &mut Node<'_, '_>,
        token: u64,
        reply: Result<ReplyRef<'_>, RequestError>,
    ) {
        let counts = self.mesh.shared.counts(self.mesh.shard);
        let answer = match reply {
            Ok(reply) => {
                counts.node_replies.add(1);
                match u16::try_from(reply.header.error_code) {
                    Ok(0) => Ok(Content {
                        msg_id: reply.header.msg_id.to_owned().into(),
                        payload: Bytes::copy_from_slice(reply.payload),
                    }),
                    Ok(code) => Err(ErrorCode(code)),
                    // Of a foreign peer: no code that packets could carry.
                    Err(_) => Err(ErrorCode::INTERNAL_ERROR),
                }
            }
            Err(error) => {
                counts.node_failures.add(1);
                Err(error.code())
            }
        };
        // Entered, so that the wake of a stage stays on this shard.
        let mesh = self.mesh;
        self.stages
            .with_local(cx.engine(), |_| mesh.complete(token, answer));
    }

    fn on_peer_up(&mut self, cx: &mut Node<'_, '_>, peer: PeerId, nid: &Nid) {
        let gauge = cx.node().gauge(peer);
        let peer = gauge.map(|gauge| Peer { id: peer, gauge });
        self.change(cx, nid, peer);
    }

    fn on_peer_down(&mut self, cx: &mut Node<'_, '_>, _peer: PeerId, nid: &Nid) {
        self.change(cx, nid, None);
    }
}

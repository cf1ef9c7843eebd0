//! [`ApiSender`]: messages and requests to other servers, from any thread.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use proscenium_framing::packet::ErrorCode;
use proscenium_nodelink::{
    Chain, ChainEntry, Nid, NodeHandle, Reply, ReplyRef, Request, RequestError, RequestOptions,
    RouteHeader, SendError,
};
use prost::Message;

use super::policies::Policies;
use crate::error::DeliverError;
use crate::handle::Created;
use crate::packet::{Content, Payload, Proto};
use crate::system::{
    CreateStageReq, CreateStageRes, DestroyStageReq, GetOrCreateStageReq, GetOrCreateStageRes,
    SystemMessage,
};
use crate::target::{Policy, To};

/// Sends messages and requests to stages and servers of the mesh: cloneable, usable from any
/// thread and on any executor. It keeps nothing running.
///
/// Everything that is asked for ends: with an answer, or an error when its deadline is over (30 s
/// unless [`NodeOptions::request_deadline`](proscenium_nodelink::NodeOptions) or
/// [`within`](Self::within) say otherwise), or earlier when the link is lost.
///
/// All methods have the same errors, in the numbers that travel between servers: the code of the
/// answer if it is not 0, and of this server 1 if no answer came in time, 2 if that server cannot
/// be reached (or no server of the service), 11 for a message id that is none, or an answer that is
/// not what was expected, 14 if the payload is too long or there is no room. A
/// [`Failure`](crate::Failure) that is made of one keeps it, so `?` in a handler passes it on.
///
/// It sends to others: the server's own name is error 2, and its services are the other servers of
/// them. What a server wants of itself is a call of the function that is its handler.
#[derive(Clone)]
pub struct ApiSender {
    node: NodeHandle,
    policies: Arc<Policies>,
    deadline: Option<Duration>,
    /// The requests that wait for what is being handled.
    chain: Option<Arc<[Waiting]>>,
}

/// A [`ChainEntry`] that owns its memory.
#[derive(Debug)]
struct Waiting {
    nid: Box<str>,
    stage: i64,
    invocation: u64,
    request: u64,
}

/// # Making
impl ApiSender {
    pub(crate) fn new(node: NodeHandle) -> Self {
        Self {
            node,
            policies: Arc::default(),
            deadline: None,
            chain: None,
        }
    }

    /// The same for the handler of a request that others wait for.
    pub(crate) fn in_chain(&self, chain: &Chain<'_>) -> Self {
        let mut sender = self.clone();
        if !chain.is_empty() {
            let waiting = chain.iter().map(|entry| Waiting {
                nid: entry.nid.into(),
                stage: entry.stage,
                invocation: entry.invocation,
                request: entry.request,
            });
            sender.chain = Some(waiting.collect());
        }
        sender
    }

    /// The same, whose requests fail after that time.
    #[must_use]
    pub fn within(&self, deadline: Duration) -> Self {
        Self {
            deadline: Some(deadline),
            ..self.clone()
        }
    }

    /// The name of the server that sends.
    pub fn nid(&self) -> &Nid {
        self.node.nid()
    }

    /// The node under it: peers, statistics, other kinds of messages.
    pub fn node(&self) -> &NodeHandle {
        &self.node
    }

    /// Chooses a running server of a service.
    ///
    /// # Errors
    /// 2 if none can be reached.
    pub fn choose(&self, service_id: u16, by: Policy<'_>) -> Result<Nid, ErrorCode> {
        let chosen = self.policies.choose(&self.node, service_id, by);
        chosen.ok_or(ErrorCode::SERVER_NOT_FOUND)
    }
}

/// # Stages
impl ApiSender {
    /// Creates a stage of a type on a Play server. Its
    /// [`on_create`](crate::PlayStage::on_create) gets the message.
    ///
    /// # Errors
    /// 8 if there is a stage of that id; 9 if its creation was refused or failed; 13 if the server
    /// has no such type; those of [all methods](Self).
    pub fn create_stage(
        &self,
        nid: &str,
        stage_type: &str,
        id: i64,
        content: Content,
    ) -> Asking<Created> {
        let ask = CreateStageReq {
            stage_type: stage_type.to_owned(),
            payload_id: content.msg_id.into_owned(),
            payload: content.payload.into(),
        };
        self.ask_system(nid, id, &ask, created::<CreateStageRes>)
    }

    /// The same, but a stage of that id and type that is there is as good.
    ///
    /// # Errors
    /// Those of [`create_stage`](Self::create_stage), but never 8.
    pub fn get_or_create_stage(
        &self,
        nid: &str,
        stage_type: &str,
        id: i64,
        content: Content,
    ) -> Asking<Created> {
        let ask = GetOrCreateStageReq {
            stage_type: stage_type.to_owned(),
            create_payload_id: content.msg_id.into_owned(),
            create_payload: content.payload.into(),
        };
        self.ask_system(nid, id, &ask, created::<GetOrCreateStageRes>)
    }

    /// Has a stage end after what is in its backlog; true if there was one.
    ///
    /// # Errors
    /// Those of [all methods](Self).
    pub fn destroy_stage(&self, nid: &str, id: i64) -> Asking<bool> {
        self.ask_system(nid, id, &DestroyStageReq {}, |reply| match code_of(reply) {
            ErrorCode::SUCCESS => Ok(true),
            ErrorCode::STAGE_NOT_FOUND => Ok(false),
            code => Err(code),
        })
    }

    fn ask_system<M: SystemMessage, T>(
        &self,
        nid: &str,
        id: i64,
        message: &M,
        read: fn(&Reply) -> Result<T, ErrorCode>,
    ) -> Asking<T> {
        self.ask(To::Nid(nid), message.header(id), &Proto(message), read)
    }

    /// Sends a stage a message: its
    /// [`on_dispatch_server`](crate::PlayStage::on_dispatch_server) gets it. That there is no such
    /// stage is not told.
    ///
    /// # Errors
    /// 2, 11 and 14 of [all methods](Self).
    pub fn send_to_stage(
        &self,
        nid: &str,
        id: i64,
        msg_id: &str,
        payload: impl Payload,
    ) -> Result<(), ErrorCode> {
        self.send(To::Nid(nid), stage_header(id, msg_id), &payload)
    }

    /// Asks a stage something.
    ///
    /// # Errors
    /// 3 if there is no such stage; those of [all methods](Self).
    pub fn request_to_stage(
        &self,
        nid: &str,
        id: i64,
        msg_id: &str,
        payload: impl Payload,
    ) -> Asking<Content> {
        let header = stage_header(id, msg_id);
        self.ask(To::Nid(nid), header, &payload, content_of)
    }

    /// The same, and calls `call` with what became of it, on the thread of the node's shard: it
    /// must not block.
    ///
    /// # Errors
    /// 2, 11 and 14 of [all methods](Self) if it is not sent; then `call` is not called.
    pub fn request_to_stage_with(
        &self,
        nid: &str,
        id: i64,
        msg_id: &str,
        payload: impl Payload,
        call: impl FnOnce(Result<Content, ErrorCode>) + Send + 'static,
    ) -> Result<(), ErrorCode> {
        self.ask_with(To::Nid(nid), stage_header(id, msg_id), &payload, call)
    }
}

/// # API servers
impl ApiSender {
    /// Sends another API server a message: the one of that name, or one of a service. This server
    /// is not among those.
    ///
    /// # Errors
    /// 2, 11 and 14 of [all methods](Self).
    pub fn send_to_api<'a>(
        &self,
        to: impl Into<To<'a>>,
        msg_id: &str,
        payload: impl Payload,
    ) -> Result<(), ErrorCode> {
        self.send(to.into(), stage_header(0, msg_id), &payload)
    }

    /// Asks another API server something: the one of that name, or one of a service. This server
    /// is not among those.
    ///
    /// # Errors
    /// 12 if it has no handler for that message, 15 if that failed; those of [all methods](Self).
    pub fn request_to_api<'a>(
        &self,
        to: impl Into<To<'a>>,
        msg_id: &str,
        payload: impl Payload,
    ) -> Asking<Content> {
        self.ask(to.into(), stage_header(0, msg_id), &payload, content_of)
    }

    /// The same, and calls `call` with what became of it, on the thread of the node's shard: it
    /// must not block.
    ///
    /// # Errors
    /// 2, 11 and 14 of [all methods](Self) if it is not sent; then `call` is not called.
    pub fn request_to_api_with<'a>(
        &self,
        to: impl Into<To<'a>>,
        msg_id: &str,
        payload: impl Payload,
        call: impl FnOnce(Result<Content, ErrorCode>) + Send + 'static,
    ) -> Result<(), ErrorCode> {
        self.ask_with(to.into(), stage_header(0, msg_id), &payload, call)
    }
}

impl ApiSender {
    /// The server's name, and the header with what is known of it.
    fn route<'h>(
        &self,
        to: To<'_>,
        mut header: RouteHeader<'h>,
    ) -> Result<(Nid, RouteHeader<'h>), ErrorCode> {
        DeliverError::check_id(header.msg_id).map_err(|_| ErrorCode::INVALID_MESSAGE)?;
        let nid = match to {
            To::Nid(nid) => Nid::new(nid).map_err(|_| ErrorCode::SERVER_NOT_FOUND)?,
            To::Service(service, by) => {
                header.service_id = service.into();
                self.choose(service, by)?
            }
        };
        Ok((nid, header))
    }

    /// Calls `with` with the header that also says who waits.
    fn chained<R>(&self, header: RouteHeader<'_>, with: impl FnOnce(&RouteHeader<'_>) -> R) -> R {
        let Some(waiting) = &self.chain else {
            return with(&header);
        };
        let entries: Vec<_> = waiting
            .iter()
            .map(|entry| ChainEntry {
                nid: &entry.nid,
                stage: entry.stage,
                invocation: entry.invocation,
                request: entry.request,
            })
            .collect();
        with(&RouteHeader {
            chain: Chain::new(&entries),
            ..header
        })
    }

    fn options(&self) -> RequestOptions {
        RequestOptions {
            deadline: self.deadline,
        }
    }

    fn send(
        &self,
        to: To<'_>,
        header: RouteHeader<'_>,
        payload: &impl Payload,
    ) -> Result<(), ErrorCode> {
        let (nid, header) = self.route(to, header)?;
        // A send begins a new chain: nobody waits for it.
        let sent = self.node.send(&nid, &header, payload.to_bytes());
        sent.map_err(|error| error.code())
    }

    fn ask<T>(
        &self,
        to: To<'_>,
        header: RouteHeader<'_>,
        payload: &impl Payload,
        read: fn(&Reply) -> Result<T, ErrorCode>,
    ) -> Asking<T> {
        let state = match self.route(to, header) {
            Ok((nid, header)) => State::Sent(self.chained(header, |header| {
                let payload = payload.to_bytes();
                self.node.request(&nid, header, payload, self.options())
            })),
            Err(code) => State::Refused(code),
        };
        Asking { state, read }
    }

    fn ask_with(
        &self,
        to: To<'_>,
        header: RouteHeader<'_>,
        payload: &impl Payload,
        call: impl FnOnce(Result<Content, ErrorCode>) + Send + 'static,
    ) -> Result<(), ErrorCode> {
        let (nid, header) = self.route(to, header)?;
        let call = |reply: Result<ReplyRef<'_>, RequestError>| {
            call(answer(reply.map(|reply| reply.to_reply()), content_of));
        };
        let sent = self.chained(header, |header| {
            let payload = payload.to_bytes();
            let options = self.options();
            self.node.request_with(&nid, header, payload, options, call)
        });
        sent.map_err(|error: SendError| error.code())
    }
}

impl fmt::Debug for ApiSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiSender")
            .field("nid", self.nid())
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

fn stage_header(stage_id: i64, msg_id: &str) -> RouteHeader<'_> {
    RouteHeader {
        msg_id,
        stage_id,
        ..RouteHeader::default()
    }
}

/// The code of an answer. It has 32 bits on the wire; those beyond 16 are nobody's.
fn code_of(reply: &Reply) -> ErrorCode {
    u16::try_from(reply.error_code).map_or(ErrorCode::INTERNAL_ERROR, ErrorCode)
}

fn success(reply: &Reply) -> Result<(), ErrorCode> {
    match code_of(reply) {
        ErrorCode::SUCCESS => Ok(()),
        code => Err(code),
    }
}

fn content_of(reply: &Reply) -> Result<Content, ErrorCode> {
    success(reply)?;
    Ok(Content {
        msg_id: reply.msg_id.clone().into(),
        payload: reply.payload.clone(),
    })
}

fn decode<M: Message + Default>(reply: &Reply) -> Result<M, ErrorCode> {
    success(reply)?;
    M::decode(&reply.payload[..]).map_err(|_| ErrorCode::INVALID_MESSAGE)
}

fn created<M>(reply: &Reply) -> Result<Created, ErrorCode>
where
    M: Message + Default + Into<GetOrCreateStageRes>,
{
    let GetOrCreateStageRes {
        result,
        is_created,
        payload_id,
        payload,
    } = decode::<M>(reply)?.into();
    if !result {
        return Err(ErrorCode::STAGE_CREATION_FAILED);
    }
    let has_content = !payload_id.is_empty() || !payload.is_empty();
    let content = has_content.then(|| Content {
        msg_id: payload_id.into(),
        payload: payload.into(),
    });
    Ok(Created {
        is_new: is_created,
        content,
    })
}

/// An answer of another server that is to come: await it on any executor, or
/// [wait](Self::wait) for it.
#[must_use = "dropping it gives the answer up"]
pub struct Asking<T> {
    state: State,
    read: fn(&Reply) -> Result<T, ErrorCode>,
}

enum State {
    Sent(Request),
    Refused(ErrorCode),
}

impl<T> Asking<T> {
    /// Blocks this thread until the answer comes, or the deadline of the request. Not for the
    /// threads of shards and handlers.
    ///
    /// # Errors
    /// Those of what was asked.
    pub fn wait(self) -> Result<T, ErrorCode> {
        match self.state {
            State::Sent(request) => answer(request.wait(), self.read),
            State::Refused(code) => Err(code),
        }
    }

    /// The answer as it came, whatever its error code, with the payload that a refusal may have.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn whole(self) -> Result<Reply, ErrorCode> {
        match self.state {
            State::Sent(request) => request.await.map_err(|error| error.code()),
            State::Refused(code) => Err(code),
        }
    }
}

impl Asking<Content> {
    /// The answer, decoded as a protobuf message; error 11 if it is none of that type.
    pub fn decoded<M: Message + Default>(self) -> Asking<M> {
        Asking {
            state: self.state,
            read: decode::<M>,
        }
    }
}

fn answer<T>(
    reply: Result<Reply, RequestError>,
    read: fn(&Reply) -> Result<T, ErrorCode>,
) -> Result<T, ErrorCode> {
    read(&reply.map_err(|error| error.code())?)
}

impl<T> Future for Asking<T> {
    type Output = Result<T, ErrorCode>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        match &mut this.state {
            State::Sent(request) => {
                let reply = Pin::new(request).poll(cx);
                reply.map(|reply| answer(reply, this.read))
            }
            State::Refused(code) => Poll::Ready(Err(*code)),
        }
    }
}

impl<T> fmt::Debug for Asking<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Asking(..)")
    }
}

//! [`PlayHandle`]: a Play server from any thread.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use proscenium_framing::packet::ErrorCode;
use proscenium_nodelink::NodeHandle;
use proscenium_stages::{Asked, Local, Reply, RequestError, StageStats, Stages, TellError};

use crate::call::StageReply;
use crate::directory::{Create, CreateReply, RoomMsg};
use crate::error::DeliverError;
use crate::gate::Gate;
use crate::mesh::Served;
use crate::packet::{Content, Payload};
use crate::shared::Shared;
use crate::stats::PlayStats;

/// A Play server from any thread: cloneable, and keeps nothing running.
#[derive(Clone)]
pub struct PlayHandle {
    pub(crate) shared: Arc<Shared>,
    pub(crate) stages: Stages,
}

/// That a stage was created, or was there.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Created {
    /// False if it was there before.
    pub is_new: bool,
    /// What its `on_create` answered with, if it is new.
    pub content: Option<Content>,
}

impl PlayHandle {
    /// Creates a stage of a type by its id. Its `on_create` gets the message.
    ///
    /// # Errors
    /// 8 if there is a stage of that id, of whatever type; 9 if its creation was refused or
    /// failed; 13 if no such type is registered; 14 if there is no room, or the server has stopped.
    pub fn create_stage(&self, stage_type: &str, id: i64, content: Content) -> Pending<Created> {
        self.create(stage_type, id, content, true)
    }

    /// The same, but a stage of that id and type that is there is as good.
    ///
    /// # Errors
    /// Those of [`create_stage`](Self::create_stage), but never 8: 13 if the stage is of another
    /// type.
    pub fn get_or_create_stage(
        &self,
        stage_type: &str,
        id: i64,
        content: Content,
    ) -> Pending<Created> {
        self.create(stage_type, id, content, false)
    }

    fn create(&self, stage_type: &str, id: i64, content: Content, anew: bool) -> Pending<Created> {
        let (reply, asked) = Reply::pair();
        match self.shared.kind(stage_type) {
            None => drop(reply.send(Err(ErrorCode::INVALID_STAGE_TYPE))),
            Some(kind) => {
                let create = RoomMsg::Create(Box::new(Create {
                    kind,
                    content,
                    anew,
                    reply: CreateReply::Here(reply),
                    trail: Box::default(),
                }));
                let _ = self.tell(id, Some(kind), create); // dropped, it says so itself
            }
        }
        Pending {
            asked,
            dropped: ErrorCode::STAGE_CREATION_FAILED,
        }
    }

    /// Has a stage end after what is in its backlog; true if there was one.
    ///
    /// # Errors
    /// 14 if there is no room, or the server has stopped.
    pub fn destroy_stage(&self, id: i64) -> Pending<bool> {
        let (reply, asked) = Reply::pair();
        let _ = self.stages.run_on(self.shared.place(id), move |local| {
            let closed = Gate::with(local, |gate| gate.directory.close(local, id));
            let _ = reply.send(Ok(closed));
        });
        Pending {
            asked,
            dropped: ErrorCode::SYSTEM_ERROR,
        }
    }

    /// Sends a stage a message: its [`on_dispatch_server`](crate::PlayStage::on_dispatch_server)
    /// gets it. That there is no such stage is not told.
    ///
    /// # Errors
    /// `Full` if the mailbox of its shard is full or the server has stopped; `MessageId`.
    pub fn send_to_stage(
        &self,
        id: i64,
        msg_id: &str,
        payload: impl Payload,
    ) -> Result<(), DeliverError> {
        DeliverError::check_id(msg_id)?;
        let content = Content::new(msg_id.to_owned(), payload);
        let told = self.tell(id, None, RoomMsg::Serve(Served::here(content, None)));
        told.map_err(|_| DeliverError::Full)
    }

    /// Asks a stage something.
    ///
    /// # Errors
    /// The code of its answer if that is not 0; 3 if there is no such stage; 14 if there is no
    /// room, or the server has stopped; 11 for a message id that is none.
    pub fn request_stage(&self, id: i64, msg_id: &str, payload: impl Payload) -> PendingContent {
        let (reply, asked) = Reply::pair();
        if DeliverError::check_id(msg_id).is_err() {
            let content = Content::default();
            let _ = reply.send(StageReply {
                error: ErrorCode::INVALID_MESSAGE,
                content,
            });
        } else {
            let content = Content::new(msg_id.to_owned(), payload);
            let served = Served::here(content, Some(reply));
            let _ = self.tell(id, None, RoomMsg::Serve(served));
        }
        PendingContent { asked }
    }

    fn tell(&self, id: i64, kind: Option<usize>, message: RoomMsg) -> Result<(), TellError<()>> {
        let mut posted = Posted(Some(message));
        self.stages
            .run_on(self.shared.place(id), move |local: &Local<'_>| {
                if let Some(message) = posted.0.take() {
                    Gate::with(local, |gate| gate.directory.tell(local, id, kind, message));
                }
            })
    }

    /// The server as a node of its mesh: its links, requests from other threads, who can be
    /// reached; `None` if it is none.
    pub fn node(&self) -> Option<&NodeHandle> {
        self.shared.node.as_ref().map(|node| &node.handle)
    }

    /// Begins to shut the server down, within `deadline`, as
    /// [`PlayServer::shutdown`](crate::PlayServer::shutdown) does; does not wait for it
    /// ([`PlayServer::join`](crate::PlayServer::join) does). Nothing if the server does not run
    /// yet. A server in a [directory](crate::PlayServerBuilder::directory) leaves that first, on a
    /// thread made for it.
    pub fn shutdown(&self, deadline: Duration) {
        if self.shared.place.lock().is_none() {
            return self.stages.shutdown(deadline);
        }
        let began = Instant::now();
        let (shared, stages) = (Arc::clone(&self.shared), self.stages.clone());
        let leave = move || {
            shared.leave_directory(deadline / 2);
            stages.shutdown(deadline.saturating_sub(began.elapsed()));
        };
        let thread = std::thread::Builder::new().name("play leaves".to_owned());
        if thread.spawn(leave).is_err() {
            // Without a word to the others, who notice when the links end.
            self.stages.shutdown(deadline);
        }
    }

    /// What the server has done so far.
    pub fn stats(&self) -> PlayStats {
        self.shared.stats()
    }

    /// What its stages have done so far, by shard, as the stage system counts.
    pub fn stage_stats(&self) -> Vec<StageStats> {
        self.stages.stats()
    }
}

/// A message on its way to a shard. If it does not get there, for want of room or because the
/// server has stopped, it is answered 14.
struct Posted(Option<RoomMsg>);

impl Drop for Posted {
    fn drop(&mut self) {
        if let Some(message) = self.0.take() {
            message.lost();
        }
    }
}

impl fmt::Debug for PlayHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PlayHandle")
            .field("shards", &self.shared.shards.len())
            .finish_non_exhaustive()
    }
}

/// An answer that is to come: await it on any executor, or [wait](Self::wait) for it.
#[must_use = "dropping it gives the answer up"]
pub struct Pending<T> {
    asked: Asked<Result<T, ErrorCode>>,
    /// The code if nobody answers.
    dropped: ErrorCode,
}

fn code_of(error: &RequestError, dropped: ErrorCode) -> ErrorCode {
    match error {
        RequestError::Deadline(_) => ErrorCode::REQUEST_TIMEOUT,
        RequestError::NoReply => dropped,
        _ => ErrorCode::SYSTEM_ERROR,
    }
}

impl<T> Pending<T> {
    /// Blocks this thread until the answer comes, at most for `timeout`. Not for shard threads.
    ///
    /// # Errors
    /// Those of what was asked; 1 if it takes longer.
    pub fn wait(self, timeout: Duration) -> Result<T, ErrorCode> {
        let answer = self.asked.wait(timeout);
        answer.unwrap_or_else(|error| Err(code_of(&error, self.dropped)))
    }
}

impl<T> Future for Pending<T> {
    type Output = Result<T, ErrorCode>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let dropped = this.dropped;
        let answer = Pin::new(&mut this.asked).poll(cx);
        answer.map(|answer| answer.unwrap_or_else(|error| Err(code_of(&error, dropped))))
    }
}

impl<T> fmt::Debug for Pending<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pending(..)")
    }
}

/// The answer of a stage that is to come: await it on any executor, or [wait](Self::wait) for it.
#[must_use = "dropping it gives the answer up"]
pub struct PendingContent {
    asked: Asked<StageReply>,
}

impl PendingContent {
    /// Blocks this thread until the answer comes, at most for `timeout`. Not for shard threads.
    ///
    /// # Errors
    /// Those of [`PlayHandle::request_stage`]; 1 if it takes longer.
    pub fn wait(self, timeout: Duration) -> Result<Content, ErrorCode> {
        StageReply::content_of(self.asked.wait(timeout))
    }
}

impl Future for PendingContent {
    type Output = Result<Content, ErrorCode>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let asked = Pin::new(&mut self.get_mut().asked);
        asked.poll(cx).map(StageReply::content_of)
    }
}

impl fmt::Debug for PendingContent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PendingContent(..)")
    }
}

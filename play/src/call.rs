//! [`Call`]: the request that a handler is about to answer, if it is one. Exactly one answer leaves
//! for each, whatever the handler does; where that is not possible, the connection is closed.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use proscenium_engine::RouterId;
use proscenium_framing::packet::{ClientPacket, ErrorCode};
use proscenium_stages::{Local, Reply, RequestError};

use crate::error::{DeliverError, Failure};
use crate::gate::Gate;
use crate::mesh::{NodeReply, ServedAsker, ServedBody};
use crate::packet::{Content, Payload};
use crate::shared::{Leftover, Shared};
use crate::wire::{self, Head};

/// What a stage or the program is answered. The content has an empty id if none came.
pub(crate) struct StageReply {
    pub(crate) error: ErrorCode,
    pub(crate) content: Content,
}

impl StageReply {
    /// What came, or the code that says why it did not.
    pub(crate) fn content_of(answer: Result<Self, RequestError>) -> Result<Content, ErrorCode> {
        match answer {
            Ok(reply) if reply.error.is_success() => Ok(reply.content),
            Ok(reply) => Err(reply.error),
            Err(RequestError::Deadline(_)) => Err(ErrorCode::REQUEST_TIMEOUT),
            Err(RequestError::NoReply) => Err(ErrorCode::UNCHECKED_CONTENTS_ERROR),
            Err(_) => Err(ErrorCode::SYSTEM_ERROR),
        }
    }
}

/// See the module's page.
pub(crate) struct Call<'a> {
    local: Local<'a>,
    shared: &'a Arc<Shared>,
    stage_id: i64,
    asker: Asker<'a>,
    state: Cell<State>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nobody waits for an answer.
    Told,
    Asked,
    Answered,
}

impl State {
    #[inline]
    const fn new(asked: bool) -> Self {
        if asked { Self::Asked } else { Self::Told }
    }
}

enum Asker<'a> {
    Nobody,
    /// Nobody whom the handler answers, but requests wait for what it does.
    Creator(&'a [u8]),
    Client {
        to: RouterId,
        lz4: bool,
        seq: u16,
        msg_id: &'a str,
    },
    Server {
        reply: RefCell<Option<Reply<StageReply>>>,
        /// The requests that wait for this one.
        trail: &'a [u8],
    },
    Remote {
        reply: RefCell<NodeReply>,
        msg_id: &'a str,
        trail: &'a [u8],
    },
}

impl<'a> Call<'a> {
    /// A call that nobody waits for.
    #[inline]
    pub(crate) fn nobody(local: Local<'a>, shared: &'a Arc<Shared>, stage_id: i64) -> Self {
        Self {
            local,
            shared,
            stage_id,
            asker: Asker::Nobody,
            state: Cell::new(State::Told),
        }
    }

    /// The same, but these requests wait for what the handler does.
    pub(crate) fn awaited(
        local: Local<'a>,
        shared: &'a Arc<Shared>,
        stage_id: i64,
        trail: &'a [u8],
    ) -> Self {
        Self {
            local,
            shared,
            stage_id,
            asker: Asker::Creator(trail),
            state: Cell::new(State::Told),
        }
    }

    #[inline]
    pub(crate) fn client(
        local: Local<'a>,
        shared: &'a Arc<Shared>,
        stage_id: i64,
        (to, lz4): (RouterId, bool),
        packet: &ClientPacket<'a>,
    ) -> Self {
        Self {
            local,
            shared,
            stage_id,
            asker: Asker::Client {
                to,
                lz4,
                seq: packet.seq,
                msg_id: packet.msg_id,
            },
            state: Cell::new(State::new(packet.seq != 0)),
        }
    }

    pub(crate) fn server(
        local: Local<'a>,
        shared: &'a Arc<Shared>,
        stage_id: i64,
        body: &'a ServedBody,
        asker: ServedAsker,
    ) -> Self {
        let state = Cell::new(State::new(asker.is_somebody()));
        let trail = body.trail();
        let asker = match asker {
            ServedAsker::Nobody => Asker::Nobody,
            ServedAsker::Here(reply) => Asker::Server {
                reply: RefCell::new(Some(reply)),
                trail,
            },
            ServedAsker::There(mut reply) => {
                reply.fallback = ErrorCode::UNCHECKED_CONTENTS_ERROR;
                Asker::Remote {
                    reply: RefCell::new(reply),
                    msg_id: body.msg_id(),
                    trail,
                }
            }
        };
        Self {
            local,
            shared,
            stage_id,
            asker,
            state,
        }
    }

    /// The requests that wait for what the handler does.
    pub(crate) fn trail(&self) -> &'a [u8] {
        match &self.asker {
            Asker::Creator(trail) => trail,
            // Who has its answer, or may get it from another handler, waits for this one no more.
            _ if self.state.get() != State::Asked => &[],
            Asker::Nobody | Asker::Client { .. } => &[],
            Asker::Server { trail, .. } | Asker::Remote { trail, .. } => trail,
        }
    }

    /// Answers; `msg_id` empty: that of the request.
    #[inline]
    pub(crate) fn answer(
        &self,
        error: ErrorCode,
        msg_id: &str,
        payload: &(impl Payload + ?Sized),
    ) -> Result<(), DeliverError> {
        match self.state.get() {
            State::Told => return Ok(()),
            State::Asked => {}
            State::Answered => return Err(DeliverError::AnsweredAlready),
        }
        let Asker::Client {
            to,
            lz4,
            seq,
            msg_id: asked,
        } = &self.asker
        else {
            return self.answer_server(error, msg_id, payload);
        };
        let head = Head {
            msg_id: if msg_id.is_empty() { asked } else { msg_id },
            seq: *seq,
            stage_id: self.stage_id,
            error,
        };
        let sent = wire::send(&self.local, (*to, *lz4), head, payload);
        if let Err(DeliverError::TooLong { .. } | DeliverError::MessageId { .. }) = sent {
            return sent; // another answer is possible
        }
        self.state.set(State::Answered);
        if let Err(DeliverError::Full) = sent {
            Gate::mute(&self.local, *to);
        }
        sent
    }

    /// [`answer`](Self::answer), where it is no client that waits. Apart, so that handlers of
    /// clients have no code of it among their own.
    #[inline(never)]
    fn answer_server(
        &self,
        error: ErrorCode,
        msg_id: &str,
        payload: &(impl Payload + ?Sized),
    ) -> Result<(), DeliverError> {
        match &self.asker {
            Asker::Nobody | Asker::Creator(_) | Asker::Client { .. } => Ok(()),
            Asker::Remote {
                reply,
                msg_id: asked,
                ..
            } => {
                let head = (error, if msg_id.is_empty() { asked } else { msg_id });
                let mesh = Gate::mesh(&self.local);
                let shard = self.local.shard();
                mesh.answer(shard, &mut reply.borrow_mut(), head, payload)?;
                self.state.set(State::Answered);
                Ok(())
            }
            Asker::Server { reply, .. } => {
                self.state.set(State::Answered);
                let reply = reply.borrow_mut().take();
                let content = Content::new(msg_id.to_owned(), payload);
                let answer = StageReply { error, content };
                match reply.map(|reply| reply.send(answer)) {
                    Some(Ok(())) => Ok(()),
                    _ => Err(DeliverError::Disconnected), // who asked has given up
                }
            }
        }
    }

    /// Answers with what a handler wants said, or with just the code if that cannot be sent.
    pub(crate) fn answer_content(&self, error: ErrorCode, content: Option<&Content>) {
        if let Some(content) = content
            && let Ok(()) | Err(DeliverError::AnsweredAlready) =
                self.answer(error, &content.msg_id, &content.payload)
        {
            return;
        }
        self.answer_last(error);
    }

    /// Answers with just a code: the shortest answer there is.
    fn answer_last(&self, error: ErrorCode) {
        let answered = self.answer(error, "", &()); // who asked may have gone
        if let (Err(DeliverError::TooLong { .. }), Asker::Client { to, .. }) =
            (answered, &self.asker)
        {
            self.state.set(State::Answered);
            Gate::mute(&self.local, *to);
        }
    }

    /// The handler is over: an answer leaves if none has.
    #[inline]
    pub(crate) fn finish(&self, result: Result<(), Failure>) {
        if let Err(failure) = result {
            self.failed(&failure);
        } else if self.state.get() == State::Asked {
            self.forgotten();
        }
    }

    #[cold]
    fn forgotten(&self) {
        self.shared.count(&self.local, |stats| &stats.unanswered);
        self.answer_last(self.shared.config.unanswered);
    }

    #[cold]
    pub(crate) fn failed(&self, failure: &Failure) {
        self.shared.count(&self.local, |stats| &stats.failures);
        tracing::debug!(stage_id = self.stage_id, %failure, "a handler failed");
        let unknown = ErrorCode::UNCHECKED_CONTENTS_ERROR;
        let code = self.shared.code_of(failure, unknown);
        self.answer_content(code, failure.content.as_ref());
    }

    /// The handler panicked.
    #[cold]
    pub(crate) fn broken(&self) {
        self.answer_last(ErrorCode::UNCHECKED_CONTENTS_ERROR);
    }

    /// Puts the answer off.
    pub(crate) fn defer(&self) -> Option<LateReply> {
        if self.state.get() != State::Asked {
            return None;
        }
        self.state.set(State::Answered);
        let asker = match &self.asker {
            Asker::Nobody | Asker::Creator(_) => return None,
            Asker::Remote { reply, msg_id, .. } => {
                let mut reply = reply.borrow_mut();
                let mut late = NodeReply::new(self.shared, reply.take()?, self.stage_id);
                late.fallback = ErrorCode::UNCHECKED_CONTENTS_ERROR;
                LateAsker::Remote {
                    reply: late,
                    msg_id: (*msg_id).into(),
                }
            }
            Asker::Client {
                to,
                lz4,
                seq,
                msg_id,
            } => LateAsker::Client {
                to: *to,
                lz4: *lz4,
                seq: *seq,
                msg_id: (*msg_id).into(),
            },
            Asker::Server { reply, .. } => LateAsker::Server(reply.borrow_mut().take()?),
        };
        Some(LateReply {
            shared: Arc::clone(self.shared),
            shard: self.local.shard(),
            stage_id: self.stage_id,
            asker: Some(asker),
        })
    }
}

impl Drop for Call<'_> {
    /// A handler that was cancelled, or panicked.
    #[inline]
    fn drop(&mut self) {
        if self.state.get() == State::Asked {
            self.answer_last(ErrorCode::UNCHECKED_CONTENTS_ERROR);
        }
    }
}

pub(crate) enum LateAsker {
    Client {
        to: RouterId,
        lz4: bool,
        seq: u16,
        msg_id: Box<str>,
    },
    Server(Reply<StageReply>),
    Remote {
        reply: NodeReply,
        msg_id: Box<str>,
    },
}

/// The right to answer one request later, from another handler of the stage
/// ([`StageCx::reply_late`](crate::StageCx::reply_late)). Dropping it answers error 15.
#[must_use = "dropping it answers error 15"]
pub struct LateReply {
    shared: Arc<Shared>,
    shard: usize,
    stage_id: i64,
    asker: Option<LateAsker>,
}

impl LateReply {
    /// Answers a request whose token was dropped.
    pub(crate) fn drop_on(
        local: &Local<'_>,
        shared: &Arc<Shared>,
        stage_id: i64,
        asker: LateAsker,
    ) {
        let late = Self {
            shared: Arc::clone(shared),
            shard: local.shard(),
            stage_id,
            asker: Some(asker),
        };
        // Not what `unanswered` says: that may be a success. Who asked may be gone.
        let _ = late.answer(local, ErrorCode::UNCHECKED_CONTENTS_ERROR, "", &());
    }

    pub(crate) fn answer(
        mut self,
        local: &Local<'_>,
        error: ErrorCode,
        msg_id: &str,
        payload: &(impl Payload + ?Sized),
    ) -> Result<(), DeliverError> {
        let asked_by; // lives as long as the call
        let asker = match self.asker.take() {
            Some(LateAsker::Client {
                to,
                lz4,
                seq,
                msg_id,
            }) => {
                asked_by = msg_id;
                Asker::Client {
                    to,
                    lz4,
                    seq,
                    msg_id: &asked_by,
                }
            }
            Some(LateAsker::Server(reply)) => Asker::Server {
                reply: RefCell::new(Some(reply)),
                trail: &[],
            },
            Some(LateAsker::Remote { reply, msg_id }) => {
                asked_by = msg_id;
                Asker::Remote {
                    reply: RefCell::new(reply),
                    msg_id: &asked_by,
                    trail: &[],
                }
            }
            None => return Err(DeliverError::AnsweredAlready),
        };
        // If it cannot be sent as it is, the drop of the call answers.
        let call = Call {
            local: *local,
            shared: &self.shared,
            stage_id: self.stage_id,
            asker,
            state: Cell::new(State::Asked),
        };
        call.answer(error, msg_id, payload)
    }
}

impl Drop for LateReply {
    fn drop(&mut self) {
        if let Some(asker) = self.asker.take() {
            let stage_id = self.stage_id;
            self.shared
                .leave(self.shard, Leftover::Unanswered { asker, stage_id });
        }
    }
}

impl std::fmt::Debug for LateReply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LateReply(..)")
    }
}

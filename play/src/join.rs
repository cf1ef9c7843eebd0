//! How a connection becomes that of an actor, in ten steps, all in the stage's own order:
//!
//! ```text
//!  1 the actor's link   2 the actor   3 its on_create   4 its on_authenticate
//!  5 the account is not empty (16)    6 its on_post_authenticate
//!    (a stage of the default type is created here, for who is authenticated)
//!    an account that has an actor already: that one gets the connection, and the steps end here
//!  7 the stage's on_join (17)         8 the actor has its place
//!  9 the stage's on_post_join        10 the answer; the connection is bound to the stage
//! ```
//!
//! Meanwhile the connection is not read. What its client had sent behind the authentication comes
//! after the answer, in order: to the stage if it was let in, else to the gate.

use std::cell::Cell;
use std::mem;
use std::sync::Arc;

use bytes::Bytes;
use proscenium_engine::RouterId;
use proscenium_framing::packet::{ClientPacket, ErrorCode};
use proscenium_stages::{Cx, Local};

use crate::actor::{Actor, ActorCx};
use crate::directory::{AnyRoom, RoomMsg};
use crate::error::DeliverError;
use crate::gate::Gate;
use crate::packet::{Content, Packet};
use crate::room::{Phase, Room, caught};
use crate::seats::{ActorId, Leave, Session};
use crate::shared::{Leftover, Shared};
use crate::stage::PlayStage;
use crate::wire::{self, Head};

/// A connection that waits for a stage to decide. Dropped undecided, it is refused.
pub(crate) struct Ticket {
    shared: Arc<Shared>,
    pub(crate) session: Session,
    /// The number of its listener.
    listener: usize,
    /// The packet with which it authenticates, which was decoded once already.
    body: Bytes,
    /// The shard of the stage.
    shard: usize,
    /// What it is refused with if it is dropped.
    fallback: Cell<ErrorCode>,
    decided: bool,
}

/// What is done with a connection, on the shard of its gate.
pub(crate) struct Outcome {
    pub(crate) session: Session,
    /// The packet to answer with, if it was a request.
    reply: Option<Bytes>,
    /// Where it goes.
    verdict: Verdict,
}

/// What became of a connection that authenticated.
pub(crate) enum Verdict {
    In(Arc<dyn AnyRoom>),
    /// That was one of its tries.
    Refused,
    /// There was no room to decide: no try.
    NoRoom,
}

impl Ticket {
    pub(crate) fn new(
        shared: Arc<Shared>,
        session: Session,
        listener: usize,
        body: Bytes,
        shard: usize,
    ) -> Self {
        Self {
            shared,
            session,
            listener,
            body,
            shard,
            fallback: Cell::new(ErrorCode::UNCHECKED_CONTENTS_ERROR),
            decided: false,
        }
    }

    fn packet(&self) -> ClientPacket<'_> {
        ClientPacket::decode(&self.body).unwrap_or(ClientPacket {
            msg_id: "",
            seq: 0,
            stage_id: 0,
            payload: &[],
        })
    }

    pub(crate) fn default_stage(&self) -> Option<usize> {
        self.shared.listener(self.listener).default_stage
    }

    pub(crate) fn refuse(self, local: &Local<'_>, code: ErrorCode, content: Option<&Content>) {
        self.shared.count(local, |counts| match code {
            ErrorCode::STAGE_NOT_FOUND => &counts.stages_missing,
            ErrorCode::JOIN_STAGE_REJECTED | ErrorCode::JOIN_STAGE_FAILED => &counts.joins_refused,
            _ => &counts.authentications_refused,
        });
        self.decide(local, code, content, Verdict::Refused);
    }

    /// Nobody has looked at it.
    pub(crate) fn turn_away(self, local: &Local<'_>, code: ErrorCode) {
        if code != ErrorCode::SYSTEM_ERROR {
            return self.refuse(local, code, None);
        }
        self.shared
            .count(local, |counts| &counts.authentications_refused);
        self.decide(local, code, None, Verdict::NoRoom);
    }

    /// The answer, and where the connection goes.
    fn decide(
        mut self,
        local: &Local<'_>,
        code: ErrorCode,
        content: Option<&Content>,
        verdict: Verdict,
    ) {
        self.decided = true;
        Gate::finish_on(
            local,
            Outcome {
                session: self.session,
                reply: self.reply(local, code, content),
                verdict,
            },
        );
    }

    fn reply(
        &self,
        local: &Local<'_>,
        code: ErrorCode,
        content: Option<&Content>,
    ) -> Option<Bytes> {
        let packet = self.packet();
        if packet.seq == 0 {
            return None;
        }
        let empty = Bytes::new();
        let (msg_id, payload) = match content {
            Some(content) => (&*content.msg_id, &content.payload),
            None => (packet.msg_id, &empty),
        };
        let head = |msg_id| Head {
            msg_id,
            seq: packet.seq,
            stage_id: packet.stage_id,
            error: code,
        };
        let lz4 = self.session.lz4;
        let limit = self.shared.config.packet_max;
        let fits = wire::encode(local, lz4, head(msg_id), payload).and_then(|reply| {
            let length = reply.len();
            if length > limit {
                return Err(DeliverError::TooLong { length, limit });
            }
            Ok(reply)
        });
        // A handler's message that cannot be sent costs its payload, not the answer.
        fits.or_else(|error| {
            let stage_id = packet.stage_id;
            tracing::warn!(%error, stage_id, "the message of a verdict cannot be sent");
            wire::encode(local, lz4, head(packet.msg_id), &())
        })
        .ok()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !mem::replace(&mut self.decided, true) {
            let packet = self.packet();
            let (seq, stage_id) = (packet.seq, packet.stage_id);
            let msg_id = packet.msg_id.into();
            self.shared.leave(
                self.shard,
                Leftover::Join {
                    session: self.session,
                    msg_id,
                    seq,
                    stage_id,
                    code: self.fallback.get(),
                },
            );
        }
    }
}

impl Outcome {
    /// Of a join that was dropped undecided, by a stage that panicked or was destroyed.
    pub(crate) fn dropped(local: &Local<'_>, session: Session, head: Head<'_>) -> Self {
        let reply = (head.seq != 0).then(|| wire::encode(local, false, head, &()).ok());
        Self {
            session,
            reply: reply.flatten(),
            verdict: Verdict::Refused,
        }
    }

    pub(crate) fn into_parts(self) -> (RouterId, Option<Bytes>, Verdict) {
        (self.session.id, self.reply, self.verdict)
    }
}

/// Why an actor did not get in.
struct Refusal {
    code: ErrorCode,
    content: Option<Content>,
}

impl Refusal {
    fn code(code: ErrorCode) -> Self {
        Self {
            code,
            content: None,
        }
    }
}

/// An actor that has authenticated, and the message for its client.
type Authenticated<'a, A> = (A, ActorCx<'a>, Option<Content>);

impl<S: PlayStage> Room<S> {
    /// See the module's page.
    pub(crate) async fn join(&mut self, cx: &Cx<'_, Self>, ticket: Box<Ticket>) {
        self.house.handled(cx);
        match self.house.phase() {
            Phase::Failed => {
                return ticket.refuse(cx, ErrorCode::STAGE_CREATION_FAILED, None);
            }
            Phase::Closing | Phase::Ousted => {
                // It waits until this one is gone.
                return self.house.tell_again(cx, RoomMsg::Join(ticket));
            }
            // Another listener has another default type, or none.
            Phase::New if !self.house.is_kind(ticket.default_stage()) => {
                return self.house.oust(cx, RoomMsg::Join(ticket));
            }
            Phase::New | Phase::Open => {}
        }
        let authenticated = self.authenticate(cx, &ticket).await;
        let (actor, mut actor_cx, mut content) = match authenticated {
            Ok(authenticated) => authenticated,
            Err(refusal) => {
                ticket.refuse(cx, refusal.code, refusal.content.as_ref());
                return self.abandon(cx);
            }
        };
        if self.house.phase() == Phase::New {
            ticket.fallback.set(ErrorCode::STAGE_CREATION_FAILED);
            self.house.by_client.set(true);
            let created = self.create(cx, (Packet::new("", &[]), &[])).await;
            if created.is_err() {
                destroy(actor, &mut actor_cx).await;
                return ticket.refuse(cx, ErrorCode::STAGE_CREATION_FAILED, None);
            }
        }
        ticket.fallback.set(ErrorCode::JOIN_STAGE_FAILED);
        self.house.joining.set(Some(ticket.session.id));
        let account = actor_cx.account_id().to_owned();
        if let Some(known) = self.house.seats.find(&account) {
            destroy(actor, &mut actor_cx).await;
            return self.reconnect(cx, ticket, known, content.as_ref()).await;
        }
        let refused = if self.house.seats.len() >= self.house.kind.options().actors_max {
            Some((actor, Refusal::code(ErrorCode::JOIN_STAGE_REJECTED)))
        } else {
            let id = self.house.seats.add(actor, &account, ticket.session);
            let entered = self.enter(cx, id, &mut content).await;
            self.settle(cx).await;
            match entered {
                Ok(()) if self.house.seats.session(id).is_some() => {
                    let verdict = Verdict::In(self.house.me(cx));
                    return ticket.decide(cx, ErrorCode::SUCCESS, content.as_ref(), verdict);
                }
                // It was made to leave while it came.
                Ok(()) => {
                    return ticket.refuse(cx, ErrorCode::JOIN_STAGE_REJECTED, None);
                }
                Err(refusal) => {
                    let removed = self.house.seats.remove(id);
                    match removed.and_then(|removed| removed.actor) {
                        Some(actor) => Some((actor, refusal)),
                        None => return ticket.refuse(cx, refusal.code, None),
                    }
                }
            }
        };
        if let Some((actor, refusal)) = refused {
            destroy(actor, &mut actor_cx).await;
            ticket.refuse(cx, refusal.code, refusal.content.as_ref());
        }
    }

    /// Steps 1 to 6. An actor is its own: a panic of one costs the stage nothing.
    async fn authenticate<'c>(
        &self,
        cx: &Cx<'c, Self>,
        ticket: &Ticket,
    ) -> Result<Authenticated<'c, S::Actor>, Refusal> {
        let shared = &self.house.shared;
        let packet = ticket.packet();
        let mut actor_cx =
            ActorCx::new(**cx, packet.stage_id, String::new(), ticket.session.address);
        let made = caught!(async {
            let mut actor = self.house.kind.make_actor();
            actor.on_create(&mut actor_cx).await;
            actor
        });
        let panicked = |text: &str| {
            shared.count(cx, |counts| &counts.panics);
            tracing::error!(stage_id = packet.stage_id, "an actor's {text} panicked");
            Refusal::code(ErrorCode::UNCHECKED_CONTENTS_ERROR)
        };
        let mut actor = made.map_err(|_| panicked("on_create"))?;
        let verdict = caught!(actor.on_authenticate(&mut actor_cx, Packet::of(&packet)));
        let verdict = verdict.map_err(|_| panicked("on_authenticate"))?;
        let refusal = match verdict {
            Ok(verdict) if !verdict.is_accepted() => Refusal {
                code: ErrorCode::AUTHENTICATION_FAILED,
                content: verdict.content,
            },
            Ok(_) if actor_cx.account_id().is_empty() => {
                Refusal::code(ErrorCode::INVALID_ACCOUNT_ID)
            }
            Ok(verdict) => {
                let content = verdict.content;
                let done = caught!(actor.on_post_authenticate(&mut actor_cx));
                done.map_err(|_| panicked("on_post_authenticate"))?;
                return Ok((actor, actor_cx, content));
            }
            Err(failure) => {
                shared.count(cx, |counts| &counts.failures);
                Refusal {
                    code: shared.code_of(&failure, ErrorCode::UNCHECKED_CONTENTS_ERROR),
                    content: failure.content,
                }
            }
        };
        destroy(actor, &mut actor_cx).await;
        Err(refusal)
    }

    /// Steps 7 to 9.
    async fn enter(
        &mut self,
        cx: &Cx<'_, Self>,
        id: ActorId,
        content: &mut Option<Content>,
    ) -> Result<(), Refusal> {
        let Self { stage, house } = self;
        let Some(mut member) = house.seats.member(id) else {
            return Err(Refusal::code(ErrorCode::JOIN_STAGE_FAILED));
        };
        let mut stage_cx = house.context(cx);
        let verdict = caught!(stage.on_join(&mut stage_cx, &mut member));
        match house.survive(cx, verdict) {
            Some(Ok(verdict)) if verdict.is_accepted() => {
                // The stage has the last word.
                *content = verdict.content.or(content.take());
            }
            Some(Ok(verdict)) => {
                return Err(Refusal {
                    code: ErrorCode::JOIN_STAGE_REJECTED,
                    content: verdict.content,
                });
            }
            Some(Err(failure)) => {
                house.shared.count(cx, |counts| &counts.failures);
                return Err(Refusal {
                    code: (house.shared).code_of(&failure, ErrorCode::JOIN_STAGE_FAILED),
                    content: failure.content,
                });
            }
            None => return Err(Refusal::code(ErrorCode::JOIN_STAGE_FAILED)),
        }
        house.seats.join(id);
        house.shared.count(cx, |counts| &counts.joins);
        house.shared.count(cx, |counts| &counts.actors);
        house.watch_empty(cx);
        let done = caught!(stage.on_post_join(&mut stage_cx, &mut member));
        house.survive(cx, done);
        Ok(())
    }

    /// The account has an actor here: that one gets the connection.
    async fn reconnect(
        &mut self,
        cx: &Cx<'_, Self>,
        ticket: Box<Ticket>,
        id: ActorId,
        content: Option<&Content>,
    ) {
        let Self { stage, house } = self;
        let (before, keep) = house.seats.rebind(id, ticket.session);
        if let Some(keep) = keep {
            house.cancel(cx, keep);
        }
        house.shared.count(cx, |counts| &counts.reconnects);
        if let Some(before) = before {
            house.shared.count(cx, |counts| &counts.replaced);
            house.shared.count(cx, |counts| &counts.closed_replaced);
            house.tell_replaced(cx, before.id);
            cx.unbind(before.id); // nobody is told of its end
            cx.close(before.id);
        }
        let verdict = Verdict::In(house.me(cx));
        if let Some(mut member) = house.seats.member(id) {
            let mut stage_cx = house.context(cx);
            let done = caught!(stage.on_connection_changed(&mut stage_cx, &mut member, true));
            house.survive(cx, done);
        }
        self.settle(cx).await;
        if self
            .house
            .seats
            .session(id)
            .is_some_and(|now| now.id == ticket.session.id)
        {
            ticket.decide(cx, ErrorCode::SUCCESS, content, verdict);
        } else {
            ticket.refuse(cx, ErrorCode::JOIN_STAGE_REJECTED, None);
        }
    }

    /// Nobody got in: a stage that was only opened for that goes, and nothing of it was run.
    fn abandon(&mut self, cx: &Cx<'_, Self>) {
        if self.house.phase() == Phase::New && self.house.wanted(cx) == 0 {
            self.house.fail(cx);
        }
    }

    /// Has the actors leave that are to, and the stage close if it is to.
    pub(crate) async fn settle(&mut self, cx: &Cx<'_, Self>) {
        while let Some((id, why)) = self.house.seats.next_leaving() {
            self.leave(cx, id, why).await;
        }
        self.house.close_if_wanted(cx);
    }

    async fn leave(&mut self, cx: &Cx<'_, Self>, id: ActorId, why: Leave) {
        let Self { stage, house } = self;
        let was_in = house.seats.has_joined(id);
        if was_in && let Some(mut member) = house.seats.member(id) {
            let mut stage_cx = house.context(cx);
            let done = caught!(stage.on_leave(&mut stage_cx, &mut member, why));
            house.survive(cx, done);
        }
        let Some(removed) = house.seats.remove(id) else {
            return;
        };
        if let Some(keep) = removed.keep {
            house.cancel(cx, keep);
        }
        if removed.joined {
            let counts = house.shared.counts(cx.shard());
            counts.leaves.add(1);
            counts.actors.take(1);
            counts.expired.add(u64::from(why == Leave::Disconnected));
        }
        let address = removed.session.and_then(|session| session.address);
        if let Some(session) = removed.session.filter(|_| removed.joined) {
            house.release(cx, session, why);
        }
        if let Some(actor) = removed.actor {
            let account = removed.account.to_string();
            let mut actor_cx = ActorCx::new(**cx, house.id, account, address);
            destroy(actor, &mut actor_cx).await;
        }
        house.watch_empty(cx);
    }
}

/// The end of an actor; a panic of it costs nobody anything.
pub(crate) async fn destroy<A: Actor>(mut actor: A, cx: &mut ActorCx<'_>) {
    if caught!(actor.on_destroy(cx)).is_err() {
        tracing::error!(stage_id = cx.stage_id(), "an actor's on_destroy panicked");
    }
}

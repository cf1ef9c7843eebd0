//! kameo, with both kinds of mailbox. Requests are sent with `try_send`, because awaiting one
//! boxes a future.

use std::marker::PhantomData;

use kameo::Actor;
use kameo::actor::{ActorRef, PreparedActor, Spawn};
use kameo::error::{Infallible, SendError};
use kameo::mailbox::{self, MailboxReceiver, MailboxSender};
use kameo::message::{Context, Message};
use tokio::runtime::Handle;

use super::drive::{Actors, Load, MAILBOX, gone, on_tokio};
use crate::workload::{Counter, Job, LEAVE, Outcome, Play, Player};

pub(super) fn unbounded(job: &Job) -> Result<Outcome, String> {
    on_tokio::<Kameo<Unbounded>>(job)
}

pub(super) fn bounded(job: &Job) -> Result<Outcome, String> {
    on_tokio::<Kameo<Bounded>>(job)
}

/// What kind of mailbox actors get.
trait Mailbox {
    fn channel<A: Actor>() -> (MailboxSender<A>, MailboxReceiver<A>);
}

struct Unbounded;

impl Mailbox for Unbounded {
    fn channel<A: Actor>() -> (MailboxSender<A>, MailboxReceiver<A>) {
        mailbox::unbounded()
    }
}

struct Bounded;

impl Mailbox for Bounded {
    fn channel<A: Actor>() -> (MailboxSender<A>, MailboxReceiver<A>) {
        mailbox::bounded(MAILBOX)
    }
}

/// Tells without waiting where there is room, which without a bound is always.
#[inline]
async fn tell<A: Message<u64>>(to: &ActorRef<A>, message: u64) -> Result<(), SendError<u64>> {
    match to.tell(message).try_send() {
        Err(SendError::MailboxFull(message)) => to.tell(message).send().await,
        told => told,
    }
}

struct CounterActor(Counter);

impl Actor for CounterActor {
    type Args = Self;
    type Error = Infallible;

    async fn on_start(args: Self, _: ActorRef<Self>) -> Result<Self, Infallible> {
        Ok(args)
    }
}

impl Message<u64> for CounterActor {
    type Reply = ();

    async fn handle(&mut self, message: u64, _: &mut Context<Self, ()>) {
        self.0.take(message);
    }
}

struct PlayerActor {
    state: Player,
    other: ActorRef<Self>,
}

impl Actor for PlayerActor {
    type Args = Self;
    type Error = Infallible;

    async fn on_start(args: Self, _: ActorRef<Self>) -> Result<Self, Infallible> {
        Ok(args)
    }
}

impl Message<u64> for PlayerActor {
    type Reply = ();

    async fn handle(&mut self, message: u64, context: &mut Context<Self, ()>) {
        let told = match self.state.receive(message) {
            Play::Return(answer) => tell(&self.other, answer).await,
            Play::Rest => Ok(()),
            Play::Leave => {
                let _ = tell(&self.other, LEAVE).await; // has left before us, if it is gone
                context.stop();
                Ok(())
            }
        };
        if told.is_err() {
            context.stop();
        }
    }
}

struct Kameo<M>(PhantomData<M>);

impl<M: Mailbox> Actors for Kameo<M> {
    type CounterRef = ActorRef<CounterActor>;
    type PlayerRef = ActorRef<PlayerActor>;
    type Place = Handle;

    async fn counter(state: Counter, _: Load) -> Result<Self::CounterRef, String> {
        Ok(CounterActor::spawn_with_mailbox(
            CounterActor(state),
            M::channel(),
        ))
    }

    async fn tell(counter: &Self::CounterRef, message: u64) -> Result<(), String> {
        tell(counter, message).await.map_err(gone)
    }

    async fn pair(states: [Player; 2], on: [&Handle; 2]) -> Result<Self::PlayerRef, String> {
        let prepared = [
            PreparedActor::new(M::channel()),
            PreparedActor::new(M::channel()),
        ];
        let refs = [
            prepared[0].actor_ref().clone(),
            prepared[1].actor_ref().clone(),
        ];
        for (side, (prepared, state)) in prepared.into_iter().zip(states).enumerate() {
            let other = refs[1 - side].clone();
            let _entered = on[side].enter();
            prepared.spawn(PlayerActor { state, other }); // detached: it ends by itself
        }
        let [first, _] = refs;
        Ok(first)
    }

    async fn serve(player: &Self::PlayerRef, message: u64) -> Result<(), String> {
        tell(player, message).await.map_err(gone)
    }
}

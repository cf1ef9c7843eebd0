//! ractor: mailboxes without a bound; an actor's state is apart from the actor.

use ractor::{Actor, ActorProcessingErr, ActorRef, ActorRuntime};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::drive::{Actors, Load, gone, on_tokio};
use crate::workload::{Counter, Job, LEAVE, Outcome, Play, Player};

pub(super) fn run(job: &Job) -> Result<Outcome, String> {
    on_tokio::<Ractor>(job)
}

struct Ractor;

struct CounterActor;

impl Actor for CounterActor {
    type Msg = u64;
    type State = Counter;
    type Arguments = Counter;

    async fn pre_start(
        &self,
        _: ActorRef<u64>,
        state: Counter,
    ) -> Result<Counter, ActorProcessingErr> {
        Ok(state)
    }

    async fn handle(
        &self,
        _: ActorRef<u64>,
        message: u64,
        state: &mut Counter,
    ) -> Result<(), ActorProcessingErr> {
        state.take(message);
        Ok(())
    }
}

struct PlayerActor;

impl Actor for PlayerActor {
    type Msg = u64;
    type State = (Player, ActorRef<u64>);
    /// The other is known once it is started.
    type Arguments = (Player, oneshot::Receiver<ActorRef<u64>>);

    async fn pre_start(
        &self,
        _: ActorRef<u64>,
        (state, other): Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        Ok((state, other.await?))
    }

    async fn handle(
        &self,
        myself: ActorRef<u64>,
        message: u64,
        (state, other): &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match state.receive(message) {
            Play::Return(answer) => other.send_message(answer)?,
            Play::Rest => {}
            Play::Leave => {
                let _ = other.send_message(LEAVE); // has left before us, if it is gone
                myself.stop(None);
            }
        }
        Ok(())
    }
}

impl Actors for Ractor {
    type CounterRef = ActorRef<u64>;
    type PlayerRef = ActorRef<u64>;
    type Place = Handle;

    async fn counter(state: Counter, _: Load) -> Result<Self::CounterRef, String> {
        let started = CounterActor::spawn(None, CounterActor, state).await;
        started
            .map(|(counter, _)| counter)
            .map_err(|error| error.to_string())
    }

    async fn tell(counter: &Self::CounterRef, message: u64) -> Result<(), String> {
        counter.send_message(message).map_err(gone)
    }

    async fn pair(states: [Player; 2], on: [&Handle; 2]) -> Result<Self::PlayerRef, String> {
        let [state, other] = states;
        let start = |state: Player, on: &Handle| {
            let (introduce, introduced) = oneshot::channel();
            let _entered = on.enter();
            let arguments = (state, introduced);
            let started = ActorRuntime::spawn_instant(None, PlayerActor, arguments);
            started
                .map(|(player, _)| (player, introduce))
                .map_err(|error| error.to_string())
        };
        let (first, introduce_second) = start(state, on[0])?;
        let (second, introduce_first) = start(other, on[1])?;
        introduce_second.send(second).map_err(gone)?;
        introduce_first.send(first.clone()).map_err(gone)?;
        Ok(first)
    }

    async fn serve(player: &Self::PlayerRef, message: u64) -> Result<(), String> {
        player.send_message(message).map_err(gone)
    }

    /// It would live on without a reference.
    fn end(counter: Self::CounterRef) {
        counter.stop(None);
    }
}

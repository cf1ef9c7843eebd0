//! No library: a tokio task and an mpsc channel for each actor, in both kinds of channel.
//!
//! An actor that is flooded receives many at once, which costs a fifth less per message there and a
//! fifth more where one message waits: so the others receive one by one.

use tokio::runtime::Handle;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{self, Receiver, Sender, UnboundedReceiver, UnboundedSender};

use super::drive::{Actors, Load, MAILBOX, gone, on_tokio};
use crate::workload::{Counter, Job, LEAVE, Outcome, Play, Player};

pub(super) fn unbounded(job: &Job) -> Result<Outcome, String> {
    on_tokio::<Unbounded>(job)
}

pub(super) fn bounded(job: &Job) -> Result<Outcome, String> {
    on_tokio::<Bounded>(job)
}

/// Most messages that a flooded actor takes out of its channel at once.
const RECEIVED_TOGETHER: usize = 256;

struct Unbounded;

impl Actors for Unbounded {
    type CounterRef = UnboundedSender<u64>;
    type PlayerRef = UnboundedSender<u64>;
    type Place = Handle;

    async fn counter(mut state: Counter, load: Load) -> Result<Self::CounterRef, String> {
        let (sender, mut mailbox) = mpsc::unbounded_channel();
        match load {
            Load::Trickle => tokio::spawn(async move {
                while let Some(message) = mailbox.recv().await {
                    state.take(message);
                }
            }),
            Load::Flood => tokio::spawn(async move {
                let mut messages = Vec::with_capacity(RECEIVED_TOGETHER);
                while mailbox.recv_many(&mut messages, RECEIVED_TOGETHER).await > 0 {
                    messages.drain(..).for_each(|message| state.take(message));
                }
            }),
        };
        Ok(sender)
    }

    async fn tell(counter: &Self::CounterRef, message: u64) -> Result<(), String> {
        counter.send(message).map_err(gone)
    }

    async fn pair(states: [Player; 2], on: [&Handle; 2]) -> Result<Self::PlayerRef, String> {
        let [(first, first_mailbox), (second, second_mailbox)] =
            [mpsc::unbounded_channel(), mpsc::unbounded_channel()];
        let [state, other] = states;
        on[0].spawn(play(state, first_mailbox, second));
        on[1].spawn(play(other, second_mailbox, first.clone()));
        Ok(first)
    }

    async fn serve(player: &Self::PlayerRef, message: u64) -> Result<(), String> {
        player.send(message).map_err(gone)
    }
}

async fn play(mut state: Player, mut mailbox: UnboundedReceiver<u64>, other: UnboundedSender<u64>) {
    while let Some(message) = mailbox.recv().await {
        let told = match state.receive(message) {
            Play::Return(answer) => other.send(answer),
            Play::Rest => Ok(()),
            Play::Leave => {
                let _ = other.send(LEAVE); // has left before us, if it is gone
                return;
            }
        };
        if told.is_err() {
            return;
        }
    }
}

struct Bounded;

impl Actors for Bounded {
    type CounterRef = Sender<u64>;
    type PlayerRef = Sender<u64>;
    type Place = Handle;

    async fn counter(mut state: Counter, load: Load) -> Result<Self::CounterRef, String> {
        let (sender, mut mailbox) = mpsc::channel(MAILBOX);
        match load {
            Load::Trickle => tokio::spawn(async move {
                while let Some(message) = mailbox.recv().await {
                    state.take(message);
                }
            }),
            Load::Flood => tokio::spawn(async move {
                let mut messages = Vec::with_capacity(RECEIVED_TOGETHER);
                while mailbox.recv_many(&mut messages, RECEIVED_TOGETHER).await > 0 {
                    messages.drain(..).for_each(|message| state.take(message));
                }
            }),
        };
        Ok(sender)
    }

    async fn tell(counter: &Self::CounterRef, message: u64) -> Result<(), String> {
        send(counter, message).await.map_err(gone)
    }

    async fn pair(states: [Player; 2], on: [&Handle; 2]) -> Result<Self::PlayerRef, String> {
        let [(first, first_mailbox), (second, second_mailbox)] =
            [mpsc::channel(MAILBOX), mpsc::channel(MAILBOX)];
        let [state, other] = states;
        on[0].spawn(play_bounded(state, first_mailbox, second));
        on[1].spawn(play_bounded(other, second_mailbox, first.clone()));
        Ok(first)
    }

    async fn serve(player: &Self::PlayerRef, message: u64) -> Result<(), String> {
        send(player, message).await.map_err(gone)
    }
}

/// `try_send` first: it is cheaper than `send`, which first sets up to wait.
#[inline]
async fn send(to: &Sender<u64>, message: u64) -> Result<(), ()> {
    match to.try_send(message) {
        Ok(()) => Ok(()),
        Err(TrySendError::Full(message)) => to.send(message).await.map_err(drop),
        Err(TrySendError::Closed(_)) => Err(()),
    }
}

async fn play_bounded(mut state: Player, mut mailbox: Receiver<u64>, other: Sender<u64>) {
    while let Some(message) = mailbox.recv().await {
        let told = match state.receive(message) {
            Play::Return(answer) => send(&other, answer).await,
            Play::Rest => Ok(()),
            Play::Leave => {
                let _ = send(&other, LEAVE).await; // has left before us, if it is gone
                return;
            }
        };
        if told.is_err() {
            return;
        }
    }
}

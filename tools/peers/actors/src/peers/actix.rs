//! actix: each thread is an arbiter. `do_send` never waits and knows no bound.

use actix::{Actor, ActorContext, Addr, Arbiter, ArbiterHandle, AsyncContext, Context, Handler};
use actix::{Message, System};

use super::drive::{Actors, Load, one_thread, one_threaded, rally};
use crate::workload::{Counter, Job, LEAVE, Outcome, Play, Player, Workload};

pub(super) fn run(job: &Job) -> Result<Outcome, String> {
    // actix starts its threads itself, so a scheduler that cannot be built ends the run there.
    let scheduler = || one_thread().expect("a scheduler without I/O needs nothing that can fail");
    let system = System::with_tokio_rt(scheduler);
    let result = match job.workload {
        Workload::WorkStealing => Err("actix has no work-stealing scheduler".to_owned()),
        Workload::TwoThreads => {
            let arbiters = [0, 1].map(|_| Arbiter::with_tokio_rt(scheduler));
            let handles = [arbiters[0].handle(), arbiters[1].handle()];
            let result = system.block_on(rally::<Actix>(job, [&handles[0], &handles[1]]));
            for arbiter in arbiters {
                arbiter.stop();
            }
            result
        }
        _ => system.block_on(async { one_threaded::<Actix>(job, &Arbiter::current()).await }),
    };
    System::current().stop();
    result
}

struct Actix;

struct Told(u64);

impl Message for Told {
    type Result = ();
}

struct CounterActor(Counter);

impl Actor for CounterActor {
    type Context = Context<Self>;
}

impl Handler<Told> for CounterActor {
    type Result = ();

    fn handle(&mut self, Told(message): Told, _: &mut Context<Self>) {
        self.0.take(message);
    }
}

struct PlayerActor {
    state: Player,
    other: Addr<Self>,
}

impl Actor for PlayerActor {
    type Context = Context<Self>;
}

impl Handler<Told> for PlayerActor {
    type Result = ();

    fn handle(&mut self, Told(message): Told, context: &mut Context<Self>) {
        match self.state.receive(message) {
            Play::Return(answer) => self.other.do_send(Told(answer)),
            Play::Rest => {}
            Play::Leave => {
                self.other.do_send(Told(LEAVE));
                context.stop();
            }
        }
    }
}

impl Actors for Actix {
    type CounterRef = Addr<CounterActor>;
    type PlayerRef = Addr<PlayerActor>;
    type Place = ArbiterHandle;

    async fn counter(state: Counter, _: Load) -> Result<Self::CounterRef, String> {
        Ok(CounterActor(state).start())
    }

    async fn tell(counter: &Self::CounterRef, message: u64) -> Result<(), String> {
        counter.do_send(Told(message));
        Ok(())
    }

    async fn pair(states: [Player; 2], on: [&ArbiterHandle; 2]) -> Result<Self::PlayerRef, String> {
        let [state, other] = states;
        let there = on[1].clone();
        Ok(PlayerActor::start_in_arbiter(on[0], move |context| {
            let first = context.address();
            let other = PlayerActor::start_in_arbiter(&there, move |_| PlayerActor {
                state: other,
                other: first,
            });
            PlayerActor { state, other }
        }))
    }

    async fn serve(player: &Self::PlayerRef, message: u64) -> Result<(), String> {
        player.do_send(Told(message));
        Ok(())
    }
}

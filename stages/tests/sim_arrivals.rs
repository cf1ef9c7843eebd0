//! Stages that do to each other what they can, at random: what has arrived keeps its order per
//! sender, is handled by one handler at a time, and is dropped once, however stages end meanwhile.
#![cfg(feature = "sim")]

#[path = "support/sim.rs"]
mod sim;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::panic::resume_unwind;
use std::time::Duration;

use proscenium_engine::sim::{Costs, Faults, SimNet};
use proscenium_stages::{Cx, Local, Reply, Stage, StageRef, StageType, Stages, TimerId};
use sim::{House, for_seeds};

/// What all stages of a test know: they live on one thread.
#[derive(Default)]
struct World {
    random: Cell<u64>,
    /// By their numbers; those that are gone, too.
    actors: RefCell<Vec<StageRef<Actor>>>,
    /// By sender and receiver: the last that was sent, and the last that was handled.
    sent: RefCell<HashMap<(usize, usize), u64>>,
    handled: RefCell<HashMap<(usize, usize), u64>>,
    /// Loads that exist.
    loads: Cell<usize>,
    actors_alive: Cell<usize>,
    messages: Cell<u64>,
    /// What may still be told.
    left: Cell<u32>,
    /// What went wrong: a panic would be the system's.
    wrong: RefCell<Vec<&'static str>>,
}

thread_local! {
    static WORLD: World = World::default();
}

fn with<R>(call: impl FnOnce(&World) -> R) -> R {
    WORLD.with(call)
}

fn check(right: bool, what: &'static str) {
    if !right {
        with(|world| world.wrong.borrow_mut().push(what));
    }
}

fn count(counter: fn(&World) -> &Cell<usize>, up: bool) {
    with(|world| {
        let counter = counter(world);
        let now = counter.get();
        counter.set(if up { now + 1 } else { now - 1 });
    });
}

fn random(below: usize) -> usize {
    with(|world| {
        let mut state = world.random.get();
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        world.random.set(state);
        (state >> 16) as usize % below
    })
}

/// Thousands of these are meant: nothing is printed, with their traces and all.
fn panic_quietly(what: &'static str) -> ! {
    resume_unwind(Box::new(what))
}

/// Part of every message. Its drop may tell others, and panic.
struct Load(u64);

impl Load {
    fn new() -> Self {
        count(|world| &world.loads, true);
        Self(0x0123_4567_89ab_cdef)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        check(self.0 == 0x0123_4567_89ab_cdef, "dropped once");
        self.0 = 0;
        count(|world| &world.loads, false);
        if random(20) == 0 {
            say(usize::MAX, |to, msg| to.tell(msg).is_ok());
        }
        if random(50) == 0 && !std::thread::panicking() {
            panic_quietly("the drop of a load");
        }
    }
}

struct Msg {
    from: usize,
    to: usize,
    number: u64,
    reply: Option<Reply<()>>,
    load: Load,
}

/// A message for anybody.
fn say(from: usize, tell: impl FnOnce(StageRef<Actor>, Msg) -> bool) {
    let may = with(|world| {
        let left = world.left.get();
        world.left.set(left.saturating_sub(1));
        left > 0 && !world.actors.borrow().is_empty()
    });
    if may {
        let all = with(|world| world.actors.borrow().len());
        // The younger ones more often: they live.
        let to = all - 1 - random(all).min(random(all)).min(random(all));
        let (stage, msg) = message(from, to);
        tell(stage, msg);
    }
}

fn message(from: usize, to: usize) -> (StageRef<Actor>, Msg) {
    let (stage, number) = with(|world| {
        let mut sent = world.sent.borrow_mut();
        let last = sent.entry((from, to)).or_default();
        *last += 1;
        (world.actors.borrow()[to], *last)
    });
    let load = Load::new();
    let reply = None;
    let message = Msg {
        from,
        to,
        number,
        reply,
        load,
    };
    (stage, message)
}

fn spawn(local: &Local<'_>) {
    let number = with(|world| world.actors.borrow().len());
    count(|world| &world.actors_alive, true);
    let made = local.spawn(Actor {
        number,
        is_busy: Cell::new(false),
        own: Load::new(),
    });
    if let Ok(made) = made {
        with(|world| world.actors.borrow_mut().push(made));
    }
}

struct Actor {
    number: usize,
    is_busy: Cell<bool>,
    own: Load,
}

impl Drop for Actor {
    fn drop(&mut self) {
        count(|world| &world.actors_alive, false);
        check(!self.is_busy.get(), "no handler is left");
    }
}

/// One handler at a time.
struct Busy<'a>(&'a Cell<bool>);

impl<'a> Busy<'a> {
    fn new(actor: &'a Actor) -> Self {
        check(!actor.is_busy.replace(true), "one handler at a time");
        Self(&actor.is_busy)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

impl Actor {
    async fn act(&self, cx: &Cx<'_, Self>) {
        let _busy = Busy::new(self);
        for _ in 0..random(4) {
            match random(40) {
                0 => cx.stop_self(),
                1 => self.end_another(cx, false),
                2 => self.end_another(cx, true),
                3 => cx.destroy(cx.me()),
                4 | 5 => spawn(cx),
                6 => cx.sleep(Duration::from_micros(random(300) as u64)).await,
                7 => {
                    cx.set_timer(Duration::from_micros(random(300) as u64));
                }
                8 => {
                    let load = Load::new();
                    let then = move |_: &mut Self, _: &mut Cx<'_, Self>, ()| drop(load);
                    let _ = cx.detach(std::future::ready(()), then);
                }
                9 => self.ask(cx).await,
                10 => panic_quietly("a handler"),
                11 => {
                    for _ in 0..random(300) {
                        say(self.number, |to, msg| cx.tell(to, msg).is_ok());
                    }
                }
                _ => say(self.number, |to, msg| cx.tell(to, msg).is_ok()),
            }
        }
    }

    fn end_another(&self, cx: &Cx<'_, Self>, at_once: bool) {
        let all = with(|world| world.actors.borrow().len());
        let other = with(|world| world.actors.borrow()[all - 1 - random(all)]);
        if at_once {
            cx.destroy(other);
        } else {
            cx.stop(other);
        }
    }

    async fn ask(&self, cx: &Cx<'_, Self>) {
        let all = with(|world| world.actors.borrow().len());
        let (stage, mut message) = message(self.number, all - 1 - random(all));
        let asked = cx.request(stage, |reply| {
            message.reply = Some(reply);
            message
        });
        let _ = asked.within(Duration::from_micros(500)).await;
    }
}

impl Stage for Actor {
    type Msg = Msg;

    async fn on_create(&mut self, cx: &mut Cx<'_, Self>) {
        if random(4) == 0 {
            self.act(cx).await;
        }
    }

    async fn on_message(&mut self, cx: &mut Cx<'_, Self>, message: Msg) {
        check(message.to == self.number, "it is for this one");
        check(message.load.0 == self.own.0, "both are whole");
        with(|world| {
            world.messages.set(world.messages.get() + 1);
            let mut handled = world.handled.borrow_mut();
            let pair = (message.from, message.to);
            let last = handled.insert(pair, message.number).unwrap_or(0);
            check(last < message.number, "in the order of the sender");
        });
        self.act(cx).await;
        if let Some(reply) = message.reply {
            let _ = reply.send(());
        }
    }

    async fn on_timer(&mut self, cx: &mut Cx<'_, Self>, _timer: TimerId) {
        self.act(cx).await;
    }

    async fn on_destroy(&mut self, cx: &mut Cx<'_, Self>) {
        if random(3) == 0 {
            self.act(cx).await;
        }
    }
}

fn play(of_seed: &SimNet) {
    let seed = of_seed.seed();
    let to_the_end = seed.is_multiple_of(2);
    with(|world| {
        world
            .random
            .set(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        world.left.set(20_000);
        world.actors.borrow_mut().clear();
        world.sent.borrow_mut().clear();
        world.handled.borrow_mut().clear();
        world.messages.set(0);
    });
    // One of its own: a shard that does not run would only make the run shorter.
    let net = SimNet::new(seed, Faults::none());
    // A look at the clock, of which there is one every 32 messages, takes so much of a run that
    // runs end early, and what is left goes to the backlogs.
    let mut costs = Costs::default();
    costs.clock_ns = seed % 3 * 20_000;
    net.set_costs(costs);
    let stages = Stages::builder().register(StageType::<Actor>::new("actor").backlog(16));
    let mut house = House::new(&net, stages, |engine| engine.shards(1));
    for _ in 0..60 {
        // From outside, so that there is always somebody, and something for them to do.
        for _ in 0..10 {
            house.stages.run_on(0, spawn).unwrap();
        }
        for _ in 0..50 {
            say(usize::MAX - 1, |to, msg| to.tell(msg).is_ok());
        }
        house.world.run_for(Duration::from_micros(500));
    }
    if to_the_end {
        with(|world| world.left.set(0));
        house.world.run_for(Duration::from_secs(60));
        let total = house.stages.total();
        let alive = with(|world| world.actors_alive.get());
        assert_eq!(alive as u64, total.live);
        assert_eq!(with(|world| world.loads.get()), alive);
        assert!(total.dropped > 0 && total.gone > 0);
    }
    drop(house);
    let messages = with(|world| world.messages.get());
    assert!(messages > 300, "{messages} messages");
    let wrong = with(|world| world.wrong.take());
    assert!(wrong.is_empty(), "{wrong:?}");
    let left = with(|world| (world.loads.get(), world.actors_alive.get()));
    assert_eq!(left, (0, 0));
}

#[test]
fn whatever_stages_do_to_each_other_all_is_in_order_and_is_dropped_once() {
    for_seeds(
        "whatever_stages_do_to_each_other_all_is_in_order_and_is_dropped_once",
        12,
        play,
    );
}

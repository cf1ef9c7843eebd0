//! One stage that is flooded keeps nobody else waiting: neither other stages, nor continuations,
//! nor timers. Measured in virtual time, in which handling messages takes some.
#![cfg(feature = "sim")]

#[path = "support/sim.rs"]
mod sim;

use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use proscenium_engine::sim::{Costs, Faults, SimNet, SimPeer};
use proscenium_engine::{Body, Limits, Listener, RouterId, Time};
use proscenium_stages::{Cx, Stage, StageRef, StageType, Stages, Tick, TimerId};
use sim::{ADDRESS, House, MILLISECOND, SECOND, frame};

/// What each look at the clock costs, of which there is one every 32 messages: they take some
/// 600 ns each.
const CLOCK_NS: u64 = 20_000;

/// No message, continuation or timer may be later than that. It is a few times what one run of a
/// shard may take (0.5 ms).
const LATEST: Duration = Duration::from_millis(2);

fn net() -> SimNet {
    let net = SimNet::new(1, Faults::none());
    let mut costs = Costs::default();
    costs.clock_ns = CLOCK_NS;
    net.set_costs(costs);
    net
}

/// Tells itself messages without end, and takes all that connections send.
struct Flooded {
    handled: Arc<AtomicU64>,
}

impl Stage for Flooded {
    type Msg = ();

    async fn on_message(&mut self, cx: &mut Cx<'_, Self>, (): ()) {
        self.handled.fetch_add(1, Ordering::Relaxed);
        cx.tell(cx.me(), ()).unwrap(); // the backlog stays as full as it is
    }

    async fn on_packet(&mut self, _: &mut Cx<'_, Self>, _: RouterId, _: Body) {
        self.handled.fetch_add(1, Ordering::Relaxed);
    }
}

/// How late things were, by what they were.
#[derive(Clone, Default)]
struct Lateness(Arc<Mutex<Vec<(&'static str, Duration)>>>);

impl Lateness {
    fn note(&self, what: &'static str, late: Duration) {
        self.0.lock().unwrap().push((what, late));
    }

    #[track_caller]
    fn check(&self, what: &'static str, least: usize) {
        let all = self.0.lock().unwrap();
        let of: Vec<Duration> = all
            .iter()
            .filter(|(of, _)| *of == what)
            .map(|(_, late)| *late)
            .collect();
        assert!(of.len() >= least, "{what}: {} times, not {least}", of.len());
        let worst = of.iter().max().unwrap();
        assert!(*worst <= LATEST, "{what}: {worst:?} late");
    }
}

/// Does a little from time to time, and notes how long it had to wait for it.
struct Quiet {
    lateness: Lateness,
    ticks: u64,
    interval: Option<(TimerId, Time)>,
}

enum Do {
    /// Was told at that time.
    Message(Time),
    Sleep,
    Yield,
    Timers,
}

const PERIOD: Duration = Duration::from_millis(5);

impl Stage for Quiet {
    type Msg = Do;

    async fn on_message(&mut self, cx: &mut Cx<'_, Self>, message: Do) {
        match message {
            Do::Message(told) => self.lateness.note("a message", cx.now().since(told)),
            Do::Sleep => {
                let began = cx.now();
                cx.sleep(MILLISECOND).await;
                let late = cx.now().since(began).saturating_sub(MILLISECOND);
                self.lateness.note("a sleep", late);
            }
            Do::Yield => {
                let began = cx.now();
                let mut yielded = false;
                poll_fn(|task| {
                    if std::mem::replace(&mut yielded, true) {
                        return Poll::Ready(());
                    }
                    task.waker().wake_by_ref();
                    Poll::Pending
                })
                .await;
                self.lateness.note("a continuation", cx.now().since(began));
            }
            Do::Timers => {
                cx.start_tick(PERIOD);
                self.interval = Some((cx.set_interval(PERIOD, None), cx.now()));
            }
        }
    }

    async fn on_timer(&mut self, cx: &mut Cx<'_, Self>, timer: TimerId) {
        let (id, last) = self.interval.unwrap();
        assert_eq!(id, timer);
        let passed = cx.now().since(last);
        self.lateness
            .note("an interval", passed.saturating_sub(PERIOD));
        self.interval = Some((id, cx.now()));
    }

    async fn on_tick(&mut self, cx: &mut Cx<'_, Self>, tick: Tick) {
        self.ticks += 1;
        assert_eq!((tick.number, tick.missed), (self.ticks, 0));
        self.lateness.note("a tick", cx.now().since(tick.due));
    }
}

struct Run {
    house: House,
    handled: Arc<AtomicU64>,
    lateness: Lateness,
    flooded: StageRef<Flooded>,
    /// One for messages, one that sleeps, one that yields, one with timers.
    quiet: Vec<StageRef<Quiet>>,
}

impl Run {
    fn new() -> Self {
        let flooded = Arc::new(Mutex::new(None::<StageRef<Flooded>>));
        let bound_to = Arc::clone(&flooded);
        let stages = Stages::builder()
            .register(StageType::<Flooded>::new("flooded"))
            .register(StageType::<Quiet>::new("quiet"))
            .on_connect(move |local, id, _| {
                let stage = bound_to.lock().unwrap().expect("there before");
                local.bind(id, stage);
            });
        let mut house = House::new(&net(), stages, |engine| {
            engine
                .limits(Limits::default())
                .listen(Listener::tcp(ADDRESS).unwrap())
        });
        let (handled, lateness) = (Arc::new(AtomicU64::new(0)), Lateness::default());
        let counter = Arc::clone(&handled);
        let made = house
            .stages
            .spawn_on(0, move || Flooded { handled: counter });
        let stage = house.until(SECOND, made).unwrap();
        *flooded.lock().unwrap() = Some(stage);
        let quiet = (0..4)
            .map(|_| {
                let lateness = lateness.clone();
                let made = house.stages.spawn_on(0, move || Quiet {
                    lateness,
                    ticks: 0,
                    interval: None,
                });
                house.until(SECOND, made).unwrap()
            })
            .collect();
        Self {
            house,
            handled,
            lateness,
            flooded: stage,
            quiet,
        }
    }

    /// Some time under flood, which `go_on` keeps up.
    fn go(&mut self, mut go_on: impl FnMut()) {
        assert!(self.quiet[3].tell(Do::Timers).is_ok());
        self.house.world.run_for(50 * MILLISECOND);
        let before = self.handled.load(Ordering::Relaxed);
        for _ in 0..ROUNDS {
            go_on();
            let told = Do::Message(self.house.net.now());
            for (quiet, order) in self.quiet.iter().zip([told, Do::Sleep, Do::Yield]) {
                assert!(quiet.tell(order).is_ok());
            }
            self.house.world.run_for(5 * MILLISECOND);
        }
        let flood = self.handled.load(Ordering::Relaxed) - before;
        assert!(flood > 20_000, "only {flood} messages: that is no flood");
        for what in [
            "a message",
            "a sleep",
            "a continuation",
            "an interval",
            "a tick",
        ] {
            self.lateness.check(what, ROUNDS / 2);
        }
    }
}

const ROUNDS: usize = 60;

#[test]
fn a_stage_that_floods_itself_keeps_nobody_waiting() {
    let mut run = Run::new();
    for _ in 0..1000 {
        assert!(run.flooded.tell(()).is_ok());
        run.house.world.run_for(Duration::from_micros(1));
    }
    run.go(|| {});
}

#[test]
fn a_stage_that_connections_flood_keeps_nobody_waiting() {
    let mut run = Run::new();
    let mut peers: Vec<SimPeer> = (0..40).map(|_| run.house.connect()).collect();
    run.house.world.run_for(SECOND / 10);
    let bytes: Vec<u8> = (0..20_000).flat_map(|_| frame(b"x")).collect();
    // Where each is in `bytes`, so that no frame is cut.
    let mut at = vec![0; peers.len()];
    run.go(|| {
        for (peer, at) in peers.iter_mut().zip(&mut at) {
            *at = (*at + peer.write(&bytes[*at..])) % bytes.len();
        }
    });
}

/// Both at once, and many stages with little to do: they share what is left.
#[test]
fn many_flooded_stages_share() {
    let mut run = Run::new();
    let counters: Vec<Arc<AtomicU64>> = (0..50).map(|_| Arc::default()).collect();
    for counter in &counters {
        let handled = Arc::clone(counter);
        let made = run.house.stages.spawn_on(0, move || Flooded { handled });
        let stage = run.house.until(SECOND, made).unwrap();
        for _ in 0..10 {
            assert!(stage.tell(()).is_ok());
        }
    }
    for _ in 0..500 {
        assert!(run.flooded.tell(()).is_ok());
        run.house.world.run_for(Duration::from_micros(1));
    }
    run.go(|| {});
    let counts: Vec<u64> = counters
        .iter()
        .map(|counter| counter.load(Ordering::Relaxed))
        .collect();
    let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
    assert!(*least * 2 > *most, "{least} to {most}");
}

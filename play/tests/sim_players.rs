//! Many players that come, play, leave, come back and break off at any time, on a network with
//! faults: what stages and clients are told fits together, for every seed.

#[path = "../../tests/support/dice.rs"]
mod dice;
#[path = "support/sim.rs"]
mod sim;
mod support;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use dice::Dice;
use proscenium_engine::sim::SimNet;
use proscenium_play::{
    Actor, ActorCx, Failure, Leave, Member, Packet, PlayServer, PlayStage, PlayStats, Result,
    StageCx, StageKind, Verdict,
};
use sim::{HOUR, House, MILLISECOND, SECOND, SimClient, for_seeds};
use support::AUTHENTICATE;

/// Actors that were made and not dropped.
type Alive = Arc<AtomicI64>;

struct Player {
    alive: Alive,
    /// What its clients said, in their order of saying it.
    counted: u64,
    destroyed: bool,
}

impl Drop for Player {
    fn drop(&mut self) {
        assert!(
            self.destroyed || std::thread::panicking(),
            "without its on_destroy"
        );
        self.alive.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Actor for Player {
    async fn on_authenticate(
        &mut self,
        cx: &mut ActorCx<'_>,
        packet: Packet<'_>,
    ) -> Result<Verdict> {
        let text = std::str::from_utf8(packet.payload())?;
        cx.set_account_id(text.trim_start_matches('!'));
        if text.len().is_multiple_of(2) {
            cx.sleep(MILLISECOND).await;
        }
        Ok(if text.starts_with('!') {
            Verdict::refuse()
        } else {
            Verdict::accept()
        })
    }

    async fn on_destroy(&mut self, cx: &mut ActorCx<'_>) {
        if cx.account_id().len().is_multiple_of(2) {
            cx.sleep(MILLISECOND).await;
        }
        assert!(!std::mem::replace(&mut self.destroyed, true), "once");
    }
}

/// Checks what it is told.
struct Zone {
    id: i64,
    open: Arc<AtomicI64>,
    /// Its actors, and if each has a connection.
    here: BTreeMap<String, bool>,
    busy: bool,
}

impl Zone {
    fn enter(&mut self) {
        assert!(
            !std::mem::replace(&mut self.busy, true),
            "one thing at a time"
        );
    }

    fn leave(&mut self) {
        self.busy = false;
    }
}

impl PlayStage for Zone {
    type Actor = Player;

    async fn on_create(&mut self, cx: &mut StageCx<'_, Self>, _: Packet<'_>) -> Result<Verdict> {
        self.enter();
        cx.sleep(MILLISECOND).await;
        self.leave();
        if self.id == 13 {
            return Err(Failure::new("unlucky"));
        }
        let open = self.open.fetch_add(1, Ordering::Relaxed);
        assert_eq!(open, 0, "a stage is never there twice");
        Ok(Verdict::accept())
    }

    async fn on_join(
        &mut self,
        cx: &mut StageCx<'_, Self>,
        actor: &mut Member<'_, Player>,
    ) -> Result<Verdict> {
        self.enter();
        assert!(!self.here.contains_key(actor.account_id()), "it is here");
        cx.sleep(MILLISECOND).await;
        self.leave();
        if actor.account_id() == "banned" {
            return Ok(Verdict::refuse());
        }
        self.here.insert(actor.account_id().to_owned(), true);
        Ok(Verdict::accept())
    }

    async fn on_connection_changed(
        &mut self,
        cx: &mut StageCx<'_, Self>,
        actor: &mut Member<'_, Player>,
        connected: bool,
    ) {
        self.enter();
        let before = self.here.insert(actor.account_id().to_owned(), connected);
        let before = before.expect("it is here");
        assert!(connected || before, "it has lost what it had not");
        assert_eq!(actor.is_connected(), connected);
        cx.sleep(MILLISECOND).await;
        self.leave();
    }

    async fn on_leave(
        &mut self,
        _: &mut StageCx<'_, Self>,
        actor: &mut Member<'_, Player>,
        why: Leave,
    ) {
        self.enter();
        let connected = self.here.remove(actor.account_id()).expect("it is here");
        assert!(
            why != Leave::Disconnected || !connected,
            "it is gone, and lives"
        );
        self.leave();
    }

    async fn on_dispatch(
        &mut self,
        cx: &mut StageCx<'_, Self>,
        actor: &mut Member<'_, Player>,
        packet: Packet<'_>,
    ) -> Result {
        self.enter();
        assert_eq!(
            self.here.get(actor.account_id()),
            Some(&true),
            "it has a connection"
        );
        actor.counted += 1;
        match packet.msg_id() {
            "Slow" => cx.sleep(3 * MILLISECOND).await,
            "Leave" => drop(cx.leave(actor.id())),
            "Close" => cx.close_stage(),
            "All" => drop(cx.broadcast("Said", packet.payload())?),
            _ => {}
        }
        let replied = cx.reply("Reply", packet.payload());
        self.leave();
        Ok(replied?) // the connection may have ended
    }

    async fn on_destroy(&mut self, cx: &mut StageCx<'_, Self>) {
        self.enter();
        assert_eq!(cx.actor_count(), self.here.len());
        cx.sleep(MILLISECOND).await;
        self.open.fetch_sub(1, Ordering::Relaxed);
        self.leave();
    }
}

/// A client that knows what it may be answered.
struct Visitor {
    client: SimClient,
    /// Requests under way: sequence number and message.
    asked: VecDeque<(u16, &'static str)>,
    last: u16,
    /// As far as it knows.
    joined: bool,
}

impl Visitor {
    fn new(house: &House, stage: i64) -> Self {
        let mut client = house.connect();
        client.stage = stage;
        Self {
            client,
            asked: VecDeque::new(),
            last: 0,
            joined: false,
        }
    }

    fn ask(&mut self, msg_id: &'static str, payload: &str) {
        self.last += 1;
        self.asked.push_back((self.last, msg_id));
        self.client.send(msg_id, self.last, payload);
    }

    /// Every answer is that of the oldest request: exactly one for each, in order.
    fn listen(&mut self) {
        for answer in self.client.answers() {
            if answer.seq == 0 {
                continue; // a broadcast, a heartbeat
            }
            let (seq, msg_id) = self.asked.pop_front().expect("nothing is asked");
            assert_eq!(answer.seq, seq, "{answer:?}");
            match msg_id {
                AUTHENTICATE => {
                    assert!([0, 5, 7, 9, 15, 17].contains(&answer.error), "{answer:?}");
                    self.joined |= answer.error == 0;
                }
                _ => {
                    // What came after it had left, or closed its stage.
                    assert!([0, 3, 6].contains(&answer.error), "{answer:?}");
                }
            }
        }
    }
}

impl Visitor {
    fn is_done(&mut self) -> bool {
        self.listen();
        self.asked.is_empty() || self.client.is_over()
    }
}

/// What each of the visitors may do next.
fn act(dice: &mut Dice, house: &House, visitors: &mut Vec<Visitor>) {
    let stages = [1, 1, 1, 2, 3, 13];
    let accounts = ["ann", "bob", "evelyn", "banned", "!ann", "!evelyn"];
    match dice.next() % 16 {
        0..=4 => {
            let stage = stages[dice.next() as usize % stages.len()];
            let mut visitor = Visitor::new(house, stage);
            visitor.ask(
                AUTHENTICATE,
                accounts[dice.next() as usize % accounts.len()],
            );
            if dice.next().is_multiple_of(2) && stage != 13 {
                // Before it knows if it is let in: it is closed if not.
                visitor.ask("Echo", "early");
            }
            visitors.push(visitor);
        }
        5..=12 => {
            let count = visitors.len().max(1);
            let Some(visitor) = visitors.get_mut(dice.next() as usize % count) else {
                return;
            };
            if !visitor.joined {
                return;
            }
            match dice.next() % 24 {
                0 => visitor.ask("Leave", ""),
                1 => visitor.ask("Close", ""),
                2..=4 => visitor.ask("Slow", ""),
                5 => visitor.ask(AUTHENTICATE, "ann"),
                6..=9 => visitor.client.send("All", 0, "news"),
                10 => visitor.client.send("@Heart@Beat@", 0, ""),
                _ => visitor.ask("Echo", "text"),
            }
        }
        _ if visitors.is_empty() => {}
        13 => {
            let at = dice.next() as usize % visitors.len();
            visitors.swap_remove(at).client.peer.reset();
        }
        14 => {
            let at = dice.next() as usize % visitors.len();
            visitors[at].client.peer.finish();
        }
        _ => {
            let at = dice.next() as usize % visitors.len();
            visitors.swap_remove(at); // closed
        }
    }
}

/// What happened, so that it can be seen that it did.
fn play(net: &SimNet) -> PlayStats {
    let mut dice = Dice::new(net.seed() ^ 0x5eed);
    let shards = 1 + (net.seed() % 3) as usize;
    let alive = Alive::default();
    let of_actors = Arc::clone(&alive);
    let open: Vec<Arc<AtomicI64>> = (0..20).map(|_| Arc::default()).collect();
    let zones = StageKind::new(
        "zone",
        move |id| Zone {
            id,
            open: Arc::clone(&open[id as usize]),
            here: BTreeMap::new(),
            busy: false,
        },
        move || {
            of_actors.fetch_add(1, Ordering::Relaxed);
            Player {
                alive: Arc::clone(&of_actors),
                counted: 0,
                destroyed: false,
            }
        },
    )
    .keep_disconnected(2 * SECOND)
    .close_when_empty(SECOND);
    let server = PlayServer::builder()
        .shards(shards)
        .stage(zones)
        .default_stage("zone")
        .idle_timeout(HOUR)
        .authentication_deadline(5 * SECOND);
    let mut house = House::new(net, server);
    let mut visitors = Vec::new();
    for _ in 0..300 {
        act(&mut dice, &house, &mut visitors);
        house.run(Duration::from_micros(dice.next() % 20_000));
        for visitor in &mut visitors {
            visitor.listen();
        }
    }
    // Whoever still has a connection is answered everything, however slow the network is.
    for _ in 0..100_000 {
        house.run(10 * MILLISECOND);
        if visitors.iter_mut().all(Visitor::is_done) {
            break;
        }
    }
    for visitor in &mut visitors {
        assert!(visitor.is_done(), "not answered: {:?}", visitor.asked);
    }
    assert_eq!(house.handle.stats().panics, 0);
    // And when all have gone, nothing is left.
    drop(visitors);
    house.run(100 * SECOND);
    let stats = house.handle.stats();
    assert_eq!(
        (stats.panics, stats.stages, stats.actors),
        (0, 0, 0),
        "{stats:?}"
    );
    assert_eq!(alive.load(Ordering::Relaxed), 0);
    assert_eq!(house.connections(), 0);
    assert_eq!(stats.joins, stats.leaves);
    let report = house.shut_down(10 * SECOND);
    assert!(report.is_clean(), "{report}");
    stats
}

#[test]
fn whatever_players_do_what_they_and_the_stages_are_told_fits_together() {
    let seeds = if support::run_all() { 2000 } else { 150 };
    let seen = std::cell::RefCell::new(PlayStats::default());
    for_seeds(
        "whatever_players_do_what_they_and_the_stages_are_told_fits_together",
        seeds,
        |net| {
            let stats = play(net);
            let mut seen = seen.borrow_mut();
            seen.joins += stats.joins;
            seen.replaced += stats.replaced;
            seen.reconnects += stats.reconnects;
            seen.expired += stats.expired;
            seen.strays += stats.strays;
            seen.joins_refused += stats.joins_refused;
            seen.stages_refused += stats.stages_refused;
            seen.authentications_refused += stats.authentications_refused;
        },
    );
    let seen = seen.into_inner();
    if seeds > 1 && std::env::var_os("PROSCENIUM_SEED").is_none() {
        let PlayStats {
            joins,
            replaced,
            reconnects,
            expired,
            strays,
            ..
        } = seen;
        let counts = [joins, replaced, reconnects, expired, strays];
        assert!(
            counts.iter().all(|&count| count > 10),
            "it was not seen: {seen:?}"
        );
        let refused = [
            seen.joins_refused,
            seen.stages_refused,
            seen.authentications_refused,
        ];
        assert!(
            refused.iter().all(|&count| count > 10),
            "it was not seen: {seen:?}"
        );
    }
}

#[test]
fn a_seed_replays_exactly() {
    let hash = || {
        let net = SimNet::from_seed(42);
        play(&net);
        net.trace_hash()
    };
    assert_eq!(hash(), hash());
}

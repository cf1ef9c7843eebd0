//! Deadlines of requests, and what shutting down waits for, in virtual time.
#![cfg(feature = "sim")]

#[path = "support/sim.rs"]
mod sim;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use proscenium_engine::sim::{Faults, SimNet};
use proscenium_engine::{Limits, Listener, RouterId};
use proscenium_stages::{Cx, Reply, RequestError, Stage, StageRef, StageType, Stages, TimerId};
use sim::{ADDRESS, HOUR, House, MILLISECOND, SECOND, frame, take_frames};

type Notes = Arc<Mutex<Vec<String>>>;

struct Actor {
    id: u64,
    notes: Notes,
    kept: Vec<Reply<u64>>,
}

enum Msg {
    /// Keeps the token and never answers.
    Keep(Reply<u64>),
    Answer(Reply<u64>),
    /// Asks with a deadline, and notes how long it took.
    Ask(StageRef<Actor>, Option<Duration>),
    /// Is busy for so long.
    Sleep(Duration),
    Offload,
    /// Waits for nobody.
    Hang,
    /// Asks a stage that is busy for so long.
    AskBusy(StageRef<Actor>, Duration),
    Timer(Duration),
    StopSelf,
}

impl Actor {
    fn note(&self, text: impl Into<String>) {
        self.notes
            .lock()
            .unwrap()
            .push(format!("{}: {}", self.id, text.into()));
    }
}

impl Stage for Actor {
    type Msg = Msg;

    async fn on_message(&mut self, cx: &mut Cx<'_, Self>, message: Msg) {
        match message {
            Msg::Keep(reply) => self.kept.push(reply),
            Msg::Answer(reply) => drop(reply.send(42)),
            Msg::Ask(to, deadline) => {
                let began = cx.now();
                let request = cx.request(to, Msg::Keep);
                let answer = match deadline {
                    Some(deadline) => request.within(deadline).await,
                    None => request.await,
                };
                let took = cx.now().since(began).as_millis();
                self.note(format!("{answer:?} after {took} ms"));
            }
            Msg::Sleep(time) => {
                cx.sleep(time).await;
                self.note("slept");
            }
            Msg::Offload => {
                let result = cx.offload_io(|| 7).await;
                self.note(format!("offloaded {result:?}"));
            }
            Msg::Hang => std::future::pending().await,
            Msg::AskBusy(to, time) => {
                let _ = cx.tell(to, Msg::Sleep(time));
                let answer = cx.request(to, Msg::Answer).await;
                self.note(format!("answered {answer:?}"));
            }
            Msg::Timer(delay) => drop(cx.set_timer(delay)),
            Msg::StopSelf => cx.stop_self(),
        }
    }

    async fn on_timer(&mut self, _: &mut Cx<'_, Self>, _: TimerId) {
        self.note("timer");
    }

    async fn on_packet(
        &mut self,
        cx: &mut Cx<'_, Self>,
        from: RouterId,
        body: proscenium_engine::Body,
    ) {
        cx.sleep(SECOND).await;
        let _ = cx.send(from, &body); // the peer may be gone
    }

    async fn on_destroy(&mut self, cx: &mut Cx<'_, Self>) {
        cx.sleep(10 * MILLISECOND).await;
        self.note("destroyed");
    }
}

/// Actors 0 to 3, each on the shard whose number is its id modulo 2.
fn house(deadline: Duration) -> (House, Vec<StageRef<Actor>>, Notes) {
    let notes = Notes::default();
    let of = Arc::clone(&notes);
    let actors = StageType::new("actor")
        .factory(move |id| Actor {
            id,
            notes: Arc::clone(&of),
            kept: Vec::new(),
        })
        .placement(|id, shards| id as usize % shards);
    let first = Arc::new(Mutex::new(None::<StageRef<Actor>>));
    let bound_to = Arc::clone(&first);
    let stages = Stages::builder()
        .register(actors)
        .request_deadline(deadline)
        .on_connect(move |local, id, _| {
            let actor = bound_to.lock().unwrap().expect("there before");
            local.bind(id, actor);
        });
    let net = SimNet::new(1, Faults::none());
    let mut house = House::new(&net, stages, |engine| {
        let limits = Limits::default().linger(SECOND);
        let listener = Listener::tcp(ADDRESS).unwrap();
        engine.shards(2).limits(limits).listen(listener)
    });
    let actors: Vec<_> = (0..4)
        .map(|id| {
            let made = house.stages.get_or_create::<Actor>(id);
            house.until(SECOND, made).unwrap()
        })
        .collect();
    *first.lock().unwrap() = Some(actors[0]);
    (house, actors, notes)
}

fn notes(of: &Notes) -> Vec<String> {
    of.lock().unwrap().clone()
}

#[track_caller]
fn tell(to: StageRef<Actor>, message: Msg) {
    assert!(to.tell(message).is_ok());
}

#[test]
fn a_request_that_nobody_answers_ends_at_its_deadline() {
    for to in [2, 1] {
        let (mut house, actors, of) = house(30 * SECOND);
        tell(actors[0], Msg::Ask(actors[to], None));
        house.world.run_for(29 * SECOND);
        assert_eq!(notes(&of), Vec::<String>::new());
        house.world.run_for(2 * SECOND);
        let late = notes(&of);
        assert_eq!(late.len(), 1);
        assert!(
            late[0].starts_with("0: Err(Deadline(30s)) after 3000"),
            "{late:?}"
        );
        tell(actors[0], Msg::Ask(actors[to], Some(5 * MILLISECOND)));
        house.world.run_for(SECOND);
        assert!(
            notes(&of)[1].starts_with("0: Err(Deadline(5ms)) after 5"),
            "{:?}",
            notes(&of)
        );
        // Answering too late does no harm, and nothing is left of it.
        let _ = house.stages.destroy(actors[to]);
        house.world.run_for(SECOND);
        tell(actors[0], Msg::Ask(actors[to], None));
        house.world.run_for(SECOND);
        assert!(notes(&of)[3].starts_with("0: Err(Gone) after 0"));
        assert_eq!(house.engine.handle().stats().total().timers, 0);
    }
}

#[test]
fn a_request_in_the_backlog_of_a_stage_that_ends_is_answered() {
    let (mut house, actors, of) = house(HOUR);
    for (asker, asked) in [(0, 1), (2, 1)] {
        tell(actors[asked], Msg::Hang);
        tell(actors[asker], Msg::Ask(actors[asked], None));
    }
    house.world.run_for(SECOND);
    assert_eq!(notes(&of), Vec::<String>::new());
    let _ = house.stages.destroy(actors[1]);
    house.world.run_for(SECOND);
    let notes = notes(&of);
    let refused = notes.iter().filter(|note| note.contains("Err(NoReply)"));
    assert_eq!(refused.count(), 2, "{notes:?}");
    let asked = actors[1].ask(Msg::Keep);
    assert_eq!(house.until(SECOND, asked), Err(RequestError::NoReply));
}

#[test]
fn a_shutdown_lets_handlers_finish_whatever_they_wait_for() {
    let (mut house, actors, of) = house(30 * SECOND);
    tell(actors[0], Msg::Sleep(SECOND));
    tell(actors[0], Msg::Offload); // from the backlog
    tell(actors[1], Msg::AskBusy(actors[2], SECOND));
    tell(actors[1], Msg::Sleep(SECOND));
    tell(actors[3], Msg::Timer(HOUR)); // is not waited for
    let mut peer = house.connect();
    house.world.run_for(SECOND / 10);
    peer.write(&[frame(b"one"), frame(b"two")].concat());
    house.world.run_for(SECOND / 10);
    let report = house.shut_down(20 * SECOND);
    assert!(report.is_clean(), "{report}");
    assert!(report.elapsed < 10 * SECOND, "{report}");
    let mut notes = notes(&of);
    notes.sort();
    let expected = [
        "0: destroyed",
        "0: offloaded Ok(7)",
        "0: slept",
        "1: answered Ok(42)",
        "1: destroyed",
        "1: slept",
        "2: destroyed",
        "2: slept",
        "3: destroyed",
    ];
    assert_eq!(notes, expected);
    let mut bytes = Vec::new();
    peer.read(&mut bytes);
    assert_eq!(take_frames(&mut bytes), [b"one", b"two"], "answers go out");
    assert!(peer.is_read_closed());
    assert_eq!(house.stages.total().live, 0);
}

#[test]
fn a_shutdown_reports_the_stages_that_did_not_finish() {
    let (mut house, actors, of) = house(HOUR);
    tell(actors[0], Msg::Hang);
    tell(actors[1], Msg::Ask(actors[3], None)); // an hour
    tell(actors[2], Msg::Sleep(HOUR));
    house.world.run_for(SECOND / 10);
    let report = house.shut_down(10 * SECOND);
    assert_eq!(report.work_lost, 2, "{report}");
    assert!(!report.is_clean());
    assert!(report.elapsed <= 10 * SECOND + MILLISECOND, "{report}");
    // The end of actor 3 was the answer that actor 1 waited for.
    let mut notes = notes(&of);
    notes.sort();
    assert_eq!(notes.len(), 3, "{notes:?}");
    assert_eq!(notes[1..], ["1: destroyed", "3: destroyed"]);
    assert!(notes[0].starts_with("1: Err(NoReply)"), "{notes:?}");
    drop(house);
}

#[test]
fn nothing_is_made_during_a_shutdown_and_ends_wait_for_their_order() {
    let (mut house, actors, of) = house(SECOND);
    tell(actors[0], Msg::Sleep(SECOND));
    tell(actors[1], Msg::StopSelf);
    tell(actors[1], Msg::Sleep(SECOND)); // dropped: it ends before
    house.world.run_for(SECOND / 10);
    assert_eq!(notes(&of), ["1: destroyed"]);
    assert_eq!(house.stages.total().dropped, 1);
    house.engine.handle().shutdown(10 * SECOND);
    house.world.run_for(SECOND / 10);
    let made = house.stages.get_or_create::<Actor>(77);
    let made = house.until(SECOND, made);
    assert_eq!(made, Err(proscenium_stages::CreateError::Stopped));
    assert!(house.world.run_until_finished(11 * SECOND));
    assert!(house.engine.stopped().unwrap().is_clean());
}

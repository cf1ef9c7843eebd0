//! Packets that come in one read: each goes to whoever the connection is bound to by then.
#![cfg(feature = "sim")]

#[path = "support/sim.rs"]
mod sim;

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use proscenium_engine::sim::{Faults, SimNet};
use proscenium_engine::{Body, Listener, RouterId};
use proscenium_stages::{Cx, OnPanic, Reply, RequestError, Stage, StageRef, StageType, Stages};
use sim::{ADDRESS, House, SECOND, frame};

type Log = Arc<Mutex<Vec<(&'static str, String)>>>;

/// Notes what it is sent, and does what it says.
struct Hall {
    name: &'static str,
    log: Log,
    next: Option<StageRef<Hall>>,
}

impl Stage for Hall {
    type Msg = StageRef<Self>;

    async fn on_message(&mut self, _: &mut Cx<'_, Self>, next: StageRef<Self>) {
        self.next = Some(next);
    }

    async fn on_packet(&mut self, cx: &mut Cx<'_, Self>, from: RouterId, body: Body) {
        let text = String::from_utf8_lossy(&body).into_owned();
        self.log.lock().unwrap().push((self.name, text));
        match &body[..] {
            b"on" => cx.bind(from, self.next.unwrap()),
            b"close" => cx.close(from),
            b"rest" => cx.sleep(SECOND).await,
            b"leave" => cx.unbind(from),
            b"panic" => panic!("as it was told"),
            _ => {}
        }
    }
}

/// What two halls, and the builder's closure for what is unbound, were sent of `packets`.
fn sent(shards: usize, packets: &[&str]) -> Vec<(&'static str, String)> {
    let log = Log::default();
    let first = Arc::new(Mutex::new(None::<StageRef<Hall>>));
    let (bound_to, unbound) = (Arc::clone(&first), Arc::clone(&log));
    let stages = Stages::builder()
        .register(StageType::<Hall>::new("hall").on_panic(OnPanic::Destroy))
        .on_connect(move |local, id, _| local.bind(id, bound_to.lock().unwrap().unwrap()))
        .on_unbound(move |_, _, message| {
            let text = String::from_utf8_lossy(&message).into_owned();
            unbound.lock().unwrap().push(("nobody", text));
        });
    let mut house = House::new(&SimNet::new(1, Faults::none()), stages, |engine| {
        engine
            .shards(shards)
            .listen(Listener::tcp(ADDRESS).unwrap())
    });
    let hall = |name| {
        let log = Arc::clone(&log);
        move || Hall {
            name,
            log,
            next: None,
        }
    };
    let east = house.stages.spawn_on(0, hall("east"));
    let east = house.until(SECOND, east).unwrap();
    let west = house.stages.spawn_on(shards - 1, hall("west"));
    let west = house.until(SECOND, west).unwrap();
    east.tell(west).unwrap();
    west.tell(east).unwrap();
    *first.lock().unwrap() = Some(east);
    let mut peer = house.connect();
    house.world.run_for(SECOND);
    let bytes: Vec<u8> = packets
        .iter()
        .flat_map(|text| frame(text.as_bytes()))
        .collect();
    peer.write(&bytes);
    house.world.run_for(10 * SECOND);
    let log = log.lock().unwrap();
    log.clone()
}

#[track_caller]
fn assert_sent(shards: usize, packets: &[&str], expected: &[(&str, &str)]) {
    let log = sent(shards, packets);
    let log: Vec<_> = log.iter().map(|(to, text)| (*to, &text[..])).collect();
    assert_eq!(log, expected, "{shards} shards");
}

#[test]
fn what_follows_goes_to_the_stage_that_took_the_connection() {
    for shards in 1..3 {
        assert_sent(
            shards,
            &["1", "on", "2", "3", "on", "4", "on", "on", "5"],
            &[
                ("east", "1"),
                ("east", "on"),
                ("west", "2"),
                ("west", "3"),
                ("west", "on"),
                ("east", "4"),
                ("east", "on"),
                ("west", "on"),
                ("east", "5"),
            ],
        );
    }
}

#[test]
fn what_follows_goes_to_nobody_once_the_connection_is_unbound() {
    assert_sent(
        1,
        &["1", "leave", "2", "3"],
        &[
            ("east", "1"),
            ("east", "leave"),
            ("nobody", "2"),
            ("nobody", "3"),
        ],
    );
}

#[test]
fn nothing_follows_a_close_or_the_end_of_the_stage() {
    for last in ["close", "panic"] {
        assert_sent(1, &["1", last, "2", "3"], &[("east", "1"), ("east", last)]);
    }
}

#[test]
fn what_follows_waits_while_the_stage_is_busy() {
    assert_sent(
        1,
        &["1", "rest", "2", "rest", "3"],
        &[
            ("east", "1"),
            ("east", "rest"),
            ("east", "2"),
            ("east", "rest"),
            ("east", "3"),
        ],
    );
}

/// Its handler of packets is no `async fn`, and panics where a packet says so.
struct Frail(Log);

/// What [`Frail`] does with a packet.
struct Step(Body);

impl Future for Step {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        assert!(*self.0 != *b"polled", "polled");
        Poll::Ready(())
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        assert!(*self.0 != *b"dropped", "dropped");
    }
}

impl Stage for Frail {
    type Msg = ();

    async fn on_message(&mut self, _: &mut Cx<'_, Self>, (): ()) {}

    fn on_packet(
        &mut self,
        _: &mut Cx<'_, Self>,
        _: RouterId,
        body: Body,
    ) -> impl Future<Output = ()> {
        let text = String::from_utf8_lossy(&body).into_owned();
        self.0.lock().unwrap().push(("frail", text));
        assert!(*body != *b"made", "made");
        Step(body)
    }
}

impl Drop for Frail {
    fn drop(&mut self) {
        self.0.lock().unwrap().push(("frail", "gone".into()));
    }
}

/// A house in which each connection has a stage of its own.
fn house_of_frail(log: &Log) -> House {
    let of_each = Arc::clone(log);
    let stages = Stages::builder()
        .register(StageType::<Frail>::new("frail").on_panic(OnPanic::Destroy))
        .on_connect(move |local, id, _| {
            local.spawn_bound(id, Frail(Arc::clone(&of_each))).unwrap();
        });
    House::new(&SimNet::new(1, Faults::none()), stages, |engine| {
        engine.listen(Listener::tcp(ADDRESS).unwrap())
    })
}

fn frames_of<'a>(packets: impl IntoIterator<Item = &'a str>) -> Vec<u8> {
    let frames = packets.into_iter().map(|text| frame(text.as_bytes()));
    frames.flatten().collect()
}

#[test]
fn a_panic_before_in_or_after_a_packet_s_future_ends_its_stage_alone() {
    let log = Log::default();
    let mut house = house_of_frail(&log);
    for fault in ["made", "polled", "dropped"] {
        for place in 0..3 {
            let mut peer = house.connect();
            house.world.run_for(SECOND);
            let before = ["1", "2"][..place].iter().copied();
            peer.write(&frames_of(before.clone().chain([fault, "never"])));
            house.world.run_for(SECOND);
            let told: Vec<_> = std::mem::take(&mut *log.lock().unwrap());
            let told = told.iter().map(|(_, text)| text.as_str());
            let expected = before.chain([fault, "gone"]);
            assert!(told.eq(expected), "{fault} after {place}");
            assert!(peer.is_read_closed(), "its connection ends with it");
        }
    }
    let stats = house.stages.stats().remove(0);
    assert_eq!(stats.panics, 9);
    assert_eq!(stats.in_place, 9 + 3 * (1 + 2));
}

#[test]
fn how_long_packets_take_is_sampled_however_many_come_at_once() {
    const READS: u64 = 1000;
    let log = Log::default();
    let mut house = house_of_frail(&log);
    let mut peer = house.connect();
    house.world.run_for(SECOND);
    for _ in 0..READS {
        peer.write(&frames_of(["1", "2", "3", "4", "5"]));
        house.world.run_for(SECOND);
    }
    assert_eq!(log.lock().unwrap().len() as u64, 5 * READS);
    let stats = house.stages.stats().remove(0);
    assert_eq!(stats.in_place, 5 * READS);
    let sampled = stats.poll_time.count();
    assert!((READS / 80..READS / 40).contains(&sampled), "{sampled}");
}

/// Asks the next of a ring when a packet says so or when it is asked itself, and notes what came
/// of it.
struct Link {
    next: Option<StageRef<Link>>,
    answers: Answers,
}

type Answers = Arc<Mutex<Vec<Result<(), RequestError>>>>;

enum LinkMsg {
    Next(StageRef<Link>),
    Ask(Reply<()>),
}

impl Link {
    async fn ask(&self, cx: &Cx<'_, Self>) {
        let answer = cx.request(self.next.unwrap(), LinkMsg::Ask).await;
        self.answers.lock().unwrap().push(answer);
    }
}

impl Stage for Link {
    type Msg = LinkMsg;

    async fn on_message(&mut self, cx: &mut Cx<'_, Self>, message: LinkMsg) {
        match message {
            LinkMsg::Next(next) => self.next = Some(next),
            LinkMsg::Ask(reply) => {
                self.ask(cx).await;
                let _ = reply.send(()); // who asked may have been refused
            }
        }
    }

    async fn on_packet(&mut self, cx: &mut Cx<'_, Self>, _: RouterId, body: Body) {
        if *body == *b"ask" {
            self.ask(cx).await;
        }
    }
}

#[test]
fn a_packet_behind_a_request_does_not_hide_a_cycle() {
    let answers = Answers::default();
    let ring: Arc<Mutex<Vec<StageRef<Link>>>> = Arc::default();
    let (unbound, count) = (Arc::clone(&ring), Mutex::new(0..3));
    let stages = Stages::builder()
        .register(StageType::<Link>::new("link"))
        .on_connect(move |local, id, _| {
            let next = count.lock().unwrap().next();
            local.bind(id, unbound.lock().unwrap()[next.unwrap()]);
        });
    let mut house = House::new(&SimNet::new(1, Faults::none()), stages, |engine| {
        engine.listen(Listener::tcp(ADDRESS).unwrap())
    });
    for _ in 0..3 {
        let answers = Arc::clone(&answers);
        let link = move || Link {
            next: None,
            answers,
        };
        let link = house.stages.spawn_on(0, link);
        let link = house.until(SECOND, link).unwrap();
        ring.lock().unwrap().push(link);
    }
    let ring = ring.lock().unwrap().clone();
    for at in 0..3 {
        ring[at].tell(LinkMsg::Next(ring[(at + 1) % 3])).unwrap();
    }
    let peers = [(); 3].map(|()| {
        let peer = house.connect();
        house.world.run_for(SECOND);
        peer
    });
    // The second packet finds the first one's request before it.
    for (mut peer, packet) in peers.into_iter().zip(["ask", "wait", "ask"]) {
        peer.write(&frames_of([packet]));
    }
    house.world.run_for(SECOND);
    let answers = answers.lock().unwrap();
    let cycles = answers
        .iter()
        .filter(|answer| matches!(answer, Err(RequestError::Cycle(_))));
    assert_eq!((cycles.count(), answers.len()), (2, 5), "{answers:?}");
}

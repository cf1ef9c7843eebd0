//! What stands before the stages of a shard: what it sees, what it keeps back, what it passes on.
#![cfg(feature = "sim")]

#[path = "support/sim.rs"]
mod sim;

use std::cell::RefCell;
use std::sync::{Arc, Mutex};

use proscenium_engine::sim::{Faults, SimNet, SimPeer};
use proscenium_engine::{Body, CloseReason, Listener, Message, Peer, RouterId};
use proscenium_stages::{Cx, Front, Local, Stage, StageRef, StageType, Stages};
use sim::{ADDRESS, House, MILLISECOND, SECOND, frame, take_frames};

type Book = Arc<Mutex<Vec<String>>>;

fn write(book: &Book, line: String) {
    book.lock().unwrap().push(line);
}

/// Answers `ping`; binds a connection that says `in N` to desk N after some time, meanwhile holds
/// it.
struct Door {
    book: Book,
    shard: usize,
    pings: RefCell<u32>,
    told: RefCell<Vec<StageRef<Desk>>>,
}

impl Front for Door {
    fn on_connect(&self, _: &Local<'_>, _: RouterId, _: &Peer) {
        write(&self.book, "connect".to_owned());
    }

    fn on_message(&self, local: &Local<'_>, from: RouterId, message: Message<'_>) -> bool {
        if message.bytes() == b"panic" {
            std::panic::resume_unwind(Box::new("planned"));
        }
        let ping = message.bytes() == b"ping";
        if ping {
            *self.pings.borrow_mut() += 1;
            let _ = local.send(from, b"pong");
        }
        ping
    }

    fn on_unbound(&self, local: &Local<'_>, from: RouterId, message: Message<'_>) {
        let text = String::from_utf8(message.bytes().to_vec()).unwrap();
        write(&self.book, format!("unbound {text}"));
        let Some(desk) = text.strip_prefix("in ") else {
            return;
        };
        let desk: u64 = desk.parse().unwrap();
        assert!(local.hold(from));
        assert!(!local.hold(from), "it is held already");
        local.after(10 * MILLISECOND, move |local| {
            let door = local.front::<Self>().unwrap();
            assert_eq!(local.shard(), door.shard);
            if desk == 0 {
                return local.unbind(from);
            }
            // The address of a stage elsewhere, asked for there and brought back.
            let (home, back) = (desk as usize % local.shards(), local.shard());
            local.run_on(home, move |local| {
                assert_eq!(local.shard(), home);
                let stage = local.spawn(Desk { desk }).unwrap();
                local.run_on(back, move |local| local.bind(from, stage));
            });
        });
    }

    fn on_disconnect(&self, _: &Local<'_>, _: RouterId, reason: &CloseReason) {
        write(&self.book, format!("disconnect {}", reason.name()));
    }

    fn on_departed(&self, local: &Local<'_>, _: RouterId) {
        assert_eq!(local.shard(), self.shard);
        write(&self.book, "departed".to_owned());
    }

    fn run(&self, local: &Local<'_>) -> bool {
        let told = std::mem::take(&mut *self.told.borrow_mut());
        let any = !told.is_empty();
        for desk in told {
            local.tell(desk, ()).unwrap();
        }
        any
    }
}

struct Desk {
    desk: u64,
}

impl Stage for Desk {
    type Msg = ();

    async fn on_message(&mut self, cx: &mut Cx<'_, Self>, (): ()) {
        for id in cx.connections() {
            let _ = cx.send(id, b"told");
        }
    }

    async fn on_packet(&mut self, cx: &mut Cx<'_, Self>, from: RouterId, body: Body) {
        match &*body {
            b"slow" => cx.sleep(10 * MILLISECOND).await,
            b"tell" => {
                let door = cx.front::<Door>().unwrap();
                door.told.borrow_mut().push(cx.me());
            }
            b"out" => cx.unbind(from),
            _ => {}
        }
        let text = format!("{} {}", self.desk, String::from_utf8_lossy(&body));
        let _ = cx.send(from, text.as_bytes());
    }
}

struct World {
    house: House,
    book: Book,
}

impl World {
    fn new(shards: usize) -> Self {
        let book = Book::default();
        let of_doors = Arc::clone(&book);
        let stages = Stages::builder()
            .register(StageType::<Desk>::new("desk").backlog(8))
            .front(move |shard| Door {
                book: Arc::clone(&of_doors),
                shard,
                pings: RefCell::default(),
                told: RefCell::default(),
            });
        let house = House::new(&SimNet::new(1, Faults::none()), stages, |engine| {
            engine
                .shards(shards)
                .listen(Listener::tcp(ADDRESS).unwrap())
        });
        Self { house, book }
    }

    fn connect(&mut self) -> SimPeer {
        let peer = self.house.connect();
        self.house.world.run_for(SECOND);
        peer
    }

    fn answers(&mut self, peer: &mut SimPeer) -> Vec<String> {
        self.house.world.run_for(SECOND);
        let mut bytes = Vec::new();
        peer.read(&mut bytes);
        let frames = take_frames(&mut bytes).into_iter();
        frames
            .map(|frame| String::from_utf8(frame).unwrap())
            .collect()
    }

    fn book(&self) -> Vec<String> {
        std::mem::take(&mut self.book.lock().unwrap())
    }
}

fn frames(texts: &[&str]) -> Vec<u8> {
    texts
        .iter()
        .flat_map(|text| frame(text.as_bytes()))
        .collect()
}

#[test]
fn a_held_connection_says_nothing_until_it_is_bound_and_then_all_in_order() {
    for shards in [1, 3] {
        for desk in ["1", "2", "3"] {
            let mut world = World::new(shards);
            let mut peer = world.connect();
            let text = format!("in {desk}");
            peer.write(&frames(&["x", &text, "a", "b"]));
            world.house.world.run_for(5 * MILLISECOND);
            assert_eq!(
                world.book(),
                ["connect", "unbound x", &format!("unbound {text}")]
            );
            peer.write(&frames(&["c"]));
            let expected = ["a", "b", "c"].map(|text| format!("{desk} {text}"));
            assert_eq!(world.answers(&mut peer), expected);
            peer.reset();
            world.house.world.run_for(SECOND);
            let end = world.book().pop();
            assert_eq!(end.as_deref(), Some("disconnect broken"));
        }
    }
}

#[test]
fn a_held_connection_that_is_let_go_is_read_on() {
    let mut world = World::new(1);
    let mut peer = world.connect();
    peer.write(&frames(&["in 0", "a", "ping", "in 1", "b"]));
    assert_eq!(world.answers(&mut peer), ["pong", "1 b"]);
    assert_eq!(
        world.book(),
        ["connect", "unbound in 0", "unbound a", "unbound in 1"]
    );
}

#[test]
fn a_held_connection_that_ends_is_told_of_when_it_is_read_again() {
    let mut world = World::new(2);
    let mut peer = world.connect();
    peer.write(&frames(&["in 1", "a"]));
    peer.finish();
    assert_eq!(world.answers(&mut peer), ["1 a"]);
    assert!(peer.is_read_closed());
}

#[test]
fn what_it_takes_reaches_no_stage_however_busy_that_is() {
    let mut world = World::new(1);
    let mut peer = world.connect();
    peer.write(&frames(&["in 1", "slow", "a", "ping", "b", "panic", "c"]));
    // A panic of the front costs the message.
    let expected = ["pong", "1 slow", "1 a", "1 b", "1 c"];
    assert_eq!(world.answers(&mut peer), expected);
    assert_eq!(world.house.stages.total().panics, 1);
    // Also among messages that are handled in place, of one read.
    peer.write(&frames(&["a", "ping", "ping", "b", "ping"]));
    let expected = ["1 a", "pong", "pong", "1 b", "pong"];
    assert_eq!(world.answers(&mut peer), expected);
}

#[test]
fn what_follows_an_unbind_in_the_same_read_is_for_the_front() {
    let mut world = World::new(1);
    let mut peer = world.connect();
    peer.write(&frames(&["in 1"]));
    assert!(world.answers(&mut peer).is_empty());
    peer.write(&frames(&["a", "out", "b", "in 2", "c"]));
    assert_eq!(world.answers(&mut peer), ["1 a", "1 out", "2 c"]);
}

#[test]
fn what_it_tells_after_a_slice_is_handled_without_waiting_for_the_next_event() {
    let mut world = World::new(1);
    let mut peer = world.connect();
    peer.write(&frames(&["in 1", "tell"]));
    assert_eq!(world.answers(&mut peer), ["1 tell", "told"]);
}

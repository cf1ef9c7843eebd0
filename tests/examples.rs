//! The examples with stages, served over real sockets.
#![cfg(feature = "stages")]

#[allow(dead_code, reason = "its `main` is not run")]
#[path = "../examples/counter.rs"]
mod counter;
#[allow(dead_code, reason = "its `main` is not run")]
#[path = "../examples/room.rs"]
mod room;
mod support;

use std::net::TcpStream;
use std::time::Duration;

use proscenium::Engine;
use proscenium::stages::StagePost;
use support::{connect, expect_end, frame, read_frame, reset, tcp_address};

/// A client that speaks text.
struct Client(TcpStream);

impl Client {
    fn of(engine: &Engine<StagePost>) -> Self {
        Self(connect(tcp_address(&engine.local_addrs()[0])))
    }

    fn say(&mut self, line: &str) {
        use std::io::Write;
        self.0.write_all(&frame(line.as_bytes())).unwrap();
    }

    fn hear(&mut self) -> String {
        String::from_utf8(read_frame(&mut self.0)).unwrap()
    }

    #[track_caller]
    fn hears(&mut self, line: &str) {
        assert_eq!(self.hear(), line);
    }

    #[track_caller]
    fn asks(&mut self, line: &str, answer: &str) {
        self.say(line);
        self.hears(answer);
    }
}

fn end(engine: Engine<StagePost>, clients: Vec<Client>) {
    let handle = engine.handle();
    handle.shutdown(Duration::from_secs(30));
    for mut client in clients {
        expect_end(&mut client.0);
    }
    let drained = engine.join();
    assert!(drained.is_clean(), "{drained}");
}

#[test]
fn a_counter_counts_for_each_connection() {
    let engine = counter::serve("127.0.0.1:0").unwrap();
    let (mut one, mut two) = (Client::of(&engine), Client::of(&engine));
    for count in 1..=3 {
        one.asks("anything", &count.to_string());
    }
    two.asks("anything", "1");
    one.asks("anything", "4");
    end(engine, vec![one, two]);
}

#[test]
fn people_in_a_room_see_each_other_come_talk_and_go() {
    let engine = room::serve("127.0.0.1:0").unwrap();
    // More rooms than shards: connections move for some of them and stay for others.
    for round in 0..6 {
        let room = format!("room{round}");
        let (mut ann, mut bob) = (Client::of(&engine), Client::of(&engine));
        let mut cid = Client::of(&engine);
        ann.asks(&format!("join {room} ann"), &format!("joined {room}: ann"));
        bob.say(&format!("join {room} bob"));
        let joined = bob.hear();
        assert!(joined.starts_with(&format!("joined {room}: ")), "{joined}");
        assert!(joined.contains("ann") && joined.contains("bob"), "{joined}");
        ann.hears("* bob joined");
        cid.asks(&format!("join {room} ann"), "error the name ann is taken");
        cid.say(&format!("join {room} cid"));
        assert!(cid.hear().starts_with("joined"));
        for one in [&mut ann, &mut bob] {
            one.hears("* cid joined");
        }

        ann.say("say hello  all");
        bob.say("say ");
        let mut heard: Vec<[String; 2]> = [&mut ann, &mut bob, &mut cid]
            .map(|one| [one.hear(), one.hear()])
            .into();
        // A room says everything to all in the same order.
        heard.dedup();
        assert_eq!(heard.len(), 1, "{heard:?}");
        heard[0].sort();
        assert_eq!(heard[0], ["ann: hello  all", "bob: "]);

        bob.asks("leave", &format!("left {room}"));
        for one in [&mut ann, &mut cid] {
            one.hears("* bob left");
        }
        bob.asks("say anybody?", "error you are in no room");
        drop(cid);
        ann.hears("* cid left");
        // Who left may come back, to another room as well.
        bob.asks("join other bob", "joined other: bob");
        bob.asks("leave", "left other");
        bob.say(&format!("join {room} bob"));
        assert!(bob.hear().contains("ann"));
        ann.hears("* bob joined");
        reset(bob.0);
        ann.hears("* bob left");
        ann.asks("say alone", "ann: alone");
    }
    end(engine, Vec::new());
}

#[test]
fn lines_that_make_no_sense_are_errors() {
    let engine = room::serve("127.0.0.1:0").unwrap();
    let mut ann = Client::of(&engine);
    for line in [
        "join",
        "join r",
        "join r ",
        "join  n",
        "join 123456789 n",
        "dance",
        "leave now",
    ] {
        ann.say(line);
        let answer = ann.hear();
        assert!(answer.starts_with("error expected"), "{line}: {answer}");
    }
    ann.asks("leave", "error you are in no room");
    ann.asks("join 12345678 ann", "joined 12345678: ann");
    ann.asks("join b ann", "error you are in a room already");
    ann.asks("dance", "error expected join, say or leave");
    ann.asks("say still here", "ann: still here");
    end(engine, vec![ann]);
}

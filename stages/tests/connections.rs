//! Connections that are bound to stages, over real sockets and threads.

#[path = "support/desk.rs"]
mod desk;
mod support;

use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use desk::{Book, Desk, Order, Ref, What, desks};
use proscenium_engine::{Engine, RouterId};
use proscenium_stages::{StagePost, Stages, TellError};
use support::{
    PATIENCE, address_of, connect, eventually, frame, loopback, read_frame, try_read_frame,
};

/// Desks, and connections that are bound to the first of them.
struct Office {
    engine: Engine<StagePost>,
    stages: Stages,
    book: Book,
    desks: Vec<Ref>,
}

impl Office {
    fn new(shards: usize, desks_wanted: u64, backlog: u32) -> Self {
        let book = Book::default();
        let first = Arc::new(Mutex::new(None::<Ref>));
        let (at_connect, bound_to) = (book.clone(), Arc::clone(&first));
        let stages = Stages::builder()
            .register(desks(&book, backlog))
            .on_connect(move |local, id, _| {
                at_connect.write(u64::MAX, local.shard(), id, What::Connect);
                if let Some(desk) = *bound_to.lock().unwrap() {
                    local.bind(id, desk);
                }
            })
            .build();
        let engine = Engine::builder().shards(shards).listen(loopback());
        let engine = stages.start(engine).unwrap();
        let desks: Vec<Ref> = (0..desks_wanted)
            .map(|id| stages.get_or_create::<Desk>(id).wait(PATIENCE).unwrap())
            .collect();
        *first.lock().unwrap() = Some(desks[0]);
        Self {
            engine,
            stages,
            book,
            desks,
        }
    }

    fn connected(&self) -> (TcpStream, RouterId) {
        let before = self.book.connects().len();
        let stream = connect(address_of(&self.engine));
        let id = eventually("it is accepted", || {
            self.book.connects().get(before).copied()
        });
        (stream, id)
    }

    fn until_ended(&self, id: RouterId) -> (u64, &'static str) {
        eventually("the stage is told of the end", || {
            self.book.ends(id).first().copied()
        })
    }
}

fn write_numbers(stream: &mut TcpStream, range: std::ops::Range<u32>) {
    let bytes: Vec<u8> = range
        .flat_map(|number| frame(number.to_string().as_bytes()))
        .collect();
    stream.write_all(&bytes).unwrap();
}

#[track_caller]
fn read_numbers(stream: &mut TcpStream, range: std::ops::Range<u32>) {
    for number in range {
        assert_eq!(read_frame(stream), number.to_string().as_bytes());
    }
}

#[test]
fn connections_of_all_shards_come_to_their_stage_and_both_ends_are_told_of_the_end() {
    let office = Office::new(3, 1, 1024);
    let connected: Vec<_> = (0..9).map(|_| office.connected()).collect();
    for (mut stream, id) in connected {
        write_numbers(&mut stream, 0..500);
        read_numbers(&mut stream, 0..500);
        let packets = office.book.packets(id);
        assert!(
            packets
                .iter()
                .all(|(desk, shard, _)| (*desk, *shard) == (0, 0))
        );
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(try_read_frame(&mut stream).unwrap(), None);
        assert_eq!(office.until_ended(id), (0, "peer_closed"));
    }
    assert_eq!(office.stages.total().panics, 0);
    assert!(office.engine.shutdown(PATIENCE).is_clean());
}

#[test]
fn a_connection_that_goes_round_loses_nothing() {
    const IN_FLIGHT: usize = 400;
    let office = Office::new(3, 6, 1 << 16);
    let (mut stream, id) = office.connected();
    let (mut desk, mut written) = (0, 0);
    let mut seen = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    // Until it moved often enough: how many packets that takes is up to who gets the processor.
    while written < 4000 || office.book.moves(id) < 12 {
        assert!(Instant::now() < deadline, "it does not move");
        write_numbers(&mut stream, written..written + 100);
        written += 100;
        desk = (desk + 5) % 6;
        match office.desks[desk].tell(Order::Take(id)) {
            Ok(()) | Err(TellError::Full(_)) => {} // the next one does as well
            Err(error) => panic!("{error}"),
        }
        while written as usize - seen.len() > IN_FLIGHT {
            // Order between desks is not promised: each handles what came to it.
            seen.push(String::from_utf8(read_frame(&mut stream)).unwrap());
        }
    }
    while seen.len() < written as usize {
        seen.push(String::from_utf8(read_frame(&mut stream)).unwrap());
    }
    let mut numbers: Vec<u32> = seen.iter().map(|text| text.parse().unwrap()).collect();
    numbers.sort_unstable();
    assert!(numbers.into_iter().eq(0..written));
    let mut last = std::collections::HashMap::new();
    for (desk, shard, text) in office.book.packets(id) {
        assert_eq!(desk as usize % 3, shard);
        let number: i64 = text.parse().unwrap();
        assert!(last.insert(desk, number).unwrap_or(-1) < number);
    }
    drop(stream);
    office.until_ended(id);
    assert!(office.engine.shutdown(PATIENCE).is_clean());
}

#[test]
fn a_busy_stage_holds_its_connections_back_and_recovers() {
    const NUMBERS: u32 = 200_000;
    let office = Office::new(2, 1, 16);
    let (mut stream, id) = office.connected();
    write_numbers(&mut stream, 0..1);
    read_numbers(&mut stream, 0..1);
    let rested = Arc::new(AtomicBool::new(false));
    let until = Arc::clone(&rested);
    let resting = office.desks[0].ask(|began| Order::RestUntil(until, began));
    resting.wait(PATIENCE).unwrap();
    let mut writer = stream.try_clone().unwrap();
    let writing = std::thread::spawn(move || write_numbers(&mut writer, 1..NUMBERS));
    eventually("it is paused", || {
        (office.stages.total().paused > 0).then_some(())
    });
    rested.store(true, Ordering::SeqCst);
    read_numbers(&mut stream, 1..NUMBERS);
    writing.join().unwrap();
    assert_eq!(office.book.packets(id).len(), NUMBERS as usize);
    assert_eq!(office.stages.total().full, 0);
    drop(stream);
    office.until_ended(id);
    assert!(office.engine.shutdown(PATIENCE).is_clean());
}

#[test]
fn the_end_of_a_stage_is_the_end_of_its_connections() {
    for end in [true, false] {
        let office = Office::new(2, 1, 1024);
        let mut connected: Vec<_> = (0..4).map(|_| office.connected()).collect();
        for (stream, _) in &mut connected {
            write_numbers(stream, 0..3);
            read_numbers(stream, 0..3);
        }
        if end {
            let _ = office.stages.stop(office.desks[0]);
        } else {
            office.desks[0].tell(Order::Panic).unwrap();
        }
        for (mut stream, id) in connected {
            assert_eq!(
                try_read_frame(&mut stream).unwrap(),
                None,
                "the peer is told"
            );
            assert_eq!(office.book.ends(id), [], "the stage was gone before");
        }
        assert!(office.engine.shutdown(PATIENCE).is_clean());
    }
}

//! Bytes, half-close, windows, stalls and time.

use super::*;
use crate::driver::sim::Faults;

#[test]
fn everything_arrives_in_order_without_faults() {
    let net = SimNet::new(1, Faults::none());
    let (mut world, seen) = Echo::world(&net);
    let mut peer = net.connect(address());
    let sent = pattern(1_000_000);
    let (mut written, mut back) = (0, Vec::new());
    for _ in 0..10_000 {
        written += peer.write(&sent[written..]);
        peer.read(&mut back);
        if back.len() == sent.len() {
            break;
        }
        world.run_for(Duration::from_micros(100));
    }
    assert!(
        back == sent,
        "{} of {} bytes, or other ones",
        back.len(),
        sent.len()
    );
    peer.finish();
    assert!(world.run_until_quiet(SECOND));
    assert!(peer.is_read_closed());
    assert_eq!(peer.error(), None);
    assert_eq!(seen.borrow().bytes, sent.len());
    drop(peer);
    assert_eq!(net.connections(), 0);
}

#[test]
fn a_finished_peer_still_receives() {
    let net = SimNet::new(1, Faults::none());
    let mut driver = listening(&net);
    let mut peer = connected(&net, &mut driver);
    assert_eq!(peer.write(b"ping"), 4);
    peer.finish();
    assert_eq!(peer.write(b"more"), 0);
    pass(&net, SECOND);
    let mut chunk = [0; 64];
    let seen = round(&mut driver, &mut chunk);
    assert!(
        matches!(seen[..], [Completion::Received { conn: 0, len: 4 }]),
        "{seen:?}"
    );
    assert_eq!(&chunk[..4], b"ping");
    let seen = round(&mut driver, &mut chunk);
    assert!(
        matches!(seen[..], [Completion::ReadClosed { conn: 0 }]),
        "{seen:?}"
    );
    assert!(round(&mut driver, &mut chunk).is_empty(), "reported once");
    assert!(matches!(send(&mut driver, 0, b"pong"), Submitted::Taken(4)));
    driver.finish(0);
    pass(&net, SECOND);
    let mut back = Vec::new();
    assert!(!peer.is_read_closed(), "there is something to read");
    assert_eq!(peer.read(&mut back), 4);
    assert_eq!(back, b"pong");
    assert!(peer.is_read_closed());
}

#[test]
fn buffers_are_bounds_and_reading_opens_the_window() {
    let mut faults = Faults::none();
    faults.buffer_bytes = 100..=100;
    let net = SimNet::new(1, faults);
    let mut driver = listening(&net);
    let mut peer = connected(&net, &mut driver);
    driver.set_reading(0, false);
    let sent = pattern(1000);
    let mut written = 0;
    for _ in 0..5 {
        written += peer.write(&sent[written..]);
        pass(&net, SECOND);
    }
    assert_eq!(written, 200, "one send buffer and one receive buffer");
    assert_eq!(peer.unsent(), 100);
    assert!(
        round(&mut driver, &mut [0; 64]).is_empty(),
        "its reading is off"
    );
    driver.set_reading(0, true);
    let mut received = Vec::new();
    let mut chunk = [0; 64];
    while received.len() < sent.len() {
        let seen = round(&mut driver, &mut chunk);
        for completion in seen {
            let Completion::Received { conn: 0, len } = completion else {
                panic!("{completion:?}");
            };
            received.extend_from_slice(&chunk[..len]);
        }
        written += peer.write(&sent[written..]);
        pass(&net, Duration::from_millis(1));
    }
    assert_eq!(received, sent);
}

#[test]
fn a_connection_receives_one_chunk_per_round() {
    let net = SimNet::new(1, Faults::none());
    let mut driver = listening(&net);
    let mut peer = connected(&net, &mut driver);
    peer.write(&pattern(10));
    pass(&net, SECOND);
    for expected in [4, 4, 2] {
        assert!(driver.has_ready());
        let seen = round(&mut driver, &mut [0; 4]);
        let [Completion::Received { len, .. }] = seen[..] else {
            panic!("{seen:?}")
        };
        assert_eq!(len, expected);
    }
    assert!(!driver.has_ready());
}

#[test]
fn what_a_round_left_comes_in_the_next_one() {
    let net = SimNet::new(1, Faults::none());
    let mut driver = listening(&net);
    let mut first = connected(&net, &mut driver);
    let mut second = net.connect(address());
    pass(&net, SECOND);
    let Completion::Accepted { socket, .. } = round(&mut driver, &mut [0; 64]).remove(0) else {
        panic!("no second connection");
    };
    driver.register(1, socket, Some(&options())).unwrap();
    round(&mut driver, &mut [0; 64]);
    first.write(b"a");
    second.write(b"b");
    pass(&net, SECOND);
    driver.wait(Time::ZERO).unwrap();
    assert!(matches!(
        driver.next(&mut [0; 8]),
        Some(Completion::Received { conn: 0, .. })
    ));
    first.write(b"c");
    pass(&net, SECOND);
    let seen = round(&mut driver, &mut [0; 8]);
    let conns = seen.iter().map(|completion| match completion {
        Completion::Received { conn, len: 1 } => *conn,
        other => panic!("{other:?}"),
    });
    assert_eq!(
        conns.collect::<Vec<_>>(),
        [0, 1],
        "the old one is behind the new one"
    );
}

#[test]
fn a_full_socket_says_when_it_has_room() {
    let mut faults = Faults::none();
    faults.buffer_bytes = 10..=10;
    let net = SimNet::new(1, faults);
    let mut driver = listening(&net);
    let mut peer = connected(&net, &mut driver);
    let parts = [IoSlice::new(&[1; 7]), IoSlice::new(&[2; 7])];
    assert!(matches!(driver.send(0, &parts), Submitted::Taken(10)));
    assert!(round(&mut driver, &mut [0; 8]).is_empty());
    pass(&net, SECOND);
    let seen = round(&mut driver, &mut [0; 8]);
    assert!(
        matches!(seen[..], [Completion::Sent { conn: 0, len: 0 }]),
        "{seen:?}"
    );
    assert!(matches!(
        send(&mut driver, 0, &[3; 10]),
        Submitted::Taken(10)
    ));
    assert!(matches!(send(&mut driver, 0, &[]), Submitted::Taken(0)));
    assert!(matches!(send(&mut driver, 0, &[4]), Submitted::Pending));
    pass(&net, SECOND);
    assert!(
        round(&mut driver, &mut [0; 8]).is_empty(),
        "the peer has read nothing"
    );
    let mut back = Vec::new();
    assert_eq!(peer.read_at_most(4, &mut back), 4);
    pass(&net, SECOND);
    let seen = round(&mut driver, &mut [0; 8]);
    assert!(
        matches!(seen[..], [Completion::Sent { conn: 0, len: 0 }]),
        "{seen:?}"
    );
    peer.read(&mut back);
    pass(&net, SECOND);
    peer.read(&mut back);
    assert_eq!(back, [[1; 7].as_slice(), &[2; 3], &[3; 10]].concat());
}

#[test]
fn a_stall_holds_both_directions_and_then_lets_everything_through() {
    let net = SimNet::new(1, Faults::none());
    let (mut world, seen) = Echo::world(&net);
    let mut peer = net.connect(address());
    world.run_for(SECOND);
    peer.write(b"under way");
    peer.stall(SECOND * 10);
    peer.write(b" and later");
    peer.finish();
    world.run_for(SECOND * 9);
    assert_eq!((seen.borrow().bytes, peer.unread()), (0, 0));
    assert!(!net.is_quiet());
    world.run_for(SECOND * 2);
    let mut back = Vec::new();
    peer.read(&mut back);
    assert_eq!(back, b"under way and later");
    assert!(peer.is_read_closed());
}

/// Counts its deadlines, one per second.
struct Ticker {
    driver: SimDriver,
    due: Time,
    ticks: Rc<RefCell<u32>>,
}

impl SimTurn for Ticker {
    fn turn(&mut self) {
        self.driver.wait(self.due).unwrap();
        if self.driver.now() >= self.due {
            *self.ticks.borrow_mut() += 1;
            self.due = self.due + SECOND;
        }
    }

    fn next_deadline(&self) -> Option<Time> {
        Some(self.due)
    }

    fn has_work(&self) -> bool {
        self.driver.has_ready()
    }

    fn is_finished(&self) -> bool {
        *self.ticks.borrow() == 10_000
    }
}

#[test]
fn time_jumps_to_the_next_deadline() {
    let net = SimNet::new(1, Faults::none());
    let ticks = Rc::new(RefCell::new(0));
    let ticker = Ticker {
        driver: net.driver(),
        due: Time::ZERO + SECOND,
        ticks: ticks.clone(),
    };
    let mut world = SimWorld::new(&net, vec![Box::new(ticker)]);
    world.run_for(SECOND / 2);
    assert_eq!((*ticks.borrow(), net.now()), (0, Time::ZERO + SECOND / 2));
    assert!(
        world.run_until_quiet(SECOND),
        "a deadline to come does not count"
    );
    assert_eq!(*ticks.borrow(), 0);
    world.run_until(Time::ZERO + SECOND * 3600);
    assert!(*ticks.borrow() >= 3599, "{}", *ticks.borrow());
    let again = Rc::clone(&ticks);
    assert!(world.run_until_true(SECOND * 100, || *again.borrow() == 3650));
    assert!(!world.run_until_finished(SECOND * 10));
    assert!(world.run_until_finished(SECOND * 10_000));
    assert!(!world.step(), "nothing will ever happen again");
}

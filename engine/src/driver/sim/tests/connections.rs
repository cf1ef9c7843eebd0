//! Making, sharing, moving, closing and breaking connections.

use std::io::ErrorKind;

use super::*;
use crate::driver::sim::{Faults, SimListener};

fn outgoing(
    net: &SimNet,
    driver: &mut SimDriver,
    listener: &mut SimListener,
) -> super::super::SimPeer {
    driver
        .connect(0, listener.local_addr(), &options())
        .unwrap();
    pass(net, SECOND);
    let seen = round(driver, &mut [0; 8]);
    assert!(
        matches!(
            seen[..],
            [Completion::Connected {
                conn: 0,
                result: Ok(())
            }]
        ),
        "{seen:?}"
    );
    listener.accept().expect("connected")
}

#[test]
fn a_shard_connects_to_a_test() {
    let net = SimNet::new(1, Faults::none());
    let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut listener = net.listen(anywhere).unwrap();
    let mut driver = net.driver();
    let mut peer = outgoing(&net, &mut driver, &mut listener);
    assert_eq!(peer.local_addr().as_ref(), Some(listener.local_addr()));
    assert!(matches!(
        send(&mut driver, 0, b"hello"),
        Submitted::Taken(5)
    ));
    pass(&net, SECOND);
    let mut back = Vec::new();
    peer.read(&mut back);
    assert_eq!(back, b"hello");
    assert!(listener.accept().is_none());
}

#[test]
fn a_connection_to_nobody_is_refused() {
    let net = SimNet::new(1, Faults::none());
    let peer = net.connect(address());
    let mut driver = net.driver();
    driver.connect(7, &address(), &options()).unwrap();
    assert_eq!(peer.error(), None);
    pass(&net, SECOND);
    assert_eq!(peer.error(), Some(ErrorKind::ConnectionRefused));
    assert!(!peer.is_connected());
    let seen = round(&mut driver, &mut [0; 8]);
    let [
        Completion::Connected {
            conn: 7,
            result: Err(error),
        },
    ] = &seen[..]
    else {
        panic!("{seen:?}");
    };
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    drop(peer);
    assert_eq!(net.connections(), 0, "the driver has closed it");
    driver.connect(7, &address(), &options()).unwrap(); // so the slot is free
}

#[test]
fn the_faults_of_connecting() {
    let mut faults = Faults::none();
    faults.unanswered = 1.0;
    let net = SimNet::new(1, faults);
    let _listener = net.listen(address()).unwrap();
    let mut driver = net.driver();
    driver.connect(0, &address(), &options()).unwrap();
    pass(&net, SECOND * 60);
    assert!(round(&mut driver, &mut [0; 8]).is_empty());
    pass(&net, SECOND * 120);
    let seen = round(&mut driver, &mut [0; 8]);
    let [
        Completion::Connected {
            conn: 0,
            result: Err(error),
        },
    ] = &seen[..]
    else {
        panic!("{seen:?}");
    };
    assert_eq!(error.kind(), ErrorKind::TimedOut);

    let mut faults = Faults::none();
    faults.refuse = 1.0;
    net.set_faults(faults);
    let results: Vec<_> = (0..64)
        .map(|conn| driver.connect(conn, &address(), &options()))
        .collect();
    let at_once = results.iter().filter(|result| result.is_err()).count();
    assert!((1..64).contains(&at_once), "{at_once} of 64");
    pass(&net, SECOND);
    let later = round(&mut driver, &mut [0; 8]);
    assert_eq!(later.len() + at_once, 64);
    assert!(
        later
            .iter()
            .all(|seen| matches!(seen, Completion::Connected { result: Err(_), .. }))
    );
    assert_eq!(net.connections(), 0);
}

#[test]
fn an_attempt_can_be_given_up() {
    let net = SimNet::new(1, Faults::none());
    let mut listener = net.listen(address()).unwrap();
    let mut driver = net.driver();
    driver.connect(0, &address(), &options()).unwrap();
    driver.close(0);
    driver.close(0);
    pass(&net, SECOND);
    assert!(round(&mut driver, &mut [0; 8]).is_empty());
    assert!(listener.accept().is_none());
    assert_eq!(net.connections(), 0);
}

#[test]
fn listeners_of_one_address_share_its_connections() {
    let net = SimNet::new(1, Faults::none());
    let (mut worlds, mut seen) = (Vec::<Box<dyn SimTurn>>::new(), Vec::new());
    for _ in 0..3 {
        let (shard, what) = Echo::new(listening(&net));
        worlds.push(Box::new(shard));
        seen.push(what);
    }
    let mut world = SimWorld::new(&net, worlds);
    let peers: Vec<_> = (0..300).map(|_| net.connect(address())).collect();
    world.run_for(SECOND);
    assert!(peers.iter().all(super::super::SimPeer::is_connected));
    let accepted: Vec<_> = seen.iter().map(|seen| seen.borrow().accepted).collect();
    assert_eq!(accepted.iter().sum::<usize>(), 300);
    assert!(accepted.iter().all(|count| *count > 50), "{accepted:?}");
}

#[test]
fn fresh_ports_unspecified_addresses_and_unix_paths() {
    let net = SimNet::new(1, Faults::none());
    let any = SocketAddr::from(([0, 0, 0, 0], 0));
    let mut tcp = net.listen(any).unwrap();
    let Address::Tcp(bound) = tcp.local_addr().clone() else {
        panic!("not TCP")
    };
    assert_ne!(bound.port(), 0);
    let from = SocketAddr::from(([10, 0, 0, 1], 1));
    let peer = net.connect_from(from, SocketAddr::from(([127, 0, 0, 1], bound.port())));
    let path = Address::Unix("/run/sim".into());
    let mut unix = net.listen(path.clone()).unwrap();
    assert_eq!(net.bind(&path).unwrap_err().kind(), ErrorKind::AddrInUse);
    let mut driver = net.driver();
    driver.connect(0, &path, &options()).unwrap();
    pass(&net, SECOND);
    assert_eq!(tcp.accept().unwrap().peer_addr(), Some(from.into()));
    assert!(unix.accept().is_some() && peer.is_connected());
    drop(unix);
    assert!(net.bind(&path).is_ok(), "the path is free again");
}

#[test]
fn a_reset_is_told_after_what_arrived() {
    let net = SimNet::new(1, Faults::none());
    let mut driver = listening(&net);
    let mut peer = connected(&net, &mut driver);
    peer.write(b"last words");
    peer.reset();
    pass(&net, SECOND);
    let seen = round(&mut driver, &mut [0; 64]);
    let [
        Completion::Received { len: 10, .. },
        Completion::Failed { conn: 0, error },
    ] = &seen[..]
    else {
        panic!("{seen:?}");
    };
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert!(matches!(send(&mut driver, 0, b"x"), Submitted::Failed(_)));
    driver.close(0);
    assert_eq!(net.connections(), 0);
}

#[test]
fn a_cut_reaches_both_ends_at_once() {
    let net = SimNet::new(1, Faults::none());
    let mut driver = listening(&net);
    let mut peer = connected(&net, &mut driver);
    peer.write(b"lost");
    peer.cut();
    assert_eq!(peer.error(), Some(ErrorKind::ConnectionReset));
    assert_eq!(peer.write(b"x"), 0);
    driver.set_reading(0, false);
    let seen = round(&mut driver, &mut [0; 64]);
    assert!(
        matches!(seen[..], [Completion::Failed { conn: 0, .. }]),
        "{seen:?}"
    );
    pass(&net, SECOND);
    assert!(round(&mut driver, &mut [0; 64]).is_empty());
}

#[test]
fn closing_delivers_what_was_sent_unless_something_is_unread() {
    for unread in [false, true] {
        let net = SimNet::new(1, Faults::none());
        let mut driver = listening(&net);
        let mut peer = connected(&net, &mut driver);
        if unread {
            peer.write(b"never read");
            pass(&net, SECOND);
        }
        assert!(matches!(send(&mut driver, 0, b"bye"), Submitted::Taken(3)));
        driver.close(0);
        pass(&net, SECOND);
        let mut back = Vec::new();
        peer.read(&mut back);
        assert_eq!(back, b"bye");
        assert_eq!(peer.is_read_closed(), !unread);
        assert_eq!(peer.error().is_some(), unread);
        // What comes later is answered by a reset in any case.
        peer.write(b"late");
        pass(&net, SECOND);
        assert_eq!(peer.error(), Some(ErrorKind::ConnectionReset));
        drop(peer);
        assert_eq!(net.connections(), 0);
    }
}

#[test]
fn a_detached_socket_keeps_its_bytes_and_may_move_to_another_driver() {
    let net = SimNet::new(1, Faults::none());
    let (mut one, mut two) = (listening(&net), net.driver());
    let mut peer = connected(&net, &mut one);
    peer.write(b"before ");
    pass(&net, SECOND);
    let socket = one.detach(0).expect("connected");
    assert!(one.detach(0).is_none());
    peer.write(b"during");
    pass(&net, SECOND);
    assert!(
        round(&mut one, &mut [0; 64]).is_empty(),
        "nothing after a detach"
    );
    // Through another thread, as a mailbox would carry it.
    let socket = std::thread::spawn(move || socket).join().unwrap();
    two.register(5, socket, Some(&options())).unwrap();
    let mut chunk = [0; 64];
    let seen = round(&mut two, &mut chunk);
    assert!(
        matches!(seen[..], [Completion::Received { conn: 5, len: 13 }]),
        "{seen:?}"
    );
    assert_eq!(&chunk[..13], b"before during");
    drop(two.detach(5));
    pass(&net, SECOND);
    assert_eq!(
        peer.error(),
        Some(ErrorKind::ConnectionReset),
        "dropping the socket resets it"
    );
}

#[test]
fn dropping_a_driver_or_listener_closes_what_it_has() {
    let net = SimNet::new(1, Faults::none());
    let mut driver = listening(&net);
    let accepted = connected(&net, &mut driver);
    let queued = net.connect(address());
    pass(&net, SECOND);
    drop(driver);
    pass(&net, SECOND);
    assert!(accepted.is_read_closed());
    assert_eq!(queued.error(), Some(ErrorKind::ConnectionReset));
    let late = net.connect(address());
    pass(&net, SECOND);
    assert_eq!(late.error(), Some(ErrorKind::ConnectionRefused));
    drop((accepted, queued, late));
    assert_eq!(net.connections(), 0);
}

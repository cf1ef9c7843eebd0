//! What a shard promises its driver, and the other way round.

use super::*;
use crate::driver::sim::Faults;

fn quiet_net() -> SimNet {
    SimNet::new(5, Faults::none())
}

#[test]
#[should_panic(expected = "simulation of seed 5")]
fn sending_to_a_closed_connection_is_a_bug() {
    let net = quiet_net();
    let mut driver = listening(&net);
    let _peer = connected(&net, &mut driver);
    driver.close(0);
    send(&mut driver, 0, b"x");
}

#[test]
#[should_panic(expected = "a `Sent` is still to come")]
fn sending_before_the_sent_is_a_bug() {
    let net = quiet_net();
    let mut driver = listening(&net);
    let _peer = connected(&net, &mut driver);
    send(&mut driver, 0, &vec![0; 1 << 20]);
    send(&mut driver, 0, b"x");
}

#[test]
#[should_panic(expected = "after `finish`")]
fn sending_after_finish_is_a_bug() {
    let net = quiet_net();
    let mut driver = listening(&net);
    let _peer = connected(&net, &mut driver);
    driver.finish(0);
    send(&mut driver, 0, b"x");
}

#[test]
#[should_panic(expected = "connection slot 0 is taken")]
fn taking_a_slot_twice_is_a_bug() {
    let net = quiet_net();
    let mut driver = listening(&net);
    let _peer = connected(&net, &mut driver);
    let _ = driver.connect(0, &address(), &options());
}

#[test]
fn a_reused_slot_hears_nothing_of_its_former_connection() {
    let net = quiet_net();
    let mut driver = listening(&net);
    let mut first = connected(&net, &mut driver);
    let _second = net.connect(address());
    pass(&net, SECOND);
    let Completion::Accepted { socket, .. } = round(&mut driver, &mut [0; 8]).remove(0) else {
        panic!("no second connection");
    };
    first.write(b"for the first");
    first.finish();
    pass(&net, SECOND);
    assert!(driver.has_ready(), "the first connection is in line");
    driver.close(0);
    driver.register(0, socket, Some(&options())).unwrap();
    assert!(round(&mut driver, &mut [0; 8]).is_empty());
}

#[test]
fn a_wake_makes_the_shard_runnable_until_it_waits() {
    let net = quiet_net();
    let mut driver = net.driver();
    let wake = driver.waker().unwrap();
    assert!(!driver.has_ready());
    std::thread::scope(|scope| scope.spawn(|| wake.wake()).join().unwrap());
    assert!(driver.has_ready());
    driver.wait(Time::MAX).unwrap();
    assert!(!driver.has_ready());
}

#[test]
fn sockets_of_another_kind_are_refused() {
    let net = quiet_net();
    let mut driver = listening(&net);
    let bound = RawSocket::Sim(net.bind(&address()).unwrap());
    assert!(driver.register(0, bound, Some(&options())).is_err());
    let file = std::fs::File::open("/dev/null").unwrap();
    assert!(driver.listen(1, RawSocket::Fd(file.into())).is_err());
}

#[test]
fn work_costs_virtual_time() {
    let net = quiet_net();
    let mut driver = listening(&net);
    let mut peer = connected(&net, &mut driver);
    peer.write(b"x");
    pass(&net, SECOND);
    let before = net.now().as_nanos();
    round(&mut driver, &mut [0; 8]);
    assert_eq!(net.now().as_nanos() - before, 1000 + 300);
    send(&mut driver, 0, b"x");
    assert_eq!(net.now().as_nanos() - before, 1000 + 300 + 500);
}

#[test]
fn a_clock_is_not_another_driver() {
    let net = quiet_net();
    let mut driver = listening(&net);
    let peer = connected(&net, &mut driver);
    let clock = driver.clock();
    let before = clock();
    assert_eq!(clock().since(before), Duration::from_nanos(20));
    drop(clock);
    pass(&net, SECOND);
    assert!(!peer.is_read_closed() && peer.error().is_none());
}

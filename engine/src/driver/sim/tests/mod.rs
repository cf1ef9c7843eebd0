//! Tests of the network by itself. The shards here are a few lines on top of the driver.

mod connections;
mod contract;
mod faults;
mod transfer;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::IoSlice;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use super::{SimDriver, SimNet, SimTurn, SimWorld};
use crate::driver::{Completion, Driver, RawSocket, Submitted};
use crate::options::{Address, SocketOptions};
use crate::time::Time;

const SECOND: Duration = Duration::from_secs(1);

fn address() -> Address {
    Address::Tcp(SocketAddr::from(([127, 0, 0, 1], 7000)))
}

fn options() -> SocketOptions {
    SocketOptions::default()
}

/// Bytes in which every position looks different from its neighbourhood.
fn pattern(length: usize) -> Vec<u8> {
    (0..length)
        .map(|index| (index ^ (index >> 8) ^ (index >> 16)) as u8)
        .collect()
}

/// A driver that listens at [`address`].
fn listening(net: &SimNet) -> SimDriver {
    let mut driver = net.driver();
    driver
        .listen(0, RawSocket::Sim(net.bind(&address()).unwrap()))
        .unwrap();
    driver
}

/// One round of a driver without a shard: all its completions.
fn round(driver: &mut SimDriver, chunk: &mut [u8]) -> Vec<Completion> {
    driver.wait(Time::ZERO).unwrap();
    std::iter::from_fn(|| driver.next(chunk)).collect()
}

/// Lets time pass in a world without shards.
fn pass(net: &SimNet, time: Duration) {
    SimWorld::new(net, Vec::new()).run_for(time);
}

/// A connection that is accepted and registered as 0, and the peer at its other end.
fn connected(net: &SimNet, driver: &mut SimDriver) -> super::SimPeer {
    let peer = net.connect(address());
    pass(net, SECOND);
    let mut accepted = round(driver, &mut [0; 64]);
    let Some(Completion::Accepted { socket, .. }) = accepted.pop() else {
        panic!("{accepted:?} instead of a connection");
    };
    driver.register(0, socket, Some(&options())).unwrap();
    peer
}

fn send(driver: &mut SimDriver, conn: u32, bytes: &[u8]) -> Submitted {
    driver.send(conn, &[IoSlice::new(bytes)])
}

/// What an [`Echo`] did, for the test to look at.
#[derive(Debug, Default)]
struct Seen {
    accepted: usize,
    accept_failed: usize,
    connected: usize,
    connect_failed: usize,
    read_closed: usize,
    failed: usize,
    bytes: usize,
}

/// A shard that sends back what it receives, and closes when the peer has finished and everything
/// was sent back.
struct Echo {
    driver: SimDriver,
    conns: BTreeMap<u32, EchoConn>,
    next_conn: u32,
    resume_at: Option<Time>,
    seen: Rc<RefCell<Seen>>,
}

#[derive(Default)]
struct EchoConn {
    unsent: Vec<u8>,
    connecting: bool,
    blocked: bool,
    read_closed: bool,
}

impl Echo {
    fn new(driver: SimDriver) -> (Self, Rc<RefCell<Seen>>) {
        let seen = Rc::new(RefCell::new(Seen::default()));
        let (conns, resume_at) = (BTreeMap::new(), None);
        let shard = Self {
            driver,
            conns,
            next_conn: 0,
            resume_at,
            seen: Rc::clone(&seen),
        };
        (shard, seen)
    }

    /// An echo at [`address`], in a world of its own.
    fn world(net: &SimNet) -> (SimWorld, Rc<RefCell<Seen>>) {
        let (shard, seen) = Self::new(listening(net));
        (SimWorld::new(net, vec![Box::new(shard)]), seen)
    }

    fn connect(&mut self, to: &Address) {
        let conn = self.next_conn;
        self.next_conn += 1;
        if self.driver.connect(conn, to, &options()).is_err() {
            self.seen.borrow_mut().connect_failed += 1;
            return;
        }
        self.conns.insert(
            conn,
            EchoConn {
                connecting: true,
                ..EchoConn::default()
            },
        );
    }

    fn flush(&mut self, conn: u32) {
        let Some(state) = self.conns.get_mut(&conn) else {
            return;
        };
        while !state.blocked && !state.unsent.is_empty() {
            match send(&mut self.driver, conn, &state.unsent) {
                Submitted::Taken(length) => {
                    state.blocked = length < state.unsent.len();
                    state.unsent.drain(..length);
                }
                Submitted::Pending => state.blocked = true,
                Submitted::Failed(_) => return self.close(conn, true),
            }
        }
        if state.read_closed && state.unsent.is_empty() {
            self.close(conn, false);
        }
    }

    fn close(&mut self, conn: u32, failed: bool) {
        self.driver.close(conn);
        self.conns.remove(&conn).expect("open until now");
        self.seen.borrow_mut().failed += usize::from(failed);
    }

    fn handle(&mut self, completion: Completion, chunk: &[u8]) {
        let mut seen = self.seen.borrow_mut();
        match completion {
            Completion::Accepted { socket, .. } => {
                seen.accepted += 1;
                let conn = self.next_conn;
                self.next_conn += 1;
                self.driver
                    .register(conn, socket, Some(&options()))
                    .unwrap();
                self.conns.insert(conn, EchoConn::default());
            }
            Completion::AcceptFailed { .. } => {
                seen.accept_failed += 1;
                assert!(
                    self.resume_at.is_none(),
                    "accepts although it was not resumed"
                );
                self.resume_at = Some(self.driver.now() + Duration::from_millis(100));
            }
            Completion::Connected { conn, result } => {
                let state = self.conns.get_mut(&conn).expect("connecting");
                assert!(std::mem::take(&mut state.connecting), "connected twice");
                if result.is_ok() {
                    seen.connected += 1;
                } else {
                    seen.connect_failed += 1;
                    self.conns.remove(&conn);
                }
            }
            Completion::Received { conn, len } => {
                seen.bytes += len;
                drop(seen);
                let state = self.conns.get_mut(&conn).expect("open");
                assert!(len > 0 && !state.read_closed && !state.connecting);
                state.unsent.extend(&chunk[..len]);
                self.flush(conn);
            }
            Completion::ReadClosed { conn } => {
                seen.read_closed += 1;
                drop(seen);
                let state = self.conns.get_mut(&conn).expect("open");
                assert!(
                    !std::mem::replace(&mut state.read_closed, true),
                    "reported once"
                );
                self.flush(conn);
            }
            Completion::Sent { conn, len } => {
                drop(seen);
                let state = self.conns.get_mut(&conn).expect("open");
                assert!(len == 0 && std::mem::take(&mut state.blocked), "not owed");
                self.flush(conn);
            }
            Completion::Failed { conn, .. } => {
                drop(seen);
                self.close(conn, true);
            }
        }
    }
}

impl SimTurn for Echo {
    fn turn(&mut self) {
        let mut chunk = [0; 4096];
        self.driver.wait(Time::ZERO).unwrap();
        if self.resume_at.is_some_and(|at| at <= self.driver.now()) {
            self.resume_at = None;
            self.driver.resume_accept(0);
        }
        while let Some(completion) = self.driver.next(&mut chunk) {
            self.handle(completion, &chunk);
        }
    }

    fn next_deadline(&self) -> Option<Time> {
        self.resume_at
    }

    fn has_work(&self) -> bool {
        self.driver.has_ready()
    }

    fn is_finished(&self) -> bool {
        false
    }
}

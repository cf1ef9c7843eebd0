//! Echo engines on the simulation, with everything that may go wrong going wrong: whatever
//! happens, each peer gets back a prefix of what it sent, and everything if nothing broke.
#![cfg(feature = "sim")]

#[path = "support/sim.rs"]
mod support;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use proscenium::sim::{Faults, SimEngine, SimNet, SimRandom, SimWorld};
use proscenium::{
    Address, Backoff, Balance, CloseReason, ConnectError, ConnectId, Connector, Context, Engine,
    Handler, Limits, Listener, Message, Origin, Overflow, Peer, RouterId, SendError,
};
use support::{
    ADDRESS, Client, Echo, HOUR, Log, Pace, SECOND, SharedLog, body, byte_budget, check_empty,
    check_limits, for_seeds, random_limits,
};

/// A handler that calls an echo, again and again until every call has been answered in full.
struct Caller {
    log: SharedLog,
    target: Address,
    frame_max: usize,
    calls: BTreeMap<ConnectId, Call>,
    planned: u32,
}

#[derive(Debug, Default)]
struct Call {
    /// What makes its messages differ from those of other calls.
    mark: u64,
    id: Option<RouterId>,
    sent: u64,
    answered: u64,
    done: bool,
}

/// Messages of a call, and how many of them are under way at once.
const CALL_LENGTH: u64 = 12;
const CALL_WINDOW: u64 = 4;

impl Caller {
    fn message(&self, connect: ConnectId, number: u64) -> Vec<u8> {
        let mark = SimRandom::new(self.calls[&connect].mark + number).next_u64();
        let most = self.frame_max.min(100) as u64;
        body(mark, SimRandom::new(mark).below(most) as usize)
    }

    fn go_on(&mut self, cx: &mut Context<'_, ()>, connect: ConnectId) {
        loop {
            let call = &self.calls[&connect];
            let id = call.id.expect("connected");
            if call.sent == CALL_LENGTH || call.sent - call.answered == CALL_WINDOW {
                return;
            }
            let message = self.message(connect, call.sent);
            match cx.send(id, &message) {
                Ok(()) => {}
                Err(SendError::Full) => return, // `on_drained` follows
                Err(error) => panic!("{id}: {error}"),
            }
            self.calls.get_mut(&connect).expect("known").sent += 1;
        }
    }

    fn is_done(&self) -> bool {
        self.calls.values().all(|call| call.done)
    }
}

fn connect_of(log: &SharedLog, id: RouterId) -> ConnectId {
    let log = log.borrow();
    let Origin::Outgoing(connect) = log.lives[&id].peer.origin else {
        panic!("{id} is not an outgoing connection");
    };
    connect
}

impl Handler for Caller {
    type Post = ();

    fn on_start(&mut self, cx: &mut Context<'_, ()>) {
        let backoff = Backoff {
            first: Duration::from_millis(20),
            max: SECOND,
        };
        let connector = Connector::to(self.target.clone())
            .deadline(3 * SECOND)
            // Pausing at both ends of a connection would have each wait for the other.
            .overflow(Overflow::DropNewest)
            .reconnect(backoff);
        for call in 0..u64::from(self.planned) {
            let connect = cx.connect(&connector);
            let mark = (cx.shard() as u64) << 32 | call << 16;
            let call = Call {
                mark,
                ..Call::default()
            };
            self.calls.insert(connect, call);
        }
    }

    fn on_connect(&mut self, cx: &mut Context<'_, ()>, id: RouterId, peer: &Peer) {
        self.log.borrow_mut().connected(cx.shard(), id, peer);
        let connect = connect_of(&self.log, id);
        let call = self.calls.get_mut(&connect).expect("a call of ours");
        assert!(call.id.is_none() && !call.done, "connected twice at a time");
        *call = Call {
            mark: call.mark,
            id: Some(id),
            ..Call::default()
        };
        self.go_on(cx, connect);
    }

    fn on_message(&mut self, cx: &mut Context<'_, ()>, from: RouterId, message: Message<'_>) {
        self.log.borrow_mut().message(cx.shard(), from);
        let connect = connect_of(&self.log, from);
        let expected = self.message(connect, self.calls[&connect].answered);
        assert!(*message == expected[..], "{from}: another answer");
        let call = self.calls.get_mut(&connect).expect("a call of ours");
        call.answered += 1;
        if call.answered == CALL_LENGTH {
            call.done = true;
            cx.close(from);
        } else {
            self.go_on(cx, connect);
        }
    }

    fn on_drained(&mut self, cx: &mut Context<'_, ()>, id: RouterId) {
        self.log.borrow_mut().drained(cx.shard(), id);
        let connect = connect_of(&self.log, id);
        self.go_on(cx, connect);
    }

    fn on_disconnect(&mut self, cx: &mut Context<'_, ()>, id: RouterId, reason: &CloseReason) {
        self.log.borrow_mut().ended(cx.shard(), id, reason);
        let connect = connect_of(&self.log, id);
        self.calls.get_mut(&connect).expect("a call of ours").id = None;
    }

    fn on_connect_failed(
        &mut self,
        _: &mut Context<'_, ()>,
        connect: ConnectId,
        error: &ConnectError,
        retry: Option<Duration>,
    ) {
        assert!(self.calls[&connect].id.is_none(), "{error}");
        let retry = retry.expect("it is tried again");
        assert!(retry <= SECOND && retry >= Duration::from_millis(10));
    }
}

/// One seed: an echo engine, clients that the test drives, and an engine that calls the echo.
struct Run {
    net: SimNet,
    world: SimWorld,
    random: SimRandom,
    limits: Limits,
    echo: SimEngine<Echo>,
    callers: SimEngine<Caller>,
    echo_log: SharedLog,
    caller_log: SharedLog,
    clients: Vec<Client>,
}

impl Run {
    fn new(net: &SimNet) -> Self {
        let mut random = net.fork_random();
        let mut world = SimWorld::new(net, Vec::new());
        let limits = random_limits(&mut random);
        let balance = if random.chance(0.5) {
            Balance::ReusePort
        } else {
            Balance::RoundRobin
        };
        let (echo_log, caller_log) = (SharedLog::default(), SharedLog::default());
        let echo = Engine::builder()
            .shards(random.between(1, 3) as usize)
            .limits(limits.clone())
            .listen(Listener::tcp(ADDRESS).unwrap().balance(balance))
            .simulate(&mut world, |_| Echo::new(&echo_log))
            .unwrap();
        let target = echo.local_addrs()[0].clone();
        let caller_limits = limits.clone().linger(2 * SECOND);
        let (planned, frame_max) = (random.below(4) as u32, limits.frame_max);
        let callers = Engine::builder()
            .shards(random.between(1, 2) as usize)
            .limits(caller_limits)
            .simulate(&mut world, |_| Caller {
                log: Rc::clone(&caller_log),
                target: target.clone(),
                frame_max,
                calls: BTreeMap::new(),
                planned,
            })
            .unwrap();
        let count = random.between(1, 6);
        let budget = byte_budget(net);
        let clients = (0..count).map(|_| Client::new(net, &target, budget, limits.frame_max));
        Self {
            net: net.clone(),
            random,
            clients: clients.collect(),
            world,
            limits,
            echo,
            callers,
            echo_log,
            caller_log,
        }
    }

    fn check_limits(&self) {
        check_limits(&self.echo.handle().stats(), &self.limits);
        check_limits(&self.callers.handle().stats(), &self.limits);
    }

    /// Lets the clients do what they have planned.
    fn clients_act(&mut self) {
        let mut pace = Pace::default();
        let end = self.net.now() + 12 * HOUR;
        while !self.clients.iter().all(Client::is_done) {
            assert!(self.net.now() < end, "the clients never come to an end");
            let mut moved = false;
            for client in &mut self.clients {
                moved |= client.act(&mut self.random);
            }
            let time = pace.next(&mut self.random, moved);
            self.world.run_for(time);
            self.check_limits();
        }
    }

    /// Lets the callers finish, in a network without further faults.
    fn callers_finish(&mut self) {
        self.net.set_faults(Faults::none());
        let shards = self.callers.handle().shards();
        let Self { world, callers, .. } = self;
        let done = world.run_until_true(HOUR, || {
            (0..shards).all(|shard| callers.handler(shard).is_done())
        });
        assert!(done, "a call was never answered in full");
        let (echo, callers) = (self.echo.handle(), self.callers.handle());
        let gone = self.world.run_until_true(HOUR, || {
            echo.stats().total().connections + callers.stats().total().connections == 0
        });
        assert!(
            gone,
            "connections stay although all peers have gone: {:?}",
            self.echo_log.borrow()
        );
        self.world.run_for(10 * SECOND); // some may wait to be accepted, by peers that have left
        assert_eq!(self.net.connections(), 0, "the engine leaks sockets");
    }

    fn shut_down(&mut self) {
        self.world.run_for(SECOND); // what is posted about connections that are gone
        for handle in [self.echo.handle().stats(), self.callers.handle().stats()] {
            check_empty(&handle);
        }
        self.echo.handle().shutdown(5 * SECOND);
        self.callers.handle().shutdown(5 * SECOND);
        assert!(self.world.run_until_finished(6 * SECOND), "no end");
        for report in [self.echo.stopped(), self.callers.stopped()] {
            let report = report.expect("finished");
            assert!(report.is_clean() && report.connections == 0, "{report}");
            assert!(report.elapsed <= 5 * SECOND, "{report}");
        }
    }
}

fn check_log(log: &RefCell<Log>, stats: &proscenium::ShardStats) {
    let log = log.borrow();
    assert_eq!(log.living(), 0, "a connection has no on_disconnect");
    let messages: u64 = log.lives.values().map(|life| life.messages).sum();
    assert_eq!(messages, stats.messages_in);
    let closes: u64 = stats.closes.iter().sum();
    assert_eq!(closes, log.lives.len() as u64);
    assert_eq!(stats.adopted + stats.departed + stats.forwarded, 0);
}

fn echo_under_faults(net: &SimNet) {
    let mut run = Run::new(net);
    run.clients_act();
    run.callers_finish();
    for client in &run.clients {
        client.check(&run.echo_log.borrow());
    }
    check_log(&run.echo_log, &run.echo.handle().stats().total());
    check_log(&run.caller_log, &run.callers.handle().stats().total());
    run.shut_down();
}

#[test]
fn every_peer_gets_back_what_it_sent_whatever_goes_wrong() {
    for_seeds(
        "every_peer_gets_back_what_it_sent_whatever_goes_wrong",
        1000,
        echo_under_faults,
    );
}

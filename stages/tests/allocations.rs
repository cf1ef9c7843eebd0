//! No heap allocation per message: counted on the shard's thread, for framed echo through stages
//! and for what stages of one shard tell each other.

#[path = "../../tests/support/counting.rs"]
mod counting;
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use counting::{Counting, counted};
use proscenium_engine::{Body, Engine, RouterId, Shard};
use proscenium_stages::{Cx, Stage, StageRef, StageShard, StageType, Stages};
use support::{ask_in_batches, connect, loopback, tcp};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const MESSAGES: u64 = 100_000;
const CLIENTS: usize = 4;

type Count = Arc<AtomicU64>;

/// What an echo does between receiving and sending.
#[derive(Clone, Copy, Debug)]
enum Way {
    AtOnce,
    /// Lets everything else run first.
    Yield,
    /// Waits for a timer.
    Sleep,
}

struct Echo {
    way: Way,
    count: Count,
}

impl Stage for Echo {
    type Msg = ();

    async fn on_message(&mut self, _: &mut Cx<'_, Self>, (): ()) {}

    async fn on_packet(&mut self, cx: &mut Cx<'_, Self>, from: RouterId, body: Body) {
        match self.way {
            Way::AtOnce => {}
            Way::Yield => {
                let mut yielded = false;
                std::future::poll_fn(|task| {
                    if std::mem::replace(&mut yielded, true) {
                        return std::task::Poll::Ready(());
                    }
                    task.waker().wake_by_ref();
                    std::task::Poll::Pending
                })
                .await;
            }
            Way::Sleep => cx.sleep(Duration::from_micros(1)).await,
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        let _ = cx.send(from, &body); // a peer that has gone at the end is no matter here
    }
}

/// Messages handled and allocations meanwhile, in the best of a few stretches.
fn measure(shard: &mut Shard<StageShard>, count: &Count, messages: u64) -> (u64, u64) {
    counted(messages, |messages| {
        while count.load(Ordering::Relaxed) < messages {
            shard.turn(Duration::from_millis(100)).unwrap();
        }
        count.load(Ordering::Relaxed)
    })
}

fn end(mut shard: Shard<StageShard>) {
    shard.handle().shutdown(Duration::from_millis(10));
    while shard.stopped().is_none() {
        shard.turn(Duration::from_millis(10)).unwrap();
    }
}

fn echo(way: Way, messages: u64) {
    let count = Count::default();
    let of = Arc::clone(&count);
    let stages = Stages::builder()
        .register(StageType::<Echo>::new("echo"))
        .on_connect(move |local, id, _| {
            let count = Arc::clone(&of);
            local.bind(id, local.spawn(Echo { way, count }).unwrap());
        })
        .build();
    let engine = Engine::builder().listen(loopback());
    let mut shard = engine.host(stages.shards()(0)).unwrap();
    let address = tcp(&shard.local_addrs()[0]);
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| std::thread::spawn(move || ask_in_batches(connect(address))))
        .collect();
    let (handled, counted) = measure(&mut shard, &count, messages);
    assert!(handled >= messages);
    assert_eq!(counted, 0, "{way:?}: allocations in {handled} messages");
    end(shard);
    for client in clients {
        client.join().unwrap();
    }
}

#[test]
fn echo_through_stages_allocates_nothing() {
    echo(Way::AtOnce, MESSAGES);
}

#[test]
fn echo_that_suspends_allocates_nothing() {
    echo(Way::Yield, MESSAGES);
}

#[test]
fn echo_that_sleeps_allocates_nothing() {
    echo(Way::Sleep, MESSAGES / 5);
}

/// Sends what it gets on to the next.
struct Member {
    next: Option<StageRef<Member>>,
    by_address: bool,
    count: Count,
}

enum Msg {
    Next(StageRef<Member>),
    Pass([u64; 4]),
}

impl Stage for Member {
    type Msg = Msg;

    async fn on_message(&mut self, cx: &mut Cx<'_, Self>, message: Msg) {
        match message {
            Msg::Next(next) => self.next = Some(next),
            Msg::Pass(words) => {
                self.count.fetch_add(1, Ordering::Relaxed);
                let next = self.next.expect("told before");
                let told = if self.by_address {
                    next.tell(Msg::Pass(words))
                } else {
                    cx.tell(next, Msg::Pass(words))
                };
                told.unwrap();
            }
        }
    }
}

fn ring(by_address: bool) {
    let count = Count::default();
    let of = Arc::clone(&count);
    let members = StageType::new("member").factory(move |_| Member {
        next: None,
        by_address,
        count: Arc::clone(&of),
    });
    let stages = Stages::builder().register(members).build();
    let mut shard = Engine::builder().host(stages.shards()(0)).unwrap();
    stages.attach(&shard.handle());
    let made: Vec<_> = (0..100)
        .map(|id| stages.get_or_create::<Member>(id))
        .collect();
    while stages.total().live < 100 {
        shard.turn(Duration::from_millis(10)).unwrap();
    }
    let members: Vec<_> = made
        .into_iter()
        .map(|made| made.wait(Duration::ZERO).unwrap())
        .collect();
    for (at, member) in members.iter().enumerate() {
        let next = members[(at + 1) % members.len()];
        member.tell(Msg::Next(next)).unwrap();
        member.tell(Msg::Pass([at as u64; 4])).unwrap();
    }
    let (handled, counted) = measure(&mut shard, &count, 1_000_000);
    assert!(handled >= 1_000_000);
    assert_eq!(counted, 0, "allocations in {handled} messages");
    end(shard);
}

#[test]
fn telling_on_one_shard_allocates_nothing() {
    ring(false);
}

#[test]
fn telling_by_address_on_one_shard_allocates_nothing() {
    ring(true);
}

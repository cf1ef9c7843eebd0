//! A stage that serves connections and writes down what it is told.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "every test binary uses a part of it"
)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use proscenium_engine::{Body, CloseReason, RouterId};
use proscenium_stages::{Cx, Reply, Stage, StageRef, StageType};

pub type Ref = StageRef<Desk>;

/// What happened to a connection, at which desk, on which shard.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub desk: u64,
    pub shard: usize,
    pub id: RouterId,
    pub what: What,
}

#[derive(Clone, Debug, PartialEq)]
pub enum What {
    Connect,
    Packet(Vec<u8>),
    /// It came when the connection was bound to no desk.
    Unbound(Vec<u8>),
    /// With the reason's name.
    Disconnect(&'static str),
}

#[derive(Clone, Default)]
pub struct Book(Arc<Mutex<Vec<Entry>>>);

impl Book {
    pub fn write(&self, desk: u64, shard: usize, id: RouterId, what: What) {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entries.push(Entry {
            desk,
            shard,
            id,
            what,
        });
    }

    pub fn all(&self) -> Vec<Entry> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The connections, in the order in which they came.
    pub fn connects(&self) -> Vec<RouterId> {
        let all = self.all().into_iter();
        all.filter(|entry| entry.what == What::Connect)
            .map(|entry| entry.id)
            .collect()
    }

    /// Desk and shard of each packet of a connection, and its text.
    pub fn packets(&self, id: RouterId) -> Vec<(u64, usize, String)> {
        let mine = self.all().into_iter().filter(|entry| entry.id == id);
        mine.filter_map(|entry| match entry.what {
            What::Packet(body) => {
                let text = String::from_utf8(body).expect("text");
                Some((entry.desk, entry.shard, text))
            }
            _ => None,
        })
        .collect()
    }

    /// How often a packet of a connection came to another desk than the one before.
    pub fn moves(&self, id: RouterId) -> usize {
        let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut desks: Vec<u64> = entries
            .iter()
            .filter(|entry| entry.id == id && matches!(entry.what, What::Packet(_)))
            .map(|entry| entry.desk)
            .collect();
        desks.dedup();
        desks.len().saturating_sub(1)
    }

    /// What came of a connection while nobody had it.
    pub fn unbound(&self, id: RouterId) -> Vec<String> {
        let mine = self.all().into_iter().filter(|entry| entry.id == id);
        mine.filter_map(|entry| match entry.what {
            What::Unbound(body) => Some(String::from_utf8(body).expect("text")),
            _ => None,
        })
        .collect()
    }

    /// The desks that were told of the end of a connection, and why it ended.
    pub fn ends(&self, id: RouterId) -> Vec<(u64, &'static str)> {
        let mine = self.all().into_iter().filter(|entry| entry.id == id);
        mine.filter_map(|entry| match entry.what {
            What::Disconnect(reason) => Some((entry.desk, reason)),
            _ => None,
        })
        .collect()
    }
}

pub enum Order {
    /// Takes a connection.
    Take(RouterId),
    /// Gives one to another desk.
    Pass(RouterId, Ref),
    /// Gives one to another desk, and takes it back at once.
    Waver(RouterId, Ref),
    Unbind(RouterId),
    /// Takes so long for each packet from now on.
    Pace(Duration),
    /// Is busy for so long.
    Rest(Duration),
    /// Says that it is busy, and is so until the flag is up.
    RestUntil(Arc<AtomicBool>, Reply<()>),
    Panic,
}

/// See the module's page.
pub struct Desk {
    id: u64,
    book: Book,
    pace: Duration,
    busy: bool,
}

/// Desks, each on the shard whose number is that of its id modulo the number of shards.
pub fn desks(book: &Book, backlog: u32) -> StageType<Desk> {
    let book = book.clone();
    StageType::new("desk")
        .factory(move |id| Desk {
            id,
            book: book.clone(),
            pace: Duration::ZERO,
            busy: false,
        })
        .backlog(backlog)
        .placement(|id, shards| id as usize % shards)
}

impl Stage for Desk {
    type Msg = Order;

    async fn on_message(&mut self, cx: &mut Cx<'_, Self>, order: Order) {
        match order {
            Order::Take(id) => cx.bind(id, cx.me()),
            Order::Pass(id, to) => cx.bind(id, to),
            Order::Waver(id, to) => {
                cx.bind(id, to);
                cx.bind(id, cx.me());
            }
            Order::Unbind(id) => cx.unbind(id),
            Order::Pace(pace) => self.pace = pace,
            Order::Rest(time) => cx.sleep(time).await,
            Order::RestUntil(flag, began) => {
                let _ = began.send(());
                while !flag.load(Ordering::SeqCst) {
                    cx.sleep(Duration::from_millis(1)).await;
                }
            }
            Order::Panic => std::panic::resume_unwind(Box::new("planned")),
        }
    }

    /// Writes it down, and sends it back after its time.
    async fn on_packet(&mut self, cx: &mut Cx<'_, Self>, from: RouterId, body: Body) {
        assert!(!std::mem::replace(&mut self.busy, true), "one at a time");
        let what = What::Packet(body.to_vec());
        self.book.write(self.id, cx.shard(), from, what);
        if !self.pace.is_zero() {
            cx.sleep(self.pace).await;
        }
        let _ = cx.send(from, &body); // a peer may be gone
        self.busy = false;
    }

    async fn on_disconnect(&mut self, cx: &mut Cx<'_, Self>, id: RouterId, reason: CloseReason) {
        let what = What::Disconnect(reason.name());
        self.book.write(self.id, cx.shard(), id, what);
    }
}

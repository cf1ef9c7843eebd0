//! Connections that are bound to stages when they are gone already: nobody waits for them.
#![cfg(feature = "stages")]

mod support;

use std::collections::BTreeSet;
use std::sync::mpsc;
use std::time::Duration;

use proscenium::stages::{Cx, Reply, Stage, StageType, Stages};
use proscenium::{Balance, Body, CloseReason, Engine, Listener, RouterId};
use support::{PATIENCE, connect, eventually, expect_end, tcp_address};

/// Binds the connections it is told of.
#[derive(Default)]
struct Keeper {
    ended: BTreeSet<RouterId>,
}

enum Msg {
    Bind(RouterId),
    Ended(Reply<BTreeSet<RouterId>>),
}

impl Stage for Keeper {
    type Msg = Msg;

    async fn on_message(&mut self, cx: &mut Cx<'_, Self>, message: Msg) {
        match message {
            Msg::Bind(id) => cx.bind(id, cx.me()),
            Msg::Ended(reply) => drop(reply.send(self.ended.clone())),
        }
    }

    async fn on_packet(&mut self, cx: &mut Cx<'_, Self>, from: RouterId, body: Body) {
        let _ = cx.forward(from, &body);
    }

    async fn on_disconnect(&mut self, _: &mut Cx<'_, Self>, id: RouterId, _: CloseReason) {
        assert!(self.ended.insert(id), "told twice");
    }
}

#[test]
fn a_stage_is_told_of_a_connection_that_was_gone_when_it_was_bound() {
    let (connected, ids) = mpsc::channel();
    let stages = Stages::builder()
        .register(StageType::<Keeper>::new("keeper"))
        .on_connect(move |_, id, _| {
            let _ = connected.send(id);
        })
        .build();
    // Dealt out in turn: connections of both shards.
    let listener = Listener::tcp("127.0.0.1:0")
        .unwrap()
        .balance(Balance::RoundRobin);
    let engine = stages
        .start(Engine::builder().shards(2).listen(listener))
        .unwrap();
    let address = tcp_address(&engine.local_addrs()[0]);
    let keeper = stages.spawn_on(0, Keeper::default).wait(PATIENCE).unwrap();
    let ended = || keeper.ask(Msg::Ended).wait(PATIENCE).unwrap();

    let streams: Vec<_> = (0..4).map(|_| connect(address)).collect();
    let mut gone: BTreeSet<RouterId> = (0..4)
        .map(|_| ids.recv_timeout(PATIENCE).unwrap())
        .collect();
    let shards: BTreeSet<usize> = gone.iter().map(|id| id.shard()).collect();
    assert_eq!(shards.len(), 2, "{gone:?}");
    drop(streams);
    let connections = || engine.handle().stats().total().connections;
    eventually("all are gone", || (connections() == 0).then_some(()));
    for &id in &gone {
        keeper.tell(Msg::Bind(id)).unwrap();
    }
    eventually("all are told of", || (ended() == gone).then_some(()));

    // One that is there is served, and told of when it ends.
    let mut stream = connect(address);
    let id = ids.recv_timeout(PATIENCE).unwrap();
    keeper.tell(Msg::Bind(id)).unwrap();
    // The keeper has handled it.
    assert_eq!(ended(), gone);
    drop(stream.shutdown(std::net::Shutdown::Write));
    gone.insert(id);
    eventually("the last one is told of", || {
        (ended() == gone).then_some(())
    });
    expect_end(&mut stream);
    assert!(engine.shutdown(Duration::from_secs(30)).is_clean());
    assert_eq!(stages.total().panics, 0);
}

//! Actors whose connections end, come back, or are taken over, over real sockets.

mod support;

use std::time::Duration;

use support::hall::{server, server_of};
use support::{AUTHENTICATE, Client, eventually, packet};

/// Longer than any test takes.
const LONG: Duration = Duration::from_secs(3600);

#[test]
fn an_actor_gets_its_new_connection_and_keeps_its_state() {
    for shards in [1, 3] {
        let (server, journal) = server_of(
            |kind| kind.keep_disconnected(LONG),
            |builder| builder.shards(shards),
        );
        let mut client = Client::join(&server, 1, "ann");
        assert_eq!(client.request("Seen", 2, "").text(), "1");
        for n in 0..5 {
            drop(client);
            eventually("the stage is told", || {
                (journal.count("stage.on_connection(ann,false)") == n + 1).then_some(())
            });
            client = Client::connect(&server);
            assert_eq!(
                client.authenticate(1, "ann:hello").short(),
                ("Hello", 1, 0, "ann")
            );
            let seen = (n + 2).to_string();
            assert_eq!(client.request("Seen", 2, "").text(), seen);
        }
        assert_eq!(journal.count("stage.on_connection(ann,true)"), 5);
        assert_eq!(journal.count("stage.on_join(ann)"), 1);
        assert_eq!(
            journal.count("ann.on_destroy"),
            5,
            "those that only brought connections"
        );
        let stats = server.handle().stats();
        assert_eq!((stats.actors, stats.reconnects, stats.replaced), (1, 5, 0));
    }
}

/// It is told why, then closed.
#[track_caller]
fn is_replaced(old: &mut Client) {
    let told = old.receive();
    assert_eq!((told.short(), told.stage), ((AUTHENTICATE, 0, 7, ""), 1));
    old.is_closed();
}

#[test]
fn a_duplicate_login_takes_the_actor_over_and_the_old_close_says_nothing() {
    for shards in [1, 3] {
        let (server, journal) = server(|builder| builder.shards(shards));
        let mut old = Client::join(&server, 1, "ann");
        for n in 1..=10 {
            let mut new = Client::join(&server, 1, "ann");
            is_replaced(&mut old);
            assert_eq!(new.request("Echo", 3, "alive").text(), "alive");
            old = new; // its predecessor's socket ends here, for good
            assert_eq!(journal.count("stage.on_connection(ann,true)"), n);
        }
        // Everything that comes of the old sockets has come once this is answered by the engine.
        eventually("all old connections are gone", || {
            let stats = server.engine().handle().stats().total();
            (stats.connections == 1).then_some(())
        });
        assert_eq!(old.request("Echo", 4, "still alive").text(), "still alive");
        assert!(
            !journal.has("stage.on_connection(ann,false)"),
            "the live actor is not gone"
        );
        let stats = server.handle().stats();
        assert_eq!(
            (stats.actors, stats.replaced, stats.closed_replaced),
            (1, 10, 10)
        );
        assert_eq!(stats.disconnects, 0);
    }
}

#[test]
fn a_takeover_waits_for_the_stage_like_everything_else() {
    let (server, journal) = server(|builder| builder);
    let mut old = Client::join(&server, 1, "ann");
    let mut bob = Client::join(&server, 1, "bob");
    bob.send("Slow", 2, "");
    journal.await_line("stage.slow begins");
    let mut bytes = packet(AUTHENTICATE, 1, 1, b"ann");
    bytes.extend(packet("Seen", 2, 1, b""));
    let mut new = Client::connect(&server);
    new.stage = 1;
    new.write(&bytes);
    assert_eq!(new.receive().short(), (AUTHENTICATE, 1, 0, ""));
    assert_eq!(new.receive().short(), ("SeenReply", 2, 0, "1"));
    is_replaced(&mut old);
}

#[test]
fn an_actor_without_a_connection_leaves_in_time() {
    let (server, journal) = server_of(
        |kind| kind.keep_disconnected(Duration::from_millis(5)),
        |builder| builder,
    );
    drop(Client::join(&server, 1, "ann"));
    journal.await_line("ann.on_destroy");
    let lines = journal.take();
    assert_eq!(
        lines[lines.len() - 3..],
        [
            "stage.on_connection(ann,false)",
            "stage.on_leave(ann,Disconnected)",
            "ann.on_destroy"
        ]
    );
    eventually("it is counted", || {
        let stats = server.handle().stats();
        ((stats.actors, stats.expired) == (0, 1)).then_some(())
    });
    // The account is free: whoever comes now is another actor, not the one that was destroyed.
    let mut client = Client::join(&server, 1, "ann");
    assert!(journal.has("stage.on_join(ann)"));
    assert_eq!(client.request("Seen", 2, "").text(), "1");
}

#[test]
fn an_actor_leaves_at_once_if_it_is_not_to_be_kept() {
    let (server, journal) = server_of(
        |kind| kind.keep_disconnected(Duration::ZERO),
        |builder| builder,
    );
    drop(Client::join(&server, 1, "ann"));
    journal.await_line("ann.on_destroy");
    assert!(journal.has("stage.on_leave(ann,Disconnected)"));
}

#[test]
fn a_client_that_goes_while_it_joins_is_told_of_as_any_other() {
    for shards in [1, 3] {
        let (server, journal) = server(|builder| builder.shards(shards));
        for (stage, account) in (1..10).zip(["patient", "ann:slow", "bob"].iter().cycle()) {
            let mut client = Client::connect(&server);
            client.write(&packet(AUTHENTICATE, 1, stage, account.as_bytes()));
            drop(client);
        }
        eventually("every actor has lost its connection", || {
            let stats = server.handle().stats();
            ((stats.joins, stats.disconnects) == (9, 9)).then_some(())
        });
        assert_eq!(journal.count("stage.on_connection(patient,false)"), 3);
        assert_eq!(journal.count("stage.on_connection(bob,false)"), 3);
    }
}

#[test]
fn a_kicked_actor_is_gone_and_its_connection_closed() {
    let (server, journal) = server(|builder| builder);
    let mut client = Client::join(&server, 1, "ann");
    client.send("Kick", 0, "");
    client.is_closed();
    journal.await_line("ann.on_destroy");
    assert!(journal.has("stage.on_leave(ann,Kicked)"));
    assert!(!journal.has("stage.on_connection(ann,false)"));
    assert_eq!(server.handle().stats().closed_kicked, 1);
}

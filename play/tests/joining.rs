//! Authentication and join, as clients see them, over real sockets.

mod support;

use proscenium_engine::{Balance, Listener};
use proscenium_play::{Content, ErrorCode, PlayListener, PlayServer};
use support::hall::{halls, server, server_of};
use support::{AUTHENTICATE, Client, PATIENCE, eventually, packet};

/// The steps of a join, in order.
fn steps(account: &str) -> Vec<String> {
    vec![
        "actor.on_create".to_owned(),
        format!("{account}.on_authenticate"),
        format!("{account}.on_post_authenticate"),
        "stage.on_create".to_owned(),
        "stage.on_post_create".to_owned(),
        format!("stage.on_join({account})"),
        format!("stage.on_post_join({account})"),
    ]
}

#[test]
fn a_client_authenticates_and_joins_in_ten_steps() {
    for shards in [1, 3] {
        let (server, journal) = server(|builder| builder.shards(shards));
        let mut clients: Vec<Client> = (1..=8).map(|_| Client::connect(&server)).collect();
        for (stage, client) in (1..=8).zip(&mut clients) {
            let answer = client.authenticate(stage, "ann:hello");
            assert_eq!(answer.short(), ("Hello", 1, 0, "ann"));
            assert_eq!((answer.stage, answer.original_size), (stage, 0));
            assert_eq!(journal.take(), steps("ann"));
            let answer = client.request("Echo", 7, "to all stages");
            assert_eq!(answer.short(), ("EchoReply", 7, 0, "to all stages"));
        }
        let stats = server.handle().stats();
        assert_eq!((stats.stages, stats.actors, stats.joins), (8, 8, 8));
    }
}

#[test]
fn a_stage_follows_its_id_to_one_shard_and_its_connections_follow_it() {
    let (server, _journal) = server(|builder| builder.shards(3));
    let mut shards = std::collections::BTreeSet::new();
    for stage in 0..16 {
        let places: Vec<String> = (0..4)
            .map(|n| {
                let mut client = Client::join(&server, stage, &format!("guest {n}"));
                client.request("Where", 1, "").text().to_owned()
            })
            .collect();
        assert!(places.iter().all(|place| *place == places[0]), "{places:?}");
        shards.insert(places[0].clone());
    }
    assert_eq!(shards.len(), 3, "16 stages on 3 shards");
}

#[test]
fn connections_that_one_shard_accepts_for_all_join_as_well() {
    let listener = Listener::tcp("127.0.0.1:0").unwrap();
    let listener = listener.balance(Balance::RoundRobin);
    let (server, _journal) = server(|builder| builder.shards(3).listen(listener));
    for stage in 0..12 {
        let mut client = Client::to(support::address_of(&server, 1));
        assert_eq!(client.authenticate(stage, "ann").error, 0);
        assert_eq!(client.request("Echo", 2, "here").text(), "here");
    }
}

#[test]
fn what_follows_the_authentication_is_handled_after_the_join_in_order() {
    for shards in [1, 3] {
        let (server, _journal) = server(|builder| builder.shards(shards));
        for (stage, account) in (1..=9).zip(["ann:slow", "patient", "bob"].iter().cycle()) {
            let mut client = Client::connect(&server);
            let mut bytes = packet(AUTHENTICATE, 1, stage, account.as_bytes());
            for n in 2..100_u16 {
                bytes.extend(packet("Echo", n, stage, n.to_string().as_bytes()));
            }
            client.write(&bytes);
            assert_eq!(client.receive().short(), (AUTHENTICATE, 1, 0, ""));
            for n in 2..100_u16 {
                assert_eq!(
                    client.receive().short(),
                    ("EchoReply", n, 0, &*n.to_string())
                );
            }
        }
    }
}

#[test]
fn a_push_of_on_post_join_comes_before_the_answer() {
    let (server, _journal) = server(|builder| builder);
    let mut client = Client::connect(&server);
    client.stage = 1;
    client.send(AUTHENTICATE, 1, "greeted");
    assert_eq!(client.receive().short(), ("Welcome", 0, 0, "come in"));
    assert_eq!(client.receive().short(), (AUTHENTICATE, 1, 0, ""));
}

#[test]
fn failed_authentication_answers_5_with_the_handlers_payload_and_may_be_tried_again() {
    let (server, journal) = server(|builder| builder);
    let mut client = Client::connect(&server);
    let answer = client.authenticate(1, "ann:wrong");
    assert_eq!(answer.short(), ("Wrong", 1, 5, "wrong password"));
    assert!(
        journal.has("ann.on_destroy"),
        "the actor that did not get in"
    );
    let answer = client.authenticate(1, "ann");
    assert_eq!(answer.short(), (AUTHENTICATE, 1, 0, ""));
    assert_eq!(
        client.request("Echo", 2, "in").short(),
        ("EchoReply", 2, 0, "in")
    );
}

#[test]
fn nobody_creates_a_stage_without_authenticating() {
    let (server, journal) = server(|builder| builder);
    let mut client = Client::connect(&server);
    assert_eq!(client.authenticate(1, "ann:wrong").error, 5);
    assert_eq!(client.authenticate(2, "ann:empty").error, 16);
    assert!(!journal.has("stage.on_create"));
    eventually("nothing is left of them", || {
        (server.handle().stats().stages == 0).then_some(())
    });
    assert_eq!(server.handle().stats().stages_created, 0);
}

#[test]
fn tries_are_bounded() {
    let (server, _journal) = server(|builder| builder.authentication_tries(3));
    let mut client = Client::connect(&server);
    for _ in 0..3 {
        assert_eq!(client.authenticate(1, "ann:wrong").error, 5);
    }
    client.is_closed();
    eventually("it is counted", || {
        (server.handle().stats().closed_tries == 1).then_some(())
    });
}

#[test]
fn what_goes_wrong_while_authenticating_says_so_and_keeps_the_connection() {
    let (server, _journal) = server(|builder| builder.authentication_tries(10));
    let mut client = Client::connect(&server);
    assert_eq!(client.authenticate(1, "ann:empty").error, 16);
    assert_eq!(client.authenticate(1, "ann:error").error, 15);
    assert_eq!(
        client.authenticate(1, "ann:coded").short(),
        ("No", 1, 1001, "not today")
    );
    assert_eq!(client.authenticate(1, "ann:panic").error, 15);
    assert_eq!(client.request(AUTHENTICATE, 9, [0xff]).error, 15);
    assert_eq!(client.authenticate(1, "ann").error, 0);
}

#[test]
fn a_panic_of_an_actor_that_authenticates_costs_the_stage_nothing() {
    let (server, journal) = server(|builder| builder);
    let mut ann = Client::join(&server, 1, "ann");
    let mut bob = Client::connect(&server);
    assert_eq!(bob.authenticate(1, "bob:panic").error, 15);
    assert_eq!(ann.request("Echo", 2, "here").text(), "here");
    assert!(!journal.has("stage.on_destroy with 1"));
}

#[test]
fn a_missing_stage_is_3_without_a_default_type() {
    let journal = support::hall::Journal::default();
    let server = proscenium_play::PlayServer::builder()
        .stage(halls("hall", &journal))
        .listen(PlayListener::tcp("127.0.0.1:0").unwrap())
        .start()
        .unwrap();
    let mut client = Client::connect(&server);
    let answer = client.authenticate(5, "ann");
    assert_eq!(answer.short(), (AUTHENTICATE, 1, 3, ""));
    let created = server.handle().create_stage("hall", 5, Content::default());
    assert!(created.wait(PATIENCE).unwrap().is_new);
    assert_eq!(client.authenticate(5, "ann").error, 0);
}

#[test]
fn each_listener_names_its_own_default_type() {
    let (server, _journal) = server_of(
        |kind| kind,
        |builder| {
            let journal = support::hall::Journal::default();
            builder.stage(halls("lobby", &journal)).listen(
                PlayListener::tcp("127.0.0.1:0")
                    .unwrap()
                    .default_stage("lobby"),
            )
        },
    );
    named(&server);
}

#[test]
fn listeners_of_the_engine_do_not_take_the_numbers_of_the_servers() {
    use proscenium_engine::{Framing, Listener};
    let (server, _journal) = server_of(
        |kind| kind,
        |builder| {
            let journal = support::hall::Journal::default();
            let other = Listener::tcp("127.0.0.1:0").unwrap().framing(Framing::Le32);
            let builder = builder.with_engine(|engine| engine.listen(other));
            builder.stage(halls("lobby", &journal)).listen(
                PlayListener::tcp("127.0.0.1:0")
                    .unwrap()
                    .default_stage("lobby"),
            )
        },
    );
    assert_eq!(server.local_addrs().len(), 2);
    named(&server);
    // Clients of the engine's own have the server's defaults.
    let mut client = Client::to(support::tcp(&server.engine().local_addrs()[0]));
    assert_eq!(client.authenticate(6, "ann").error, 0);
    let hall = server
        .handle()
        .get_or_create_stage("hall", 6, Content::default());
    assert!(!hall.wait(PATIENCE).unwrap().is_new);
}

/// The second listener's default type is `lobby`.
#[track_caller]
fn named(server: &PlayServer) {
    let mut client = Client::to(support::address_of(server, 1));
    assert_eq!(client.authenticate(5, "ann").error, 0);
    let handle = server.handle();
    let lobby = handle.get_or_create_stage("lobby", 5, Content::default());
    assert!(!lobby.wait(PATIENCE).unwrap().is_new);
    let hall = handle.get_or_create_stage("hall", 5, Content::default());
    assert_eq!(hall.wait(PATIENCE), Err(ErrorCode::INVALID_STAGE_TYPE));
}

#[test]
fn a_refused_join_is_17_and_the_connection_is_not_authenticated() {
    let (server, journal) = server(|builder| builder);
    let mut client = Client::connect(&server);
    let answer = client.authenticate(1, "banned");
    assert_eq!(answer.short(), ("Banned", 1, 17, "for ever"));
    assert!(journal.has("banned.on_destroy"));
    assert_eq!(server.handle().stats().actors, 0);
    // It is as any other that has not authenticated.
    client.send("Echo", 2, "let me in");
    client.is_closed();
    assert_eq!(server.handle().stats().closed_chatter, 1);

    let mut client = Client::connect(&server);
    assert_eq!(client.authenticate(1, "banned").error, 17);
    assert_eq!(
        client.authenticate(1, "ann").error,
        0,
        "with another account"
    );
}

#[test]
fn a_join_that_fails_is_10() {
    let (server, _journal) = server(|builder| builder);
    let mut ann = Client::join(&server, 1, "ann");
    let mut client = Client::connect(&server);
    assert_eq!(client.authenticate(1, "broken").error, 10);
    assert_eq!(ann.request("Echo", 2, "here").text(), "here");
}

#[test]
fn an_error_of_on_join_may_have_another_code() {
    let denied = |error: &(dyn std::error::Error + 'static)| {
        let error = error.downcast_ref::<std::io::Error>()?;
        (error.kind() == std::io::ErrorKind::PermissionDenied).then_some(ErrorCode(1403))
    };
    let (server, _journal) = server(|builder| builder.map_errors(denied));
    let mut client = Client::connect(&server);
    assert_eq!(client.authenticate(1, "denied").error, 1403);
    assert_eq!(client.authenticate(1, "broken").error, 10, "not mapped");
}

/// The join goes on, and the client hears of it, if not with that payload.
#[test]
fn a_message_of_a_verdict_that_is_too_long_is_left_out_of_the_answer() {
    let (server, _journal) = server(|builder| builder);
    let mut client = Client::connect(&server);
    let answer = client.authenticate(1, "ann:long");
    assert_eq!(answer.short(), (AUTHENTICATE, 1, 0, ""));
    assert_eq!(client.request("Echo", 2, "in").text(), "in");
    assert_eq!(server.handle().stats().closed_mute, 0);
}

#[test]
fn a_panic_in_on_join_answers_and_costs_the_stage() {
    let (server, _journal) = server(|builder| builder);
    let mut ann = Client::join(&server, 1, "ann");
    let mut client = Client::connect(&server);
    assert_eq!(client.authenticate(1, "bomb").error, 10);
    ann.is_closed();
    eventually("the stage is gone", || {
        let stats = server.handle().stats();
        ((stats.stages, stats.actors) == (0, 0)).then_some(())
    });
    assert_eq!(client.authenticate(1, "ann").error, 0, "it is created anew");
}

#[test]
fn who_leaves_while_joining_has_not_joined() {
    let (server, journal) = server(|builder| builder);
    let mut client = Client::connect(&server);
    assert_eq!(client.authenticate(1, "shy").error, 17);
    assert!(journal.has("shy.on_destroy"));
    let stats = server.handle().stats();
    assert_eq!((stats.actors, stats.joins, stats.leaves), (0, 1, 1));
    assert_eq!(client.authenticate(1, "ann").error, 0);
}

#[test]
fn a_full_stage_refuses() {
    let (server, _journal) = server_of(|kind| kind.actors_max(2), |builder| builder);
    let _ann = Client::join(&server, 1, "ann");
    let mut bob = Client::join(&server, 1, "bob");
    let mut eve = Client::connect(&server);
    assert_eq!(eve.authenticate(1, "eve").error, 17);
    bob.send("Leave", 0, "");
    eventually("bob has left", || {
        (server.handle().stats().actors == 1).then_some(())
    });
    assert_eq!(eve.authenticate(1, "eve").error, 0);
}

#[test]
fn authenticating_again_is_7() {
    let (server, _journal) = server(|builder| builder);
    let mut client = Client::join(&server, 1, "ann");
    let answer = client.request(AUTHENTICATE, 2, "ann");
    assert_eq!(answer.short(), (AUTHENTICATE, 2, 7, ""));
    assert_eq!(client.request("Echo", 3, "still").text(), "still");
}

#[test]
fn a_failed_creation_is_9_and_leaves_no_stage_behind() {
    for shards in [1, 2] {
        let (server, journal) = server(|builder| builder.shards(shards));
        let handle = server.handle();
        for stage in [-1, -2, -7] {
            let mut client = Client::connect(&server);
            assert_eq!(client.authenticate(stage, "ann").error, 9);
            for _ in 0..3 {
                let created = handle.create_stage("hall", stage, Content::default());
                let created = created.wait(PATIENCE);
                assert_eq!(
                    created,
                    Err(ErrorCode::STAGE_CREATION_FAILED),
                    "not: it exists"
                );
            }
            let found = handle.request_stage(stage, "Ask", ()).wait(PATIENCE);
            assert_eq!(found, Err(ErrorCode::STAGE_NOT_FOUND));
        }
        eventually("nothing is left", || {
            (handle.stats().stages == 0).then_some(())
        });
        assert!(!journal.has("stage.on_post_create"));
        let destroyed = journal
            .all()
            .iter()
            .any(|line| line.starts_with("stage.on_destroy"));
        assert!(!destroyed, "it never was");
    }
}

#[test]
fn a_connection_that_left_may_join_another_stage() {
    for shards in [1, 3] {
        let (server, journal) = server(|builder| builder.shards(shards));
        let mut client = Client::join(&server, 1, "ann");
        for stage in 2..10 {
            let answer = client.request("Leave", 5, "");
            assert_eq!(answer.short(), ("LeaveReply", 5, 0, ""));
            // What was under way when it left is answered, and does not close it.
            assert_eq!(
                client.request("Echo", 6, "late").short(),
                ("Echo", 6, 6, "")
            );
            assert_eq!(client.authenticate(stage, "ann").error, 0);
            assert_eq!(client.request("Echo", 7, "in").text(), "in");
        }
        assert_eq!(journal.count("stage.on_leave(ann,Left)"), 8);
        assert_eq!(server.handle().stats().actors, 1);
    }
}

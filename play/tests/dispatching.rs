//! Messages of clients, their answers, and what handlers can do, over real sockets.

mod support;

use proscenium_play::{Content, DeliverError, ErrorCode};
use support::hall::{server, server_of};
use support::{Client, PATIENCE, eventually, packet};

#[test]
fn requests_are_answered_in_order_once_each() {
    let (server, _journal) = server(|builder| builder);
    let mut client = Client::join(&server, 1, "ann");
    let mut bytes = Vec::new();
    for n in 1..=1000_u16 {
        bytes.extend(packet("Echo", n, 1, &n.to_le_bytes()));
    }
    client.write(&bytes);
    for n in 1..=1000_u16 {
        let answer = client.receive();
        assert_eq!(
            (&*answer.msg_id, answer.seq, answer.error),
            ("EchoReply", n, 0)
        );
        assert_eq!(
            (answer.stage, answer.payload),
            (1, n.to_le_bytes().to_vec())
        );
    }
}

#[test]
fn every_request_gets_exactly_one_answer_whatever_its_handler_does() {
    let denied = |error: &(dyn std::error::Error + 'static)| {
        let error = error.downcast_ref::<std::io::Error>()?;
        (error.kind() == std::io::ErrorKind::PermissionDenied).then_some(ErrorCode(1403))
    };
    let (server, _journal) = server(|builder| builder.map_errors(denied));
    let mut client = Client::join(&server, 1, "ann");
    let answers = [
        ("Twice", ("First", 0, "")),
        ("Nothing", ("Nothing", 15, "")),
        ("Fail", ("FailReply", 1234, "why")),
        ("Oops", ("Oops", 15, "")),
        ("Denied", ("Denied", 1403, "")),
        ("LongId", ("LongId", 15, "")),
        ("BadOffload", ("BadOffload", 15, "")),
        ("Unknown", ("Unknown", 12, "")),
        ("@Debug@", ("@Debug@", 11, "")),
        ("@Timeout@", ("@Timeout@", 11, "")),
        ("Echo", ("EchoReply", 0, "")),
    ];
    for (seq, (msg_id, (id, error, text))) in (10..).zip(answers) {
        assert_eq!(
            client.request(msg_id, seq, "").short(),
            (id, seq, error, text)
        );
    }
    // As messages that nobody asks about, they are answered by nothing.
    for (msg_id, _) in answers {
        client.send(msg_id, 0, "");
    }
    assert_eq!(
        client.request("Echo", 99, "end").short(),
        ("EchoReply", 99, 0, "end")
    );
    let stats = server.handle().stats();
    assert_eq!((stats.unanswered, stats.panics), (1, 0));
}

#[test]
fn what_is_not_answered_may_have_another_code() {
    let (server, _journal) = server(|builder| builder.unanswered(0));
    let mut client = Client::join(&server, 1, "ann");
    assert_eq!(
        client.request("Nothing", 2, "").short(),
        ("Nothing", 2, 0, "")
    );
}

#[test]
fn a_panic_answers_15_and_ends_the_stage() {
    let (server, journal) = server(|builder| builder);
    let mut ann = Client::join(&server, 1, "ann");
    let mut bob = Client::join(&server, 1, "bob");
    let mut other = Client::join(&server, 2, "ann");
    assert_eq!(ann.request("Panic", 7, "").short(), ("Panic", 7, 15, ""));
    ann.is_closed();
    bob.is_closed();
    assert_eq!(other.request("Echo", 2, "here").text(), "here");
    assert!(!journal.has("stage.on_destroy with 2"));
    eventually("the stage is gone", || {
        let stats = server.handle().stats();
        ((stats.stages, stats.actors, stats.panics) == (1, 1, 1)).then_some(())
    });
    let mut ann = Client::join(&server, 1, "ann");
    assert_eq!(ann.request("Seen", 2, "").text(), "1", "all is new");
}

#[test]
fn a_stage_may_survive_panics() {
    let (server, _journal) = server_of(|kind| kind.survive_panics(), |builder| builder);
    let mut client = Client::join(&server, 1, "ann");
    for seq in 2..5 {
        assert_eq!(
            client.request("Panic", seq, "").short(),
            ("Panic", seq, 15, "")
        );
    }
    assert_eq!(client.request("Seen", 9, "").text(), "4");
    assert_eq!(server.handle().stats().panics, 3);
    // Also those of closures that enter it later.
    let answer = client.request("DetachPanic", 10, "");
    assert_eq!(answer.short(), ("DetachPanic", 10, 15, ""));
    assert_eq!(client.request("Seen", 11, "").text(), "6");
    assert_eq!(server.handle().stats().panics, 4);
}

#[test]
fn answers_may_be_put_off() {
    let (server, _journal) = server(|builder| builder);
    let mut client = Client::join(&server, 1, "ann");
    for seq in 2..5 {
        client.send("Defer", seq, "");
    }
    assert_eq!(client.request("Echo", 9, "meanwhile").seq, 9);
    client.send("Release", 0, "");
    for seq in 2..5 {
        assert_eq!(client.receive().short(), ("LateReply", seq, 0, "at last"));
    }
    client.send("Defer", 6, "");
    client.send("Forget", 0, "");
    assert_eq!(client.receive().short(), ("Defer", 6, 15, ""), "dropped");
}

#[test]
fn an_answer_that_was_put_off_and_dropped_is_15_whatever_else_is_none() {
    let (server, _journal) = server(|builder| builder.unanswered(0));
    let mut client = Client::join(&server, 1, "ann");
    assert_eq!(
        client.request("Nothing", 2, "").short(),
        ("Nothing", 2, 0, "")
    );
    client.send("Defer", 3, "");
    client.send("Forget", 0, "");
    assert_eq!(client.receive().short(), ("Defer", 3, 15, ""));
}

#[test]
fn a_broadcast_that_is_too_long_goes_to_nobody_and_says_so() {
    let (server, _journal) = server(|builder| {
        let builder = builder.limits(|limits| limits.frame_max(4096));
        builder.map_errors(|error| match error.downcast_ref() {
            Some(DeliverError::TooLong { limit: 4096, .. }) => Some(ErrorCode(1999)),
            _ => None,
        })
    });
    let mut ann = Client::join(&server, 1, "ann");
    let mut bob = Client::join(&server, 1, "bob");
    // The packet of the server has six bytes more before its payload, its id as many.
    let most = 4096 - (1 + "Said".len() + 2 + 8 + 2 + 4);
    let answer = ann.request("All", 2, vec![b'x'; most + 1]);
    assert_eq!(answer.short(), ("All", 2, 1999, ""));
    ann.send("All", 0, vec![b'x'; most]);
    for client in [&mut ann, &mut bob] {
        let said = client.receive();
        assert_eq!((&*said.msg_id, said.payload.len()), ("Said", most));
    }
}

#[test]
fn broadcasts_go_to_all_to_some_and_to_all_but_one() {
    let (server, _journal) = server(|builder| builder);
    let mut clients: Vec<Client> = ["ann", "bob", "eve"]
        .iter()
        .map(|account| Client::join(&server, 1, account))
        .collect();
    let mut elsewhere = Client::join(&server, 2, "dan");
    clients[0].send("All", 0, "one");
    clients[1].send("Others", 0, "two");
    assert_eq!(
        clients[1].request("Two", 4, "").short(),
        ("Said", 0, 0, "one")
    );
    for (n, client) in clients.iter_mut().enumerate() {
        let mut got = Vec::new();
        client.send("Echo", 5, "");
        loop {
            let answer = client.receive();
            match &*answer.msg_id {
                "Said" => got.push(answer.text().to_owned()),
                "EchoReply" => break,
                other => assert_eq!(other, "Two"), // which is no answer, so it is told 15
            }
        }
        let expected: [&[&str]; 3] = [&["one", "two", "two"], &["two"], &["one", "two"]];
        assert_eq!(got, expected[n], "client {n}");
    }
    assert_eq!(elsewhere.request("Echo", 2, "").msg_id, "EchoReply");
}

#[test]
fn a_broadcast_is_encoded_once() {
    let (server, _journal) = server(|builder| builder);
    let mut clients: Vec<Client> = (0..10)
        .map(|n| Client::join(&server, 1, &n.to_string()))
        .collect();
    clients[0].send("Counted", 2, "");
    for client in &mut clients {
        assert_eq!(client.receive().short(), ("Said", 0, 0, "once"));
    }
    assert_eq!(clients[0].receive().short(), ("CountedReply", 2, 0, "1"));
}

#[test]
fn a_handler_has_the_other_actors_at_hand() {
    let (server, _journal) = server(|builder| builder);
    let mut ann = Client::join(&server, 1, "ann");
    let mut bob = Client::join(&server, 1, "bob");
    assert_eq!(ann.request("Tag", 2, "").msg_id, "TagReply");
    assert_eq!(ann.request("Seen", 3, "").text(), "2");
    assert_eq!(bob.request("Seen", 3, "").text(), "1001");
}

#[test]
fn while_a_handler_waits_its_stage_does_nothing_else() {
    let (server, journal) = server(|builder| builder);
    let mut ann = Client::join(&server, 1, "ann");
    let mut bob = Client::join(&server, 1, "bob");
    ann.send("Slow", 2, "ann");
    journal.await_line("stage.slow begins");
    bob.send("Note", 0, "meanwhile");
    assert_eq!(ann.receive().text(), "ann");
    journal.await_line("stage.meanwhile");
    let lines = journal.all();
    let at = |line: &str| lines.iter().position(|known| known == line).unwrap();
    assert!(at("stage.slow begins") < at("stage.slow ends"));
    assert!(at("stage.slow ends") < at("stage.meanwhile"));
}

#[test]
fn heartbeats_are_answered_before_authentication_and_while_the_stage_is_busy() {
    let (server, journal) = server(|builder| builder);
    let mut client = Client::connect(&server);
    client.stage = 77;
    let answer = client.request("@Heart@Beat@", 5, "payload");
    assert_eq!(answer.short(), ("@Heart@Beat@", 5, 0, ""));
    assert_eq!((answer.stage, answer.original_size), (77, 0));
    assert_eq!(client.authenticate(1, "ann").error, 0);
    client.send("Slow", 2, "done");
    client.send("Echo", 3, "behind");
    journal.await_line("stage.slow begins");
    client.send("@Heart@Beat@", 0, "");
    let order = [client.receive(), client.receive(), client.receive()];
    let seqs = order.map(|answer| answer.seq);
    // A slow machine may have been done with the rest before the heartbeat came.
    assert!(
        [[0, 2, 3], [2, 0, 3], [2, 3, 0]].contains(&seqs),
        "{seqs:?}"
    );
    assert_eq!(server.handle().stats().heartbeats, 2);
}

#[test]
fn debug_messages_are_answered_where_they_are_on() {
    let (server, _journal) = server(|builder| builder.debug_messages(true));
    let mut client = Client::join(&server, 1, "ann");
    let answer = client.request("@Debug@", 2, "");
    assert_eq!(answer.error, 0);
    assert!(answer.text().contains("1 stages"), "{}", answer.text());
}

#[test]
fn timers_ticks_and_offloads_come_back_to_the_stage() {
    let (server, journal) = server(|builder| builder);
    let mut client = Client::join(&server, 1, "ann");
    assert_eq!(client.request("Offload", 2, "").text(), "5050");
    let timer = client.request("Timer", 3, "");
    assert_eq!(client.receive().msg_id, "Timer");
    assert!(journal.has(&format!("stage.on_timer {}", timer.text())));
    client.send("Tick", 0, "");
    for _ in 0..3 {
        assert_eq!(client.receive().msg_id, "Tick");
    }
    let mut other = Client::join(&server, 2, "ann");
    let again = other.request("Timer", 3, "");
    assert_eq!(again.text(), timer.text(), "timers count for each stage");
    assert_eq!(other.receive().msg_id, "Timer", "and are told apart");
    let (_, tick) = (other.request("Echo", 4, ""), client.receive());
    assert_eq!(tick.msg_id, "Tick");
}

#[test]
fn detached_work_enters_the_stage_and_may_have_an_actor_leave() {
    let (server, journal) = server(|builder| builder);
    let mut client = Client::join(&server, 1, "ann");
    assert_eq!(
        client.request("Detach", 2, "").short(),
        ("DetachReply", 2, 0, "42")
    );
    journal.await_line("stage.on_leave(ann,Left)");
    assert_eq!(client.authenticate(1, "ann").error, 0);
}

#[test]
fn a_request_for_another_stage_is_3() {
    let (server, _journal) = server(|builder| builder);
    let mut client = Client::join(&server, 1, "ann");
    client.stage = 2;
    assert_eq!(client.request("Echo", 2, "").short(), ("Echo", 2, 3, ""));
    client.stage = 1;
    assert_eq!(client.request("Echo", 3, "").error, 0);
    assert_eq!(server.handle().stats().misdirected, 1);
}

#[test]
fn stages_and_the_program_talk_to_stages() {
    for shards in [1, 3] {
        let (server, journal) = server(|builder| builder.shards(shards));
        let handle = server.handle();
        let mut client = Client::join(&server, 1, "ann");
        let ask = |id, what: &'static str| handle.request_stage(id, what, "text").wait(PATIENCE);
        assert_eq!(ask(1, "Ask"), Ok(Content::new("AskReply", "text")));
        assert_eq!(ask(1, "Fail"), Err(ErrorCode(1500)));
        assert_eq!(ask(1, "Nothing"), Err(ErrorCode::UNCHECKED_CONTENTS_ERROR));
        assert_eq!(ask(99, "Ask"), Err(ErrorCode::STAGE_NOT_FOUND));
        assert_eq!(ask(1, ""), Err(ErrorCode::INVALID_MESSAGE));
        handle.send_to_stage(1, "Tell", "news").unwrap();
        assert_eq!(client.receive().short(), ("Told", 0, 0, "news"));
        assert!(journal.has("stage.told news"));
        for id in 2..12 {
            let created = handle.create_stage("hall", id, Content::default());
            assert!(created.wait(PATIENCE).unwrap().is_new);
            let answer = client.request("AskStage", 5, id.to_string());
            if id == 3 {
                // The code of another stage's failure goes all the way.
                assert_eq!(answer.short(), ("AskStage", 5, 1500, ""));
            } else {
                assert_eq!(answer.short(), ("AskReply", 5, 0, "how are you"));
            }
        }
        assert_eq!(client.request("AskStage", 6, "99").error, 3);
        assert_eq!(client.request("AskStage", 7, "1").error, 14, "itself");
        assert_eq!(ask(2, "Panic"), Err(ErrorCode::UNCHECKED_CONTENTS_ERROR));
    }
}

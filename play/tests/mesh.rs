//! Stages of Play servers that are nodes of one mesh, over real sockets.

mod support;

use std::sync::atomic::Ordering;
use std::time::Duration;

use proscenium_nodelink::directory::{ServerInfo, ServerType, StaticDirectory};
use proscenium_nodelink::{Nid, Node, RequestOptions, RouteHeader};
use support::mesh::{
    answer, any, api, ask_from, ask_stage, create, linked, mesh_of, node_of, options, server_at,
};
use support::{Client, PATIENCE, eventually};

#[test]
fn stages_ask_and_tell_stages_of_other_servers() {
    let servers = mesh_of(2, 1);
    let [(one, _), (two, board)] = &servers[..] else {
        panic!("two servers")
    };
    for (from, asks, text) in [
        (one, 10, "play-2 20 Echo hello"),
        (two, 25, "play-1 15 Echo hello"),
    ] {
        assert_eq!(
            ask_stage(from, asks, "Ask", text),
            answer("EchoReply", "hello")
        );
    }
    let stats = (one.handle().stats(), two.handle().stats());
    assert!(stats.0.node_requests >= 1 && stats.0.node_replies == stats.0.node_requests);
    assert!(stats.0.node_answers >= 1 && stats.1.node_received >= 1);
    for _ in 0..5 {
        let told = ask_stage(one, 10, "Tell", "play-2 21 Note x");
        assert_eq!(told, answer("TellReply", ""));
    }
    eventually("what was told", || (board.told() == 5).then_some(()));
    assert_eq!(one.handle().stats().node_sends, 5);
    assert_eq!(one.handle().stats().node_failures, 0);
}

#[test]
fn error_codes_travel() {
    let servers = mesh_of(2, 1);
    let [(one, _), (two, _)] = &servers[..] else {
        panic!("two servers")
    };
    let asked = |text: &str| ask_stage(one, 10, "Ask", text);
    assert_eq!(asked("play-2 20 Fail x"), Err(1234));
    assert_eq!(asked("play-2 20 Oops x"), Err(15));
    assert_eq!(asked("play-2 20 Silent x"), Err(15));
    assert_eq!(asked("play-2 20 Unheard x"), Err(12));
    assert_eq!(asked("play-2 29999 Echo x"), Err(3), "no such stage");
    assert_eq!(asked("play-3 20 Echo x"), Err(2), "no such server");
    assert_eq!(asked("#7 20 Echo x"), Err(2), "nobody of that service");
    assert_eq!(
        asked("play-2 20 Huge x"),
        answer("Small", "14"),
        "too long, then another"
    );
    assert_eq!(ask_stage(one, 10, "Tell", "play-3 20 Note x"), Err(15));
    assert_eq!(asked("play-2 20 Panic x"), Err(15));
    assert_eq!(asked("play-2 20 Echo x"), Err(3), "it has panicked");
    // The other one answers on.
    assert_eq!(asked("play-2 21 Echo x"), answer("EchoReply", "x"));
    assert_eq!(two.handle().stats().panics, 1);
}

#[test]
fn an_answer_may_come_later_and_none_is_lost_with_its_stage() {
    let servers = mesh_of(2, 1);
    let (one, two) = (&servers[0].0, &servers[1].0);
    let handle = one.handle();
    let ask = |stage| handle.request_stage(stage, "Ask", "play-2 20 Defer x");
    // They have got to know each other by messages, too.
    let received = two.handle().stats().node_received;
    let waiting: Vec<_> = (10..15).map(ask).collect();
    eventually("five that wait", || {
        (two.handle().stats().node_received >= received + 5).then_some(())
    });
    ask_stage(two, 20, "Release", "").unwrap_err();
    for asked in waiting {
        assert_eq!(asked.wait(PATIENCE).unwrap().payload, "at last");
    }
    let received = two.handle().stats().node_received;
    let waiting: Vec<_> = (10..15).map(ask).collect();
    eventually("five that wait", || {
        (two.handle().stats().node_received >= received + 5).then_some(())
    });
    assert!(two.handle().destroy_stage(20).wait(PATIENCE).unwrap());
    for asked in waiting {
        let code = asked.wait(PATIENCE).unwrap_err();
        assert!(code.0 == 15 || code.0 == 3, "{code}");
    }
}

#[test]
fn cycles_are_refused_over_two_and_three_servers_and_within_one() {
    let servers = mesh_of(3, 1);
    let (one, board) = &servers[0];
    let cycles = || -> u64 {
        servers
            .iter()
            .map(|(one, _)| one.handle().stats().cycles)
            .sum()
    };
    // 10 asks 20, which asks 10.
    let text = "play-2 20 Ask play-1 10 Echo x";
    assert_eq!(ask_stage(one, 10, "Ask", text), Err(14));
    assert_eq!(cycles(), 1);
    let text = "play-2 20 Ask play-3 30 Ask play-1 10 Echo x";
    assert_eq!(ask_stage(one, 10, "Ask", text), Err(14));
    assert_eq!(cycles(), 2);
    // Not the outermost one: 20 → 30 → 20.
    let text = "play-2 20 Ask play-3 30 Ask play-2 20 Echo x";
    assert_eq!(ask_stage(one, 10, "Ask", text), Err(14));
    assert_eq!(cycles(), 3);
    for text in [
        "- 11 Ask - 10 Echo x",
        "play-1 11 Ask play-1 10 Echo x",
        "- 10 Echo x",
    ] {
        assert_eq!(ask_stage(one, 10, "Ask", text), Err(14), "{text}");
    }
    assert_eq!(cycles(), 6);
    // By way of another server, and within this one.
    let text = "- 11 Ask play-2 20 Ask play-1 10 Echo x";
    assert_eq!(ask_stage(one, 10, "Ask", text), Err(14));
    assert_eq!(cycles(), 7);

    // What is none: another stage, a way back, a telling.
    let text = "play-2 20 Ask play-1 11 Ask play-3 30 Ask play-1 12 Echo x";
    assert_eq!(ask_stage(one, 10, "Ask", text), answer("EchoReply", "x"));
    let text = "play-2 20 Ask play-3 20 Ask play-1 20 Ask play-2 21 Echo x";
    for server in &servers {
        let id = node_of(&server.0).nid().as_str() != "play-2";
        if id {
            create(&server.0, [20]);
        }
    }
    assert_eq!(
        ask_stage(one, 10, "Ask", text),
        answer("EchoReply", "x"),
        "the same id elsewhere"
    );
    assert_eq!(
        ask_stage(one, 10, "Ask", "play-2 20 Tell play-1 10 Note x"),
        answer("TellReply", "")
    );
    eventually("told", || (board.told() == 1).then_some(()));
    // A detached future asks for nobody: its stage answers meanwhile.
    let text = "play-2 20 Ask play-1 10 Echo x";
    assert_eq!(ask_stage(one, 10, "Detach", text), answer("EchoReply", "x"));
    let text = "play-1 11 Ask play-1 10 Echo x";
    assert_eq!(
        ask_stage(one, 10, "Detach", text),
        answer("EchoReply", "x"),
        "within the server"
    );
    assert_eq!(cycles(), 7);
}

#[test]
fn who_has_given_up_is_in_no_cycle() {
    let servers = mesh_of(2, 1);
    let (one, two) = (&servers[0], &servers[1]);
    let text = "play-2 20 AskWhenFlagged play-1 10 Echo x";
    let gave_up = one.0.handle().request_stage(10, "GiveUp", text);
    assert_eq!(gave_up.wait(PATIENCE).unwrap().msg_id, "GaveUp");
    assert_eq!(one.1.flag.load(Ordering::SeqCst), 1);
    two.1.flag.store(1, Ordering::SeqCst);
    let how = eventually("an answer", || {
        let flag = two.1.flag.load(Ordering::SeqCst);
        (flag > 1).then_some(flag)
    });
    assert_eq!(how, 2, "it was answered, not refused");
    assert_eq!(one.0.handle().stats().cycles, 0);
}

#[test]
fn requests_nested_too_deep_are_refused() {
    let servers = mesh_of(2, 1);
    // 10 → 20 → 11 → 21 → …: no stage twice.
    let deep = |depth: usize| {
        let mut text = "Echo x".to_owned();
        for level in (0..depth).rev() {
            let (nid, base) = if level % 2 == 0 {
                ("play-2", 20)
            } else {
                ("play-1", 11)
            };
            text = format!("{nid} {} {text}", base + level / 2);
            if level > 0 {
                text = format!("Ask {text}");
            }
        }
        ask_stage(&servers[0].0, 10, "Ask", &text)
    };
    assert_eq!(deep(16), answer("EchoReply", "x"));
    assert_eq!(deep(17), Err(14));
}

#[test]
fn a_server_that_is_this_one_is_asked_without_serializing() {
    let (server, _) = server_at("play-1", &[], |builder| builder);
    create(&server, [1, 2]);
    assert_eq!(ask_stage(&server, 1, "Own", ""), answer("OwnReply", ""));
    assert_eq!(
        ask_stage(&server, 1, "Tell", "play-1 2 Note x"),
        answer("TellReply", "")
    );
    let stats = server.handle().stats();
    assert_eq!(
        (stats.node_requests, stats.node_sends, stats.node_received),
        (0, 0, 0)
    );
    let node = node_of(&server).stats(PATIENCE).unwrap();
    assert!(node.peers.is_empty());
}

#[test]
fn servers_of_several_shards() {
    let servers = mesh_of(2, 3);
    let (one, two) = (&servers[0].0, &servers[1].0);
    for from in 10..20 {
        for to in 20..30 {
            let text = format!("play-2 {to} Ask play-1 {} Echo x", 10 + (from + 1) % 10);
            assert_eq!(
                ask_stage(one, from, "Ask", &text),
                answer("EchoReply", "x"),
                "{text}"
            );
            let text = format!("play-2 {to} Ask play-1 {from} Echo x");
            assert_eq!(ask_stage(one, from, "Ask", &text), Err(14), "{text}");
        }
        assert_eq!(ask_stage(one, from, "Ask", "play-2 999 Echo x"), Err(3));
        assert_eq!(ask_stage(one, from, "Ask", "play-9 999 Echo x"), Err(2));
        let local = 10 + (from + 3) % 10;
        let text = format!("- {local} Ask play-2 20 Ask - {local} Echo x");
        assert_eq!(
            ask_stage(one, from, "Ask", &text),
            Err(3),
            "of that server, not of this"
        );
        let text = format!("- {local} Ask - {from} Echo x");
        assert_eq!(ask_stage(one, from, "Ask", &text), Err(14));
    }
    assert_eq!(two.handle().stats().node_failures, 0);
}

#[test]
fn actors_and_stages_use_api_servers() {
    let (server, _) = server_at("play-1", &[], |builder| {
        let listener = proscenium_play::PlayListener::tcp("127.0.0.1:0").unwrap();
        builder.listen(listener).shards(2)
    });
    create(&server, 1..5);
    let (_api, seen) = api("api-1", &server);
    for stage in 1..5 {
        let asked = || ask_stage(&server, stage, "AskApi", "api-1 0 Echo hello").ok();
        eventually("a shard that knows the other server", asked);
        assert_eq!(
            ask_stage(&server, stage, "AskApi", "api-1 0 Fail x"),
            Err(4321)
        );
        assert_eq!(
            ask_stage(&server, stage, "AskApi", "api-1 0 Vast x"),
            Err(99)
        );
        let told = ask_stage(&server, stage, "TellApi", "api-1 0 News today");
        assert_eq!(told, answer("TellReply", ""));
        let mut client = Client::join(&server, stage, "ann");
        assert_eq!(client.request("Any", 2, "").short(), ("Name", 2, 0, "ann"));
    }
    let news = seen
        .try_iter()
        .filter(|(id, stage, text)| (id.as_str(), *stage, &text[..]) == ("News", 0, b"today"));
    assert_eq!(
        news.count(),
        4,
        "in the order of one shard or before later answers"
    );
}

#[test]
fn services_are_reached_by_their_number() {
    let (server, _) = server_at("play-1", &[], |builder| builder);
    create(&server, [1]);
    let apis = [api("api-1", &server), api("api-2", &server)];
    let address = |node: &Node| node.local_addrs()[0].clone();
    let mut list: Vec<ServerInfo> = apis
        .iter()
        .map(|(node, _)| ServerInfo::new(node.nid().clone(), address(node), ServerType::Api, 2))
        .collect();
    let own = Nid::new("play-1").unwrap();
    list.push(ServerInfo::new(
        own,
        server.node_addrs()[0].clone(),
        ServerType::Play,
        1,
    ));
    let directory = StaticDirectory::new(list);
    let _watch = node_of(&server).follow(&directory).unwrap();
    eventually("the list", || {
        ask_stage(&server, 1, "AskApi", "#2 0 Echo x").ok()
    });
    let before: Vec<usize> = apis
        .iter()
        .map(|(_, seen)| seen.try_iter().count())
        .collect();
    assert_eq!(before.iter().sum::<usize>(), 1);
    for _ in 0..10 {
        let echoed = ask_stage(&server, 1, "AskApi", "#2 0 Echo x");
        assert_eq!(echoed, answer("EchoReply", "x"));
    }
    for (_, seen) in &apis {
        assert_eq!(seen.try_iter().count(), 5, "in turns");
    }
    // This server is one of its own service, and the nearest.
    create(&server, [2]);
    assert_eq!(
        ask_stage(&server, 1, "Ask", "#1 2 Echo x"),
        answer("EchoReply", "x")
    );
    assert_eq!(server.handle().stats().node_received, 0);
}

#[test]
fn who_leaves_is_chosen_no_more_also_without_a_directory() {
    let (server, _) = server_at("play-1", &[], |builder| builder.shards(2));
    create(&server, [1, 2, 3]); // on both shards
    let apis = [api("api-1", &server), api("api-2", &server)];
    let info = |node: &Node| {
        let address = node.local_addrs()[0].clone();
        ServerInfo::new(node.nid().clone(), address, ServerType::Api, 2)
    };
    let directory =
        StaticDirectory::new(apis.iter().map(|(node, _)| info(node)).collect::<Vec<_>>());
    let _watch = node_of(&server).follow(&directory).unwrap();
    let ask_all = || {
        for stage in [1, 2, 3] {
            for _ in 0..4 {
                let echoed = ask_stage(&server, stage, "AskApi", "#2 0 Echo x");
                assert_eq!(echoed, answer("EchoReply", "x"));
            }
        }
    };
    let count = |of: usize| apis[of].1.try_iter().count();
    for stage in [1, 2, 3] {
        eventually("both are known to all", || {
            ask_stage(&server, stage, "AskApi", "#2 0 Echo x").ok()?;
            (count(0) > 0).then_some(())
        });
    }
    // Another directory: that of the Play server hears nothing.
    let (leaving, elsewhere) = (&apis[0].0, StaticDirectory::default());
    let joined = leaving.handle().join(elsewhere, info(leaving), PATIENCE);
    let departure = joined.unwrap().leave(PATIENCE);
    assert!(departure.is_clean(), "{departure}");
    let _before = (count(0), count(1));
    ask_all();
    assert_eq!((count(0), count(1)), (0, 12));
}

#[test]
fn requests_to_a_server_that_dies_fail_at_once() {
    let (server, _) = server_at("play-1", &[], |builder| {
        builder.request_deadline(Duration::from_secs(3600))
    });
    create(&server, 0..20);
    let (api, seen) = api("api-1", &server);
    let asked: Vec<_> = (0..20)
        .map(|stage| {
            let handle = server.handle();
            handle.request_stage(stage, "AskApi", "api-1 0 Never x")
        })
        .collect();
    for _ in 0..20 {
        seen.recv_timeout(PATIENCE).unwrap();
    }
    api.shutdown(Duration::ZERO);
    for one in asked {
        assert_eq!(one.wait(PATIENCE).unwrap_err().0, 2);
    }
    assert_eq!(server.handle().stats().node_failures, 20);
    eventually("no route", || {
        (ask_stage(&server, 1, "AskApi", "api-1 0 Echo x") == Err(2)).then_some(())
    });
}

#[test]
fn a_full_queue_is_told_to_who_sends() {
    for shards in [1, 2] {
        let (server, _) = server_at("play-1", &[], |builder| {
            let node = Node::builder(options("play-1").queue_messages_max(1000));
            builder.shards(shards).node(node.bind(any()))
        });
        create(&server, 0..6);
        let (_api, seen) = api("api-1", &server);
        for stage in 0..6 {
            let asked = || ask_stage(&server, stage, "AskApi", "api-1 0 Echo hello").ok();
            eventually("a shard that knows the other server", asked);
            let flooded = ask_stage(&server, stage, "Flood", "");
            assert_eq!(flooded, answer("Flooded", "1000"));
            let mut news = 0;
            while news < 1000 {
                let (id, ..) = seen.recv_timeout(PATIENCE).unwrap();
                news += usize::from(id == "News");
            }
        }
        assert_eq!(server.handle().stats().node_lost, 0);
    }
}

#[test]
fn a_full_backlog_is_told() {
    let (server, board) = server_at("play-1", &[], |builder| {
        // Of kinds of one type the first one's backlog holds; there is only this one then.
        builder
    });
    create(&server, [1]);
    let (api, _seen) = api("api-1", &server);
    let header = |msg_id| RouteHeader {
        msg_id,
        stage_id: 1,
        ..RouteHeader::default()
    };
    let node = api.handle();
    let blocked = node.request(
        "play-1",
        &header("Block"),
        "",
        RequestOptions::within(PATIENCE),
    );
    let asked: Vec<_> = (0..3000)
        .map(|_| {
            node.request(
                "play-1",
                &header("Echo"),
                "",
                RequestOptions::within(PATIENCE),
            )
        })
        .collect();
    eventually("all of them", || {
        (server.handle().stats().node_received == 3001).then_some(())
    });
    board.flag.store(1, Ordering::SeqCst);
    assert_eq!(blocked.wait().unwrap().error_code, 0);
    let codes: Vec<u32> = asked
        .into_iter()
        .map(|one| one.wait().unwrap().error_code)
        .collect();
    let refused = codes.iter().filter(|code| **code == 14).count();
    assert_eq!(
        refused,
        3000 - 1024,
        "as many as the backlog has no room for"
    );
    assert_eq!(codes.iter().filter(|code| **code == 0).count(), 1024);
}

#[test]
fn what_waits_for_a_stage_that_ends_is_told_that_there_is_none() {
    let (server, board) = server_at("play-1", &[], |builder| builder);
    create(&server, [1]);
    let (api, _seen) = api("api-1", &server);
    let node = api.handle();
    let ask = |msg_id| {
        let header = RouteHeader {
            msg_id,
            stage_id: 1,
            ..RouteHeader::default()
        };
        node.request("play-1", &header, "", RequestOptions::within(PATIENCE))
    };
    let blocked = ask("Block");
    eventually("a busy stage", || (board.told() == 1).then_some(()));
    let before = ask("Echo");
    eventually("one that waits", || {
        (server.handle().stats().node_received == 2).then_some(())
    });
    assert!(server.handle().destroy_stage(1).wait(PATIENCE).unwrap());
    let behind = ask("Echo");
    eventually("one behind the end", || {
        (server.handle().stats().node_received == 3).then_some(())
    });
    board.flag.store(1, Ordering::SeqCst);
    assert_eq!(blocked.wait().unwrap().error_code, 0);
    assert_eq!(before.wait().unwrap().error_code, 0);
    assert_eq!(behind.wait().unwrap().error_code, 3);
}

#[test]
fn a_shutdown_answers_what_was_asked() {
    for shards in [1, 3] {
        let (server, board) = server_at("play-1", &[], |builder| builder.shards(shards));
        create(&server, 0..10);
        let (api, _seen) = api("api-1", &server);
        let node = api.handle();
        let ask = |stage_id, msg_id| {
            let header = RouteHeader {
                msg_id,
                stage_id,
                ..RouteHeader::default()
            };
            node.request("play-1", &header, "", RequestOptions::within(PATIENCE))
        };
        let deferred: Vec<_> = (0..5).map(|stage| ask(stage, "Defer")).collect();
        let blocked: Vec<_> = (5..10).map(|stage| ask(stage, "Block")).collect();
        eventually("all of them", || (board.told() == 10).then_some(()));
        board.flag.store(1, Ordering::SeqCst);
        let report = server.shutdown(PATIENCE);
        assert!(report.is_clean(), "{report}");
        assert_eq!(board.destroyed.load(Ordering::SeqCst), 10);
        for one in deferred {
            assert_eq!(one.wait().unwrap().error_code, 15, "its stage has ended");
        }
        for one in blocked {
            assert_eq!(one.wait().unwrap().error_code, 0);
        }
    }
}

#[test]
fn messages_without_a_proper_id_are_refused() {
    let (server, _) = server_at("play-1", &[], |builder| builder);
    let (api, _seen) = api("api-1", &server);
    linked(&api.handle(), "play-1");
    for msg_id in ["", &"x".repeat(129)] {
        let header = RouteHeader {
            msg_id,
            ..RouteHeader::default()
        };
        let reply = ask_from(&api.handle(), "play-1", header, Vec::new());
        assert_eq!(reply.error_code, 11);
    }
}

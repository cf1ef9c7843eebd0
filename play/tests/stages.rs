//! How stages come to be and end, over real sockets.

mod support;

use std::time::Duration;

use proscenium_play::{
    Content, ErrorCode, Packet, PlayListener, PlayServer, PlayStage, StageCx, StageKind,
};
use support::hall::{server, server_of};
use support::{AUTHENTICATE, Client, PATIENCE, eventually, packet};

#[test]
fn a_stage_is_created_once_and_a_second_time_is_8() {
    for shards in [1, 3] {
        let (server, journal) = server(|builder| builder.shards(shards));
        let handle = server.handle();
        for id in 0..10 {
            let create = || handle.create_stage("hall", id, Content::new("Create", "red"));
            let created = create().wait(PATIENCE).unwrap();
            assert!(created.is_new);
            assert_eq!(created.content, Some(Content::new("CreateReply", "red")));
            assert_eq!(
                create().wait(PATIENCE),
                Err(ErrorCode::STAGE_ALREADY_EXISTS)
            );
            let got = handle.get_or_create_stage("hall", id, Content::default());
            assert!(!got.wait(PATIENCE).unwrap().is_new);
        }
        assert_eq!(journal.count("stage.on_create"), 10);
        let unknown = handle.create_stage("castle", 1, Content::default());
        assert_eq!(unknown.wait(PATIENCE), Err(ErrorCode::INVALID_STAGE_TYPE));
        let failed = handle.create_stage("hall", 77, Content::new("Error", ()));
        assert_eq!(failed.wait(PATIENCE), Err(ErrorCode::STAGE_CREATION_FAILED));
        let again = handle.create_stage("hall", 77, Content::default());
        assert!(
            again.wait(PATIENCE).unwrap().is_new,
            "no trace of the failure"
        );
    }
}

#[test]
fn however_many_want_a_stage_at_once_it_is_created_once() {
    let (server, journal) = server(|builder| builder.shards(2));
    for id in 0..20 {
        let mut clients: Vec<Client> = (0..4).map(|_| Client::connect(&server)).collect();
        let handle = server.handle();
        let asked: Vec<_> = (0..4)
            .map(|_| handle.get_or_create_stage("hall", id, Content::default()))
            .collect();
        for (n, client) in clients.iter_mut().enumerate() {
            client.write(&packet(AUTHENTICATE, 1, id, n.to_string().as_bytes()));
        }
        assert!(clients.iter_mut().all(|client| client.receive().error == 0));
        let made = asked
            .into_iter()
            .filter_map(|asked| asked.wait(PATIENCE).ok());
        assert!(made.filter(|created| created.is_new).count() <= 1);
        assert_eq!(journal.count("stage.on_create"), id as usize + 1);
    }
}

#[test]
fn a_stage_that_closes_ends_its_connections_and_its_id_is_free() {
    for shards in [1, 3] {
        let (server, journal) = server(|builder| builder.shards(shards));
        for id in 1..8 {
            let mut ann = Client::join(&server, id, "ann");
            let mut bob = Client::join(&server, id, "bob");
            let mut bytes = packet("Slow", 1, id, b"");
            bytes.extend(packet("Close", 2, id, b""));
            bytes.extend(packet("Echo", 3, id, b"too late"));
            ann.write(&bytes);
            assert_eq!(ann.receive().msg_id, "SlowReply");
            assert_eq!(ann.receive().msg_id, "CloseReply");
            // It waited behind the end; had it come later, the connection would have ended.
            if let Some(answer) = ann.read().unwrap() {
                assert_eq!(answer.short(), ("Echo", 3, 3, ""));
                ann.is_closed();
            }
            bob.is_closed();
            let lines = journal.take();
            let destroyed = lines
                .iter()
                .position(|line| line == "stage.on_destroy with 2");
            let left: Vec<_> = lines[destroyed.unwrap() + 1..].iter().collect();
            assert_eq!(left, ["ann.on_destroy", "bob.on_destroy"]);
            let mut ann = Client::join(&server, id, "ann");
            assert_eq!(ann.request("Seen", 2, "").text(), "1", "all is new");
        }
    }
}

#[test]
fn who_wants_a_stage_that_closes_gets_the_next_one() {
    let (server, journal) = server(|builder| builder);
    let handle = server.handle();
    let mut ann = Client::join(&server, 1, "ann");
    ann.send("Slow", 2, "");
    journal.await_line("stage.slow begins");
    handle.send_to_stage(1, "Close", ()).unwrap();
    let mut bob = Client::connect(&server);
    bob.stage = 1;
    bob.send(AUTHENTICATE, 1, "bob");
    let wanted = handle.create_stage("hall", 1, Content::default());
    // Whichever of them comes first: the stage of now is over, and one more is made.
    let created = wanted.wait(PATIENCE);
    assert!(
        matches!(created, Ok(_) | Err(ErrorCode::STAGE_ALREADY_EXISTS)),
        "{created:?}"
    );
    assert_eq!(bob.receive().error, 0);
    assert_eq!(bob.request("Seen", 2, "").text(), "1");
    assert_eq!(ann.receive().msg_id, "SlowReply");
    ann.is_closed();
    assert_eq!(journal.count("stage.on_create"), 2);
    let lines = journal.all();
    let at = |line: &str| lines.iter().rposition(|known| known == line).unwrap();
    assert!(
        at("stage.on_destroy with 1") < at("stage.on_create"),
        "never two at a time"
    );
}

#[test]
fn the_program_destroys_stages() {
    let (server, journal) = server(|builder| builder.shards(2));
    let handle = server.handle();
    let mut ann = Client::join(&server, 1, "ann");
    assert_eq!(handle.destroy_stage(1).wait(PATIENCE), Ok(true));
    ann.is_closed();
    journal.await_line("ann.on_destroy");
    eventually("it is gone", || (handle.stats().stages == 0).then_some(()));
    assert_eq!(handle.destroy_stage(1).wait(PATIENCE), Ok(false));
    assert_eq!(handle.stats().actors, 0);
}

#[test]
fn an_empty_stage_closes_if_it_is_to() {
    let (server, journal) = server_of(
        |kind| {
            kind.close_when_empty(Duration::from_millis(5))
                .keep_disconnected(Duration::ZERO)
        },
        |builder| builder,
    );
    let mut ann = Client::join(&server, 1, "ann");
    let bob = Client::join(&server, 1, "bob");
    drop(bob);
    journal.await_line("bob.on_destroy");
    assert_eq!(ann.request("Echo", 2, "here").text(), "here");
    drop(ann);
    eventually("it is gone", || {
        (server.handle().stats().stages == 0).then_some(())
    });
    assert!(journal.has("stage.on_destroy with 0"));
}

#[test]
fn shutdown_runs_on_destroy_of_every_stage_and_actor() {
    let (server, journal) = server(|builder| builder.shards(2));
    let mut clients = Vec::new();
    for stage in 0..20 {
        for account in ["ann", "bob"] {
            clients.push(Client::join(&server, stage, account));
        }
    }
    clients[0].send("Echo", 9, "last");
    let handle = server.handle();
    handle.shutdown(PATIENCE);
    let report = server.join();
    assert!(report.is_clean(), "{report}");
    assert_eq!(journal.count("stage.on_destroy with 2"), 20);
    assert_eq!(
        journal.count("ann.on_destroy") + journal.count("bob.on_destroy"),
        40
    );
    for client in &mut clients {
        while let Some(answer) = client.read().unwrap() {
            assert_eq!(answer.text(), "last");
        }
    }
    let late = handle
        .create_stage("hall", 99, Content::default())
        .wait(PATIENCE);
    assert_eq!(late.err(), Some(ErrorCode::SYSTEM_ERROR));
    let asked = handle.request_stage(1, "Ask", ()).wait(PATIENCE);
    assert_eq!(asked.err(), Some(ErrorCode::SYSTEM_ERROR));
    let destroyed = handle.destroy_stage(1).wait(PATIENCE);
    assert_eq!(destroyed.err(), Some(ErrorCode::SYSTEM_ERROR));
}

#[test]
fn a_shutdown_may_take_as_long_as_it_likes() {
    let (server, _) = server(|builder| builder);
    let report = server.shutdown(Duration::MAX);
    assert_eq!((report.bytes_lost, report.work_lost), (0, 0), "{report}");
}

/// Stages that only the program and other servers talk to.
struct Till(u32);

impl PlayStage for Till {
    type Actor = ();

    async fn on_dispatch_server(
        &mut self,
        cx: &mut StageCx<'_, Self>,
        _: Packet<'_>,
    ) -> proscenium_play::Result {
        self.0 += 1;
        cx.reply("Count", self.0.to_string())?;
        Ok(())
    }
}

#[test]
fn a_stage_without_clients_lets_nobody_in_and_serves_the_program() {
    let server = PlayServer::builder()
        .stage(StageKind::new("till", |_| Till(0), || ()))
        .authentication(AUTHENTICATE)
        .default_stage("till")
        .listen(PlayListener::tcp("127.0.0.1:0").unwrap())
        .start()
        .unwrap();
    let handle = server.handle();
    let made = handle.create_stage("till", 1, Content::default());
    assert!(made.wait(PATIENCE).unwrap().is_new);
    let refused = Client::connect(&server).authenticate(1, "ann");
    assert_eq!(refused.error, ErrorCode::AUTHENTICATION_FAILED.0);
    for count in ["1", "2"] {
        let answer = handle.request_stage(1, "Pay", ()).wait(PATIENCE).unwrap();
        assert_eq!(answer.payload, count.as_bytes());
    }
    assert_eq!(handle.stats().actors, 0);
}

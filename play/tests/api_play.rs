//! API servers and Play servers, both real, in one mesh: stages are created, asked and destroyed
//! from handlers, and cycles through a handler are refused.

mod support;

use proscenium_nodelink::{Endpoint, Nid, NodeOptions};
use proscenium_play::api::ApiServer;
use proscenium_play::{Content, ErrorCode, PlayServer};
use support::PATIENCE;
use support::mesh::{answer, any, ask_stage, create, linked, node_of, server_at};

/// Linked to that server. `AskStage` asks stage 10 there.
fn api_of(play: &PlayServer) -> ApiServer {
    let at = Endpoint::new(play.node_addrs()[0].clone());
    let server = ApiServer::builder(NodeOptions::new(Nid::new("api-1").unwrap()))
        .bind(any())
        .connect(at)
        .handle("AskStage", |cx, request: Content| async move {
            let echo = cx.request_to_stage("play-1", 10, "Echo", request.payload);
            Ok(echo.await?)
        })
        .start()
        .unwrap();
    linked(server.sender().node(), "play-1");
    linked(&node_of(play), "api-1");
    server
}

#[test]
fn stages_are_created_asked_and_destroyed() {
    let (play, board) = server_at("play-1", &[], |builder| builder.shards(2));
    let api = api_of(&play);
    let sender = api.sender();
    let content = || Content::new("Map", "north");
    for id in 1..5 {
        let created = sender
            .create_stage("play-1", "post", id, content())
            .wait()
            .unwrap();
        assert!(created.is_new);
        assert_eq!(created.content, Some(Content::new("Made", "north")));
        let again = sender.create_stage("play-1", "post", id, content()).wait();
        assert_eq!(again, Err(ErrorCode::STAGE_ALREADY_EXISTS));
        let there = sender.get_or_create_stage("play-1", "post", id, content());
        assert!(!there.wait().unwrap().is_new);
        let echo = sender
            .request_to_stage("play-1", id, "Echo", "hello")
            .wait()
            .unwrap();
        assert_eq!(echo, Content::new("EchoReply", "hello"));
        let failed = sender.request_to_stage("play-1", id, "Fail", ()).wait();
        assert_eq!(failed, Err(ErrorCode(1234)));
        assert_eq!(sender.destroy_stage("play-1", id).wait(), Ok(true));
        assert_eq!(sender.destroy_stage("play-1", id).wait(), Ok(false));
        let gone = sender.request_to_stage("play-1", id, "Echo", ()).wait();
        assert_eq!(gone, Err(ErrorCode::STAGE_NOT_FOUND));
    }
    let unknown = sender.create_stage("play-1", "castle", 7, content()).wait();
    assert_eq!(unknown, Err(ErrorCode::INVALID_STAGE_TYPE));
    assert!(
        sender
            .get_or_create_stage("play-1", "post", 9, content())
            .wait()
            .unwrap()
            .is_new
    );
    sender.send_to_stage("play-1", 9, "Note", ()).unwrap();
    support::eventually("the note", || (board.told() == 1).then_some(()));
    assert!(api.shutdown(PATIENCE).is_clean());
}

#[test]
fn a_stage_that_is_asked_by_whom_it_asks_says_so_at_once() {
    let (play, _board) = server_at("play-1", &[], |builder| builder);
    let api = api_of(&play);
    create(&play, [10, 11]);
    // 11 asks the handler, which asks 10: that is no cycle.
    let asked = |stage| ask_stage(&play, stage, "AskApi", "api-1 0 AskStage hello");
    assert_eq!(asked(11), answer("EchoReply", "hello"));
    // 10 asks the handler, which asks 10: without the chain it would wait, and be told 1.
    assert_eq!(asked(10), Err(ErrorCode::SYSTEM_ERROR.0));
    assert_eq!(play.handle().stats().cycles, 1);
    drop(api);
}

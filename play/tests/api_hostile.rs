//! API servers, and what must cost them one request and no more: callbacks that panic, chains as
//! long as a message, answers that do not fit, and creations that wait for themselves.

mod support;

use std::panic::resume_unwind;

use proscenium_framing::zmtp::Limits;
use proscenium_nodelink::{Chain, ChainEntry, Endpoint, Node, NodeOptions, RouteHeader};
use proscenium_play::api::{ApiServer, ApiServerBuilder};
use proscenium_play::{Content, ErrorCode, PlayServer};
use support::mesh::{
    Board, answer, any, ask_from, ask_stage, create, linked, node_of, options, posts, server_at,
};

/// With messages of at most 64 KiB.
fn small(nid: &str) -> NodeOptions {
    let mut options = options(nid);
    options.zmtp = Limits {
        frame_max: 64 << 10,
        message_max: 64 << 10,
        ..Limits::default()
    };
    options
}

/// A server with a handler that answers what it is sent.
fn echo(options: NodeOptions) -> ApiServerBuilder {
    let server = ApiServer::builder(options).bind(any());
    server.handle("Echo", |_, request: Content| async move { Ok(request) })
}

/// One that only asks.
fn asker(asked: &ApiServer) -> ApiServer {
    let at = Endpoint::new(asked.local_addrs()[0].clone());
    let builder = ApiServer::builder(options("asker")).connect(at);
    let server = builder.start().unwrap();
    linked(server.sender().node(), asked.node().nid());
    server
}

#[test]
fn a_callback_that_panics_costs_nobody_a_link() {
    let server = echo(options("api-1")).start().unwrap();
    let asker = asker(&server);
    let (sender, hello) = (asker.sender(), Content::new("Echo", "hello"));
    for to in ["api-1", "api-1", "nobody"] {
        let panics = |_| resume_unwind(Box::new("planned"));
        let sent = sender.request_to_api_with(to, "Echo", (), panics);
        assert_eq!(sent.is_ok(), to == "api-1");
        let asked = sender.request_to_api("api-1", "Echo", "hello");
        assert_eq!(asked.wait(), Ok(hello.clone()));
    }
}

#[test]
fn a_chain_that_is_too_long_is_refused() {
    let server = echo(options("api-1")).start().unwrap();
    let asker = asker(&server);
    let entry = ChainEntry {
        nid: "play-1",
        stage: 1,
        invocation: 0,
        request: 1,
    };
    let ask = |nested| {
        let entries = vec![entry; nested];
        let header = RouteHeader {
            msg_id: "Echo",
            chain: Chain::new(&entries),
            ..RouteHeader::default()
        };
        ask_from(asker.sender().node(), "api-1", header, Vec::new()).error_code
    };
    assert_eq!((ask(16), ask(17), ask(100_000)), (0, 14, 14));
    assert_eq!(server.stats().refused_deep, 2);
}

#[test]
fn an_answer_that_fits_into_no_message_is_an_error_at_once() {
    let server = echo(small("api-1"))
        .handle("Long", |_, _| async {
            Ok(Content::new("Long", vec![0; (64 << 10) - 20]))
        })
        .handle("LongId", |_, _| async {
            Ok(Content::new("x".repeat(70_000), ()))
        })
        .start()
        .unwrap();
    let asker = asker(&server);
    for msg_id in ["Long", "LongId"] {
        let asked = asker.sender().request_to_api("api-1", msg_id, ());
        assert_eq!(asked.wait(), Err(ErrorCode::SYSTEM_ERROR), "{msg_id}");
    }
}

#[test]
fn a_stage_whose_first_answer_fits_into_no_message_is_there() {
    let node = Node::builder(small("play-1")).bind(any());
    let play = PlayServer::builder().stage(posts(&Board::default()));
    let play = play.node(node).start().unwrap();
    let at = Endpoint::new(play.node_addrs()[0].clone());
    let api = ApiServer::builder(options("api-1"))
        .connect(at)
        .start()
        .unwrap();
    linked(api.sender().node(), "play-1");
    // The stage answers with the same again, and the room for headers that answers leave is gone.
    let map = || Content::new("Map", vec![0; 63_000]);
    let sender = api.sender();
    for anew in [true, false] {
        let created = match anew {
            true => sender.create_stage("play-1", "post", 1, map()).wait(),
            false => sender
                .get_or_create_stage("play-1", "post", 2, map())
                .wait(),
        };
        let created = created.unwrap();
        assert_eq!((created.is_new, created.content), (true, None));
    }
}

#[test]
fn a_stage_that_is_wanted_by_whom_it_asks_says_so_at_once() {
    let (play, _board) = server_at("play-1", &[], |builder| builder.shards(2));
    let at = Endpoint::new(play.node_addrs()[0].clone());
    let api = ApiServer::builder(options("api-1"))
        .connect(at)
        .handle("Want", |cx, _| async move {
            let stage = cx.get_or_create_stage("play-1", "post", 10, Content::default());
            let is_new = stage.await?.is_new;
            Ok(Content::new("Wanted", is_new.to_string()))
        })
        .start()
        .unwrap();
    linked(api.sender().node(), "play-1");
    linked(&node_of(&play), "api-1");
    create(&play, [10, 11]);
    support::eventually("all shards know the API server", || {
        ask_stage(&play, 11, "AskApi", "api-1 0 Want").ok()
    });
    let asked = |stage| ask_stage(&play, stage, "AskApi", "api-1 0 Want");
    assert_eq!(asked(11), answer("Wanted", "false"));
    // 10 asks the handler, which wants to know that 10 is there. 10 could only say so afterwards.
    support::eventually("all shards know the API server", || {
        (asked(10) != Err(ErrorCode::SERVER_NOT_FOUND.0)).then_some(())
    });
    assert_eq!(asked(10), Err(ErrorCode::SYSTEM_ERROR.0));
}

#[test]
fn a_stage_that_is_created_for_another_one_does_not_wait_for_it() {
    let (play, _board) = server_at("play-1", &[], |builder| builder);
    let at = Endpoint::new(play.node_addrs()[0].clone());
    let api = ApiServer::builder(options("api-1"))
        .connect(at)
        .handle("Make", |cx, request: Content| async move {
            let made = cx.create_stage("play-1", "post", 12, Content::new("Ask", request.payload));
            let content = made.await?.content;
            Ok(content.unwrap_or_default())
        })
        .start()
        .unwrap();
    linked(api.sender().node(), "play-1");
    linked(&node_of(&play), "api-1");
    create(&play, [10]);
    // 10 asks the handler, which creates 12, which asks 10 before it is there.
    let made = ask_stage(&play, 10, "AskApi", "api-1 0 Make - 10 Echo hello");
    assert_eq!(made, answer("Asked", "14"));
    assert_eq!(play.handle().stats().cycles, 1);
}

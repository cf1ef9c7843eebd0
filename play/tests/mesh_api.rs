//! API servers and Play servers of one mesh, as they are.

mod support;

use std::sync::atomic::Ordering;

use proscenium_nodelink::Endpoint;
use proscenium_play::api::{ApiCx, ApiServer};
use proscenium_play::{Content, ErrorCode};
use support::PATIENCE;
use support::mesh::{answer, any, ask_stage, create, linked, mesh_of, node_of, options};

/// Asks the stage of `play-1` that the payload names.
async fn ask_back(cx: ApiCx, content: Content) -> proscenium_play::Result<Content> {
    let stage = std::str::from_utf8(&content.payload)?.parse()?;
    let asked = cx.request_to_stage("play-1", stage, "Echo", "back").await?;
    Ok(asked)
}

#[test]
fn api_servers_have_stages_made_and_are_a_part_of_chains() {
    for shards in [1, 3] {
        let servers = mesh_of(2, shards);
        let (one, board) = &servers[0];
        let first = Endpoint::new(one.node_addrs()[0].clone());
        let second = Endpoint::new(servers[1].0.node_addrs()[0].clone());
        let api = ApiServer::builder(options("api-1"))
            .bind(any())
            .connect(first)
            .connect(second)
            .handle("AskBack", ask_back)
            .start()
            .unwrap();
        for (server, _) in &servers {
            linked(&node_of(server), "api-1");
            linked(&api.node().handle(), node_of(server).nid());
        }
        let sender = api.sender();
        let before = board.created.load(Ordering::SeqCst);
        for id in 100..110 {
            let made = sender.get_or_create_stage("play-1", "post", id, Content::new("Map", "x"));
            let made = made.wait().unwrap();
            assert_eq!(
                (made.is_new, made.content),
                (true, Some(Content::new("Made", "x")))
            );
            let again = sender.create_stage("play-1", "post", id, Content::default());
            assert_eq!(again.wait(), Err(ErrorCode::STAGE_ALREADY_EXISTS));
            let echo = sender.request_to_stage("play-1", id, "Echo", "hi").wait();
            assert_eq!(echo, Ok(Content::new("EchoReply", "hi")));
            assert_eq!(sender.destroy_stage("play-1", id).wait(), Ok(true));
            assert_eq!(sender.destroy_stage("play-1", id).wait(), Ok(false));
            let gone = sender.request_to_stage("play-1", id, "Echo", "hi").wait();
            assert_eq!(gone, Err(ErrorCode::STAGE_NOT_FOUND));
        }
        assert_eq!(board.created.load(Ordering::SeqCst), before + 10);

        // 10 → 20 → the API server → 11, and back to 10.
        create(one, [111]);
        let by_api = |stage: i64| {
            let text = format!("play-2 20 AskApi api-1 0 AskBack {stage}");
            ask_stage(one, 10, "Ask", &text)
        };
        // The shard of stage 20 has to know of the API server.
        let knows = || by_api(111).ok();
        let echoed = support::eventually("a shard that knows the API server", knows);
        assert_eq!(Ok(echoed), answer("EchoReply", "back"));
        assert_eq!(by_api(10), Err(14), "a cycle");
        assert!(api.shutdown(PATIENCE).is_clean());
    }
}

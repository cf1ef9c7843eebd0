//! What other servers ask of a Play server's stages: to be created, found, destroyed.

mod support;

use std::sync::atomic::Ordering;

use proscenium_nodelink::{Reply, RequestOptions};
use proscenium_play::system::{
    CreateStageReq, CreateStageRes, DestroyStageReq, GetOrCreateStageReq, GetOrCreateStageRes,
    SystemMessage, TimerMsg,
};
use prost::Message;
use support::PATIENCE;
use support::mesh::{Api, api, ask_from, create, server_at};

fn create_req(stage_type: &str) -> CreateStageReq {
    CreateStageReq {
        stage_type: stage_type.to_owned(),
        payload_id: "Map".to_owned(),
        payload: b"north".to_vec(),
    }
}

fn get_req(stage_type: &str) -> GetOrCreateStageReq {
    GetOrCreateStageReq {
        stage_type: stage_type.to_owned(),
        create_payload_id: "Map".to_owned(),
        create_payload: b"north".to_vec(),
    }
}

fn get_res(reply: &Reply) -> GetOrCreateStageRes {
    assert_eq!(reply.error_code, 0);
    assert_eq!(reply.msg_id, GetOrCreateStageRes::ID);
    GetOrCreateStageRes::decode(&reply.payload[..]).unwrap()
}

#[test]
fn stages_are_created_found_and_destroyed() {
    for shards in [1, 3] {
        let (server, board) = server_at("play-1", &[], |builder| builder.shards(shards));
        let (node, _seen) = api("api-1", &server);
        let node = node.handle();
        let ask =
            |message: &dyn Fn(i64) -> (proscenium_nodelink::RouteHeader<'static>, Vec<u8>), id| {
                let (header, payload) = message(id);
                ask_from(&node, "play-1", header, payload)
            };
        let creating = |id| {
            let message = create_req("post");
            (message.header(id), message.encode_to_vec())
        };
        let getting = |id| {
            let message = get_req("post");
            (message.header(id), message.encode_to_vec())
        };
        let destroying = |id| (DestroyStageReq {}.header(id), Vec::new());
        for id in 1..10 {
            let reply = ask(&creating, id);
            assert_eq!((reply.error_code, &*reply.msg_id), (0, CreateStageRes::ID));
            let made = CreateStageRes::decode(&reply.payload[..]).unwrap();
            assert!(made.result);
            assert_eq!(
                (&*made.payload_id, &made.payload[..]),
                ("Made", &b"north"[..])
            );
            assert_eq!(ask(&creating, id).error_code, 8, "it is there");
            let got = get_res(&ask(&getting, id));
            assert!(got.result && !got.is_created && got.payload_id.is_empty());
            assert_eq!(ask(&destroying, id).error_code, 0);
            let got = get_res(&ask(&getting, id));
            assert!(got.result && got.is_created && got.payload_id == "Made");
            assert_eq!(ask(&destroying, id + 100).error_code, 3, "there is none");
        }
        assert_eq!(board.created.load(Ordering::SeqCst), 18);
        assert_eq!(ask(&creating, -5).error_code, 9, "its creation was refused");
        assert_eq!(
            ask(&getting, -5).error_code,
            9,
            "and again, it is not there"
        );
        let castle = |id| {
            let message = create_req("castle");
            (message.header(id), message.encode_to_vec())
        };
        assert_eq!(ask(&castle, 50).error_code, 13);
        let broken = |id| (create_req("").header(id), b"\x0a\xff".to_vec());
        assert_eq!(ask(&broken, 50).error_code, 11);
        let foreign = |id| (TimerMsg {}.header(id), Vec::new());
        assert_eq!(ask(&foreign, 1).error_code, 12);
    }
}

#[test]
fn however_many_servers_want_a_stage_it_is_created_once() {
    let (server, board) = server_at("play-1", &[], |builder| builder.shards(2));
    let nodes = [api("api-1", &server), api("api-2", &server)];
    let payload = get_req("post").encode_to_vec();
    let ids = 0..50;
    let asked: Vec<_> = ids
        .clone()
        .flat_map(|id| [(id, 0), (id, 1), (id, 0), (id, 1)])
        .map(|(id, node)| {
            let header = get_req("post").header(id);
            let options = RequestOptions::within(PATIENCE);
            let node = nodes[node].0.handle();
            (
                id,
                node.request("play-1", &header, payload.clone(), options),
            )
        })
        .collect();
    let mut created = vec![0; 50];
    for (id, one) in asked {
        let got = get_res(&one.wait().unwrap());
        assert!(got.result);
        created[id as usize] += u32::from(got.is_created);
    }
    assert!(created.iter().all(|count| *count == 1), "{created:?}");
    assert_eq!(board.created.load(Ordering::SeqCst), 50);
}

#[test]
fn a_stage_that_is_wanted_by_a_message_alone_is_created_silently() {
    let (server, board) = server_at("play-1", &[], |builder| builder);
    create(&server, [1]);
    let (node, _seen) = api("api-1", &server);
    let message = create_req("post");
    let sent = node
        .handle()
        .send("play-1", &message.header(7), message.encode_to_vec());
    sent.unwrap();
    // Behind it, so it has been handled.
    let reply = ask_from(
        &node.handle(),
        "play-1",
        message.header(7),
        message.encode_to_vec(),
    );
    assert_eq!(reply.error_code, 8);
    assert_eq!(board.created.load(Ordering::SeqCst), 2);
    let _: Option<Api> = None;
}
